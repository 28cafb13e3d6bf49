//! The one thread that writes the log: drains the channel, appends, commits once a drain, answers who waits.
//!
//! It also keeps the table of the sources of framed datagrams, and drops what came before: records, table and ledger go
//! on together, in one order, so that a crash leaves no datagram neither logged nor lost.
//!
//! It is never woken once an event. While there is traffic it looks every [`POLL`]; only after a silence does it
//! sleep until the channel wakes it, since then the sender pays for that (a futex call).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use metrics::Histogram;
use tallylight_proto::ledger::{Counts, DatagramCounts, Ledger};
use tallylight_proto::reason::{Front, Refusal, Shed};
use tallylight_proto::record;
use tallylight_proto::segment::{MAX_PAYLOAD, framed_len};
use tallylight_proto::sources::{Arrival, Marks, Scope, Seen, TICK_MS};
use tallylight_service::Watchdog;
use tracing::{error, info};

use super::ack::{AckSender, Answer, answer_all};
use super::active::{Active, Prepared};
use super::batch::{Batch, FramedDatagram, Group, Kind, Level, Payloads};
use super::recovery::Recovered;
use super::status::Status;
use super::supply::Supply;
use super::syncer::Task;
use super::{LogError, StorageError};
use tallylight_host::clock;

/// How often an empty channel is looked at while there is traffic: what an acknowledgement waits at most, and
/// a thousand wake-ups a second instead of one an event.
const POLL: Duration = Duration::from_millis(1);
/// So long after the last batch the writer goes to sleep.
const SILENCE: Duration = Duration::from_millis(100);
/// How often a full disk is looked at while nothing arrives.
const SHEDDING_POLL: Duration = Duration::from_millis(50);
/// Batches appended between two commits.
const DRAIN: usize = 64;
/// A ledger record is due so long after the last one, with traffic and without. It is rarer, too, while the disk is full
/// and there is only so much room for them.
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
    answers: Vec<(AckSender, Answer)>,
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
            written_at: clock::instant(),
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
    pub fn run(mut self, batches: &Receiver<Batch>, watchdog: &Watchdog) -> Result<(), LogError> {
        self.begin()?;
        let mut last_batch = clock::instant();
        loop {
            watchdog.feed();
            let is_silent = clock::since(last_batch) >= SILENCE;
            let first = match self.wait(batches, is_silent.then(|| watchdog.patience())) {
                Ok(batch) => Some(batch),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return self.close(),
            };
            if first.is_some() {
                last_batch = clock::instant();
            }
            self.turn(first.into_iter().chain(batches.try_iter()))?;
        }
    }

    /// The first segment, with how the ledger stands.
    pub fn begin(&mut self) -> Result<(), LogError> {
        self.rotate()?;
        self.commit(0);
        Ok(())
    }

    /// Appends some of these, and commits.
    pub fn turn(&mut self, batches: impl Iterator<Item = Batch>) -> Result<(), LogError> {
        let mut drained = 0;
        for batch in batches.take(DRAIN) {
            self.append(batch)?;
            drained += 1;
        }
        if self.is_shedding {
            self.rotate()?;
        }
        self.status.sources().tick(self.status.now_ms());
        self.keep_ledger()?;
        self.commit(drained);
        Ok(())
    }

    /// `at_most`: how long, in a silence.
    fn wait(&self, batches: &Receiver<Batch>, at_most: Option<Duration>) -> Result<Batch, RecvTimeoutError> {
        match batches.try_recv() {
            Ok(batch) => return Ok(batch),
            Err(error) if error.is_disconnected() => return Err(RecvTimeoutError::Disconnected),
            Err(_) => {}
        }
        let Some(at_most) = at_most else {
            std::thread::sleep(POLL);
            return Err(RecvTimeoutError::Timeout);
        };
        let mut until = self.ledger.due_in(self.is_shedding).min(at_most);
        if self.is_shedding {
            until = until.min(SHEDDING_POLL);
        }
        if self.status.sources().is_waiting() {
            until = until.min(Duration::from_millis(TICK_MS));
        }
        batches.recv_timeout(until)
    }

    fn append(&mut self, mut batch: Batch) -> Result<(), StorageError> {
        if let Some(opened) = batch.opened() {
            self.delay.record(clock::since(opened));
        }
        self.ledger.add(batch.counts());
        let groups = batch.take_groups();
        let mut payloads = batch.payloads();
        let mut done = 0;
        for Group { first, end, kind } in groups {
            self.append_some(payloads.split_off(first - done))?;
            let records = payloads.split_off(end - first);
            match kind {
                Kind::Ack { level, sender } => {
                    let is_logged = self.append_all(records)?;
                    self.answer_later(is_logged, level, sender);
                }
                Kind::Datagram(datagram) => self.append_datagram(&datagram, records)?,
                Kind::Heartbeat(number) => self.status.sources().heartbeat(number, self.status.now_ms()),
            }
            done = end;
        }
        self.append_some(payloads)?;
        batch.clear();
        // enough of them are on their way back already
        let _ = self.channels.recycle.try_send(batch);
        Ok(())
    }

    fn answer_later(&mut self, is_logged: bool, level: Level, sender: AckSender) {
        match (is_logged, level) {
            (true, Level::Logged) => self.answers.push((sender, Ok(()))),
            (true, Level::Synced) => {
                let position = self.active.as_ref().map_or(0, Active::position);
                self.synced.push((position, sender));
            }
            (false, _) => self.answers.push((sender, Err(Shed::Disk))),
        }
    }

    /// Takes or drops a framed datagram. All of its records stand in one segment, behind the ledger record that this
    /// begins with: else that could tell of a datagram whose last record is still to come.
    fn append_datagram(&mut self, datagram: &FramedDatagram, records: Payloads<'_>) -> Result<(), StorageError> {
        let events = records.clone().count() as u64;
        let has_room = self.make_room_for(records.clone())?;
        let is_recorded = events > 0 && has_room;
        let arrival = Arrival { number: datagram.number, events: if is_recorded { events } else { 0 }, is_recorded };
        if self.status.sources().arrive(&arrival, self.status.now_ms()) != Seen::New {
            return Ok(());
        }
        if let Some(counts) = datagram.counts() {
            self.ledger.add(counts);
        }
        for payload in records {
            self.ledger.decide(record::front(payload), is_recorded);
            if let Some(active) = self.active.as_mut().filter(|_| is_recorded) {
                active.append(payload);
            }
        }
        Ok(())
    }

    /// Whether there is room for all of them in the active segment, which may be a new one for that.
    fn make_room_for(&mut self, payloads: Payloads<'_>) -> Result<bool, StorageError> {
        let needed = framed_bytes(payloads);
        let fits =
            |writer: &Self| !writer.is_shedding && writer.active.as_ref().is_some_and(|active| active.room() >= needed);
        Ok(fits(self) || needed == 0 || (self.rotate()? && fits(self)))
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
        let needed = framed_bytes(payloads);
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
        self.append_ledger(false, Scope::All);
        self.tell_syncer(Task::Begin(shared));
        Ok(true)
    }

    /// Writes a ledger record if one is due, or if it tells what no other record does. Without room for it, a new segment
    /// begins with one.
    fn keep_ledger(&mut self) -> Result<(), StorageError> {
        let is_due = self.ledger.due_in(self.is_shedding).is_zero();
        let is_due = is_due || (!self.is_shedding && self.status.sources().is_ahead_of_the_log());
        if is_due && !self.append_ledger(false, Scope::Changes) && !self.is_shedding {
            self.rotate()?;
        }
        Ok(())
    }

    /// False if there is no room.
    fn append_ledger(&mut self, closing: bool, scope: Scope) -> bool {
        let mut sources = self.status.sources();
        self.ledger.add_datagrams(sources.take_counts());
        let mut encode = |marks: Marks| {
            self.scratch.clear();
            record::encode_ledger(&self.ledger.record(closing, marks), &mut self.scratch);
            self.scratch.len() <= MAX_PAYLOAD
        };
        match scope {
            Scope::Changes if encode(sources.changes()) => {}
            // these always fit into a record
            _ => assert!(encode(sources.all()), "marks are bounded"),
        }
        match self.active.as_mut().filter(|active| active.has_room_for_ledger(self.scratch.len())) {
            Some(active) => {
                active.append(&self.scratch);
                sources.are_written();
                self.ledger.is_written();
                true
            }
            None => {
                // not again before it is due again
                self.ledger.written_at = clock::instant();
                false
            }
        }
    }

    /// Shows everything appended to readers and to the metrics, then answers who waited for that.
    fn commit(&mut self, drained: u64) {
        self.ledger.add_datagrams(self.status.sources().take_counts());
        if drained == 0 && self.active.as_ref().is_none_or(Active::is_committed) {
            // what time alone has lost
            self.status.drained(0, None, &self.ledger.since_start);
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
        answer_all(self.answers.drain(..));
        if !self.synced.is_empty() {
            let waiting = std::mem::take(&mut self.synced);
            self.tell_syncer(Task::Wait(waiting));
        }
    }

    /// The closing ledger record, when no batch will come any more.
    pub fn close(mut self) -> Result<(), LogError> {
        let is_told = self.append_ledger(true, Scope::Changes);
        if !is_told && (self.is_shedding || !self.rotate()? || !self.append_ledger(true, Scope::Changes)) {
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

impl FramedDatagram {
    /// What became of its events that have no record, if there are any.
    fn counts(&self) -> Option<Counts> {
        if self.shed.is_none() && self.refused == [0; Refusal::ALL.len()] {
            return None;
        }
        let mut counts = Counts::default();
        let front = counts.front(Front::Udp);
        front.refused = self.refused.map(u64::from);
        front.received = front.all_refused();
        if let Some((reason, events)) = self.shed {
            front.received += u64::from(events);
            front.shed[reason.index()] = u64::from(events);
        }
        Some(counts)
    }
}

impl LedgerState {
    fn add(&mut self, since: Counts) {
        self.total.add(since);
        self.since_start.add(since);
    }

    fn add_datagrams(&mut self, since: DatagramCounts) {
        self.total.datagrams.add(since);
        self.since_start.datagrams.add(since);
    }

    /// An event is received, and logged or shed for the disk, in one step: the ledger is balanced at any moment.
    fn decide(&mut self, front: Option<Front>, is_logged: bool) {
        let front = front.expect("the door sends events");
        for counts in [&mut self.total, &mut self.since_start] {
            let counts = counts.front(front);
            counts.received += 1;
            match is_logged {
                true => counts.logged += 1,
                false => counts.shed[Shed::Disk.index()] += 1,
            }
        }
    }

    fn due_in(&self, is_shedding: bool) -> Duration {
        let is_busy = self.total != self.written && !is_shedding;
        let interval = if is_busy { LEDGER_BUSY } else { LEDGER_IDLE };
        interval.saturating_sub(clock::since(self.written_at))
    }

    /// What is to be written now.
    fn record(&self, closing: bool, marks: Marks) -> Ledger {
        Ledger { at: clock::now(), life: self.life, closing, counts: self.total, marks }
    }

    /// The record is in the log.
    fn is_written(&mut self) {
        self.written = self.total;
        self.written_at = clock::instant();
    }
}

/// What these take up in a segment.
fn framed_bytes(payloads: Payloads<'_>) -> u64 {
    payloads.map(|payload| framed_len(payload.len()) as u64).sum()
}
