//! Tensors by name: what the host writes before a run and reads after it.

use super::{Executor, tensor_text, type_text};
use crate::error::{Error, Result};
use crate::tensor::{HostData, HostTensor};
use gatewright_compiler::graph::{DType, OutputKind};
use gatewright_compiler::plan::{Buffer, BufferId, Plan, Role, Split};
use gatewright_compiler::storage::Packed;
use std::collections::BTreeMap;

/// Kinds of named buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Slot {
    /// Filled from a batch, by input name.
    Input,
    /// By path.
    Parameter,
    /// d objective / d parameter, by the parameter's path.
    Gradient,
    /// State, by `KIND/NAME`: `m/trunk.0.w` of an optimiser, `cache/…` of a generation.
    State,
    /// Named results.
    Output,
}

impl Slot {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Parameter => "parameter",
            Self::Gradient => "gradient",
            Self::State => "optimiser state",
            Self::Output => "output",
        }
    }
}

/// A tensor that lies in parts.
#[derive(Debug)]
pub(super) struct Whole {
    name: String,
    split: Split,
    pub(super) parts: Vec<BufferId>,
}

impl Whole {
    /// The tensor of its parts.
    pub(super) fn join(&self, parts: impl Iterator<Item = HostTensor>) -> HostTensor {
        let elements = parts.map(|part| match part.data {
            HostData::F32(data) => data,
            HostData::U32(_) => Vec::new(),
        });
        HostTensor {
            shape: self.split.shape.clone(),
            data: HostData::F32(self.split.join(&elements.collect::<Vec<_>>())),
        }
    }
}

impl Executor {
    /// The names of one kind, in order.
    pub fn names(&self, slot: Slot) -> impl Iterator<Item = &str> {
        self.entries(slot).map(|(name, _)| name)
    }

    /// Names and buffers of one kind, in order of the names.
    pub fn entries(&self, slot: Slot) -> impl Iterator<Item = (&str, BufferId)> {
        let names = self.names.get(&slot).into_iter().flatten();
        names.map(|(name, id)| (name.as_str(), *id))
    }

    /// The buffer of this name.
    ///
    /// # Errors
    /// [`Error::UnknownName`] with the names there are.
    pub fn find(&self, slot: Slot, name: &str) -> Result<BufferId> {
        let found = self.names.get(&slot).and_then(|names| names.get(name));
        found.copied().ok_or_else(|| Error::UnknownName {
            kind: slot.word(),
            name: name.to_owned(),
            present: self.names(slot).map(str::to_owned).collect(),
        })
    }

    /// Shapes and element types of everything of one kind.
    #[must_use]
    pub fn types(&self, slot: Slot) -> BTreeMap<String, (DType, Vec<usize>)> {
        self.entries(slot)
            .filter_map(|(name, id)| {
                let ty = match self.whole(id) {
                    Some(whole) => (DType::F32, whole.split.shape.clone()),
                    None => {
                        let buffer = self.plan.buffer(id)?;
                        self.type_of(buffer)
                    }
                };
                Some((name.to_owned(), ty))
            })
            .collect()
    }

    /// How a buffer's tensor is packed.
    pub(super) fn packed(&self, buffer: &Buffer) -> Option<&Packed> {
        let parameter = buffer.role == Role::Parameter;
        self.plan.packed.get(&buffer.name).filter(|_| parameter)
    }

    /// Element type and shape of what a buffer holds.
    fn type_of(&self, buffer: &Buffer) -> (DType, Vec<usize>) {
        match self.packed(buffer) {
            Some(packed) => (DType::F32, packed.shape.clone()),
            None => (buffer.dtype, buffer.shape.clone()),
        }
    }

    /// Copies a tensor into a buffer before the next run.
    ///
    /// # Errors
    /// [`Error::TensorMismatch`] when shape or element type differ from the plan's.
    pub fn write(&self, id: BufferId, tensor: &HostTensor) -> Result<()> {
        if let Some(whole) = self.whole(id) {
            return self.write_parts(whole, tensor);
        }
        let buffer = self.buffer(id)?;
        if let Some(packed) = self.packed(buffer) {
            return match &tensor.data {
                HostData::F32(data) if packed.shape == tensor.shape && tensor.is_well_formed() => {
                    self.upload(buffer, bytemuck::cast_slice(&packed.pack(data)))
                }
                _ => Err(Error::TensorMismatch {
                    name: buffer.name.clone(),
                    expected: type_text(DType::F32, &packed.shape),
                    found: tensor_text(tensor),
                }),
            };
        }
        let same_type = matches!(
            (buffer.dtype, &tensor.data),
            (DType::F32, HostData::F32(_)) | (DType::U32 | DType::Bool, HostData::U32(_))
        );
        if !same_type || buffer.shape != tensor.shape || !tensor.is_well_formed() {
            return Err(Error::TensorMismatch {
                name: buffer.name.clone(),
                expected: type_text(buffer.dtype, &buffer.shape),
                found: tensor_text(tensor),
            });
        }
        self.upload(buffer, tensor.bytes())
    }

    fn write_parts(&self, whole: &Whole, tensor: &HostTensor) -> Result<()> {
        let shape = &whole.split.shape;
        match &tensor.data {
            HostData::F32(data) if *shape == tensor.shape && tensor.is_well_formed() => {
                let parts = (0..).zip(whole.split.cut(data));
                for ((number, data), id) in parts.zip(&whole.parts) {
                    let shape = whole.split.part_shape(number);
                    let data = HostData::F32(data);
                    self.write(*id, &HostTensor { shape, data })?;
                }
                Ok(())
            }
            _ => Err(Error::TensorMismatch {
                name: whole.name.clone(),
                expected: type_text(DType::F32, shape),
                found: tensor_text(tensor),
            }),
        }
    }

    /// Copies words into a buffer of indices or truth values from element `first` on, before the next
    /// run; the others stay.
    ///
    /// # Errors
    /// [`Error::TensorMismatch`] when they do not fit.
    pub fn patch(&self, id: BufferId, first: usize, words: &[u32]) -> Result<()> {
        let buffer = self.buffer(id)?;
        let room = buffer.shape.iter().product::<usize>();
        let fits = first
            .checked_add(words.len())
            .is_some_and(|end| end <= room);
        if buffer.dtype == DType::F32 || !fits {
            return Err(Error::TensorMismatch {
                name: buffer.name.clone(),
                expected: type_text(buffer.dtype, &buffer.shape),
                found: format!("{} words from element {first} on", words.len()),
            });
        }
        let memory = &self.arenas[buffer.arena as usize];
        let offset = buffer.offset + 4 * first as u64;
        self.device
            .upload(memory, offset, bytemuck::cast_slice(words))
    }

    /// Writes every buffer of one kind, such as all inputs from a batch; what else `tensors` holds is
    /// left alone.
    ///
    /// # Errors
    /// [`Error::NotGiven`] for a name that `tensors` lacks, and what [`Self::write`] reports.
    pub fn fill(&self, slot: Slot, tensors: &BTreeMap<String, HostTensor>) -> Result<()> {
        self.fill_with(slot, &[tensors])
    }

    /// The same from several places, the first of which that has a name gives its tensor.
    ///
    /// # Errors
    /// As [`Self::fill`].
    pub fn fill_with(&self, slot: Slot, given: &[&BTreeMap<String, HostTensor>]) -> Result<()> {
        for (name, id) in self.entries(slot) {
            let tensor = given.iter().find_map(|tensors| tensors.get(name));
            let tensor = tensor.ok_or_else(|| Error::NotGiven {
                kind: slot.word(),
                name: name.to_owned(),
                present: given.iter().flat_map(|it| it.keys().cloned()).collect(),
            })?;
            self.write(id, tensor)?;
        }
        Ok(())
    }

    /// Writes buffers from the tensors of their names; what else `tensors` holds is left alone.
    ///
    /// # Errors
    /// As [`Self::fill`].
    pub fn give(&self, ids: &[BufferId], tensors: &BTreeMap<String, HostTensor>) -> Result<()> {
        for id in ids {
            let name = &self.buffer(*id)?.name;
            let tensor = tensors.get(name).ok_or_else(|| Error::NotGiven {
                kind: Slot::Input.word(),
                name: name.clone(),
                present: tensors.keys().cloned().collect(),
            })?;
            self.write(*id, tensor)?;
        }
        Ok(())
    }

    /// Writes named buffers of one kind.
    ///
    /// # Errors
    /// A name the plan does not have, and what [`Self::write`] reports.
    pub fn write_named(&self, slot: Slot, tensors: &BTreeMap<String, HostTensor>) -> Result<()> {
        for (name, tensor) in tensors {
            self.write(self.find(slot, name)?, tensor)?;
        }
        Ok(())
    }

    /// Reads buffers.
    ///
    /// # Errors
    /// An unknown buffer, and what the device reports.
    pub fn read(&mut self, ids: &[BufferId]) -> Result<Vec<HostTensor>> {
        self.run_and_read(&[], ids)
    }

    /// Reads named buffers of one kind.
    ///
    /// # Errors
    /// A name the plan does not have, and what the device reports.
    pub fn read_named(
        &mut self,
        slot: Slot,
        names: &[&str],
    ) -> Result<BTreeMap<String, HostTensor>> {
        let ids: Vec<BufferId> = names
            .iter()
            .map(|name| self.find(slot, name))
            .collect::<Result<_>>()?;
        let tensors = self.read(&ids)?;
        let names = names.iter().map(|name| (*name).to_owned());
        Ok(names.zip(tensors).collect())
    }

    /// Reads everything of one kind.
    ///
    /// # Errors
    /// What the device reports.
    pub fn read_all(&mut self, slot: Slot) -> Result<BTreeMap<String, HostTensor>> {
        let (names, ids): (Vec<String>, Vec<BufferId>) = self
            .entries(slot)
            .map(|(name, id)| (name.to_owned(), id))
            .unzip();
        Ok(names.into_iter().zip(self.read(&ids)?).collect())
    }
}

/// All named buffers of a plan, and the tensors that lie in several of them.
pub(super) fn index(plan: &Plan) -> (BTreeMap<Slot, BTreeMap<String, BufferId>>, Vec<Whole>) {
    let mut names = buffers(plan);
    let mut wholes = Vec::new();
    for slot in [Slot::Parameter, Slot::Gradient] {
        let Some(names) = names.get_mut(&slot) else {
            continue;
        };
        for (path, split) in &plan.splits {
            let parts = 0..split.sizes.len();
            let parts = parts.map_while(|number| names.remove(&Split::part(path, number)));
            let parts: Vec<BufferId> = parts.collect();
            if parts.len() < split.sizes.len() {
                continue;
            }
            let behind = u32::try_from(plan.buffers.len() + wholes.len()).unwrap_or(u32::MAX);
            names.insert(path.clone(), BufferId(behind));
            wholes.push(Whole {
                name: path.clone(),
                split: split.clone(),
                parts,
            });
        }
    }
    (names, wholes)
}

fn buffers(plan: &Plan) -> BTreeMap<Slot, BTreeMap<String, BufferId>> {
    let mut names: BTreeMap<Slot, BTreeMap<String, BufferId>> = BTreeMap::new();
    for (id, buffer) in (0u32..).map(BufferId).zip(&plan.buffers) {
        let mut put = |slot, name: &str| {
            let names = names.entry(slot).or_default();
            names.insert(name.to_owned(), id);
        };
        match &buffer.role {
            Role::Input => put(Slot::Input, &buffer.name),
            Role::Parameter => put(Slot::Parameter, &buffer.name),
            Role::Gradient => put(Slot::Gradient, &buffer.name),
            Role::State(kind) => put(Slot::State, &format!("{kind}/{}", buffer.name)),
            Role::Output(kind) => {
                put(Slot::Output, &buffer.name);
                if let OutputKind::Gradient(path) = kind {
                    put(Slot::Gradient, path);
                }
            }
            Role::Step | Role::Constant(_) | Role::Activation => {}
        }
    }
    names
}
