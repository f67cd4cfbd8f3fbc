//! The graph's invariants.
