//! The kernel IR: one entry point of typed expressions and structured statements.
//!
//! Invariants (checked by [`Kernel::verify`])
//! - Operand types agree: arithmetic joins equal scalars (a scalar meets a vec4 by repetition),
//!   conditions are bool, indices are u32.
//! - Every variable is defined before its use, in an enclosing scope, once.
//! - Arrays exist and are accessed with their element type; a vec4 array may also be read and
//!   written by scalar, with an index that counts scalars.
//! - Barriers, shuffles and fragments stand in uniform control flow: no condition or loop bound around them
//!   depends on the invocation.
//!
//! Bounds are the skeletons' duty: the IR has no array lengths.

mod builder;
mod fragment;
mod pairs;
mod reserved;
mod verify;

pub use builder::Builder;
pub use fragment::{FRAGMENT, Fragment, FragmentKind, Side};

use std::ops;
use std::sync::Arc;

/// Scalar types.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scalar {
    /// 32-bit float.
    F32,
    /// 32-bit unsigned integer.
    U32,
    /// Truth value; not storable.
    Bool,
}

/// Type of an expression: a scalar or four of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ty {
    /// Type of a component.
    pub scalar: Scalar,
    /// Four components instead of one.
    pub vec4: bool,
}

impl Ty {
    /// f32.
    pub const F32: Self = Self::of(Scalar::F32);
    /// u32.
    pub const U32: Self = Self::of(Scalar::U32);
    /// bool.
    pub const BOOL: Self = Self::of(Scalar::Bool);
    /// vec4 of f32.
    pub const VEC4F: Self = Self::F32.wide(true);
    /// vec4 of u32.
    pub const VEC4U: Self = Self::U32.wide(true);

    /// One scalar.
    #[must_use]
    pub const fn of(scalar: Scalar) -> Self {
        Self {
            scalar,
            vec4: false,
        }
    }

    /// The same scalar with four components or one.
    #[must_use]
    pub const fn wide(self, vec4: bool) -> Self {
        Self { vec4, ..self }
    }
}

/// Where an array lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Space {
    /// A storage binding.
    Storage,
    /// Memory shared by a workgroup.
    Workgroup,
}

/// Handle of an array of the kernel under construction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Array {
    /// Where it lives.
    pub space: Space,
    /// Position among the arrays of that space.
    pub index: usize,
    /// Element type.
    pub ty: Ty,
}

impl Array {
    /// The scalar at `index` (which counts scalars, also when elements are vec4).
    #[must_use]
    pub fn at(self, index: impl Into<Expr>) -> Expr {
        Expr::new(self.ty.wide(false), Node::Load(self, index.into()))
    }

    /// The vec4 at `index` (which counts vec4) of an array of vec4.
    #[must_use]
    pub fn at4(self, index: impl Into<Expr>) -> Expr {
        Expr::new(self.ty.wide(true), Node::Load(self, index.into()))
    }
}

/// Values that differ between invocations and workgroups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Builtin {
    /// Workgroup index along x.
    GroupX,
    /// Workgroup index along y.
    GroupY,
    /// Workgroup index along z.
    GroupZ,
    /// Number of workgroups along x.
    GroupsX,
    /// Invocation index in its workgroup along x.
    LocalX,
    /// Invocation index in its workgroup along y.
    LocalY,
    /// Invocation index in its workgroup.
    LocalIndex,
    /// Invocation index in its subgroup.
    Lane,
    /// Index of the subgroup in its workgroup.
    Subgroup,
}

impl Builtin {
    /// Whether all invocations of a workgroup see the same value.
    #[must_use]
    pub fn is_uniform(self) -> bool {
        matches!(
            self,
            Self::GroupX | Self::GroupY | Self::GroupZ | Self::GroupsX
        )
    }
}

/// Operators of two operands, printed infix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names are the operators")]
pub enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
    And,
    Or,
    Xor,
    ShiftLeft,
    ShiftRight,
    Equal,
    NotEqual,
    Less,
    LessEqual,
    BothTrue,
    EitherTrue,
}

impl Operator {
    /// Whether the result is a truth value per component.
    #[must_use]
    pub fn is_comparison(self) -> bool {
        matches!(
            self,
            Self::Equal | Self::NotEqual | Self::Less | Self::LessEqual
        )
    }
}

/// Built-in functions; operands and result share one type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names are the functions")]
pub enum Function {
    Minimum,
    Maximum,
    Power,
    Exp,
    Log,
    Sqrt,
    InverseSqrt,
    Tanh,
    Sin,
    Cos,
    Absolute,
    Floor,
}

/// One expression node.
#[derive(Clone, Debug, PartialEq)]
pub enum Node {
    /// A float literal; finite.
    F32(f32),
    /// An integer literal.
    U32(u32),
    /// A truth value.
    Bool(bool),
    /// A `let`, `var` or loop variable.
    Variable(Arc<str>),
    /// A word of the uniform block.
    Size(usize),
    /// An index of this invocation.
    Builtin(Builtin),
    /// An element; the expression's type tells scalar from vec4.
    Load(Array, Expr),
    /// Minus.
    Negate(Expr),
    /// Truth inverted.
    Not(Expr),
    /// An infix operator.
    Operator(Operator, Expr, Expr),
    /// A built-in function.
    Call(Function, Vec<Expr>),
    /// `condition ? then : otherwise`, per component when the condition is a vec4.
    Select(Expr, Expr, Expr),
    /// Conversion of value to the expression's type.
    Convert(Expr),
    /// The same bits as the expression's type.
    Bitcast(Expr),
    /// Component 0..4 of a vec4.
    Component(Expr, usize),
    /// A vec4 from its components.
    Vec4([Expr; 4]),
    /// A vec4 of one value.
    Splat(Expr),
    /// The value that invocation `lane` of the subgroup has.
    Shuffle(Expr, u32),
    /// The value that invocation `own lane ^ mask` of the subgroup has.
    ShuffleXor(Expr, u32),
}

/// A typed expression; cheap to clone.
#[derive(Clone, Debug, PartialEq)]
pub struct Expr {
    node: Arc<Node>,
    ty: Ty,
}

impl Expr {
    fn new(ty: Ty, node: Node) -> Self {
        Self {
            node: Arc::new(node),
            ty,
        }
    }

    /// Its node.
    #[must_use]
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Its type.
    #[must_use]
    pub fn ty(&self) -> Ty {
        self.ty
    }

    /// A truth literal.
    #[must_use]
    pub fn bool(value: bool) -> Self {
        Self::new(Ty::BOOL, Node::Bool(value))
    }

    /// An index of this invocation.
    #[must_use]
    pub fn builtin(builtin: Builtin) -> Self {
        Self::new(Ty::U32, Node::Builtin(builtin))
    }

    /// A vec4 of these scalars.
    #[must_use]
    pub fn vec4(components: [Expr; 4]) -> Self {
        let ty = components[0].ty.wide(true);
        Self::new(ty, Node::Vec4(components))
    }

    /// This value as a vec4: itself, or repeated.
    #[must_use]
    pub fn splat(&self) -> Self {
        if self.ty.vec4 {
            return self.clone();
        }
        Self::new(self.ty.wide(true), Node::Splat(self.clone()))
    }

    /// Repeated when `vec4`, else itself.
    #[must_use]
    pub fn widened(&self, vec4: bool) -> Self {
        if vec4 { self.splat() } else { self.clone() }
    }

    /// Component 0..4 of a vec4; a scalar is all of its components.
    #[must_use]
    pub fn component(&self, index: usize) -> Self {
        match self.node() {
            _ if !self.ty.vec4 => self.clone(),
            Node::Vec4(components) => components[index].clone(),
            Node::Splat(value) => value.clone(),
            _ => Self::new(self.ty.wide(false), Node::Component(self.clone(), index)),
        }
    }

    fn operator(operator: Operator, left: &Expr, right: &Expr) -> Self {
        let vec4 = left.ty.vec4 || right.ty.vec4;
        let logical = matches!(operator, Operator::BothTrue | Operator::EitherTrue);
        if operator.is_comparison() || logical {
            let (left, right) = (left.widened(vec4), right.widened(vec4));
            return Self::new(Ty::BOOL.wide(vec4), Node::Operator(operator, left, right));
        }
        let bitwise = matches!(
            operator,
            Operator::And
                | Operator::Or
                | Operator::Xor
                | Operator::ShiftLeft
                | Operator::ShiftRight
        );
        let (left, right) = match bitwise {
            true => (left.widened(vec4), right.widened(vec4)),
            false => (left.clone(), right.clone()),
        };
        Self::new(left.ty.wide(vec4), Node::Operator(operator, left, right))
    }

    /// A built-in function of one to two operands; scalars are repeated to meet vec4.
    #[must_use]
    pub fn call(function: Function, operands: &[&Expr]) -> Self {
        let vec4 = operands.iter().any(|operand| operand.ty.vec4);
        let operands: Vec<Expr> = operands.iter().map(|it| it.widened(vec4)).collect();
        let scalar = operands.first().map_or(Scalar::F32, |it| it.ty.scalar);
        Self::new(Ty::of(scalar).wide(vec4), Node::Call(function, operands))
    }

    /// The smaller.
    #[must_use]
    pub fn min(&self, other: impl Into<Expr>) -> Self {
        Self::call(Function::Minimum, &[self, &other.into()])
    }

    /// The larger.
    #[must_use]
    pub fn max(&self, other: impl Into<Expr>) -> Self {
        Self::call(Function::Maximum, &[self, &other.into()])
    }

    /// e to this power.
    #[must_use]
    pub fn exp(&self) -> Self {
        Self::call(Function::Exp, &[self])
    }

    /// Natural logarithm.
    #[must_use]
    pub fn log(&self) -> Self {
        Self::call(Function::Log, &[self])
    }

    /// Square root.
    #[must_use]
    pub fn sqrt(&self) -> Self {
        Self::call(Function::Sqrt, &[self])
    }

    /// `then` where this condition holds, else `otherwise`.
    #[must_use]
    pub fn select(&self, then: impl Into<Expr>, otherwise: impl Into<Expr>) -> Self {
        let (then, otherwise) = (then.into(), otherwise.into());
        let vec4 = self.ty.vec4 || then.ty.vec4 || otherwise.ty.vec4;
        let (then, otherwise) = (then.widened(vec4), otherwise.widened(vec4));
        Self::new(then.ty, Node::Select(self.clone(), then, otherwise))
    }

    /// Conversion to a scalar type, per component.
    #[must_use]
    pub fn convert(&self, scalar: Scalar) -> Self {
        if self.ty.scalar == scalar {
            return self.clone();
        }
        let ty = Ty { scalar, ..self.ty };
        Self::new(ty, Node::Convert(self.clone()))
    }

    /// The same bits as another scalar type, per component.
    #[must_use]
    pub fn bitcast(&self, scalar: Scalar) -> Self {
        let ty = Ty { scalar, ..self.ty };
        Self::new(ty, Node::Bitcast(self.clone()))
    }

    /// The value that invocation `lane` of the subgroup has.
    #[must_use]
    pub fn shuffle(&self, lane: u32) -> Self {
        Self::new(self.ty, Node::Shuffle(self.clone(), lane))
    }

    /// The value that invocation `own lane ^ mask` of the subgroup has.
    #[must_use]
    pub fn shuffle_xor(&self, mask: u32) -> Self {
        Self::new(self.ty, Node::ShuffleXor(self.clone(), mask))
    }

    /// Expressions this one is built from.
    #[must_use]
    pub fn operands(&self) -> Vec<&Expr> {
        match self.node() {
            Node::F32(_)
            | Node::U32(_)
            | Node::Bool(_)
            | Node::Variable(_)
            | Node::Size(_)
            | Node::Builtin(_) => Vec::new(),
            Node::Load(_, it)
            | Node::Negate(it)
            | Node::Not(it)
            | Node::Convert(it)
            | Node::Bitcast(it)
            | Node::Component(it, _)
            | Node::Splat(it)
            | Node::Shuffle(it, _)
            | Node::ShuffleXor(it, _) => vec![it],
            Node::Operator(_, left, right) => vec![left, right],
            Node::Call(_, operands) => operands.iter().collect(),
            Node::Select(condition, then, otherwise) => vec![condition, then, otherwise],
            Node::Vec4(components) => components.iter().collect(),
        }
    }
}

impl Expr {
    /// Visits this expression and all that it is built from.
    pub fn walk(&self, visit: &mut impl FnMut(&Self)) {
        visit(self);
        for operand in self.operands() {
            operand.walk(visit);
        }
    }
}

impl Stmt {
    /// Visits all statements of a body, those inside of others too.
    pub fn walk<'s>(body: &'s [Self], visit: &mut impl FnMut(&'s Self)) {
        for statement in body {
            visit(statement);
            match statement {
                Self::For { body, .. } => Self::walk(body, visit),
                Self::If {
                    then, otherwise, ..
                } => {
                    Self::walk(then, visit);
                    Self::walk(otherwise, visit);
                }
                _ => {}
            }
        }
    }

    /// Expressions that this statement itself evaluates.
    #[must_use]
    pub fn expressions(&self) -> Vec<&Expr> {
        match self {
            Self::Let { value, .. } | Self::Var { value, .. } | Self::Assign { value, .. } => {
                vec![value]
            }
            Self::Store { index, value, .. } | Self::AtomicAdd { index, value, .. } => {
                vec![index, value]
            }
            Self::For { from, to, step, .. } => vec![from, to, step],
            Self::If { condition, .. } => vec![condition],
            Self::Fragment(fragment) => fragment.access().map(|(_, it)| it).into_iter().collect(),
            Self::Comment(_) | Self::Break | Self::Barrier(_) => Vec::new(),
        }
    }
}

impl From<f32> for Expr {
    fn from(value: f32) -> Self {
        Self::new(Ty::F32, Node::F32(value))
    }
}

impl From<u32> for Expr {
    fn from(value: u32) -> Self {
        Self::new(Ty::U32, Node::U32(value))
    }
}

impl From<&Expr> for Expr {
    fn from(value: &Expr) -> Self {
        value.clone()
    }
}

/// Infix operators on expressions by value and by reference; the right side may be a literal.
macro_rules! operators {
    ($($trait:ident $method:ident $operator:ident),* $(,)?) => {
        $(impl<R: Into<Expr>> ops::$trait<R> for Expr {
            type Output = Expr;
            fn $method(self, right: R) -> Expr {
                Expr::operator(Operator::$operator, &self, &right.into())
            }
        }
        impl<R: Into<Expr>> ops::$trait<R> for &Expr {
            type Output = Expr;
            fn $method(self, right: R) -> Expr {
                Expr::operator(Operator::$operator, self, &right.into())
            }
        })*
    };
}

operators! {
    Add add Add,
    Sub sub Subtract,
    Mul mul Multiply,
    Div div Divide,
    Rem rem Remainder,
    BitAnd bitand And,
    BitOr bitor Or,
    BitXor bitxor Xor,
    Shl shl ShiftLeft,
    Shr shr ShiftRight,
}

/// Operators that Rust gives no trait for.
macro_rules! comparisons {
    ($($(#[$doc:meta])* $method:ident $operator:ident),* $(,)?) => {
        impl Expr {
            $($(#[$doc])*
            #[must_use]
            pub fn $method(&self, right: impl Into<Expr>) -> Expr {
                Expr::operator(Operator::$operator, self, &right.into())
            })*
        }
    };
}

comparisons! {
    /// Equal.
    equals Equal,
    /// Not equal.
    differs NotEqual,
    /// Less.
    less Less,
    /// Less or equal.
    at_most LessEqual,
    /// Both true.
    and BothTrue,
    /// At least one true.
    or EitherTrue,
}

impl ops::Neg for &Expr {
    type Output = Expr;
    fn neg(self) -> Expr {
        Expr::new(self.ty, Node::Negate(self.clone()))
    }
}

impl ops::Not for &Expr {
    type Output = Expr;
    fn not(self) -> Expr {
        Expr::new(self.ty, Node::Not(self.clone()))
    }
}

/// One statement.
#[derive(Clone, Debug, PartialEq)]
pub enum Stmt {
    /// A line for the reader.
    Comment(String),
    /// Names a value.
    Let {
        /// Its name.
        name: Arc<str>,
        /// Its value.
        value: Expr,
    },
    /// Defines a variable.
    Var {
        /// Its name.
        name: Arc<str>,
        /// First value.
        value: Expr,
    },
    /// Changes a variable.
    Assign {
        /// The variable.
        name: Arc<str>,
        /// New value.
        value: Expr,
    },
    /// Writes an element; a vec4 value writes a whole vec4.
    Store {
        /// Written array.
        array: Array,
        /// Counts scalars for a scalar value, vec4 for a vec4.
        index: Expr,
        /// Written value.
        value: Expr,
    },
    /// Adds to an element of an atomic u32 array.
    AtomicAdd {
        /// Changed array.
        array: Array,
        /// Which element.
        index: Expr,
        /// What is added.
        value: Expr,
        /// Names the value before the addition.
        result: Option<Arc<str>>,
    },
    /// `for (name = from; name < to; name += step)`.
    For {
        /// Loop variable, u32.
        name: Arc<str>,
        /// First value.
        from: Expr,
        /// Bound.
        to: Expr,
        /// Increment.
        step: Expr,
        /// Repeated statements.
        body: Vec<Stmt>,
    },
    /// A branch.
    If {
        /// Which one.
        condition: Expr,
        /// When it holds.
        then: Vec<Stmt>,
        /// When it does not.
        otherwise: Vec<Stmt>,
    },
    /// Leaves the innermost loop.
    Break,
    /// Waits for the workgroup; orders accesses to this memory.
    Barrier(Space),
    /// Something with the matrices that a subgroup holds.
    Fragment(Fragment),
}

/// One storage binding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BindingDecl {
    /// Readable name, unique in the kernel.
    pub name: Arc<str>,
    /// f32 or u32.
    pub element: Scalar,
    /// Declared as an array of vec4.
    pub vec4: bool,
    /// An array of atomic u32.
    pub atomic: bool,
    /// Elements of f32 are stored as f16; kernels compute in f32 all the same.
    pub half: bool,
    /// Touched as two 64-bit words for a vec4 of f32, unless its elements are halves.
    pub paired: bool,
}

/// One array in workgroup memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkgroupArray {
    /// Readable name, unique in the kernel.
    pub name: Arc<str>,
    /// Element type.
    pub ty: Ty,
    /// Number of elements.
    pub length: u32,
    /// Atomic u32 elements.
    pub atomic: bool,
    /// Elements of f32 are stored as f16.
    pub half: bool,
}

/// One kernel. Its text depends on structure only; sizes are words of the uniform block.
#[derive(Clone, Debug, PartialEq)]
pub struct Kernel {
    /// What it computes, as an identifier.
    pub name: String,
    /// Header lines: tiling, origin, shapes.
    pub doc: Vec<String>,
    /// Storage bindings 1.. of group 0.
    pub bindings: Vec<BindingDecl>,
    /// Names of the uniform words.
    pub sizes: Vec<Arc<str>>,
    /// Invocations of a workgroup.
    pub workgroup_size: [u32; 3],
    /// Workgroup memory.
    pub workgroup_arrays: Vec<WorkgroupArray>,
    /// Statements of the entry point.
    pub body: Vec<Stmt>,
}
