//! Service order and the evaluator's routing plan.
//!
//! The plan of n assignments and R rows is `[row of assignment; n]` (R when dropped), then
//! `[assignment of row; R]` (n when unused), then `[expert of row; R]` (E when unused). Devices
//! lay theirs out otherwise: a plan is read by its companion ops only.

use super::*;

/// The position of an assignment to no expert: behind every capacity, also on devices.
const NOT_SERVED: usize = u32::MAX as usize;

/// Positions in the expert queues, in assignment order; `shape` is [G, S, k].
pub(super) fn positions(
    routing: &Routing,
    experts: &Tensor,
    weights: &Tensor,
) -> Result<Vec<usize>, OpError> {
    let [groups, tokens, choices] = exactly(&experts.shape)?;
    let mut positions = vec![0; experts.data.len()];
    for group in 0..groups {
        let first = group * tokens;
        let mut count = vec![0; routing.experts];
        for choice in 0..choices {
            let key = match routing.priority {
                Priority::Assignment => choice,
                Priority::Batch | Priority::Index => 0,
            };
            let order = service_order(routing.priority, tokens, |token| {
                weights.data[(first + token) * choices + key]
            });
            for token in order {
                let assignment = (first + token) * choices + choice;
                positions[assignment] = NOT_SERVED;
                if let Some(count) = count.get_mut(experts.data[assignment] as usize) {
                    positions[assignment] = *count;
                    *count += 1;
                }
            }
        }
    }
    Ok(positions)
}

/// Tokens of one group in the order they are served. NaN weights come last.
fn service_order(priority: Priority, tokens: usize, weight: impl Fn(usize) -> f64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..tokens).collect();
    if priority != Priority::Index {
        order.sort_by(|a, b| descending(weight(*a), weight(*b)));
    }
    order
}

/// Builds the plan of `rows` rows: expert-major, inside an expert by (group, slot).
pub(super) fn plan(
    routing: &Routing,
    rows: usize,
    experts: &Tensor,
    weights: &Tensor,
) -> Result<Vec<f64>, OpError> {
    let [_, tokens, choices] = exactly(&experts.shape)?;
    let slots = routing.slots(tokens);
    let assignments = experts.data.len();
    // (expert, group, slot, assignment) of every kept assignment.
    let mut kept: Vec<(usize, usize, usize, usize)> = positions(routing, experts, weights)?
        .into_iter()
        .enumerate()
        .filter(|(_, slot)| *slot < slots.min(NOT_SERVED))
        .map(|(a, slot)| (experts.data[a] as usize, a / (tokens * choices), slot, a))
        .collect();
    kept.sort_unstable();
    if kept.len() > rows {
        let message = format!("{} kept assignments exceed {rows} rows", kept.len());
        return Err(OpError::new(message, [0]));
    }
    let mut plan = vec![rows as f64; assignments];
    plan.resize(assignments + rows, assignments as f64);
    plan.resize(assignments + 2 * rows, routing.experts as f64);
    for (row, (expert, _, _, assignment)) in kept.into_iter().enumerate() {
        plan[assignment] = row as f64;
        plan[assignments + row] = assignment as f64;
        plan[assignments + rows + row] = expert as f64;
    }
    Ok(plan)
}

/// The parts of a plan.
pub(super) struct Plan<'a> {
    row_of: &'a [f64],
    assignment_of: &'a [f64],
    expert_of: &'a [f64],
}

impl<'a> Plan<'a> {
    /// Reads the plan of `rows` rows.
    pub(super) fn read(plan: &'a Tensor, rows: usize) -> Result<Self, OpError> {
        let assignments = plan
            .data
            .len()
            .checked_sub(2 * rows)
            .ok_or_else(|| OpError::new(format!("a plan of other rows than {rows}"), []))?;
        let (row_of, rest) = plan.data.split_at(assignments);
        let (assignment_of, expert_of) = rest.split_at(rows);
        Ok(Self {
            row_of,
            assignment_of,
            expert_of,
        })
    }

    /// Number of assignments, kept or not.
    pub(super) fn assignments(&self) -> usize {
        self.row_of.len()
    }

    /// The row that an assignment takes.
    pub(super) fn row(&self, assignment: usize) -> Option<usize> {
        let row = self.row_of[assignment] as usize;
        (row < self.assignment_of.len()).then_some(row)
    }

    /// The assignment in a row.
    pub(super) fn assignment(&self, row: usize) -> Option<usize> {
        let assignment = self.assignment_of[row] as usize;
        (assignment < self.row_of.len()).then_some(assignment)
    }

    /// The expert of a row of an op over `experts` experts.
    pub(super) fn expert(&self, row: usize, experts: usize) -> Option<usize> {
        let expert = self.expert_of[row] as usize;
        (self.assignment(row).is_some() && expert < experts).then_some(expert)
    }
}
