//! The metrics recorder of a program.
//!
//! The rule kept here: [`install`] comes before any handle is made. A `metrics::Counter` made earlier belongs
//! to no recorder and counts nothing, for ever and without a word.
//!
//! [`counter`] and its like make handles: a name stands in one place, with the HELP text that says what to do about it. A
//! label's values are all given when the handles are made, so that there are never more series than at the start.
//!
//! Histograms keep every sample until they are drained: [`AdminServer::serve`](crate::AdminServer::serve)
//! drains them each few seconds, so a program that records histograms needs an admin port.

use metrics::{Counter, Gauge, Histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use thiserror::Error;

/// Upper bounds of histograms whose name ends in `_seconds`: three a decade from 10 µs, where the wait for the
/// log lies, to 30 s, where a disk is broken.
pub const SECONDS_BUCKETS: [f64; 20] = [
    0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25,
    0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

/// Upper bounds of all other histograms (bytes, events a batch): powers of four up to 64 Mi.
pub const COUNT_BUCKETS: [f64; 14] = [
    1.0,
    4.0,
    16.0,
    64.0,
    256.0,
    1_024.0,
    4_096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
];

/// The recorder could not be made the program's.
#[derive(Debug, Error)]
#[error("cannot install the metrics recorder")]
pub struct RecorderError {
    /// A second recorder, or buckets that are none.
    #[from]
    source: BuildError,
}

/// Makes a Prometheus recorder the program's own. To be called once, before any metrics handle is made.
///
/// # Errors
/// If a recorder was installed before.
pub fn install() -> Result<PrometheusHandle, RecorderError> {
    Ok(builder()?.install_recorder()?)
}

/// The recorder's settings. Without buckets a histogram would be rendered as a summary, which cannot be
/// added up over machines.
fn builder() -> Result<PrometheusBuilder, BuildError> {
    PrometheusBuilder::new()
        .set_buckets(&COUNT_BUCKETS)?
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS_BUCKETS)
}

/// A counter, at 0.
pub fn counter(name: &'static str, help: &'static str) -> Counter {
    metrics::describe_counter!(name, help);
    metrics::counter!(name)
}

/// A counter for each value of a label.
pub fn counters<const N: usize>(
    name: &'static str,
    label: &'static str,
    values: [&'static str; N],
    help: &'static str,
) -> [Counter; N] {
    metrics::describe_counter!(name, help);
    values.map(|value| metrics::counter!(name, label => value))
}

/// A gauge, at 0.
pub fn gauge(name: &'static str, help: &'static str) -> Gauge {
    metrics::describe_gauge!(name, help);
    metrics::gauge!(name)
}

/// A histogram of nothing.
pub fn histogram(name: &'static str, help: &'static str) -> Histogram {
    metrics::describe_histogram!(name, help);
    metrics::histogram!(name)
}

/// A histogram for each value of a label.
pub fn histograms<const N: usize>(
    name: &'static str,
    label: &'static str,
    values: [&'static str; N],
    help: &'static str,
) -> [Histogram; N] {
    metrics::describe_histogram!(name, help);
    values.map(|value| metrics::histogram!(name, label => value))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A recorder that is nobody's: for tests, which share one process.
    pub(crate) fn local() -> metrics_exporter_prometheus::PrometheusRecorder {
        builder().unwrap().build_recorder()
    }

    #[test]
    fn every_histogram_has_buckets_of_its_kind_and_none_is_a_summary() {
        let recorder = local();
        metrics::with_local_recorder(&recorder, || {
            metrics::histogram!("a_wait_seconds").record(0.000_04);
            metrics::histogram!("a_batch_events").record(100.0);
        });
        let text = recorder.handle().render();
        assert!(text.contains("# TYPE a_wait_seconds histogram"), "{text}");
        assert!(text.contains("a_wait_seconds_bucket{le=\"0.00005\"} 1"), "{text}");
        assert!(text.contains("a_wait_seconds_bucket{le=\"0.000025\"} 0"), "{text}");
        assert!(text.contains("a_batch_events_bucket{le=\"64\"} 0"), "{text}");
        assert!(text.contains("a_batch_events_bucket{le=\"256\"} 1"), "{text}");
    }

    #[test]
    fn bounds_of_buckets_rise() {
        assert!(SECONDS_BUCKETS.is_sorted() && COUNT_BUCKETS.is_sorted());
    }
}
