//! Text to syntax: sources and spans, the syntax tree, diagnostics.
//!
//! Depends on no other crate of the project. pest is seen by `parse` alone.

pub mod ast;
pub mod codes;
pub mod diagnostic;
mod dump;
mod format;
mod parse;
pub mod source;

pub use dump::dump;
pub use format::format;
pub use parse::{decode, parse};
