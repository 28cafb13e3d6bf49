//! Many connections, idle ones, slow ones.

use std::net::TcpStream;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{Connection, Fixture};
use crate::harness::wait_for;

const GET: &str = "GET /api/beacon HTTP/1.1\r\nHost: x\r\n\r\n";

#[test]
fn ten_thousand_idle_connections_leave_room_for_others() {
    const IDLE: usize = 10_000;
    let limits = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limits.maximum, maximum: limits.maximum }).unwrap();
    let fixture = Fixture::start(&[]);
    let memory = || fixture.collector.metrics().get("process_resident_memory_bytes");
    let before = memory();
    // a third says nothing at all, a third half of something, a third has had its answer
    let idle: Vec<_> = (0..IDLE)
        .map(|n| {
            let mut connection = Connection::open(fixture.collector.http);
            match n % 3 {
                0 => {}
                1 => connection.send(&GET[..20]),
                _ => connection.send(GET),
            }
            connection
        })
        .collect();
    wait_for("all to be accepted", || (fixture.connections() >= IDLE as f64).then_some(()));
    let each = (memory() - before) / IDLE as f64;
    // the kernel's part is not in it
    assert!(each < 6.0 * 1024.0, "{each} bytes a connection");
    let mut another = fixture.connect();
    another.send(GET);
    assert_eq!(another.reply().status, 200);
    drop(idle);
    wait_for("all to be gone", || (fixture.connections() <= 1.0).then_some(()));
    let answered = (IDLE / 3 + 1) as u64;
    fixture.assert_ledger([answered, answered, 0]);
}

#[test]
fn a_connection_that_says_nothing_or_not_enough_is_closed() {
    let fixture = Fixture::start(&["--idle-timeout=200ms"]);
    let mut after_an_answer = fixture.connect();
    after_an_answer.send(GET);
    assert_eq!(after_an_answer.reply().status, 200);
    assert!(after_an_answer.is_closed());
    for beginning in ["", "G", "P", "PR", "PRI", "PRI * HTTP/2.0\r\n\r\nSM", "GET /api/beacon HTTP/1.1\r\nHost:"] {
        let mut connection = fixture.connect();
        connection.send(beginning);
        while connection.try_reply().is_some() {}
        assert!(connection.is_closed(), "{beginning:?}");
    }
    wait_for("all to be gone", || (fixture.connections() == 0.0).then_some(()));
}

#[test]
fn a_connection_of_http_1_0_is_kept_if_that_is_asked_for() {
    let fixture = Fixture::start(&[]);
    let mut connection = fixture.connect();
    for _ in 0..3 {
        connection.send("GET /api/beacon HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        let reply = connection.reply();
        assert_eq!((reply.status, reply.header("connection")), (200, Some("keep-alive")));
    }
    connection.send("POST /api/beacon HTTP/1.0\r\nContent-Length: 7\r\n\r\nevent=a");
    assert_eq!(connection.reply().status, 204);
    assert!(connection.is_closed());
    fixture.assert_ledger([4, 4, 0]);
}

#[test]
fn room_for_all_connections_is_made_when_it_starts() {
    let fixture = Fixture::start(&["--max-connections=5000"]);
    let size = fixture.collector.status_line("FDSize");
    assert!(size >= 5000, "{size}");
}

#[test]
fn connections_over_the_limit_wait_for_their_turn() {
    let fixture = Fixture::start(&["--max-connections=2", "--workers=2"]);
    let mut first: Vec<Connection> = (0..2).map(|_| fixture.connect()).collect();
    for connection in &mut first {
        connection.send(GET);
        assert_eq!(connection.reply().status, 200);
    }
    let mut waiting: Vec<_> = (0..4)
        .map(|_| {
            let mut connection = fixture.connect();
            connection.send("GET /api/beacon HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
            connection
        })
        .collect();
    // the two still have the collector to themselves
    for _ in 0..20 {
        for connection in &mut first {
            connection.send(GET);
            assert_eq!(connection.reply().status, 200);
        }
    }
    assert_eq!(fixture.collector.metrics().get("tallylight_http_connections_opened_total"), 2.0);
    drop(first);
    for mut connection in waiting.drain(..) {
        assert_eq!(connection.reply().status, 200);
    }
    fixture.ledger();
}

#[test]
fn those_that_say_nothing_make_room_for_those_that_do() {
    let fixture = Fixture::start(&["--max-connections=40", "--workers=2"]);
    let mut asks_now_and_then = fixture.connect();
    let mut silent: Vec<Connection> = (0..39).map(|_| fixture.connect()).collect();
    for connection in silent.iter_mut().step_by(2) {
        connection.send(&GET[..GET.len() - 1]);
    }
    wait_for("all to be there", || (fixture.connections() == 40.0).then_some(()));
    for n in 1..=30 {
        asks_now_and_then.send(GET);
        assert_eq!(asks_now_and_then.reply().status, 200);
        let mut visitor = fixture.connect();
        visitor.send(GET);
        assert_eq!(visitor.reply().status, 200, "visitor {n}");
        silent.push(visitor);
    }
    let metrics = fixture.collector.metrics();
    assert!(metrics.count("tallylight_http_connections_evicted_total") >= 30);
    assert!(fixture.connections() <= 40.0);
    drop((silent, asks_now_and_then));
    fixture.ledger();
}

#[test]
fn a_peer_that_goes_without_a_word_costs_nothing() {
    let fixture = Fixture::start(&[]);
    for _ in 0..100 {
        drop(TcpStream::connect(fixture.collector.http).unwrap());
        let mut connection = fixture.connect();
        connection.send(&GET[..GET.len() - 1]);
    }
    wait_for("all to be gone", || (fixture.connections() == 0.0).then_some(()));
    fixture.assert_ledger([0, 0, 0]);
}
