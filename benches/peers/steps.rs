//! Whole training steps: the same first parameters, the same batches, the same update.

use crate::Result;
use gatewright_compiler::optimizer::Rule;
use gatewright_runtime::cache::Cache;
use gatewright_runtime::checkpoint::{read_tensors, write_tensors};
use gatewright_runtime::data::{self, BadRecords, Loading, Split};
use gatewright_runtime::device::{Choice, Device};
use gatewright_runtime::execute::{self, Executor, Slot};
use gatewright_runtime::experiment::{self, StagePlan};
use gatewright_runtime::plans::Planner;
use gatewright_runtime::project::{Mistakes, Overrides, Project};
use gatewright_runtime::tensor::{HostData, HostTensor};
use gatewright_runtime::train::{TrainOptions, Trainer};
use gatewright_runtime::verify::{drawn_inputs, initial_parameters};
use gatewright_tests::processor::nanoseconds;
use gatewright_tests::spec::render;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

type Tensors = BTreeMap<String, HostTensor>;

/// Batches that are used by turns.
const BATCHES: u64 = 16;
/// Steps before times count.
const WARM: usize = 10;
/// A word that no text has, in the place of a masked one.
const MASK: u32 = 3;

/// What to train.
pub(crate) struct Arguments {
    spec: PathBuf,
    overrides: Overrides,
    stage: Option<String>,
    /// Draw batches instead of reading the stage's data.
    drawn: bool,
    steps: u64,
}

impl Arguments {
    pub(crate) fn read(words: &[String]) -> Result<Self> {
        let (spec, words) = words.split_first().ok_or("say which specification")?;
        let mut arguments = Self {
            spec: spec.into(),
            overrides: Overrides::default(),
            stage: None,
            drawn: false,
            steps: 200,
        };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or(format!("{word} wants a value"));
            match word.as_str() {
                "--preset" => arguments.overrides.preset = Some(value()?.clone()),
                "--stage" => arguments.stage = Some(value()?.clone()),
                "--set" => {
                    let (name, value) = value()?.split_once('=').ok_or("--set NAME=VALUE")?;
                    let set = (name.to_owned(), value.to_owned());
                    arguments.overrides.sets.push(set);
                }
                "--steps" => arguments.steps = value()?.parse()?,
                "--drawn" => arguments.drawn = true,
                other => return Err(format!("what is {other}?").into()),
            }
        }
        Ok(arguments)
    }

    /// The stage, compiled for the device at hand.
    fn prepare(&self) -> Result<(Project, StagePlan, Device)> {
        let mut device = Device::open(&Choice::Auto)?;
        if let Some(folder) = std::env::var_os("GATEWRIGHT_CACHE") {
            device = device.with_cache(Cache::new(PathBuf::from(folder)));
        }
        let mut project = Project::open(&self.spec, &self.overrides).map_err(|it| told(&it))?;
        let experiment = project.experiment().map_err(|it| told(&it))?;
        let stage = experiment.stage(self.stage.as_deref());
        let stage = stage.ok_or("there is no such stage")?;
        let plan = experiment::plan(&mut project, stage, &Planner::of(&device))?;
        Ok((project, plan, device))
    }
}

fn told(mistakes: &Mistakes) -> String {
    render(&mistakes.sources, &mistakes.diagnostics)
}

/// Writes what every half starts from.
pub(crate) fn write(folder: &Path, arguments: &Arguments) -> Result<()> {
    let (mut project, plan, _) = arguments.prepare()?;
    let mut parameters = Tensors::new();
    for lowered in &plan.lowered {
        parameters.extend(initial_parameters(lowered, 0));
    }
    save(&folder.join("parameters.safetensors"), &parameters)?;
    let batches = match arguments.drawn {
        true => drawn(&plan)?,
        false => loaded(&mut project, arguments)?,
    };
    save(&folder.join("batches.safetensors"), &batches)?;
    let Rule::AdamW { beta1, beta2, eps } = plan.optimizer.rule else {
        return Err("peers know AdamW alone".into());
    };
    let scalars = (0..arguments.steps).map(|step| plan.update.scalars(step));
    let (rates, decays): (Vec<f64>, Vec<f64>) = scalars.map(|it| (it.rate, it.decay)).unzip();
    let dims = project.model.dims().iter();
    let dims = dims.filter_map(|dim| Some((dim.name.clone(), dim.size.as_const()?)));
    let settings = json!({
        "dims": dims.collect::<BTreeMap<_, _>>(),
        "rates": rates,
        "decays": decays,
        "betas": [beta1, beta2],
        "eps": eps,
        "clip": plan.optimizer.clip,
        "decayed": plan.optimizer.decayed,
        "batches": BATCHES,
    });
    std::fs::write(folder.join("settings.json"), settings.to_string())?;
    println!("{} parameters, {BATCHES} batches", parameters.len());
    Ok(())
}

/// Trains on them and prints what a step takes.
pub(crate) fn train(folder: &Path, arguments: &Arguments) -> Result<()> {
    let (_, plan, device) = arguments.prepare()?;
    let executor = Executor::new(&device, plan.plan, &execute::Options::default())?;
    let parameters = read_tensors(&folder.join("parameters.safetensors"))?;
    executor.fill(Slot::Parameter, &parameters)?;
    let options = TrainOptions {
        steps: arguments.steps,
        seed: 0,
        update: plan.update,
        log_every: 1,
        save_every: u64::MAX,
        examples_per_step: 1,
        spec_hash: String::new(),
        versions: BTreeMap::new(),
    };
    let mut trainer = Trainer::new(executor, options)?;
    let batches = numbered(read_tensors(&folder.join("batches.safetensors"))?);
    let mut losses = Vec::new();
    let mut times = Vec::new();
    let mut worked = 0.0;
    for step in 0..arguments.steps {
        if step == WARM as u64 {
            worked = nanoseconds().unwrap_or_default();
        }
        let begun = Instant::now();
        let batch = &batches[usize::try_from(step % BATCHES)?];
        let record = trainer.advance(&mut |_| Ok(batch.clone()), true)?;
        times.push(begun.elapsed().as_secs_f64() * 1e3);
        losses.push(record.ok_or("a step without losses")?.losses);
        if step == 0 {
            first_step()?;
        }
    }
    std::fs::write(folder.join("ours.json"), json!(losses).to_string())?;
    if let Some(warm) = times.get_mut(WARM..).filter(|it| !it.is_empty()) {
        let worked = nanoseconds().unwrap_or_default() - worked;
        warm.sort_by(f64::total_cmp);
        println!(
            "{} steps: {:.1} ms of processors (mean), {:.1} ms on the wall (median), {:.1} (least)",
            losses.len(),
            worked / 1e6 / warm.len() as f64,
            warm[warm.len() / 2],
            warm[0],
        );
    }
    println!("peak memory {:.0} MB", peak_megabytes()?);
    Ok(())
}

/// Tells the time since the process began, if that is known, and what it has worked.
fn first_step() -> Result<()> {
    if let Ok(begun) = std::env::var("PEERS_BEGUN") {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
        let stat = std::fs::read_to_string("/proc/self/stat")?;
        let after = stat.rsplit(')').next().unwrap_or_default();
        let fields: Vec<&str> = after.split_whitespace().collect();
        // User and system time, with that of threads that have ended, in hundredths of a second.
        let ticks = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
        println!(
            "first step after {:.1} s, {:.1} s of processors",
            now - begun.parse::<f64>()?,
            ticks / 100.0
        );
    }
    Ok(())
}

/// The most memory that the process has had.
fn peak_megabytes() -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|it| it.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|it| it.split_whitespace().next());
    Ok(kilobytes.ok_or("no VmHWM")?.parse::<f64>()? / 1024.0)
}

fn save(path: &Path, tensors: &Tensors) -> Result<()> {
    let tensors = tensors.iter().map(|(name, it)| (name.clone(), it));
    Ok(write_tensors(path, &tensors.collect(), None)?)
}

/// Tensors called `NUMBER.NAME`, by number.
fn numbered(tensors: Tensors) -> Vec<Tensors> {
    let mut batches = vec![Tensors::new(); usize::try_from(BATCHES).unwrap_or(0)];
    for (name, tensor) in tensors {
        let Some((number, name)) = name.split_once('.') else {
            continue;
        };
        let number = number.parse::<usize>().ok();
        if let Some(batch) = number.and_then(|it| batches.get_mut(it)) {
            batch.insert(name.to_owned(), tensor);
        }
    }
    batches
}

/// Batches of the stage's data.
fn loaded(project: &mut Project, arguments: &Arguments) -> Result<Tensors> {
    let experiment = project.experiment().map_err(|it| told(&it))?;
    let stage = experiment.stage(arguments.stage.as_deref());
    let stage = stage.ok_or("there is no such stage")?;
    let share = stage.data.first().ok_or("the stage has no data")?;
    let spec = experiment.data(&share.data).ok_or("no such data")?;
    let loading = Loading {
        batch: usize::try_from(stage.batch.ok_or("the stage has no batch")?)?,
        seed: 0,
        bad: BadRecords::Skip,
        instead: None,
        findings: None,
        run: None,
    };
    let batches = data::open(spec, Split::Training, &loading, &|path| {
        project.locate(path)
    })?;
    let mut tensors = Tensors::new();
    for number in 0..BATCHES {
        let batch = batches.at(number)?.tensors.into_iter();
        tensors.extend(batch.map(|(name, tensor)| (format!("{number}.{name}"), tensor)));
    }
    Ok(tensors)
}

/// Batches for the first objective, drawn: what is shown of a text is its beginning, and what is masked of it
/// has another word in `masked_text`.
fn drawn(plan: &StagePlan) -> Result<Tensors> {
    let lowered = plan.lowered.first().ok_or("the stage has no objective")?;
    let mut tensors = Tensors::new();
    for number in 0..BATCHES {
        let mut batch = drawn_inputs(&lowered.graph, u32::try_from(number)?);
        mask(&mut batch)?;
        tensors.extend(
            batch
                .into_iter()
                .map(|(name, it)| (format!("{number}.{name}"), it)),
        );
    }
    Ok(tensors)
}

/// Makes masks of FLAVA's batches agree with each other.
fn mask(batch: &mut Tensors) -> Result<()> {
    let words = |name: &str| {
        let tensor = batch.get(name).ok_or(format!("no {name}"))?;
        let data = tensor.as_u32().ok_or(format!("{name} holds no integers"))?;
        Ok::<_, String>((tensor.shape.clone(), data.to_vec()))
    };
    let (shape, mut text) = words("text")?;
    let (_, mut masked_words) = words("masked_words")?;
    let (patches_shape, mut masked_patches) = words("masked_patches")?;
    let (_, mut matched) = words("matched")?;
    let [rows, length] = shape[..] else {
        return Err("texts are rows of tokens".into());
    };
    let mut shown = vec![0; text.len()];
    for row in 0..rows {
        let own = length - (row * 2) % (length / 2);
        let mut hidden = 0;
        for place in 0..length {
            let at = row * length + place;
            shown[at] = u32::from(place < own);
            text[at] = if place < own {
                text[at].max(MASK + 1)
            } else {
                0
            };
            // The first token stands for the text, and the batch has room for two masked words of each.
            let hide = masked_words[at] == 1 && (1..own).contains(&place) && hidden < 2;
            masked_words[at] = u32::from(hide);
            hidden += u32::from(hide);
        }
        let patches = patches_shape[1];
        let mut hidden = 0;
        for patch in &mut masked_patches[row * patches..(row + 1) * patches] {
            *patch = u32::from(*patch == 1 && hidden < patches * 3 / 8);
            hidden += *patch as usize;
        }
    }
    matched[0] = 1;
    let masked_text = text.iter().zip(&masked_words);
    let masked_text = masked_text.map(|(word, hide)| if *hide == 1 { MASK } else { *word });
    let masked_text = masked_text.collect();
    let flat = vec![matched.len()];
    for (name, shape, data) in [
        ("masked_text", shape.clone(), masked_text),
        ("text", shape.clone(), text),
        ("shown", shape.clone(), shown),
        ("masked_words", shape, masked_words),
        ("masked_patches", patches_shape, masked_patches),
        ("matched", flat, matched),
    ] {
        let data = HostData::U32(data);
        batch.insert(name.to_owned(), HostTensor { shape, data });
    }
    Ok(())
}
