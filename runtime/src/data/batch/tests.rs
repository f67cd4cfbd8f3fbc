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
        hidden: None,
        matched: None,
        mismatch: 0.0,
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

/// The columns with everything that can be hidden, and pictures in a second form.
fn masked(folder: &Path, mismatch: f64) -> BTreeMap<String, Column> {
    let mut columns = columns(folder);
    let Some(Column::Text(text)) = columns.get_mut("text") else {
        panic!("the texts");
    };
    let rule = gatewright_compiler::stage::TokenMask {
        share: 0.5,
        unit: gatewright_compiler::stage::MaskUnit::Token,
        token: "[UNK]".to_owned(),
        replaced: 1.0,
        random: 0.0,
    };
    text.hidden = Some(Hidden {
        rule: TokenMask::new(&rule, &text.tokenize).unwrap(),
        text: Some("masked_text".to_owned()),
        tokens: Some("masked_tokens".to_owned()),
    });
    text.mask = Some("shown".to_owned());
    text.matched = Some("matched".to_owned());
    text.mismatch = mismatch;
    let other = ImageTransform {
        size: 8,
        mean: [0.0; 3],
        std: [1.0; 3],
        strength: 0.5,
        ..ImageTransform::default()
    };
    let patches = BlockMask {
        grid: 4,
        count: 6,
        least: 2,
        aspect: 0.5,
    };
    columns.insert("other".to_owned(), Column::Image(other));
    columns.insert("patches".to_owned(), Column::Patches(patches));
    columns
}

fn hidden(mismatch: f64, options: BatchOptions) -> Batches {
    let folder = &TempDir::new().unwrap().keep();
    shard(&folder.join("all.tar"), &members());
    let found = Source::open(&folder.join("all.tar")).unwrap();
    let found = found.read(BadRecords::Refuse).unwrap();
    Batches::new(found, masked(folder, mismatch), options).unwrap()
}

#[test]
fn what_is_hidden_depends_on_the_step_alone() {
    let (first, second) = (hidden(0.3, options()), hidden(0.3, options()));
    for step in [0, 1, 9, 40] {
        let batch = first.at(step).unwrap();
        assert_eq!(batch, second.at(step).unwrap());
        assert_ne!(
            batch.tensors["patches"],
            first.at(step + 1).unwrap().tensors["patches"]
        );
        let read = |name: &str| batch.tensors[name].as_u32().unwrap();
        let places = read("text").iter().zip(read("masked_text"));
        for ((own, now), hidden) in places.zip(read("masked_tokens")) {
            // `[UNK]` has the identifier 1.
            assert_eq!(*now, if *hidden == 1 { 1 } else { *own });
        }
        let shown = read("shown").iter().zip(read("masked_tokens"));
        assert!(shown.clone().all(|(shown, hidden)| hidden <= shown));
        assert_eq!(batch.tensors["patches"].shape, [5, 16]);
        assert_eq!(batch.tensors["matched"].shape, [5]);
    }
    let other = hidden(
        0.3,
        BatchOptions {
            seed: 4,
            ..options()
        },
    );
    assert_ne!(
        first.at(0).unwrap().tensors["patches"],
        other.at(0).unwrap().tensors["patches"]
    );
}

#[test]
fn evaluation_hides_the_same_of_a_record_every_time() {
    let options = BatchOptions {
        training: false,
        ..options()
    };
    let all = hidden(1.0, options.clone());
    let again = hidden(1.0, options);
    assert_eq!(all.at(1).unwrap(), again.at(1).unwrap());
    // The eighth batch is filled up with the first records.
    let [first, last] = [0, 7].map(|step| all.at(step).unwrap().tensors["patches"].clone());
    let (first, last) = (first.as_u32().unwrap(), last.as_u32().unwrap());
    assert_eq!(first[..16], last[16..32]);
    let matched = all.at(0).unwrap().tensors["matched"].clone();
    assert_eq!(
        matched.as_u32().unwrap(),
        [1; 5],
        "captions are mixed up in training alone"
    );
}

/// Picture and text of a record bear its number, so who got another's text can be told.
#[test]
fn a_share_of_the_rows_gets_the_text_of_another_thing() {
    let batches = hidden(0.25, options());
    let mut mismatched = 0;
    const STEPS: u64 = 400;
    for step in 0..STEPS {
        let batch = batches.at(step).unwrap();
        let text = batch.tensors["text"].as_u32().unwrap();
        let matched = batch.tensors["matched"].as_u32().unwrap();
        for (row, index) in batch.indices.iter().enumerate() {
            // `thing N` is `[2, 3 + N, …]`, and three records in a row are of one thing.
            let of = (text[3 * row + 1] - 3) as usize;
            match matched[row] {
                1 => assert_eq!(of, *index),
                _ => assert_ne!(of / 3, index / 3),
            }
            mismatched += usize::from(matched[row] == 0);
        }
    }
    let share = mismatched as f64 / (5 * STEPS) as f64;
    assert!((share - 0.25).abs() < 0.03, "{share}");
}

#[test]
fn both_forms_of_a_picture_show_the_same_change_of_it() {
    let batches = hidden(0.0, options());
    for step in 0..20 {
        let batch = batches.at(step).unwrap();
        let (small, large) = (&batch.tensors["image"], &batch.tensors["other"]);
        let (small, large) = (small.as_f32().unwrap(), large.as_f32().unwrap());
        for row in 0..5 {
            // A picture of one colour: its middle has that colour, changed, in both normalisations.
            let small = &small[row * 48 + 3 * 5..][..3];
            let large = &large[row * 192 + 3 * (3 * 8 + 3)..][..3];
            for (small, large) in small.iter().zip(large) {
                let plain = small * 0.25 + 0.5;
                assert!((plain - large).abs() < 1e-4, "{plain} and {large}");
            }
        }
    }
}

#[test]
fn a_picture_has_so_many_forms() {
    let forms = |seed| {
        let folder = &TempDir::new().unwrap().keep();
        shard(&folder.join("all.tar"), &members()[60..62]);
        let found = Source::open(&folder.join("all.tar")).unwrap();
        let found = found.read(BadRecords::Refuse).unwrap();
        let transform = ImageTransform {
            size: 4,
            strength: 1.0,
            variants: Some(3),
            ..ImageTransform::default()
        };
        let columns = BTreeMap::from([("image".to_owned(), Column::Image(transform))]);
        let options = BatchOptions {
            batch: 1,
            seed,
            ..options()
        };
        let batches = Batches::new(found, columns, options).unwrap();
        let bits = |step| {
            let tensor = batches.at(step).unwrap().tensors["image"].clone();
            let bits = tensor.as_f32().unwrap().iter().map(|it| it.to_bits());
            bits.collect::<Vec<u32>>()
        };
        (0..60).map(bits).collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(forms(1).len(), 3);
    assert_eq!(forms(1), forms(2), "they are the same whatever the seed");
}

#[test]
fn text_alone_comes_from_a_compressed_list() {
    let folder = TempDir::new().unwrap();
    let lines: String = (0..20)
        .map(|it| format!("{{\"text\": \"thing {it}\"}}\n"))
        .collect();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, lines.as_bytes()).unwrap();
    let bytes = gzip.finish().unwrap();
    let file = folder.path().join("all.jsonl.gz");
    std::fs::write(&file, &bytes).unwrap();
    let read = |file: &Path| Source::open(file).unwrap().read(BadRecords::Skip).unwrap();
    assert_eq!(read(&file).records.len(), 20);
    let mut columns = columns(folder.path());
    columns.remove("image");
    if let Some(Column::Text(text)) = columns.get_mut("text") {
        let template = Template::parse("{text}", 1.0).unwrap();
        text.caption = Caption::new(vec![template.clone()], template);
    }
    let options = BatchOptions {
        unique: None,
        ..options()
    };
    let batches = Batches::new(read(&file), columns, options).unwrap();
    assert_eq!(
        batches.at(3).unwrap().tensors.keys().collect::<Vec<_>>(),
        ["text"]
    );

    std::fs::write(&file, &bytes[..bytes.len() - 20]).unwrap();
    let found = read(&file);
    assert!(
        found.records.len() < 20 && found.skipped.len() == 1,
        "{:?}",
        found.skipped
    );
}
