//! A hand-written training plan: y = w x + b, mean squared error, SGD with momentum.

use gatewright_compiler::graph::{DType, Origin, OutputKind};
use gatewright_compiler::plan::{
    Arena, Buffer, BufferId, Command, Dispatch, KernelText, Limits, Objective, Plan, Program, Role,
    Training, VERSION,
};
use gatewright_runtime::device::{Choice, Device};
use gatewright_runtime::error::Error;
use gatewright_runtime::tensor::HostTensor;
use std::collections::BTreeMap;

/// Rows of a batch.
pub(crate) const ROWS: usize = 13;

pub(crate) const X: BufferId = BufferId(0);
pub(crate) const TARGET: BufferId = BufferId(1);
pub(crate) const W: BufferId = BufferId(2);
pub(crate) const B: BufferId = BufferId(3);
pub(crate) const DW: BufferId = BufferId(4);
pub(crate) const DB: BufferId = BufferId(5);
pub(crate) const MW: BufferId = BufferId(6);
pub(crate) const MB: BufferId = BufferId(7);
pub(crate) const Y: BufferId = BufferId(8);
pub(crate) const LOSS: BufferId = BufferId(9);
pub(crate) const STEP: BufferId = BufferId(10);
pub(crate) const FIXED: BufferId = BufferId(11);

const FORWARD: &str = "
struct Sizes { n: u32 }
@group(0) @binding(0) var<uniform> sizes: Sizes;
@group(0) @binding(1) var<storage, read_write> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> w: array<f32>;
@group(0) @binding(3) var<storage, read_write> b: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;
@compute @workgroup_size(8)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let i = min(id.x, sizes.n - 1u);
    y[i] = w[0] * x[i] + b[0];
}
";

const BACKWARD: &str = "
struct Sizes { n: u32 }
@group(0) @binding(0) var<uniform> sizes: Sizes;
@group(0) @binding(1) var<storage, read_write> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(0) @binding(3) var<storage, read_write> t: array<f32>;
@group(0) @binding(4) var<storage, read_write> dw: array<f32>;
@group(0) @binding(5) var<storage, read_write> db: array<f32>;
@group(0) @binding(6) var<storage, read_write> loss: array<f32>;
@compute @workgroup_size(1)
fn main() {
    let scale = 1.0 / f32(sizes.n);
    for (var i = 0u; i < sizes.n; i++) {
        let d = y[i] - t[i];
        loss[0] += scale * d * d;
        dw[0] += 2.0 * scale * d * x[i];
        db[0] += 2.0 * scale * d;
    }
}
";

const UPDATE: &str = "
struct Sizes { n: u32 }
@group(0) @binding(0) var<uniform> sizes: Sizes;
@group(0) @binding(1) var<storage, read_write> step: array<u32>;
@group(0) @binding(2) var<storage, read_write> g: array<f32>;
@group(0) @binding(3) var<storage, read_write> m: array<f32>;
@group(0) @binding(4) var<storage, read_write> p: array<f32>;
@compute @workgroup_size(8)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let i = id.x;
    if i < sizes.n {
        m[i] = 0.9 * m[i] + g[i];
        p[i] = p[i] - bitcast<f32>(step[2]) * m[i];
    }
}
";

fn kernel(name: &str, wgsl: &str, bindings: u32) -> KernelText {
    KernelText {
        name: name.to_owned(),
        wgsl: wgsl.to_owned(),
        bindings,
        uniform_words: 1,
    }
}

fn dispatch(kernel: u32, uniform_offset: u32, bindings: &[BufferId], x: u32) -> Command {
    Command::Dispatch(Dispatch {
        kernel,
        bindings: bindings.to_vec(),
        uniform_offset,
        workgroups: [x, 1, 1],
        family: "test".to_owned(),
        origins: vec![kernel],
        flops: 2 * ROWS as u64,
        bytes: 8 * ROWS as u64,
    })
}

/// Limits that every device reaches.
fn limits() -> Limits {
    Limits {
        subgroup_size: 0,
        ..Limits::portable()
    }
}

/// The plan, with two more programs: `copies` copies w over b (one arena) and w over the loss (two
/// arenas), and `twice` runs `forward` and `update` of w again.
pub(crate) fn plan() -> Plan {
    let arenas = [
        "inputs",
        "parameters",
        "gradients",
        "state",
        "activations",
        "step",
    ];
    let arenas: Vec<Arena> = arenas
        .iter()
        .map(|name| Arena {
            name: (*name).to_owned(),
            bytes: 768,
            persistent: true,
        })
        .collect();
    let float = |name: &str, role, shape: &[usize], arena, slot: u64| Buffer {
        name: name.to_owned(),
        role,
        dtype: DType::F32,
        half: false,
        shape: shape.to_vec(),
        arena,
        offset: slot * 256,
        bytes: shape.iter().product::<usize>() as u64 * 4,
    };
    let momentum = || Role::State("m".to_owned());
    let mut step = float("step", Role::Step, &[16], 5, 0);
    step.dtype = DType::U32;
    let mut fixed = float("fixed", Role::Constant(vec![3, 5, 7]), &[3], 5, 1);
    fixed.dtype = DType::U32;
    let buffers = vec![
        float("x", Role::Input, &[ROWS], 0, 0),
        float("target", Role::Input, &[ROWS], 0, 1),
        float("line.w", Role::Parameter, &[1], 1, 0),
        float("line.b", Role::Parameter, &[1], 1, 1),
        float("line.w", Role::Gradient, &[1], 2, 0),
        float("line.b", Role::Gradient, &[1], 2, 1),
        float("line.w", momentum(), &[1], 3, 0),
        float("line.b", momentum(), &[1], 3, 1),
        float("y", Role::Output(OutputKind::Value), &[ROWS], 4, 0),
        float("loss", Role::Output(OutputKind::Objective), &[], 4, 1),
        step,
        fixed,
    ];
    let gradients = vec![
        dispatch(0, 0, &[X, W, B, Y], 2),
        Command::Clear(DW),
        Command::Clear(DB),
        Command::Clear(LOSS),
        dispatch(1, 0, &[X, Y, TARGET, DW, DB, LOSS], 1),
    ];
    let update = vec![
        dispatch(2, 64, &[STEP, DW, MW, W], 1),
        dispatch(2, 64, &[STEP, DB, MB, B], 1),
    ];
    let copies = vec![
        Command::Copy { from: W, to: B },
        Command::Copy { from: W, to: LOSS },
    ];
    let mut uniforms = vec![0; 65];
    uniforms[0] = u32::try_from(ROWS).unwrap();
    uniforms[64] = 1;
    let origin = |path: &str| Origin {
        path: path.to_owned(),
        ..Origin::default()
    };
    let program = |name: &str, commands| Program {
        name: name.to_owned(),
        commands,
    };
    Plan {
        version: VERSION,
        name: "line".to_owned(),
        limits: limits(),
        dims: BTreeMap::new(),
        arenas,
        buffers,
        kernels: vec![
            kernel("forward", FORWARD, 4),
            kernel("backward", BACKWARD, 6),
            kernel("update", UPDATE, 4),
        ],
        uniforms,
        activation_bytes_at_least: 0,
        origins: vec![origin("line.y"), origin("line.loss"), origin("line.update")],
        programs: vec![
            program("gradients", gradients),
            program("update", update),
            program("copies", copies),
        ],
        splits: BTreeMap::new(),
        packed: BTreeMap::new(),
        recompute: None,
        training: Some(Training {
            precision: gatewright_compiler::precision::Precision::Full,
            objectives: vec![Objective {
                name: "loss".to_owned(),
                gradients: "gradients".to_owned(),
                update: "update".to_owned(),
                inputs: vec![X, TARGET],
                outputs: BTreeMap::from([("y".to_owned(), Y), ("loss".to_owned(), LOSS)]),
                norm: None,
                passes: None,
            }],
            classes: vec![vec![0]],
            accumulate: 1,
        }),
    }
}

/// The batch of a step: x around zero, target 3 x - 1 with a little that no line explains.
pub(crate) fn batch(step: u64) -> BTreeMap<String, HostTensor> {
    let value = |row: usize| ((row as u64 * 37 + step * 11) % 17) as f32 / 8.0 - 1.0;
    let x: Vec<f32> = (0..ROWS).map(value).collect();
    let target = x.iter().map(|x| 3.0 * x - 1.0 + 0.1 * x * x).collect();
    BTreeMap::from([
        ("target".to_owned(), floats([ROWS], target)),
        ("x".to_owned(), floats([ROWS], x)),
    ])
}

/// The most capable device, or nothing, said in a line, when no driver answers.
pub(crate) fn device() -> Option<Device> {
    match Device::open(&Choice::Auto) {
        Ok(device) => Some(device),
        Err(Error::NoAdapter) => {
            println!("skipped: no graphics adapter answers");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// One number.
pub(crate) fn one(value: f32) -> HostTensor {
    floats([1], vec![value])
}

/// Floats of a shape.
pub(crate) fn floats(shape: impl Into<Vec<usize>>, data: Vec<f32>) -> HostTensor {
    HostTensor::f32(shape, data).unwrap()
}

/// Integers of a shape.
pub(crate) fn integers(shape: impl Into<Vec<usize>>, data: Vec<u32>) -> HostTensor {
    HostTensor::u32(shape, data).unwrap()
}
