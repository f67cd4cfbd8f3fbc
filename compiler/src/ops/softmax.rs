//! exp(x - max) / sum over the last axis.

use super::*;

/// exp(x - max) / sum over the last axis.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Softmax {}

impl Primitive for Softmax {
    facts!("softmax", "exp(x - max) / sum over the last axis.", Arity::Exactly(1), Class::Composite);

    fn infer(&self, operands: &[&Type]) -> Result<Type, OpError> {
        let [x] = exactly(operands)?;
        need_f32(x, 0)?;
        last_size(x, 0)?;
        Ok(x.clone())
    }

    fn evaluate(&self, _context: &EvalContext, operands: &[&Tensor]) -> Result<Tensor, OpError> {
        let [x] = exactly(operands)?;
        Ok(map_rows(x, softmax_row))
    }

    fn gradient(&self, builder: &mut Builder, _operands: &[ValueId], result: ValueId, gradient: ValueId) -> Result<Vec<Option<ValueId>>, OpError> {
        // y * (g - sum(g * y))
        let weighted = builder.add(Mul {}, &[gradient, result])?;
        let mean = builder.sum_last(weighted)?;
        let mean = builder.repeat_last(mean, result)?;
        let centred = builder.add(Sub {}, &[gradient, mean])?;
        Ok(vec![Some(builder.add(Mul {}, &[result, centred])?)])
    }

    fn decompose(&self, builder: &mut Builder, operands: &[ValueId]) -> Result<Option<ValueId>, OpError> {
        let [x] = exactly(operands)?;
        let axes = vec![builder.ty(x).rank().saturating_sub(1)];
        let top = builder.add(Max { axes }, &[x])?;
        let top = builder.repeat_last(top, x)?;
        let shifted = builder.add(Sub {}, &[x, top])?;
        let exps = builder.add(Exp {}, &[shifted])?;
        let sum = builder.sum_last(exps)?;
        let sum = builder.repeat_last(sum, x)?;
        builder.add(Div {}, &[exps, sum]).map(Some)
    }
}
