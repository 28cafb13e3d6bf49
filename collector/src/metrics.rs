//! `/metrics`: the ledger, and what is needed to see why it reads as it does.
//!
//! The rule kept here: every series is there from the start, at 0, with a HELP text that says what to do about it; no event adds
//! one. The names of the ledger are promised, the others are for whoever looks for a cause. Counts are kept where they
//! arise and published when somebody asks.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use metrics::{Counter, Gauge, Histogram};
use metrics_exporter_prometheus::PrometheusHandle;
use tallylight_proto::ledger::{DatagramCounts, FrontCounts};
use tallylight_proto::sources::Sources;
use tallylight_proto::{DatagramRefusal, Front, Refusal, Shed};
use tallylight_service::recorder::{counter, counters, gauge, histogram, histograms};

use crate::http::HeaderRefusal;
use crate::log::{Options, QUEUE_LEN, Status, StatusSnapshot};
use crate::stats::{SLOTS, Tally, Timing, WorkerStats};
use crate::udp::Page;

/// Samples that the recorder is given before it puts them into buckets; it keeps each one until then.
const SAMPLES: u64 = 65_536;

/// Publishes counts when asked.
pub struct Metrics {
    recorder: PrometheusHandle,
    workers: Vec<Arc<WorkerStats>>,
    /// Set when the log is there.
    log: OnceLock<Arc<Status>>,
    series: Series,
    /// What each of the timings' histograms was given so far. Locked by one scrape at a time.
    published: Mutex<[Slots; TIMINGS.len()]>,
}

/// How many there are in each bucket, and their sum in nanoseconds.
type Slots = [(u64, u64); SLOTS];

/// What the workers time, in the order of [`Series::timings`].
const TIMINGS: [fn(&WorkerStats) -> &Timing; 4] =
    [|stats| &stats.http1, |stats| &stats.http2, |stats| &stats.logged, |stats| &stats.synced];

struct Series {
    received: [Counter; Front::ALL.len()],
    logged: Counter,
    shed: [Counter; Shed::ALL.len()],
    refused: [Counter; Refusal::ALL.len()],
    /// For each front, in the order of [`outcomes`].
    outcomes: Vec<Counter>,
    debug: Counter,
    answers: [Counter; 4],
    timings: [Histogram; TIMINGS.len()],
    opened: Counter,
    connections: Gauge,
    accept_errors: Counter,
    over_peer_limit: Counter,
    refused_headers: [Counter; HeaderRefusal::ALL.len()],
    evicted: Counter,
    pushed: Counter,
    popped: Counter,
    limit: Gauge,
    log: LogSeries,
    datagrams: DatagramSeries,
}

/// The log, and the disk that it is on.
struct LogSeries {
    appended: Gauge,
    synced: Gauge,
    begun: Counter,
    sealed: Counter,
    waits: Counter,
    segments: Gauge,
    segment_size: Gauge,
    free: Gauge,
    reserve: Gauge,
    shedding: Gauge,
}

/// The datagram front's part of the ledger, and what belongs to it.
struct DatagramSeries {
    received: Counter,
    lost: Counter,
    recovered: Counter,
    duplicate: Counter,
    kernel_dropped: Counter,
    refused: [Counter; DatagramRefusal::ALL.len()],
    errors: Counter,
    sources: Gauge,
    buffer: Gauge,
}

impl Metrics {
    /// Makes all series. The recorder is installed already.
    pub fn new(recorder: PrometheusHandle, workers: Vec<Arc<WorkerStats>>) -> Self {
        let metrics =
            Self { recorder, workers, log: OnceLock::new(), series: Series::new(), published: Mutex::default() };
        metrics.publish();
        metrics
    }

    /// Shows how the log is to be kept.
    pub fn set_log_options(&self, options: &Options) {
        set(&self.series.log.segment_size, options.segment_size);
        set(&self.series.log.reserve, options.reserve);
    }

    /// Shows this log from now on.
    pub fn set_log(&self, log: Arc<Status>) {
        // there is one log a process
        let _ = self.log.set(log);
    }

    /// Shows what the kernel granted. None if no datagrams are received.
    pub fn set_receive_buffer(&self, bytes: Option<usize>) {
        set(&self.series.datagrams.buffer, bytes.unwrap_or_default() as u64);
    }

    /// The page about the sources of framed datagrams; an empty one while there is no log.
    pub fn udp_sources(&self) -> String {
        let page = self.log.get().map_or_else(
            || Page::new(&Sources::default(), 0),
            // the writer waits for whoever holds the table: it becomes text afterwards
            |log| Page::new(&log.sources(), log.now_ms()),
        );
        page.to_json()
    }

    /// Brings all series up to date.
    pub fn publish(&self) {
        if let Some(log) = self.log.get() {
            self.series.publish(&log.snapshot());
            set(&self.series.datagrams.sources, log.sources().len() as u64);
        }
        let sum = |tally: &dyn Fn(&WorkerStats) -> &Tally| self.workers.iter().map(|stats| tally(stats).get()).sum();
        let series = &self.series;
        // closed first: the difference is never negative
        let closed: u64 = sum(&|stats| &stats.closed);
        let opened: u64 = sum(&|stats| &stats.opened);
        series.opened.absolute(opened);
        set(&series.connections, opened.saturating_sub(closed));
        series.accept_errors.absolute(sum(&|stats| &stats.accept_errors));
        series.over_peer_limit.absolute(sum(&|stats| &stats.over_peer_limit));
        for (slot, counter) in series.refused_headers.iter().enumerate() {
            counter.absolute(sum(&|stats| &stats.refused_headers[slot]));
        }
        series.evicted.absolute(sum(&|stats| &stats.evicted));
        series.datagrams.errors.absolute(sum(&|stats| &stats.udp_receive_errors));
        series.debug.absolute(sum(&|stats| &stats.debug));
        for (class, counter) in series.answers.iter().enumerate() {
            counter.absolute(sum(&|stats| &stats.answers[class]));
        }
        let mut published = self.published.lock().unwrap_or_else(PoisonError::into_inner);
        for ((timing, histogram), published) in TIMINGS.iter().zip(&series.timings).zip(&mut *published) {
            self.publish_timing(timing, published, histogram);
        }
    }

    /// Gives the recorder what came since the last time: for each bucket its mean, as often as there were any.
    /// So count, sum and buckets are right, and requests need not know of the recorder.
    fn publish_timing(&self, timing: impl Fn(&WorkerStats) -> &Timing, published: &mut Slots, histogram: &Histogram) {
        let mut totals = [(0_u64, 0_u64); SLOTS];
        for stats in &self.workers {
            for (total, (count, nanos)) in totals.iter_mut().zip(timing(stats).totals()) {
                *total = (total.0 + count, total.1.wrapping_add(nanos));
            }
        }
        for (slot, published) in published.iter_mut().enumerate() {
            let (count, nanos) = totals[slot];
            let (mut more, nanos) = (count - published.0, nanos.wrapping_sub(published.1));
            if more == 0 {
                continue;
            }
            *published = totals[slot];
            let mean = mean_seconds(slot, nanos, more);
            while more > 0 {
                let now = more.min(SAMPLES);
                histogram.record_many(mean, usize::try_from(now).expect("at most SAMPLES"));
                self.recorder.run_upkeep();
                more -= now;
            }
        }
    }
}

/// The mean of what is in a bucket. A count may be seen before its time, so it is held within the bucket.
#[expect(clippy::cast_precision_loss, reason = "a mean for a histogram")]
fn mean_seconds(slot: usize, nanos: u64, count: u64) -> f64 {
    use tallylight_service::recorder::SECONDS_BUCKETS;
    let above = if slot == 0 { 0.0 } else { SECONDS_BUCKETS[slot - 1].next_up() };
    let upto = SECONDS_BUCKETS.get(slot).copied().unwrap_or(f64::MAX);
    (nanos as f64 / count as f64 / 1e9).clamp(above, upto)
}

#[expect(clippy::cast_precision_loss, reason = "gauges are doubles; positions stay below 2^53 for decades")]
fn set(gauge: &Gauge, value: u64) {
    gauge.set(value as f64);
}

/// What became of a front's events: outcome, reason, how many.
fn outcomes(counts: FrontCounts) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
    let logged = [("logged", "none", counts.logged)];
    let shed = Shed::ALL.into_iter().zip(counts.shed).map(|(reason, events)| ("shed", reason.label(), events));
    let refused = Refusal::ALL.into_iter().zip(counts.refused);
    logged.into_iter().chain(shed).chain(refused.map(|(reason, events)| ("refused", reason.label(), events)))
}

impl Series {
    fn new() -> Self {
        let [http1, http2] = histograms(
            "tallylight_http_request_duration_seconds",
            "front",
            [Front::Http1, Front::Http2].map(Front::label),
            "From a request's head, read whole, to its answer, which is written at once. What a POST waits for its sender's \
             body and for the log is in it, so for the collector's own speed look at the buckets below 1 ms, where pixels \
             are. Datagrams get no answer: see tallylight_log_delay_seconds.",
        );
        let [logged, synced] = histograms(
            "tallylight_ack_wait_seconds",
            "level",
            ["logged", "synced"],
            "What the sender of a body, read and judged, waited for its events to be in the log, or on disk. Over some \
             milliseconds the log is slow (tallylight_log_delay_seconds), or the disk (tallylight_log_sync_duration_seconds).",
        );
        Self {
            received: counters(
                "tallylight_events_received_total",
                "front",
                Front::ALL.map(Front::label),
                "Events that reached the door. Each was logged, shed or refused: in every scrape this is the sum of those.",
            ),
            logged: counter("tallylight_events_logged_total", "Events in the log, for the compactor to count."),
            shed: counters(
                "tallylight_events_shed_total",
                "reason",
                Shed::ALL.map(Shed::label),
                "Events not taken now; senders that keep theirs try again, the others have lost them. disk: make room. \
                 queue: the machine or its disk is too slow. rate: see --max-rate-per-peer. draining: see --drain-timeout.",
            ),
            refused: counters(
                "tallylight_events_refused_total",
                "reason",
                Refusal::ALL.map(Refusal::label),
                "Events never to be taken, mostly since their sender makes a mistake: add debug=1 to a request to see which.",
            ),
            outcomes: {
                const NAME: &str = "tallylight_event_outcomes_total";
                metrics::describe_counter!(
                    NAME,
                    "What became of the events of each front, and why: the ledger's totals, apart."
                );
                let of_front = |front: Front| {
                    outcomes(FrontCounts::default()).map(move |(outcome, reason, _)| {
                        metrics::counter!(NAME, "front" => front.label(), "outcome" => outcome, "reason" => reason)
                    })
                };
                Front::ALL.into_iter().flat_map(of_front).collect()
            },
            debug: counter(
                "tallylight_debug_requests_total",
                "Requests with debug=1, which record nothing: a page that goes on sending them is not counted.",
            ),
            answers: counters(
                "tallylight_http_responses_total",
                "code",
                ["2xx", "3xx", "4xx", "5xx"],
                "Answers by class of status code, whatever was asked for.",
            ),
            timings: [http1, http2, logged, synced],
            opened: counter("tallylight_http_connections_opened_total", "Connections accepted."),
            connections: gauge("tallylight_http_connections", "Connections that are open: see --max-connections."),
            accept_errors: counter(
                "tallylight_http_accept_errors_total",
                "Connections that could not be accepted, for want of descriptors most likely: see process_max_fds.",
            ),
            over_peer_limit: counter(
                "tallylight_http_connections_over_peer_limit_total",
                "Connections closed at once, since their peers had as many as --max-connections-per-peer allows.",
            ),
            refused_headers: counters(
                "tallylight_http_connections_refused_total",
                "reason",
                HeaderRefusal::ALL.map(HeaderRefusal::label),
                "Connections closed since they did not begin as --proxy-protocol wants. address: their peer is not in \
                 --trusted-proxy. malformed: no PROXY header, so see what the proxy is set to send. incomplete: not all of \
                 one in time.",
            ),
            evicted: counter(
                "tallylight_http_connections_evicted_total",
                "Connections closed that had been silent for long, to make room for others: raise --max-connections, or \
                 lower --idle-timeout, unless it is an attack.",
            ),
            pushed: counter(
                "tallylight_queue_batches_pushed_total",
                "Batches of events sent to the log's writer. What waits is this less those popped.",
            ),
            popped: counter("tallylight_queue_batches_popped_total", "Batches of events taken by the log's writer."),
            limit: gauge(
                "tallylight_queue_batches_limit",
                "Batches that may wait: with more, events are shed for the queue.",
            ),
            log: LogSeries::new(),
            datagrams: DatagramSeries::new(),
        }
    }

    fn publish(&self, now: &StatusSnapshot) {
        for (counter, front) in self.received.iter().zip(&now.counts.fronts) {
            counter.absolute(front.received);
        }
        let FrontCounts { logged, shed, refused, .. } = now.counts.events();
        for (counter, number) in self.shed.iter().zip(shed).chain(self.refused.iter().zip(refused)) {
            counter.absolute(number);
        }
        self.logged.absolute(logged);
        for (counter, (.., events)) in self.outcomes.iter().zip(now.counts.fronts.into_iter().flat_map(outcomes)) {
            counter.absolute(events);
        }
        self.pushed.absolute(now.pushed);
        self.popped.absolute(now.popped);
        set(&self.limit, QUEUE_LEN as u64);
        self.log.publish(now);
        self.datagrams.publish(&now.counts.datagrams);
    }
}

impl LogSeries {
    fn new() -> Self {
        // the log's threads record these themselves; made here, so that they are there before it is
        drop(histogram(
            "tallylight_log_delay_seconds",
            "From the door to the log's writer, by the oldest event of each batch, whichever front it came by. Over some \
             milliseconds the machine is too slow, or all segments that are ready are full (tallylight_log_segment_waits_total).",
        ));
        drop(histogram(
            "tallylight_log_sync_duration_seconds",
            "Duration of a sync of the log to disk. A power cut takes what was not synced: at most --sync-interval and this.",
        ));
        Self {
            appended: gauge(
                "tallylight_log_appended_position_bytes",
                "Position behind the last record in the memory map.",
            ),
            synced: gauge(
                "tallylight_log_synced_position_bytes",
                "Position up to which the log is on disk. If it stands still below the appended one, the disk hangs.",
            ),
            begun: counter("tallylight_log_segments_begun_total", "Segments begun."),
            sealed: counter(
                "tallylight_log_segments_sealed_total",
                "Segments sealed: full, on disk, the compactor's to release.",
            ),
            waits: counter(
                "tallylight_log_segment_waits_total",
                "Times that the log's writer waited for the next segment to be made, the first one included: if there are \
                 many, raise --segment-size.",
            ),
            segments: gauge(
                "tallylight_log_segments",
                "Segments in the log folder, without spare ones. If they grow, the compactor lags or its --retain is long.",
            ),
            segment_size: gauge("tallylight_log_segment_size_bytes", "As --segment-size says."),
            free: gauge(
                "tallylight_log_disk_free_bytes",
                "Free space on the disk of the log, looked at each second. Events are shed when a new segment would \
                 leave less than the reserve.",
            ),
            reserve: gauge(
                "tallylight_log_disk_reserve_bytes",
                "As --reserve says: left free for the compactor to finish.",
            ),
            shedding: gauge(
                "tallylight_log_shedding",
                "1 while events are shed because the log can have no further segment: make room on its disk.",
            ),
        }
    }

    fn publish(&self, now: &StatusSnapshot) {
        set(&self.appended, now.appended);
        set(&self.synced, now.synced);
        self.begun.absolute(now.begun);
        self.sealed.absolute(now.sealed);
        self.waits.absolute(now.waits);
        set(&self.segments, now.segments);
        set(&self.free, now.free);
        set(&self.shedding, u64::from(now.shedding));
    }
}

impl DatagramSeries {
    fn new() -> Self {
        Self {
            received: counter(
                "tallylight_udp_datagrams_received_total",
                "Datagrams received, whatever became of them.",
            ),
            lost: counter(
                "tallylight_udp_datagrams_lost_total",
                "Framed datagrams that were sent and are missing a second later: /udp/sources on this port says whose.",
            ),
            recovered: counter(
                "tallylight_udp_datagrams_recovered_total",
                "Datagrams counted as lost that came after all: the loss is that less this.",
            ),
            duplicate: counter(
                "tallylight_udp_datagrams_duplicate_total",
                "Datagrams that came again, and were dropped.",
            ),
            kernel_dropped: counter(
                "tallylight_udp_datagrams_kernel_dropped_total",
                "Datagrams that the kernel had no room for, framed ones counted as lost, too: raise \
                 --udp-receive-buffer and net.core.rmem_max.",
            ),
            refused: counters(
                "tallylight_udp_datagrams_refused_total",
                "reason",
                DatagramRefusal::ALL.map(DatagramRefusal::label),
                "Datagrams refused before they were decoded. tag and plain: their sender has not the key; address: see \
                 --udp-from; stale: older than 65,536 others of its source.",
            ),
            errors: counter(
                "tallylight_udp_receive_errors_total",
                "Times that the kernel failed to hand over datagrams.",
            ),
            sources: gauge(
                "tallylight_udp_sources",
                "Sources of framed datagrams that are followed, at most 1024 with a key and as many without.",
            ),
            buffer: gauge(
                "tallylight_udp_receive_buffer_bytes",
                "Receive buffer of a UDP socket as the kernel granted it, the smallest: see net.core.rmem_max.",
            ),
        }
    }

    fn publish(&self, counts: &DatagramCounts) {
        let DatagramCounts { received, lost, recovered, duplicate, kernel_dropped, refused } = counts;
        self.received.absolute(*received);
        self.lost.absolute(*lost);
        self.recovered.absolute(*recovered);
        self.duplicate.absolute(*duplicate);
        self.kernel_dropped.absolute(*kernel_dropped);
        for (counter, number) in self.refused.iter().zip(refused) {
            counter.absolute(*number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mean_stays_in_its_bucket() {
        use tallylight_service::recorder::SECONDS_BUCKETS;
        for slot in 0..SLOTS {
            for nanos in [0, 1, u64::MAX] {
                let mean = mean_seconds(slot, nanos, 1);
                assert_eq!(SECONDS_BUCKETS.partition_point(|bound| *bound < mean), slot);
            }
        }
        assert_eq!(mean_seconds(1, 40_000, 2), 0.000_02);
    }
}
