//! Attention without stored weights: every lane owns a row or two and walks over the rows of the other side.
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
mod walks;

use super::ir::{Array, Builder, Builtin, Expr, Scalar};
use super::operand::Address;
use super::spec::{AttentionPass, AttentionResult, MOST_HEAD_WIDTH, Matrix, Operand};
use super::team::SUBGROUP;
use super::{Launch, Lowered, Slot};
use crate::plan::{Limits, Profile};
use rows::Rows;
use stream::Numbers;

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

/// A row of a lane: which one, clamped, and whether it exists.
struct Own {
    row: Expr,
    inside: Expr,
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
    /// The rows of this lane.
    own: Vec<Own>,
    /// First row of the workgroup, and how many it has.
    first: Expr,
    rows: u32,
    lanes: u32,
    /// Walked rows of a step, and of a tile in workgroup memory.
    step: usize,
    tile: Option<usize>,
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
        // A subgroup broadcasts what it walks over: two rows per lane share that.
        let each = match limits.profile {
            Profile::CpuVulkan if owned > SUBGROUP as usize => 2,
            _ => 1,
        };
        b.doc(format!(
            "Heads of {} elements, rows per lane: {each}.",
            self.width
        ));
        let sizes = stream::sizes(self.width.div_ceil(4), factor * each, limits);
        let (frame, slots) = self.frame(&mut b, pass, [lanes, each as u32], sizes);
        match pass {
            AttentionPass::Forward => frame.forward(&mut b),
            AttentionPass::Queries => frame.gradient_of_queries(&mut b),
            AttentionPass::Keys => frame.gradient_of_keys(&mut b),
        }
        let grid = [owned.div_ceil(lanes as usize * each), heads, batch];
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
        [lanes, each]: [u32; 2],
        (step, tile): (usize, Option<usize>),
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
        let rows = lanes * each;
        let first = b.bind("first_row", Expr::builtin(Builtin::GroupX) * rows);
        let owned = match pass {
            AttentionPass::Keys => &keys,
            _ => &queries,
        };
        let own = (0..each).map(|number| {
            let lane = Expr::builtin(Builtin::LocalIndex);
            let row = b.bind("row", &first + lane + number * lanes);
            Own {
                inside: b.bind("inside", row.less(owned)),
                row: b.bind("row_clamped", row.min(owned - 1u32)),
            }
        });
        let own = own.collect();
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
            own,
            first,
            rows,
            lanes,
            step,
            tile,
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
        start: b.bind(
            &format!("{name}_start"),
            address.at(std::slice::from_ref(batch)),
        ),
        stride: (stride != 1).then(|| b.size(&format!("{name}_key_stride"), stride)),
    }
}
