//! The hours that are being compacted: what was read of them and is not published yet.
//!
//! The rule: **each of an hour's two outputs skips the records that its own footer covers.** So a record may be
//! read again after a crash, as often as it must, and is published once. Where the commit says that an hour was
//! published further than its file now says, nothing is written: a partial hour is worse than none.

use std::collections::{BTreeMap, HashMap};
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
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

/// Fewer batches than this are taken by the thread that reads: they are not worth another one.
const BATCHES_ALONE: usize = 8;
/// So many are given to that one together: waking it costs as much as taking a part of one.
const BATCHES_TOGETHER: usize = 4;
/// So often as many wait for it.
const WAITING: usize = 3;
/// So many hours' groups are encoded at a time. They are all in memory, some of them read again from their files.
const HOURS_TOGETHER: usize = 2;

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
    open: Arc<Open>,
    /// Takes events into them while more are read, when there are many.
    taker: Option<Taker>,
    /// Batches that were taken since it was last waited for.
    batches: usize,
    /// Places in `open.states`.
    places: HashMap<Hour, usize>,
    /// The one touched last: mostly the one touched next.
    last: Option<(Hour, usize)>,
    /// Up to where hours' files cover them, as committed and published since.
    published: BTreeMap<Hour, u64>,
    /// Hours before this one were published when they closed: since then they change by amendment.
    closed: Option<Hour>,
    /// When open hours' aggregates were last made.
    shown_at: Instant,
    bounds: Bounds,
}

/// What the thread that takes events knows: it asks the machine for nothing.
struct Open {
    states: Mutex<Vec<State>>,
    by: Vec<By>,
    /// Bytes that the groups of one hour may take: unlike the bounds it decides what is published.
    most_bytes: usize,
    /// Whether rows are published.
    rows: bool,
    group_bytes: AtomicUsize,
    pending_bytes: AtomicUsize,
}

/// A thread that takes batches, and gives them back empty.
struct Taker {
    batches: SyncSender<Vec<Batch>>,
    /// Those that it will be given next.
    gathered: Vec<Batch>,
    emptied: Receiver<Vec<Batch>>,
    /// Empty ones that it gave back.
    spare: Vec<Batch>,
    thread: JoinHandle<()>,
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
            states: Mutex::default(),
            by: hourly.by().to_vec(),
            most_bytes,
            rows,
            group_bytes: AtomicUsize::new(0),
            pending_bytes: AtomicUsize::new(0),
        };
        Self {
            hourly,
            events,
            open: Arc::new(open),
            taker: None,
            batches: 0,
            places: HashMap::new(),
            last: None,
            published,
            closed: None,
            shown_at: clock::instant(),
            bounds,
        }
    }

    /// The place of an hour, whose files are asked if it was not there.
    pub fn place(&mut self, hour: Hour) -> Result<usize, HourError> {
        match self.last {
            Some((last, place)) if last == hour => Ok(place),
            _ => self.touch(hour),
        }
    }

    /// Takes events into the hours that were decided, or has that done; batches come in log order. Gives an empty batch.
    pub fn take(&mut self, mut batch: Batch) -> Batch {
        self.batches += 1;
        if self.batches <= BATCHES_ALONE {
            self.open.take(&batch);
            batch.clear();
            return batch;
        }
        let taker = self.taker.get_or_insert_with(|| Taker::start(Arc::clone(&self.open)));
        taker.give(batch).unwrap_or_else(|Panicked| {
            self.wait();
            Batch::default()
        })
    }

    /// Waits until all is taken.
    pub fn wait(&mut self) {
        self.batches = 0;
        if let Some(Taker { batches, gathered, thread, .. }) = self.taker.take() {
            // it only fails where the thread has panicked, which is told by the next line but one
            let _ = batches.send(gathered);
            drop(batches);
            thread.join().unwrap_or_else(|panic| resume_unwind(panic));
        }
    }

    /// Whether so much is in memory that it should be published before more is read.
    pub fn is_full(&self) -> bool {
        self.has_full_rows() || self.has_full_groups()
    }

    fn has_full_rows(&self) -> bool {
        self.open.pending_bytes.load(Relaxed) >= self.bounds.pending_bytes
    }

    fn has_full_groups(&self) -> bool {
        self.open.group_bytes.load(Relaxed) >= self.bounds.group_bytes
    }

    /// Publishes what is due: first events, then aggregates. `before` is done before anything of that is on disk.
    pub fn publish<E: From<HourError>>(&mut self, due: Due, before: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        self.wait();
        let due = Due { complete_before: due.complete_before.max(self.closed), ..due };
        let (has_full_rows, has_full_groups) = (self.has_full_rows(), self.has_full_groups());
        let open = Arc::clone(&self.open);
        let states = &mut *open.states();
        let large = if has_full_rows { self.large(states) } else { usize::MAX };
        let kept_from = if has_full_groups { self.kept_from(states) } else { Hour(i64::MIN) };
        // asked once for both outputs: time goes on between them
        let is_gathered = |state: &State| due.all || state.hour < kept_from || state.is_gathered(due);
        let gathered: Vec<bool> = states.iter().map(is_gathered).collect();
        let mut parts = Vec::new();
        for (state, is_gathered) in states.iter_mut().zip(&gathered) {
            // rows go once, and need not take along what is made anew of all that an hour has
            let is_due = *is_gathered || state.pending.bytes() >= large.min(self.bounds.part_bytes);
            if state.pending.first_position().is_some() && is_due {
                state.events_covered = state.pending.end();
                open.pending_bytes.fetch_sub(state.pending.bytes(), Relaxed);
                parts.push((state.hour, std::mem::take(&mut state.pending)));
            }
        }
        let needs_room = has_full_rows || has_full_groups;
        let are_shown = !needs_room || clock::since(self.shown_at) >= self.bounds.shown_every;
        self.events.write(&parts, before, |error| HourError::from(error).into())?;
        drop(parts);
        self.publish_hourly(states, due, &gathered, are_shown)?;
        if are_shown {
            self.shown_at = clock::instant();
        }
        self.forget(states, due, kept_from);
        self.closed = self.closed.max(due.complete_now);
        Ok(())
    }

    /// Rows of so many bytes go, so that half of the room is free: late ones of other hours wait, and become fewer files.
    fn large(&self, states: &[State]) -> usize {
        let mut sizes: Vec<usize> = states.iter().map(|state| state.pending.bytes()).collect();
        sizes.sort_unstable_by_key(|size| std::cmp::Reverse(*size));
        let mut left: usize = sizes.iter().sum();
        let gone = sizes.iter().take_while(|size| {
            let goes = left > self.bounds.pending_bytes / 2;
            left -= *size;
            goes
        });
        gone.last().map_or(usize::MAX, |size| (*size).max(1))
    }

    /// Hours before this one go, so that half of the room for groups is free: the less is read of them from now on.
    fn kept_from(&self, states: &[State]) -> Hour {
        let mut newest_first: Vec<(Hour, usize)> =
            states.iter().map(|state| (state.hour, state.groups.bytes())).collect();
        newest_first.sort_unstable_by_key(|(hour, _)| std::cmp::Reverse(*hour));
        let mut kept = 0;
        let is_kept = |(_, bytes): &&(Hour, usize)| {
            kept += bytes;
            kept <= self.bounds.group_bytes / 2
        };
        newest_first.iter().take_while(is_kept).last().map_or(Hour(i64::MAX), |(hour, _)| *hour)
    }

    fn publish_hourly(
        &mut self,
        states: &mut [State],
        due: Due,
        gathered: &[bool],
        are_shown: bool,
    ) -> Result<(), HourError> {
        let is_due = |(state, is_gathered): &(&mut State, &bool)| {
            state.dirty_from.is_some() && (**is_gathered || (are_shown && state.is_open(due)))
        };
        let mut due_now: Vec<_> = states.iter_mut().zip(gathered).filter(is_due).map(|(state, _)| state).collect();
        for states in due_now.chunks_mut(HOURS_TOGETHER) {
            for state in &mut *states {
                state.complete(&self.hourly, self.open.most_bytes)?;
            }
            let hours = states.iter_mut().map(|state| (state.hour, &mut state.groups, state.grouped));
            self.hourly.write(hours.collect())?;
            for state in states {
                self.published.insert(state.hour, state.grouped);
                state.dirty_from = None;
                if !state.is_open(due) {
                    // not needed again; the next hour's may be large
                    (state.groups, state.whole) = (Groups::default(), false);
                }
            }
        }
        let at_rest = states.iter_mut().filter(|state| state.unpublished_from().is_none());
        at_rest.for_each(|state| state.since = None);
        Ok(())
    }

    /// Forgets hours of which nothing waits: those that are complete, and those for which there is no room.
    fn forget(&mut self, states: &mut Vec<State>, due: Due, kept_from: Hour) {
        let is_kept = |state: &State| state.is_open(due) && state.hour >= kept_from;
        states.retain(|state| state.unpublished_from().is_some() || is_kept(state));
        self.places = states.iter().enumerate().map(|(place, state)| (state.hour, place)).collect();
        self.last = None;
        self.open.group_bytes.store(states.iter().map(|state| state.groups.bytes()).sum(), Relaxed);
    }

    /// The position of the first record that is not in both outputs.
    pub fn unpublished_from(&self) -> Option<u64> {
        self.open.states().iter().filter_map(State::unpublished_from).min()
    }

    /// Up to where hours' files cover them, of those from this hour on.
    pub fn published_from(&mut self, first: Hour) -> &BTreeMap<Hour, u64> {
        self.published = self.published.split_off(&first);
        &self.published
    }

    /// How many hours are in memory.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// The place of an hour's state, which is made if there is none.
    fn touch(&mut self, hour: Hour) -> Result<usize, HourError> {
        let place = match self.places.get(&hour) {
            Some(place) => *place,
            None => {
                let state = self.begin(hour)?;
                self.open.states().push(state);
                let place = self.places.len();
                self.places.insert(hour, place);
                place
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

impl Open {
    fn states(&self) -> MutexGuard<'_, Vec<State>> {
        self.states.lock().expect("who takes events does not panic")
    }

    fn take(&self, batch: &Batch) {
        let mut states = self.states();
        for (place, events) in batch.by_hour() {
            let state = &mut states[place];
            let before = (state.groups.bytes(), state.pending.bytes());
            state.take(&events, self);
            state.since = state.since.or(batch.decided_at());
            // what grows may also shrink
            self.group_bytes.fetch_add(state.groups.bytes().wrapping_sub(before.0), Relaxed);
            self.pending_bytes.fetch_add(state.pending.bytes().wrapping_sub(before.1), Relaxed);
        }
    }
}

/// The taker's thread is no more, since it has panicked.
struct Panicked;

impl Taker {
    fn start(open: Arc<Open>) -> Self {
        let (batches, to_take) = sync_channel::<Vec<Batch>>(WAITING);
        let (give_back, emptied) = channel();
        let take = move || {
            for mut batches in to_take {
                for batch in &mut batches {
                    open.take(batch);
                    batch.clear();
                }
                // the other end may not need them any more
                let _ = give_back.send(batches);
            }
        };
        let thread = std::thread::Builder::new().name("taker".into()).spawn(take).expect("a thread can be started");
        Self { batches, gathered: Vec::new(), emptied, spare: Vec::new(), thread }
    }

    /// Has a batch taken, sooner or later, and gives an empty one.
    fn give(&mut self, batch: Batch) -> Result<Batch, Panicked> {
        self.gathered.push(batch);
        if self.gathered.len() >= BATCHES_TOGETHER {
            self.spare.extend(self.emptied.try_iter().flatten());
            self.batches.send(std::mem::take(&mut self.gathered)).map_err(|_| Panicked)?;
        }
        Ok(self.spare.pop().unwrap_or_default())
    }
}

impl State {
    /// Takes events, in log order.
    fn take(&mut self, events: &[Taken<'_>], Open { by, most_bytes, rows, .. }: &Open) {
        // ends go up
        let new = &events[events.partition_point(|taken| taken.end <= self.grouped)..];
        if let (Some(first), Some(last)) = (new.first(), new.last()) {
            // what is not whole cannot know what has room: that shows when it is merged
            self.groups.count_within(new, by, if self.whole { *most_bytes } else { usize::MAX });
            self.grouped = last.end;
            self.dirty_from.get_or_insert(first.position);
        }
        let is_row = |taken: &&Taken<'_>| taken.fate != Fate::Duplicate && taken.end > self.events_covered;
        let new: Vec<&Taken<'_>> = events.iter().filter(is_row).collect();
        if *rows {
            self.pending.push_all(&new);
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
    fn is_gathered(&self, due: Due) -> bool {
        let closes = !self.is_open(due) && due.complete_before.is_none_or(|complete| self.hour >= complete);
        closes || self.since.is_some_and(|since| clock::since(since) >= GATHER)
    }
}
