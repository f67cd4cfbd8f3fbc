//! Records into batches of named tensors.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;

use crate::tensor::{HostData, HostTensor};

use super::caption::Caption;
use super::conversation::{Conversation, Places};
use super::error::{BadRecords, DataError, RecordFault};
use super::image::{ImageTransform, Picture};
use super::mask::{BlockMask, TokenMask};
use super::order::Order;
use super::random::Random;
use super::source::{Record, Records};
use super::tokenize::Tokenize;

/// How records become tensors of a batch.
#[derive(Clone, Debug)]
pub enum Column {
    /// `f32[B, size, size, 3]`. All pictures of a record are changed in the same way.
    Image(ImageTransform),
    /// `u32[B, grid * grid]`: 1 for patches that are hidden.
    Patches(BlockMask),
    /// `u32[B, length]`.
    Text(TextColumn),
    /// Several tensors, each under its own name.
    Conversation(Box<Conversation>),
}

/// How records become rows of tokens.
#[derive(Clone, Debug)]
pub struct TextColumn {
    /// Which words.
    pub caption: Caption,
    /// Which tokens.
    pub tokenize: Arc<Tokenize>,
    /// The name of a second tensor, `u32[B, length]`: 1 for tokens and 0 for padding.
    pub mask: Option<String>,
    /// Which tokens are hidden.
    pub hidden: Option<Hidden>,
    /// The name of `u32[B]`: 1 where the text belongs to its record.
    pub matched: Option<String>,
    /// The share of rows that get the text of another record, in training.
    pub mismatch: f64,
}

/// The tensors of texts with hidden tokens.
#[derive(Clone, Debug)]
pub struct Hidden {
    /// Which tokens are hidden.
    pub rule: TokenMask,
    /// The name of `u32[B, length]`: the text with these hidden.
    pub text: Option<String>,
    /// The name of `u32[B, length]`: 1 for tokens that are hidden.
    pub tokens: Option<String>,
}

/// Random coordinates that keep what is drawn for a row of a batch apart.
#[derive(Clone, Copy)]
enum Draw {
    /// The augmentation of its pictures.
    Picture = 0,
    /// Its caption.
    Caption = 1,
    /// Its hidden patches.
    Patches = 2,
    /// Its hidden tokens.
    Tokens = 3,
    /// Whether it gets another text, and which.
    Mismatch = 4,
    /// Which turns of its conversation are taken.
    Turns = 5,
}

/// The random coordinate of the augmented forms of a picture, in the place of a step.
const VARIANT: u64 = u64::MAX - 2;
/// The random coordinate of evaluation, in the place of a step.
const FIXED: u64 = u64::MAX - 3;
/// Records that are looked at for another text.
const OTHERS: usize = 32;

/// How batches are drawn.
#[derive(Clone, Debug)]
pub struct BatchOptions {
    /// Rows of a batch.
    pub batch: usize,
    /// Decides every random draw.
    pub seed: u64,
    /// For training: records in random order, captions drawn, pictures augmented. Otherwise in
    /// order, with fixed captions and plain pictures.
    pub training: bool,
    /// In training, a field that no two records of a batch share: in contrastive learning another
    /// picture of the same thing would count as a wrong answer.
    pub unique: Option<String>,
    /// What to do with records that lack something.
    pub bad: BadRecords,
    /// Decoded pictures are kept up to this many bytes; others are decoded again at each use.
    pub cache: usize,
}

impl Default for BatchOptions {
    fn default() -> Self {
        Self {
            batch: 128,
            seed: 0,
            training: true,
            unique: None,
            bad: BadRecords::Skip,
            cache: 1 << 30,
        }
    }
}

/// The tensors of one step.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// The step that it was made for.
    pub step: u64,
    /// The records of its rows, as indices into [`Batches::records`]. Outside training the last
    /// batch may have more rows than records: the rows after them repeat the first records.
    pub indices: Vec<usize>,
    /// One tensor for each column, or several.
    pub tensors: BTreeMap<String, HostTensor>,
    /// What stands at each place of a conversation, rows first.
    pub places: Option<Places>,
}

/// Every batch of a data set, each of which can be made at any time.
#[derive(Debug)]
pub struct Batches {
    records: Vec<Record>,
    skipped: Vec<DataError>,
    columns: BTreeMap<String, Column>,
    /// For every image column, the decoded picture of every record that fits the cache.
    pictures: BTreeMap<String, Vec<Option<Picture>>>,
    options: BatchOptions,
    order: Order,
    /// The order of the epoch that was asked for last.
    epoch: Mutex<Option<(u64, Arc<Vec<usize>>)>>,
}

impl Batches {
    /// Checks every record against the columns: pictures are decoded, captions looked for.
    ///
    /// # Errors
    /// For options that mean nothing, for too few records, and with [`BadRecords::Refuse`] for the
    /// first record that lacks something.
    pub fn new(
        found: Records,
        columns: BTreeMap<String, Column>,
        options: BatchOptions,
    ) -> Result<Self, DataError> {
        if options.batch == 0 {
            return Err(DataError::Option(
                "a batch must have at least one row".into(),
            ));
        }
        let Records {
            mut records,
            mut skipped,
        } = found;
        if let (false, Some(talk)) = (options.training, conversation(&columns)) {
            records = talk.each_turn(records);
        }
        let mut pictures = BTreeMap::new();
        for (name, column) in &columns {
            let faults = match column {
                Column::Text(text) => records
                    .iter()
                    .map(|it| text.caption.fixed(&it.fields).err())
                    .collect(),
                Column::Patches(_) => vec![None; records.len()],
                Column::Conversation(talk) => records.iter().map(|it| talk.fault(it)).collect(),
                Column::Image(transform) => {
                    transform.verify()?;
                    let (decoded, faults) = decode_all(&records, transform, options.cache);
                    pictures.insert(name.clone(), decoded);
                    faults
                }
            };
            drop_bad(
                &mut records,
                &mut pictures,
                faults,
                options.bad,
                &mut skipped,
            )?;
        }
        let order = make_order(&records, &options)?;
        let epoch = Mutex::new(None);
        Ok(Self {
            records,
            skipped,
            columns,
            pictures,
            options,
            order,
            epoch,
        })
    }

    /// The usable records; a batch's indices point here.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// Rows of a batch.
    pub fn rows_of_a_batch(&self) -> usize {
        self.options.batch
    }

    /// How words become tokens, with the name of the tensor.
    pub fn text(&self) -> Option<(&str, &TextColumn)> {
        self.columns.iter().find_map(|(name, column)| match column {
            Column::Text(text) => Some((name.as_str(), text)),
            Column::Image(_) | Column::Patches(_) | Column::Conversation(_) => None,
        })
    }

    /// How turns become tokens.
    pub fn conversation(&self) -> Option<&Conversation> {
        conversation(&self.columns)
    }

    /// What had to be cut of what records say, each with a count.
    pub fn cut(&self) -> Vec<String> {
        let talk = self.conversation();
        talk.map_or_else(Vec::new, |talk| {
            talk.cut(&self.records, self.options.training)
        })
    }

    /// The fixed caption of a record, or its key where there are no captions.
    pub fn caption(&self, record: &Record) -> String {
        let caption = self
            .text()
            .map(|(_, text)| text.caption.fixed(&record.fields));
        match caption {
            Some(Ok(caption)) => caption,
            None if self.conversation().is_some() => self
                .conversation()
                .map_or_else(String::new, |talk| talk.told(record)),
            _ => record.key.clone(),
        }
    }

    /// One error for each record that was left out.
    pub fn skipped(&self) -> &[DataError] {
        &self.skipped
    }

    /// How many batches an epoch has.
    pub fn per_epoch(&self) -> u64 {
        match self.options.training {
            true => self.order.batches as u64,
            false => self.records.len().div_ceil(self.options.batch) as u64,
        }
    }

    /// Makes the batch of a step. Steps go on after the end of an epoch.
    ///
    /// # Errors
    /// If a picture's file has changed since it was checked, or a caption gives no tokens.
    pub fn at(&self, step: u64) -> Result<Batch, DataError> {
        let (indices, rows) = self.rows(step);
        let rows = Rows {
            step,
            records: &rows,
        };
        let mut tensors = BTreeMap::new();
        let mut places = None;
        for (name, column) in &self.columns {
            match column {
                Column::Conversation(talk) => {
                    places = Some(self.turns(talk, rows, &mut tensors)?);
                }
                Column::Image(transform) => {
                    tensors.insert(name.clone(), self.images(name, transform, rows)?);
                }
                Column::Patches(mask) => {
                    tensors.insert(name.clone(), self.patches(mask, rows));
                }
                Column::Text(text) => self.texts(name, text, rows, &mut tensors)?,
            }
        }
        Ok(Batch {
            step,
            indices,
            tensors,
            places,
        })
    }

    /// Every tensor of the rows' conversations.
    fn turns(
        &self,
        talk: &Conversation,
        rows: Rows,
        tensors: &mut BTreeMap<String, HostTensor>,
    ) -> Result<Places, DataError> {
        let count = self.records.len();
        let lines = rows.records.iter().enumerate().map(|(row, index)| {
            let record = &self.records[*index];
            let random = self.random(rows, row, Draw::Turns);
            let random = self.options.training.then_some(random);
            // Half of all records away is another picture.
            let other = &self.records[(index + count / 2) % count];
            let line = talk.line(record, other, random);
            line.map_err(|cause| bad_record(record, cause))
        });
        let lines = lines.collect::<Result<Vec<_>, _>>()?;
        Ok(talk.tensors(&lines, tensors))
    }

    /// What decides a draw for a row. Outside training the same record always has the same.
    fn random(&self, rows: Rows, row: usize, draw: Draw) -> Random {
        let place = match self.options.training {
            true => [rows.step, row as u64, draw as u64],
            false => [FIXED, rows.records[row] as u64, draw as u64],
        };
        Random::at(self.options.seed, &place)
    }

    /// The records of a step, and the same filled up to a whole batch.
    fn rows(&self, step: u64) -> (Vec<usize>, Vec<usize>) {
        let (epoch, place) = (step / self.per_epoch(), (step % self.per_epoch()) as usize);
        let batch = self.options.batch;
        if self.options.training {
            let indices = self.epoch(epoch)[place * batch..(place + 1) * batch].to_vec();
            return (indices.clone(), indices);
        }
        let count = self.records.len();
        let rows = (place * batch..(place + 1) * batch)
            .map(|it| it % count)
            .collect();
        (
            (place * batch..count.min((place + 1) * batch)).collect(),
            rows,
        )
    }

    fn epoch(&self, epoch: u64) -> Arc<Vec<usize>> {
        // The memory is only a shortcut: what a panicked holder left in it is still right.
        let mut memory = self.epoch.lock().unwrap_or_else(PoisonError::into_inner);
        match &*memory {
            Some((known, order)) if *known == epoch => order.clone(),
            _ => {
                let order = Arc::new(self.order.epoch(self.options.seed, epoch));
                *memory = Some((epoch, order.clone()));
                order
            }
        }
    }

    fn images(
        &self,
        name: &str,
        transform: &ImageTransform,
        rows: Rows,
    ) -> Result<HostTensor, DataError> {
        let size = transform.size;
        let mut data = Vec::with_capacity(rows.records.len() * size * size * 3);
        for (row, index) in rows.records.iter().enumerate() {
            let mut random = self.options.training.then(|| {
                let mut random = self.random(rows, row, Draw::Picture);
                match transform.variants {
                    // Whatever the seed: so what is known of a form is of use to other runs.
                    Some(count) => {
                        let form = random.below(usize::try_from(count).unwrap_or(usize::MAX));
                        Random::at(0, &[VARIANT, *index as u64, form as u64])
                    }
                    None => random,
                }
            });
            let known = self
                .pictures
                .get(name)
                .and_then(|it| it.get(*index)?.as_ref());
            match known {
                Some(picture) => transform.append(picture, random.as_mut(), &mut data),
                None => {
                    let picture = decode(&self.records[*index], transform)
                        .map_err(|cause| bad_record(&self.records[*index], cause))?;
                    transform.append(&picture, random.as_mut(), &mut data);
                }
            }
        }
        Ok(HostTensor {
            shape: vec![rows.records.len(), size, size, 3],
            data: HostData::F32(data),
        })
    }

    fn patches(&self, mask: &BlockMask, rows: Rows) -> HostTensor {
        let count = rows.records.len();
        let drawn =
            (0..count).flat_map(|row| mask.draw(&mut self.random(rows, row, Draw::Patches)));
        HostTensor {
            shape: vec![count, mask.grid * mask.grid],
            data: HostData::U32(drawn.map(u32::from).collect()),
        }
    }

    /// The tokens, and what else is asked for about them.
    fn texts(
        &self,
        name: &str,
        column: &TextColumn,
        rows: Rows,
        tensors: &mut BTreeMap<String, HostTensor>,
    ) -> Result<(), DataError> {
        let (length, pad) = (column.tokenize.length(), column.tokenize.pad());
        let mut filled = Filled::default();
        for row in 0..rows.records.len() {
            let (index, matched) = self.text_of(column, rows, row);
            let record = &self.records[index];
            let text = match self.options.training {
                true => column
                    .caption
                    .draw(&record.fields, &mut self.random(rows, row, Draw::Caption)),
                false => column.caption.fixed(&record.fields),
            };
            let pieces = text.and_then(|text| column.tokenize.pieces(&text));
            let pieces = pieces.map_err(|cause| bad_record(record, cause))?;
            if let Some(hidden) = &column.hidden {
                let mut random = self.random(rows, row, Draw::Tokens);
                let (read, places) = hidden.rule.draw(&pieces, &mut random);
                fill(&mut filled.read, read, length, pad);
                fill(
                    &mut filled.hidden,
                    places.into_iter().map(u32::from),
                    length,
                    0,
                );
            }
            fill(&mut filled.shown, pieces.ids.iter().map(|_| 1), length, 0);
            fill(&mut filled.ids, pieces.ids, length, pad);
            filled.matched.push(u32::from(matched));
        }
        let count = rows.records.len();
        let mut put = |name: Option<&String>, shape: &[usize], data: Vec<u32>| {
            if let Some(name) = name {
                let (shape, data) = (shape.to_vec(), HostData::U32(data));
                tensors.insert(name.clone(), HostTensor { shape, data });
            }
        };
        let hidden = column.hidden.as_ref();
        put(Some(&name.to_owned()), &[count, length], filled.ids);
        put(column.mask.as_ref(), &[count, length], filled.shown);
        let name = hidden.and_then(|it| it.text.as_ref());
        put(name, &[count, length], filled.read);
        let name = hidden.and_then(|it| it.tokens.as_ref());
        put(name, &[count, length], filled.hidden);
        put(column.matched.as_ref(), &[count], filled.matched);
        Ok(())
    }

    /// The record whose text a row gets, and whether it is the row's own.
    fn text_of(&self, column: &TextColumn, rows: Rows, row: usize) -> (usize, bool) {
        let own = rows.records[row];
        if !self.options.training || column.mismatch == 0.0 {
            return (own, true);
        }
        let mut random = self.random(rows, row, Draw::Mismatch);
        if f64::from(random.unit()) >= column.mismatch {
            return (own, true);
        }
        let mut others = (0..OTHERS).map(|_| random.below(self.records.len()));
        match others.find(|other| self.differ(column, own, *other)) {
            Some(other) => (other, false),
            None => (own, true),
        }
    }

    /// Whether two records are of different things: told by the field that no batch holds twice, or
    /// else by their captions.
    fn differ(&self, column: &TextColumn, a: usize, b: usize) -> bool {
        let (a, b) = (&self.records[a].fields, &self.records[b].fields);
        let field = self.options.unique.as_ref();
        match field.and_then(|field| Some((a.get(field)?, b.get(field)?))) {
            Some((a, b)) => a != b,
            None => column.caption.fixed(a).ok() != column.caption.fixed(b).ok(),
        }
    }
}

fn conversation(columns: &BTreeMap<String, Column>) -> Option<&Conversation> {
    columns.values().find_map(|column| match column {
        Column::Conversation(talk) => Some(talk.as_ref()),
        Column::Image(_) | Column::Patches(_) | Column::Text(_) => None,
    })
}

/// The records of the rows of a step.
#[derive(Clone, Copy)]
struct Rows<'a> {
    step: u64,
    records: &'a [usize],
}

/// Rows of texts so far.
#[derive(Default)]
struct Filled {
    ids: Vec<u32>,
    shown: Vec<u32>,
    read: Vec<u32>,
    hidden: Vec<u32>,
    matched: Vec<u32>,
}

/// Appends a row of this length.
fn fill(rows: &mut Vec<u32>, values: impl IntoIterator<Item = u32>, length: usize, pad: u32) {
    let end = rows.len() + length;
    rows.extend(values.into_iter().take(length));
    rows.resize(end, pad);
}

fn make_order(records: &[Record], options: &BatchOptions) -> Result<Order, DataError> {
    if !options.training {
        // Evaluation repeats records to fill its last batch, so one is enough.
        return Order::new(records.len(), None, 1);
    }
    let labels = options.unique.as_deref().map(|field| {
        // Records without the field are told apart by their keys.
        let label = |record: &Record| match record.fields.get(field) {
            Some(Value::String(text)) => text.clone(),
            Some(value) => value.to_string(),
            None => format!("{}\n{}", record.file.display(), record.key),
        };
        (field, records.iter().map(label).collect())
    });
    Order::new(records.len(), labels, options.batch)
}

/// Decodes every picture once, on all processors, and keeps as many as the cache holds.
fn decode_all(
    records: &[Record],
    transform: &ImageTransform,
    cache: usize,
) -> (Vec<Option<Picture>>, Vec<Option<RecordFault>>) {
    let kept = cache / (transform.size * transform.size * 4);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let share = records.len().div_ceil(threads).max(1);
    let work = |(number, records): (usize, &[Record])| {
        let places = number * share..;
        let decode = |(place, record)| match decode(record, transform) {
            Ok(picture) => ((place < kept).then_some(picture), None),
            Err(fault) => (None, Some(fault)),
        };
        places.zip(records).map(decode).collect::<Vec<_>>()
    };
    std::thread::scope(|scope| {
        let chunks = records.chunks(share).enumerate();
        let workers: Vec<_> = chunks
            .map(|chunk| scope.spawn(move || work(chunk)))
            .collect();
        // A panic is handed on, as if there were no threads.
        let join = |worker: std::thread::ScopedJoinHandle<'_, Vec<_>>| match worker.join() {
            Ok(found) => found,
            Err(payload) => std::panic::resume_unwind(payload),
        };
        workers.into_iter().flat_map(join).unzip()
    })
}

fn decode(record: &Record, transform: &ImageTransform) -> Result<Picture, RecordFault> {
    let blob = record.image.as_ref().ok_or(RecordFault::NoImage)?;
    let bytes = blob
        .bytes()
        .map_err(|it| RecordFault::MissingFile(format!("({it})")))?;
    transform.decode(&bytes)
}

/// Takes records with a fault out of everything that is indexed by record.
fn drop_bad(
    records: &mut Vec<Record>,
    pictures: &mut BTreeMap<String, Vec<Option<Picture>>>,
    faults: Vec<Option<RecordFault>>,
    bad: BadRecords,
    skipped: &mut Vec<DataError>,
) -> Result<(), DataError> {
    let good: Vec<bool> = faults.iter().map(Option::is_none).collect();
    let found = records.iter().zip(faults);
    let mut errors = found.filter_map(|(record, fault)| Some(bad_record(record, fault?)));
    if bad == BadRecords::Refuse
        && let Some(error) = errors.next()
    {
        return Err(error);
    }
    skipped.extend(errors);
    retain(records, &good);
    pictures.values_mut().for_each(|it| retain(it, &good));
    Ok(())
}

fn retain<T>(items: &mut Vec<T>, good: &[bool]) {
    let mut good = good.iter();
    items.retain(|_| good.next().copied().unwrap_or(true));
}

fn bad_record(record: &Record, cause: RecordFault) -> DataError {
    DataError::BadRecord {
        file: record.file.clone(),
        key: record.key.clone(),
        cause,
    }
}

#[cfg(test)]
pub(super) mod tests;
