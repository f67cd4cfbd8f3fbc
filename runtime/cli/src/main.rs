//! The `gatewright` command.

#[allow(dead_code, reason = "the verbs that report come next")]
mod render;

fn main() {}
