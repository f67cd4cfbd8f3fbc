//! Routing and grouped contractions.

use super::*;
use crate::ops::Priority;

pub(super) fn run(
    spec: &KernelSpec,
    inputs: &[&[f64]],
    outputs: &mut [Vec<f64>],
) -> Result<(), String> {
    match spec {
        KernelSpec::TopK {
            tokens,
            experts,
            k,
            values,
        } => {
            for token in 0..*tokens {
                let scores = &inputs[0][token * experts..(token + 1) * experts];
                for (choice, expert) in largest(scores, *k).into_iter().enumerate() {
                    write(outputs, 0, token * k + choice, expert as f64)?;
                    if *values {
                        write(outputs, 1, token * k + choice, scores[expert])?;
                    }
                }
            }
            Ok(())
        }
        KernelSpec::RouteScores {
            tokens,
            width,
            experts,
            k,
            noise,
            wanted,
        } => {
            let sizes = [*tokens, *width, *experts, *k];
            route(sizes, *noise, *wanted, inputs, outputs)
        }
        KernelSpec::Dispatch {
            groups,
            tokens,
            routing,
            layout,
        } => {
            let slots = queue(*groups, *tokens, routing, inputs);
            let capacity = routing.slots(*tokens);
            outputs[0] = plan(
                *groups, *tokens, routing, layout, inputs[0], &slots, capacity,
            );
            Ok(())
        }
        KernelSpec::DispatchSlot {
            groups,
            tokens,
            routing,
        } => {
            outputs[0] = queue(*groups, *tokens, routing, inputs)
                .iter()
                .map(|s| *s as f64)
                .collect();
            Ok(())
        }
        KernelSpec::GroupedMatmul {
            layout,
            n,
            k,
            transpose,
            gather,
            inputs: extra,
            program,
            outputs: stores,
            experts,
            packed,
        } => {
            let sizes = [*n, *k];
            let further = experts.len().saturating_sub(1);
            let parts = [1].into_iter().chain(3..3 + further);
            let parts = parts.map(|it| unpacked(packed.as_ref(), inputs[it]));
            let weight: Vec<f64> = parts.flat_map(Cow::into_owned).collect();
            let mut all = vec![inputs[0], &weight[..], inputs[2]];
            all.extend(&inputs[3 + further..]);
            let inputs = &all[..];
            grouped(
                layout,
                sizes,
                [*transpose, *gather],
                extra,
                program,
                stores,
                inputs,
                outputs,
            )
        }
        KernelSpec::GroupedOuter {
            layout,
            m,
            n,
            gather_a,
            sums,
            part,
        } => {
            let [first, count] = part.unwrap_or([0, layout.experts]);
            outputs[0] = vec![0.0; count * m * n];
            if *sums {
                outputs[1] = expert_sums(layout, *n, inputs[1], inputs[2])?;
            }
            let here = first..first + count;
            for (expert, row) in used_rows(layout, inputs[2]) {
                if !here.contains(&expert) {
                    continue;
                }
                let expert = expert - first;
                let left = row_start(layout, inputs[2], row, *gather_a) * m;
                for (i, j) in (0..*m).flat_map(|i| (0..*n).map(move |j| (i, j))) {
                    outputs[0][(expert * m + i) * n + j] +=
                        at(inputs[0], left + i)? * at(inputs[1], row * n + j)?;
                }
            }
            Ok(())
        }
        KernelSpec::ExpertSum { layout, n } => {
            outputs[0] = expert_sums(layout, *n, inputs[0], inputs[1])?;
            Ok(())
        }
        KernelSpec::ScatterAdd { count, width, size } => {
            outputs[0] = vec![0.0; size * width];
            for row in 0..*count {
                let target = inputs[1][row] as usize;
                for column in 0..*width {
                    outputs[0][target * width + column] += inputs[0][row * width + column];
                }
            }
            Ok(())
        }
        KernelSpec::RowsWhere { count, most } => {
            let shown = (0..*count).filter(|row| inputs[0][*row] != 0.0);
            outputs[0] = shown.map(|row| row as f64).take(*most).collect();
            outputs[0].resize(*most, 0.0);
            Ok(())
        }
        KernelSpec::WriteRow {
            sizes: [batch, blocks, rows, width],
            ..
        } => {
            outputs[0] = inputs[0].to_vec();
            for block in 0..batch * blocks {
                let place = at(inputs[2], block / blocks)? as usize;
                if place >= *rows {
                    continue;
                }
                let from = block * width;
                let to = (block * rows + place) * width;
                outputs[0][to..to + width].copy_from_slice(&inputs[1][from..from + width]);
            }
            Ok(())
        }
        _ => Err("this family has no interpretation".to_owned()),
    }
}

/// Sums `[experts, n]` of the used rows of each expert.
fn expert_sums(
    layout: &DispatchLayout,
    n: usize,
    rows: &[f64],
    plan: &[f64],
) -> Result<Vec<f64>, String> {
    let mut sums = vec![0.0; layout.experts * n];
    for (expert, row) in used_rows(layout, plan) {
        for column in 0..n {
            sums[expert * n + column] += at(rows, row * n + column)?;
        }
    }
    Ok(sums)
}

/// Indices of the k largest, largest first, ties to the lower index.
fn largest(scores: &[f64], k: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b)));
    order.truncate(k);
    order
}

fn route(
    [tokens, width, experts, k]: [usize; 4],
    noise: Option<f64>,
    wanted: [bool; 5],
    inputs: &[&[f64]],
    outputs: &mut [Vec<f64>],
) -> Result<(), String> {
    for token in 0..tokens {
        let logit = |expert: usize| -> f64 {
            (0..width)
                .map(|i| inputs[0][token * width + i] * inputs[1][i * experts + expert])
                .sum()
        };
        let logits: Vec<f64> = (0..experts).map(logit).collect();
        let routed: Vec<f64> = (0..experts)
            .map(|e| {
                logits[e] + noise.map_or(0.0, |factor| factor * inputs[2][token * experts + e])
            })
            .collect();
        let max = routed.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = routed.iter().map(|z| (z - max).exp()).sum();
        let probs: Vec<f64> = routed.iter().map(|z| (z - max).exp() / sum).collect();
        let chosen = largest(&probs, k);
        let indices: Vec<f64> = chosen.iter().map(|e| *e as f64).collect();
        let weights: Vec<f64> = chosen.iter().map(|e| probs[*e]).collect();
        let results = [&logits, &routed, &probs, &indices, &weights];
        let stored = results
            .into_iter()
            .zip(wanted)
            .filter(|(_, wanted)| *wanted);
        for (output, (result, _)) in stored.enumerate() {
            for (column, value) in result.iter().enumerate() {
                write(outputs, output, token * result.len() + column, *value)?;
            }
        }
    }
    Ok(())
}

/// Position of every assignment in its expert's queue, counted past the capacity.
fn queue(groups: usize, tokens: usize, routing: &Routing, inputs: &[&[f64]]) -> Vec<usize> {
    let k = routing.choices;
    let mut slots = vec![0; groups * tokens * k];
    for group in 0..groups {
        let start = group * tokens;
        let mut count = vec![0; routing.experts];
        for choice in 0..k {
            let key = match routing.priority {
                Priority::Assignment => choice,
                Priority::Batch | Priority::Index => 0,
            };
            let mut order: Vec<usize> = (0..tokens).collect();
            if routing.priority != Priority::Index {
                let weight = |token: usize| inputs[1][(start + token) * k + key];
                order.sort_by(|a, b| weight(*b).total_cmp(&weight(*a)).then(a.cmp(b)));
            }
            for token in order {
                let assignment = (start + token) * k + choice;
                slots[assignment] = NONE as usize;
                if let Some(count) = count.get_mut(inputs[0][assignment] as usize) {
                    slots[assignment] = *count;
                    *count += 1;
                }
            }
        }
    }
    slots
}

fn plan(
    groups: usize,
    tokens: usize,
    routing: &Routing,
    layout: &DispatchLayout,
    experts: &[f64],
    slots: &[usize],
    capacity: usize,
) -> Vec<f64> {
    let none = f64::from(NONE);
    let mut words = vec![none; layout.words()];
    let mut row = 0;
    for expert in 0..routing.experts {
        words[layout.segment() + expert] = row as f64;
        let first = row;
        // By group, then by choice, then by token.
        let choices = routing.choices;
        let order = (0..groups).flat_map(|group| {
            (0..choices).flat_map(move |choice| {
                (0..tokens).map(move |token| (group * tokens + token) * choices + choice)
            })
        });
        for assignment in order {
            if experts[assignment] as usize == expert && slots[assignment] < capacity {
                words[layout.row_source() + row] = assignment as f64;
                words[layout.assignment_row() + assignment] = row as f64;
                row += 1;
            }
        }
        words[layout.used() + expert] = (row - first) as f64;
        let end = row.div_ceil(layout.tile) * layout.tile;
        for block in first / layout.tile..end / layout.tile {
            words[layout.block_expert() + block] = expert as f64;
        }
        row = end;
    }
    words[layout.segment() + routing.experts] = row as f64;
    words
}

fn used_rows(layout: &DispatchLayout, plan: &[f64]) -> Vec<(usize, usize)> {
    let mut rows = Vec::new();
    for expert in 0..layout.experts {
        let first = plan[layout.segment() + expert] as usize;
        let used = plan[layout.used() + expert] as usize;
        rows.extend((first..first + used).map(|row| (expert, row)));
    }
    rows
}

/// The row of the left operand: dispatched rows lie as they are, token rows behind the plan.
fn row_start(layout: &DispatchLayout, plan: &[f64], row: usize, gather: bool) -> usize {
    if gather {
        plan[layout.row_source() + row] as usize / layout.choices
    } else {
        row
    }
}

#[expect(clippy::too_many_arguments, reason = "the fields of one spec")]
fn grouped(
    layout: &DispatchLayout,
    [n, k]: [usize; 2],
    [transpose, gather]: [bool; 2],
    extra: &[(RowAddress, Operand)],
    program: &Program,
    stores: &[Store],
    inputs: &[&[f64]],
    outputs: &mut [Vec<f64>],
) -> Result<(), String> {
    let plan = inputs[2];
    let operands: Vec<Operand> = extra.iter().map(|(_, operand)| operand.clone()).collect();
    for block in 0..layout.rows / layout.tile {
        let expert = plan[layout.block_expert() + block];
        if expert == f64::from(NONE) {
            continue;
        }
        for row in block * layout.tile..(block + 1) * layout.tile {
            let unused = plan[layout.row_source() + row] == f64::from(NONE);
            let start = row_start(layout, plan, row, gather && !unused) * k;
            for column in 0..n {
                let mut sum = 0.0;
                for step in 0..k {
                    let weight = match transpose {
                        false => (expert as usize * k + step) * n + column,
                        true => (expert as usize * n + column) * k + step,
                    };
                    let left = if gather && unused {
                        0.0
                    } else {
                        at(inputs[0], start + step)?
                    };
                    sum += left * at(inputs[1], weight)?;
                }
                let mut values = Vec::new();
                for id in 0..program.instrs.len() {
                    let value = match &program.instrs[id] {
                        Instr::Load { input } => {
                            let place = match extra[*input].0 {
                                RowAddress::Row => row,
                                RowAddress::Expert => expert as usize,
                                RowAddress::Assignment => plan[layout.row_source() + row] as usize,
                            };
                            let zero = unused && extra[*input].0 == RowAddress::Assignment;
                            let buffer = inputs[3 + input];
                            if zero {
                                0.0
                            } else {
                                at(buffer, offset(&operands[*input], &[place, column]))?
                            }
                        }
                        _ => {
                            let point = Point {
                                index: &[row, column],
                                element: (row * n + column) as u64,
                                accumulator: sum,
                                draws: Draws::default(),
                            };
                            instruction(program, id, &values, &operands, &inputs[3..], &point)?
                        }
                    };
                    values.push(value);
                }
                for (output, store) in stores.iter().enumerate() {
                    let place = offset(&store.operand, &[row, column]);
                    write(outputs, output, place, values[store.value])?;
                }
            }
        }
    }
    Ok(())
}
