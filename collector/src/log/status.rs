//! What the log is doing, as far as others may know: counts for `/metrics`, and whether the door must shed.
//!
//! The counts are the writer's, published once a drain of the channel: so `received = logged + shed + refused`
//! holds at every scrape, not only at rest.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tallylight_host::clock;
use tallylight_proto::ledger::Counts;
use tallylight_proto::sources::Sources;

use super::recovery::Recovered;

/// Shared by the log's threads, the door and the admin port.
#[derive(Debug)]
pub struct Status {
    /// Where the time of the sources begins.
    started: Instant,
    shedding: AtomicBool,
    failed: AtomicBool,
    pushed: AtomicU64,
    popped: AtomicU64,
    appended: AtomicU64,
    synced: AtomicU64,
    begun: AtomicU64,
    sealed: AtomicU64,
    segments: AtomicU64,
    free: AtomicU64,
    waits: AtomicU64,
    life: Mutex<Counts>,
    /// The writer's table; others only look.
    sources: Mutex<Sources>,
}

/// All of it at one moment.
#[derive(Clone, Copy, Debug)]
pub struct StatusSnapshot {
    /// Events are shed for the disk.
    pub shedding: bool,
    /// The log will never take an event again.
    pub failed: bool,
    /// Batches sent to the writer, and taken by it.
    pub pushed: u64,
    /// See `pushed`.
    pub popped: u64,
    /// Position behind the last record in the map.
    pub appended: u64,
    /// Position up to which the log is on disk.
    pub synced: u64,
    /// Segments begun in this life.
    pub begun: u64,
    /// Segments sealed in this life.
    pub sealed: u64,
    /// Segments in the log's folder, when last looked at.
    pub segments: u64,
    /// Free bytes on the log's disk, when last looked at.
    pub free: u64,
    /// How often the writer had to wait for the next segment.
    pub waits: u64,
    /// The ledger of this life.
    pub counts: Counts,
}

impl Status {
    pub(super) fn new(recovered: &Recovered) -> Self {
        Self {
            started: clock::instant(),
            shedding: AtomicBool::default(),
            failed: AtomicBool::default(),
            pushed: AtomicU64::default(),
            popped: AtomicU64::default(),
            appended: AtomicU64::new(recovered.next_base),
            synced: AtomicU64::new(recovered.next_base),
            begun: AtomicU64::default(),
            sealed: AtomicU64::default(),
            segments: AtomicU64::default(),
            free: AtomicU64::default(),
            waits: AtomicU64::default(),
            life: Mutex::default(),
            sources: Mutex::new(recovered.sources.clone()),
        }
    }

    /// The sources of framed datagrams. The writer waits for whoever holds this.
    pub fn sources(&self) -> MutexGuard<'_, Sources> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time of the sources: milliseconds since the log was started.
    pub fn now_ms(&self) -> u64 {
        u64::try_from(clock::since(self.started).as_millis()).unwrap_or(u64::MAX)
    }

    /// Whether events are shed for the disk right now, or for ever.
    pub fn is_shedding(&self) -> bool {
        self.shedding.load(Ordering::Relaxed) || self.failed.load(Ordering::Relaxed)
    }

    /// Everything, for metrics.
    pub fn snapshot(&self) -> StatusSnapshot {
        let get = |number: &AtomicU64| number.load(Ordering::Relaxed);
        StatusSnapshot {
            shedding: self.is_shedding(),
            failed: self.failed.load(Ordering::Relaxed),
            // popped first: the difference is never negative
            popped: get(&self.popped),
            pushed: get(&self.pushed),
            synced: get(&self.synced),
            appended: get(&self.appended),
            begun: get(&self.begun),
            sealed: get(&self.sealed),
            segments: get(&self.segments),
            free: get(&self.free),
            waits: get(&self.waits),
            counts: *self.life.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }

    pub(super) fn set_shedding(&self, shedding: bool) {
        self.shedding.store(shedding, Ordering::Relaxed);
    }

    pub(super) fn set_failed(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }

    pub(super) fn pushed(&self) {
        self.pushed.fetch_add(1, Ordering::Relaxed);
    }

    /// How many batches the writer has taken.
    pub(super) fn taken(&self) -> u64 {
        self.popped.load(Ordering::Relaxed)
    }

    /// The writer took so many batches, has got this far, and counted this much in this life.
    pub(super) fn drained(&self, batches: u64, appended: Option<u64>, life: &Counts) {
        self.popped.fetch_add(batches, Ordering::Relaxed);
        if let Some(appended) = appended {
            self.appended.store(appended, Ordering::Relaxed);
        }
        *self.life.lock().unwrap_or_else(PoisonError::into_inner) = *life;
    }

    pub(super) fn synced_to(&self, position: u64) {
        self.synced.fetch_max(position, Ordering::Relaxed);
    }

    pub(super) fn began_segment(&self) {
        self.begun.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn sealed_segment(&self) {
        self.sealed.fetch_add(1, Ordering::Relaxed);
    }

    /// What a look at the disk has shown.
    pub(super) fn disk(&self, segments: u64, free: u64) {
        self.segments.store(segments, Ordering::Relaxed);
        self.free.store(free, Ordering::Relaxed);
    }

    pub(super) fn waited(&self) {
        self.waits.fetch_add(1, Ordering::Relaxed);
    }
}
