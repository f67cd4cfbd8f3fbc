//! Positions of the true elements of a mask, in order.
//!
//! One workgroup. Each lane owns a run of the mask: it counts its true elements, a prefix sum over
//! the lanes tells where its first one goes, and a second walk writes them. Then all lanes write
//! zeros behind the last position.

use super::ir::{Builder, Scalar, Ty};
use super::team::{self, Team};
use super::{Launch, Lowered, Slot};
use crate::plan::Limits;

/// Lowers the positions of a mask of `count` elements, `most` at most.
pub(super) fn lower(count: usize, most: usize, limits: &Limits) -> Result<Lowered, String> {
    let lanes = team::lanes(limits, 128);
    let mut b = Builder::new("rows_where", [lanes, 1, 1]);
    b.doc("Positions of the true elements, in order; zeros behind the last one.");
    let mask = b.binding("mask", Scalar::U32, false);
    let rows = b.binding("rows", Scalar::U32, false);
    let count_word = b.size("count", count);
    let most_word = b.size("most", most);
    let team = Team::new(&mut b, limits, lanes, Ty::U32);
    let run = b.bind("run", (&count_word + (lanes - 1)) / lanes);
    let from = b.bind("from", (&team.lane * &run).min(&count_word));
    let to = b.bind("to", (&from + &run).min(&count_word));
    let own = b.var("own_count", 0u32);
    b.repeat("row", &from, &to, 1u32, |b, row| {
        let shown = mask.at(row).equals(0u32).select(0u32, 1u32);
        b.assign(&own, &own + shown);
    });
    let (before, total) = team.prefix(&mut b, &own);
    let next = b.var("next", before);
    b.repeat("row", &from, &to, 1u32, |b, row| {
        let shown = b.copy("shown", mask.at(row).equals(0u32).select(0u32, 1u32));
        let fits = shown.equals(1u32).and(next.less(&most_word));
        b.when(fits, |b| b.store(rows, &next, row));
        b.assign(&next, &next + &shown);
    });
    let first = b.bind("first_empty", total.min(&most_word) + &team.lane);
    b.repeat("empty", &first, &most_word, lanes, |b, place| {
        b.store(rows, place, 0u32);
    });
    let bytes = 4 * (2 * count + most) as u64;
    let bindings = vec![Slot::Input(0), Slot::Output(0)];
    let launch = Launch::new(b, bindings, [1, 1, 1], 0, bytes)?;
    Ok(Lowered {
        launches: vec![launch],
        scratch: Vec::new(),
    })
}
