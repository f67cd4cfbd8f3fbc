//! What groups compute, in f64: their specs interpreted one after the other.

use super::{Group, bind_shape};
use crate::graph::{DimKind, Graph, ValueId};
use crate::kernel::interpret::{self, Draws};
use crate::kernel::spec::{DispatchLayout, KernelSpec, NONE};
use crate::ops::Op;
use crate::size::Bindings;
use std::collections::BTreeMap;

/// Values of a prepared graph by id, row-major, in the layout of the device. NaN stays where nothing
/// is written.
pub type Values = BTreeMap<ValueId, Vec<f64>>;

/// Computes the outputs of a group from the values before it.
///
/// # Errors
/// An input that is not computed yet, or a spec without an interpretation.
pub fn interpret(
    graph: &Graph,
    group: &Group,
    bindings: &Bindings,
    draws: Draws,
    values: &mut Values,
) -> Result<(), String> {
    let missing = |id: &ValueId| format!("{id} is not computed yet");
    let inputs = group.inputs.iter();
    let inputs = inputs.map(|id| values.get(id).map(Vec::as_slice).ok_or_else(|| missing(id)));
    let inputs: Vec<&[f64]> = inputs.collect::<Result<_, _>>()?;
    let blank = |id: &ValueId| -> Option<Vec<f64>> {
        let shape = bind_shape(graph.ty(*id), bindings)?;
        Some(vec![f64::NAN; shape.iter().product()])
    };
    let outputs = group.outputs.iter();
    let outputs = outputs.map(|id| {
        let known = values.get(id).cloned();
        known
            .or_else(|| blank(id))
            .ok_or_else(|| format!("{id} has an unknown size"))
    });
    let mut outputs: Vec<Vec<f64>> = outputs.collect::<Result<_, _>>()?;
    interpret::run(&group.spec, &inputs, &mut outputs, draws)?;
    values.extend(group.outputs.iter().copied().zip(outputs));
    Ok(())
}

/// For a value of dispatched rows, its routing plan with the plan's layout: only rows with a source
/// have a meaning.
#[must_use]
pub fn routing_of(
    graph: &Graph,
    groups: &[Group],
    value: ValueId,
) -> Option<(ValueId, DispatchLayout)> {
    let first = graph.ty(value).shape.first()?.symbols();
    let rows = first.iter().copied().find(|dim| {
        let kind = graph.dim(*dim).map(|dim| &dim.kind);
        matches!(kind, Some(DimKind::Rows(_)))
    })?;
    groups.iter().find_map(|group| {
        let KernelSpec::Dispatch { layout, .. } = &group.spec else {
            return None;
        };
        let plan = *group.outputs.first()?;
        let Op::Dispatch(dispatch) = &graph.node(plan).op else {
            return None;
        };
        (dispatch.rows == rows).then_some((plan, *layout))
    })
}

/// Sets the elements of rows without a source to NaN.
pub fn hide_unused_rows(plan: &[f64], layout: &DispatchLayout, rows: &mut [f64]) {
    let width = rows.len() / layout.rows.max(1);
    let sources = plan.iter().skip(layout.row_source());
    for (row, source) in rows.chunks_exact_mut(width.max(1)).zip(sources) {
        if *source == f64::from(NONE) {
            row.fill(f64::NAN);
        }
    }
}
