use std::path::{Path, PathBuf};

use gatewright_compiler::stage::Template;
use image::{ExtendedColorType, ImageEncoder, codecs::png::PngEncoder};
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::data::{Prefetch, Source};

/// A picture of one colour.
pub(in crate::data) fn png(size: u32, rgba: [u8; 4]) -> Vec<u8> {
    let pixels = rgba.repeat((size * size) as usize);
    let mut bytes = Vec::new();
    let encoder = PngEncoder::new(&mut bytes);
    encoder
        .write_image(&pixels, size, size, ExtendedColorType::Rgba8)
        .unwrap();
    bytes
}

fn shard(path: &Path, members: &[(String, Vec<u8>)]) {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, bytes) in members {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        tar.append_data(&mut header, name, bytes.as_slice())
            .unwrap();
    }
    std::fs::write(path, tar.into_inner().unwrap()).unwrap();
}

/// Twelve concepts in three styles each.
fn members() -> Vec<(String, Vec<u8>)> {
    let member = |it: u8| {
        let fields = json!({"emoji": format!("{}", it / 3), "name": format!("thing {it}")});
        let key = format!("{:02}_{}", it / 3, it % 3);
        [
            (format!("{key}.json"), fields.to_string().into()),
            (format!("{key}.png"), png(4, [it; 4])),
        ]
    };
    (0..36).flat_map(member).collect()
}

fn tokenizer(folder: &Path) -> PathBuf {
    let words = ["[PAD]", "[UNK]", "thing"].map(str::to_owned).into_iter();
    let words = words.chain((0..37).map(|it| it.to_string()));
    let vocabulary: BTreeMap<String, u32> = words.zip(0..).collect();
    let json = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": {"type": "BertNormalizer", "clean_text": true,
            "handle_chinese_chars": true, "strip_accents": null, "lowercase": true},
        "pre_tokenizer": {"type": "BertPreTokenizer"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": vocabulary},
    });
    let file = folder.join("tokenizer.json");
    std::fs::write(&file, json.to_string()).unwrap();
    file
}

fn columns(folder: &Path) -> BTreeMap<String, Column> {
    let transform = ImageTransform {
        size: 4,
        strength: 0.5,
        ..ImageTransform::default()
    };
    let name = Template::parse("{name}", 1.0).unwrap();
    let both = Template::parse("{name} {emoji}", 1.0).unwrap();
    let caption = Caption::new(vec![name.clone(), both], name);
    let tokenize = Tokenize::open(&tokenizer(folder), 3, 0, 40).unwrap();
    let text = TextColumn {
        caption,
        tokenize: Arc::new(tokenize),
        mask: None,
    };
    BTreeMap::from([
        ("image".to_owned(), Column::Image(transform)),
        ("text".to_owned(), Column::Text(text)),
    ])
}

fn options() -> BatchOptions {
    BatchOptions {
        batch: 5,
        seed: 3,
        unique: Some("emoji".into()),
        ..BatchOptions::default()
    }
}

fn batches(options: BatchOptions) -> Batches {
    // Kept: a source without a cache reads its file again.
    let folder = &TempDir::new().unwrap().keep();
    shard(&folder.join("all.tar"), &members());
    let found = Source::open(&folder.join("all.tar"))
        .unwrap()
        .read(options.bad)
        .unwrap();
    Batches::new(found, columns(folder), options).unwrap()
}

/// The keys that a source leaves out, with what is wrong with them, strictness included.
fn faults(source: &Source, folder: &Path) -> (usize, Vec<(String, RecordFault)>) {
    let options = BatchOptions {
        batch: 1,
        ..options()
    };
    let strict = BatchOptions {
        bad: BadRecords::Refuse,
        ..options.clone()
    };
    let refused = source.read(strict.bad);
    let refused = refused.and_then(|found| Batches::new(found, columns(folder), strict));
    let all = Batches::new(source.read(options.bad).unwrap(), columns(folder), options).unwrap();
    let named = |error: &DataError| match error {
        DataError::BadRecord { key, cause, .. } => (key.clone(), cause.clone()),
        other => panic!("{other}"),
    };
    let found: Vec<_> = all.skipped().iter().map(named).collect();
    assert_eq!(refused.err().as_ref().map(named).as_ref(), found.first());
    (all.records().len(), found)
}

#[test]
fn bad_members_of_a_shard_are_named() {
    let folder = TempDir::new().unwrap();
    let folder = folder.path();
    let mut members = members();
    members[1].1.truncate(30);
    members[2].1 = b"{\"name\": \"\xff\"}".into();
    members[4].1 = b"{\"emoji\": \"4\"}".into();
    members[6].1 = b"[]".into();
    members.remove(9);
    shard(&folder.join("bad.tar"), &members);
    let (left, faults) = faults(&Source::open(&folder.join("bad.tar")).unwrap(), folder);
    assert_eq!(left, 31);
    let mut faults = faults.into_iter();
    let mut next = || faults.next().unwrap();
    assert!(matches!(next(), (key, RecordFault::NotUtf8(_)) if key == "00_1"));
    assert!(matches!(next(), (key, RecordFault::Json(_)) if key == "01_0"));
    assert!(matches!(next(), (key, RecordFault::Image(_)) if key == "00_0"));
    assert_eq!(next(), ("01_1".into(), RecordFault::NoImage));
    assert!(matches!(next(), (key, RecordFault::NoCaption(_)) if key == "00_2"));
    assert!(faults.next().is_none());
}

#[test]
fn a_truncated_shard_keeps_what_is_whole() {
    let folder = TempDir::new().unwrap();
    let folder = folder.path();
    let path = folder.join("short.tar");
    shard(&path, &members());
    let bytes = std::fs::read(&path).unwrap();
    // Inside the bytes of the fourth member, the second picture.
    std::fs::write(&path, &bytes[..3 * 1024 + 512 + 20]).unwrap();
    let (left, plain) = faults(&Source::open(&path).unwrap(), folder);
    assert_eq!((left, plain.len(), plain[0].0.as_str()), (1, 1, "00_1"));
    assert!(matches!(plain[0].1, RecordFault::Archive(_)));

    let zipped = folder.join("short.tar.gz");
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
    std::io::Write::write_all(&mut gzip, &bytes).unwrap();
    std::fs::write(&zipped, &gzip.finish().unwrap()[..3 * 1024 + 512 + 60]).unwrap();
    let (left, found) = faults(&Source::open(&zipped).unwrap(), folder);
    assert_eq!((left, found[0].0.as_str()), (1, "00_1"));

    std::fs::write(&path, b"this is no archive").unwrap();
    let found = Source::open(&path).unwrap().read(BadRecords::Skip).unwrap();
    assert_eq!((found.records.len(), found.skipped.len()), (0, 1));
}

#[test]
fn folders_and_lists_hold_the_same_as_shards() {
    let folder = TempDir::new().unwrap();
    let folder = folder.path();
    let pictures = folder.join("pictures");
    std::fs::create_dir(&pictures).unwrap();
    let mut lines = String::new();
    for it in 0..3 {
        std::fs::write(pictures.join(format!("{it}.png")), png(4, [it; 4])).unwrap();
        std::fs::write(pictures.join(format!("{it}.txt")), format!("thing {it}\n")).unwrap();
        lines += &json!({"image": format!("pictures/{it}.png"), "caption": format!("thing {it}")})
            .to_string();
        lines += "\n";
    }
    std::fs::write(pictures.join("3.txt"), b"\xff\xfe").unwrap();
    lines += "{\"image\": \"pictures/9.png\", \"caption\": \"absent\"}\n\n{";
    std::fs::write(folder.join("list.jsonl"), lines).unwrap();
    let read = |path: &Path| Source::open(path).unwrap().read(BadRecords::Skip).unwrap();
    let (from_folder, from_list) = (read(&pictures), read(&folder.join("list.jsonl")));
    let content = |found: &Records| -> Vec<_> {
        let image = |it: &Record| it.image.as_ref().unwrap().bytes().unwrap().into_owned();
        found
            .records
            .iter()
            .map(|it| (image(it), it.fields.clone()))
            .collect()
    };
    assert_eq!(content(&from_folder), content(&from_list));
    assert_eq!(from_folder.records[2].fields["caption"], "thing 2");
    assert_eq!((from_folder.skipped.len(), from_list.skipped.len()), (1, 2));
    assert!(from_list.skipped[1].to_string().contains("line 6"));
    assert!(matches!(
        Source::open(&folder.join("tokenizer")),
        Err(DataError::Unreadable { .. })
    ));
}

#[test]
fn a_batch_can_be_made_without_those_before_it() {
    let running = Arc::new(batches(options()));
    assert_eq!(running.per_epoch(), 7);
    let ahead = Prefetch::start(running.clone(), 0..20, 2, None).unwrap();
    let made: Vec<Batch> = ahead.map(|it| it.unwrap()).collect();
    for batch in &made {
        let mut things: Vec<_> = batch
            .indices
            .iter()
            .map(|it| &running.records()[*it].fields["emoji"])
            .collect();
        things.sort_by_key(|it| it.to_string());
        things.dedup();
        assert_eq!(things.len(), 5);
        assert_eq!(batch.tensors["image"].shape, [5, 4, 4, 3]);
        assert_eq!(batch.tensors["text"].shape, [5, 3]);
    }
    // Without a cache the pictures are decoded again, to the same numbers.
    let fresh = batches(BatchOptions {
        cache: 0,
        ..options()
    });
    assert_eq!(fresh.at(17).unwrap(), made[17]);
    assert_ne!(
        batches(BatchOptions {
            seed: 4,
            ..options()
        })
        .at(17)
        .unwrap(),
        made[17]
    );
}

#[test]
fn evaluation_goes_through_every_record_once() {
    let all = batches(BatchOptions {
        training: false,
        ..options()
    });
    assert_eq!(all.per_epoch(), 8);
    let indices: Vec<usize> = (0..8).flat_map(|it| all.at(it).unwrap().indices).collect();
    assert_eq!(indices, (0..36).collect::<Vec<_>>());
    let last = all.at(7).unwrap();
    assert_eq!((last.indices.len(), last.tensors["text"].shape[0]), (1, 5));
    let text = last.tensors["text"].as_u32().unwrap();
    assert_eq!(text[..6], [2, 38, 0, 2, 3, 0]);
}

#[test]
fn tokens_must_fit_the_input() {
    let folder = TempDir::new().unwrap();
    let file = tokenizer(folder.path());
    let open = |pad, vocabulary| Tokenize::open(&file, 3, pad, vocabulary);
    assert!(matches!(
        open(0, 39),
        Err(DataError::TokenOutOfRange {
            id: 39,
            vocabulary: 39,
            ..
        })
    ));
    assert!(matches!(
        open(50, 40),
        Err(DataError::TokenOutOfRange { id: 50, .. })
    ));
    let mut rows = Vec::new();
    open(7, 40)
        .unwrap()
        .append("Thing one 2 3 4", &mut rows)
        .unwrap();
    open(7, 40).unwrap().append("thing", &mut rows).unwrap();
    assert_eq!(rows, [2, 1, 5, 2, 7, 7]);
    assert!(matches!(
        open(0, 40).unwrap().append("", &mut rows),
        Err(RecordFault::Tokens(_))
    ));
}

#[test]
fn too_few_different_records_are_an_error() {
    let folder = TempDir::new().unwrap();
    let folder = folder.path();
    shard(&folder.join("all.tar"), &members());
    let found = Source::open(&folder.join("all.tar"))
        .unwrap()
        .read(BadRecords::Skip)
        .unwrap();
    let error = Batches::new(
        found,
        columns(folder),
        BatchOptions {
            batch: 13,
            ..options()
        },
    );
    assert!(matches!(error, Err(DataError::TooFew { count: 12, .. })));
}
