//! The evaluations of a stage, prepared once and run with any parameters.

use super::answers::Answers;
use super::embed::Encoder;
use super::guess::Guess;
use super::means::Observed;
use super::probe::Probe;
use super::retrieval::{Captioned, dot, examples, measure};
use super::routing::{Observer, RouterUse};
use super::rows::{RowMeasure, Seen};
use super::{Evaluation, Example};
use crate::data::{self, BadRecords, Batches, Blob, Loading, Record, Split, prompt};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::experiment;
use crate::failure::Failure;
use crate::frozen::{self, Frozen};
use crate::once::Tensors;
use crate::project::Project;
use crate::tensor::{HostData, HostTensor};
use base64::Engine;
use gatewright_compiler::lower::Target;
use gatewright_compiler::stage::{
    Classes, EvalSpec, Experiment, FindingsUse, Measure, Pattern, StageSpec, Template,
};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// What is read instead of what the spec states.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `--data NAME=SOURCE`: takes the place of everything that is evaluated of this data.
    pub data: BTreeMap<String, PathBuf>,
    /// What to do with records that lack something.
    pub bad: BadRecords,
    /// Examples of each evaluation.
    pub examples: usize,
    /// The run folder that keeps tokenizers trained on the data.
    pub run: Option<PathBuf>,
}

/// Evaluations with their data and encoders.
#[derive(Debug)]
pub struct Evaluator {
    jobs: Vec<Job>,
    guesses: Vec<Guess>,
    answers: Vec<Answers>,
    observed: Vec<Observed>,
    probes: Vec<Probe>,
    encoders: Vec<Encoder>,
    sets: Vec<Set>,
    /// Computes what entries give of the data.
    frozen: Option<Frozen>,
    observer: Option<Observer>,
    examples: usize,
}

/// A part of a data set.
#[derive(Debug)]
struct Set {
    name: String,
    batches: Batches,
    /// The inputs that entries compute, with the entry of each.
    computed: BTreeMap<String, String>,
}

/// One comparison.
#[derive(Debug)]
struct Job {
    name: String,
    set: usize,
    /// Indices of the encoders of both sides.
    sides: [usize; 2],
    /// What the sides are called.
    words: [String; 2],
    measures: Vec<Measure>,
    prompts: Vec<Template>,
    classes: Option<Classes>,
}

/// Collects jobs; data and encoders are shared between them.
struct Builder<'a> {
    project: &'a mut Project,
    experiment: &'a Experiment,
    stage: &'a StageSpec,
    device: &'a Device,
    overrides: &'a Overrides,
    known: BTreeMap<String, usize>,
    evaluator: Evaluator,
}

impl Evaluator {
    /// Prepares the evaluations that a stage runs, and every metric on the held-out parts of its data.
    ///
    /// # Errors
    /// Mistakes in the spec, data that cannot be used, and what compiler and device report.
    pub fn new(
        project: &mut Project,
        experiment: &Experiment,
        stage: &StageSpec,
        device: &Device,
        overrides: &Overrides,
    ) -> Result<Self, Failure> {
        let mut builder = Builder {
            project,
            experiment,
            stage,
            device,
            overrides,
            known: BTreeMap::new(),
            evaluator: Self {
                jobs: Vec::new(),
                guesses: Vec::new(),
                answers: Vec::new(),
                observed: Vec::new(),
                probes: Vec::new(),
                frozen: None,
                encoders: Vec::new(),
                sets: Vec::new(),
                observer: None,
                examples: overrides.examples,
            },
        };
        for name in &stage.evaluate {
            if let Some(eval) = experiment.eval(name) {
                builder.eval(eval)?;
            }
        }
        builder.metrics()?;
        builder.routing()?;
        builder.frozen()?;
        Ok(builder.evaluator)
    }

    /// Whether there is nothing to evaluate.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty()
            && self.guesses.is_empty()
            && self.answers.is_empty()
            && self.observed.is_empty()
            && self.probes.is_empty()
    }

    /// Measures everything.
    ///
    /// # Errors
    /// Parameters that do not fit, results that are no rows, and what data and device report.
    pub fn run(&mut self, parameters: &Tensors) -> Result<Vec<Evaluation>> {
        for encoder in &self.encoders {
            encoder.load(parameters)?;
        }
        if let Some(frozen) = &mut self.frozen {
            frozen.load(parameters, None)?;
        }
        let mut rows: BTreeMap<(usize, usize), Vec<Vec<f32>>> = BTreeMap::new();
        let mut evaluations = Vec::new();
        // Classes are embedded by themselves.
        let second = |job: &Job| job.classes.is_none().then_some((job.sides[1], job.set));
        let compared = self.jobs.iter();
        let compared =
            compared.flat_map(|job| second(job).into_iter().chain([(job.sides[0], job.set)]));
        let probed = self.probes.iter();
        let probed = probed.flat_map(|it| it.sets.map(|set| (it.encoder, set)));
        let needed: BTreeSet<(usize, usize)> = compared.chain(probed).collect();
        for (side, set) in needed {
            let (encoder, set_of) = (&mut self.encoders[side], &self.sets[set]);
            let read = encoder.inputs().map(str::to_owned).collect();
            let mut complete = completing(&mut self.frozen, set_of, read);
            let all = encoder.all(&set_of.batches, &mut complete)?;
            rows.insert((side, set), all);
        }
        for job in &self.jobs {
            let Set { name, batches, .. } = &self.sets[job.set];
            let labels = labels(job, batches)?;
            let candidates = match &job.classes {
                None => {
                    let partner = rows.get(&(job.sides[1], job.set));
                    let partner = partner.map_or(&[][..], Vec::as_slice);
                    labels.first.iter().map(|at| partner[*at].clone()).collect()
                }
                Some(_) => classes(job, &labels.captions, batches, &mut self.encoders)?,
            };
            let all = Vec::new();
            let queries = rows.get(&(job.sides[0], job.set)).unwrap_or(&all);
            let queries: Vec<Vec<f32>> = labels
                .records
                .iter()
                .map(|at| queries[*at].clone())
                .collect();
            let data = Captioned {
                queries: &queries,
                captions: &labels.captions,
                candidates: &candidates,
                label: &labels.label,
                sides: [&job.words[0], &job.words[1]],
            };
            let scores = job.measures.iter().flat_map(|it| measure(it, &data));
            evaluations.push(Evaluation {
                name: job.name.clone(),
                data: name.clone(),
                records: queries.len(),
                choices: candidates.len(),
                scores: scores.collect(),
                examples: shown(&data, &labels, batches, self.examples),
                means: Vec::new(),
            });
        }
        let guesses = self.guesses.iter().map(|it| it as &dyn RowMeasure);
        let answers = self.answers.iter().map(|it| it as &dyn RowMeasure);
        let observed = self.observed.iter().map(|it| it as &dyn RowMeasure);
        for measure in guesses.chain(answers).chain(observed) {
            let (encoder, set) = measure.reads();
            let (encoder, set) = (&mut self.encoders[encoder], &self.sets[set]);
            let read = encoder.inputs().map(str::to_owned).collect();
            evaluations.push(measure.run(Seen {
                data: &set.name,
                batches: &set.batches,
                encoder,
                complete: &mut completing(&mut self.frozen, set, read),
            })?);
        }
        for probe in &self.probes {
            let sets = probe.sets.map(|set| &self.sets[set]);
            let none = Vec::new();
            let rows = probe.sets.map(|set| {
                let own = rows.get(&(probe.encoder, set)).unwrap_or(&none);
                own.as_slice()
            });
            let batches = sets.map(|set| &set.batches);
            evaluations.push(probe.run(&sets[0].name, batches, rows)?);
        }
        Ok(evaluations)
    }

    /// What every router does with the first evaluated data, when there are routers.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn routing(&mut self, parameters: &Tensors) -> Result<Vec<RouterUse>> {
        let Some(set) = self.sets.first() else {
            return Ok(Vec::new());
        };
        let Some(observer) = &mut self.observer else {
            return Ok(Vec::new());
        };
        let all = set.computed.keys().cloned().collect();
        let mut complete = completing(&mut self.frozen, set, all);
        observer.run(parameters, &set.batches, &mut complete)
    }
}

impl Builder<'_> {
    fn eval(&mut self, eval: &EvalSpec) -> Result<(), Failure> {
        let data = match &eval.data {
            Some(data) => data.clone(),
            None => self.stage_data(&eval.name)?,
        };
        let set = self.set(&data, eval.split.as_deref(), &eval.findings)?;
        let mut compared = Vec::new();
        for measure in &eval.metrics {
            match measure {
                Measure::Guess {
                    scores,
                    classes,
                    keep,
                    at,
                } => {
                    let values = [scores, classes].into_iter().chain(keep).cloned();
                    let guess = Guess {
                        name: eval.name.clone(),
                        set,
                        encoder: self.encoder(Target::Values(values.collect()))?,
                        scores: scores.clone(),
                        at: at.clone(),
                    };
                    self.evaluator.guesses.push(guess);
                }
                Measure::Answers {
                    guesses,
                    labels,
                    counted,
                    by,
                } => {
                    let values = [guesses, labels, counted].map(String::clone);
                    let answers = Answers {
                        name: eval.name.clone(),
                        set,
                        encoder: self.encoder(Target::Values(values.into()))?,
                        by: by.clone(),
                        examples: self.overrides.examples,
                    };
                    self.evaluator.answers.push(answers);
                }
                Measure::Means {
                    of,
                    observed,
                    keep,
                    by,
                    names,
                } => {
                    let values = [of].into_iter().chain(keep).cloned().collect();
                    let observed = Observed {
                        name: eval.name.clone(),
                        set,
                        encoder: self.observing(values, observed)?,
                        keeps: keep.is_some(),
                        by: by.clone(),
                        names: names.clone(),
                    };
                    self.evaluator.observed.push(observed);
                }
                Measure::Probe { label } => self.probe(eval, &data, set, label)?,
                measure => compared.push(measure.clone()),
            }
        }
        if compared.is_empty() && !eval.metrics.is_empty() {
            return Ok(());
        }
        let [first, second] = eval.entries.as_slice() else {
            let reason = "it needs two entries to compare: `entry = (embed_image, embed_text)`";
            return Err(refuse(&eval.name, reason).into());
        };
        let sides = [
            self.encoder(Target::Entry(first.clone()))?,
            self.encoder(Target::Entry(second.clone()))?,
        ];
        let words = sides.map(|side| {
            let inputs: Vec<&str> = self.evaluator.encoders[side].inputs().collect();
            inputs.join("+")
        });
        let measures = match (eval.metrics.is_empty(), &eval.classes) {
            (false, _) => compared,
            (true, Some(_)) => vec![Measure::Accuracy { at: vec![1] }],
            (true, None) => vec![Measure::Recall { at: vec![1] }],
        };
        self.evaluator.jobs.push(Job {
            name: eval.name.clone(),
            set,
            sides,
            words,
            measures,
            prompts: eval.prompts.clone(),
            classes: eval.classes.clone(),
        });
        Ok(())
    }

    /// A linear classifier on what the entry of an evaluation gives.
    fn probe(
        &mut self,
        eval: &EvalSpec,
        data: &str,
        set: usize,
        label: &str,
    ) -> Result<(), Failure> {
        if eval.split.is_none() {
            let reason = "a probe is tested on a held-out part of its data: `data = NAME.PART`";
            return Err(refuse(&eval.name, reason).into());
        }
        let Some(entry) = eval.entries.first() else {
            return Err(refuse(&eval.name, "a probe needs an entry").into());
        };
        let trained = self.set(data, None, &eval.findings)?;
        let encoder = self.encoder(Target::Entry(entry.clone()))?;
        let inputs: Vec<&str> = self.evaluator.encoders[encoder].inputs().collect();
        let word = inputs.join("+");
        self.evaluator.probes.push(Probe {
            name: eval.name.clone(),
            sets: [set, trained],
            encoder,
            word,
            label: label.to_owned(),
        });
        Ok(())
    }

    /// Prepares the entries that compute what some evaluation reads.
    fn frozen(&mut self) -> Result<(), Failure> {
        let encoders = self.evaluator.encoders.iter();
        let read: BTreeSet<&str> = encoders.flat_map(Encoder::inputs).collect();
        let computed = self.evaluator.sets.iter().flat_map(|set| &set.computed);
        let entries: BTreeSet<String> = computed
            .filter(|(input, _)| read.contains(input.as_str()) || self.evaluator.observer.is_some())
            .map(|(_, entry)| entry.clone())
            .collect();
        if !entries.is_empty() {
            let bindings = experiment::bindings(self.project, self.stage);
            let frozen = Frozen::new(self.project, entries, &bindings, self.device)?;
            self.evaluator.frozen = Some(frozen);
        }
        Ok(())
    }

    /// Every `metric`, on every held-out part of the stage's data.
    fn metrics(&mut self) -> Result<(), Failure> {
        let experiment = self.experiment;
        if experiment.metrics.is_empty() || self.stage.data.is_empty() {
            return Ok(());
        }
        let data = self.stage_data("metric")?;
        let parts = experiment.data(&data).map(|data| data.heldout.as_slice());
        let parts: Vec<&str> = parts
            .unwrap_or_default()
            .iter()
            .map(|(part, _)| part.as_str())
            .collect();
        for metric in &experiment.metrics {
            for part in &parts {
                let set = self.set(&data, Some(part), &FindingsUse::All)?;
                let [first, second] = metric.of.clone();
                let sides = [
                    self.encoder(Target::Values(vec![first]))?,
                    self.encoder(Target::Values(vec![second]))?,
                ];
                self.evaluator.jobs.push(Job {
                    name: metric.name.clone(),
                    set,
                    sides,
                    words: metric.of.clone(),
                    measures: vec![metric.measure.clone()],
                    prompts: Vec::new(),
                    classes: None,
                });
            }
        }
        Ok(())
    }

    fn routing(&mut self) -> Result<(), Failure> {
        let objective = self
            .stage
            .objectives()
            .first()
            .map(|name| (*name).to_owned());
        if let (Some(objective), false) = (objective, self.evaluator.sets.is_empty()) {
            let bindings = experiment::bindings(self.project, self.stage);
            self.evaluator.observer =
                Observer::new(self.project, objective, &bindings, self.device)?;
        }
        Ok(())
    }

    fn stage_data(&self, name: &str) -> Result<String> {
        let first = self.stage.data.first().map(|share| share.data.clone());
        first.ok_or_else(|| refuse(name, "it states no data, and neither does the stage"))
    }

    /// The index of a part of the data, opened once.
    fn set(
        &mut self,
        data: &str,
        split: Option<&str>,
        findings: &FindingsUse,
    ) -> Result<usize, Failure> {
        let name = split.map_or(data.to_owned(), |split| format!("{data}.{split}"));
        let key = format!("data {name} {findings:?}");
        if let Some(index) = self.known.get(&key) {
            return Ok(*index);
        }
        let Some(spec) = self.experiment.data(data) else {
            return Err(refuse(&name, "there is no such data").into());
        };
        let rows = self
            .stage
            .micro_batch()
            .and_then(|rows| usize::try_from(rows).ok());
        let Some(batch) = rows else {
            return Err(refuse(&name, "the stage states no `batch`").into());
        };
        let loading = Loading {
            batch,
            seed: 0,
            bad: self.overrides.bad,
            instead: self.overrides.data.get(data).map(PathBuf::as_path),
            findings: Some(findings),
            run: self.overrides.run.as_deref(),
        };
        let split = split.map_or(Split::Trained, Split::HeldOut);
        let locate = |path: &_| self.project.locate(path);
        let batches = data::open(spec, split, &loading, &locate).map_err(Error::from)?;
        let index = self.evaluator.sets.len();
        self.evaluator.sets.push(Set {
            name: name.clone(),
            batches,
            computed: frozen::computed(spec),
        });
        self.known.insert(key, index);
        Ok(index)
    }

    /// The index of an encoder of values and of what is observed on their way.
    fn observing(&mut self, values: Vec<String>, pattern: &Pattern) -> Result<usize, Failure> {
        let bindings = experiment::bindings(self.project, self.stage);
        let encoder = Encoder::observing(self.project, values, pattern, &bindings, self.device)?;
        self.evaluator.encoders.push(encoder);
        Ok(self.evaluator.encoders.len() - 1)
    }

    /// The index of an encoder, compiled once.
    fn encoder(&mut self, what: Target) -> Result<usize, Failure> {
        let key = format!("{what:?}");
        if let Some(index) = self.known.get(&key) {
            return Ok(*index);
        }
        let bindings = experiment::bindings(self.project, self.stage);
        let encoder = Encoder::new(self.project, what, &bindings, self.device)?;
        self.evaluator.encoders.push(encoder);
        let index = self.evaluator.encoders.len() - 1;
        self.known.insert(key, index);
        Ok(index)
    }
}

/// Adds what entries compute of the inputs that are read to a batch of a set.
fn completing(
    frozen: &mut Option<Frozen>,
    set: &Set,
    read: BTreeSet<String>,
) -> impl FnMut(&mut Tensors) -> Result<()> {
    let computed = set.computed.iter();
    let computed = computed.filter(|(input, _)| read.contains(*input));
    let computed: BTreeMap<String, String> = computed
        .map(|(input, entry)| (input.clone(), entry.clone()))
        .collect();
    move |batch| match frozen {
        Some(frozen) => frozen.complete(&computed, batch),
        None => Ok(()),
    }
}

fn refuse(name: &str, reason: &str) -> Error {
    Error::Evaluation {
        name: name.to_owned(),
        reason: reason.to_owned(),
    }
}

/// Distinct captions, and which records bear them.
struct Labels {
    captions: Vec<String>,
    /// The first record of each caption.
    first: Vec<usize>,
    /// The records that count.
    records: Vec<usize>,
    /// The caption of each of these.
    label: Vec<usize>,
}

fn labels(job: &Job, batches: &Batches) -> Result<Labels> {
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    let mut labels = Labels {
        captions: Vec::new(),
        first: Vec::new(),
        records: Vec::new(),
        label: Vec::new(),
    };
    let fixed = matches!(job.classes, Some(Classes::Names(_)));
    if let Some(Classes::Names(names)) = &job.classes {
        labels.captions.clone_from(names);
        places = names.iter().cloned().zip(0..).collect();
    }
    for (index, record) in batches.records().iter().enumerate() {
        let caption = match &job.classes {
            Some(Classes::Field(field)) => match record.fields.get(field) {
                Some(Value::String(class)) => class.clone(),
                // A record without a class is not asked about.
                _ => continue,
            },
            _ => batches.caption(record),
        };
        let place = match places.get(&caption) {
            Some(place) => *place,
            // A record of another class is not asked about.
            None if fixed => continue,
            None => {
                places.insert(caption.clone(), labels.captions.len());
                labels.captions.push(caption);
                labels.first.push(index);
                labels.captions.len() - 1
            }
        };
        labels.records.push(index);
        labels.label.push(place);
    }
    match labels.records.is_empty() {
        true => Err(refuse(&job.name, "no record is of one of its classes")),
        false => Ok(labels),
    }
}

/// One row for each class: the mean over the prompts, of length one (as CLIP and LiT do it).
fn classes(
    job: &Job,
    names: &[String],
    batches: &Batches,
    encoders: &mut [Encoder],
) -> Result<Vec<Vec<f32>>> {
    let Some((input, text)) = batches.text() else {
        return Err(refuse(&job.name, "classes need data with a text"));
    };
    let plain = Template::parse("{}", 1.0).map_err(|reason| refuse(&job.name, &reason))?;
    let prompts = match job.prompts.is_empty() {
        true => std::slice::from_ref(&plain),
        false => &job.prompts,
    };
    let texts: Vec<String> = names
        .iter()
        .flat_map(|class| prompts.iter().map(move |template| prompt(template, class)))
        .collect();
    let batch = batches.rows_of_a_batch();
    let mut rows = Vec::with_capacity(texts.len());
    for part in texts.chunks(batch) {
        let mut tokens = Vec::new();
        // The last batch is filled up with its first text.
        for text_of in (0..batch).map(|at| part.get(at).unwrap_or(&part[0])) {
            let taken = text.tokenize.append(text_of, &mut tokens);
            taken.map_err(|fault| refuse(&job.name, &format!("\"{text_of}\": {fault}")))?;
        }
        let tensor = HostTensor {
            shape: vec![batch, text.tokenize.length()],
            data: HostData::U32(tokens),
        };
        let mut found =
            encoders[job.sides[1]].rows(&BTreeMap::from([(input.to_owned(), tensor)]))?;
        found.truncate(part.len());
        rows.extend(found);
    }
    Ok(rows.chunks(prompts.len()).map(mean_of_length_one).collect())
}

fn mean_of_length_one(rows: &[Vec<f32>]) -> Vec<f32> {
    let width = rows.first().map_or(0, Vec::len);
    let mut sum: Vec<f32> = vec![0.0; width];
    for row in rows {
        sum.iter_mut()
            .zip(row)
            .for_each(|(sum, value)| *sum += value);
    }
    let length = dot(&sum, &sum).sqrt().max(1e-12) as f32;
    sum.iter().map(|value| value / length).collect()
}

/// Examples with their pictures.
fn shown(data: &Captioned, labels: &Labels, batches: &Batches, wanted: usize) -> Vec<Example> {
    if wanted == 0 {
        return Vec::new();
    }
    let record = |at: &usize| &batches.records()[*at];
    let keys: Vec<String> = labels
        .records
        .iter()
        .map(|at| record(at).key.clone())
        .collect();
    let mut found = examples(data, &keys, wanted);
    for example in &mut found {
        let own = labels
            .records
            .iter()
            .map(record)
            .find(|it| it.key == example.key);
        example.picture = own.and_then(picture);
    }
    found
}

/// A record's picture as a `data:` address; none where it cannot be read any more.
pub(super) fn picture(record: &Record) -> Option<String> {
    let bytes = record.image.as_ref().map(Blob::bytes)?.ok()?;
    let kind = match bytes.as_ref() {
        [0x89, b'P', b'N', b'G', ..] => "png",
        [0xff, 0xd8, ..] => "jpeg",
        _ => "webp",
    };
    let text = base64::engine::general_purpose::STANDARD.encode(bytes.as_ref());
    Some(format!("data:image/{kind};base64,{text}"))
}
