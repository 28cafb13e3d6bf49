//! A batch: what one front gathered since it last went idle, and the counts that travel with it.
//!
//! Records, their outcomes and the waiting senders move over the channel together. So the writer's ledger never
//! counts something whose record it has not seen: `counts` holds only what has its outcome already, and is
//! balanced by itself; a record counts as received when the writer decides on it.

use std::time::Instant;

use tallylight_proto::ledger::Counts;
use tallylight_proto::reason::{Front, Refusal, Shed};
use tallylight_proto::{Event, record};
use tokio::sync::oneshot;

/// What a sender waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// The event is in the memory map: it survives the death of the collector.
    Logged,
    /// It is on disk: it survives a power cut.
    Synced,
}

/// Where the answer goes. Dropped without one if the log fails.
pub type AckSender = oneshot::Sender<Result<(), Shed>>;

/// Somebody who waits for the records from `first` to `end` (numbers in the batch).
#[derive(Debug)]
pub(super) struct Ack {
    pub first: usize,
    pub end: usize,
    pub level: Level,
    pub sender: AckSender,
}

/// Records on their way to the log.
#[derive(Debug, Default)]
pub struct Batch {
    /// Length (u32, native) and payload of each record.
    payloads: Vec<u8>,
    len: usize,
    counts: Counts,
    acks: Vec<Ack>,
    opened: Option<Instant>,
}

impl Batch {
    /// How many records it has.
    pub fn len(&self) -> usize {
        self.len
    }

    /// How many bytes they are.
    pub fn bytes(&self) -> usize {
        self.payloads.len()
    }

    /// Whether nothing at all has been put in: no record and no count.
    pub fn is_empty(&self) -> bool {
        self.opened.is_none()
    }

    /// When the first thing was put in.
    pub fn opened(&self) -> Option<Instant> {
        self.opened
    }

    /// Takes an event's record along.
    pub fn push(&mut self, event: &Event<'_>) {
        self.open();
        let start = self.payloads.len();
        self.payloads.extend_from_slice(&[0; 4]);
        record::encode_event(event, &mut self.payloads);
        let len = u32::try_from(self.payloads.len() - start - 4).expect("the decoder bounds events");
        self.payloads[start..start + 4].copy_from_slice(&len.to_ne_bytes());
        self.len += 1;
    }

    /// Counts events as received and refused.
    pub fn refuse(&mut self, front: Front, reason: Refusal, events: u64) {
        self.open();
        self.counts.received[front.index()] += events;
        self.counts.refused[reason.index()] += events;
    }

    /// Counts events as received and shed, without their records.
    pub fn shed(&mut self, front: Front, reason: Shed, events: u64) {
        self.open();
        self.counts.received[front.index()] += events;
        self.counts.shed[reason.index()] += events;
    }

    /// Has somebody told when the records from number `first` on, up to the last one pushed, have reached a level.
    pub fn ack_since(&mut self, first: usize, level: Level, sender: AckSender) {
        self.open();
        self.acks.push(Ack { first, end: self.len, level, sender });
    }

    /// Gives up all records for this reason and tells who waits; what is left are counts, to travel in the next
    /// batch that gets through.
    pub fn give_up(&mut self, reason: Shed) {
        let mut counts = self.counts;
        for front in self.payloads().filter_map(record::front) {
            counts.received[front.index()] += 1;
            counts.shed[reason.index()] += 1;
        }
        self.counts = counts;
        self.payloads.clear();
        self.len = 0;
        for ack in self.acks.drain(..) {
            // whoever waited may be gone
            let _ = ack.sender.send(Err(reason));
        }
    }

    /// The payloads, one by one.
    pub(super) fn payloads(&self) -> Payloads<'_> {
        Payloads(&self.payloads)
    }

    /// What has its outcome already.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    pub(super) fn take_acks(&mut self) -> Vec<Ack> {
        std::mem::take(&mut self.acks)
    }

    /// Empties it but keeps its memory, unless one body has made it very large.
    pub(super) fn clear(&mut self) {
        const KEEP: usize = 512 * 1024;
        self.payloads.clear();
        self.payloads.shrink_to(KEEP);
        *self = Self { payloads: std::mem::take(&mut self.payloads), ..Self::default() };
    }

    fn open(&mut self) {
        self.opened.get_or_insert_with(Instant::now);
    }
}

/// The payloads of a batch, from one on.
#[derive(Clone)]
pub(super) struct Payloads<'b>(&'b [u8]);

impl<'b> Payloads<'b> {
    /// Splits off the first so many.
    pub fn split_off(&mut self, count: usize) -> Payloads<'b> {
        let all = self.0;
        self.by_ref().take(count).for_each(drop);
        Payloads(&all[..all.len() - self.0.len()])
    }
}

impl<'b> Iterator for Payloads<'b> {
    type Item = &'b [u8];

    fn next(&mut self) -> Option<&'b [u8]> {
        let (len, behind) = self.0.split_first_chunk::<4>()?;
        let (payload, behind) = behind.split_at(u32::from_ne_bytes(*len) as usize);
        self.0 = behind;
        Some(payload)
    }
}
