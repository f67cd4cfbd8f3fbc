//! Running a program command by command, to look at what each dispatch wrote.

use super::prepare::Stage;
use super::{Executor, Result};

/// Looks at what the dispatch at this position of its program wrote; what it gives ends the walk.
type Look<'a, T, E> = dyn FnMut(&mut Executor, usize) -> Result<Option<T>, E> + 'a;

impl Executor {
    /// Runs a program one command after the other, each a submission of its own. `look` is given the
    /// position of every dispatch in the program after it ran; what it finds ends the walk.
    ///
    /// # Errors
    /// An unknown program, what the device reports, and what `look` reports.
    pub fn walk<T, E: From<crate::error::Error>>(
        &mut self,
        program: &str,
        look: &mut Look<'_, T, E>,
    ) -> Result<Option<T>, E> {
        let program = self.program_index(program)?;
        for stage in 0..self.prepared.programs[program].len() {
            let stage = &self.prepared.programs[program][stage];
            let Stage::Pass(runs) = stage else {
                let mut recorder = self.device.record();
                self.encode(&mut recorder, stage);
                recorder.submit()?;
                continue;
            };
            for run in runs.clone() {
                let mut recorder = self.device.record();
                recorder.pass(std::iter::once(self.launch(&run)));
                recorder.submit()?;
                if let Some(found) = look(self, run.command)? {
                    return Ok(Some(found));
                }
            }
        }
        Ok(None)
    }
}
