//! Attention without stored weights: every lane owns one row and walks over the rows of the other side.
//!
//! ```text
//! forward   lane: query i       over k, v               -> result i, log-sum-exp i   (online softmax)
//! queries   lane: query i, g i  over k, v               -> gradient of q i
//! keys      lane: key j, v j    over q, g, lse, mean    -> gradients of k j and v j
//! ```
//!
//! Weights are recomputed from the log-sum-exp (FlashAttention-2, arXiv 2307.08691). A lane keeps its
//! rows in named registers, four elements each. Where every query surely sees a key, a causal walk
//! covers the visible part only.
//!
//! Bounds: row indices are clamped, rows past the end own nothing and store nothing, walked rows past the
//! end weigh nothing.

mod rows;
mod stream;

use super::ir::{Array, Builder, Builtin, Expr, Scalar};
use super::operand::Address;
use super::spec::{AttentionPass, AttentionResult, MOST_HEAD_WIDTH, Matrix, Operand};
use super::team::SUBGROUP;
use super::{Launch, Lowered, Slot};
use crate::ops::{HIDDEN, SEES_NONE};
use crate::plan::{Limits, Profile};
use rows::Rows;
use stream::{Numbers, Step, Stream};

/// The score of a key that does not exist: below that of a hidden one.
const ABSENT: f32 = -3e38;

/// An attention group under lowering.
pub(crate) struct Attention<'a> {
    pub(crate) batch: [usize; 2],
    pub(crate) queries: usize,
    pub(crate) keys: usize,
    pub(crate) width: usize,
    pub(crate) scale: f64,
    pub(crate) causal: bool,
    pub(crate) operands: &'a [Matrix],
    pub(crate) mask: Option<&'a Operand>,
    pub(crate) outputs: &'a [(AttentionResult, Matrix)],
}

/// What the three walks share.
struct Frame<'a> {
    attention: &'a Attention<'a>,
    q: Rows,
    k: Rows,
    /// Bound where it is read.
    v: Option<Rows>,
    /// That of the result, for a gradient.
    gradient: Option<Rows>,
    /// Log-sum-exp and, where it is read, the mean.
    per_query: Vec<Numbers>,
    mask: Option<Numbers>,
    outputs: Vec<(AttentionResult, Rows)>,
    queries: Expr,
    keys: Expr,
    /// The row of this lane, clamped, and whether it exists.
    row: Expr,
    inside: Expr,
    /// First row of the workgroup.
    first: Expr,
    lanes: u32,
}

impl Attention<'_> {
    /// One launch.
    pub(crate) fn lower(&self, limits: &Limits) -> Result<Lowered, String> {
        let [batch, heads] = self.batch;
        if batch * heads * self.queries * self.keys * self.width == 0 {
            return Ok(Lowered::default());
        }
        if self.width > MOST_HEAD_WIDTH {
            return Err(format!("a head of {} elements", self.width));
        }
        let pass = self.pass()?;
        let (name, owned, factor) = match pass {
            AttentionPass::Forward => ("attention", self.queries, 2),
            AttentionPass::Queries => ("attention_queries", self.queries, 3),
            AttentionPass::Keys => ("attention_keys", self.keys, 4),
        };
        let lanes = match limits.profile {
            Profile::CpuVulkan => SUBGROUP,
            Profile::Gpu => {
                let rows = u32::try_from(owned).unwrap_or(u32::MAX / 2);
                rows.clamp(32, 64)
                    .next_power_of_two()
                    .min(limits.max_invocations)
            }
        };
        let mut b = Builder::new(name, [lanes, 1, 1]);
        b.doc(format!(
            "Heads of {} elements, one row per lane.",
            self.width
        ));
        let (frame, slots) = self.frame(&mut b, pass, owned, lanes);
        let (step, tile) = stream::sizes(self.width.div_ceil(4), factor, limits);
        match pass {
            AttentionPass::Forward => frame.forward(&mut b, step, tile),
            AttentionPass::Queries => frame.gradient_of_queries(&mut b, step, tile),
            AttentionPass::Keys => frame.gradient_of_keys(&mut b, step, tile),
        }
        let grid = [owned.div_ceil(lanes as usize), heads, batch];
        let grid = grid.map(|it| u32::try_from(it).unwrap_or(u32::MAX));
        let products = batch * heads * self.queries * self.keys * self.width;
        let flops = 2 * (factor * products) as u64;
        let launch = Launch::new(b, slots, grid, flops, self.traffic(pass))?;
        Ok(Lowered {
            launches: vec![launch],
            scratch: Vec::new(),
        })
    }

    fn pass(&self) -> Result<AttentionPass, String> {
        let mut passes = self.outputs.iter().map(|(result, _)| result.pass());
        let pass = passes.next().ok_or("attention gives nothing")?;
        match passes.all(|other| other == pass) {
            true => Ok(pass),
            false => Err("results of different walks".to_owned()),
        }
    }

    /// Bytes read and written, each operand once.
    fn traffic(&self, pass: AttentionPass) -> u64 {
        let [batch, heads] = self.batch;
        let (queries, keys) = (self.queries * self.width, self.keys * self.width);
        let own = match pass {
            AttentionPass::Forward => queries + 2 * keys,
            _ => 2 * queries + 2 * keys + 2 * self.queries,
        };
        let written: usize = self
            .outputs
            .iter()
            .map(|(result, _)| match result {
                AttentionResult::Mixed | AttentionResult::Queries => queries,
                AttentionResult::LogSumExp => self.queries,
                AttentionResult::Keys | AttentionResult::Values => keys,
            })
            .sum();
        4 * (batch * heads * (own + written)) as u64
    }

    fn frame(
        &self,
        b: &mut Builder,
        pass: AttentionPass,
        owned: usize,
        lanes: u32,
    ) -> (Frame<'_>, Vec<Slot>) {
        let place = [Builtin::GroupZ, Builtin::GroupY].map(Expr::builtin);
        let mut slots = Vec::new();
        let mut rows = |b: &mut Builder, number: usize, name: &str, rows: usize| {
            slots.push(Slot::Input(number));
            Rows::bind(b, name, &self.operands[number], [rows, self.width], &place)
        };
        let wants = |result| self.outputs.iter().any(|(given, _)| *given == result);
        let only = |result| self.outputs.iter().all(|(given, _)| *given == result);
        let q = rows(b, 0, "q", self.queries);
        let k = rows(b, 1, "k", self.keys);
        let reads_v = !only(AttentionResult::LogSumExp) && !only(AttentionResult::Values);
        let v = reads_v.then(|| rows(b, 2, "v", self.keys));
        let gradient =
            (pass != AttentionPass::Forward).then(|| rows(b, 3, "gradient", self.queries));
        let queries = b.size("queries", self.queries);
        let keys = b.size("keys", self.keys);
        let mut per_query = Vec::new();
        if pass != AttentionPass::Forward {
            let heads = b.size("heads", self.batch[1]);
            let head = &place[0] * heads + &place[1];
            let start = b.bind("first_query", head * &queries);
            let reads_mean = wants(AttentionResult::Queries) || wants(AttentionResult::Keys);
            let names = [("log_sum_exp", true), ("mean", reads_mean)];
            for (number, (name, _)) in names.iter().enumerate().filter(|(_, it)| it.1) {
                slots.push(Slot::Input(4 + number));
                per_query.push(Numbers {
                    array: b.binding(name, Scalar::F32, false),
                    start: start.clone(),
                    stride: None,
                });
            }
        }
        let mask = self.mask.map(|mask| {
            let before = if pass == AttentionPass::Forward { 3 } else { 6 };
            slots.push(Slot::Input(before));
            numbers(b, "mask", mask, &place[0])
        });
        let mut outputs = Vec::new();
        for (number, (result, matrix)) in self.outputs.iter().enumerate() {
            let (rows, width) = match result {
                AttentionResult::Mixed | AttentionResult::Queries => (self.queries, self.width),
                AttentionResult::LogSumExp => (self.queries, 1),
                AttentionResult::Keys | AttentionResult::Values => (self.keys, self.width),
            };
            let name = format!("output_{number}");
            outputs.push((*result, Rows::bind(b, &name, matrix, [rows, width], &place)));
            slots.push(Slot::Output(number));
        }
        let first = b.bind("first_row", Expr::builtin(Builtin::GroupX) * lanes);
        let row = b.bind("row", &first + Expr::builtin(Builtin::LocalIndex));
        let owned = b.size("rows", owned);
        let inside = b.bind("inside", row.less(&owned));
        let row = b.bind("row_clamped", row.min(owned - 1u32));
        let frame = Frame {
            attention: self,
            q,
            k,
            v,
            gradient,
            per_query,
            mask,
            outputs,
            queries,
            keys,
            row,
            inside,
            first,
            lanes,
        };
        (frame, slots)
    }

    /// Whether every query surely sees a key, so that a causal walk may leave out what it hides.
    fn walks_part(&self) -> bool {
        self.causal && self.mask.is_none() && self.keys >= self.queries
    }
}

fn numbers(b: &mut Builder, name: &str, operand: &Operand, batch: &Expr) -> Numbers {
    let array: Array = b.binding(name, Scalar::U32, false);
    let address = Address::new(b, name, &operand.view, 1);
    let stride = operand.view.strides.last().copied().unwrap_or(1);
    Numbers {
        array,
        start: b.bind(&format!("{name}_start"), address.at(&[batch.clone()])),
        stride: (stride != 1).then(|| b.size(&format!("{name}_key_stride"), stride)),
    }
}

/// The sum of products of two rows.
fn product(b: &mut Builder, name: &str, own: &[Expr], other: impl Fn(usize) -> Expr) -> Expr {
    let terms = own.iter().enumerate();
    let terms = terms.map(|(chunk, own)| own * other(chunk));
    let sum = terms.reduce(|sum, term| sum + term);
    let sum = b.copy(
        "products",
        sum.unwrap_or_else(|| Expr::from(0.0f32).splat()),
    );
    let [x, y, z, w] = [0, 1, 2, 3].map(|part| sum.component(part));
    b.copy(name, (x + y) + (z + w))
}

/// Adds weighted rows to a row of sums.
fn accumulate(
    b: &mut Builder,
    sums: &[Expr],
    weights: &[Expr],
    row: impl Fn(usize, usize) -> Expr,
) {
    for (chunk, sum) in sums.iter().enumerate() {
        let mut total = sum.clone();
        for (i, weight) in weights.iter().enumerate() {
            total = total + row(i, chunk) * weight;
        }
        b.assign(sum, total);
    }
}

fn all(conditions: Vec<Expr>) -> Option<Expr> {
    conditions.into_iter().reduce(|left, right| left.and(right))
}

impl Frame<'_> {
    fn zeros(&self, b: &mut Builder, name: &str) -> Vec<Expr> {
        let zero = Expr::from(0.0f32).splat();
        (0..self.attention.width.div_ceil(4))
            .map(|chunk| b.var(&format!("{name}_{chunk}"), &zero))
            .collect()
    }

    /// The row of this lane, where the operand is bound.
    fn own(&self, b: &mut Builder, name: &str, rows: Option<&Rows>) -> Vec<Expr> {
        rows.map_or_else(Vec::new, |rows| rows.read(b, name, &self.row))
    }

    fn wants(&self, result: AttentionResult) -> bool {
        self.outputs.iter().any(|(given, _)| *given == result)
    }

    fn write(&self, b: &mut Builder, result: AttentionResult, row: &[Expr]) {
        for (_, rows) in self.outputs.iter().filter(|(given, _)| *given == result) {
            b.when(&self.inside, |b| rows.write(b, &self.row, row));
        }
    }

    /// Keys and values as the walked side.
    fn over_keys(&self, step: usize, tile: Option<usize>) -> Stream<'_> {
        Stream {
            rows: [Some(&self.k), self.v.as_ref()]
                .into_iter()
                .flatten()
                .collect(),
            numbers: self.mask.iter().collect(),
            last: &self.keys - 1u32,
            lanes: self.lanes,
            step,
            tile,
        }
    }

    /// The keys that the queries of this workgroup walk over.
    fn key_range(&self, b: &mut Builder) -> [Expr; 2] {
        let end = match self.attention.walks_part() {
            true => {
                let more = &self.keys - &self.queries;
                b.bind(
                    "last_key",
                    (&self.first + self.lanes + more).min(&self.keys),
                )
            }
            false => self.keys.clone(),
        };
        [Expr::from(0u32), end]
    }

    /// Whether the query of this lane sees row i of a step of keys, and whether that key exists; none
    /// where it surely does.
    fn shown(&self, b: &mut Builder, first: &Expr, step: &Step, i: usize) -> [Option<Expr>; 2] {
        let key = b.bind("key", first + i as u32);
        let mut seen = Vec::new();
        if self.mask.is_some() {
            seen.push(step.number(0, i).differs(0u32));
        }
        if self.attention.causal {
            seen.push((&key + &self.queries).at_most(&self.row + &self.keys));
        }
        let exists = self
            .may_end(self.attention.keys, step)
            .then(|| key.less(&self.keys));
        [all(seen), exists]
    }

    /// Whether a walk over so many rows may end inside a step.
    fn may_end(&self, rows: usize, step: &Step) -> bool {
        match step {
            Step::Held { step, .. } => !rows.is_multiple_of(*step as usize),
            Step::Shared { .. } => true,
        }
    }

    fn scores(
        &self,
        b: &mut Builder,
        query: &[Expr],
        first: &Expr,
        step: &Step,
        count: usize,
    ) -> Vec<Expr> {
        let scale = self.attention.scale as f32;
        (0..count)
            .map(|i| {
                let score = product(b, "score", query, |chunk| step.chunk(0, i, chunk));
                let mut score = score * scale;
                let [seen, exists] = self.shown(b, first, step, i);
                if let Some(seen) = seen {
                    score = seen.select(score, HIDDEN as f32);
                }
                if let Some(exists) = exists {
                    score = exists.select(score, ABSENT);
                }
                b.copy("score", score)
            })
            .collect()
    }

    fn forward(&self, b: &mut Builder, step: usize, tile: Option<usize>) {
        let query = self.q.read(b, "query", &self.row);
        let top = b.var("top", ABSENT);
        let total = b.var("total", 0.0f32);
        let mixed = match self.wants(AttentionResult::Mixed) {
            true => self.zeros(b, "mixed"),
            false => Vec::new(),
        };
        let [from, to] = self.key_range(b);
        self.over_keys(step, tile)
            .walk(b, &from, &to, |b, first, rows| {
                let scores = self.scores(b, &query, first, rows, step);
                let highest = scores.iter().fold(top.clone(), |top, score| top.max(score));
                let highest = b.copy("highest", highest);
                let fade = b.copy("fade", (&top - &highest).exp());
                let weights: Vec<Expr> = scores
                    .iter()
                    .map(|score| b.copy("weight", (score - &highest).exp()))
                    .collect();
                let faded = &total * &fade;
                b.assign(
                    &total,
                    weights.iter().fold(faded, |sum, weight| sum + weight),
                );
                for (chunk, sum) in mixed.iter().enumerate() {
                    let mut next = sum * &fade;
                    for (i, weight) in weights.iter().enumerate() {
                        next = next + rows.chunk(1, i, chunk) * weight;
                    }
                    b.assign(sum, next);
                }
                b.assign(&top, &highest);
            });
        let share = b.bind("share", Expr::from(1.0f32) / &total);
        let mixed: Vec<Expr> = mixed.iter().map(|sum| sum * &share).collect();
        self.write(b, AttentionResult::Mixed, &mixed);
        let log_sum_exp = b.bind("log_sum_exp", &top + total.log());
        self.write(b, AttentionResult::LogSumExp, &[log_sum_exp.splat()]);
    }

    fn gradient_of_queries(&self, b: &mut Builder, step: usize, tile: Option<usize>) {
        let query = self.q.read(b, "query", &self.row);
        let gradient = self.own(b, "gradient", self.gradient.as_ref());
        let [log_sum_exp, mean] = [0, 1].map(|number| {
            let numbers: &Numbers = &self.per_query[number];
            b.copy("of_query", numbers.at(&self.row))
        });
        let sums = self.zeros(b, "sum");
        let [from, to] = self.key_range(b);
        let scale = self.attention.scale as f32;
        self.over_keys(step, tile)
            .walk(b, &from, &to, |b, first, rows| {
                let mut flows = Vec::new();
                for i in 0..step {
                    let score = product(b, "score", &query, |chunk| rows.chunk(0, i, chunk));
                    let weight = b.copy("weight", (score * scale - &log_sum_exp).exp());
                    let change = product(b, "change", &gradient, |chunk| rows.chunk(1, i, chunk));
                    let flow = (change - &mean) * weight * scale;
                    let [seen, exists] = self.shown(b, first, rows, i);
                    let flow = match all(seen.into_iter().chain(exists).collect()) {
                        Some(shown) => shown.select(flow, 0.0f32),
                        None => flow,
                    };
                    flows.push(b.copy("flow", flow));
                }
                accumulate(b, &sums, &flows, |i, chunk| rows.chunk(0, i, chunk));
            });
        self.write(b, AttentionResult::Queries, &sums);
    }

    fn gradient_of_keys(&self, b: &mut Builder, step: usize, tile: Option<usize>) {
        let key = self.k.read(b, "key", &self.row);
        let [wants_keys, wants_values] =
            [AttentionResult::Keys, AttentionResult::Values].map(|it| self.wants(it));
        let value = self.own(b, "value", self.v.as_ref());
        let of_key = if wants_keys {
            self.zeros(b, "key_sum")
        } else {
            Vec::new()
        };
        let of_value = if wants_values {
            self.zeros(b, "value_sum")
        } else {
            Vec::new()
        };
        let shown = self
            .mask
            .as_ref()
            .map(|mask| b.copy("shown", mask.at(&self.row).differs(0u32)));
        let even = b.bind("even", Expr::from(1.0f32) / self.keys.convert(Scalar::F32));
        let from = match self.attention.walks_part() {
            true => {
                let more = b.bind("more_keys", &self.keys - &self.queries);
                b.bind("first_query_seen", self.first.max(&more) - more)
            }
            false => Expr::from(0u32),
        };
        let stream = Stream {
            rows: [Some(&self.q), self.gradient.as_ref()]
                .into_iter()
                .flatten()
                .collect(),
            numbers: self.per_query.iter().collect(),
            last: &self.queries - 1u32,
            lanes: self.lanes,
            step,
            tile,
        };
        let scale = self.attention.scale as f32;
        stream.walk(b, &from, &self.queries, |b, first, rows| {
            let (mut weights, mut flows) = (Vec::new(), Vec::new());
            for i in 0..step {
                let query = b.bind("query", first + i as u32);
                let log_sum_exp = b.copy("log_sum_exp", rows.number(0, i));
                let score = product(b, "score", &key, |chunk| rows.chunk(0, i, chunk));
                let weight = b.copy("weight", (score * scale - &log_sum_exp).exp());
                let causal = self
                    .attention
                    .causal
                    .then(|| (&self.row + &self.queries).at_most(&query + &self.keys));
                let seen = all(shown.clone().into_iter().chain(causal).collect());
                // A walk that starts inside a step may start before the first query that is seen.
                let ends =
                    self.attention.walks_part() || self.may_end(self.attention.queries, rows);
                let exists = ends.then(|| query.less(&self.queries));
                let weight = match &seen {
                    Some(seen) => {
                        let none = log_sum_exp.less(SEES_NONE as f32);
                        b.copy("weight", seen.select(&weight, none.select(&even, 0.0f32)))
                    }
                    None => weight,
                };
                if wants_keys {
                    let change = product(b, "change", &value, |chunk| rows.chunk(1, i, chunk));
                    let flow = (change - rows.number(1, i)) * &weight * scale;
                    let flow = match all(seen.into_iter().chain(exists.clone()).collect()) {
                        Some(shown) => shown.select(flow, 0.0f32),
                        None => flow,
                    };
                    flows.push(b.copy("flow", flow));
                }
                weights.push(match exists {
                    Some(exists) => b.copy("weight", exists.select(weight, 0.0f32)),
                    None => weight,
                });
            }
            accumulate(b, &of_value, &weights, |i, chunk| rows.chunk(1, i, chunk));
            accumulate(b, &of_key, &flows, |i, chunk| rows.chunk(0, i, chunk));
        });
        self.write(b, AttentionResult::Keys, &of_key);
        self.write(b, AttentionResult::Values, &of_value);
    }
}
