//! `param`: stated types, initialisers, and one node per path.

use super::ParameterInfo;
use super::tracer::Tracer;
use super::value::{Axis, EXPERT_AXIS, Frame, Tensor, Traced, Value};
use crate::check;
use crate::graph::{DType, Type};
use crate::model::Number;
use crate::ops::{Init, Parameter};
use crate::size::Size;
use gatewright_grammar::ast::{self, Expr, ExprKind, ParamDecl, TypeAxis, TypeKind};
use gatewright_grammar::source::Span;

impl Tracer<'_> {
    /// The graph type and named axes of a type without `...`.
    pub(crate) fn stated_type(
        &mut self,
        frame: &mut Frame,
        ty: &ast::Type,
    ) -> Traced<(Type, Vec<Axis>)> {
        let dtype = match ty.kind {
            TypeKind::F32 => DType::F32,
            TypeKind::U32 | TypeKind::Token => DType::U32,
            TypeKind::Bool => DType::Bool,
            TypeKind::Bundle | TypeKind::Router => {
                return self.fail(check::wrong_kind::report(
                    ty.span,
                    "a tensor type",
                    "another type",
                ));
            }
        };
        let (mut shape, mut axes) = (Vec::new(), Vec::new());
        for axis in &ty.axes {
            let TypeAxis::Size(expr) = axis else {
                return self.fail(check::wrong_kind::report(ty.span, "a whole shape", "`...`"));
            };
            let (size, span) = self.size(frame, expr)?;
            shape.push(size);
            axes.push(match bare(expr) {
                Some(name) => Axis::named(name, span),
                None => Axis::unnamed(span),
            });
        }
        Ok((Type::new(dtype, shape), axes))
    }

    /// A size and where it came from.
    pub(crate) fn size(&mut self, frame: &mut Frame, expr: &Expr) -> Traced<(Size, Span)> {
        if let Some(name) = bare(expr)
            && frame.variable(name).is_none()
            && let Some(local) = frame.local(name)
        {
            if let Some(size) = &local.size {
                return Ok((size.clone(), local.span));
            }
            let headline = format!("`{name}` differs from stream to stream");
            return self.fail(check::bad_size::report(expr.span, headline));
        }
        let span = match bare(expr) {
            Some(name) => match frame.variable(name) {
                Some(variable) => variable.span,
                None => self.dim(name).map_or(expr.span, |_| expr.span),
            },
            None => expr.span,
        };
        match self.eval(frame, expr)? {
            Value::Number(Number::Whole(size)) => {
                if size.symbols().is_empty() && size.as_const().is_none_or(|size| size == 0) {
                    let headline = "this size is not positive";
                    return self.fail(check::bad_size::report(span, headline));
                }
                Ok((size, span))
            }
            Value::Number(Number::Real(value)) => {
                let headline = format!("this size is {value}");
                self.fail(check::bad_size::report(span, headline))
            }
            other => self.wrong(expr.span, "a size", &other),
        }
    }

    /// A known whole number.
    pub(crate) fn whole(&mut self, frame: &mut Frame, expr: &Expr, what: &str) -> Traced<usize> {
        match self.eval(frame, expr)? {
            Value::Number(Number::Whole(size)) => match size.as_const() {
                Some(value) => Ok(value),
                None => {
                    let text = self.graph.size_text(&size);
                    self.fail(check::unbound_size::report(expr.span, what, &text))
                }
            },
            Value::Number(Number::Real(value)) => {
                let headline = format!("{what} is {value}, which is not a whole number");
                self.fail(check::bad_size::report(expr.span, headline))
            }
            other => self.wrong(expr.span, "a whole number", &other),
        }
    }

    /// A known number.
    pub(crate) fn real(&mut self, frame: &mut Frame, expr: &Expr) -> Traced<f64> {
        let value = self.eval(frame, expr)?;
        match &value {
            Value::Number(number) => match number.real() {
                Some(value) => Ok(value),
                None => self.fail(check::unbound_size::report(expr.span, "this number", "it")),
            },
            other => self.wrong(expr.span, "a number", other),
        }
    }

    /// Declares a parameter in the frame's scope.
    pub(crate) fn declare(&mut self, frame: &mut Frame, param: &ParamDecl) -> Traced<()> {
        let (ty, axes) = self.stated_type(frame, &param.ty)?;
        let init = self.init(frame, &param.init)?;
        let path = frame.scope.enter(&param.name.value);
        let tensor = self.located(frame, param.span, |tracer, _| {
            tracer.parameter(path, ty, axes, init)
        })?;
        frame.set(&param.name.value, Value::Tensor(tensor), param.name.span);
        Ok(())
    }

    fn parameter(
        &mut self,
        path: String,
        mut ty: Type,
        mut axes: Vec<Axis>,
        mut init: Init,
    ) -> Traced<Tensor> {
        if let Some(expert) = &self.expert {
            ty.shape.insert(0, Size::from(expert.experts));
            axes.insert(0, Axis::named(EXPERT_AXIS, self.origin.span));
            if !expert.independent && !matches!(init, Init::Constant(_)) {
                init = Init::Repeated(Box::new(init));
            }
        }
        if let Some((info, tensor)) = self.parameters.get(&path) {
            let (value, tensor) = (info.value, tensor.clone());
            if *self.graph.ty(value) == ty {
                return Ok(Tensor {
                    id: tensor.id,
                    axes,
                });
            }
            let first = self.graph.type_text(self.graph.ty(value));
            let second = self.graph.type_text(&ty);
            let span = self.origin.span;
            return self.fail(check::parameter_conflict::report(
                span, &path, &first, &second,
            ));
        }
        let decays = path
            .rsplit('.')
            .next()
            .is_some_and(|name| name.contains("kernel"));
        let span = self.origin.site;
        self.origin.path.clone_from(&path);
        let op = Parameter {
            path: path.clone(),
            ty,
            init: init.clone(),
        };
        let value = self.emit(op, &[])?;
        let tensor = Tensor { id: value, axes };
        let info = ParameterInfo {
            value,
            span,
            init,
            decays,
        };
        self.parameters.insert(path, (info, tensor.clone()));
        Ok(tensor)
    }

    fn init(&mut self, frame: &mut Frame, expr: &Expr) -> Traced<Init> {
        let value = self.eval(frame, expr)?;
        let init = match &value {
            Value::Word(word) | Value::Described(word, _) => match (word.as_str(), &value) {
                ("zeros", _) => Some(Init::Constant(0.0)),
                ("ones", _) => Some(Init::Constant(1.0)),
                ("xavier_uniform", _) => Some(Init::XavierUniform),
                ("lecun_normal", _) => Some(Init::LecunNormal),
                ("normal", Value::Described(_, std)) => Some(Init::Normal { std: *std }),
                ("constant", Value::Described(_, value)) => Some(Init::Constant(*value)),
                _ => None,
            },
            Value::Number(number) => number.real().map(Init::Constant),
            _ => None,
        };
        match init {
            Some(init) => Ok(init),
            None => {
                let forms = "zeros, ones, a number, normal(std: …), xavier_uniform or lecun_normal";
                self.fail(check::bad_setting::report(
                    expr.span,
                    "an initialiser",
                    forms,
                ))
            }
        }
    }
}

/// The name of an expression that is one bare name.
pub(crate) fn bare(expr: &Expr) -> Option<&str> {
    match &expr.kind {
        ExprKind::Path(path) => match path.parts.as_slice() {
            [name] => Some(&name.value),
            _ => None,
        },
        ExprKind::List(items) => match items.as_slice() {
            [item] => bare(item),
            _ => None,
        },
        _ => None,
    }
}
