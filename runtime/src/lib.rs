//! Plan and data to numbers.
