//! Makes the emoji image-and-text data set: pictures of one emoji by several artists, with its
//! Unicode names, as WebDataset shards and a frozen vocabulary.
//!
//! Two things are never trained on: one vendor (Twemoji) and about 15 % of the concepts. So three
//! shards come out: `train`, `heldout_vendor` (trained concepts, unseen vendor) and
//! `heldout_concept` (unseen concepts, every vendor).

mod catalogue;
mod glosses;
mod packages;
mod vendor;
mod vocabulary;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use gatewright_shards::npm::Packages;
use gatewright_shards::{Error, Shard, shard};
use image::RgbaImage;
use serde::Serialize;

use catalogue::{Emoji, Selection, is_held_out};
use vendor::{Pictures, Vendor};

#[derive(Parser)]
#[command(about = "Makes the emoji image-and-text data set from npm packages")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Lets npm install the packages (about 420 MB), without running their scripts.
    Fetch {
        /// The folder that gets a `node_modules`.
        #[arg(long, default_value = "target/emoji")]
        npm: PathBuf,
    },
    /// Makes the small set: animals and food.
    Demo(Make),
    /// Makes the text: what WordNet says about animals and food, with a vocabulary for it and for the
    /// captions of a shard.
    Glosses {
        #[command(flatten)]
        make: Make,
        /// The shard whose captions the vocabulary knows too.
        #[arg(long)]
        shard: PathBuf,
    },
    /// Makes the full set: all emoji but country flags and components.
    All(Make),
}

#[derive(Args)]
struct Make {
    /// The folder that gets the shards and `tokenizer.json`.
    #[arg(long)]
    out: PathBuf,
    /// The folder with `node_modules`; npm installs what is missing.
    #[arg(long, default_value = "target/emoji")]
    npm: PathBuf,
    /// Report missing packages instead of installing them.
    #[arg(long)]
    offline: bool,
    /// Width and height of the pictures.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(8..=72))]
    size: u32,
    /// Languages besides English whose names records also have, as CLDR calls them: `de,fr,pt-PT`.
    #[arg(long, value_delimiter = ',', value_name = "LANGUAGE")]
    languages: Vec<String>,
}

/// The JSON beside a picture.
#[derive(Serialize)]
struct Sample<'a> {
    vendor: &'static str,
    #[serde(flatten)]
    emoji: &'a Emoji,
}

fn main() -> ExitCode {
    gatewright_shards::end(match Cli::parse().command {
        Command::Fetch { npm } => Packages::fetch(&npm, packages::EMOJI).map(|_| String::new()),
        Command::Glosses { make, shard } => text(&make, &shard),
        Command::Demo(make) => run(&make, Selection::Demo),
        Command::All(make) => run(&make, Selection::All),
    })
}

fn run(make: &Make, selection: Selection) -> Result<String, Error> {
    let packages = Packages::open(&make.npm, packages::EMOJI, make.offline)?;
    std::fs::create_dir_all(&make.out).map_err(Error::io(&make.out))?;
    let emoji = catalogue::read(&packages, selection, &make.languages)?;
    let mut summary = write_shards(make, &packages, &emoji)?;
    let seen: Vec<&Emoji> = emoji.iter().filter(|it| !is_held_out(&it.emoji)).collect();
    let pieces = vocabulary::write(&make.out, &seen)?;
    summary += &format!("tokenizer.json: {pieces} pieces\n");
    Ok(summary)
}

fn text(make: &Make, shard: &Path) -> Result<String, Error> {
    let packages = Packages::open(&make.npm, packages::TEXT, make.offline)?;
    std::fs::create_dir_all(&make.out).map_err(Error::io(&make.out))?;
    glosses::write(&make.out, &packages, shard)
}

fn write_shards(make: &Make, packages: &Packages, all: &[Emoji]) -> Result<String, Error> {
    let open = |vendor| Pictures::open(vendor, packages, all, make.size);
    let held_out = open(Vendor::HELD_OUT)?;
    let training = Vendor::TRAINING
        .into_iter()
        .map(|vendor| Ok((vendor, open(vendor)?)))
        .collect::<Result<Vec<_>, Error>>()?;
    let create = |name| Shard::create(&make.out, name);
    let (mut train, mut vendor, mut concept) = (
        create("train")?,
        create("heldout_vendor")?,
        create("heldout_concept")?,
    );
    for emoji in all {
        let unseen = is_held_out(&emoji.emoji);
        for (name, pictures) in &training {
            if let Some(picture) = pictures.get(emoji)? {
                let shard = if unseen { &mut concept } else { &mut train };
                append(shard, emoji, *name, &picture)?;
            }
        }
        if let Some(picture) = held_out.get(emoji)? {
            let shard = if unseen { &mut concept } else { &mut vendor };
            append(shard, emoji, Vendor::HELD_OUT, &picture)?;
        }
    }
    finish(
        [
            ("train", train),
            ("heldout_vendor", vendor),
            ("heldout_concept", concept),
        ],
        &make.out,
    )
}

fn append(
    shard: &mut Shard,
    emoji: &Emoji,
    vendor: Vendor,
    picture: &RgbaImage,
) -> Result<(), Error> {
    let vendor = vendor.name();
    let key = format!("{}_{vendor}", emoji.emoji);
    let png = shard::png(picture)?;
    shard.append(&key, &Sample { vendor, emoji }, &[("png", &png)])
}

fn finish<const N: usize>(shards: [(&str, Shard); N], out: &Path) -> Result<String, Error> {
    let mut summary = format!("{}\n", out.display());
    for (name, shard) in shards {
        summary += &format!("{name}.tar.gz: {} samples\n", shard.samples());
        shard.finish()?;
    }
    Ok(summary)
}
