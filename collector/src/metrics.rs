//! `/metrics`: the ledger, and what is needed to see why it reads as it does.
//!
//! The rule kept here: every series is there from the start, at 0, and has a HELP text; the names of the ledger
//! are promised, the others are for whoever looks for a cause. Counts are kept where they arise and published
//! when somebody asks.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use metrics::{Counter, Gauge, Histogram};
use metrics_exporter_prometheus::PrometheusHandle;
use tallylight_proto::ledger::{DatagramCounts, FrontCounts};
use tallylight_proto::sources::Sources;
use tallylight_proto::{DatagramRefusal, Front, Refusal, Shed};

use crate::log::{QUEUE_LEN, Status, StatusSnapshot};
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
    /// What the histograms were given so far. Locked by one scrape at a time.
    published: Mutex<Published>,
}

struct Series {
    received: [Counter; Front::ALL.len()],
    logged: Counter,
    shed: [Counter; Shed::ALL.len()],
    refused: [Counter; Refusal::ALL.len()],
    debug: Counter,
    answers: [Counter; 4],
    opened: Counter,
    connections: Gauge,
    accept_errors: Counter,
    over_peer_limit: Counter,
    evicted: Counter,
    pushed: Counter,
    popped: Counter,
    limit: Gauge,
    appended: Gauge,
    synced: Gauge,
    free: Gauge,
    segments: Counter,
    sealed: Counter,
    waits: Counter,
    shedding: Gauge,
    datagrams: DatagramSeries,
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

#[derive(Default)]
struct Published {
    http1: [(u64, u64); SLOTS],
    http2: [(u64, u64); SLOTS],
    logged: [(u64, u64); SLOTS],
    synced: [(u64, u64); SLOTS],
}

impl Metrics {
    /// Makes all series. The recorder is installed already.
    pub fn new(recorder: PrometheusHandle, workers: Vec<Arc<WorkerStats>>) -> Self {
        describe();
        // the log records these itself; made here too, so that they are there before it is
        drop(metrics::histogram!("tallylight_log_delay_seconds"));
        drop(metrics::histogram!("tallylight_log_sync_duration_seconds"));
        let published = Mutex::default();
        let metrics = Self { recorder, workers, log: OnceLock::new(), series: Series::new(), published };
        metrics.publish();
        metrics
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
            self.publish_log(&log.snapshot());
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
        series.evicted.absolute(sum(&|stats| &stats.evicted));
        series.datagrams.errors.absolute(sum(&|stats| &stats.udp_receive_errors));
        series.debug.absolute(sum(&|stats| &stats.debug));
        for (class, counter) in series.answers.iter().enumerate() {
            counter.absolute(sum(&|stats| &stats.answers[class]));
        }

        let mut published = self.published.lock().unwrap_or_else(PoisonError::into_inner);
        let Published { http1, http2, logged, synced } = &mut *published;
        self.publish_timing(|stats| &stats.http1, http1, &duration(Front::Http1));
        self.publish_timing(|stats| &stats.http2, http2, &duration(Front::Http2));
        self.publish_timing(|stats| &stats.logged, logged, &ack_wait("logged"));
        self.publish_timing(|stats| &stats.synced, synced, &ack_wait("synced"));
    }

    fn publish_log(&self, now: &StatusSnapshot) {
        let series = &self.series;
        for (counter, front) in series.received.iter().zip(&now.counts.fronts) {
            counter.absolute(front.received);
        }
        let FrontCounts { logged, shed, refused, .. } = now.counts.events();
        for (counter, number) in series.shed.iter().zip(shed).chain(series.refused.iter().zip(refused)) {
            counter.absolute(number);
        }
        series.logged.absolute(logged);
        series.datagrams.publish(&now.counts.datagrams);
        series.pushed.absolute(now.pushed);
        series.popped.absolute(now.popped);
        series.segments.absolute(now.segments);
        series.sealed.absolute(now.sealed);
        series.waits.absolute(now.waits);
        set(&series.appended, now.appended);
        set(&series.synced, now.synced);
        set(&series.free, now.free);
        set(&series.limit, QUEUE_LEN as u64);
        set(&series.shedding, u64::from(now.shedding));
    }

    /// Gives the recorder what came since the last time: for each bucket its mean, as often as there were any.
    /// So count, sum and buckets are right, and requests need not know of the recorder.
    fn publish_timing(
        &self,
        timing: impl Fn(&WorkerStats) -> &Timing,
        published: &mut [(u64, u64); SLOTS],
        histogram: &Histogram,
    ) {
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

fn duration(front: Front) -> Histogram {
    metrics::histogram!("tallylight_http_request_duration_seconds", "front" => front.label())
}

fn ack_wait(level: &'static str) -> Histogram {
    metrics::histogram!("tallylight_ack_wait_seconds", "level" => level)
}

impl Series {
    fn new() -> Self {
        use metrics::{counter, gauge};
        Self {
            received: Front::ALL.map(|front| counter!("tallylight_events_received_total", "front" => front.label())),
            logged: counter!("tallylight_events_logged_total"),
            shed: Shed::ALL.map(|reason| counter!("tallylight_events_shed_total", "reason" => reason.label())),
            refused: Refusal::ALL.map(|reason| counter!("tallylight_events_refused_total", "reason" => reason.label())),
            debug: counter!("tallylight_debug_requests_total"),
            answers: ["2xx", "3xx", "4xx", "5xx"]
                .map(|code| counter!("tallylight_http_responses_total", "code" => code)),
            opened: counter!("tallylight_http_connections_opened_total"),
            connections: gauge!("tallylight_http_connections"),
            accept_errors: counter!("tallylight_http_accept_errors_total"),
            over_peer_limit: counter!("tallylight_http_connections_over_peer_limit_total"),
            evicted: counter!("tallylight_http_connections_evicted_total"),
            pushed: counter!("tallylight_queue_batches_pushed_total"),
            popped: counter!("tallylight_queue_batches_popped_total"),
            limit: gauge!("tallylight_queue_batches_limit"),
            appended: gauge!("tallylight_log_appended_position_bytes"),
            synced: gauge!("tallylight_log_synced_position_bytes"),
            free: gauge!("tallylight_log_disk_free_bytes"),
            segments: counter!("tallylight_log_segments_begun_total"),
            sealed: counter!("tallylight_log_segments_sealed_total"),
            waits: counter!("tallylight_log_segment_waits_total"),
            shedding: gauge!("tallylight_log_shedding"),
            datagrams: DatagramSeries::new(),
        }
    }
}

impl DatagramSeries {
    fn new() -> Self {
        use metrics::{counter, gauge};
        Self {
            received: counter!("tallylight_udp_datagrams_received_total"),
            lost: counter!("tallylight_udp_datagrams_lost_total"),
            recovered: counter!("tallylight_udp_datagrams_recovered_total"),
            duplicate: counter!("tallylight_udp_datagrams_duplicate_total"),
            kernel_dropped: counter!("tallylight_udp_datagrams_kernel_dropped_total"),
            refused: DatagramRefusal::ALL
                .map(|reason| counter!("tallylight_udp_datagrams_refused_total", "reason" => reason.label())),
            errors: counter!("tallylight_udp_receive_errors_total"),
            sources: gauge!("tallylight_udp_sources"),
            buffer: gauge!("tallylight_udp_receive_buffer_bytes"),
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

/// The HELP texts.
fn describe() {
    use metrics::{describe_counter, describe_gauge, describe_histogram};
    for (name, help) in [
        ("tallylight_events_received_total", "Events that reached the door, by front."),
        ("tallylight_events_logged_total", "Events in the log."),
        ("tallylight_events_shed_total", "Events not taken now, by reason: the sender may try again."),
        ("tallylight_events_refused_total", "Events never to be taken, by reason."),
        ("tallylight_debug_requests_total", "Requests with debug=1, which record nothing."),
        ("tallylight_http_responses_total", "Answers by class of status code."),
        ("tallylight_http_connections_opened_total", "Connections accepted."),
        ("tallylight_http_accept_errors_total", "Connections that could not be accepted."),
        (
            "tallylight_http_connections_over_peer_limit_total",
            "Connections closed at once, since their peers had as many as they may.",
        ),
        (
            "tallylight_http_connections_evicted_total",
            "Connections closed that had been silent for long, to make room for others: see --max-connections.",
        ),
        ("tallylight_queue_batches_pushed_total", "Batches sent to the log writer."),
        ("tallylight_queue_batches_popped_total", "Batches taken by the log writer."),
        ("tallylight_log_segments_begun_total", "Segments begun."),
        ("tallylight_log_segments_sealed_total", "Segments sealed."),
        ("tallylight_log_segment_waits_total", "Times the log writer waited for the next segment."),
        ("tallylight_udp_datagrams_received_total", "Datagrams received."),
        ("tallylight_udp_datagrams_lost_total", "Datagrams that were sent and never arrived."),
        ("tallylight_udp_datagrams_recovered_total", "Datagrams counted as lost that arrived after all."),
        ("tallylight_udp_datagrams_duplicate_total", "Datagrams that arrived again and were dropped."),
        ("tallylight_udp_datagrams_kernel_dropped_total", "Datagrams that the kernel had no room for."),
        ("tallylight_udp_datagrams_refused_total", "Datagrams refused before they were decoded, by reason."),
        ("tallylight_udp_receive_errors_total", "Times that datagrams could not be received."),
    ] {
        describe_counter!(name, help);
    }
    for (name, help) in [
        ("tallylight_http_connections", "Connections that are open."),
        ("tallylight_queue_batches_limit", "Batches that may wait for the log writer: pushed less popped, at most."),
        ("tallylight_log_appended_position_bytes", "Position behind the last record in the memory map."),
        ("tallylight_log_synced_position_bytes", "Position up to which the log is on disk."),
        ("tallylight_log_disk_free_bytes", "Free space on the disk of the log, when last looked at."),
        ("tallylight_udp_sources", "Sources of framed datagrams that are followed."),
        (
            "tallylight_udp_receive_buffer_bytes",
            "Receive buffer of a UDP socket as the kernel granted it, the smallest.",
        ),
        ("tallylight_log_shedding", "1 while events are shed because the log can have no further segment."),
    ] {
        describe_gauge!(name, help);
    }
    for (name, help) in [
        ("tallylight_http_request_duration_seconds", "From a request's head to its answer, by front."),
        ("tallylight_ack_wait_seconds", "Time that a body's events took to be in the log, or on disk."),
        ("tallylight_log_delay_seconds", "From the door to the log, a batch at a time."),
        ("tallylight_log_sync_duration_seconds", "Duration of a sync to disk."),
    ] {
        describe_histogram!(name, help);
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
