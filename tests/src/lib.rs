//! Tests across the crates: what they share.

pub mod flava;
pub mod fused;
pub mod gpu_harness;
pub mod limoe;
pub mod literate;
pub mod reference;
pub mod spec;
