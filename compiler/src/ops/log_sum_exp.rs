//! log(sum(exp(x))) over the last axis, which it removes.

use super::*;

/// log(sum(exp(x))) over the last axis, which it removes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogSumExp {}

impl Primitive for LogSumExp {
    facts!("log_sum_exp", "log(sum(exp(x))) over the last axis, which it removes.", Arity::Exactly(1), Class::Composite);

    fn infer(&self, operands: &[&Type]) -> Result<Type, OpError> {
        let [x] = exactly(operands)?;
        need_f32(x, 0)?;
        last_size(x, 0)?;
        Ok(Type::f32(x.shape[..x.rank() - 1].to_vec()))
    }

    fn evaluate(&self, context: &EvalContext, operands: &[&Tensor]) -> Result<Tensor, OpError> {
        let [x] = exactly(operands)?;
        let data = rows(x).map(|row| {
            let top = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            top + libm::log(row.iter().map(|x| libm::exp(x - top)).sum())
        });
        Ok(Tensor {
            data: data.collect(),
            shape: context.shape.to_vec(),
        })
    }

    fn gradient(&self, builder: &mut Builder, operands: &[ValueId], result: ValueId, gradient: ValueId) -> Result<Vec<Option<ValueId>>, OpError> {
        // The softmax is exp(x - y).
        let [x] = exactly(operands)?;
        let wide = builder.repeat_last(result, x)?;
        let shifted = builder.add(Sub {}, &[x, wide])?;
        let softmax = builder.add(Exp {}, &[shifted])?;
        let gradient = builder.repeat_last(gradient, x)?;
        Ok(vec![Some(builder.add(Mul {}, &[gradient, softmax])?)])
    }

    fn decompose(&self, builder: &mut Builder, operands: &[ValueId]) -> Result<Option<ValueId>, OpError> {
        let [x] = exactly(operands)?;
        let axes = vec![builder.ty(x).rank().saturating_sub(1)];
        let top = builder.add(Max { axes }, &[x])?;
        let wide = builder.repeat_last(top, x)?;
        let shifted = builder.add(Sub {}, &[x, wide])?;
        let exps = builder.add(Exp {}, &[shifted])?;
        let sum = builder.sum_last(exps)?;
        let log = builder.add(Log {}, &[sum])?;
        builder.add(Add {}, &[top, log]).map(Some)
    }
}
