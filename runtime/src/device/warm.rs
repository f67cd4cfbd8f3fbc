//! Running kernels once before they are needed, on software drivers.
//!
//! Such a driver makes machine code of a kernel when it first runs, one kernel after the other on the
//! thread of its queue. A second device on the same adapter has a queue of its own, and what it compiled
//! lies in the driver's cache on disk, where the first one looks. So two devices share the kernels; each
//! runs one workgroup of them on memory that nobody reads.

use super::Device;
use super::commands::Launch;
use super::kernels::{self, Kernel};
use super::memory::Region;
use crate::error::Result;
use gatewright_compiler::plan::KernelText;
use std::borrow::Borrow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Fewer kernels are not worth a second device.
const FEWEST: usize = 24;

/// Bytes of the memory that stands for all tensors; accesses behind it do nothing.
const BYTES: u64 = 1 << 16;

/// Kernels to run once, each with the size words of one of its dispatches.
pub(crate) struct Warm<'a> {
    pub(crate) texts: &'a [KernelText],
    pub(crate) checked: bool,
    /// Size words of the plan.
    pub(crate) words: &'a [u32],
    /// Kernel and first size word.
    pub(crate) runs: Vec<(usize, u32)>,
}

impl Warm<'_> {
    /// Runs every kernel once where the driver is software and two threads can work.
    pub(crate) fn run(&self, device: &Device, ready: &[Kernel]) -> Result<()> {
        let software = device.info.device_type == wgpu::DeviceType::Cpu;
        let threads = thread::available_parallelism().map_or(1, usize::from);
        if !software || threads < 2 || self.runs.len() < FEWEST {
            return Ok(());
        }
        let next = AtomicUsize::new(0);
        let help = || -> Result<()> {
            let helper = device.sibling()?;
            self.share(&helper, &next, |index| {
                let text = &self.texts[index];
                let layout = Arc::new(kernels::create_layout(&helper, text.bindings));
                kernels::create_kernel(&helper, text, layout, self.checked)
            })
        };
        thread::scope(|scope| {
            let stack = thread::Builder::new().stack_size(kernels::STACK_BYTES);
            // Whatever becomes of the helper, this device compiles what is left.
            let helper = stack.spawn_scoped(scope, help);
            let own = self.share(device, &next, |index| Ok(&ready[index]));
            drop(helper.map(thread::ScopedJoinHandle::join));
            own
        })
    }

    /// Takes kernels until none is left.
    fn share<K: Borrow<Kernel>>(
        &self,
        device: &Device,
        next: &AtomicUsize,
        kernel: impl Fn(usize) -> Result<K>,
    ) -> Result<()> {
        let memory = device.allocate("warm", BYTES)?;
        let uniforms = device.allocate_uniforms(self.words.len() as u64 * 4 + 256)?;
        if !self.words.is_empty() {
            device.upload(&uniforms, 0, bytemuck::cast_slice(self.words))?;
        }
        let region = Region {
            memory: &memory,
            offset: 0,
            bytes: BYTES,
        };
        while let Some((index, word)) = self.runs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let text = &self.texts[*index];
            let kernel = kernel(*index)?;
            let sizes = Region {
                memory: &uniforms,
                offset: u64::from(*word) * 4,
                bytes: text.uniform_bytes(),
            };
            let storage = vec![region; text.bindings as usize];
            let bindings = device.bind(&kernel.borrow().layout, sizes, &storage)?;
            let mut recorder = device.record();
            recorder.pass(std::iter::once(Launch {
                kernel: kernel.borrow(),
                bindings: &bindings,
                workgroups: [1, 1, 1],
            }));
            recorder.submit()?;
            device.finish()?;
        }
        Ok(())
    }
}
