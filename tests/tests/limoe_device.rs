//! LIMoE through compiled kernels on the adapter at hand, under both families of kernels, against
//! the recorded reference: embeddings, losses, routing decisions and gradients of every case.

use gatewright_compiler::lower::{Mode, Recorded, Request, Target};
use gatewright_compiler::plan::{Limits, Plan};
use gatewright_runtime::device::{Choice, Counters, Device};
use gatewright_runtime::execute::{Executor, Options, Slot};
use gatewright_runtime::experiment;
use gatewright_runtime::once::{self, Backend, Once, Results};
use gatewright_runtime::plans::Planner;
use gatewright_runtime::verify::{drawn_inputs, initial_parameters};
use gatewright_tests::backends::backends;
use gatewright_tests::limoe::{Case, embeddings, objective};
use gatewright_tests::reference::{Tensors, difference, from_host, to_host};
use gatewright_tests::spec::{model_text, project};

/// Everything is computed in f32.
const TOLERANCE: f64 = 1e-5;

fn run(case: &mut Case, what: Target, gradients: bool, backend: &Backend) -> Results {
    let request = Request {
        routing: if gradients {
            Recorded::Everything
        } else {
            Recorded::Nothing
        },
        ..Request::new(what, Mode::Train)
    };
    let lowered = case.project.lower(&request).expect("a sound flow");
    let parameters = to_host(&case.parameters(lowered.parameters.keys()), &lowered.graph);
    let inputs = to_host(&case.inputs, &lowered.graph);
    let once = Once {
        request,
        inputs: &inputs,
        parameters: &parameters,
        gradients,
        steps: None,
        seed: 0,
    };
    once::run(&mut case.project, &once, backend).unwrap_or_else(|error| panic!("{error}"))
}

fn agrees(name: &str) {
    let mut case = Case::new(name);
    for backend in backends() {
        let results = run(&mut case, objective(), true, &backend);
        case.check(&from_host(&results.outputs), TOLERANCE);
        if case.setting.gradients {
            case.check_gradients(&from_host(&results.gradients), TOLERANCE);
        }
        let results = run(&mut case, embeddings(), false, &backend);
        case.check_embeddings(&from_host(&results.outputs), TOLERANCE);
    }
}

#[test]
fn batch_priority() {
    agrees("bpr");
}

#[test]
fn index_priority() {
    agrees("vanilla");
}

#[test]
fn no_noise() {
    agrees("nonoise");
}

#[test]
fn dropless() {
    agrees("dropless");
}

#[test]
fn one_group() {
    agrees("onegroup");
}

#[test]
fn two_choices() {
    agrees("top2");
}

#[test]
fn a_training_step_is_one_submission_and_creates_nothing() {
    let Ok(device) = Device::open(&Choice::Auto) else {
        eprintln!("skipped: no adapter");
        return;
    };
    let mut limoe = project(&model_text("limoe/limoe.gate"), Some("tiny"), &[]);
    let experiment = limoe.experiment().expect("sound sections");
    let stage = experiment.stage(Some("pretrain")).expect("the stage");
    let planned = experiment::plan(&mut limoe, stage, &Planner::without_cache(device.limits()));
    let planned = planned.unwrap_or_else(|error| panic!("{error}"));
    let inputs = drawn_inputs(&planned.lowered[0].graph, 0);
    let parameters = initial_parameters(&planned.lowered[0], 0);
    let executor = Executor::new(&device, planned.plan, &Options::default());
    let mut executor = executor.unwrap_or_else(|error| panic!("{error}"));
    executor
        .fill(Slot::Parameter, &parameters)
        .expect("parameters");
    let loss = executor
        .find(Slot::Output, "loss.contrastive")
        .expect("the loss");
    let mut step = |number: u64| {
        executor.fill(Slot::Input, &inputs).expect("inputs");
        let words = planned.update.words(0, number);
        executor.step_words(&words).expect("scalars");
        let read = executor.run_and_read(&["gradients", "update"], &[loss]);
        let loss = read.expect("a step")[0].as_f32().expect("a number")[0];
        (executor.counters(), loss)
    };
    let (first, before) = step(0);
    for number in 1..4 {
        let (now, after) = step(number);
        assert_eq!(now.submissions, first.submissions + number);
        let created = |it: Counters| (it.buffers, it.pipelines, it.bind_groups);
        assert_eq!(created(now), created(first));
        assert!(after < before, "{after} after {before}");
    }
}

/// Parameters and the gradient norm after three steps of a stage planned for these limits.
fn trained(device: &Device, optimizer: &str, limits: &Limits) -> (Plan, Tensors, f32) {
    let sets = [("pretrain.optimizer", optimizer)];
    let mut limoe = project(&model_text("limoe/limoe.gate"), Some("tiny"), &sets);
    let experiment = limoe.experiment().expect("sound sections");
    let stage = experiment.stage(Some("pretrain")).expect("the stage");
    let planned = experiment::plan(&mut limoe, stage, &Planner::without_cache(limits));
    let planned = planned.unwrap_or_else(|error| panic!("{error}"));
    planned
        .plan
        .verify()
        .unwrap_or_else(|faults| panic!("{faults:?}"));
    let plan = planned.plan.clone();
    let executor = Executor::new(device, planned.plan, &Options::default());
    let mut executor = executor.unwrap_or_else(|error| panic!("{error}"));
    let parameters = initial_parameters(&planned.lowered[0], 0);
    let inputs = drawn_inputs(&planned.lowered[0].graph, 0);
    let mut run = || {
        executor.fill(Slot::Parameter, &parameters)?;
        executor.fill(Slot::Input, &inputs)?;
        for step in 0..3 {
            executor.step_words(&planned.update.words(0, step))?;
            executor.run(&["gradients", "update"])?;
        }
        let norm = executor.read_named(Slot::Output, &["grad_norm"])?;
        Ok((
            executor.read_all(Slot::Parameter)?,
            norm["grad_norm"].as_f32().expect("a number")[0],
        ))
    };
    let found: Result<_, gatewright_runtime::error::Error> = run();
    let (parameters, norm) = found.unwrap_or_else(|error| panic!("{error}"));
    (plan, from_host(&parameters), norm)
}

#[test]
fn parameters_in_several_arenas_learn_the_same() {
    let Ok(device) = Device::open(&Choice::Auto) else {
        eprintln!("skipped: no adapter");
        return;
    };
    for optimizer in [
        "adamw(lr: 1e-3, decay: 0.1, clip: 0.5)",
        "adafactor(lr: 1e-3, clip: 0.5)",
    ] {
        let (whole, expected, norm) = trained(&device, optimizer, device.limits());
        assert!(
            whole
                .arenas
                .iter()
                .all(|arena| arena.name != "parameters.1")
        );
        let small = Limits {
            max_binding_bytes: 16 << 10,
            ..device.limits().clone()
        };
        let (split, found, same_norm) = trained(&device, optimizer, &small);
        let kept = |name: &str| {
            split
                .arenas
                .iter()
                .filter(|it| it.name.starts_with(name))
                .count()
        };
        assert!(kept("parameters") > 3);
        assert_eq!(kept("gradients"), kept("parameters"));
        assert!(
            (norm - same_norm).abs() <= 1e-5 * norm,
            "{norm} and {same_norm}"
        );
        assert!(!split.splits.is_empty(), "experts lie in parts");
        // Tables and matrices in parts too, whose columns and rows Adafactor sums.
        let tiny = Limits {
            max_binding_bytes: if optimizer.starts_with("adafactor") {
                16 << 10
            } else {
                4 << 10
            },
            ..device.limits().clone()
        };
        let (parts, in_parts, part_norm) = trained(&device, optimizer, &tiny);
        assert!(parts.splits.len() >= split.splits.len());
        assert!((norm - part_norm).abs() <= 1e-5 * norm);
        assert!(in_parts.keys().eq(expected.keys()));
        // The softmax of attention does not see a key bias: its gradient is nothing but rounding.
        let seen = |path: &str| !path.ends_with("attention.k.bias");
        for (path, tensor) in expected.iter().filter(|(path, _)| seen(path)) {
            let off = difference(&found[path], tensor).max(difference(&in_parts[path], tensor));
            // The norm is summed in another order, and AdamW divides small gradients by their size: the
            // last bit grows. The recorded steps are held to the same.
            assert!(off < 1e-4, "{path} differs by {off}");
        }
    }
}
