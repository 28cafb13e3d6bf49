//! What a worker counts beside the ledger: requests, waits, connections.
//!
//! The rule kept here: one thread writes a [`WorkerStats`], so that counting is a plain load and store on a
//! cache line that nobody else writes. Whoever shows them adds the workers up.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tallylight_proto::Front;
use tallylight_service::recorder::SECONDS_BUCKETS;

use crate::http::HeaderRefusal;

/// One slot for each bucket, and one for what is above them all.
pub const SLOTS: usize = SECONDS_BUCKETS.len() + 1;

/// A number that one thread writes and others may read.
#[derive(Debug, Default)]
pub struct Tally(AtomicU64);

impl Tally {
    /// Adds to it. By its one writer only.
    pub fn add(&self, more: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(more), Relaxed);
    }

    /// What it is now.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// How long something took, in the buckets of every histogram of seconds.
#[derive(Debug, Default)]
pub struct Timing {
    counts: [Tally; SLOTS],
    nanos: [Tally; SLOTS],
}

impl Timing {
    /// Counts one.
    pub fn record(&self, took: Duration) {
        let slot = SECONDS_BUCKETS.partition_point(|bound| *bound < took.as_secs_f64());
        self.counts[slot].add(1);
        self.nanos[slot].add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }

    /// For each slot, how many and their sum in nanoseconds.
    pub fn totals(&self) -> [(u64, u64); SLOTS] {
        std::array::from_fn(|slot| (self.counts[slot].get(), self.nanos[slot].get()))
    }
}

/// The counts of one worker.
#[derive(Debug, Default)]
// two cache lines, since processors fetch them in pairs: the next worker's are elsewhere
#[repr(align(128))]
pub struct WorkerStats {
    /// Requests over HTTP/1.1, from the head, read whole, to the answer, made. For that the clock is read twice a
    /// request, and nothing else is shared or allocated.
    pub http1: Timing,
    /// Requests over HTTP/2.
    pub http2: Timing,
    /// How long bodies waited to be in the log.
    pub logged: Timing,
    /// How long bodies waited to be on disk.
    pub synced: Timing,
    /// Answers by the first digit of their code, 2 to 5.
    pub answers: [Tally; 4],
    /// Requests with `debug=1`.
    pub debug: Tally,
    /// Connections accepted.
    pub opened: Tally,
    /// Connections that ended.
    pub closed: Tally,
    /// Connections that could not be accepted.
    pub accept_errors: Tally,
    /// Connections closed at once, since their peers had enough.
    pub over_peer_limit: Tally,
    /// Connections closed for want of a PROXY header, in the order of [`HeaderRefusal::index`].
    pub refused_headers: [Tally; HeaderRefusal::ALL.len()],
    /// Connections closed to make room for others.
    pub evicted: Tally,
    /// Times that datagrams could not be received.
    pub udp_receive_errors: Tally,
}

impl WorkerStats {
    /// Counts an answer of this class (the first digit of its code) to a request that took so long.
    pub fn answered(&self, front: Front, took: Duration, class: u16) {
        let timing = if front == Front::Http1 { &self.http1 } else { &self.http2 };
        timing.record(took);
        if let Some(answers) = self.answers.get(usize::from(class).wrapping_sub(2)) {
            answers.add(1);
        }
    }

    /// Counts a connection that is closed for want of a PROXY header.
    pub fn refused_header(&self, why: HeaderRefusal) {
        self.refused_headers[why.index()].add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_lands_in_the_bucket_whose_bound_it_does_not_exceed() {
        let timing = Timing::default();
        for micros in [1, 10, 11, 40_000_000] {
            timing.record(Duration::from_micros(micros));
        }
        let totals = timing.totals();
        assert_eq!(totals[0], (2, 11_000));
        assert_eq!(totals[1], (1, 11_000));
        assert_eq!(totals[SLOTS - 1], (1, 40_000_000_000));
        assert_eq!(totals.iter().map(|(count, _)| count).sum::<u64>(), 4);
    }
}
