//! Records into batches of named tensors.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;

use crate::tensor::{HostData, HostTensor};

use super::caption::Caption;
use super::error::{BadRecords, DataError, RecordFault};
use super::image::{ImageTransform, Picture};
use super::order::Order;
use super::random::Random;
use super::source::{Record, Records};
use super::tokenize::Tokenize;

/// How records become one tensor of a batch.
#[derive(Clone, Debug)]
pub enum Column {
    /// `f32[B, size, size, 3]`.
    Image(ImageTransform),
    /// `u32[B, length]`.
    Text(TextColumn),
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
}

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
    /// One tensor for each column.
    pub tensors: BTreeMap<String, HostTensor>,
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
        let mut pictures = BTreeMap::new();
        for (name, column) in &columns {
            let faults = match column {
                Column::Text(text) => records
                    .iter()
                    .map(|it| text.caption.fixed(&it.fields).err())
                    .collect(),
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
            Column::Image(_) => None,
        })
    }

    /// The fixed caption of a record, or its key where there are no captions.
    pub fn caption(&self, record: &Record) -> String {
        let caption = self
            .text()
            .map(|(_, text)| text.caption.fixed(&record.fields));
        match caption {
            Some(Ok(caption)) => caption,
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
        let mut tensors = BTreeMap::new();
        for (number, (name, column)) in (0..).zip(&self.columns) {
            let random = |row: usize| {
                let place = [step, row as u64, number];
                self.options
                    .training
                    .then(|| Random::at(self.options.seed, &place))
            };
            let tensor = match column {
                Column::Image(transform) => self.images(name, transform, &rows, random)?,
                Column::Text(text) => {
                    let (tokens, mask) = self.texts(text, &rows, random)?;
                    tensors.extend(text.mask.clone().map(|name| (name, mask)));
                    tokens
                }
            };
            tensors.insert(name.clone(), tensor);
        }
        Ok(Batch {
            step,
            indices,
            tensors,
        })
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
        rows: &[usize],
        random: impl Fn(usize) -> Option<Random>,
    ) -> Result<HostTensor, DataError> {
        let size = transform.size;
        let mut data = Vec::with_capacity(rows.len() * size * size * 3);
        for (row, index) in rows.iter().enumerate() {
            let mut random = random(row);
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
            shape: vec![rows.len(), size, size, 3],
            data: HostData::F32(data),
        })
    }

    /// Tokens and which of them are not padding.
    fn texts(
        &self,
        column: &TextColumn,
        rows: &[usize],
        random: impl Fn(usize) -> Option<Random>,
    ) -> Result<(HostTensor, HostTensor), DataError> {
        let TextColumn {
            caption, tokenize, ..
        } = column;
        let length = tokenize.length();
        let mut data = Vec::with_capacity(rows.len() * length);
        let mut mask = Vec::with_capacity(rows.len() * length);
        for (row, index) in rows.iter().enumerate() {
            let record = &self.records[*index];
            let text = match random(row) {
                Some(mut random) => caption.draw(&record.fields, &mut random),
                None => caption.fixed(&record.fields),
            };
            let tokens = text.and_then(|text| tokenize.append(&text, &mut data));
            let tokens = tokens.map_err(|cause| bad_record(record, cause))?;
            mask.extend((0..length).map(|place| u32::from(place < tokens)));
        }
        let tensor = |data| HostTensor {
            shape: vec![rows.len(), length],
            data: HostData::U32(data),
        };
        Ok((tensor(data), tensor(mask)))
    }
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
