//! Makes the id index again from what was published.
//!
//! The rule: the rows of `events` below the commit and the log above it are all events there are, so the index made
//! of them judges as the lost one did.

use std::path::Path;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int64Type, TimestampMillisecondType};
use arrow_array::{Array, RecordBatch};
use bytes::Bytes;
use parquet::arrow::ProjectionMask;
use tallylight_proto::time::{DAY_MS, Hour, MAX_AGE_MS, Millis};
use tallylight_service::Watchdog;
use uuid::Uuid;

use crate::compaction::CompactError;
use crate::events::Events;
use crate::index::{Index, Limits};
use crate::parquet_file::{self, Batches, FileError};
use crate::storage;

/// Begins the index anew with the events that are published and were received within the last 8 days of log time.
/// It then is one through this position.
pub fn rebuild(
    folder: &Path,
    limits: Limits,
    events: &Events,
    log_time: Millis,
    through: u64,
    watchdog: &Watchdog,
) -> Result<Index, CompactError> {
    let mut index = Index::reset(folder, limits)?;
    // a day more than is needed, as the index itself does
    let received_from = log_time.saturating_sub(MAX_AGE_MS + DAY_MS);
    let mut copies = 0_u64;
    // an event may have been up to 7 days old when it was received
    for hour in events.hours_from(Hour::of(received_from.saturating_sub(MAX_AGE_MS)))? {
        for part in events.parts(hour)? {
            watchdog.feed();
            copies += insert_part(&mut index, &part, received_from)?;
        }
    }
    index.flush(through)?;
    tracing::info!(copies, "the id index is rebuilt");
    Ok(index)
}

fn insert_part(index: &mut Index, path: &Path, received_from: Millis) -> Result<u64, CompactError> {
    let bytes = Bytes::from(storage::read(path)?);
    let builder = parquet_file::open(path, bytes)?;
    let columns = ["id", "position", "received_at"];
    let projection = ProjectionMask::columns(builder.parquet_schema(), columns);
    let mut copies = 0;
    for batch in Batches::new(path, builder.with_projection(projection))? {
        let inserted = insert_batch(index, &batch?, received_from);
        copies += inserted.ok_or_else(|| FileError::Foreign { path: path.to_owned(), what: "other columns" })??;
    }
    Ok(copies)
}

/// Nothing if the columns are not those of events.
fn insert_batch(index: &mut Index, batch: &RecordBatch, received_from: Millis) -> Option<Result<u64, CompactError>> {
    let ids = batch.column_by_name("id")?.as_fixed_size_binary_opt()?;
    let positions = batch.column_by_name("position")?.as_primitive_opt::<Int64Type>()?;
    let times = batch.column_by_name("received_at")?.as_primitive_opt::<TimestampMillisecondType>()?;
    let mut copies = 0;
    for row in (0..ids.len()).filter(|row| times.value(*row) >= received_from) {
        let id = Uuid::from_slice(ids.value(row)).ok()?;
        let position = u64::try_from(positions.value(row)).ok()?;
        if let Err(error) = index.insert(id, position, times.value(row)) {
            return Some(Err(error.into()));
        }
        copies += 1;
    }
    Some(Ok(copies))
}
