//! The syntax tree of a `.gate` file: what was written, with places and comments, nothing resolved.
//!
//! Invariants
//! - Every node that a message can point at has a span of the file it was read from.
//! - Items, statements, fields and arguments keep their written order.
//! - Comments are kept in [`File::comments`]; doc comments (`///`) also belong to their item.
//! - Numbers are stored as written; [`Number::value`] is their meaning.

mod words;

use crate::source::{Span, Spanned};
use serde::{Deserialize, Serialize};

/// A name as written.
pub type Name = Spanned<String>;

/// One whole file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct File {
    /// The items in order.
    pub items: Vec<Item>,
    /// All `//` and `///` comments, slashes included, with their places, for the formatter.
    pub comments: Vec<Spanned<String>>,
}

/// One top-level item.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Item {
    /// The `///` lines before it, without the slashes.
    pub docs: Vec<String>,
    /// What it is.
    pub kind: ItemKind,
    /// From its keyword to its last character.
    pub span: Span,
}

/// What an item states.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ItemKind {
    /// `use std.vision.{patches, positions}` or `use "layers.gate".{wide}`.
    Use(Use),
    /// `dim B, N, D = 512`.
    Dims(Vec<Dim>),
    /// `preset tiny { D = 64   gate.capacity.train = 2.0 }`.
    Section(Section),
    /// `input image: f32[B, S, S, 3]`.
    Input(Input),
    /// `block`, `encoder`, `decoder`.
    Block(Block),
    /// `let seen = image -> patches(size: P)`.
    Let(Let),
    /// `loss contrastive = …`, `objective pretrain = …`, `metric retrieval = …`.
    Formula(Formula),
    /// `entry embed_image(image) -> u`.
    Entry(Entry),
}

/// `use`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Use {
    /// `std.vision` as a path, or a file as a string.
    pub from: UseSource,
    /// The imported names; empty means the module itself.
    pub names: Vec<Name>,
}

/// Where a `use` imports from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum UseSource {
    /// A library module.
    Module(Path),
    /// Another file, relative to this one.
    File(Spanned<String>),
}

/// One name of a `dim` item.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dim {
    /// The name.
    pub name: Name,
    /// Its value; symbolic without one.
    pub value: Option<Expr>,
}

/// An item made of fields: `preset`, `router`, `experts`, `stage`, `data`, `weights`, `eval`,
/// `generate`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Section {
    /// Which kind.
    pub kind: SectionKind,
    /// Its name.
    pub name: Name,
    /// `after other` of a stage.
    pub after: Option<Name>,
    /// Its fields and nested sections in order.
    pub fields: Vec<Field>,
}

/// The kinds of items that are made of fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum SectionKind {
    /// A named set of overrides.
    Preset,
    /// A routing policy.
    Router,
    /// Copies of a block behind a router.
    Experts,
    /// One training stage.
    Stage,
    /// A data source with its transforms.
    Data,
    /// A name map to a foreign checkpoint.
    Weights,
    /// A held-out evaluation.
    Eval,
    /// How an entry becomes text.
    Generate,
}

/// `key = value`, `key { … }`, or `"pattern" = value` in `weights`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Field {
    /// The key: a dotted path, or a string.
    pub key: FieldKey,
    /// The value.
    pub value: FieldValue,
    /// Key and value.
    pub span: Span,
}

/// The left side of a field.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum FieldKey {
    /// `capacity`, `gate.capacity.train`.
    Path(Path),
    /// `"trunk.{i}.norm.scale"`.
    Text(Spanned<String>),
}

/// The right side of a field.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum FieldValue {
    /// `= expression`.
    Expr(Expr),
    /// `{ fields }`; `noise { train = …   eval = … }`.
    Fields(Vec<Field>),
}

/// `input name: type`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Input {
    /// The name.
    pub name: Name,
    /// Its type.
    pub ty: Type,
}

/// A type at a boundary.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Type {
    /// `f32`, `token`, `bundle`, `router` …
    pub kind: TypeKind,
    /// The axes, outermost first.
    pub axes: Vec<TypeAxis>,
    /// `of V`: the exclusive upper bound of `token` values.
    pub of: Option<Box<Expr>>,
    /// The whole type.
    pub span: Span,
}

/// The element kind of a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TypeKind {
    /// 32-bit float.
    F32,
    /// Unsigned 32-bit integer.
    U32,
    /// True or false.
    Bool,
    /// An identifier below a bound (`token[B, T] of V`).
    Token,
    /// One `f32` tensor per stream.
    Bundle,
    /// All instances of a router: what the router losses take.
    Router,
}

/// One axis of a type.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum TypeAxis {
    /// `...`: any leading axes.
    Rest(Span),
    /// A size; a bare name both names the axis and states its size.
    Size(Expr),
}

/// `block`, `encoder` or `decoder`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Block {
    /// Which of the three.
    pub kind: BlockKind,
    /// Its name.
    pub name: Name,
    /// Parameters in order.
    pub params: Vec<Param>,
    /// The stated result type; required for encoders and decoders.
    pub result: Option<Type>,
    /// What it does.
    pub body: Vec<Stmt>,
}

/// Template or shared weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BlockKind {
    /// Fresh weights at every use.
    Block,
    /// One set of weights however often it is called.
    Encoder,
    /// An encoder that is causal and can be generated from.
    Decoder,
}

/// One parameter of a block: a tensor (`x: f32[..., D]`) or a static value (`hidden`, `eps = 1e-6`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Param {
    /// The name.
    pub name: Name,
    /// A type makes it a tensor parameter.
    pub ty: Option<Type>,
    /// The default.
    pub default: Option<Expr>,
}

/// One statement of a body.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Stmt {
    /// `let q = …`.
    Let(Let),
    /// `param scale: f32[D] = ones`.
    Param(ParamDecl),
    /// `x -> norm -> mlp(hidden: 4 * D)`; without a named start it applies to the current value.
    Flow(Expr),
    /// `residual norm -> attention(heads: H)`: adds the flow of the current value to it.
    Residual(Expr, Span),
    /// `stack (dense, sparse) * 6, dense`.
    Stack(Stack),
    /// `repeat i in 0..L { … }`.
    Repeat(Repeat),
    /// `if heads > 1 { … } else { … }` on static values.
    If(If),
}

/// `let name = flow` or `let (a, b) = flow`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Let {
    /// One name, or several that take a tuple apart.
    pub names: Vec<Name>,
    /// The value.
    pub value: Expr,
    /// The whole statement.
    pub span: Span,
}

/// `param name: type = initialiser`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ParamDecl {
    /// The name; the parameter's path ends in it.
    pub name: Name,
    /// Element type and shape.
    pub ty: Type,
    /// `ones`, `zeros`, `normal(std: 0.02)`, `xavier_uniform` …
    pub init: Expr,
    /// The whole statement.
    pub span: Span,
}

/// `stack (dense, sparse) * 6, dense as states`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stack {
    /// What is repeated, in order.
    pub parts: Vec<StackPart>,
    /// The name of all that flows: `states.0` into the first block, `states.1` out of it, and so on.
    pub states: Option<Name>,
    /// The whole statement.
    pub span: Span,
}

/// One part of a `stack`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StackPart {
    /// The blocks of the part in order; one, or several in parentheses.
    pub blocks: Vec<Expr>,
    /// How often; once without it.
    pub times: Option<Expr>,
}

/// `repeat index in from..to { body }`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Repeat {
    /// The index name.
    pub index: Name,
    /// First index.
    pub from: Expr,
    /// One past the last.
    pub to: Expr,
    /// What is repeated.
    pub body: Vec<Stmt>,
    /// The whole statement.
    pub span: Span,
}

/// A static choice.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct If {
    /// A static condition.
    pub condition: Expr,
    /// When it holds.
    pub then: Vec<Stmt>,
    /// When it does not.
    pub otherwise: Vec<Stmt>,
    /// The whole statement.
    pub span: Span,
}

/// `loss`, `objective` or `metric`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Formula {
    /// Which of the three.
    pub kind: FormulaKind,
    /// Its name.
    pub name: Name,
    /// Its value.
    pub value: Expr,
}

/// The kinds of named scalars.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FormulaKind {
    /// Logged under its name.
    Loss,
    /// What a stage minimises.
    Objective,
    /// Measured on held-out data.
    Metric,
}

/// `entry name(inputs) -> outputs`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// The name.
    pub name: Name,
    /// The inputs it reads.
    pub inputs: Vec<Name>,
    /// What it gives: an expression or a tuple.
    pub outputs: Expr,
}

/// A dotted path: `both.image`, `connector.*`, `std.vision`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Path {
    /// The parts; a `*` part is a wildcard.
    pub parts: Vec<Name>,
    /// The whole path.
    pub span: Span,
}

impl std::fmt::Display for Path {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, part) in self.parts.iter().enumerate() {
            if index > 0 {
                f.write_str(".")?;
            }
            f.write_str(&part.value)?;
        }
        Ok(())
    }
}

/// An expression with its place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Expr {
    /// What it is.
    pub kind: ExprKind,
    /// Where it is.
    pub span: Span,
}

/// A number as written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Number {
    /// The digits as written, with `_`.
    pub text: String,
    /// The value.
    pub value: f64,
    /// Written without a fraction and an exponent.
    pub is_integer: bool,
    /// A unit after the digits: `6 GB`.
    pub unit: Option<String>,
}

/// The kinds of expressions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ExprKind {
    /// `1e-3`, `20_000`, `6 GB`.
    Number(Number),
    /// `"a photo of a {}"`.
    Text(String),
    /// `image`, `both.image`, `connector.*`, `gelu_tanh`, `none`.
    Path(Path),
    /// `attention(heads: 8)`.
    Call(Call),
    /// `-x`, `not x`.
    Unary(UnaryOp, Box<Expr>),
    /// `4 * D`.
    Binary(BinaryOp, Box<Expr>, Box<Expr>),
    /// `a -> b -> c as name`: at least two steps, or one with a name.
    Pipe(Vec<Step>),
    /// `(a, b)`.
    Tuple(Vec<Expr>),
    /// `[a, b]`.
    List(Vec<Expr>),
    /// `[B (Y p) X]`: axis names for `einsum` and `rearrange`.
    Axes(Vec<AxisGroup>),
}

/// `callee(arguments)`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Call {
    /// What is called.
    pub callee: Path,
    /// The arguments in order.
    pub args: Vec<Arg>,
}

/// One argument.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Arg {
    /// `name:` before it.
    pub name: Option<Name>,
    /// The value.
    pub value: Expr,
}

/// One step of a pipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// The first step is a value; the others are applied to what arrives.
    pub expr: Expr,
    /// `as name`.
    pub name: Option<Name>,
}

/// One axis of a pattern.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum AxisGroup {
    /// `B`, `3`, or `...`.
    Axis(Name),
    /// `(Y p)`: several axes laid out as one, outermost first.
    Group(Vec<Name>, Span),
}

/// Operators before one operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UnaryOp {
    /// `-`
    Negate,
    /// `not`
    Not,
}

/// Operators between two operands, loosest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BinaryOp {
    /// `or`
    Or,
    /// `and`
    And,
    /// `==`
    Equal,
    /// `!=`
    NotEqual,
    /// `<`
    Less,
    /// `<=`
    LessEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterEqual,
    /// `in`: one of a list.
    In,
    /// `+`
    Add,
    /// `-`
    Subtract,
    /// `*`
    Multiply,
    /// `/`
    Divide,
    /// `%`
    Remainder,
}
