//! What `doctor` tells: facts of the adapter and two short measurements.

use super::commands::Launch;
use super::memory::{Region, Staging, read_back};
use super::{Device, Gathers, gathers, kernels, select};
use crate::error::Result;
use gatewright_compiler::plan::{KernelText, Limits};
use serde::Serialize;
use std::time::Instant;

/// Words of the memory that is moved to measure bandwidth: 64 MiB.
const WORDS: u32 = 16 << 20;

/// Lanes of a workgroup of the probe.
const LANES: u32 = 64;

/// Everything `doctor` shows about a device.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DeviceReport {
    /// The adapter's name.
    pub adapter: String,
    /// `discrete gpu`, `software, cpu, lavapipe` …
    pub kind: String,
    /// `vulkan` or `metal`.
    pub backend: String,
    /// The driver's name.
    pub driver: String,
    /// The driver's version.
    pub driver_info: String,
    /// Smallest and largest subgroup.
    pub subgroup_sizes: [u32; 2],
    /// What the compiler compiles for, the profile included.
    pub limits: Limits,
    /// Features in use.
    pub features: Vec<String>,
    /// The measurements.
    pub probe: ProbeResult,
    /// How fast memory is read lane by lane, for software drivers.
    pub gathers: Option<Gathers>,
}

/// Results of the probe kernel, which adds one to 16 Mi words.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ProbeResult {
    /// Whether every checked word is right.
    pub correct: bool,
    /// Bytes read and written per second by the second of two runs, in GB/s.
    pub gigabytes_per_second: f64,
    /// Seconds of the first run, in which drivers compile.
    pub first_run_seconds: f64,
}

pub(super) fn report(device: &Device) -> Result<DeviceReport> {
    let info = &device.info;
    let features = device.raw.features();
    let software = info.device_type == wgpu::DeviceType::Cpu;
    let gathers = software.then(|| gathers::measure(device)).transpose()?;
    Ok(DeviceReport {
        adapter: info.name.clone(),
        kind: select::kind_words(info.device_type).to_owned(),
        backend: info.backend.to_string(),
        driver: info.driver.clone(),
        driver_info: info.driver_info.clone(),
        subgroup_sizes: [info.subgroup_min_size, info.subgroup_max_size],
        limits: device.limits.clone(),
        features: features
            .iter_names()
            .map(|(name, _)| name.to_owned())
            .collect(),
        probe: probe(device)?,
        gathers,
    })
}

/// One lane adds one to four words; a row of the grid is 4096 workgroups.
const PROBE: &str = "
struct Sizes { row: u32, value: u32 }
@group(0) @binding(0) var<uniform> sizes: Sizes;
@group(0) @binding(1) var<storage, read_write> words: array<vec4<u32>>;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let i = id.x + id.y * sizes.row;
    words[i] = words[i] + vec4<u32>(sizes.value) + vec4<u32>(i);
}
";

fn probe(device: &Device) -> Result<ProbeResult> {
    let text = KernelText {
        name: "probe".to_owned(),
        wgsl: PROBE.to_owned(),
        bindings: 1,
        uniform_words: 2,
    };
    let kernels = kernels::compile(device, std::slice::from_ref(&text), true, 1)?;
    let bytes = u64::from(WORDS) * 4;
    let memory = device.allocate("probe", bytes)?;
    let uniforms = device.allocate_uniforms(256)?;
    let row_workgroups = 4096;
    let words = [row_workgroups * LANES, 7];
    device.upload(&uniforms, 0, bytemuck::cast_slice(&words))?;
    let region = |memory, bytes| Region {
        memory,
        offset: 0,
        bytes,
    };
    let mut seconds = [0.0; 2];
    for kernel in &kernels {
        let storage = [region(&memory, bytes)];
        let bindings = device.bind(&kernel.layout, region(&uniforms, 16), &storage)?;
        for time in &mut seconds {
            let start = Instant::now();
            let mut recorder = device.record();
            recorder.pass(std::iter::once(Launch {
                kernel,
                bindings: &bindings,
                workgroups: [row_workgroups, WORDS / 4 / LANES / row_workgroups, 1],
            }));
            recorder.submit()?;
            device.finish()?;
            *time = start.elapsed().as_secs_f64();
        }
    }
    Ok(ProbeResult {
        correct: is_correct(device, region(&memory, bytes))?,
        gigabytes_per_second: 2.0 * bytes as f64 / seconds[1] * 1e-9,
        first_run_seconds: seconds[0],
    })
}

/// Whether words at both ends hold what two runs add to zero.
fn is_correct(device: &Device, all: Region<'_>) -> Result<bool> {
    let ends = [0, all.bytes - 4096].map(|offset| Region {
        offset,
        bytes: 4096,
        ..all
    });
    let read = read_back(device, &mut Staging::default(), &ends)?;
    Ok(ends.iter().zip(&read).all(|(end, bytes)| {
        let words = bytes.chunks_exact(4).zip(end.offset / 4..);
        words.into_iter().all(|(word, index)| {
            let expected = 2 * (7 + index / 4);
            word == u32::try_from(expected).unwrap_or(u32::MAX).to_le_bytes()
        })
    }))
}
