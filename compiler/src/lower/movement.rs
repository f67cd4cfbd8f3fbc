//! Reshape, transpose, slice, concat, broadcast: positions, never values.

use super::tracer::Tracer;
use super::value::{Axis, Tensor, Traced};
use crate::graph::ValueId;
use crate::ops::{Broadcast, Concat, Reshape, Slice, Transpose};
use crate::size::Size;

impl Tracer<'_> {
    pub(crate) fn reshape(&mut self, id: ValueId, shape: Vec<Size>) -> Traced<ValueId> {
        if self.graph.ty(id).shape == shape {
            return Ok(id);
        }
        self.emit(Reshape { shape }, &[id])
    }

    pub(crate) fn transpose(&mut self, id: ValueId, order: Vec<usize>) -> Traced<ValueId> {
        if order.iter().enumerate().all(|(index, axis)| index == *axis) {
            return Ok(id);
        }
        self.emit(Transpose { order }, &[id])
    }

    pub(crate) fn broadcast(
        &mut self,
        id: ValueId,
        shape: &[Size],
        axes: Vec<usize>,
    ) -> Traced<ValueId> {
        if self.graph.ty(id).shape == shape && axes.len() == shape.len() {
            return Ok(id);
        }
        self.emit(
            Broadcast {
                shape: shape.to_vec(),
                axes,
            },
            &[id],
        )
    }

    pub(crate) fn slice(
        &mut self,
        tensor: &Tensor,
        axis: usize,
        start: Size,
        length: Size,
    ) -> Traced<Tensor> {
        if self.shape(tensor).get(axis) == Some(&length) {
            return Ok(tensor.clone());
        }
        let id = self.emit(
            Slice {
                axis,
                start,
                length,
            },
            &[tensor.id],
        )?;
        Ok(Tensor {
            id,
            axes: tensor.axes.clone(),
        })
    }

    pub(crate) fn concat(
        &mut self,
        parts: &[Tensor],
        axis: usize,
        axes: Vec<Axis>,
    ) -> Traced<Tensor> {
        if let [one] = parts {
            return Ok(Tensor { id: one.id, axes });
        }
        let ids: Vec<ValueId> = parts.iter().map(|part| part.id).collect();
        let id = self.emit(Concat { axis }, &ids)?;
        Ok(Tensor { id, axes })
    }
}
