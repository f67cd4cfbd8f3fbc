//! Adafactor: factored second moments by table, then the update.
//!
//! ```text
//! tensor [rest, d1, d0]   r[rest, d1] = mean over d0 of g^2     c[rest, d0] = mean over d1 of g^2
//!                         u = g / sqrt(r / mean_d1(r)) / sqrt(c)
//! factors |-- r of tensor 0 --|-- c of tensor 0 --|-- r of tensor 1 --| ...   one entry per line
//! ```
//!
//! d1 and d0 are the two largest axes (d0 the larger, the later one on a tie); a tensor whose d1
//! is below the threshold keeps a full second moment in `v`.

use super::{
    BLOCKS, CLASS_SHIFT, DECAYED, LANES, UPDATED, applied, blend, block_and_lane, class_word, real,
    step_word,
};
use super::{GRADIENTS, LoweredUpdate, NORM, PARAMETERS, StateArena, TABLE, TensorSlot};
use crate::kernel::ir::{Array, Builder, Builtin, Expr, Scalar};
use crate::kernel::{Launch, Slot, linear_grid};
use crate::optimizer::Rule;
use crate::plan::{ALIGN_WORDS, Limits, StepWord};
use crate::precision::Precision;

/// Words of one tensor's record.
const RECORD: usize = 17;
/// Words of one line's record: start, stride, count, flags of its tensor.
const LINE: usize = 4;

/// First word of the matrix means behind the norm.
const MEANS: usize = ALIGN_WORDS;

/// Tables built from the tensors.
#[derive(Default)]
struct Tables {
    /// Start, stride and count of the gradients that one factor averages, and their flags.
    lines: Vec<u32>,
    /// First line and count of the r factors that one mean averages.
    means: Vec<[u32; 2]>,
    tensors: Vec<u32>,
    block_tensor: Vec<u32>,
    /// Words of full second moments.
    full: usize,
}

pub(super) fn lower(
    rule: &Rule,
    tensors: &[TensorSlot],
    total_words: usize,
    (limits, precision): (&Limits, Precision),
    update: &mut LoweredUpdate,
) -> Result<(), String> {
    let Rule::Adafactor {
        momentum,
        eps,
        min_factored,
        ..
    } = rule
    else {
        return Err("not adafactor".to_owned());
    };
    let blocks = total_words.div_ceil(ALIGN_WORDS);
    let mut tables = Tables {
        block_tensor: vec![0; blocks],
        ..Tables::default()
    };
    for tensor in tensors {
        tables.add(tensor, *min_factored)?;
    }
    let lines = tables.lines.len() / LINE;
    update.states = vec![
        StateArena {
            name: "m",
            words: total_words,
        },
        StateArena {
            name: "v",
            words: tables.full.max(1),
        },
        StateArena {
            name: "factors",
            words: lines.max(1),
        },
    ];
    if let Some(norm) = update.lowered.scratch.first_mut() {
        *norm = MEANS + tables.means.len();
    }
    // Sections of the table after the flags.
    let block_tensor = update.table.len();
    update.table.extend(&tables.block_tensor);
    let records = update.table.len();
    update.table.extend(&tables.tensors);
    let first_line = update.table.len();
    update.table.extend(&tables.lines);
    let first_mean = update.table.len();
    update.table.extend(tables.means.iter().flatten());
    let launches = &mut update.lowered.launches;
    if lines > 0 {
        launches.push(factors([lines, first_line], *eps, (limits, precision))?);
        launches.push(means([tables.means.len(), first_mean], limits)?);
    }
    let sections = [block_tensor, records];
    let constants = [*momentum, *eps];
    launches.push(apply(blocks, sections, constants, (limits, precision))?);
    Ok(())
}

/// The axes over which the rule sums the squared gradients of a tensor of this shape.
pub(crate) fn summed_axes(rule: &Rule, shape: &[usize]) -> Option<[usize; 2]> {
    match rule {
        Rule::Adafactor { min_factored, .. } => factored_axes(shape, *min_factored),
        _ => None,
    }
}

fn word(value: usize) -> Result<u32, String> {
    u32::try_from(value).map_err(|_| "a tensor lies beyond 2^32 words".to_owned())
}

impl Tables {
    fn add(&mut self, tensor: &TensorSlot, min_factored: usize) -> Result<(), String> {
        let index = word(self.tensors.len() / RECORD)?;
        let first = tensor.offset / ALIGN_WORDS;
        for block in 0..tensor.words().div_ceil(ALIGN_WORDS) {
            if let Some(entry) = self.block_tensor.get_mut(first + block) {
                *entry = index;
            }
        }
        let factored = factored_axes(&tensor.shape, min_factored);
        let record = match factored {
            Some(axes) if tensor.trained => self.factored(tensor, axes)?,
            _ => self.full_moment(tensor)?,
        };
        self.tensors.extend(record);
        Ok(())
    }

    fn full_moment(&mut self, tensor: &TensorSlot) -> Result<[u32; RECORD], String> {
        let mut record = [0; RECORD];
        record[0] = word(tensor.offset)?;
        record[15] = word(self.full)?;
        record[16] = word(tensor.words())?;
        if tensor.trained {
            self.full += crate::plan::aligned(tensor.words());
        }
        Ok(record)
    }

    /// Lines and record of a factored tensor: word 0 its offset, 1 and 2 the sizes of its last two
    /// of three axes, 3 its first r, 4..7 the r stride per axis, 7 its first c, 8..11, 11 its first
    /// mean, 12..14 the mean stride of axes 0 and 1 (axis 2 is never the rest), 14 the mark, 15 its first
    /// full moment when it has them, 16 its length.
    fn factored(
        &mut self,
        tensor: &TensorSlot,
        [d1, d0]: [usize; 2],
    ) -> Result<[u32; RECORD], String> {
        let pad = 3usize.checked_sub(tensor.shape.len());
        let pad = pad.ok_or_else(|| format!("{} has more than three axes", tensor.path))?;
        let mut sizes = vec![1; pad];
        sizes.extend(&tensor.shape);
        let (d1, d0) = (d1 + pad, d0 + pad);
        let rest = 3 - d1 - d0;
        let flags = tensor.flags()?;
        let strides = [sizes[1] * sizes[2], sizes[2], 1];
        let mut record = [0; RECORD];
        record[0] = word(tensor.offset)?;
        record[1] = word(sizes[1])?;
        record[2] = word(sizes[2])?;
        record[3] = word(self.lines.len() / LINE)?;
        record[4 + rest] = word(sizes[d1])?;
        record[4 + d1] = 1;
        record[11] = word(self.means.len())?;
        for outer in 0..sizes[rest] {
            self.means
                .push([word(self.lines.len() / LINE)?, word(sizes[d1])?]);
            for line in 0..sizes[d1] {
                let start = tensor.offset + outer * strides[rest] + line * strides[d1];
                self.lines
                    .extend([word(start)?, word(strides[d0])?, word(sizes[d0])?, flags]);
            }
        }
        record[7] = word(self.lines.len() / LINE)?;
        record[8 + rest] = word(sizes[d0])?;
        record[8 + d0] = 1;
        for outer in 0..sizes[rest] {
            for line in 0..sizes[d0] {
                let start = tensor.offset + outer * strides[rest] + line * strides[d0];
                self.lines
                    .extend([word(start)?, word(strides[d1])?, word(sizes[d1])?, flags]);
            }
        }
        if rest == 2 {
            return Err(format!("{} has its smallest axis last", tensor.path));
        }
        record[12 + rest] = 1;
        record[14] = 1;
        record[16] = word(tensor.words())?;
        Ok(record)
    }
}

/// The two largest axes, the larger one last, when both reach `least`.
fn factored_axes(shape: &[usize], least: usize) -> Option<[usize; 2]> {
    let mut order: Vec<usize> = (0..shape.len()).collect();
    order.sort_by_key(|axis| shape[*axis]);
    let [.., d1, d0] = order.as_slice() else {
        return None;
    };
    (shape[*d1] >= least).then_some([*d1, *d0])
}

/// Every factor: `beta2 * old + (1 - beta2) * (mean of squares + eps)`, one lane each.
fn factors(
    [lines, first]: [usize; 2],
    eps: f64,
    (limits, precision): (&Limits, Precision),
) -> Result<Launch, String> {
    let mut b = Builder::new("adafactor_factors", [LANES as u32, 1, 1]);
    b.doc("Row and column means of the squared gradients.");
    let gradients = b.binding("gradients", Scalar::F32, false);
    let table = b.binding("table", Scalar::U32, false);
    let norm = b.binding("norm", Scalar::F32, false);
    let step = b.binding("step", Scalar::U32, false);
    let state = b.binding("factors", Scalar::F32, false);
    let count = b.size("lines", lines);
    let first = b.size("first_word", first);
    let group = b.linear_group();
    let line = b.bind(
        "line",
        group * LANES as u32 + Expr::builtin(Builtin::LocalIndex),
    );
    let inside = line.less(&count);
    let safe = b.bind("safe", line.min(count - 1u32));
    let flag = table.at(&first + safe * LINE as u32 + 3u32);
    let flag = applied(inside.select(flag, 0u32), norm, precision);
    let flag = b.bind("flag", flag);
    b.when((&flag & UPDATED).differs(0u32), |b| {
        let start = b.bind("start", table.at(&first + &line * LINE as u32));
        let stride = b.bind("stride", table.at(&first + &line * LINE as u32 + 1u32));
        let length = b.bind("length", table.at(&first + &line * LINE as u32 + 2u32));
        let clip = b.bind("clip", norm.at(1u32));
        let sum = b.var("sum", 0.0f32);
        b.repeat("at", 0u32, length.clone(), 1u32, |b, at| {
            let g = b.bind("g", gradients.at(&start + at * &stride) * &clip);
            b.assign(&sum, &sum + (&g * &g + real(eps)));
        });
        let mean = b.bind("mean", &sum / length.convert(Scalar::F32));
        let class = b.bind("class_words", &flag >> CLASS_SHIFT);
        let beta2 = b.bind("beta2", class_word(step, StepWord::Beta2, &class));
        let old = state.at(&line);
        b.store(
            state,
            line,
            old * &beta2 + mean * (Expr::from(1.0f32) - &beta2),
        );
    });
    let slots = vec![GRADIENTS, TABLE, NORM, Slot::Step, Slot::Output(2)];
    Launch::new(b, slots, linear_grid(lines.div_ceil(LANES), limits), 0, 0)
}

/// Mean of the r factors of each matrix, one lane each; its table follows the lines'.
fn means([count, first]: [usize; 2], limits: &Limits) -> Result<Launch, String> {
    let mut b = Builder::new("adafactor_means", [LANES as u32, 1, 1]);
    b.doc("Mean of the row factors of each matrix.");
    let table = b.binding("table", Scalar::U32, false);
    let state = b.binding("factors", Scalar::F32, false);
    let out = b.binding("norm", Scalar::F32, false);
    let matrices = b.size("matrices", count);
    let first_word = b.size("first_word", first);
    let group = b.linear_group();
    let matrix = b.bind(
        "matrix",
        group * LANES as u32 + Expr::builtin(Builtin::LocalIndex),
    );
    b.when(matrix.less(matrices), |b| {
        let at = b.bind("at_word", &first_word + &matrix * 2u32);
        let first = b.bind("first", table.at(&at));
        let length = b.bind("length", table.at(&at + 1u32));
        let sum = b.var("sum", 0.0f32);
        b.repeat("at", 0u32, length.clone(), 1u32, |b, at| {
            b.assign(&sum, &sum + state.at(&first + at));
        });
        b.store(
            out,
            matrix + MEANS as u32,
            sum / length.convert(Scalar::F32),
        );
    });
    let slots = vec![TABLE, Slot::Output(2), NORM];
    Launch::new(b, slots, linear_grid(count.div_ceil(LANES), limits), 0, 0)
}

/// The arrays that the update reads tables and factors from.
struct Sources {
    table: Array,
    factors: Array,
    norm: Array,
    full: Array,
}

fn apply(
    blocks: usize,
    [block_tensor, records]: [usize; 2],
    [momentum, eps]: [f64; 2],
    (limits, precision): (&Limits, Precision),
) -> Result<Launch, String> {
    let mut b = Builder::new("adafactor", [LANES as u32, 1, 1]);
    b.doc("Update of every parameter in use from its factored or full second moment.");
    let parameters = b.binding("parameters", Scalar::F32, false);
    let gradients = b.binding("gradients", Scalar::F32, false);
    let table = b.binding("table", Scalar::U32, false);
    let norm = b.binding("norm", Scalar::F32, false);
    let step = b.binding("step", Scalar::U32, false);
    let m = b.binding("m", Scalar::F32, false);
    let full = b.binding("v", Scalar::F32, false);
    let factors = b.binding("factors", Scalar::F32, false);
    let sources = Sources {
        table,
        factors,
        norm,
        full,
    };
    let total = b.size("blocks", blocks);
    let block_tensor = b.size("block_tensor", block_tensor);
    let records = b.size("records", records);
    let (block, lane) = block_and_lane(&mut b);
    let inside = block.less(total.clone());
    let safe = b.bind("safe", block.min(total - 1u32));
    let flag = inside.select(table.at(safe.clone()), 0u32);
    let flag = b.bind("flag", applied(flag, norm, precision));
    let tensor = table.at(block_tensor + safe);
    let record = b.bind("record", records + tensor * RECORD as u32);
    let clip = b.bind("clip", norm.at(1u32));
    let rate = b.bind("rate", step_word(step, StepWord::LearningRate));
    let class = b.bind("class_words", &flag >> CLASS_SHIFT);
    let beta2 = b.bind("beta2", class_word(step, StepWord::Beta2, &class));
    let decays = (&flag & DECAYED).differs(0u32);
    let decay = b.bind(
        "decay",
        decays.select(step_word(step, StepWord::Decay), 0.0f32),
    );
    b.when((&flag & UPDATED).differs(0u32), |b| {
        let field = |index: u32| table.at(&record + index);
        let offset = b.bind("offset", field(0));
        let words = b.bind("words", field(16));
        b.repeat("turn", 0u32, 8u32, 1u32, |b, turn| {
            let item = &block * ALIGN_WORDS as u32 + turn * 8u32 + &lane;
            let item = b.bind("item", item);
            let local = b.bind("local", &item - &offset);
            // What follows the tensor in its last block belongs to nobody.
            b.when(local.less(&words), |b| {
                let g = b.bind("g", gradients.at(&item) * &clip);
                let scaled = scaled(b, &sources, &record, &local, &g, &beta2, eps);
                let new = b.bind("m_new", blend(momentum, &m.at(&item), &scaled));
                b.store(m, item.clone(), new.clone());
                let parameter = b.bind("parameter", parameters.at(&item));
                let change = new * &rate + &parameter * &decay;
                b.store(parameters, item.clone(), parameter - change);
            });
        });
    });
    let slots = vec![
        PARAMETERS,
        GRADIENTS,
        TABLE,
        NORM,
        Slot::Step,
        Slot::Output(0),
        Slot::Output(1),
        Slot::Output(2),
    ];
    let words = (blocks * ALIGN_WORDS) as u64;
    let grid = linear_grid(blocks.div_ceil(BLOCKS), limits);
    Launch::new(b, slots, grid, 12 * words, 20 * words)
}

/// The gradient over the root of its second moment.
fn scaled(
    b: &mut Builder,
    sources: &Sources,
    record: &Expr,
    local: &Expr,
    g: &Expr,
    beta2: &Expr,
    eps: f64,
) -> Expr {
    let field = |index: u32| sources.table.at(record + index);
    let result = b.var("scaled", 0.0f32);
    b.choose(
        field(14).differs(0u32),
        |b| {
            let [n1, n2] = [1, 2].map(|i| b.bind("size", field(i)));
            let plane = b.bind("plane", &n1 * &n2);
            let a0 = b.bind("a", local / &plane);
            let rest = b.bind("rest", local - &a0 * &plane);
            let a1 = b.bind("a", &rest / &n2);
            let a2 = b.bind("a", rest - &a1 * &n2);
            let dot = |first: u32| {
                field(first)
                    + &a0 * field(first + 1)
                    + &a1 * field(first + 2)
                    + &a2 * field(first + 3)
            };
            let r = b.bind("r", sources.factors.at(dot(3)));
            let c = b.bind("c", sources.factors.at(dot(7)));
            let matrix = field(11) + &a0 * field(12) + &a1 * field(13);
            let mean = b.bind("mean", sources.norm.at(matrix + MEANS as u32));
            b.assign(&result, g / (r / mean).sqrt() / c.sqrt());
        },
        |b| {
            let at = b.bind("at_v", field(15) + local);
            let square = g * g + real(eps);
            let old = sources.full.at(&at);
            let v = b.bind("v_new", old * beta2 + square * (Expr::from(1.0f32) - beta2));
            b.store(sources.full, at, v.clone());
            b.assign(&result, g / v.sqrt());
        },
    );
    result
}
