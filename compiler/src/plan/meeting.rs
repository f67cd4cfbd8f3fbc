//! What goes before the gradients where losses see several batches together: see [`crate::couple`].

use super::assemble::{Assembly, Part, PlanError};
use super::training::Passes;
use super::{Buffer, BufferId, Command, Role};
use crate::couple::{self, Crossing};
use std::collections::BTreeSet;

/// What all batches of a step gave, and the gradients of it.
const WHOLE: &str = "whole batch";
/// A batch's share of those gradients.
const SEEDS: &str = "seeds";

/// The first pass over a batch and the losses over all of them.
pub struct Meeting<'a> {
    /// The first pass.
    pub embed: Part<'a>,
    /// The losses.
    pub whole: Part<'a>,
    /// What goes from the one to the other.
    pub crossings: &'a [Crossing],
    /// Parameters that the losses have gradients of.
    pub shared: &'a [String],
}

impl Meeting<'_> {
    /// The names of what its programs leave each other.
    pub(super) fn names(&self) -> BTreeSet<String> {
        let crossings = self.crossings.iter();
        let crossings = crossings.flat_map(|it| [couple::whole(&it.name), couple::seed(&it.name)]);
        let shared = self.shared.iter().map(|path| couple::seed(path));
        crossings.chain(shared).collect()
    }
}

impl<'a> Assembly<'a> {
    /// Adds the programs before the gradients of the batches of a step.
    pub(super) fn meet(&mut self, meeting: &'a Meeting<'a>) -> Result<Passes, PlanError> {
        self.between.clear();
        let parts = u64::from(self.request.accumulate);
        self.begin(&meeting.embed);
        let mut kept = Vec::new();
        for crossing in meeting.crossings {
            let name = &crossing.name;
            let value = self.output(&meeting.embed, name)?;
            let dtype = meeting.embed.graph.ty(value).dtype;
            let own = meeting.embed.shape(value)?;
            let input = meeting.whole.graph.inputs();
            let all = match input.get(&couple::whole(name)) {
                Some(id) => meeting.whole.shape(*id)?,
                None => continue,
            };
            let mut add = |kind: &str, name: String, shape: &[usize]| {
                let (role, shape) = (Role::Activation, shape.to_vec());
                let id = self.plan.append(kind, &name, role, dtype, shape);
                self.between.insert(name, id);
                id
            };
            let whole = add(WHOLE, couple::whole(name), &all);
            if crossing.seeded {
                add(WHOLE, couple::gradient(name), &all);
                add(SEEDS, couple::seed(name), &own);
            }
            let base = self.base(value);
            kept.push((self.full_buffer_of(base)?, whole));
        }
        self.shared_seeds(meeting)?;
        let commands = self.commands()?;
        let embed = self.program("embed", commands);
        let keep = (0..parts).map(|part| {
            let copies = kept.iter().map(|(from, to)| self.put(*from, *to, part));
            let copies = copies.collect();
            self.program(&format!("keep.{part}"), copies)
        });
        let keep = keep.collect();
        self.begin(&meeting.whole);
        let outputs = self.result_buffers()?;
        let commands = self.commands()?;
        let whole = self.program("whole", commands);
        let seed = (0..parts).map(|part| {
            let seeded = meeting.crossings.iter().filter(|it| it.seeded);
            let copies = seeded.filter_map(|it| {
                let from = self.between.get(&couple::gradient(&it.name))?;
                let to = self.between.get(&couple::seed(&it.name))?;
                Some(self.take(*from, *to, part))
            });
            let copies = copies.collect();
            self.program(&format!("seed.{part}"), copies)
        });
        let seed = seed.collect();
        Ok(Passes {
            embed,
            keep,
            whole,
            outputs,
            seed,
        })
    }

    /// Room for the gradients of parameters that the losses read.
    fn shared_seeds(&mut self, meeting: &Meeting) -> Result<(), PlanError> {
        let parameters = meeting.whole.graph.parameters();
        for path in meeting.shared {
            let Some(id) = parameters.get(path) else {
                continue;
            };
            let (name, shape) = (couple::seed(path), meeting.whole.shape(*id)?);
            let dtype = meeting.whole.graph.ty(*id).dtype;
            let seed = self
                .plan
                .append(SEEDS, &name, Role::Activation, dtype, shape);
            self.between.insert(name, seed);
        }
        Ok(())
    }

    fn output(&self, part: &Part, name: &str) -> Result<crate::graph::ValueId, PlanError> {
        let output = part.graph.output(name);
        output.map(|output| output.value).ok_or_else(|| PlanError {
            path: name.to_owned(),
            message: "is not computed".to_owned(),
        })
    }

    /// Copies a buffer to its part of a longer one.
    fn put(&self, from: BufferId, to: BufferId, part: u64) -> Command {
        let bytes = self.value_bytes(from);
        Command::CopyRange {
            from,
            from_offset: 0,
            to,
            to_offset: part * bytes,
            bytes,
        }
    }

    /// Copies a buffer from its part of a longer one.
    fn take(&self, from: BufferId, to: BufferId, part: u64) -> Command {
        let bytes = self.value_bytes(to);
        Command::CopyRange {
            from,
            from_offset: part * bytes,
            to,
            to_offset: 0,
            bytes,
        }
    }

    fn value_bytes(&self, id: BufferId) -> u64 {
        let buffer: &Buffer = &self.plan.buffers[id.0 as usize];
        4 * buffer.shape.iter().product::<usize>() as u64
    }
}
