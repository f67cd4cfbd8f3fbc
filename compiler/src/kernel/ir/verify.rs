//! Checks the invariants of the kernel IR.

use super::{
    Array, Expr, Fragment, FragmentKind, Function, Kernel, Node, Operator, Scalar, Space, Stmt, Ty,
};
use std::collections::BTreeMap;

/// What is known about a variable in scope.
#[derive(Clone, Copy)]
struct Variable {
    ty: Ty,
    mutable: bool,
    uniform: bool,
}

struct Verifier<'a> {
    kernel: &'a Kernel,
    scopes: Vec<BTreeMap<&'a str, Variable>>,
    fragments: BTreeMap<&'a str, FragmentKind>,
    /// Whether all invocations reach the statement at hand together.
    uniform: bool,
    loops: usize,
}

impl Kernel {
    /// Checks the invariants of this module.
    ///
    /// # Errors
    /// The first violation, with the kernel's name: a fault of the skeleton that built it.
    pub fn verify(&self) -> Result<(), String> {
        let mut verifier = Verifier {
            kernel: self,
            scopes: vec![BTreeMap::new()],
            fragments: BTreeMap::new(),
            uniform: true,
            loops: 0,
        };
        verifier
            .block(&self.body)
            .map_err(|message| format!("kernel {}: {message}", self.name))
    }
}

fn ensure(holds: bool, message: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(message()) }
}

impl<'a> Verifier<'a> {
    fn lookup(&self, name: &str) -> Result<Variable, String> {
        let found = self.scopes.iter().rev().find_map(|scope| scope.get(name));
        found.copied().ok_or_else(|| format!("{name} is undefined"))
    }

    fn define(&mut self, name: &'a str, variable: Variable) -> Result<(), String> {
        let known = self.scopes.iter().any(|scope| scope.contains_key(name));
        ensure(!known, || format!("{name} is defined twice"))?;
        if let Some(scope) = self.scopes.last_mut() {
            scope.insert(name, variable);
        }
        Ok(())
    }

    fn block(&mut self, body: &'a [Stmt]) -> Result<(), String> {
        self.scopes.push(BTreeMap::new());
        for statement in body {
            self.statement(statement)?;
        }
        self.scopes.pop();
        Ok(())
    }

    fn statement(&mut self, statement: &'a Stmt) -> Result<(), String> {
        match statement {
            Stmt::Comment(_) => Ok(()),
            Stmt::Let { name, value } => self.definition(name, value, false),
            Stmt::Var { name, value } => self.definition(name, value, true),
            Stmt::Assign { name, value } => self.assignment(name, value),
            Stmt::Store {
                array,
                index,
                value,
            } => self.store(*array, index, value, false),
            Stmt::AtomicAdd {
                array,
                index,
                value,
                result,
            } => self.atomic(*array, index, value, result.as_deref()),
            Stmt::For { .. } => self.repetition(statement),
            Stmt::If {
                condition,
                then,
                otherwise,
            } => self.branch(condition, [then, otherwise]),
            Stmt::Break => ensure(self.loops > 0, || "break outside of a loop".to_owned()),
            Stmt::Barrier(_) => ensure(self.uniform, || {
                "barrier in divergent control flow".to_owned()
            }),
            Stmt::Fragment(fragment) => self.fragment(fragment),
        }
    }

    fn definition(&mut self, name: &'a str, value: &Expr, mutable: bool) -> Result<(), String> {
        let uniform = self.expr(value)? && !mutable;
        let variable = Variable {
            ty: value.ty(),
            mutable,
            uniform,
        };
        self.define(name, variable)
    }

    fn fragment(&mut self, fragment: &'a Fragment) -> Result<(), String> {
        ensure(self.uniform, || {
            "fragment in divergent control flow".to_owned()
        })?;
        for (name, kind) in fragment.uses() {
            let known = self.fragments.get(name) == Some(&kind);
            ensure(known, || format!("{name} is no fragment of this kind"))?;
        }
        if let Some((array, index)) = fragment.access() {
            self.expr(index)?;
            self.access(array, index, Ty::F32, false)?;
            let is_half = self.is_half(array);
            let wanted = matches!(fragment, Fragment::Load { .. });
            let fits = array.ty == Ty::F32 && is_half == wanted;
            ensure(fits, || "a fragment meets other elements".to_owned())?;
        }
        if let Some((name, kind)) = fragment.defines() {
            let before = self.fragments.insert(name, kind);
            ensure(before.is_none(), || format!("{name} is defined twice"))?;
        }
        Ok(())
    }

    fn is_half(&self, array: Array) -> bool {
        let kernel = self.kernel;
        match array.space {
            Space::Storage => kernel.bindings.get(array.index).map(|it| it.half),
            Space::Workgroup => kernel.workgroup_arrays.get(array.index).map(|it| it.half),
        }
        .unwrap_or_default()
    }

    fn assignment(&mut self, name: &str, value: &Expr) -> Result<(), String> {
        let variable = self.lookup(name)?;
        self.expr(value)?;
        ensure(variable.mutable, || format!("{name} cannot change"))?;
        ensure(variable.ty == value.ty(), || {
            format!("{name} is {:?}, not {:?}", variable.ty, value.ty())
        })
    }

    fn atomic(
        &mut self,
        array: Array,
        index: &Expr,
        value: &Expr,
        result: Option<&'a str>,
    ) -> Result<(), String> {
        self.store(array, index, value, true)?;
        let variable = Variable {
            ty: Ty::U32,
            mutable: false,
            uniform: false,
        };
        result.map_or(Ok(()), |name| self.define(name, variable))
    }

    fn repetition(&mut self, statement: &'a Stmt) -> Result<(), String> {
        let Stmt::For {
            name,
            from,
            to,
            step,
            body,
        } = statement
        else {
            return Ok(());
        };
        let mut uniform = true;
        for bound in [from, to, step] {
            uniform &= self.expr(bound)?;
            ensure(bound.ty() == Ty::U32, || {
                format!("bounds of {name} are not u32")
            })?;
        }
        let variable = Variable {
            ty: Ty::U32,
            mutable: false,
            uniform,
        };
        let outer = self.uniform;
        self.uniform &= uniform;
        self.loops += 1;
        self.scopes.push(BTreeMap::new());
        self.define(name, variable)?;
        self.block(body)?;
        self.scopes.pop();
        self.loops -= 1;
        self.uniform = outer;
        Ok(())
    }

    fn branch(&mut self, condition: &Expr, arms: [&'a Vec<Stmt>; 2]) -> Result<(), String> {
        let uniform = self.expr(condition)?;
        ensure(condition.ty() == Ty::BOOL, || {
            "a condition is not bool".to_owned()
        })?;
        let outer = self.uniform;
        self.uniform &= uniform;
        for arm in arms {
            self.block(arm)?;
        }
        self.uniform = outer;
        Ok(())
    }

    /// Checks an access; `ty` is the type read or written.
    fn access(&self, array: Array, index: &Expr, ty: Ty, atomic: bool) -> Result<(), String> {
        let declared = match array.space {
            Space::Storage => self.kernel.bindings.get(array.index).map(|binding| {
                let ty = Ty::of(binding.element).wide(binding.vec4);
                (&binding.name, ty, binding.atomic)
            }),
            Space::Workgroup => {
                let found = self.kernel.workgroup_arrays.get(array.index);
                found.map(|array| (&array.name, array.ty, array.atomic))
            }
        };
        let (name, element, is_atomic) =
            declared.ok_or_else(|| format!("array {} does not exist", array.index))?;
        ensure(index.ty() == Ty::U32, || {
            format!("index of {name} is not u32")
        })?;
        ensure(
            element.scalar == ty.scalar && (element.vec4 || !ty.vec4),
            || format!("{name} holds {element:?}, not {ty:?}"),
        )?;
        ensure(!atomic || is_atomic, || format!("{name} is not atomic"))
    }

    fn store(&self, array: Array, index: &Expr, value: &Expr, atomic: bool) -> Result<(), String> {
        self.expr(index)?;
        self.expr(value)?;
        self.access(array, index, value.ty(), atomic)
    }

    /// Checks an expression; true when all invocations of a workgroup see the same value.
    fn expr(&self, expr: &Expr) -> Result<bool, String> {
        let mut uniform = true;
        for operand in expr.operands() {
            uniform &= self.expr(operand)?;
        }
        match expr.node() {
            Node::Variable(name) => {
                let variable = self.lookup(name)?;
                ensure(variable.ty == expr.ty(), || {
                    format!("{name} changed its type")
                })?;
                uniform = variable.uniform;
            }
            Node::Size(index) => ensure(*index < self.kernel.sizes.len(), || {
                format!("size word {index} does not exist")
            })?,
            Node::Builtin(builtin) => uniform = builtin.is_uniform(),
            Node::Load(array, index) => self.access(*array, index, expr.ty(), false)?,
            Node::F32(value) => ensure(value.is_finite(), || format!("{value} is not a literal"))?,
            Node::Shuffle(..) | Node::ShuffleXor(..) => {
                ensure(self.uniform, || {
                    "shuffle in divergent control flow".to_owned()
                })?;
                uniform = false;
            }
            _ => typed(expr)?,
        }
        Ok(uniform)
    }
}

/// Checks that the operands of a pure operation have the types it takes.
fn typed(expr: &Expr) -> Result<(), String> {
    let scalars: Vec<Scalar> = expr.operands().iter().map(|it| it.ty().scalar).collect();
    let same = scalars.windows(2).all(|pair| pair[0] == pair[1]);
    let first = scalars.first().copied().unwrap_or(Scalar::Bool);
    let holds = match expr.node() {
        Node::Operator(operator, left, right) => {
            let widths = left.ty().vec4 == right.ty().vec4;
            same && (widths || first == Scalar::F32 || first == Scalar::U32)
                && takes(*operator, first)
        }
        Node::Call(Function::Minimum | Function::Maximum, _) => same && first != Scalar::Bool,
        Node::Call(..) => same && first == Scalar::F32,
        Node::Negate(_) => first == Scalar::F32,
        Node::Not(_) => first == Scalar::Bool,
        Node::Select(condition, then, otherwise) => {
            condition.ty().scalar == Scalar::Bool && then.ty() == otherwise.ty()
        }
        Node::Vec4(components) => same && components.iter().all(|it| !it.ty().vec4),
        Node::Component(value, index) => value.ty().vec4 && *index < 4,
        _ => true,
    };
    ensure(holds, || format!("operands do not fit in {expr:?}"))
}

fn takes(operator: Operator, scalar: Scalar) -> bool {
    match operator {
        Operator::Add
        | Operator::Subtract
        | Operator::Multiply
        | Operator::Divide
        | Operator::Remainder
        | Operator::Less
        | Operator::LessEqual => scalar != Scalar::Bool,
        Operator::And
        | Operator::Or
        | Operator::Xor
        | Operator::ShiftLeft
        | Operator::ShiftRight => scalar == Scalar::U32,
        Operator::Equal | Operator::NotEqual => true,
        Operator::BothTrue | Operator::EitherTrue => scalar == Scalar::Bool,
    }
}
