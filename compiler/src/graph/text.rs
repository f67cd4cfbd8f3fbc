//! The graph's text form and its reader.
