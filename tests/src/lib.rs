//! Tests across the crates.

pub mod gpu_harness;
pub mod interpret;
