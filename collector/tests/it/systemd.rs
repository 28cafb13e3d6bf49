//! What systemd and the collector have to do with each other: sockets, readiness, signs of life.

use std::collections::VecDeque;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::time::timeout;

use crate::harness::datagrams::Source;
use crate::harness::{
    Collector, Environment, PATIENCE, Sockets, Stopped, Systemd, assert_datagrams_add_up, inspect, request, wait_for,
};
use crate::http::{Connection, http2, post};

const FLAGS: [&str; 3] = ["--segment-size=1MiB", "--reserve=1MiB", "--workers=2"];

fn start_on(sockets: Sockets, folder: &TempDir, flags: &[&str]) -> Collector {
    Collector::start_on(sockets, Environment::new(), &folder.path().join("data"), &[&FLAGS, flags].concat())
}

fn event(name: &str) -> Vec<u8> {
    post("", &[("Connection", "close")], format!("event={name}").as_bytes())
}

#[test]
fn what_comes_to_handed_over_sockets_between_two_lives_waits_for_the_second() {
    let folder = tempfile::tempdir().unwrap();
    let mut collector = start_on(Sockets::open(), &folder, &[]);
    let said = collector.stderr();
    for (name, addr) in [("http", collector.http), ("udp", collector.udp), ("admin", collector.admin)] {
        assert!(said.contains(&format!("{name}={addr}")), "{said}");
    }
    let mut source = Source::new(collector.udp);
    source.send(b"event=datagram");
    for _ in 0..20 {
        assert_eq!(collector.request("POST", "/api/beacon", &[], b"event=first").status, 204);
    }
    assert!(collector.terminate().success());
    // nobody accepts now, and nobody is refused either
    let mut early: Vec<_> = (0..100).map(|_| Connection::open(collector.http)).collect();
    early.iter_mut().for_each(|connection| connection.send(event("early")));
    let mut probe = Connection::open(collector.admin);
    probe.send("GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    (0..100).for_each(|_| drop(source.send(b"event=datagram")));
    collector.start_again();
    for mut connection in early {
        assert_eq!(connection.reply().status, 204);
    }
    assert_eq!(probe.reply().status, 200);
    wait_for("the datagrams", || {
        collector.sources().get(None, &source.name()).filter(|report| report.received == 101).map(drop)
    });
    let report = assert_datagrams_add_up(&collector).get(None, &source.name()).unwrap().clone();
    assert_eq!((report.lost, report.next), (0, 102));
    assert!(collector.terminate().success());
    assert_eq!(inspect(&collector.data).len(), 20 + 100 + 101);
}

#[test]
fn handed_over_sockets_are_accepted_from_until_what_is_in_flight_is_answered() {
    let folder = tempfile::tempdir().unwrap();
    let mut collector = start_on(Sockets::open(), &folder, &["--drain-timeout=1h"]);
    let mut source = Source::new(collector.udp);
    let slow: Vec<Connection> = (0..4)
        .map(|_| {
            let mut connection = Connection::open(collector.http);
            let bytes = post("", &[], b"event=slow");
            connection.send(&bytes[..bytes.len() - 1]);
            connection
        })
        .collect();
    let connections = |collector: &Collector| collector.metrics().get("tallylight_http_connections");
    wait_for("all to be accepted", || (connections(&collector) == 4.0).then_some(()));
    collector.tell_to_end();
    wait_for("the end to begin", || {
        Some(request(collector.admin, "GET", "/readyz", &[], b"")).filter(|reply| reply.status == 503)
    });
    // for longer than a connection has that says nothing
    let until = Instant::now() + Duration::from_secs(2);
    let mut sent = 0;
    while Instant::now() < until {
        let mut late = Connection::open(collector.http);
        late.send(post("", &[], b"event=late"));
        let reply = late.reply();
        assert_eq!((reply.status, reply.header("connection")), (204, Some("close")));
        source.send(b"event=datagram");
        sent += 1;
    }
    // it ends although visitors, none of whom is quick, do not stop coming
    let bytes = event("after");
    let (mut half_sent, mut after, mut slow) = (VecDeque::new(), Vec::new(), Some(slow));
    let status = wait_for("its end", || {
        let mut connection = Connection::open(collector.http);
        connection.send(&bytes[..bytes.len() - 1]);
        half_sent.push_back(connection);
        if half_sent.len() > 20 {
            let mut connection = half_sent.pop_front().unwrap();
            connection.send("r");
            after.push(connection);
            for mut connection in slow.take().into_iter().flatten() {
                connection.send("w");
                assert_eq!(connection.reply().status, 204);
            }
        }
        collector.ended()
    });
    assert!(status.success(), "{status}\n{}", collector.stderr());
    collector.start_again();
    half_sent.iter_mut().for_each(|connection| connection.send("r"));
    after.extend(half_sent);
    for connection in &mut after {
        assert_eq!(connection.reply().status, 204);
    }
    let report = wait_for("the datagrams", || {
        collector.sources().get(None, &source.name()).filter(|report| report.received == sent).cloned()
    });
    assert_eq!(report.lost, 0);
    assert_eq!(inspect(&collector.data).len() as u64, 4 + 2 * sent + after.len() as u64);
}

#[test]
fn http2_connections_that_come_while_it_ends_are_answered_and_told_to_go() {
    let folder = tempfile::tempdir().unwrap();
    let mut collector = start_on(Sockets::open(), &folder, &["--drain-timeout=1h"]);
    let mut slow = Connection::open(collector.http);
    slow.send("POST");
    let connections = |collector: &Collector| collector.metrics().get("tallylight_http_connections");
    wait_for("it to be accepted", || (connections(&collector) == 1.0).then_some(()));
    http2::run(async {
        let (mut early, early_ended) = http2::open(collector.http).await;
        assert_eq!(http2::send(&mut early, "POST", "/api/beacon", b"a=1".into()).await.unwrap().status(), 204);
        collector.tell_to_end();
        let said = timeout(PATIENCE, early_ended).await.expect("it is told to go").unwrap();
        said.unwrap();
        for _ in 0..20 {
            let (mut late, late_ended) = http2::open(collector.http).await;
            let asked: Vec<_> = (0..5).map(|_| http2::send(&mut late, "POST", "/api/beacon", b"a=1".into())).collect();
            for answer in asked {
                assert_eq!(answer.await.unwrap().status(), 204);
            }
            timeout(PATIENCE, late_ended).await.expect("it is told to go").unwrap().unwrap();
        }
    });
    assert!(collector.ended().is_none(), "one is still slow");
    drop(slow);
    assert!(wait_for("its end", || collector.ended()).success());
    assert_eq!(inspect(&collector.data).len(), 1 + 20 * 5);
}

#[test]
fn what_takes_too_long_leaves_a_moment_for_what_came_to_handed_over_sockets_meanwhile() {
    let folder = tempfile::tempdir().unwrap();
    let mut collector = start_on(Sockets::open(), &folder, &["--drain-timeout=3s", "--body-timeout=1h"]);
    let mut never_ends = Connection::open(collector.http);
    never_ends.send("POST /api/beacon HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\na");
    let metrics = |collector: &Collector| collector.metrics().get("tallylight_http_connections");
    wait_for("it to be accepted", || (metrics(&collector) == 1.0).then_some(()));
    collector.tell_to_end();
    // whoever is accepted is answered, though nobody is quick, and whoever is not waits for the next life
    let (mut half_sent, mut late) = (VecDeque::new(), Vec::new());
    let bytes = event("late");
    let status = loop {
        let mut connection = Connection::open(collector.http);
        connection.send(&bytes[..bytes.len() - 1]);
        half_sent.push_back((Instant::now(), connection));
        while half_sent.front().is_some_and(|(since, _)| since.elapsed() > Duration::from_millis(300)) {
            let (_, mut connection) = half_sent.pop_front().unwrap();
            connection.try_send("e");
            late.push(connection);
        }
        if let Some(status) = collector.ended() {
            break status;
        }
        // the pace
        thread::sleep(Duration::from_millis(2));
    };
    assert!(status.success(), "{status}\n{}", collector.stderr());
    let reply = never_ends.reply();
    assert_eq!((reply.status, reply.header("tallylight-refused")), (503, Some("draining")));
    let taken = inspect(&collector.data).len();
    assert!(taken > 100 && late.len() > taken, "{taken} of {}", late.len());
    collector.start_again();
    for (_, mut connection) in half_sent {
        connection.send("e");
        late.push(connection);
    }
    for connection in &mut late {
        assert_eq!(connection.reply().status, 204);
    }
    assert_eq!(inspect(&collector.data).len(), late.len());
}

#[test]
fn systemd_is_told_when_it_is_ready_reads_again_and_stops() {
    let folder = tempfile::tempdir().unwrap();
    let systemd = Systemd::new();
    let sites = folder.path().join("sites");
    std::fs::write(&sites, "a.example\n").unwrap();
    let flags = [&FLAGS[..], &["--site-file", sites.to_str().unwrap()]].concat();
    let data = folder.path().join("data");
    let mut collector = Collector::start_on(Sockets::open(), systemd.environment(), &data, &flags);
    let ready = systemd.hear();
    assert!(ready.starts_with("READY=1\nSTATUS=listening http=127.0.0.1:"), "{ready}");

    // so many that reading them takes a while
    let many: String = (0..200_000).map(|n| format!("b{n}.example\n")).collect();
    std::fs::write(&sites, many).unwrap();
    collector.hang_up();
    let reloading = systemd.hear();
    let micros = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap_or_else(|| panic!("{reloading}"));
    assert!(micros.parse::<u64>().unwrap() > 0);
    assert_eq!(systemd.hear(), ready);
    // when it says so, it has done so
    assert_eq!(collector.request("POST", "/api/beacon", &[], b"site=b199999.example").status, 204);

    let mut half_sent = Connection::open(collector.http);
    half_sent.send("POST");
    let connections = |collector: &Collector| collector.metrics().get("tallylight_http_connections");
    wait_for("it to be accepted", || (connections(&collector) == 1.0).then_some(()));
    collector.tell_to_end();
    assert_eq!(systemd.hear(), "STOPPING=1\nSTATUS=answering what is in flight");
    assert!(collector.ended().is_none(), "it says so before it has");
    drop(half_sent);
    assert!(wait_for("its end", || collector.ended()).success());
}

#[test]
fn signs_of_life_come_from_the_thread_that_writes_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let systemd = Systemd::new();
    let mut environment = systemd.environment();
    let period = Duration::from_millis(900);
    environment.push(("WATCHDOG_USEC", period.as_micros().to_string().into()));
    let data = folder.path().join("data");
    let collector = Collector::start_on(Sockets::open(), environment, &data, &FLAGS);
    while !systemd.hear().starts_with("READY=1") {}
    // also while there is nothing to do, which is when it sleeps for longest
    let heard = systemd.heard_within(4 * period);
    assert!((8..=13).contains(&heard), "{heard}");

    let stopped = Stopped::thread("log-writer", collector.pid());
    systemd.heard_within(Duration::from_millis(50));
    assert_eq!(systemd.heard_within(2 * period), 0);
    // the others do not notice
    assert_eq!(request(collector.admin, "GET", "/healthz", &[], b"").status, 200);
    assert_eq!(collector.request("GET", "/api/beacon", &[], b"").status, 200);
    drop(stopped);
    assert!(systemd.heard_within(2 * period) > 3);
}
