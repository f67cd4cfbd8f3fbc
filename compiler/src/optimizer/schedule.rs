//! Learning rates as a function of the step.

use serde::{Deserialize, Serialize};
use std::f64::consts::PI;

/// How the learning rate moves over a run. Steps count from 0; a warm-up rises linearly from 0 at
/// step 0 to the peak at step `warmup`. The length of the run is given when the schedule is asked,
/// so that one schedule serves a run of any length.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// Always the same.
    Constant {
        /// The rate.
        peak: f64,
    },
    /// Warm-up, then half a cosine down to `floor` at the last step (arXiv 1608.03983, one period).
    WarmupCosine {
        /// Highest rate.
        peak: f64,
        /// Steps of the warm-up.
        warmup: u64,
        /// Lowest rate after the warm-up.
        floor: f64,
    },
    /// peak / sqrt(1 + (step - warmup) / timescale), times the warm-up, times a linear cool-down to 0
    /// over the last `cooldown` steps, as big_vision has it (arXiv 2106.04560).
    Rsqrt {
        /// Highest rate.
        peak: f64,
        /// Steps of the warm-up.
        warmup: u64,
        /// Steps after the warm-up in which the rate falls to peak / sqrt(2).
        timescale: u64,
        /// Steps of the cool-down; 0 for none.
        cooldown: u64,
    },
    /// Warm-up, then a line down to `floor` at the last step.
    Linear {
        /// Highest rate.
        peak: f64,
        /// Steps of the warm-up.
        warmup: u64,
        /// Rate at the end.
        floor: f64,
    },
    /// Straight lines through points; the first and the last one's share hold before and after them.
    Piecewise {
        /// Highest rate.
        peak: f64,
        /// Steps, in rising order, with their share of the peak, 0 to 1.
        points: Vec<(u64, f64)>,
    },
}

impl Schedule {
    /// The rate of `step` in a run of `total` steps.
    #[must_use]
    pub fn rate(&self, step: u64, total: u64) -> f64 {
        self.peak() * self.factor(step, total)
    }

    /// The share of the peak, 0 to 1, at `step` of a run of `total` steps.
    #[must_use]
    pub fn factor(&self, step: u64, total: u64) -> f64 {
        let after = |warmup: u64, floor: f64, share: f64| {
            if step < warmup {
                return warmed(step, warmup);
            }
            let floor = if self.peak() > 0.0 {
                floor / self.peak()
            } else {
                0.0
            };
            floor + (1.0 - floor) * share
        };
        match self {
            Self::Constant { .. } => 1.0,
            Self::WarmupCosine { warmup, floor, .. } => {
                let wave = 0.5 * (1.0 + libm::cos(PI * progress(step, *warmup, total)));
                after(*warmup, *floor, wave)
            }
            Self::Linear { warmup, floor, .. } => {
                after(*warmup, *floor, 1.0 - progress(step, *warmup, total))
            }
            Self::Rsqrt {
                warmup,
                timescale,
                cooldown,
                ..
            } => {
                let since = step.saturating_sub(*warmup) as f64;
                let fallen = libm::sqrt(1.0 + since / (*timescale).max(1) as f64);
                let cooled = warmed(total.saturating_sub(step), *cooldown);
                warmed(step, *warmup) * cooled / fallen
            }
            Self::Piecewise { points, .. } => between(step, points),
        }
    }

    /// The highest rate.
    #[must_use]
    pub fn peak(&self) -> f64 {
        match *self {
            Self::Constant { peak }
            | Self::WarmupCosine { peak, .. }
            | Self::Rsqrt { peak, .. }
            | Self::Linear { peak, .. }
            | Self::Piecewise { peak, .. } => peak,
        }
    }

    /// Steps that the warm-up and the cool-down take: a shorter run never reaches the peak.
    #[must_use]
    pub fn shortest(&self) -> u64 {
        match *self {
            Self::Constant { .. } => 0,
            Self::WarmupCosine { warmup, .. } | Self::Linear { warmup, .. } => warmup,
            Self::Rsqrt {
                warmup, cooldown, ..
            } => warmup.saturating_add(cooldown),
            // The last point's own step must run too.
            Self::Piecewise { ref points, .. } => {
                points.last().map_or(0, |(step, _)| step.saturating_add(1))
            }
        }
    }
}

/// How much of a ramp of `steps` is done after `step`, 0 to 1.
fn warmed(step: u64, steps: u64) -> f64 {
    if step >= steps {
        1.0
    } else {
        step as f64 / steps as f64
    }
}

/// The share at a step on straight lines through points in rising order.
fn between(step: u64, points: &[(u64, f64)]) -> f64 {
    let next = points.iter().position(|(at, _)| *at >= step);
    let last = points.last().map_or(1.0, |(_, share)| *share);
    let Some(next) = next else { return last };
    let (end, to) = points[next];
    let Some((start, from)) = next.checked_sub(1).map(|before| points[before]) else {
        return to;
    };
    from + (to - from) * (step - start) as f64 / (end - start) as f64
}

/// How much of what follows the warm-up is done, 0 to 1.
fn progress(step: u64, warmup: u64, total: u64) -> f64 {
    let steps = total.saturating_sub(warmup).max(1) as f64;
    (step.saturating_sub(warmup) as f64 / steps).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() <= 1e-12 * b.abs().max(1e-9), "{a} is not {b}");
    }

    #[test]
    fn cosine_meets_its_corners() {
        let schedule = Schedule::WarmupCosine {
            peak: 1e-3,
            warmup: 10,
            floor: 1e-5,
        };
        for (step, rate) in [
            (0, 0.0),
            (5, 5e-4),
            (10, 1e-3),
            (60, (1e-3 + 1e-5) / 2.0),
            (110, 1e-5),
            (500, 1e-5),
        ] {
            close(schedule.rate(step, 110), rate);
        }
    }

    #[test]
    fn rsqrt_is_the_product_of_its_three_factors() {
        let schedule = Schedule::Rsqrt {
            peak: 2e-3,
            warmup: 100,
            timescale: 50,
            cooldown: 40,
        };
        close(schedule.rate(50, 400), 1e-3);
        close(schedule.rate(150, 400), 2e-3 / 2f64.sqrt());
        close(
            schedule.rate(380, 400),
            2e-3 / (1.0 + 280.0 / 50.0f64).sqrt() * 0.5,
        );
        close(schedule.rate(400, 400), 0.0);
        close(schedule.factor(400, 400), 0.0);
        assert_eq!(schedule.shortest(), 140);
    }

    #[test]
    fn linear_and_constant() {
        let schedule = Schedule::Linear {
            peak: 1.0,
            warmup: 0,
            floor: 0.5,
        };
        close(schedule.rate(0, 10), 1.0);
        close(schedule.rate(4, 10), 0.8);
        close(schedule.rate(20, 10), 0.5);
        close(Schedule::Constant { peak: 3.0 }.rate(7, 10), 3.0);
        close(Schedule::Constant { peak: 3.0 }.factor(7, 10), 1.0);
    }

    #[test]
    fn lines_join_the_points() {
        let schedule = Schedule::Piecewise {
            peak: 2.0,
            points: vec![(1, 0.5), (3, 1.0), (4, 0.0)],
        };
        for (step, rate) in [(0, 1.0), (1, 1.0), (2, 1.5), (3, 2.0), (4, 0.0), (9, 0.0)] {
            close(schedule.rate(step, 5), rate);
        }
        assert_eq!(schedule.shortest(), 5);
    }

    #[test]
    fn factors_are_shares_of_the_peak_even_where_there_is_nothing_to_share() {
        let schedules = [
            Schedule::Constant { peak: 0.0 },
            Schedule::WarmupCosine {
                peak: 1e-3,
                warmup: 30,
                floor: 1e-4,
            },
            Schedule::Linear {
                peak: 0.0,
                warmup: 3,
                floor: 0.0,
            },
            Schedule::Rsqrt {
                peak: 2.0,
                warmup: 0,
                timescale: 0,
                cooldown: 0,
            },
        ];
        for schedule in schedules {
            for total in [0, 1, 7, 40] {
                for step in 0..=total + 1 {
                    let factor = schedule.factor(step, total);
                    assert!(
                        (0.0..=1.0).contains(&factor),
                        "{schedule:?} {step}/{total}: {factor}"
                    );
                }
            }
        }
    }
}
