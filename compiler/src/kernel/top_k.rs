//! Top-k of score rows, and the router in one kernel: product, noise, softmax, top-k.
//!
//! One lane owns one token row and holds the row's scores in named scalars (so at most
//! [`MOST_EXPERTS`] experts). The router walks the summed axis in steps of four: the four rows of w
//! are 4 E consecutive words. On cpu-vulkan each of the eight lanes loads every eighth vec4 of them
//! and the words are broadcast by shuffles; on gpu a block of w lies in workgroup memory.
//!
//! Rows past the last are clamped to the last: lanes that repeat it write the same values.

use super::ir::{Array, Builder, Builtin, Expr, Scalar, Ty};
use super::{Launch, Lowered, Slot, linear_grid};
use crate::plan::{Limits, Profile};

/// Most scores a lane holds.
const MOST_EXPERTS: usize = 128;

/// What a score that is not a number counts as, and the floor of all others.
const FLOOR: f32 = -3.4e38;

/// Sizes of the router kernel, as [`super::spec::KernelSpec::RouteScores`] states them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Router {
    /// Number of rows.
    pub(super) tokens: usize,
    /// Width of a row.
    pub(super) width: usize,
    /// Number of experts.
    pub(super) experts: usize,
    /// Choices.
    pub(super) k: usize,
    /// Factor of the noise.
    pub(super) noise: Option<f64>,
    /// Which of logits, routed logits, probs, indices and weights are stored.
    pub(super) wanted: [bool; 5],
}

fn check(experts: usize, k: usize) -> Result<(), String> {
    match experts {
        0 => Err("a router needs an expert".to_owned()),
        _ if experts > MOST_EXPERTS => {
            Err(format!("at most {MOST_EXPERTS} experts, not {experts}"))
        }
        _ if k == 0 || k > experts => Err(format!("{k} choices among {experts} experts")),
        _ => Ok(()),
    }
}

fn row_lanes(limits: &Limits) -> u32 {
    super::team::lanes(limits, 64)
}

/// The row of this lane, clamped.
fn row_of(b: &mut Builder, lanes: u32, tokens: &Expr) -> Expr {
    let group = b.linear_group();
    let row = group * lanes + Expr::builtin(Builtin::LocalX);
    b.bind("row", row.min(tokens - 1u32))
}

/// Top-k rows of `scores [tokens, experts]`.
pub(super) fn lower_top_k(
    [tokens, experts, k]: [usize; 3],
    values: bool,
    limits: &Limits,
) -> Result<Lowered, String> {
    check(experts, k)?;
    let lanes = row_lanes(limits);
    let mut b = Builder::new("top_k", [lanes, 1, 1]);
    b.doc(format!(
        "One lane per row: the {k} largest of {experts} scores, ties to the lower index."
    ));
    let scores = b.binding("scores", Scalar::F32, false);
    let indices = b.binding("indices", Scalar::U32, false);
    let weights = values.then(|| b.binding("weights", Scalar::F32, false));
    let rows = b.size("tokens", tokens);
    let choices = b.size("choices", k);
    let row = row_of(&mut b, lanes, &rows);
    let base = b.bind("base", &row * as_u32(experts));
    let loaded: Vec<Expr> = (0..as_u32(experts))
        .map(|expert| b.copy("score", scores.at(&base + expert)))
        .collect();
    choose(&mut b, &loaded, k, &choices, |b, choice, best| {
        let place = b.bind("place", &row * &choices + choice);
        b.store(indices, &place, best);
        if let Some(weights) = weights {
            b.store(weights, &place, scores.at(&base + best));
        }
    });
    let outputs = if values { 2 } else { 1 };
    let bindings = [Slot::Input(0)]
        .into_iter()
        .chain((0..outputs).map(Slot::Output));
    let grid = linear_grid(tokens.div_ceil(lanes as usize), limits);
    let bytes = 4 * tokens * (experts + outputs * k);
    let launch = Launch::new(b, bindings.collect(), grid, 0, bytes as u64)?;
    Ok(Lowered {
        launches: vec![launch],
        scratch: Vec::new(),
    })
}

/// k passes of a masked maximum over named scores; `found` gets the choice and the index.
/// A score that is not a number is never preferred; k different indices result in any case.
fn choose(
    b: &mut Builder,
    scores: &[Expr],
    k: usize,
    choices: &Expr,
    mut found: impl FnMut(&mut Builder, &Expr, &Expr),
) {
    let open: Vec<Expr> = scores
        .iter()
        .map(|score| {
            let number = (score.bitcast(Scalar::U32) & 0x7fff_ffffu32).at_most(0x7f80_0000u32);
            b.var("open", number.select(score.max(FLOOR), FLOOR))
        })
        .collect();
    let largest = |b: &mut Builder| {
        let (mut best, mut index) = (open[0].clone(), Expr::from(0u32));
        for (expert, score) in (0u32..).zip(&open).skip(1) {
            let better = b.copy("better", best.less(score));
            best = b.copy("best", better.select(score, &best));
            index = b.copy("index", better.select(expert, &index));
        }
        b.copy("chosen", index)
    };
    if k == 1 {
        let index = largest(b);
        return found(b, &Expr::from(0u32), &index);
    }
    b.repeat("choice", 0u32, choices, 1u32, |b, choice| {
        let index = largest(b);
        for (expert, score) in (0u32..).zip(&open) {
            b.assign(score, index.equals(expert).select(f32::MIN, score));
        }
        found(b, choice, &index);
    });
}

/// Softmax of the routed logits, then the choices and their weights.
fn finish_routing(
    b: &mut Builder,
    spec: &Router,
    outputs: &Outputs,
    logits: &[Expr],
    [row, base, choices]: [&Expr; 3],
) {
    let [.., probs, indices, weights] = outputs.arrays;
    let mut most = logits[0].clone();
    for logit in &logits[1..] {
        most = b.copy("most", most.max(logit));
    }
    let routed: Vec<Expr> = logits.iter().map(|logit| b.copy("routed", logit)).collect();
    let mut total = Expr::from(0.0f32);
    for logit in logits {
        b.assign(logit, (logit - &most).exp());
        total = b.copy("total", total + logit);
    }
    let scale = b.copy("scale", Expr::from(1.0f32) / total);
    if let Some(probs) = probs {
        for (expert, share) in (0u32..).zip(logits) {
            b.store(probs, base + expert, share * &scale);
        }
    }
    if indices.is_none() && weights.is_none() {
        return;
    }
    choose(b, &routed, spec.k, choices, |b, choice, best| {
        let place = b.bind("place", row * choices + choice);
        if let Some(indices) = indices {
            b.store(indices, &place, best);
        }
        if let Some(weights) = weights {
            let mut share = logits[0].clone();
            for (expert, other) in (0u32..).zip(logits).skip(1) {
                share = b.copy("share", best.equals(expert).select(other, share));
            }
            b.store(weights, &place, share * &scale);
        }
    });
}

impl Router {
    /// One launch.
    pub(super) fn lower(&self, limits: &Limits) -> Result<Lowered, String> {
        check(self.experts, self.k)?;
        let lanes = row_lanes(limits);
        let mut b = Builder::new("route_scores", [lanes, 1, 1]);
        b.doc(format!(
            "One lane per token: {} logits, softmax, {} choices.",
            self.experts, self.k
        ));
        let wide = self.width.is_multiple_of(4);
        let x = b.binding("x", Scalar::F32, wide);
        let w = b.binding("w", Scalar::F32, wide);
        let noise = self
            .noise
            .map(|factor| (b.binding("noise", Scalar::F32, false), factor));
        let outputs = Outputs::declare(&mut b, self.wanted);
        let tokens = b.size("tokens", self.tokens);
        let width = b.size("width", self.width);
        let choices = b.size("choices", self.k);
        let row = row_of(&mut b, lanes, &tokens);
        let zero = Expr::from(0.0f32);
        let logits: Vec<Expr> = (0..self.experts).map(|_| b.var("logit", &zero)).collect();
        let operands = Operands {
            x,
            w,
            wide,
            row: row.clone(),
            width,
            logits: logits.clone(),
        };
        match limits.profile {
            Profile::CpuVulkan => operands.sum_by_shuffle(&mut b),
            Profile::Gpu => operands.sum_by_memory(&mut b, lanes),
        }
        let base = b.bind("base", &row * as_u32(self.experts));
        outputs.store_row(&mut b, 0, &base, &logits);
        if let Some((noise, factor)) = noise {
            for (expert, logit) in (0u32..).zip(&logits) {
                b.assign(logit, logit + noise.at(&base + expert) * as_f32(factor));
            }
        }
        outputs.store_row(&mut b, 1, &base, &logits);
        finish_routing(&mut b, self, &outputs, &logits, [&row, &base, &choices]);
        let grid = linear_grid(self.tokens.div_ceil(lanes as usize), limits);
        let flops = 2 * self.tokens * self.width * self.experts;
        let launch = Launch::new(
            b,
            outputs.slots(self.noise.is_some()),
            grid,
            flops as u64,
            self.bytes(),
        )?;
        Ok(Lowered {
            launches: vec![launch],
            scratch: Vec::new(),
        })
    }

    fn bytes(&self) -> u64 {
        let table = self.tokens * self.experts;
        let choices = self.tokens * self.k;
        let noise = if self.noise.is_some() { table } else { 0 };
        let sizes = [table, table, table, choices, choices];
        let stored: usize = sizes
            .iter()
            .zip(self.wanted)
            .filter(|(_, wanted)| *wanted)
            .map(|(size, _)| size)
            .sum();
        4 * (self.tokens * self.width + self.width * self.experts + noise + stored) as u64
    }
}

/// The stored results: logits, routed logits, probs, indices, weights.
struct Outputs {
    arrays: [Option<Array>; 5],
}

impl Outputs {
    fn declare(b: &mut Builder, wanted: [bool; 5]) -> Self {
        let names = ["logits", "routed_logits", "probs", "indices", "weights"];
        let mut arrays = [None; 5];
        for (index, array) in arrays.iter_mut().enumerate() {
            let scalar = if index == 3 { Scalar::U32 } else { Scalar::F32 };
            *array = wanted[index].then(|| b.binding(names[index], scalar, false));
        }
        Self { arrays }
    }

    fn store_row(&self, b: &mut Builder, output: usize, base: &Expr, values: &[Expr]) {
        if let Some(array) = self.arrays[output] {
            for (column, value) in (0u32..).zip(values) {
                b.store(array, base + column, value);
            }
        }
    }

    fn slots(&self, noise: bool) -> Vec<Slot> {
        let inputs = if noise { 3 } else { 2 };
        let outputs = self.arrays.iter().flatten().count();
        (0..inputs)
            .map(Slot::Input)
            .chain((0..outputs).map(Slot::Output))
            .collect()
    }
}

/// The product's operands and its accumulators.
struct Operands {
    x: Array,
    w: Array,
    wide: bool,
    row: Expr,
    width: Expr,
    logits: Vec<Expr>,
}

impl Operands {
    fn experts(&self) -> u32 {
        as_u32(self.logits.len())
    }

    /// Four words of an array from word `4 * index`; past `words` they repeat the last.
    fn four(&self, b: &mut Builder, array: Array, index: &Expr, words: &Expr) -> Expr {
        if self.wide {
            let most = b.bind("most_four", (words >> 2u32) - 1u32);
            return b.copy("four", array.at4(index.min(most)));
        }
        let part = |part: u32| array.at((index * 4u32 + part).min(words - 1u32));
        b.copy("four", Expr::vec4([part(0), part(1), part(2), part(3)]))
    }

    /// x of this lane's row at four columns; zero past the width.
    fn tokens(&self, b: &mut Builder, column: &Expr) -> Expr {
        if self.wide {
            let index = (&self.row * (&self.width >> 2u32)) + (column >> 2u32);
            return b.copy("x_four", self.x.at4(index));
        }
        let part = |part: u32| {
            let inside = (column + part).less(&self.width);
            let at = &self.row * &self.width + (column + part).min(&self.width - 1u32);
            inside.select(self.x.at(at), 0.0f32)
        };
        b.copy("x_four", Expr::vec4([part(0), part(1), part(2), part(3)]))
    }

    fn sum_by_shuffle(&self, b: &mut Builder) {
        let experts = self.experts();
        let words = b.bind("words", &self.width * experts);
        b.repeat("column", 0u32, &self.width, 4u32, |b, column| {
            let x = self.tokens(b, column);
            let base = b.bind(
                "w_base",
                (column >> 2u32) * experts + Expr::builtin(Builtin::LocalX),
            );
            let loads: Vec<Expr> = (0..experts.div_ceil(8))
                .map(|load| self.four(b, self.w, &(&base + load * 8), &words))
                .collect();
            for (expert, logit) in (0u32..).zip(&self.logits) {
                let mut sum = logit.clone();
                for k in 0..4 {
                    let word = k as u32 * experts + expert;
                    let four = &loads[(word / 32) as usize];
                    let weight = four.component((word % 4) as usize).shuffle(word / 4 % 8);
                    sum = sum + x.component(k) * weight;
                }
                b.assign(logit, sum);
            }
        });
    }

    fn sum_by_memory(&self, b: &mut Builder, lanes: u32) {
        let experts = self.experts();
        let depth = 16u32;
        let block = b.workgroup_array("block", Ty::F32, depth * experts);
        let words = b.bind("words", &self.width * experts);
        b.repeat("column", 0u32, &self.width, depth, |b, column| {
            let first = b.bind("first", column * experts);
            let own = Expr::builtin(Builtin::LocalX);
            b.repeat("word", own, depth * experts, lanes, |b, word| {
                b.store(block, word, self.w.at((&first + word).min(&words - 1u32)));
            });
            b.barrier();
            b.repeat("inner", 0u32, depth, 4u32, |b, inner| {
                let inside = b.copy("inside", (column + inner).less(&self.width));
                let at = b.copy("at", inside.select(column + inner, 0u32));
                let x = self.tokens(b, &at);
                let x = b.copy("x_inside", inside.select(x, 0.0f32));
                let base = b.copy("block_base", inner * experts);
                for (expert, logit) in (0u32..).zip(&self.logits) {
                    let mut sum = logit.clone();
                    for k in 0..4u32 {
                        let weight = block.at(&base + (k * experts + expert));
                        sum = sum + x.component(k as usize) * weight;
                    }
                    b.assign(logit, sum);
                }
            });
            b.barrier();
        });
    }
}

fn as_u32(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

#[expect(clippy::cast_possible_truncation, reason = "kernels compute in f32")]
fn as_f32(value: f64) -> f32 {
    value as f32
}
