//! Optimiser updates over flat arenas: a fixed number of launches for any number of tensors.
//!
//! Parameters, gradients and momenta share one layout; tensors start at multiples of 64 words, and
//! a constant table holds one word per 64-word block: how many of its words are trained, and
//! whether they decay. The squares of all trained gradients are summed per workgroup, then over
//! workgroups in order; the clip factor follows. AdamW, Lion and SGD then take one elementwise
//! launch. Adafactor's factored tensors add row means, column means and their mean (see
//! [`adafactor`]).

mod adafactor;

use super::ir::{Array, Builder, Builtin, Expr, Kernel, Scalar, Ty};
use super::linear_grid;
use super::team::{self, Team};
use crate::optimizer::{Optimizer, Rule};
use crate::plan::{Limits, StepWord};

/// Words of a block; tensors start at its multiples.
pub const BLOCK: usize = 64;
/// vec4 that a workgroup updates.
const CHUNK: usize = 1024;
/// Most partial sums of the gradient norm.
const PARTIALS: usize = 256;
/// Flag of a block whose words decay; the low bits count its trained words.
const DECAYS: u32 = 1 << 8;

/// A tensor of the parameter arena.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSlot {
    /// Its path.
    pub path: String,
    /// First word in the parameter and gradient arenas, a multiple of [`BLOCK`].
    pub offset_words: usize,
    /// Sizes.
    pub shape: Vec<usize>,
    /// Whether it changes.
    pub trained: bool,
    /// Whether it decays.
    pub decayed: bool,
}

impl TensorSlot {
    fn words(&self) -> usize {
        self.shape.iter().product()
    }

    fn blocks(&self) -> std::ops::Range<usize> {
        let first = self.offset_words / BLOCK;
        first..first + self.words().div_ceil(BLOCK)
    }
}

/// What a binding of an update launch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum UpdateSlot {
    /// The whole parameter arena.
    Parameters,
    /// The whole gradient arena.
    Gradients,
    /// A state arena, by number.
    State(usize),
    /// The step buffer.
    Step,
    /// A table of constants, by number.
    Constant(usize),
    /// Scratch memory, by number.
    Scratch(usize),
}

/// One run of one update kernel.
#[derive(Clone, Debug, PartialEq)]
pub struct UpdateLaunch {
    /// What runs.
    pub kernel: Kernel,
    /// What its storage bindings are, in order.
    pub bindings: Vec<UpdateSlot>,
    /// Its uniform words.
    pub sizes: Vec<u32>,
    /// Workgroup counts.
    pub workgroups: [u32; 3],
    /// Floating-point operations.
    pub flops: u64,
    /// Bytes read and written, each operand once.
    pub bytes: u64,
}

/// An update as launches, to be run in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LoweredUpdate {
    /// What runs.
    pub launches: Vec<UpdateLaunch>,
    /// Tables, uploaded once.
    pub constants: Vec<Vec<u32>>,
    /// State arenas, zero before the first step: name and length in words.
    pub state: Vec<(String, usize)>,
    /// Scratch buffers by their length in words. Scratch 0 holds the clip factor, then `grad_norm`.
    pub scratch: Vec<usize>,
}

/// Where `grad_norm`, the global norm of the trained gradients before clipping, can be read:
/// scratch buffer and word.
pub const GRAD_NORM: (usize, usize) = (0, 1);

/// Lowers one update of all trained tensors.
///
/// # Errors
/// An arena beyond the device's largest binding, a misplaced tensor, or a fault of a skeleton.
pub fn lower_update(
    optimizer: &Optimizer,
    tensors: &[TensorSlot],
    total_words: usize,
    limits: &Limits,
) -> Result<LoweredUpdate, String> {
    check(tensors, total_words, limits)?;
    let mut update = Update {
        optimizer,
        tensors,
        total: total_words,
        limits,
        out: LoweredUpdate::default(),
    };
    update.out.constants.push(flags(tensors, total_words));
    update.norm()?;
    match &optimizer.rule {
        Rule::Adafactor { .. } => update.adafactor()?,
        _ => update.flat()?,
    }
    Ok(update.out)
}

/// Scratch 0: clip factor, norm, and from word [`STEP_START`] the step's floats.
const SCALARS: UpdateSlot = UpdateSlot::Scratch(0);
const STEP_START: u32 = 16;
const STEP_FLOATS: [StepWord; 5] = [
    StepWord::LearningRate,
    StepWord::BiasCorrection1,
    StepWord::BiasCorrection2,
    StepWord::Beta2,
    StepWord::Decay,
];

fn check(tensors: &[TensorSlot], total: usize, limits: &Limits) -> Result<(), String> {
    let bytes = 4 * total as u64;
    if bytes > limits.max_binding_bytes {
        let most = limits.max_binding_bytes;
        return Err(format!(
            "the parameters take {bytes} bytes; one binding holds {most}"
        ));
    }
    if !total.is_multiple_of(BLOCK) {
        return Err(format!(
            "an arena of {total} words is not a multiple of {BLOCK}"
        ));
    }
    for tensor in tensors {
        let TensorSlot {
            path, offset_words, ..
        } = tensor;
        if !offset_words.is_multiple_of(BLOCK) || offset_words + tensor.words() > total {
            return Err(format!(
                "{path} at word {offset_words} does not fit its arena"
            ));
        }
    }
    Ok(())
}

/// Per block: its trained words, and whether they decay.
fn flags(tensors: &[TensorSlot], total: usize) -> Vec<u32> {
    let mut flags = vec![0; total / BLOCK];
    for tensor in tensors.iter().filter(|tensor| tensor.trained) {
        let words = tensor.words();
        for (index, block) in tensor.blocks().enumerate() {
            let count = (words - index * BLOCK).min(BLOCK) as u32;
            flags[block] = count | if tensor.decayed { DECAYS } else { 0 };
        }
    }
    flags
}

#[expect(clippy::cast_possible_truncation, reason = "kernels compute in f32")]
fn literal(value: f64) -> Expr {
    Expr::from(value as f32)
}

struct Update<'a> {
    optimizer: &'a Optimizer,
    tensors: &'a [TensorSlot],
    total: usize,
    limits: &'a Limits,
    out: LoweredUpdate,
}

impl Update<'_> {
    fn push(
        &mut self,
        builder: Builder,
        bindings: Vec<UpdateSlot>,
        workgroups: [u32; 3],
        cost: [usize; 2],
    ) -> Result<(), String> {
        let (kernel, sizes) = builder.finish()?;
        if kernel.bindings.len() != bindings.len() {
            return Err(format!("kernel {}: wrong number of bindings", kernel.name));
        }
        let [flops, bytes] = cost.map(|it| it as u64);
        self.out.launches.push(UpdateLaunch {
            kernel,
            bindings,
            sizes,
            workgroups,
            flops,
            bytes,
        });
        Ok(())
    }

    fn vectors(&self) -> usize {
        self.total / 4
    }

    /// Sum of squares, norm and clip factor.
    fn norm(&mut self) -> Result<(), String> {
        let share = self.vectors().div_ceil(PARTIALS).div_ceil(CHUNK).max(1) * CHUNK;
        let partials = self.vectors().div_ceil(share).max(1);
        self.out.scratch.extend([64, partials]);
        self.partial_norms(share, partials)?;
        let mut b = Builder::new("gradient_norm", [8, 1, 1]);
        b.doc("Norm of all gradients and the clip factor.");
        let sums = b.binding("partial_sums", Scalar::F32, false);
        let step = b.binding("step", Scalar::U32, false);
        let result = b.binding("scalars", Scalar::F32, false);
        let count = b.size("partials", partials);
        let total = b.var("total", 0.0f32);
        b.repeat("part", 0u32, count, 1u32, |b, part| {
            b.assign(&total, &total + sums.at(part));
        });
        let norm = b.copy("norm_of_all", total.sqrt());
        let factor = match self.optimizer.clip {
            Some(limit) => literal(limit) / norm.max(literal(limit)),
            None => Expr::from(1.0f32),
        };
        // A norm that is not a number must not hide in a maximum.
        let broken = Expr::from(0x7f80_0000u32).less(norm.bitcast(Scalar::U32) & 0x7fff_ffffu32);
        let factor = broken.select(&norm, factor);
        b.when(Expr::builtin(Builtin::LocalX).equals(0u32), |b| {
            b.store(result, 0u32, factor);
            b.store(result, 1u32, norm);
            for word in STEP_FLOATS {
                let at = word as u32;
                b.store(result, STEP_START + at, step.at(at).bitcast(Scalar::F32));
            }
        });
        let bindings = vec![UpdateSlot::Scratch(1), UpdateSlot::Step, SCALARS];
        self.push(b, bindings, [1, 1, 1], [partials, 4 * partials])
    }

    fn partial_norms(&mut self, share: usize, partials: usize) -> Result<(), String> {
        let lanes = team::lanes(self.limits, 256);
        let mut b = Builder::new("gradient_squares", [lanes, 1, 1]);
        b.doc("Sum of squares of trained gradients, one part per workgroup.");
        let gradients = b.binding("gradients", Scalar::F32, true);
        let table = b.binding("blocks", Scalar::U32, false);
        let sums = b.binding("partial_sums", Scalar::F32, false);
        let team = Team::new(&mut b, self.limits, lanes, Ty::F32);
        let vectors = b.size("vectors", self.vectors());
        let share_word = b.size("share", share);
        let part = b.linear_group();
        let from = b.bind("from", &part * &share_word);
        let to = b.bind("to", (&from + share_word).min(vectors));
        let total = b.var("total", Expr::from(0.0f32).splat());
        b.repeat("vector", &from + &team.lane, &to, lanes, |b, vector| {
            let count = b.copy("count", table.at(vector >> 4u32) & 0xffu32);
            let first = b.copy("first", (vector & 15u32) * 4u32);
            let indices = Expr::vec4([0u32, 1, 2, 3].map(|part| &first + part));
            let inside = indices.less(count);
            let value = b.copy("value", inside.select(gradients.at4(vector), 0.0f32));
            b.assign(&total, &total + &value * &value);
        });
        let own = [1, 2, 3]
            .iter()
            .fold(total.component(0), |sum, part| sum + total.component(*part));
        let all = team.sum(&mut b, &own);
        b.when(team.lane.equals(0u32), |b| b.store(sums, &part, all));
        let bindings = vec![
            UpdateSlot::Gradients,
            UpdateSlot::Constant(0),
            UpdateSlot::Scratch(1),
        ];
        let grid = [u32::try_from(partials).unwrap_or(u32::MAX), 1, 1];
        self.push(b, bindings, grid, [2 * self.total, 4 * self.total])
    }

    /// AdamW, Lion and SGD: one elementwise launch.
    fn flat(&mut self) -> Result<(), String> {
        let names: &[&str] = match self.optimizer.rule {
            Rule::AdamW { .. } => &["m", "v"],
            _ => &["m"],
        };
        for name in names {
            self.out.state.push(((*name).to_owned(), self.total));
        }
        let lanes = team::lanes(self.limits, 256);
        let mut b = Builder::new(self.name(), [lanes, 1, 1]);
        b.doc("All trained parameters, four words per lane and step.");
        let parameters = b.binding("parameters", Scalar::F32, true);
        let gradients = b.binding("gradients", Scalar::F32, true);
        let states: Vec<Array> = names
            .iter()
            .map(|name| b.binding(name, Scalar::F32, true))
            .collect();
        let table = b.binding("blocks", Scalar::U32, false);
        let scalars = Scalars::bind(&mut b);
        let vectors = b.size("vectors", self.vectors());
        let chunk = b.size("chunk", CHUNK);
        let from = b.linear_group() * &chunk;
        let from = b.bind("from", from);
        let to = b.bind("to", (&from + chunk).min(vectors));
        let lane = Expr::builtin(Builtin::LocalX);
        b.repeat("vector", from + lane, &to, lanes, |b, vector| {
            let flags = b.copy("flags", table.at(vector >> 4u32));
            b.when(flags.differs(0u32), |b| {
                let gradient = b.copy("gradient", gradients.at4(vector) * &scalars.factor);
                let value = b.copy("value", parameters.at4(vector));
                let change = self.change(b, &scalars, &states, vector, &gradient);
                let decay = (&flags & DECAYS)
                    .differs(0u32)
                    .select(&scalars.decay, 0.0f32);
                b.store(parameters, vector, &value - change - &value * decay);
            });
        });
        let mut bindings = vec![UpdateSlot::Parameters, UpdateSlot::Gradients];
        bindings.extend((0..names.len()).map(UpdateSlot::State));
        bindings.extend([UpdateSlot::Constant(0), SCALARS]);
        let grid = linear_grid(self.vectors().div_ceil(CHUNK), self.limits);
        let streams = 3 + 2 * names.len();
        self.push(
            b,
            bindings,
            grid,
            [10 * self.total, 4 * streams * self.total],
        )
    }

    fn name(&self) -> &'static str {
        match self.optimizer.rule {
            Rule::AdamW { .. } => "adamw",
            Rule::Lion { .. } => "lion",
            Rule::Sgd { .. } => "sgd",
            Rule::Adafactor { .. } => "adafactor",
        }
    }

    /// What is subtracted from the parameter besides decay; the states move on.
    fn change(
        &self,
        b: &mut Builder,
        scalars: &Scalars,
        states: &[Array],
        at: &Expr,
        gradient: &Expr,
    ) -> Expr {
        let momentum = b.copy("momentum", states[0].at4(at));
        match &self.optimizer.rule {
            Rule::AdamW { beta1, beta2, eps } => {
                let m = b.copy("m_next", moved(&momentum, gradient, *beta1));
                let square = b.copy("square", gradient * gradient);
                let v = b.copy("v_next", moved(&states[1].at4(at), &square, *beta2));
                b.store(states[0], at, &m);
                b.store(states[1], at, &v);
                let root = (v / &scalars.correction2).sqrt() + literal(*eps);
                m / &scalars.correction1 / root * &scalars.rate
            }
            Rule::Lion { beta1, beta2 } => {
                let mixed = b.copy("mixed", moved(&momentum, gradient, *beta1));
                b.store(states[0], at, moved(&momentum, gradient, *beta2));
                let zero = Expr::from(0.0f32).splat();
                let up = zero.less(&mixed).select(1.0f32, 0.0f32);
                let down = mixed.less(&zero).select(1.0f32, 0.0f32);
                (up - down) * &scalars.rate
            }
            Rule::Sgd { momentum: factor } => {
                let m = b.copy("m_next", momentum * literal(*factor) + gradient);
                b.store(states[0], at, &m);
                m * &scalars.rate
            }
            // Lowered by its own launches.
            Rule::Adafactor { .. } => momentum,
        }
    }
}

/// `beta old + (1 - beta) new`.
fn moved(old: &Expr, new: &Expr, beta: f64) -> Expr {
    old * literal(beta) + new * literal(1.0 - beta)
}

/// This step's scalars, as the launch of the norm leaves them.
struct Scalars {
    /// Clip factor of the gradients.
    factor: Expr,
    rate: Expr,
    correction1: Expr,
    correction2: Expr,
    beta2: Expr,
    decay: Expr,
}

impl Scalars {
    /// Adds the binding [`SCALARS`].
    fn bind(b: &mut Builder) -> Self {
        let scalars = b.binding("scalars", Scalar::F32, false);
        let step = |word: StepWord| scalars.at(STEP_START + word as u32);
        Self {
            factor: b.bind("factor", scalars.at(0u32)),
            rate: b.bind("rate", step(StepWord::LearningRate)),
            correction1: b.bind("correction1", step(StepWord::BiasCorrection1)),
            correction2: b.bind("correction2", step(StepWord::BiasCorrection2)),
            beta2: b.bind("beta2", step(StepWord::Beta2)),
            decay: b.bind("decay", step(StepWord::Decay)),
        }
    }

    /// The running mean with this step's beta2.
    fn averaged(&self, old: &Expr, new: &Expr) -> Expr {
        old * &self.beta2 + new * (Expr::from(1.0f32) - &self.beta2)
    }
}
