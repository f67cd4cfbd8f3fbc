//! Kernels as WGSL text.
//!
//! One entry point `main`. Group 0, binding 0 is the uniform block of size words; storage bindings
//! follow from 1, all `read_write`. The text is a function of the kernel alone. Subgroup functions
//! are used without an `enable` line, which naga does not take.

use crate::kernel::ir::{
    Array, BindingDecl, Builtin, Expr, FRAGMENT, Fragment, Function, Kernel, Node, Operator,
    Scalar, Side, Space, Stmt, Ty,
};
use std::fmt::Write;

/// Prints a kernel.
#[must_use]
pub fn write(kernel: &Kernel) -> String {
    let mut writer = Writer {
        kernel,
        out: String::new(),
    };
    writer.header();
    writer.declarations();
    writer.entry();
    writer.out
}

struct Writer<'a> {
    kernel: &'a Kernel,
    out: String,
}

/// How tightly an operator binds; WGSL does not let bitwise operators, shifts, comparisons and
/// logical operators nest without parentheses.
fn precedence(operator: Operator) -> u8 {
    match operator {
        Operator::Multiply | Operator::Divide | Operator::Remainder => 3,
        Operator::Add | Operator::Subtract => 2,
        _ => 1,
    }
}

const ATOM: u8 = 4;

/// Reads of vec4 that lie as 64-bit words.
const UNPAIRED: &str = "\
fn unpaired(pair: vec2<u64>) -> vec4<f32> {
    let words = vec4(u32(pair.x), u32(pair.x >> 32u), u32(pair.y), u32(pair.y >> 32u));
    return bitcast<vec4<f32>>(words);
}
";

/// Writes of them.
const PAIRED: &str = "\
fn paired(value: vec4<f32>) -> vec2<u64> {
    let words = bitcast<vec4<u32>>(value);
    return vec2(
        u64(words.x) | (u64(words.y) << 32u),
        u64(words.z) | (u64(words.w) << 32u),
    );
}
";

fn symbol(operator: Operator, vec4: bool) -> &'static str {
    match operator {
        Operator::Add => "+",
        Operator::Subtract => "-",
        Operator::Multiply => "*",
        Operator::Divide => "/",
        Operator::Remainder => "%",
        Operator::And => "&",
        Operator::Or => "|",
        Operator::Xor => "^",
        Operator::ShiftLeft => "<<",
        Operator::ShiftRight => ">>",
        Operator::Equal => "==",
        Operator::NotEqual => "!=",
        Operator::Less => "<",
        Operator::LessEqual => "<=",
        // The short-circuit forms take scalars only.
        Operator::BothTrue => ["&&", "&"][usize::from(vec4)],
        Operator::EitherTrue => ["||", "|"][usize::from(vec4)],
    }
}

fn function(function: Function) -> &'static str {
    match function {
        Function::Minimum => "min",
        Function::Maximum => "max",
        Function::Power => "pow",
        Function::Exp => "exp",
        Function::Log => "log",
        Function::Sqrt => "sqrt",
        Function::InverseSqrt => "inverseSqrt",
        Function::Tanh => "tanh",
        Function::Sin => "sin",
        Function::Cos => "cos",
        Function::Absolute => "abs",
        Function::Floor => "floor",
    }
}

fn builtin(builtin: Builtin) -> &'static str {
    match builtin {
        Builtin::GroupX => "workgroup.x",
        Builtin::GroupY => "workgroup.y",
        Builtin::GroupZ => "workgroup.z",
        Builtin::GroupsX => "workgroups.x",
        Builtin::LocalX => "local.x",
        Builtin::LocalY => "local.y",
        Builtin::LocalIndex => "local_index",
        Builtin::Lane => "lane",
        Builtin::Subgroup => "subgroup",
    }
}

/// Parameters of the entry point: name, WGSL builtin, type.
const PARAMETERS: [(&str, &str, &str); 6] = [
    ("workgroup", "workgroup_id", "vec3<u32>"),
    ("workgroups", "num_workgroups", "vec3<u32>"),
    ("local", "local_invocation_id", "vec3<u32>"),
    ("local_index", "local_invocation_index", "u32"),
    ("lane", "subgroup_invocation_id", "u32"),
    ("subgroup", "subgroup_id", "u32"),
];

fn type_name(ty: Ty) -> &'static str {
    match (ty.scalar, ty.vec4) {
        (Scalar::F32, false) => "f32",
        (Scalar::U32, false) => "u32",
        (Scalar::Bool, false) => "bool",
        (Scalar::F32, true) => "vec4<f32>",
        (Scalar::U32, true) => "vec4<u32>",
        (Scalar::Bool, true) => "vec4<bool>",
    }
}

/// What stores f32 in half of their bits.
fn half_name(vec4: bool) -> &'static str {
    if vec4 { "vec4<f16>" } else { "f16" }
}

fn element_name(ty: Ty, atomic: bool) -> &'static str {
    if atomic { "atomic<u32>" } else { type_name(ty) }
}

/// The shortest text that reads back as the same f32.
fn float(value: f32) -> String {
    format!("{value:?}f")
}

impl Writer<'_> {
    fn line(&mut self, depth: usize, text: &str) {
        for _ in 0..depth {
            self.out.push_str("    ");
        }
        self.out.push_str(text);
        self.out.push('\n');
    }

    fn header(&mut self) {
        let kernel = self.kernel;
        self.line(0, &format!("// {}", kernel.name));
        for line in &kernel.doc {
            self.line(0, format!("// {line}").trim_end());
        }
        self.line(0, "");
    }

    fn declarations(&mut self) {
        let kernel = self.kernel;
        let arrays = &kernel.workgroup_arrays;
        let halves = kernel.bindings.iter().any(|it| it.half) || arrays.iter().any(|it| it.half);
        let fragments = has_fragments(&kernel.body);
        let extensions = [(halves, "f16"), (fragments, "wgpu_cooperative_matrix")];
        for (_, extension) in extensions.iter().filter(|(used, _)| *used) {
            self.line(0, &format!("enable {extension};"));
        }
        if halves || fragments {
            self.line(0, "");
        }
        let blocks = kernel.sizes.len().div_ceil(4).max(1);
        self.line(
            0,
            &format!("@group(0) @binding(0) var<uniform> sizes: array<vec4<u32>, {blocks}>;"),
        );
        for (slot, binding) in (1..).zip(&kernel.bindings) {
            let BindingDecl {
                name,
                element,
                vec4,
                atomic,
                half,
                paired,
            } = binding;
            let element = match (half, paired) {
                (true, _) => half_name(*vec4),
                (false, true) => "vec2<u64>",
                (false, false) => element_name(Ty::of(*element).wide(*vec4), *atomic),
            };
            self.line(
                0,
                &format!(
                    "@group(0) @binding({slot}) var<storage, read_write> {name}: array<{element}>;"
                ),
            );
        }
        for array in &kernel.workgroup_arrays {
            let element = match array.half {
                true => half_name(array.ty.vec4),
                false => element_name(array.ty, array.atomic),
            };
            let (name, length) = (&array.name, array.length);
            self.line(
                0,
                &format!("var<workgroup> {name}: array<{element}, {length}>;"),
            );
        }
        self.line(0, "");
        for (is_written, text) in [(false, UNPAIRED), (true, PAIRED)] {
            if self.pairs(is_written) {
                self.out.push_str(text);
                self.line(0, "");
            }
        }
    }

    /// Whether pairs are read, or written.
    fn pairs(&self, written: bool) -> bool {
        let mut found = false;
        Stmt::walk(&self.kernel.body, &mut |statement| {
            let stores = matches!(statement, Stmt::Store { array, .. } if self.is_paired(*array));
            found |= written && stores;
            for value in statement.expressions() {
                value.walk(&mut |it| {
                    let loads = matches!(it.node(), Node::Load(array, _) if self.is_paired(*array));
                    found |= !written && loads;
                });
            }
        });
        found
    }

    fn entry(&mut self) {
        let kernel = self.kernel;
        let [x, y, z] = kernel.workgroup_size;
        self.line(0, &format!("@compute @workgroup_size({x}, {y}, {z})"));
        let used = used_builtins(&kernel.body);
        let parameters: Vec<String> = PARAMETERS
            .iter()
            .filter(|(name, ..)| used.iter().any(|it| it.split('.').next() == Some(*name)))
            .map(|(name, builtin, ty)| format!("@builtin({builtin}) {name}: {ty}"))
            .collect();
        match parameters.as_slice() {
            [] | [_] => self.line(0, &format!("fn main({}) {{", parameters.join(""))),
            _ => {
                self.line(0, "fn main(");
                for parameter in &parameters {
                    self.line(1, &format!("{parameter},"));
                }
                self.line(0, ") {");
            }
        }
        for (index, name) in kernel.sizes.iter().enumerate() {
            let component = ["x", "y", "z", "w"][index % 4];
            self.line(
                1,
                &format!("let {name} = sizes[{}].{component};", index / 4),
            );
        }
        self.block(1, &kernel.body);
        self.line(0, "}");
    }

    fn block(&mut self, depth: usize, body: &[Stmt]) {
        for statement in body {
            self.statement(depth, statement);
        }
    }

    fn statement(&mut self, depth: usize, statement: &Stmt) {
        let text = match statement {
            Stmt::Comment(text) => format!("// {text}"),
            Stmt::Let { name, value } => format!("let {name} = {};", self.text(value)),
            Stmt::Var { name, value } => format!("var {name} = {};", self.text(value)),
            Stmt::Assign { name, value } => format!("{name} = {};", self.text(value)),
            Stmt::Store {
                array,
                index,
                value,
            } => {
                let place = self.place(*array, index, value.ty().vec4);
                let value_text = self.text(value);
                match self.array(*array).1 {
                    true => format!("atomicStore(&{place}, {value_text});"),
                    false if self.is_half(*array) => {
                        let narrow = half_name(value.ty().vec4);
                        format!("{place} = {narrow}({value_text});")
                    }
                    false if self.is_paired(*array) => format!("{place} = paired({value_text});"),
                    false => format!("{place} = {value_text};"),
                }
            }
            Stmt::AtomicAdd {
                array,
                index,
                value,
                result,
            } => {
                let place = self.place(*array, index, false);
                let name = result
                    .as_ref()
                    .map_or(String::new(), |it| format!("let {it} = "));
                format!("{name}atomicAdd(&{place}, {});", self.text(value))
            }
            Stmt::For { .. } | Stmt::If { .. } => return self.nested(depth, statement),
            Stmt::Break => "break;".to_owned(),
            Stmt::Barrier(Space::Workgroup) => "workgroupBarrier();".to_owned(),
            Stmt::Barrier(Space::Storage) => "storageBarrier();".to_owned(),
            Stmt::Fragment(fragment) => self.fragment(fragment),
        };
        self.line(depth, &text);
    }

    /// The T of these functions is row by row.
    fn fragment(&self, fragment: &Fragment) -> String {
        let ty =
            |element: &str, role: &str| format!("coop_mat{FRAGMENT}x{FRAGMENT}<{element}, {role}>");
        match fragment {
            Fragment::Sum { name } => format!("var {name}: {};", ty("f32", "C")),
            Fragment::Load {
                name,
                side,
                array,
                index,
                pitch,
            } => {
                let role = match side {
                    Side::Left => "A",
                    Side::Right => "B",
                };
                let (ty, place) = (ty("f16", role), self.place(*array, index, false));
                format!("let {name} = coopLoadT<{ty}>(&{place}, {pitch}u);")
            }
            Fragment::MultiplyAdd { sum, left, right } => {
                format!("{sum} = coopMultiplyAdd({left}, {right}, {sum});")
            }
            Fragment::Store {
                name,
                array,
                index,
                pitch,
            } => {
                let place = self.place(*array, index, false);
                format!("coopStoreT({name}, &{place}, {pitch}u);")
            }
        }
    }

    fn nested(&mut self, depth: usize, statement: &Stmt) {
        match statement {
            Stmt::For {
                name,
                from,
                to,
                step,
                body,
            } => {
                let (from, to, step) = (self.text(from), self.at(to, 2), self.text(step));
                self.line(
                    depth,
                    &format!("for (var {name} = {from}; {name} < {to}; {name} += {step}) {{"),
                );
                self.block(depth + 1, body);
            }
            Stmt::If {
                condition,
                then,
                otherwise,
            } => {
                let condition = self.text(condition);
                self.line(depth, &format!("if {condition} {{"));
                self.block(depth + 1, then);
                if !otherwise.is_empty() {
                    self.line(depth, "} else {");
                    self.block(depth + 1, otherwise);
                }
            }
            _ => return,
        }
        self.line(depth, "}");
    }

    fn array(&self, array: Array) -> (&str, bool) {
        match array.space {
            Space::Storage => self
                .kernel
                .bindings
                .get(array.index)
                .map_or(("?", false), |it| (&*it.name, it.atomic)),
            Space::Workgroup => self
                .kernel
                .workgroup_arrays
                .get(array.index)
                .map_or(("?", false), |it| (&*it.name, it.atomic)),
        }
    }

    fn is_half(&self, array: Array) -> bool {
        let kernel = self.kernel;
        match array.space {
            Space::Storage => kernel.bindings.get(array.index).map(|it| it.half),
            Space::Workgroup => kernel.workgroup_arrays.get(array.index).map(|it| it.half),
        }
        .unwrap_or_default()
    }

    fn is_paired(&self, array: Array) -> bool {
        let bindings = &self.kernel.bindings;
        let paired = |it: &BindingDecl| it.paired && !it.half;
        array.space == Space::Storage && bindings.get(array.index).is_some_and(paired)
    }

    fn place(&self, array: Array, index: &Expr, vec4: bool) -> String {
        let (name, _) = self.array(array);
        if array.ty.vec4 && !vec4 {
            let index = self.at(index, ATOM);
            return format!("{name}[{index} >> 2u][{index} & 3u]");
        }
        format!("{name}[{}]", self.text(index))
    }

    fn text(&self, expr: &Expr) -> String {
        self.print(expr).0
    }

    /// The text, in parentheses when it binds less tightly than `least`.
    fn at(&self, expr: &Expr, least: u8) -> String {
        match self.print(expr) {
            (text, binds) if binds < least => format!("({text})"),
            (text, _) => text,
        }
    }

    fn list(&self, operands: &[Expr]) -> String {
        let texts: Vec<String> = operands.iter().map(|it| self.text(it)).collect();
        texts.join(", ")
    }

    /// The text and how tightly its outermost operator binds.
    fn print(&self, expr: &Expr) -> (String, u8) {
        let atom = match expr.node() {
            Node::F32(value) if value.is_sign_negative() => return (float(*value), 3),
            Node::F32(value) => float(*value),
            Node::U32(value) => format!("{value}u"),
            Node::Bool(value) => value.to_string(),
            Node::Variable(name) => name.to_string(),
            Node::Size(index) => self
                .kernel
                .sizes
                .get(*index)
                .map_or_else(|| "?".to_owned(), ToString::to_string),
            Node::Builtin(it) => builtin(*it).to_owned(),
            Node::Load(array, index) => {
                let place = self.place(*array, index, expr.ty().vec4);
                match self.array(*array).1 {
                    true => format!("atomicLoad(&{place})"),
                    false if self.is_half(*array) => {
                        format!("{}({place})", type_name(expr.ty()))
                    }
                    false if self.is_paired(*array) => format!("unpaired({place})"),
                    false => place,
                }
            }
            Node::Negate(it) => return (format!("-{}", self.at(it, ATOM)), 3),
            Node::Not(it) => return (format!("!{}", self.at(it, ATOM)), 3),
            Node::Operator(operator, left, right) => {
                return self.infix(*operator, left, right);
            }
            Node::Call(it, operands) => format!("{}({})", function(*it), self.list(operands)),
            Node::Select(condition, then, otherwise) => {
                let operands = [otherwise.clone(), then.clone(), condition.clone()];
                format!("select({})", self.list(&operands))
            }
            Node::Convert(it) => format!("{}({})", type_name(expr.ty()), self.text(it)),
            Node::Bitcast(it) => {
                format!("bitcast<{}>({})", type_name(expr.ty()), self.text(it))
            }
            Node::Component(it, index) => {
                format!("{}.{}", self.at(it, ATOM), ["x", "y", "z", "w"][*index % 4])
            }
            Node::Vec4(parts) => format!("{}({})", type_name(expr.ty()), self.list(parts)),
            Node::Splat(it) => format!("{}({})", type_name(expr.ty()), self.text(it)),
            Node::Shuffle(it, lane) => format!("subgroupShuffle({}, {lane}u)", self.text(it)),
            Node::ShuffleXor(it, mask) => {
                format!("subgroupShuffleXor({}, {mask}u)", self.text(it))
            }
        };
        (atom, ATOM)
    }

    fn infix(&self, operator: Operator, left: &Expr, right: &Expr) -> (String, u8) {
        let binds = precedence(operator);
        // Sums and products group to the left; the order of a float sum is part of the kernel.
        let (left_least, right_least) = match binds {
            1 if operator.is_comparison() => (2, 2),
            1 => (ATOM, ATOM),
            _ => (binds, binds + 1),
        };
        let vec4 = left.ty().vec4;
        let mut text = self.at(left, left_least);
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            " {} {}",
            symbol(operator, vec4),
            self.at(right, right_least)
        );
        (text, binds)
    }
}

fn used_builtins(body: &[Stmt]) -> Vec<&'static str> {
    let mut used = Vec::new();
    Stmt::walk(body, &mut |statement| {
        for value in statement.expressions() {
            value.walk(&mut |it| {
                if let Node::Builtin(it) = it.node() {
                    used.push(builtin(*it));
                }
            });
        }
    });
    used
}

fn has_fragments(body: &[Stmt]) -> bool {
    body.iter().any(|statement| match statement {
        Stmt::Fragment(_) => true,
        Stmt::For { body, .. } => has_fragments(body),
        Stmt::If {
            then, otherwise, ..
        } => has_fragments(then) || has_fragments(otherwise),
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::ir::Builder;

    fn validate(text: &str) {
        let module = naga::front::wgsl::parse_str(text)
            .unwrap_or_else(|error| panic!("{}\n{text}", error.emit_to_string(text)));
        naga::valid::Validator::new(
            naga::valid::ValidationFlags::all(),
            naga::valid::Capabilities::all(),
        )
        .subgroup_stages(naga::valid::ShaderStages::COMPUTE)
        .subgroup_operations(naga::valid::SubgroupOperationSet::all())
        .validate(&module)
        .unwrap_or_else(|error| panic!("{}\n{text}", error.emit_to_string(text)));
    }

    #[test]
    fn every_construct_is_valid() {
        let mut b = Builder::new("everything", [8, 1, 1]);
        b.doc("One of each.");
        let x = b.binding("x", Scalar::F32, true);
        let ids = b.binding("ids", Scalar::U32, false);
        let counts = b.atomic_binding("counts");
        let tile = b.workgroup_array("tile", Ty::VEC4F, 8);
        let rows = b.size("rows", 5);
        let group = b.linear_group();
        let lane = Expr::builtin(Builtin::Lane);
        let local = Expr::builtin(Builtin::LocalX) + Expr::builtin(Builtin::LocalIndex);
        let index = b.bind("index", (&group * 8u32 + &lane).min(&rows - 1u32));
        let sum = b.var("sum", Expr::from(0.0f32).splat());
        b.repeat("row", 0u32, &rows, 1u32, |b, row| {
            let value = b.bind("value", x.at4(row * 2u32 + &index));
            b.assign(&sum, &sum + &value * 0.1f32 - (&value + 1e-7f32) * -2.5f32);
            b.when(row.equals(3u32).or(rows.at_most(2u32)), Builder::leave);
        });
        b.store(tile, &local, sum.shuffle(3) + sum.shuffle_xor(1));
        b.barrier();
        let positive = Expr::from(0.0f32)
            .splat()
            .less(&sum)
            .and(sum.differs(7.0f32));
        let chosen = positive.select(&sum, sum.exp().max(0.5f32));
        let bits = (chosen.bitcast(Scalar::U32) & 255u32) << 1u32;
        let before = b.atomic_add(counts, &index, &ids.at(&index));
        b.choose(
            before.less(9u32),
            |b| b.store(x, &index, bits.convert(Scalar::F32)),
            |b| b.store(x, &index, tile.at(2u32) + x.at(&index + 1u32)),
        );
        b.store(ids, 0u32, counts.at(&rows));
        let (kernel, words) = b.finish().unwrap();
        assert_eq!(words, [5]);
        let text = write(&kernel);
        validate(&text);
        assert!(
            text.contains("sum = sum + value * 0.1f - (value + 1e-7f) * (-2.5f);"),
            "{text}"
        );
    }

    #[test]
    fn faults_of_a_skeleton_are_found() {
        let mut b = Builder::new("fault", [8, 1, 1]);
        let sum = b.var("sum", 1.0f32);
        b.assign(&sum, 1u32);
        assert!(b.finish().is_err());

        let mut b = Builder::new("fault", [8, 1, 1]);
        b.when(Expr::builtin(Builtin::LocalX).less(1u32), Builder::barrier);
        assert!(b.finish().is_err());

        let mut b = Builder::new("fault", [8, 1, 1]);
        let inner = b.when(Expr::bool(true), |b| b.var("inner", 1u32));
        b.copy("outer", &inner);
        assert!(b.finish().is_err());
    }
}
