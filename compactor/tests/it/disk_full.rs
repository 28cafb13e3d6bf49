//! A file system that fills up under load, with log and output on it: nothing crashes, whoever sends is told, and
//! once there is room again all goes on by itself.

use std::fs;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use crate::client::{self, Click, Client, Form};
use crate::harness::disk::{Ballast, Disk};
use crate::harness::{
    Collector, Compactor, assert_audit, assert_compactor_ledger_adds_up, assert_ledger_adds_up, request, wait_for,
    wait_for_within,
};
use crate::{python, segments};

/// The pixel, in any case.
const GIF_LEN: usize = 43;
const SENDERS: u64 = 2;
/// Numbers of one sender's events begin here for the next.
const SENDER_NUMBERS: u64 = 1 << 32;
/// A full disk that empties itself has been seen by then.
const LONG: Duration = Duration::from_secs(60);

/// What runs while the disk fills up and empties.
#[derive(Default)]
struct Load {
    stop: AtomicBool,
    /// Events of POSTs that were acknowledged.
    acknowledged: AtomicU64,
    /// POSTs that were turned away.
    turned_away: AtomicU64,
    /// Pixels answered with 200.
    pixels: AtomicU64,
}

impl Load {
    /// Posts batches until told to stop, each of them until it is acknowledged.
    fn post(&self, addr: SocketAddr, sender: u64) {
        let mut client = Client::new(addr);
        let mut number = sender * SENDER_NUMBERS;
        while !self.stop.load(Relaxed) {
            let click = |number| Click {
                target: "posted".into(),
                // hard to compress, so that the output grows, too
                visitor: format!("{:016x}{:016x}", client::mix(number), client::mix(!number)),
                ..Click::new(1 << 40, number)
            };
            let clicks: Vec<Click> = (number..number + 200).map(click).collect();
            number += 200;
            client.post("/api/beacon", &client::body(&clicks, Form::Queries), false);
            self.acknowledged.fetch_add(200, Relaxed);
        }
        assert_eq!(client.unanswered, 0);
        self.turned_away.fetch_add(client.turned_away, Relaxed);
    }

    /// Gets pixels until told to stop, whatever becomes of them.
    fn get(&self, addr: SocketAddr) {
        let mut client = Client::new(addr);
        while !self.stop.load(Relaxed) {
            let reply = client.ask("GET", "/api/beacon?event=view&target=pixel", "", b"").unwrap();
            assert_eq!((reply.header("content-type"), reply.body.len()), (Some("image/gif"), GIF_LEN));
            match reply.status {
                200 => drop(self.pixels.fetch_add(1, Relaxed)),
                // full, or slow to make a segment while it was nearly so
                503 => assert!(matches!(reply.header("tallylight-refused"), Some("disk" | "queue")), "{reply:?}"),
                status => panic!("{status}"),
            }
        }
        // a pixel is answered before its event is written; this one, of the same door, is answered after all of them are
        client.post("/api/beacon", b"event=view&target=last", false);
    }
}

fn is_ready(admin: SocketAddr) -> bool {
    request(admin, "GET", "/readyz", &[], b"").status == 200
}

fn assert_refused_for_the_disk(collector: &Collector) {
    let post = collector.request("POST", "/api/beacon", &[], b"event=x&target=refused");
    assert_eq!(post.status, 503, "{post:?}");
    let pixel = collector.request("GET", "/api/beacon?event=x&target=refused", &[], b"");
    assert_eq!((pixel.status, pixel.header("content-type")), (503, Some("image/gif")), "{pixel:?}");
    assert_eq!(pixel.body.len(), GIF_LEN);
    assert!(post.text().starts_with("disk: "), "{post:?}");
    for reply in [post, pixel] {
        assert_eq!(reply.header("tallylight-refused"), Some("disk"), "{reply:?}");
        let seconds: u64 = reply.header("retry-after").expect("it says when to come again").parse().unwrap();
        assert!((1..=3600).contains(&seconds));
    }
}

/// Fills the disk under load, looks, frees it, looks again.
fn a_full_disk_is_a_state(disk: &Disk) {
    let (data, out) = (disk.path.join("data"), disk.path.join("out"));
    let ballast = Ballast::on(disk);
    let mut collector = Collector::start(&data, &["--segment-size", "1MiB", "--reserve", "4MiB"]);
    let mut compactor = Compactor::follow(&data, &out, &["--every", "200ms"]);
    let load = Load::default();
    let posted = |more: u64| {
        let enough = load.acknowledged.load(Relaxed) + more;
        wait_for_within(LONG, "acknowledged events", || (load.acknowledged.load(Relaxed) >= enough).then_some(()));
    };
    thread::scope(|scope| {
        let (load, addr) = (&load, collector.http);
        // also when the test fails: else its threads would never end
        let stop = StopAtEnd(&load.stop);
        for sender in 0..SENDERS {
            scope.spawn(move || load.post(addr, sender));
        }
        scope.spawn(move || load.get(addr));
        posted(10_000);

        // while the compactor can let go of segments there is some room again and again
        wait_for_within(LONG, "neither program to have room", || {
            ballast.grow();
            (!is_ready(collector.admin) && !is_ready(compactor.admin)).then_some(())
        });
        assert_refused_for_the_disk(&collector);
        // while it opens what it has committed again, it is behind by nothing for a moment
        let is_behind = || compactor.metrics().get("tallylight_compactor_lag_bytes") > 0.0;
        wait_for("the compactor to lag", || is_behind().then_some(()));
        let errors = || compactor.metrics().get("tallylight_compactor_publish_errors_total");
        let before = errors();
        wait_for("another try of the compactor", || (errors() > before).then_some(()));
        assert_eq!((collector.ended(), compactor.ended()), (None, None), "both run");
        assert!(!is_ready(collector.admin));

        ballast.free();
        wait_for_within(LONG, "both programs to be ready", || {
            (is_ready(collector.admin) && is_ready(compactor.admin)).then_some(())
        });
        posted(5_000);
        drop(stop);
    });
    assert!(load.turned_away.load(Relaxed) > 0);

    assert_ledger_adds_up(&collector);
    let counted = collector.metrics();
    assert_eq!(collector.terminate().code(), Some(0), "{}", collector.stderr());
    assert_compactor_ledger_adds_up(&compactor);
    assert_eq!(compactor.terminate().code(), Some(0), "{}", compactor.stderr());
    let once = Compactor::once(&data, &out, &[]);
    assert!(once.status.success(), "{}", String::from_utf8_lossy(&once.stderr));

    assert_audit(&data, &out);
    let totals = python::read("totals.py", &[&out]);
    let of = |target: &str, name: &str| totals["targets"][target][name].as_u64().unwrap();
    let acknowledged = load.acknowledged.into_inner();
    assert_eq!([of("posted", "events"), of("posted", "rows")], [acknowledged; 2], "each once: {totals}");
    // a pixel is answered before its event is written; what was lost then is counted
    let (seen, shed) = (load.pixels.into_inner(), counted.sum("tallylight_events_shed_total"));
    #[expect(clippy::cast_precision_loss, reason = "some thousands of pixels")]
    let missing = seen.checked_sub(of("pixel", "events")).expect("no more than were answered") as f64;
    assert!(missing <= shed, "{missing} pixels are missing, {shed} events were shed");
    assert_eq!(of("pixel", "events"), of("pixel", "rows"));
    assert!(totals["targets"].get("refused").is_none(), "{totals}");
    for name in ["ids", "positions"] {
        assert_eq!(totals["events"][name], totals["events"]["rows"], "{totals}");
    }
    let log = segments::read(&data);
    assert_eq!((log.gaps, log.unsealed), (0, 0), "{log:?}");
    let ledger = log.ledger.unwrap();
    assert!(ledger.closing && ledger.counts.is_balanced(), "{ledger:?}");
    #[expect(clippy::cast_precision_loss, reason = "some hundred thousand events")]
    let logged = ledger.counts.events().logged as f64;
    assert_eq!(logged, counted.get("tallylight_events_logged_total"));
}

struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

#[test]
fn a_tmpfs_that_fills_up_stops_nothing_and_loses_nothing_that_was_acknowledged() {
    a_full_disk_is_a_state(&Disk::tmpfs("64m"));
}

#[test]
fn an_ext4_that_fills_up_stops_nothing_and_loses_nothing_that_was_acknowledged() {
    a_full_disk_is_a_state(&Disk::ext4(96 << 20));
}

#[test]
fn a_disk_that_something_else_fills_up_is_seen_in_the_metrics_without_traffic() {
    const MIB: f64 = 1024.0 * 1024.0;
    let disk = Disk::tmpfs("64m");
    let collector = Collector::start(&disk.path.join("data"), &["--segment-size", "1MiB", "--reserve", "4MiB"]);
    let metrics = || collector.metrics();
    let free_is_shown = || {
        wait_for("the metric to say what is free", || {
            let disk = rustix::fs::statvfs(&disk.path).unwrap();
            #[expect(clippy::cast_precision_loss, reason = "some MiB")]
            let free = (disk.f_bavail * disk.f_frsize) as f64;
            (metrics().get("tallylight_log_disk_free_bytes") == free).then_some(free)
        })
    };
    let before = free_is_shown();
    fs::write(disk.path.join("something else"), vec![1; 10 << 20]).unwrap();
    assert_eq!(free_is_shown(), before - 10.0 * MIB);
    for (name, expected) in [("disk_reserve_bytes", 4.0 * MIB), ("segment_size_bytes", MIB), ("segments", 1.0)] {
        assert_eq!(metrics().get(&format!("tallylight_log_{name}")), expected, "{name}");
    }
}
