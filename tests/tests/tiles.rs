//! Every tile of the gpu family, whatever the compiler would choose, against the meaning of the product in f64.

#![allow(
    clippy::print_stderr,
    reason = "a test says when it is skipped for want of an adapter"
)]

use gatewright_compiler::kernel::spec::KernelSpec;
use gatewright_compiler::lower::{Mode, Request, Target};
use gatewright_compiler::plan::{Limits, Plan, Profile, Tile, Tiles};
use gatewright_runtime::device::{Choice, Device};
use gatewright_runtime::once;
use gatewright_runtime::tiles::{Source, measure_sized};
use gatewright_tests::kernels::check_for;
use gatewright_tests::products::{computed, matmul, moved, packed, with_sums};
use gatewright_tests::spec::project;
use std::time::Duration;

const FORMS: [[bool; 2]; 4] = [[false, false], [false, true], [true, false], [true, true]];

fn limits(tiles: Tiles) -> Limits {
    Limits {
        tiles,
        ..Limits::portable()
    }
}

/// Whole fours and odd sizes, both beyond one tile of any size, and all forms of operands.
fn products() -> Vec<KernelSpec> {
    let mut specs = Vec::new();
    for forms in FORMS {
        specs.push(matmul(&[], [132, 20, 140], forms, 0, false));
        specs.push(matmul(&[], [137, 19, 131], forms, 0, false));
    }
    specs.extend([
        matmul(&[], [128, 32, 256], [false, false], 0, true),
        matmul(&[2], [9, 7, 135], [true, true], 1, true),
        matmul(&[], [16, 1100, 32], [true, false], 0, true),
        computed(&[3], [137, 36, 12]),
        computed(&[], [8, 1100, 4]),
        packed([37, 64, 132], false, "int8:32"),
        packed([37, 19, 41], true, "int4:16"),
        with_sums([130, 37, 36], true),
        moved([37, 19, 32]),
    ]);
    specs
}

#[test]
fn tiles_of_32_match() {
    check_for(&products(), &[limits(Tiles::all(Tile::Side32))]);
}

#[test]
fn tiles_of_64_match() {
    check_for(&products(), &[limits(Tiles::all(Tile::Side64))]);
}

#[test]
fn tiles_of_128_match() {
    check_for(&products(), &[limits(Tiles::all(Tile::Side128))]);
}

#[test]
fn products_of_a_few_rows_match() {
    let mut specs = Vec::new();
    for m in 1..=4 {
        for forms in FORMS {
            specs.push(matmul(&[], [m, 36, 140], forms, 0, false));
            specs.push(matmul(&[], [m, 19, 41], forms, 0, false));
        }
    }
    for storage in ["int8:32", "int4"] {
        for transposed in [false, true] {
            specs.push(packed([1, 64, 132], transposed, storage));
            specs.push(packed([3, 19, 41], transposed, storage));
        }
    }
    specs.extend([
        matmul(&[], [1, 1, 1], [false, false], 0, false),
        matmul(&[], [4, 3, 2], [true, true], 1, true),
        matmul(&[], [2, 9000, 8], [false, false], 0, true),
        matmul(&[], [4, 8200, 5], [true, true], 0, false),
        matmul(&[3, 2], [1, 24, 40], [false, true], 0, true),
        computed(&[3], [4, 36, 12]),
        computed(&[], [1, 19, 5]),
        with_sums([4, 37, 36], true),
        moved([3, 19, 32]),
    ]);
    let tables = Tiles::LANES.map(|vector| {
        limits(Tiles {
            vector,
            ..Tiles::default()
        })
    });
    check_for(&specs, &tables);
}

#[test]
fn every_class_is_measured() {
    let Ok(device) = Device::open(&Choice::Auto) else {
        eprintln!("skipped: no adapter");
        return;
    };
    let device = device.with_profile(Profile::Gpu).expect("runs everywhere");
    let small = ["Q", "M", "L", "K", "V", "T"].map(|it| (it, "64"));
    let small = [&small[..], &[("E", "4"), ("D", "16")]].concat();
    let chosen = measure_sized(&device, Duration::from_secs(600), &small);
    let chosen = chosen.unwrap_or_else(|failure| panic!("{failure}"));
    assert_eq!(chosen.source, Source::Measured);
    assert!(chosen.notes.is_empty(), "{:?}", chosen.notes);
    for class in ["small", "medium", "large", "grouped", "vector"] {
        let times = chosen.times.iter().filter(|it| it.class == class);
        let nanoseconds: Vec<f64> = times.map(|it| it.nanoseconds).collect();
        let sound = nanoseconds.iter().all(|it| *it > 0.0 && it.is_finite());
        assert!(nanoseconds.len() == 3 && sound, "{class}: {nanoseconds:?}");
    }
    // No time at all leaves the compiler's table, and says so.
    let chosen = measure_sized(&device, Duration::ZERO, &small);
    let chosen = chosen.unwrap_or_else(|failure| panic!("{failure}"));
    assert_eq!((chosen.tiles, chosen.notes.len()), (Tiles::default(), 1));
}

#[test]
fn the_same_table_gives_the_same_plan() {
    let plan = |tiles: Tiles| -> Plan {
        let mut project = project(
            "input x: f32[64, 64]\nlet y = x -> linear(64)\nentry e(x) -> y\n",
            None,
            &[],
        );
        let request = Request::new(Target::Entry("e".to_owned()), Mode::Eval);
        let lowered = project.lower(&request).expect("a sound flow");
        let none = Default::default();
        let compiled = once::compiled("e", &lowered, &limits(tiles), none, None, None);
        compiled.unwrap_or_else(|error| panic!("{error}")).plan
    };
    assert_eq!(plan(Tiles::default()), plan(Tiles::default()));
    let other = plan(Tiles::all(Tile::Side64));
    assert_ne!(plan(Tiles::default()).kernels, other.kernels);
}
