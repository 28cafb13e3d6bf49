//! The hours that are being compacted: what was read of them and is not published yet.
//!
//! The rule: **each of an hour's two outputs skips the records that its own footer covers.** So a record may be
//! read again after a crash, as often as it must, and is published once. Where the commit says that an hour was
//! published further than its file now says, nothing is written: a partial hour is worse than none.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tallylight_host::clock;
use tallylight_proto::time::Hour;
use thiserror::Error;

use crate::batch::{ByHour, Fate, Taken};
use crate::events::{Events, Pending};
use crate::groups::{By, Groups};
use crate::hourly::{Hourly, Unwritten};
use crate::parquet_file::FileError;

/// How long late events and those of a quiet hour gather before they are published.
const GATHER: Duration = Duration::from_secs(600);

/// So many groups are worth starting threads for.
const MUCH: usize = 4096;

/// How much may be in memory.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Bytes of an hour's rows that make a part of their own.
    pub part_bytes: usize,
    /// Bytes of rows, over all hours, from which on those of the hours that have most are published.
    pub pending_bytes: usize,
    /// Bytes of groups, over all hours, from which on hours are published and forgotten.
    pub group_bytes: usize,
    /// How often open hours' aggregates are made again where room is made more often than that: each has all that is known
    /// of its hour, however little is new.
    pub shown_every: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            part_bytes: 32 << 20,
            pending_bytes: 64 << 20,
            group_bytes: 192 << 20,
            shown_every: Duration::from_secs(10),
        }
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

/// What is counted of an hour.
struct Counted {
    hour: Hour,
    /// Its groups; those of the file are not among them as long as it is not `whole`.
    groups: Groups,
    /// Whether all of its groups are in memory. An hour that is amended now and then needs its file only when it is
    /// published.
    whole: bool,
    /// How many groups the file has.
    in_file: usize,
    /// Position behind the last record in `groups` and the file.
    grouped: u64,
    /// Position of the first record that is in `groups` and not in the hourly file.
    dirty_from: Option<u64>,
    /// Since when something of it waits, rows included.
    since: Option<Instant>,
}

/// The rows of an hour.
struct Waiting {
    pending: Pending,
    /// Position up to which its parts cover its events.
    covered: u64,
}

/// All hours that something was read of.
pub struct Hours {
    hourly: Hourly,
    events: Events,
    open: Arc<Open>,
    /// Places in `open`.
    places: HashMap<Hour, usize>,
    /// The one touched last: mostly the one touched next.
    last: Option<(Hour, usize)>,
    /// Up to where hours' files cover them, as committed and published since.
    published: BTreeMap<Hour, u64>,
    /// Hours before this one were published when they closed: since then they change by amendment.
    closed: Option<Hour>,
    /// When open hours' aggregates were last made.
    shown_at: Instant,
    /// That it is, or was and has failed.
    is_publishing: bool,
}

/// What events are taken into, by threads that ask the machine for nothing. Each hour has one place in both.
pub struct Open {
    counted: Mutex<Vec<Counted>>,
    waiting: Mutex<Vec<Waiting>>,
    by: Vec<By>,
    bounds: Bounds,
    /// Bytes that the groups of one hour may take: unlike the bounds it decides what is published.
    most_bytes: usize,
    /// Whether rows are published.
    rows: bool,
    group_bytes: AtomicUsize,
    pending_bytes: AtomicUsize,
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
        let open = Open {
            counted: Mutex::default(),
            waiting: Mutex::default(),
            by: hourly.by().to_vec(),
            bounds,
            most_bytes,
            rows,
            group_bytes: AtomicUsize::new(0),
            pending_bytes: AtomicUsize::new(0),
        };
        Self {
            hourly,
            events,
            open: Arc::new(open),
            places: HashMap::new(),
            last: None,
            published,
            closed: None,
            shown_at: clock::instant(),
            is_publishing: false,
        }
    }

    /// What events are taken into, when their hours have places.
    pub fn open(&self) -> Arc<Open> {
        Arc::clone(&self.open)
    }

    /// The place of an hour, whose files are asked if it was not there.
    pub fn place(&mut self, hour: Hour) -> Result<usize, HourError> {
        match self.last {
            Some((last, place)) if last == hour => Ok(place),
            _ => self.touch(hour),
        }
    }

    /// Publishes what is due: first events, then aggregates. `before` is done before anything of that is on disk. After an error
    /// what is in memory is not all there is, and all of this is to be begun anew.
    pub fn publish<E: From<HourError>>(&mut self, due: Due, before: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        assert!(!std::mem::replace(&mut self.is_publishing, true), "what could not be published is begun anew");
        let due = Due { complete_before: due.complete_before.max(self.closed), ..due };
        let open = self.open();
        let (has_full_rows, has_full_groups) = (open.has_full_rows(), open.has_full_groups());
        let (counted, waiting) = (&mut *open.counted(), &mut *open.waiting());
        let large = if has_full_rows { open.bounds.large(waiting) } else { usize::MAX };
        let kept_from = if has_full_groups { open.bounds.kept_from(counted) } else { Hour(i64::MIN) };
        // asked once for both outputs: time goes on between them
        let is_gathered = |hour: &Counted| due.all || hour.hour < kept_from || hour.is_gathered(due);
        let gathered: Vec<bool> = counted.iter().map(is_gathered).collect();
        let mut parts = Vec::new();
        for ((Counted { hour, .. }, rows), is_gathered) in counted.iter().zip(&mut *waiting).zip(&gathered) {
            // rows go once, and need not take along what is made anew of all that an hour has
            let is_due = *is_gathered || rows.pending.bytes() >= large.min(open.bounds.part_bytes);
            if rows.pending.first_position().is_some() && is_due {
                rows.covered = rows.pending.end();
                open.pending_bytes.fetch_sub(rows.pending.bytes(), Relaxed);
                parts.push((*hour, std::mem::take(&mut rows.pending)));
            }
        }
        let needs_room = has_full_rows || has_full_groups;
        let are_shown = !needs_room || clock::since(self.shown_at) >= open.bounds.shown_every;
        self.events.write(&parts, before, |error| HourError::from(error).into())?;
        drop(parts);
        self.publish_hourly(counted, due, &gathered, are_shown)?;
        if are_shown {
            self.shown_at = clock::instant();
        }
        self.forget(counted, waiting, due, kept_from);
        self.closed = self.closed.max(due.complete_now);
        self.is_publishing = false;
        Ok(())
    }

    fn publish_hourly(
        &mut self,
        counted: &mut [Counted],
        due: Due,
        gathered: &[bool],
        are_shown: bool,
    ) -> Result<(), HourError> {
        let is_due = |(hour, is_gathered): &(&mut Counted, &bool)| {
            hour.dirty_from.is_some() && (**is_gathered || (are_shown && hour.is_open(due)))
        };
        let mut due_now: BTreeMap<_, _> =
            counted.iter_mut().zip(gathered).filter(is_due).map(|(counted, _)| (counted.hour, counted)).collect();
        let groups = |hour: &&mut Counted| hour.groups.len() + if hour.whole { 0 } else { hour.in_file };
        let is_much = due_now.values().map(groups).sum::<usize>() >= MUCH;
        let unwritten: Vec<_> = due_now.values_mut().map(|hour| hour.begin_writing()).collect();
        let read = |(unwritten, whole): (Unwritten, bool)| {
            let Unwritten { hour, covered, .. } = unwritten;
            if whole {
                return Ok(unwritten);
            }
            let Some(earlier) = self.hourly.read(hour).map_err(FileError::from)? else {
                return Err(HourError::Behind { path: self.hourly.path(hour), covered: 0, published: covered });
            };
            Ok(Unwritten { earlier: Some(earlier), ..unwritten })
        };
        self.hourly.write(unwritten.into_iter().map(read), self.open.most_bytes, is_much, |hour, groups| {
            let counted = due_now.get_mut(&hour).expect("it is one of these");
            self.published.insert(hour, counted.grouped);
            counted.dirty_from = None;
            counted.in_file = groups.len();
            counted.whole = counted.is_open(due);
            // those of others are not needed again; the next hour's may be large
            if counted.whole {
                counted.groups = groups.into_groups();
            }
        })
    }

    /// Forgets hours of which nothing waits: those that are complete, and those for which there is no room.
    fn forget(&mut self, counted: &mut Vec<Counted>, waiting: &mut Vec<Waiting>, due: Due, kept_from: Hour) {
        let waits: Vec<bool> =
            counted.iter().zip(&*waiting).map(|(hour, rows)| unpublished_from(hour, rows).is_some()).collect();
        for (hour, _) in counted.iter_mut().zip(&waits).filter(|(_, waits)| !**waits) {
            hour.since = None;
        }
        let is_kept = |(hour, waits): (&Counted, &bool)| *waits || (hour.is_open(due) && hour.hour >= kept_from);
        let kept: Vec<bool> = counted.iter().zip(&waits).map(is_kept).collect();
        keep(counted, &kept);
        keep(waiting, &kept);
        self.places = counted.iter().enumerate().map(|(place, hour)| (hour.hour, place)).collect();
        self.last = None;
        self.open.group_bytes.store(counted.iter().map(|hour| hour.groups.bytes()).sum(), Relaxed);
    }

    /// Whether so much is in memory that it should be published before more is read.
    pub fn is_full(&self) -> bool {
        self.open.is_full()
    }

    /// The position of the first record that is not in both outputs.
    pub fn unpublished_from(&self) -> Option<u64> {
        let (counted, waiting) = (self.open.counted(), self.open.waiting());
        counted.iter().zip(&*waiting).filter_map(|(hour, rows)| unpublished_from(hour, rows)).min()
    }

    /// Up to where hours' files cover them, of those from this hour on.
    pub fn published_from(&mut self, first: Hour) -> &BTreeMap<Hour, u64> {
        self.published = self.published.split_off(&first);
        &self.published
    }

    /// Since when something of each hour waits.
    #[cfg(test)]
    pub(crate) fn waiting_since(&self) -> Vec<Option<Instant>> {
        self.open.counted().iter().map(|hour| hour.since).collect()
    }

    /// How many hours are in memory.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// The place of an hour, which is made if there is none.
    fn touch(&mut self, hour: Hour) -> Result<usize, HourError> {
        let place = match self.places.get(&hour) {
            Some(place) => *place,
            None => {
                let (counted, rows) = self.begin(hour)?;
                self.open.counted().push(counted);
                self.open.waiting().push(rows);
                let place = self.places.len();
                self.places.insert(hour, place);
                place
            }
        };
        self.last = Some((hour, place));
        Ok(place)
    }

    /// Asks an hour's files how far they cover it.
    fn begin(&self, hour: Hour) -> Result<(Counted, Waiting), HourError> {
        let file = self.hourly.footer(hour)?;
        let (grouped, in_file) = file.map_or((0, 0), |file| (file.covered, file.groups));
        if let Some(published) = self.published.get(&hour).copied().filter(|published| grouped < *published) {
            return Err(HourError::Behind { path: self.hourly.path(hour), covered: grouped, published });
        }
        let groups = Groups::default();
        let whole = file.is_none();
        let counted = Counted { hour, groups, whole, in_file, grouped, dirty_from: None, since: None };
        Ok((counted, Waiting { pending: Pending::default(), covered: self.events.covered(hour)? }))
    }
}

/// The position of the first record of an hour that is not in both outputs.
fn unpublished_from(counted: &Counted, rows: &Waiting) -> Option<u64> {
    [counted.dirty_from, rows.pending.first_position()].into_iter().flatten().min()
}

fn keep<T>(all: &mut Vec<T>, kept: &[bool]) {
    let mut kept = kept.iter();
    all.retain(|_| *kept.next().expect("one for each"));
}

impl Bounds {
    /// Rows of so many bytes go, so that half of the room is free: late ones of other hours wait, and become fewer files.
    fn large(&self, waiting: &[Waiting]) -> usize {
        let mut sizes: Vec<usize> = waiting.iter().map(|rows| rows.pending.bytes()).collect();
        sizes.sort_unstable_by_key(|size| std::cmp::Reverse(*size));
        let mut left: usize = sizes.iter().sum();
        let gone = sizes.iter().take_while(|size| {
            let goes = left > self.pending_bytes / 2;
            left -= *size;
            goes
        });
        gone.last().map_or(usize::MAX, |size| (*size).max(1))
    }

    /// Hours before this one go, so that half of the room for groups is free: the less is read of them from now on.
    fn kept_from(&self, counted: &[Counted]) -> Hour {
        let mut newest_first: Vec<(Hour, usize)> =
            counted.iter().map(|hour| (hour.hour, hour.groups.bytes())).collect();
        newest_first.sort_unstable_by_key(|(hour, _)| std::cmp::Reverse(*hour));
        let mut kept = 0;
        let is_kept = |(_, bytes): &&(Hour, usize)| {
            kept += bytes;
            kept <= self.group_bytes / 2
        };
        newest_first.iter().take_while(is_kept).last().map_or(Hour(i64::MAX), |(hour, _)| *hour)
    }
}

impl Open {
    /// Counts events in; batches come in log order.
    pub fn count(&self, batch: &ByHour<'_>) {
        let mut counted = self.counted();
        for (place, events) in &batch.hours {
            let hour = &mut counted[*place];
            let before = hour.groups.bytes();
            hour.count(events, self);
            hour.since = hour.since.or(batch.decided_at);
            // what grows may also shrink
            self.group_bytes.fetch_add(hour.groups.bytes().wrapping_sub(before), Relaxed);
        }
    }

    /// Takes their rows; batches come in log order.
    pub fn take_rows(&self, batch: &ByHour<'_>) {
        if !self.rows {
            return;
        }
        let mut waiting = self.waiting();
        for (place, events) in &batch.hours {
            let Waiting { pending, covered } = &mut waiting[*place];
            let before = pending.bytes();
            let is_row = |taken: &&Taken<'_>| taken.fate != Fate::Duplicate && taken.end > *covered;
            pending.push_all(&events.iter().filter(is_row).collect::<Vec<_>>());
            self.pending_bytes.fetch_add(pending.bytes().wrapping_sub(before), Relaxed);
        }
    }

    /// Whether so much is in memory that it should be published before more is read.
    pub fn is_full(&self) -> bool {
        self.has_full_rows() || self.has_full_groups()
    }

    fn has_full_rows(&self) -> bool {
        self.pending_bytes.load(Relaxed) >= self.bounds.pending_bytes
    }

    fn has_full_groups(&self) -> bool {
        self.group_bytes.load(Relaxed) >= self.bounds.group_bytes
    }

    fn counted(&self) -> MutexGuard<'_, Vec<Counted>> {
        self.counted.lock().expect("who counts does not panic")
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Waiting>> {
        self.waiting.lock().expect("who takes rows does not panic")
    }
}

impl Counted {
    /// Counts events in, in log order.
    fn count(&mut self, events: &[Taken<'_>], Open { by, most_bytes, .. }: &Open) {
        // ends go up
        let new = &events[events.partition_point(|taken| taken.end <= self.grouped)..];
        if let (Some(first), Some(last)) = (new.first(), new.last()) {
            // what is not whole cannot know what has room: that shows when it is merged
            self.groups.count_within(new, by, if self.whole { *most_bytes } else { usize::MAX });
            self.grouped = last.end;
            self.dirty_from.get_or_insert(first.position);
        }
    }

    /// What its file is to say, and whether nothing of that is in the file alone.
    fn begin_writing(&mut self) -> (Unwritten, bool) {
        let groups = std::mem::take(&mut self.groups);
        (Unwritten { hour: self.hour, earlier: None, groups, covered: self.grouped }, self.whole)
    }

    /// Whether more of it is expected: then its aggregate is published each time, so that people see it.
    fn is_open(&self, due: Due) -> bool {
        due.complete_now.is_none_or(|complete| self.hour >= complete)
    }

    /// Whether what waits has waited enough, or the hour closes.
    fn is_gathered(&self, due: Due) -> bool {
        let closes = !self.is_open(due) && due.complete_before.is_none_or(|complete| self.hour >= complete);
        closes || self.since.is_some_and(|since| clock::since(since) >= GATHER)
    }
}
