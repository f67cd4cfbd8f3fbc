//! Which patches and tokens of a record are hidden.

use gatewright_compiler::stage::{self, MaskUnit};

use super::error::DataError;
use super::random::Random;
use super::tokenize::{Pieces, Tokenize};

/// Attempts to place one block.
const TRIES: usize = 10;

/// Blocks of hidden patches on a square grid, drawn as BEiT does (arXiv 2106.08254, algorithm 1).
///
/// Blocks of at least `least` patches are laid one after the other, until `count` patches are hidden
/// or ten blocks in a row do not fit. So `count` is never passed, and often not reached.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BlockMask {
    /// Patches of a side.
    pub grid: usize,
    /// Patches hidden in all, at most.
    pub count: usize,
    /// Patches of the smallest block.
    pub least: usize,
    /// The narrowest block: its proportion is log-uniform between this and its reciprocal.
    pub aspect: f64,
}

impl BlockMask {
    /// The rule that a spec states.
    #[must_use]
    pub fn new(spec: &stage::BlockMask) -> Self {
        let whole = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
        Self {
            grid: whole(spec.grid),
            count: whole(spec.count),
            least: whole(spec.least),
            aspect: spec.aspect,
        }
    }

    /// Which of the `grid * grid` patches are hidden, row by row.
    pub fn draw(&self, random: &mut Random) -> Vec<bool> {
        let mut hidden = vec![false; self.grid * self.grid];
        let mut count = 0;
        while count < self.count {
            let left = self.count - count;
            let block = (0..TRIES).find_map(|_| self.block(left, &hidden, random));
            let Some(block) = block else { break };
            for place in block.places(self.grid) {
                count += usize::from(!hidden[place]);
                hidden[place] = true;
            }
        }
        hidden
    }

    /// A block that hides between one and `left` more patches, if the one drawn does.
    fn block(&self, left: usize, hidden: &[bool], random: &mut Random) -> Option<Block> {
        let (least, most) = (self.least as f64, left as f64);
        let area = least + (most - least) * f64::from(random.unit());
        let widest = -self.aspect.ln();
        let proportion = (widest * (2.0 * f64::from(random.unit()) - 1.0)).exp();
        let side = |area: f64| area.sqrt().round_ties_even() as usize;
        let (height, width) = (side(area * proportion), side(area / proportion));
        if height >= self.grid || width >= self.grid {
            return None;
        }
        let block = Block {
            top: random.below(self.grid - height + 1),
            left: random.below(self.grid - width + 1),
            height,
            width,
        };
        let new = block.places(self.grid).filter(|place| !hidden[*place]);
        (1..=left).contains(&new.count()).then_some(block)
    }
}

struct Block {
    top: usize,
    left: usize,
    height: usize,
    width: usize,
}

impl Block {
    fn places(&self, grid: usize) -> impl Iterator<Item = usize> + use<> {
        let (left, right) = (self.left, self.left + self.width);
        let rows = self.top..self.top + self.height;
        rows.flat_map(move |row| (left..right).map(move |column| row * grid + column))
    }
}

/// Hidden tokens, and what stands in their place.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenMask {
    share: f64,
    unit: MaskUnit,
    /// The token that stands for a hidden one.
    token: u32,
    replaced: f64,
    random: f64,
    /// Random tokens are below this.
    vocabulary: usize,
}

impl TokenMask {
    /// The rule that a spec states, for a tokenizer.
    ///
    /// # Errors
    /// [`DataError::Tokenizer`] if it does not know the token that stands for hidden ones.
    pub fn new(spec: &stage::TokenMask, tokenize: &Tokenize) -> Result<Self, DataError> {
        Ok(Self {
            share: spec.share,
            unit: spec.unit,
            token: tokenize.id(&spec.token)?,
            replaced: spec.replaced,
            random: spec.random,
            vocabulary: tokenize.vocabulary(),
        })
    }

    /// What a model reads instead of the tokens, and which of them are hidden.
    pub fn draw(&self, pieces: &Pieces, random: &mut Random) -> (Vec<u32>, Vec<bool>) {
        let mut hidden = vec![false; pieces.ids.len()];
        match self.unit {
            MaskUnit::Token => {
                for (place, hidden) in hidden.iter_mut().enumerate() {
                    let drawn = f64::from(random.unit()) < self.share;
                    *hidden = drawn && pieces.words[place].is_some();
                }
            }
            MaskUnit::Word => self.words(pieces, random, &mut hidden),
        }
        let mut read = pieces.ids.clone();
        for (id, hidden) in read.iter_mut().zip(&hidden) {
            // Every place takes its numbers, so that one choice does not shift all others.
            let (what, any) = (f64::from(random.unit()), random.below(self.vocabulary));
            if !hidden {
                continue;
            }
            if what < self.replaced {
                *id = self.token;
            } else if what < self.replaced + self.random {
                *id = u32::try_from(any).unwrap_or(self.token);
            }
        }
        (read, hidden)
    }

    /// Words in random order; one that would pass the share is left out.
    fn words(&self, pieces: &Pieces, random: &mut Random, hidden: &mut [bool]) {
        let mut words: Vec<Vec<usize>> = Vec::new();
        let mut last = None;
        for (place, word) in pieces.words.iter().enumerate() {
            match (word, words.last_mut()) {
                (Some(_), Some(own)) if *word == last => own.push(place),
                (Some(_), _) => words.push(vec![place]),
                (None, _) => {}
            }
            last = *word;
        }
        let tokens: usize = words.iter().map(Vec::len).sum();
        let most = ((tokens as f64 * self.share).round() as usize).max(1);
        random.shuffle(&mut words);
        let mut count = 0;
        for word in words {
            if count + word.len() <= most {
                count += word.len();
                word.into_iter().for_each(|place| hidden[place] = true);
            }
        }
    }
}

#[cfg(test)]
mod tests;
