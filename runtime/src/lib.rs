//! Plan and data to numbers.

pub mod codes;
pub mod device;
pub mod error;
pub mod execute;
pub mod tensor;
