//! What a driver compiled, given back to it when it creates the same pipelines again.
//!
//! Drivers of graphics cards fill this; software drivers compile when a kernel first runs and have a cache
//! of their own, so that little more than a header is kept for them.

use super::Device;
use crate::cache::{Cache, Key, Kind};
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Debug)]
pub(super) struct Pipelines {
    pub(super) raw: wgpu::PipelineCache,
    cache: Cache,
    key: Key,
    /// Pipelines of the device when its file was written.
    kept: AtomicU64,
}

impl Pipelines {
    /// With what a file has for this adapter and driver; nothing where the device has no such thing.
    pub(super) fn open(device: &Device, cache: &Cache) -> Option<Self> {
        let offered = device.raw.features();
        if !offered.contains(wgpu::Features::PIPELINE_CACHE) {
            return None;
        }
        let info = &device.info;
        let key = Key::of([
            ("adapter", wgpu::util::pipeline_cache_key(info)?),
            ("driver", format!("{} {}", info.driver, info.driver_info)),
            ("program", env!("CARGO_PKG_VERSION").to_owned()),
        ]);
        let known = cache.find(Kind::Pipelines, &key);
        let descriptor = wgpu::PipelineCacheDescriptor {
            label: Some("gatewright"),
            data: known.as_deref(),
            fallback: true,
        };
        #[allow(unsafe_code, reason = "the driver is given back what it gave")]
        // SAFETY: the bytes carry a checksum over what `get_data` of the same adapter and driver returned,
        // both part of the key; wgpu compares the header, too.
        let raw = unsafe { device.raw.create_pipeline_cache(&descriptor) };
        device.check().ok()?;
        Some(Self {
            raw,
            cache: cache.clone(),
            key,
            kept: AtomicU64::new(device.counters().pipelines),
        })
    }

    /// Keeps what the driver has now, if pipelines were created since.
    pub(super) fn keep(&self, created: u64) {
        if self.kept.swap(created, Ordering::Relaxed) == created {
            return;
        }
        if let Some(bytes) = self.raw.get_data() {
            self.cache.keep(Kind::Pipelines, &self.key, &bytes);
        }
    }
}
