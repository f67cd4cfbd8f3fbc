//! Sums of dispatched rows per expert (the gradient of an expert's bias).
//!
//! A workgroup owns an expert and a run of columns. On gpu its lanes are a grid of columns and
//! rows: every eighth row each, then the eight partial sums in order.

use super::ir::{Builder, Builtin, Expr, Scalar, Ty};
use super::spec::DispatchLayout;
use super::{Launch, Lowered, Slot};
use crate::plan::{Limits, Profile};

/// Lowers the sum of `n` columns.
pub(super) fn lower(layout: &DispatchLayout, n: usize, limits: &Limits) -> Result<Lowered, String> {
    let wide = n.is_multiple_of(4);
    let (columns, rows) = match limits.profile {
        Profile::CpuVulkan => (8, 1),
        Profile::Gpu => (16u32, 8u32),
    };
    let unit = if wide { 4 } else { 1 };
    let mut b = Builder::new("expert_sum", [columns, rows, 1]);
    b.doc("Sum of the used rows of each expert.");
    let values = b.binding("rows", Scalar::F32, wide);
    let plan = b.binding("plan", Scalar::U32, false);
    let sums = b.binding("sums", Scalar::F32, wide);
    let width = b.size("columns", n / unit);
    let segment = b.size("segment", layout.segment());
    let used = b.size("used", layout.used());
    let expert = Expr::builtin(Builtin::GroupY);
    let x = Expr::builtin(Builtin::LocalX);
    let y = Expr::builtin(Builtin::LocalY);
    let column = b.bind("column", Expr::builtin(Builtin::GroupX) * columns + &x);
    let inside = b.bind("column_inside", column.min(&width - 1u32));
    let first = b.copy("first", plan.at(segment + &expert));
    let end = b.copy("end", &first + plan.at(used + &expert));
    let zero = Expr::from(0.0f32).widened(wide);
    let total = b.var("total", zero);
    b.repeat("row", first + &y, &end, rows, |b, row| {
        let index = row * &width + &inside;
        let value = if wide {
            values.at4(index)
        } else {
            values.at(index)
        };
        b.assign(&total, &total + value);
    });
    if rows > 1 {
        let partial = b.workgroup_array("partial", Ty::F32.wide(wide), columns * rows);
        b.store(partial, &y * columns + &x, &total);
        b.barrier();
        let part = |row: u32| {
            let index = &x + row * columns;
            if wide {
                partial.at4(index)
            } else {
                partial.at(index)
            }
        };
        b.assign(&total, (1..rows).fold(part(0), |sum, row| sum + part(row)));
    }
    b.when(y.equals(0u32).and(column.less(&width)), |b| {
        b.store(sums, expert * &width + &column, &total);
    });
    let groups = (n / unit).div_ceil(columns as usize);
    let grid = [groups, layout.experts, 1].map(|it| u32::try_from(it).unwrap_or(u32::MAX));
    let words = layout.assignments * n;
    let bindings = vec![Slot::Input(0), Slot::Input(1), Slot::Output(0)];
    let launch = Launch::new(b, bindings, grid, words as u64, 4 * words as u64)?;
    Ok(Lowered {
        launches: vec![launch],
        scratch: Vec::new(),
    })
}
