//! The primitives: one file each, registered in one list.
//!
//! A primitive has a name, an arity, a shape rule, a gradient rule, a reference evaluation in f64
//! and a doc sentence. Composite ops (softmax, layer norm, attention …) stay whole where a pass
//! must see them and also state their decomposition, which is their oracle. Nothing outside this
//! list matches on all ops.

mod build;
mod index;
pub(crate) mod number;
mod queue;
mod typing;

pub use build::Builder;

use crate::graph::{DType, Graph, Origin, Type, ValueId};
use crate::size::{Bindings, DimId, Size};
use crate::tensor::Tensor;
use attention::{Scores, add_row, dot, need_heads};
use index::*;
use queue::Plan;
use serde::{Deserialize, Serialize};
use typing::*;

/// Why an op cannot take these operands. The caller adds the places.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct OpError {
    /// What is wrong, in the user's terms: `axis 2: 512 meets 768`. A symbol prints as `?3` until
    /// the graph, which knows its name, passes the error on.
    pub message: String,
    /// Slots of the operands that disagree.
    pub slots: Vec<usize>,
}

impl OpError {
    /// An error about these operand slots.
    pub fn new(message: impl Into<String>, slots: impl Into<Vec<usize>>) -> Self {
        Self {
            message: message.into(),
            slots: slots.into(),
        }
    }
}

/// How many operands an op takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arity {
    /// Exactly this many.
    Exactly(usize),
    /// At least this many.
    AtLeast(usize),
}

/// What kind of work an op is; passes decide by class before they look at the op.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Inputs, parameters, constants, random numbers: no operands.
    Source,
    /// One result element per equally placed operand element.
    Elementwise,
    /// Renames positions: reshape, transpose, broadcast, slice, pad, concat.
    Movement,
    /// Fewer elements from more: sum, max.
    Reduction,
    /// Products summed over an axis: matmul, grouped matmul, grouped outer product.
    Contraction,
    /// Positions given by values: gather, scatter, dispatch.
    Indexed,
    /// Has a decomposition into the others.
    Composite,
}

/// What evaluation knows besides the operands.
pub struct EvalContext<'a> {
    /// Values of the symbolic dims.
    pub bindings: &'a Bindings,
    /// The type of the result.
    pub ty: &'a Type,
    /// `ty.shape` with the bindings applied.
    pub shape: &'a [usize],
    /// Run seed of the counter-based random numbers.
    pub seed: u32,
    /// Training step of the counter-based random numbers.
    pub step: u32,
}

/// What one primitive is.
pub trait Primitive {
    /// Its name in text forms.
    fn name(&self) -> &'static str;
    /// One sentence for the op reference.
    fn doc(&self) -> &'static str;
    /// Number of operands.
    fn arity(&self) -> Arity;
    /// Kind of work.
    fn class(&self) -> Class;
    /// Type of the result.
    ///
    /// # Errors
    /// What is wrong with these operands.
    fn infer(&self, operands: &[&Type]) -> Result<Type, OpError>;
    /// Value of the result.
    ///
    /// # Errors
    /// Values out of range, such as an index beyond a table.
    fn evaluate(&self, context: &EvalContext, operands: &[&Tensor]) -> Result<Tensor, OpError>;
    /// Floating-point operations of one evaluation over operands and a result of these shapes: two
    /// per multiply-add, one per other scalar operation. Composites count by their decomposition.
    fn flops(&self, operands: &[&[usize]], result: &[usize]) -> u64 {
        match self.class() {
            Class::Elementwise => elements(result),
            Class::Reduction => operands.first().map_or(0, |operand| elements(operand)),
            Class::Source
            | Class::Movement
            | Class::Indexed
            | Class::Contraction
            | Class::Composite => 0,
        }
    }
    /// Gradients with respect to each operand, given the gradient of the result; `None` where
    /// none flows.
    ///
    /// # Errors
    /// A rule that builds an ill-typed node: a bug of the rule.
    fn gradient(
        &self,
        builder: &mut Builder,
        operands: &[ValueId],
        result: ValueId,
        gradient: ValueId,
    ) -> Result<Vec<Option<ValueId>>, OpError>;
    /// The same value from simpler ops; `None` for what is not composite.
    ///
    /// # Errors
    /// A rule that builds an ill-typed node: a bug of the rule.
    fn decompose(
        &self,
        builder: &mut Builder,
        operands: &[ValueId],
    ) -> Result<Option<ValueId>, OpError> {
        let _ = (builder, operands);
        Ok(None)
    }
}

/// Number of elements of a shape.
pub(crate) fn elements(shape: &[usize]) -> u64 {
    let sizes = shape.iter().map(|size| *size as u64);
    sizes.fold(1, u64::saturating_mul)
}

/// States name, doc sentence, arity and class of a primitive.
macro_rules! facts {
    ($name:literal, $doc:literal, $arity:expr, $class:expr) => {
        fn name(&self) -> &'static str {
            $name
        }

        fn doc(&self) -> &'static str {
            $doc
        }

        fn arity(&self) -> Arity {
            $arity
        }

        fn class(&self) -> Class {
            $class
        }
    };
}

/// States an elementwise function of one f32 operand x with result y and gradient g of the result.
macro_rules! unary {
    ($op:ident, $name:literal, $doc:literal, value: $value:expr, gradient: $gradient:expr $(,)?) => {
        impl Primitive for $op {
            facts!($name, $doc, Arity::Exactly(1), Class::Elementwise);

            fn infer(&self, operands: &[&Type]) -> Result<Type, OpError> {
                let [x] = exactly(operands)?;
                need_f32(x, 0)?;
                Ok(x.clone())
            }

            fn evaluate(&self, _: &EvalContext, operands: &[&Tensor]) -> Result<Tensor, OpError> {
                let [x] = exactly(operands)?;
                Ok(map(x, $value))
            }

            fn gradient(
                &self,
                builder: &mut Builder,
                operands: &[ValueId],
                result: ValueId,
                gradient: ValueId,
            ) -> Result<Vec<Option<ValueId>>, OpError> {
                let [x] = exactly(operands)?;
                let rule: UnaryGradient = $gradient;
                Ok(vec![Some(rule(builder, x, result, gradient)?)])
            }
        }
    };
}

/// The gradient of a unary function from builder, x, y and the gradient of y.
type UnaryGradient = fn(&mut Builder, ValueId, ValueId, ValueId) -> Result<ValueId, OpError>;

/// Declares the modules, the `Op` enum and the dispatch to each file's rules.
macro_rules! register {
    ($($module:ident :: $op:ident),* $(,)?) => {
        $(mod $module;)*
        $(pub use $module::$op;)*

        /// One primitive with its attributes.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Op {
            $(#[doc = concat!("See [`", stringify!($op), "`].")] $op($op),)*
        }

        impl Op {
            /// The names of all ops, in the order of this list.
            pub const NAMES: &[&str] = &[$(stringify!($module)),*];

            /// The rules of this op.
            #[must_use]
            pub fn primitive(&self) -> &dyn Primitive {
                match self {
                    $(Op::$op(op) => op,)*
                }
            }
        }

        $(impl From<$op> for Op {
            fn from(op: $op) -> Op {
                Op::$op(op)
            }
        })*
    };
}

register! {
    input::Input,
    parameter::Parameter,
    constant::Constant,
    iota::Iota,
    random::Random,
    neg::Neg,
    exp::Exp,
    log::Log,
    sqrt::Sqrt,
    rsqrt::Rsqrt,
    reciprocal::Reciprocal,
    tanh::Tanh,
    erf::Erf,
    sin::Sin,
    cos::Cos,
    sigmoid::Sigmoid,
    relu::Relu,
    gelu::Gelu,
    softmax::Softmax,
    log_sum_exp::LogSumExp,
    layer_norm::LayerNorm,
    rms_norm::RmsNorm,
    attention::Attention,
    attention_log_sum_exp::AttentionLogSumExp,
    attention_gradient::AttentionGradient,
    cross_entropy::CrossEntropy,
    cross_entropy_log_sum_exp::CrossEntropyLogSumExp,
    cross_entropy_gradient::CrossEntropyGradient,
    add::Add,
    sub::Sub,
    mul::Mul,
    div::Div,
    maximum::Maximum,
    minimum::Minimum,
    power::Power,
    compare::Compare,
    logic::Logic,
    negation::Negation,
    select::Select,
    cast::Cast,
    stop_gradient::StopGradient,
    reshape::Reshape,
    transpose::Transpose,
    broadcast::Broadcast,
    slice::Slice,
    pad::Pad,
    unfold::Unfold,
    concat::Concat,
    sum::Sum,
    max::Max,
    matmul::Matmul,
    gather::Gather,
    scatter_add::ScatterAdd,
    gather_last::GatherLast,
    scatter_last::ScatterLast,
    rows_where::RowsWhere,
    write_row::WriteRow,
    unpack::Unpack,
    top_k::TopK,
    dispatch::Dispatch,
    dispatch_slot::DispatchSlot,
    gather_rows::GatherRows,
    undispatch::Undispatch,
    gather_assignments::GatherAssignments,
    undispatch_assignments::UndispatchAssignments,
    grouped_matmul::GroupedMatmul,
    grouped_outer::GroupedOuter,
    expert_rows::ExpertRows,
    expert_sum::ExpertSum,
}

pub(crate) use attention::{HIDDEN, SEES_NONE};
pub use attention_gradient::AttentionOperand;
pub use cross_entropy_gradient::CrossEntropyOperand;

/// How a parameter starts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Init {
    /// All elements equal.
    Constant(f64),
    /// Normal with this standard deviation.
    Normal {
        /// Standard deviation.
        std: f64,
    },
    /// Uniform in +-sqrt(6 / (fan_in + fan_out)) over the last two axes.
    XavierUniform,
    /// Truncated normal with standard deviation sqrt(1 / fan_in), as flax's default kernel init.
    LecunNormal,
    /// One draw of the inner initialiser over the trailing axes, repeated along the first: experts
    /// that start from identical weights.
    Repeated(Box<Init>),
}

/// What a random node draws.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Distribution {
    /// Uniform in [0, 1).
    Uniform,
    /// Standard normal.
    Normal,
    /// Standard Gumbel: the largest of scores with such noise is a draw from their softmax.
    Gumbel,
}

/// Comparisons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Relation {
    /// x == y
    Equal,
    /// x < y
    Less,
    /// x <= y
    LessEqual,
}

/// Operators on truth values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogicOperator {
    /// Both.
    And,
    /// Either.
    Or,
}

/// A dispatch policy: who is served first and how many. An assignment to an expert that does not
/// exist (an index of `experts` or more) is served by none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Routing {
    /// Number of experts.
    pub experts: usize,
    /// Choices per token.
    pub choices: usize,
    /// Slots per expert and group; none when dropless.
    pub capacity: Option<Capacity>,
    /// Order of service inside a group. All first choices precede all second ones.
    pub priority: Priority,
}

/// Slots per expert and group: ceil(tokens * choices * factor / experts), then rounded up, and
/// never fewer than `at_least`. Where experts choose, each token counts once.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Capacity {
    /// Capacity factor.
    pub factor: f64,
    /// Rounded to nearest instead of up before `multiple_of`.
    pub round_nearest: bool,
    /// Rounded up to a multiple of this.
    pub multiple_of: usize,
    /// The least number of slots.
    #[serde(default)]
    pub at_least: usize,
}

impl Routing {
    /// Slots per expert in a group of `tokens` tokens; all assignments when dropless.
    /// Below one slot is an error of the spec, which the model checks.
    #[must_use]
    pub fn slots(&self, tokens: usize) -> usize {
        let Some(capacity) = self.capacity else {
            return tokens * self.choices;
        };
        #[expect(
            clippy::cast_precision_loss,
            reason = "token counts are far below 2^52"
        )]
        let fair = self.wanted(tokens) as f64 * capacity.factor / self.experts as f64;
        let whole = if capacity.round_nearest {
            fair.round_ties_even()
        } else {
            fair.ceil()
        };
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "whole and not negative, far below 2^52"
        )]
        let slots = whole as usize;
        let multiple = capacity.multiple_of.max(1);
        (slots.div_ceil(multiple) * multiple).max(capacity.at_least)
    }

    /// The rows that a factor of one shares out among the experts.
    fn wanted(&self, tokens: usize) -> usize {
        match self.priority {
            Priority::Assignment => tokens,
            Priority::Batch | Priority::Index => tokens * self.choices,
        }
    }
}

/// Who is served first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// The largest weight of a first choice first, ties to the lower token index (batch priority
    /// routing, V-MoE).
    Batch,
    /// Token order.
    Index,
    /// The largest weight of the assignment itself first, ties to the lower token index: with every
    /// token offered to every expert, each expert takes its best (expert choice, arXiv 2202.09368).
    Assignment,
}
