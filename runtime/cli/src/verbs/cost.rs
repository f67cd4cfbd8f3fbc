//! `gatewright cost`: what a model costs before it runs.

use crate::arguments::{Form, Spec, Target};
use crate::failure::Failure;
use crate::output::Output;
use crate::project;
use crate::target;
use gatewright_compiler::cost::{self, Amounts, Cost, DeviceCost, Fit, Line};
use gatewright_compiler::graph::Graph;
use gatewright_compiler::lower::Recorded;
use gatewright_compiler::plan::{Limits, Split};
use gatewright_runtime::experiment::{Step, Subject};
use gatewright_runtime::profile::{Prediction, Rates};
use gatewright_runtime::project::Project;
use serde::Serialize;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// Arguments of `cost`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  \
                        gatewright cost models/limoe/limoe.gate --stage pretrain --preset demo\n  \
                        gatewright cost models/limoe/limoe.gate --entry embed_image --set B=1 --json\n  \
                        gatewright cost models/moai/moai.gate --generate chat --device desktop --rates rates.json")]
pub(crate) struct Args {
    #[command(flatten)]
    spec: Spec,
    #[command(flatten)]
    target: Target,
    /// Limits to plan for: `portable`, `desktop`, `cpu-vulkan`, or an adapter of this machine
    #[arg(long, value_name = "NAME", default_value = "portable")]
    device: String,
    /// Count parameters and operations only; makes no plan
    #[arg(long, conflicts_with = "device")]
    no_plan: bool,
    /// What a device reaches, as `gatewright doctor --rates FILE` writes it: predicts times. An adapter that
    /// `--device` names is measured without it
    #[arg(long, value_name = "FILE", conflicts_with = "no_plan")]
    rates: Option<PathBuf>,
    #[command(flatten)]
    form: Form,
}

/// The JSON form: one cost per graph, since a stage may train several objectives.
#[derive(Serialize)]
struct Report<'a> {
    version: u32,
    costs: &'a [Cost],
    /// Of each cost with a plan, where rates are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    predicted: Option<Vec<Option<Prediction>>>,
}

/// Prints the counts, per line of the spec and in total.
pub(crate) fn run(args: &Args, out: &mut Output) -> Result<ExitCode, Failure> {
    let limits = match args.no_plan {
        true => None,
        false => Some(target::limits(&args.device, out)?),
    };
    let rates = match args.no_plan {
        true => None,
        false => target::rates(&args.device, args.rates.as_deref())?,
    };
    let predicted = |cost: &Cost| {
        let (rates, device) = rates.zip(cost.device.as_ref())?;
        Some(rates.predict(&device.launches))
    };
    let mut project = project::open(&args.spec, out)?;
    let mut costs = match &args.target.generate {
        Some(name) => generation(&mut project, name, limits.as_ref())?,
        None => Vec::new(),
    };
    for wanted in target::wanted(&project, &args.target)? {
        let subject = wanted.trace(&mut project, Recorded::Nothing, out)?;
        let (optimizer, parts) = match &subject {
            Subject::Entry(_) => (None, cost::Parts::default()),
            Subject::Step(step) => (Some(&step.optimizer), parts(step)),
        };
        let request = cost::Request {
            name: wanted.name,
            sources: &project.sources,
            lowered: subject.lowered(),
            optimizer,
            parts,
            storage: None,
            limits: limits.as_ref(),
        };
        let measured = cost::measure(&request);
        costs.push(measured.map_err(|error| Failure::Bug(error.to_string()))?);
    }
    if args.form.json {
        let version = cost::VERSION;
        let report = Report {
            version,
            costs: &costs,
            predicted: rates.map(|_| costs.iter().map(predicted).collect()),
        };
        let json = serde_json::to_string(&report);
        writeln!(out, "{}", json.map_err(|e| Failure::Bug(e.to_string()))?)?;
    } else {
        for cost in &costs {
            out.write_all(text(cost).as_bytes())?;
            if let Some((rates, prediction)) = rates.zip(predicted(cost)) {
                out.write_all(prediction_text(&rates, &prediction).as_bytes())?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// How the batch of a step is computed.
fn parts(step: &Step) -> cost::Parts<'_> {
    cost::Parts {
        count: step.schedule.accumulate,
        whole: step.objective.whole.as_ref(),
        budget: step.schedule.budget,
        precision: step.precision,
    }
}

/// What reading a prompt costs, and what each token of an answer does.
fn generation(
    project: &mut Project,
    name: &str,
    limits: Option<&Limits>,
) -> Result<Vec<Cost>, Failure> {
    let traced = target::generation(project, name)?;
    let programs = [
        (
            format!("generate {name}, the prompt"),
            &traced.programs.prefill,
        ),
        (format!("generate {name}, one token"), &traced.programs.step),
    ];
    let cost = |(name, graph): (String, &Graph)| {
        let request = cost::Request {
            name,
            sources: &project.sources,
            lowered: &traced.program(graph),
            optimizer: None,
            parts: cost::Parts::default(),
            storage: traced.storage,
            limits,
        };
        cost::measure(&request).map_err(|error| Failure::Bug(error.to_string()))
    };
    programs.into_iter().map(cost).collect()
}

/// The report for people.
fn text(cost: &Cost) -> String {
    let mut text = format!("{}\n\n", cost.name);
    text += &table(cost);
    text.push('\n');
    let total = &cost.total;
    let mut row = |name: &str, value: String| text += &format!("{name:<18} {value}\n");
    let parameters = format!(
        "{} in all, {} active per token ({})",
        count(total.parameters),
        count(total.active_parameters),
        bytes(4 * total.parameters)
    );
    row("parameters", parameters);
    if total.trained_parameters > 0 {
        row("trained", count(total.trained_parameters));
    }
    row("forward", work(total.forward));
    if total.step.total() > 0 {
        row("forward, backward", work(total.step));
    }
    if !cost.assumed.is_empty() {
        let names = cost.assumed.join(", ");
        let hint = format!("{names} = 1; give another size with --set");
        row("counted with", hint);
    }
    if let Some(device) = &cost.device {
        let launches = device.programs.iter();
        let launches = launches.map(|(name, count)| format!("{count} {name}"));
        let launches = launches.collect::<Vec<_>>().join(", ");
        row(
            "launches",
            format!("{launches}; {} kernels", device.kernels),
        );
        row("bytes moved", bytes(total.bytes));
        row("memory", bytes(device.memory_bytes));
        for (name, size, pieces) in purposes(device) {
            let pieces = match pieces {
                1 => String::new(),
                some => format!(" in {some} buffers"),
            };
            row(&format!("  {name}"), bytes(size) + &pieces);
        }
        for text in splits(device) {
            row("in parts", text);
        }
        if device.stored.matrices > 0 {
            row("stored in codes", stored(device));
        }
        if let Some(recompute) = device.recompute {
            let text = recompute.to_text(device.memory_bytes, device.flops);
            row("budget", text);
        }
        row("largest binding", fit(&device.binding));
        row("largest buffer", fit(&device.buffer));
    }
    if let Some(reason) = &cost.unplanned {
        row("no plan", reason.clone());
    }
    text
}

/// What a step, a prompt or a token should take.
fn prediction_text(rates: &Rates, prediction: &Prediction) -> String {
    let often = match prediction.seconds {
        seconds if seconds > 0.0 && seconds < 1.0 => format!(" ({:.1} a second)", 1.0 / seconds),
        _ => String::new(),
    };
    format!(
        "{:<18} {}{often}; {} for arithmetic alone at {} FLOP/s, {} for memory alone at {}/s, {} for launching\n",
        "predicted",
        seconds(prediction.seconds),
        seconds(prediction.arithmetic_seconds),
        count(rates.flops_per_second as u64),
        seconds(prediction.memory_seconds),
        bytes(rates.bytes_per_second as u64),
        seconds(prediction.launch_seconds),
    )
}

/// `12.3 ms`.
fn seconds(value: f64) -> String {
    match value {
        value if value >= 1.0 => format!("{value:.2} s"),
        value if value >= 1e-3 => format!("{:.2} ms", value * 1e3),
        value => format!("{:.1} us", value * 1e6),
    }
}

/// `head.kernel [4096, 92544]: 12 along axis 1`, tensors of one shape together.
fn splits(device: &DeviceCost) -> Vec<String> {
    let mut alike: Vec<(&Split, Vec<&str>)> = Vec::new();
    for (path, split) in &device.splits {
        match alike.iter_mut().find(|(known, _)| *known == split) {
            Some((_, paths)) => paths.push(path),
            None => alike.push((split, vec![path])),
        }
    }
    let text = |(split, paths): &(&Split, Vec<&str>)| {
        let (parts, axis, shape) = (split.sizes.len(), split.axis, &split.shape);
        let first = paths.first().copied().unwrap_or_default();
        let others = match paths.len() {
            0 | 1 => String::new(),
            count => format!(" and {} others of", count - 1),
        };
        format!("{first}{others} {shape:?}: {parts} along axis {axis}")
    };
    alike.iter().map(text).collect()
}

/// `int4:64: 224 matrices, 3.86 GB for 27.5 GB of f32`.
fn stored(device: &DeviceCost) -> String {
    let stored = &device.stored;
    let storage = stored.storage.map_or(String::new(), |it| format!("{it}: "));
    let (now, before) = (bytes(stored.bytes), bytes(stored.f32_bytes));
    format!(
        "{storage}{} matrices, {now} for {before} of f32",
        stored.matrices
    )
}

/// Arenas by purpose, with how many they are: `activations.0` and `activations.1` are one.
fn purposes(device: &DeviceCost) -> Vec<(&str, u64, usize)> {
    let mut purposes: Vec<(&str, u64, usize)> = Vec::new();
    for arena in &device.memory {
        let name = arena.name.split('.').next().unwrap_or_default();
        match purposes.last_mut() {
            Some((known, size, pieces)) if *known == name => {
                *size += arena.bytes;
                *pieces += 1;
            }
            _ => purposes.push((name, arena.bytes, 1)),
        }
    }
    purposes
}

fn fit(fit: &Fit) -> String {
    format!(
        "{} ({}) of {}: {}",
        bytes(fit.bytes),
        fit.name,
        bytes(fit.limit),
        if fit.fits { "fits" } else { "DOES NOT FIT" }
    )
}

fn work(work: cost::Work) -> String {
    let (all, products) = (count(work.total()), count(work.contraction));
    format!("{all} FLOP, {products} of it in matrix products")
}

/// One row per line of the spec that costs something.
fn table(cost: &Cost) -> String {
    let training = cost.total.step.total() > 0;
    let planned = cost.device.is_some();
    let mut rows = vec![header(training, planned)];
    for line in cost.lines.iter().filter(|line| costs(&line.amounts)) {
        let mut row = vec![place(line), short(&line.text)];
        row.extend(cells(&line.amounts, training, planned));
        rows.push(row);
    }
    let mut last = vec!["total".to_owned(), String::new()];
    last.extend(cells(&cost.total, training, planned));
    rows.push(last);
    aligned(&rows)
}

fn costs(amounts: &Amounts) -> bool {
    *amounts != Amounts::default()
}

fn header(training: bool, planned: bool) -> Vec<String> {
    let mut names = vec!["line", "", "parameters", "forward"];
    names.extend(training.then_some("step"));
    names.extend(planned.then_some("bytes"));
    names.extend(planned.then_some("launches"));
    names.into_iter().map(str::to_owned).collect()
}

fn cells(amounts: &Amounts, training: bool, planned: bool) -> Vec<String> {
    let mut cells = vec![count(amounts.parameters), count(amounts.forward.total())];
    cells.extend(training.then(|| count(amounts.step.total())));
    cells.extend(planned.then(|| bytes(amounts.bytes)));
    cells.extend(planned.then(|| amounts.dispatches.to_string()));
    cells
}

/// `limoe.gate:26`: the file without its folders.
fn place(line: &Line) -> String {
    match line.line {
        0 => "-".to_owned(),
        number => {
            let file = line.file.rsplit(['/', '\\']).next().unwrap_or_default();
            format!("{file}:{number}")
        }
    }
}

fn short(text: &str) -> String {
    const WIDTH: usize = 48;
    if text.is_empty() {
        return "(no place in the spec)".to_owned();
    }
    match text.char_indices().nth(WIDTH) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Columns: the first two to the left, numbers to the right.
fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            match column {
                0 | 1 => line += &format!("{cell:<width$}  "),
                _ => line += &format!("{cell:>width$}  "),
            }
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// `85.1 M`: three digits and a decimal unit.
fn count(value: u64) -> String {
    scaled(value, &["", " k", " M", " G", " T", " P", " E"])
}

/// `1.24 GB`, in powers of 1000.
fn bytes(value: u64) -> String {
    scaled(value, &[" B", " kB", " MB", " GB", " TB", " PB", " EB"])
}

fn scaled(value: u64, units: &[&str]) -> String {
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut rest = value as f64;
    let mut unit = 0;
    // 999.5 would print as 1000.
    while rest >= 999.5 && unit + 1 < units.len() {
        rest /= 1_000.0;
        unit += 1;
    }
    let digits = match rest {
        _ if unit == 0 => 0,
        rest if rest < 9.995 => 2,
        rest if rest < 99.95 => 1,
        _ => 0,
    };
    format!("{rest:.digits$}{}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::{bytes, count, short};

    #[test]
    fn numbers_have_three_digits() {
        let cases = [
            (0, "0"),
            (999, "999"),
            (1_000, "1.00 k"),
            (85_056_000, "85.1 M"),
            (999_600, "1.00 M"),
            (34_900_000_000, "34.9 G"),
            (u64::MAX, "18.4 E"),
        ];
        for (value, text) in cases {
            assert_eq!(count(value), text);
        }
        assert_eq!(bytes(134_217_728), "134 MB");
    }

    #[test]
    fn long_lines_are_cut_between_characters() {
        let text = "ü".repeat(60);
        assert_eq!(short(&text).chars().count(), 49);
        assert_eq!(short("norm"), "norm");
    }
}
