//! Attention and its gradients, weights and all.

use super::*;
use crate::kernel::spec::AttentionResult;
use crate::ops::{HIDDEN, SEES_NONE};

/// The operands of one query and key of a batch and a head.
struct Walk<'a> {
    inputs: &'a [&'a [f64]],
    operands: &'a [Matrix],
    mask: Option<&'a Operand>,
    sizes: [usize; 4],
    width: usize,
    scale: f64,
    causal: bool,
}

pub(super) fn run(
    spec: &KernelSpec,
    inputs: &[&[f64]],
    outputs: &mut [Vec<f64>],
) -> Result<(), String> {
    let KernelSpec::Attention {
        batch: [batch, heads],
        queries,
        keys,
        width,
        scale,
        causal,
        operands,
        mask,
        outputs: results,
    } = spec
    else {
        return Err("no attention".to_owned());
    };
    let walk = Walk {
        inputs,
        operands,
        mask: mask.as_ref(),
        sizes: [*batch, *heads, *queries, *keys],
        width: *width,
        scale: *scale,
        causal: *causal,
    };
    for (output, (result, matrix)) in results.iter().enumerate() {
        for lead in indices(&[*batch, *heads]) {
            let rows = walk.result(*result, [lead[0], lead[1]])?;
            for (row, elements) in rows.iter().enumerate() {
                for (column, value) in elements.iter().enumerate() {
                    let place = place(matrix, [lead[0], lead[1]], row, column);
                    write(outputs, output, place, *value)?;
                }
            }
        }
    }
    Ok(())
}

fn place(matrix: &Matrix, lead: [usize; 2], row: usize, column: usize) -> usize {
    let strides = matrix.batch_strides.iter().zip(lead);
    let lead: usize = strides.map(|(stride, index)| stride * index).sum();
    matrix.offset + lead + row * matrix.row_stride + column * matrix.column_stride
}

impl Walk<'_> {
    fn row(&self, operand: usize, lead: [usize; 2], row: usize) -> Result<Vec<f64>, String> {
        let matrix = &self.operands[operand];
        let element = |column| at(self.inputs[operand], place(matrix, lead, row, column));
        (0..self.width).map(element).collect()
    }

    fn sees(&self, lead: [usize; 2], i: usize, j: usize) -> Result<bool, String> {
        let [_, _, queries, keys] = self.sizes;
        let last = self.inputs.last().copied().unwrap_or_default();
        let shown = match self.mask {
            Some(mask) => at(last, offset(mask, &[lead[0], j]))? != 0.0,
            None => true,
        };
        Ok(shown && !(self.causal && j + queries > i + keys))
    }

    fn logits(&self, lead: [usize; 2], i: usize) -> Result<Vec<f64>, String> {
        let query = self.row(0, lead, i)?;
        let logit = |j| {
            let product = dot(&query, &self.row(1, lead, j)?);
            let sees = self.sees(lead, i, j)?;
            Ok(if sees { self.scale * product } else { HIDDEN })
        };
        (0..self.sizes[3]).map(logit).collect()
    }

    /// All rows of one result for a batch and a head.
    fn result(&self, result: AttentionResult, lead: [usize; 2]) -> Result<Vec<Vec<f64>>, String> {
        let [_, heads, queries, keys] = self.sizes;
        let rows = match result {
            AttentionResult::Keys | AttentionResult::Values => keys,
            _ => queries,
        };
        let width = match result {
            AttentionResult::LogSumExp => 1,
            _ => self.width,
        };
        let mut sums = vec![vec![0.0; width]; rows];
        for i in 0..queries {
            let logits = self.logits(lead, i)?;
            let top = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = logits.iter().map(|x| (x - top).exp()).sum();
            if result == AttentionResult::LogSumExp {
                sums[i][0] = top + total.ln();
                continue;
            }
            if result == AttentionResult::Mixed {
                for (j, logit) in logits.iter().enumerate() {
                    let weight = (logit - top).exp() / total;
                    add(&mut sums[i], weight, &self.row(2, lead, j)?);
                }
                continue;
            }
            let query = (lead[0] * heads + lead[1]) * queries + i;
            let (log_sum_exp, mean) = (at(self.inputs[4], query)?, at(self.inputs[5], query)?);
            let gradient = self.row(3, lead, i)?;
            for (j, logit) in logits.iter().enumerate() {
                let weight = match log_sum_exp < SEES_NONE {
                    true => 1.0 / keys as f64,
                    false => (logit - log_sum_exp).exp(),
                };
                let seen = f64::from(u8::from(self.sees(lead, i, j)?));
                let centred = dot(&gradient, &self.row(2, lead, j)?) - mean;
                let d_logit = seen * self.scale * weight * centred;
                match result {
                    AttentionResult::Queries => add(&mut sums[i], d_logit, &self.row(1, lead, j)?),
                    AttentionResult::Keys => add(&mut sums[j], d_logit, &self.row(0, lead, i)?),
                    _ => add(&mut sums[j], weight, &gradient),
                }
            }
        }
        Ok(sums)
    }
}

fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

fn add(sums: &mut [f64], factor: f64, row: &[f64]) {
    for (sum, x) in sums.iter_mut().zip(row) {
        *sum += factor * x;
    }
}
