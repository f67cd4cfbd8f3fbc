//! Plan and data to numbers.

pub mod checkpoint;
pub mod codes;
pub mod device;
pub mod error;
pub mod execute;
pub mod initialise;
pub mod tensor;
pub mod train;
