//! Calls of blocks and encoders: arguments, signatures, bundles, results.

use super::flow::{is_router, tensor_params, uses_input};
use super::names::Scope;
use super::parameter::bare;
use super::tracer::Tracer;
use super::value::{Axis, Frame, LocalSize, Partial, Tensor, Traced, Value, Variable};
use crate::check;
use crate::graph::DType;
use crate::model::Number;
use crate::size::Size;
use gatewright_grammar::ast::{Arg, Block, BlockKind, Expr, ExprKind, Type, TypeAxis, TypeKind};
use gatewright_grammar::source::Span;
use std::rc::Rc;

/// One call with its arguments in place.
#[derive(Clone)]
struct Bound {
    partial: Rc<Partial>,
    given: Vec<Option<Variable>>,
    /// What arrives when no parameter takes it.
    implicit: Option<Value>,
    path: String,
    span: Span,
}

impl Tracer<'_> {
    pub(crate) fn call_block(
        &mut self,
        frame: &mut Frame,
        partial: &Rc<Partial>,
        name: &str,
        piped: Option<Value>,
        args: &[Arg],
        span: Span,
    ) -> Traced<Value> {
        let block = Rc::clone(&partial.block);
        let mut given = partial.given.clone();
        let implicit = self.take_piped(&block, &mut given, piped, span);
        let layers = self.arguments(frame, partial, &mut given, args, span)?;
        let lacks = |given: &[Option<Variable>]| {
            let pairs = block.params.iter().zip(given);
            let missing = pairs.filter(|(param, value)| param.default.is_none() && value.is_none());
            missing.map(|(param, _)| param.clone()).next()
        };
        if let Some(missing) = lacks(&given) {
            let waits = missing.ty.is_some() && implicit.is_none();
            if waits
                || (implicit.is_none() && tensor_params(&block).count() == 0 && uses_input(&block))
            {
                return Ok(Value::Block(Rc::new(Partial {
                    given,
                    ..(**partial).clone()
                })));
            }
            let headline = format!("`{}` needs `{}`", partial.name, missing.name.value);
            let report = check::arguments::report(span, headline);
            return self.fail(report.also(missing.name.span, "stated here without a default"));
        }
        if tensor_params(&block).count() == 0 && implicit.is_none() && uses_input(&block) {
            return Ok(Value::Block(Rc::new(Partial {
                given,
                ..(**partial).clone()
            })));
        }
        let path = match (block.kind, name.strip_prefix('/')) {
            (BlockKind::Encoder | BlockKind::Decoder, _) => partial.name.clone(),
            (BlockKind::Block, Some(path)) => path.to_owned(),
            (BlockKind::Block, None) => frame.scope.enter(name),
        };
        let bound = Bound {
            partial: Rc::clone(partial),
            given,
            implicit,
            path,
            span,
        };
        self.over_routers(bound, layers)
    }

    fn take_piped(
        &mut self,
        block: &Block,
        given: &mut [Option<Variable>],
        piped: Option<Value>,
        span: Span,
    ) -> Option<Value> {
        let piped = piped?;
        let mut params = block.params.iter().zip(given);
        let slot = params.find(|(param, value)| param.ty.is_some() && value.is_none());
        match slot {
            Some((_, slot)) => {
                *slot = Some(Variable {
                    value: piped,
                    span,
                    word: None,
                });
                None
            }
            None => Some(piped),
        }
    }

    /// Puts arguments in place; gives how a router loss reduces layers.
    fn arguments(
        &mut self,
        frame: &mut Frame,
        partial: &Partial,
        given: &mut [Option<Variable>],
        args: &[Arg],
        span: Span,
    ) -> Traced<Option<String>> {
        let params = &partial.block.params;
        let mut layers = None;
        for arg in args {
            if let Some(name) = &arg.name
                && name.value == "layers"
                && params.iter().any(is_router)
            {
                layers = bare(&arg.value).map(str::to_owned);
                continue;
            }
            let variable = self.variable(frame, &arg.value)?;
            let takes = variable.value.flows() || matches!(variable.value, Value::Router(..));
            let mut slots = params.iter().zip(given.iter());
            let index = match &arg.name {
                Some(name) => params
                    .iter()
                    .position(|param| param.name.value == name.value),
                None => {
                    slots.position(|(param, slot)| slot.is_none() && (takes || param.ty.is_none()))
                }
            };
            let Some(index) = index else {
                return self.unknown_argument(partial, arg, span);
            };
            match given.get_mut(index) {
                Some(slot @ None) => *slot = Some(variable),
                _ => {
                    let name = params
                        .get(index)
                        .map_or("", |param| param.name.value.as_str());
                    let headline = format!("`{name}` is given twice");
                    return self.fail(check::arguments::report(arg.value.span, headline));
                }
            }
        }
        Ok(layers)
    }

    fn unknown_argument<T>(&mut self, partial: &Partial, arg: &Arg, span: Span) -> Traced<T> {
        let names: Vec<&str> = partial
            .block
            .params
            .iter()
            .map(|p| p.name.value.as_str())
            .collect();
        let Some(name) = &arg.name else {
            let headline = format!("`{}` takes no more arguments", partial.name);
            return self.fail(check::arguments::report(arg.value.span, headline));
        };
        let headline = format!("`{}` has no argument `{}`", partial.name, name.value);
        let report = check::arguments::report(span, headline)
            .note(format!("its arguments are {}", names.join(", ")));
        let near = check::unknown_name::nearest(&name.value, names);
        self.fail(match near {
            Some(near) => report.help(format!("did you mean `{near}`?")),
            None => report,
        })
    }

    /// A router by name means all its instances.
    fn over_routers(&mut self, bound: Bound, layers: Option<String>) -> Traced<Value> {
        let pairs = bound.partial.block.params.iter().zip(&bound.given);
        let router = pairs
            .enumerate()
            .find_map(|(index, (param, value))| match value {
                Some(Variable {
                    value: Value::Router(name, None),
                    span,
                    ..
                }) if is_router(param) => Some((index, name.clone(), *span)),
                _ => None,
            });
        let Some((index, name, span)) = router else {
            return self.over_streams_of(bound);
        };
        let instances = self.instances(&name, span)?;
        let mut terms = Vec::new();
        for instance in instances {
            let mut one = bound.clone();
            if let Some(Some(slot)) = one.given.get_mut(index) {
                slot.value = Value::Router(name.clone(), Some(instance));
            }
            terms.push(self.over_streams_of(one)?);
        }
        if terms.is_empty() {
            return Ok(Value::Undefined(format!("`{name}` routes nothing here")));
        }
        self.reduce_layers(terms, layers.as_deref(), bound.span)
    }

    /// A block that takes tensors maps over the streams of a bundle.
    fn over_streams_of(&mut self, bound: Bound) -> Traced<Value> {
        let block = Rc::clone(&bound.partial.block);
        let is_bundle = |kind| kind == TypeKind::Bundle;
        let mut streams: Vec<String> = Vec::new();
        for (param, value) in block.params.iter().zip(&bound.given) {
            let takes_tensor = param.ty.as_ref().is_some_and(|ty| !is_bundle(ty.kind));
            if let (
                true,
                Some(Variable {
                    value: Value::Bundle(all),
                    ..
                }),
            ) = (takes_tensor, value)
            {
                streams = all.iter().map(|(name, _)| name.clone()).collect();
            }
        }
        if streams.is_empty() {
            return self.enter(bound);
        }
        let mut result = Vec::new();
        for stream in streams {
            let mut one = bound.clone();
            for variable in one.given.iter_mut().flatten() {
                if let Value::Bundle(all) = &variable.value {
                    let own = all.iter().find(|(name, _)| *name == stream);
                    let known: Vec<&str> = all.iter().map(|(name, _)| name.as_str()).collect();
                    match own {
                        Some((_, tensor)) => variable.value = Value::Tensor(tensor.clone()),
                        None => {
                            let report = check::unknown_stream::report(bound.span, &stream, &known);
                            return self.fail(report);
                        }
                    }
                }
            }
            match self.enter(one)? {
                Value::Tensor(tensor) => result.push((stream, tensor)),
                other => return self.wrong(bound.span, "one tensor per stream", &other),
            }
        }
        Ok(Value::Bundle(result))
    }

    /// Traces a call. Below a library block, nodes count for the place of the outermost such call.
    fn enter(&mut self, bound: Bound) -> Traced<Value> {
        let outer = self.site;
        if bound.partial.library {
            self.site.get_or_insert(bound.span);
        }
        let result = self.inside(bound);
        self.site = outer;
        result
    }

    fn inside(&mut self, mut bound: Bound) -> Traced<Value> {
        let block = Rc::clone(&bound.partial.block);
        for variable in bound.given.iter().flatten() {
            if let value @ (Value::Absent(_) | Value::Undefined(_)) = &variable.value
                && block.params.iter().zip(&bound.given).any(|(param, given)| {
                    param.ty.is_some() && given.as_ref().is_some_and(|g| std::ptr::eq(g, variable))
                })
            {
                return Ok(value.clone());
            }
        }
        if let Some(value @ (Value::Absent(_) | Value::Undefined(_))) = &bound.implicit {
            return Ok(value.clone());
        }
        let generates = block.kind == BlockKind::Decoder
            && self.begin_decoder(&block, &mut bound.given, bound.span)?;
        let mut frame = Frame {
            scope: Scope::at(bound.path.clone()),
            library: bound.partial.library,
            current: bound.implicit.clone(),
            ..Frame::default()
        };
        let mut signature = Signature {
            names: Vec::new(),
            rest: 0,
        };
        for (param, given) in block.params.iter().zip(&bound.given) {
            if let (None, Some(variable)) = (&param.ty, given) {
                frame
                    .variables
                    .push((param.name.value.clone(), variable.clone()));
            }
        }
        for (param, given) in block.params.iter().zip(&bound.given) {
            let (Some(ty), Some(variable)) = (&param.ty, given) else {
                continue;
            };
            // `mask: bool[B, N] = none` is given as `none` too.
            let value = match param.default.is_some() && variable.value.is_none() {
                true => variable.value.clone(),
                false => self.receive(&mut frame, &bound, ty, variable, &mut signature)?,
            };
            if frame.current.is_none() && value.flows() {
                frame.current = Some(value.clone());
            }
            frame.set(&param.name.value, value, variable.span);
        }
        for (param, given) in block.params.iter().zip(&bound.given) {
            if let (Some(default), None) = (&param.default, given) {
                let variable = self.variable(&mut frame, default)?;
                frame.variables.push((param.name.value.clone(), variable));
            }
        }
        self.body(&mut frame, &block.body)?;
        let Some(result) = frame.current.take() else {
            let headline = format!("`{}` gives nothing back", bound.partial.name);
            return self.fail(check::no_value::report(block.name.span, headline));
        };
        let result = self.leave(&mut frame, &bound, result, &signature)?;
        if generates {
            return self.end_decoder(result, bound.span);
        }
        Ok(result)
    }

    /// Gives what arrives the axis names of the signature.
    fn receive(
        &mut self,
        frame: &mut Frame,
        bound: &Bound,
        ty: &Type,
        variable: &Variable,
        signature: &mut Signature,
    ) -> Traced<Value> {
        match (&variable.value, ty.kind) {
            (Value::Router(..), TypeKind::Router) => Ok(variable.value.clone()),
            (Value::Bundle(streams), TypeKind::Bundle) => {
                let mut result = Vec::new();
                for (name, tensor) in streams {
                    let tensor =
                        self.receive_tensor(frame, bound, ty, tensor, variable.span, signature)?;
                    result.push((name.clone(), tensor));
                }
                Ok(Value::Bundle(result))
            }
            (
                Value::Tensor(tensor),
                TypeKind::F32 | TypeKind::U32 | TypeKind::Token | TypeKind::Bool,
            ) => {
                let found = self.dtype(tensor);
                let fits = match ty.kind {
                    TypeKind::F32 => found == DType::F32,
                    TypeKind::Bool => found == DType::Bool,
                    _ => found == DType::U32,
                };
                if !fits {
                    let needed = format!("`{}` of {}", ty.kind.keyword(), bound.partial.name);
                    let text = self.tensor_text(tensor);
                    return self.fail(check::wrong_kind::report(bound.span, &needed, &text));
                }
                let tensor =
                    self.receive_tensor(frame, bound, ty, tensor, variable.span, signature)?;
                Ok(Value::Tensor(tensor))
            }
            // A plain tensor is a bundle of one stream.
            (Value::Tensor(tensor), TypeKind::Bundle) => {
                let tensor =
                    self.receive_tensor(frame, bound, ty, tensor, variable.span, signature)?;
                Ok(Value::Tensor(tensor))
            }
            (Value::Number(_), _) if ty.axes.is_empty() => Ok(variable.value.clone()),
            (other, _) => {
                let needed = format!("`{}`", ty.kind.keyword());
                self.wrong(variable.span, &needed, other)
            }
        }
    }

    fn receive_tensor(
        &mut self,
        frame: &mut Frame,
        bound: &Bound,
        ty: &Type,
        tensor: &Tensor,
        at: Span,
        signature: &mut Signature,
    ) -> Traced<Tensor> {
        let Some(positions) = split_axes(ty, tensor.axes.len()) else {
            let takes = axes_text(ty);
            let text = self.tensor_text(tensor);
            let name = &bound.partial.name;
            return self.fail(check::rank_mismatch::report(
                bound.span, name, &takes, ty.span, &text,
            ));
        };
        let shape = self.shape(tensor);
        let mut axes = Vec::new();
        for ((axis, size), stated) in tensor.axes.iter().zip(&shape).zip(positions) {
            let inner = match stated {
                None => signature.rest_name(axis),
                Some(expr) => {
                    let from = Arriving {
                        size,
                        axis,
                        at,
                        per_stream: ty.kind == TypeKind::Bundle,
                    };
                    self.receive_axis(frame, bound, expr, &from)?
                }
            };
            if let Some(outer) = &axis.name
                && !frame.outer.iter().any(|(known, _)| known == outer)
            {
                frame.outer.push((outer.clone(), inner.clone()));
            }
            signature.map(&inner, axis.name.as_deref());
            axes.push(Axis {
                name: Some(inner),
                span: axis.span,
            });
        }
        Ok(Tensor {
            id: tensor.id,
            axes,
        })
    }

    /// The name of an axis inside, after its size is bound or checked.
    fn receive_axis(
        &mut self,
        frame: &mut Frame,
        bound: &Bound,
        expr: &Expr,
        from: &Arriving,
    ) -> Traced<String> {
        let Some(name) = bare(expr) else {
            let (expected, span) = self.size(frame, expr)?;
            self.agree(bound, "this axis", (&expected, span), from)?;
            return Ok(format!("'{}", expr.span.start));
        };
        let known = match frame.variable(name) {
            Some(Variable {
                value: Value::Number(Number::Whole(size)),
                span,
                ..
            }) => Some((size.clone(), *span)),
            _ => None,
        };
        if let Some((size, span)) = known {
            self.agree(bound, name, (&size, span), from)?;
            return Ok(name.to_owned());
        }
        if let Some(index) = frame.sizes.iter().position(|local| local.name == name) {
            let local = frame.sizes[index].clone();
            if from.per_stream
                && local.size.as_ref() != Some(from.size)
                && !self.is_dim(bound, name)
            {
                frame.sizes[index].size = None;
            } else if let Some(size) = local.size {
                self.agree(bound, name, (&size, local.span), from)?;
            }
            return Ok(name.to_owned());
        }
        if self.is_dim(bound, name)
            && let Some((size, span)) = self.dim(name)
            && size.symbols().is_empty()
            && !self.is_one_place(name, from.size)
        {
            self.agree(bound, name, (&size, span), from)?;
        }
        let size = Some(from.size.clone());
        frame.sizes.push(LocalSize {
            name: name.to_owned(),
            size,
            span: from.axis.span,
        });
        Ok(name.to_owned())
    }

    /// Whether a signature's name means the global dim: in encoders, not in templates.
    fn is_dim(&self, bound: &Bound, name: &str) -> bool {
        let shared = bound.partial.block.kind != BlockKind::Block;
        shared && !bound.partial.library && self.model.dim(name).is_some()
    }

    fn agree(
        &mut self,
        bound: &Bound,
        axis: &str,
        (expected, stated): (&Size, Span),
        from: &Arriving,
    ) -> Traced<()> {
        if expected == from.size {
            return Ok(());
        }
        let sides = check::size_mismatch::Sides {
            callee: &bound.partial.name,
            axis,
            expected: self.graph.size_text(expected),
            stated,
            found: self.graph.size_text(from.size),
            from: from.axis.span,
        };
        let at = if bound.span == Span::default() {
            from.at
        } else {
            bound.span
        };
        self.fail(check::size_mismatch::report(at, &sides))
    }

    /// Gives a result the caller's axis names.
    fn leave(
        &mut self,
        frame: &mut Frame,
        bound: &Bound,
        result: Value,
        signature: &Signature,
    ) -> Traced<Value> {
        match result {
            Value::Tensor(tensor) => self
                .leave_tensor(frame, bound, tensor, signature)
                .map(Value::Tensor),
            Value::Bundle(streams) => {
                let mut result = Vec::new();
                for (name, tensor) in streams {
                    result.push((name, self.leave_tensor(frame, bound, tensor, signature)?));
                }
                Ok(Value::Bundle(result))
            }
            Value::Tuple(values) => {
                let outside = |tensor: Tensor| Tensor {
                    axes: outward(frame, &tensor.axes, signature),
                    ..tensor
                };
                let values = values.into_iter().map(|value| match value {
                    Value::Tensor(tensor) => Value::Tensor(outside(tensor)),
                    Value::Bundle(streams) => Value::Bundle(
                        streams
                            .into_iter()
                            .map(|(name, tensor)| (name, outside(tensor)))
                            .collect(),
                    ),
                    other => other,
                });
                Ok(Value::Tuple(values.collect()))
            }
            other => Ok(other),
        }
    }

    fn leave_tensor(
        &mut self,
        frame: &mut Frame,
        bound: &Bound,
        mut tensor: Tensor,
        signature: &Signature,
    ) -> Traced<Tensor> {
        let block = &bound.partial.block;
        if let Some(ty) = &block.result {
            let Some(positions) = split_axes(ty, tensor.axes.len()) else {
                let takes = axes_text(ty);
                let text = self.tensor_text(&tensor);
                let name = format!("the result of {}", bound.partial.name);
                let span = block.name.span;
                return self.fail(check::rank_mismatch::report(
                    span, &name, &takes, ty.span, &text,
                ));
            };
            let shape = self.shape(&tensor);
            for ((axis, size), stated) in tensor.axes.iter_mut().zip(&shape).zip(positions) {
                let Some(name) = stated.and_then(bare) else {
                    continue;
                };
                let local = frame
                    .local(name)
                    .and_then(|local| local.size.clone().map(|s| (s, local.span)));
                let expected =
                    local.or_else(|| self.is_dim(bound, name).then(|| self.dim(name)).flatten());
                if let Some((expected, span)) = expected
                    && expected.symbols().is_empty()
                {
                    let own = axis.clone();
                    let from = Arriving {
                        size,
                        axis: &own,
                        at: own.span,
                        per_stream: false,
                    };
                    self.agree(bound, name, (&expected, span), &from)?;
                }
                axis.name = Some(name.to_owned());
            }
            if block.kind != BlockKind::Block {
                return Ok(tensor);
            }
            let stated: Vec<&str> = ty.axes.iter().filter_map(type_axis_name).collect();
            let mut axes = outward(frame, &tensor.axes, signature);
            for (axis, inner) in axes.iter_mut().zip(&tensor.axes) {
                let name = inner.name.as_deref().filter(|name| stated.contains(name));
                if axis.name.is_none() && name.is_some() {
                    axis.name = name.map(str::to_owned);
                }
            }
            return Ok(Tensor {
                id: tensor.id,
                axes,
            });
        }
        if tensor_params(block).count() == 0 {
            return Ok(tensor);
        }
        tensor.axes = outward(frame, &tensor.axes, signature);
        Ok(tensor)
    }
}

/// An axis on its way in.
struct Arriving<'a> {
    size: &'a Size,
    axis: &'a Axis,
    at: Span,
    per_stream: bool,
}

/// Which axis name of the caller each name inside stands for.
struct Signature {
    names: Vec<(String, Option<String>)>,
    rest: usize,
}

impl Signature {
    /// A name for an axis that `...` stands for; names of experts stay.
    fn rest_name(&mut self, axis: &Axis) -> String {
        if let Some(name) = axis.name.as_deref().filter(|name| name.starts_with('\'')) {
            return name.to_owned();
        }
        // The same axis of two operands has one name inside.
        if let Some(outer) = &axis.name
            && let Some((inner, _)) = self
                .names
                .iter()
                .find(|(inner, name)| inner.starts_with("'rest") && name.as_ref() == Some(outer))
        {
            return inner.clone();
        }
        self.rest += 1;
        format!("'rest{}", self.rest)
    }

    fn map(&mut self, inner: &str, outer: Option<&str>) {
        if !self.names.iter().any(|(name, _)| name == inner) {
            self.names
                .push((inner.to_owned(), outer.map(str::to_owned)));
        }
    }
}

/// The caller's names of axes; what only the block knows has none.
fn outward(frame: &Frame, axes: &[Axis], signature: &Signature) -> Vec<Axis> {
    let mut result: Vec<Axis> = Vec::new();
    for axis in axes {
        let name = axis.name.as_ref().and_then(|name| {
            let mapped = signature.names.iter().find(|(inner, _)| inner == name);
            match mapped {
                Some((_, outer)) => outer.clone(),
                None if name.starts_with('\'') => Some(name.clone()),
                None => frame
                    .variable(name)
                    .and_then(|variable| variable.word.clone()),
            }
        });
        let repeated = result
            .iter()
            .any(|known: &Axis| name.is_some() && known.name == name);
        result.push(Axis {
            name: if repeated { None } else { name },
            span: axis.span,
        });
    }
    result
}

/// The stated axis of each axis of a tensor; `None` where `...` stands for it.
fn split_axes(ty: &Type, rank: usize) -> Option<Vec<Option<&Expr>>> {
    let rest = ty
        .axes
        .iter()
        .position(|axis| matches!(axis, TypeAxis::Rest(_)));
    let Some(rest) = rest else {
        return (ty.axes.len() == rank).then(|| ty.axes.iter().map(type_axis).collect());
    };
    let extra = (rank + 1).checked_sub(ty.axes.len())?;
    let mut result: Vec<Option<&Expr>> = ty.axes[..rest].iter().map(type_axis).collect();
    result.extend(std::iter::repeat_n(None, extra));
    result.extend(ty.axes[rest + 1..].iter().map(type_axis));
    Some(result)
}

fn type_axis(axis: &TypeAxis) -> Option<&Expr> {
    match axis {
        TypeAxis::Size(expr) => Some(expr),
        TypeAxis::Rest(_) => None,
    }
}

fn type_axis_name(axis: &TypeAxis) -> Option<&str> {
    type_axis(axis).and_then(bare)
}

fn axes_text(ty: &Type) -> String {
    let axis = |axis: &TypeAxis| match axis {
        TypeAxis::Rest(_) => "...".to_owned(),
        TypeAxis::Size(expr) => match &expr.kind {
            ExprKind::Path(path) => path.to_string(),
            ExprKind::Number(number) => number.text.clone(),
            _ => "…".to_owned(),
        },
    };
    let axes: Vec<String> = ty.axes.iter().map(axis).collect();
    format!("{}[{}]", ty.kind.keyword(), axes.join(", "))
}
