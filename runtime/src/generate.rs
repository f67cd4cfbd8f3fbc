//! Generation: prompts in, answers out, token by token.
//!
//! Data path: a prompt becomes ids with a marker where its picture stands (`text`); ids become lines of
//! the entry's inputs ([`Layout`]); [`Programs`] reads whole lines once and then takes single tokens,
//! its cache staying where it computes; `search` chooses tokens from logits and ends answers.
//!
//! Invariants
//! - A batch has one line per prompt and beam; every line has a position of its own.
//! - Between two tokens of a line only its token, its place and whether it is seen go to the device, and
//!   one row of logits comes back.
//! - Which token is drawn depends on the seed, the line and the number of the token alone.

mod layout;
mod programs;
mod sample;
mod search;
mod stop;
mod text;

pub use layout::{Change, Layout, Line};
pub use programs::{Programs, Traffic, plan};
pub use sample::{Sampling, choose};
pub use search::{Answer, Ending, Search, Token};
pub use text::{Message, Text};

use crate::data::ImageTransform;
use crate::error::{Error, Result};
use crate::failure::Failure;
use crate::once::{Backend, Tensors};
use crate::project::Project;
use gatewright_compiler::graph::Graph;
use gatewright_compiler::lower::{Decoding, Lowered, Mode, Request, Target, decoding};
use gatewright_compiler::stage::{GenerateSpec, ImageSpec, batch_dim};
use gatewright_compiler::storage::Storage;
use std::path::Path;

/// One prompt as ids, with nothing where its picture stands; and the picture.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Prompt {
    /// The ids; none marks the picture's place.
    pub tokens: Vec<Option<u32>>,
    /// `f32[S, S, 3]`, as the entry reads it.
    pub image: Option<Vec<f32>>,
    /// What was found in the picture, as ids.
    pub findings: Option<Vec<u32>>,
    /// What was found in the picture, as a coloured map like `image`.
    pub map: Option<Vec<f32>>,
}

/// A `generate` section, traced for a number of lines.
#[derive(Debug)]
pub struct Traced {
    /// The entry as a whole: every parameter that it has.
    pub whole: Lowered,
    /// Its programs.
    pub programs: Decoding,
    /// How prompts lie in its inputs.
    pub layout: Layout,
    /// How its matrices are stored.
    pub storage: Option<Storage>,
}

impl Traced {
    /// A program by itself, as what is traced of an entry: what its costs are counted of.
    #[must_use]
    pub fn program(&self, graph: &Graph) -> Lowered {
        let read = graph.parameters();
        let parameters = self.whole.parameters.iter();
        let parameters = parameters.filter(|(path, _)| read.contains_key(*path));
        Lowered {
            graph: graph.clone(),
            dims: self.whole.dims.clone(),
            routers: Vec::new(),
            parameters: parameters
                .map(|(path, info)| (path.clone(), info.clone()))
                .collect(),
            observed: Vec::new(),
        }
    }
}

/// The project with `lines` sequences in a batch.
///
/// # Errors
/// A spec that is wrong with this many, or whose inputs have no common first dim.
pub fn with_lines(project: &Project, lines: usize) -> Result<Project, Failure> {
    let model = &project.model;
    let Some(batch) = batch_dim(model) else {
        let reason = "the inputs have no first dim in common, which would hold the prompts";
        return Err(Error::generation(reason).into());
    };
    let stated = model.dim(&batch).and_then(|dim| dim.size.as_const());
    let mut overrides = project.overrides.clone();
    if stated != Some(lines) {
        overrides.sets.push((batch, lines.to_string()));
    }
    Ok(Project::open(&project.path, &overrides)?)
}

/// Traces a section for the batch that its file states.
///
/// # Errors
/// A decoder that cannot be generated from, or inputs of an open size.
pub fn trace(project: &mut Project, spec: &GenerateSpec) -> Result<Traced, Failure> {
    let request = Request::new(Target::Entry(spec.entry.clone()), Mode::Eval);
    let whole = project.lower(&request)?;
    let (programs, diagnostics) = decoding(&project.model, &request, &spec.changes());
    let Some(programs) = programs else {
        return Err(project.mistakes(diagnostics).into());
    };
    let layout = Layout::of(spec, &whole.graph)?;
    Ok(Traced {
        whole,
        programs,
        layout,
        storage: spec.storage,
    })
}

/// A picture's file as the numbers that a section's entry reads.
///
/// # Errors
/// A file that cannot be read or is no picture.
pub fn picture(spec: &ImageSpec, path: &Path) -> Result<Vec<f32>> {
    let bytes = std::fs::read(path).map_err(Error::file("read", path))?;
    let transform = ImageTransform::of(spec, &spec.rendition);
    let wrong = |cause| Error::generation(format!("`{}`: {cause}", path.display()));
    let picture = transform.decode(&bytes).map_err(wrong)?;
    let mut rows = Vec::new();
    transform.append(&picture, None, &mut rows);
    Ok(rows)
}

/// Everything that is the same for all prompts: programs with their weights, and how they are read.
#[derive(Debug)]
pub struct Generator {
    programs: Programs,
    layout: Layout,
    given: Tensors,
}

impl Generator {
    /// Puts programs and weights where they run; `given` holds the tensors of inputs that get `given`.
    ///
    /// # Errors
    /// A tensor that lacks, and what compiler and device report.
    pub fn new(
        traced: &Traced,
        parameters: &Tensors,
        given: Tensors,
        backend: &Backend,
    ) -> Result<Self, Failure> {
        Ok(Self {
            programs: Programs::new(&traced.programs, traced.storage, parameters, backend)?,
            layout: traced.layout.clone(),
            given,
        })
    }

    /// What ran and what went through the host so far.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        self.programs.traffic()
    }

    /// How prompts lie in the inputs.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Answers prompts, each on as many lines as there are beams; together they are the batch. `told` hears
    /// of every token as it comes, but with beams, whose answer is known at the end alone.
    ///
    /// # Errors
    /// A prompt that does not fit, another number of prompts than there is room for, and what the device
    /// reports.
    pub fn answer(
        &mut self,
        prompts: &[Prompt],
        search: &Search,
        text: Option<&Text>,
        told: &mut dyn FnMut(&Token),
    ) -> Result<Vec<Answer>, Failure> {
        let beams = search.beams.max(1);
        let lines: Vec<Line> = prompts
            .iter()
            .map(|prompt| self.layout.line(prompt))
            .collect::<Result<_>>()?;
        let lines: Vec<Line> = lines
            .into_iter()
            .flat_map(|line| std::iter::repeat_n(line, beams))
            .collect();
        let inputs = self.layout.inputs(&lines, prompts, beams, &self.given)?;
        let logits = self.programs.prefill(&inputs)?;
        search::run(self, lines, logits, search, text, told)
    }

    /// Takes one more token of every line and gives the logits behind it, `[lines, vocabulary]`. A line
    /// that goes on is advanced; one that does not takes its last token again.
    pub(crate) fn step(
        &mut self,
        lines: &mut [Line],
        tokens: &[Option<u32>],
    ) -> Result<Vec<f32>, Failure> {
        for (line, token) in lines.iter_mut().zip(tokens) {
            if let Some(token) = token {
                line.push(*token);
            }
        }
        let words = self.layout.changes(lines);
        self.programs.step(&words)
    }

    /// Line i goes on as line `origin[i]` was.
    pub(crate) fn reorder(&mut self, origin: &[u32]) -> Result<(), Failure> {
        self.programs.reorder(origin)
    }
}
