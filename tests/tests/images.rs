//! The image part of the library: convolution, pooling, argmax and resampling against plain loops,
//! and its fused kernels, gradients included, against the evaluator.

use gatewright_compiler::evaluate::evaluate;
use gatewright_compiler::lower::{Lowered, Mode, Target};
use gatewright_compiler::plan::Limits;
use gatewright_compiler::size::Bindings;
use gatewright_compiler::tensor::Tensor;
use gatewright_tests::fused::{Tensors, assert_same, fill, fused, numbers};
use gatewright_tests::spec::{bound, lowered};

fn lower(text: &str, what: Target) -> Lowered {
    let (sources, model) = bound(text, None, &[]).unwrap_or_else(|e| panic!("{e}"));
    let (lowered, _) =
        lowered(&sources, &model, what, Mode::Train).unwrap_or_else(|e| panic!("{e}"));
    lowered.graph.verify().expect("a sound graph");
    lowered
}

/// The first result of an entry `run` on numbers made up for all inputs and parameters.
fn run(text: &str) -> (Tensor, Tensors, Tensors) {
    let graph = lower(text, Target::Entry("run".to_owned())).graph;
    let (mut inputs, mut parameters) = (Tensors::new(), Tensors::new());
    fill(&graph, &mut inputs, &mut parameters);
    let found = evaluate(&graph, &inputs, &parameters, &Bindings::new(), 0, 0);
    let found = found.unwrap_or_else(|error| panic!("{error}"));
    let result = found.into_values().next().expect("a result");
    (result, inputs, parameters)
}

/// Compares fused groups with the evaluator on both device profiles, gradients included.
fn fuses(text: &str) {
    let graph = lower(text, Target::Objective("all".to_owned())).graph;
    for limits in [Limits::portable(), Limits::cpu_vulkan()] {
        let (graph, groups) = fused(&graph, &limits, true);
        let (mut inputs, mut parameters) = (Tensors::new(), Tensors::new());
        fill(&graph, &mut inputs, &mut parameters);
        assert_same(&graph, &groups, &limits, &inputs, &parameters);
    }
}

fn close(found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    for (index, (a, b)) in found.iter().zip(expected).enumerate() {
        assert!((a - b).abs() < 1e-12, "element {index}: {a} is not {b}");
    }
}

/// Size, stride and padding of a convolution or pooling.
type Windows = [usize; 3];

const WINDOWS: [Windows; 6] = [
    [3, 1, 1],
    [3, 1, 0],
    [1, 1, 0],
    [2, 2, 0],
    [3, 2, 1],
    [2, 3, 1],
];

/// Calls `each` with (image, row, column, result index) of every window of a `[2, 6, 7, 3]` image.
fn windows([size, stride, padding]: Windows, mut each: impl FnMut(usize, usize, usize)) -> usize {
    let starts = |length: usize| (length + 2 * padding - size) / stride + 1;
    for image in 0..2 {
        for y in 0..starts(6) {
            for x in 0..starts(7) {
                each(image, y * stride, x * stride);
            }
        }
    }
    starts(6) * starts(7)
}

#[test]
fn convolutions_are_sums_over_windows() {
    for window in WINDOWS {
        let [size, stride, padding] = window;
        let text = format!(
            "input image: f32[2, 6, 7, 3]
             let y = image -> conv2d(4, size: {size}, stride: {stride}, padding: {padding}) as conv
             entry run(image) -> y
             loss squares = mean(y * y)
             objective all = squares"
        );
        let (found, inputs, parameters) = run(&text);
        let (image, kernel) = (&inputs["image"], &parameters["y.conv.kernel"]);
        let bias = &parameters["y.conv.bias"];
        let mut expected = Vec::new();
        windows(window, |b, top, left| {
            for out in 0..4 {
                let mut sum = bias.data[out];
                for (i, j, c) in places(size) {
                    let (y, x) = (
                        (top + i).wrapping_sub(padding),
                        (left + j).wrapping_sub(padding),
                    );
                    if y < 6 && x < 7 {
                        let weight = kernel.data[((i * size + j) * 3 + c) * 4 + out];
                        sum += image.data[((b * 6 + y) * 7 + x) * 3 + c] * weight;
                    }
                }
                expected.push(sum);
            }
        });
        close(&found.data, &expected);
        fuses(&text);
    }
}

fn places(size: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    let rows = (0..size).flat_map(move |i| (0..size).map(move |j| (i, j)));
    rows.flat_map(|(i, j)| (0..3).map(move |c| (i, j, c)))
}

#[test]
fn pooling_takes_the_largest_of_each_window() {
    for window in [[2, 2, 0], [3, 1, 0], [3, 2, 0]] {
        let [size, stride, _] = window;
        let text = format!(
            "input image: f32[2, 6, 7, 3]
             let y = image -> conv2d(3, size: 1) as conv -> max_pool(size: {size}, stride: {stride})
             let z = image -> max_pool(size: {size}, stride: {stride})
             entry run(image) -> z
             loss squares = mean(y * y)
             objective all = squares"
        );
        let (found, inputs, _) = run(&text);
        let image = &inputs["image"];
        let mut expected = Vec::new();
        windows(window, |b, top, left| {
            for c in 0..3 {
                let own = places(size).filter(|(_, _, channel)| *channel == c);
                let values =
                    own.map(|(i, j, c)| image.data[((b * 6 + top + i) * 7 + left + j) * 3 + c]);
                expected.push(values.fold(f64::NEG_INFINITY, f64::max));
            }
        });
        close(&found.data, &expected);
        fuses(&text);
    }
}

#[test]
fn the_first_of_equal_elements_is_the_largest() {
    let text = "input x: f32[5, 4]  entry run(x) -> argmax(x)";
    let graph = lower(text, Target::Entry("run".to_owned())).graph;
    let rows = [
        [1.0, 3.0, 2.0, 3.0],
        [0.0; 4],
        [-1.0, -2.0, -3.0, -0.5],
        [4.0, 1.0, 1.0, 1.0],
        [0.0, 0.0, 0.0, 1.0],
    ];
    let x = Tensor::new(vec![5, 4], rows.concat()).expect("full");
    let inputs = Tensors::from([("x".to_owned(), x)]);
    let found = evaluate(&graph, &inputs, &Tensors::new(), &Bindings::new(), 0, 0);
    let found = found.unwrap_or_else(|error| panic!("{error}"));
    close(&found["run"].data, &[1.0, 0.0, 3.0, 0.0, 3.0]);
}

/// Keys's cubic with a = -0.75.
fn cubic(d: f64) -> f64 {
    let (a, d) = (-0.75, d.abs());
    match d {
        d if d <= 1.0 => ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0,
        d if d < 2.0 => ((a * d - 5.0 * a) * d + 8.0 * a) * d - 4.0 * a,
        _ => 0.0,
    }
}

/// One line resampled: four neighbours, indices held inside.
fn resampled(line: &[f64], target: usize) -> Vec<f64> {
    let last = line.len() as i64 - 1;
    let at = |index: usize| {
        let place = (index as f64 + 0.5) * line.len() as f64 / target as f64 - 0.5;
        let first = place.floor() as i64;
        let taps = (first - 1..=first + 2).map(|tap| {
            let weight = cubic(place - tap as f64);
            weight * line[tap.clamp(0, last) as usize]
        });
        taps.sum()
    };
    (0..target).map(at).collect()
}

#[test]
fn resampling_is_bicubic() {
    for (height, width) in [(4, 9), (3, 2), (12, 5), (5, 5)] {
        let text = format!(
            "input x: f32[5, 4, 2]
             let y = resize_bicubic(x, {height}, {width})
             entry run(x) -> y"
        );
        let (found, inputs, _) = run(&text);
        let x = &inputs["x"];
        let mut expected = vec![0.0; height * width * 2];
        for c in 0..2 {
            let columns = (0..4).map(|column| {
                let line: Vec<f64> = (0..5)
                    .map(|row| x.data[(row * 4 + column) * 2 + c])
                    .collect();
                resampled(&line, height)
            });
            let columns: Vec<Vec<f64>> = columns.collect();
            for row in 0..height {
                let line: Vec<f64> = columns.iter().map(|column| column[row]).collect();
                for (column, value) in resampled(&line, width).into_iter().enumerate() {
                    expected[(row * width + column) * 2 + c] = value;
                }
            }
        }
        close(&found.data, &expected);
    }
}

#[test]
fn learned_positions_of_a_grid_serve_another_grid() {
    let spec = |side: usize| {
        format!(
            "input x: f32[2, {}, 8]
             let y = x -> grid_positions(grid: 3, side: {side}) as positions
             entry run(x) -> y
             loss squares = mean(y * y)
             objective all = squares",
            side * side + 1
        )
    };
    for side in [3, 5] {
        let (found, inputs, parameters) = run(&spec(side));
        let (x, table) = (&inputs["x"], &parameters["y.positions.table"]);
        assert_eq!(table.shape, [10, 8]);
        let single = |i: usize| found.data[i] - x.data[i];
        close(&(0..8).map(single).collect::<Vec<_>>(), &table.data[..8]);
        if side == 3 {
            close(&(0..80).map(single).collect::<Vec<_>>(), &table.data);
        }
        fuses(&spec(side));
    }
    let flat = numbers(&[4], 3).data;
    close(&resampled(&flat, 4), &flat);
}
