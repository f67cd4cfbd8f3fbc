//! One row of each batch entry replaced: what a step of a generation does to its cache.
//!
//! Two launches: a copy of the whole, and the rows. Where the result is the buffer of its operand, the
//! first is left out, and no more than the rows are touched.

use super::ir::{Builder, Builtin, Expr, Scalar};
use super::spec::{Instr, KernelSpec, Operand, Program, Store, View};
use super::{Launch, Lowered, Slot, linear_grid};
use crate::graph::DType;
use crate::plan::Limits;

/// Items per workgroup.
const LANES: usize = 64;

/// Lowers rows written into `[batch, blocks, rows, width]`.
pub(super) fn lower(dtype: DType, sizes: [usize; 4], limits: &Limits) -> Result<Lowered, String> {
    let [batch, blocks, rows, width] = sizes;
    let count = batch * blocks * width;
    let elements = count * rows;
    let whole = Operand {
        dtype,
        elements,
        view: View {
            offset: 0,
            strides: vec![1],
        },
    };
    let mut program = Program::default();
    let value = program.push(Instr::Load { input: 0 }, dtype);
    let copy = KernelSpec::Pointwise {
        space: vec![elements],
        inputs: vec![whole.clone()],
        program,
        outputs: vec![Store {
            value,
            operand: whole,
        }],
    };
    let mut lowered = super::lower(&copy, limits)?;
    let scalar = match dtype {
        DType::F32 => Scalar::F32,
        DType::U32 | DType::Bool => Scalar::U32,
    };
    let mut b = Builder::new("write_row", [LANES as u32, 1, 1]);
    b.doc("One row of each batch entry replaced; the others stay.");
    let row = b.binding("row", scalar, false);
    let at = b.binding("at", Scalar::U32, false);
    let target = b.binding("target", scalar, false);
    let items = b.size("items", count);
    let blocks_word = b.size("blocks", blocks);
    let rows_word = b.size("rows", rows);
    let width_word = b.size("width", width);
    let group = b.linear_group();
    let lane = Expr::builtin(Builtin::LocalX);
    let item = b.bind("item", group * LANES as u32 + lane);
    b.when(item.less(&items), |b| {
        let block = b.bind("block", &item / &width_word);
        let place = b.copy("place", at.at(&block / &blocks_word));
        b.when(place.less(&rows_word), |b| {
            let element = (&block * &rows_word + &place) * &width_word + &item % &width_word;
            b.store(target, element, row.at(&item));
        });
    });
    let bindings = vec![Slot::Input(1), Slot::Input(2), Slot::Output(0)];
    let grid = linear_grid(count.div_ceil(LANES), limits);
    let bytes = 4 * (2 * count + batch) as u64;
    lowered
        .launches
        .push(Launch::new(b, bindings, grid, 0, bytes)?);
    Ok(lowered)
}
