//! Tests across the crates: what they share.

pub mod backends;
pub mod decoders;
pub mod flava;
pub mod fused;
pub mod generate;
pub mod generator;
pub mod gpu_harness;
pub mod kernels;
pub mod limoe;
pub mod literate;
pub mod moai;
pub mod moe_llava;
pub mod processor;
pub mod products;
pub mod reference;
pub mod spec;
pub mod storage;
