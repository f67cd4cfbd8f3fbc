//! Finding an adapter.

use super::Choice;
use crate::error::{Error, Result};

/// Features requested where they are present.
pub(super) const USEFUL_FEATURES: wgpu::Features = wgpu::Features::SUBGROUP
    .union(wgpu::Features::SUBGROUP_BARRIER)
    .union(wgpu::Features::TIMESTAMP_QUERY)
    .union(wgpu::Features::TIMESTAMP_QUERY_INSIDE_ENCODERS)
    .union(wgpu::Features::TIMESTAMP_QUERY_INSIDE_PASSES)
    .union(wgpu::Features::PIPELINE_CACHE)
    .union(wgpu::Features::SHADER_F16)
    .union(wgpu::Features::SHADER_INT64);

/// The adapter of this choice.
pub(super) fn select(choice: &Choice) -> Result<wgpu::Adapter> {
    let mut adapters = adapters();
    if adapters.is_empty() {
        return Err(Error::NoAdapter);
    }
    let index = match choice {
        Choice::Auto => Some(0),
        Choice::Named(wanted) => adapters
            .iter()
            .position(|adapter| matches(&adapter.get_info(), wanted)),
    };
    match (index, choice) {
        (Some(index), _) => Ok(adapters.swap_remove(index)),
        (None, Choice::Auto) => Err(Error::NoAdapter),
        (None, Choice::Named(wanted)) => Err(Error::UnknownAdapter {
            wanted: wanted.clone(),
            present: adapters.iter().map(describe).collect(),
        }),
    }
}

pub(super) fn names() -> Vec<String> {
    adapters().iter().map(describe).collect()
}

/// All adapters, most capable first; equals keep the driver's order.
fn adapters() -> Vec<wgpu::Adapter> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
        backends: wgpu::Backends::VULKAN | wgpu::Backends::METAL,
        // No validation of indirect counts and no driver layers: kernels are checked before.
        flags: wgpu::InstanceFlags::empty(),
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    });
    let all = instance.enumerate_adapters(wgpu::Backends::all());
    let mut adapters = pollster::block_on(all);
    adapters.sort_by_key(|adapter| rank(adapter.get_info().device_type));
    adapters
}

fn rank(kind: wgpu::DeviceType) -> u8 {
    match kind {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu => 2,
        wgpu::DeviceType::Other => 3,
        wgpu::DeviceType::Cpu => 4,
    }
}

/// What users call a kind of device. Mesa's software driver calls itself llvmpipe and is known as
/// lavapipe.
pub(super) fn kind_words(kind: wgpu::DeviceType) -> &'static str {
    match kind {
        wgpu::DeviceType::DiscreteGpu => "discrete gpu",
        wgpu::DeviceType::IntegratedGpu => "integrated gpu",
        wgpu::DeviceType::VirtualGpu => "virtual gpu",
        wgpu::DeviceType::Other => "other",
        wgpu::DeviceType::Cpu => "software, cpu, lavapipe",
    }
}

fn describe(adapter: &wgpu::Adapter) -> String {
    let info = adapter.get_info();
    format!("{} ({})", info.name, kind_words(info.device_type))
}

fn matches(info: &wgpu::AdapterInfo, wanted: &str) -> bool {
    let kind = kind_words(info.device_type);
    let words = format!("{} {} {kind}", info.name, info.driver).to_lowercase();
    words.contains(&wanted.to_lowercase())
}
