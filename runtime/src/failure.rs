//! What stops a run: mistakes in a spec, and what compiler, files and device report.

use crate::error::Error;
use crate::execute::NonFinitePlace;
use crate::project::Mistakes;
use gatewright_compiler::compile::CompileError;
use gatewright_compiler::evaluate::EvalError;
use gatewright_compiler::ops::OpError;

/// Why something between a spec and its numbers did not happen.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The spec is wrong.
    #[error("the spec has mistakes")]
    Spec(Box<Mistakes>),
    /// Tensors, files or the device.
    #[error(transparent)]
    Runtime(#[from] Error),
    /// No plan can be made.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// The reference met a value it cannot use.
    #[error(transparent)]
    Evaluate(#[from] EvalError),
    /// A value became infinite or NaN in training.
    #[error("{}", .0.error)]
    NonFinite(Box<NonFinite>),
    /// A graph that a pass built wrongly: our bug.
    #[error(transparent)]
    Graph(#[from] OpError),
}

impl From<Box<Mistakes>> for Failure {
    fn from(mistakes: Box<Mistakes>) -> Self {
        Self::Spec(mistakes)
    }
}

/// A value that is not finite, with the place that made it.
#[derive(Debug)]
pub struct NonFinite {
    /// What was noticed.
    pub error: Error,
    /// What made it, when repeating the steps found it.
    pub place: Option<NonFinitePlace>,
}
