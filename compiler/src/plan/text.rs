//! The plan as text, for reading; JSON is the form that is read back.
//!
//! ```text
//! arena parameters: 768 bytes
//! program forward
//!     trunk_norm_row [1, 1, 1]: x, trunk.norm.scale, trunk.norm.bias, y
//! ```
//!
//! Bindings are named by their buffer; kernels do not tell what they read and what they write, so
//! all bindings stand in their order.

use super::{BufferId, Command, Plan, Recompute, Role};
use std::fmt::Write;

impl Plan {
    /// Arenas, then the commands of each program in order.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = format!("{}\n", self.name);
        for arena in &self.arenas {
            // Writing to a string does not fail.
            let _ = writeln!(text, "arena {}: {} bytes", arena.name, arena.bytes);
        }
        if let Some(recompute) = self.recompute_text() {
            let _ = writeln!(text, "{recompute}");
        }
        for program in &self.programs {
            let _ = writeln!(text, "program {}", program.name);
            for command in &program.commands {
                let _ = writeln!(text, "    {}", self.command_text(command));
            }
        }
        text
    }

    /// What the budget of a stage did, in words.
    #[must_use]
    pub fn recompute_text(&self) -> Option<String> {
        let recompute = self.recompute?;
        Some(recompute.to_text(self.arena_bytes(), self.flops()))
    }

    fn command_text(&self, command: &Command) -> String {
        match command {
            Command::Dispatch(dispatch) => {
                let kernel = self.kernels.get(dispatch.kernel as usize);
                let kernel = kernel.map_or("?", |kernel| kernel.name.as_str());
                let names = dispatch.bindings.iter().map(|id| self.buffer_text(*id));
                let names: Vec<String> = names.collect();
                format!("{kernel} {:?}: {}", dispatch.workgroups, names.join(", "))
            }
            Command::Clear(buffer) => format!("clear {}", self.buffer_text(*buffer)),
            Command::Copy { from, to } => {
                let (from, to) = (self.buffer_text(*from), self.buffer_text(*to));
                format!("copy {from} to {to}")
            }
            Command::CopyRange {
                from,
                from_offset,
                to,
                to_offset,
                bytes,
            } => {
                let (from, to) = (self.buffer_text(*from), self.buffer_text(*to));
                format!("copy {bytes} bytes of {from} from {from_offset} to {to} from {to_offset}")
            }
        }
    }

    /// The name of a buffer; an intermediate value, which may share it with others, has its number.
    fn buffer_text(&self, id: BufferId) -> String {
        match self.buffer(id) {
            Some(buffer) if buffer.role == Role::Activation => format!("{}#{}", buffer.name, id.0),
            Some(buffer) if buffer.role == Role::Gradient => format!("{}'grad", buffer.name),
            Some(buffer) => buffer.name.clone(),
            None => format!("#{}", id.0),
        }
    }
}

impl Recompute {
    /// What is computed again in a plan of so many bytes and operations, and what that cost and saved.
    #[must_use]
    pub fn to_text(&self, bytes: u64, flops: u64) -> String {
        let more = flops.saturating_sub(self.flops_without) as f64;
        let megabytes = |bytes: u64| bytes as f64 / 1e6;
        format!(
            "{} of {} parts of the forward pass are computed again on the way back: {:.1} % more operations, \
             {:.1} MB instead of {:.1} MB, within the budget of {:.1} MB",
            self.segments.again,
            self.segments.all,
            100.0 * more / self.flops_without.max(1) as f64,
            megabytes(bytes),
            megabytes(self.bytes_without),
            megabytes(self.budget),
        )
    }
}
