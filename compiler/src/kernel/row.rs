//! The row skeleton: arithmetic along rows with reductions, recomputed per pass instead of stored.
//!
//! ```text
//! cpu-vulkan: 8 rows per workgroup           gpu: one row per workgroup
//! row 0 | lanes 0..7  step by step -> ...    row | lanes 0..63 (to 256) step by step -> ...
//! row 1 | lanes 8..15              -> ...          partial results meet in a workgroup tree
//!  ...    partial results meet by shuffles
//! ```
//!
//! Short rows take one lane each. A reduction that depends on others runs in a later pass over the
//! columns; a store joins the first pass that has its value. Per-row values are computed between
//! passes. Where a lane holds its part of a short row in few steps, the steps are written out and every
//! value is computed once for all passes. Rows past the end repeat the last one and store nothing.

use super::ir::{Array, Builder, Builtin, Expr, Ty};
use super::operand::{Bound, Operands, Place, fits_vec4};
use super::pointwise::{arithmetic, split, traffic};
use super::program::{Values, emit, operands, scalar, value};
use super::spec::{Instr, InstrId, Operand, Program, Reduce, Store};
use super::{Launch, Lowered, linear_grid};
use crate::graph::DType;
use crate::plan::{Limits, Profile};

/// Most steps along a row that are written out, and most instructions of them together: the driver's
/// compile time grows faster than length. A layer norm of 512 columns fits.
const MOST_STEPS: usize = 16;
const MOST_WRITTEN_OUT: usize = 240;

/// A row group under lowering.
pub(crate) struct Row<'a> {
    pub(crate) rows: &'a [usize],
    pub(crate) columns: usize,
    pub(crate) inputs: &'a [Operand],
    pub(crate) program: &'a Program,
    pub(crate) outputs: &'a [Store],
}

/// How the lanes of a workgroup share rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Team {
    /// One lane per row.
    Lane,
    /// Eight lanes of one subgroup per row.
    Subgroup,
    /// The whole workgroup, of so many lanes.
    Workgroup(u32),
}

impl Team {
    fn choose(items: usize, limits: &Limits) -> Self {
        match limits.profile {
            _ if items <= 4 => Self::Lane,
            Profile::CpuVulkan => Self::Subgroup,
            Profile::Gpu => {
                let lanes = u32::try_from(items).unwrap_or(u32::MAX / 2);
                let most = limits.max_invocations.min(256);
                Self::Workgroup(lanes.clamp(32, most.max(32)).next_power_of_two().min(most))
            }
        }
    }

    /// Lanes of a workgroup, and of a row.
    fn lanes(self) -> (u32, u32) {
        match self {
            Self::Lane => (64, 1),
            Self::Subgroup => (64, 8),
            Self::Workgroup(lanes) => (lanes, lanes),
        }
    }
}

impl Row<'_> {
    /// One launch.
    pub(crate) fn lower(&self, limits: &Limits) -> Result<Lowered, String> {
        let rows: usize = self.rows.iter().product();
        if rows * self.columns == 0 {
            return Ok(Lowered::default());
        }
        let vec4 = self.fits_vec4();
        let items = if vec4 { self.columns / 4 } else { self.columns };
        let team = Team::choose(items, limits);
        let (lanes, per_row) = team.lanes();
        let mut b = Builder::new("row", [lanes, 1, 1]);
        b.doc(format!(
            "Rows of {} axes, {per_row} lanes per row.",
            self.rows.len()
        ));
        let wide = |it| (it, vec4 && !self.per_row_store(it));
        let outputs: Vec<(&Store, bool)> = self.outputs.iter().map(wide).collect();
        let operands = Operands::bind(
            &mut b,
            self.program,
            self.inputs,
            &outputs,
            0,
            self.columns,
            vec4,
        );
        self.body(&mut b, &operands, team, [rows, items], vec4)?;
        let count = rows * self.columns;
        let flops = (arithmetic(self.program) * count) as u64;
        let bytes = traffic(self.inputs, self.outputs.iter(), count);
        let grid = linear_grid(rows.div_ceil((lanes / per_row) as usize), limits);
        let slots = operands.slots.clone();
        Ok(Lowered {
            launches: vec![Launch::new(b, slots, grid, flops, bytes)?],
            scratch: Vec::new(),
        })
    }

    fn per_row_store(&self, store: &Store) -> bool {
        store.operand.view.strides.len() == self.rows.len()
    }

    fn fits_vec4(&self) -> bool {
        let store = |it: &Store| {
            let moves = it.operand.view.strides.last() == Some(&1);
            self.per_row_store(it) || (moves && fits_vec4(&it.operand))
        };
        let load = |(number, operand): (usize, &Operand)| {
            let reads = |it: &Instr| matches!(it, Instr::LoadAt { input, .. } if *input == number);
            self.program.instrs.iter().any(reads) || fits_vec4(operand)
        };
        self.columns.is_multiple_of(4)
            && self.inputs.iter().enumerate().all(load)
            && self.outputs.iter().all(store)
    }

    fn body(
        &self,
        b: &mut Builder,
        operands: &Operands,
        team: Team,
        [rows, count]: [usize; 2],
        vec4: bool,
    ) -> Result<(), String> {
        let (lanes, per_row) = team.lanes();
        let rows = b.size("rows", rows);
        let items = b.size("columns", count);
        let sizes: Vec<Expr> = (1..self.rows.len())
            .map(|axis| b.size(&format!("size_{axis}"), self.rows[axis]))
            .collect();
        let group = b.linear_group();
        let local = Expr::builtin(Builtin::LocalIndex);
        let row = b.bind("row", group * (lanes / per_row) + &local / per_row);
        let inside = b.bind("inside", row.less(&rows));
        let row = b.bind("row_clamped", row.min(rows - 1u32));
        let leading = match self.rows.len() {
            0 => Vec::new(),
            _ => split(b, &row, &sizes),
        };
        let walk = Walk {
            group: self,
            operands,
            team,
            vec4,
            steps: self.steps(team, count),
            lane: b.bind("lane_of_row", local % per_row),
            items,
            row,
            inside,
            leading,
        };
        walk.passes(b)
    }

    /// Steps of a lane along a row of `items`, when they are few enough to be written out.
    fn steps(&self, team: Team, items: usize) -> Option<usize> {
        let (_, per_row) = team.lanes();
        let steps = items / per_row as usize;
        let few = matches!(team, Team::Lane | Team::Subgroup)
            && items.is_multiple_of(per_row as usize)
            && steps <= MOST_STEPS
            && steps * self.program.instrs.len() <= MOST_WRITTEN_OUT;
        few.then_some(steps)
    }
}

/// What is known of every instruction before code is made.
struct Facts {
    /// One value per row.
    per_row: Vec<bool>,
    /// How many passes precede it.
    level: Vec<usize>,
}

impl Facts {
    fn new(group: &Row<'_>) -> Self {
        let mut facts = Self {
            per_row: Vec::new(),
            level: Vec::new(),
        };
        let still = |input: usize| {
            let strides = group.inputs.get(input).map(|it| it.view.strides.as_slice());
            strides.is_some_and(|it| it.last() == Some(&0))
        };
        for instr in &group.program.instrs {
            let inner = operands(instr);
            let level = inner.iter().map(|it| facts.level[*it]).max().unwrap_or(0);
            let rows = inner.iter().all(|it| facts.per_row[*it]);
            let (per_row, level) = match instr {
                Instr::Reduce(..) => (true, level + 1),
                Instr::Load { input } => (still(*input), level),
                Instr::LoadRow { input, .. } => (rows && still(*input), level),
                Instr::Index { axis } => (*axis < group.rows.len(), level),
                Instr::Random { .. } | Instr::Accumulator => (false, level),
                _ => (rows, level),
            };
            facts.per_row.push(per_row);
            facts.level.push(level);
        }
        facts
    }
}

/// What one pass over the columns of a row does.
struct Pass<'a> {
    reductions: &'a [InstrId],
    stores: &'a [(&'a Store, &'a Bound)],
    /// What both are computed from.
    roots: &'a [InstrId],
}

/// The walk over one row.
struct Walk<'a> {
    group: &'a Row<'a>,
    operands: &'a Operands,
    team: Team,
    vec4: bool,
    /// Written out in so many steps.
    steps: Option<usize>,
    lane: Expr,
    items: Expr,
    row: Expr,
    inside: Expr,
    leading: Vec<Expr>,
}

impl Walk<'_> {
    fn passes(&self, b: &mut Builder) -> Result<(), String> {
        let program = self.group.program;
        let facts = Facts::new(self.group);
        let last = facts.level.iter().copied().max().unwrap_or(0);
        let mut values: Values = vec![None; program.instrs.len()];
        let mut kept = vec![values.clone(); self.steps.unwrap_or(0)];
        for pass in 0..=last {
            let reductions: Vec<InstrId> = (0..program.instrs.len())
                .filter(|id| matches!(program.instrs[*id], Instr::Reduce(..)))
                .filter(|id| facts.level[*id] == pass + 1)
                .collect();
            let stores: Vec<(&Store, &Bound)> = self
                .group
                .outputs
                .iter()
                .zip(&self.operands.outputs)
                .filter(|(it, _)| !self.group.per_row_store(it) && facts.level[it.value] == pass)
                .collect();
            if reductions.is_empty() && stores.is_empty() {
                continue;
            }
            let mut roots: Vec<InstrId> = stores.iter().map(|(store, _)| store.value).collect();
            for id in &reductions {
                roots.extend(operands(&program.instrs[*id]));
            }
            self.between(b, &facts, &roots, &mut values)?;
            let pass = Pass {
                reductions: &reductions,
                stores: &stores,
                roots: &roots,
            };
            match self.steps {
                Some(_) => self.written_out(b, &pass, &mut values, &mut kept)?,
                None => self.looped(b, &pass, &mut values)?,
            }
        }
        self.store_rows(b, &mut values)
    }

    fn place<'p>(&self, indices: &'p [Expr], element: &'p Expr) -> Place<'p> {
        Place {
            indices,
            element: Some(element),
            vec4: self.vec4,
        }
    }

    /// Per-row values that the next pass needs: those its roots are computed from.
    fn between(
        &self,
        b: &mut Builder,
        facts: &Facts,
        roots: &[InstrId],
        values: &mut Values,
    ) -> Result<(), String> {
        let program = self.group.program;
        let mut wanted = vec![false; program.instrs.len()];
        for root in roots {
            wanted[*root] = true;
        }
        for id in (0..wanted.len()).rev() {
            if wanted[id] && values[id].is_none() && !facts.per_row[id] {
                for operand in operands(&program.instrs[id]) {
                    wanted[operand] = true;
                }
            }
        }
        let rows: Vec<InstrId> = (0..wanted.len())
            .filter(|id| wanted[*id] && facts.per_row[*id])
            .collect();
        self.emit_rows(b, &rows, values)
    }

    fn emit_rows(
        &self,
        b: &mut Builder,
        ids: &[InstrId],
        values: &mut Values,
    ) -> Result<(), String> {
        let element = Expr::from(0u32);
        let mut indices = self.leading.clone();
        indices.push(0u32.into());
        let place = self.place(&indices, &element);
        emit(
            b,
            self.group.program,
            values,
            ids,
            &mut |b, instr, ty, values| self.operands.leaf(b, instr, ty, values, &place),
        )
    }

    fn kind(&self, id: InstrId) -> Reduce {
        match self.group.program.instrs[id] {
            Instr::Reduce(reduce, _) => reduce,
            _ => Reduce::Sum,
        }
    }

    /// One pass, step by step; `kept` holds the values of each step from pass to pass.
    fn written_out(
        &self,
        b: &mut Builder,
        pass: &Pass<'_>,
        values: &mut Values,
        kept: &mut [Values],
    ) -> Result<(), String> {
        let program = self.group.program;
        let (_, per_row) = self.team.lanes();
        let mut sums: Vec<Option<Expr>> = vec![None; pass.reductions.len()];
        for (step, kept) in (0u32..).zip(kept) {
            let column = b.bind("column", &self.lane + step * per_row);
            let mut indices = self.leading.clone();
            indices.push(column.clone());
            let element = &self.row * &self.items + column;
            let place = self.place(&indices, &element);
            for (kept, value) in kept.iter_mut().zip(&*values) {
                *kept = kept.take().or_else(|| value.clone());
            }
            emit(b, program, kept, pass.roots, &mut |b, instr, ty, values| {
                self.operands.leaf(b, instr, ty, values, &place)
            })?;
            for (id, sum) in pass.reductions.iter().zip(&mut sums) {
                let operand = operands(&program.instrs[*id]);
                let term = value(kept, operand[0])?.widened(self.vec4);
                let joined = match &*sum {
                    Some(sum) => combine(self.kind(*id), sum, &term),
                    None => term,
                };
                *sum = Some(b.copy(&format!("part_{id}"), joined));
            }
            self.store_columns(b, pass, &indices, kept)?;
        }
        for (id, sum) in pass.reductions.iter().zip(sums) {
            let sum = sum.ok_or("a row without steps")?;
            let total = self.across(b, self.kind(*id), &sum);
            values[*id] = Some(b.copy(&format!("v{id}"), total));
        }
        Ok(())
    }

    fn store_columns(
        &self,
        b: &mut Builder,
        pass: &Pass<'_>,
        indices: &[Expr],
        values: &Values,
    ) -> Result<(), String> {
        if pass.stores.is_empty() {
            return Ok(());
        }
        b.when(&self.inside, |b| {
            for (store, bound) in pass.stores {
                bound.store(b, indices, &value(values, store.value)?);
            }
            Ok(())
        })
    }

    /// One pass over the columns in a loop.
    fn looped(&self, b: &mut Builder, pass: &Pass<'_>, values: &mut Values) -> Result<(), String> {
        let program = self.group.program;
        let Pass {
            reductions, roots, ..
        } = *pass;
        let sums: Vec<Expr> = reductions
            .iter()
            .map(|id| {
                let start = identity(self.kind(*id), program.types[*id]);
                b.var(&format!("part_{id}"), start.widened(self.vec4))
            })
            .collect();
        let (_, per_row) = self.team.lanes();
        b.repeat("column", &self.lane, &self.items, per_row, |b, column| {
            let mut indices = self.leading.clone();
            indices.push(column.clone());
            let element = &self.row * &self.items + column;
            let place = self.place(&indices, &element);
            let mut inner = values.clone();
            emit(
                b,
                program,
                &mut inner,
                roots,
                &mut |b, instr, ty, values| self.operands.leaf(b, instr, ty, values, &place),
            )?;
            for (id, sum) in reductions.iter().zip(&sums) {
                let operand = operands(&program.instrs[*id]);
                let term = value(&inner, operand[0])?.widened(self.vec4);
                b.assign(sum, combine(self.kind(*id), sum, &term));
            }
            self.store_columns(b, pass, &indices, &inner)
        })?;
        for (id, sum) in reductions.iter().zip(&sums) {
            let total = self.across(b, self.kind(*id), sum);
            values[*id] = Some(b.copy(&format!("v{id}"), total));
        }
        Ok(())
    }

    /// Joins the partial results of the lanes of a row.
    fn across(&self, b: &mut Builder, reduce: Reduce, sum: &Expr) -> Expr {
        let pairs = combine(reduce, &sum.component(0), &sum.component(1));
        let others = combine(reduce, &sum.component(2), &sum.component(3));
        let mut total = match self.vec4 {
            true => b.copy("across", combine(reduce, &pairs, &others)),
            false => sum.clone(),
        };
        match self.team {
            Team::Lane => total,
            Team::Subgroup => {
                for mask in [1, 2, 4] {
                    total = b.copy("across", combine(reduce, &total, &total.shuffle_xor(mask)));
                }
                total
            }
            Team::Workgroup(lanes) => {
                let tree = b.workgroup_array("tree", Ty::of(total.ty().scalar), lanes);
                tree_reduce(b, tree, lanes, &total, |x, y| combine(reduce, x, y))
            }
        }
    }

    /// Results per row, written by the first lane.
    fn store_rows(&self, b: &mut Builder, values: &mut Values) -> Result<(), String> {
        let outputs = self.group.outputs.iter().zip(&self.operands.outputs);
        let rows: Vec<(&Store, &Bound)> = outputs
            .filter(|(store, _)| self.group.per_row_store(store))
            .collect();
        if rows.is_empty() {
            return Ok(());
        }
        let roots: Vec<InstrId> = rows.iter().map(|(store, _)| store.value).collect();
        self.emit_rows(b, &roots, values)?;
        let first = self.inside.and(self.lane.equals(0u32));
        b.when(first, |b| {
            for (store, bound) in rows {
                bound.store_row(b, &self.leading, &value(values, store.value)?);
            }
            Ok(())
        })
    }
}

/// The value that changes nothing.
pub(crate) fn identity(reduce: Reduce, dtype: DType) -> Expr {
    match (reduce, scalar(dtype)) {
        (Reduce::Sum, super::ir::Scalar::F32) => 0.0f32.into(),
        (Reduce::Maximum, super::ir::Scalar::F32) => f32::MIN.into(),
        _ => 0u32.into(),
    }
}

/// One step of a reduction.
pub(crate) fn combine(reduce: Reduce, left: &Expr, right: &Expr) -> Expr {
    match reduce {
        Reduce::Sum => left + right,
        Reduce::Maximum => left.max(right),
    }
}

/// All lanes' values joined in a fixed tree; every lane gets the result. The array is used once.
pub(crate) fn tree_reduce(
    b: &mut Builder,
    tree: Array,
    lanes: u32,
    own: &Expr,
    combine: impl Fn(&Expr, &Expr) -> Expr,
) -> Expr {
    let local = Expr::builtin(Builtin::LocalIndex);
    b.store(tree, &local, own);
    b.barrier();
    let mut half = lanes / 2;
    while half > 0 {
        b.when(local.less(half), |b| {
            b.store(
                tree,
                &local,
                combine(&tree.at(&local), &tree.at(&local + half)),
            );
        });
        b.barrier();
        half /= 2;
    }
    tree.at(0u32)
}
