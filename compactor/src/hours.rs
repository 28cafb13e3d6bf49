//! The hours that are being compacted: what was read of them and is not published yet.
//!
//! The rule: **each of an hour's two outputs skips the records that its own footer covers.** So a record may be
//! read again after a crash, as often as it must, and is published once. Where the commit says that an hour was
//! published further than its file now says, nothing is written: a partial hour is worse than none.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tallylight_host::clock;
use tallylight_proto::time::Hour;
use thiserror::Error;

use crate::batch::{Batch, Fate, Taken};
use crate::events::{Events, Pending};
use crate::groups::{By, Groups};
use crate::hourly::Hourly;
use crate::parquet_file::FileError;

/// How long late events and those of a quiet hour gather before they are published.
const GATHER: Duration = Duration::from_secs(600);

/// How much may be in memory.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Bytes of an hour's records that make a part of their own.
    pub part_bytes: usize,
    /// Bytes of records, over all hours, from which on all are published.
    pub pending_bytes: usize,
    /// Bytes of groups, over all hours, from which on hours are published and forgotten.
    pub group_bytes: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { part_bytes: 64 << 20, pending_bytes: 256 << 20, group_bytes: 320 << 20 }
    }
}

/// Why an hour cannot be compacted.
#[derive(Debug, Error)]
pub enum HourError {
    /// One of its files.
    #[error(transparent)]
    File(#[from] FileError),
    /// Its file is older than the commit, or gone.
    #[error(
        "{} covers its hour up to position {covered}, but was published up to {published}: put the file back; only \
         while the log still has all of that hour can it be made anew, by removing the output and the compactor's folder",
        path.display()
    )]
    Behind {
        /// The hourly file.
        path: PathBuf,
        /// What it covers; 0 if it is gone.
        covered: u64,
        /// What it covered when it was committed.
        published: u64,
    },
}

/// When which hours are published.
#[derive(Clone, Copy, Debug)]
pub struct Due {
    /// Hours before this one were complete already: they change by amendment.
    pub complete_before: Option<Hour>,
    /// Hours before this one are to be complete now.
    pub complete_now: Option<Hour>,
    /// Everything is due.
    pub all: bool,
}

/// One hour.
struct State {
    hour: Hour,
    /// Its groups; those of the file are not among them as long as it is not `whole`.
    groups: Groups,
    /// Whether all of its groups are in memory. An hour that is amended now and then needs its file only when it is
    /// published.
    whole: bool,
    /// Position behind the last record in `groups` and the file.
    grouped: u64,
    /// Position of the first record that is in `groups` and not in the hourly file.
    dirty_from: Option<u64>,
    pending: Pending,
    /// Position up to which its parts cover its events.
    events_covered: u64,
    /// Since when something of it waits.
    since: Option<Instant>,
}

/// All hours that something was read of.
pub struct Hours {
    hourly: Hourly,
    events: Events,
    states: Vec<State>,
    /// Places in `states`.
    places: HashMap<Hour, usize>,
    /// The one touched last: mostly the one touched next.
    last: Option<(Hour, usize)>,
    /// Up to where hours' files cover them, as committed and published since.
    published: BTreeMap<Hour, u64>,
    bounds: Bounds,
    /// Bytes that the groups of one hour may take: unlike the bounds it decides what is published.
    most_bytes: usize,
    /// Whether rows are published.
    rows: bool,
    group_bytes: usize,
    pending_bytes: usize,
}

impl Hours {
    /// No hour yet; `published` is what the commit says of them, `most_bytes` what the groups of one may take, `rows`
    /// whether events are published beside them.
    pub fn new(
        hourly: Hourly,
        events: Events,
        published: BTreeMap<Hour, u64>,
        bounds: Bounds,
        most_bytes: usize,
        rows: bool,
    ) -> Self {
        Self {
            bounds,
            most_bytes,
            rows,
            hourly,
            events,
            states: Vec::new(),
            places: HashMap::new(),
            last: None,
            published,
            group_bytes: 0,
            pending_bytes: 0,
        }
    }

    /// The place of an hour, whose files are asked if it was not there.
    pub fn place(&mut self, hour: Hour) -> Result<usize, HourError> {
        match self.last {
            Some((last, place)) if last == hour => Ok(place),
            _ => self.touch(hour),
        }
    }

    /// Takes events into the hours that were decided. Batches come in log order.
    pub fn take(&mut self, batch: &Batch) {
        for (place, events) in batch.by_hour() {
            let state = &mut self.states[place];
            let before = (state.groups.bytes(), state.pending.bytes());
            state.take(&events, self.hourly.by(), self.most_bytes, self.rows);
            self.group_bytes = self.group_bytes + state.groups.bytes() - before.0;
            self.pending_bytes = self.pending_bytes + state.pending.bytes() - before.1;
        }
    }

    /// Whether so much is in memory that it should be published before more is read.
    pub fn is_full(&self) -> bool {
        self.pending_bytes >= self.bounds.pending_bytes || self.group_bytes >= self.bounds.group_bytes
    }

    /// Publishes what is due: first events, then aggregates.
    pub fn publish(&mut self, due: Due) -> Result<(), HourError> {
        let all = due.all || self.is_full();
        // asked once for both outputs: time goes on between them
        let gathered: Vec<bool> = self.states.iter().map(|state| all || state.is_gathered(due, self.bounds)).collect();
        for (state, is_gathered) in self.states.iter_mut().zip(&gathered) {
            if state.pending.first_position().is_some() && *is_gathered {
                state.events_covered = state.pending.end();
                self.pending_bytes -= state.pending.bytes();
                self.events.write(state.hour, &std::mem::take(&mut state.pending))?;
            }
        }
        for (state, is_gathered) in self.states.iter_mut().zip(&gathered) {
            if state.dirty_from.is_some() && (*is_gathered || state.is_open(due)) {
                state.complete(&self.hourly, self.most_bytes)?;
                self.hourly.write(state.hour, &mut state.groups, state.grouped)?;
                self.published.insert(state.hour, state.grouped);
                state.dirty_from = None;
                if !state.is_open(due) {
                    // it is forgotten below; the next hour's may be large
                    state.groups = Groups::default();
                }
            }
            if state.unpublished_from().is_none() {
                state.since = None;
            }
        }
        self.forget(due);
        Ok(())
    }

    /// Forgets hours of which nothing waits: those that are complete, and when there is too much in memory all.
    fn forget(&mut self, due: Due) {
        let bytes = |states: &[State]| states.iter().map(|state| state.groups.bytes()).sum::<usize>();
        let is_full = bytes(&self.states) >= self.bounds.group_bytes;
        self.states.retain(|state| state.unpublished_from().is_some() || (state.is_open(due) && !is_full));
        self.places = self.states.iter().enumerate().map(|(place, state)| (state.hour, place)).collect();
        self.last = None;
        self.group_bytes = bytes(&self.states);
    }

    /// The position of the first record that is not in both outputs.
    pub fn unpublished_from(&self) -> Option<u64> {
        self.states.iter().filter_map(State::unpublished_from).min()
    }

    /// Up to where hours' files cover them, of those from this hour on.
    pub fn published_from(&mut self, first: Hour) -> &BTreeMap<Hour, u64> {
        self.published = self.published.split_off(&first);
        &self.published
    }

    /// How many hours are in memory.
    pub fn len(&self) -> usize {
        self.states.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.states.is_empty()
    }

    /// The place of an hour's state, which is made if there is none.
    fn touch(&mut self, hour: Hour) -> Result<usize, HourError> {
        let place = match self.places.get(&hour) {
            Some(place) => *place,
            None => {
                let state = self.begin(hour)?;
                self.states.push(state);
                self.places.insert(hour, self.states.len() - 1);
                self.states.len() - 1
            }
        };
        self.last = Some((hour, place));
        Ok(place)
    }

    /// Asks an hour's files how far they cover it.
    fn begin(&self, hour: Hour) -> Result<State, HourError> {
        let covered = self.hourly.covered(hour)?;
        let grouped = covered.unwrap_or(0);
        if let Some(published) = self.published.get(&hour).copied().filter(|published| grouped < *published) {
            return Err(HourError::Behind { path: self.hourly.path(hour), covered: grouped, published });
        }
        Ok(State {
            hour,
            groups: Groups::default(),
            whole: covered.is_none(),
            grouped,
            dirty_from: None,
            pending: Pending::default(),
            events_covered: self.events.covered(hour)?,
            since: None,
        })
    }
}

impl State {
    /// Takes events, in log order.
    fn take(&mut self, events: &[Taken<'_>], by: &[By], most_bytes: usize, rows: bool) {
        // ends go up
        let new = &events[events.partition_point(|taken| taken.end <= self.grouped)..];
        if let (Some(first), Some(last)) = (new.first(), new.last()) {
            // what is not whole cannot know what has room: that shows when it is merged
            self.groups.count_within(new, by, if self.whole { most_bytes } else { usize::MAX });
            self.grouped = last.end;
            self.dirty_from.get_or_insert(first.position);
            self.since.get_or_insert_with(clock::instant);
        }
        let is_row = |taken: &&Taken<'_>| taken.fate != Fate::Duplicate && taken.end > self.events_covered;
        let new: Vec<&Taken<'_>> = events.iter().filter(is_row).collect();
        if rows && !new.is_empty() {
            self.pending.push_all(&new);
            self.since.get_or_insert_with(clock::instant);
        }
    }

    /// Takes in the groups of the file, if they are not in memory.
    fn complete(&mut self, hourly: &Hourly, most_bytes: usize) -> Result<(), HourError> {
        if self.whole {
            return Ok(());
        }
        let Some(mut loaded) = hourly.load(self.hour)? else {
            let published = self.grouped;
            return Err(HourError::Behind { path: hourly.path(self.hour), covered: 0, published });
        };
        loaded.groups.merge_within(std::mem::take(&mut self.groups), hourly.columns(), most_bytes);
        self.groups = loaded.groups;
        self.whole = true;
        Ok(())
    }

    fn unpublished_from(&self) -> Option<u64> {
        [self.dirty_from, self.pending.first_position()].into_iter().flatten().min()
    }

    /// Whether more of it is expected: then its aggregate is published each time, so that people see it.
    fn is_open(&self, due: Due) -> bool {
        due.complete_now.is_none_or(|complete| self.hour >= complete)
    }

    /// Whether what waits has waited enough, or the hour closes.
    fn is_gathered(&self, due: Due, bounds: Bounds) -> bool {
        let closes = !self.is_open(due) && due.complete_before.is_none_or(|complete| self.hour >= complete);
        closes
            || self.pending.bytes() >= bounds.part_bytes
            || self.since.is_some_and(|since| clock::since(since) >= GATHER)
    }
}
