//! Tables of where time went.

use crate::failure::Failure;
use crate::output::Output;
use crate::project;
use gatewright_grammar::source::Sources;
use gatewright_runtime::device::Device;
use gatewright_runtime::execute::ProfileRow;
use gatewright_runtime::profile::{Rates, Recording, Row, families, lines};
use gatewright_runtime::project::Project;
use std::path::Path;

/// Lines of the spec that are shown.
const MOST_LINES: usize = 24;

/// Longest text of a line.
const WIDTH: usize = 44;

/// Writes the trace.
pub(crate) fn write(recording: &Recording, path: &Path) -> Result<(), Failure> {
    let text = recording.trace().to_json().to_string();
    std::fs::write(path, text)
        .map_err(|error| Failure::Message(format!("cannot write {}: {error}", path.display())))
}

/// Writes the trace of so many steps or evaluations, and prints where their time went. `measured` says what they were.
pub(crate) fn show(
    recording: &Recording,
    path: &Path,
    (device, project): (&Device, &Project),
    (runs, measured): (usize, &str),
    out: &mut Output,
) -> Result<(), Failure> {
    write(recording, path)?;
    let rates = Rates::measure(device).map_err(|failure| project::failure(project, failure))?;
    let rows = recording.rows();
    let Some(rates) = rates.filter(|_| !rows.is_empty()) else {
        out.progress("the device has no timestamps, or nothing was measured: no time per kernel");
        return Ok(());
    };
    out.progress(&text(&rows, runs, &rates, &project.sources));
    out.progress(&format!("{runs} {measured}; trace in {}", path.display()));
    Ok(())
}

/// Both tables of some dispatches, per run.
pub(crate) fn text(rows: &[ProfileRow], runs: usize, rates: &Rates, sources: &Sources) -> String {
    let mut text = format!(
        "best rates measured here: {:.1} GFLOP/s, {:.1} GB/s; predicted is the longer of the two\n\n",
        rates.flops_per_second * 1e-9,
        rates.bytes_per_second * 1e-9
    );
    text += &table("family", &families(rows, runs, rates), usize::MAX);
    text.push('\n');
    text += &table("line", &lines(rows, runs, rates, sources), MOST_LINES);
    text
}

fn table(head: &str, rows: &[Row], most: usize) -> String {
    let mut all = Row {
        name: "all".to_owned(),
        ..Row::default()
    };
    for row in rows {
        all.launches += row.launches;
        all.nanoseconds += row.nanoseconds;
        all.predicted_nanoseconds += row.predicted_nanoseconds;
        all.flops += row.flops;
        all.bytes += row.bytes;
    }
    let mut text = format!(
        "{head:<24} {:>8} {:>9} {:>6} {:>9} {:>6} {:>8} {:>6}\n",
        "launches", "ms", "share", "predicted", "ratio", "GFLOP/s", "GB/s"
    );
    for row in rows.iter().take(most) {
        text += &line(row, all.nanoseconds);
    }
    if rows.len() > most {
        text += &format!("and {} more\n", rows.len() - most);
    }
    text += &line(&all, all.nanoseconds);
    text
}

fn line(row: &Row, all: f64) -> String {
    let nanoseconds = row.nanoseconds.max(1.0);
    let shown: String = row.text.chars().take(WIDTH).collect();
    let text = format!(
        "{:<24} {:>8.0} {:>9.3} {:>5.1}% {:>9.3} {:>6.2} {:>8.2} {:>6.2}  {shown}",
        row.name,
        row.launches,
        row.nanoseconds * 1e-6,
        100.0 * row.nanoseconds / all.max(1.0),
        row.predicted_nanoseconds * 1e-6,
        nanoseconds / row.predicted_nanoseconds.max(1.0),
        row.flops / nanoseconds,
        row.bytes / nanoseconds,
    );
    format!("{}\n", text.trim_end())
}
