//! How a training step stores what it computes.
//!
//! With [`Precision::Mixed`], large intermediate values and their gradients lie in memory as 16-bit floats;
//! kernels compute and add up in f32. Parameters, their gradients, optimiser state and results are f32. The
//! objective is multiplied by [`LOSS_SCALE`] before it is differentiated, so that small gradients do not
//! vanish; the update divides by it again, and changes nothing where a gradient is not finite
//! (Micikevicius et al., arXiv 1710.03740).

use crate::graph::{DType, Graph, ValueId};
use crate::ops::{Class, Input, Mul, Op, OpError};
use crate::size::Bindings;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// How activations and their gradients are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// As f32.
    #[default]
    Full,
    /// Large ones as f16.
    Mixed,
}

/// The input that multiplies the objective; a space keeps it apart from the names of a spec.
pub const LOSS_SCALE: &str = "loss scale";

/// Values of fewer elements stay f32: they cost no bandwidth.
const LEAST_ELEMENTS: usize = 4096;
/// So do values with shorter rows: statistics of rows, scores of a few experts.
const LEAST_ROW: usize = 16;

/// Whether a value between kernels is stored as 16-bit floats. Sums and maxima are not, nor is what a softmax
/// or a choice is made from: small differences of large numbers.
#[must_use]
pub fn is_half(graph: &Graph, id: ValueId, bindings: &Bindings) -> bool {
    let (node, ty) = (graph.node(id), graph.ty(id));
    let row = ty.shape.last().and_then(|size| size.bind(bindings));
    let elements = ty.bound_elements(bindings);
    let large =
        elements.is_some_and(|it| it >= LEAST_ELEMENTS) && row.is_some_and(|it| it >= LEAST_ROW);
    let summary = |op: &Op| {
        op.primitive().class() == Class::Reduction
            || matches!(
                op,
                Op::LogSumExp(_) | Op::AttentionLogSumExp(_) | Op::CrossEntropyLogSumExp(_)
            )
    };
    let compared = |user: &ValueId| {
        matches!(
            graph.node(*user).op,
            Op::Softmax(_) | Op::LogSumExp(_) | Op::Max(_) | Op::TopK(_) | Op::GatherLast(_)
        )
    };
    ty.dtype == DType::F32 && large && !summary(&node.op) && !graph.users(id).iter().any(compared)
}

/// What gradients are taken of: the objective, or with mixed precision the objective times the loss scale, which the
/// graph gains. Its results stay as they are.
///
/// # Errors
/// No objective; ill-typed nodes, which are bugs.
pub(crate) fn differentiable(
    graph: &Graph,
    precision: Precision,
) -> Result<(Cow<'_, Graph>, ValueId), OpError> {
    let Some(objective) = graph.objective().map(|output| output.value) else {
        return Err(OpError::new("there is no objective to differentiate", []));
    };
    match precision {
        Precision::Full => Ok((Cow::Borrowed(graph), objective)),
        Precision::Mixed => {
            let (graph, objective) = scaled(graph, objective)?;
            Ok((Cow::Owned(graph), objective))
        }
    }
}

fn scaled(graph: &Graph, objective: ValueId) -> Result<(Graph, ValueId), OpError> {
    let mut graph = graph.clone();
    let origin = graph.node(objective).origin.clone();
    let input = Input {
        name: LOSS_SCALE.to_owned(),
        ty: graph.ty(objective).clone(),
        bound: None,
    };
    let scale = graph.add(input.into(), &[], origin.clone())?;
    let scaled = graph.add(Mul {}.into(), &[objective, scale], origin)?;
    Ok((graph, scaled))
}
