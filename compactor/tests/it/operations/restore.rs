//! Backups that are taken while both programs run, and what is restored from them.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;

use serde_json::Value;

use super::page::{Operator, blocks};
use super::send;
use crate::harness::{Collector, Compactor, Over, assert_audit, wait_for};
use crate::python;

const COLLECTOR: [&str; 2] = ["--segment-size=1MiB", "--reserve=1MiB"];
const COMPACTOR: [&str; 2] = ["--every", "50ms"];

/// What is counted, which is so many different events.
fn assert_counted(out: &Path, events: u64) -> Value {
    let totals = python::read("totals.py", &[out]);
    assert_eq!([&totals["hourly"]["events"], &totals["events"]["rows"], &totals["events"]["ids"]], [events; 3]);
    totals
}

/// Everything that waits is compacted, and adds up.
fn end(collector: &mut Collector, compactor: &mut Compactor, out: &Path) {
    assert!(collector.terminate().success() && compactor.terminate().success());
    let once = Compactor::once(&collector.data, out, &[]);
    assert!(once.status.success(), "{}", String::from_utf8_lossy(&once.stderr));
    assert_audit(&collector.data, out);
}

#[test]
fn what_is_restored_from_a_backup_has_all_from_before_it_and_counts_nothing_twice() {
    let ([backup], [lost_output, lost_all]) = (blocks("Backup"), blocks("Restore"));
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (folder.path().join("data"), folder.path().join("out"));
    let operator = Operator::of(&data, &out).with("BACKUP", folder.path().join("backup"));
    let mut collector = Collector::start(&data, &COLLECTOR);
    let mut compactor = Compactor::follow(&data, &out, &COMPACTOR);

    // two backups, of which the younger one is restored; events come all the time
    let (sent, over) = (AtomicU64::new(0), Over::default());
    let acknowledged = |least: u64| wait_for("events", || Some(sent.load(Relaxed)).filter(|sent| *sent >= least));
    let (before, after) = thread::scope(|scope| {
        let stop_sending = over.when_dropped();
        scope.spawn(|| {
            while !over.is_over() {
                let begin = sent.load(Relaxed);
                send(collector.http, "t", begin..begin + 100);
                sent.store(begin + 100, Relaxed);
            }
        });
        acknowledged(10_000);
        wait_for("an hour", || out.join("hourly").is_dir().then_some(()));
        operator.runs(&backup);
        // before it would by itself, it commits
        assert!(compactor.terminate().success());
        compactor = Compactor::follow(&data, &out, &COMPACTOR);
        let before = acknowledged(20_000);
        operator.runs(&backup);
        let after = acknowledged(0) + 100;
        acknowledged(after + 10_000);
        drop(stop_sending);
        (before, after)
    });
    let sent = sent.into_inner();
    assert_eq!(fs::read_dir(folder.path().join("backup")).unwrap().count(), 2, "each under its date, and no other");

    // the output goes: nothing is lost
    assert!(compactor.terminate().success());
    operator.runs(&lost_output);
    wait_for("all to be synced", || {
        let once = Compactor::once(&data, &out, &[]);
        assert!(once.status.success(), "{}", String::from_utf8_lossy(&once.stderr));
        (python::read("totals.py", &[&out])["hourly"]["events"] == sent).then_some(())
    });
    assert_counted(&out, sent);
    assert_audit(&data, &out);

    // all goes: what came before the backup is there, to an event; what comes again counts once
    collector.kill9();
    for folder in [&data, &out] {
        fs::remove_dir_all(folder).unwrap();
        fs::create_dir(folder).unwrap();
    }
    operator.runs(&lost_all);
    let totals = python::read("totals.py", &[&out]);
    let restored = totals["hourly"]["events"].as_u64().unwrap();
    assert!((before..=after).contains(&restored), "{before} to {after}: {totals}");
    assert_counted(&out, restored);
    collector.start_again();
    let mut compactor = Compactor::follow(&data, &out, &COMPACTOR);
    send(collector.http, "t", 0..sent);
    end(&mut collector, &mut compactor, &out);
    let totals = assert_counted(&out, sent);
    // a record that was copied before the mark that is behind it the collector finds when it recovers
    assert!((restored..=after).contains(&totals["hourly"]["duplicates"].as_u64().unwrap()), "{restored}: {totals}");

    // the log goes: another node counts on beside what is there, and knows no ids
    fs::remove_dir_all(&data).unwrap();
    collector.start_again();
    let mut compactor = Compactor::follow(&data, &out, &COMPACTOR);
    send(collector.http, "t", 0..1000);
    end(&mut collector, &mut compactor, &out);
    let totals = python::read("totals.py", &[&out]);
    assert_eq!((&totals["hourly"]["events"], &totals["events"]["ids"]), (&(sent + 1000).into(), &sent.into()));
}
