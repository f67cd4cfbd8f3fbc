//! How users test the shaders of their own spec files.

use gatewright_snapshot::{Error, Spec, assert_shaders};

#[test]
fn shaders_of_a_routed_layer() {
    assert_shaders!("tests/gate.gate", preset: "tiny", entry: "apply");
}

#[test]
fn the_same_file_gives_the_same_shaders() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/gate.gate");
    let spec = Spec::new(path).objective("pretrain").device("cpu-vulkan");
    let first = spec.snapshots().unwrap_or_else(|error| panic!("{error}"));
    let second = spec.snapshots().unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(first, second);
    assert!(first.contains_key("gate_pretrain_cpu_vulkan_launches"));
}

#[test]
fn mistakes_have_places() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/gate.gate");
    let message = |spec: Spec| match spec.snapshots() {
        Err(error) => error.to_string(),
        Ok(_) => panic!("no mistake"),
    };
    let absent = message(Spec::new(path).entry("aply"));
    assert!(absent.contains("error[E0227]"), "{absent}");
    let unknown = message(Spec::new(path).preset("small").entry("apply"));
    assert!(unknown.contains("small"), "{unknown}");
    assert!(message(Spec::new(path)).contains("objective"));
    let unread = Spec::new("nowhere.gate").entry("apply").snapshots();
    assert!(matches!(unread, Err(Error::Unreadable { .. })));
}
