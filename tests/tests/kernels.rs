//! The dense kernel families on the adapter at hand against their meaning in f64, for both profiles.

use gatewright_compiler::graph::DType;
use gatewright_compiler::kernel::spec::{
    AttentionPass, AttentionResult, Binary, CrossEntropyResult, Instr, KernelSpec, MOST_HEAD_WIDTH,
    Matrix, Operand, Reduce, Store, Unary,
};
use gatewright_compiler::ops::Distribution;
use gatewright_tests::kernels::{P, check, f32s, operand, store, view};
use gatewright_tests::products::{computed, matmul, moved, packed, with_sums};

fn pointwise(space: &[usize], inputs: Vec<Operand>, program: P, outputs: Vec<Store>) -> KernelSpec {
    KernelSpec::Pointwise {
        space: space.to_vec(),
        inputs,
        program: program.0,
        outputs,
    }
}

/// gelu(x + row[j]) * column[i], over a strided x.
fn gelu([rows, columns]: [usize; 2], pitch: usize) -> KernelSpec {
    let mut p = P::default();
    let (x, row, column) = (p.load(0), p.load(1), p.load(2));
    let sum = p.bin(Binary::Add, x, row);
    let half = p.constant(std::f64::consts::FRAC_1_SQRT_2);
    let scaled = p.bin(Binary::Multiply, sum, half);
    let erf = p.un(Unary::Erf, scaled);
    let one = p.constant(1.0);
    let shifted = p.bin(Binary::Add, erf, one);
    let product = p.bin(Binary::Multiply, sum, shifted);
    let value = p.bin(Binary::Multiply, product, column);
    let inputs = vec![
        operand(DType::F32, 4 + rows * pitch, view(4, &[pitch, 1])),
        f32s(columns, &[0, 1]),
        f32s(rows, &[1, 0]),
    ];
    let outputs = vec![store(value, f32s(rows * columns, &[columns, 1]))];
    pointwise(&[rows, columns], inputs, p, outputs)
}

/// Every scalar function once, on values where it is defined.
fn functions(count: usize) -> KernelSpec {
    let mut p = P::default();
    let (x, y) = (p.load(0), p.load(1));
    let two = p.constant(2.0);
    let positive = p.bin(Binary::Add, x, two);
    let mut total = p.bin(Binary::Power, x, two);
    let third = p.constant(0.3);
    let root = p.bin(Binary::Power, positive, third);
    let mut terms = vec![root];
    for unary in [
        Unary::Log,
        Unary::Sqrt,
        Unary::ReciprocalSqrt,
        Unary::Reciprocal,
    ] {
        terms.push(p.un(unary, positive));
    }
    for unary in [
        Unary::Negate,
        Unary::Exp,
        Unary::Tanh,
        Unary::Sin,
        Unary::Cos,
    ] {
        terms.push(p.un(unary, x));
    }
    for binary in [
        Binary::Subtract,
        Binary::Maximum,
        Binary::Minimum,
        Binary::Divide,
        Binary::Remainder,
    ] {
        terms.push(p.bin(binary, y, positive));
    }
    for term in terms {
        total = p.bin(Binary::Add, total, term);
    }
    let less = p.0.push(Instr::Binary(Binary::Less, x, y), DType::Bool);
    let mask = p.0.push(Instr::Load { input: 2 }, DType::Bool);
    let both =
        p.0.push(Instr::Binary(Binary::And, less, mask), DType::Bool);
    let not = p.0.push(Instr::Unary(Unary::Not, both), DType::Bool);
    let chosen = p.f(Instr::Select(not, total, y));
    let infinite = p.constant(f64::INFINITY);
    let finite = p.bin(Binary::Minimum, chosen, infinite);
    let inputs = vec![
        f32s(count, &[1]),
        f32s(count, &[1]),
        operand(DType::Bool, count, view(0, &[1])),
    ];
    let outputs = vec![
        store(finite, f32s(count, &[1])),
        store(not, operand(DType::Bool, count, view(0, &[1]))),
    ];
    pointwise(&[count], inputs, p, outputs)
}

/// table[ids[i]][j] + flat[ids[i] * 2 + 1], indices converted and kept.
fn gathers([rows, columns]: [usize; 2]) -> KernelSpec {
    let mut p = P::default();
    let id = p.u(Instr::Load { input: 0 });
    let row = p.f(Instr::LoadRow { input: 1, row: id });
    let two = p.u(Instr::Constant(2.0));
    let one = p.u(Instr::Constant(1.0));
    let column = p.u(Instr::Index { axis: 1 });
    let bit = p.u(Instr::Binary(Binary::Remainder, column, two));
    let double = p.u(Instr::Binary(Binary::Multiply, id, two));
    let at = p.u(Instr::Binary(Binary::Add, double, bit));
    let index = p.u(Instr::Binary(Binary::Add, at, one));
    let flat = p.f(Instr::LoadAt { input: 2, index });
    let number = p.f(Instr::Convert(index));
    let sum = p.bin(Binary::Add, row, flat);
    let value = p.bin(Binary::Add, sum, number);
    let inputs = vec![
        operand(DType::U32, rows, view(0, &[1, 0])),
        f32s(5 * columns, &[columns, 1]),
        f32s(12, &[1]),
    ];
    let outputs = vec![
        store(value, f32s(rows * columns, &[columns, 1])),
        store(
            index,
            operand(DType::U32, rows * columns, view(0, &[columns, 1])),
        ),
    ];
    pointwise(&[rows, columns], inputs, p, outputs)
}

fn random(count: usize, distribution: Distribution) -> KernelSpec {
    let mut p = P::default();
    let stream = 0x8000_0001;
    let value = p.f(Instr::Random {
        distribution,
        stream,
    });
    let outputs = vec![store(value, f32s(count, &[1]))];
    pointwise(&[count], Vec::new(), p, outputs)
}

/// A transposition written into a window of a larger buffer.
fn transposed([a, b, c]: [usize; 3]) -> KernelSpec {
    let mut p = P::default();
    let x = p.load(0);
    let output = operand(DType::F32, 2 * a * b * c + 8, view(8, &[2 * b * c, c, 1]));
    let inputs = vec![f32s(a * b * c, &[1, a, a * b])];
    pointwise(&[a, b, c], inputs, p, vec![store(x, output)])
}

#[test]
fn pointwise_kernels_match() {
    check(&[
        gelu([5, 12], 16),
        gelu([7, 3], 3),
        gelu([70, 256], 256),
        gelu([1, 1], 1),
        functions(4096),
        functions(37),
        gathers([9, 8]),
        gathers([6, 5]),
        random(64, Distribution::Uniform),
        random(70, Distribution::Normal),
        random(128, Distribution::Normal),
        random(70, Distribution::Gumbel),
        transposed([3, 5, 4]),
        transposed([2, 3, 7]),
    ]);
}

/// Layer norm with weight, and its mean and reciprocal deviation per row.
fn layer_norm(rows: &[usize], columns: usize) -> KernelSpec {
    let mut p = P::default();
    let (x, weight, bias) = (p.load(0), p.load(1), p.load(2));
    let sum = p.reduce(Reduce::Sum, x);
    let share = p.constant(1.0 / columns as f64);
    let mean = p.bin(Binary::Multiply, sum, share);
    let centred = p.bin(Binary::Subtract, x, mean);
    let square = p.bin(Binary::Multiply, centred, centred);
    let squares = p.reduce(Reduce::Sum, square);
    let variance = p.bin(Binary::Multiply, squares, share);
    let epsilon = p.constant(0.01);
    let shifted = p.bin(Binary::Add, variance, epsilon);
    let scale = p.un(Unary::ReciprocalSqrt, shifted);
    let normal = p.bin(Binary::Multiply, centred, scale);
    let weighted = p.bin(Binary::Multiply, normal, weight);
    let value = p.bin(Binary::Add, weighted, bias);
    let count: usize = rows.iter().product();
    let mut strides = vec![1; rows.len()];
    for axis in (1..rows.len()).rev() {
        strides[axis - 1] = strides[axis] * rows[axis];
    }
    let mut full: Vec<usize> = strides.iter().map(|it| it * columns).collect();
    full.push(1);
    let mut still = vec![0; rows.len()];
    still.push(1);
    KernelSpec::Row {
        rows: rows.to_vec(),
        columns,
        inputs: vec![
            f32s(count * columns, &full),
            f32s(columns, &still),
            f32s(columns, &still),
        ],
        program: p.0,
        outputs: vec![
            store(value, f32s(count * columns, &full)),
            store(mean, f32s(count, &strides)),
            store(scale, f32s(count, &strides)),
        ],
    }
}

/// Softmax of masked logits, the log-sum-exp, and the loss at a label.
fn softmax(rows: usize, columns: usize) -> KernelSpec {
    let mut p = P::default();
    let x = p.load(0);
    let mask = p.0.push(Instr::Load { input: 1 }, DType::Bool);
    let low = p.constant(f64::from(f32::MIN));
    let logits = p.f(Instr::Select(mask, x, low));
    let most = p.reduce(Reduce::Maximum, logits);
    let shifted = p.bin(Binary::Subtract, logits, most);
    let exp = p.un(Unary::Exp, shifted);
    let sum = p.reduce(Reduce::Sum, exp);
    let value = p.bin(Binary::Divide, exp, sum);
    let column = p.u(Instr::Index { axis: 1 });
    let label = p.u(Instr::Load { input: 2 });
    let hit =
        p.0.push(Instr::Binary(Binary::Equal, column, label), DType::Bool);
    let zero = p.constant(0.0);
    let kept = p.f(Instr::Select(hit, x, zero));
    let loss = p.reduce(Reduce::Sum, kept);
    KernelSpec::Row {
        rows: vec![rows],
        columns,
        inputs: vec![
            f32s(rows * columns, &[columns, 1]),
            operand(DType::Bool, columns, view(0, &[0, 1])),
            operand(DType::U32, rows, view(0, &[1, 0])),
        ],
        program: p.0,
        outputs: vec![
            store(value, f32s(rows * columns, &[columns, 1])),
            store(loss, f32s(rows, &[1])),
        ],
    }
}

#[test]
fn row_kernels_match() {
    check(&[
        layer_norm(&[5], 64),
        layer_norm(&[3, 7], 100),
        layer_norm(&[9], 37),
        layer_norm(&[7], 128),
        layer_norm(&[5], 160),
        layer_norm(&[70], 3),
        layer_norm(&[4], 1),
        layer_norm(&[2, 2, 2], 8),
        softmax(11, 24),
        softmax(70, 16),
        softmax(9, 32),
        softmax(3, 1000),
        softmax(13, 7),
    ]);
}

/// Sum of x * y and maximum of x over rows; y is a broadcast row value.
fn column([batch, rows, columns]: [usize; 3]) -> KernelSpec {
    let mut p = P::default();
    let (x, y) = (p.load(0), p.load(1));
    let product = p.bin(Binary::Multiply, x, y);
    let count = batch * columns;
    KernelSpec::Column {
        batch,
        rows,
        columns,
        inputs: vec![
            f32s(batch * rows * columns, &[rows * columns, columns, 1]),
            f32s(rows, &[0, 1, 0]),
        ],
        program: p.0,
        outputs: vec![
            (Reduce::Sum, store(product, f32s(count, &[columns, 1]))),
            (Reduce::Maximum, store(x, f32s(count, &[columns, 1]))),
        ],
    }
}

#[test]
fn column_kernels_match() {
    check(&[
        column([1, 1000, 128]),
        column([1, 777, 5]),
        column([3, 20, 12]),
        column([5, 4, 33]),
        column([2, 300, 1]),
        column([1, 1, 1]),
    ]);
}

#[test]
fn aligned_matmuls_match() {
    let mut specs = Vec::new();
    for forms in [[false, false], [false, true], [true, false], [true, true]] {
        specs.push(matmul(&[], [64, 32, 96], forms, 0, false));
        specs.push(matmul(&[], [44, 20, 36], forms, 4, false));
    }
    check(&specs);
}

#[test]
fn ragged_matmuls_match() {
    let mut specs = Vec::new();
    for forms in [[false, false], [false, true], [true, false], [true, true]] {
        specs.push(matmul(&[], [37, 19, 41], forms, 0, false));
    }
    specs.extend([
        matmul(&[], [36, 19, 40], [true, false], 0, true),
        matmul(&[], [1, 1, 1], [false, false], 0, false),
        matmul(&[], [5, 16, 8], [false, false], 0, false),
        matmul(&[], [12, 8, 16], [false, true], 0, true),
        matmul(&[], [33, 5, 3], [false, false], 1, false),
    ]);
    check(&specs);
}

#[test]
fn products_of_few_rows_match() {
    let mut specs = Vec::new();
    for m in 1..=4 {
        for transposed in [false, true] {
            // Whole steps and odd ones, one part of a strip and several, a sum in parts.
            for [k, n] in [
                [64, 128],
                [37, 20],
                [36, 36],
                [12, 520],
                [20, 1100],
                [1100, 40],
            ] {
                specs.push(matmul(&[], [m, k, n], [false, transposed], 0, m == 2));
            }
        }
        specs.push(matmul(&[], [m, 36, 1028], [true, false], 4, true));
        specs.push(matmul(&[2, 3], [m, 40, 24], [false, false], 0, true));
        specs.push(matmul(&[3], [m, 40, 9], [false, true], 0, false));
        specs.push(computed(&[], [m, 36, 32]));
        specs.push(computed(&[2], [m, 19, 20]));
        for storage in ["int8", "int8:32", "int4:16", "int4"] {
            specs.push(packed([m, 72, 1032], false, storage));
            specs.push(packed([m, 68, 20], true, storage));
            specs.push(packed([m, 1100, 36], false, storage));
        }
    }
    check(&specs);
}

#[test]
fn packed_matmuls_match() {
    let mut specs = Vec::new();
    for storage in ["int8", "int8:32", "int4:16", "int4"] {
        for transposed in [false, true] {
            // Whole fours, odd sizes, few columns, few rows, a sum in parts, a group that ends early.
            for sizes in [
                [40, 64, 128],
                [37, 19, 41],
                [3, 128, 12],
                [1, 36, 64],
                [7, 1100, 32],
                [33, 50, 5],
            ] {
                specs.push(packed(sizes, transposed, storage));
            }
        }
    }
    check(&specs);
}

#[test]
fn matmuls_with_a_prologue_match() {
    check(&[
        computed(&[], [40, 36, 32]),
        computed(&[], [37, 19, 5]),
        computed(&[3], [9, 8, 12]),
        computed(&[], [1, 1, 1]),
        computed(&[], [8, 1100, 4]),
    ]);
}

#[test]
fn sums_beside_matmuls_and_moved_results_match() {
    check(&[
        with_sums([40, 100, 64], true),
        with_sums([128, 37, 36], true),
        with_sums([8, 64, 32], false),
        with_sums([33, 50, 5], true),
        with_sums([1, 1, 1], false),
        with_sums([16, 1100, 32], true),
        moved([37, 19, 32]),
        moved([32, 16, 128]),
    ]);
}

#[test]
fn batched_and_split_matmuls_match() {
    check(&[
        matmul(&[3], [8, 16, 32], [false, true], 0, true),
        matmul(&[2, 3], [20, 12, 8], [false, false], 0, false),
        matmul(&[2, 2], [9, 7, 11], [true, true], 0, true),
        matmul(&[], [16, 1100, 32], [true, false], 0, true),
        matmul(&[2], [7, 1030, 5], [false, false], 0, false),
    ]);
}

/// Attention over [B, H, N or M, K] that lies as [B, N or M, H, K], with every result of one walk.
fn attention(
    [batch, heads, queries, keys, width]: [usize; 5],
    (causal, masked): (bool, bool),
    results: &[AttentionResult],
) -> KernelSpec {
    let heads_inside = |rows: usize| Matrix {
        elements: batch * rows * heads * width,
        offset: 0,
        batch_strides: vec![rows * heads * width, width],
        row_stride: heads * width,
        column_stride: 1,
    };
    let output = |result: &AttentionResult| {
        let matrix = match result {
            AttentionResult::Mixed => heads_inside(queries),
            AttentionResult::LogSumExp => Matrix {
                elements: batch * heads * queries,
                offset: 0,
                batch_strides: vec![heads * queries, queries],
                row_stride: 1,
                column_stride: 0,
            },
            AttentionResult::Queries => Matrix {
                elements: batch * heads * queries * width,
                offset: 0,
                batch_strides: vec![heads * queries * width, queries * width],
                row_stride: width,
                column_stride: 1,
            },
            AttentionResult::Keys | AttentionResult::Values => heads_inside(keys),
        };
        (*result, matrix)
    };
    let gradient = results[0].pass() != AttentionPass::Forward;
    let mut operands = vec![
        heads_inside(queries),
        heads_inside(keys),
        heads_inside(keys),
    ];
    operands.extend(gradient.then(|| heads_inside(queries)));
    KernelSpec::Attention {
        batch: [batch, heads],
        queries,
        keys,
        width,
        scale: 0.7,
        causal,
        operands,
        mask: masked.then(|| operand(DType::Bool, batch * keys, view(0, &[keys, 1]))),
        outputs: results.iter().map(output).collect(),
    }
}

#[test]
fn attention_kernels_match() {
    use AttentionResult::{Keys, LogSumExp, Mixed, Queries, Values};
    let mut specs = Vec::new();
    for (number, sizes) in [
        [2, 2, 16, 16, 32],
        [1, 3, 9, 17, 24],
        [2, 1, 1, 1, 1],
        [1, 2, 5, 12, 6],
        [1, 1, 40, 70, 64],
        [2, 1, 1, 9, 90],
    ]
    .into_iter()
    .enumerate()
    {
        let variant = [(false, false), (true, true), (true, false), (false, true)][number % 4];
        for results in [&[Mixed, LogSumExp][..], &[Queries], &[Keys, Values]] {
            specs.push(attention(sizes, variant, results));
        }
    }
    let widest = [1, 1, 1, 33, MOST_HEAD_WIDTH];
    specs.push(attention(widest, (true, false), &[Mixed]));
    let one = [[2, 1, 7, 5, 8], [1, 2, 4, 4, 4]];
    specs.push(attention(one[0], (true, false), &[Mixed]));
    specs.push(attention(one[0], (true, true), &[Values]));
    specs.push(attention(one[1], (true, true), &[Keys]));
    specs.push(attention(one[0], (false, true), &[Keys]));
    specs.push(attention(one[1], (false, true), &[LogSumExp]));
    check(&specs);
}

fn cross_entropy(
    [rows, width, classes]: [usize; 3],
    transpose: bool,
    outputs: &[CrossEntropyResult],
) -> KernelSpec {
    let matrix = |elements: usize, row_stride: usize, column_stride: usize| Matrix {
        elements,
        offset: 0,
        batch_strides: Vec::new(),
        row_stride,
        column_stride,
    };
    KernelSpec::CrossEntropy {
        rows,
        width,
        classes,
        x: matrix(rows * width, width, 1),
        w: match transpose {
            true => matrix(width * classes, 1, width),
            false => matrix(width * classes, classes, 1),
        },
        outputs: outputs.to_vec(),
        transpose,
        further: Vec::new(),
        first: 0,
    }
}

/// Rows enough that the classes are taken in one, two and three parts.
#[test]
fn cross_entropy_kernels_match() {
    use CrossEntropyResult::{Classes, LogSumExp, Loss, Rows};
    let mut specs = Vec::new();
    for (number, sizes) in [[1, 1, 5], [7, 8, 33], [4100, 3, 600], [8200, 4, 700]]
        .into_iter()
        .enumerate()
    {
        for outputs in [&[Loss, LogSumExp][..], &[Rows, Classes]] {
            specs.push(cross_entropy(sizes, number % 2 == 0, outputs));
        }
    }
    for outputs in [&[Loss][..], &[LogSumExp], &[Classes], &[Rows]] {
        specs.push(cross_entropy([6, 4, 12], true, outputs));
    }
    check(&specs);
}

#[test]
fn chosen_rows_match() {
    let sizes = [
        (1, 1),
        (7, 3),
        (64, 64),
        (300, 90),
        (1000, 1500),
        (2049, 1100),
    ];
    let specs = sizes.map(|(count, most)| KernelSpec::RowsWhere { count, most });
    check(&specs);
}

#[test]
fn replaced_rows_match() {
    let sizes = [[1, 1, 1, 1], [2, 3, 7, 5], [4, 1, 33, 1], [3, 2, 9, 64]];
    let specs = sizes.map(|sizes| KernelSpec::WriteRow {
        dtype: DType::F32,
        sizes,
    });
    check(&specs);
}
