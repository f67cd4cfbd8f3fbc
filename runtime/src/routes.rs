//! Choices of experts that a file states, in the place of what routers choose.
//!
//! ```text
//! PATH.route          u32[G, S, k]   the choices of every token of a batch
//! PATH.route.STREAM   u32[N, k]      the choices of every token of a sequence, for all sequences
//! ```
//!
//! `PATH.expert`, as a run records it, is another name for `PATH.route`. The choices are the same in
//! every batch.

use crate::checkpoint::read_tensors;
use crate::error::{Error, Result};
use crate::execute::{tensor_text, type_text};
use crate::once::Tensors;
use crate::tensor::{HostData, HostTensor};
use gatewright_compiler::graph::DType;
use gatewright_compiler::lower::{Lowered, RouterInstance};
use gatewright_compiler::size::Bindings;
use std::path::{Path, PathBuf};

/// What a file states.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Routes {
    file: PathBuf,
    tensors: Tensors,
}

impl Routes {
    /// Reads a tensor file; what is no choice is left alone.
    ///
    /// # Errors
    /// As [`read_tensors`].
    pub fn read(file: &Path) -> Result<Self> {
        let named = read_tensors(file)?.into_iter().map(|(name, tensor)| {
            let name = match name.strip_suffix(".expert") {
                Some(path) => format!("{path}.route"),
                None => name,
            };
            (name, tensor)
        });
        Ok(Self {
            file: file.to_path_buf(),
            tensors: named.collect(),
        })
    }

    /// The inputs `PATH.route` of a graph that asks for them.
    ///
    /// # Errors
    /// [`Error::Route`] for choices that are not stated or that mean nothing.
    pub fn inputs(&self, lowered: &Lowered) -> Result<Tensors> {
        let inputs = lowered.graph.inputs();
        let mut found = Tensors::new();
        for router in &lowered.routers {
            let name = format!("{}.route", router.path);
            let Some(id) = inputs.get(&name) else {
                continue;
            };
            let shape = lowered.graph.ty(*id).shape.iter();
            let shape: Option<Vec<usize>> = shape.map(|size| size.bind(&Bindings::new())).collect();
            let Some(shape) = shape else { continue };
            found.insert(name.clone(), self.choices(router, &name, &shape)?);
        }
        Ok(found)
    }

    fn choices(&self, router: &RouterInstance, name: &str, shape: &[usize]) -> Result<HostTensor> {
        let whole = self.tensors.get(name).filter(|it| it.shape == shape);
        let values = match whole {
            Some(whole) => self.whole_numbers(router, name, whole)?.to_vec(),
            None => self.of_streams(router, name, shape)?,
        };
        Ok(HostTensor {
            shape: shape.to_vec(),
            data: HostData::U32(values),
        })
    }

    /// The choices of sequences, one after the other, stream by stream, for each group.
    fn of_streams(&self, router: &RouterInstance, name: &str, shape: &[usize]) -> Result<Vec<u32>> {
        let [groups, _, choices] = shape else {
            return Err(self.wrong(format!("`{name}` has no choices to state")));
        };
        let mut group = Vec::new();
        for (stream, _, length) in &router.streams {
            let own = format!("{name}.{stream}");
            let length = length.bind(&Bindings::new()).unwrap_or(0);
            let Some(sequence) = self.tensors.get(&own) else {
                let whole = self.tensors.get(name).map_or(String::new(), |found| {
                    format!("; `{name}` is {}", tensor_text(found))
                });
                let needed = type_text(DType::U32, shape);
                return Err(self.wrong(format!(
                    "it needs `{name}`, {needed}, or `{own}`, u32[N, {choices}] for the N tokens of \
                     a sequence{whole}"
                )));
            };
            let values = self.whole_numbers(router, &own, sequence)?;
            let tokens = values.len() / choices;
            if tokens == 0 || values.len() % choices != 0 || length % tokens != 0 {
                return Err(self.wrong(format!(
                    "`{own}` is {}, and {choices} choices of each token of sequences that make \
                     {length} tokens are needed",
                    tensor_text(sequence)
                )));
            }
            for _ in 0..length / tokens {
                group.extend_from_slice(values);
            }
        }
        Ok(group.repeat(*groups))
    }

    fn whole_numbers<'a>(
        &self,
        router: &RouterInstance,
        name: &str,
        tensor: &'a HostTensor,
    ) -> Result<&'a [u32]> {
        let Some(values) = tensor.as_u32() else {
            return Err(self.wrong(format!("`{name}` is {}", tensor_text(tensor))));
        };
        match values.iter().find(|it| **it as usize >= router.experts) {
            Some(expert) => Err(self.wrong(format!(
                "`{name}` names expert {expert}, and there are {}",
                router.experts
            ))),
            None => Ok(values),
        }
    }

    fn wrong(&self, reason: String) -> Error {
        Error::Route {
            file: self.file.clone(),
            reason,
        }
    }
}
