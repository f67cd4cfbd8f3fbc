//! Static numbers: whole ones (possibly symbolic) and fractions.

use crate::size::Size;
use gatewright_grammar::ast::BinaryOp;

/// A number known without running anything.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Number {
    /// A whole number, possibly over symbolic dims.
    Whole(Size),
    /// Any other.
    Real(f64),
}

/// Why an operation has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NumberError {
    /// Too large to count with.
    Overflow,
    /// A symbolic size was divided, and the division is not exact for every value.
    NotExact,
    /// Divided by zero.
    DivisionByZero,
    /// The operation needs known numbers.
    Symbolic,
}

impl NumberError {
    /// In the user's words.
    pub(crate) fn message(self) -> &'static str {
        match self {
            Self::Overflow => "the number is too large",
            Self::NotExact => "the division is not exact",
            Self::DivisionByZero => "division by zero",
            Self::Symbolic => "a dim without a value cannot be used this way",
        }
    }
}

/// Sizes beyond this are certainly a mistake; products of two still fit 64 bits.
const LARGEST: usize = 1 << 48;

impl Number {
    /// A literal.
    pub(crate) fn literal(value: f64, is_integer: bool) -> Result<Self, NumberError> {
        if !is_integer {
            return Ok(Self::Real(value));
        }
        if !(0.0..=LARGEST as f64).contains(&value) {
            return Err(NumberError::Overflow);
        }
        Ok(Self::Whole(Size::from(value as usize)))
    }

    /// The value, unless it is symbolic.
    pub(crate) fn real(&self) -> Option<f64> {
        match self {
            Self::Whole(size) => size.as_const().map(|value| value as f64),
            Self::Real(value) => Some(*value),
        }
    }

    /// The whole number, unless it is symbolic or a fraction.
    pub(crate) fn whole(&self) -> Option<usize> {
        match self {
            Self::Whole(size) => size.as_const(),
            Self::Real(_) => None,
        }
    }

    /// `-x`.
    pub(crate) fn negate(&self) -> Result<Self, NumberError> {
        self.real()
            .map(|value| Self::Real(-value))
            .ok_or(NumberError::Symbolic)
    }

    /// Arithmetic. Whole numbers stay whole when the result is; other divisions give fractions.
    pub(crate) fn binary(op: BinaryOp, left: &Self, right: &Self) -> Result<Self, NumberError> {
        if let (Self::Whole(a), Self::Whole(b)) = (left, right)
            && let Some(result) = whole(op, a, b)?
        {
            return Ok(result);
        }
        let (Some(a), Some(b)) = (left.real(), right.real()) else {
            return Err(if op == BinaryOp::Divide {
                NumberError::NotExact
            } else {
                NumberError::Symbolic
            });
        };
        let value = match op {
            BinaryOp::Add => a + b,
            BinaryOp::Subtract => a - b,
            BinaryOp::Multiply => a * b,
            BinaryOp::Divide if b == 0.0 => return Err(NumberError::DivisionByZero),
            BinaryOp::Divide => a / b,
            BinaryOp::Remainder if b == 0.0 => return Err(NumberError::DivisionByZero),
            BinaryOp::Remainder => a % b,
            _ => return Err(NumberError::Symbolic),
        };
        Ok(Self::Real(value))
    }

    /// A comparison; symbolic sizes compare equal only to themselves.
    pub(crate) fn compare(op: BinaryOp, left: &Self, right: &Self) -> Option<bool> {
        if let (Self::Whole(a), Self::Whole(b)) = (left, right) {
            match op {
                BinaryOp::Equal if a == b => return Some(true),
                BinaryOp::NotEqual if a == b => return Some(false),
                _ => {}
            }
        }
        let (a, b) = (left.real()?, right.real()?);
        Some(match op {
            BinaryOp::Equal => a == b,
            BinaryOp::NotEqual => a != b,
            BinaryOp::Less => a < b,
            BinaryOp::LessEqual => a <= b,
            BinaryOp::Greater => a > b,
            BinaryOp::GreaterEqual => a >= b,
            _ => return None,
        })
    }
}

/// The operation on whole numbers; `None` when its result is not whole.
fn whole(op: BinaryOp, a: &Size, b: &Size) -> Result<Option<Number>, NumberError> {
    let result = match (op, a.as_const(), b.as_const()) {
        (BinaryOp::Add, Some(a), Some(b)) => a.checked_add(b).map(Size::from),
        (BinaryOp::Multiply, Some(a), Some(b)) => a.checked_mul(b).map(Size::from),
        (BinaryOp::Subtract, Some(a), Some(b)) if a >= b => Some(Size::from(a - b)),
        (BinaryOp::Divide | BinaryOp::Remainder, _, Some(0)) => {
            return Err(NumberError::DivisionByZero);
        }
        (BinaryOp::Divide, Some(a), Some(b)) if a % b == 0 => Some(Size::from(a / b)),
        (BinaryOp::Remainder, Some(a), Some(b)) => Some(Size::from(a % b)),
        (_, Some(_), Some(_)) => return Ok(None),
        (BinaryOp::Add, ..) => Some(a.add(b)),
        (BinaryOp::Multiply, ..) => Some(a.mul(b)),
        (BinaryOp::Subtract, ..) => Some(a.sub(b)),
        (BinaryOp::Divide, ..) => return Ok(a.div_exact(b).map(Number::Whole)),
        _ => return Ok(None),
    };
    match result {
        Some(size) if size.as_const().is_none_or(|value| value <= LARGEST) => {
            Ok(Some(Number::Whole(size)))
        }
        _ => Err(NumberError::Overflow),
    }
}
