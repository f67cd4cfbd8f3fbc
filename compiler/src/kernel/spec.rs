//! What the fuser asks for: one fused group, its operands as strided views, its arithmetic as a
//! small program of scalars. No buffers, no names of the user's model.

use crate::graph::DType;
use crate::ops::{Distribution, Routing};
use crate::storage::Packed;
use serde::{Deserialize, Serialize};

/// How an operand is read (or written) over an iteration space: element `offset + sum(index * stride)`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct View {
    /// First element.
    pub offset: usize,
    /// One stride per iteration axis, in elements; 0 repeats.
    pub strides: Vec<usize>,
}

/// One operand of a group.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Operand {
    /// Element type in memory.
    pub dtype: DType,
    /// Number of elements of the whole buffer.
    pub elements: usize,
    /// How it is read over the group's iteration space.
    pub view: View,
}

/// Index of an instruction in its program.
pub type InstrId = usize;

/// One scalar instruction. Its operands precede it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Instr {
    /// The element of an input under its view.
    Load {
        /// Which input.
        input: usize,
    },
    /// `input[offset + row * strides[0] + column * strides[last]]`, where `row` is a u32 value that
    /// does not depend on the last iteration axis and `column` is the index along it. The view of
    /// such an input has exactly two strides: row and column.
    LoadRow {
        /// Which input.
        input: usize,
        /// The row.
        row: InstrId,
    },
    /// `input[offset + index]`.
    LoadAt {
        /// Which input.
        input: usize,
        /// The element, u32.
        index: InstrId,
    },
    /// A constant; u32 and bool constants are exact.
    Constant(f64),
    /// A u32 constant that travels as a uniform word: kernels that differ in it share their text.
    Word(u32),
    /// The u32 index along one iteration axis.
    Index {
        /// The axis.
        axis: usize,
    },
    /// One operand.
    Unary(Unary, InstrId),
    /// Two operands of one type.
    Binary(Binary, InstrId, InstrId),
    /// `condition ? then : otherwise`.
    Select(InstrId, InstrId, InstrId),
    /// Conversion to the instruction's type; f32 to u32 truncates.
    Convert(InstrId),
    /// A random number keyed by (seed, step, stream, row-major element of the iteration space).
    Random {
        /// What is drawn.
        distribution: Distribution,
        /// Distinguishes nodes of one step.
        stream: u32,
    },
    /// Reduction of a value along the last axis; row programs only. The result is per row.
    Reduce(Reduce, InstrId),
    /// The contraction's result; epilogues only.
    Accumulator,
}

/// Scalar functions of one operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are the functions")]
pub enum Unary {
    Negate,
    Exp,
    Log,
    Sqrt,
    ReciprocalSqrt,
    Reciprocal,
    Tanh,
    Erf,
    Sin,
    Cos,
    Not,
}

/// Scalar functions of two operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are the functions")]
pub enum Binary {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
    Maximum,
    Minimum,
    Power,
    Equal,
    Less,
    LessEqual,
    And,
    Or,
}

/// Associative reductions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are the reductions")]
pub enum Reduce {
    Sum,
    Maximum,
}

/// Straight-line scalar arithmetic. Invariant: instructions refer to earlier ones only, and
/// `types[i]` is the type of instruction `i`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Program {
    /// The instructions.
    pub instrs: Vec<Instr>,
    /// Their types.
    pub types: Vec<DType>,
}

impl Program {
    /// Appends an instruction, reusing an equal earlier one.
    pub fn push(&mut self, instr: Instr, ty: DType) -> InstrId {
        let same = |(known, known_ty): (&Instr, &DType)| *known == instr && *known_ty == ty;
        if let Some(id) = self.instrs.iter().zip(&self.types).position(same) {
            return id;
        }
        self.instrs.push(instr);
        self.types.push(ty);
        self.instrs.len() - 1
    }
}

/// One result of a group: an instruction's value, written through a view.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Store {
    /// The value.
    pub value: InstrId,
    /// Where it is written (element type = the instruction's type). Row results have one stride per
    /// leading axis; every written element is written once.
    pub operand: Operand,
}

/// One matrix operand of a contraction: element `offset + batch + row * row_stride + column * column_stride`,
/// where one of the two strides is 1 unless the matrix is degenerate.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Matrix {
    /// Number of elements of the whole buffer.
    pub elements: usize,
    /// First element.
    pub offset: usize,
    /// Stride per batch axis.
    pub batch_strides: Vec<usize>,
    /// Stride between rows (M of a, K of b).
    pub row_stride: usize,
    /// Stride between columns (K of a, N of b).
    pub column_stride: usize,
}

/// The left operand of a contraction.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Left {
    /// A matrix in memory, one input.
    Matrix(Matrix),
    /// Arithmetic on elements of inputs whose views are over `[batch..., m, k]`: a prologue.
    Computed {
        /// Inputs, at least one.
        inputs: Vec<Operand>,
        /// Arithmetic, without reductions and random numbers.
        program: Program,
        /// The element.
        value: InstrId,
    },
}

impl From<Matrix> for Left {
    fn from(matrix: Matrix) -> Self {
        Self::Matrix(matrix)
    }
}

impl Left {
    /// Number of inputs it reads.
    #[must_use]
    pub fn inputs(&self) -> usize {
        match self {
            Self::Matrix(_) => 1,
            Self::Computed { inputs, .. } => inputs.len(),
        }
    }

    /// Element types and lengths of its inputs.
    #[must_use]
    pub fn buffers(&self) -> Vec<(DType, usize)> {
        match self {
            Self::Matrix(matrix) => vec![(DType::F32, matrix.elements)],
            Self::Computed { inputs, .. } => {
                inputs.iter().map(|it| (it.dtype, it.elements)).collect()
            }
        }
    }
}

/// Sizes that locate the parts of a dispatch plan in its u32 buffer. The buffer holds, in order:
/// `row_source[rows]` (assignment index `token * choices + choice` over all groups, or NONE),
/// `assignment_row[assignments]` (row, or NONE when dropped), `segment[experts + 1]` (first row of
/// each expert, a multiple of `tile`), `used[experts]` (rows in use), and
/// `block_expert[rows / tile]` (expert of each row tile, or NONE past the last).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DispatchLayout {
    /// Static upper bound of rows, a multiple of `tile`.
    pub rows: usize,
    /// Groups times tokens times choices.
    pub assignments: usize,
    /// Number of experts.
    pub experts: usize,
    /// Choices per token.
    pub choices: usize,
    /// Row tile of the grouped matmul.
    pub tile: usize,
}

/// Marks an unused row, a dropped assignment, or a row tile past the last expert.
pub const NONE: u32 = u32::MAX;

impl DispatchLayout {
    /// Offset of `row_source`, in words.
    #[must_use]
    pub fn row_source(&self) -> usize {
        0
    }

    /// Offset of `assignment_row`.
    #[must_use]
    pub fn assignment_row(&self) -> usize {
        self.rows
    }

    /// Offset of `segment`.
    #[must_use]
    pub fn segment(&self) -> usize {
        self.assignment_row() + self.assignments
    }

    /// Offset of `used`.
    #[must_use]
    pub fn used(&self) -> usize {
        self.segment() + self.experts + 1
    }

    /// Offset of `block_expert`.
    #[must_use]
    pub fn block_expert(&self) -> usize {
        self.used() + self.experts
    }

    /// Length of the buffer.
    #[must_use]
    pub fn words(&self) -> usize {
        self.block_expert() + self.rows / self.tile
    }
}

/// The widest head of an attention kernel: a lane holds up to four rows of a head.
pub const MOST_HEAD_WIDTH: usize = 128;

/// What an attention kernel can give.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum AttentionResult {
    /// The mixed values.
    Mixed,
    /// The log-sum-exp of the logits.
    LogSumExp,
    /// The gradient of the queries.
    Queries,
    /// The gradient of the keys.
    Keys,
    /// The gradient of the values.
    Values,
}

/// The three walks that attention takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AttentionPass {
    /// Every query over all keys, forward.
    Forward,
    /// Every query over all keys, for its gradient.
    Queries,
    /// Every key over all queries, for its gradient and that of its value.
    Keys,
}

impl AttentionResult {
    /// The walk that gives it.
    #[must_use]
    pub fn pass(self) -> AttentionPass {
        match self {
            Self::Mixed | Self::LogSumExp => AttentionPass::Forward,
            Self::Queries => AttentionPass::Queries,
            Self::Keys | Self::Values => AttentionPass::Keys,
        }
    }
}

/// What a cross-entropy group can give.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum CrossEntropyResult {
    /// The cross-entropy of each row.
    Loss,
    /// The log-sum-exp of each row.
    LogSumExp,
    /// The gradient of x.
    Rows,
    /// The gradient of w.
    Classes,
}

impl CrossEntropyResult {
    /// Whether it belongs to the way back.
    #[must_use]
    pub fn is_gradient(self) -> bool {
        matches!(self, Self::Rows | Self::Classes)
    }
}

/// One fused group with concrete sizes. Inputs and outputs are numbered as listed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum KernelSpec {
    /// Every output element from equally placed input elements. At most four iteration axes.
    Pointwise {
        /// Iteration space.
        space: Vec<usize>,
        /// Inputs.
        inputs: Vec<Operand>,
        /// Arithmetic.
        program: Program,
        /// Outputs.
        outputs: Vec<Store>,
    },
    /// Rows of `columns` elements: arithmetic per element and per row, with reductions along the row.
    /// Per-row instructions (reductions, loads with column stride 0, arithmetic of such) may be
    /// stored per row (view without the column stride) or per element.
    Row {
        /// Leading iteration axes (at most three); `columns` is the last.
        rows: Vec<usize>,
        /// Row length.
        columns: usize,
        /// Inputs, views over `[rows..., columns]`.
        inputs: Vec<Operand>,
        /// Arithmetic.
        program: Program,
        /// Outputs; the number of strides tells per-row from per-element.
        outputs: Vec<Store>,
    },
    /// Reductions over the middle axis of `[batch, rows, columns]`; results are `[batch, columns]`.
    Column {
        /// Kept leading axis.
        batch: usize,
        /// Reduced axis.
        rows: usize,
        /// Kept last axis.
        columns: usize,
        /// Inputs, views over `[batch, rows, columns]`.
        inputs: Vec<Operand>,
        /// Arithmetic per element.
        program: Program,
        /// Per output: the reduction of the stored instruction; views over `[batch, columns]`.
        outputs: Vec<(Reduce, Store)>,
    },
    /// `a[m, k] b[k, n]` per batch, then the epilogue. Inputs are those of a, b, then the epilogue's.
    Matmul {
        /// Batch axes (at most two).
        batch: Vec<usize>,
        /// Rows of the result.
        m: usize,
        /// Columns of the result.
        n: usize,
        /// Summed axis.
        k: usize,
        /// Left operand.
        a: Left,
        /// Right operand.
        b: Matrix,
        /// How it is packed, where its input is u32 words: a whole matrix, perhaps transposed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        packed: Option<Packed>,
        /// Epilogue inputs, views over `[batch..., m, n]`.
        inputs: Vec<Operand>,
        /// Epilogue; starts from `Accumulator`.
        program: Program,
        /// Outputs, views over `[batch..., m, n]`.
        outputs: Vec<Store>,
        /// A last output: the sums of b over k, a view over `[n]`; without batch axes only.
        column_sums: Option<Operand>,
    },
    /// Attention whose weights are never stored. Inputs: q, k and v; for a gradient that of the result,
    /// the log-sum-exp `[B, H, N]` and the sums of gradient times result `[B, H, N]`, both dense; then
    /// the key mask as u32 when there is one. Outputs as listed, all of one [`AttentionPass`].
    Attention {
        /// B and H.
        batch: [usize; 2],
        /// N.
        queries: usize,
        /// M.
        keys: usize,
        /// Size of a head, at most [`MOST_HEAD_WIDTH`].
        width: usize,
        /// Factor of the logits.
        scale: f64,
        /// Query i sees keys up to `i + keys - queries`.
        causal: bool,
        /// q, k, v and the gradient.
        operands: Vec<Matrix>,
        /// The key mask, a view over `[B, M]`.
        mask: Option<Operand>,
        /// Results, each as rows per batch and head; a row of the log-sum-exp is one element.
        outputs: Vec<(AttentionResult, Matrix)>,
    },
    /// Cross-entropy of `x w` per row, whose logits exist in parts only. Inputs: x, w and, except for the
    /// log-sum-exp alone, targets u32 `[R]`; for a gradient also the log-sum-exp and the gradient of the
    /// result, both `[R]`. Outputs as listed, of one direction.
    CrossEntropy {
        /// R.
        rows: usize,
        /// D.
        width: usize,
        /// V.
        classes: usize,
        /// x `[R, D]`.
        x: Matrix,
        /// w as `[D, V]`.
        w: Matrix,
        /// Results, dense; the gradient of w lies as `[V, D]` when `transpose`.
        outputs: Vec<CrossEntropyResult>,
        /// w is stored as `[V, D]`.
        transpose: bool,
        /// Further parts of w with their classes, for the way there; their inputs follow the targets. V
        /// counts all parts.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        further: Vec<(Matrix, usize)>,
        /// The class that w begins with, for the way back.
        #[serde(default, skip_serializing_if = "is_zero")]
        first: usize,
    },
    /// Top-k of score rows, and per-block expert counts for the dispatch. Inputs: scores
    /// `[tokens, experts]`. Outputs: indices u32 `[tokens, k]`, optionally the values `[tokens, k]`.
    TopK {
        /// Number of rows.
        tokens: usize,
        /// Row length.
        experts: usize,
        /// How many.
        k: usize,
        /// Whether the values are stored too.
        values: bool,
    },
    /// The router in one kernel: logits = x w, optional noise, softmax, top-k. Inputs: x `[tokens, width]`,
    /// w `[width, experts]`, then noise `[tokens, experts]` when `noise`. Outputs in order, as far as
    /// `wanted`: logits, routed logits, probs (each `[tokens, experts]`), indices u32 and weights
    /// (each `[tokens, k]`).
    RouteScores {
        /// Number of rows.
        tokens: usize,
        /// Width of x.
        width: usize,
        /// Number of experts (at most 128).
        experts: usize,
        /// Choices.
        k: usize,
        /// Factor of the noise input, when there is one.
        noise: Option<f64>,
        /// Which outputs are stored.
        wanted: [bool; 5],
    },
    /// The dispatch plan from experts u32 `[G, S, k]` and weights f32 `[G, S, k]`. Output: the plan.
    Dispatch {
        /// Groups.
        groups: usize,
        /// Tokens per group.
        tokens: usize,
        /// Policy.
        routing: Routing,
        /// Where the parts of the plan lie.
        layout: DispatchLayout,
    },
    /// Queue positions u32 `[G, S, k]`; inputs as `Dispatch`.
    DispatchSlot {
        /// Groups.
        groups: usize,
        /// Tokens per group.
        tokens: usize,
        /// Policy.
        routing: Routing,
    },
    /// Rows times their expert's matrix. Inputs: rows `[R, k]` (or, when `gather`, token rows `[tokens, k]`
    /// read through the plan), weight, plan, the weights of further experts, then the epilogue's. Views of the epilogue are over
    /// `[R, n]`; a view input with `per_expert` is over `[experts, n]` (bias).
    GroupedMatmul {
        /// Where the parts of the plan lie.
        layout: DispatchLayout,
        /// Columns of the result.
        n: usize,
        /// Summed axis.
        k: usize,
        /// Weight is `[E, n, k]` instead of `[E, k, n]`.
        transpose: bool,
        /// The left operand is gathered from token rows; unused rows are zero.
        gather: bool,
        /// Epilogue inputs with how each is addressed.
        inputs: Vec<(RowAddress, Operand)>,
        /// Epilogue; starts from `Accumulator`.
        program: Program,
        /// Outputs, views over `[R, n]`.
        outputs: Vec<Store>,
        /// Experts of each weight, where there are several.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        experts: Vec<usize>,
        /// How the weight is packed, where its input is u32 words.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        packed: Option<Packed>,
    },
    /// `a^T b` over the rows of each expert: inputs a `[R, m]` (or token rows when `gather_a`),
    /// b `[R, n]`, plan. Output `[E, m, n]`; zeros for an expert without rows.
    GroupedOuter {
        /// Where the parts of the plan lie.
        layout: DispatchLayout,
        /// Columns of a.
        m: usize,
        /// Columns of b.
        n: usize,
        /// a is gathered from token rows.
        gather_a: bool,
        /// A second output `[E, n]`: the sums of b.
        sums: bool,
        /// The first expert and how many, where E is not all of them.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        part: Option<[usize; 2]>,
    },
    /// Sum of rows `[R, n]` per expert over used rows: `[E, n]`. Inputs: rows, plan.
    ExpertSum {
        /// Where the parts of the plan lie.
        layout: DispatchLayout,
        /// Columns.
        n: usize,
    },
    /// Rows summed into a table at ids, without float atomics. Inputs: rows f32 `[count, width]`, ids
    /// u32 `[count]`. Output: `[size, width]`.
    ScatterAdd {
        /// Number of rows.
        count: usize,
        /// Row length.
        width: usize,
        /// Rows of the table.
        size: usize,
    },
    /// Positions of the true elements of a mask, in order. Input: truth values as u32 `[count]`. Output:
    /// u32 `[most]`, zeros behind the last position.
    RowsWhere {
        /// Length of the mask.
        count: usize,
        /// Length of the result.
        most: usize,
    },
    /// x with one row of each batch entry replaced. Inputs: x `[batch, blocks, rows, width]`, row
    /// `[batch, blocks, width]`, at u32 `[batch]`. Output: x, where row `at[b]` of every block of b is
    /// that of `row`; nothing is replaced where it lies behind the last row.
    WriteRow {
        /// Element type of x.
        dtype: DType,
        /// batch, blocks, rows, width.
        sizes: [usize; 4],
    },
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks by reference")]
fn is_zero(value: &usize) -> bool {
    *value == 0
}

impl KernelSpec {
    /// Inputs that no launch binds beside the others: the further parts of a weight.
    #[must_use]
    pub fn bound_apart(&self) -> usize {
        match self {
            KernelSpec::CrossEntropy { further, .. } => further.len(),
            KernelSpec::GroupedMatmul { experts, .. } => experts.len().saturating_sub(1),
            _ => 0,
        }
    }

    /// The scalar arithmetic, where the user's model shapes it.
    #[must_use]
    pub fn program(&self) -> Option<&Program> {
        match self {
            KernelSpec::Pointwise { program, .. }
            | KernelSpec::Row { program, .. }
            | KernelSpec::Column { program, .. }
            | KernelSpec::Matmul { program, .. }
            | KernelSpec::GroupedMatmul { program, .. } => Some(program),
            _ => None,
        }
    }
}

/// How an epilogue input of a grouped matmul is addressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum RowAddress {
    /// By row: `[R, n]`, or `[R]` with column stride 0.
    Row,
    /// By the row's expert: `[E, n]`.
    Expert,
    /// By the row's assignment (`[G, S, k]` weights, column stride 0); zero in unused rows.
    Assignment,
}
