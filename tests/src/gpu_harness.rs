//! Runs lowered kernels on the adapter at hand: upload, launches in order, read back.

use gatewright_compiler::kernel::{Launch, Lowered, Slot};
use gatewright_compiler::plan::{Limits, STEP_WORDS};
use gatewright_compiler::wgsl;
use std::cell::RefCell;
use std::collections::BTreeMap;
use wgpu::util::{BufferInitDescriptor, DeviceExt};

/// An open device with its pipelines.
pub struct Harness {
    device: wgpu::Device,
    queue: wgpu::Queue,
    pipelines: RefCell<BTreeMap<String, wgpu::ComputePipeline>>,
    /// Whether eight-lane subgroup kernels run here.
    pub subgroups_of_eight: bool,
}

/// The limits that a bench compiles for: the gpu family when its arguments say `gpu`.
#[must_use]
pub fn bench_limits() -> Limits {
    match std::env::args().any(|it| it == "gpu") {
        true => Limits::portable(),
        false => Limits::cpu_vulkan(),
    }
}

/// What is done to the text of a kernel before it runs.
pub type Rewrite = fn(String) -> String;

/// A lowered spec with its buffers, ready to run again and again.
pub struct Prepared {
    launches: Vec<(wgpu::ComputePipeline, wgpu::BindGroup, [u32; 3])>,
    outputs: Vec<wgpu::Buffer>,
}

impl Harness {
    /// The first adapter, or none.
    #[must_use]
    pub fn open() -> Option<Self> {
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
        let adapter = instance.request_adapter(&wgpu::RequestAdapterOptions::default());
        let adapter = pollster::block_on(adapter).ok()?;
        let info = adapter.get_info();
        let device = adapter.request_device(&wgpu::DeviceDescriptor {
            required_features: adapter.features()
                & (wgpu::Features::SUBGROUP
                    | wgpu::Features::SHADER_F16
                    | wgpu::Features::SHADER_INT64),
            required_limits: adapter.limits(),
            ..Default::default()
        });
        let (device, queue) = pollster::block_on(device).ok()?;
        let eight = info.subgroup_min_size == 8 && info.subgroup_max_size == 8;
        Some(Self {
            subgroups_of_eight: eight && device.features().contains(wgpu::Features::SUBGROUP),
            device,
            queue,
            pipelines: RefCell::default(),
        })
    }

    fn pipeline(&self, launch: &Launch, rewrite: Rewrite) -> wgpu::ComputePipeline {
        let text = rewrite(wgsl::write(&launch.kernel));
        let build = |text: &String| {
            let module = self
                .device
                .create_shader_module(wgpu::ShaderModuleDescriptor {
                    label: Some(&launch.kernel.name),
                    source: wgpu::ShaderSource::Wgsl(text.as_str().into()),
                });
            self.device
                .create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                    label: Some(&launch.kernel.name),
                    layout: None,
                    module: &module,
                    entry_point: Some("main"),
                    compilation_options: wgpu::PipelineCompilationOptions::default(),
                    cache: None,
                })
        };
        let mut pipelines = self.pipelines.borrow_mut();
        pipelines.entry(text).or_insert_with_key(build).clone()
    }

    fn buffer(&self, words: &[u32], usage: wgpu::BufferUsages) -> wgpu::Buffer {
        self.device.create_buffer_init(&BufferInitDescriptor {
            label: None,
            contents: bytemuck::cast_slice(words),
            usage,
        })
    }

    /// Uploads inputs, and outputs filled with a pattern, of the given lengths in words.
    #[must_use]
    pub fn prepare(
        &self,
        lowered: &Lowered,
        inputs: &[Vec<u32>],
        outputs: &[usize],
        step: [u32; STEP_WORDS],
    ) -> Prepared {
        self.prepare_rewritten(lowered, inputs, outputs, step, |text| text)
    }

    /// [`Self::prepare`] with other kernels than the compiler's.
    #[must_use]
    pub fn prepare_rewritten(
        &self,
        lowered: &Lowered,
        inputs: &[Vec<u32>],
        outputs: &[usize],
        step: [u32; STEP_WORDS],
        rewrite: Rewrite,
    ) -> Prepared {
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC;
        let filled = |length: &usize| self.buffer(&vec![0x7f7f_7f7f; (*length).max(1)], usage);
        let inputs: Vec<_> = inputs.iter().map(|it| self.buffer(it, usage)).collect();
        let outputs: Vec<_> = outputs.iter().map(filled).collect();
        let scratch: Vec<_> = lowered.scratch.iter().map(filled).collect();
        let step = self.buffer(&step, usage);
        let mut launches = Vec::new();
        for launch in &lowered.launches {
            let pipeline = self.pipeline(launch, rewrite);
            let mut sizes = launch.sizes.clone();
            sizes.resize(sizes.len().div_ceil(4).max(1) * 4, 0);
            let sizes = self.buffer(&sizes, wgpu::BufferUsages::UNIFORM);
            let storage = launch.bindings.iter().map(|slot| match slot {
                Slot::Input(index) => &inputs[*index],
                Slot::Output(index) => &outputs[*index],
                Slot::Scratch(index) => &scratch[*index],
                Slot::Step => &step,
            });
            let uniform = (!launch.sizes.is_empty()).then_some(&sizes);
            let first = u32::from(uniform.is_none());
            let entries: Vec<_> = (first..)
                .zip(uniform.into_iter().chain(storage))
                .map(|(binding, buffer)| wgpu::BindGroupEntry {
                    binding,
                    resource: buffer.as_entire_binding(),
                })
                .collect();
            let group = self.device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: None,
                layout: &pipeline.get_bind_group_layout(0),
                entries: &entries,
            });
            launches.push((pipeline, group, launch.workgroups));
        }
        Prepared { launches, outputs }
    }

    /// Runs the launches `times` times in one submission and waits.
    pub fn run(&self, prepared: &Prepared, times: usize) {
        self.submit((0..times).map(|_| prepared));
    }

    /// Runs the launches of each in one submission and waits.
    pub fn run_each(&self, prepared: &[Prepared]) {
        self.submit(prepared.iter());
    }

    fn submit<'a>(&self, all: impl Iterator<Item = &'a Prepared>) {
        let mut encoder = self
            .device
            .create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            for prepared in all {
                for (pipeline, group, [x, y, z]) in &prepared.launches {
                    pass.set_pipeline(pipeline);
                    pass.set_bind_group(0, group, &[]);
                    pass.dispatch_workgroups(*x, *y, *z);
                }
            }
        }
        self.queue.submit([encoder.finish()]);
        self.wait();
    }

    fn wait(&self) {
        self.device
            .poll(wgpu::PollType::wait_indefinitely())
            .expect("the device answers");
    }

    /// The words of all outputs.
    #[must_use]
    pub fn read(&self, prepared: &Prepared) -> Vec<Vec<u32>> {
        prepared
            .outputs
            .iter()
            .map(|it| self.read_buffer(it))
            .collect()
    }

    fn read_buffer(&self, buffer: &wgpu::Buffer) -> Vec<u32> {
        let staging = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: buffer.size(),
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let mut encoder = self
            .device
            .create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        encoder.copy_buffer_to_buffer(buffer, 0, &staging, 0, buffer.size());
        self.queue.submit([encoder.finish()]);
        staging.map_async(wgpu::MapMode::Read, .., |result| {
            result.expect("the buffer maps");
        });
        self.wait();
        let view = staging.get_mapped_range(..).expect("the buffer is mapped");
        bytemuck::cast_slice(&view).to_vec()
    }
}
