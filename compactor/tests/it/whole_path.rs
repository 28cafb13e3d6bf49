//! From many clients to Parquet, through kills on both sides: what was acknowledged counts once, whoever reads it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::Duration;

use crate::crowd::{CLIENTS, Crowd, KINDS, Sent};
use crate::harness::{
    Collector, Compactor, assert_audit, assert_compactor_ledger_adds_up, assert_ledger_adds_up, wait_for_within,
};
use crate::{out, python, segments};

/// How long a million events may take, in a debug build on a busy machine.
const LONG: Duration = Duration::from_secs(300);

#[test]
fn a_million_events_through_four_kills_count_once_each_whoever_reads_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = Path::new(folder.path());
    let crowd = Crowd::of(1_000_000);
    compact_through_kills(&crowd, path, &["--segment-size", "16MiB"], &["--every", "1s"]);

    let (sent, out) = (crowd.sent(), path.join("out"));
    let report = assert_audit(&path.join("data"), &out);
    assert!(report["lives"][0]["note"].as_str().unwrap().ends_with("1 ended in order, 2 killed"), "{report}");
    let log = segments::read(&path.join("data"));
    assert_eq!(log.ledger.unwrap().counts.events().logged, log.events, "the collector counts over all its lives");
    assert_counts(&crowd, &path.join("data"), &out, &sent);
    assert_readers_agree(&crowd, &out, &sent);
    assert_uniques(&out);
}

#[test]
fn segments_that_are_used_again_through_four_kills_lose_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = Path::new(folder.path());
    let crowd = Crowd::of(200_000);
    compact_through_kills(&crowd, path, &["--segment-size", "1MiB"], &["--every", "50ms", "--retain", "0s"]);

    let (sent, out) = (crowd.sent(), path.join("out"));
    let left = segments::segments(&path.join("data"));
    assert!(left.len() < 10, "of some fifty segments only the last are left: {left:?}");
    assert_counts(&crowd, &path.join("data"), &out, &sent);
    assert_readers_agree(&crowd, &out, &sent);
}

/// All that the crowd sends goes through both programs, each of which is killed twice, into `out`.
fn compact_through_kills(crowd: &Crowd, folder: &Path, collector_flags: &[&str], compactor_flags: &[&str]) {
    let (data, out) = (folder.join("data"), folder.join("out"));
    let mut collector = Collector::start(&data, collector_flags);
    let follow = || Compactor::follow(&data, &out, compactor_flags);
    let mut compactor = follow();

    let addr = collector.http;
    let unanswered: u64 = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|first| scope.spawn(move || crowd.send(addr, first))).collect();
        kill_on_the_way(crowd, &mut collector, &mut compactor, &out, follow);
        clients.into_iter().map(|client| client.join().unwrap()).sum()
    });
    assert_eq!(crowd.acknowledged.load(Relaxed), crowd.events);
    assert!(unanswered >= 2, "the kills hit nobody: {unanswered}");

    assert_ledger_adds_up(&collector);
    assert_eq!(collector.terminate().code(), Some(0), "{}", collector.stderr());
    assert_compactor_ledger_adds_up(&compactor);
    assert_eq!(compactor.terminate().code(), Some(0), "{}", compactor.stderr());
    let once = Compactor::once(&data, &out, compactor_flags);
    assert!(once.status.success(), "{}", String::from_utf8_lossy(&once.stderr));
    for stderr in [collector.stderr(), compactor.stderr(), String::from_utf8_lossy(&once.stderr).into_owned()] {
        assert!(!stderr.contains("ERROR"), "data lost, or somebody must act: {stderr}");
    }
    assert_audit(&data, &out);
}

/// Kills each of both programs twice while the clients send.
fn kill_on_the_way(
    crowd: &Crowd,
    collector: &mut Collector,
    compactor: &mut Compactor,
    out: &Path,
    follow: impl Fn() -> Compactor,
) {
    for (share, kills_collector) in [(15, true), (35, false), (50, true), (75, false)] {
        let what = format!("{share} % of the events");
        let reached = || crowd.acknowledged.load(Relaxed) * 100 >= crowd.events * share;
        wait_for_within(LONG, &what, || reached().then_some(()));
        if kills_collector {
            collector.kill9();
            collector.start_again();
        } else {
            compactor.kill9();
            *compactor = follow();
        }
        // while clients send and both programs work
        assert_audit(&collector.data, out);
    }
}

/// Sums, and that duplicates explain the rest of the log.
fn assert_counts(crowd: &Crowd, data: &Path, out: &Path, sent: &Sent) {
    let verify = Compactor::run(&["verify".as_ref(), "--data".as_ref(), data.as_os_str()]);
    assert!(verify.status.success(), "{}", String::from_utf8_lossy(&verify.stdout));
    let log = segments::read(data);
    assert_eq!((log.gaps, log.unsealed), (0, 0), "{log:?}");
    let ledger = log.ledger.unwrap();
    assert!(ledger.closing && ledger.counts.is_balanced(), "{ledger:?}");
    let logged = ledger.counts.events().logged;

    let counts = out::commit(data, out).unwrap()["counts"].clone();
    let count = |name: &str| counts[name].as_u64().unwrap();
    assert_eq!(count("read"), logged);
    assert_eq!(count("counted") + count("bots"), crowd.events);
    assert_eq!(count("duplicates"), logged - crowd.events);
    assert!(count("duplicates") >= sent.copies, "{counts}");
    assert_eq!((count("damaged"), count("torn")), (0, 0));

    let totals = python::read("totals.py", &[out]);
    let of = |name: &str| totals["hourly"][name].as_u64().unwrap();
    assert_eq!(of("events") + of("bot_events"), crowd.events);
    assert_eq!(of("bot_events"), sent.kinds.values().map(|[_, bots]| bots).sum::<u64>());
    assert_eq!(of("duplicates"), count("duplicates"));
    assert_eq!((of("late"), of("client_lost")), (sent.late, sent.lost));
    #[expect(clippy::cast_precision_loss, reason = "some millions of thousandths")]
    let value = sent.value_milli as f64 / 1e3;
    assert!((totals["hourly"]["value_sum"].as_f64().unwrap() - value).abs() < 1e-3, "{totals} {value}");
    for name in ["rows", "ids", "positions"] {
        assert_eq!(totals["events"][name], crowd.events, "{name}: {totals}");
    }
}

/// DuckDB groups `events` and finds what stands in `hourly` and what the clients know.
fn assert_readers_agree(crowd: &Crowd, out: &Path, sent: &Sent) {
    let agree = python::read("agree.py", &[out]);
    assert_eq!(agree["differing"], serde_json::json!([]));
    assert_eq!(agree["misplaced"], 0);
    assert!(agree["groups"].as_u64().unwrap() >= 2 * KINDS, "{agree}");
    let numbers = serde_json::json!({"rows": crowd.events, "ids": crowd.events, "items": crowd.events, "first": 0, "last": crowd.events - 1});
    assert_eq!(agree["numbers"], numbers, "exactly the clients' events");
    let by_kind = agree["by_kind"].as_array().unwrap().iter().map(|row| {
        let [site, event, target, events, bots] = &row.as_array().unwrap()[..] else { panic!("{row}") };
        let key = [site, event, target].map(|text| text.as_str().unwrap().to_owned());
        (key, [events, bots].map(|number| number.as_u64().unwrap()))
    });
    assert_eq!(by_kind.collect::<BTreeMap<_, _>>(), sent.kinds);
}

/// Estimates of the visitors of single rows and of whole kinds, merged over hours, beside exact numbers.
fn assert_uniques(out: &Path) {
    let uniques = python::read("uniques.py", &[out]);
    println!("{uniques}");
    assert_eq!(uniques["other_numbers"], serde_json::json!([]), "a row's number is its sketch's");
    assert!(uniques["hours"].as_u64().unwrap() >= 2, "{uniques}");
    assert_eq!(uniques["merged"]["groups"], KINDS);
    assert!(uniques["rows"]["groups"].as_u64().unwrap() > 0, "{uniques}");
    for estimates in ["rows", "merged"] {
        let error = |name: &str| uniques[estimates][name].as_f64().unwrap();
        assert!(error("rms") < 0.02 && error("worst") < 0.065, "{estimates}: {uniques}");
    }
}
