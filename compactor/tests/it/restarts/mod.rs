//! A collector that is started again and again on handed-over sockets, while visitors come at their own pace: nobody is
//! refused, nobody is cut off, nothing is lost.
//!
//! `make restarts RATE=2000 RESTARTS=20` runs it on release binaries.

pub mod visitors;

use std::env;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::harness::datagrams::Source;
use crate::harness::{
    Collector, Compactor, Environment, Over, Sockets, assert_audit, assert_datagrams_add_up, wait_for,
};
use crate::python;
use visitors::{KINDS, Visitors};

/// How long datagrams pause.
const DATAGRAM_PAUSE: Duration = Duration::from_millis(4);

fn setting(name: &str, default: u64) -> u64 {
    env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|error| panic!("{name}: {error}")))
}

/// Sends until it is over, and says so at the end.
fn send_datagrams(mut source: Source, over: &Over) -> Source {
    while !over.is_over() {
        let body = format!("site={}&item={}", source.name(), source.next);
        source.send(body.as_bytes());
        thread::sleep(DATAGRAM_PAUSE);
    }
    source.heartbeat();
    source
}

#[test]
fn restarts_under_load_refuse_nobody_cut_nobody_off_and_lose_nothing() {
    let (rate, restarts) = (setting("RATE", 300), setting("RESTARTS", 4));
    // those who wait have a descriptor each
    let limits = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limits.maximum, maximum: limits.maximum }).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (folder.path().join("data"), folder.path().join("out"));
    let flags = ["--segment-size=16MiB", "--reserve=16MiB"];
    let mut collector = Collector::start_on(Sockets::open(), Environment::new(), &data, &flags);
    let mut compactor = Compactor::follow(&data, &out, &["--every", "200ms"]);

    let (visitors, over) = (Visitors::of(collector.http, rate), Over::default());
    let source = Source::new(collector.udp);
    let began = Instant::now();
    let mut stops = Vec::new();
    let source = thread::scope(|scope| {
        let stop_sending = over.when_dropped();
        let coming = scope.spawn(|| visitors.come(&over));
        let sending = scope.spawn(|| send_datagrams(source, &over));
        for _ in 0..restarts {
            visitors.wait_for_more(rate);
            let stopped = Instant::now();
            let status = collector.terminate();
            assert!(status.success(), "{status}\n{}", collector.stderr());
            let ended = stopped.elapsed();
            collector.start_again();
            stops.push((ended, stopped.elapsed()));
        }
        visitors.wait_for_more(rate);
        drop(stop_sending);
        coming.join().unwrap();
        sending.join().unwrap()
    });
    let tally = &visitors.tally;
    println!(
        "{restarts} restarts in {:.0?}, {} new connections, {tally:?}\n(until it had ended, until it was ready): {stops:.2?}",
        began.elapsed(),
        tally.came.load(Relaxed)
    );
    assert_eq!((tally.refused.load(Relaxed), tally.cut_off.load(Relaxed), tally.not_taken.load(Relaxed)), (0, 0, 0));

    let next = source.next;
    wait_for("the last heartbeat", || {
        collector.sources().get(None, &source.name()).filter(|report| report.next == next).cloned()
    });
    let report = assert_datagrams_add_up(&collector).get(None, &source.name()).unwrap().clone();
    assert_eq!((report.first, report.next, report.lost), (1, next, 0), "{report:?}");
    assert!(collector.terminate().success());
    assert!(compactor.terminate().success());
    let once = Compactor::once(&data, &out, &[]);
    assert!(once.status.success(), "{}", String::from_utf8_lossy(&once.stderr));
    let audit = assert_audit(&data, &out);
    let lives = format!("{0} in the log: {0} ended in order, 0 killed", restarts + 1);
    assert!(audit["lives"][0]["note"].as_str().unwrap() == lives, "{}", audit["lives"]);

    let counted = python::read("by_site.py", &[&out]);
    let expected =
        KINDS.iter().zip(&tally.answered).map(|(kind, answered)| ((*kind).to_owned(), answered.load(Relaxed)));
    for (site, events) in expected.chain([(source.name(), next - 1)]) {
        let of = |name: &str| counted[&site][name].as_u64().unwrap_or_else(|| panic!("{site}: {counted}"));
        for name in ["rows", "ids", "items", "events"] {
            assert_eq!(of(name), events, "{site}: {name}: {counted}");
        }
        assert_eq!(of("duplicates"), 0, "{site}");
    }
}
