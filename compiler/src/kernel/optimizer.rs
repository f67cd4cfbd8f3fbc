//! The multi-tensor update: one kernel over the flat parameter, gradient and state arenas, after
//! two small ones for the global gradient norm.
//!
//! ```text
//! parameters |--- trunk.0.fc1.kernel ---|pad|- bias -|pad| ...   blocks of 64 words
//! gradients  |--- same offsets ------------------------------|
//! m, v       |--- same offsets ------------------------------|
//! flags      [ one word per block: updated, decayed, class ]
//! ```
//!
//! Eight lanes walk one block, so what a block is never differs inside a run.

mod accumulate;
mod adafactor;

pub(crate) use adafactor::summed_axes;

pub use accumulate::lower_accumulate;

use super::ir::{Array, Builder, Builtin, Expr, Scalar};
use super::{Launch, Lowered, Slot, linear_grid};
use crate::optimizer::{Optimizer, Rule};
use crate::plan::{ALIGN_WORDS, CLASS_WORDS, Limits, StepWord};
use crate::precision::Precision;

/// Where one parameter lies in the flat arenas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSlot {
    /// Its path.
    pub path: String,
    /// First word, a multiple of 64.
    pub offset: usize,
    /// Sizes.
    pub shape: Vec<usize>,
    /// Whether it has optimiser state: some objective of the stage updates it.
    pub trained: bool,
    /// Whether this update changes it.
    pub updated: bool,
    /// Whether it decays.
    pub decayed: bool,
    /// Its class, among parameters that had equally many updates.
    pub class: usize,
}

impl TensorSlot {
    /// What kernels look at.
    fn flags(&self) -> Result<u32, String> {
        let class = u32::try_from(self.class * CLASS_WORDS);
        let class = class.map_err(|_| "there are too many objectives".to_owned())?;
        let updated = if self.updated { UPDATED } else { 0 };
        let decayed = if self.decayed { DECAYED } else { 0 };
        Ok(updated | decayed | (class << CLASS_SHIFT))
    }

    fn words(&self) -> usize {
        self.shape.iter().product()
    }
}

/// One arena of optimiser state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateArena {
    /// `m`, `v`, `factors`.
    pub name: &'static str,
    /// Its length.
    pub words: usize,
}

/// An update as launches. Slots: inputs are parameters, gradients and the table; outputs are the
/// state arenas; scratch 0 holds the norm and the gradient factor.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LoweredUpdate {
    /// What runs.
    pub lowered: Lowered,
    /// Flags of all blocks, then what the rule adds; uploaded once.
    pub table: Vec<u32>,
    /// State, zero before the first step.
    pub states: Vec<StateArena>,
}

const PARAMETERS: Slot = Slot::Input(0);
const GRADIENTS: Slot = Slot::Input(1);
const TABLE: Slot = Slot::Input(2);
/// Word 0: global norm of the gradients; word 1: factor that clips them; word 2: see [`APPLIES`]; the rule's
/// own from word 64.
const NORM: Slot = Slot::Scratch(0);
const PARTIALS: Slot = Slot::Scratch(1);
/// The word of the norm that is zero where scaled gradients are not finite: then nothing is updated.
const APPLIES: u32 = 2;
/// The exponent of what is not finite.
const INFINITE: u32 = 0x7f80_0000;

const UPDATED: u32 = 1;
const DECAYED: u32 = 2;
/// The bits above hold how far the scalars of the class lie behind those of the first.
const CLASS_SHIFT: u32 = 2;
const LANES: usize = 64;
/// Blocks that one workgroup updates: eight lanes each.
const BLOCKS: usize = LANES / 8;

/// Builds the update of all tensors.
///
/// # Errors
/// A tensor that the rule cannot take.
pub fn lower_update(
    optimizer: &Optimizer,
    tensors: &[TensorSlot],
    total_words: usize,
    limits: &Limits,
    precision: Precision,
) -> Result<LoweredUpdate, String> {
    let blocks = total_words.div_ceil(ALIGN_WORDS);
    let mut update = LoweredUpdate {
        table: flags(tensors, blocks)?,
        ..LoweredUpdate::default()
    };
    norm(optimizer, blocks, (limits, precision), &mut update.lowered)?;
    let full = |name| StateArena {
        name,
        words: total_words,
    };
    let step = Step {
        blocks,
        limits,
        precision,
    };
    match &optimizer.rule {
        Rule::AdamW { beta1, beta2, eps } => {
            update.states = vec![full("m"), full("v")];
            let launch = step.elementwise("adamw", 2, &|b, at| {
                let [m, v] = [&at.states[0], &at.states[1]];
                let m = b.bind("m_new", blend(*beta1, &m.old, &at.gradient));
                let square = &at.gradient * &at.gradient;
                let v = b.bind("v_new", blend(*beta2, &v.old, &square));
                let m_hat = &m / at.word(StepWord::BiasCorrection1);
                let v_hat = &v / at.word(StepWord::BiasCorrection2);
                let direction = m_hat / (v_hat.sqrt() + real(*eps));
                (direction, vec![m, v])
            })?;
            update.lowered.launches.push(launch);
        }
        Rule::Lion { beta1, beta2 } => {
            update.states = vec![full("m")];
            let launch = step.elementwise("lion", 1, &|b, at| {
                let mixed = b.bind("mixed", blend(*beta1, &at.states[0].old, &at.gradient));
                let zero = Expr::from(0.0f32);
                let up = zero.less(mixed.clone()).select(1.0f32, 0.0f32);
                let down = mixed.less(zero).select(1.0f32, 0.0f32);
                let m = b.bind("m_new", blend(*beta2, &at.states[0].old, &at.gradient));
                (up - down, vec![m])
            })?;
            update.lowered.launches.push(launch);
        }
        Rule::Sgd { momentum } => {
            update.states = vec![full("m")];
            let launch = step.elementwise("sgd", 1, &|b, at| {
                let m = &at.states[0].old * real(*momentum) + &at.gradient;
                let m = b.bind("m_new", m);
                (m.clone(), vec![m])
            })?;
            update.lowered.launches.push(launch);
        }
        Rule::Adafactor { .. } => {
            let with = (limits, precision);
            adafactor::lower(&optimizer.rule, tensors, total_words, with, &mut update)?;
        }
    }
    Ok(update)
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "hyperparameters become device floats"
)]
fn real(value: f64) -> Expr {
    Expr::from(value as f32)
}

/// `decay * old + (1 - decay) * new`.
fn blend(decay: f64, old: &Expr, new: &Expr) -> Expr {
    old * real(decay) + new * real(1.0 - decay)
}

fn flags(tensors: &[TensorSlot], blocks: usize) -> Result<Vec<u32>, String> {
    let mut flags = vec![0; blocks];
    for tensor in tensors {
        let first = tensor.offset / ALIGN_WORDS;
        let end = first + tensor.words().div_ceil(ALIGN_WORDS);
        let own = tensor.flags()?;
        for flag in flags.iter_mut().take(end).skip(first) {
            *flag = own;
        }
    }
    Ok(flags)
}

/// The block and lane of an invocation: eight lanes walk the 16 vec4 of one block.
fn block_and_lane(b: &mut Builder) -> (Expr, Expr) {
    let group = b.linear_group();
    let local = Expr::builtin(Builtin::LocalIndex);
    let block = b.bind("block", group * BLOCKS as u32 + (&local >> 3u32));
    let lane = b.bind("lane_of_block", &local & 7u32);
    (block, lane)
}

/// Global norm of the gradients in use: squares per lane over a run of blocks, then one workgroup
/// adds the lanes in order. Also the factor that brings the norm to at most the clip.
fn norm(
    optimizer: &Optimizer,
    blocks: usize,
    (limits, precision): (&Limits, Precision),
    lowered: &mut Lowered,
) -> Result<(), String> {
    let runs = blocks.min(1_024);
    let per_run = blocks.div_ceil(runs.max(1));
    let groups = runs.div_ceil(BLOCKS);
    let partials = groups * LANES;
    lowered.scratch = vec![ALIGN_WORDS, partials];
    let mut b = Builder::new("gradient_squares", [LANES as u32, 1, 1]);
    b.doc("Squares of the gradients in use, summed per lane over a run of blocks.");
    let gradients = b.binding("gradients", Scalar::F32, true);
    let flags = b.binding("flags", Scalar::U32, false);
    let out = b.binding("partials", Scalar::F32, false);
    let per_run_word = b.size("blocks_per_run", per_run);
    let total = b.size("blocks", blocks);
    let (run, lane) = block_and_lane(&mut b);
    let sum = b.var("sum", 0.0f32);
    let first = b.bind("first", &run * &per_run_word);
    let end = b.bind("end", total.min(&first + &per_run_word));
    b.repeat("at", first, end, 1u32, |b, block| {
        b.when((flags.at(block) & UPDATED).differs(0u32), |b| {
            b.repeat("half", 0u32, 2u32, 1u32, |b, half| {
                let g = b.bind("g", gradients.at4(block * 16u32 + half * 8u32 + &lane));
                let part = |i: usize| g.component(i) * g.component(i);
                b.assign(&sum, &sum + ((part(0) + part(1)) + (part(2) + part(3))));
            });
        });
    });
    b.store(out, run * 8u32 + lane, sum);
    let bytes = 4 * (blocks * ALIGN_WORDS) as u64;
    let flops = 2 * (blocks * ALIGN_WORDS) as u64;
    let slots = vec![GRADIENTS, TABLE, PARTIALS];
    lowered.launches.push(Launch::new(
        b,
        slots,
        linear_grid(groups, limits),
        flops,
        bytes,
    )?);
    lowered
        .launches
        .push(norm_of_partials(optimizer, partials, precision)?);
    Ok(())
}

/// The norm over the partial sums of all arenas; its slots are those of an update. Of gradients of a scaled
/// objective, it is that of the true ones, and what clips them also scales them back.
///
/// # Errors
/// More partial sums than a kernel can address.
pub fn norm_of_partials(
    optimizer: &Optimizer,
    partials: usize,
    precision: Precision,
) -> Result<Launch, String> {
    let mut b = Builder::new("gradient_norm", [LANES as u32, 1, 1]);
    b.doc("Global norm of the gradients and the factor that clips them.");
    let parts = b.binding("partials", Scalar::F32, false);
    let out = b.binding("norm", Scalar::F32, false);
    let scaled = precision == Precision::Mixed;
    let share = scaled.then(|| {
        let step = b.binding("step", Scalar::U32, false);
        step_word(step, StepWord::GradientShare)
    });
    let shared = b.workgroup_array("sums", super::ir::Ty::F32, LANES as u32);
    let count = b.size("partials_count", partials);
    let lane = Expr::builtin(Builtin::LocalIndex);
    let sum = b.var("sum", 0.0f32);
    b.repeat("at", lane.clone(), count, LANES as u32, |b, at| {
        b.assign(&sum, &sum + parts.at(at));
    });
    b.store(shared, lane.clone(), sum);
    b.barrier();
    b.when(lane.equals(0u32), |b| {
        let total = b.var("total", 0.0f32);
        b.repeat("at", 0u32, LANES as u32, 1u32, |b, at| {
            b.assign(&total, &total + shared.at(at));
        });
        let share = share.map(|it| b.bind("share", it));
        let root = match &share {
            Some(share) => total.sqrt() * share,
            None => total.sqrt(),
        };
        let norm = b.bind("norm_value", root);
        b.store(out, 0u32, norm.clone());
        let factor = match optimizer.clip {
            // A norm of zero divides to infinity, which the minimum takes back to one.
            Some(clip) => (real(clip) / norm.max(1e-30f32)).min(1.0f32),
            None => Expr::from(1.0f32),
        };
        let Some(share) = share else {
            b.store(out, 1u32, factor);
            return;
        };
        b.store(out, 1u32, factor * share);
        let exponent = norm.bitcast(Scalar::U32) & INFINITE;
        b.store(out, APPLIES, exponent.less(INFINITE).select(1.0f32, 0.0f32));
    });
    let bytes = 4 * partials as u64;
    let mut slots = vec![PARTIALS, NORM];
    slots.extend(scaled.then_some(Slot::Step));
    Launch::new(b, slots, [1, 1, 1], partials as u64, bytes)
}

/// What an elementwise rule sees of one vec4.
struct At {
    gradient: Expr,
    states: Vec<StateAt>,
    step: Array,
    /// Words to the scalars of its class.
    class: Expr,
}

/// One state arena at the current element.
struct StateAt {
    old: Expr,
}

impl At {
    /// A float of the step buffer that depends on how often the parameter was updated.
    fn word(&self, word: StepWord) -> Expr {
        class_word(self.step, word, &self.class)
    }
}

fn step_word(step: Array, word: StepWord) -> Expr {
    step.at(word as u32).bitcast(Scalar::F32)
}

/// A float of a class, whose scalars lie `class` words behind those of the first.
fn class_word(step: Array, word: StepWord, class: &Expr) -> Expr {
    step.at(class + word as u32).bitcast(Scalar::F32)
}

struct Step<'a> {
    blocks: usize,
    limits: &'a Limits,
    precision: Precision,
}

/// The flags of a block, or none where no scaled gradient may be used.
fn applied(flag: Expr, norm: Array, precision: Precision) -> Expr {
    match precision {
        Precision::Full => flag,
        Precision::Mixed => norm.at(APPLIES).equals(0.0f32).select(0u32, flag),
    }
}

type ElementRule<'a> = dyn Fn(&mut Builder, &At) -> (Expr, Vec<Expr>) + 'a;

impl Step<'_> {
    /// One launch: `parameter -= rate * direction + decay * parameter` with the rule's direction.
    fn elementwise(&self, name: &str, states: usize, rule: &ElementRule) -> Result<Launch, String> {
        let mut b = Builder::new(name, [LANES as u32, 1, 1]);
        b.doc("Update of every parameter in use; blocks of 64 words, eight lanes each.");
        let parameters = b.binding("parameters", Scalar::F32, true);
        let gradients = b.binding("gradients", Scalar::F32, true);
        let flags = b.binding("flags", Scalar::U32, false);
        let norm = b.binding("norm", Scalar::F32, false);
        let step = b.binding("step", Scalar::U32, false);
        let arrays: Vec<Array> = (0..states)
            .map(|i| b.binding(&format!("state_{i}"), Scalar::F32, true))
            .collect();
        let total = b.size("blocks", self.blocks);
        let (block, lane) = block_and_lane(&mut b);
        let inside = block.less(total.clone());
        let safe = b.bind("safe", block.min(total - 1u32));
        let flag = inside.select(flags.at(safe), 0u32);
        let flag = b.bind("flag", applied(flag, norm, self.precision));
        let factor = b.bind("clip", norm.at(1u32));
        let decays = (&flag & DECAYED).differs(0u32);
        let decay = b.bind(
            "decay",
            decays.select(step_word(step, StepWord::Decay), 0.0f32),
        );
        let rate = b.bind("rate", step_word(step, StepWord::LearningRate));
        let class = b.bind("class_words", &flag >> CLASS_SHIFT);
        b.when((&flag & UPDATED).differs(0u32), |b| {
            b.repeat("half", 0u32, 2u32, 1u32, |b, half| {
                let item = b.bind("item", &block * 16u32 + half * 8u32 + &lane);
                let gradient = b.bind("gradient", gradients.at4(&item) * &factor);
                let old = |(i, array): (usize, &Array)| StateAt {
                    old: b.bind(&format!("old_{i}"), array.at4(&item)),
                };
                let states = arrays.iter().enumerate().map(old).collect();
                let at = At {
                    gradient,
                    states,
                    step,
                    class: class.clone(),
                };
                let (direction, new) = rule(b, &at);
                for (array, value) in arrays.iter().zip(new) {
                    b.store(*array, item.clone(), value);
                }
                let parameter = b.bind("parameter", parameters.at4(&item));
                let change = direction * &rate + &parameter * &decay;
                b.store(parameters, item, parameter - change);
            });
        });
        let mut slots = vec![PARAMETERS, GRADIENTS, TABLE, NORM, Slot::Step];
        slots.extend((0..states).map(Slot::Output));
        let words = (self.blocks * ALIGN_WORDS) as u64;
        let grid = linear_grid(self.blocks.div_ceil(BLOCKS), self.limits);
        Launch::new(
            b,
            slots,
            grid,
            12 * words,
            4 * words * (3 + 2 * states as u64),
        )
    }
}
