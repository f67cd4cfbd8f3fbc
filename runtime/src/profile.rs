//! Where time goes: what kernels took beside what they should take, by family and by line of the spec, and
//! a trace of data, host and device.

mod rates;
mod table;
mod trace;

pub use rates::{Prediction, Rates};
pub use table::{Row, families, lines};
pub use trace::{Span, Trace, Track};

use crate::execute::{Profile, ProfileRow};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// Steps that a profiled run measures kernel by kernel, counted from its first: the first one compiles.
pub const PROFILED_STEPS: Range<u64> = 1..5;

/// What a run measured. Clones share it.
#[derive(Clone, Debug)]
pub struct Recording {
    trace: Arc<Trace>,
    rows: Arc<Mutex<Vec<ProfileRow>>>,
    steps: Range<u64>,
}

impl Recording {
    /// Measures these steps from now on.
    #[must_use]
    pub fn new(steps: Range<u64>) -> Self {
        Self {
            trace: Arc::new(Trace::new()),
            rows: Arc::default(),
            steps,
        }
    }

    /// Whether a step is measured.
    #[must_use]
    pub fn covers(&self, step: u64) -> bool {
        self.steps.contains(&step)
    }

    /// The steps that are measured.
    #[must_use]
    pub fn steps(&self) -> Range<u64> {
        self.steps.clone()
    }

    /// What happened when.
    #[must_use]
    pub fn trace(&self) -> &Arc<Trace> {
        &self.trace
    }

    /// The dispatches so far.
    #[must_use]
    pub fn rows(&self) -> Vec<ProfileRow> {
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        rows.clone()
    }

    /// Adds dispatches whose times count from `begun`.
    pub fn add(&self, begun: Instant, profile: Profile) {
        for row in &profile.rows {
            self.trace.dispatch(begun, row);
        }
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        rows.extend(profile.rows);
    }
}
