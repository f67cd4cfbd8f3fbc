//! From syntax to plan: names, shapes, gradients, fusion, WGSL, memory.
//!
//! Pure: no files, no clock, no environment, no device.

pub mod autodiff;
pub mod check;
pub mod compile;
pub mod cost;
pub mod couple;
pub mod evaluate;
pub mod examine;
pub mod fuse;
pub mod graph;
pub mod init;
pub mod kernel;
pub mod lower;
pub mod model;
pub mod ops;
pub mod optimizer;
pub mod plan;
pub mod precision;
pub mod random;
pub mod rewrite;
pub mod size;
pub mod stage;
pub mod storage;
pub mod tensor;
pub mod wgsl;
