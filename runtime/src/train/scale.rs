//! What the objective of a step with mixed precision is multiplied by.

use serde::{Deserialize, Serialize};

/// The first scale.
const FIRST: f32 = 65_536.0;
/// The largest and the smallest one: beyond these, gradients are not finite for another reason.
const RANGE: [f32; 2] = [1.0 / 65_536.0, 16_777_216.0];
/// Updates in a row after which a larger scale is tried.
const PATIENCE: u64 = 2_000;

/// The scale of the next step, a power of two: as large as gradients stay finite with.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LossScale {
    /// What the objective is multiplied by.
    pub value: f32,
    /// Updates since it last changed.
    good: u64,
    /// Steps so far that changed nothing, since their gradients were not finite.
    pub skipped: u64,
}

impl Default for LossScale {
    fn default() -> Self {
        Self {
            value: FIRST,
            good: 0,
            skipped: 0,
        }
    }
}

impl LossScale {
    /// Takes down a step by the norm of its gradients; tells whether it changed anything.
    pub(super) fn note(&mut self, norm: f32) -> bool {
        if !norm.is_finite() {
            *self = Self {
                value: self.value / 2.0,
                good: 0,
                skipped: self.skipped + 1,
            };
            return false;
        }
        self.good += 1;
        if self.good >= PATIENCE && self.value < RANGE[1] {
            (self.value, self.good) = (self.value * 2.0, 0);
        }
        true
    }

    /// No scale makes the gradients finite.
    pub(super) fn is_lost(&self) -> bool {
        self.value < RANGE[0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_halves_at_once_and_doubles_slowly() {
        let mut scale = LossScale::default();
        assert!(!scale.note(f32::INFINITY) && !scale.note(f32::NAN));
        assert_eq!((scale.value, scale.skipped), (FIRST / 4.0, 2));
        for _ in 0..PATIENCE {
            assert!(scale.note(1.0));
        }
        assert_eq!((scale.value, scale.skipped), (FIRST / 2.0, 2));
        assert!(!scale.is_lost());
        for _ in 0..32 {
            scale.note(f32::NAN);
        }
        assert!(scale.is_lost());
    }
}
