//! Spans of time as a trace that Perfetto and Chrome show.

use crate::execute::ProfileRow;
use serde_json::{Value, json};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Who was busy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Track {
    /// The thread that makes batches.
    Data,
    /// The thread that steps.
    Host,
    /// The device.
    Device,
}

/// Something that took time.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// Who did it.
    pub track: Track,
    /// What it was.
    pub name: String,
    /// When it began, from the start of the trace.
    pub start: Duration,
    /// How long it took.
    pub length: Duration,
    /// More about it.
    pub details: Value,
}

/// Spans, added from any thread.
#[derive(Debug)]
pub struct Trace {
    begun: Instant,
    spans: Mutex<Vec<Span>>,
}

impl Default for Trace {
    fn default() -> Self {
        Self::new()
    }
}

impl Trace {
    /// A trace that begins now.
    #[must_use]
    pub fn new() -> Self {
        Self {
            begun: Instant::now(),
            spans: Mutex::default(),
        }
    }

    /// Does something and takes down how long it took.
    pub fn measure<T>(&self, track: Track, name: impl Into<String>, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = work();
        self.add(Span {
            track,
            name: name.into(),
            start: start.saturating_duration_since(self.begun),
            length: start.elapsed(),
            details: Value::Null,
        });
        result
    }

    /// A dispatch, whose time on the device counts from `begun` on the host: the clocks of the two are
    /// aligned where the host submits.
    pub(super) fn dispatch(&self, begun: Instant, row: &ProfileRow) {
        let offset = begun.saturating_duration_since(self.begun);
        self.add(Span {
            track: Track::Device,
            name: row.kernel.clone(),
            start: offset + nanoseconds(row.start_nanoseconds),
            length: nanoseconds(row.nanoseconds),
            details: json!({
                "place": row.origin.path,
                "family": row.family,
                "program": row.program,
                "GFLOP/s": row.flops as f64 / row.nanoseconds.max(1.0),
                "GB/s": row.bytes as f64 / row.nanoseconds.max(1.0),
            }),
        });
    }

    fn add(&self, span: Span) {
        let mut spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        spans.push(span);
    }

    /// The spans so far.
    #[must_use]
    pub fn spans(&self) -> Vec<Span> {
        let spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        spans.clone()
    }

    /// Time in which both tracks were busy.
    #[must_use]
    pub fn overlap(&self, first: Track, second: Track) -> Duration {
        let spans = self.spans();
        let of = |track| spans.iter().filter(move |span| span.track == track);
        let mut both = Duration::ZERO;
        for one in of(first) {
            for other in of(second) {
                let start = one.start.max(other.start);
                let end = (one.start + one.length).min(other.start + other.length);
                both += end.saturating_sub(start);
            }
        }
        both
    }

    /// The trace in the JSON form of Chrome's trace events, times in microseconds.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let names = [
            (Track::Data, "data"),
            (Track::Host, "host"),
            (Track::Device, "device"),
        ];
        let mut events: Vec<Value> = Vec::new();
        for (track, name) in names {
            events.push(json!({
                "ph": "M", "name": "thread_name", "pid": 1, "tid": track as u32,
                "args": { "name": name },
            }));
        }
        for span in self.spans() {
            events.push(json!({
                "ph": "X", "name": span.name, "pid": 1, "tid": span.track as u32,
                "ts": span.start.as_secs_f64() * 1e6,
                "dur": span.length.as_secs_f64() * 1e6,
                "args": span.details,
            }));
        }
        json!({ "displayTimeUnit": "ms", "traceEvents": events })
    }
}

fn nanoseconds(count: f64) -> Duration {
    Duration::from_secs_f64(count.max(0.0) * 1e-9)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread::{scope, sleep};

    #[test]
    fn what_overlaps_is_told() {
        let trace = Trace::new();
        let wait = || sleep(Duration::from_millis(20));
        scope(|scope| {
            scope.spawn(|| trace.measure(Track::Data, "batch 1", wait));
            trace.measure(Track::Host, "step 0", wait);
        });
        trace.measure(Track::Host, "step 1", wait);
        let both = trace.overlap(Track::Data, Track::Host);
        assert!(
            both > Duration::ZERO && both < Duration::from_millis(400),
            "{both:?}"
        );
        assert_eq!(trace.overlap(Track::Data, Track::Device), Duration::ZERO);
        let json = trace.to_json();
        let events = json["traceEvents"].as_array().unwrap();
        assert_eq!(events.iter().filter(|event| event["ph"] == "X").count(), 3);
        assert_eq!(events.iter().filter(|event| event["ph"] == "M").count(), 3);
    }
}
