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

/// Requested where the adapter lists what kernels use of it.
pub(super) const MATRIX_UNITS: wgpu::Features = wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX;

/// Whether matrices of 16 x 16 16-bit floats can be multiplied and added up in f32.
pub(super) fn has_matrix_units(listed: &[wgpu::CooperativeMatrixProperties]) -> bool {
    use wgpu::CooperativeScalarType::{F16, F32};
    let fits = |it: &wgpu::CooperativeMatrixProperties| {
        [it.m_size, it.n_size, it.k_size] == [16; 3]
            && (it.ab_type, it.cr_type, it.saturating_accumulation) == (F16, F32, false)
    };
    listed.iter().any(fits)
}

/// Leave to use what wgpu calls experimental, where that is wanted.
pub(super) fn experiments(wanted: wgpu::Features) -> wgpu::ExperimentalFeatures {
    if !wanted.contains(MATRIX_UNITS) {
        return wgpu::ExperimentalFeatures::disabled();
    }
    #[allow(
        unsafe_code,
        reason = "wgpu asks for it where a feature may have faults"
    )]
    // SAFETY: one feature of them is requested; its kernels are compared with others before plans use them,
    // and what they read and write lies in workgroup memory at places known to the compiler.
    unsafe {
        wgpu::ExperimentalFeatures::enabled()
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;
    use wgpu::CooperativeScalarType::{F16, F32};

    #[test]
    fn matrix_units_of_one_kind_are_used() {
        let listed =
            |m_size, ab_type, cr_type, saturating_accumulation| wgpu::CooperativeMatrixProperties {
                m_size,
                n_size: 16,
                k_size: 16,
                ab_type,
                cr_type,
                saturating_accumulation,
            };
        let right = listed(16, F16, F32, false);
        let wrong = [
            listed(8, F16, F32, false),
            listed(16, F16, F16, false),
            listed(16, F32, F32, false),
            listed(16, F16, F32, true),
        ];
        assert!(!has_matrix_units(&[]));
        assert!(!has_matrix_units(&wrong));
        assert!(has_matrix_units(&[&wrong[..], &[right]].concat()));
    }
}
