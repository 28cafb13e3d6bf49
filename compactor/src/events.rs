//! The compacted log: every event once, in log order, as parts of an hour.
//!
//! The rule: **a part is immutable, and the parts of an hour follow each other.** A part is named by the
//! position of its first record and its footer says the position behind its last; the newest says how far
//! the hour's events are published.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_schema::{DataType, Field, Fields, Schema, TimeUnit};
use parquet::schema::types::SchemaDescPtr;
use tallylight_proto::layout;
use tallylight_proto::time::Hour;

use crate::batch::Taken;
use crate::chunk::{Chunk, Encoder};
use crate::hourly::sweep;
use crate::parquet_file::{self, FileError, Writer};
use crate::rows::{Rows, TEXTS};
use crate::side_by_side::in_order;
use crate::storage::{self, StorageError};

const ID_LEN: i32 = 16;
/// So many rows are worth starting threads for.
const MUCH: usize = 4096;

/// Events of an hour that are not in a part yet.
#[derive(Default)]
pub struct Pending {
    rows: Rows,
    /// The position of the first row's record.
    first: Option<u64>,
    /// The position behind the last row's record.
    end: u64,
}

impl Pending {
    /// Adds events.
    pub fn push_all(&mut self, events: &[&Taken<'_>]) {
        let (Some(first), Some(last)) = (events.first(), events.last()) else { return };
        self.first.get_or_insert(first.position);
        self.end = last.end;
        self.rows.push_all(events);
    }

    /// How much memory waits, about.
    pub fn bytes(&self) -> usize {
        self.rows.memory()
    }

    /// The position of the first row's record.
    pub fn first_position(&self) -> Option<u64> {
        self.first
    }

    /// The position behind the last row's record.
    pub fn end(&self) -> u64 {
        self.end
    }
}

/// Where the events of a node lie.
#[derive(Clone, Debug)]
pub struct Events {
    out: PathBuf,
    node: String,
    schema: SchemaDescPtr,
}

impl Events {
    /// Those of a node, under `OUT`.
    pub fn new(out: &Path, node: &str) -> Self {
        Self { out: out.join(layout::EVENTS), node: node.to_owned(), schema: parquet_file::schema(&schema()) }
    }

    /// Writes parts, each with at least one row, in this order and after `before`, while they are encoded on all processors.
    pub fn write<E>(
        &self,
        parts: &[(Hour, Pending)],
        before: impl FnOnce() -> Result<(), E>,
        because: impl Fn(FileError) -> E,
    ) -> Result<(), E> {
        let columns = self.schema.num_columns();
        let is_much = parts.iter().map(|(_, pending)| pending.rows.len()).sum::<usize>() >= MUCH;
        let jobs = parts.iter().flat_map(|part| {
            let (_, Pending { rows, .. }) = part;
            let mut largest_first: Vec<usize> = (0..columns).collect();
            // or all would wait for the last one
            largest_first.sort_by_key(|column| Reverse(rows.text_bytes(*column)));
            largest_first.into_iter().map(move |column| Ok((rows, column)))
        });
        let mut chunks = BTreeMap::new();
        let mut unwritten = parts.iter();
        let encode = |encoder: &mut Encoder, (rows, column): (&Rows, usize)| {
            (column, rows.column(&self.schema, column, encoder))
        };
        in_order(is_much, jobs, encode, before, |(column, chunk)| {
            chunks.insert(column, chunk);
            if chunks.len() == columns {
                let (hour, pending) = unwritten.next().expect("a part for each columns");
                let chunks = std::mem::take(&mut chunks).into_values().collect();
                return self.write_part(*hour, pending, chunks).map_err(&because);
            }
            Ok(())
        })
    }

    fn write_part(&self, hour: Hour, pending: &Pending, chunks: Vec<Chunk>) -> Result<(), FileError> {
        let first = pending.first_position().expect("a part has rows");
        let folder = self.out.join(layout::hour_folder(hour));
        storage::create_dir_all(&folder)?;
        let path = folder.join(layout::events_part(&self.node, first));
        let mut writer = Writer::create(&path, &self.schema, parquet_file::properties().build())?;
        writer.write(chunks)?;
        let covered = (parquet_file::COVERED_POSITION, pending.end.to_string());
        writer.commit([(parquet_file::NODE, self.node.clone()), covered])
    }

    /// The position up to which an hour's events are published.
    pub fn covered(&self, hour: Hour) -> Result<u64, FileError> {
        let Some(newest) = self.parts(hour)?.pop() else { return Ok(0) };
        parquet_file::covered_position(&newest, &parquet_file::footer(&newest)?)
    }

    /// The parts of an hour, in log order.
    pub fn parts(&self, hour: Hour) -> Result<Vec<PathBuf>, StorageError> {
        let folder = self.out.join(layout::hour_folder(hour));
        let names = match storage::list(&folder) {
            Err(error) if error.is_not_found() => return Ok(Vec::new()),
            names => names?,
        };
        let is_part = |name: &&std::ffi::OsString| {
            name.to_str().is_some_and(|name| layout::events_part_position(&self.node, name).is_some())
        };
        Ok(names.iter().filter(is_part).map(|name| folder.join(name)).collect())
    }

    /// The hours that have a folder, from this one on.
    pub fn hours_from(&self, first: Hour) -> Result<Vec<Hour>, StorageError> {
        hours_from(&self.out, first)
    }

    /// Up to where there are rows, at least this position: parts that begin beyond it are looked for in hours from
    /// this one on.
    pub fn covered_beyond(&self, position: u64, first: Hour) -> Result<u64, FileError> {
        let mut covered = position;
        for hour in self.hours_from(first)? {
            let parts = self.parts(hour)?;
            let name = |path: &PathBuf| path.file_name().map(|name| name.to_string_lossy().into_owned());
            let last = parts.last().and_then(|path| layout::events_part_position(&self.node, &name(path)?));
            if last.is_some_and(|begin| begin >= position) {
                covered = covered.max(self.covered(hour)?);
            }
        }
        Ok(covered)
    }

    /// Removes what a crash left half written.
    pub fn sweep(&self) -> Result<(), StorageError> {
        sweep(&self.out, |name| layout::events_part_position(&self.node, name).is_some())
    }
}

/// The hours that have a folder in a table, from this one on.
pub(crate) fn hours_from(table: &Path, first: Hour) -> Result<Vec<Hour>, StorageError> {
    let list = |folder: &Path| match storage::list(folder) {
        Err(error) if error.is_not_found() || error.source.kind() == std::io::ErrorKind::NotADirectory => {
            Ok(Vec::new())
        }
        listed => listed,
    };
    let mut hours = Vec::new();
    for date in list(table)? {
        let date = table.join(date);
        let of_day = list(&date)?.into_iter().filter_map(|hour| layout::hour_of_folder(&date.join(hour)));
        hours.extend(of_day.filter(|hour| *hour >= first));
    }
    Ok(hours)
}

fn time() -> DataType {
    DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()))
}

/// The columns of the compacted log.
pub fn schema() -> Schema {
    let mut fields = vec![
        Field::new("id", DataType::FixedSizeBinary(ID_LEN), false),
        Field::new("position", DataType::Int64, false),
        Field::new("event_at", time(), false),
        Field::new("received_at", time(), false),
    ];
    fields.extend(TEXTS.map(|name| Field::new(name, DataType::Utf8, false)));
    // named as the Parquet format wants it, which Spark insists on
    let pair = Fields::from(vec![Field::new("key", DataType::Utf8, false), Field::new("value", DataType::Utf8, false)]);
    let pairs = Field::new("key_value", DataType::Struct(pair), false);
    fields.extend([
        Field::new("value", DataType::Float64, true),
        Field::new("lost", DataType::Int64, false),
        Field::new("bot", DataType::Boolean, false),
        Field::new("props", DataType::Map(Arc::new(pairs), false), false),
    ]);
    Schema::new(fields)
}
