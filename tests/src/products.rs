//! Matrix products as specs, in all their forms.

use crate::kernels::{P, f32s, store};
use gatewright_compiler::kernel::spec::{Binary, Instr, KernelSpec, Left, Matrix, Unary};
use gatewright_compiler::storage::Packed;

/// How a matrix lies in memory.
#[derive(Clone, Copy)]
struct Layout {
    transposed: bool,
    /// Added to the length of a stored row.
    slack: usize,
}

fn matrix(batch: &[usize], rows: usize, columns: usize, layout: Layout) -> Matrix {
    let (stored, length) = if layout.transposed {
        (columns, rows)
    } else {
        (rows, columns)
    };
    let pitch = length + layout.slack;
    let mut size = stored * pitch;
    let mut batch_strides = vec![0; batch.len()];
    for (stride, count) in batch_strides.iter_mut().zip(batch).rev() {
        *stride = size;
        size *= count;
    }
    let (row_stride, column_stride) = if layout.transposed {
        (1, pitch)
    } else {
        (pitch, 1)
    };
    Matrix {
        elements: size + layout.slack,
        offset: layout.slack,
        batch_strides,
        row_stride,
        column_stride,
    }
}

/// a b + bias, or gelu-like of it with the sum stored too when `long`.
#[must_use]
pub fn matmul(
    batch: &[usize],
    [m, k, n]: [usize; 3],
    forms: [bool; 2],
    slack: usize,
    long: bool,
) -> KernelSpec {
    let mut p = P::default();
    let sum = p.f(Instr::Accumulator);
    let bias = p.load(0);
    let biased = p.bin(Binary::Add, sum, bias);
    let count = batch.iter().product::<usize>() * m * n;
    let mut strides = vec![n, 1];
    let mut size = m * n;
    for count in batch.iter().rev() {
        strides.insert(0, size);
        size *= count;
    }
    let mut still = vec![0; batch.len() + 1];
    still.push(1);
    let mut outputs = vec![store(biased, f32s(count, &strides))];
    let mut inputs = vec![f32s(n, &still)];
    if long {
        let half = p.constant(0.5);
        let small = p.bin(Binary::Multiply, biased, half);
        let tanh = p.un(Unary::Tanh, small);
        let other = p.load(1);
        let gated = p.bin(Binary::Multiply, tanh, biased);
        let shifted = p.bin(Binary::Add, gated, other);
        let value = p.bin(Binary::Multiply, shifted, half);
        inputs.push(f32s(count, &strides));
        outputs.push(store(value, f32s(count, &strides)));
    }
    let [a, b] = forms;
    KernelSpec::Matmul {
        batch: batch.to_vec(),
        m,
        n,
        k,
        a: matrix(
            batch,
            m,
            k,
            Layout {
                transposed: a,
                slack,
            },
        )
        .into(),
        b: matrix(
            batch,
            k,
            n,
            Layout {
                transposed: b,
                slack,
            },
        ),
        packed: None,
        inputs,
        program: p.0,
        outputs,
        column_sums: None,
    }
}

/// a b with b in codes and scales, as it is or transposed.
///
/// # Panics
/// A storage that is none.
#[must_use]
pub fn packed(sizes: [usize; 3], transposed: bool, storage: &str) -> KernelSpec {
    let mut spec = matmul(&[], sizes, [false, transposed], 0, false);
    let [_, k, n] = sizes;
    if let KernelSpec::Matmul { packed, .. } = &mut spec {
        *packed = Some(Packed {
            shape: if transposed { vec![n, k] } else { vec![k, n] },
            storage: storage.parse().expect("a storage"),
        });
    }
    spec
}

/// a b with the sums of b over k.
#[must_use]
pub fn with_sums(sizes: [usize; 3], transposed_a: bool) -> KernelSpec {
    let mut spec = matmul(&[], sizes, [transposed_a, false], 0, false);
    if let KernelSpec::Matmul { column_sums, .. } = &mut spec {
        *column_sums = Some(f32s(sizes[2], &[1]));
    }
    spec
}

/// a b written as `[n / 4, m, 4]`, as a transposition of its result would have it.
#[must_use]
pub fn moved([m, k, n]: [usize; 3]) -> KernelSpec {
    let mut spec = matmul(&[], [m, k, n], [false, false], 0, false);
    if let KernelSpec::Matmul {
        batch,
        a,
        b,
        n: columns,
        inputs,
        outputs,
        ..
    } = &mut spec
    {
        (*batch, *columns) = (vec![n / 4], 4);
        if let Left::Matrix(a) = a {
            a.batch_strides = vec![0];
        }
        b.batch_strides = vec![4];
        inputs[0].view.strides = vec![4, 0, 1];
        outputs[0].operand.view.strides = vec![4 * m, 4, 1];
    }
    spec
}

/// `(tanh(x) * scale[k] + shift[m]) b`: a left operand that is computed where it is read.
#[must_use]
pub fn computed(batch: &[usize], [m, k, n]: [usize; 3]) -> KernelSpec {
    let mut spec = matmul(batch, [m, k, n], [false, false], 0, false);
    let mut p = P::default();
    let x = p.load(0);
    let tanh = p.un(Unary::Tanh, x);
    let scale = p.load(1);
    let scaled = p.bin(Binary::Multiply, tanh, scale);
    let shift = p.load(2);
    let value = p.bin(Binary::Add, scaled, shift);
    let axes = |strides: [usize; 2]| [vec![0; batch.len()], strides.to_vec()].concat();
    let count = batch.iter().product::<usize>() * m * k;
    let mut whole = vec![k, 1];
    if !batch.is_empty() {
        whole.insert(0, m * k);
    }
    if let KernelSpec::Matmul { a, .. } = &mut spec {
        *a = Left::Computed {
            inputs: vec![
                f32s(count, &whole),
                f32s(k, &axes([0, 1])),
                f32s(m, &axes([1, 0])),
            ],
            program: p.0,
            value,
        };
    }
    spec
}
