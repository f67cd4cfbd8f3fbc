//! From the model to the graph: a mode of an entry or objective is traced once.
//!
//! Invariants
//! - Tracing evaluates every reachable definition in dependency order; nothing else enters the graph.
//! - A parameter's path is its nesting; one path is one node.
//! - Broadcasting is explicit: elementwise operands are aligned by axis name here.
//! - Work is bounded: nodes, calls and nesting have limits, met by a message with a place.

mod attend;
mod axes;
mod block;
pub(crate) mod builtins;
mod decode;
mod einsum;
mod elementwise;
mod experts;
mod expression;
mod flow;
mod indexing;
mod losses;
mod metrics;
mod mixing;
mod movement;
mod names;
mod parameter;
mod patterns;
mod policy;
mod request;
mod route;
mod router;
mod soft;
mod tracer;
mod value;
mod windows;

pub use decode::{Changes, Decoding, ORIGIN, POSITION, decoding};

use crate::graph::{Graph, ValueId};
use crate::model::Model;
use crate::ops::Init;
use crate::size::DimId;
use gatewright_grammar::diagnostic::{Diagnostic, Diagnostics, Severity};
use gatewright_grammar::source::Span;
use std::collections::BTreeMap;

/// What to trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The results of this entry.
    Entry(String),
    /// These top-level values.
    Values(Vec<String>),
    /// This objective with every named loss it reaches.
    Objective(String),
    /// Every value, loss and objective, without outputs: what checking a file traces.
    Everything,
}

/// Which side of a `train`/`eval` pair holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// Noise and training capacity.
    Train,
    /// No noise, evaluation capacity.
    Eval,
}

/// What a router instance gives as outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Recorded {
    /// No outputs.
    Nothing,
    /// For each stream `PATH.WHAT.STREAM`, as metrics (see [`RouterMetric`]).
    Metrics,
    /// Also logits, probabilities, choices, weights, slots, what is kept, and what a mask counts.
    Everything,
}

/// What a router did with the tokens of a stream that its mask counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RouterMetric {
    /// The share of their assignments that are processed; where experts choose, the share of tokens
    /// that some expert takes. Not a number where no token counts.
    Success,
    /// How many of their assignments are not processed; where experts choose, tokens that none takes.
    Dropped,
    /// How many of them each expert is asked to take, `[E]`, before the capacity drops any; where
    /// experts choose, how many each takes.
    Tokens,
    /// Their mean probability of each expert, `[E]`.
    Gates,
    /// The mean entropy of a token's probabilities, in nats.
    Entropy,
    /// The mean square of the log-sum-exp of a token's scores.
    Z,
}

impl RouterMetric {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Success,
        Self::Dropped,
        Self::Tokens,
        Self::Gates,
        Self::Entropy,
        Self::Z,
    ];

    /// The word between the router's path and the stream in an output's name.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Dropped => "dropped",
            Self::Tokens => "tokens",
            Self::Gates => "gates",
            Self::Entropy => "entropy",
            Self::Z => "z",
        }
    }

    /// Router, metric and stream of an output's name.
    #[must_use]
    pub fn of(name: &str) -> Option<(&str, Self, &str)> {
        let (rest, stream) = name.rsplit_once('.')?;
        let (path, word) = rest.rsplit_once('.')?;
        let metric = Self::ALL.into_iter().find(|it| it.word() == word)?;
        Some((path, metric, stream))
    }
}

/// What experts get, instead of a router's own choice: for experiments. Combine weights keep their
/// meaning, the scores of the experts that are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Route {
    /// The experts in turn: choice r of token i is expert (i k + r) mod E.
    Balanced,
    /// k different experts at random for each token.
    Random,
    /// This expert for every token, and the next ones for later choices.
    Expert(usize),
    /// What the input `PATH.route` states, u32[G, S, k].
    Given,
}

impl std::fmt::Display for Route {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Balanced => f.write_str("balanced"),
            Self::Random => f.write_str("random"),
            Self::Expert(expert) => write!(f, "expert={expert}"),
            Self::Given => f.write_str("a file"),
        }
    }
}

/// One graph that is asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// What to trace.
    pub what: Target,
    /// In which mode.
    pub mode: Mode,
    /// What each router instance gives besides.
    pub routing: Recorded,
    /// Values of symbolic dims that are known already.
    pub bindings: BTreeMap<String, usize>,
    /// What routers give instead of their own choice.
    pub route: Option<Route>,
    /// Whether what `observe` names on the way becomes an output under its path.
    pub observed: bool,
}

impl Request {
    /// A request without recorded routing and bindings.
    #[must_use]
    pub fn new(what: Target, mode: Mode) -> Self {
        Self {
            what,
            mode,
            routing: Recorded::Nothing,
            bindings: BTreeMap::new(),
            route: None,
            observed: false,
        }
    }
}

/// A traced graph with what later stages need to know about it.
#[derive(Clone, Debug)]
pub struct Lowered {
    /// The graph. Outputs: `PATH` results of an entry in order, `loss.NAME` for every named loss,
    /// the objective under its name, per router what was asked for, and what is observed.
    pub graph: Graph,
    /// Symbolic dims by name.
    pub dims: BTreeMap<String, DimId>,
    /// Every use of a router in tracing order.
    pub routers: Vec<RouterInstance>,
    /// Every parameter by path.
    pub parameters: BTreeMap<String, ParameterInfo>,
    /// The paths of what `observe` names, in tracing order.
    pub observed: Vec<String>,
}

/// What is known about a parameter besides its type.
#[derive(Clone, Debug, PartialEq)]
pub struct ParameterInfo {
    /// The node.
    pub value: ValueId,
    /// The place in the user's own file that asks for it.
    pub span: Span,
    /// How it starts.
    pub init: Init,
    /// Whether weight decay `on matrices` applies: its name is `kernel`.
    pub decays: bool,
}

/// Who chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chooser {
    /// Each token its best experts.
    Tokens,
    /// Each expert its best tokens: there are E choices, of which those that are kept count.
    Experts,
    /// Nobody: every expert takes weighted means of all tokens. There is one choice, the expert
    /// with the largest share of a token's result.
    Soft,
}

/// One use of a router. Shapes: groups G, tokens per group S, experts E, choices k.
#[derive(Clone, Debug, PartialEq)]
pub struct RouterInstance {
    /// `trunk.1.ffn.gate`
    pub path: String,
    /// The router's name.
    pub router: String,
    /// Streams in token order with their token ranges inside a group.
    pub streams: Vec<(String, crate::size::Size, crate::size::Size)>,
    /// Number of experts.
    pub experts: usize,
    /// Who chooses.
    pub chooser: Chooser,
    /// Choices per token.
    pub choices: usize,
    /// One where a token counts, zero where the mask hides it, [G, S]; none when all count.
    pub counted: Option<ValueId>,
    /// Standard deviation of the noise, when there is some.
    pub noise: Option<f64>,
    /// Clean scores before the activation, [G, S, E]; of soft slots [G, S, slots].
    pub logits: ValueId,
    /// Scores with noise, shaped as the clean ones.
    pub routed: ValueId,
    /// Activated noisy scores, [G, S, E]; of soft slots each expert's share of a token's result.
    pub probs: ValueId,
    /// Chosen experts, u32[G, S, k].
    pub expert: ValueId,
    /// Combine weights, [G, S, k].
    pub weight: ValueId,
    /// Position in the expert's queue, counted past the capacity, u32[G, S, k].
    pub slot: ValueId,
    /// Whether the assignment is processed, bool[G, S, k].
    pub kept: ValueId,
}

/// The names of the functions that the language knows without a definition.
pub fn function_names() -> impl Iterator<Item = &'static str> {
    builtins::names()
}

/// Traces what `request` asks for. The result is absent exactly when a diagnostic is an error.
#[must_use]
pub fn lower(model: &Model, request: &Request) -> (Option<Lowered>, Vec<Diagnostic>) {
    tracer::Tracer::new(model, request).run()
}

/// All that is wrong with a model in either mode: everything is traced as a whole, then each entry
/// by itself, since an entry reads fewer inputs.
#[must_use]
pub fn check(model: &Model) -> Vec<Diagnostic> {
    let mut all = Diagnostics::default();
    let entries = model
        .entries()
        .into_iter()
        .map(|name| Target::Entry(name.to_owned()));
    for what in std::iter::once(Target::Everything).chain(entries) {
        for mode in [Mode::Train, Mode::Eval] {
            let (_, diagnostics) = lower(model, &Request::new(what.clone(), mode));
            // A term that only training has is no news about evaluation.
            let news = diagnostics
                .into_iter()
                .filter(|diagnostic| mode == Mode::Train || diagnostic.severity == Severity::Error);
            all.extend(news);
        }
    }
    all.into_sorted()
}
