//! The update rules in f64: the oracle of the update kernels, and what `--device reference` runs.

use crate::train::Update;
use gatewright_compiler::optimizer::{Optimizer, Rule};
use gatewright_compiler::tensor::{Tensor, row_major_strides};
use std::collections::BTreeMap;

/// Optimiser state by parameter path.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// Updates that each parameter has had: one without a gradient rests.
    updates: BTreeMap<String, u64>,
    first: BTreeMap<String, Vec<f64>>,
    second: BTreeMap<String, Vec<f64>>,
    rows: BTreeMap<String, Vec<f64>>,
    columns: BTreeMap<String, Vec<f64>>,
}

impl State {
    /// One update of all trained parameters that have a gradient.
    pub fn step(
        &mut self,
        optimizer: &Optimizer,
        update: &Update,
        step: u64,
        parameters: &mut BTreeMap<String, Tensor>,
        mut gradients: BTreeMap<String, Tensor>,
    ) {
        gradients.retain(|path, _| optimizer.trained.contains(path));
        clip(optimizer.clip, &mut gradients);
        for (path, gradient) in &gradients {
            let Some(parameter) = parameters.get_mut(path) else {
                continue;
            };
            let updates = self.updates.entry(path.clone()).or_default();
            let scalars = update.scalars_after(step, *updates);
            *updates += 1;
            let direction = self.direction(&optimizer.rule, &scalars, path, gradient);
            let decayed = optimizer.decayed.contains(path);
            let decay = if decayed { scalars.decay } else { 0.0 };
            for (value, direction) in parameter.data.iter_mut().zip(direction) {
                *value -= scalars.rate * direction + decay * *value;
            }
        }
    }

    fn direction(
        &mut self,
        rule: &Rule,
        scalars: &Scalars,
        path: &str,
        gradient: &Tensor,
    ) -> Vec<f64> {
        let g = &gradient.data;
        match rule {
            Rule::AdamW { beta1, beta2, eps } => {
                let m = blend(&mut self.first, path, *beta1, g.iter().copied());
                let v = blend(&mut self.second, path, *beta2, g.iter().map(|g| g * g));
                let root = |v: f64| (v / scalars.correction2).sqrt() + eps;
                m.iter()
                    .zip(&v)
                    .map(|(m, v)| m / scalars.correction1 / root(*v))
                    .collect()
            }
            Rule::Lion { beta1, beta2 } => {
                let zero = vec![0.0; g.len()];
                let old = self.first.get(path).cloned().unwrap_or(zero);
                blend(&mut self.first, path, *beta2, g.iter().copied());
                let mixed = old
                    .iter()
                    .zip(g)
                    .map(|(m, g)| beta1 * m + (1.0 - beta1) * g);
                mixed
                    .map(|c| if c == 0.0 { 0.0 } else { c.signum() })
                    .collect()
            }
            Rule::Sgd { momentum } => {
                let m = self
                    .first
                    .entry(path.to_owned())
                    .or_insert_with(|| vec![0.0; g.len()]);
                m.iter_mut()
                    .zip(g)
                    .for_each(|(m, g)| *m = momentum * *m + g);
                m.clone()
            }
            Rule::Adafactor {
                momentum,
                eps,
                min_factored,
                ..
            } => {
                let scaled = self.scaled(path, gradient, scalars.beta2, *eps, *min_factored);
                blend(&mut self.first, path, *momentum, scaled.into_iter())
            }
        }
    }

    /// The gradient over the root of its second moment, factored where the two largest axes allow.
    fn scaled(
        &mut self,
        path: &str,
        gradient: &Tensor,
        beta2: f64,
        eps: f64,
        least: usize,
    ) -> Vec<f64> {
        let squares: Vec<f64> = gradient.data.iter().map(|g| g * g + eps).collect();
        let shape = &gradient.shape;
        let mut order: Vec<usize> = (0..shape.len()).collect();
        order.sort_by_key(|axis| shape[*axis]);
        let axes = match order.as_slice() {
            [.., d1, d0] if shape[*d1] >= least => Some((*d1, *d0)),
            _ => None,
        };
        let Some((d1, d0)) = axes else {
            let v = blend(&mut self.second, path, beta2, squares.into_iter());
            return gradient
                .data
                .iter()
                .zip(v)
                .map(|(g, v)| g / v.sqrt())
                .collect();
        };
        let over = |axis: usize, values: &[f64]| mean_over(shape, axis, values);
        let r = blend(&mut self.rows, path, beta2, over(d0, &squares).into_iter());
        let c = blend(
            &mut self.columns,
            path,
            beta2,
            over(d1, &squares).into_iter(),
        );
        let mean = over(d1, &r);
        let each = gradient.data.iter().zip(r.iter().zip(mean)).zip(c);
        each.map(|((g, (r, mean)), c)| g / (r / mean).sqrt() / c.sqrt())
            .collect()
    }
}

/// Mean along one axis, repeated along it.
fn mean_over(shape: &[usize], axis: usize, values: &[f64]) -> Vec<f64> {
    let stride = row_major_strides(shape)[axis];
    let size = shape[axis];
    let line = |index: usize| index - (index / stride % size) * stride;
    let mut sums = vec![0.0; values.len()];
    for (index, value) in values.iter().enumerate() {
        sums[line(index)] += value;
    }
    (0..values.len())
        .map(|index| sums[line(index)] / size as f64)
        .collect()
}

/// `decay * old + (1 - decay) * new`, kept as the new state.
fn blend(
    states: &mut BTreeMap<String, Vec<f64>>,
    path: &str,
    decay: f64,
    new: impl ExactSizeIterator<Item = f64>,
) -> Vec<f64> {
    let state = states
        .entry(path.to_owned())
        .or_insert_with(|| vec![0.0; new.len()]);
    state
        .iter_mut()
        .zip(new)
        .for_each(|(old, new)| *old = decay * *old + (1.0 - decay) * new);
    state.clone()
}

fn clip(limit: Option<f64>, gradients: &mut BTreeMap<String, Tensor>) {
    let Some(limit) = limit else { return };
    let squares = gradients
        .values()
        .flat_map(|tensor| &tensor.data)
        .map(|g| g * g);
    let norm = squares.sum::<f64>().sqrt();
    let factor = if norm > limit { limit / norm } else { 1.0 };
    let all = gradients.values_mut().flat_map(|tensor| &mut tensor.data);
    all.for_each(|g| *g *= factor);
}

/// The scalars of one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scalars {
    /// Learning rate.
    pub rate: f64,
    /// 1 - beta1^t.
    pub correction1: f64,
    /// 1 - beta2^t.
    pub correction2: f64,
    /// beta2 of this step (Adafactor).
    pub beta2: f64,
    /// Factor of a decayed parameter.
    pub decay: f64,
}
