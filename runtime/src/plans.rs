//! Plans for a device: compiled, or read from a file that was written when they were.
//!
//! A plan depends on the graph with the places its nodes come from, on the options of the compiler, on
//! the limits of the device, and on the compiler itself. Its key is the hash of all of these, so whatever
//! changes in a spec, a setting, a device or a build leads to another file.

use crate::cache::{Cache, Key, Kind};
use crate::device::Device;
use gatewright_compiler::compile::{self, CompileError, Pass, Schedule, StageGraph};
use gatewright_compiler::graph::{Graph, OutputKind};
use gatewright_compiler::plan::{Limits, Plan, Split};
use gatewright_compiler::storage::Storage;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Makes plans for one device, or finds them.
#[derive(Clone, Copy, Debug)]
pub struct Planner<'a> {
    limits: &'a Limits,
    cache: Option<&'a Cache>,
}

/// The plan of a stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Planned {
    /// One artefact for all objectives.
    pub plan: Plan,
    /// For each objective, the parameters it has a gradient for.
    pub reached: Vec<BTreeSet<String>>,
}

impl<'a> Planner<'a> {
    /// For an open device, with its cache.
    #[must_use]
    pub fn of(device: &'a Device) -> Self {
        Self {
            limits: device.limits(),
            cache: device.cache(),
        }
    }

    /// For a device that need not be there; every plan is compiled.
    #[must_use]
    pub fn without_cache(limits: &'a Limits) -> Self {
        Self {
            limits,
            cache: None,
        }
    }

    /// For a device that need not be there, with a cache.
    #[must_use]
    pub fn with_cache(limits: &'a Limits, cache: &'a Cache) -> Self {
        Self {
            limits,
            cache: Some(cache),
        }
    }

    /// What plans are made for.
    #[must_use]
    pub fn limits(&self) -> &'a Limits {
        self.limits
    }

    /// The plan of a forward graph: [`compile::compile`].
    ///
    /// # Errors
    /// As there.
    pub fn graph(&self, graph: &Graph, options: &compile::Options) -> Result<Plan, CompileError> {
        let key = || self.key("graph", options, "", [("", graph)]);
        self.found(key, || Ok(compile::compile(graph, options)?.plan))
    }

    /// The plan of several programs, with their parameters in a storage: [`compile::compile_stored`].
    ///
    /// # Errors
    /// As there.
    pub fn programs(
        &self,
        programs: &[(&str, &Graph)],
        options: &compile::Options,
        storage: Option<Storage>,
    ) -> Result<Plan, CompileError> {
        let more = format!("{storage:?}");
        let key = || self.key("programs", options, &more, programs.iter().copied());
        self.found(key, || compile::compile_stored(programs, options, storage))
    }

    /// The plan of a stage: [`compile::compile_stage`].
    ///
    /// # Errors
    /// As there.
    pub fn stage(
        &self,
        graphs: &[StageGraph],
        options: &compile::Options,
        schedule: &Schedule,
    ) -> Result<Planned, CompileError> {
        let key = || {
            let graphs = graphs.iter().flat_map(|it| {
                let whole = it.whole.map(|whole| ("whole", whole));
                [("part", it.graph)].into_iter().chain(whole)
            });
            self.key("stage", options, &format!("{schedule:?}"), graphs)
        };
        self.found(key, || {
            let compiled = compile::compile_stage(graphs, options, schedule)?;
            Ok(Planned {
                reached: compiled
                    .objectives
                    .iter()
                    .map(|it| reached_by(it))
                    .collect(),
                plan: compiled.plan,
            })
        })
    }

    /// What the cache has, or what is made now.
    fn found<T: Serialize + DeserializeOwned>(
        &self,
        key: impl FnOnce() -> Key,
        make: impl FnOnce() -> Result<T, CompileError>,
    ) -> Result<T, CompileError> {
        let Some(cache) = self.cache else {
            return make();
        };
        let key = key();
        if let Some(known) = cache.find_value(Kind::Plan, &key) {
            cache.count(true);
            return Ok(known);
        }
        let made = make()?;
        cache.count(false);
        cache.keep_value(Kind::Plan, &key, &made);
        Ok(made)
    }

    fn key<'g>(
        &self,
        form: &str,
        options: &compile::Options,
        more: &str,
        graphs: impl IntoIterator<Item = (&'g str, &'g Graph)>,
    ) -> Key {
        let about = [
            ("compiler", compile::BUILD.to_owned()),
            ("form", form.to_owned()),
            ("options", format!("{options:?}")),
            ("more", more.to_owned()),
        ];
        let graphs = graphs.into_iter().flat_map(|(name, graph)| {
            [
                ("graph", name.to_owned()),
                ("text", graph.to_text()),
                ("places", places(graph)),
            ]
        });
        Key::of(about.into_iter().chain(graphs))
    }
}

/// Where the nodes of a graph come from, which its text leaves out.
fn places(graph: &Graph) -> String {
    let places = graph
        .ids()
        .map(|id| format!("{:?}\n", graph.node(id).origin));
    places.collect()
}

/// The parameters that the last pass of an objective has a gradient for.
fn reached_by(passes: &[Pass]) -> BTreeSet<String> {
    let outputs = passes.last().into_iter().flat_map(|it| it.graph.outputs());
    outputs
        .filter_map(|output| match &output.kind {
            OutputKind::Gradient(path) => Some(Split::whole(path).to_owned()),
            _ => None,
        })
        .collect()
}
