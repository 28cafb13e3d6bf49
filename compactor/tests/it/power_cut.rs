//! Power cuts after the compactor had run: what it published from records that the log then lost stays, and counts
//! once, whatever is sent again.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tallylight_collector::log::{Log, Options};

use crate::client::{self, Click, Client, Form};
use crate::harness::{Collector, Compactor, assert_audit, assert_ledger_adds_up, wait_for};
use crate::segments::{self, Marks};
use crate::testlog::{self, START, TestLog};
use crate::{out, python};

/// Nothing is synced but what asks for it.
const FLAGS: [&str; 4] = ["--segment-size", "1MiB", "--sync-interval", "1h"];

/// These events, of a target of their own.
fn clicks(target: &str, numbers: std::ops::Range<u64>) -> Vec<Click> {
    let click = |number| Click { target: target.into(), visitor: format!("v{number}"), ..Click::new(1 << 40, number) };
    numbers.map(click).collect()
}

fn post(collector: &Collector, ack: &str, clicks: &[Click]) {
    let mut client = Client::new(collector.http);
    for batch in clicks.chunks(250) {
        client.post(&format!("/api/beacon?ack={ack}"), &client::body(batch, Form::Queries), false);
    }
    assert_eq!((client.turned_away, client.unanswered), (0, 0));
}

/// How the compactor ran before the power went.
#[derive(Clone, Copy, Debug)]
enum Ran {
    Once,
    FollowedAndKilled,
}

fn compact(data: &Path, out: &Path, ran: Ran) {
    match ran {
        Ran::Once => once(data, out),
        Ran::FollowedAndKilled => {
            let mut compactor = Compactor::follow(data, out, &["--every", "100ms"]);
            wait_for("the hour's aggregate", || (out::events_of_target(out, "logged") == 1500).then_some(()));
            compactor.kill9();
        }
    }
}

fn once(data: &Path, out: &Path) {
    let output = Compactor::once(data, out, &[]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Events, duplicates and rows of `events`, of a target.
fn of_target(totals: &Value, target: &str) -> [u64; 3] {
    ["events", "duplicates", "rows"].map(|name| totals["targets"][target][name].as_u64().unwrap_or(0))
}

#[test]
fn what_no_source_tells_is_not_taken_from_the_sum_of_a_later_record() {
    let folder = testlog::folder();
    let mut log = TestLog::new(folder.path(), 1 << 20);
    // what told which source they are of is torn
    log.counts.datagrams.duplicate = 3;
    log.ledger(START);
    log.commit();
    let options = Options {
        data: folder.path().to_owned(),
        node: log.node,
        segment_size: 1 << 20,
        sync_interval: Duration::from_secs(1),
        reserve: 0,
        watchdog: Default::default(),
    };
    let (log, recovered) = Log::start(options, |error| panic!("{error}")).unwrap();
    log.finish();
    assert_eq!(recovered.counts.datagrams.duplicate, 0, "the copies would be counted again");
}

fn the_power_goes(ran: Ran, marks: Marks) {
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (folder.path().join("data"), folder.path().join("out"));
    let (synced, logged, later) =
        (clicks("synced", 0..12_000), clicks("logged", 12_000..13_500), clicks("later", 13_500..25_000));

    let mut collector = Collector::start(&data, &FLAGS);
    post(&collector, "synced", &synced);
    post(&collector, "logged", &logged);
    // what the collector has not synced is compacted when it is dead
    collector.kill9();
    compact(&data, &out, ran);
    let published = ["synced", "logged"].map(|target| out::events_of_target(&out, target));
    assert_eq!(published, [12_000, 1500], "the compactor syncs what it publishes");
    let position = |commit: Option<Value>| commit.map_or(0, |commit| commit["position"].as_u64().unwrap());
    let committed = position(out::commit(&data, &out));

    assert_audit(&data, &out);
    let taken = segments::cut_power(&data, marks);
    assert!(taken > 1500 * 100, "{taken} bytes: the cut took what was not synced");
    assert_audit(&data, &out);
    let left = segments::read(&data);
    assert!((12_000..13_500).contains(&left.events), "{left:?}");

    // clients send again what had no synced acknowledgement, and go on
    collector.start_again();
    post(&collector, "synced", &logged);
    post(&collector, "logged", &later);
    assert_ledger_adds_up(&collector);
    assert!(collector.terminate().success());
    assert_audit(&data, &out);
    once(&data, &out);

    assert_audit(&data, &out);
    let after = python::read("totals.py", &[&out]);
    assert_eq!(of_target(&after, "synced"), [12_000, 0, 12_000]);
    assert_eq!(of_target(&after, "later"), [11_500, 0, 11_500], "nothing new is skipped");
    let [events, duplicates, rows] = of_target(&after, "logged");
    assert_eq!([events, duplicates], [1500, 1500], "sent again, and known");
    assert_eq!(rows, 1500, "what was counted beyond the collector's syncs went out with its rows");
    for name in ["rows", "ids", "positions"] {
        assert_eq!(after["events"][name], 23_500 + rows, "{name}: {after}");
    }
    let commit = out::commit(&data, &out).unwrap();
    assert_eq!((&commit["counts"]["damaged"], &commit["counts"]["duplicates"]), (&0.into(), &1500.into()), "{commit}");
    assert!(position(Some(commit)) > committed);
    let verify = Compactor::run(&["verify".as_ref(), "--data".as_ref(), data.as_os_str()]);
    assert!(verify.status.success(), "torn is no damage: {}", String::from_utf8_lossy(&verify.stdout));

    // and all of it again changes nothing
    once(&data, &out);
    assert_audit(&data, &out);
    assert_eq!(python::read("totals.py", &[&out]), after);
}

#[test]
fn after_a_power_cut_what_was_published_counts_once_and_nothing_new_is_skipped() {
    the_power_goes(Ran::Once, Marks::Stay);
}

#[test]
fn after_a_power_cut_that_takes_the_committed_mark_too_nothing_new_is_skipped() {
    the_power_goes(Ran::Once, Marks::GoBack);
}

#[test]
fn after_a_power_cut_a_follower_that_was_killed_goes_on_where_it_was() {
    the_power_goes(Ran::FollowedAndKilled, Marks::Stay);
}

#[test]
fn after_a_power_cut_that_takes_the_committed_mark_too_a_killed_follower_goes_on() {
    the_power_goes(Ran::FollowedAndKilled, Marks::GoBack);
}
