//! The tokens of one (group, choice) by expert: a counting sort that keeps the order of tokens.
//!
//! ```text
//! lane          0      1      2        each lane owns a run of tokens
//! wants         3 1 3  0 3 1  1 0 3
//! counts        expert 0: 0 1 1   expert 1: 1 1 1   expert 3: 2 1 1
//! running sums  expert 0: 0 0 1   expert 1: 2 3 4   expert 3: 5 7 8
//! list          3 7 | 1 5 6 | 0 2 4 8                 tokens, by expert
//! ```
//!
//! A count belongs to one lane, so nothing is atomic.

use super::super::ir::{Array, Builder, Expr, Scalar, Ty};
use super::super::team::Team;

/// Where tokens are sorted.
pub(super) struct Queues {
    /// Tokens, in storage.
    pub(super) list: Array,
    /// `[experts, lanes]`.
    counts: Array,
    /// Where the queue of each expert starts in the list, and where the last one ends.
    starts: Array,
}

impl Queues {
    pub(super) fn declare(b: &mut Builder, experts: usize, lanes: u32) -> Self {
        let experts = u32::try_from(experts).unwrap_or(u32::MAX);
        Self {
            list: b.binding("list", Scalar::U32, false),
            counts: b.workgroup_array("queue_counts", Ty::U32, experts.saturating_mul(lanes)),
            starts: b.workgroup_array("queue_starts", Ty::U32, experts + 1),
        }
    }

    /// Lists, from `list` on, the tokens below `tokens` that want an expert below `experts`.
    pub(super) fn sort(
        &self,
        b: &mut Builder,
        team: &Team,
        list: &Expr,
        [tokens, experts]: [&Expr; 2],
        wants: &dyn Fn(&Expr) -> Expr,
    ) {
        let lanes = team.lanes;
        b.repeat("cleared", 0u32, experts, 1u32, |b, expert| {
            b.store(self.counts, &team.lane + expert * lanes, 0u32);
        });
        let (from, to) = team.run(b, tokens);
        b.repeat("token", &from, &to, 1u32, |b, token| {
            let expert = b.copy("wanted", wants(token));
            b.when(expert.less(experts), |b| {
                let place = b.bind("count_place", &team.lane + expert * lanes);
                b.store(self.counts, &place, self.counts.at(&place) + 1u32);
            });
        });
        b.barrier();
        self.add_up(b, team, experts);
        b.barrier();
        b.repeat("token", &from, &to, 1u32, |b, token| {
            let expert = b.copy("wanted", wants(token));
            b.when(expert.less(experts), |b| {
                let place = b.bind("count_place", &team.lane + expert * lanes);
                let entry = b.copy("entry", self.counts.at(&place));
                b.store(self.list, list + &entry, token);
                b.store(self.counts, place, entry + 1u32);
            });
        });
        b.storage_barrier();
    }

    /// Counts become the places of the first tokens, expert by expert and lane by lane.
    fn add_up(&self, b: &mut Builder, team: &Team, experts: &Expr) {
        // As many counts per lane as there are experts.
        let first = b.bind("first_entry", &team.lane * experts);
        let own = b.var("own_requests", 0u32);
        b.repeat("count_of_run", 0u32, experts, 1u32, |b, entry| {
            b.assign(&own, &own + self.counts.at(&first + entry));
        });
        let (before, total) = team.prefix(b, &own);
        let running = b.var("running", before);
        b.repeat("count_of_run", 0u32, experts, 1u32, |b, entry| {
            let entry = b.bind("entry", &first + entry);
            let count = b.copy("count", self.counts.at(&entry));
            b.store(self.counts, &entry, &running);
            b.when((&entry % team.lanes).equals(0u32), |b| {
                b.store(self.starts, &entry / team.lanes, &running);
            });
            b.assign(&running, &running + count);
        });
        b.when(team.lane.equals(0u32), |b| {
            b.store(self.starts, experts, total);
        });
    }

    /// First entry, counted from the start of the list, and length of an expert's queue.
    pub(super) fn of(&self, b: &mut Builder, expert: &Expr) -> (Expr, Expr) {
        let start = b.copy("first_of_queue", self.starts.at(expert));
        let length = b.copy("length", self.starts.at(expert + 1u32) - &start);
        (start, length)
    }
}
