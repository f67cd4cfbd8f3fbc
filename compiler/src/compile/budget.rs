//! A stage within a budget of device memory: keep everything if that fits, else the cheapest of the
//! recomputations that do.

use super::{CompileError, CompiledStage};
use crate::plan::Recompute;
use crate::rewrite::Segments;

/// Parts that the forward pass may be cut into. More parts than this save little: what crosses their
/// cuts is then most of what is kept.
const PARTS: [usize; 5] = [2, 4, 8, 16, 32];

/// The plan of a stage that takes at most `budget` bytes and computes the least again.
///
/// # Errors
/// Those of `stage`, and a budget that none of the plans meets.
pub(super) fn within(
    budget: u64,
    stage: &dyn Fn(Option<Segments>) -> Result<CompiledStage, CompileError>,
) -> Result<CompiledStage, CompileError> {
    let whole = stage(None)?;
    let (without, flops_without) = (whole.plan.arena_bytes(), whole.plan.flops());
    if without <= budget {
        return Ok(whole);
    }
    let mut least = without;
    let mut best: Option<(Segments, CompiledStage)> = None;
    for all in PARTS {
        let Some(found) = fewest(budget, all, stage, &mut least)? else {
            continue;
        };
        let flops = found.1.plan.flops();
        if best.as_ref().is_none_or(|(_, it)| flops < it.plan.flops()) {
            best = Some(found);
        }
    }
    let (segments, mut compiled) = best.ok_or(CompileError::Budget {
        budget,
        least,
        without,
    })?;
    compiled.plan.recompute = Some(Recompute {
        budget,
        segments,
        bytes_without: without,
        flops_without,
    });
    Ok(compiled)
}

/// With the forward pass in `all` parts, the plan that fits and computes the fewest of them again.
fn fewest(
    budget: u64,
    all: usize,
    stage: &dyn Fn(Option<Segments>) -> Result<CompiledStage, CompileError>,
    least: &mut u64,
) -> Result<Option<(Segments, CompiledStage)>, CompileError> {
    let mut attempt = |again| -> Result<_, CompileError> {
        let segments = Segments { all, again };
        let compiled = stage(Some(segments))?;
        let bytes = compiled.plan.arena_bytes();
        *least = (*least).min(bytes);
        Ok((bytes <= budget).then_some((segments, compiled)))
    };
    let mut best = attempt(all - 1)?;
    let (mut too_few, mut enough) = (0, all - 1);
    while best.is_some() && too_few + 1 < enough {
        let again = too_few.midpoint(enough);
        match attempt(again)? {
            Some(found) => (best, enough) = (Some(found), again),
            None => too_few = again,
        }
    }
    Ok(best)
}
