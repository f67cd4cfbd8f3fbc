//! `rearrange`: split, permute and join axes by pattern.

use super::builtins::Call;
use super::tracer::Tracer;
use super::value::{Axis, Frame, Tensor, Traced, Value};
use crate::check;
use crate::size::Size;
use gatewright_grammar::ast::{AxisGroup, Expr, ExprKind};
use gatewright_grammar::source::Span;

/// One axis of a pattern: its parts, outermost first; one part unless it is a group.
pub(crate) type Pattern = Vec<Vec<String>>;

/// The pattern of `[B (Y p) C]`, which reads as a list when it has one name.
pub(crate) fn pattern(expr: &Expr) -> Option<Pattern> {
    match &expr.kind {
        ExprKind::Axes(groups) => {
            let group = |group: &AxisGroup| match group {
                AxisGroup::Axis(name) => vec![name.value.clone()],
                AxisGroup::Group(names, _) => names.iter().map(|name| name.value.clone()).collect(),
            };
            Some(groups.iter().map(group).collect())
        }
        ExprKind::List(items) => items
            .iter()
            .map(|item| Some(vec![super::parameter::bare(item)?.to_owned()]))
            .collect(),
        _ => None,
    }
}

/// Both sides of `[..] -> [..]`.
pub(crate) fn sides(expr: &Expr) -> Option<(Pattern, Pattern)> {
    let ExprKind::Pipe(steps) = &expr.kind else {
        return None;
    };
    match steps.as_slice() {
        [from, to] => Some((pattern(&from.expr)?, pattern(&to.expr)?)),
        _ => None,
    }
}

/// A part of an axis with its size and its place in the caller's axes.
#[derive(Clone)]
struct Part {
    name: String,
    size: Size,
    axis: Axis,
}

impl Tracer<'_> {
    /// `rearrange(x: [B (Y p) (X q) C] -> [B (Y X) (p q C)], p: 8, q: 8)`.
    pub(crate) fn rearrange(&mut self, frame: &mut Frame, call: &Call) -> Traced<Value> {
        let Some((arg, expr)) = call
            .args
            .iter()
            .find_map(|arg| Some((arg, sides(&arg.value)?)))
        else {
            return self.fail(check::bad_pattern::report(
                call.span,
                "`rearrange` needs `[…] -> […]`",
            ));
        };
        let value = match (&arg.name, &call.piped) {
            (Some(name), _) => self.name(frame, &name.value, name.span)?,
            (None, Some(piped)) => piped.clone(),
            (None, None) => {
                return self.fail(check::no_value::report(call.span, "nothing to rearrange"));
            }
        };
        let mut known = Vec::new();
        for other in call.args.iter().filter(|other| !std::ptr::eq(*other, arg)) {
            if let Some(name) = &other.name {
                let (size, _) = self.size(frame, &other.value)?;
                known.push((name.value.clone(), size));
            }
        }
        let at = arg.value.span;
        self.map_tensors(value, at, |tracer, tensor| {
            tracer.rearrange_tensor(frame, tensor, &expr, &known, at)
        })
    }

    fn rearrange_tensor(
        &mut self,
        frame: &mut Frame,
        tensor: &Tensor,
        (from, to): &(Pattern, Pattern),
        known: &[(String, Size)],
        span: Span,
    ) -> Traced<Tensor> {
        let parts = self.split_parts(frame, tensor, from, known, span)?;
        let split: Vec<Size> = parts.iter().map(|part| part.size.clone()).collect();
        let id = self.reshape(tensor.id, split)?;
        let (mut order, mut shape, mut axes) = (Vec::new(), Vec::new(), Vec::new());
        for group in to {
            let mut size = Size::from(1);
            let mut last = Axis::unnamed(span);
            for name in group {
                let found: Vec<usize> = if name == "..." {
                    (0..parts.len())
                        .filter(|index| parts[*index].name.starts_with("..."))
                        .collect()
                } else if name == "1" {
                    Vec::new()
                } else {
                    let Some(index) = parts.iter().position(|part| part.name == *name) else {
                        let headline = format!("`{name}` is not on the left side of the pattern");
                        return self.fail(check::bad_pattern::report(span, headline));
                    };
                    vec![index]
                };
                for index in found {
                    if name == "..." && group.len() == 1 {
                        shape.push(parts[index].size.clone());
                        axes.push(parts[index].axis.clone());
                    } else {
                        size = size.mul(&parts[index].size);
                    }
                    last = parts[index].axis.clone();
                    order.push(index);
                }
            }
            if group.len() == 1 && group[0] == "..." {
                continue;
            }
            let single = group.len() == 1 && group[0] != "1";
            axes.push(if single { last } else { Axis::unnamed(span) });
            shape.push(size);
        }
        let mut seen = order.clone();
        seen.sort_unstable();
        if seen != (0..parts.len()).collect::<Vec<_>>() {
            let headline = "each axis of the left side must occur once on the right side";
            return self.fail(check::bad_pattern::report(span, headline));
        }
        let id = self.transpose(id, order)?;
        let id = self.reshape(id, shape)?;
        Ok(Tensor { id, axes })
    }

    fn split_parts(
        &mut self,
        frame: &mut Frame,
        tensor: &Tensor,
        from: &Pattern,
        known: &[(String, Size)],
        span: Span,
    ) -> Traced<Vec<Part>> {
        let shape = self.shape(tensor);
        let rest = from
            .iter()
            .position(|group| group.len() == 1 && group[0] == "...");
        let fixed = from.len() - usize::from(rest.is_some());
        if tensor.axes.len() < fixed || (rest.is_none() && tensor.axes.len() != fixed) {
            let text = self.tensor_text(tensor);
            let headline = format!("the pattern has {fixed} axes, but {text} arrives");
            return self.fail(check::bad_pattern::report(span, headline));
        }
        let extra = tensor.axes.len() - fixed;
        let mut parts = Vec::new();
        let mut position = 0;
        for group in from {
            if group.len() == 1 && group[0] == "..." {
                for index in 0..extra {
                    let (size, axis) = (shape[position].clone(), tensor.axes[position].clone());
                    parts.push(Part {
                        name: format!("...{index}"),
                        size,
                        axis,
                    });
                    position += 1;
                }
                continue;
            }
            let (size, axis) = (shape[position].clone(), tensor.axes[position].clone());
            position += 1;
            self.split_group(frame, group, (&size, &axis), known, span, &mut parts)?;
        }
        Ok(parts)
    }

    fn split_group(
        &mut self,
        frame: &mut Frame,
        group: &[String],
        (size, axis): (&Size, &Axis),
        known: &[(String, Size)],
        span: Span,
        parts: &mut Vec<Part>,
    ) -> Traced<()> {
        if let [name] = group {
            let axis = Axis {
                name: Some(name.clone()),
                span: axis.span,
            };
            parts.push(Part {
                name: name.clone(),
                size: size.clone(),
                axis,
            });
            return Ok(());
        }
        let mut sizes: Vec<Option<Size>> = Vec::new();
        for name in group {
            let given = known
                .iter()
                .find(|(known, _)| known == name)
                .map(|(_, size)| size.clone());
            let local = frame.local(name).and_then(|local| local.size.clone());
            sizes.push(given.or(local));
        }
        let product = sizes
            .iter()
            .flatten()
            .fold(Size::from(1), |all, size| all.mul(size));
        let open: Vec<usize> = (0..sizes.len())
            .filter(|index| sizes[*index].is_none())
            .collect();
        let quotient = size.div_exact(&product);
        match (open.as_slice(), quotient) {
            ([], Some(one)) if one.is_one() => {}
            ([index], Some(quotient)) => sizes[*index] = Some(quotient),
            _ => {
                let size = self.graph.size_text(size);
                let product = self.graph.size_text(&product);
                let headline = if open.len() > 1 {
                    format!("`({})` needs all sizes but one", group.join(" "))
                } else {
                    format!("an axis of {size} cannot be split by {product}")
                };
                return self.fail(check::bad_pattern::report(span, headline));
            }
        }
        for (name, size) in group.iter().zip(sizes.into_iter().flatten()) {
            let axis = Axis {
                name: Some(name.clone()),
                span: axis.span,
            };
            parts.push(Part {
                name: name.clone(),
                size,
                axis,
            });
        }
        Ok(())
    }

    /// Applies something to a tensor or to every stream of a bundle.
    pub(crate) fn map_tensors(
        &mut self,
        value: Value,
        span: Span,
        mut run: impl FnMut(&mut Self, &Tensor) -> Traced<Tensor>,
    ) -> Traced<Value> {
        match value {
            Value::Tensor(tensor) => run(self, &tensor).map(Value::Tensor),
            Value::Bundle(streams) => {
                let mut result = Vec::new();
                for (name, tensor) in streams {
                    result.push((name, run(self, &tensor)?));
                }
                Ok(Value::Bundle(result))
            }
            value @ (Value::Absent(_) | Value::Undefined(_)) => Ok(value),
            other => self.wrong(span, "a tensor", &other),
        }
    }
}
