//! `gatewright generate`: prompts and pictures in, answers out as they come.

use crate::arguments::{DeviceChoice, Form, Seed, Spec};
use crate::failure::Failure;
use crate::output::Output;
use crate::project;
use gatewright_compiler::stage::{GenerateSpec, WeightsSpec};
use gatewright_runtime::checkpoint::read_tensors;
use gatewright_runtime::data::Findings;
use gatewright_runtime::generate::{
    self, Answer, Generator, Message, Prompt, Sampling, Search, Text, Token, Traced,
};
use gatewright_runtime::once::{Backend, Tensors};
use gatewright_runtime::project::Project;
use gatewright_runtime::weights;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Arguments of `generate`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  \
                        gatewright generate models/moe_llava/moe_llava.gate --map stablelm --weights w.safetensors --image cat.png --prompt 'What is this?'\n  \
                        gatewright generate model.gate --weights w.safetensors --prompt Hello --temperature 0.8 --top-p 0.95 --seed 3 --json")]
pub(crate) struct Args {
    #[command(flatten)]
    spec: Spec,
    /// The `generate` section; the only one without it
    #[arg(long, value_name = "NAME")]
    section: Option<String>,
    /// Parameters
    #[arg(long, value_name = "FILE")]
    weights: PathBuf,
    /// The `weights` item that maps foreign names
    #[arg(long, value_name = "NAME")]
    map: Option<String>,
    /// What to answer (repeatable: answered together, whatever their lengths)
    #[arg(
        long,
        value_name = "TEXT",
        required_unless_present = "tokens",
        conflicts_with = "tokens"
    )]
    prompt: Vec<String>,
    /// A prompt as ids, such as `5,image,9`, where `image` is the picture's place (repeatable)
    #[arg(long, value_name = "IDS", value_parser = tokens)]
    tokens: Vec<Ids>,
    /// The picture of all prompts, or one for each (repeatable)
    #[arg(long, value_name = "FILE")]
    image: Vec<PathBuf>,
    /// What was found in the picture of all prompts, or of each (JSON, repeatable); nothing without it
    #[arg(long, value_name = "FILE")]
    findings: Vec<PathBuf>,
    /// Tensors by input: those that the section calls `given`, and any that replace what it makes
    #[arg(long, value_name = "FILE")]
    inputs: Option<PathBuf>,
    /// A tokenizer instead of the one that the section states
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// Most tokens of an answer; as many as there is room for without it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max_tokens: Option<u64>,
    /// Draw tokens, the likely ones less surely the higher this is; 0 takes the most likely one
    #[arg(long, value_name = "T", default_value_t = 0.0, value_parser = not_negative)]
    temperature: f32,
    /// Draw from this many of the most likely tokens; 0 for all
    #[arg(long, value_name = "K", default_value_t = 0)]
    top_k: usize,
    /// Draw from the most likely tokens that together have this probability
    #[arg(long, value_name = "P", default_value_t = 1.0, value_parser = share)]
    top_p: f32,
    /// Follow this many answers side by side and take the most likely one
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..),
          conflicts_with = "temperature")]
    beams: u64,
    /// Above 1, beams prefer longer answers; below, shorter ones
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    length_penalty: f64,
    /// Another text that ends an answer (repeatable)
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Another id that ends an answer (repeatable)
    #[arg(long, value_name = "ID")]
    end: Vec<u32>,
    #[command(flatten)]
    device: DeviceChoice,
    #[command(flatten)]
    seed: Seed,
    #[command(flatten)]
    form: Form,
}

/// A prompt as ids; none marks the picture's place.
#[derive(Clone, Debug)]
struct Ids(Vec<Option<u32>>);

fn tokens(text: &str) -> Result<Ids, String> {
    let id = |word: &str| match word.trim() {
        "image" => Ok(None),
        word => word
            .parse()
            .map(Some)
            .map_err(|_| format!("`{word}` is no token id")),
    };
    text.split(',').map(id).collect::<Result<_, _>>().map(Ids)
}

fn not_negative(text: &str) -> Result<f32, String> {
    let value: f32 = text.parse().map_err(|_| format!("`{text}` is no number"))?;
    let fits = value.is_finite() && value >= 0.0;
    fits.then_some(value)
        .ok_or_else(|| "it is zero or more".to_owned())
}

fn share(text: &str) -> Result<f32, String> {
    let value = not_negative(text)?;
    let fits = value > 0.0 && value <= 1.0;
    fits.then_some(value)
        .ok_or_else(|| "it lies in 0 to 1, and is not 0".to_owned())
}

/// Answers and prints.
pub(crate) fn run(args: &Args, out: &mut Output) -> Result<ExitCode, Failure> {
    let mut project = project::open(&args.spec, out)?;
    let experiment = project::experiment(&mut project, out)?;
    let mut section = experiment
        .generation(args.section.as_deref())
        .map_err(|diagnostic| project.mistakes(vec![*diagnostic]))?
        .clone();
    section.stop.extend(args.stop.iter().cloned());
    let search = search(args);
    let count = args.prompt.len().max(args.tokens.len());
    let mut project = generate::with_lines(&project, count * search.beams)?;
    let traced = generate::trace(&mut project, &section)?;
    let text = text(args, &project, &section)?;
    let mut prompts = prompts(args, &section, &traced, text.as_ref())?;
    findings(args, &section, &traced, text.as_ref(), &mut prompts, out)?;
    let parameters = parameters(args, &mut project, &traced)?;
    let given = args.inputs.as_deref().map(read_tensors).transpose()?;
    let backend = match args.device.device.as_str() {
        "reference" => Backend::Reference,
        _ => Backend::Device(args.device.open(out)?),
    };
    let given = given.unwrap_or_default();
    let mut generator = Generator::new(&traced, &parameters, given, &backend)?;
    let streams = !args.form.json && count == 1 && search.beams == 1;
    let mut told = |token: &Token| {
        let words = match &text {
            Some(_) => token.words.clone(),
            None => format!("{} ", token.id),
        };
        if streams {
            // A reader who went away is noticed when the line ends.
            let _ = write!(out, "{words}").and_then(|()| out.flush());
        }
    };
    let answers = generator.answer(&prompts, &search, text.as_ref(), &mut told)?;
    let speed = Speed::of(&generator, &answers, &backend)?;
    if args.form.json {
        writeln!(out, "{}", document(&prompts, &answers, &speed))?;
    } else {
        if streams {
            writeln!(out)?;
        } else {
            for (index, answer) in answers.iter().enumerate() {
                writeln!(out, "{}: {}", index + 1, shown(answer))?;
            }
        }
        out.progress(&speed.text());
    }
    Ok(ExitCode::SUCCESS)
}

fn search(args: &Args) -> Search {
    let whole = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
    Search {
        sampling: Sampling {
            temperature: args.temperature,
            top_k: args.top_k,
            top_p: args.top_p,
            seed: args.seed.seed,
        },
        beams: whole(args.beams),
        length_penalty: args.length_penalty,
        most: args.max_tokens.map_or(usize::MAX, whole),
        ends: args.end.clone(),
    }
}

/// The tokenizer; prompts of ids do without one where none is there.
fn text(args: &Args, project: &Project, section: &GenerateSpec) -> Result<Option<Text>, Failure> {
    let stated = section.tokenizer.as_ref().map(|path| project.locate(path));
    let there = args.tokenizer.is_some() || stated.is_some_and(|path| path.exists());
    if args.prompt.is_empty() && !there {
        return Ok(None);
    }
    Ok(Some(Text::open(
        project,
        section,
        args.tokenizer.as_deref(),
    )?))
}

fn prompts(
    args: &Args,
    section: &GenerateSpec,
    traced: &Traced,
    text: Option<&Text>,
) -> Result<Vec<Prompt>, Failure> {
    let pictured = traced.layout.rows > 0;
    let mut ids: Vec<Vec<Option<u32>>> = args.tokens.iter().map(|ids| ids.0.clone()).collect();
    for (words, text) in args.prompt.iter().filter_map(|words| Some((words, text?))) {
        let message = Message {
            role: "user".to_owned(),
            content: words.clone(),
        };
        ids.push(text.prompt(&[message], pictured)?);
    }
    let images = pictures(args, section, ids.len())?;
    let prompts = ids.into_iter().zip(images);
    let prompt = |(tokens, image)| Prompt {
        tokens,
        image,
        ..Prompt::default()
    };
    Ok(prompts.map(prompt).collect())
}

/// Tells each prompt what was found in its picture, and the user what was left out of it.
fn findings(
    args: &Args,
    section: &GenerateSpec,
    traced: &Traced,
    text: Option<&Text>,
    prompts: &mut [Prompt],
    out: &mut Output,
) -> Result<(), Failure> {
    let (Some(spec), Some(image)) = (&section.findings, &section.image) else {
        return match args.findings.is_empty() {
            true => Ok(()),
            false => {
                let message = format!("section `{}` tells of no findings", section.name);
                Err(Failure::Usage(message))
            }
        };
    };
    let all = args.findings.iter().map(|path| Findings::read(path));
    let all: Vec<Findings> = all.collect::<Result<_, _>>()?;
    if all.len() > 1 && all.len() != prompts.len() {
        let (found, count) = (all.len(), prompts.len());
        let message = format!("{found} findings for {count} prompts: give one, or one for each");
        return Err(Failure::Usage(message));
    }
    let nothing = Findings::default();
    for (index, prompt) in prompts.iter_mut().enumerate() {
        let found = all.get(index).or(all.first()).unwrap_or(&nothing);
        prompt.map = Some(found.coloured(spec, image));
        let told = found.verbalise(spec);
        for ((kind, reason), count) in &told.cut {
            out.progress(&format!("findings: {count} {kind} left out, {reason}"));
        }
        if let Some(text) = text {
            let (ids, cut) = traced.layout.told(&text.ids(&told.text)?);
            if cut > 0 {
                out.progress(&format!("findings: {cut} tokens cut, for want of room"));
            }
            prompt.findings = Some(ids);
        }
    }
    Ok(())
}

/// A picture for each prompt.
fn pictures(
    args: &Args,
    section: &GenerateSpec,
    count: usize,
) -> Result<Vec<Option<Vec<f32>>>, Failure> {
    let read = |path: &Path| match &section.image {
        Some(image) => Ok(generate::picture(image, path)?),
        None => {
            let name = &section.name;
            let message = format!("section `{name}` reads no picture; leave `--image` out");
            Err(Failure::Usage(message))
        }
    };
    match args.image.as_slice() {
        [] => Ok(vec![None; count]),
        [one] => Ok(vec![Some(read(one)?); count]),
        all if all.len() == count => all.iter().map(|path| read(path).map(Some)).collect(),
        all => {
            let found = all.len();
            let message =
                format!("{found} pictures for {count} prompts: give one, or one for each");
            Err(Failure::Usage(message))
        }
    }
}

fn parameters(args: &Args, project: &mut Project, traced: &Traced) -> Result<Tensors, Failure> {
    let given = read_tensors(&args.weights)?;
    let Some(name) = &args.map else {
        return Ok(given);
    };
    let map = map(project, name)?;
    let needed = weights::shapes(&traced.whole);
    Ok(weights::read(
        project,
        &map,
        &needed,
        &BTreeMap::new(),
        &given,
    )?)
}

fn map(project: &mut Project, name: &str) -> Result<WeightsSpec, Failure> {
    let experiment = project.experiment()?;
    experiment.weights(name).cloned().ok_or_else(|| {
        let known: Vec<&str> = experiment
            .weights
            .iter()
            .map(|it| it.name.as_str())
            .collect();
        let known = known.join(", ");
        Failure::Message(format!(
            "there is no weights item `{name}`; there are: {known}"
        ))
    })
}

/// The words of an answer, or its ids.
fn shown(answer: &Answer) -> String {
    match &answer.words {
        Some(words) => words.clone(),
        None => {
            let ids = answer.tokens.iter().map(ToString::to_string);
            ids.collect::<Vec<_>>().join(" ")
        }
    }
}

/// How fast it went, and how fast the memory would let it go.
#[derive(serde::Serialize)]
struct Speed {
    prefill_seconds: f64,
    step_seconds: f64,
    steps: u64,
    tokens: usize,
    tokens_per_second: Option<f64>,
    launches_per_step: u64,
    bytes_per_step: u64,
    host_bytes_per_step: u64,
    memory_bytes_per_second: Option<f64>,
    memory_bound_steps_per_second: Option<f64>,
}

impl Speed {
    fn of(generator: &Generator, answers: &[Answer], backend: &Backend) -> Result<Self, Failure> {
        let traffic = generator.traffic();
        let tokens: usize = answers.iter().map(|answer| answer.tokens.len()).sum();
        let memory = match backend {
            Backend::Device(device) => Some(device.report()?.probe.gigabytes_per_second * 1e9),
            Backend::Reference => None,
        };
        let bytes = traffic.step_bytes as f64;
        // The first token of each answer comes from the prompt.
        let stepped = tokens.saturating_sub(answers.len()) as f64;
        let timed = traffic.steps > 0 && traffic.step_seconds > 0.0;
        Ok(Self {
            prefill_seconds: traffic.prefill_seconds,
            step_seconds: traffic.step_seconds,
            steps: traffic.steps,
            tokens,
            tokens_per_second: timed.then(|| stepped / traffic.step_seconds),
            launches_per_step: traffic.launches,
            bytes_per_step: traffic.step_bytes,
            host_bytes_per_step: traffic.host_bytes.checked_div(traffic.steps).unwrap_or(0),
            memory_bytes_per_second: memory,
            memory_bound_steps_per_second: memory.filter(|_| bytes > 0.0).map(|it| it / bytes),
        })
    }

    fn text(&self) -> String {
        let mut text = format!(
            "prompt read in {:.2} s, {} tokens in {:.2} s",
            self.prefill_seconds, self.tokens, self.step_seconds
        );
        if let Some(rate) = self.tokens_per_second {
            text += &format!(", {rate:.1} tokens/s");
        }
        if let (Some(memory), Some(bound)) = (
            self.memory_bytes_per_second,
            self.memory_bound_steps_per_second,
        ) {
            text += &format!(
                "; a step moves {:.2} MB on the device ({} launches), which its memory of {:.1} GB/s allows \
                 {bound:.1} times a second, and {} bytes through the host",
                self.bytes_per_step as f64 * 1e-6,
                self.launches_per_step,
                memory * 1e-9,
                self.host_bytes_per_step,
            );
        }
        text
    }
}

fn document(prompts: &[Prompt], answers: &[Answer], speed: &Speed) -> serde_json::Value {
    let answers = prompts.iter().zip(answers).map(|(prompt, answer)| {
        serde_json::json!({
            "prompt_tokens": prompt.tokens.len(),
            "tokens": answer.tokens,
            "text": answer.words,
            "log_probability": answer.log_probability,
            "ending": answer.ending.word(),
        })
    });
    let answers: Vec<_> = answers.collect();
    serde_json::json!({ "version": 1, "answers": answers, "speed": speed })
}
