//! Adafactor: a factored second moment for tensors whose two largest sizes reach the bound.
//!
//! Such a tensor is seen as `[A, X, B, Y, C]` with X and Y the factored axes; every (a, b, c) is
//! one X x Y slice with its own row means r and column means c of the squared gradient (an expert
//! each, for `[E, K, N]`). Four launches cover all of them: row means, column means, mean of r per
//! slice, update. One more updates the other tensors, whose second moment is full and packed block
//! after block. Slices that are contiguous along Y in multiples of four words are read by vec4; the
//! others, if any, get launches of their own.

use super::super::ir::{Array, Builder, Builtin, Expr, Scalar, Ty};
use super::super::linear_grid;
use super::super::team::{self, Team};
use super::{
    BLOCK, CHUNK, DECAYS, SCALARS, Scalars, TensorSlot, Update, UpdateSlot, literal, moved,
};
use crate::optimizer::Rule;
use crate::plan::Limits;

/// Words of a slice descriptor.
const DESCRIPTOR: usize = 16;

/// State arenas, by number: momentum, full second moments, row means, column means.
const MOMENTUM: UpdateSlot = UpdateSlot::State(0);
const FULL: UpdateSlot = UpdateSlot::State(1);
const ROWS: UpdateSlot = UpdateSlot::State(2);
const COLUMNS: UpdateSlot = UpdateSlot::State(3);

/// A factored tensor as `[a, x, b, y, c]`.
#[derive(Clone, Copy, Debug)]
struct Factored {
    offset: usize,
    sizes: [usize; 5],
    decayed: bool,
}

impl Factored {
    /// The two largest axes when both reach `least`, as optax has it.
    fn of(tensor: &TensorSlot, least: usize) -> Option<Self> {
        let shape = &tensor.shape;
        if shape.len() < 2 {
            return None;
        }
        let mut axes: Vec<usize> = (0..shape.len()).collect();
        axes.sort_by_key(|axis| shape[*axis]);
        let pair = [axes[axes.len() - 2], axes[axes.len() - 1]];
        if shape[pair[0]] < least {
            return None;
        }
        let (x, y) = (pair[0].min(pair[1]), pair[0].max(pair[1]));
        let product = |range: &[usize]| range.iter().product::<usize>();
        let sizes = [
            product(&shape[..x]),
            shape[x],
            product(&shape[x + 1..y]),
            shape[y],
            product(&shape[y + 1..]),
        ];
        Some(Self {
            offset: tensor.offset_words,
            sizes,
            decayed: tensor.decayed,
        })
    }

    fn slices(&self) -> usize {
        self.sizes[0] * self.sizes[2] * self.sizes[4]
    }

    fn wide(&self) -> bool {
        self.sizes[4] == 1 && self.sizes[3].is_multiple_of(4)
    }
}

/// The tasks of a launch; which list of the table names their tensors.
#[derive(Clone, Copy)]
enum Tasks {
    Rows = 0,
    ColumnChunks = 1,
    Slices = 2,
}

/// The factored tensors that share launches.
struct Group {
    wide: bool,
    /// Number of tasks of each kind.
    counts: [usize; 3],
    /// Number of descriptors.
    tensors: usize,
    /// Words of all tensors.
    words: usize,
    /// The table: descriptors, then the descriptor of every row, column chunk and slice.
    table: UpdateSlot,
    /// Mean of r of every slice.
    means: UpdateSlot,
}

impl Update<'_> {
    fn rule(&self) -> [f64; 3] {
        match self.optimizer.rule {
            Rule::Adafactor {
                momentum,
                eps,
                min_factored,
                ..
            } => [momentum, eps, min_factored as f64],
            _ => [0.0; 3],
        }
    }

    pub(super) fn adafactor(&mut self) -> Result<(), String> {
        let least = self.rule()[2] as usize;
        let (mut factored, mut full) = (Vec::new(), Vec::new());
        for tensor in self.tensors.iter().filter(|tensor| tensor.trained) {
            match Factored::of(tensor, least) {
                Some(found) => factored.push(found),
                None => full.extend(tensor.blocks().map(|block| block as u32)),
            }
        }
        let round = |words: usize| words.div_ceil(4) * 4;
        let rows: usize = factored
            .iter()
            .map(|it| round(it.slices() * it.sizes[1]))
            .sum();
        let columns: usize = factored
            .iter()
            .map(|it| round(it.slices() * it.sizes[3]))
            .sum();
        let lengths = [
            ("m", self.total),
            ("v", full.len() * BLOCK),
            ("r", rows),
            ("c", columns),
        ];
        self.out.state = lengths
            .map(|(name, words)| (name.to_owned(), words))
            .to_vec();
        let mut starts = [0, 0];
        for wide in [true, false] {
            let group = factored
                .iter()
                .filter(|it| it.wide() == wide)
                .copied()
                .collect();
            self.factored(group, wide, &mut starts)?;
        }
        if full.is_empty() {
            Ok(())
        } else {
            self.full(full)
        }
    }

    /// The launches of one group.
    fn factored(
        &mut self,
        tensors: Vec<Factored>,
        wide: bool,
        starts: &mut [usize; 2],
    ) -> Result<(), String> {
        if tensors.is_empty() {
            return Ok(());
        }
        let lanes = team::lanes(self.limits, 64) as usize;
        let (table, counts) = table(&tensors, wide, lanes, starts);
        self.out.constants.push(table);
        self.out.scratch.push(counts[Tasks::Slices as usize]);
        let group = Group {
            wide,
            counts,
            tensors: tensors.len(),
            words: tensors
                .iter()
                .map(|it| it.sizes.iter().product::<usize>())
                .sum(),
            table: UpdateSlot::Constant(self.out.constants.len() - 1),
            means: UpdateSlot::Scratch(self.out.scratch.len() - 1),
        };
        self.row_means(&group)?;
        self.column_means(&group)?;
        self.slice_means(&group)?;
        self.update_rows(&group)
    }

    fn start(&self, name: &str, wide: bool) -> (Builder, u32) {
        let lanes = team::lanes(self.limits, 64);
        let name = if wide {
            name.to_owned()
        } else {
            format!("{name}_strided")
        };
        (Builder::new(name, [lanes, 1, 1]), lanes)
    }

    fn row_means(&mut self, group: &Group) -> Result<(), String> {
        let (mut b, lanes) = self.start("adafactor_rows", group.wide);
        b.doc("Mean of squared gradients along each row of each slice.");
        let gradients = b.binding("gradients", Scalar::F32, group.wide);
        let rows = b.binding("row_means", Scalar::F32, false);
        let table = b.binding("table", Scalar::U32, false);
        let scalars = Scalars::bind(&mut b);
        let team = Team::new(&mut b, self.limits, lanes, Ty::F32);
        let task = Task::find(&mut b, group, table, Tasks::Rows);
        let (slice, x) = task.split(&mut b, &task.word(SIZE_X));
        let start = task.slice_start(&mut b, &slice) + x * task.word(STRIDE_X);
        let start = b.bind("start", start);
        let total = b.var("total", Expr::from(0.0f32).widened(group.wide));
        let units = b.bind("units", task.word(SIZE_Y) / group.unit());
        let stride = b.bind("stride", task.word(STRIDE_Y));
        b.repeat("column", &team.lane, &units, lanes, |b, column| {
            let at = &start / group.unit() + column * &stride;
            let value = b.copy("value", group.read(gradients, &at) * &scalars.factor);
            b.assign(&total, &total + &value * &value);
        });
        let own = group.add_up(&total);
        let all = team.sum(&mut b, &own);
        let mean = all / task.word(SIZE_Y).convert(Scalar::F32) + literal(self.rule()[1]);
        let place = b.bind("place", task.word(ROW_START) + &task.local);
        b.when(team.lane.equals(0u32), |b| {
            let next = scalars.averaged(&rows.at(&place), &mean);
            b.store(rows, &place, next);
        });
        let bindings = vec![UpdateSlot::Gradients, ROWS, group.table, SCALARS];
        let words = group.words;
        self.push(
            b,
            bindings,
            group.grid(Tasks::Rows, self.limits),
            [3 * words, 4 * words],
        )
    }

    fn column_means(&mut self, group: &Group) -> Result<(), String> {
        let (mut b, lanes) = self.start("adafactor_columns", group.wide);
        b.doc("Mean of squared gradients down each column of each slice; a lane owns columns.");
        let gradients = b.binding("gradients", Scalar::F32, group.wide);
        let columns = b.binding("column_means", Scalar::F32, group.wide);
        let table = b.binding("table", Scalar::U32, false);
        let scalars = Scalars::bind(&mut b);
        let task = Task::find(&mut b, group, table, Tasks::ColumnChunks);
        let units = b.bind("units", task.word(SIZE_Y) / group.unit());
        let chunks = b.bind("chunks", (&units + (lanes - 1)) / lanes);
        let (slice, chunk) = task.split(&mut b, &chunks);
        let column = chunk * lanes + Expr::builtin(Builtin::LocalX);
        let column = b.bind("column", column);
        let inside = b.bind("inside", column.min(&units - 1u32));
        let start = task.slice_start(&mut b, &slice) / group.unit() + inside * task.word(STRIDE_Y);
        let start = b.bind("start", start);
        let stride = b.bind("stride", task.word(STRIDE_X) / group.unit());
        let total = b.var("total", Expr::from(0.0f32).widened(group.wide));
        b.repeat("row", 0u32, &task.word(SIZE_X), 1u32, |b, row| {
            let at = &start + row * &stride;
            let value = b.copy("value", group.read(gradients, &at) * &scalars.factor);
            b.assign(&total, &total + &value * &value);
        });
        let mean = &total / task.word(SIZE_X).convert(Scalar::F32) + literal(self.rule()[1]);
        let place = (task.word(COLUMN_START) + &slice * task.word(SIZE_Y)) / group.unit() + &column;
        let place = b.bind("place", place);
        b.when(column.less(&units), |b| {
            let old = if group.wide {
                columns.at4(&place)
            } else {
                columns.at(&place)
            };
            b.store(columns, &place, scalars.averaged(&old, &mean));
        });
        let bindings = vec![UpdateSlot::Gradients, COLUMNS, group.table, SCALARS];
        let words = group.words;
        self.push(
            b,
            bindings,
            group.grid(Tasks::ColumnChunks, self.limits),
            [3 * words, 4 * words],
        )
    }

    fn slice_means(&mut self, group: &Group) -> Result<(), String> {
        let (mut b, lanes) = self.start("adafactor_slices", group.wide);
        b.doc("Mean of the row means of each slice.");
        let rows = b.binding("row_means", Scalar::F32, false);
        let means = b.binding("slice_means", Scalar::F32, false);
        let table = b.binding("table", Scalar::U32, false);
        let team = Team::new(&mut b, self.limits, lanes, Ty::F32);
        let task = Task::find(&mut b, group, table, Tasks::Slices);
        let start = b.bind(
            "start",
            task.word(ROW_START) + &task.local * task.word(SIZE_X),
        );
        let total = b.var("total", 0.0f32);
        b.repeat("row", &team.lane, &task.word(SIZE_X), lanes, |b, row| {
            b.assign(&total, &total + rows.at(&start + row));
        });
        let all = team.sum(&mut b, &total);
        b.when(team.lane.equals(0u32), |b| {
            let place = task.word(MEAN_START) + &task.local;
            b.store(means, place, all / task.word(SIZE_X).convert(Scalar::F32));
        });
        let bindings = vec![ROWS, group.means, group.table];
        self.push(b, bindings, group.grid(Tasks::Slices, self.limits), [0, 0])
    }

    fn update_rows(&mut self, group: &Group) -> Result<(), String> {
        let (mut b, lanes) = self.start("adafactor_update", group.wide);
        b.doc("Factored tensors, one row of a slice per workgroup.");
        let wide = group.wide;
        let parameters = b.binding("parameters", Scalar::F32, wide);
        let gradients = b.binding("gradients", Scalar::F32, wide);
        let momenta = b.binding("momentum", Scalar::F32, wide);
        let rows = b.binding("row_means", Scalar::F32, false);
        let columns = b.binding("column_means", Scalar::F32, wide);
        let means = b.binding("slice_means", Scalar::F32, false);
        let table = b.binding("table", Scalar::U32, false);
        let scalars = Scalars::bind(&mut b);
        let task = Task::find(&mut b, group, table, Tasks::Rows);
        let (slice, x) = task.split(&mut b, &task.word(SIZE_X));
        let start = task.slice_start(&mut b, &slice) + x * task.word(STRIDE_X);
        let start = b.bind("start", start);
        let row = rows.at(task.word(ROW_START) + &task.local);
        let row_root = b.bind(
            "row_root",
            (row / means.at(task.word(MEAN_START) + &slice)).sqrt(),
        );
        let column_start = (task.word(COLUMN_START) + &slice * task.word(SIZE_Y)) / group.unit();
        let column_start = b.bind("column_start", column_start);
        let decay = task
            .word(DECAYED)
            .differs(0u32)
            .select(&scalars.decay, 0.0f32);
        let decay = b.bind("own_decay", decay);
        let units = b.bind("units", task.word(SIZE_Y) / group.unit());
        let stride = b.bind("stride", task.word(STRIDE_Y));
        let lane = Expr::builtin(Builtin::LocalX);
        let beta = self.rule()[0];
        b.repeat("column", lane, &units, lanes, |b, column| {
            let at = b.copy("at", &start / group.unit() + column * &stride);
            let mean = group.read(columns, &(&column_start + column));
            let gradient = group.read(gradients, &at) * &scalars.factor;
            let update = b.copy("update", gradient / &row_root / mean.sqrt());
            let m = b.copy("m_next", moved(&group.read(momenta, &at), &update, beta));
            b.store(momenta, &at, &m);
            let value = b.copy("value", group.read(parameters, &at));
            b.store(
                parameters,
                &at,
                &value - m * &scalars.rate - &value * &decay,
            );
        });
        let mut bindings = vec![UpdateSlot::Parameters, UpdateSlot::Gradients, MOMENTUM];
        bindings.extend([ROWS, COLUMNS, group.means, group.table, SCALARS]);
        let words = group.words;
        self.push(
            b,
            bindings,
            group.grid(Tasks::Rows, self.limits),
            [8 * words, 20 * words],
        )
    }

    /// Tensors with a full second moment, packed in the order of `blocks`.
    fn full(&mut self, blocks: Vec<u32>) -> Result<(), String> {
        let count = blocks.len();
        let list = self.out.constants.len();
        self.out.constants.push(blocks);
        let (mut b, _) = self.start("adafactor_full", true);
        let lanes = team::lanes(self.limits, 64);
        b.doc("Tensors whose second moment is not factored.");
        let parameters = b.binding("parameters", Scalar::F32, true);
        let gradients = b.binding("gradients", Scalar::F32, true);
        let momenta = b.binding("momentum", Scalar::F32, true);
        let squares = b.binding("squares", Scalar::F32, true);
        let blocks = b.binding("block_list", Scalar::U32, false);
        let flags = b.binding("blocks", Scalar::U32, false);
        let scalars = Scalars::bind(&mut b);
        let vectors = b.size("vectors", count * BLOCK / 4);
        let chunk = b.size("chunk", CHUNK);
        let from = b.linear_group() * &chunk;
        let from = b.bind("from", from);
        let to = b.bind("to", (&from + chunk).min(vectors));
        let [beta, eps, _] = self.rule();
        b.repeat(
            "vector",
            from + Expr::builtin(Builtin::LocalX),
            &to,
            lanes,
            |b, vector| {
                let block = b.copy("block", blocks.at(vector >> 4u32));
                let at = b.copy("at", (&block << 4u32) + (vector & 15u32));
                let gradient = b.copy("gradient", gradients.at4(&at) * &scalars.factor);
                let square = &gradient * &gradient + literal(eps);
                let v = b.copy("v_next", scalars.averaged(&squares.at4(vector), &square));
                b.store(squares, vector, &v);
                let m = b.copy(
                    "m_next",
                    moved(&momenta.at4(&at), &(gradient / v.sqrt()), beta),
                );
                b.store(momenta, &at, &m);
                let decays = (flags.at(&block) & DECAYS).differs(0u32);
                let value = b.copy("value", parameters.at4(&at));
                let decay = decays.select(&scalars.decay, 0.0f32);
                b.store(parameters, &at, &value - m * &scalars.rate - &value * decay);
            },
        );
        let bindings = [
            UpdateSlot::Parameters,
            UpdateSlot::Gradients,
            MOMENTUM,
            FULL,
        ];
        let mut bindings = bindings.to_vec();
        bindings.extend([UpdateSlot::Constant(list), UpdateSlot::Constant(0)]);
        bindings.push(SCALARS);
        let words = count * BLOCK;
        let grid = linear_grid((words / 4).div_ceil(CHUNK), self.limits);
        self.push(b, bindings, grid, [8 * words, 28 * words])
    }
}

impl Group {
    /// Words per access.
    fn unit(&self) -> u32 {
        if self.wide { 4 } else { 1 }
    }

    fn read(&self, array: Array, index: &Expr) -> Expr {
        if self.wide {
            array.at4(index)
        } else {
            array.at(index)
        }
    }

    fn grid(&self, tasks: Tasks, limits: &Limits) -> [u32; 3] {
        linear_grid(self.counts[tasks as usize], limits)
    }

    /// The sum of the components, in order.
    fn add_up(&self, total: &Expr) -> Expr {
        if !self.wide {
            return total.clone();
        }
        [1, 2, 3]
            .iter()
            .fold(total.component(0), |sum, part| sum + total.component(*part))
    }
}

/// What a workgroup works on: the tensor's descriptor, and the number of its task in the tensor.
struct Task {
    table: Array,
    descriptor: Expr,
    local: Expr,
}

impl Task {
    /// Workgroups past the last task repeat it, writing the same values.
    fn find(b: &mut Builder, group: &Group, table: Array, tasks: Tasks) -> Self {
        let kind = tasks as usize;
        let start = DESCRIPTOR * group.tensors + group.counts[..kind].iter().sum::<usize>();
        let start = b.size("tasks_start", start);
        let count = b.size("tasks", group.counts[kind]);
        let number = b.linear_group();
        let number = b.bind("task", number.min(count - 1u32));
        let descriptor = b.bind("descriptor", table.at(start + &number) * DESCRIPTOR as u32);
        let first = table.at(&descriptor + (FIRST_TASK + kind) as u32);
        let local = b.bind("local", number - first);
        Self {
            table,
            descriptor,
            local,
        }
    }

    fn word(&self, index: usize) -> Expr {
        self.table.at(&self.descriptor + index as u32)
    }

    /// The slice and what is left of the task's number.
    fn split(&self, b: &mut Builder, per_slice: &Expr) -> (Expr, Expr) {
        let slice = b.bind("slice", &self.local / per_slice);
        let rest = b.bind("within", &self.local - &slice * per_slice);
        (slice, rest)
    }

    /// First word of a slice `(a * B + b) * C + c`.
    fn slice_start(&self, b: &mut Builder, slice: &Expr) -> Expr {
        let outer = b.bind("outer", slice / self.word(SIZE_C));
        let c = slice - &outer * self.word(SIZE_C);
        let a = b.bind("slice_a", &outer / self.word(SIZE_B));
        let inner = &outer - &a * self.word(SIZE_B);
        self.word(OFFSET) + a * self.word(STRIDE_A) + inner * self.word(STRIDE_B) + c
    }
}

/// Words of a descriptor.
const OFFSET: usize = 0;
const SIZE_X: usize = 1;
const STRIDE_X: usize = 2;
const SIZE_Y: usize = 3;
const STRIDE_Y: usize = 4;
const SIZE_B: usize = 5;
const STRIDE_B: usize = 6;
const SIZE_C: usize = 7;
const STRIDE_A: usize = 8;
const ROW_START: usize = 9;
const COLUMN_START: usize = 10;
const MEAN_START: usize = 11;
const FIRST_TASK: usize = 12;
const DECAYED: usize = 15;

/// The table of a group and its numbers of tasks. `starts` are the next free words of the row and
/// column means.
fn table(
    tensors: &[Factored],
    wide: bool,
    lanes: usize,
    starts: &mut [usize; 2],
) -> (Vec<u32>, [usize; 3]) {
    let (mut table, mut tasks) = (Vec::new(), [const { Vec::new() }; 3]);
    let unit = if wide { 4 } else { 1 };
    for (number, tensor) in (0u32..).zip(tensors) {
        let [_, x, b, y, c] = tensor.sizes;
        let slices = tensor.slices();
        let mut words = [0; DESCRIPTOR];
        words[OFFSET] = tensor.offset;
        (words[SIZE_X], words[STRIDE_X]) = (x, b * y * c);
        (words[SIZE_Y], words[STRIDE_Y]) = (y, c);
        (words[SIZE_B], words[STRIDE_B]) = (b, y * c);
        (words[SIZE_C], words[STRIDE_A]) = (c, x * b * y * c);
        (words[ROW_START], words[COLUMN_START]) = (starts[0], starts[1]);
        words[MEAN_START] = tasks[Tasks::Slices as usize].len();
        let counts = [slices * x, slices * (y / unit).div_ceil(lanes), slices];
        for (kind, count) in counts.into_iter().enumerate() {
            words[FIRST_TASK + kind] = tasks[kind].len();
            tasks[kind].extend(std::iter::repeat_n(number, count));
        }
        words[DECAYED] = usize::from(tensor.decayed);
        starts[0] += (slices * x).div_ceil(4) * 4;
        starts[1] += (slices * y).div_ceil(4) * 4;
        // Arena words are below 2^32: the arena fits one binding.
        table.extend(words.map(|word| word as u32));
    }
    let counts = [tasks[0].len(), tasks[1].len(), tasks[2].len()];
    table.extend(tasks.into_iter().flatten());
    (table, counts)
}
