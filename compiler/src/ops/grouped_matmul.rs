//! rows[R, K] times each row's expert weight[E, K, N]: [R, N]; operands rows, weight, plan, perhaps the
//! weights of further experts.

use super::*;

/// rows[R, K] times each row's expert weight[E, K, N]: [R, N]; operands rows, weight, plan. A weight too
/// large for one binding comes in parts: those of the experts behind the first ones follow the plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupedMatmul {
    /// weight is [E, N, K].
    pub transpose: bool,
}

impl Primitive for GroupedMatmul {
    facts!("grouped_matmul", "rows[R, K] times each row's expert weight[E, K, N]: [R, N]; operands rows, weight, plan, and weights of further experts.", Arity::AtLeast(3), Class::Contraction);

    fn infer(&self, operands: &[&Type]) -> Result<Type, OpError> {
        let [rows, weight, plan] = exactly(operands.get(..3).unwrap_or(operands))?;
        need_f32(rows, 0)?;
        need_rank(rows, 0, 2)?;
        need_plan(plan, 2)?;
        let (inner, outer) = if self.transpose { (2, 1) } else { (1, 2) };
        for (slot, part) in [(1, weight)].into_iter().chain((3..).zip(operands[3..].iter().copied())) {
            need_f32(part, slot)?;
            need_rank(part, slot, 3)?;
            equal_sizes(1, &rows.shape[1], &part.shape[inner], [0, slot])?;
            equal_sizes(outer, &weight.shape[outer], &part.shape[outer], [1, slot])?;
        }
        Ok(Type::f32(vec![rows.shape[0].clone(), weight.shape[outer].clone()]))
    }

    fn evaluate(&self, context: &EvalContext, operands: &[&Tensor]) -> Result<Tensor, OpError> {
        let [rows, weight, plan] = exactly(&operands[..3])?;
        let plan = Plan::read(plan, rows.shape[0])?;
        let parts: Vec<&Tensor> = [weight].into_iter().chain(operands[3..].iter().copied()).collect();
        let experts = parts.iter().map(|part| part.shape[0]).sum();
        let [count, depth] = exactly(&rows.shape)?;
        let columns = context.shape[1];
        let (inner, outer) = if self.transpose { (1, depth) } else { (columns, 1) };
        let mut result = Tensor::full(context.shape.to_vec(), 0.0);
        for row in 0..count {
            let Some(mut expert) = plan.expert(row, experts) else {
                continue;
            };
            let mut part = 0;
            while expert >= parts[part].shape[0] {
                expert -= parts[part].shape[0];
                part += 1;
            }
            let weight = &parts[part].data[expert * depth * columns..][..depth * columns];
            for l in 0..depth {
                let left = rows.data[row * depth + l];
                for j in 0..columns {
                    result.data[row * columns + j] += left * weight[l * inner + j * outer];
                }
            }
        }
        Ok(result)
    }

    fn flops(&self, operands: &[&[usize]], result: &[usize]) -> u64 {
        let depth = operands.first().and_then(|rows| rows.last());
        elements(result).saturating_mul(2 * depth.map_or(0, |depth| *depth as u64))
    }

    fn gradient(&self, builder: &mut Builder, operands: &[ValueId], _result: ValueId, gradient: ValueId) -> Result<Vec<Option<ValueId>>, OpError> {
        let [rows, weight, plan] = exactly(&operands[..3])?;
        let weights = [weight].into_iter().chain(operands[3..].iter().copied());
        let count = |id: ValueId| builder.ty(id).shape[0].as_const();
        let counts: Option<Vec<usize>> = weights.map(count).collect();
        let counts = counts.ok_or_else(|| OpError::new("an unknown number of experts", [1]))?;
        let mut given = operands.to_vec();
        given[0] = gradient;
        let transpose = !self.transpose;
        let mut gradients = vec![Some(builder.add(GroupedMatmul { transpose }, &given)?)];
        let (a, b) = if self.transpose { (gradient, rows) } else { (rows, gradient) };
        let experts = counts.iter().sum();
        let mut first = 0;
        for count in counts {
            let outer = GroupedOuter { experts, first, count };
            gradients.push(Some(builder.add(outer, &[a, b, plan])?));
            first += count;
        }
        gradients.insert(2, None);
        Ok(gradients)
    }
}
