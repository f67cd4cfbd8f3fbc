//! The dispatch plan in one launch, and queue positions for reports.
//!
//! A workgroup counts the requests of every expert (u32 atomics in workgroup memory: exact, so
//! repeatable), which gives the first row of each segment. Then it takes one (group, choice) after the
//! other, sorts the tokens that want one of its own experts by expert (`queues`) and serves these:
//!
//! ```text
//! queue of expert 3     1 4 7 10 ...      tokens in order
//! threshold             the quota-th largest key, bit by bit over the queue
//! kept                  key above it, then ties in token order
//! rows                  segment + rows so far + rank among the kept
//! ```
//!
//! The key is the first choice's weight as an ordered integer (batch priority), the assignment's own
//! (expert choice), or zero (token order): then all are ties. Work is linear in the tokens, however many
//! experts there are; the search runs over the expert's own queue. No float atomics.

mod queues;

use super::ir::{Array, Builder, Expr, Scalar, Ty};
use super::spec::{DispatchLayout, NONE};
use super::team::{self, Team};
use super::{Launch, Lowered, Slot, linear_grid};
use crate::ops::{Priority, Routing};
use crate::plan::{Limits, Profile};
use queues::Queues;

/// Most experts whose counts fit in workgroup memory.
const MOST_EXPERTS: usize = 1024;

/// Most experts of one workgroup, whose queues are counted in workgroup memory.
const MOST_EXPERTS_AT_ONCE: usize = 128;

/// Lowers the dispatch of `groups` times `tokens` tokens.
pub(super) fn lower_dispatch(
    groups: usize,
    tokens: usize,
    routing: &Routing,
    layout: &DispatchLayout,
    limits: &Limits,
) -> Result<Lowered, String> {
    check(groups, tokens, routing, layout)?;
    let lanes = team::lanes(limits, 128);
    // Every workgroup reads all requests, which is wasted where workgroups do not run side by side.
    let share = match limits.profile {
        Profile::CpuVulkan => routing.experts.min(MOST_EXPERTS_AT_ONCE),
        Profile::Gpu => 1,
    };
    let workgroups = routing.experts.div_ceil(share);
    let mut b = Builder::new("dispatch", [lanes, 1, 1]);
    b.doc("Capacity, priority and expert-major rows; a workgroup serves whole experts.");
    let kernel = Kernel::declare(
        &mut b,
        [groups, tokens, share],
        routing,
        layout,
        limits,
        lanes,
    );
    kernel.body(&mut b);
    let bindings = vec![
        Slot::Input(0),
        Slot::Input(1),
        Slot::Output(0),
        Slot::Scratch(0),
    ];
    let assignments = groups * tokens * routing.choices;
    let bytes = 4 * (2 * assignments + layout.words());
    let grid = [u32::try_from(workgroups).unwrap_or(u32::MAX), 1, 1];
    let launch = Launch::new(b, bindings, grid, 0, bytes as u64)?;
    Ok(Lowered {
        launches: vec![launch],
        scratch: vec![assignments],
    })
}

fn check(
    groups: usize,
    tokens: usize,
    routing: &Routing,
    layout: &DispatchLayout,
) -> Result<(), String> {
    let assignments = groups * tokens * routing.choices;
    let slots = routing.slots(tokens).min(tokens);
    let most = (groups * slots).div_ceil(layout.tile) * layout.tile * layout.experts;
    // Every segment but the padding of its last tile is full.
    let loose = (assignments + layout.experts * (layout.tile - 1)) / layout.tile * layout.tile;
    if routing.experts == 0 || routing.experts > MOST_EXPERTS {
        return Err(format!(
            "dispatch to {} experts; at most {MOST_EXPERTS}",
            routing.experts
        ));
    }
    if assignments == 0 {
        return Err("dispatch of no tokens".to_owned());
    }
    if layout.experts != routing.experts
        || layout.choices != routing.choices
        || layout.assignments != assignments
        || !layout.rows.is_multiple_of(layout.tile)
    {
        return Err("the layout of the dispatch plan does not fit its routing".to_owned());
    }
    if layout.rows < most.min(loose) {
        let rows = layout.rows;
        return Err(format!(
            "{rows} rows in the plan, {} may be needed",
            most.min(loose)
        ));
    }
    Ok(())
}

/// Order-preserving bits of a float: larger floats have larger keys.
fn key_of(weight: &Expr) -> Expr {
    let bits = weight.bitcast(Scalar::U32);
    let negative = Expr::from(0x7fff_ffffu32).less(&bits);
    negative.select(&bits ^ u32::MAX, &bits | 0x8000_0000u32)
}

struct Kernel<'a> {
    layout: &'a DispatchLayout,
    team: Team,
    ids: Array,
    weights: Array,
    plan: Array,
    queues: Queues,
    /// Requests of one group per expert.
    counts: Array,
    /// Rows per expert, all groups.
    kept: Array,
    /// Requests per expert, all groups.
    requested: Array,
    /// Per own expert: where its next row goes, and the rows of a group that it still takes.
    next_row: Array,
    open: Array,
    groups: Expr,
    tokens: Expr,
    share: Expr,
    slots: Expr,
    experts: Expr,
    choices: Expr,
    /// 32, as a word that no driver unrolls by; zero when nothing is searched.
    key_bits: Expr,
    by_weight: bool,
    /// Whether each assignment has a key of its own.
    own_weight: bool,
    parts: Parts,
}

/// Offsets in the plan.
struct Parts {
    tile: Expr,
    rows: Expr,
    assignment_row: Expr,
    segment: Expr,
    used: Expr,
    block_expert: Expr,
}

impl Parts {
    fn declare(b: &mut Builder, layout: &DispatchLayout) -> Self {
        Self {
            tile: b.size("tile", layout.tile),
            rows: b.size("rows", layout.rows),
            assignment_row: b.size("assignment_row", layout.assignment_row()),
            segment: b.size("segment", layout.segment()),
            used: b.size("used", layout.used()),
            block_expert: b.size("block_expert", layout.block_expert()),
        }
    }

    fn round_up(&self, rows: &Expr) -> Expr {
        (rows + &self.tile - 1u32) / &self.tile * &self.tile
    }
}

impl<'a> Kernel<'a> {
    fn declare(
        b: &mut Builder,
        [groups, tokens, share]: [usize; 3],
        routing: &Routing,
        layout: &'a DispatchLayout,
        limits: &Limits,
        lanes: u32,
    ) -> Self {
        let experts = u32::try_from(routing.experts).unwrap_or(u32::MAX);
        let own = u32::try_from(share).unwrap_or(u32::MAX);
        let slots = routing.slots(tokens);
        let by_weight = routing.priority != Priority::Index && slots < tokens;
        let bits = if by_weight { 32 } else { 0 };
        Self {
            layout,
            ids: b.binding("ids", Scalar::U32, false),
            weights: b.binding("weights", Scalar::F32, false),
            plan: b.binding("plan", Scalar::U32, false),
            queues: Queues::declare(b, share, lanes),
            counts: b.atomic_workgroup_array("counts", experts),
            kept: b.workgroup_array("kept", Ty::U32, experts),
            requested: b.workgroup_array("requested", Ty::U32, experts),
            next_row: b.workgroup_array("next_row", Ty::U32, own),
            open: b.workgroup_array("open", Ty::U32, own),
            team: Team::new(b, limits, lanes, Ty::U32),
            groups: b.size("groups", groups),
            tokens: b.size("tokens", tokens),
            share: b.size("share", share),
            slots: b.size("slots", slots),
            experts: b.size("experts", routing.experts),
            choices: b.size("choices", routing.choices),
            key_bits: b.size("key_bits", bits),
            by_weight,
            own_weight: routing.priority == Priority::Assignment,
            parts: Parts::declare(b, layout),
        }
    }

    fn body(&self, b: &mut Builder) {
        let group = b.linear_group();
        self.count_all(b, &group);
        let first = b.bind("first", group * &self.share);
        let end = b.bind("end", (&first + &self.share).min(&self.experts));
        let own = b.bind("own_experts", &end - &first);
        let segment = b.var("segment_start", 0u32);
        let list = b.var("list_start", 0u32);
        b.repeat("earlier", 0u32, &first, 1u32, |b, earlier| {
            b.assign(
                &segment,
                &segment + self.parts.round_up(&self.kept.at(earlier)),
            );
            b.assign(&list, &list + self.requested.at(earlier));
        });
        let range = Range { first, own, list };
        self.open_segments(b, &range, &segment);
        b.repeat("group_served", 0u32, &self.groups, 1u32, |b, group| {
            self.each(b, "opened", &0u32.into(), &range.own, |b, expert| {
                b.store(self.open, expert, &self.slots);
            });
            b.repeat("choice", 0u32, &self.choices, 1u32, |b, choice| {
                self.serve(b, &range, group, choice);
            });
        });
        let last = end.equals(&self.experts);
        b.when(last, |b| self.finish(b, &segment));
    }

    /// Writes where the segments of this workgroup's experts lie; `segment` moves behind the last.
    fn open_segments(&self, b: &mut Builder, range: &Range, segment: &Expr) {
        b.repeat("expert", 0u32, &range.own, 1u32, |b, own| {
            let expert = b.bind("expert_closed", &range.first + own);
            let used = b.copy("used_rows", self.kept.at(&expert));
            let next = b.copy("next", &*segment + self.parts.round_up(&used));
            self.close(b, &expert, [segment, &used, &next]);
            b.when(self.team.lane.equals(0u32), |b| {
                b.store(self.next_row, own, segment);
            });
            b.assign(segment, next);
        });
    }

    /// A loop of this team's lanes over `from..to`.
    fn each(
        &self,
        b: &mut Builder,
        name: &str,
        from: &Expr,
        to: &Expr,
        body: impl FnOnce(&mut Builder, &Expr),
    ) {
        b.repeat(name, from + &self.team.lane, to, self.team.lanes, body);
    }

    /// Requests and kept rows of every expert.
    fn count_all(&self, b: &mut Builder, workgroup: &Expr) {
        let zero = Expr::from(0u32);
        self.each(b, "expert", &zero, &self.experts, |b, expert| {
            b.store(self.kept, expert, 0u32);
            b.store(self.requested, expert, 0u32);
        });
        let requests = b.bind("requests", &self.tokens * &self.choices);
        b.repeat("group_counted", 0u32, &self.groups, 1u32, |b, group| {
            self.clear_counts(b);
            b.barrier();
            let start = b.copy("group_start", group * &requests);
            let end = b.copy("group_end", &start + &requests);
            self.each(b, "assignment", &start, &end, |b, assignment| {
                let id = b.copy("id", self.ids.at(assignment));
                b.when(id.less(&self.experts), |b| {
                    b.atomic_add(self.counts, &id, &Expr::from(1u32));
                });
                // No expert lists what goes to none; the first workgroup notes it.
                let unserved = self.experts.at_most(&id);
                b.when(unserved.and(workgroup.equals(0u32)), |b| {
                    let place = &self.parts.assignment_row + assignment;
                    b.store(self.plan, place, NONE);
                });
            });
            b.barrier();
            self.each(b, "expert", &zero, &self.experts, |b, expert| {
                let count = b.copy("count", self.counts.at(expert));
                let kept = self.kept.at(expert) + count.min(&self.slots);
                b.store(self.kept, expert, kept);
                b.store(self.requested, expert, self.requested.at(expert) + &count);
            });
            b.barrier();
        });
    }

    /// Sets the counts to zero; only lanes that later read a count write it, after a barrier.
    fn clear_counts(&self, b: &mut Builder) {
        self.each(
            b,
            "cleared",
            &Expr::from(0u32),
            &self.experts,
            |b, expert| {
                b.store(self.counts, expert, 0u32);
            },
        );
    }

    /// Gives rows to the kept assignments of one (group, choice).
    fn serve(&self, b: &mut Builder, range: &Range, group: &Expr, choice: &Expr) {
        let tokens = b.copy("group_tokens", group * &self.tokens);
        let base = b.copy("choice_start", &tokens * &self.choices + choice);
        let wants = |token: &Expr| self.ids.at(&base + token * &self.choices) - &range.first;
        let (list, sizes) = (&range.list, [&self.tokens, &range.own]);
        self.queues.sort(b, &self.team, list, sizes, &wants);
        b.repeat("expert", 0u32, &range.own, 1u32, |b, own| {
            let (start, length) = self.queues.of(b, own);
            let open = b.copy("open_slots", self.open.at(own));
            let row = b.copy("row_start", self.next_row.at(own));
            let queue = Queue {
                list: b.copy("queue_start", &range.list + start),
                quota: b.copy("quota", length.min(&open)),
                length,
                base: base.clone(),
                tokens: tokens.clone(),
            };
            let threshold = self.threshold(b, &queue);
            self.place(b, &queue, &threshold, &row);
            b.barrier();
            b.when(self.team.lane.equals(0u32), |b| {
                b.store(self.open, own, open - &queue.quota);
                b.store(self.next_row, own, row + &queue.quota);
            });
        });
        // The next queues overwrite these, and the next group opens all slots.
        b.barrier();
        b.storage_barrier();
    }

    /// The quota-th largest key of the queue; zero when all are kept.
    fn threshold(&self, b: &mut Builder, queue: &Queue) -> Expr {
        if !self.by_weight {
            return Expr::from(0u32);
        }
        let found = b.var("threshold", 0u32);
        let all = queue.length.equals(&queue.quota);
        let searched = b.copy("searched", all.select(0u32, &queue.length));
        b.repeat("bit", 0u32, &self.key_bits, 1u32, |b, bit| {
            let tried = b.copy("tried", &found | (Expr::from(0x8000_0000u32) >> bit));
            let own = b.var("own_above", 0u32);
            self.each(b, "entry", &Expr::from(0u32), &searched, |b, entry| {
                let key = self.key(queue, &self.queues.list.at(&queue.list + entry));
                b.assign(&own, &own + tried.at_most(key).select(1u32, 0u32));
            });
            let above = self.team.sum(b, &own);
            let enough = queue
                .quota
                .at_most(&above)
                .and(Expr::from(0u32).less(&searched));
            b.assign(&found, enough.select(tried, &found));
        });
        found
    }

    fn key(&self, queue: &Queue, token: &Expr) -> Expr {
        match (self.by_weight, self.own_weight) {
            (true, true) => key_of(&self.weights.at(&queue.base + token * &self.choices)),
            (true, false) => key_of(&self.weights.at((&queue.tokens + token) * &self.choices)),
            (false, _) => Expr::from(0u32),
        }
    }

    /// Rows for keys above the threshold and the first ties, NONE for the others.
    fn place(&self, b: &mut Builder, queue: &Queue, threshold: &Expr, row: &Expr) {
        let (from, to) = self.team.run(b, &queue.length);
        let (above, ties) = (b.var("own_above", 0u32), b.var("own_ties", 0u32));
        let entry_key = |entry: &Expr| self.key(queue, &self.queues.list.at(&queue.list + entry));
        b.repeat("entry", &from, &to, 1u32, |b, entry| {
            let key = b.bind("key", entry_key(entry));
            b.assign(&above, &above + threshold.less(&key).select(1u32, 0u32));
            b.assign(&ties, &ties + key.equals(threshold).select(1u32, 0u32));
        });
        let (above_before, above_all) = self.team.prefix(b, &above);
        let (ties_before, _) = self.team.prefix(b, &ties);
        let room = b.copy("room", &queue.quota - above_all);
        let next = b.var("next_row", row + above_before + ties_before.min(&room));
        let tie = b.var("tie", ties_before);
        b.repeat("entry", &from, &to, 1u32, |b, entry| {
            let token = b.copy("token", self.queues.list.at(&queue.list + entry));
            let key = b.bind("key", self.key(queue, &token));
            let tied = b.copy("tied", key.equals(threshold));
            let kept = threshold.less(&key).or(tied.and(tie.less(&room)));
            let kept = b.copy("is_kept", kept);
            let assignment = b.copy("assignment", &queue.base + &token * &self.choices);
            let place = &self.parts.assignment_row + &assignment;
            b.store(self.plan, place, kept.select(&next, NONE));
            b.when(kept.clone(), |b| b.store(self.plan, &next, &assignment));
            b.assign(&next, &next + kept.select(1u32, 0u32));
            b.assign(&tie, &tie + tied.select(1u32, 0u32));
        });
    }

    /// Segment, rows in use, expert of each block, and NONE in the rows that round up.
    fn close(&self, b: &mut Builder, expert: &Expr, [segment, used, next]: [&Expr; 3]) {
        let parts = &self.parts;
        b.when(self.team.lane.equals(0u32), |b| {
            b.store(self.plan, &parts.segment + expert, segment);
            b.store(self.plan, &parts.used + expert, used);
        });
        self.each(b, "unused", &(segment + used), next, |b, row| {
            b.store(self.plan, row, NONE);
        });
        let (first, last) = (segment / &parts.tile, next / &parts.tile);
        self.each(b, "block", &first, &last, |b, block| {
            b.store(self.plan, &parts.block_expert + block, expert);
        });
    }

    /// What lies behind the last segment.
    fn finish(&self, b: &mut Builder, end: &Expr) {
        let parts = &self.parts;
        b.when(self.team.lane.equals(0u32), |b| {
            b.store(self.plan, &parts.segment + &self.experts, end);
        });
        self.each(b, "unused", end, &parts.rows, |b, row| {
            b.store(self.plan, row, NONE);
        });
        let blocks = b.size("blocks", self.layout.rows / self.layout.tile);
        self.each(b, "block", &(end / &parts.tile), &blocks, |b, block| {
            b.store(self.plan, &parts.block_expert + block, NONE);
        });
    }
}

/// The experts of a workgroup.
struct Range {
    /// The first one.
    first: Expr,
    /// Their number.
    own: Expr,
    /// Where their tokens are listed.
    list: Expr,
}

/// Requests of one (group, choice) for one expert.
struct Queue {
    /// Where the tokens are listed.
    list: Expr,
    length: Expr,
    /// How many are kept.
    quota: Expr,
    /// Assignment of token 0.
    base: Expr,
    /// First token of the group.
    tokens: Expr,
}

/// Queue positions: for every assignment the number of those served before it at its expert.
/// Compares all pairs of a group, one lane per assignment.
pub(super) fn lower_slot(
    groups: usize,
    tokens: usize,
    routing: &Routing,
    limits: &Limits,
) -> Result<Lowered, String> {
    let lanes = team::lanes(limits, 64);
    let mut b = Builder::new("dispatch_slot", [lanes, 1, 1]);
    b.doc(
        "One lane per assignment: assignments of its group and expert that are served before it.",
    );
    let ids = b.binding("ids", Scalar::U32, false);
    let weights = b.binding("weights", Scalar::F32, false);
    let slots = b.binding("slots", Scalar::U32, false);
    let assignments = b.size("assignments", groups * tokens * routing.choices);
    let tokens_word = b.size("tokens", tokens);
    let choices = b.size("choices", routing.choices);
    let group = b.linear_group();
    let lane = Expr::builtin(super::ir::Builtin::LocalX);
    let own = b.bind("own", (group * lanes + lane).min(&assignments - 1u32));
    let own_choice = b.bind("own_choice", &own % &choices);
    let own_token = b.bind("own_token", &own / &choices);
    let first = b.bind("first_token", &own_token / &tokens_word * &tokens_word);
    let id = b.bind("id", ids.at(&own));
    let key = |token: &Expr| match routing.priority {
        Priority::Batch => key_of(&weights.at(token * &choices)),
        Priority::Assignment => key_of(&weights.at(token * &choices + &own_choice)),
        Priority::Index => Expr::from(0u32),
    };
    let own_key = b.bind("own_key", key(&own_token));
    let count = b.var("count", 0u32);
    b.repeat("other", 0u32, &tokens_word, 1u32, |b, other| {
        let token = b.copy("token", &first + other);
        let other_key = b.bind("other_key", key(&token));
        let tied = own_key.equals(&other_key).and(token.less(&own_token));
        let precedes = b.copy("precedes", own_key.less(&other_key).or(tied));
        b.repeat("choice", 0u32, &choices, 1u32, |b, choice| {
            let same = ids.at(&token * &choices + choice).equals(&id);
            let earlier = choice
                .less(&own_choice)
                .or(choice.equals(&own_choice).and(&precedes));
            b.assign(&count, &count + same.and(earlier).select(1u32, 0u32));
        });
    });
    let experts = b.size("experts", routing.experts);
    b.store(slots, &own, id.less(&experts).select(count, NONE));
    let total = groups * tokens * routing.choices;
    let bindings = vec![Slot::Input(0), Slot::Input(1), Slot::Output(0)];
    let grid = linear_grid(total.div_ceil(lanes as usize), limits);
    let launch = Launch::new(b, bindings, grid, 0, 12 * total as u64)?;
    Ok(Lowered {
        launches: vec![launch],
        scratch: Vec::new(),
    })
}
