//! The one thread that writes the log: drains the channel, appends, commits once a drain, answers who waits.
//!
//! It is never woken once an event. While there is traffic it looks every [`POLL`]; only after a silence does it
//! sleep until the channel wakes it, since then the sender pays for that (a futex call).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use metrics::Histogram;
use tallylight_proto::ledger::{Counts, Ledger};
use tallylight_proto::reason::{Front, Shed};
use tallylight_proto::record;
use tallylight_proto::segment::framed_len;
use tracing::{error, info};

use super::active::{Active, Prepared};
use super::batch::{AckSender, Batch, Level, Payloads};
use super::recovery::Recovered;
use super::status::Status;
use super::supply::Supply;
use super::syncer::Task;
use super::{LogError, StorageError};
use crate::clock;

/// How often an empty channel is looked at while there is traffic: what an acknowledgement waits at most, and
/// a thousand wake-ups a second instead of one an event.
const POLL: Duration = Duration::from_millis(1);
/// So long after the last batch the writer goes to sleep.
const SILENCE: Duration = Duration::from_millis(100);
/// How often a full disk is looked at while nothing arrives.
const SHEDDING_POLL: Duration = Duration::from_millis(50);
/// Batches appended between two commits.
const DRAIN: usize = 64;
/// A ledger record is due so long after the last one, with and without traffic.
const LEDGER_BUSY: Duration = Duration::from_secs(1);
const LEDGER_IDLE: Duration = Duration::from_secs(10);
/// The supply is told of the writer's progress once in so many bytes.
const PROGRESS: u64 = 1 << 20;

/// Where the writer sends what it is done with.
pub(super) struct Channels {
    /// To the syncer.
    pub sync_tasks: Sender<Task>,
    /// Emptied batches, back to the fronts.
    pub recycle: Sender<Batch>,
}

/// The state of the thread.
pub(super) struct Writer {
    folder: PathBuf,
    supply: Arc<Supply>,
    channels: Channels,
    status: Arc<Status>,
    /// None only before the first segment can be had.
    active: Option<Active>,
    /// The next one, if it was taken before it was needed.
    next: Option<Prepared>,
    /// The ordinal of the next record while there is no active segment.
    next_ordinal: u64,
    /// No segment could be had for the last event: everything is shed until one can.
    is_shedding: bool,
    ledger: LedgerState,
    /// To be answered with the next commit, and by the sync that reaches a position.
    answers: Vec<(AckSender, Result<(), Shed>)>,
    synced: Vec<(u64, AckSender)>,
    /// Where the supply was last told to be.
    told: u64,
    scratch: Vec<u8>,
    delay: Histogram,
}

/// The ledger as the writer keeps it.
struct LedgerState {
    /// When this life began.
    life: i64,
    /// Since the log began, and since this life began.
    total: Counts,
    since_start: Counts,
    /// What the last ledger record said, and when it was written.
    written: Counts,
    written_at: Instant,
}

impl Writer {
    pub fn new(
        folder: PathBuf,
        recovered: &Recovered,
        supply: Arc<Supply>,
        channels: Channels,
        status: Arc<Status>,
    ) -> Self {
        let ledger = LedgerState {
            life: clock::now(),
            total: recovered.counts,
            since_start: Counts::default(),
            written: recovered.counts,
            written_at: Instant::now(),
        };
        Self {
            folder,
            supply,
            channels,
            status,
            active: None,
            next: None,
            next_ordinal: recovered.next_ordinal,
            is_shedding: false,
            ledger,
            answers: Vec::new(),
            synced: Vec::new(),
            told: 0,
            scratch: Vec::new(),
            delay: metrics::histogram!("tallylight_log_delay_seconds"),
        }
    }

    /// The thread's body. It ends when all fronts have gone and the channel is empty.
    pub fn run(mut self, batches: &Receiver<Batch>) -> Result<(), LogError> {
        self.rotate()?;
        self.commit(0);
        let mut last_batch = Instant::now();
        loop {
            let first = match self.wait(batches, last_batch.elapsed() >= SILENCE) {
                Ok(batch) => Some(batch),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return self.close(),
            };
            if first.is_some() {
                last_batch = Instant::now();
            }
            let mut drained = 0;
            for batch in first.into_iter().chain(batches.try_iter()).take(DRAIN) {
                self.append(batch)?;
                drained += 1;
            }
            if self.is_shedding {
                self.rotate()?;
            }
            self.keep_ledger()?;
            self.commit(drained);
        }
    }

    fn wait(&self, batches: &Receiver<Batch>, silent: bool) -> Result<Batch, RecvTimeoutError> {
        match batches.try_recv() {
            Ok(batch) => return Ok(batch),
            Err(error) if error.is_disconnected() => return Err(RecvTimeoutError::Disconnected),
            Err(_) => {}
        }
        if !silent {
            std::thread::sleep(POLL);
            return Err(RecvTimeoutError::Timeout);
        }
        let until_ledger = self.ledger.due_in();
        batches.recv_timeout(if self.is_shedding { until_ledger.min(SHEDDING_POLL) } else { until_ledger })
    }

    fn append(&mut self, mut batch: Batch) -> Result<(), StorageError> {
        if let Some(opened) = batch.opened() {
            self.delay.record(opened.elapsed());
        }
        self.ledger.add(batch.counts());
        let acks = batch.take_acks();
        let mut payloads = batch.payloads();
        let mut done = 0;
        for ack in acks {
            self.append_some(payloads.split_off(ack.first - done))?;
            let is_logged = self.append_all(payloads.split_off(ack.end - ack.first))?;
            match (is_logged, ack.level) {
                (true, Level::Logged) => self.answers.push((ack.sender, Ok(()))),
                (true, Level::Synced) => {
                    let position = self.active.as_ref().map_or(0, Active::position);
                    self.synced.push((position, ack.sender));
                }
                (false, _) => self.answers.push((ack.sender, Err(Shed::Disk))),
            }
            done = ack.end;
        }
        self.append_some(payloads)?;
        batch.clear();
        // enough of them are on their way back already
        let _ = self.channels.recycle.try_send(batch);
        Ok(())
    }

    /// Appends all of them or sheds all of them, since they are answered together: a sender who is told to try again
    /// must not have been counted in part. Only of a body larger than a segment a part may be there.
    fn append_all(&mut self, payloads: Payloads<'_>) -> Result<bool, StorageError> {
        if self.has_room_for(payloads.clone())? {
            return self.append_some(payloads);
        }
        payloads.for_each(|payload| self.ledger.decide(record::front(payload), false));
        Ok(false)
    }

    /// Whether there is room in the active segment and the one after it, which is taken now if it will be needed.
    fn has_room_for(&mut self, payloads: Payloads<'_>) -> Result<bool, StorageError> {
        let needed = payloads.map(|payload| framed_len(payload.len()) as u64).sum();
        if !self.is_shedding && self.active.as_ref().is_some_and(|active| active.room() >= needed) {
            return Ok(true);
        }
        self.next = self.next.take().or_else(|| self.supply.take());
        Ok(self.next.is_some() || self.rotate()?)
    }

    /// Appends or sheds each, and says whether all were appended.
    fn append_some(&mut self, payloads: Payloads<'_>) -> Result<bool, StorageError> {
        let mut are_all_appended = true;
        for payload in payloads {
            let has_room =
                !self.is_shedding && self.active.as_ref().is_some_and(|active| active.has_room(payload.len()));
            let has_room = has_room || self.rotate()?;
            let active = self.active.as_mut().filter(|_| has_room);
            self.ledger.decide(record::front(payload), active.is_some());
            match active {
                Some(active) => active.append(payload),
                None => are_all_appended = false,
            }
        }
        Ok(are_all_appended)
    }

    /// Goes on in a new segment; false if there is none, and events are shed.
    fn rotate(&mut self) -> Result<bool, StorageError> {
        let prepared = self.next.take().or_else(|| self.supply.take());
        let is_shedding = prepared.is_none();
        if is_shedding != self.is_shedding {
            self.is_shedding = is_shedding;
            self.status.set_shedding(is_shedding);
            match is_shedding {
                true => error!("the disk is full: events are shed until the log can have another segment"),
                false => info!("the log has another segment: events are taken again"),
            }
        }
        let Some(prepared) = prepared else { return Ok(false) };
        if let Some(mut left) = self.active.take() {
            left.commit();
            self.next_ordinal = left.end().ordinal;
            self.tell_syncer(Task::Seal(left.share()));
        }
        let active = self.active.insert(prepared.begin(&self.folder, self.next_ordinal)?);
        let shared = active.share();
        self.told = 0;
        self.supply.began(Arc::clone(&shared));
        self.status.began_segment();
        self.append_ledger(false);
        self.tell_syncer(Task::Begin(shared));
        Ok(true)
    }

    /// Writes a ledger record if one is due. Without room for it, a new segment begins with one.
    fn keep_ledger(&mut self) -> Result<(), StorageError> {
        if self.ledger.due_in().is_zero() && !self.append_ledger(false) && !self.is_shedding {
            self.rotate()?;
        }
        Ok(())
    }

    /// False if there is no room.
    fn append_ledger(&mut self, closing: bool) -> bool {
        self.scratch.clear();
        record::encode_ledger(&self.ledger.record(closing), &mut self.scratch);
        match &mut self.active {
            Some(active) if active.has_room(self.scratch.len()) => {
                active.append(&self.scratch);
                true
            }
            _ => false,
        }
    }

    /// Shows everything appended to readers and to the metrics, then answers who waited for that.
    fn commit(&mut self, drained: u64) {
        if drained == 0 && self.active.as_ref().is_none_or(Active::is_committed) {
            return;
        }
        if let Some(active) = &mut self.active {
            active.commit();
            let length = active.end().length;
            if length >= self.told + PROGRESS {
                self.told = length;
                self.supply.advanced();
            }
        }
        let position = self.active.as_ref().map(Active::position);
        self.status.drained(drained, position, &self.ledger.since_start);
        for (sender, answer) in self.answers.drain(..) {
            // whoever waited may be gone
            let _ = sender.send(answer);
        }
        if !self.synced.is_empty() {
            let waiting = std::mem::take(&mut self.synced);
            self.tell_syncer(Task::Wait(waiting));
        }
    }

    fn close(mut self) -> Result<(), LogError> {
        if !self.append_ledger(true) && (self.is_shedding || !self.rotate()? || !self.append_ledger(true)) {
            error!("no room for the closing ledger record: this life will look as if it had been killed");
        }
        self.commit(0);
        if let Some(unused) = self.next.take() {
            unused.discard()?;
        }
        if let Some(active) = self.active.take() {
            self.tell_syncer(Task::Seal(active.share()));
        }
        Ok(())
    }

    fn tell_syncer(&self, task: Task) {
        // it is gone only after a failure, of which the process dies
        let _ = self.channels.sync_tasks.send(task);
    }
}

impl LedgerState {
    fn add(&mut self, since: &Counts) {
        self.total.add(since);
        self.since_start.add(since);
    }

    /// An event is received, and logged or shed for the disk, in one step: the ledger is balanced at any moment.
    fn decide(&mut self, front: Option<Front>, is_logged: bool) {
        let front = front.expect("the door sends events").index();
        for counts in [&mut self.total, &mut self.since_start] {
            counts.received[front] += 1;
            match is_logged {
                true => counts.logged += 1,
                false => counts.shed[Shed::Disk.index()] += 1,
            }
        }
    }

    fn due_in(&self) -> Duration {
        let interval = if self.total == self.written { LEDGER_IDLE } else { LEDGER_BUSY };
        interval.saturating_sub(self.written_at.elapsed())
    }

    /// What is to be written now.
    fn record(&mut self, closing: bool) -> Ledger {
        self.written = self.total;
        self.written_at = Instant::now();
        Ledger { at: clock::now(), life: self.life, closing, counts: self.total }
    }
}
