//! Rows summed into a table at ids (embedding gradients), without float atomics.
//!
//! Two launches. The first sorts positions by id, stably: a workgroup owns a range of ids, counts
//! them (u32 atomics in workgroup memory), turns counts into starts and places the positions team
//! by team, each lane ranked among the lanes before it. The second gives every table row one team,
//! which adds the row's positions in order and writes zeros where there are none.

use super::ir::{Array, Builder, Expr, Scalar, Ty};
use super::team::{self, Team};
use super::{Launch, Lowered, Slot, linear_grid};
use crate::plan::{Limits, Profile};

/// Ids per workgroup of the sort.
const RANGE: usize = 2048;

/// Lowers a scatter of `count` rows of `width` into `size` rows.
pub(super) fn lower(
    count: usize,
    width: usize,
    size: usize,
    limits: &Limits,
) -> Result<Lowered, String> {
    let launches = vec![sort(count, size, limits)?, sum(count, width, size, limits)?];
    Ok(Lowered {
        launches,
        scratch: vec![count.max(1), size + 1],
    })
}

fn sort(count: usize, size: usize, limits: &Limits) -> Result<Launch, String> {
    let lanes = team::lanes(limits, 128);
    let mut b = Builder::new("scatter_sort", [lanes, 1, 1]);
    b.doc("Positions sorted by id: a workgroup owns 2048 ids.");
    let ids = b.binding("ids", Scalar::U32, false);
    let order = b.binding("order", Scalar::U32, false);
    let starts = b.binding("starts", Scalar::U32, false);
    let counts = b.atomic_workgroup_array("counts", RANGE as u32);
    let recent =
        (limits.profile == Profile::Gpu).then(|| b.workgroup_array("recent", Ty::U32, lanes));
    let team = Team::new(&mut b, limits, lanes, Ty::U32);
    let count_word = b.size("count", count);
    let size_word = b.size("size", size);
    let range = b.size("range", RANGE);
    let group = b.linear_group();
    let first = b.bind("first", group * &range);
    let end = b.bind("end", (&first + &range).min(&size_word));
    let ids_here = b.bind("ids_here", end - &first);
    let sort = Sort {
        ids,
        order,
        starts,
        counts,
        recent,
        team,
        count: count_word,
        first,
        ids_here,
    };
    sort.count(&mut b);
    sort.starts(&mut b, &size_word);
    sort.place(&mut b);
    let groups = u32::try_from(size.div_ceil(RANGE).max(1)).unwrap_or(u32::MAX);
    let bindings = vec![Slot::Input(1), Slot::Scratch(0), Slot::Scratch(1)];
    let bytes = 4 * (2 * count + size + 1) as u64;
    Launch::new(b, bindings, [groups, 1, 1], 0, bytes)
}

struct Sort {
    ids: Array,
    order: Array,
    starts: Array,
    /// First counts, then the next free place, per id of the range.
    counts: Array,
    recent: Option<Array>,
    team: Team,
    count: Expr,
    first: Expr,
    ids_here: Expr,
}

impl Sort {
    fn each(&self, b: &mut Builder, to: &Expr, body: impl FnOnce(&mut Builder, &Expr)) {
        b.repeat("each", &self.team.lane, to, self.team.lanes, body);
    }

    fn count(&self, b: &mut Builder) {
        self.each(b, &self.ids_here, |b, id| b.store(self.counts, id, 0u32));
        b.barrier();
        self.each(b, &self.count, |b, position| {
            // Ids below the range wrap to large numbers.
            let id = b.copy("id", self.ids.at(position) - &self.first);
            b.when(id.less(&self.ids_here), |b| {
                b.atomic_add(self.counts, &id, &Expr::from(1u32));
            });
        });
        b.barrier();
    }

    /// Counts to starts: each lane owns a run of ids.
    fn starts(&self, b: &mut Builder, size: &Expr) {
        let below = b.var("below", 0u32);
        self.each(b, &self.count, |b, position| {
            let id = self.ids.at(position);
            b.assign(&below, &below + id.less(&self.first).select(1u32, 0u32));
        });
        let start = self.team.sum(b, &below);
        let lanes = self.team.lanes;
        let run = b.bind("run", (&self.ids_here + (lanes - 1)) / lanes);
        let from = b.bind("start", (&self.team.lane * &run).min(&self.ids_here));
        let to = b.bind("to", (&from + &run).min(&self.ids_here));
        let own = b.var("own_count", 0u32);
        b.repeat("id", &from, &to, 1u32, |b, id| {
            b.assign(&own, &own + self.counts.at(id))
        });
        let (before, total) = self.team.prefix(b, &own);
        let next = b.var("next", &start + before);
        b.repeat("id", &from, &to, 1u32, |b, id| {
            let count = b.copy("count_of_id", self.counts.at(id));
            b.store(self.counts, id, &next);
            b.store(self.starts, &self.first + id, &next);
            b.assign(&next, &next + count);
        });
        let last = (&self.first + &self.ids_here).equals(size);
        b.when(last.and(self.team.lane.equals(0u32)), |b| {
            b.store(self.starts, size, start + total);
        });
        b.barrier();
    }

    /// Places positions in order, one per lane and step.
    fn place(&self, b: &mut Builder) {
        b.repeat("step", 0u32, &self.count, self.team.lanes, |b, step| {
            let position = b.copy("position", step + &self.team.lane);
            let inside = b.copy("inside", position.less(&self.count));
            let found = self.ids.at(position.min(&self.count - 1u32)) - &self.first;
            let id = b.copy("id", inside.select(found, u32::MAX));
            let here = b.copy("here", id.less(&self.ids_here));
            let (rank, same) = self.rank(b, &id);
            let next = self.counts.at(here.select(&id, 0u32));
            let next = b.copy("next_place", next);
            b.barrier();
            b.when(here.clone(), |b| {
                b.store(self.order, &next + &rank, &position)
            });
            // The first lane of an id moves its next place on.
            b.when(here.and(rank.equals(0u32)), |b| {
                b.store(self.counts, &id, &next + same);
            });
            b.barrier();
        });
    }

    /// Lanes before this one with the same id, and all lanes with it.
    fn rank(&self, b: &mut Builder, id: &Expr) -> (Expr, Expr) {
        let (rank, same) = (b.var("rank", 0u32), b.var("same", 0u32));
        let compare = |b: &mut Builder, other: &Expr, value: Expr| {
            let equal = b.copy("equal", value.equals(id).select(1u32, 0u32));
            let before = other.less(&self.team.lane).select(&equal, 0u32);
            b.assign(&rank, &rank + before);
            b.assign(&same, &same + equal);
        };
        let Some(recent) = self.recent else {
            for other in 0..team::SUBGROUP {
                let value = b.copy("other_id", id.shuffle(other));
                compare(b, &Expr::from(other), value);
            }
            return (rank, same);
        };
        b.store(recent, &self.team.lane, id);
        b.barrier();
        b.repeat("other", 0u32, self.team.lanes, 1u32, |b, other| {
            compare(b, other, recent.at(other));
        });
        (rank, same)
    }
}

fn sum(count: usize, width: usize, size: usize, limits: &Limits) -> Result<Launch, String> {
    let wide = width.is_multiple_of(4);
    let unit = if wide { 4 } else { 1 };
    let lanes = team::lanes(limits, 64);
    let rows_per_group = if limits.profile == Profile::CpuVulkan {
        4
    } else {
        1
    };
    let mut b = Builder::new("scatter_sum", [lanes, 1, 1]);
    b.doc("A team per table row: the sum of its rows, in order of position.");
    let rows = b.binding("rows", Scalar::F32, wide);
    let order = b.binding("order", Scalar::U32, false);
    let starts = b.binding("starts", Scalar::U32, false);
    let table = b.binding("table", Scalar::F32, wide);
    let columns = b.size("columns", width / unit);
    let size_word = b.size("size", size);
    let share = b.size("rows_per_group", rows_per_group);
    let group = b.linear_group();
    let lane = Expr::builtin(super::ir::Builtin::LocalX);
    let first = b.bind("first", (group * &share).min(&size_word));
    let end = b.bind("end", (&first + &share).min(&size_word));
    b.repeat("id", &first, &end, 1u32, |b, id| {
        let from = b.copy("start", starts.at(id));
        let to = b.copy("to", starts.at(id + 1u32));
        b.repeat("column", &lane, &columns, lanes, |b, column| {
            let total = b.var("total", Expr::from(0.0f32).widened(wide));
            b.repeat("entry", &from, &to, 1u32, |b, entry| {
                let index = order.at(entry) * &columns + column;
                let value = if wide {
                    rows.at4(index)
                } else {
                    rows.at(index)
                };
                b.assign(&total, &total + value);
            });
            b.store(table, id * &columns + column, &total);
        });
    });
    let bindings = vec![
        Slot::Input(0),
        Slot::Scratch(0),
        Slot::Scratch(1),
        Slot::Output(0),
    ];
    let grid = linear_grid(size.div_ceil(rows_per_group), limits);
    let bytes = 4 * (count * width + size * width) as u64;
    Launch::new(b, bindings, grid, (count * width) as u64, bytes)
}
