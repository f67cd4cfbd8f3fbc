//! Experts: the tokens of all streams pooled, routed, dispatched, and given back in place.

use super::names::Scope;
use super::policy::{Choice, Group, Policy};
use super::router::Routed;
use super::tracer::{ExpertContext, Tracer};
use super::value::{Axis, Frame, ROWS_AXIS, Tensor, Traced, Value};
use crate::check;
use crate::graph::ValueId;
use crate::ops::{Add, Broadcast, GatherAssignments, GatherRows, Matmul, Mul, Undispatch};
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
        let counted = match self.masks(&policy, streams, span)? {
            Some(masks) => {
                let (mask, _) = self.pool(&policy, &masks, span)?;
                let shape = self.shape(&pooled);
                Some(self.reshape(mask.id, shape[..2].to_vec())?)
            }
            None => None,
        };
        let path = self.instance_path(scope.join(router_name));
        self.origin.path.clone_from(&path);
        let combined = match policy.choice {
            Choice::Soft(slots) => {
                let ranges = ranges.clone();
                let filled = self.fill_slots(&policy, path, &pooled, slots, ranges, counted)?;
                self.origin.path.clone_from(&scope.path);
                let made = self.sparse(section, scope, &filled.routed, &filled.slots, false)?;
                let product = Matmul {
                    transpose_a: false,
                    transpose_b: false,
                };
                self.emit(product, &[filled.combine, made])?
            }
            Choice::Tokens(_) | Choice::Experts => {
                let routed = self.route(&policy, path, &pooled, ranges.clone(), counted)?;
                self.origin.path.clone_from(&scope.path);
                self.sparse(section, scope, &routed, &pooled, true)?
            }
        };
        let combined = self.add_shared(section, scope, &pooled, combined)?;
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

    /// Tokens `[G, S, D]` through their experts and back in place, weighted or as they are.
    fn sparse(
        &mut self,
        section: &Section,
        scope: &Scope,
        routed: &Routed,
        tokens: &Tensor,
        weighted: bool,
    ) -> Traced<ValueId> {
        let shape = self.shape(tokens);
        let rows = GatherRows {
            rows: routed.rows,
            choices: routed.choices,
        };
        let rows = self.emit(rows, &[tokens.id, routed.plan])?;
        let mut made = self.expert_body(section, scope, routed, tokens, rows)?;
        if weighted {
            made = self.weigh(routed, made)?;
        }
        let back = Undispatch {
            groups: shape[0].clone(),
            tokens: shape[1].clone(),
            choices: routed.choices,
        };
        self.emit(back, &[made, routed.plan])
    }

    /// Adds what the shared expert makes of every token, if one is stated.
    fn add_shared(
        &mut self,
        section: &Section,
        scope: &Scope,
        pooled: &Tensor,
        combined: ValueId,
    ) -> Traced<ValueId> {
        let Some(expr) = self.optional(section, "shared") else {
            return Ok(combined);
        };
        let shape = self.shape(pooled);
        let rows = vec![shape[0].mul(&shape[1]), shape[2].clone()];
        let id = self.reshape(pooled.id, rows.clone())?;
        let axes = vec![Axis::unnamed(expr.span), pooled.axes[2].clone()];
        let mut frame = Frame {
            scope: scope.clone(),
            ..Frame::default()
        };
        let path = scope.join("shared");
        let input = Value::Tensor(Tensor { id, axes });
        let result = match self.expert_flow(&mut frame, expr, &path, input)? {
            Value::Tensor(result) if result.axes.len() == 2 => result,
            other => {
                return self.wrong(expr.span, "an expert that gives one row per token", &other);
            }
        };
        let whole = self.graph.ty(combined).shape.clone();
        if self.shape(&result) != [rows[0].clone(), whole[2].clone()] {
            let found = self.tensor_text(&result);
            let needed = "rows as wide as those of the routed experts";
            return self.fail(check::wrong_kind::report(expr.span, needed, &found));
        }
        let shared = self.reshape(result.id, whole)?;
        self.emit(Add {}, &[combined, shared])
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
