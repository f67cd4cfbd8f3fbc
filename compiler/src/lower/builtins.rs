//! Functions that the language knows without a definition; everything else is library code.

use super::axes::Reduction;
use super::elementwise::Pointwise;
use super::tracer::Tracer;
use super::value::{Axis, Frame, Tensor, Traced, Value};
use crate::check;
use crate::graph::DType;
use crate::model::Number;
use crate::ops::{
    Cast, Cos, Distribution, Erf, Exp, Gelu, Iota, LayerNorm, Log, Op, Random, Reciprocal, Relu,
    RmsNorm, Rsqrt, Sigmoid, Sin, Sqrt, StopGradient, Tanh, TopK,
};
use crate::size::Size;
use gatewright_grammar::ast::{Arg, BinaryOp, Expr};
use gatewright_grammar::source::Span;

/// One call of a built-in.
pub(crate) struct Call<'e> {
    /// Which one.
    pub(crate) name: &'static str,
    /// What it is called there; a path behind a slash with `as`.
    pub(crate) label: &'e str,
    /// What arrives through `->`.
    pub(crate) piped: Option<Value>,
    /// The written arguments.
    pub(crate) args: &'e [Arg],
    /// The whole call.
    pub(crate) span: Span,
}

impl<'e> Call<'e> {
    /// The argument of this name.
    pub(crate) fn named(&self, name: &str) -> Option<&'e Expr> {
        let named = |arg: &&Arg| arg.name.as_ref().is_some_and(|own| own.value == name);
        self.args.iter().find(named).map(|arg| &arg.value)
    }

    /// The arguments without names.
    pub(crate) fn positional(&self) -> Vec<&'e Expr> {
        self.args
            .iter()
            .filter(|arg| arg.name.is_none())
            .map(|arg| &arg.value)
            .collect()
    }
}

/// Functions of one tensor, element by element.
const UNARY: &[&str] = &[
    "exp",
    "log",
    "sqrt",
    "rsqrt",
    "reciprocal",
    "tanh",
    "erf",
    "sin",
    "cos",
    "sigmoid",
    "relu",
    "gelu",
    "gelu_tanh",
    "silu",
    "normal_cdf",
    "stop_gradient",
    "square",
];
/// Functions that reduce axes.
const REDUCTIONS: &[(&str, Reduction)] = &[
    ("sum", Reduction::Sum),
    ("mean", Reduction::Mean),
    ("max", Reduction::Max),
    ("min", Reduction::Min),
    ("variance", Reduction::Variance),
    ("log_sum_exp", Reduction::LogSumExp),
];
/// The others, with the names of their arguments.
const OTHERS: &[(&str, &[&str])] = &[
    ("softmax", &["axis"]),
    ("log_softmax", &["axis"]),
    ("einsum", &[]),
    ("rearrange", &[]),
    ("concat", &["axis"]),
    ("split", &["axis"]),
    ("slice", &["axis", "from", "to"]),
    ("pad", &["axis", "before", "after"]),
    ("unfold", &["axis", "size", "step"]),
    ("rows_where", &["at_most"]),
    ("last", &[]),
    ("gather", &["axis"]),
    ("gather_last", &[]),
    ("top_k", &[]),
    ("where", &[]),
    ("one_hot", &["size"]),
    ("diagonal", &[]),
    ("iota", &["axis", "sizes"]),
    ("places", &["axis", "sizes", "batch"]),
    ("expand", &["to"]),
    ("choose_one", &[]),
    ("cast", &["to"]),
    ("size", &["axis"]),
    ("layer_norm", &["eps"]),
    ("rms_norm_op", &["eps"]),
    ("scaled_dot_product", &["causal", "scale", "mask"]),
    ("uniform", &["like"]),
    ("normal", &["like", "std"]),
    ("constant", &[]),
    ("bundle", &[]),
    ("pow", &[]),
    ("maximum", &[]),
    ("minimum", &[]),
    ("logits", &["of"]),
    ("routed_logits", &["of"]),
    ("probs", &["of"]),
    ("chosen", &["of"]),
    ("noise_std", &[]),
    ("choices", &[]),
    ("has_mask", &[]),
    ("only_counted", &["of"]),
    ("observe", &[]),
];

/// All names, for resolution and suggestions.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    let reductions = REDUCTIONS.iter().map(|(name, _)| *name);
    UNARY
        .iter()
        .copied()
        .chain(reductions)
        .chain(OTHERS.iter().map(|(name, _)| *name))
}

/// The built-in of this name.
pub(crate) fn find(name: &str) -> Option<&'static str> {
    names().find(|known| *known == name)
}

/// Whether there is a built-in of this name.
pub(crate) fn is_known(name: &str) -> bool {
    find(name).is_some()
}

/// Built-ins that give a value without being given one.
pub(crate) fn is_source(name: &str) -> bool {
    matches!(
        name,
        "bundle"
            | "iota"
            | "places"
            | "uniform"
            | "normal"
            | "constant"
            | "einsum"
            | "noise_std"
            | "has_mask"
    )
}

impl Tracer<'_> {
    /// Evaluates a call of a built-in.
    pub(crate) fn builtin(&mut self, frame: &mut Frame, call: Call) -> Traced<Value> {
        self.check_arguments(&call)?;
        if let Some((_, reduction)) = REDUCTIONS.iter().find(|(name, _)| *name == call.name) {
            return self.reduction(frame, &call, *reduction);
        }
        if UNARY.contains(&call.name) {
            let value = self.operand(frame, &call, 0)?;
            return self.unary(call.name, value, call.span);
        }
        match call.name {
            "einsum" => self.einsum(frame, &call),
            "rearrange" => self.rearrange(frame, &call),
            "bundle" => self.make_bundle(frame, &call),
            "logits" | "routed_logits" | "probs" | "chosen" | "noise_std" | "choices"
            | "has_mask" | "only_counted" => self.router_value(frame, &call),
            "uniform" | "normal" | "constant" => self.random(frame, &call),
            "concat" => self.concat_values(frame, &call),
            "split" => self.split(frame, &call),
            "pow" => self.two(frame, &call, Pointwise::Power),
            "maximum" => self.two(frame, &call, Pointwise::Maximum),
            "minimum" => self.two(frame, &call, Pointwise::Minimum),
            "where" => self.conditional(frame, &call),
            "size" => self.size_of(frame, &call),
            "scaled_dot_product" => self.attention(frame, &call),
            "layer_norm" | "rms_norm_op" => self.normalise(frame, &call),
            "gather" | "gather_last" => self.gather(frame, &call),
            "iota" => self.iota(frame, &call),
            "places" => self.places_along(frame, &call),
            "expand" => self.expand(frame, &call),
            "choose_one" => self.choose_one(frame, &call),
            "observe" => self.observe(frame, &call),
            "last" => self.last_state(frame, &call),
            _ => {
                let value = self.operand(frame, &call, 0)?;
                self.map_tensors(value, call.span, |tracer, tensor| {
                    tracer.one_tensor(frame, &call, tensor)
                })
            }
        }
    }

    /// Named arguments that a built-in does not know.
    fn check_arguments(&mut self, call: &Call) -> Traced<()> {
        if matches!(call.name, "einsum" | "rearrange" | "bundle") {
            return Ok(());
        }
        let mut known: Vec<&str> = Vec::new();
        if REDUCTIONS.iter().any(|(name, _)| *name == call.name) {
            known.push("over");
        }
        if let Some((_, names)) = OTHERS.iter().find(|(name, _)| *name == call.name) {
            known.extend(*names);
        }
        let names = call.args.iter().filter_map(|arg| arg.name.as_ref());
        for name in names {
            if !known.contains(&name.value.as_str()) {
                let headline = format!("`{}` has no argument `{}`", call.name, name.value);
                let report = check::arguments::report(name.span, headline);
                return self.fail(match check::unknown_name::nearest(&name.value, known) {
                    Some(near) => report.help(format!("did you mean `{near}`?")),
                    None => report,
                });
            }
        }
        Ok(())
    }

    /// The operand at a position; what is piped comes first.
    pub(crate) fn operand(
        &mut self,
        frame: &mut Frame,
        call: &Call,
        index: usize,
    ) -> Traced<Value> {
        let positional = call.positional();
        let index = match (&call.piped, index) {
            (Some(piped), 0) => return Ok(piped.clone()),
            (Some(_), index) => index - 1,
            (None, index) => index,
        };
        match positional.get(index) {
            Some(expr) => self.eval(frame, expr),
            None => {
                let headline = format!("`{}` needs one more operand", call.name);
                self.fail(check::arguments::report(call.span, headline))
            }
        }
    }

    pub(crate) fn operand_count(call: &Call) -> usize {
        call.positional().len() + usize::from(call.piped.is_some())
    }

    pub(crate) fn tensor_operand(
        &mut self,
        frame: &mut Frame,
        call: &Call,
        index: usize,
    ) -> Traced<Tensor> {
        match self.operand(frame, call, index)? {
            Value::Tensor(tensor) => Ok(tensor),
            other => self.wrong(call.span, "a tensor", &other),
        }
    }

    pub(crate) fn axis_argument(
        &mut self,
        frame: &Frame,
        call: &Call,
        tensor: &Tensor,
    ) -> Traced<usize> {
        if let Some(expr) = call.named("axis") {
            return self.named_axis(frame, tensor, expr);
        }
        match tensor.axes.len().checked_sub(1) {
            Some(last) => Ok(last),
            None => self.fail(check::operands::report(call.span, "a scalar has no axes")),
        }
    }

    fn unary(&mut self, name: &'static str, value: Value, span: Span) -> Traced<Value> {
        if let Value::Number(number) = &value {
            let Some(x) = number.real() else {
                return self.fail(check::unbound_size::report(span, "this number", "it"));
            };
            let result = match name {
                "exp" => x.exp(),
                "log" => x.ln(),
                "sqrt" => x.sqrt(),
                "rsqrt" => 1.0 / x.sqrt(),
                "reciprocal" => 1.0 / x,
                "square" => x * x,
                _ => return self.wrong(span, "a tensor", &value),
            };
            return Ok(Value::Number(Number::Real(result)));
        }
        self.map_tensors(value, span, |tracer, tensor| {
            tracer.unary_tensor(name, tensor, span)
        })
    }

    fn unary_tensor(&mut self, name: &str, tensor: &Tensor, span: Span) -> Traced<Tensor> {
        let multiply = Pointwise::Operator(BinaryOp::Multiply);
        let op: Op = match name {
            "exp" => Exp {}.into(),
            "log" => Log {}.into(),
            "sqrt" => Sqrt {}.into(),
            "rsqrt" => Rsqrt {}.into(),
            "reciprocal" => Reciprocal {}.into(),
            "tanh" => Tanh {}.into(),
            "erf" => Erf {}.into(),
            "sin" => Sin {}.into(),
            "cos" => Cos {}.into(),
            "sigmoid" => Sigmoid {}.into(),
            "relu" => Relu {}.into(),
            "gelu" => Gelu { tanh: false }.into(),
            "gelu_tanh" => Gelu { tanh: true }.into(),
            "stop_gradient" => StopGradient {}.into(),
            "square" => return self.tensors(multiply, tensor, tensor, span),
            "silu" => {
                let gate = self.unary_tensor("sigmoid", tensor, span)?;
                return self.tensors(multiply, tensor, &gate, span);
            }
            _ => return self.normal_cdf(tensor, span),
        };
        let id = self.emit(op, &[tensor.id])?;
        Ok(Tensor {
            id,
            axes: tensor.axes.clone(),
        })
    }

    /// (1 + erf(x / sqrt 2)) / 2.
    fn normal_cdf(&mut self, tensor: &Tensor, span: Span) -> Traced<Tensor> {
        let number = |value: f64| Value::Number(Number::Real(value));
        let operator = Pointwise::Operator;
        let scaled = self.pointwise(
            operator(BinaryOp::Multiply),
            Value::Tensor(tensor.clone()),
            number(std::f64::consts::FRAC_1_SQRT_2),
            span,
        )?;
        let erf = self.unary("erf", scaled, span)?;
        let shifted = self.pointwise(operator(BinaryOp::Add), erf, number(1.0), span)?;
        match self.pointwise(operator(BinaryOp::Multiply), shifted, number(0.5), span)? {
            Value::Tensor(tensor) => Ok(tensor),
            other => self.wrong(span, "a tensor", &other),
        }
    }

    fn reduction(&mut self, frame: &mut Frame, call: &Call, kind: Reduction) -> Traced<Value> {
        if Self::operand_count(call) > 1 {
            return self.reduce_values(frame, call, kind);
        }
        let value = self.operand(frame, call, 0)?;
        let over = call.named("over");
        if let (Value::Number(_), None) = (&value, over) {
            return Ok(value);
        }
        self.map_tensors(value, call.span, |tracer, tensor| {
            let axes = tracer.axes_argument(frame, tensor, over)?;
            tracer.reduce(kind, tensor, &axes, call.span)
        })
    }

    /// `mean(a, b, c)`, `max(0, x)`: over values rather than along axes.
    fn reduce_values(&mut self, frame: &mut Frame, call: &Call, kind: Reduction) -> Traced<Value> {
        let mut values = Vec::new();
        let first = call.piped.clone().map(|value| (value, call.span));
        let exprs = call.positional();
        for entry in first.into_iter().map(Ok).chain(exprs.into_iter().map(Err)) {
            let (value, span) = match entry {
                Ok(pair) => pair,
                Err(expr) => (self.eval(frame, expr)?, expr.span),
            };
            match value {
                Value::Undefined(reason) => {
                    self.diagnostics
                        .push(check::undefined_term::report(span, &reason));
                }
                value => values.push(value),
            }
        }
        let count = values.len();
        let op = match kind {
            Reduction::Sum | Reduction::Mean => Pointwise::Operator(BinaryOp::Add),
            Reduction::Max => Pointwise::Maximum,
            Reduction::Min => Pointwise::Minimum,
            Reduction::Variance | Reduction::LogSumExp => {
                let headline = format!("`{}` takes one tensor", call.name);
                return self.fail(check::arguments::report(call.span, headline));
            }
        };
        let mut values = values.into_iter();
        let Some(mut total) = values.next() else {
            return Ok(Value::Undefined("every term of it is undefined".to_owned()));
        };
        for value in values {
            total = self.pointwise(op, total, value, call.span)?;
        }
        if kind != Reduction::Mean || count == 1 {
            return Ok(total);
        }
        let share = Value::Number(Number::Real(1.0 / count as f64));
        self.pointwise(
            Pointwise::Operator(BinaryOp::Multiply),
            total,
            share,
            call.span,
        )
    }

    fn two(&mut self, frame: &mut Frame, call: &Call, op: Pointwise) -> Traced<Value> {
        let left = self.operand(frame, call, 0)?;
        let right = self.operand(frame, call, 1)?;
        self.pointwise(op, left, right, call.span)
    }

    fn conditional(&mut self, frame: &mut Frame, call: &Call) -> Traced<Value> {
        let condition = self.tensor_operand(frame, call, 0)?;
        let yes = self.operand(frame, call, 1)?;
        let no = self.operand(frame, call, 2)?;
        let number = |tracer: &mut Self, value: &Value| match value {
            Value::Number(number) => match number.real() {
                Some(value) => tracer.scalar(value),
                None => tracer.wrong(call.span, "a number", &Value::Number(number.clone())),
            },
            other => Ok(other.clone()),
        };
        let (yes, no) = (number(self, &yes)?, number(self, &no)?);
        match (yes, no) {
            (Value::Tensor(yes), Value::Tensor(no)) => self
                .select(&condition, &yes, &no, call.span)
                .map(Value::Tensor),
            (other, _) => self.wrong(call.span, "a tensor", &other),
        }
    }

    fn size_of(&mut self, frame: &mut Frame, call: &Call) -> Traced<Value> {
        let tensor = self.tensor_operand(frame, call, 0)?;
        let axis = self.axis_argument(frame, call, &tensor)?;
        let size = self.shape(&tensor)[axis].clone();
        Ok(Value::Number(Number::Whole(size)))
    }

    fn normalise(&mut self, frame: &mut Frame, call: &Call) -> Traced<Value> {
        let x = self.tensor_operand(frame, call, 0)?;
        let eps = match call.named("eps") {
            Some(expr) => self.real(frame, expr)?,
            None => 1e-6,
        };
        let mut vectors = Vec::new();
        for index in 1..Self::operand_count(call) {
            vectors.push(self.tensor_operand(frame, call, index)?);
        }
        let Some(width) = self.shape(&x).last().cloned() else {
            return self.fail(check::operands::report(
                call.span,
                "a scalar cannot be normalised",
            ));
        };
        let is_layer = call.name == "layer_norm";
        if vectors.len() != if is_layer { 2 } else { 1 } {
            let headline = format!("`{}` needs a tensor, its scale and its bias", call.name);
            return self.fail(check::arguments::report(call.span, headline));
        }
        // Experts have a scale and bias each, which the op does not take: they are applied after it.
        let plain = !vectors.iter().any(Tensor::is_per_expert);
        let mut operands = vec![x.id];
        for (index, vector) in vectors.iter().enumerate() {
            let neutral = if index == 0 { 1.0 } else { 0.0 };
            operands.push(match plain {
                true => vector.id,
                false => self.constant(DType::F32, vec![width.clone()], neutral)?,
            });
        }
        let op: Op = if is_layer {
            LayerNorm { eps }.into()
        } else {
            RmsNorm { eps }.into()
        };
        let id = self.emit(op, &operands)?;
        let mut result = Tensor { id, axes: x.axes };
        if !plain {
            for (vector, op) in vectors.iter().zip([BinaryOp::Multiply, BinaryOp::Add]) {
                result = self.tensors(Pointwise::Operator(op), &result, vector, call.span)?;
            }
        }
        Ok(Value::Tensor(result))
    }

    fn one_tensor(&mut self, frame: &mut Frame, call: &Call, tensor: &Tensor) -> Traced<Tensor> {
        match call.name {
            "softmax" => {
                let axis = self.axis_argument(frame, call, tensor)?;
                self.softmax(tensor, axis)
            }
            "log_softmax" => {
                let axis = self.axis_argument(frame, call, tensor)?;
                let total = self.reduce(Reduction::LogSumExp, tensor, &[axis], call.span)?;
                let rest: Vec<usize> = (0..tensor.axes.len())
                    .filter(|other| *other != axis)
                    .collect();
                let shape = self.shape(tensor);
                let id = self.broadcast(total.id, &shape, rest)?;
                let total = Tensor {
                    id,
                    axes: tensor.axes.clone(),
                };
                self.tensors(
                    Pointwise::Operator(BinaryOp::Subtract),
                    tensor,
                    &total,
                    call.span,
                )
            }
            "slice" => self.slice_call(frame, call, tensor),
            "pad" => self.pad_call(frame, call, tensor),
            "unfold" => self.unfold_call(frame, call, tensor),
            "rows_where" => self.rows_where(frame, call, tensor),
            "top_k" => {
                let Some(expr) = call.positional().last().copied() else {
                    return self.fail(check::arguments::report(
                        call.span,
                        "`top_k` needs a number",
                    ));
                };
                let k = self.whole(frame, expr, "the number of choices")?;
                let id = self.emit(TopK { k }, &[tensor.id])?;
                let mut axes = tensor.axes.clone();
                if let Some(last) = axes.last_mut() {
                    *last = Axis::named("K", expr.span);
                }
                Ok(Tensor { id, axes })
            }
            "diagonal" => self.diagonal(tensor, call.span),
            "one_hot" => self.one_hot(frame, call, tensor),
            "cast" => self.cast(frame, call, tensor),
            _ => {
                let headline = format!("`{}` cannot be used this way", call.name);
                self.fail(check::arguments::report(call.span, headline))
            }
        }
    }

    fn slice_call(&mut self, frame: &mut Frame, call: &Call, tensor: &Tensor) -> Traced<Tensor> {
        let axis = self.axis_argument(frame, call, tensor)?;
        let bound = |tracer: &mut Self, frame: &mut Frame, name: &str| match call.named(name) {
            Some(expr) => match tracer.eval(frame, expr)? {
                Value::Number(Number::Whole(size)) => Ok(Some(size)),
                other => tracer.wrong(expr.span, "a size", &other),
            },
            None => Ok(None),
        };
        let from = bound(self, frame, "from")?.unwrap_or_default();
        let end = bound(self, frame, "to")?;
        let end = end.unwrap_or_else(|| self.shape(tensor)[axis].clone());
        self.slice(tensor, axis, from.clone(), end.sub(&from))
    }

    /// The elements [i, i] of the last two axes.
    fn diagonal(&mut self, tensor: &Tensor, span: Span) -> Traced<Tensor> {
        let shape = self.shape(tensor);
        let rank = shape.len();
        if rank < 2 || shape[rank - 1] != shape[rank - 2] {
            let headline = "a diagonal needs two last axes of one size";
            return self.fail(check::operands::report(span, headline));
        }
        let index = |axis| Iota {
            shape: shape.clone(),
            axis,
        };
        let rows = self.emit(index(rank - 2), &[])?;
        let columns = self.emit(index(rank - 1), &[])?;
        let axes = tensor.axes.clone();
        let (rows, columns) = (
            Tensor {
                id: rows,
                axes: axes.clone(),
            },
            Tensor {
                id: columns,
                axes: axes.clone(),
            },
        );
        let on = self.tensors(Pointwise::Operator(BinaryOp::Equal), &rows, &columns, span)?;
        let zero = self.constant(DType::F32, shape.clone(), 0.0)?;
        let kept = self.select(&on, tensor, &Tensor { id: zero, axes }, span)?;
        self.reduce(Reduction::Sum, &kept, &[rank - 1], span)
    }

    fn one_hot(&mut self, frame: &mut Frame, call: &Call, ids: &Tensor) -> Traced<Tensor> {
        let Some(expr) = call.named("size") else {
            return self.fail(check::arguments::report(
                call.span,
                "`one_hot` needs `size`",
            ));
        };
        let (size, from) = self.size(frame, expr)?;
        let mut shape = self.shape(ids);
        let rank = shape.len();
        shape.push(size);
        let mut axes = ids.axes.clone();
        axes.push(match super::parameter::bare(expr) {
            Some(name) => Axis::named(name, from),
            None => Axis::unnamed(from),
        });
        let index = self.emit(
            Iota {
                shape: shape.clone(),
                axis: rank,
            },
            &[],
        )?;
        let ids = self.broadcast(ids.id, &shape, (0..rank).collect())?;
        let equal = Pointwise::Operator(BinaryOp::Equal);
        let (left, right) = (
            Tensor {
                id: index,
                axes: axes.clone(),
            },
            Tensor {
                id: ids,
                axes: axes.clone(),
            },
        );
        let hot = self.tensors(equal, &left, &right, call.span)?;
        let id = self.emit(Cast { to: DType::F32 }, &[hot.id])?;
        Ok(Tensor { id, axes })
    }

    fn cast(&mut self, frame: &mut Frame, call: &Call, tensor: &Tensor) -> Traced<Tensor> {
        let word = match call.named("to") {
            Some(expr) => self.eval(frame, expr)?,
            None => Value::Word("f32".to_owned()),
        };
        let to = match &word {
            Value::Word(word) if word == "f32" => DType::F32,
            Value::Word(word) if word == "u32" => DType::U32,
            Value::Word(word) if word == "bool" => DType::Bool,
            other => return self.wrong(call.span, "`f32`, `u32` or `bool`", other),
        };
        let id = self.emit(Cast { to }, &[tensor.id])?;
        Ok(Tensor {
            id,
            axes: tensor.axes.clone(),
        })
    }

    /// `bundle(image: seen, text: read)`; streams whose input the entry does not read are left out.
    fn make_bundle(&mut self, frame: &mut Frame, call: &Call) -> Traced<Value> {
        let mut streams: Vec<(String, Tensor)> = Vec::new();
        let mut absent = None;
        for arg in call.args {
            let Some(name) = &arg.name else {
                let headline = "each stream of a bundle has a name: `bundle(image: seen)`";
                return self.fail(check::arguments::report(arg.value.span, headline));
            };
            if let Some((_, _)) = streams.iter().find(|(known, _)| *known == name.value) {
                let headline = format!("the stream `{}` is given twice", name.value);
                return self.fail(check::arguments::report(name.span, headline));
            }
            match self.eval(frame, &arg.value)? {
                Value::Tensor(tensor) => streams.push((name.value.clone(), tensor)),
                Value::Absent(input) => absent = Some(input),
                other => return self.wrong(arg.value.span, "a tensor", &other),
            }
        }
        match (streams.is_empty(), absent) {
            (false, _) => Ok(Value::Bundle(streams)),
            (true, Some(input)) => Ok(Value::Absent(input)),
            (true, None) => self.fail(check::arguments::report(
                call.span,
                "a bundle needs a stream",
            )),
        }
    }

    fn random(&mut self, frame: &mut Frame, call: &Call) -> Traced<Value> {
        let Some(like) = call.named("like") else {
            let number = call
                .named("std")
                .or_else(|| call.positional().first().copied());
            let value = match number {
                Some(expr) => self.real(frame, expr)?,
                None => 1.0,
            };
            return Ok(Value::Described(call.name.to_owned(), value));
        };
        let Value::Tensor(tensor) = self.eval(frame, like)? else {
            return self.fail(check::wrong_kind::report(
                like.span,
                "a tensor",
                "something else",
            ));
        };
        let distribution = if call.name == "uniform" {
            Distribution::Uniform
        } else {
            Distribution::Normal
        };
        let path = frame.scope.enter(call.name);
        let shape = self.shape(&tensor);
        let id = self.draw(path, shape, distribution)?;
        Ok(Value::Tensor(Tensor {
            id,
            axes: tensor.axes,
        }))
    }

    /// A random node under its path.
    pub(crate) fn draw(
        &mut self,
        path: String,
        shape: Vec<Size>,
        distribution: Distribution,
    ) -> Traced<crate::graph::ValueId> {
        // FNV-1a: the same path draws the same numbers on every machine.
        let stream = path.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
            (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
        });
        let outer = std::mem::replace(&mut self.origin.path, path);
        let id = self.emit(
            Random {
                shape,
                distribution,
                stream,
            },
            &[],
        );
        self.origin.path = outer;
        id
    }

    fn concat_values(&mut self, frame: &mut Frame, call: &Call) -> Traced<Value> {
        let mut parts = Vec::new();
        for index in 0..Self::operand_count(call) {
            parts.push(self.tensor_operand(frame, call, index)?);
        }
        let Some(first) = parts.first() else {
            return self.fail(check::arguments::report(
                call.span,
                "`concat` needs tensors",
            ));
        };
        // Any of the parts may name the axis.
        let name = call.named("axis").and_then(super::parameter::bare);
        let knows = |part: &&Tensor| name.is_some_and(|name| part.position(name).is_some());
        let named = parts.iter().find(knows).unwrap_or(first).clone();
        let axis = self.axis_argument(frame, call, &named)?;
        self.concat(&parts, axis, named.axes).map(Value::Tensor)
    }

    fn split(&mut self, frame: &mut Frame, call: &Call) -> Traced<Value> {
        let tensor = self.tensor_operand(frame, call, 0)?;
        let axis = self.axis_argument(frame, call, &tensor)?;
        let positional = call.positional();
        let Some(expr) = positional.last() else {
            return self.fail(check::arguments::report(
                call.span,
                "`split` needs a number of parts",
            ));
        };
        let parts = self.whole(frame, expr, "the number of parts")?;
        let size = self.shape(&tensor)[axis].clone();
        let Some(length) = size.div_exact(&Size::from(parts)).filter(|_| parts > 0) else {
            let size = self.graph.size_text(&size);
            let headline = format!("an axis of {size} has no {parts} equal parts");
            return self.fail(check::operands::report(call.span, headline));
        };
        let mut values = Vec::new();
        for index in 0..parts {
            let start = length.mul(&Size::from(index));
            values.push(Value::Tensor(self.slice(
                &tensor,
                axis,
                start,
                length.clone(),
            )?));
        }
        Ok(Value::Tuple(values))
    }
}
