//! Whole answers through the runtime's generator, of MoE-LLaVA's tiny presets.

use crate::decoders::same;
use crate::generate::weights;
use crate::moe_llava::inputs;
use crate::reference::{Tensors, to_host};
use crate::storage::rounded;
use gatewright_compiler::evaluate::evaluate;
use gatewright_compiler::graph::Graph;
use gatewright_compiler::size::Bindings;
use gatewright_compiler::stage::GenerateSpec;
use gatewright_compiler::tensor::Tensor;
use gatewright_runtime::generate::with_lines;
use gatewright_runtime::generate::{Answer, Generator, Prompt, Search, Text, Token, Traced, trace};
use gatewright_runtime::once::{self, Backend};
use gatewright_runtime::project::{Overrides, Project};
use std::path::{Path, PathBuf};

/// Vocabulary of the tiny presets.
const WORDS: usize = 96;

/// A tiny preset with its section, for any number of lines.
pub struct Tiny {
    project: Project,
    spec: GenerateSpec,
}

/// What a batch of lines needs.
pub struct Batch {
    traced: Traced,
    weights: Tensors,
    /// Ready to answer.
    pub generator: Generator,
}

fn at(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

impl Tiny {
    /// StableLM's preset with room for 20 tokens.
    ///
    /// # Panics
    /// When the spec has mistakes.
    #[must_use]
    pub fn open() -> Self {
        let overrides = Overrides {
            preset: Some("tiny_stablelm".to_owned()),
            sets: vec![("T".to_owned(), "20".to_owned())],
            ..Overrides::default()
        };
        let path = at("../models/moe_llava/moe_llava.gate");
        let mut project =
            Project::open(&path, &overrides).unwrap_or_else(|_| panic!("a sound spec"));
        let experiment = project
            .experiment()
            .unwrap_or_else(|_| panic!("a sound spec"));
        let mut spec = experiment.generation(None).expect("one section").clone();
        (spec.template, spec.stop) = (None, vec!["<end>".to_owned()]);
        Self { project, spec }
    }

    /// With matrices in a storage.
    ///
    /// # Panics
    /// When there is no such storage.
    #[must_use]
    pub fn stored(mut self, storage: &str) -> Self {
        self.spec.storage = Some(storage.parse().expect("a storage"));
        self
    }

    /// With other texts that end answers.
    #[must_use]
    pub fn stopping_at(mut self, stop: &str) -> Self {
        self.spec.stop = vec![stop.to_owned()];
        self
    }

    /// The words of the tests, of which token n is `wn`.
    ///
    /// # Panics
    /// When the fixture is missing.
    #[must_use]
    pub fn text(&self) -> Text {
        let path = at("fixtures/moe_llava/words.json");
        Text::open(&self.project, &self.spec, Some(&path)).unwrap_or_else(|e| panic!("{e}"))
    }

    /// Programs for a number of lines, with the recorded weights.
    ///
    /// # Panics
    /// When something cannot be made.
    #[must_use]
    pub fn batch(&self, lines: usize, backend: &Backend) -> Batch {
        let mut project = with_lines(&self.project, lines).unwrap_or_else(|e| panic!("{e}"));
        let traced = trace(&mut project, &self.spec).unwrap_or_else(|e| panic!("{e}"));
        let weights = weights("stablelm", traced.whole.parameters.keys());
        let parameters = to_host(&weights, &traced.whole.graph);
        let weights = match traced.storage {
            Some(storage) => {
                let programs = traced.programs.programs();
                let graphs: Vec<&Graph> = programs.iter().map(|(_, graph)| *graph).collect();
                rounded(&graphs, weights, storage)
            }
            None => weights,
        };
        let generator = Generator::new(&traced, &parameters, once::Tensors::new(), backend);
        Batch {
            generator: generator.unwrap_or_else(|e| panic!("{e}")),
            traced,
            weights,
        }
    }
}

/// Prompts of five and nine ids about the two recorded pictures.
///
/// # Panics
/// When the fixture is missing.
#[must_use]
pub fn prompts() -> [Prompt; 2] {
    let picture = &inputs("stablelm")["image"];
    let half = picture.data.len() / 2;
    let image = |number: usize| {
        let pixels = &picture.data[number * half..(number + 1) * half];
        Some(pixels.iter().map(|x| *x as f32).collect())
    };
    let ids = |ids: &[Option<u32>]| ids.to_vec();
    [
        Prompt {
            tokens: ids(&[Some(5), None, Some(9), Some(33), Some(7)]),
            image: image(0),
            ..Prompt::default()
        },
        Prompt {
            tokens: ids(&[
                None,
                Some(2),
                Some(60),
                Some(61),
                Some(8),
                Some(8),
                Some(90),
                Some(4),
                Some(1),
            ]),
            image: image(1),
            ..Prompt::default()
        },
    ]
}

impl Batch {
    /// Answers, and what was told on the way.
    ///
    /// # Panics
    /// When it fails.
    pub fn answer(
        &mut self,
        prompts: &[Prompt],
        search: &Search,
        text: Option<&Text>,
    ) -> (Vec<Answer>, Vec<Token>) {
        let mut told = Vec::new();
        let mut tell = |token: &Token| told.push(token.clone());
        let answers = self.generator.answer(prompts, search, text, &mut tell);
        (answers.unwrap_or_else(|e| panic!("{e}")), told)
    }

    /// The logarithm of an answer's probability by recomputing all places of the whole entry.
    ///
    /// # Panics
    /// When the evaluation fails.
    #[must_use]
    pub fn recomputed(&self, prompt: &Prompt, answer: &[u32]) -> f64 {
        let layout = self.generator.layout();
        let mut longer = prompt.clone();
        longer.tokens.extend(answer.iter().copied().map(Some));
        let line = layout.line(&longer).unwrap_or_else(|e| panic!("{e}"));
        let inputs = layout
            .inputs(
                std::slice::from_ref(&line),
                &[longer],
                1,
                &once::Tensors::new(),
            )
            .unwrap_or_else(|e| panic!("{e}"));
        let inputs = crate::reference::from_host(&inputs);
        let graph = &self.traced.whole.graph;
        let found = evaluate(graph, &inputs, &self.weights, &Bindings::new(), 0, 0);
        let logits = &found.unwrap_or_else(|e| panic!("{e}"))["logits"];
        let first = line.position() - answer.len();
        let log = |(number, id): (usize, &u32)| {
            let row = &logits.data[(first + number) * WORDS..(first + number + 1) * WORDS];
            let sum: f64 = row.iter().map(|x| x.exp()).sum();
            row[*id as usize] - sum.ln()
        };
        answer.iter().enumerate().map(log).sum()
    }
}

/// Panics unless an answer's probability is what recomputing gives.
///
/// # Panics
/// When it is not.
pub fn check_probability(batch: &Batch, prompt: &Prompt, answer: &Answer, tolerance: f64) {
    let expected = batch.recomputed(prompt, &answer.tokens);
    let found = Tensor::scalar(answer.log_probability);
    same(
        "log probability",
        &found,
        &Tensor::scalar(expected),
        tolerance,
    );
}
