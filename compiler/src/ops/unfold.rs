//! Sliding windows: an axis becomes where a window starts and where in it, [.., starts, size, ..].

use super::*;

/// Sliding windows: an axis becomes where a window starts and where in it, [.., starts, size, ..].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Unfold {
    /// The axis.
    pub axis: usize,
    /// Elements of a window.
    pub size: usize,
    /// Elements from the start of a window to the start of the next.
    pub step: usize,
}

impl Unfold {
    /// How many windows lie in an axis of this size; what is left behind the last one is unread.
    fn starts(&self, whole: &Size) -> Result<Size, OpError> {
        let none = || {
            let (size, step) = (self.size, self.step);
            let whole = text(whole);
            OpError::new(format!("no windows of {size} every {step} in an axis of {whole}"), [0])
        };
        if self.size == 0 || self.step == 0 {
            return Err(none());
        }
        let last = whole.sub(&self.size.into());
        let steps = match last.as_const() {
            Some(last) => Some(Size::from(last / self.step)),
            None => last.div_exact(&self.step.into()).filter(|steps| !steps.symbols().is_empty()),
        };
        Ok(steps.ok_or_else(none)?.add(&1.into()))
    }

    /// Element `place` of every window, back where it came from, zeros elsewhere.
    fn back(
        &self,
        b: &mut Builder,
        gradient: ValueId,
        place: usize,
        whole: &Size,
    ) -> Result<ValueId, OpError> {
        let (axis, inner) = (self.axis, self.axis + 1);
        let start = Size::from(place);
        let slice = Slice { axis: inner, start: start.clone(), length: 1.into() };
        let own = b.add(slice, &[gradient])?;
        let after = Size::from(self.step - 1);
        let spread = b.add(Pad { axis: inner, before: 0.into(), after }, &[own])?;
        let own = joined(b, spread, axis)?;
        // The zeros behind the last element may reach past the end.
        let length = b.ty(own).shape[axis].clone();
        let room = whole.sub(&start);
        let own = match length.sub(&room).as_const() {
            Some(over) if over > 0 => {
                let length = room.clone();
                b.add(Slice { axis, start: 0.into(), length }, &[own])?
            }
            _ => own,
        };
        let after = room.sub(&b.ty(own).shape[axis]);
        b.add(Pad { axis, before: start, after }, &[own])
    }
}

/// Joins an axis with the next one.
fn joined(b: &mut Builder, x: ValueId, axis: usize) -> Result<ValueId, OpError> {
    let mut shape = b.ty(x).shape.clone();
    let inner = shape.remove(axis + 1);
    shape[axis] = shape[axis].mul(&inner);
    b.add(Reshape { shape }, &[x])
}

impl Primitive for Unfold {
    facts!("unfold", "Sliding windows: an axis becomes where a window starts and where in it, [.., starts, size, ..].", Arity::Exactly(1), Class::Movement);

    fn infer(&self, operands: &[&Type]) -> Result<Type, OpError> {
        let [x] = exactly(operands)?;
        need_axis(x, 0, self.axis)?;
        let mut ty = x.clone();
        ty.shape[self.axis] = self.starts(&x.shape[self.axis])?;
        ty.shape.insert(self.axis + 1, self.size.into());
        Ok(ty)
    }

    fn evaluate(&self, context: &EvalContext, operands: &[&Tensor]) -> Result<Tensor, OpError> {
        let [x] = exactly(operands)?;
        let mut strides = x.strides();
        let stride = strides[self.axis];
        strides[self.axis] = stride * self.step;
        strides.insert(self.axis + 1, stride);
        Ok(from_positions(context.shape, |position| x.data[offset(position, &strides)]))
    }

    fn gradient(&self, builder: &mut Builder, operands: &[ValueId], _result: ValueId, gradient: ValueId) -> Result<Vec<Option<ValueId>>, OpError> {
        let [x] = exactly(operands)?;
        let whole = builder.ty(x).shape[self.axis].clone();
        if self.size == self.step {
            // Windows that do not overlap lie one behind the other.
            let flat = joined(builder, gradient, self.axis)?;
            let after = whole.sub(&builder.ty(flat).shape[self.axis]);
            let pad = Pad { axis: self.axis, before: 0.into(), after };
            return Ok(vec![Some(builder.add(pad, &[flat])?)]);
        }
        let mut total = self.back(builder, gradient, 0, &whole)?;
        for place in 1..self.size {
            let part = self.back(builder, gradient, place, &whole)?;
            total = builder.add(Add {}, &[total, part])?;
        }
        Ok(vec![Some(total)])
    }
}
