//! Datagrams from senders to Parquet: for each source, what was sent is counted or lost, exactly.

mod relay;

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::harness::datagrams::{Source, key, socket_at};
use crate::harness::{Collector, Compactor, Over, Pace, SourceReport, assert_audit, assert_datagrams_add_up, wait_for};
use crate::python;
use relay::{Done, Relay};

const PLAIN: Ipv4Addr = Ipv4Addr::LOCALHOST;
/// Who may send without a key.
const LISTED: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// A file with one key.
fn key_file(folder: &Path) -> PathBuf {
    let path = folder.join("keys");
    fs::write(&path, key(9, 3).0).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

/// A collector that takes datagrams with a key, and without one from a certain address.
fn start(folder: &Path, flags: &[&str]) -> Collector {
    let keys = key_file(folder);
    let own = ["--udp-key", keys.to_str().unwrap(), "--udp-from", "127.0.0.2", "--segment-size=16MiB"];
    Collector::start(&folder.join("data"), &[&own, flags].concat())
}

/// The n-th source: every other one has a key.
fn is_keyed(n: u64) -> bool {
    n.is_multiple_of(2)
}

/// An event of a source, whose name is its site.
fn body(source: &Source) -> String {
    format!("site={}&event=click&target=https%3A%2F%2Fexample.org%2F&item={}", source.name(), source.next)
}

/// Compacts the log, which adds up, and counts what is in the outputs, by site. Also what the audit says.
fn count(folder: &Path) -> (Value, Value) {
    let (data, out) = (folder.join("data"), folder.join("out"));
    let once = Compactor::once(&data, &out, &[]);
    assert!(once.status.success(), "{}", String::from_utf8_lossy(&once.stderr));
    let audit = assert_audit(&data, &out);
    (python::read("by_site.py", &[out]), audit)
}

/// The report of a source.
fn report(collector: &Collector, source: &Source) -> Option<SourceReport> {
    collector.sources().get(source.key_id(), &source.name()).cloned()
}

#[test]
fn two_million_datagrams_over_a_bad_network_are_counted_or_lost_exactly() {
    const SOURCES: u64 = 4;
    const EACH: u64 = 500_000;
    let folder = tempfile::tempdir().unwrap();
    let mut collector = start(folder.path(), &[]);
    let pace = Pace::new(collector.admin, 250);
    let udp = collector.udp;
    let done: Vec<(Source, Done)> = thread::scope(|scope| {
        let ways: Vec<_> =
            (0..SOURCES).map(|n| (n, Relay::new(if is_keyed(n) { PLAIN } else { LISTED }, udp))).collect();
        let senders = ways.into_iter().map(|(n, relay)| {
            let pace = &pace;
            scope.spawn(move || {
                let socket = socket_at(PLAIN, relay.addr());
                let mut source = Source::on(socket, is_keyed(n).then(|| key(9, 3).1));
                let done = thread::scope(|scope| {
                    let way = scope.spawn(|| relay.run(EACH, n, pace));
                    for sent in 0..EACH {
                        let body = body(&source);
                        relay.wait(sent);
                        source.send(body.as_bytes());
                    }
                    way.join().unwrap()
                });
                // the way is good now
                source.heartbeat();
                relay.pass_on(pace);
                (source, done)
            })
        });
        senders.collect::<Vec<_>>().into_iter().map(|sender| sender.join().unwrap()).collect()
    });
    pace.finish();
    let sources = assert_datagrams_add_up(&collector);
    let metrics = collector.metrics();
    let datagrams = |word: &str| metrics.count(&format!("tallylight_udp_datagrams_{word}_total"));
    assert_eq!(datagrams("kernel_dropped"), 0);
    assert!(collector.terminate().success());

    let (counted, _) = count(folder.path());
    let of = |source: &Source, name: &str| counted[source.name()][name].as_u64().unwrap();
    for (source, Done { dropped, doubled, delayed }) in &done {
        let report = sources.get(source.key_id(), &source.name()).unwrap();
        println!("{report:?} {dropped} dropped, {doubled} doubled, {delayed} delayed");
        assert!(dropped + doubled + delayed > EACH / 11, "{dropped} {doubled} {delayed}");
        let lost = report.lost - report.recovered;
        assert_eq!(of(source, "rows") + lost, EACH);
        assert_eq!(lost, *dropped);
        assert_eq!(report.duplicate + of(source, "duplicates"), *doubled);
        assert_eq!(report.events, of(source, "rows") + of(source, "duplicates"));
        for name in ["ids", "items", "events"] {
            assert_eq!(of(source, name), of(source, "rows"), "{name}");
        }
        assert_eq!(report.stale, 0);
    }
    assert_eq!(counted.as_object().unwrap().len() as u64, SOURCES);
    let all = |of: fn(&Done) -> u64| done.iter().map(|(_, done)| of(done)).sum::<u64>();
    assert_eq!(datagrams("received"), SOURCES * (EACH + 1) - all(|done| done.dropped) + all(|done| done.doubled));
    assert_eq!(datagrams("lost") - datagrams("recovered"), all(|done| done.dropped));
}

/// Sends without a break, some thousand a second, until told to stop.
fn send_until(over: &Over, mut source: Source) -> Source {
    while !over.is_over() {
        for _ in 0..20 {
            let body = body(&source);
            source.send(body.as_bytes());
        }
        // the pace
        thread::sleep(Duration::from_millis(4));
    }
    source
}

#[test]
fn a_collector_that_stands_still_and_is_killed_under_load_loses_nothing_that_is_not_counted() {
    let folder = tempfile::tempdir().unwrap();
    let mut collector = start(folder.path(), &["--udp-receive-buffer=1MiB", "--workers=2"]);
    let udp = collector.udp;
    let dropped = |collector: &Collector| collector.metrics().count("tallylight_udp_datagrams_kernel_dropped_total");
    let received = |collector: &Collector| collector.metrics().count("tallylight_udp_datagrams_received_total");
    let over = Over::default();
    let (mut sources, dropped_by_then) = thread::scope(|scope| {
        let senders = (0..4).map(|n| {
            let over = &over;
            let socket = socket_at(if is_keyed(n) { PLAIN } else { LISTED }, udp);
            let source = Source::on(socket, is_keyed(n).then(|| key(9, 3).1));
            scope.spawn(move || send_until(over, source))
        });
        let senders: Vec<_> = senders.collect();
        let over = over.when_dropped();
        wait_for("datagrams", || (received(&collector) > 5000).then_some(()));
        let before = dropped(&collector);
        collector.stop();
        // how long it stands still is what this is about
        thread::sleep(Duration::from_secs(2));
        collector.cont();
        wait_for("what the kernel dropped", || (dropped(&collector) > before).then_some(()));
        let before = received(&collector);
        wait_for("more datagrams", || (received(&collector) > before + 5000).then_some(()));

        // killed with something in its sockets
        let dropped = dropped(&collector);
        collector.stop();
        thread::sleep(Duration::from_millis(200));
        collector.kill9();
        collector.start_again();
        wait_for("more datagrams", || (received(&collector) > 5000).then_some(()));
        drop(over);
        (senders.into_iter().map(|sender| sender.join().unwrap()).collect::<Vec<_>>(), dropped)
    });
    for source in &mut sources {
        wait_for("the last heartbeat", || {
            // the socket may still be full
            source.heartbeat();
            report(&collector, source).filter(|report| report.next == source.next)
        });
    }
    let reports = assert_datagrams_add_up(&collector);
    assert!(collector.terminate().success());

    let (counted, audit) = count(folder.path());
    let lives: Vec<&str> =
        audit["lives"].as_array().unwrap().iter().map(|line| line["note"].as_str().unwrap()).collect();
    let [lives, gap] = lives[..] else { panic!("{lives:?}") };
    assert!(lives.ends_with("1 ended in order, 1 killed") && gap.starts_with("killed after "), "{lives}; {gap}");
    let mut lost_in_all = 0;
    for source in &sources {
        let report = reports.get(source.key_id(), &source.name()).unwrap();
        println!("{report:?}");
        let rows = counted[source.name()]["rows"].as_u64().unwrap();
        assert_eq!(rows + report.lost - report.recovered, source.next - 1, "{report:?}");
        assert_eq!((report.first, report.next, report.events), (1, source.next, rows), "{report:?}");
        assert_eq!(counted[source.name()]["duplicates"], 0);
        lost_in_all += report.lost - report.recovered;
    }
    assert!(lost_in_all > dropped_by_then, "what the sockets held was lost as well: {lost_in_all} {dropped_by_then}");
}
