//! What must be true at the end: the journals, both outputs, log and ledger tell the same.

use std::path::Path;

use serde_json::{Value, json};

use super::load::Tally;
use crate::harness::datagrams::Source;
use crate::harness::{Collector, Compactor, SourceReport, assert_datagrams_add_up, wait_for};
use crate::python;

/// What was found, for the report.
pub struct Found {
    /// Rows of `events`.
    pub rows: u64,
    /// Of them, events of which their senders knew nothing.
    pub unknown: u64,
    /// Datagrams that arrived, and those that are lost, over all sources.
    pub datagrams: u64,
    pub lost_datagrams: u64,
    /// The last line of the audit.
    pub audit: String,
}

/// Waits until nothing is missing any longer of any source that is not lost, and says what is known of each.
pub fn settle_datagrams(collector: &Collector, mut sources: Vec<Source>) -> Vec<(Source, SourceReport)> {
    for source in &mut sources {
        wait_for("the last heartbeat", || {
            source.heartbeat();
            let sources = collector.sources();
            sources.get(None, &source.name()).filter(|report| report.next == source.next).map(|_| ())
        });
    }
    let reports = assert_datagrams_add_up(collector);
    let with_report = |source: Source| {
        let report = reports.get(None, &source.name()).unwrap().clone();
        (source, report)
    };
    sources.into_iter().map(with_report).collect()
}

/// Everything adds up. Both programs have ended, and the log is compacted.
pub fn judge(data: &Path, out: &Path, journals: &Path, tally: &Tally, sources: &[(Source, SourceReport)]) -> Found {
    let run = |command: &str| {
        let folders = ["--data".as_ref(), data.as_os_str(), "--out".as_ref(), out.as_os_str()];
        let output = Compactor::run(&[&[command.as_ref()], &folders[..]].concat());
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{command}: {text}{}", String::from_utf8_lossy(&output.stderr));
        text
    };
    run("verify");
    let audit = run("audit");
    let audit = audit.lines().last().unwrap().to_owned();

    let names: Vec<String> = sources.iter().map(|(source, _)| source.name()).collect();
    let arguments = [out, journals].map(|path| path.to_str().unwrap().to_owned());
    let found = python::read("journals.py", &[&arguments[..], &names[..]].concat());
    for what in ["lost", "twice", "not_sent", "sent_twice"] {
        assert_eq!(found[what]["count"], 0, "{what}: {found}");
    }
    let level = |name: &str, what: &str| found["levels"][name][what].as_u64().unwrap_or(0);
    let [logged, synced, unknown] =
        [&tally.logged, &tally.synced, &tally.unknown].map(|count| count.load(super::Relaxed));
    assert_eq!((level("logged", "counted"), level("synced", "counted")), (logged, synced), "{found}");
    assert_eq!(level("unknown", "sent"), unknown, "{found}");

    let rows_of = |name: &str| found["by_site"][name].as_u64().unwrap_or(0);
    for (source, report) in sources {
        // what was received and is no event was shed, which the audit adds up
        assert_eq!((report.first, report.next), (1, source.next), "{report:?}");
        assert_eq!(rows_of(&source.name()), report.events, "{report:?}");
        assert!(report.events <= report.received, "{report:?}");
    }
    let rows = found["rows"].as_u64().unwrap();
    let of_sources: u64 = names.iter().map(|name| rows_of(name)).sum();
    assert_eq!(rows, logged + synced + level("unknown", "counted") + of_sources, "{found}");

    let agree: Value = python::read("agree.py", &[out]);
    assert_eq!(
        (&agree["differing"], &agree["misplaced"], &agree["numbers"]["rows"]),
        (&json!([]), &json!(0), &json!(rows))
    );
    let sum = |of: fn(&SourceReport) -> u64| sources.iter().map(|(_, report)| of(report)).sum();
    Found {
        rows,
        unknown: level("unknown", "counted"),
        datagrams: sum(|report| report.received),
        lost_datagrams: sum(|report| report.lost - report.recovered),
        audit,
    }
}
