//! (x - mean) / sqrt(variance + eps) * scale + bias over the last axis (arXiv 1607.06450);
//! operands x, scale, bias.

use super::*;

/// (x - mean) / sqrt(variance + eps) * scale + bias over the last axis (arXiv 1607.06450);
/// operands x, scale, bias.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerNorm {
    /// Added to the variance.
    pub eps: f64,
}

impl LayerNorm {
    /// 1 / sqrt(variance + eps) and (x - mean) times it, both of the shape of x.
    fn normalise(&self, b: &mut Builder, x: ValueId) -> Result<(ValueId, ValueId), OpError> {
        let mean = b.mean_last(x)?;
        let mean = b.repeat_last(mean, x)?;
        let centred = b.add(Sub {}, &[x, mean])?;
        let square = b.add(Mul {}, &[centred, centred])?;
        let variance = b.mean_last(square)?;
        let shifted = b.shift(variance, self.eps)?;
        let inverse = b.add(Rsqrt {}, &[shifted])?;
        let inverse = b.repeat_last(inverse, x)?;
        Ok((inverse, b.add(Mul {}, &[centred, inverse])?))
    }
}

impl Primitive for LayerNorm {
    facts!("layer_norm", "(x - mean) / sqrt(variance + eps) * scale + bias over the last axis (arXiv 1607.06450); operands x, scale, bias.", Arity::Exactly(3), Class::Composite);

    fn infer(&self, operands: &[&Type]) -> Result<Type, OpError> {
        let [x, scale, bias] = exactly(operands)?;
        let width = last_size(x, 0)?.clone();
        for (slot, vector) in [(1, scale), (2, bias)] {
            need_f32(x, 0)?;
            need_f32(vector, slot)?;
            need_rank(vector, slot, 1)?;
            equal_sizes(x.rank() - 1, &width, &vector.shape[0], [0, slot])?;
        }
        Ok(x.clone())
    }

    fn evaluate(&self, _context: &EvalContext, operands: &[&Tensor]) -> Result<Tensor, OpError> {
        let [x, scale, bias] = exactly(operands)?;
        Ok(map_rows(x, |row| {
            let mean = row.iter().sum::<f64>() / row.len() as f64;
            let squares = row.iter().map(|x| (x - mean) * (x - mean));
            let variance = squares.sum::<f64>() / row.len() as f64;
            let inverse = 1.0 / libm::sqrt(variance + self.eps);
            let affine = scale.data.iter().zip(&bias.data);
            row.iter()
                .zip(affine)
                .map(|(x, (scale, bias))| (x - mean) * inverse * scale + bias)
                .collect()
        }))
    }

    fn gradient(&self, builder: &mut Builder, operands: &[ValueId], _result: ValueId, gradient: ValueId) -> Result<Vec<Option<ValueId>>, OpError> {
        // With n = (x - mean) r and h = g * scale: dx = r (h - mean(h) - n mean(h n)).
        let [x, scale, _] = exactly(operands)?;
        let (inverse, normal) = self.normalise(builder, x)?;
        let weighted = builder.add(Mul {}, &[gradient, normal])?;
        let d_scale = builder.sum_leading(weighted)?;
        let d_bias = builder.sum_leading(gradient)?;
        let scale = builder.repeat_leading(scale, x)?;
        let h = builder.add(Mul {}, &[gradient, scale])?;
        let mean = builder.mean_last(h)?;
        let mean = builder.repeat_last(mean, x)?;
        let along = builder.add(Mul {}, &[h, normal])?;
        let along = builder.mean_last(along)?;
        let along = builder.repeat_last(along, x)?;
        let along = builder.add(Mul {}, &[normal, along])?;
        let centred = builder.add(Sub {}, &[h, mean])?;
        let centred = builder.add(Sub {}, &[centred, along])?;
        let d_x = builder.add(Mul {}, &[inverse, centred])?;
        Ok(vec![Some(d_x), Some(d_scale), Some(d_bias)])
    }

    fn decompose(&self, builder: &mut Builder, operands: &[ValueId]) -> Result<Option<ValueId>, OpError> {
        let [x, scale, bias] = exactly(operands)?;
        let (_, normal) = self.normalise(builder, x)?;
        let scale = builder.repeat_leading(scale, x)?;
        let bias = builder.repeat_leading(bias, x)?;
        let scaled = builder.add(Mul {}, &[normal, scale])?;
        builder.add(Add {}, &[scaled, bias]).map(Some)
    }
}
