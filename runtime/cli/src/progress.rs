//! How a run goes on: a bar on a terminal, lines elsewhere.

use crate::output::Output;
use gatewright_runtime::experiment::{Observer, Opening};
use gatewright_runtime::project::Mistakes;
use gatewright_runtime::train::{EvaluationRecord, StepRecord};
use indicatif::{ProgressBar, ProgressStyle};
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::Duration;

/// Shows a training run on standard error.
pub(crate) struct Progress<'a> {
    out: &'a mut Output,
    bar: Option<ProgressBar>,
    steps: u64,
    begun: std::time::Instant,
    first: u64,
    /// The last value of every loss: a step of a mix computes those of its own objective alone.
    losses: BTreeMap<String, f32>,
}

impl<'a> Progress<'a> {
    /// Draws a bar when standard error is a terminal.
    pub(crate) fn new(out: &'a mut Output) -> Self {
        let terminal = std::io::stderr().is_terminal() && !out.is_quiet();
        let bar = terminal.then(|| {
            let bar = ProgressBar::new_spinner();
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Self {
            out,
            bar,
            steps: 0,
            begun: std::time::Instant::now(),
            first: 0,
            losses: BTreeMap::new(),
        }
    }

    /// Takes the bar away.
    pub(crate) fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    fn line(&mut self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => self.out.progress(text),
        }
    }

    /// Time to the end at the speed so far.
    fn left(&self, step: u64) -> String {
        let done = step + 1 - self.first;
        let each = self.begun.elapsed().as_secs_f64() / done.max(1) as f64;
        let seconds = each * self.steps.saturating_sub(step + 1) as f64;
        match seconds as u64 {
            seconds @ 0..60 => format!("{seconds} s left"),
            seconds => format!("{} min {:02} s left", seconds / 60, seconds % 60),
        }
    }
}

impl Observer for Progress<'_> {
    fn phase(&mut self, what: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(what.to_owned()),
            None => self.out.detail(what),
        }
    }

    fn opened(&mut self, opening: &Opening) {
        let [records, skipped] = opening.records;
        let left_out = match skipped {
            0 => String::new(),
            count => format!(" ({count} left out)"),
        };
        self.line(&format!(
            "{} parameters, {records} records{left_out}, {} dispatches a step, {:.1} MiB of device memory",
            opening.parameters,
            opening.dispatches,
            opening.bytes as f64 / f64::from(1 << 20),
        ));
        self.steps = opening.steps;
        self.first = opening.first_step;
        self.begun = std::time::Instant::now();
        if let Some(bar) = &self.bar {
            bar.set_length(opening.steps);
            bar.set_position(opening.first_step);
            // The template is ours and well formed; without it the default bar is shown.
            if let Ok(style) =
                ProgressStyle::with_template("{bar:30} {pos}/{len}  {msg}  {eta} left")
            {
                bar.set_style(style);
            }
        }
    }

    fn note(&mut self, text: &str) {
        self.line(&format!("note: {text}"));
    }

    fn step(&mut self, record: &StepRecord) {
        let losses = record.losses.iter().filter(|(name, _)| is_loss(name));
        self.losses
            .extend(losses.map(|(name, value)| (name.clone(), *value)));
        let text = step_text(record, &self.losses);
        match &self.bar {
            Some(bar) => {
                bar.set_position(record.step + 1);
                bar.set_message(text);
            }
            None => {
                let left = self.left(record.step);
                self.out.progress(&format!(
                    "step {:>6}/{}  {text}  {left}",
                    record.step + 1,
                    self.steps
                ));
            }
        }
    }

    fn alarm(&mut self, warning: &Mistakes) {
        let out = &mut *self.out;
        let mut show = || out.diagnostics(&warning.sources, &warning.diagnostics);
        match &self.bar {
            Some(bar) => bar.suspend(show),
            None => show(),
        }
    }

    fn evaluated(&mut self, record: &EvaluationRecord) {
        let scores = record.evaluations.iter().flat_map(|evaluation| {
            evaluation
                .scores
                .iter()
                .map(move |score| (evaluation, score))
        });
        let shown = scores.map(|(evaluation, score)| {
            format!(
                "{} {} {} {:.1} %",
                evaluation.name,
                score.measure,
                score.direction,
                100.0 * score.value
            )
        });
        let shown: Vec<String> = shown.take(3).collect();
        self.line(&format!(
            "after {} steps: {}",
            record.step,
            shown.join(", ")
        ));
    }
}

fn is_loss(name: &str) -> bool {
    name.starts_with("loss.")
}

/// The objective where there are several, with the last value of every loss; else the step's objective
/// and losses. Then the success of the routers per stream, and the speed.
fn step_text(record: &StepRecord, known: &BTreeMap<String, f32>) -> String {
    let short = |name: &str| name.rsplit('.').next().unwrap_or(name).to_owned();
    let losses = match record.objective {
        Some(_) => known,
        None => &record.losses,
    };
    let losses = losses.iter();
    let losses = losses.map(|(name, value)| format!("{} {value:.3}", short(name)));
    let objective = record.objective.iter().map(|name| format!("[{name}]"));
    let mut parts: Vec<String> = objective.chain(losses).collect();
    // The mean over router instances, by stream.
    let mut rates: BTreeMap<String, Vec<f32>> = BTreeMap::new();
    for router in record.routers.values() {
        for (stream, own) in &router.streams {
            rates
                .entry(stream.to_owned())
                .or_default()
                .push(own.success);
        }
    }
    for (stream, values) in rates {
        let mean = values.iter().sum::<f32>() / values.len() as f32;
        parts.push(format!("{stream} routed {:.0} %", 100.0 * mean));
    }
    parts.push(format!("{:.0} pairs/s", record.examples_per_second));
    parts.join("  ")
}
