//! `report.html` of a run: self-contained, to be opened without a network.
//!
//! Everything in it is also in the run folder as JSON: `metrics.jsonl`, `evaluations.jsonl`,
//! `routing.json`, `manifest.json`.

mod comparison;
mod curves;
mod kinds;
mod page;
mod plot;
mod routers;
mod samples;

use crate::checkpoint::write_atomically;
use crate::compare::Comparison;
use crate::data::{DataError, Sample};
use crate::error::Result;
use crate::train::Findings;
use std::path::{Path, PathBuf};

/// The page of a look at data: samples as a batch holds them, and what was left out.
#[must_use]
pub fn samples(name: &str, samples: &[Sample], skipped: &[DataError]) -> String {
    samples::page(name, samples, skipped)
}

/// The page of a comparison.
pub(crate) fn comparison(comparison: &Comparison) -> String {
    comparison::page(comparison)
}

/// Writes the report of a run folder into it and gives its path.
///
/// # Errors
/// A folder without a run, damaged files, and a disk that refuses.
pub fn write(folder: &Path) -> Result<PathBuf> {
    let findings = Findings::read(folder)?;
    let page = folder.join("report.html");
    let name = folder.display().to_string();
    write_atomically(&page, page::page(&name, &findings).as_bytes())?;
    Ok(page)
}
