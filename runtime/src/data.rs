//! From files to batches of tensors.
//!
//! A [`Source`] names files and reads [`Record`]s out of them. A [`Column`] says how records become
//! named tensors: a picture through an [`ImageTransform`], a [`Caption`] through [`Tokenize`], and
//! what is hidden of both through [`BlockMask`] and [`TokenMask`]. [`Batches`] draws records and fills
//! the columns; [`Prefetch`] does so on a thread of its own, ahead of the device.
//!
//! Invariants:
//! - Batch `n` depends on the files, the options and `n` only, never on batches before it: a
//!   resumed run sees the bits that an uninterrupted one sees.
//! - A bad record is skipped and named, or refuses the whole source ([`BadRecords`]); it is never
//!   replaced by made-up data. Skipping happens before the first batch.
//! - Nothing here prints, and nothing knows which model the tensors are for.

mod batch;
mod caption;
mod conversation;
mod error;
mod findings;
mod image;
mod mask;
mod open;
mod order;
mod peek;
mod prefetch;
mod random;
mod source;
mod tokenize;
mod vocabulary;

pub use batch::{Batch, BatchOptions, Batches, Column, Hidden, TextColumn};
pub use caption::{Caption, canonical, prompt};
pub use conversation::{Conversation, Place, Places};
pub use error::{BadRecords, DataError, RecordFault};
pub use findings::{Boxed, Category, Findings, Relation, SegmentMap, TextLine, Verbalised};
pub use image::{ImageTransform, Picture};
pub use mask::{BlockMask, TokenMask};
pub use open::{Loading, Split, open};
pub use peek::{Sample, peek};
pub use prefetch::Prefetch;
pub use random::Random;
pub use source::{Blob, Record, Records, Source};
pub use tokenize::{Pieces, Tokenize};
pub use vocabulary::{Vocabulary, Words};
