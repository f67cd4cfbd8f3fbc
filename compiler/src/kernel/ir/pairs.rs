//! Which arrays kernels touch as 64-bit words.
//!
//! A software driver loads and stores lane by lane and word by word, so a vec4 as two words of 64 bits costs half of
//! the accesses. Arrays that a kernel both reads and writes stay as they are: results of a contraction, which is
//! read ahead, gain nothing.

use super::{Expr, Kernel, Node, Scalar, Space, Stmt};

/// How a kernel touches an array.
#[derive(Clone, Copy, Default)]
struct Access {
    loads: bool,
    stores: bool,
    /// Single elements of an array of vec4.
    scalars: bool,
}

impl Kernel {
    /// Marks every binding of vec4 of f32 that is only read or only written, and by vec4 alone.
    pub(crate) fn pair(&mut self) {
        let mut accesses = vec![Access::default(); self.bindings.len()];
        Stmt::walk(&self.body, &mut |statement| {
            if let Stmt::Store { array, value, .. } = statement
                && array.space == Space::Storage
                && let Some(access) = accesses.get_mut(array.index)
            {
                access.stores = true;
                access.scalars |= !value.ty().vec4;
            }
            if let Stmt::Fragment(fragment) = statement
                && let Some((array, _)) = fragment.access()
                && array.space == Space::Storage
                && let Some(access) = accesses.get_mut(array.index)
            {
                access.scalars = true;
            }
            for value in statement.expressions() {
                value.walk(&mut |it| touch(it, &mut accesses));
            }
        });
        for (binding, access) in self.bindings.iter_mut().zip(accesses) {
            let wide = binding.element == Scalar::F32 && binding.vec4 && !binding.atomic;
            binding.paired = wide && !access.scalars && access.loads != access.stores;
        }
    }
}

fn touch(expr: &Expr, accesses: &mut [Access]) {
    let Node::Load(array, _) = expr.node() else {
        return;
    };
    if array.space == Space::Storage
        && let Some(access) = accesses.get_mut(array.index)
    {
        access.loads = true;
        access.scalars |= !expr.ty().vec4;
    }
}
