//! Batches ahead of the device.

use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;

use super::batch::{Batch, Batches};
use super::error::DataError;
use crate::profile::{Trace, Track};

/// Makes batches on a thread of its own and hands them over in order.
///
/// An error, or a panic of the thread, arrives in the place of the batch that it belongs to and
/// ends the sequence. Dropping this stops the thread and waits for it.
#[derive(Debug)]
pub struct Prefetch {
    receiver: Option<Receiver<Result<Batch, DataError>>>,
    worker: Option<JoinHandle<()>>,
}

impl Prefetch {
    /// Starts with the batch of `steps.start`; at most `ahead` batches wait to be taken. With a trace the
    /// time of each batch is taken down.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn start(
        batches: Arc<Batches>,
        steps: Range<u64>,
        ahead: usize,
        trace: Option<Arc<Trace>>,
    ) -> Result<Self, DataError> {
        let make = move |step| match &trace {
            Some(trace) => trace.measure(Track::Data, format!("batch {step}"), || batches.at(step)),
            None => batches.at(step),
        };
        Self::spawn(make, steps, ahead)
    }

    fn spawn(
        make: impl Fn(u64) -> Result<Batch, DataError> + Send + 'static,
        steps: Range<u64>,
        ahead: usize,
    ) -> Result<Self, DataError> {
        let (sender, receiver) = sync_channel(ahead);
        let work = move || {
            for step in steps {
                let batch = make(step);
                let failed = batch.is_err();
                // The receiver is gone when the consumer has had enough.
                if sender.send(batch).is_err() || failed {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("prefetch".into());
        let worker = thread
            .spawn(work)
            .map_err(|it| DataError::Option(format!("no thread for prefetching: {it}")))?;
        Ok(Self {
            receiver: Some(receiver),
            worker: Some(worker),
        })
    }

    /// Waits for the thread; its panic becomes an error.
    fn join(&mut self) -> Option<DataError> {
        self.receiver = None;
        let payload = self.worker.take()?.join().err()?;
        let text = payload.downcast_ref::<String>().cloned();
        let text = text.or_else(|| payload.downcast_ref::<&str>().map(|it| (*it).to_owned()));
        Some(DataError::Panicked(
            text.unwrap_or_else(|| "without a message".into()),
        ))
    }
}

impl Iterator for Prefetch {
    type Item = Result<Batch, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.receiver.as_ref()?.recv() {
            Ok(batch) => Some(batch),
            Err(_) => self.join().map(Err),
        }
    }
}

impl Drop for Prefetch {
    fn drop(&mut self) {
        self.join();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn batch(step: u64) -> Batch {
        Batch {
            step,
            indices: vec![],
            tensors: BTreeMap::new(),
            places: None,
        }
    }

    #[test]
    fn errors_and_panics_arrive_in_their_place() {
        let make = |step| match step {
            0..3 => Ok(batch(step)),
            _ => Err(DataError::Option("three".into())),
        };
        let found: Vec<_> = Prefetch::spawn(make, 0..9, 2).unwrap().collect();
        assert_eq!(found.len(), 4);
        assert!(matches!(&found[3], Err(DataError::Option(it)) if it == "three"));

        let make = |step| {
            if step < 1 {
                Ok(batch(step))
            } else {
                panic!("no more")
            }
        };
        let found: Vec<_> = Prefetch::spawn(make, 0..9, 2).unwrap().collect();
        assert!(matches!(&found[1], Err(DataError::Panicked(it)) if it == "no more"));
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn dropping_stops_the_thread() {
        let mut prefetch = Prefetch::spawn(|step| Ok(batch(step)), 0..u64::MAX, 2).unwrap();
        assert_eq!(prefetch.next().unwrap().unwrap().step, 0);
        drop(prefetch);
        assert_eq!(
            Prefetch::spawn(|step| Ok(batch(step)), 4..7, 1)
                .unwrap()
                .count(),
            3
        );
    }
}
