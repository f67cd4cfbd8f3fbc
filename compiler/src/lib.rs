//! From syntax to plan.
