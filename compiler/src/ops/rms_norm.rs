//! x / sqrt(mean(x^2) + eps) * scale over the last axis (arXiv 1910.07467); operands x, scale.

use super::*;

/// x / sqrt(mean(x^2) + eps) * scale over the last axis (arXiv 1910.07467); operands x, scale.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RmsNorm {
    /// Added to the variance.
    pub eps: f64,
}

impl RmsNorm {
    /// 1 / sqrt(mean(x^2) + eps) and x times it, both of the shape of x.
    fn normalise(&self, b: &mut Builder, x: ValueId) -> Result<(ValueId, ValueId), OpError> {
        let square = b.add(Mul {}, &[x, x])?;
        let mean = b.mean_last(square)?;
        let shifted = b.shift(mean, self.eps)?;
        let inverse = b.add(Rsqrt {}, &[shifted])?;
        let inverse = b.repeat_last(inverse, x)?;
        Ok((inverse, b.add(Mul {}, &[x, inverse])?))
    }
}

impl Primitive for RmsNorm {
    facts!("rms_norm", "x / sqrt(mean(x^2) + eps) * scale over the last axis (arXiv 1910.07467); operands x, scale.", Arity::Exactly(2), Class::Composite);

    fn infer(&self, operands: &[&Type]) -> Result<Type, OpError> {
        let [x, scale] = exactly(operands)?;
        let width = last_size(x, 0)?;
        need_f32(x, 0)?;
        need_f32(scale, 1)?;
        need_rank(scale, 1, 1)?;
        equal_sizes(x.rank() - 1, width, &scale.shape[0], [0, 1])?;
        Ok(x.clone())
    }

    fn evaluate(&self, _context: &EvalContext, operands: &[&Tensor]) -> Result<Tensor, OpError> {
        let [x, scale] = exactly(operands)?;
        Ok(map_rows(x, |row| {
            let mean = row.iter().map(|x| x * x).sum::<f64>() / row.len() as f64;
            let inverse = 1.0 / libm::sqrt(mean + self.eps);
            let scaled = row.iter().zip(&scale.data);
            scaled.map(|(x, scale)| x * inverse * scale).collect()
        }))
    }

    fn gradient(&self, builder: &mut Builder, operands: &[ValueId], _result: ValueId, gradient: ValueId) -> Result<Vec<Option<ValueId>>, OpError> {
        // With n = x r and h = g * scale: dx = r (h - n mean(h n)).
        let [x, scale] = exactly(operands)?;
        let (inverse, normal) = self.normalise(builder, x)?;
        let weighted = builder.add(Mul {}, &[gradient, normal])?;
        let d_scale = builder.sum_leading(weighted)?;
        let scale = builder.repeat_leading(scale, x)?;
        let h = builder.add(Mul {}, &[gradient, scale])?;
        let along = builder.add(Mul {}, &[h, normal])?;
        let along = builder.mean_last(along)?;
        let along = builder.repeat_last(along, x)?;
        let along = builder.add(Mul {}, &[normal, along])?;
        let centred = builder.add(Sub {}, &[h, along])?;
        let d_x = builder.add(Mul {}, &[inverse, centred])?;
        Ok(vec![Some(d_x), Some(d_scale)])
    }

    fn decompose(&self, builder: &mut Builder, operands: &[ValueId]) -> Result<Option<ValueId>, OpError> {
        let [x, scale] = exactly(operands)?;
        let (_, normal) = self.normalise(builder, x)?;
        let scale = builder.repeat_leading(scale, x)?;
        builder.add(Mul {}, &[normal, scale]).map(Some)
    }
}
