//! Experts: the tokens of all streams pooled, routed, dispatched, and given back in place.

use super::names::Scope;
use super::router::{Group, Policy, Routed};
use super::tracer::{ExpertContext, Tracer};
use super::value::{Axis, Frame, ROWS_AXIS, Tensor, Traced, Value};
use crate::check;
use crate::graph::ValueId;
use crate::ops::{Broadcast, GatherAssignments, GatherRows, Mul, Undispatch};
use crate::size::Size;
use gatewright_grammar::ast::{FieldKey, FieldValue, Section};
use gatewright_grammar::source::Span;

impl Tracer<'_> {
    /// Sends what arrives through the experts of a section.
    pub(crate) fn experts(
        &mut self,
        frame: &mut Frame,
        section: &Section,
        _name: &str,
        called: &str,
        input: Value,
        span: Span,
    ) -> Traced<Value> {
        let (streams, single) = match input {
            Value::Bundle(streams) => (streams, false),
            Value::Tensor(tensor) => (vec![("tokens".to_owned(), tensor)], true),
            value @ (Value::Absent(_) | Value::Undefined(_)) => return Ok(value),
            other => return self.wrong(span, "tokens", &other),
        };
        if self.expert.is_some() {
            let headline = "experts inside experts are not supported";
            return self.fail(check::operands::report(span, headline));
        }
        let path = match called.strip_prefix('/') {
            Some(path) => path.to_owned(),
            None => frame.scope.enter(called),
        };
        let scope = Scope::at(path);
        let mut inner = Frame {
            scope: scope.clone(),
            ..Frame::default()
        };
        let result = self.located(&mut inner, span, |tracer, _| {
            tracer.pooled(section, &scope, &streams, span)
        })?;
        match (single, result) {
            (true, mut streams) => match streams.pop() {
                Some((_, tensor)) => Ok(Value::Tensor(tensor)),
                None => self.fail(check::no_value::report(span, "no tokens reach the experts")),
            },
            (false, streams) => Ok(Value::Bundle(streams)),
        }
    }

    fn pooled(
        &mut self,
        section: &Section,
        scope: &Scope,
        streams: &[(String, Tensor)],
        span: Span,
    ) -> Traced<Vec<(String, Tensor)>> {
        let router = self.required(section, "router", "gate")?;
        let Some(router_name) = super::parameter::bare(router) else {
            return self.fail(check::bad_setting::report(
                router.span,
                "router",
                "the name of a router",
            ));
        };
        let policy = self.policy(router_name, router.span)?;
        let (pooled, ranges) = self.pool(&policy, streams, span)?;
        let shape = self.shape(&pooled);
        let path = self.instance_path(scope.join(router_name));
        self.origin.path.clone_from(&path);
        let routed = self.route(&policy, path, &pooled, ranges.clone())?;
        self.origin.path.clone_from(&scope.path);
        let rows = self.emit(
            GatherRows {
                rows: routed.rows,
                choices: routed.choices,
            },
            &[pooled.id, routed.plan],
        )?;
        let output = self.expert_body(section, scope, &routed, &pooled, rows)?;
        let weighted = self.weigh(&routed, output)?;
        let back = Undispatch {
            groups: shape[0].clone(),
            tokens: shape[1].clone(),
            choices: routed.choices,
        };
        let combined = self.emit(back, &[weighted, routed.plan])?;
        let combined = Tensor {
            id: combined,
            axes: pooled.axes,
        };
        let mut result = Vec::new();
        for ((name, tensor), (_, start, length)) in streams.iter().zip(ranges) {
            let own = self.slice(&combined, 1, start, length)?;
            let mut shape = self.shape(tensor);
            if let (Some(last), Some(width)) = (shape.last_mut(), self.shape(&own).last()) {
                last.clone_from(width);
            }
            let id = self.reshape(own.id, shape)?;
            result.push((
                name.clone(),
                Tensor {
                    id,
                    axes: tensor.axes.clone(),
                },
            ));
        }
        Ok(result)
    }

    /// A second use of the same weights gets its own name.
    fn instance_path(&self, path: String) -> String {
        let same = |known: &&super::RouterInstance| {
            known.path == path || known.path.starts_with(&format!("{path}@"))
        };
        match self.routers.iter().filter(same).count() {
            0 => path,
            count => format!("{path}@{}", count + 1),
        }
    }

    /// All tokens as `[G, S, D]`: in each group the first stream's tokens, then the next one's.
    #[expect(
        clippy::type_complexity,
        reason = "a pooled tensor and the token range of each stream"
    )]
    fn pool(
        &mut self,
        policy: &Policy,
        streams: &[(String, Tensor)],
        span: Span,
    ) -> Traced<(Tensor, Vec<(String, Size, Size)>)> {
        let mut parts = Vec::new();
        let mut ranges = Vec::new();
        let mut start = Size::from(0);
        for (name, tensor) in streams {
            let part = self.grouped_tokens(policy, tensor, span)?;
            let length = self.shape(&part)[1].clone();
            ranges.push((name.clone(), start.clone(), length.clone()));
            start = start.add(&length);
            parts.push(part);
        }
        let axes = parts
            .first()
            .map(|part| part.axes.clone())
            .unwrap_or_default();
        let first = parts
            .first()
            .map(|part| self.shape(part))
            .unwrap_or_default();
        for part in &parts {
            let shape = self.shape(part);
            if (&shape[0], &shape[2]) != (&first[0], &first[2]) {
                let (left, right) = (self.tensor_text(&parts[0]), self.tensor_text(part));
                return self.fail(check::cannot_align::report(span, &left, &right));
            }
        }
        Ok((self.concat(&parts, 1, axes)?, ranges))
    }

    fn grouped_tokens(&mut self, policy: &Policy, tensor: &Tensor, span: Span) -> Traced<Tensor> {
        let shape = self.shape(tensor);
        let (batch, tokens, width) = match shape.as_slice() {
            [tokens, width] => (Size::from(1), tokens.clone(), width.clone()),
            [batch, tokens, width] => (batch.clone(), tokens.clone(), width.clone()),
            _ => {
                let text = self.tensor_text(tensor);
                let needed = "tokens [B, N, D]";
                return self.fail(check::wrong_kind::report(span, needed, &text));
            }
        };
        let (groups, per_group) = match policy.group {
            Group::Batch => (Size::from(1), batch.mul(&tokens)),
            Group::Sequences(count) => {
                let Some(groups) = batch.div_exact(&Size::from(count)) else {
                    let batch = self.graph.size_text(&batch);
                    let headline = format!("{batch} sequences do not make groups of {count}");
                    let report = check::bad_size::report(span, headline);
                    return self.fail(report.help("give the batch dim a value that divides"));
                };
                (groups, tokens.mul(&Size::from(count)))
            }
        };
        let id = self.reshape(tensor.id, vec![groups, per_group, width])?;
        let last = tensor
            .axes
            .last()
            .cloned()
            .unwrap_or_else(|| Axis::unnamed(span));
        let axes = vec![Axis::unnamed(span), Axis::unnamed(span), last];
        Ok(Tensor { id, axes })
    }

    /// Traces the expert block once over dispatched rows.
    fn expert_body(
        &mut self,
        section: &Section,
        scope: &Scope,
        routed: &Routed,
        pooled: &Tensor,
        rows: ValueId,
    ) -> Traced<ValueId> {
        let expr = self.required(section, "expert", "mlp(hidden: 4 * D)")?;
        let independent = match init_field(section) {
            None | Some("identical") => false,
            Some("independent") => true,
            Some(_) => {
                let forms = "`identical` or `independent`";
                return self.fail(check::bad_setting::report(section.name.span, "init", forms));
            }
        };
        let last = pooled.axes.last().cloned();
        let mut axes = vec![Axis::named(ROWS_AXIS, expr.span)];
        axes.extend(last);
        let tensor = Tensor { id: rows, axes };
        let mut frame = Frame {
            scope: scope.clone(),
            ..Frame::default()
        };
        self.expert = Some(ExpertContext {
            experts: routed.experts,
            rows: routed.rows,
            plan: routed.plan,
            independent,
        });
        let path = scope.join("expert");
        let input = Value::Tensor(tensor.clone());
        let result = self.expert_flow(&mut frame, expr, &path, input);
        self.expert = None;
        match result? {
            Value::Tensor(result)
                if result.axes.len() == 2 && result.position(ROWS_AXIS) == Some(0) =>
            {
                Ok(result.id)
            }
            other => self.wrong(expr.span, "an expert that gives one row per token", &other),
        }
    }

    fn expert_flow(
        &mut self,
        frame: &mut Frame,
        expr: &gatewright_grammar::ast::Expr,
        path: &str,
        input: Value,
    ) -> Traced<Value> {
        use gatewright_grammar::ast::ExprKind;
        if let ExprKind::Pipe(_) = &expr.kind {
            frame.scope = Scope::at(path);
            frame.current = Some(input);
            return self.flow(frame, expr);
        }
        self.apply(frame, expr, Some(path), input)
    }

    /// Rows times their combine weights.
    fn weigh(&mut self, routed: &Routed, rows: ValueId) -> Traced<ValueId> {
        let weight = self.emit(
            GatherAssignments { rows: routed.rows },
            &[routed.weight, routed.plan],
        )?;
        let shape = self.graph.ty(rows).shape.clone();
        let spread = self.emit(
            Broadcast {
                shape,
                axes: vec![0],
            },
            &[weight],
        )?;
        self.emit(Mul {}, &[rows, spread])
    }
}

fn init_field(section: &Section) -> Option<&str> {
    let field = section.fields.iter().find(|field| match &field.key {
        FieldKey::Path(path) => path.to_string() == "init",
        FieldKey::Text(_) => false,
    })?;
    match &field.value {
        FieldValue::Expr(expr) => Some(super::parameter::bare(expr).unwrap_or("")),
        FieldValue::Fields(_) => Some(""),
    }
}
