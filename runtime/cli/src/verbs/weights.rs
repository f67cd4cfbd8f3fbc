//! `gatewright weights`: what a name map makes of a foreign checkpoint, and parameters under foreign names.

use crate::arguments::{Form, Spec};
use crate::failure::Failure;
use crate::output::Output;
use crate::project;
use gatewright_compiler::stage::{Pairing, WeightsSpec};
use gatewright_runtime::checkpoint::{export, read_tensors, write_foreign};
use gatewright_runtime::project::Project;
use gatewright_runtime::train::RunFolder;
use gatewright_runtime::weights;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Arguments of `weights`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  \
                        gatewright weights models/flava/flava.gate --map hf --weights model.safetensors\n  \
                        gatewright weights models/flava/flava.gate --map hf --weights model.safetensors.index.json --json\n  \
                        gatewright weights models/flava/flava.gate --preset demo --map hf --run runs/flava/joint --export model.safetensors")]
pub(crate) struct Args {
    #[command(flatten)]
    spec: Spec,
    /// The `weights` item that maps names
    #[arg(long, value_name = "NAME")]
    map: String,
    /// List what the map makes of this checkpoint, and load nothing; a name that ends in `.index.json` is
    /// the index of one in several files
    #[arg(long, value_name = "FILE", required_unless_present = "run")]
    weights: Option<PathBuf>,
    /// The run folder whose last parameters are exported
    #[arg(
        long,
        value_name = "DIR",
        requires = "export",
        conflicts_with = "weights"
    )]
    run: Option<PathBuf>,
    /// Write parameters under their foreign names
    #[arg(long, value_name = "FILE", requires = "run")]
    export: Option<PathBuf>,
    #[command(flatten)]
    form: Form,
}

/// Compares or exports. What does not fit or is left over makes exit code 1.
pub(crate) fn run(args: &Args, out: &mut Output) -> Result<ExitCode, Failure> {
    let mut project = project::open(&args.spec, out)?;
    let map = map(&mut project, &args.map)?;
    if let (Some(folder), Some(file)) = (&args.run, &args.export) {
        return exported(&mut project, &map, folder, file, out);
    }
    let file = args.weights.as_deref().unwrap_or(Path::new(""));
    let tensors = read_tensors(file)?;
    let (pairing, misfits) = weights::matching(&mut project, &map, &tensors)?;
    let fine = misfits.is_empty()
        && pairing.unmatched_ours.is_empty()
        && pairing.unmatched_theirs.is_empty()
        && pairing.ambiguous.is_empty();
    if args.form.json {
        writeln!(out, "{}", json(&pairing, &misfits))?;
    } else {
        list(&pairing, &misfits, out)?;
    }
    Ok(if fine {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The name map asked for.
pub(super) fn map(project: &mut Project, name: &str) -> Result<WeightsSpec, Failure> {
    let experiment = project.experiment()?;
    experiment.weights(name).cloned().ok_or_else(|| {
        let known: Vec<&str> = experiment
            .weights
            .iter()
            .map(|it| it.name.as_str())
            .collect();
        let known = match known.is_empty() {
            true => String::new(),
            false => format!(" (there is {})", known.join(", ")),
        };
        Failure::Message(format!("there is no `weights {name}` in the file{known}"))
    })
}

/// Writes what a run ended with, as a whole model: readers of the format want every tensor.
fn exported(
    project: &mut Project,
    map: &WeightsSpec,
    folder: &Path,
    file: &Path,
    out: &mut Output,
) -> Result<ExitCode, Failure> {
    let seed = RunFolder::manifest(folder)?.seed;
    let (_, mut parameters) = super::eval::last_parameters(Some(folder))?;
    let drawn = weights::complete(project, &mut parameters, seed)?;
    let tensors = export(map, &parameters)?;
    let named = tensors
        .iter()
        .map(|(name, it)| (name.clone(), it))
        .collect();
    write_foreign(file, &named)?;
    if let Some(first) = drawn.first() {
        let count = drawn.len();
        out.progress(&format!(
            "{count} parameters have their first values, for no stage trained them: `{first}` and so on"
        ));
    }
    writeln!(out, "{} tensors in {}", tensors.len(), file.display())?;
    Ok(ExitCode::SUCCESS)
}

fn json(pairing: &Pairing, misfits: &[String]) -> serde_json::Value {
    let pairs = pairing.pairs.iter();
    let pairs: Vec<_> = pairs.map(|pair| [&pair.ours, &pair.theirs]).collect();
    let twice: Vec<&String> = pairing.ambiguous.iter().map(|it| &it.0).collect();
    serde_json::json!({
        "version": 1,
        "matched": pairs,
        "parameters_without_tensor": pairing.unmatched_ours,
        "tensors_without_parameter": pairing.unmatched_theirs,
        "do_not_fit": misfits,
        "claimed_twice": twice,
        "ignored": pairing.ignored,
        "fresh": pairing.fresh,
    })
}

/// Everything that needs a look, one line each, then the counts.
fn list(pairing: &Pairing, misfits: &[String], out: &mut Output) -> Result<(), Failure> {
    let twice: Vec<String> = pairing.ambiguous.iter().map(|it| it.0.clone()).collect();
    for (heading, names) in [
        ("parameters without a tensor", &pairing.unmatched_ours),
        ("tensors without a parameter", &pairing.unmatched_theirs),
        ("tensors that do not fit", &misfits.to_vec()),
        ("names that two lines claim", &twice),
        ("tensors that the map ignores", &pairing.ignored),
        ("parameters that the map leaves fresh", &pairing.fresh),
    ] {
        if !names.is_empty() {
            writeln!(out, "{heading}: {}", names.len())?;
            names
                .iter()
                .try_for_each(|name| writeln!(out, "  {name}"))?;
        }
    }
    writeln!(
        out,
        "{} parameters have a tensor of their name",
        pairing.pairs.len()
    )?;
    Ok(())
}
