//! The data sets that models bring along are whole, and their splits are honest.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gatewright_compiler::stage::Template;
use gatewright_runtime::data::{
    BadRecords, BatchOptions, Batches, Caption, Column, ImageTransform, Records, Source,
    TextColumn, Tokenize,
};

fn emoji(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../models/limoe/data/emoji")
        .join(file)
}

fn read(shard: &str) -> Records {
    Source::open(&emoji(shard))
        .unwrap()
        .read(BadRecords::Refuse)
        .unwrap()
}

fn values(shard: &Records, field: &str) -> BTreeSet<String> {
    shard
        .records
        .iter()
        .map(|it| it.fields[field].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn emoji_splits_share_neither_vendor_nor_concept() {
    let (train, vendor, concept) = (
        read("train.tar.gz"),
        read("heldout_vendor.tar.gz"),
        read("heldout_concept.tar.gz"),
    );
    assert_eq!(train.records.len(), 1_349);
    assert!(values(&train, "vendor").is_disjoint(&values(&vendor, "vendor")));
    assert_eq!(values(&train, "emoji"), values(&vendor, "emoji"));
    assert!(values(&train, "emoji").is_disjoint(&values(&concept, "emoji")));
    assert_eq!(values(&concept, "vendor").len(), 7);
}

#[test]
fn emoji_make_batches() {
    let name = Template::parse("{name}, {subgroup}", 0.5).unwrap();
    let keywords = Template::parse("{keywords:1..4}", 0.5).unwrap();
    let caption = Caption::new(vec![name.clone(), keywords], name);
    let tokenize = Tokenize::open(&emoji("tokenizer.json"), 16, 0, 2_000).unwrap();
    let image = ImageTransform {
        strength: 0.5,
        ..ImageTransform::default()
    };
    let text = TextColumn {
        caption,
        tokenize: Arc::new(tokenize),
        mask: None,
        hidden: None,
        matched: None,
        mismatch: 0.0,
    };
    let columns = BTreeMap::from([
        ("image".to_owned(), Column::Image(image)),
        ("text".to_owned(), Column::Text(text)),
    ]);
    let options = BatchOptions {
        unique: Some("emoji".into()),
        bad: BadRecords::Refuse,
        ..BatchOptions::default()
    };
    let batches = Batches::new(read("train.tar.gz"), columns, options).unwrap();
    assert_eq!(batches.per_epoch(), 10);
    let batch = batches.at(1_000).unwrap();
    assert_eq!(batch.tensors["image"].shape, [128, 32, 32, 3]);
    // No caption of the training set needs the unknown token.
    assert!(!batch.tensors["text"].as_u32().unwrap().contains(&1));
}
