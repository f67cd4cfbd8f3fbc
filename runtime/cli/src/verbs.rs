//! The verbs, one file each: its arguments, its help, and what it does.

mod bench;
mod check;
mod compare;
mod compile;
mod completions;
mod cost;
mod data;
mod doctor;
mod embed;
mod eval;
mod explain;
mod fmt;
mod generate;
mod graph;
mod report;
mod run;
mod train;
mod verify;
mod weights;

use crate::failure::Failure;
use crate::output::Output;
use clap::{ArgAction, Parser, Subcommand};
use std::process::ExitCode;

/// Sparse multimodal models from one file: check it, compile it to shaders, train and run it
#[derive(Parser, Debug)]
#[command(
    name = "gatewright",
    version,
    after_help = "Exit codes: 0 fine, 1 the input is wrong, 2 wrong usage, 101 internal error, \
                  130 interrupted.\nNO_COLOR turns colours off."
)]
pub(crate) struct Cli {
    /// No progress and no warnings
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// More detail (repeatable)
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,
    /// What to do
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// Declares the verbs in the order of the help; each is a module with `Args` and `run`.
macro_rules! verbs {
    ($($(#[doc = $doc:literal])+ $name:ident = $module:ident;)+) => {
        /// What to do.
        #[derive(Subcommand, Debug)]
        pub(crate) enum Verb {
            $($(#[doc = $doc])+ $name($module::Args),)+
        }

        impl Verb {
            /// Does it.
            pub(crate) fn run(&self, out: &mut Output) -> Result<ExitCode, Failure> {
                match self {
                    $(Self::$name(args) => $module::run(args, out),)+
                }
            }
        }
    };
}

verbs! {
    /// Say everything that is wrong with a file, without a device
    Check = check;
    /// Write files in the one canonical form
    Fmt = fmt;
    /// Explain a diagnostic code
    Explain = explain;
    /// Compile an entry or a stage to shaders and a plan
    Compile = compile;
    /// Count parameters, operations, bytes and dispatches
    Cost = cost;
    /// Draw the tensor graph
    Graph = graph;
    /// Evaluate once: tensors in, tensors out
    Run = run;
    /// Train a stage
    Train = train;
    /// Measure a trained run on held-out data
    Eval = eval;
    /// Answer prompts, token by token
    Generate = generate;
    /// List what a name map makes of a checkpoint, or export one
    Weights = weights;
    /// Time an entry or a training step, kernel by kernel
    Bench = bench;
    /// Write a row of numbers for each record, for use elsewhere
    Embed = embed;
    /// Look at what a model is given
    Data = data;
    /// Compare the fused shaders with the reference evaluator
    Verify = verify;
    /// Show what a run did
    Report = report;
    /// Compare the runs of several variants: means, spread, cost
    Compare = compare;
    /// Say what this machine offers
    Doctor = doctor;
    /// Print a completion script for a shell
    Completions = completions;
}

#[cfg(test)]
mod tests {
    use super::Cli;
    use clap::{CommandFactory, Parser};

    #[test]
    fn arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_verb_shows_an_example() {
        for verb in Cli::command().get_subcommands() {
            let help = verb.get_after_help().map(ToString::to_string);
            let example = format!("gatewright {}", verb.get_name());
            assert!(
                help.is_some_and(|text| text.contains(&example)),
                "{} has no example",
                verb.get_name()
            );
        }
    }

    #[test]
    fn wrong_usage_is_refused() {
        for words in [
            &["compile", "a.gate"][..],
            &["compile", "a.gate", "--entry", "x", "--stage", "y"],
            &["check", "a.gate", "--set", "D"],
            &["run", "a.gate", "--entry", "x", "--grads", "g.safetensors"],
            &["check", "-q", "-v", "a.gate"],
        ] {
            let words = std::iter::once(&"gatewright").chain(words);
            assert!(Cli::try_parse_from(words.clone()).is_err(), "{words:?}");
        }
    }
}
