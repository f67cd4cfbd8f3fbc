//! What the command and the tests share: diagnostics as text.

pub mod render;
