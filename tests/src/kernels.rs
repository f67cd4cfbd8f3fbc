//! Kernels on the adapter at hand against their meaning in f64.

use crate::gpu_harness::{Harness, Rewrite};
use gatewright_compiler::graph::DType;
use gatewright_compiler::kernel::interpret::{self, Draws};
use gatewright_compiler::kernel::lower_product;
use gatewright_compiler::kernel::spec::{
    Binary, CrossEntropyResult, Instr, InstrId, KernelSpec, Matrix, Operand, Program, Reduce,
    Store, Unary, View,
};
use gatewright_compiler::plan::{Limits, Profile, STEP_WORDS};
use gatewright_compiler::wgsl;

/// How kernels are run and compared.
#[derive(Clone, Copy, Debug)]
pub struct How {
    /// Relative to the largest magnitude of an output.
    pub tolerance: f64,
    /// Operands of products are 16-bit floats: so are the inputs, though stored as f32.
    pub rounded: bool,
    /// What is done to the text of a kernel before it runs.
    pub rewrite: Rewrite,
}

impl Default for How {
    fn default() -> Self {
        Self {
            tolerance: 1e-5,
            rounded: false,
            rewrite: |text| text,
        }
    }
}

/// What a harness leaves where nothing is written.
const UNTOUCHED: u32 = 0x7f7f_7f7f;

const DRAWS: Draws = Draws { seed: 7, step: 3 };

/// Words of a buffer as numbers.
fn numbers(dtype: DType, words: &[u32]) -> Vec<f64> {
    let number = |word: &u32| match dtype {
        DType::F32 => f64::from(f32::from_bits(*word)),
        DType::U32 | DType::Bool => f64::from(*word),
    };
    words.iter().map(number).collect()
}

/// A view.
#[must_use]
pub fn view(offset: usize, strides: &[usize]) -> View {
    View {
        offset,
        strides: strides.to_vec(),
    }
}

/// An operand.
#[must_use]
pub fn operand(dtype: DType, elements: usize, view: View) -> Operand {
    Operand {
        dtype,
        elements,
        view,
    }
}

/// Floats from the first element on.
#[must_use]
pub fn f32s(elements: usize, strides: &[usize]) -> Operand {
    operand(DType::F32, elements, view(0, strides))
}

/// Programs in a readable form.
#[derive(Default)]
pub struct P(pub Program);

impl P {
    /// A float.
    pub fn f(&mut self, instr: Instr) -> InstrId {
        self.0.push(instr, DType::F32)
    }
    /// An index.
    pub fn u(&mut self, instr: Instr) -> InstrId {
        self.0.push(instr, DType::U32)
    }
    /// An input.
    pub fn load(&mut self, input: usize) -> InstrId {
        self.f(Instr::Load { input })
    }
    /// A number.
    pub fn constant(&mut self, value: f64) -> InstrId {
        self.f(Instr::Constant(value))
    }
    /// A function of one value.
    pub fn un(&mut self, unary: Unary, x: InstrId) -> InstrId {
        self.f(Instr::Unary(unary, x))
    }
    /// A function of two values.
    pub fn bin(&mut self, binary: Binary, x: InstrId, y: InstrId) -> InstrId {
        self.f(Instr::Binary(binary, x, y))
    }
    /// A value of a row or column.
    pub fn reduce(&mut self, reduce: Reduce, x: InstrId) -> InstrId {
        self.f(Instr::Reduce(reduce, x))
    }
}

/// What is written where.
#[must_use]
pub fn store(value: InstrId, operand: Operand) -> Store {
    Store { value, operand }
}

/// Deterministic numbers in -1..1, or small indices.
fn fill(dtype: DType, elements: usize, seed: u32) -> Vec<u32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12_345);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 8
    };
    let word = |bits: u32| match dtype {
        DType::F32 => (bits as f32 / 8_388_608.0 - 1.0).to_bits(),
        DType::U32 => bits % 5,
        DType::Bool => bits % 2,
    };
    (0..elements).map(|_| word(next())).collect()
}

/// Element types and lengths of inputs and outputs.
fn operands(spec: &KernelSpec) -> [Vec<(DType, usize)>; 2] {
    let describe = |it: &Operand| (it.dtype, it.elements);
    let stores = |outputs: &[Store]| outputs.iter().map(|it| describe(&it.operand)).collect();
    match spec {
        KernelSpec::Pointwise {
            inputs, outputs, ..
        }
        | KernelSpec::Row {
            inputs, outputs, ..
        } => [inputs.iter().map(describe).collect(), stores(outputs)],
        KernelSpec::Column {
            inputs, outputs, ..
        } => {
            let outputs = outputs.iter().map(|(_, it)| describe(&it.operand));
            [inputs.iter().map(describe).collect(), outputs.collect()]
        }
        KernelSpec::Matmul {
            a,
            b,
            packed,
            inputs,
            outputs,
            column_sums,
            ..
        } => {
            let mut all = a.buffers();
            all.push(match packed {
                Some(packed) => (DType::U32, packed.words()),
                None => (DType::F32, b.elements),
            });
            all.extend(inputs.iter().map(describe));
            let mut written: Vec<_> = stores(outputs);
            written.extend(column_sums.iter().map(describe));
            [all, written]
        }
        KernelSpec::Attention {
            batch: [batch, heads],
            queries,
            operands,
            mask,
            outputs,
            ..
        } => {
            let floats = |it: &Matrix| (DType::F32, it.elements);
            let mut inputs: Vec<_> = operands.iter().map(floats).collect();
            let per_query = (DType::F32, batch * heads * queries);
            inputs.extend([per_query; 2].iter().filter(|_| operands.len() > 3));
            inputs.extend(mask.iter().map(describe));
            [inputs, outputs.iter().map(|(_, it)| floats(it)).collect()]
        }
        KernelSpec::CrossEntropy {
            rows,
            x,
            w,
            outputs,
            ..
        } => {
            let per_row = (DType::F32, *rows);
            let mut inputs = vec![(DType::F32, x.elements), (DType::F32, w.elements)];
            inputs.push((DType::U32, *rows));
            inputs.extend([per_row; 2].iter().filter(|_| outputs[0].is_gradient()));
            let output = |it: &CrossEntropyResult| match it {
                CrossEntropyResult::Rows => (DType::F32, x.elements),
                CrossEntropyResult::Classes => (DType::F32, w.elements),
                _ => per_row,
            };
            [inputs, outputs.iter().map(output).collect()]
        }
        KernelSpec::RowsWhere { count, most } => {
            [vec![(DType::Bool, *count)], vec![(DType::U32, *most)]]
        }
        KernelSpec::WriteRow {
            dtype,
            sizes: [batch, blocks, rows, width],
        } => {
            let row = batch * blocks * width;
            let x = (*dtype, row * rows);
            [vec![x, (*dtype, row), (DType::U32, *batch)], vec![x]]
        }
        _ => panic!("not a family of these tests"),
    }
}

#[allow(clippy::print_stdout, reason = "a skipped test says so")]
fn report_skipped(specs: usize) {
    println!("skipped {specs} specs: no adapter");
}

/// Validates a module; needs no device.
///
/// # Panics
/// Where naga finds a mistake.
pub fn validate(text: &str) {
    let module = naga::front::wgsl::parse_str(text)
        .unwrap_or_else(|error| panic!("{}\n{text}", error.emit_to_string(text)));
    let features = naga::valid::Capabilities::SUBGROUP
        | naga::valid::Capabilities::SHADER_FLOAT16
        | naga::valid::Capabilities::SHADER_INT64
        | naga::valid::Capabilities::COOPERATIVE_MATRIX;
    naga::valid::Validator::new(naga::valid::ValidationFlags::all(), features)
        .subgroup_stages(naga::valid::ShaderStages::COMPUTE)
        .subgroup_operations(naga::valid::SubgroupOperationSet::all())
        .validate(&module)
        .unwrap_or_else(|error| panic!("{}\n{text}", error.emit_to_string(text)));
}

/// Whether the buffers of a spec fit one kernel of the device, as the fuser sees to.
fn binds(spec: &KernelSpec, limits: &Limits) -> bool {
    let [inputs, outputs] = operands(spec);
    inputs.len() + outputs.len() <= limits.max_storage_bindings as usize
}

/// Validates the modules of the specs, runs them under both profiles and compares every element of every output.
///
/// # Panics
/// Where something differs.
pub fn check(specs: &[KernelSpec]) {
    check_for(specs, &[Limits::portable(), Limits::cpu_vulkan()]);
}

/// [`check`] for these devices; those of another kind than the adapter's are validated only.
///
/// # Panics
/// Where something differs.
pub fn check_for(specs: &[KernelSpec], devices: &[Limits]) {
    check_how(specs, devices, How::default());
}

/// [`check_for`] in another way.
///
/// # Panics
/// Where something differs.
pub fn check_how(specs: &[KernelSpec], devices: &[Limits], how: How) {
    for limits in devices {
        for spec in specs.iter().filter(|spec| binds(spec, limits)) {
            let lowered = lower_product(spec, limits, how.rounded).expect("the spec is covered");
            lowered
                .launches
                .iter()
                .for_each(|it| validate(&wgsl::write(&it.kernel)));
        }
    }
    let Some(harness) = Harness::open() else {
        report_skipped(specs.len());
        return;
    };
    let fits = |it: &&Limits| it.profile == Profile::Gpu || harness.subgroups_of_eight;
    for limits in devices.iter().filter(fits) {
        for (number, spec) in specs.iter().enumerate() {
            if binds(spec, limits) {
                check_one(&harness, spec, limits, how, number);
            }
        }
    }
}

fn check_one(harness: &Harness, spec: &KernelSpec, limits: &Limits, how: How, number: usize) {
    let [inputs, outputs] = operands(spec);
    let mut words: Vec<Vec<u32>> = (0..)
        .zip(&inputs)
        .map(|(seed, (dtype, elements))| fill(*dtype, *elements, seed))
        .collect();
    if how.rounded {
        // What 16-bit floats lack of the bits of larger ones.
        words.iter_mut().flatten().for_each(|it| *it &= !0x1fff);
    }
    if let KernelSpec::Matmul {
        a,
        b,
        packed: Some(packed),
        ..
    } = spec
    {
        let numbers = fill(DType::F32, b.elements, 99).into_iter();
        words[a.inputs()] = packed.pack(&numbers.map(f32::from_bits).collect::<Vec<_>>());
    }
    let values: Vec<Vec<f64>> = words
        .iter()
        .zip(&inputs)
        .map(|(words, (dtype, _))| numbers(*dtype, words))
        .collect();
    let lowered = lower_product(spec, limits, how.rounded);
    let lowered = lowered.unwrap_or_else(|error| panic!("spec {number}: {error}"));
    let lengths: Vec<usize> = outputs.iter().map(|(_, elements)| *elements).collect();
    let mut step = [0; STEP_WORDS];
    step[..2].copy_from_slice(&[DRAWS.seed, DRAWS.step]);
    let prepared = harness.prepare_rewritten(&lowered, &words, &lengths, step, how.rewrite);
    harness.run(&prepared, 1);
    let results = harness.read(&prepared);
    // NaN stays where the spec writes nothing.
    let mut expected: Vec<Vec<f64>> = lengths.iter().map(|it| vec![f64::NAN; *it]).collect();
    let inputs: Vec<&[f64]> = values.iter().map(Vec::as_slice).collect();
    interpret::run(spec, &inputs, &mut expected, DRAWS).expect("the spec has a meaning");
    for (output, expected) in expected.iter().enumerate() {
        let got = numbers(outputs[output].0, &results[output]);
        // The largest of numbers ignores NaN.
        let largest = expected
            .iter()
            .fold(0.0, |most: f64, it| most.max(it.abs()));
        for (at, value) in expected.iter().enumerate() {
            let close = match value.is_nan() {
                true => results[output][at] == UNTOUCHED,
                false => (got[at] - value).abs() <= how.tolerance * largest,
            };
            assert!(
                close,
                "spec {number}, {:?}, output {output}, element {at}: {} is not {value}\n{spec:?}",
                limits.profile, got[at],
            );
        }
    }
}
