//! Tests across the crates: what they share.

pub mod fused;
pub mod reference;
pub mod spec;
