//! Plan and data to numbers.

pub mod data;
pub mod tensor;
