//! One workgroup as a team of lanes: sums and prefix sums that work in both profiles.
//!
//! cpu-vulkan: a team is one subgroup of eight lanes and exchanges values by shuffles. gpu: a team
//! is a workgroup that exchanges values through workgroup memory, with no assumption on subgroups.

use super::ir::{Array, Builder, Builtin, Expr, Ty};
use crate::plan::{Limits, Profile};

/// Lanes of the cpu-vulkan team: one subgroup.
pub(super) const SUBGROUP: u32 = 8;

/// A workgroup whose lanes cooperate.
pub(super) struct Team {
    /// Number of lanes.
    pub(super) lanes: u32,
    /// This invocation's lane.
    pub(super) lane: Expr,
    exchange: Option<Array>,
}

/// Lanes of a team: a subgroup, or `wanted` (a power of two) where the device allows it.
pub(super) fn lanes(limits: &Limits, wanted: u32) -> u32 {
    match limits.profile {
        Profile::CpuVulkan => SUBGROUP,
        Profile::Gpu => wanted.min(limits.max_invocations),
    }
}

impl Team {
    /// The team of a kernel with `lanes` invocations along x. `ty` is what its sums are of.
    pub(super) fn new(b: &mut Builder, limits: &Limits, lanes: u32, ty: Ty) -> Self {
        let gpu = limits.profile == Profile::Gpu;
        let lane = b.copy("lane", Expr::builtin(Builtin::LocalX));
        let exchange = gpu.then(|| b.workgroup_array("exchange", ty, 2 * lanes));
        Self {
            lanes,
            lane,
            exchange,
        }
    }

    /// This lane's run of `0..length`.
    pub(super) fn run(&self, b: &mut Builder, length: &Expr) -> (Expr, Expr) {
        let run = b.copy("run", (length + (self.lanes - 1)) / self.lanes);
        let from = b.copy("start", (&self.lane * &run).min(length));
        let to = b.copy("to", (&from + run).min(length));
        (from, to)
    }

    /// The sum over all lanes, in an order fixed by the number of lanes.
    pub(super) fn sum(&self, b: &mut Builder, value: &Expr) -> Expr {
        let mut sum = b.copy("sum", value);
        let Some(exchange) = self.exchange else {
            for mask in [1, 2, 4] {
                sum = b.copy("sum", &sum + sum.shuffle_xor(mask));
            }
            return sum;
        };
        b.store(exchange, &self.lane, sum);
        b.barrier();
        let mut half = self.lanes / 2;
        while half > 0 {
            b.when(self.lane.less(half), |b| {
                let pair = exchange.at(&self.lane) + exchange.at(&self.lane + half);
                b.store(exchange, &self.lane, pair);
            });
            b.barrier();
            half /= 2;
        }
        let sum = b.copy("sum", exchange.at(0u32));
        b.barrier();
        sum
    }

    /// The sum of the u32 values of lower lanes, and of all lanes.
    pub(super) fn prefix(&self, b: &mut Builder, value: &Expr) -> (Expr, Expr) {
        let value = b.copy("own", value);
        match self.exchange {
            Some(exchange) => self.prefix_by_memory(b, exchange, &value),
            None => self.prefix_by_shuffle(b, &value),
        }
    }

    fn prefix_by_shuffle(&self, b: &mut Builder, value: &Expr) -> (Expr, Expr) {
        let mut before = Expr::from(0u32);
        for lower in 0..SUBGROUP - 1 {
            let counts = Expr::from(lower).less(&self.lane);
            before = before + counts.select(value.shuffle(lower), 0u32);
        }
        let before = b.copy("before", before);
        let total = b.copy("total", (&before + value).shuffle(SUBGROUP - 1));
        (before, total)
    }

    fn prefix_by_memory(&self, b: &mut Builder, exchange: Array, value: &Expr) -> (Expr, Expr) {
        b.store(exchange, &self.lane, value);
        b.barrier();
        let (mut from, mut to, mut distance) = (0, self.lanes, 1);
        while distance < self.lanes {
            let lower = exchange.at(&self.lane.max(distance) - distance + from);
            let has_lower = Expr::from(distance).at_most(&self.lane);
            let sum = exchange.at(&self.lane + from) + has_lower.select(lower, 0u32);
            b.store(exchange, &self.lane + to, sum);
            b.barrier();
            (from, to, distance) = (to, from, distance * 2);
        }
        let total = b.copy("total", exchange.at(from + self.lanes - 1));
        let before = b.copy("before", exchange.at(&self.lane + from) - value);
        b.barrier();
        (before, total)
    }
}
