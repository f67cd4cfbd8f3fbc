//! Tests across the crates: what they share.

pub mod reference;
pub mod spec;
