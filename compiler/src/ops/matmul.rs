//! a[..., M, K] b[..., K, N] with equal leading axes; either operand may be given transposed.

use super::*;

/// a[..., M, K] b[..., K, N] with equal leading axes; either operand may be given transposed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Matmul {
    /// a is [..., K, M].
    pub transpose_a: bool,
    /// b is [..., N, K].
    pub transpose_b: bool,
}

impl Matmul {
    /// (rows, inner) of a and (inner, columns) of b.
    fn axes(&self, rank: usize) -> ([usize; 2], [usize; 2]) {
        let pair = |transposed: bool| match transposed {
            false => [rank - 2, rank - 1],
            true => [rank - 1, rank - 2],
        };
        (pair(self.transpose_a), pair(self.transpose_b))
    }
}

impl Primitive for Matmul {
    facts!("matmul", "a[..., M, K] b[..., K, N] with equal leading axes; either operand may be given transposed.", Arity::Exactly(2), Class::Contraction);

    fn infer(&self, operands: &[&Type]) -> Result<Type, OpError> {
        let [a, b] = exactly(operands)?;
        need_f32(a, 0)?;
        need_f32(b, 1)?;
        need_rank_at_least(a, 0, 2)?;
        need_rank(b, 1, a.rank())?;
        let leading = a.rank() - 2;
        equal_shapes(&a.shape[..leading], &b.shape[..leading], [0, 1])?;
        let ([row, inner_a], [inner_b, column]) = self.axes(a.rank());
        if a.shape[inner_a] != b.shape[inner_b] {
            let message = format!(
                "inner axis: {} of {} meets {} of {}",
                text(&a.shape[inner_a]),
                shape_text(&a.shape),
                text(&b.shape[inner_b]),
                shape_text(&b.shape)
            );
            return Err(OpError::new(message, [0, 1]));
        }
        let mut shape = a.shape[..leading].to_vec();
        shape.extend([a.shape[row].clone(), b.shape[column].clone()]);
        Ok(Type::f32(shape))
    }

    fn evaluate(&self, context: &EvalContext, operands: &[&Tensor]) -> Result<Tensor, OpError> {
        let [a, b] = exactly(operands)?;
        let rank = context.shape.len();
        let ([row, inner], [inner_b, column]) = self.axes(rank);
        let (rows, depth, columns) = (a.shape[row], a.shape[inner], b.shape[column]);
        let (strides_a, strides_b) = (a.strides(), b.strides());
        let mut result = Tensor::full(context.shape.to_vec(), 0.0);
        for block in 0..context.shape[..rank - 2].iter().product() {
            for i in 0..rows {
                for l in 0..depth {
                    let left = a.data[block * rows * depth + i * strides_a[row] + l * strides_a[inner]];
                    let start = block * depth * columns + l * strides_b[inner_b];
                    let target = (block * rows + i) * columns;
                    for j in 0..columns {
                        result.data[target + j] += left * b.data[start + j * strides_b[column]];
                    }
                }
            }
        }
        Ok(result)
    }

    fn flops(&self, operands: &[&[usize]], result: &[usize]) -> u64 {
        let depth = operands.first().and_then(|a| match self.transpose_a {
            false => a.last(),
            true => a.iter().nth_back(1),
        });
        elements(result).saturating_mul(2 * depth.map_or(0, |depth| *depth as u64))
    }

    fn gradient(&self, builder: &mut Builder, operands: &[ValueId], _result: ValueId, gradient: ValueId) -> Result<Vec<Option<ValueId>>, OpError> {
        let [a, b] = exactly(operands)?;
        let product = |transpose_a, transpose_b| Matmul {
            transpose_a,
            transpose_b,
        };
        let d_a = match self.transpose_a {
            false => builder.add(product(false, !self.transpose_b), &[gradient, b])?,
            true => builder.add(product(self.transpose_b, true), &[b, gradient])?,
        };
        let d_b = match self.transpose_b {
            false => builder.add(product(!self.transpose_a, false), &[a, gradient])?,
            true => builder.add(product(true, self.transpose_a), &[gradient, a])?,
        };
        Ok(vec![Some(d_a), Some(d_b)])
    }
}
