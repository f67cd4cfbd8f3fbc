//! Plan and data to numbers.

pub mod bench;
pub mod checkpoint;
pub mod codes;
pub mod compare;
pub mod data;
pub mod device;
pub mod error;
pub mod execute;
pub mod experiment;
pub mod failure;
pub mod frozen;
pub mod generate;
pub mod initialise;
pub mod measure;
pub mod once;
pub mod profile;
pub mod project;
pub mod reference;
pub mod report;
pub mod routes;
pub mod selftest;
pub mod tensor;
pub mod train;
pub mod verify;
pub mod weights;
