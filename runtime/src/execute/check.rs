//! Whether a plan is sound in itself and fits a device. After this, indices are in range.

use super::type_text;
use crate::error::{Error, Result};
use gatewright_compiler::plan::{
    Buffer, BufferId, Command, Dispatch, Limits, Plan, Profile, Role, VERSION,
};

const SMALLER: &str = "use a smaller batch (with more `accumulate`) or smaller sizes";
const PARAMETERS: &str = "parameters are as large in any batch: use a device with larger buffers and more memory, or a \
                          model with fewer or narrower layers and experts";
const STATE: &str = "use an optimiser with less state (`adafactor` keeps sums of rows and columns, `sgd` \
                     without momentum nothing), train fewer parameters (`freeze`), or use a device with \
                     larger buffers";
const RECOMPILE: &str = "compile for this device: the plan was made for one with higher limits";

/// Checks everything that running the plan relies on.
pub(super) fn check(plan: &Plan, limits: &Limits) -> Result<()> {
    if plan.version != VERSION {
        let version = plan.version;
        return Err(Error::plan(format!(
            "it has version {version} of the form, and this program reads version {VERSION}"
        )));
    }
    check_target(plan, limits)?;
    for buffer in &plan.buffers {
        check_buffer(plan, buffer, limits)?;
    }
    check_arenas(plan, limits)?;
    for program in &plan.programs {
        for command in &program.commands {
            check_command(plan, command, limits)
                .map_err(|error| in_program(error, &program.name))?;
        }
    }
    Ok(())
}

/// Kernels may rely on the width of a subgroup.
fn check_target(plan: &Plan, limits: &Limits) -> Result<()> {
    let made_for = &plan.limits;
    let same_width = made_for.subgroup_size == 0 || made_for.subgroup_size == limits.subgroup_size;
    let same_profile =
        made_for.profile != Profile::CpuVulkan || limits.profile == Profile::CpuVulkan;
    if made_for.cooperative && !limits.cooperative {
        let missing = "it was compiled for matrix units, which the device has not, or not verified";
        return Err(Error::plan(missing.to_owned()));
    }
    if same_width && same_profile {
        return Ok(());
    }
    Err(Error::plan(format!(
        "it was compiled for {:?} with subgroups of {}, and the device is {:?} with subgroups of {}",
        made_for.profile, made_for.subgroup_size, limits.profile, limits.subgroup_size
    )))
}

fn check_buffer(plan: &Plan, buffer: &Buffer, limits: &Limits) -> Result<()> {
    let wrong = |reason: &str| Err(Error::plan(format!("buffer `{}` {reason}", buffer.name)));
    let Some(arena) = plan.arenas.get(buffer.arena as usize) else {
        return wrong("lies in an arena that does not exist");
    };
    if !buffer
        .offset
        .is_multiple_of(u64::from(limits.offset_alignment.max(4)))
    {
        return wrong("does not start at a multiple of the device's offset alignment");
    }
    if !buffer.bytes.is_multiple_of(4) || buffer.value_bytes() > buffer.bytes {
        return wrong("is shorter than its shape or no multiple of four bytes");
    }
    match buffer.offset.checked_add(buffer.bytes) {
        Some(end) if end <= arena.bytes => Ok(()),
        _ => wrong("ends behind its arena"),
    }
}

/// All arenas live as long as the plan. A software driver that takes more than there is would end the
/// program, or another one, without a word.
pub(super) fn check_total(plan: &Plan, free: Option<u64>) -> Result<()> {
    let needed = plan.arena_bytes();
    let Some(limit) = free.filter(|free| needed > *free) else {
        return Ok(());
    };
    // What a smaller batch leaves as it is.
    let held = plan
        .arenas
        .iter()
        .filter(|arena| remedy(&arena.name) != SMALLER);
    let held: u64 = held.map(|arena| arena.bytes).sum();
    let tensors = plan.buffers.iter();
    let tensors = tensors.filter(|buffer| match held > limit {
        true => buffer.role == Role::Parameter,
        false => matches!(buffer.role, Role::Parameter | Role::Input | Role::Output(_)),
    });
    let tensor = tensors.max_by_key(|buffer| buffer.bytes);
    let tensor = tensor.map_or(String::new(), |buffer| {
        format!(
            ", whose largest tensor is {} of {} bytes",
            describe(buffer),
            buffer.bytes
        )
    });
    Err(Error::LimitExceeded {
        what: format!("{}{tensor}", plan.name),
        needed,
        unit: "bytes",
        limit,
        limit_name: "free memory",
        remedy: if held > limit { PARAMETERS } else { SMALLER },
    })
}

fn check_arenas(plan: &Plan, limits: &Limits) -> Result<()> {
    for (index, arena) in (0u32..).zip(&plan.arenas) {
        if arena.bytes <= limits.max_buffer_bytes {
            continue;
        }
        let inside = plan.buffers.iter().filter(|buffer| buffer.arena == index);
        let largest = inside.max_by_key(|buffer| buffer.bytes);
        let tensor = largest.map_or(String::new(), |buffer| {
            format!(
                ", whose largest tensor is {} of {} bytes",
                describe(buffer),
                buffer.bytes
            )
        });
        return Err(Error::LimitExceeded {
            what: format!("arena {}{tensor}", arena.name),
            needed: arena.bytes,
            unit: "bytes",
            limit: limits.max_buffer_bytes,
            limit_name: "max_buffer_size",
            remedy: remedy(&arena.name),
        });
    }
    Ok(())
}

fn check_command(plan: &Plan, command: &Command, limits: &Limits) -> Result<()> {
    match command {
        Command::Dispatch(dispatch) => check_dispatch(plan, dispatch, limits),
        Command::Clear(id) => buffer(plan, *id).map(|_| ()),
        Command::Copy { from, to } => {
            let (from, to) = (buffer(plan, *from)?, buffer(plan, *to)?);
            if from.bytes == to.bytes {
                return Ok(());
            }
            let (from, to) = (&from.name, &to.name);
            Err(Error::plan(format!(
                "a copy from `{from}` to `{to}` changes the length"
            )))
        }
        Command::CopyRange {
            from,
            from_offset,
            to,
            to_offset,
            bytes,
        } => {
            let (from, to) = (buffer(plan, *from)?, buffer(plan, *to)?);
            let inside = |buffer: &Buffer, offset: &u64| {
                offset.is_multiple_of(4)
                    && bytes.is_multiple_of(4)
                    && offset
                        .checked_add(*bytes)
                        .is_some_and(|end| end <= buffer.bytes)
            };
            if inside(from, from_offset) && inside(to, to_offset) && from.arena != to.arena {
                return Ok(());
            }
            let (from, to) = (&from.name, &to.name);
            Err(Error::plan(format!(
                "a copy from `{from}` to `{to}` leaves one of them, or both lie in one arena"
            )))
        }
    }
}

fn check_dispatch(plan: &Plan, dispatch: &Dispatch, limits: &Limits) -> Result<()> {
    let Some(kernel) = plan.kernels.get(dispatch.kernel as usize) else {
        let index = dispatch.kernel;
        return Err(Error::plan(format!("there is no kernel {index}")));
    };
    let wrong = |reason: &str| Err(Error::plan(format!("a run of `{}` {reason}", kernel.name)));
    if dispatch.bindings.len() != kernel.bindings as usize {
        return wrong("binds another number of buffers than its kernel declares");
    }
    let end = u64::from(dispatch.uniform_offset) + u64::from(kernel.uniform_words);
    if !dispatch.uniform_offset.is_multiple_of(64) || end > plan.uniforms.len() as u64 {
        return wrong("has size words outside the plan's or at no multiple of 64");
    }
    let exceeded = |what: String, unit, needed: u64, limit: u64, limit_name, remedy| {
        Err(Error::LimitExceeded {
            what,
            needed,
            unit,
            limit,
            limit_name,
            remedy,
        })
    };
    if kernel.bindings > limits.max_storage_bindings {
        let (needed, limit) = (kernel.bindings.into(), limits.max_storage_bindings.into());
        let name = "max_storage_buffers_per_shader_stage";
        return exceeded(
            kernel.name.clone(),
            "storage bindings",
            needed,
            limit,
            name,
            RECOMPILE,
        );
    }
    let largest = dispatch.workgroups.into_iter().max().unwrap_or(0);
    if largest > limits.max_workgroups {
        let (needed, limit) = (largest.into(), limits.max_workgroups.into());
        let name = "max_compute_workgroups_per_dimension";
        return exceeded(
            kernel.name.clone(),
            "workgroups",
            needed,
            limit,
            name,
            RECOMPILE,
        );
    }
    for id in &dispatch.bindings {
        let bound = buffer(plan, *id)?;
        if bound.bytes > limits.max_binding_bytes {
            let (needed, limit) = (bound.bytes, limits.max_binding_bytes);
            let name = "max_storage_buffer_binding_size";
            let arena = plan.arenas.get(bound.arena as usize);
            let remedy = remedy(arena.map_or("", |arena| &arena.name));
            return exceeded(describe(bound), "bytes", needed, limit, name, remedy);
        }
    }
    Ok(())
}

/// What makes the tensors of an arena smaller.
fn remedy(arena: &str) -> &'static str {
    match arena.split('.').next().unwrap_or_default() {
        "parameters" | "gradients" | "mean gradients" => PARAMETERS,
        "state" => STATE,
        _ => SMALLER,
    }
}

fn buffer(plan: &Plan, id: BufferId) -> Result<&Buffer> {
    plan.buffer(id)
        .ok_or_else(|| Error::plan(format!("there is no buffer #{}", id.0)))
}

fn describe(buffer: &Buffer) -> String {
    let ty = type_text(buffer.dtype, &buffer.shape);
    format!("{}: {ty}", buffer.name)
}

fn in_program(error: Error, program: &str) -> Error {
    match error {
        Error::InvalidPlan { reason } => Error::plan(format!("program `{program}`: {reason}")),
        error => error,
    }
}
