//! A compactor that is killed again and again, at any moment, ends with what an undisturbed one makes.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use tallylight_proto::layout;

use crate::client::{self, Click, Client, Form, mix};
use crate::harness::{Collector, Compactor, assert_audit, assert_ledger_adds_up};
use crate::{out, python, segments};

const EVENTS: u64 = 70_000;
const KILLS: usize = 16;

/// A log of small segments: four hours, some copies, some crawlers.
fn make_log(data: &Path) {
    let mut collector = Collector::start(data, &["--segment-size", "1MiB"]);
    let mut client = Client::new(collector.http);
    let click = |number: u64| Click {
        target: format!("t{}", number % 700),
        visitor: format!("v{}", mix(number) % 9000),
        age_ms: i64::try_from(mix(number) % 4).unwrap() * 3_600_000,
        value_milli: number.is_multiple_of(3).then(|| i64::try_from(mix(number) % 10_000).unwrap()),
        bot: number.is_multiple_of(97),
        ..Click::new(1 << 40, number)
    };
    for first in (0..EVENTS).step_by(250) {
        // every tenth body brings the events of an earlier one again
        let from = if first % 2500 == 0 { first / 2 } else { first };
        let clicks: Vec<Click> = (from..from + 250).map(click).collect();
        client.post("/api/beacon", &client::body(&clicks, Form::Queries), false);
    }
    assert_ledger_adds_up(&collector);
    assert!(collector.terminate().success());
}

fn compact(data: &Path, out: &Path) {
    let once = Compactor::once(data, out, &[]);
    assert!(once.status.success(), "{}", String::from_utf8_lossy(&once.stderr));
}

/// Starts a compactor and kills it after a part of this time. Whether it had more to commit.
fn kill_one(data: &Path, out: &Path, kill: usize, time: Duration) -> bool {
    let flags = if kill.is_multiple_of(2) { ["--once", "--every", "1s"] } else { ["--follow", "--every", "5ms"] };
    let folders = [OsStr::new("--data"), data.as_os_str(), OsStr::new("--out"), out.as_os_str()];
    let admin = [OsStr::new("--admin"), OsStr::new("off")];
    let arguments: Vec<&OsStr> = flags.iter().map(OsStr::new).chain(folders).chain(admin).collect();
    let mut compactor = Compactor::spawn(&arguments);
    // the moment is what this is about, so here a time is waited for
    let permille = u32::try_from(mix(kill as u64) % 1000).unwrap();
    thread::sleep(time * permille / 1000);
    let had_ended = compactor.ended().is_some();
    compactor.kill9();
    !had_ended
}

#[test]
fn a_compactor_killed_at_any_moments_ends_with_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    make_log(&path("made"));
    let log = segments::segments(&path("made"));
    assert!(log.len() >= KILLS / 2, "{log:?}");

    let started = Instant::now();
    compact(&path("made"), &path("undisturbed"));
    let time = started.elapsed() / 4;

    let (data, out) = (path("data"), path("out"));
    let mut alive = 0;
    for kill in 0..KILLS {
        // the log grows on the way, so that each of them has something to do
        segments::copy(&path("made"), &data, log.len().min(1 + kill / 2));
        alive += usize::from(kill_one(&data, &out, kill, time));
        assert_audit(&data, &out);
    }
    assert!(alive > KILLS / 2, "only {alive} were killed at work");
    segments::copy(&path("made"), &data, log.len());
    compact(&path("data"), &path("out"));
    assert_audit(&data, &out);
    assert_audit(&path("made"), &path("undisturbed"));

    let hours = out::files(&path("undisturbed"), layout::HOURLY);
    assert_eq!(hours.len(), 4, "{hours:?}");
    assert_eq!(out::files(&path("out"), layout::HOURLY), hours);
    for hour in hours {
        let [ours, theirs] =
            ["out", "undisturbed"].map(|out| fs::read(path(out).join(layout::HOURLY).join(&hour)).unwrap());
        assert!(ours == theirs, "{} differs", hour.display());
    }
    let same = python::read("same_rows.py", &[path("out"), path("undisturbed")]);
    assert_eq!(same["differing"], serde_json::json!([]), "{same}");
    let [ours, theirs] =
        [("data", "out"), ("made", "undisturbed")].map(|(data, out)| out::commit(&path(data), &path(out)).unwrap());
    assert_eq!((&ours["counts"], &ours["position"]), (&theirs["counts"], &theirs["position"]));
    let counts = &ours["counts"];
    let distinct = counts["counted"].as_u64().unwrap() + counts["bots"].as_u64().unwrap();
    assert_eq!(same["rows"], distinct);
    assert_eq!(counts["read"], EVENTS, "{counts}");
    assert_eq!(counts["duplicates"], EVENTS - distinct);
    assert!(counts["duplicates"].as_u64().unwrap() > 1000, "{counts}");
}
