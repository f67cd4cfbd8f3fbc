//! How fast a software driver reads memory lane by lane: from storage, and from a texture.
//!
//! No driver of this kind has vector loads. Old ones read storage in a loop over lanes, which without the masked
//! instructions of AVX-512 costs many times what a texture's unrolled loads do.

use super::Device;
use crate::error::Result;
use serde::Serialize;
use std::time::Instant;
use wgpu::util::{BufferInitDescriptor, DeviceExt};

/// Texels, or vec4, of what is read: 1 MiB.
const WIDTH: u32 = 1_024;
const HEIGHT: u32 = 64;

/// vec4 that a lane adds up.
const STEPS: u32 = 64;

/// Reads in one submission.
const TIMES: u32 = 16;

/// Measurements; the fastest counts.
const RUNS: usize = 3;

/// Every eight lanes walk over their own contiguous part; the number of steps is no constant, so that no driver
/// unrolls the loop.
const TEXT: &str = "
struct Sizes { steps: u32, row_shift: u32 }
@group(0) @binding(0) var<uniform> sizes: Sizes;
@group(0) @binding(1) DECLARED
@group(0) @binding(2) var<storage, read_write> sums: array<vec4<f32>>;
@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let first = (group.x * 8u + lane / 8u) * 8u * sizes.steps + lane % 8u;
    var sum = vec4<f32>();
    for (var step = 0u; step < sizes.steps; step++) {
        let at = first + step * 8u;
        sum += READ;
    }
    sums[group.x * 64u + lane] = sum;
}
";

/// Bytes per second of both ways to read.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Gathers {
    /// From a storage buffer, in GB/s.
    pub storage_gigabytes_per_second: f64,
    /// From a texture, in GB/s.
    pub texture_gigabytes_per_second: f64,
}

/// Storage that is read so many times slower than a texture is worth a word.
const SLOW: f64 = 3.0;

impl Gathers {
    /// Whether kernels, which read storage, wait for this driver.
    #[must_use]
    pub fn storage_is_slow(&self) -> bool {
        self.texture_gigabytes_per_second > SLOW * self.storage_gigabytes_per_second
    }
}

/// Measures both.
pub(super) fn measure(device: &Device) -> Result<Gathers> {
    let bench = Bench::new(device);
    device.check()?;
    Ok(Gathers {
        storage_gigabytes_per_second: bench.storage.rate(device)?,
        texture_gigabytes_per_second: bench.texture.rate(device)?,
    })
}

/// A pipeline with what it reads.
struct Way {
    pipeline: wgpu::ComputePipeline,
    group: wgpu::BindGroup,
}

struct Bench {
    storage: Way,
    texture: Way,
}

impl Bench {
    fn new(device: &Device) -> Self {
        let raw = &device.raw;
        let buffer = |words: &[u32], usage| {
            raw.create_buffer_init(&BufferInitDescriptor {
                label: Some("gathers"),
                contents: bytemuck::cast_slice(words),
                usage,
            })
        };
        let texels = vec![0; 4 * (WIDTH * HEIGHT) as usize];
        let sizes = buffer(
            &[STEPS, WIDTH.trailing_zeros(), 0, 0],
            wgpu::BufferUsages::UNIFORM,
        );
        let sums = vec![0; 4 * (WIDTH * HEIGHT / STEPS) as usize];
        let sums = buffer(&sums, wgpu::BufferUsages::STORAGE);
        let words = buffer(&texels, wgpu::BufferUsages::STORAGE);
        let texture = raw.create_texture_with_data(
            &device.queue,
            &wgpu::TextureDescriptor {
                label: Some("gathers"),
                size: wgpu::Extent3d {
                    width: WIDTH,
                    height: HEIGHT,
                    depth_or_array_layers: 1,
                },
                mip_level_count: 1,
                sample_count: 1,
                dimension: wgpu::TextureDimension::D2,
                format: wgpu::TextureFormat::Rgba32Float,
                usage: wgpu::TextureUsages::TEXTURE_BINDING,
                view_formats: &[],
            },
            wgpu::wgt::TextureDataOrder::LayerMajor,
            bytemuck::cast_slice(&texels),
        );
        let view = texture.create_view(&wgpu::TextureViewDescriptor::default());
        let way = |declared: &str, read: &str, resource| {
            let text = TEXT.replace("DECLARED", declared).replace("READ", read);
            let module = raw.create_shader_module(wgpu::ShaderModuleDescriptor {
                label: Some("gathers"),
                source: wgpu::ShaderSource::Wgsl(text.into()),
            });
            let pipeline = raw.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some("gathers"),
                layout: None,
                module: &module,
                entry_point: Some("main"),
                compilation_options: wgpu::PipelineCompilationOptions::default(),
                cache: None,
            });
            let entry = |binding, resource| wgpu::BindGroupEntry { binding, resource };
            let group = raw.create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some("gathers"),
                layout: &pipeline.get_bind_group_layout(0),
                entries: &[
                    entry(0, sizes.as_entire_binding()),
                    entry(1, resource),
                    entry(2, sums.as_entire_binding()),
                ],
            });
            Way { pipeline, group }
        };
        Self {
            storage: way(
                "var<storage, read> words: array<vec4<f32>>;",
                "words[at]",
                words.as_entire_binding(),
            ),
            texture: way(
                "var texels: texture_2d<f32>;",
                "textureLoad(texels, vec2(at & ((1u << sizes.row_shift) - 1u), at >> sizes.row_shift), 0)",
                wgpu::BindingResource::TextureView(&view),
            ),
        }
    }
}

impl Way {
    /// Gigabytes per second of the fastest run.
    fn rate(&self, device: &Device) -> Result<f64> {
        let bytes = f64::from(TIMES) * f64::from(WIDTH * HEIGHT) * 16.0;
        let mut best = f64::INFINITY;
        // The first run compiles.
        for _ in 0..=RUNS {
            let start = Instant::now();
            let mut encoder = device.raw.create_command_encoder(&Default::default());
            let mut pass = encoder.begin_compute_pass(&Default::default());
            pass.set_pipeline(&self.pipeline);
            pass.set_bind_group(0, &self.group, &[]);
            for _ in 0..TIMES {
                pass.dispatch_workgroups(WIDTH * HEIGHT / STEPS / 64, 1, 1);
            }
            drop(pass);
            device.queue.submit([encoder.finish()]);
            device.finish()?;
            best = best.min(start.elapsed().as_secs_f64());
        }
        Ok(bytes / best * 1e-9)
    }
}
