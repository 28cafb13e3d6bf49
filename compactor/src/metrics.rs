//! What an operator sees of the compactor: its part of the loss ledger, how far it lags behind, whether it is well.
//!
//! The rule: counts are those of this life of the process, and never go back, also when records are read again
//! after a failed publish.

use std::sync::{Mutex, MutexGuard, PoisonError};

use metrics::{Counter, Gauge, counter, describe_counter, describe_gauge, gauge};
use tallylight_proto::time::Millis;

use crate::commit::Counts;
use crate::compaction::Compaction;
use tallylight_host::clock;

/// Counters and gauges, and what the admin port asks for.
pub struct Metrics {
    read: Counter,
    counted: Counter,
    duplicates: Counter,
    bots: Counter,
    damaged: Counter,
    torn: Counter,
    client_lost: Counter,
    ledger_mismatches: Counter,
    passes: Counter,
    errors: Counter,
    released: Counter,
    lag_seconds: Gauge,
    lag_bytes: Gauge,
    open_hours: Gauge,
    last_commit: Gauge,
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
        let count = |name: &'static str, help: &'static str| {
            describe_counter!(name, help);
            counter!(name)
        };
        let level = |name: &'static str, help: &'static str| {
            describe_gauge!(name, help);
            gauge!(name)
        };
        Self {
            read: count("tallylight_compactor_events_read_total", "Events read from the log."),
            counted: count("tallylight_compactor_events_counted_total", "Events that count."),
            duplicates: count("tallylight_compactor_duplicate_events_total", "Copies of events that count elsewhere."),
            bots: count("tallylight_compactor_bot_events_total", "Events by declared crawlers."),
            damaged: count("tallylight_compactor_damaged_records_total", "Records of the log that are bad or gone."),
            torn: count(
                "tallylight_compactor_torn_records_total",
                "Records of the log that a power cut took before they were synced.",
            ),
            client_lost: count(
                "tallylight_compactor_client_lost_events_total",
                "Events that clients gave up, as counted events say.",
            ),
            ledger_mismatches: count(
                "tallylight_compactor_ledger_mismatches_total",
                "Ledger records in the log that do not add up.",
            ),
            passes: count("tallylight_compactor_passes_total", "Times that what was read was published."),
            errors: count("tallylight_compactor_publish_errors_total", "Passes that failed and are tried again."),
            released: count("tallylight_compactor_segments_released_total", "Segments let go of."),
            lag_seconds: level(
                "tallylight_compactor_lag_seconds",
                "Age of the newest published log time while there is more to publish, else 0.",
            ),
            lag_bytes: level("tallylight_compactor_lag_bytes", "Bytes of the log that are not published."),
            open_hours: level("tallylight_compactor_aggregates_in_memory", "Hours in memory."),
            last_commit: level("tallylight_compactor_last_commit_timestamp_seconds", "When the last commit was made."),
            state: Mutex::default(),
        }
    }

    /// A compaction was opened: counting goes on from its counts.
    pub fn opened(&self, compaction: &Compaction) {
        let mut state = self.state();
        state.before.get_or_insert(compaction.counts());
        state.mismatches = 0;
    }

    /// Something was read and published; so many bytes are left, or it is not known.
    pub fn published(&self, compaction: &Compaction, now: Millis) {
        let mut state = self.state();
        let (counts, before) = (compaction.counts(), state.before.unwrap_or_default());
        // the greater of old and new: records that are read again are not counted again
        let since = |counter: &Counter, now: u64, before: u64| counter.absolute(now.saturating_sub(before));
        let (events, events_before) = (counts.events(), before.events());
        since(&self.read, events.read, events_before.read);
        since(&self.counted, events.counted, events_before.counted);
        since(&self.duplicates, events.duplicates, events_before.duplicates);
        since(&self.bots, events.bots, events_before.bots);
        since(&self.damaged, counts.damaged, before.damaged);
        since(&self.torn, counts.torn, before.torn);
        since(&self.client_lost, counts.client_lost, before.client_lost);
        let mismatches = compaction.ledger_mismatches();
        self.ledger_mismatches.increment(mismatches - state.mismatches);
        state.mismatches = mismatches;
        state.published = Some(compaction.log_time()).filter(|time| *time > 0);
        self.passes.increment(1);
        self.open_hours.set(compaction.open_hours() as f64);
        #[expect(clippy::cast_precision_loss, reason = "a gauge is a double; milliseconds fit")]
        self.last_commit.set(now as f64 / 1e3);
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
