//! Devices: finding one, opening it, and the few things a plan needs of it. Only this module and its
//! children know wgpu.
//!
//! Invariants
//! - Errors of the driver never panic: they are kept and returned by the next call.
//! - Every GPU object that outlives a call is counted in [`Counters`].
//! - At most two submissions are in flight, so that a fast host does not pile up uploads.

pub(crate) mod commands;
mod faults;
mod gathers;
pub(crate) mod kernels;
pub(crate) mod memory;
mod pipelines;
mod probe;
mod select;
pub(crate) mod timing;
pub(crate) mod warm;

pub use gathers::Gathers;
pub use probe::{DeviceReport, ProbeResult};

use crate::cache::{Cache, Key};
use crate::error::{Error, Result};
use faults::Faults;
use gatewright_compiler::plan::{Limits, Profile, Tiles};
use pipelines::Pipelines;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Submissions that may be in flight.
const IN_FLIGHT: usize = 2;

/// Which adapter to open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The most capable one: discrete before integrated before virtual before software.
    Auto,
    /// The first whose name, driver or kind contains this text, in any case. `lavapipe` and
    /// `software` mean a driver that runs on the processor.
    Named(String),
}

impl Choice {
    /// The meaning of `--device TEXT`, but for `reference`, which is no adapter.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        match text {
            "auto" => Self::Auto,
            name => Self::Named(name.to_owned()),
        }
    }
}

/// GPU objects created so far on one device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Buffers, staging and query buffers included.
    pub buffers: u64,
    /// Compute pipelines.
    pub pipelines: u64,
    /// Bind groups.
    pub bind_groups: u64,
    /// Submissions to the queue.
    pub submissions: u64,
    /// Bytes copied from the host.
    pub uploaded_bytes: u64,
    /// Bytes copied to the host.
    pub read_bytes: u64,
    /// Bytes of memory for kernels that exist now.
    pub bytes: u64,
    /// The most of them that existed at once.
    pub peak_bytes: u64,
}

#[derive(Debug, Default)]
struct Created {
    bytes: AtomicU64,
    peak_bytes: AtomicU64,
    buffers: AtomicU64,
    pipelines: AtomicU64,
    bind_groups: AtomicU64,
    submissions: AtomicU64,
    uploaded_bytes: AtomicU64,
    read_bytes: AtomicU64,
}

/// An open device. Clones share it.
#[derive(Clone, Debug)]
pub struct Device {
    adapter: wgpu::Adapter,
    raw: wgpu::Device,
    queue: wgpu::Queue,
    info: Arc<wgpu::AdapterInfo>,
    limits: Limits,
    faults: Faults,
    created: Arc<Created>,
    in_flight: Arc<Mutex<VecDeque<wgpu::SubmissionIndex>>>,
    cache: Option<Cache>,
    pipelines: Option<Arc<Pipelines>>,
}

impl Device {
    /// Opens the chosen adapter with all its limits and the features that kernels use.
    ///
    /// # Errors
    /// [`Error::NoAdapter`], [`Error::UnknownAdapter`] with the names there are, or
    /// [`Error::AdapterRefused`].
    pub fn open(choice: &Choice) -> Result<Self> {
        Self::on(select::select(choice)?)
    }

    /// Bytes of memory that are free for it, where that can be known: software drivers take what the host
    /// has. What a graphics card has shows when it refuses.
    #[must_use]
    pub fn free_bytes(&self) -> Option<u64> {
        if !self.is_software() {
            return None;
        }
        let text = std::fs::read_to_string("/proc/meminfo").ok()?;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("MemAvailable:"))?;
        let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kibibytes * 1_024)
    }

    /// Whether it is a driver that runs on the processor.
    #[must_use]
    pub fn is_software(&self) -> bool {
        self.info.device_type == wgpu::DeviceType::Cpu
    }

    /// Of what is known of this adapter with this driver.
    pub(crate) fn key(&self, what: &str, build: &str) -> Key {
        let info = &self.info;
        Key::of([
            ("what", what.to_owned()),
            ("adapter", format!("{} {:?}", info.name, info.backend)),
            ("driver", format!("{} {}", info.driver, info.driver_info)),
            ("limits", format!("{:?}", self.limits)),
            ("compiler", build.to_owned()),
        ])
    }

    /// Another device on the same adapter, with a queue of its own.
    fn sibling(&self) -> Result<Self> {
        Self::on(self.adapter.clone())
    }

    fn on(adapter: wgpu::Adapter) -> Result<Self> {
        let info = adapter.get_info();
        let mut wanted = select::USEFUL_FEATURES & adapter.features();
        let units = select::has_matrix_units(&adapter.cooperative_matrix_properties());
        if units && wanted.contains(wgpu::Features::SHADER_F16) {
            wanted |= select::MATRIX_UNITS & adapter.features();
        }
        let request = adapter.request_device(&wgpu::DeviceDescriptor {
            label: Some("gatewright"),
            required_features: wanted,
            required_limits: adapter.limits(),
            memory_hints: wgpu::MemoryHints::MemoryUsage,
            experimental_features: select::experiments(wanted),
            ..Default::default()
        });
        let (raw, queue) = pollster::block_on(request).map_err(|error| Error::AdapterRefused {
            adapter: info.name.clone(),
            reason: error.to_string(),
        })?;
        Ok(Self {
            limits: plan_limits(&info, &raw.limits(), wanted),
            faults: Faults::watch(&raw),
            info: Arc::new(info),
            created: Arc::default(),
            in_flight: Arc::default(),
            cache: None,
            pipelines: None,
            adapter,
            raw,
            queue,
        })
    }

    /// Names of all adapters, most capable first.
    #[must_use]
    pub fn adapters() -> Vec<String> {
        select::names()
    }

    /// The adapter's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.info.name
    }

    /// What the device can do, as the compiler wants to know it.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The same device with plans of another family of kernels, to compare them; nothing when it
    /// cannot run that family.
    #[must_use]
    pub fn with_profile(&self, profile: Profile) -> Option<Self> {
        let mut device = self.clone();
        device.limits.profile = profile;
        (profile == Profile::Gpu || self.limits.subgroup_size == 8).then_some(device)
    }

    /// The same device, with plans that use its matrix units; nothing where it has none that kernels of its
    /// family could use. [`crate::matrix_units::verified`] finds out whether they compute rightly.
    #[must_use]
    pub(crate) fn with_matrix_units(&self) -> Option<Self> {
        let offered = self.raw.features().contains(select::MATRIX_UNITS);
        let mut device = self.clone();
        device.limits.cooperative = true;
        (offered && self.limits.profile == Profile::Gpu).then_some(device)
    }

    /// The same device, with plans whose products have these tiles; the cpu family has its own.
    #[must_use]
    pub fn with_tiles(mut self, tiles: Tiles) -> Self {
        self.limits.tiles = tiles;
        self
    }

    /// The same device, with plans and what its driver makes of their kernels kept in files.
    #[must_use]
    pub fn with_cache(mut self, cache: Cache) -> Self {
        self.pipelines = Pipelines::open(&self, &cache).map(Arc::new);
        self.cache = Some(cache);
        self
    }

    /// Where plans are kept, if they are.
    #[must_use]
    pub fn cache(&self) -> Option<&Cache> {
        self.cache.as_ref()
    }

    /// Keeps what the driver made of new pipelines.
    pub(crate) fn keep_pipelines(&self) {
        if let Some(pipelines) = &self.pipelines {
            pipelines.keep(self.counters().pipelines);
        }
    }

    /// GPU objects created so far by all executors of this device.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counters {
            buffers: load(&self.created.buffers),
            pipelines: load(&self.created.pipelines),
            bind_groups: load(&self.created.bind_groups),
            submissions: load(&self.created.submissions),
            uploaded_bytes: load(&self.created.uploaded_bytes),
            read_bytes: load(&self.created.read_bytes),
            bytes: load(&self.created.bytes),
            peak_bytes: load(&self.created.peak_bytes),
        }
    }

    /// Everything `doctor` shows, with two short measurements.
    ///
    /// # Errors
    /// When the device fails while measuring; a wrong result is not an error but part of the report.
    pub fn report(&self) -> Result<DeviceReport> {
        probe::report(self)
    }

    /// Submits a command buffer and keeps at most [`IN_FLIGHT`] unfinished.
    fn submit(&self, commands: wgpu::CommandBuffer) -> Result<()> {
        let index = self.queue.submit([commands]);
        self.created.submissions.fetch_add(1, Ordering::Relaxed);
        let oldest = {
            let mut queue = self
                .in_flight
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            queue.push_back(index);
            (queue.len() > IN_FLIGHT)
                .then(|| queue.pop_front())
                .flatten()
        };
        if let Some(submission) = oldest {
            self.wait(wgpu::PollType::Wait {
                submission_index: Some(submission),
                timeout: None,
            })?;
        }
        self.check()
    }

    /// Waits for all submitted work.
    ///
    /// # Errors
    /// What the device reports.
    pub fn finish(&self) -> Result<()> {
        self.wait(wgpu::PollType::wait_indefinitely())?;
        self.check()
    }

    fn wait(&self, poll: wgpu::PollType) -> Result<()> {
        match self.raw.poll(poll) {
            Ok(_) => Ok(()),
            Err(error) => {
                self.check()?;
                Err(Error::DeviceLost {
                    reason: error.to_string(),
                })
            }
        }
    }

    /// The first error the driver reported since the last call.
    pub(crate) fn check(&self) -> Result<()> {
        self.faults.take()
    }
}

impl Created {
    /// Takes down new memory.
    fn add_bytes(&self, bytes: u64) {
        let now = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.peak_bytes.fetch_max(now, Ordering::Relaxed);
    }
}

fn plan_limits(
    info: &wgpu::AdapterInfo,
    limits: &wgpu::Limits,
    features: wgpu::Features,
) -> Limits {
    let fixed = info.subgroup_min_size == info.subgroup_max_size;
    let subgroups = features.contains(wgpu::Features::SUBGROUP);
    let subgroup_size = if fixed && subgroups {
        info.subgroup_min_size
    } else {
        0
    };
    let software = info.device_type == wgpu::DeviceType::Cpu;
    Limits {
        profile: if software && subgroup_size == 8 {
            Profile::CpuVulkan
        } else {
            Profile::Gpu
        },
        max_binding_bytes: limits.max_storage_buffer_binding_size,
        max_buffer_bytes: limits.max_buffer_size,
        max_storage_bindings: limits.max_storage_buffers_per_shader_stage,
        max_workgroups: limits.max_compute_workgroups_per_dimension,
        max_invocations: limits.max_compute_invocations_per_workgroup,
        workgroup_memory_bytes: limits.max_compute_workgroup_storage_size,
        offset_alignment: limits.min_storage_buffer_offset_alignment,
        subgroup_size,
        halves: features.contains(wgpu::Features::SHADER_F16),
        long_words: features.contains(wgpu::Features::SHADER_INT64),
        cooperative: false,
        tiles: Tiles::default(),
    }
}
