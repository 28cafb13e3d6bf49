//! What the hourly files say, added up.

use std::collections::BTreeMap;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use tallylight_proto::time::Hour;

use crate::hourly::Hourly;
use crate::parquet_file::{self, Batches, FileError};

/// The measures of one hour, or of all, that add up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    /// Counted events.
    pub events: u64,
    /// Crawlers' events.
    pub bots: u64,
    /// Copies.
    pub duplicates: u64,
    /// Events that clients gave up.
    pub client_lost: u64,
    /// Up to where the file covers its hour.
    pub covered: u64,
}

/// All hourly files of a node. A running compactor may replace one at any time, each of them whole.
pub fn hourly(hourly: &Hourly) -> Result<BTreeMap<Hour, Measured>, FileError> {
    let mut hours = BTreeMap::new();
    for hour in hourly.hours()? {
        match measured(hourly, hour) {
            Ok(measured) => drop(hours.insert(hour, measured)),
            // only other nodes have something of this hour
            Err(FileError::Storage(error)) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(hours)
}

fn measured(hourly: &Hourly, hour: Hour) -> Result<Measured, FileError> {
    let path = hourly.path(hour);
    let columns = parquet_file::columns(&path, &["events", "bot_events", "duplicates", "client_lost"])?;
    let covered = parquet_file::covered_position(&path, columns.metadata())?;
    let mut measured = Measured { covered, ..Measured::default() };
    for batch in Batches::new(&path, columns)? {
        let batch = batch?;
        let sum = |name: &str| -> Option<u64> {
            let column = batch.column_by_name(name)?.as_primitive_opt::<Int64Type>()?;
            column.values().iter().try_fold(0_u64, |sum, value| sum.checked_add(u64::try_from(*value).ok()?))
        };
        let sums = || Some([sum("events")?, sum("bot_events")?, sum("duplicates")?, sum("client_lost")?]);
        let [events, bots, duplicates, client_lost] =
            sums().ok_or_else(|| FileError::Foreign { path: path.clone(), what: "other columns, or below zero" })?;
        measured.add(&Measured { events, bots, duplicates, client_lost, covered });
    }
    Ok(measured)
}

impl Measured {
    /// Adds the measures of others.
    pub fn add(&mut self, other: &Self) {
        self.events += other.events;
        self.bots += other.bots;
        self.duplicates += other.duplicates;
        self.client_lost += other.client_lost;
    }
}
