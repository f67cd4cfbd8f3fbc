//! Products on the matrix units of graphics cards: their text, when they are chosen, and that everything but the
//! units themselves computes what the product means, the units being written out for the adapter at hand.

use gatewright_compiler::kernel::lower_product;
use gatewright_compiler::kernel::spec::KernelSpec;
use gatewright_compiler::plan::Limits;
use gatewright_compiler::wgsl;
use gatewright_tests::kernels::{How, check_how, validate};
use gatewright_tests::products::{computed, matmul, packed, with_sums};
use std::collections::BTreeMap;
use std::fmt::Write;

/// A graphics card with matrix units.
fn limits() -> Limits {
    Limits {
        cooperative: true,
        subgroup_size: 32,
        ..Limits::desktop()
    }
}

fn text(spec: &KernelSpec, limits: &Limits, rounded: bool) -> String {
    let lowered = lower_product(spec, limits, rounded).expect("the spec is covered");
    wgsl::write(&lowered.launches[0].kernel)
}

fn is_cooperative(spec: &KernelSpec, limits: &Limits, rounded: bool) -> bool {
    text(spec, limits, rounded).contains("coopMultiplyAdd")
}

#[test]
fn the_text_is_sound() {
    let spec = matmul(&[], [256, 64, 128], [false, true], 0, false);
    for subgroup_size in [32, 64] {
        let limits = Limits {
            subgroup_size,
            ..limits()
        };
        validate(&text(&spec, &limits, true));
    }
    let mut lowered = lower_product(&spec, &limits(), true).expect("the spec is covered");
    let kernel = &mut lowered.launches[0].kernel;
    for binding in kernel.bindings.iter_mut().take(2) {
        binding.half = true;
    }
    let text = wgsl::write(kernel);
    validate(&text);
    insta::assert_snapshot!(text);
}

#[test]
fn large_products_of_halves_are_chosen() {
    let large = matmul(&[], [256, 64, 128], [false, false], 0, false);
    assert!(is_cooperative(&large, &limits(), true));
    assert!(!is_cooperative(&large, &limits(), false));
    for small in [[64, 64, 128], [128, 64, 64], [128, 16, 128]] {
        let small = matmul(&[], small, [false, false], 0, false);
        assert!(!is_cooperative(&small, &limits(), true));
    }
    let packed = packed([128, 64, 128], false, "int8");
    assert!(!is_cooperative(&packed, &limits(), true));
    let without = [
        Limits::desktop(),
        Limits {
            subgroup_size: 0,
            ..limits()
        },
        Limits {
            workgroup_memory_bytes: 16_384,
            ..limits()
        },
    ];
    for limits in without {
        assert!(!is_cooperative(&large, &limits, true));
    }
}

#[test]
fn all_but_the_matrix_units_computes_the_product() {
    let mut specs = Vec::new();
    for forms in [[false, false], [false, true], [true, false], [true, true]] {
        specs.push(matmul(&[], [132, 36, 140], forms, 0, false));
    }
    specs.extend([
        matmul(&[], [137, 35, 131], [false, true], 0, false),
        matmul(&[2], [128, 64, 256], [false, false], 0, true),
        matmul(&[], [128, 1100, 128], [true, false], 0, true),
        with_sums([130, 36, 132], true),
    ]);
    let how = How {
        rounded: true,
        rewrite: written_out,
        ..How::default()
    };
    for spec in &specs {
        assert!(is_cooperative(spec, &limits(), true), "{spec:?}");
    }
    check_how(&specs, &[limits()], how);
    // What is computed while it is read is rounded then.
    let how = How {
        tolerance: 1e-3,
        ..how
    };
    check_how(&[computed(&[], [137, 36, 132])], &[limits()], how);
}

/// The kernel for a device without matrix units: of every fragment each of 32 lanes holds eight elements. Sums are
/// longer than the bounds of these loops, which no driver shall unroll.
fn written_out(text: String) -> String {
    if !text.contains("coopMultiplyAdd") {
        return text;
    }
    let mut operands: BTreeMap<String, (String, String)> = BTreeMap::new();
    let mut out = String::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split([' ', '(', ')', ',', ';', '&']).collect();
        let words: Vec<&str> = words.into_iter().filter(|it| !it.is_empty()).collect();
        let inside = line
            .split_once('[')
            .and_then(|(_, rest)| rest.rsplit_once(']'));
        if line.starts_with("enable wgpu") || line.contains("subgroup_") {
            continue;
        } else if line.starts_with(") {") {
            out +=
                ") {\n    let lane = local_index % 32u;\n    let subgroup = local_index / 32u;\n";
        } else if line.contains(": coop_mat") {
            let name = words[1].trim_end_matches(':');
            let _ = writeln!(out, "var {name}: array<f32, 8>;");
        } else if line.contains("coopLoadT") {
            let (_, from) = line.split_once('&').expect("a pointer");
            let (array, _) = from.split_once('[').expect("an array");
            let pitch = words[words.len() - 1];
            operands.insert(words[1].to_owned(), (array.to_owned(), pitch.to_owned()));
            let _ = writeln!(out, "let {} = {};", words[1], inside.expect("an index").0);
        } else if line.contains("coopMultiplyAdd") {
            let (sum, left, right) = (words[0], words[3], words[4]);
            let ((a, a_pitch), (b, b_pitch)) = (&operands[left], &operands[right]);
            let _ = writeln!(
                out,
                "for (var e = 0u; e < min(8u, k); e += 1u) {{ for (var t = 0u; t < min(16u, k); t += 1u) {{
                    let at = lane * 8u + e;
                    {sum}[e] += f32({a}[{left} + (at / 16u) * {a_pitch} + t])
                        * f32({b}[{right} + t * {b_pitch} + at % 16u]);
                }} }}"
            );
        } else if line.contains("coopStoreT") {
            let sum = words[1];
            let _ = writeln!(
                out,
                "for (var e = 0u; e < min(8u, k); e += 1u) {{
                    results[{} + lane * 8u + e] = {sum}[e];
                }}",
                inside.expect("an index").0
            );
        } else {
            out += line;
            out.push('\n');
        }
    }
    out
}
