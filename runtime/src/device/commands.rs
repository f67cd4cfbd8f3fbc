//! Recording commands and submitting them together.

use super::Device;
use super::kernels::Kernel;
use super::memory::{Bindings, Region, Staging};
use super::timing::Timer;
use crate::error::Result;

/// Commands on their way to one submission.
pub(crate) struct Recorder<'a> {
    device: &'a Device,
    encoder: wgpu::CommandEncoder,
}

/// One run of a kernel.
pub(crate) struct Launch<'a> {
    pub(crate) kernel: &'a Kernel,
    pub(crate) bindings: &'a Bindings,
    pub(crate) workgroups: [u32; 3],
}

impl Device {
    /// Starts recording.
    pub(crate) fn record(&self) -> Recorder<'_> {
        let encoder = self
            .raw
            .create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        Recorder {
            device: self,
            encoder,
        }
    }
}

impl<'a> Recorder<'a> {
    /// Runs kernels in order in one compute pass; each sees what the ones before wrote.
    pub(crate) fn pass<'b>(&mut self, launches: impl Iterator<Item = Launch<'b>>) {
        let mut pass = self
            .encoder
            .begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        for launch in launches {
            launch.encode(&mut pass);
        }
    }

    /// Runs one kernel in a pass of its own and measures it in slot `slot` of the timer.
    pub(crate) fn timed(&mut self, launch: &Launch<'_>, timer: &Timer, slot: u32) {
        let mut pass = self
            .encoder
            .begin_compute_pass(&wgpu::ComputePassDescriptor {
                label: None,
                timestamp_writes: Some(timer.writes(slot)),
            });
        launch.encode(&mut pass);
    }

    /// Collects what the timer measured.
    pub(crate) fn resolve(&mut self, timer: &Timer, slots: u32) {
        timer.resolve(&mut self.encoder, slots);
    }

    /// Fills a region with zeros.
    pub(crate) fn clear(&mut self, region: Region<'_>) {
        self.encoder
            .clear_buffer(&region.memory.raw, region.offset, Some(region.bytes));
    }

    /// Copies a region over another of the same length in another allocation.
    pub(crate) fn copy(&mut self, from: Region<'_>, to: Region<'_>) {
        self.encoder.copy_buffer_to_buffer(
            &from.memory.raw,
            from.offset,
            &to.memory.raw,
            to.offset,
            Some(from.bytes),
        );
    }

    /// Copies regions one after the other into staging, which must be large enough.
    pub(crate) fn stage(&mut self, regions: &[Region<'_>], staging: &Staging) -> Result<()> {
        let buffer = staging.raw()?;
        let mut end = 0;
        for region in regions {
            let raw = &region.memory.raw;
            self.encoder
                .copy_buffer_to_buffer(raw, region.offset, buffer, end, Some(region.bytes));
            end += region.bytes;
        }
        Ok(())
    }

    /// Hands everything to the device as one submission.
    pub(crate) fn submit(self) -> Result<()> {
        let commands = self.encoder.finish();
        self.device.check()?;
        self.device.submit(commands)
    }
}

impl Launch<'_> {
    fn encode(&self, pass: &mut wgpu::ComputePass<'_>) {
        let [x, y, z] = self.workgroups;
        pass.set_pipeline(&self.kernel.pipeline);
        pass.set_bind_group(0, &self.bindings.raw, &[]);
        pass.dispatch_workgroups(x, y, z);
    }
}
