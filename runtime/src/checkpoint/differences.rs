//! What two sets of tensors disagree about.

use crate::execute::{tensor_text, type_text};
use crate::tensor::{HostData, HostTensor};
use gatewright_compiler::graph::DType;
use std::collections::BTreeMap;

/// Names shown in a headline before it says how many more there are.
const SHOWN: usize = 3;

/// Everything that is wrong with a set of tensors, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Differences {
    /// What they are: `the parameters of runs/a/checkpoints/step-00000100.safetensors`.
    pub source: String,
    /// Expected and not there.
    pub missing: Vec<String>,
    /// There and not expected.
    pub unexpected: Vec<String>,
    /// Of another type: name, expected, found.
    pub mismatched: Vec<(String, String, String)>,
}

impl Differences {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.unexpected.is_empty() && self.mismatched.is_empty()
    }

    /// One line for each.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let missing = self.missing.iter();
        let unexpected = self.unexpected.iter();
        let mismatched = self.mismatched.iter();
        missing
            .map(|name| format!("missing: {name}"))
            .chain(unexpected.map(|name| format!("unexpected: {name}")))
            .chain(mismatched.map(|(name, expected, found)| {
                format!("other type: {name} is {found}, and {expected} is needed")
            }))
            .collect()
    }
}

impl std::fmt::Display for Differences {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let lines = self.lines();
        let shown = lines.iter().take(SHOWN).cloned().collect::<Vec<_>>();
        write!(f, "{} do not fit: {}", self.source, shown.join("; "))?;
        match lines.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

/// Compares tensors with the types they should have.
#[must_use]
pub fn differences(
    source: &str,
    expected: &BTreeMap<String, (DType, Vec<usize>)>,
    found: &BTreeMap<String, HostTensor>,
) -> Differences {
    let mut differences = Differences {
        source: source.to_owned(),
        ..Differences::default()
    };
    for (name, (dtype, shape)) in expected {
        match found.get(name) {
            None => differences.missing.push(name.clone()),
            Some(tensor) if !fits(tensor, *dtype, shape) => differences.mismatched.push((
                name.clone(),
                type_text(*dtype, shape),
                tensor_text(tensor),
            )),
            Some(_) => {}
        }
    }
    let left = found.keys().filter(|name| !expected.contains_key(*name));
    differences.unexpected.extend(left.cloned());
    differences
}

fn fits(tensor: &HostTensor, dtype: DType, shape: &[usize]) -> bool {
    let float = matches!(tensor.data, HostData::F32(_));
    float == (dtype == DType::F32) && tensor.shape == shape && tensor.is_well_formed()
}
