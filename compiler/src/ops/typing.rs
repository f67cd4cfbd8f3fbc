//! What shape rules share: operand counts, element types, sizes that must agree.

use super::*;

/// The operands as a fixed number.
pub(super) fn exactly<T: Copy, const N: usize>(operands: &[T]) -> Result<[T; N], OpError> {
    operands.try_into().map_err(|_| {
        OpError::new(
            format!("{} operands where {N} are needed", operands.len()),
            [],
        )
    })
}

/// Text of a size; `Graph::add` puts dim names for the `?3` that symbols print as.
pub(super) fn text(size: &Size) -> String {
    size.display(&|dim| format!("?{}", dim.0))
}

/// Text of a product of sizes: `[B, 49, 512]`.
pub(super) fn shape_text(shape: &[Size]) -> String {
    format!(
        "[{}]",
        shape.iter().map(text).collect::<Vec<_>>().join(", ")
    )
}

/// The element type is one of these.
pub(super) fn need_dtype(ty: &Type, slot: usize, allowed: &[DType]) -> Result<(), OpError> {
    if allowed.contains(&ty.dtype) {
        return Ok(());
    }
    let names: Vec<&str> = allowed.iter().map(|dtype| dtype.name()).collect();
    let message = format!("{} where {} is needed", ty.dtype.name(), names.join(" or "));
    Err(OpError::new(message, [slot]))
}

/// The element type is f32.
pub(super) fn need_f32(ty: &Type, slot: usize) -> Result<(), OpError> {
    need_dtype(ty, slot, &[DType::F32])
}

/// The element type is u32.
pub(super) fn need_u32(ty: &Type, slot: usize) -> Result<(), OpError> {
    need_dtype(ty, slot, &[DType::U32])
}

/// The element type is f32 or u32.
pub(super) fn need_number(ty: &Type, slot: usize) -> Result<(), OpError> {
    need_dtype(ty, slot, &[DType::F32, DType::U32])
}

/// The number of axes is `rank`.
pub(super) fn need_rank(ty: &Type, slot: usize, rank: usize) -> Result<(), OpError> {
    if ty.rank() == rank {
        return Ok(());
    }
    let message = format!(
        "{} has {}, not {rank}",
        shape_text(&ty.shape),
        axes_text(ty.rank())
    );
    Err(OpError::new(message, [slot]))
}

/// The number of axes is `rank` at least.
pub(super) fn need_rank_at_least(ty: &Type, slot: usize, rank: usize) -> Result<(), OpError> {
    if ty.rank() >= rank {
        return Ok(());
    }
    let message = format!(
        "{} has {}, fewer than {rank}",
        shape_text(&ty.shape),
        axes_text(ty.rank())
    );
    Err(OpError::new(message, [slot]))
}

fn axes_text(count: usize) -> String {
    format!("{count} {}", if count == 1 { "axis" } else { "axes" })
}

/// A plan of [`Dispatch`]: u32 of one axis.
pub(super) fn need_plan(ty: &Type, slot: usize) -> Result<(), OpError> {
    need_u32(ty, slot)?;
    need_rank(ty, slot, 1)
}

/// An axis of the type.
pub(super) fn need_axis(ty: &Type, slot: usize, axis: usize) -> Result<(), OpError> {
    need_axes(ty, slot, &[axis])
}

/// Strictly increasing axes of the type.
pub(super) fn need_axes(ty: &Type, slot: usize, axes: &[usize]) -> Result<(), OpError> {
    if let Some(axis) = axes.iter().find(|axis| **axis >= ty.rank()) {
        let message = format!("no axis {axis} in {}", shape_text(&ty.shape));
        return Err(OpError::new(message, [slot]));
    }
    if axes.windows(2).any(|pair| pair[0] >= pair[1]) {
        return Err(OpError::new(
            format!("axes {axes:?} do not increase"),
            [slot],
        ));
    }
    Ok(())
}

/// Two sizes agree as polynomials; `axis` is the one the message names.
pub(super) fn equal_sizes(
    axis: usize,
    left: &Size,
    right: &Size,
    slots: [usize; 2],
) -> Result<(), OpError> {
    if left == right {
        return Ok(());
    }
    let message = format!("axis {axis}: {} meets {}", text(left), text(right));
    Err(OpError::new(message, slots))
}

/// Two shapes agree axis by axis.
pub(super) fn equal_shapes(
    left: &[Size],
    right: &[Size],
    slots: [usize; 2],
) -> Result<(), OpError> {
    if left.len() != right.len() {
        let message = format!("shape {} meets {}", shape_text(left), shape_text(right));
        return Err(OpError::new(message, slots));
    }
    for (axis, (a, b)) in left.iter().zip(right).enumerate() {
        equal_sizes(axis, a, b, slots)?;
    }
    Ok(())
}

/// Two element types agree.
pub(super) fn equal_dtypes(left: &Type, right: &Type, slots: [usize; 2]) -> Result<(), OpError> {
    if left.dtype == right.dtype {
        return Ok(());
    }
    let message = format!("{} meets {}", left.dtype.name(), right.dtype.name());
    Err(OpError::new(message, slots))
}

/// The rule of binary arithmetic: two numbers of one type and shape.
pub(super) fn arithmetic(operands: &[&Type]) -> Result<Type, OpError> {
    let [x, y] = exactly(operands)?;
    need_number(x, 0)?;
    equal_dtypes(x, y, [0, 1])?;
    equal_shapes(&x.shape, &y.shape, [0, 1])?;
    Ok(x.clone())
}

/// The last size of a type with one axis at least.
pub(super) fn last_size(ty: &Type, slot: usize) -> Result<&Size, OpError> {
    need_rank_at_least(ty, slot, 1)?;
    ty.shape
        .last()
        .ok_or_else(|| OpError::new("no axes", [slot]))
}

/// The product of sizes.
pub(super) fn product(shape: &[Size]) -> Size {
    shape.iter().fold(Size::from(1), |all, size| all.mul(size))
}

/// The symbol that a ragged row count is.
pub(super) fn rows_dim(ty: &Type) -> Result<DimId, OpError> {
    match ty.shape.first().map(Size::symbols).as_deref() {
        Some([dim]) => Ok(*dim),
        _ => Err(OpError::new(
            format!("{} has no ragged rows", shape_text(&ty.shape)),
            [],
        )),
    }
}

/// The axes of `rank` that are not among `axes`.
pub(super) fn kept(rank: usize, axes: &[usize]) -> Vec<usize> {
    (0..rank).filter(|axis| !axes.contains(axis)).collect()
}

/// The type without these axes.
pub(super) fn without(ty: &Type, axes: &[usize]) -> Type {
    let sizes = kept(ty.rank(), axes)
        .into_iter()
        .map(|axis| ty.shape[axis].clone());
    Type::new(ty.dtype, sizes.collect())
}

/// The operands of a dispatch: experts u32[G, S, k] and weights f32[G, S, k].
pub(super) fn check_assignments(
    routing: &Routing,
    experts: &Type,
    weights: &Type,
) -> Result<(), OpError> {
    need_u32(experts, 0)?;
    need_f32(weights, 1)?;
    need_rank(experts, 0, 3)?;
    equal_shapes(&experts.shape, &weights.shape, [0, 1])?;
    equal_sizes(2, &experts.shape[2], &Size::from(routing.choices), [0, 0])
}
