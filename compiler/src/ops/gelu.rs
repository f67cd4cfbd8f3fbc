//! x * Phi(x) (arXiv 1606.08415), exact or by tanh.

use super::*;

/// x * Phi(x) (arXiv 1606.08415), exact or by tanh.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gelu {
    /// The tanh form, as JAX defaults to.
    pub tanh: bool,
}

impl Gelu {
    /// sqrt(2 / pi) and the cubic coefficient of the tanh form.
    const TANH: (f64, f64) = (0.797_884_560_802_865_4, 0.044_715);

    /// The factor of x: Phi(x), or its approximation by tanh.
    fn gate(&self, b: &mut Builder, x: ValueId) -> Result<ValueId, OpError> {
        if self.tanh {
            // (1 + tanh u) / 2 is the sigmoid of 2 u, which costs one exponential and no cancellation.
            let inner = Self::sigmoid_argument(b, x)?;
            return b.add(Sigmoid {}, &[inner]);
        }
        let inner = b.scale(x, std::f64::consts::FRAC_1_SQRT_2)?;
        let bend = b.add(Erf {}, &[inner])?;
        let half = b.scale(bend, 0.5)?;
        b.shift(half, 0.5)
    }

    /// 2 sqrt(2 / pi) (x + 0.044715 x^3) as x (c + c a x^2).
    fn sigmoid_argument(b: &mut Builder, x: ValueId) -> Result<ValueId, OpError> {
        let (root, cubic) = Self::TANH;
        let square = b.add(Mul {}, &[x, x])?;
        let scaled = b.scale(square, 2.0 * root * cubic)?;
        let factor = b.shift(scaled, 2.0 * root)?;
        b.add(Mul {}, &[x, factor])
    }

    /// The derivative of the factor of x.
    fn gate_slope(&self, b: &mut Builder, x: ValueId, gate: ValueId) -> Result<ValueId, OpError> {
        let square = b.add(Mul {}, &[x, x])?;
        if self.tanh {
            // gate = sigmoid 2 u, so its slope is 2 gate (1 - gate) u'.
            let (root, cubic) = Self::TANH;
            let rest = b.from(1.0, gate)?;
            let curve = b.add(Mul {}, &[gate, rest])?;
            let scaled = b.scale(square, 6.0 * root * cubic)?;
            let inner = b.shift(scaled, 2.0 * root)?;
            return b.add(Mul {}, &[curve, inner]);
        }
        // The standard normal density.
        let exponent = b.scale(square, -0.5)?;
        let bell = b.add(Exp {}, &[exponent])?;
        b.scale(bell, 0.5 * Self::TANH.0)
    }
}

impl Primitive for Gelu {
    facts!("gelu", "x * Phi(x) (arXiv 1606.08415), exact or by tanh.", Arity::Exactly(1), Class::Composite);

    fn infer(&self, operands: &[&Type]) -> Result<Type, OpError> {
        let [x] = exactly(operands)?;
        need_f32(x, 0)?;
        Ok(x.clone())
    }

    fn evaluate(&self, _context: &EvalContext, operands: &[&Tensor]) -> Result<Tensor, OpError> {
        let [x] = exactly(operands)?;
        let (root, cubic) = Self::TANH;
        Ok(map(x, |x| {
            let bend = if self.tanh {
                libm::tanh(root * (x + cubic * x * x * x))
            } else {
                libm::erf(x * std::f64::consts::FRAC_1_SQRT_2)
            };
            0.5 * x * (1.0 + bend)
        }))
    }

    fn gradient(&self, builder: &mut Builder, operands: &[ValueId], _result: ValueId, gradient: ValueId) -> Result<Vec<Option<ValueId>>, OpError> {
        let [x] = exactly(operands)?;
        let gate = self.gate(builder, x)?;
        let slope = self.gate_slope(builder, x, gate)?;
        let tilt = builder.add(Mul {}, &[x, slope])?;
        let slope = builder.add(Add {}, &[gate, tilt])?;
        Ok(vec![Some(builder.add(Mul {}, &[gradient, slope])?)])
    }

    fn decompose(&self, builder: &mut Builder, operands: &[ValueId]) -> Result<Option<ValueId>, OpError> {
        let [x] = exactly(operands)?;
        let gate = self.gate(builder, x)?;
        builder.add(Mul {}, &[x, gate]).map(Some)
    }
}
