//! From a request to outputs: entries, objectives, losses.

use super::names::Scope;
use super::tracer::Tracer;
use super::value::{Frame, Reported, Traced, Value};
use super::{Recorded, Target};
use crate::check;
use crate::graph::{DType, OutputKind};
use crate::model::Definition;
use gatewright_grammar::ast::{Expr, ExprKind, FormulaKind, Let, SectionKind};
use gatewright_grammar::source::Span;

impl Tracer<'_> {
    pub(crate) fn trace(&mut self) -> Traced<()> {
        let request = self.request;
        match &request.what {
            Target::Entry(name) => self.entry(name)?,
            Target::Objective(name) => self.objective(name)?,
            Target::Values(names) => self.named_values(names)?,
            Target::Everything => return self.everything(),
        }
        if request.observed {
            for (path, id) in self.observed.clone() {
                self.graph.add_output(path, OutputKind::Value, id);
            }
        }
        if request.routing == Recorded::Nothing {
            return Ok(());
        }
        for instance in self.routers.clone() {
            if request.routing == Recorded::Everything {
                self.record_decisions(&instance);
            }
            self.record_metrics(&instance)?;
        }
        Ok(())
    }

    /// Traces all that can be; one mistake does not hide another.
    fn everything(&mut self) -> Traced<()> {
        let model = self.model;
        let values = model.values().keys().map(|name| format!("value:{name}"));
        let formulas = [FormulaKind::Loss, FormulaKind::Objective].map(|kind| model.formulas(kind));
        let formulas = formulas.iter().flatten();
        self.needs_of(values.chain(formulas.map(|name| format!("formula:{name}"))));
        // Also what nothing uses yet.
        for router in model.sections(SectionKind::Router) {
            let _ = self.policy(&router.name, router.span);
        }
        for experts in model.sections(SectionKind::Experts) {
            if let Some(section) = model.written(SectionKind::Experts, &experts.name) {
                let _ = self.required(section, "router", "gate");
                let _ = self.required(section, "expert", "mlp(hidden: 4 * D)");
            }
        }
        Ok(())
    }

    fn named_values(&mut self, names: &[String]) -> Traced<()> {
        let model = self.model;
        for name in names {
            let value = match model.value(name).map(|item| &item.definition) {
                Some(Definition::Let(binding, index)) => self.global(name, binding, *index)?,
                Some(Definition::Input(_)) => self.input(name)?,
                _ => {
                    let known: Vec<&str> = model.values().keys().map(String::as_str).collect();
                    let report = check::unknown_request::report("value", name, &known);
                    return self.fail(report);
                }
            };
            match value {
                Value::Tensor(tensor) => {
                    self.graph
                        .add_output(name.clone(), OutputKind::Value, tensor.id);
                }
                other => return self.wrong(Span::default(), "a tensor", &other),
            }
        }
        Ok(())
    }

    fn entry(&mut self, name: &str) -> Traced<()> {
        let model = self.model;
        let Some(entry) = model.entry(name) else {
            let known = model.entries();
            return self.fail(check::unknown_request::report("entry", name, &known));
        };
        self.needs_of([format!("entry:{name}")]);
        let exprs: Vec<&Expr> = match &entry.outputs.kind {
            ExprKind::Tuple(exprs) => exprs.iter().collect(),
            _ => vec![&entry.outputs],
        };
        for (index, expr) in exprs.iter().enumerate() {
            let mut frame = Frame {
                scope: Scope::at(name),
                ..Frame::default()
            };
            let value = self.flow(&mut frame, expr)?;
            let plain = super::parameter::bare(expr).map(str::to_owned);
            let output = plain.unwrap_or_else(|| match exprs.len() {
                1 => name.to_owned(),
                _ => format!("{name}.{index}"),
            });
            match value {
                Value::Tensor(tensor) => {
                    self.graph.add_output(output, OutputKind::Value, tensor.id)
                }
                Value::Bundle(streams) => {
                    for (stream, tensor) in streams {
                        let output = format!("{output}.{stream}");
                        self.graph.add_output(output, OutputKind::Value, tensor.id);
                    }
                }
                other => return self.wrong(expr.span, "a tensor", &other),
            }
        }
        Ok(())
    }

    fn objective(&mut self, name: &str) -> Traced<()> {
        let model = self.model;
        let known = model.formulas(FormulaKind::Objective);
        let formula = model
            .formula(name)
            .filter(|formula| formula.kind == FormulaKind::Objective);
        let Some(formula) = formula else {
            return self.fail(check::unknown_request::report("objective", name, &known));
        };
        self.needs_of([format!("formula:{name}")]);
        let value = self.formula(name, formula.name.span)?;
        let Value::Tensor(total) = value else {
            let report = check::not_a_scalar::report(formula.value.span, name, value.noun());
            return self.fail(report);
        };
        for loss in self.loss_order.clone() {
            let is_loss = model
                .formula(&loss)
                .is_some_and(|f| f.kind == FormulaKind::Loss);
            if let (true, Some(Ok(Value::Tensor(tensor)))) = (is_loss, self.losses.get(&loss)) {
                let id = tensor.id;
                self.graph
                    .add_output(format!("loss.{loss}"), OutputKind::Loss, id);
            }
        }
        self.graph
            .add_output(format!("objective.{name}"), OutputKind::Objective, total.id);
        Ok(())
    }

    /// Traces values and formulas, each after what it needs: long chains take no deep stack, and a
    /// router's losses meet all its instances. A mistake is met again by whoever asks for the value.
    fn needs_of(&mut self, roots: impl IntoIterator<Item = String>) {
        let reached = self.model.reach(roots);
        for value in reached.iter().filter_map(|key| key.strip_prefix("value:")) {
            let _ = self.global_by_name(value);
        }
        for formula in reached
            .iter()
            .filter_map(|key| key.strip_prefix("formula:"))
        {
            let _ = self.formula(formula, Span::default());
        }
    }

    /// Traces a top-level `let`, if this is one.
    pub(crate) fn global_by_name(&mut self, name: &str) -> Traced<()> {
        let model = self.model;
        if let Some(Definition::Let(binding, index)) =
            model.value(name).map(|item| &item.definition)
        {
            self.global(name, binding, *index)?;
        }
        Ok(())
    }

    /// The value of a top-level `let`, traced once.
    pub(crate) fn global(&mut self, name: &str, binding: &Let, index: usize) -> Traced<Value> {
        if let Some(done) = self.globals.get(name) {
            return done.clone();
        }
        let first = binding
            .names
            .first()
            .map_or(name, |name| name.value.as_str());
        let mut frame = Frame {
            scope: Scope::at(first),
            ..Frame::default()
        };
        let value = self.outside_experts(|tracer| tracer.flow(&mut frame, &binding.value));
        let values = match (value, binding.names.len()) {
            (Ok(value), 1) => vec![Ok(value)],
            (Ok(value), _) => match self.take_apart(value, binding) {
                Ok(values) => values.into_iter().map(Ok).collect(),
                Err(Reported) => vec![Err(Reported); binding.names.len()],
            },
            (Err(Reported), _) => vec![Err(Reported); binding.names.len()],
        };
        let result = values.get(index).cloned().unwrap_or(Err(Reported));
        for (name, value) in binding.names.iter().zip(values) {
            self.globals.insert(name.value.clone(), value);
        }
        result
    }

    /// Runs something that is not part of an expert, even when an expert asks for it.
    fn outside_experts<T>(&mut self, run: impl FnOnce(&mut Self) -> T) -> T {
        let expert = self.expert.take();
        let result = run(self);
        self.expert = expert;
        result
    }

    /// The value of a loss or objective, traced once and checked to be a scalar.
    pub(crate) fn formula(&mut self, name: &str, span: Span) -> Traced<Value> {
        if let Some(done) = self.losses.get(name) {
            return done.clone();
        }
        let model = self.model;
        let Some(formula) = model.formula(name) else {
            return self.wrong(span, "a loss", &Value::Word(name.to_owned()));
        };
        let value = self.formula_value(name, &formula.value);
        self.losses.insert(name.to_owned(), value.clone());
        self.loss_order.push(name.to_owned());
        value
    }

    fn formula_value(&mut self, name: &str, expr: &Expr) -> Traced<Value> {
        let mut frame = Frame {
            scope: Scope::at(name),
            ..Frame::default()
        };
        let value = self.flow(&mut frame, expr)?;
        match &value {
            Value::Tensor(tensor) if tensor.axes.is_empty() && self.dtype(tensor) == DType::F32 => {
                Ok(value)
            }
            Value::Undefined(reason) => {
                self.diagnostics
                    .push(check::undefined_term::report(expr.span, reason));
                Ok(value)
            }
            Value::Tensor(tensor) => {
                let text = self.tensor_text(tensor);
                self.fail(check::not_a_scalar::report(expr.span, name, &text))
            }
            Value::Absent(_) => self.wrong(expr.span, "a tensor", &value),
            other => self.fail(check::not_a_scalar::report(expr.span, name, other.noun())),
        }
    }
}
