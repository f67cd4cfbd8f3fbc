//! The scalars of a run as TensorBoard reads them: `events.out.tfevents.…` in the run folder.
//!
//! A file is records of a length, its checksum, an `Event` message and its checksum. Four fields of that
//! message are enough for scalars, so it is written here; the crates that do so start threads, ask for the
//! host's name and panic where a disk is full. What is in it is also in `metrics.jsonl` and
//! `evaluations.jsonl`.

use super::{EvaluationRecord, StepRecord};
use crate::error::{Error, Result};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// The form that readers look for in the first event.
const FORM: &str = "brain.Event:2";

/// An open file of events.
#[derive(Debug)]
pub(super) struct Events {
    path: PathBuf,
    file: File,
}

impl Events {
    /// A new file for events from this step on; what other files of the folder hold of these steps does
    /// not count any more.
    pub(super) fn create(folder: &Path, step: u64) -> Result<Self> {
        let name = format!("events.out.tfevents.{step:010}.gatewright");
        let path = folder.join(name);
        let file = File::create(&path).map_err(Error::file("write", &path))?;
        let mut events = Self { path, file };
        let mut form = event(0);
        field(&mut form, 3, FORM.as_bytes());
        events.write(&form)?;
        let mut start = event(step);
        // SessionLog { status: START }
        field(&mut start, 7, &[0x08, 0x01]);
        events.write(&start)?;
        Ok(events)
    }

    pub(super) fn step(&mut self, record: &StepRecord) -> Result<()> {
        self.scalars(record.step, &of_step(record))
    }

    pub(super) fn evaluations(&mut self, record: &EvaluationRecord) -> Result<()> {
        let mut scalars = Vec::new();
        for evaluation in &record.evaluations {
            for score in &evaluation.scores {
                let direction = score.direction.replace(" -> ", " to ");
                let tag = format!("{}/{} {direction}", evaluation.name, score.measure);
                scalars.push((tag, score.value as f32));
            }
        }
        self.scalars(record.step, &scalars)
    }

    fn scalars(&mut self, step: u64, scalars: &[(String, f32)]) -> Result<()> {
        let mut summary = Vec::new();
        for (tag, value) in scalars {
            let mut own = Vec::new();
            field(&mut own, 1, tag.as_bytes());
            own.push(0x15); // simple_value
            own.extend(value.to_le_bytes());
            field(&mut summary, 1, &own);
        }
        let mut event = event(step);
        field(&mut event, 5, &summary);
        self.write(&event)
    }

    fn write(&mut self, event: &[u8]) -> Result<()> {
        let length = (event.len() as u64).to_le_bytes();
        let mut record = length.to_vec();
        record.extend(checksum(&length).to_le_bytes());
        record.extend(event);
        record.extend(checksum(event).to_le_bytes());
        let written = self.file.write_all(&record);
        written.map_err(Error::file("write", &self.path))
    }
}

/// Everything a step measured, by tag.
fn of_step(record: &StepRecord) -> Vec<(String, f32)> {
    let losses = record.losses.iter().chain(&record.metrics);
    let named = losses.map(|(name, value)| (name.replacen('.', "/", 1), *value));
    let mut all: Vec<(String, f32)> = named.collect();
    all.push(("learning_rate".to_owned(), record.learning_rate as f32));
    let speed = record.examples_per_second as f32;
    all.push(("examples_per_second".to_owned(), speed));
    for (path, router) in &record.routers {
        let mut add = |what: &str, value| all.push((format!("{path}/{what}"), value));
        add("experts in use", router.experts_in_use);
        add("dead experts", router.dead.len() as f32);
        for (stream, own) in &router.streams {
            for (what, value) in [
                ("success", own.success),
                ("dropped", own.dropped),
                ("effective experts", own.effective_experts),
                ("entropy", own.entropy),
                ("z", own.z),
            ] {
                add(&format!("{stream} {what}"), value);
            }
        }
    }
    all
}

/// Event { wall_time, step }
fn event(step: u64) -> Vec<u8> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let seconds = now.map_or(0.0, |it| it.as_secs_f64());
    let mut bytes = vec![0x09];
    bytes.extend(seconds.to_le_bytes());
    bytes.push(0x10);
    varint(&mut bytes, step);
    bytes
}

/// A field of bytes: a text or a message.
fn field(bytes: &mut Vec<u8>, number: u64, content: &[u8]) {
    varint(bytes, number << 3 | 2);
    varint(bytes, content.len() as u64);
    bytes.extend(content);
}

fn varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// CRC-32C, rotated and shifted so that a checksum of checksums is no special case.
fn checksum(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
        .rotate_right(15)
        .wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// CRC-32C bit by bit.
    fn slow(bytes: &[u8]) -> u32 {
        let mut crc = u32::MAX;
        for byte in bytes {
            crc ^= u32::from(*byte);
            for _ in 0..8 {
                crc = if crc & 1 == 1 {
                    crc >> 1 ^ 0x82f6_3b78
                } else {
                    crc >> 1
                };
            }
        }
        let crc = !crc;
        crc.rotate_right(15).wrapping_add(0xa282_ead8)
    }

    /// The fields of a message: numbers of fields with varints or bytes.
    fn fields(mut bytes: &[u8]) -> Vec<(u64, Vec<u8>)> {
        fn number(bytes: &mut &[u8]) -> u64 {
            let mut value = 0;
            for place in 0.. {
                let (first, rest) = bytes.split_first().unwrap();
                *bytes = rest;
                value |= u64::from(first & 0x7f) << (7 * place);
                if *first < 0x80 {
                    break;
                }
            }
            value
        }
        let mut all = Vec::new();
        while !bytes.is_empty() {
            let key = number(&mut bytes);
            let length = match key & 7 {
                0 => {
                    let value = number(&mut bytes);
                    all.push((key >> 3, value.to_le_bytes().to_vec()));
                    continue;
                }
                1 => 8,
                5 => 4,
                _ => number(&mut bytes) as usize,
            };
            let (own, rest) = bytes.split_at(length);
            bytes = rest;
            all.push((key >> 3, own.to_vec()));
        }
        all
    }

    #[test]
    fn a_file_reads_back() {
        let folder = tempfile::tempdir().unwrap();
        let mut events = Events::create(folder.path(), 300).unwrap();
        let record = StepRecord {
            step: 300,
            objective: None,
            losses: [("loss.contrastive".to_owned(), 1.5)].into(),
            metrics: [("grad_norm".to_owned(), 0.25)].into(),
            routers: Default::default(),
            learning_rate: 1e-3,
            examples_per_second: 100.0,
        };
        events.step(&record).unwrap();
        let path = folder
            .path()
            .join("events.out.tfevents.0000000300.gatewright");
        let bytes = std::fs::read(path).unwrap();
        let mut rest = bytes.as_slice();
        let mut messages = Vec::new();
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            let message = &rest[12..12 + length];
            for (of, at) in [(&rest[..8], 8), (message, 12 + length)] {
                let written = u32::from_le_bytes(rest[at..at + 4].try_into().unwrap());
                assert_eq!(written, slow(of));
            }
            messages.push(fields(message));
            rest = &rest[16 + length..];
        }
        assert_eq!(messages.len(), 3);
        assert!(messages[0].contains(&(3, FORM.as_bytes().to_vec())));
        let (number, summary) = messages[2].last().unwrap();
        assert_eq!(*number, 5);
        let step = &messages[2][1];
        assert_eq!(step, &(2, 300u64.to_le_bytes().to_vec()));
        let values: Vec<(String, f32)> = fields(summary)
            .into_iter()
            .map(|(_, value)| {
                let own = fields(&value);
                let tag = String::from_utf8(own[0].1.clone()).unwrap();
                (tag, f32::from_le_bytes(own[1].1[..4].try_into().unwrap()))
            })
            .collect();
        assert_eq!(values[0], ("loss/contrastive".to_owned(), 1.5));
        assert_eq!(values[1], ("grad_norm".to_owned(), 0.25));
        assert_eq!(values.len(), 4);
    }
}
