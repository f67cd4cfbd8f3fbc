//! `gatewright graph`: the tensor graph as text, for Graphviz, or as JSON.

use crate::arguments::{Form, Spec, Target};
use crate::failure::Failure;
use crate::output::Output;
use crate::project;
use crate::target::{self, Wanted};
use gatewright_compiler::compile::{Options, expand};
use gatewright_compiler::graph::Graph;
use gatewright_compiler::graph::outline::{Edge, OutlineNode, VERSION};
use gatewright_compiler::lower::Lowered;
use gatewright_compiler::plan::Limits;
use gatewright_compiler::precision::Precision;
use gatewright_compiler::size::Bindings;
use gatewright_grammar::source::Sources;
use gatewright_runtime::experiment;
use gatewright_runtime::project::Project;
use serde::Serialize;
use std::collections::BTreeSet;
use std::io::Write;
use std::process::ExitCode;

/// Arguments of `graph`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  \
                        gatewright graph models/limoe/limoe.gate --entry embed_image --depth 2\n  \
                        gatewright graph models/limoe/limoe.gate --stage pretrain --preset tiny --gradients\n  \
                        gatewright graph models/limoe/limoe.gate --entry embed_text --depth 2 --dot | dot -Tsvg > graph.svg")]
pub(crate) struct Args {
    #[command(flatten)]
    spec: Spec,
    #[command(flatten)]
    target: Target,
    /// Show the gradients of a stage's objective too
    #[arg(long, requires = "stage")]
    gradients: bool,
    /// Fold everything below the first N parts of a path into one node
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..))]
    depth: Option<u8>,
    /// Write the form Graphviz reads
    #[arg(long, conflicts_with = "json")]
    dot: bool,
    #[command(flatten)]
    form: Form,
}

/// The JSON form: one graph, or one per objective of a stage.
#[derive(Serialize)]
struct Report<'a> {
    version: u32,
    graphs: Vec<Drawn<'a>>,
}

#[derive(Serialize)]
struct Drawn<'a> {
    name: String,
    nodes: Vec<Placed<'a>>,
    edges: Vec<Edge>,
}

/// A node with its place in the spec.
#[derive(Serialize)]
struct Placed<'a> {
    #[serde(flatten)]
    node: OutlineNode,
    file: Option<&'a str>,
    line: Option<usize>,
}

/// Prints the graph.
pub(crate) fn run(args: &Args, out: &mut Output) -> Result<ExitCode, Failure> {
    let mut project = project::open(&args.spec, out)?;
    let mut graphs = Vec::new();
    for wanted in target::wanted(&project, &args.target)? {
        let lowered = project::lower(&mut project, &wanted.request, out)?;
        let graph = match args.gradients {
            true => differentiated(&mut project, &wanted, &lowered)?,
            false => lowered.graph,
        };
        graphs.push((wanted.name, graph));
    }
    let depth = args.depth.map(usize::from);
    if args.form.json {
        let graphs = graphs
            .iter()
            .map(|(name, graph)| drawn(name, graph, depth, &project.sources))
            .collect();
        let version = VERSION;
        let json = serde_json::to_string(&Report { version, graphs });
        writeln!(out, "{}", json.map_err(|e| Failure::Bug(e.to_string()))?)?;
        return Ok(ExitCode::SUCCESS);
    }
    for (name, graph) in &graphs {
        let text = match (args.dot, depth) {
            (true, depth) => graph.outline(depth).to_dot(name),
            (false, None) => graph.to_text(),
            (false, depth) => graph.outline(depth).to_text(),
        };
        out.write_all(text.as_bytes())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Forward and backward pass of a stage's objective, composites whole.
fn differentiated(
    project: &mut Project,
    wanted: &Wanted,
    lowered: &Lowered,
) -> Result<Graph, Failure> {
    let gradients = match &wanted.stage {
        Some((stage, _)) => Some(experiment::optimizer(project, stage, lowered)?.trained),
        None => None,
    };
    let options = Options {
        name: wanted.name.clone(),
        limits: &Limits::portable(),
        bindings: Bindings::new(),
        replay: BTreeSet::new(),
        precision: Precision::Full,
        gradients,
        optimizer: None,
    };
    expand(&lowered.graph, &options, &|_, _| true).map_err(|error| Failure::Bug(error.to_string()))
}

fn drawn<'a>(name: &str, graph: &Graph, depth: Option<usize>, sources: &'a Sources) -> Drawn<'a> {
    let outline = graph.outline(depth);
    let placed = |node: OutlineNode| {
        let place = sources.position(node.site);
        Placed {
            file: place.map(|(file, ..)| file),
            line: place.map(|(_, line, _)| line),
            node,
        }
    };
    Drawn {
        name: name.to_owned(),
        nodes: outline.nodes.into_iter().map(placed).collect(),
        edges: outline.edges,
    }
}
