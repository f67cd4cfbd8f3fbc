//! Kernels: loop nests over scalars, and the skeletons that build them.
//!
//! Data path: a fused group is stated as a [`spec::KernelSpec`] with concrete sizes; [`lower`] picks
//! the skeleton for the device profile and gives launches, each a typed kernel (`ir`) with its
//! bindings, sizes and workgroup counts; `crate::wgsl` prints a kernel.
//!
//! Invariants
//! - Every index a kernel forms is inside its buffer for the sizes of its launch: clamped, guarded
//!   or proved by the skeleton's doc. (Launches run without run-time checks.)
//! - Barriers and subgroup operations stand in uniform control flow.
//! - Loop bounds and sizes come from the launch's uniform words, so one kernel serves many shapes.
//! - The order of every floating-point sum is fixed by the launch: results repeat bit for bit.

pub mod spec;
