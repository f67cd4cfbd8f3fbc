//! Builds a kernel statement by statement, with fresh names and the values of its size words.

use super::reserved::is_reserved;
use super::{
    Array, BindingDecl, Builtin, Expr, Fragment, Kernel, Node, Scalar, Side, Space, Stmt, Ty,
    WorkgroupArray,
};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A kernel under construction together with the uniform words of its launch.
#[derive(Debug)]
pub struct Builder {
    kernel: Kernel,
    words: Vec<u32>,
    /// The first thing that went wrong; told when the kernel is finished.
    fault: Option<String>,
    names: BTreeMap<String, usize>,
    blocks: Vec<Vec<Stmt>>,
}

impl Builder {
    /// Starts a kernel.
    #[must_use]
    pub fn new(name: impl Into<String>, workgroup_size: [u32; 3]) -> Self {
        Self {
            kernel: Kernel {
                name: name.into(),
                doc: Vec::new(),
                bindings: Vec::new(),
                sizes: Vec::new(),
                workgroup_size,
                workgroup_arrays: Vec::new(),
                body: Vec::new(),
            },
            words: Vec::new(),
            fault: None,
            names: BTreeMap::new(),
            blocks: vec![Vec::new()],
        }
    }

    /// The kernel and the words of its launch.
    ///
    /// # Errors
    /// What [`Kernel::verify`] finds, what [`fail`](Self::fail) recorded, and a size beyond 32 bits.
    pub fn finish(mut self) -> Result<(Kernel, Vec<u32>), String> {
        if let Some(fault) = self.fault {
            return Err(format!("kernel {}: {fault}", self.kernel.name));
        }
        self.kernel.body = self.blocks.pop().unwrap_or_default();
        self.kernel.verify()?;
        Ok((self.kernel, self.words))
    }

    /// Records a fault of a skeleton, for [`finish`](Self::finish) to tell.
    pub fn fail(&mut self, fault: impl Into<String>) {
        self.fault.get_or_insert_with(|| fault.into());
    }

    /// Adds a header line.
    pub fn doc(&mut self, line: impl Into<String>) {
        self.kernel.doc.push(line.into());
    }

    /// A name not used before, nor reserved: `name`, `name_2`, `name_3` …
    fn fresh(&mut self, name: &str) -> Arc<str> {
        let mut chosen = name.to_owned();
        while is_reserved(&chosen) || self.names.contains_key(&chosen) {
            let count = self.names.entry(name.to_owned()).or_insert(1);
            *count += 1;
            chosen = format!("{name}_{count}");
        }
        self.names.insert(chosen.clone(), 1);
        chosen.into()
    }

    /// Adds a storage binding; `vec4` declares an array of vec4.
    pub fn binding(&mut self, name: &str, element: Scalar, vec4: bool) -> Array {
        self.declare(name, element, vec4, false)
    }

    /// Adds a storage binding of atomic u32.
    pub fn atomic_binding(&mut self, name: &str) -> Array {
        self.declare(name, Scalar::U32, false, true)
    }

    fn declare(&mut self, name: &str, element: Scalar, vec4: bool, atomic: bool) -> Array {
        let name = self.fresh(name);
        self.kernel.bindings.push(BindingDecl {
            name,
            element,
            vec4,
            atomic,
            half: false,
            paired: false,
        });
        Array {
            space: Space::Storage,
            index: self.kernel.bindings.len() - 1,
            ty: Ty::of(element).wide(vec4),
        }
    }

    /// Adds an array in workgroup memory.
    pub fn workgroup_array(&mut self, name: &str, ty: Ty, length: u32) -> Array {
        self.declare_workgroup(name, ty, length, [false, false])
    }

    /// Adds an array of f32 in workgroup memory that are stored as 16-bit floats.
    pub fn half_workgroup_array(&mut self, name: &str, length: u32) -> Array {
        self.declare_workgroup(name, Ty::F32, length, [false, true])
    }

    /// Adds an array of atomic u32 in workgroup memory.
    pub fn atomic_workgroup_array(&mut self, name: &str, length: u32) -> Array {
        self.declare_workgroup(name, Ty::U32, length, [true, false])
    }

    fn declare_workgroup(
        &mut self,
        name: &str,
        ty: Ty,
        length: u32,
        [atomic, half]: [bool; 2],
    ) -> Array {
        let name = self.fresh(name);
        self.kernel.workgroup_arrays.push(WorkgroupArray {
            name,
            ty,
            length,
            atomic,
            half,
        });
        Array {
            space: Space::Workgroup,
            index: self.kernel.workgroup_arrays.len() - 1,
            ty,
        }
    }

    /// Adds a uniform word with its value in this launch. The text holds the name only.
    pub fn size(&mut self, name: &str, value: usize) -> Expr {
        let word = u32::try_from(value).unwrap_or_else(|_| {
            self.fail(format!("{name} exceeds u32"));
            0
        });
        let name = self.fresh(name);
        self.kernel.sizes.push(name);
        self.words.push(word);
        Expr::new(Ty::U32, Node::Size(self.words.len() - 1))
    }

    /// A value per step of a dispatch-wide grid: `workgroup x + y * number along x`.
    pub fn linear_group(&mut self) -> Expr {
        let row = Expr::builtin(Builtin::GroupY) * Expr::builtin(Builtin::GroupsX);
        self.bind("group", Expr::builtin(Builtin::GroupX) + row)
    }

    fn push(&mut self, statement: Stmt) {
        if let Some(block) = self.blocks.last_mut() {
            block.push(statement);
        }
    }

    /// Adds a comment line.
    pub fn comment(&mut self, text: impl Into<String>) {
        self.push(Stmt::Comment(text.into()));
    }

    /// `let name = value`; literals, variables and sizes are returned as they are.
    pub fn bind(&mut self, name: &str, value: impl Into<Expr>) -> Expr {
        let value = value.into();
        if matches!(
            value.node(),
            Node::F32(_) | Node::U32(_) | Node::Bool(_) | Node::Size(_)
        ) {
            return value;
        }
        self.copy(name, value)
    }

    /// `let name = value`, always: takes the value a variable has now.
    pub fn copy(&mut self, name: &str, value: impl Into<Expr>) -> Expr {
        let value = value.into();
        let name = self.fresh(name);
        let variable = Expr::new(value.ty(), Node::Variable(name.clone()));
        self.push(Stmt::Let { name, value });
        variable
    }

    /// `var name = value`.
    pub fn var(&mut self, name: &str, value: impl Into<Expr>) -> Expr {
        let value = value.into();
        let name = self.fresh(name);
        let variable = Expr::new(value.ty(), Node::Variable(name.clone()));
        self.push(Stmt::Var { name, value });
        variable
    }

    /// Changes a variable made by [`var`](Self::var).
    pub fn assign(&mut self, variable: &Expr, value: impl Into<Expr>) {
        if let Node::Variable(name) = variable.node() {
            self.push(Stmt::Assign {
                name: name.clone(),
                value: value.into(),
            });
        }
    }

    /// Writes an element.
    pub fn store(&mut self, array: Array, index: impl Into<Expr>, value: impl Into<Expr>) {
        self.push(Stmt::Store {
            array,
            index: index.into(),
            value: value.into(),
        });
    }

    /// Adds to an atomic element; the result is the value before.
    pub fn atomic_add(&mut self, array: Array, index: &Expr, value: &Expr) -> Expr {
        let name = self.fresh("before");
        self.push(Stmt::AtomicAdd {
            array,
            index: index.clone(),
            value: value.clone(),
            result: Some(name.clone()),
        });
        Expr::new(Ty::U32, Node::Variable(name))
    }

    /// Waits for the workgroup; orders workgroup memory.
    pub fn barrier(&mut self) {
        self.push(Stmt::Barrier(Space::Workgroup));
    }

    /// Waits for the workgroup; orders its accesses to storage.
    pub fn storage_barrier(&mut self) {
        self.push(Stmt::Barrier(Space::Storage));
    }

    /// A sum of 16 x 16 that the lanes of a subgroup hold, zero at first.
    pub fn fragment_sum(&mut self, name: &str) -> Arc<str> {
        let name = self.fresh(name);
        let sum = Fragment::Sum { name: name.clone() };
        self.push(Stmt::Fragment(sum));
        name
    }

    /// An operand of 16 x 16 from rows of halves.
    pub fn fragment(
        &mut self,
        name: &str,
        side: Side,
        (array, index): (Array, impl Into<Expr>),
        pitch: u32,
    ) -> Arc<str> {
        let name = self.fresh(name);
        self.push(Stmt::Fragment(Fragment::Load {
            name: name.clone(),
            side,
            array,
            index: index.into(),
            pitch,
        }));
        name
    }

    /// Adds the product of two operands to a sum.
    pub fn multiply_add(&mut self, sum: &Arc<str>, left: &Arc<str>, right: &Arc<str>) {
        self.push(Stmt::Fragment(Fragment::MultiplyAdd {
            sum: sum.clone(),
            left: left.clone(),
            right: right.clone(),
        }));
    }

    /// Writes a sum to rows of f32.
    pub fn store_fragment(
        &mut self,
        sum: &Arc<str>,
        (array, index): (Array, impl Into<Expr>),
        pitch: u32,
    ) {
        self.push(Stmt::Fragment(Fragment::Store {
            name: sum.clone(),
            array,
            index: index.into(),
            pitch,
        }));
    }

    /// Leaves the innermost loop.
    pub fn leave(&mut self) {
        self.push(Stmt::Break);
    }

    fn block<T>(&mut self, body: impl FnOnce(&mut Self) -> T) -> (Vec<Stmt>, T) {
        self.blocks.push(Vec::new());
        let result = body(self);
        (self.blocks.pop().unwrap_or_default(), result)
    }

    /// A loop over `from, from + step … < to`.
    pub fn repeat<T>(
        &mut self,
        name: &str,
        from: impl Into<Expr>,
        to: impl Into<Expr>,
        step: impl Into<Expr>,
        body: impl FnOnce(&mut Self, &Expr) -> T,
    ) -> T {
        let name = self.fresh(name);
        let variable = Expr::new(Ty::U32, Node::Variable(name.clone()));
        let (body, result) = self.block(|builder| body(builder, &variable));
        self.push(Stmt::For {
            name,
            from: from.into(),
            to: to.into(),
            step: step.into(),
            body,
        });
        result
    }

    /// Statements under a condition.
    pub fn when<T>(&mut self, condition: impl Into<Expr>, then: impl FnOnce(&mut Self) -> T) -> T {
        let (then, result) = self.block(then);
        self.push(Stmt::If {
            condition: condition.into(),
            then,
            otherwise: Vec::new(),
        });
        result
    }

    /// Statements for both outcomes of a condition.
    pub fn choose(
        &mut self,
        condition: impl Into<Expr>,
        then: impl FnOnce(&mut Self),
        otherwise: impl FnOnce(&mut Self),
    ) {
        let ((then, ()), (otherwise, ())) = (self.block(then), self.block(otherwise));
        self.push(Stmt::If {
            condition: condition.into(),
            then,
            otherwise,
        });
    }
}
