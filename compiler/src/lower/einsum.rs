//! `einsum` of one or two operands as one matmul with as few movements as possible.

use super::axes::Reduction;
use super::builtins::Call;
use super::patterns::{pattern, sides};
use super::tracer::Tracer;
use super::value::{Axis, EXPERT_AXIS, Frame, ROWS_AXIS, Tensor, Traced, Value};
use crate::check;
use crate::graph::ValueId;
use crate::ops::{GroupedMatmul, Matmul};
use crate::size::Size;
use gatewright_grammar::source::Span;

/// A tensor whose axes carry the labels of a pattern.
struct Operand {
    tensor: Tensor,
    labels: Vec<String>,
}

impl Tracer<'_> {
    /// `einsum(q: [B H N K], k: [B H M K] -> [B H N M])`.
    pub(crate) fn einsum(&mut self, frame: &mut Frame, call: &Call) -> Traced<Value> {
        let mut operands = Vec::new();
        let mut output = None;
        for arg in call.args {
            let last = sides(&arg.value);
            let own = last
                .as_ref()
                .map(|(from, _)| from.clone())
                .or_else(|| pattern(&arg.value));
            let (Some(name), Some(own)) = (&arg.name, own) else {
                let headline = "write each operand as `name: [axes]`, the last with `-> [axes]`";
                return self.fail(check::bad_pattern::report(arg.value.span, headline));
            };
            output = last.map(|(_, to)| to);
            let tensor = match self.name(frame, &name.value, name.span)? {
                Value::Tensor(tensor) => tensor,
                value @ (Value::Absent(_) | Value::Undefined(_)) => return Ok(value),
                other => return self.wrong(name.span, "a tensor", &other),
            };
            operands.push((tensor, own, arg.value.span));
        }
        let Some(output) = output else {
            return self.fail(check::bad_pattern::report(
                call.span,
                "the result `-> [axes]` is missing",
            ));
        };
        let mut labelled = Vec::new();
        for (tensor, own, span) in operands {
            labelled.push(self.label(tensor, &own, span)?);
        }
        let rest: Vec<String> = labelled
            .iter()
            .map(|operand| {
                operand
                    .labels
                    .iter()
                    .filter(|l| l.starts_with("..."))
                    .cloned()
                    .collect()
            })
            .max_by_key(Vec::len)
            .unwrap_or_default();
        let mut labels = Vec::new();
        for group in &output {
            match group.as_slice() {
                [one] if one == "..." => labels.extend(rest.iter().cloned()),
                [one] => labels.push(one.clone()),
                _ => {
                    return self.fail(check::bad_pattern::report(
                        call.span,
                        "`einsum` joins no axes",
                    ));
                }
            }
        }
        let mut labelled = labelled.into_iter();
        match (labelled.next(), labelled.next(), labelled.next()) {
            (Some(a), None, None) => self.single(a, &labels, call.span).map(Value::Tensor),
            (Some(a), Some(b), None) => self.pair(a, b, &labels, call.span).map(Value::Tensor),
            _ => self.fail(check::bad_pattern::report(
                call.span,
                "`einsum` takes one or two operands",
            )),
        }
    }

    fn label(&mut self, tensor: Tensor, own: &[Vec<String>], span: Span) -> Traced<Operand> {
        // Axes that experts add are not written in patterns.
        let hidden = tensor.is_per_expert();
        let rank = tensor.axes.len() - usize::from(hidden);
        let rest = own.iter().any(|group| group.as_slice() == ["..."]);
        let fixed = own.len() - usize::from(rest);
        if rank < fixed || (!rest && rank != fixed) || own.iter().any(|group| group.len() != 1) {
            let text = self.tensor_text(&tensor);
            let headline = format!("the pattern does not describe {text}");
            return self.fail(check::bad_pattern::report(span, headline));
        }
        let mut labels = Vec::new();
        if hidden {
            labels.push(EXPERT_AXIS.to_owned());
        }
        for group in own {
            if group[0] == "..." {
                let start = labels.len();
                for axis in &tensor.axes[start..start + rank - fixed] {
                    let name = axis
                        .name
                        .clone()
                        .unwrap_or_else(|| labels.len().to_string());
                    labels.push(if name == ROWS_AXIS {
                        name
                    } else {
                        format!("...{name}")
                    });
                }
            } else if labels.contains(&group[0]) {
                let headline = format!("`{}` occurs twice in one operand", group[0]);
                return self.fail(check::bad_pattern::report(span, headline));
            } else {
                labels.push(group[0].clone());
            }
        }
        Ok(Operand { tensor, labels })
    }

    fn single(&mut self, a: Operand, output: &[String], span: Span) -> Traced<Tensor> {
        let a = self.sum_out(a, |label| output.contains(label), span)?;
        self.ordered(a, output, span)
    }

    /// Sums the labels that nothing else needs.
    fn sum_out(
        &mut self,
        a: Operand,
        keep: impl Fn(&String) -> bool,
        span: Span,
    ) -> Traced<Operand> {
        let drop: Vec<usize> = (0..a.labels.len())
            .filter(|index| !keep(&a.labels[*index]))
            .collect();
        if drop.is_empty() {
            return Ok(a);
        }
        let tensor = self.reduce(Reduction::Sum, &a.tensor, &drop, span)?;
        let labels = a.labels.into_iter().filter(|label| keep(label)).collect();
        Ok(Operand { tensor, labels })
    }

    /// The axes in the order of the result, named by their labels.
    fn ordered(&mut self, a: Operand, output: &[String], span: Span) -> Traced<Tensor> {
        let mut output = output.to_vec();
        for hidden in [EXPERT_AXIS, ROWS_AXIS] {
            if a.labels.first().is_some_and(|label| label == hidden)
                && !output.iter().any(|label| label == hidden)
            {
                output.insert(0, hidden.to_owned());
            }
        }
        let order: Option<Vec<usize>> = output
            .iter()
            .map(|label| a.labels.iter().position(|own| own == label))
            .collect();
        let Some(order) = order.filter(|order| order.len() == a.labels.len()) else {
            let headline = "the result names an axis that no operand has";
            return self.fail(check::bad_pattern::report(span, headline));
        };
        let axes = order.iter().map(|index| {
            let label = &a.labels[*index];
            let axis = &a.tensor.axes[*index];
            if label.starts_with("...") {
                axis.clone()
            } else {
                Axis::named(label, axis.span)
            }
        });
        let axes = axes.collect();
        let id = self.transpose(a.tensor.id, order)?;
        Ok(Tensor { id, axes })
    }

    fn pair(&mut self, a: Operand, b: Operand, output: &[String], span: Span) -> Traced<Tensor> {
        self.same_sizes(&a, &b, span)?;
        let (a_labels, b_labels) = (a.labels.clone(), b.labels.clone());
        let hidden = |label: &String| label.starts_with('\'');
        let kept = |label: &String| output.contains(label) || hidden(label);
        let a = self.sum_out(a, |label| b_labels.contains(label) || kept(label), span)?;
        let b = self.sum_out(b, |label| a_labels.contains(label) || kept(label), span)?;
        if a.tensor.position(ROWS_AXIS).is_some() && b.tensor.is_per_expert() {
            return self.grouped(a, b, output, span);
        }
        if b.tensor.position(ROWS_AXIS).is_some() && a.tensor.is_per_expert() {
            return self.grouped(b, a, output, span);
        }
        let in_both = |label: &&String| a.labels.contains(label) && b.labels.contains(label);
        let batch: Vec<String> = a
            .labels
            .iter()
            .filter(in_both)
            .filter(|l| kept(l))
            .cloned()
            .collect();
        let inner: Vec<String> = a
            .labels
            .iter()
            .filter(in_both)
            .filter(|l| !kept(l))
            .cloned()
            .collect();
        let only = |own: &Operand, other: &Operand| -> Vec<String> {
            own.labels
                .iter()
                .filter(|label| !other.labels.contains(label))
                .cloned()
                .collect()
        };
        let (a_free, b_free) = (only(&a, &b), only(&b, &a));
        // The operand whose own axes come first in the result is the left one.
        let place = |labels: &[String]| {
            output
                .iter()
                .position(|label| labels.contains(label))
                .unwrap_or(usize::MAX)
        };
        let swap = place(&b_free) < place(&a_free);
        let (a, b, a_free, b_free) = if swap {
            (b, a, b_free, a_free)
        } else {
            (a, b, a_free, b_free)
        };
        let (left, transpose_a) = self.matrix(&a, &batch, &a_free, &inner)?;
        let (right, b_normal) = self.matrix(&b, &batch, &inner, &b_free)?;
        let op = Matmul {
            transpose_a,
            transpose_b: b_normal,
        };
        let product = self.emit(op, &[left, right])?;
        let mut labels = batch;
        labels.extend(a_free);
        labels.extend(b_free);
        let (shape, axes) = self.labelled(&labels, [&a, &b]);
        let id = self.reshape(product, shape)?;
        self.ordered(
            Operand {
                tensor: Tensor { id, axes },
                labels,
            },
            output,
            span,
        )
    }

    /// `[batch, rows, columns]`, or `[batch, columns, rows]` and true when that is how it lies.
    fn matrix(
        &mut self,
        operand: &Operand,
        batch: &[String],
        rows: &[String],
        columns: &[String],
    ) -> Traced<(ValueId, bool)> {
        let joined = |parts: [&[String]; 3]| -> Vec<String> { parts.concat() };
        let straight = joined([batch, rows, columns]);
        let turned = joined([batch, columns, rows]);
        let transposed = operand.labels == turned && operand.labels != straight;
        let target = if transposed { turned } else { straight };
        let position = |label: &String| operand.labels.iter().position(|own| own == label);
        let order: Vec<usize> = target.iter().filter_map(position).collect();
        let shape = self.shape(&operand.tensor);
        let id = self.transpose(operand.tensor.id, order)?;
        let size =
            |label: &String| position(label).map_or_else(|| Size::from(1), |i| shape[i].clone());
        let product = |labels: &[String]| {
            labels
                .iter()
                .fold(Size::from(1), |all, l| all.mul(&size(l)))
        };
        let mut matrix: Vec<Size> = batch.iter().map(size).collect();
        let (first, second) = if transposed {
            (columns, rows)
        } else {
            (rows, columns)
        };
        matrix.extend([product(first), product(second)]);
        Ok((self.reshape(id, matrix)?, transposed))
    }

    fn labelled(&self, labels: &[String], operands: [&Operand; 2]) -> (Vec<Size>, Vec<Axis>) {
        let find = |label: &String| {
            operands.iter().rev().find_map(|operand| {
                let index = operand.labels.iter().position(|own| own == label)?;
                let size = self.shape(&operand.tensor)[index].clone();
                Some((size, operand.tensor.axes[index].clone()))
            })
        };
        labels.iter().filter_map(find).unzip()
    }

    /// Rows of tokens times each row's expert weight.
    fn grouped(
        &mut self,
        rows: Operand,
        weight: Operand,
        output: &[String],
        span: Span,
    ) -> Traced<Tensor> {
        let Some(expert) = self.expert.clone() else {
            return self.fail(check::operands::report(span, "experts are not traced here"));
        };
        let (Some(inner), 3) = (rows.labels.get(1), weight.labels.len()) else {
            let headline = "inside experts, `einsum` multiplies rows with a matrix";
            return self.fail(check::operands::report(span, headline));
        };
        let transpose = weight.labels[2] == *inner;
        let fits = rows.labels.len() == 2 && (transpose || weight.labels[1] == *inner);
        if !fits {
            let headline = "inside experts, `einsum` multiplies rows with a matrix";
            return self.fail(check::operands::report(span, headline));
        }
        let op = GroupedMatmul { transpose };
        let id = self.emit(op, &[rows.tensor.id, weight.tensor.id, expert.plan])?;
        let outer = if transpose { 1 } else { 2 };
        let axes = vec![
            rows.tensor.axes[0].clone(),
            weight.tensor.axes[outer].clone(),
        ];
        let labels = vec![ROWS_AXIS.to_owned(), weight.labels[outer].clone()];
        self.ordered(
            Operand {
                tensor: Tensor { id, axes },
                labels,
            },
            output,
            span,
        )
    }

    fn same_sizes(&mut self, a: &Operand, b: &Operand, span: Span) -> Traced<()> {
        let (left, right) = (self.shape(&a.tensor), self.shape(&b.tensor));
        for (index, label) in a.labels.iter().enumerate() {
            let Some(other) = b.labels.iter().position(|own| own == label) else {
                continue;
            };
            if left[index] != right[other] {
                let (x, y) = (
                    self.graph.size_text(&left[index]),
                    self.graph.size_text(&right[other]),
                );
                let headline = format!("`{label}` is {x} in one operand and {y} in the other");
                let report = check::bad_pattern::report(span, headline);
                let (from, to) = (a.tensor.axes[index].span, b.tensor.axes[other].span);
                let report = report.also(from, format!("{x} comes from here"));
                return self.fail(report.also(to, format!("{y} comes from here")));
            }
        }
        Ok(())
    }
}
