//! Every shader of LIMoE's tiny preset as text, with the places in the spec it computes: one snapshot
//! per family of kernels and one of the launches. Every module passes naga's validator.

use gatewright_snapshot::{Spec, assert_shaders};
use std::path::Path;

const LIMOE: &str = "../../models/limoe/limoe.gate";

#[test]
fn limoe_has_the_recorded_shaders() {
    assert_shaders!(LIMOE, preset: "tiny", objective: "pretrain", device: "cpu-vulkan");
}

#[test]
fn limoe_has_valid_shaders_everywhere() {
    for device in ["portable", "cpu-vulkan"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(LIMOE);
        let spec = Spec::new(path).preset("tiny").objective("pretrain");
        let plan = spec.device(device).plan();
        for kernel in plan.unwrap_or_else(|error| panic!("{error}")).kernels {
            let module = naga::front::wgsl::parse_str(&kernel.wgsl);
            let module = module.unwrap_or_else(|error| panic!("{}: {error}", kernel.name));
            let flags = naga::valid::ValidationFlags::all();
            let capabilities = naga::valid::Capabilities::all();
            let mut validator = naga::valid::Validator::new(flags, capabilities);
            validator.subgroup_stages(naga::valid::ShaderStages::COMPUTE);
            validator.subgroup_operations(naga::valid::SubgroupOperationSet::all());
            let checked = validator.validate(&module);
            assert!(checked.is_ok(), "{}: {checked:?}", kernel.name);
        }
    }
}
