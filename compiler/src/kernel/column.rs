//! The column skeleton: sums and maxima over the middle axis of `[batch, rows, columns]`.
//!
//! ```text
//!              columns (vec4 or scalars), one per lane
//!            | lanes 0..7 | lanes 0..7 | ...
//!  block 0   |     |      |     |      |        every lane walks down its block of rows
//!            |     v      |     v      |
//!  block 1   |     |      |     |      |        few columns and many rows: several blocks
//!            |     v      |     v      |
//! ```
//!
//! With one block the results are stored at once. Otherwise the blocks go to scratch
//! `[batch, block, columns]`, and the same skeleton joins them in their order.

use super::ir::{Builder, Builtin, Expr};
use super::operand::{Bound, Operands, Place, fits_vec4};
use super::pointwise::{arithmetic, split, traffic};
use super::program::{Values, emit, value};
use super::row::{combine, identity};
use super::spec::{Instr, InstrId, Operand, Program, Reduce, Store, View};
use super::{Launch, Lowered, Slot, linear_grid};
use crate::plan::{Limits, Profile};

/// A column group under lowering.
#[derive(Clone, Copy)]
pub(crate) struct Column<'a> {
    pub(crate) batch: usize,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) inputs: &'a [Operand],
    pub(crate) program: &'a Program,
    pub(crate) outputs: &'a [(Reduce, Store)],
}

impl Column<'_> {
    /// One launch, or one and a joining one per output.
    pub(crate) fn lower(&self, limits: &Limits) -> Result<Lowered, String> {
        if self.batch * self.columns == 0 {
            return Ok(Lowered::default());
        }
        let vec4 = self.fits_vec4();
        let lanes = match limits.profile {
            Profile::CpuVulkan => 8,
            Profile::Gpu => 64,
        };
        let items = if vec4 { self.columns / 4 } else { self.columns };
        let groups = self.batch * items.div_ceil(lanes);
        let wanted: usize = match limits.profile {
            Profile::CpuVulkan => 16,
            Profile::Gpu => 256,
        };
        let blocks = wanted.div_ceil(groups).min(self.rows / 64).max(1);
        if blocks == 1 {
            let launch = self.launch(1, lanes, vec4, self.outputs, limits)?;
            return Ok(Lowered {
                launches: vec![launch],
                scratch: Vec::new(),
            });
        }
        let per_block = self.rows.div_ceil(blocks);
        self.in_blocks(self.rows.div_ceil(per_block), lanes, vec4, limits)
    }

    fn in_blocks(
        &self,
        blocks: usize,
        lanes: usize,
        vec4: bool,
        limits: &Limits,
    ) -> Result<Lowered, String> {
        let length = self.batch * blocks * self.columns;
        let strides = vec![blocks * self.columns, self.columns, 1];
        let scratch = |store: &Store| Operand {
            dtype: store.operand.dtype,
            elements: length,
            view: View {
                offset: 0,
                strides: strides.clone(),
            },
        };
        let parts: Vec<(Reduce, Store)> = self
            .outputs
            .iter()
            .map(|(reduce, store)| {
                (
                    *reduce,
                    Store {
                        value: store.value,
                        operand: scratch(store),
                    },
                )
            })
            .collect();
        let mut first = self.launch(blocks, lanes, vec4, &parts, limits)?;
        for slot in &mut first.bindings {
            if let Slot::Output(number) = *slot {
                *slot = Slot::Scratch(number);
            }
        }
        let mut launches = vec![first];
        for (number, (reduce, store)) in self.outputs.iter().enumerate() {
            let mut program = Program::default();
            let value = program.push(Instr::Load { input: 0 }, store.operand.dtype);
            let store = Store {
                value,
                operand: store.operand.clone(),
            };
            let join = Column {
                rows: blocks,
                inputs: &[scratch(&store)],
                program: &program,
                outputs: &[(*reduce, store)],
                ..*self
            };
            let vec4 = join.fits_vec4();
            let mut launch = join.launch(1, lanes, vec4, join.outputs, limits)?;
            launch.bindings = vec![Slot::Scratch(number), Slot::Output(number)];
            launches.push(launch);
        }
        Ok(Lowered {
            launches,
            scratch: vec![length; self.outputs.len()],
        })
    }

    fn fits_vec4(&self) -> bool {
        let gathers = |it: &Instr| matches!(it, Instr::LoadAt { .. });
        let store =
            |it: &Store| it.operand.view.strides.last() == Some(&1) && fits_vec4(&it.operand);
        self.columns.is_multiple_of(4)
            && !self.program.instrs.iter().any(gathers)
            && self.inputs.iter().all(fits_vec4)
            && self.outputs.iter().all(|(_, it)| store(it))
    }

    fn launch(
        &self,
        blocks: usize,
        lanes: usize,
        vec4: bool,
        outputs: &[(Reduce, Store)],
        limits: &Limits,
    ) -> Result<Launch, String> {
        let mut b = Builder::new("column", [lanes as u32, 1, 1]);
        b.doc(format!("{lanes} columns per workgroup."));
        let stores: Vec<&Store> = outputs.iter().map(|(_, store)| store).collect();
        let wide: Vec<(&Store, bool)> = stores.iter().map(|it| (*it, vec4)).collect();
        let operands = Operands::bind(
            &mut b,
            self.program,
            self.inputs,
            &wide,
            0,
            self.columns,
            vec4,
        );
        let items = if vec4 { self.columns / 4 } else { self.columns };
        let chunks = items.div_ceil(lanes);
        let rows = b.size("rows", self.rows);
        let per_block = b.size("rows_per_block", self.rows.div_ceil(blocks).max(1));
        let columns = b.size("columns", items);
        let in_blocks = blocks > 1;
        let place = self.position(&mut b, chunks, blocks, lanes, &columns);
        let [batch, block, column, inside] = place;
        let start = b.bind("first_row", &block * &per_block);
        let end = b.bind("end_row", rows.min(&start + per_block));
        let sums: Vec<Expr> = outputs
            .iter()
            .map(|(reduce, store)| {
                let start = identity(*reduce, self.program.types[store.value]);
                b.var("part", start.widened(vec4))
            })
            .collect();
        b.repeat("row", &start, &end, 1u32, |b, row| {
            let element = (&batch * &rows + row) * &columns + &column;
            let place = Place {
                indices: &[batch.clone(), row.clone(), column.clone()],
                element: Some(&element),
                vec4,
            };
            let mut values = Values::new();
            let roots: Vec<InstrId> = stores.iter().map(|it| it.value).collect();
            emit(
                b,
                self.program,
                &mut values,
                &roots,
                &mut |b, instr, ty, values| operands.leaf(b, instr, ty, values, &place),
            )?;
            for ((reduce, store), sum) in outputs.iter().zip(&sums) {
                let term = value(&values, store.value)?.widened(vec4);
                b.assign(sum, combine(*reduce, sum, &term));
            }
            Ok::<(), String>(())
        })?;
        let mut indices = vec![batch];
        if in_blocks {
            indices.push(block);
        }
        indices.push(column);
        b.when(&inside, |b| {
            for (bound, sum) in operands.outputs.iter().zip(&sums) {
                Bound::store(bound, b, &indices, sum);
            }
        });
        let count = self.batch * self.rows * self.columns;
        let flops = ((arithmetic(self.program) + outputs.len()) * count) as u64;
        let bytes = traffic(self.inputs, stores.into_iter(), count);
        let grid = linear_grid(self.batch * blocks * chunks, limits);
        Launch::new(b, operands.slots, grid, flops, bytes)
    }

    /// Batch, block, column (clamped) of this lane, and whether it stores.
    fn position(
        &self,
        b: &mut Builder,
        chunks: usize,
        blocks: usize,
        lanes: usize,
        columns: &Expr,
    ) -> [Expr; 4] {
        let blocks = b.size("blocks", blocks);
        let chunks = b.size("chunks", chunks);
        let groups = b.size("batches", self.batch);
        let group = b.linear_group();
        let place = split(b, &group, &[blocks, chunks]);
        let inside = place[0].less(&groups);
        let batch = b.bind("batch", place[0].min(groups - 1u32));
        let column = &place[2] * lanes as u32 + Expr::builtin(Builtin::LocalIndex);
        let column = b.bind("column", column);
        let inside = b.bind("inside", inside.and(column.less(columns)));
        let column = b.bind("column_clamped", column.min(columns - 1u32));
        [batch, place[1].clone(), column, inside]
    }
}
