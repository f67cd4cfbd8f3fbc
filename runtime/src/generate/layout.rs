//! How prompts lie in the inputs of an entry.

use super::Prompt;
use crate::error::{Error, Result};
use crate::once::Tensors;
use crate::tensor::HostTensor;
use gatewright_compiler::graph::Graph;
use gatewright_compiler::lower::POSITION;
use gatewright_compiler::size::Bindings;
use gatewright_compiler::stage::{GenerateSpec, PromptPart};
use std::collections::BTreeMap;

/// Sizes and inputs of an entry that generates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// B, lines of a batch.
    pub lines: usize,
    /// T, tokens of a line.
    pub tokens: usize,
    /// N, places of a line.
    pub places: usize,
    /// Places of a picture; they stand where its marker stood.
    pub rows: usize,
    /// V, when it is known.
    pub vocabulary: Option<u32>,
    parts: BTreeMap<PromptPart, String>,
    given: Vec<String>,
    image: Vec<usize>,
    map: Vec<usize>,
    /// U, ids that tell what was found, and what fills them up.
    pub findings: usize,
    pad: u32,
}

/// One sequence: what is in its inputs so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Ids in order, zero where the marker is.
    pub tokens: Vec<u32>,
    /// Where the marker is.
    marker: Option<usize>,
    /// Tokens of the prompt, the marker included.
    prompt: usize,
    rows: usize,
}

impl Line {
    /// The place of the last token.
    #[must_use]
    pub fn position(&self) -> usize {
        self.tokens.len() + self.rows - 1 - usize::from(self.marker.is_some())
    }

    /// The answer so far.
    #[must_use]
    pub fn answer(&self) -> &[u32] {
        &self.tokens[self.prompt..]
    }

    /// Appends a token of the answer.
    pub fn push(&mut self, token: u32) {
        self.tokens.push(token);
    }

    /// Which row stands at a place: t for token t, T + r for row r of the picture.
    fn row_at(&self, place: usize, tokens: usize) -> usize {
        match self.marker {
            Some(marker) if place >= marker && place < marker + self.rows => {
                tokens + place - marker
            }
            Some(marker) if place >= marker => (place + 1 - self.rows).min(tokens - 1),
            _ => place.min(tokens - 1),
        }
    }

    fn is_image(&self, place: usize) -> bool {
        let inside = |marker: usize| place >= marker && place < marker + self.rows;
        self.marker.is_some_and(inside)
    }

    fn is_prompt(&self, place: usize) -> bool {
        let images = if self.marker.is_some() { self.rows } else { 0 };
        let behind = self.prompt - usize::from(self.marker.is_some()) + images;
        place < behind && !self.is_image(place)
    }
}

/// What goes to the device between two tokens: input, first element, words.
pub type Change<'a> = (&'a str, usize, Vec<u32>);

impl Layout {
    /// The layout of a traced entry.
    ///
    /// # Errors
    /// Inputs of an open size, or of sizes that do not fit each other.
    pub fn of(spec: &GenerateSpec, graph: &Graph) -> Result<Self> {
        let inputs = graph.inputs();
        let shape = |name: &str| -> Option<Vec<usize>> {
            let sizes = &graph.ty(*inputs.get(name)?).shape;
            sizes
                .iter()
                .map(|size| size.bind(&Bindings::new()))
                .collect()
        };
        let mut parts = BTreeMap::new();
        let mut given = Vec::new();
        for prompted in &spec.gives {
            match prompted.product {
                PromptPart::Given => given.push(prompted.input.clone()),
                part => drop(parts.insert(part, prompted.input.clone())),
            }
        }
        let sizes = |part: PromptPart| parts.get(&part).and_then(|name| shape(name));
        let Some(&[lines, tokens]) = sizes(PromptPart::Tokens).as_deref() else {
            let reason = "the input that gets `tokens` is not read, or its sizes are not known";
            return Err(Error::generation(reason));
        };
        let places = match sizes(PromptPart::Places).as_deref() {
            Some([_, places]) => *places,
            _ => tokens,
        };
        let rows = match parts.contains_key(&PromptPart::Places) {
            true => (places + 1).saturating_sub(tokens),
            false => 0,
        };
        let beside = [
            PromptPart::Seen,
            PromptPart::PromptPlaces,
            PromptPart::ImagePlaces,
        ];
        for part in beside {
            if let Some(own) = sizes(part)
                && own != [lines, places]
            {
                let name = parts.get(&part).map_or("", String::as_str);
                let reason =
                    format!("`{name}` is {own:?}, where a sequence has [{lines}, {places}] places");
                return Err(Error::generation(reason));
            }
        }
        let vocabulary = parts
            .get(&PromptPart::Tokens)
            .and_then(|name| inputs.get(name));
        let vocabulary = vocabulary.and_then(|id| match &graph.node(*id).op {
            gatewright_compiler::ops::Op::Input(input) => input.bound,
            _ => None,
        });
        Ok(Self {
            lines,
            tokens,
            places,
            rows,
            vocabulary,
            image: sizes(PromptPart::Image).unwrap_or_default(),
            map: sizes(PromptPart::FindingsMap).unwrap_or_default(),
            findings: match sizes(PromptPart::Findings).as_deref() {
                Some([_, ids]) => *ids,
                _ => 0,
            },
            pad: spec
                .findings
                .as_ref()
                .map_or(0, |findings| u32::try_from(findings.pad).unwrap_or(0)),
            parts,
            given,
        })
    }

    /// Whether an answer to a prompt with a picture can be asked for.
    #[must_use]
    pub fn takes_picture(&self) -> bool {
        self.parts.contains_key(&PromptPart::Image)
    }

    /// A prompt as a line.
    ///
    /// # Errors
    /// A prompt that is empty, too long, or has not the one marker that a picture needs.
    pub fn line(&self, prompt: &Prompt) -> Result<Line> {
        let ids = &prompt.tokens;
        let markers = ids.iter().filter(|id| id.is_none()).count();
        let spliced = self.rows > 0;
        if markers != usize::from(spliced) {
            let reason = format!(
                "the prompt holds {markers} markers of a picture; the entry reads {}",
                if spliced { "one picture" } else { "none" }
            );
            return Err(Error::generation(reason));
        }
        if ids.is_empty() || ids.len() >= self.tokens {
            let reason = format!(
                "the prompt has {} tokens; there is room for {} with one to answer: \
                 make the sequence longer with `--set`, or the prompt shorter",
                ids.len(),
                self.tokens.saturating_sub(1)
            );
            return Err(Error::generation(reason));
        }
        let beyond = |id: &&Option<u32>| self.vocabulary.zip(**id).is_some_and(|(v, id)| id >= v);
        if let Some(Some(id)) = ids.iter().find(beyond) {
            let known = self.vocabulary.unwrap_or_default();
            let reason =
                format!("the prompt holds token {id}, and the entry reads those below {known}");
            return Err(Error::generation(reason));
        }
        Ok(Line {
            tokens: ids.iter().map(|id| id.unwrap_or(0)).collect(),
            marker: ids.iter().position(Option::is_none),
            prompt: ids.len(),
            rows: self.rows,
        })
    }

    /// Ids of findings as their input has them: filled up in front, or cut at the end; and how many
    /// were cut.
    #[must_use]
    pub fn told(&self, ids: &[u32]) -> (Vec<u32>, usize) {
        let kept = ids.len().min(self.findings);
        let mut line = vec![self.pad; self.findings - kept];
        line.extend(&ids[..kept]);
        (line, ids.len() - kept)
    }

    /// Tokens that may still follow a line.
    #[must_use]
    pub fn room(&self, line: &Line) -> usize {
        self.tokens - line.tokens.len()
    }

    /// All inputs of the first program; pictures are repeated for the beams of their prompt.
    ///
    /// # Errors
    /// Another number of lines than the batch has, a picture that lacks, a tensor that is not given.
    pub fn inputs(
        &self,
        lines: &[Line],
        prompts: &[Prompt],
        beams: usize,
        given: &Tensors,
    ) -> Result<Tensors> {
        if lines.len() != self.lines {
            let (found, room) = (lines.len(), self.lines);
            let reason = format!("{found} sequences for a batch of {room}");
            return Err(Error::generation(reason));
        }
        let mut inputs = Tensors::new();
        let mut put = |name: &str, tensor: Option<HostTensor>| -> Result<()> {
            let tensor = tensor.ok_or_else(|| {
                Error::generation(format!(
                    "`{name}` gets another number of values than it has"
                ))
            })?;
            inputs.insert(name.to_owned(), tensor);
            Ok(())
        };
        let (batch, places) = (self.lines, self.places);
        for (part, name) in &self.parts {
            let line_of = |value: &dyn Fn(&Line, usize) -> usize| {
                let all = lines
                    .iter()
                    .flat_map(|line| (0..places).map(move |place| (line, place)));
                let words = all.map(|(line, place)| u32::try_from(value(line, place)).unwrap_or(0));
                HostTensor::u32([batch, places], words.collect())
            };
            let tensor = match part {
                PromptPart::Tokens => {
                    let mut words = Vec::with_capacity(batch * self.tokens);
                    for line in lines {
                        words.extend(&line.tokens);
                        words.resize(words.len() + self.room(line), 0);
                    }
                    HostTensor::u32([batch, self.tokens], words)
                }
                PromptPart::Places => line_of(&|line, place| line.row_at(place, self.tokens)),
                PromptPart::Seen => line_of(&|line, place| usize::from(place <= line.position())),
                PromptPart::PromptPlaces => {
                    line_of(&|line, place| usize::from(line.is_prompt(place)))
                }
                PromptPart::ImagePlaces => {
                    line_of(&|line, place| usize::from(line.is_image(place)))
                }
                PromptPart::Image | PromptPart::FindingsMap | PromptPart::Findings
                    if given.contains_key(name) =>
                {
                    given.get(name).map(|tensor| repeated(tensor, beams))
                }
                PromptPart::Image => {
                    let data = each(prompts, beams, name, |prompt| prompt.image.as_deref())?;
                    HostTensor::f32(self.image.clone(), data)
                }
                PromptPart::FindingsMap => {
                    let data = each(prompts, beams, name, |prompt| prompt.map.as_deref())?;
                    HostTensor::f32(self.map.clone(), data)
                }
                PromptPart::Findings => {
                    let data = each(prompts, beams, name, |prompt| prompt.findings.as_deref())?;
                    HostTensor::u32([batch, self.findings], data)
                }
                PromptPart::Given => continue,
            };
            put(name, tensor)?;
        }
        for name in &self.given {
            let tensor = given.get(name).ok_or_else(|| Error::NotGiven {
                kind: "input",
                name: name.clone(),
                present: given.keys().cloned().collect(),
            })?;
            inputs.insert(name.clone(), repeated(tensor, beams));
        }
        let ends: Vec<u32> = self.ends(lines);
        let ends = HostTensor::u32([batch], ends);
        inputs.extend(ends.map(|ends| (POSITION.to_owned(), ends)));
        Ok(inputs)
    }

    fn ends(&self, lines: &[Line]) -> Vec<u32> {
        let ends = lines
            .iter()
            .map(|line| u32::try_from(line.position()).unwrap_or(0));
        ends.collect()
    }

    /// What the newest token of each line changes.
    #[must_use]
    pub fn changes(&self, lines: &[Line]) -> Vec<Change<'_>> {
        let mut changes = vec![(POSITION, 0, self.ends(lines))];
        for (index, line) in lines.iter().enumerate() {
            let last = line.tokens.len() - 1;
            if let Some(name) = self.parts.get(&PromptPart::Tokens) {
                let first = index * self.tokens + last;
                changes.push((name.as_str(), first, vec![line.tokens[last]]));
            }
            if let Some(name) = self.parts.get(&PromptPart::Seen) {
                changes.push((
                    name.as_str(),
                    index * self.places + line.position(),
                    vec![1],
                ));
            }
        }
        changes
    }
}

/// What each prompt has, once for each of its lines.
fn each<T: Copy>(
    prompts: &[Prompt],
    beams: usize,
    name: &str,
    of: impl Fn(&Prompt) -> Option<&[T]>,
) -> Result<Vec<T>> {
    let mut data = Vec::new();
    for prompt in prompts {
        let Some(own) = of(prompt) else {
            let reason = format!("the entry reads a picture as `{name}`, and none is given");
            return Err(Error::generation(reason));
        };
        (0..beams).for_each(|_| data.extend_from_slice(own));
    }
    Ok(data)
}

/// Each entry of the first axis several times.
fn repeated(tensor: &HostTensor, times: usize) -> HostTensor {
    use crate::tensor::HostData;
    let Some(first) = tensor
        .shape
        .first()
        .copied()
        .filter(|first| *first > 0 && times > 1)
    else {
        return tensor.clone();
    };
    let mut shape = tensor.shape.clone();
    shape[0] *= times;
    fn each<T: Copy>(data: &[T], first: usize, times: usize) -> Vec<T> {
        let entries = data.chunks(data.len() / first);
        entries.flat_map(|entry| entry.repeat(times)).collect()
    }
    let data = match &tensor.data {
        HostData::F32(data) => HostData::F32(each(data, first, times)),
        HostData::U32(data) => HostData::U32(each(data, first, times)),
    };
    HostTensor { shape, data }
}
