//! Pipelines: one per kernel text, created on several threads.

use super::{Device, faults};
use crate::error::{Error, Result};
use gatewright_compiler::plan::KernelText;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Parsing nested expressions is recursive; the default stack of a thread is small for that.
pub(super) const STACK_BYTES: usize = 16 << 20;

/// A kernel ready to run.
#[derive(Debug)]
pub(crate) struct Kernel {
    pub(super) pipeline: wgpu::ComputePipeline,
    pub(crate) layout: Arc<Layout>,
}

/// What kernels with one number of storage bindings share.
#[derive(Debug)]
pub(crate) struct Layout {
    pub(super) groups: wgpu::BindGroupLayout,
    pipeline: wgpu::PipelineLayout,
}

/// Creates the pipelines of all kernels, in their order.
///
/// `checked` keeps bounds checks, loop bounds and zeroed workgroup memory.
pub(crate) fn compile(
    device: &Device,
    kernels: &[KernelText],
    checked: bool,
    threads: usize,
) -> Result<Vec<Kernel>> {
    let mut layouts: BTreeMap<u32, Arc<Layout>> = BTreeMap::new();
    for kernel in kernels {
        let layout = || Arc::new(create_layout(device, kernel.bindings));
        layouts.entry(kernel.bindings).or_insert_with(layout);
    }
    device.check()?;
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(text) = kernels.get(index) else {
                return done;
            };
            let layout = Arc::clone(&layouts[&text.bindings]);
            done.push((index, create_kernel(device, text, layout, checked)));
        }
    };
    let mut done = on_threads(threads.clamp(1, kernels.len().max(1)), &work)?;
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, kernel)| kernel).collect()
}

/// Runs `work` on some threads with large stacks and joins the results.
fn on_threads<T: Send>(threads: usize, work: &(impl Fn() -> Vec<T> + Sync)) -> Result<Vec<T>> {
    let failed = |reason: &str| Error::DeviceFault {
        reason: format!("creating pipelines: {reason}"),
    };
    std::thread::scope(|scope| {
        let spawned: Vec<_> = (0..threads)
            .map(|_| {
                std::thread::Builder::new()
                    .stack_size(STACK_BYTES)
                    .spawn_scoped(scope, work)
            })
            .collect();
        let mut all = Vec::new();
        for handle in spawned {
            let handle = handle.map_err(|error| failed(&error.to_string()))?;
            all.extend(handle.join().map_err(|_| failed("a thread panicked"))?);
        }
        Ok(all)
    })
}

pub(super) fn create_layout(device: &Device, bindings: u32) -> Layout {
    let entry = |binding| wgpu::BindGroupLayoutEntry {
        binding,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer {
            ty: match binding {
                0 => wgpu::BufferBindingType::Uniform,
                _ => wgpu::BufferBindingType::Storage { read_only: false },
            },
            has_dynamic_offset: false,
            min_binding_size: None,
        },
        count: None,
    };
    let entries: Vec<_> = (0..=bindings).map(entry).collect();
    let groups = device
        .raw
        .create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: None,
            entries: &entries,
        });
    let pipeline = device
        .raw
        .create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: None,
            bind_group_layouts: &[Some(&groups)],
            immediate_size: 0,
        });
    Layout { groups, pipeline }
}

pub(super) fn create_kernel(
    device: &Device,
    text: &KernelText,
    layout: Arc<Layout>,
    checked: bool,
) -> Result<Kernel> {
    let rejected = |error: wgpu::Error| Error::KernelRejected {
        kernel: text.name.clone(),
        reason: error.to_string(),
    };
    let module = faults::scoped(&device.raw, || create_module(device, text, checked));
    let module = module.map_err(rejected)?;
    let pipeline = faults::scoped(&device.raw, || {
        device
            .raw
            .create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(&text.name),
                layout: Some(&layout.pipeline),
                module: &module,
                entry_point: Some("main"),
                compilation_options: wgpu::PipelineCompilationOptions {
                    constants: &[],
                    zero_initialize_workgroup_memory: checked,
                },
                cache: device.pipelines.as_ref().map(|it| &it.raw),
            })
    });
    device.created.pipelines.fetch_add(1, Ordering::Relaxed);
    Ok(Kernel {
        pipeline: pipeline.map_err(rejected)?,
        layout,
    })
}

fn create_module(device: &Device, text: &KernelText, checked: bool) -> wgpu::ShaderModule {
    let descriptor = wgpu::ShaderModuleDescriptor {
        label: Some(&text.name),
        source: wgpu::ShaderSource::Wgsl(text.wgsl.as_str().into()),
    };
    if checked {
        return device.raw.create_shader_module(descriptor);
    }
    #[allow(
        unsafe_code,
        reason = "the one place where run-time checks are left out"
    )]
    // SAFETY: kernels come from the compiler, which proves that indices stay inside their buffers
    // and that loops end; plans from elsewhere run with `checked`.
    unsafe {
        device
            .raw
            .create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked())
    }
}
