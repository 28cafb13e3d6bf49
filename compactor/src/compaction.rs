//! From the log to the outputs: read, judge, route to hours; publish; commit.
//!
//! ```text
//!  Reader ──▶ portions ──▶ index: first or duplicate? ──▶ crawler? ──▶ Hours ──publish──▶ index, events, hourly
//!                                                                         └────commit──▶ watermark ──▶ segments released
//! ```
//!
//! What is read goes through stages: read, judged, counted, and taken as rows. Where there is much of it a thread on each
//! processor takes a portion through all of them; each stage sees the portions in the order of the log.
//!
//! The rule: **what is published is a function of the log up to a position.** A commit names the furthest place
//! of which nothing waits any more, with the counts exactly as of there. After any error the whole of this is
//! dropped and opened again from the commit: no state in memory outlives a failed publish.

use std::collections::{HashMap, VecDeque};
use std::num::NonZero;
use std::ops::{ControlFlow, Range};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::available_parallelism;
use std::time::Instant;

use tallylight_host::clock;
use tallylight_proto::layout;
use tallylight_proto::ledger::Ledger;
use tallylight_proto::record::{EventView, RecordError, Text};
use tallylight_proto::time::{DAY_MS, Hour, Millis};
use tallylight_service::{Bar, Watchdog};
use thiserror::Error;

use crate::batch::{Batch, ByHour, Decision, Fate};
use crate::commit::{Commit, CommitError, Counts, Snapshot};
use crate::crawlers::Crawlers;
use crate::events::Events;
use crate::groups::By;
use crate::hourly::Hourly;
use crate::hours::{Bounds, Due, HourError, Hours, Open};
use crate::index::{Index, IndexError, Limits, Verdict};
use crate::ledger_check::LedgerCheck;
use crate::log::{LogError, Lost, Progress, Purpose, Reader};
use crate::parquet_file::FileError;
use crate::portion::{Other, Portion};
use crate::rebuild::rebuild;
use crate::release::Release;
use crate::stage::{Stage, on_threads};
use crate::storage::{self, StorageError};

/// The id index, in the compactor's folder.
const INDEX: &str = "index";
/// So many events go through all stages in one thread: fewer than that are not worth another one.
const EVENTS_ALONE: usize = 4096;
/// As many threads as there are stages keep all of them busy.
const MOST_THREADS: usize = 4;
/// User agents whose verdict is kept: there are a few thousand in use.
const USER_AGENTS: usize = 1 << 14;
/// Longer ones are judged each time: those in use are not.
const USER_AGENT_BYTES: usize = 1024;
/// So often room may be made for more rows before there is a commit again: it lets go of segments, and is where a crash leads
/// back to.
const MOST_STEPS: u32 = 32;
/// Damaged places that are told on the log each time it is read.
const PLACES_TOLD: u32 = 20;
/// The hours whose files a commit vouches for: an event is at most 7 days old when it is received.
const KNOWN_HOURS_MS: Millis = 8 * DAY_MS;

/// What is compacted to where.
#[derive(Clone, Debug)]
pub struct Config {
    /// The collector's data folder.
    pub data: PathBuf,
    /// The output folder.
    pub out: PathBuf,
    /// The node that the log is of.
    pub node: String,
    /// More columns to group by.
    pub by: Vec<By>,
    /// How far log time must be past an hour before it is complete, in ms.
    pub grace: Millis,
    /// How long compacted segments are kept, in ms.
    pub retain: Millis,
    /// Bounds of the id index's memory.
    pub index_limits: Limits,
    /// Bounds of what is in memory of hours.
    pub bounds: Bounds,
    /// Bytes that the groups of one hour may take.
    pub hour_bytes: usize,
    /// Fed with whatever takes long.
    pub watchdog: Watchdog,
    /// Whether event rows are published, too. The program always does; what the rest costs can be measured without.
    pub rows: bool,
}

/// Why compaction cannot go on.
#[derive(Debug, Error)]
pub enum CompactError {
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The disk.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The id index.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// An hour.
    #[error(transparent)]
    Hour(#[from] HourError),
    /// A Parquet file.
    #[error(transparent)]
    File(#[from] FileError),
    /// The id index has judged records that the log has lost since: it must be made again.
    #[error("the id index knows records at position {position} that the log has lost")]
    IndexAhead {
        /// Where they were.
        position: u64,
    },
    /// The commit.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

impl CompactError {
    /// Whether the id index must be made again before anything else.
    pub fn is_damaged_index(&self) -> bool {
        matches!(self, Self::Index(IndexError::Corrupt { .. }) | Self::IndexAhead { .. })
    }
}

/// A compaction under way.
pub struct Compaction {
    config: Config,
    reader: Reader,
    sorter: Sorter,
    /// States to which a commit may go back, oldest first.
    snapshots: VecDeque<Snapshot>,
    commit: Option<Commit>,
    /// How often room was made since one got further.
    steps: u32,
    /// How far it is, for as long as somebody may wait for that.
    bar: Bar,
}

impl Compaction {
    /// Goes on from the last commit, after clearing away what a crash left half written.
    pub fn open(config: Config) -> Result<Self, CompactError> {
        let hourly = Hourly::new(&config.out, &config.node, &config.by);
        let events = Events::new(&config.out, &config.node);
        hourly.sweep()?;
        events.sweep()?;
        sweep_commits(&config)?;
        let commit = Commit::read(&config.out, &config.node, &config.by)?;
        let (index, unproven) = open_index(&config, &events, commit.as_ref())?;
        let snapshot = commit.as_ref().map(|commit| commit.snapshot.clone());
        let reader = Reader::new(&config.data, Purpose::Cover, snapshot.as_ref().map(|s| (s.place, s.salt)));
        let published = commit.as_ref().map(|commit| commit.hours.clone()).unwrap_or_default();
        let hours = Hours::new(hourly, events, published, config.bounds, config.hour_bytes, config.rows);
        let sorter = Sorter::new(index, unproven, hours, snapshot.as_ref());
        Ok(Self {
            config,
            reader,
            sorter,
            snapshots: snapshot.into_iter().collect(),
            commit,
            steps: 0,
            bar: Bar::default(),
        })
    }

    /// What is compacted to where.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Shows how far it is with what is in the log now.
    pub fn begin_showing(&mut self) -> Result<(), CompactError> {
        self.bar = Bar::start("compacting", self.bytes_behind()?);
        Ok(())
    }

    /// It is done with that.
    pub fn end_showing(&mut self) {
        self.bar = Bar::default();
    }

    /// Looks how far the log has got. Later records are left for the next look.
    pub fn look(&mut self) -> Result<(), CompactError> {
        self.sorter.told = 0;
        Ok(self.reader.look()?)
    }

    /// Up to where there was more when it came to what the collector had not synced yet; nothing, if it did not.
    pub fn unsynced(&self) -> Option<u64> {
        self.reader.unsynced()
    }

    /// Up to where it has read.
    pub fn position(&self) -> u64 {
        self.reader.place().map_or(0, |(place, _)| place.position)
    }

    /// Reads on: to the end, until there is enough to be published, until this time, or until told to stop.
    pub fn read(&mut self, until: Option<Instant>, stop: &AtomicBool) -> Result<Progress, CompactError> {
        let open = &self.sorter.hours.open();
        let Self { config, reader, sorter, bar, .. } = self;
        let is_time = || stop.load(Relaxed) || until.is_some_and(|until| clock::instant() >= until);
        let stages = Stages {
            reading: Mutex::new(Reading { reader, next: 0, events: 0, ended: None }),
            judging: Stage::new(move |portion: &mut Portion| {
                bar.add(portion.bytes);
                config.watchdog.feed();
                sorter.judge(portion)
            }),
            counting: Stage::new(()),
            rows: Stage::new(()),
            open,
            is_enough: AtomicBool::new(false),
        };
        stages.pass(EVENTS_ALONE, is_time)?;
        if stages.goes_on() {
            let threads = available_parallelism().map_or(1, NonZero::get).min(MOST_THREADS);
            on_threads(threads, || stages.pass(usize::MAX, is_time))?;
        }
        let progress = stages.progress();
        if let Some((place, salt)) = self.reader.begun().filter(|_| self.snapshots.is_empty()) {
            let records_before = place.ordinal.unwrap_or(0);
            let counts = Counts { records_before, ..Counts::default() };
            self.snapshots.push_back(Snapshot { place, salt, counts, ..Snapshot::default() });
        }
        Ok(progress)
    }

    /// Publishes what is due, or all, and commits.
    pub fn publish(&mut self, now: Millis, all: bool) -> Result<(), CompactError> {
        let Some((place, salt)) = self.reader.place() else { return Ok(()) };
        if self.snapshots.back().is_none_or(|last| last.place != place) {
            self.snapshots.push_back(self.sorter.snapshot(place, salt));
        }
        let complete_before = self.commit.as_ref().and_then(|commit| commit.complete_through);
        let complete_now = self.complete_through(now);

        // Aggregates would go out before their event rows. Should the log be set back to what the collector has
        // synced, the rows could never follow, so here they go together.
        self.steps += u32::from(self.sorter.hours.is_full());
        let all = all || self.reader.is_ahead_of_syncs() || self.steps > MOST_STEPS;
        let Sorter { hours, index, .. } = &mut self.sorter;
        // ids are durable before what was counted by them
        hours.publish(Due { complete_before, complete_now, all }, || {
            Ok::<_, CompactError>(index.flush(place.position)?)
        })?;

        let unpublished = self.sorter.hours.unpublished_from();
        while let [_, next, ..] = self.snapshots.make_contiguous()
            && unpublished.is_none_or(|position| next.place.position <= position)
        {
            self.snapshots.pop_front();
        }
        let is_reached = |snapshot: &&Snapshot| unpublished.is_none_or(|position| snapshot.place.position <= position);
        let Some(snapshot) = self.snapshots.front().filter(is_reached) else { return Ok(()) };
        // readers take the minimum over nodes, and must not take a node that has read nothing for one without a say
        if complete_now.is_none() {
            return Ok(());
        }
        let known = Hour::of(snapshot.log_time.saturating_sub(KNOWN_HOURS_MS));
        let hours = self.sorter.hours.published_from(known).clone();
        let commit = Commit { snapshot: snapshot.clone(), complete_through: complete_now, hours };
        if self.commit.as_ref() != Some(&commit) {
            commit.write(&self.config.out, &self.config.node, &self.config.by)?;
            if self.commit.as_ref().is_some_and(|last| last.snapshot.place != commit.snapshot.place) {
                self.steps = 0;
            }
            self.commit = Some(commit);
            self.sorter.index.after_commit()?;
        }
        Ok(())
    }

    /// Lets go of segments that are committed and no longer wanted.
    pub fn release(&self, now: Millis) -> Result<usize, CompactError> {
        let Some(commit) = &self.commit else { return Ok(0) };
        let ended_before = now.saturating_sub(self.config.retain);
        Ok(Release { below: commit.snapshot.place.position, ended_before, now }.run(&self.config.data)?)
    }

    /// Has the index made again at the next start, after it was found damaged.
    pub fn discard_index(config: &Config) {
        let folder = config.data.join(layout::COMPACTOR).join(INDEX);
        if let Err(error) = Index::reset(&folder, config.index_limits) {
            tracing::error!(%error, "the damaged id index cannot be removed");
        }
    }

    /// What was counted up to where it has read.
    pub fn counts(&self) -> Counts {
        self.sorter.counts
    }

    /// Ledger records that did not add up, since it was opened.
    pub fn ledger_mismatches(&self) -> u64 {
        self.sorter.mismatches
    }

    /// The time that the log told last. A clock that was set back takes it back, too.
    pub fn log_time(&self) -> Millis {
        self.sorter.log_time
    }

    /// Bytes of the log that were not read yet.
    pub fn bytes_behind(&self) -> Result<u64, CompactError> {
        Ok(self.reader.bytes_behind()?)
    }

    /// Hours in memory.
    pub fn open_hours(&self) -> usize {
        self.sorter.hours.len()
    }

    /// The last commit.
    pub fn commit(&self) -> Option<&Commit> {
        self.commit.as_ref()
    }

    /// Hours before this one are complete: log time has passed them and the grace. Never ahead of the clock, and
    /// never back.
    fn complete_through(&self, now: Millis) -> Option<Hour> {
        let before = self.commit.as_ref().and_then(|commit| commit.complete_through);
        if self.sorter.log_time == 0 {
            return before;
        }
        let passed = Hour::of(self.sorter.log_time.min(now).saturating_sub(self.config.grace));
        Some(before.map_or(passed, |before| before.max(passed)))
    }
}

/// What is read goes through, from the first to the last.
struct Stages<'a, J> {
    reading: Mutex<Reading<'a>>,
    judging: Stage<J>,
    counting: Stage<()>,
    rows: Stage<()>,
    open: &'a Open,
    /// Whether no more is to be read.
    is_enough: AtomicBool,
}

/// The first stage, which numbers what is read.
struct Reading<'a> {
    reader: &'a mut Reader,
    /// The number of what is read next.
    next: u64,
    /// How many events were read.
    events: usize,
    /// That no more is to be read, and why.
    ended: Option<Progress>,
}

impl<J: FnMut(&mut Portion) -> Result<(), CompactError>> Stages<'_, J> {
    /// Takes what is read through all stages, until there is no more, so many events were read, or it is enough. Several threads may do so.
    fn pass(&self, most: usize, is_time: impl Fn() -> bool) -> Result<(), CompactError> {
        let mut emptied = Batch::default();
        while let Some((number, mut portions)) = self.read(emptied, most)? {
            // behind what has failed nothing passes: who has failed tells it
            let judged = self.judging.pass(number, |judge| portions.iter_mut().try_for_each(judge))?;
            let Some(()) = judged else { break };
            let batches: Vec<_> = portions.iter().map(|portion| portion.batch.by_hour()).collect();
            let each = |take: &dyn Fn(&ByHour<'_>)| {
                batches.iter().for_each(take);
                Ok::<_, CompactError>(())
            };
            let Some(()) = self.counting.pass(number, |()| each(&|batch| self.open.count(batch)))? else { break };
            let Some(()) = self.rows.pass(number, |()| each(&|batch| self.open.take_rows(batch)))? else { break };
            if self.open.is_full() || is_time() {
                self.is_enough.store(true, Relaxed);
            }
            emptied = portions.pop().map(|portion| portion.batch).unwrap_or_default();
            emptied.clear();
        }
        Ok(())
    }

    /// Whether there is more to be read, and it may be.
    fn goes_on(&self) -> bool {
        let reading = self.reading.lock().expect("who reads does not panic");
        reading.ended.is_none() && !self.is_enough.load(Relaxed)
    }

    fn progress(self) -> Progress {
        let reading = self.reading.into_inner().expect("who reads does not panic");
        reading.ended.unwrap_or(Progress::Paused)
    }

    /// Reads a portion, into an empty batch, or some that stand together.
    fn read(&self, empty: Batch, most: usize) -> Result<Option<(u64, Vec<Portion>)>, CompactError> {
        let mut reading = self.reading.lock().expect("who reads does not panic");
        let Reading { reader, next, events, ended } = &mut *reading;
        if ended.is_some() || *events >= most || self.is_enough.load(Relaxed) {
            return Ok(None);
        }
        // nobody goes on behind an error
        *ended = Some(Progress::Paused);
        let (mut portions, mut portion) = (Vec::new(), Portion { batch: empty, ..Portion::default() });
        let progress = reader.read(|item| {
            if portion.take(item) {
                portions.push(std::mem::take(&mut portion));
            }
            Ok::<_, CompactError>(if portions.is_empty() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        })?;
        // behind what is lost it hands out one more, and at the end there may be nothing
        if portions.is_empty() || !portion.is_empty() {
            portions.push(portion);
        }
        *ended = Some(progress).filter(|progress| *progress == Progress::AtEnd);
        *events += portions.iter().map(|portion| portion.batch.len()).sum::<usize>();
        *next += 1;
        Ok(Some((*next - 1, portions)))
    }
}

/// Gives each record of the log its fate and its hour.
struct Sorter {
    index: Index,
    /// Positions of records that the index has judged in an earlier life, and that no commit covers: their rows may be nowhere.
    unproven: Range<u64>,
    crawlers: &'static Crawlers,
    /// User agents seen lately, and whether they are crawlers.
    user_agents: HashMap<Box<[u8]>, bool, foldhash::fast::RandomState>,
    hours: Hours,
    counts: Counts,
    /// Whether a record was read, in this life or before.
    has_begun: bool,
    log_time: Millis,
    ledger: LedgerCheck,
    mismatches: u64,
    /// Damaged places told on the log since the last look.
    told: u32,
}

impl Sorter {
    fn new(index: Index, unproven: Range<u64>, hours: Hours, from: Option<&Snapshot>) -> Self {
        let has_begun = from.is_some();
        let from = from.cloned().unwrap_or_default();
        Self {
            index,
            unproven,
            has_begun,
            crawlers: Crawlers::all(),
            user_agents: HashMap::default(),
            hours,
            counts: from.counts,
            log_time: from.log_time,
            ledger: from.ledger,
            mismatches: 0,
            told: 0,
        }
    }

    fn snapshot(&self, place: crate::log::Place, salt: u64) -> Snapshot {
        Snapshot { place, salt, counts: self.counts, log_time: self.log_time, ledger: self.ledger.clone() }
    }

    /// Decides about a portion of the log.
    fn judge(&mut self, portion: &mut Portion) -> Result<(), CompactError> {
        if let Some(ordinal) = portion.first_ordinal.filter(|_| !self.has_begun) {
            self.has_begun = true;
            self.counts.records_before = ordinal.saturating_sub(self.counts.ordinal());
        }
        self.judge_batch(&mut portion.batch)?;
        match portion.then.take() {
            None => {}
            Some(Other::Ledger { position, ledger }) => self.ledger(position, &ledger),
            Some(Other::NotUnderstood { position, error }) => self.not_understood(position, &error),
            Some(Other::Lost(lost)) => self.lost(lost)?,
            // the collector counts again from where it was set back to
            Some(Other::SetBack { records }) => {
                self.counts.records_taken += records;
                self.ledger = LedgerCheck::default();
            }
        }
        Ok(())
    }

    fn not_understood(&mut self, position: u64, error: &RecordError) {
        if self.may_tell() {
            tracing::error!(position, %error, "a record cannot be understood: it is skipped");
        }
        self.counts.damaged += 1;
        self.ledger.lost(1);
    }

    /// Decides about events.
    fn judge_batch(&mut self, batch: &mut Batch) -> Result<(), CompactError> {
        if batch.is_empty() {
            return Ok(());
        }
        let judged = batch.events().filter(|(_, event)| !event.id().made_here);
        let mut ids = Vec::with_capacity(batch.len());
        ids.extend(judged.map(|(position, event)| (event.id().uuid, position, event.received_at())));
        let mut verdicts = self.index.judge_all(&ids)?.into_iter();
        let mut decisions = Vec::with_capacity(batch.len());
        for (_, event) in batch.events() {
            let verdict = if event.id().made_here { Some(Verdict::First) } else { verdicts.next() };
            let fate = self.fate(&event, verdict.expect("one for each id"));
            decisions.push(Decision { place: self.hours.place(Hour::of(event.event_at()))?, fate });
        }
        batch.decide(decisions, clock::instant());
        Ok(())
    }

    /// What becomes of an event, which is counted.
    fn fate(&mut self, event: &EventView<'_>, verdict: Verdict) -> Fate {
        let fate = match verdict {
            Verdict::Duplicate => Fate::Duplicate,
            Verdict::First if self.is_crawler(event.text(Text::UserAgent)) => Fate::Bot,
            Verdict::First => Fate::Counted,
        };
        let of_front = &mut self.counts.fronts[event.front().index()];
        of_front.read += 1;
        match fate {
            Fate::Duplicate => of_front.duplicates += 1,
            Fate::Bot => of_front.bots += 1,
            Fate::Counted => {
                of_front.counted += 1;
                self.counts.late += u64::from(event.is_late());
                self.counts.client_lost += u64::from(event.lost());
            }
        }
        self.log_time = event.received_at();
        self.ledger.event(event.front());
        fate
    }

    fn ledger(&mut self, position: u64, ledger: &Ledger) {
        self.log_time = ledger.at;
        if let Some(mismatch) = self.ledger.check(&ledger.counts) {
            self.mismatches += 1;
            tracing::error!(position, "the collector's ledger does not add up: {}", mismatch.text());
        }
        let is_first = self.counts.ledgers == 0 && self.counts.records_before > 0;
        self.counts.ledgers += 1;
        for (ours, theirs) in self.counts.fronts.iter_mut().zip(&ledger.counts.fronts) {
            if is_first {
                ours.before = theirs.logged.saturating_sub(ours.read);
            }
            // of what was torn and is not in the ledger, some had been read
            ours.taken = ours.taken.max((ours.before + ours.read).saturating_sub(theirs.logged));
        }
    }

    fn lost(&mut self, lost: Lost) -> Result<(), CompactError> {
        let Lost { base, position, end, records, cause } = lost;
        if position < self.unproven.end && end > self.unproven.start && records > 0 {
            // copies of what is gone would be duplicates of nothing
            return Err(CompactError::IndexAhead { position });
        }
        self.ledger.lost(records);
        let may_tell = self.may_tell();
        if cause.is_damage() {
            self.counts.damaged += records;
            if may_tell {
                let segment = layout::segment(base);
                tracing::error!(%segment, position, end, records, "the log is damaged: {}", cause.text());
            }
        } else {
            self.counts.torn += records;
            if may_tell {
                tracing::warn!(position, end, records, "a power cut took records that were not synced");
            }
        }
        Ok(())
    }

    /// Whether one more damaged place is told: a few say enough, `verify` names them all.
    fn may_tell(&mut self) -> bool {
        self.told += 1;
        if self.told == PLACES_TOLD + 1 {
            tracing::error!("there is more damage in the log: tallylight-compactor verify lists it");
        }
        self.told <= PLACES_TOLD
    }

    fn is_crawler(&mut self, user_agent: &[u8]) -> bool {
        if let Some(known) = self.user_agents.get(user_agent) {
            return *known;
        }
        let is_crawler = self.crawlers.is_crawler(&String::from_utf8_lossy(user_agent));
        if self.user_agents.len() >= USER_AGENTS {
            self.user_agents.clear();
        }
        if user_agent.len() <= USER_AGENT_BYTES {
            self.user_agents.insert(user_agent.into(), is_crawler);
        }
        is_crawler
    }
}

/// Opens the index, with the positions beyond the commit that it has judged, or makes it again if it is damaged or not the one that belongs to the commit.
fn open_index(config: &Config, events: &Events, commit: Option<&Commit>) -> Result<(Index, Range<u64>), CompactError> {
    let folder = config.data.join(layout::COMPACTOR).join(INDEX);
    let (position, log_time) = commit.map_or((0, 0), |c| (c.snapshot.place.position, c.snapshot.log_time));
    // rows beyond the commit, too: should the disk have lost the index and the log behind them, they are all there is
    let through = events.covered_beyond(position, Hour::of(log_time.saturating_sub(KNOWN_HOURS_MS)))?;
    match Index::open(&folder, config.index_limits) {
        Ok(index) if index.through() >= through => {
            let unproven = position..index.through();
            return Ok((index, unproven));
        }
        Ok(_) => tracing::warn!("the id index is older than what was published: it is rebuilt from events"),
        Err(error @ IndexError::Corrupt { .. }) => tracing::warn!(%error, "the id index is rebuilt from events"),
        Err(error) => return Err(error.into()),
    }
    // what is made of rows knows nothing else
    Ok((rebuild(&folder, config.index_limits, events, log_time, through, &config.watchdog)?, 0..0))
}

fn sweep_commits(config: &Config) -> Result<(), StorageError> {
    let folder = config.out.join(layout::WATERMARK);
    let names = match storage::list(&folder) {
        Err(error) if error.is_not_found() => return Ok(()),
        names => names?,
    };
    let ours = layout::watermark_file(&config.node);
    let litter = names.iter().filter(|name| storage::name_of_temporary(name) == Some(&ours));
    litter.map(|name| folder.join(name)).try_for_each(|path| storage::remove(&path))?;
    // the commit that is there may have got its name from a process that was killed before that was on disk
    storage::sync_dir(&folder)?;
    storage::sync_dir(&config.out)
}

#[cfg(test)]
mod tests;
