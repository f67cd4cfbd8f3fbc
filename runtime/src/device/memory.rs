//! Buffers, bind groups and reading back.

use super::kernels::Layout;
use super::{Created, Device, faults};
use crate::error::{Error, Result};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;

/// Most bytes read back with one copy and one map.
const STAGING_BYTES: u64 = 64 << 20;

/// One device allocation.
#[derive(Debug)]
pub(crate) struct Memory {
    pub(super) raw: wgpu::Buffer,
    created: Arc<Created>,
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.created
            .bytes
            .fetch_sub(self.raw.size(), Ordering::Relaxed);
    }
}

/// A byte range of an allocation; offset and length are multiples of four.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Region<'a> {
    pub(crate) memory: &'a Memory,
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
}

/// The resources of one dispatch.
#[derive(Debug)]
pub(crate) struct Bindings {
    pub(super) raw: wgpu::BindGroup,
}

impl Device {
    /// Memory for kernels, readable and writable from the host through copies.
    pub(crate) fn allocate(&self, what: &str, bytes: u64) -> Result<Memory> {
        let usage = wgpu::BufferUsages::STORAGE
            | wgpu::BufferUsages::COPY_SRC
            | wgpu::BufferUsages::COPY_DST;
        self.create_memory(what, bytes, usage)
    }

    /// Memory for size words.
    pub(crate) fn allocate_uniforms(&self, bytes: u64) -> Result<Memory> {
        let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
        self.create_memory("uniforms", bytes, usage)
    }

    pub(super) fn create_memory(
        &self,
        what: &str,
        bytes: u64,
        usage: wgpu::BufferUsages,
    ) -> Result<Memory> {
        let created = faults::scoped(&self.raw, || {
            self.raw.create_buffer(&wgpu::BufferDescriptor {
                label: Some(what),
                size: bytes,
                usage,
                mapped_at_creation: false,
            })
        });
        self.created.buffers.fetch_add(1, Ordering::Relaxed);
        match created {
            Ok(raw) => {
                self.created.add_bytes(raw.size());
                Ok(Memory {
                    raw,
                    created: Arc::clone(&self.created),
                })
            }
            Err(wgpu::Error::OutOfMemory { .. }) => Err(Error::OutOfMemory {
                what: what.to_owned(),
                bytes,
            }),
            Err(error) => Err(Error::DeviceFault {
                reason: format!("creating `{what}` of {bytes} bytes: {error}"),
            }),
        }
    }

    /// Copies bytes to the device before the next submission runs.
    pub(crate) fn upload(&self, to: &Memory, offset: u64, bytes: &[u8]) -> Result<()> {
        self.queue.write_buffer(&to.raw, offset, bytes);
        let length = bytes.len() as u64;
        self.created
            .uploaded_bytes
            .fetch_add(length, Ordering::Relaxed);
        self.check()
    }

    /// Binds size words and storage regions to a kernel layout.
    pub(crate) fn bind(
        &self,
        layout: &Layout,
        uniforms: Region<'_>,
        storage: &[Region<'_>],
    ) -> Result<Bindings> {
        let regions = std::iter::once(&uniforms).chain(storage);
        let entries: Vec<_> = (0u32..)
            .zip(regions)
            .map(|(binding, region)| wgpu::BindGroupEntry {
                binding,
                resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                    buffer: &region.memory.raw,
                    offset: region.offset,
                    size: wgpu::BufferSize::new(region.bytes),
                }),
            })
            .collect();
        let raw = self.raw.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &layout.groups,
            entries: &entries,
        });
        self.created.bind_groups.fetch_add(1, Ordering::Relaxed);
        self.check()?;
        Ok(Bindings { raw })
    }
}

/// A reusable buffer through which results come back to the host.
#[derive(Debug, Default)]
pub(crate) struct Staging {
    memory: Option<Memory>,
}

impl Staging {
    /// Whether one copy and one map are enough for this many bytes.
    pub(crate) fn fits(bytes: u64) -> bool {
        bytes <= STAGING_BYTES
    }

    /// The buffer, made larger when it is smaller than `bytes`.
    pub(crate) fn reserve(&mut self, device: &Device, bytes: u64) -> Result<()> {
        let known = self.memory.as_ref();
        if known.is_some_and(|memory| memory.raw.size() >= bytes) {
            return Ok(());
        }
        let size = bytes.next_power_of_two().clamp(4096, STAGING_BYTES);
        let usage = wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ;
        let memory = device.create_memory("staging", size, usage)?;
        self.memory = Some(memory);
        Ok(())
    }

    pub(super) fn raw(&self) -> Result<&wgpu::Buffer> {
        let memory = self.memory.as_ref().ok_or_else(|| Error::DeviceFault {
            reason: "nothing was reserved for reading back".to_owned(),
        })?;
        Ok(&memory.raw)
    }

    /// Waits for the copies submitted before and gives their first `bytes` bytes to `take`.
    pub(crate) fn map<T>(
        &mut self,
        device: &Device,
        bytes: u64,
        take: impl FnOnce(&[u8]) -> T,
    ) -> Result<T> {
        let result = self.map_once(device, bytes, take);
        if result.is_err() {
            // It may still be mapped, and then nothing could be copied into it again.
            self.memory = None;
        }
        result
    }

    fn map_once<T>(&self, device: &Device, bytes: u64, take: impl FnOnce(&[u8]) -> T) -> Result<T> {
        let buffer = self.raw()?;
        device
            .created
            .read_bytes
            .fetch_add(bytes, Ordering::Relaxed);
        let (sender, receiver) = mpsc::channel();
        buffer.map_async(wgpu::MapMode::Read, ..bytes, move |result| {
            // The receiver is gone only when waiting failed, which is reported there.
            let _ = sender.send(result);
        });
        device.finish()?;
        let fault = |reason: String| Error::DeviceFault { reason };
        match receiver.try_recv() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(fault(error.to_string())),
            Err(error) => return Err(fault(format!("reading back: {error}"))),
        }
        let value = {
            let view = buffer
                .get_mapped_range(..bytes)
                .map_err(|error| fault(error.to_string()))?;
            take(&view)
        };
        buffer.unmap();
        device.check()?;
        Ok(value)
    }
}

/// Reads regions back, as many at a time as staging holds.
pub(crate) fn read_back(
    device: &Device,
    staging: &mut Staging,
    regions: &[Region<'_>],
) -> Result<Vec<Vec<u8>>> {
    let mut results: Vec<Vec<u8>> = regions.iter().map(|_| Vec::new()).collect();
    let mut pieces = pieces(regions).into_iter().peekable();
    while pieces.peek().is_some() {
        let mut round = Vec::new();
        let mut total = 0;
        while let Some((index, piece)) =
            pieces.next_if(|(_, piece)| round.is_empty() || total + piece.bytes <= STAGING_BYTES)
        {
            total += piece.bytes;
            round.push((index, piece));
        }
        staging.reserve(device, total)?;
        let mut recorder = device.record();
        let copied: Vec<Region<'_>> = round.iter().map(|(_, piece)| *piece).collect();
        recorder.stage(&copied, staging)?;
        recorder.submit()?;
        staging.map(device, total, |bytes| {
            let mut rest = bytes;
            for (index, piece) in &round {
                let (head, tail) = rest.split_at(usize::try_from(piece.bytes).unwrap_or(0));
                results[*index].extend_from_slice(head);
                rest = tail;
            }
        })?;
    }
    Ok(results)
}

/// Regions cut to what staging holds, with the index of the region each piece belongs to.
fn pieces<'a>(regions: &[Region<'a>]) -> Vec<(usize, Region<'a>)> {
    let mut pieces = Vec::new();
    for (index, region) in regions.iter().enumerate() {
        let mut done = 0;
        while done < region.bytes {
            let bytes = (region.bytes - done).min(STAGING_BYTES);
            let offset = region.offset + done;
            pieces.push((
                index,
                Region {
                    offset,
                    bytes,
                    ..*region
                },
            ));
            done += bytes;
        }
    }
    pieces
}
