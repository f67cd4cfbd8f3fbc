//! Timestamps around kernels.

use super::Device;
use super::memory::{Memory, Region, Staging, read_back};
use crate::error::{Error, Result};

/// Kernels measured per submission; a query set holds at most 4096 timestamps.
pub(crate) const SLOTS: u32 = 2048;

/// Measures up to [`SLOTS`] kernels of one submission.
pub(crate) struct Timer {
    queries: wgpu::QuerySet,
    resolved: Memory,
    nanoseconds_per_tick: f64,
}

impl Timer {
    /// A timer, or nothing when the device has no timestamps.
    pub(crate) fn new(device: &Device) -> Result<Option<Self>> {
        if !device
            .raw
            .features()
            .contains(wgpu::Features::TIMESTAMP_QUERY)
        {
            return Ok(None);
        }
        let queries = device.raw.create_query_set(&wgpu::QuerySetDescriptor {
            label: None,
            ty: wgpu::QueryType::Timestamp,
            count: 2 * SLOTS,
        });
        let usage = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
        let resolved = device.create_memory("timestamps", u64::from(2 * SLOTS) * 8, usage)?;
        Ok(Some(Self {
            queries,
            resolved,
            nanoseconds_per_tick: f64::from(device.queue.get_timestamp_period()),
        }))
    }

    pub(super) fn writes(&self, slot: u32) -> wgpu::ComputePassTimestampWrites<'_> {
        wgpu::ComputePassTimestampWrites {
            query_set: &self.queries,
            beginning_of_pass_write_index: Some(2 * slot),
            end_of_pass_write_index: Some(2 * slot + 1),
        }
    }

    pub(super) fn resolve(&self, encoder: &mut wgpu::CommandEncoder, slots: u32) {
        encoder.resolve_query_set(&self.queries, 0..2 * slots, &self.resolved.raw, 0);
    }

    /// Start, from that of the first, and length in nanoseconds of the first `slots` kernels of the
    /// submission before.
    pub(crate) fn read(
        &self,
        device: &Device,
        staging: &mut Staging,
        slots: u32,
    ) -> Result<Vec<[f64; 2]>> {
        let region = Region {
            memory: &self.resolved,
            offset: 0,
            bytes: u64::from(2 * slots) * 8,
        };
        let bytes = read_back(device, staging, &[region])?;
        let ticks: Vec<u64> = bytes
            .concat()
            .chunks_exact(8)
            .filter_map(|chunk| chunk.try_into().ok().map(u64::from_le_bytes))
            .collect();
        if ticks.len() != 2 * slots as usize {
            return Err(Error::DeviceFault {
                reason: "fewer timestamps came back than were written".to_owned(),
            });
        }
        let first = ticks.first().copied().unwrap_or_default();
        let time = |from: u64, to: u64| to.saturating_sub(from) as f64 * self.nanoseconds_per_tick;
        let spans = ticks.chunks_exact(2);
        Ok(spans
            .map(|pair| [time(first, pair[0]), time(pair[0], pair[1])])
            .collect())
    }
}
