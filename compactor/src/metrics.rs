//! What an operator sees of the compactor: its part of the loss ledger, how far it lags behind, whether it is well.
//!
//! The rule: counts are those of this life of the process, and never go back, also when records are read again
//! after a failed publish.

use std::sync::{Mutex, MutexGuard, PoisonError};

use metrics::{Counter, Gauge};
use tallylight_proto::time::{Hour, Millis};
use tallylight_service::recorder::{counter, gauge};

use crate::commit::Counts;
use crate::compaction::Compaction;
use tallylight_host::clock;

/// Counters and gauges, and what the admin port asks for.
pub struct Metrics {
    read: Counter,
    counted: Counter,
    duplicates: Counter,
    bots: Counter,
    late: Counter,
    client_lost: Counter,
    damaged: Counter,
    torn: Counter,
    ledger_mismatches: Counter,
    passes: Counter,
    errors: Counter,
    released: Counter,
    lag_seconds: Gauge,
    lag_bytes: Gauge,
    open_partitions: Gauge,
    complete_through: Gauge,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// What was counted before this life.
    before: Option<Counts>,
    /// Mismatches told already, of the compaction that is open.
    mismatches: u64,
    /// Bytes of the log that are not in the hourly files.
    behind: u64,
    /// Since when there are any, by the clock.
    behind_since: Option<Millis>,
    /// The log time up to which hourly files are published; none: nothing was published yet.
    published: Option<Millis>,
    /// Why the last pass failed.
    failure: Option<String>,
}

impl Metrics {
    /// All of them, at 0. To be made after the recorder is installed.
    #[expect(clippy::new_without_default, reason = "it registers names: not a value that a default would be")]
    pub fn new() -> Self {
        Self {
            read: counter(
                "tallylight_compactor_events_read_total",
                "Events read from the log. Each counts, is a duplicate, or a crawler's: at rest this is the sum of those.",
            ),
            counted: counter("tallylight_compactor_events_counted_total", "Events that count."),
            duplicates: counter(
                "tallylight_compactor_duplicate_events_total",
                "Copies of events that count elsewhere: what senders sent again. They do no harm.",
            ),
            bots: counter(
                "tallylight_compactor_bot_events_total",
                "Events by declared crawlers, which stand in bot_events, not in events.",
            ),
            late: counter(
                "tallylight_compactor_late_events_total",
                "Counted events that arrived over 60 s after they happened, of visitors who came back. They amend hours that \
                 are complete.",
            ),
            client_lost: counter(
                "tallylight_compactor_client_lost_events_total",
                "Events that clients gave up, as counted events say: the collector could not be reached for too long.",
            ),
            damaged: counter(
                "tallylight_compactor_damaged_records_total",
                "Records of the log that were on disk and are bad or gone: tallylight-compactor verify says where. See to the disk.",
            ),
            torn: counter(
                "tallylight_compactor_torn_records_total",
                "Records of the log that a power cut took before they were synced: see --sync-interval.",
            ),
            ledger_mismatches: counter(
                "tallylight_compactor_ledger_mismatches_total",
                "Ledger records in the log that do not add up, which is an error of ours: keep the log, and run \
                 tallylight-compactor audit.",
            ),
            passes: counter(
                "tallylight_compactor_passes_total",
                "Times that what was read was published: at least one each --every.",
            ),
            errors: counter(
                "tallylight_compactor_publish_errors_total",
                "Passes that failed and are tried again: /readyz on this port says why.",
            ),
            released: counter(
                "tallylight_compactor_segments_released_total",
                "Segments of the log that were let go of: see --retain.",
            ),
            lag_seconds: gauge(
                "tallylight_compactor_lag_seconds",
                "Age of the newest published log time while there is more to publish, else 0. Near --every if all is well.",
            ),
            lag_bytes: gauge("tallylight_compactor_lag_bytes", "Bytes of the log that are not published."),
            open_partitions: gauge(
                "tallylight_compactor_open_partitions",
                "Hours that are open: more of them is expected, or something of them waits. Many: events come late.",
            ),
            complete_through: gauge(
                "tallylight_compactor_complete_through_timestamp_seconds",
                "The watermark: hours that begin before it change by late events only. 0: there is none yet.",
            ),
            state: Mutex::default(),
        }
    }

    /// A compaction was opened: counting goes on from its counts.
    pub fn opened(&self, compaction: &Compaction) {
        let mut state = self.state();
        state.before.get_or_insert(compaction.counts());
        state.mismatches = 0;
        self.show_commit(compaction);
    }

    #[expect(clippy::cast_precision_loss, reason = "a gauge is a double; milliseconds fit")]
    fn show_commit(&self, compaction: &Compaction) {
        self.open_partitions.set(compaction.open_hours() as f64);
        let complete_through = compaction.commit().and_then(|commit| commit.complete_through);
        self.complete_through.set(complete_through.map_or(0, Hour::start) as f64 / 1e3);
    }

    /// Something was read and published; so many bytes are left, or it is not known.
    pub fn published(&self, compaction: &Compaction) {
        let mut state = self.state();
        let (counts, before) = (compaction.counts(), state.before.unwrap_or_default());
        // the greater of old and new: records that are read again are not counted again
        let since = |counter: &Counter, now: u64, before: u64| counter.absolute(now.saturating_sub(before));
        let (events, events_before) = (counts.events(), before.events());
        since(&self.read, events.read, events_before.read);
        since(&self.counted, events.counted, events_before.counted);
        since(&self.duplicates, events.duplicates, events_before.duplicates);
        since(&self.bots, events.bots, events_before.bots);
        since(&self.late, counts.late, before.late);
        since(&self.client_lost, counts.client_lost, before.client_lost);
        since(&self.damaged, counts.damaged, before.damaged);
        since(&self.torn, counts.torn, before.torn);
        let mismatches = compaction.ledger_mismatches();
        self.ledger_mismatches.increment(mismatches - state.mismatches);
        state.mismatches = mismatches;
        state.published = Some(compaction.log_time()).filter(|time| *time > 0);
        self.passes.increment(1);
        self.show_commit(compaction);
    }

    /// Segments were let go of.
    pub fn released(&self, segments: usize) {
        self.released.increment(segments as u64);
    }

    /// So many bytes of the log are not published.
    pub fn behind(&self, bytes: u64) {
        let mut state = self.state();
        state.behind = bytes;
        state.behind_since = (bytes > 0).then(|| state.behind_since.unwrap_or_else(clock::now));
    }

    /// How the last pass ended.
    pub fn ended(&self, failure: Option<String>) {
        self.errors.increment(u64::from(failure.is_some()));
        self.state().failure = failure;
    }

    /// Says that all is well, or why the last pass failed.
    pub fn ready(&self) -> Result<(), String> {
        self.state().failure.clone().map_or(Ok(()), Err)
    }

    /// Brings up to date what changes with time alone.
    #[expect(clippy::cast_precision_loss, reason = "a gauge is a double")]
    pub fn refresh(&self) {
        let state = self.state();
        let since = state.behind_since.map(|since| state.published.unwrap_or(since));
        let lag = since.map_or(0, |since| clock::now().saturating_sub(since).max(0));
        self.lag_seconds.set(lag as f64 / 1e3);
        self.lag_bytes.set(state.behind as f64);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
