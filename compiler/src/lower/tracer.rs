//! The state of one trace, and how nodes enter the graph.

use super::value::{Axis, Frame, Reported, Tensor, Traced, Value};
use super::{Lowered, Mode, ParameterInfo, Request, RouterInstance};
use crate::check;
use crate::graph::{DType, DimKind, Graph, Origin, Type, ValueId};
use crate::model::{Definition, Model};
use crate::ops::{Constant, Input, Op};
use crate::size::{Bindings, DimId, Size};
use gatewright_grammar::diagnostic::{Diagnostic, Diagnostics};
use gatewright_grammar::source::Span;
use std::collections::BTreeMap;

/// Nodes of one graph.
const MAX_NODES: usize = 1_000_000;
/// Calls and repetitions of one trace.
const MAX_STEPS: usize = 1_000_000;
/// Nested calls and expressions; bounds the native stack.
const MAX_DEPTH: usize = 64;

/// What is special while the body of an expert is traced.
#[derive(Clone, Debug)]
pub(crate) struct ExpertContext {
    pub(crate) experts: usize,
    pub(crate) rows: DimId,
    pub(crate) plan: ValueId,
    pub(crate) independent: bool,
}

/// The state of one trace.
pub(crate) struct Tracer<'a> {
    pub(crate) model: &'a Model,
    pub(crate) request: &'a Request,
    pub(crate) graph: Graph,
    pub(crate) bindings: Bindings,
    pub(crate) diagnostics: Diagnostics,
    pub(crate) parameters: BTreeMap<String, (ParameterInfo, Tensor)>,
    pub(crate) inputs: BTreeMap<String, Tensor>,
    pub(crate) globals: BTreeMap<String, Traced<Value>>,
    pub(crate) losses: BTreeMap<String, Traced<Value>>,
    /// Losses in the order they were traced.
    pub(crate) loss_order: Vec<String>,
    pub(crate) routers: Vec<RouterInstance>,
    /// What `observe` names, by path.
    pub(crate) observed: Vec<(String, ValueId)>,
    pub(crate) expert: Option<ExpertContext>,
    /// Present while a program that generates is traced.
    pub(super) decoding: Option<super::decode::Trace>,
    /// Where nodes come from.
    pub(crate) origin: Origin,
    /// The call that led from the user's file into the library.
    pub(crate) site: Option<Span>,
    steps: usize,
    depth: usize,
}

impl<'a> Tracer<'a> {
    pub(crate) fn new(model: &'a Model, request: &'a Request) -> Self {
        let mut graph = Graph::default();
        let mut bindings = Bindings::new();
        for (name, id) in model.symbols() {
            graph.add_dim(name, DimKind::Free);
            if let Some(value) = request.bindings.get(name) {
                bindings.insert(id, *value);
            }
        }
        Self {
            model,
            request,
            graph,
            bindings,
            diagnostics: Diagnostics::default(),
            parameters: BTreeMap::new(),
            inputs: BTreeMap::new(),
            globals: BTreeMap::new(),
            losses: BTreeMap::new(),
            loss_order: Vec::new(),
            routers: Vec::new(),
            observed: Vec::new(),
            expert: None,
            decoding: None,
            origin: Origin::default(),
            site: None,
            steps: 0,
            depth: 0,
        }
    }

    pub(crate) fn run(mut self) -> (Option<Lowered>, Vec<Diagnostic>) {
        let done = self.trace();
        let failed = done.is_err() || self.diagnostics.has_errors();
        let dims = self.model.symbols();
        let unbound = dims.filter(|(_, id)| !self.bindings.contains_key(id));
        let dims = unbound.map(|(name, id)| (name.to_owned(), id)).collect();
        let parameters = self
            .parameters
            .into_iter()
            .map(|(path, (info, _))| (path, info));
        let lowered = (!failed).then_some(Lowered {
            graph: self.graph,
            dims,
            routers: self.routers,
            parameters: parameters.collect(),
            observed: self.observed.into_iter().map(|(path, _)| path).collect(),
        });
        (lowered, self.diagnostics.into_sorted())
    }

    pub(crate) fn is_training(&self) -> bool {
        self.request.mode == Mode::Train
    }

    /// Reports an error and unwinds.
    pub(crate) fn fail<T>(&mut self, mut diagnostic: Diagnostic) -> Traced<T> {
        // A mistake that shows inside the library was made where the library was called.
        if let (Some(site), Some(primary)) = (self.site, &diagnostic.primary)
            && primary.span.file != site.file
            && !diagnostic
                .secondary
                .iter()
                .any(|it| it.span.file == site.file)
        {
            diagnostic = diagnostic.also(site, "on the way from here");
        }
        self.diagnostics.push(diagnostic);
        Err(Reported)
    }

    pub(crate) fn wrong<T>(&mut self, span: Span, needed: &str, found: &Value) -> Traced<T> {
        if let Value::Absent(input) = found {
            let report = check::absent_input::report(span, self.entry_name(), input);
            return self.fail(report);
        }
        self.fail(check::wrong_kind::report(span, needed, found.noun()))
    }

    fn entry_name(&self) -> &str {
        match &self.request.what {
            super::Target::Entry(name) | super::Target::Objective(name) => name,
            super::Target::Values(_) | super::Target::Everything => "",
        }
    }

    /// Counts one call or repetition.
    pub(crate) fn step(&mut self, span: Span) -> Traced<()> {
        self.steps += 1;
        if self.steps > MAX_STEPS {
            let headline = format!("tracing takes more than {MAX_STEPS} steps");
            return self.fail(check::too_large::report(span, headline));
        }
        Ok(())
    }

    /// Runs something one level deeper.
    pub(crate) fn deeper<T>(
        &mut self,
        span: Span,
        run: impl FnOnce(&mut Self) -> Traced<T>,
    ) -> Traced<T> {
        if self.depth >= MAX_DEPTH {
            let headline = format!("the nesting is deeper than {MAX_DEPTH}");
            return self.fail(check::too_large::report(span, headline));
        }
        self.depth += 1;
        let result = run(self);
        self.depth -= 1;
        result
    }

    /// Runs something whose nodes come from `span` under the frame's path.
    pub(crate) fn located<T>(
        &mut self,
        frame: &mut Frame,
        span: Span,
        run: impl FnOnce(&mut Self, &mut Frame) -> Traced<T>,
    ) -> Traced<T> {
        let origin = Origin {
            span,
            site: self.site.unwrap_or(span),
            path: frame.scope.path.clone(),
        };
        let outer = std::mem::replace(&mut self.origin, origin);
        let result = run(self, frame);
        self.origin = outer;
        result
    }

    /// Adds a node at the current origin.
    pub(crate) fn emit(&mut self, op: impl Into<Op>, operands: &[ValueId]) -> Traced<ValueId> {
        if self.graph.len() >= MAX_NODES {
            let headline = format!("the graph has more than {MAX_NODES} operations");
            return self.fail(check::too_large::report(self.origin.span, headline));
        }
        match self.graph.add(op.into(), operands, self.origin.clone()) {
            Ok(id) if self.graph.ty(id).bound_elements(&self.bindings).is_some() => Ok(id),
            Ok(id) => {
                let text = self.graph.type_text(self.graph.ty(id));
                let headline = format!("{text} has more elements than can be counted");
                self.fail(check::bad_size::report(self.origin.span, headline))
            }
            Err(error) => {
                let report = check::operands::report(self.origin.span, error.message);
                self.fail(report)
            }
        }
    }

    pub(crate) fn shape(&self, tensor: &Tensor) -> Vec<Size> {
        self.graph.ty(tensor.id).shape.clone()
    }

    pub(crate) fn dtype(&self, tensor: &Tensor) -> DType {
        self.graph.ty(tensor.id).dtype
    }

    /// A constant of any shape.
    pub(crate) fn constant(
        &mut self,
        dtype: DType,
        shape: Vec<Size>,
        value: f64,
    ) -> Traced<ValueId> {
        self.emit(
            Constant {
                ty: Type::new(dtype, shape),
                value,
            },
            &[],
        )
    }

    /// `f32[B, N=49, 512]`: the type with axis names.
    pub(crate) fn tensor_text(&self, tensor: &Tensor) -> String {
        let ty = self.graph.ty(tensor.id);
        let axis = |(axis, size): (&Axis, &Size)| {
            let size = self.graph.size_text(size);
            match &axis.name {
                Some(name) if *name != size && !name.starts_with('\'') => format!("{name}={size}"),
                _ => size,
            }
        };
        let axes: Vec<String> = tensor.axes.iter().zip(&ty.shape).map(axis).collect();
        format!("{}[{}]", ty.dtype.name(), axes.join(", "))
    }

    /// The value of a global dim with the request's bindings applied.
    pub(crate) fn dim(&self, name: &str) -> Option<(Size, Span)> {
        let dim = self.model.dim(name)?;
        Some((dim.size.substitute(&self.bindings), dim.span))
    }

    /// The tensor of an input; absent when the entry does not read it.
    pub(crate) fn input(&mut self, name: &str) -> Traced<Value> {
        if let Some(tensor) = self.inputs.get(name) {
            return Ok(Value::Tensor(tensor.clone()));
        }
        let model = self.model;
        if let super::Target::Entry(entry) = &self.request.what
            && let Some(entry) = model.entry(entry)
            && !entry.inputs.iter().any(|input| input.value == name)
        {
            return Ok(Value::Absent(name.to_owned()));
        }
        let Some(Definition::Input(input)) = model.value(name).map(|item| &item.definition) else {
            return Ok(Value::Absent(name.to_owned()));
        };
        let mut frame = Frame::default();
        let (ty, axes) = self.stated_type(&mut frame, &input.ty)?;
        let bound = match &input.ty.of {
            Some(of) => Some(self.whole(&mut frame, of, "the bound of a token")?),
            None => None,
        };
        let op = Input {
            name: name.to_owned(),
            ty,
            bound: bound.and_then(|bound| u32::try_from(bound).ok()),
        };
        let origin = Origin {
            span: input.name.span,
            site: input.name.span,
            path: name.to_owned(),
        };
        let outer = std::mem::replace(&mut self.origin, origin);
        let id = match self.is_zero_in_step(name) {
            true => self.constant(op.ty.dtype, op.ty.shape, 0.0),
            false => self.emit(op, &[]),
        };
        self.origin = outer;
        let tensor = Tensor { id: id?, axes };
        self.inputs.insert(name.to_owned(), tensor.clone());
        Ok(Value::Tensor(tensor))
    }
}
