//! The rows of `events`, hour by hour, in the order of their positions: beside the log, as it is scanned.
//!
//! The rule: every row is handed out once, and only pages of it are in memory: one open file an hour, and of no more than
//! [`MAX_OPEN`] hours at a time.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use tallylight_proto::Front;
use tallylight_proto::time::Hour;

use crate::events::Events;
use crate::parquet_file::{self, Batches, FileError};

/// How many hours' files are open at a time. Events of one day fall in hardly more than the 169 hours of 7 days.
const MAX_OPEN: usize = 200;
const BATCH_ROWS: usize = 2048;

/// One row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// The position of its record.
    pub position: u64,
    /// A crawler's.
    pub is_bot: bool,
    /// The door; none if it is no known one.
    pub front: Option<Front>,
    /// What its client says to have given up.
    pub lost: u64,
}

/// All rows of a node.
pub struct Rows {
    hours: BTreeMap<Hour, HourRows>,
    /// The open ones, the one used last at the end.
    open: VecDeque<Hour>,
    parts: usize,
}

#[derive(Default)]
struct HourRows {
    /// Those not read to their ends, the first may be open.
    parts: VecDeque<PathBuf>,
    /// Rows of the first part that were handed out.
    taken: usize,
    reader: Option<Batches>,
    batch: Option<RecordBatch>,
    /// Rows of the batch that were handed out.
    of_batch: usize,
    next: Option<Row>,
    /// Up to where the parts cover the hour.
    covered: u64,
}

impl Rows {
    /// No row at all.
    pub fn none() -> Self {
        Self { hours: BTreeMap::new(), open: VecDeque::new(), parts: 0 }
    }

    /// All that there are now.
    pub fn list(events: &Events) -> Result<Self, FileError> {
        let mut rows = Self::none();
        for hour in events.hours_from(Hour(i64::MIN))? {
            let parts: VecDeque<PathBuf> = events.parts(hour)?.into();
            let Some(newest) = parts.back() else { continue };
            let covered = parquet_file::covered_position(newest, &parquet_file::footer(newest)?)?;
            rows.parts += parts.len();
            rows.hours.insert(hour, HourRows { parts, covered, ..HourRows::default() });
        }
        Ok(rows)
    }

    /// How many files there are.
    pub fn parts(&self) -> usize {
        self.parts
    }

    /// Up to where an hour's rows are published.
    pub fn covered(&self, hour: Hour) -> u64 {
        self.hours.get(&hour).map_or(0, |rows| rows.covered)
    }

    /// The row of this position, after `skipped` was told of those of its hour below.
    pub fn take(&mut self, hour: Hour, position: u64, mut skipped: impl FnMut(Row)) -> Result<Option<Row>, FileError> {
        let Some(rows) = self.hours.get_mut(&hour) else { return Ok(None) };
        let found = loop {
            match rows.peek()? {
                Some(row) if row.position < position => skipped(row),
                Some(row) if row.position == position => break Some(row),
                _ => break None,
            }
            rows.next = None;
        };
        if found.is_some() {
            rows.next = None;
        }
        if self.open.back() != Some(&hour) {
            self.open.retain(|open| *open != hour);
            self.open.push_back(hour);
        }
        while self.open.len() > MAX_OPEN {
            if let Some(rows) = self.open.pop_front().and_then(|hour| self.hours.get_mut(&hour)) {
                rows.close();
            }
        }
        Ok(found)
    }

    /// All that are left.
    pub fn drain(&mut self, mut each: impl FnMut(Hour, Row)) -> Result<(), FileError> {
        for (hour, rows) in &mut self.hours {
            while let Some(row) = rows.peek()? {
                each(*hour, row);
                rows.next = None;
            }
        }
        Ok(())
    }
}

impl HourRows {
    fn peek(&mut self) -> Result<Option<Row>, FileError> {
        while self.next.is_none() {
            if let Some(batch) = self.batch.as_ref().filter(|batch| self.of_batch < batch.num_rows()) {
                let path = &self.parts[0];
                let foreign = || FileError::Foreign { path: path.clone(), what: "other columns" };
                self.next = Some(row(batch, self.of_batch).ok_or_else(foreign)?);
                self.of_batch += 1;
                self.taken += 1;
                continue;
            }
            let Some(path) = self.parts.front() else { return Ok(None) };
            let reader = match &mut self.reader {
                Some(reader) => reader,
                None => {
                    let columns = parquet_file::columns(path, &["position", "front", "lost", "bot"])?;
                    let columns = columns.with_batch_size(BATCH_ROWS).with_offset(self.taken);
                    self.reader.insert(Batches::new(path, columns)?)
                }
            };
            match reader.next() {
                Some(batch) => {
                    self.batch = Some(batch?);
                    self.of_batch = 0;
                }
                None => {
                    (self.reader, self.batch, self.taken) = (None, None, 0);
                    self.parts.pop_front();
                }
            }
        }
        Ok(self.next)
    }

    /// Lets go of the file; what was not handed out of it is read again.
    fn close(&mut self) {
        self.taken -= usize::from(self.next.take().is_some());
        (self.reader, self.batch, self.of_batch) = (None, None, 0);
    }
}

fn row(batch: &RecordBatch, row: usize) -> Option<Row> {
    let number = |name: &str| {
        let column = batch.column_by_name(name)?.as_primitive_opt::<Int64Type>()?;
        u64::try_from(column.value(row)).ok()
    };
    let front = batch.column_by_name("front")?.as_string_opt::<i32>()?.value(row);
    Some(Row {
        position: number("position")?,
        is_bot: batch.column_by_name("bot")?.as_boolean_opt()?.value(row),
        front: Front::ALL.into_iter().find(|known| known.label() == front),
        lost: number("lost")?,
    })
}
