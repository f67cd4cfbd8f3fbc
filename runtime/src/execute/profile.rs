//! Time per dispatch.

use super::Executor;
use super::prepare::{Run, Stage};
use crate::device::timing::{SLOTS, Timer};
use crate::error::Result;
use gatewright_compiler::graph::Origin;
use gatewright_compiler::plan::{Command, Dispatch};
use serde::Serialize;
use std::time::Instant;

/// Where the time of some programs went.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Profile {
    /// One row per dispatch, in order.
    pub rows: Vec<ProfileRow>,
}

/// One dispatch.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ProfileRow {
    /// The program it belongs to.
    pub program: String,
    /// The kernel's name.
    pub kernel: String,
    /// `matmul`, `row`, `pointwise` …
    pub family: String,
    /// The place in the spec it computes; the first of several.
    pub origin: Origin,
    /// When it began, from the call that measured it; the clocks of host and device are aligned where the
    /// host submits.
    pub start_nanoseconds: f64,
    /// Time on the device.
    pub nanoseconds: f64,
    /// Floating-point operations.
    pub flops: u64,
    /// Bytes read and written, each operand once.
    pub bytes: u64,
}

impl Executor {
    /// Runs programs once and measures every dispatch, or does nothing and returns `None` when the
    /// device has no timestamps. The first run of a pipeline may include the driver's compilation:
    /// run the programs once before.
    ///
    /// # Errors
    /// An unknown program, and what the device reports.
    pub fn profile(&mut self, programs: &[&str]) -> Result<Option<Profile>> {
        let Some(timer) = Timer::new(&self.device)? else {
            return Ok(None);
        };
        let begun = Instant::now();
        let mut profile = Profile::default();
        for program in programs {
            let index = self.program_index(program)?;
            let pieces = self.pieces(index);
            for piece in pieces {
                self.profile_piece(index, &piece, &timer, begun, &mut profile)?;
            }
        }
        Ok(Some(profile))
    }

    /// The stages of a program with at most [`SLOTS`] dispatches together, by stage and run index.
    fn pieces(&self, program: usize) -> Vec<Vec<(usize, Vec<Run>)>> {
        let mut pieces = vec![Vec::new()];
        let mut used = 0;
        for (index, stage) in self.prepared.programs[program].iter().enumerate() {
            let Stage::Pass(runs) = stage else {
                if let Some(piece) = pieces.last_mut() {
                    piece.push((index, Vec::new()));
                }
                continue;
            };
            for chunk in runs.chunks(SLOTS as usize) {
                if used + chunk.len() > SLOTS as usize {
                    pieces.push(Vec::new());
                    used = 0;
                }
                used += chunk.len();
                if let Some(piece) = pieces.last_mut() {
                    piece.push((index, chunk.to_vec()));
                }
            }
        }
        pieces
    }

    fn profile_piece(
        &mut self,
        program: usize,
        piece: &[(usize, Vec<Run>)],
        timer: &Timer,
        begun: Instant,
        profile: &mut Profile,
    ) -> Result<()> {
        let mut recorder = self.device.record();
        let mut measured: Vec<Run> = Vec::new();
        for (stage, runs) in piece {
            if runs.is_empty() {
                self.encode(&mut recorder, &self.prepared.programs[program][*stage]);
            }
            for run in runs {
                let slot = u32::try_from(measured.len()).unwrap_or(u32::MAX);
                recorder.timed(&self.launch(run), timer, slot);
                measured.push(*run);
            }
        }
        let slots = u32::try_from(measured.len()).unwrap_or(u32::MAX);
        if slots == 0 {
            return recorder.submit();
        }
        recorder.resolve(timer, slots);
        let submitted = begun.elapsed().as_secs_f64() * 1e9;
        recorder.submit()?;
        let times = timer.read(&self.device, &mut self.staging, slots)?;
        let rows = measured.iter().zip(times);
        let rows = rows.filter_map(|(run, [start, length])| {
            self.row(program, run, [submitted + start, length])
        });
        profile.rows.extend(rows);
        Ok(())
    }

    fn row(&self, program: usize, run: &Run, [start, length]: [f64; 2]) -> Option<ProfileRow> {
        let program = &self.plan.programs[program];
        let Command::Dispatch(dispatch) = &program.commands[run.command] else {
            return None;
        };
        Some(ProfileRow {
            program: program.name.clone(),
            kernel: self.plan.kernels[run.kernel].name.clone(),
            family: dispatch.family.clone(),
            origin: self.origin(dispatch).unwrap_or_default(),
            start_nanoseconds: start,
            nanoseconds: length,
            flops: dispatch.flops,
            bytes: dispatch.bytes,
        })
    }

    pub(super) fn origin(&self, dispatch: &Dispatch) -> Option<Origin> {
        let first = *dispatch.origins.first()?;
        self.plan.origins.get(first as usize).cloned()
    }
}
