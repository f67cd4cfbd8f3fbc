//! What gradient rules and decompositions build with.

use super::*;

/// Adds nodes with one origin; what gradient rules and decompositions build with.
pub struct Builder<'a> {
    /// The graph under construction.
    pub graph: &'a mut Graph,
    /// Origin of every node added.
    pub origin: Origin,
}

impl Builder<'_> {
    /// Adds a node.
    ///
    /// # Errors
    /// What the op says is wrong with these operands.
    pub fn add(&mut self, op: impl Into<Op>, operands: &[ValueId]) -> Result<ValueId, OpError> {
        self.graph.add(op.into(), operands, self.origin.clone())
    }

    /// The type of a value.
    #[must_use]
    pub fn ty(&self, value: ValueId) -> &Type {
        self.graph.ty(value)
    }

    /// A constant of another value's type.
    pub(crate) fn like(&mut self, x: ValueId, value: f64) -> Result<ValueId, OpError> {
        let ty = self.ty(x).clone();
        self.add(Constant { ty, value }, &[])
    }

    /// x * factor.
    pub(crate) fn scale(&mut self, x: ValueId, factor: f64) -> Result<ValueId, OpError> {
        let factor = self.like(x, factor)?;
        self.add(Mul {}, &[x, factor])
    }

    /// x + offset.
    pub(crate) fn shift(&mut self, x: ValueId, offset: f64) -> Result<ValueId, OpError> {
        let offset = self.like(x, offset)?;
        self.add(Add {}, &[x, offset])
    }

    /// offset - x.
    pub(crate) fn from(&mut self, offset: f64, x: ValueId) -> Result<ValueId, OpError> {
        let offset = self.like(x, offset)?;
        self.add(Sub {}, &[offset, x])
    }

    /// Repeats x[...] along a new last axis up to the shape of `like`.
    pub(crate) fn repeat_last(&mut self, x: ValueId, like: ValueId) -> Result<ValueId, OpError> {
        let shape = self.ty(like).shape.clone();
        let axes = (0..self.ty(x).rank()).collect();
        self.add(Broadcast { shape, axes }, &[x])
    }

    /// Repeats x[D] along new leading axes up to the shape of `like`.
    pub(crate) fn repeat_leading(&mut self, x: ValueId, like: ValueId) -> Result<ValueId, OpError> {
        let shape = self.ty(like).shape.clone();
        let axes = vec![shape.len().saturating_sub(1)];
        self.add(Broadcast { shape, axes }, &[x])
    }

    /// The sum over the last axis.
    pub(crate) fn sum_last(&mut self, x: ValueId) -> Result<ValueId, OpError> {
        let axes = vec![self.ty(x).rank().saturating_sub(1)];
        self.add(Sum { axes }, &[x])
    }

    /// The sum over all axes but the last.
    pub(crate) fn sum_leading(&mut self, x: ValueId) -> Result<ValueId, OpError> {
        let axes: Vec<usize> = (0..self.ty(x).rank().saturating_sub(1)).collect();
        if axes.is_empty() {
            return Ok(x);
        }
        self.add(Sum { axes }, &[x])
    }

    /// The mean over the last axis.
    pub(crate) fn mean_last(&mut self, x: ValueId) -> Result<ValueId, OpError> {
        let size = last_size(self.ty(x), 0)?.as_const();
        let sum = self.sum_last(x)?;
        if let Some(size) = size {
            return self.scale(sum, 1.0 / size as f64);
        }
        // A size that is bound later is the sum of as many ones.
        let ones = self.like(x, 1.0)?;
        let count = self.sum_last(ones)?;
        self.add(Div {}, &[sum, count])
    }
}
