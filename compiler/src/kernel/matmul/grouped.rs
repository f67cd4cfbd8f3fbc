//! Grouped contractions over dispatched rows, on the tiles of the dense matmul.
//!
//! ```text
//! rows of the plan   | expert 0: used . . | expert 1: used used | . . |   segments, multiples of a tile
//! block_expert       |         0          |     1         1     | NONE|   row tile -> weight matrix
//! ```
//!
//! The product has one row tile per block of the plan's worst case; a block without an expert
//! leaves at once, so cost follows the rows in use. A weight in several parts has a launch for each, which
//! writes the row tiles of its experts. With `gather` the left panel reads token rows
//! through the plan and an unused row's sum counts as zero. The outer product has one batch per
//! expert and sums over the expert's used rows only: an expert without rows gets zeros.

use super::super::expert_sum;
use super::super::ir::{Array, Builder, Builtin, Expr, Scalar};
use super::super::operand::{Bound, Operands, fits_vec4};
use super::super::pointwise::arithmetic;
use super::super::spec::{
    DispatchLayout, Instr, Matrix, NONE, Operand, Program, RowAddress, Store, View,
};
use super::super::{Launch, Lowered, Slot};
use super::{Body, Epilogue, Frame, Gather, Outline, Tiling, few};
use crate::graph::DType;
use crate::plan::{Limits, Profile, Tile};
use crate::storage::Packed;

/// A grouped matmul spec.
pub(crate) struct Grouped<'a> {
    pub(crate) layout: &'a DispatchLayout,
    pub(crate) n: usize,
    pub(crate) k: usize,
    pub(crate) transpose: bool,
    pub(crate) gather: bool,
    pub(crate) inputs: &'a [(RowAddress, Operand)],
    pub(crate) program: &'a Program,
    pub(crate) outputs: &'a [Store],
    /// Experts of each weight, where there are several.
    pub(crate) experts: &'a [usize],
    /// How each weight is packed.
    pub(crate) packed: Option<&'a Packed>,
}

/// One weight of a grouped matmul.
#[derive(Clone, Copy)]
struct Weight {
    slot: usize,
    /// Its first expert and how many it has.
    first: usize,
    experts: usize,
    /// Whether there are others.
    several: bool,
}

/// What the epilogue knows of dispatched rows.
pub(super) struct Dispatched<'a> {
    plan: Array,
    /// The row tile of this workgroup.
    pub(super) tile: Expr,
    expert: Expr,
    /// Whether there is such a tile, and the weight has its expert.
    here: Expr,
    /// Row of this workgroup's tile in its expert's segment, and how many of the segment are in use;
    /// for software drivers only.
    segment: Option<[Expr; 2]>,
    inputs: &'a [(RowAddress, Operand)],
    /// Sums of unused rows count as zero.
    gathered: bool,
}

/// One row of a tile in the epilogue.
pub(super) struct Row<'a> {
    dispatched: &'a Dispatched<'a>,
    row: Expr,
    column: Expr,
    /// The row's assignment and whether it has one, when somebody asks.
    source: Option<(Expr, Expr)>,
}

impl Dispatched<'_> {
    /// The expert of this workgroup's rows.
    pub(super) fn expert(&self) -> Expr {
        self.expert.clone()
    }

    /// Rows of this workgroup's tile that are in use, or more, and whether the tile is the first of its
    /// expert, where that is known.
    pub(super) fn segment(&self) -> Option<(Expr, Expr)> {
        let [position, used] = self.segment.as_ref()?;
        Some((used - position, position.equals(0u32)))
    }

    /// Whether the epilogue asks for the assignment of a row.
    pub(super) fn looks_up(&self) -> bool {
        let addressed = |it: &(RowAddress, Operand)| it.0 == RowAddress::Assignment;
        self.gathered || self.inputs.iter().any(addressed)
    }

    /// Looks up what the epilogue needs of a row.
    pub(super) fn row(&self, b: &mut Builder, row: &Expr, column: &Expr) -> Row<'_> {
        let source = self.looks_up().then(|| {
            let source = b.copy("assignment", self.plan.at(row));
            let used = b.copy("is_used", source.differs(NONE));
            (source, used)
        });
        Row {
            dispatched: self,
            row: row.clone(),
            column: column.clone(),
            source,
        }
    }
}

impl Row<'_> {
    /// The contraction's result.
    pub(super) fn sum(&self, sum: &Expr) -> Expr {
        match &self.source {
            Some((_, used)) if self.dispatched.gathered => used.select(sum, 0.0f32),
            _ => sum.clone(),
        }
    }

    /// An input of the epilogue by its address.
    pub(super) fn load(&self, input: usize, bound: &Bound) -> Result<Expr, String> {
        let (address, _) = self
            .dispatched
            .inputs
            .get(input)
            .ok_or("an input does not exist")?;
        let indices = |first: &Expr| [first.clone(), self.column.clone()];
        Ok(match (address, &self.source) {
            (RowAddress::Expert, _) => bound.load(&indices(&self.dispatched.expert)),
            (RowAddress::Assignment, Some((source, used))) => {
                let value = bound.load(&indices(&used.select(source, 0u32)));
                match value.ty().scalar {
                    Scalar::F32 => used.select(value, 0.0f32),
                    _ => used.select(value, 0u32),
                }
            }
            _ => bound.load(&indices(&self.row)),
        })
    }
}

impl Grouped<'_> {
    /// One launch per weight.
    pub(crate) fn lower(&self, limits: &Limits) -> Result<Lowered, String> {
        let mut lowered = Lowered::default();
        if self.layout.rows * self.n == 0 {
            return Ok(lowered);
        }
        for weight in self.weights() {
            lowered
                .launches
                .extend(self.launch(weight, limits)?.launches);
        }
        Ok(lowered)
    }

    fn weights(&self) -> Vec<Weight> {
        let all = [self.layout.experts];
        let counts = if self.experts.is_empty() {
            &all[..]
        } else {
            self.experts
        };
        let mut first = 0;
        let weight = |(number, experts): (usize, &usize)| {
            let weight = Weight {
                slot: if number == 0 { 1 } else { 2 + number },
                first,
                experts: *experts,
                several: counts.len() > 1,
            };
            first += experts;
            weight
        };
        counts.iter().enumerate().map(weight).collect()
    }

    fn launch(&self, weight: Weight, limits: &Limits) -> Result<Lowered, String> {
        let tiling = match self.few(limits) {
            Some(few) => few,
            None => tiling(self.layout.tile, self.n, limits)?,
        };
        let mut b = Builder::new("grouped_matmul", tiling.invocations);
        b.doc("A row tile belongs to one expert; tiles past the last expert leave.");
        let (frame, slots) = self.frame(&mut b, weight, tiling);
        let here = frame.dispatched.as_ref().map(|it| it.here.clone());
        let here = here.ok_or("a grouped matmul reads no plan")?;
        b.when(here, |b| tiling.body.write(b, &frame, tiling))?;
        let blocks = self.layout.rows / tiling.pitch;
        let grid = [self.n.div_ceil(tiling.columns), blocks, 1];
        let assignments = self.layout.assignments * weight.experts / self.layout.experts.max(1);
        let flops = assignments * self.n * (2 * self.k + arithmetic(self.program));
        let matrix = self.k * self.n;
        let matrix = self
            .packed
            .map_or(matrix, |it| it.words() / it.shape[0].max(1));
        // A few rows meet as many experts at most.
        let experts = weight.experts.min(assignments.max(1));
        let words = assignments * (self.k + self.n) + experts * matrix;
        launch(b, slots, grid, [flops, 4 * words])
    }

    /// Where no expert can have more than a few rows, these rows of its tile alone, at the walk of such products.
    fn few(&self, limits: &Limits) -> Option<Tiling> {
        let rows = self.layout.assignments;
        let (left, right) = (self.left_matrix(), self.right_matrix(1));
        let operands = [self.left(&left, false), self.right(&right, None)];
        let form = few::Form::choose(operands.map(|it| it.access()), rows, self.n)?;
        let tiling = Tiling {
            pitch: self.layout.tile,
            ..form.tiling(rows, self.n, self.packed.is_some())
        };
        (limits.profile == Profile::CpuVulkan).then_some(tiling)
    }

    fn left_matrix(&self) -> Matrix {
        let tokens = self.layout.assignments / self.layout.choices;
        let rows = if self.gather {
            tokens
        } else {
            self.layout.rows
        };
        contiguous(rows, self.k, Vec::new())
    }

    fn left<'m>(&self, matrix: &'m Matrix, scalar: bool) -> Outline<'m> {
        Outline {
            scalar,
            ..outline(
                "a",
                matrix,
                [matrix.elements / self.k.max(1), self.k],
                [self.k, 1],
            )
        }
    }

    fn right_matrix(&self, experts: usize) -> Matrix {
        contiguous(experts * self.k, self.n, vec![self.k * self.n])
    }

    fn right<'m>(&self, matrix: &'m Matrix, packed: Option<&'m Packed>) -> Outline<'m> {
        let strides = if self.transpose {
            [self.k, 1]
        } else {
            [1, self.n]
        };
        Outline {
            packed,
            ..outline("b", matrix, [self.n, self.k], strides)
        }
    }

    fn frame(&self, b: &mut Builder, part: Weight, tiling: Tiling) -> (Frame<'_>, Vec<Slot>) {
        let Self { layout, n, k, .. } = *self;
        let left = self.left_matrix();
        let a = self.left(&left, tiling.body == Body::Few(few::Form::Strips));
        let right = self.right_matrix(part.experts);
        // A part has the experts that it has.
        let packed = self.packed.map(|whole| Packed {
            shape: [&[part.experts], &whole.shape[1..]].concat(),
            storage: whole.storage,
        });
        let right = self.right(&right, packed.as_ref());
        let mut a = a.panel(b, &[]);
        let expert_of_block = b.size("block_expert", layout.block_expert());
        let weight = right.bind(b);
        let plan = b.binding("plan", Scalar::U32, false);
        let (tile, fresh) = match tiling.body {
            Body::Subgroup => self.spread(b, plan),
            _ => (Expr::builtin(Builtin::GroupY), None),
        };
        let expert = b.copy("expert", plan.at(expert_of_block + &tile));
        // Experts before the first, and no expert, lie behind the last.
        let (here, local) = match part.several {
            false => (expert.differs(NONE), expert.clone()),
            true => {
                let first = b.size("first_expert", part.first);
                let local = b.bind("expert_of_part", &expert - first);
                (local.less(b.size("experts_of_part", part.experts)), local)
            }
        };
        let here = match fresh {
            Some(fresh) => fresh.and(here),
            None => here,
        };
        let right = right.panel_of(b, weight, std::slice::from_ref(&local));
        if self.gather {
            a.gather = Some(Gather {
                plan,
                choices: layout.choices as u32,
                along_k: false,
            });
        }
        let of_tiles = tiling.body == Body::Subgroup;
        let segment = of_tiles.then(|| self.segment(b, plan, [&tile, &expert], tiling));
        let dispatched = Dispatched {
            plan,
            tile,
            expert,
            here,
            segment,
            inputs: self.inputs,
            gathered: self.gather,
        };
        let operands: Vec<Operand> = self.inputs.iter().map(|(_, it)| it.clone()).collect();
        let further = self.experts.len().saturating_sub(1);
        let mut epilogue = epilogue(
            b,
            self.program,
            &operands,
            self.outputs,
            n,
            tiling,
            3 + further,
        );
        let by_expert = |(address, _): &(RowAddress, Operand)| *address == RowAddress::Expert;
        epilogue.still = self.inputs.iter().map(by_expert).collect();
        let mut slots = vec![Slot::Input(0), Slot::Input(part.slot), Slot::Input(2)];
        slots.extend(&epilogue.operands.slots);
        let frame = Frame {
            k_range: [0u32.into(), b.size("k", k)],
            k_tail: !k.is_multiple_of(tiling.step),
            m: b.size("m", layout.rows),
            n: b.size("n", if epilogue.vec4 { n / 4 } else { n }),
            guard: !n.is_multiple_of(tiling.columns),
            a,
            b: right,
            batch: Vec::new(),
            epilogue,
            dispatched: Some(dispatched),
            sums: None,
        };
        (frame, slots)
    }

    /// The row tile of this workgroup, and whether it is the first one to have it: tiles in use, in their order, come
    /// evenly among those that leave. A software driver gives each of its threads one run of workgroups, and the tiles
    /// behind the last expert would be all the work of the last thread.
    fn spread(&self, b: &mut Builder, plan: Array) -> (Expr, Option<Expr>) {
        let layout = self.layout;
        let end = b.size("rows_end", layout.segment() + layout.experts);
        let tiles = b.size("tiles", layout.rows / layout.tile);
        let used = b.copy("tiles_used", plan.at(end) / layout.tile as u32);
        let place = b.bind("tile_place", Expr::builtin(Builtin::GroupY) * &used);
        let tile = b.copy("tile", &place / &tiles);
        let fresh = (place - &tile * tiles).less(used);
        (tile, Some(fresh))
    }

    /// Where this workgroup's tile lies in its expert's segment, and the rows in use there.
    fn segment(
        &self,
        b: &mut Builder,
        plan: Array,
        [tile, expert]: [&Expr; 2],
        tiling: Tiling,
    ) -> [Expr; 2] {
        let layout = self.layout;
        let last = b.size("last_expert", layout.experts.saturating_sub(1));
        let expert = b.bind("expert_inside", expert.min(last));
        let segment = b.size("segment", layout.segment());
        let used = b.size("used", layout.used());
        let first = b.copy("segment_start", plan.at(segment + &expert));
        let used = b.copy("rows_used", plan.at(used + expert));
        let row = tile * tiling.rows as u32;
        [b.bind("row_of_segment", row - first), used]
    }
}

/// `[experts, m, n]`: per expert the product of its columns of a with its columns of b; with `sums`
/// also `[experts, n]`, its columns of b summed.
pub(crate) struct Outer<'a> {
    pub(crate) layout: &'a DispatchLayout,
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) gather: bool,
    pub(crate) sums: bool,
    /// The first expert and how many.
    pub(crate) part: [usize; 2],
}

impl Outer<'_> {
    /// One launch, or two.
    pub(crate) fn lower(&self, limits: &Limits) -> Result<Lowered, String> {
        lower_outer(self, limits)
    }
}

fn lower_outer(outer: &Outer, limits: &Limits) -> Result<Lowered, String> {
    let Outer {
        layout,
        m,
        n,
        gather,
        sums,
        part: [first, experts],
    } = *outer;
    if experts * m * n == 0 {
        return Ok(Lowered::default());
    }
    let side = match limits.profile {
        Profile::CpuVulkan => 32,
        Profile::Gpu => limits.tiles.of(experts, m, n).within(limits).side(),
    };
    let mut tiling = tiling(side, n, limits)?;
    tiling.rows_first = super::rows_first(m, n, limits);
    let mut b = Builder::new("grouped_outer", tiling.invocations);
    b.doc("Sums over the used rows of one expert.");
    let mut program = Program::default();
    let value = program.push(Instr::Accumulator, DType::F32);
    let view = View {
        offset: 0,
        strides: vec![m * n, n, 1],
    };
    let operand = Operand {
        dtype: DType::F32,
        elements: experts * m * n,
        view,
    };
    let outputs = [Store { value, operand }];
    let rows = if gather {
        layout.assignments / layout.choices
    } else {
        layout.rows
    };
    let left = contiguous(rows, m, Vec::new());
    let right = contiguous(layout.rows, n, Vec::new());
    let mut a = outline("a", &left, [m, rows], [1, m]).panel(&mut b, &[]);
    let right = outline("b", &right, [n, layout.rows], [1, n]).panel(&mut b, &[]);
    let plan = b.binding("plan", Scalar::U32, false);
    if gather {
        a.gather = Some(Gather {
            plan,
            choices: layout.choices as u32,
            along_k: true,
        });
    }
    let epilogue = epilogue(&mut b, &program, &[], &outputs, n, tiling, 3);
    let mut slots = vec![Slot::Input(0), Slot::Input(1), Slot::Input(2)];
    slots.extend(&epilogue.operands.slots);
    let expert = Expr::builtin(Builtin::GroupZ);
    let segment = b.size("segment", layout.segment());
    let used = b.size("used", layout.used());
    let planned = match first {
        0 => expert.clone(),
        _ => &expert + b.size("first_expert", first),
    };
    let begin = b.copy("k_begin", plan.at(segment + &planned));
    let end = b.copy("k_end", &begin + plan.at(used + &planned));
    let beside = sums && epilogue.vec4 && limits.profile == Profile::CpuVulkan;
    let width = b.size("n", if epilogue.vec4 { n / 4 } else { n });
    let sums_beside = beside.then(|| {
        slots.push(Slot::Output(1));
        (b.binding("sums", Scalar::F32, true), &expert * &width)
    });
    let frame = Frame {
        k_range: [begin, end],
        k_tail: true,
        m: b.size("m", m),
        n: width,
        sums: sums_beside,
        guard: !m.is_multiple_of(tiling.rows) || !n.is_multiple_of(tiling.columns),
        a,
        b: right,
        batch: vec![expert],
        epilogue,
        dispatched: None,
    };
    tiling.body.write(&mut b, &frame, tiling)?;
    let grid = tiling.grid(m, n, experts);
    let assignments = layout.assignments * experts / layout.experts.max(1);
    let words = assignments * (m + n) + experts * m * n;
    let mut lowered = launch(b, slots, grid, [2 * assignments * m * n, 4 * words])?;
    if sums && !beside {
        lowered.follow(expert_sum::lower(layout, n, limits)?, &[1, 2], 1);
    }
    Ok(lowered)
}

fn tiling(rows: usize, n: usize, limits: &Limits) -> Result<Tiling, String> {
    let tiling = match limits.profile {
        Profile::CpuVulkan => (rows == 32).then(|| Tiling::of_subgroup(rows, n)),
        Profile::Gpu => {
            let mut tiles = Tile::ALL.into_iter().filter(|it| it.fits(limits));
            tiles.find(|it| it.side() == rows).map(Tiling::of)
        }
    };
    tiling.ok_or_else(|| format!("a row tile of {rows} does not fit the device"))
}

fn launch(
    b: Builder,
    slots: Vec<Slot>,
    grid: [usize; 3],
    [flops, bytes]: [usize; 2],
) -> Result<Lowered, String> {
    let grid = grid.map(|it| u32::try_from(it).unwrap_or(u32::MAX));
    let launch = Launch::new(b, slots, grid, flops as u64, bytes as u64)?;
    Ok(Lowered {
        launches: vec![launch],
        scratch: Vec::new(),
    })
}

fn contiguous(rows: usize, columns: usize, batch_strides: Vec<usize>) -> Matrix {
    Matrix {
        elements: rows * columns,
        offset: 0,
        batch_strides,
        row_stride: columns,
        column_stride: 1,
    }
}

fn outline<'a>(
    name: &'a str,
    matrix: &'a Matrix,
    [outer, k]: [usize; 2],
    [outer_stride, k_stride]: [usize; 2],
) -> Outline<'a> {
    Outline {
        name,
        matrix,
        outer,
        outer_stride,
        k,
        k_stride,
        packed: None,
        scalar: false,
    }
}

fn epilogue<'a>(
    b: &mut Builder,
    program: &'a Program,
    inputs: &[Operand],
    outputs: &'a [Store],
    n: usize,
    tiling: Tiling,
    first_input: usize,
) -> Epilogue<'a> {
    let store = |it: &Store| it.operand.view.strides.last() == Some(&1) && fits_vec4(&it.operand);
    let vec4 = n.is_multiple_of(4)
        && tiling.columns > 8
        && inputs.iter().all(fits_vec4)
        && outputs.iter().all(store);
    let stores: Vec<&Store> = outputs.iter().collect();
    let operands = {
        let wide: Vec<(&Store, bool)> = stores.iter().map(|it| (*it, vec4)).collect();
        Operands::bind(b, program, inputs, &wide, first_input, n, vec4)
    };
    Epilogue {
        program,
        stores,
        operands,
        vec4,
        still: Vec::new(),
    }
}
