//! Errors of the driver as values.

use crate::error::{Error, Result};
use std::sync::{Arc, Mutex, PoisonError};

/// The first unreported error of a device.
#[derive(Clone, Debug, Default)]
pub(super) struct Faults {
    first: Arc<Mutex<Option<Fault>>>,
}

#[derive(Clone, Debug)]
enum Fault {
    OutOfMemory,
    Lost(String),
    Misused(String),
}

impl Faults {
    /// Takes over the error handlers of a device.
    pub(super) fn watch(device: &wgpu::Device) -> Self {
        let faults = Self::default();
        let keeper = faults.clone();
        device.on_uncaptured_error(Arc::new(move |error| {
            keeper.put(match error {
                wgpu::Error::OutOfMemory { .. } => Fault::OutOfMemory,
                error => Fault::Misused(error.to_string()),
            });
        }));
        let keeper = faults.clone();
        device.set_device_lost_callback(move |reason, message| {
            // Dropping the last handle reports a loss that is none.
            if reason != wgpu::DeviceLostReason::Destroyed {
                keeper.put(Fault::Lost(message));
            }
        });
        faults
    }

    fn put(&self, fault: Fault) {
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert(fault);
    }

    /// The error kept, if any. A lost device stays lost.
    pub(super) fn take(&self) -> Result<()> {
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Fault::Lost(reason)) = &*first {
            return Err(Error::DeviceLost {
                reason: reason.clone(),
            });
        }
        match first.take() {
            None => Ok(()),
            Some(Fault::OutOfMemory) => Err(Error::OutOfMemory {
                what: "a command".to_owned(),
                bytes: 0,
            }),
            Some(Fault::Lost(reason) | Fault::Misused(reason)) => {
                Err(Error::DeviceFault { reason })
            }
        }
    }
}

/// Runs `create` and returns the first error it caused on this thread instead of its result.
pub(super) fn scoped<T>(
    device: &wgpu::Device,
    create: impl FnOnce() -> T,
) -> std::result::Result<T, wgpu::Error> {
    let memory = device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
    let internal = device.push_error_scope(wgpu::ErrorFilter::Internal);
    let validation = device.push_error_scope(wgpu::ErrorFilter::Validation);
    let value = create();
    let errors = [validation, internal, memory].map(|scope| pollster::block_on(scope.pop()));
    match errors.into_iter().flatten().next() {
        None => Ok(value),
        Some(error) => Err(error),
    }
}
