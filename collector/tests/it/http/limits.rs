//! What one peer may have of the collector, where the operator limits it.

use std::io::Write;
use std::net::Ipv4Addr;
use std::time::Instant;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::redirect::{Redirecting, assert_redirects};
use super::{Connection, Fixture, post};
use crate::harness::datagrams::key;
use crate::harness::{Reply, wait_for};
use tallylight_proto::link::Link;

const GET: &str = "GET /api/beacon HTTP/1.1\r\nHost: x\r\n";

/// Sends a request so often at once, and gives the answers.
fn burst(connection: &mut Connection, request: &[u8], times: usize) -> Vec<Reply> {
    connection.send(request.repeat(times));
    (0..times).map(|_| connection.reply()).collect()
}

/// The same, each when the one before it is answered.
fn one_by_one(connection: &mut Connection, request: &[u8], times: usize) -> Vec<Reply> {
    (0..times).flat_map(|_| burst(connection, request, 1)).collect()
}

fn pixel_of(client: &str) -> Vec<u8> {
    format!("{GET}X-Forwarded-For: {client}\r\n\r\n").into_bytes()
}

/// Those that were refused for the rate.
fn over_rate(replies: &[Reply]) -> Vec<&Reply> {
    replies.iter().filter(|reply| reply.header("tallylight-refused") == Some("rate")).collect()
}

/// How many of a peer's requests can have been taken since then, at so many a second.
fn most_since(begun: Instant, rate: f64) -> f64 {
    // the bucket is full at first
    rate + begun.elapsed().as_secs_f64() * rate
}

fn shed(fixture: &Fixture) -> u64 {
    fixture.collector.metrics().count("tallylight_events_shed_total{reason=\"rate\"}")
}

#[test]
fn a_peer_over_its_rate_is_told_so_and_each_of_its_events_is_counted() {
    const TIMES: usize = 30;
    let (line, key) = key(7, 1);
    let flags = ["--max-rate-per-peer=2", "--trusted-proxy=127.0.0.1"];
    let fixture = Redirecting::start(&line, &flags);
    let link = Link { target: Some("https://shop.example/".into()), ..Link::default() }.to_query(&key).unwrap();
    let mut connection = fixture.connect();
    let mut taken = [0; 3];

    let begun = Instant::now();
    let pixels = burst(&mut connection, &pixel_of("192.0.2.1"), TIMES);
    let refused = over_rate(&pixels);
    taken[0] = TIMES - refused.len();
    assert!(taken[0] >= 2 && taken[0] as f64 <= most_since(begun, 2.0), "{taken:?}");
    for reply in refused {
        assert_eq!((reply.status, reply.header("retry-after")), (429, Some("1")));
        assert!(reply.body.starts_with(b"GIF89a"), "no broken image");
        assert_eq!(reply.header("access-control-allow-origin"), Some("*"));
    }

    // another peer, which has not sent anything yet
    let begun = Instant::now();
    let lines = post("", &[("X-Forwarded-For", "192.0.2.2"), ("Origin", "null")], b"a=1\na=2\nnothing");
    let posts = burst(&mut connection, &lines, TIMES);
    let refused = over_rate(&posts);
    taken[1] = TIMES - refused.len();
    // three events at once are more than the two of a second: taken all the same, and paid for
    assert!(taken[1] >= 1 && taken[1] as f64 <= 1.0 + most_since(begun, 2.0) / 3.0, "{taken:?}");
    for reply in &refused {
        assert_eq!((reply.status, reply.header("retry-after")), (429, Some("1")));
        assert_eq!(reply.header("access-control-allow-origin"), Some("null"));
        assert!(reply.text().starts_with("rate: "), "{}", reply.text());
    }

    let begun = Instant::now();
    let request = format!("GET /r?{link} HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 192.0.2.3\r\n\r\n");
    let clicks = burst(&mut connection, request.as_bytes(), TIMES);
    taken[2] = TIMES - over_rate(&clicks).len();
    assert!(taken[2] >= 2 && taken[2] as f64 <= most_since(begun, 2.0), "{taken:?}");
    for reply in &clicks {
        assert_redirects(reply, "https://shop.example/");
    }

    let logged = taken[0] + 2 * taken[1] + taken[2];
    // a body over the rate is not read: it is one event, whatever stands in it
    let over = 3 * TIMES - taken.iter().sum::<usize>();
    fixture.assert_ledger([(logged + taken[1] + over) as u64, logged as u64, taken[1] as u64]);
    assert_eq!(shed(&fixture), over as u64);
}

#[test]
fn a_rate_is_one_for_all_connections_and_workers_and_another_peers_is_its_own() {
    let fixture = Fixture::start(&["--max-rate-per-peer=10", "--trusted-proxy=127.0.0.1", "--workers=4"]);
    let begun = Instant::now();
    let mut connections: Vec<_> = (0..20).map(|_| fixture.connect()).collect();
    let mut taken = 0;
    for (n, connection) in connections.iter_mut().enumerate() {
        // one network of IPv6
        let replies = burst(connection, &pixel_of(&format!("2001:db8:1:2::{n:x}")), 20);
        taken += 20 - over_rate(&replies).len();
    }
    assert!(taken >= 10 && taken as f64 <= most_since(begun, 10.0), "{taken}");
    for client in ["2001:db8:1:3::1", "192.0.2.1", "192.0.2.2"] {
        let replies = burst(&mut connections[0], &pixel_of(client), 10);
        assert!(over_rate(&replies).is_empty(), "{client}");
    }
    // for whom the proxy speaks is not known: nobody pays for another one
    let hidden = format!("{GET}Forwarded: for=unknown\r\n\r\n");
    assert!(over_rate(&burst(&mut connections[0], hidden.as_bytes(), 50)).is_empty());
    fixture.ledger();
}

#[test]
fn every_request_costs_a_token_whatever_it_is_and_what_is_no_event_is_none() {
    let fixture = Fixture::start(&["--max-rate-per-peer=1", "--trusted-proxy=127.0.0.1"]);
    let lines = [
        ("OPTIONS /api/beacon", 204),
        ("GET /api/beacon?debug=1", 200),
        ("GET /beacon.js", 200),
        ("GET /nothing", 404),
        ("PUT /api/beacon", 405),
        ("POST /pixel.gif", 405),
    ];
    for (n, (line, status)) in lines.into_iter().enumerate() {
        for (part, ask) in [burst, one_by_one].into_iter().enumerate() {
            let client = format!("192.0.{part}.{n}");
            let request = format!("{line} HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: {client}\r\n\r\n");
            let (mut connection, begun) = (fixture.connect(), Instant::now());
            let replies = ask(&mut connection, request.as_bytes(), 20);
            assert_eq!(replies[0].status, status, "{line}");
            let refused = over_rate(&replies);
            assert!((20 - refused.len()) as f64 <= most_since(begun, 1.0), "{line}: {}", refused.len());
            for reply in refused {
                assert_eq!((reply.status, reply.header("retry-after")), (429, Some("1")), "{line}");
            }
        }
    }
    // an answer to HEAD has a length and no body
    let head = || fixture.collector.request("HEAD", "/api/beacon", &[("X-Forwarded-For", "192.0.2.99")], b"").status;
    assert_eq!(head(), 200);
    wait_for("a HEAD over the rate", || (head() == 429).then_some(()));
    fixture.assert_ledger([0, 0, 0]);
    assert_eq!(shed(&fixture), 0);
}

#[test]
fn a_body_costs_what_it_becomes_also_where_that_is_too_much() {
    let fixture = Fixture::start(&["--max-rate-per-peer=2", "--trusted-proxy=127.0.0.1"]);
    let gzip = |bytes: &[u8]| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let value = "v".repeat(60_000);
    let large = format!("a={value}");
    for (n, (body, encoding, status)) in [
        // 256 tokens: two minutes
        (gzip(&vec![b'a'; 8 << 20]), "gzip", 413),
        (gzip(large.as_bytes()), "gzip", 204),
        (large.into_bytes(), "identity", 204),
        (b"a=1\n".repeat(100), "identity", 204),
    ]
    .into_iter()
    .enumerate()
    {
        let client = format!("192.0.2.{n}");
        let mut connection = fixture.connect();
        connection.send(post("", &[("X-Forwarded-For", &client), ("Content-Encoding", encoding)], &body));
        let reply = connection.reply();
        assert_eq!(reply.status, status, "{n}: {}", reply.text());
        connection.send(pixel_of(&client));
        assert_eq!(connection.reply().status, 429, "{n}");
    }
    fixture.assert_ledger([3 + 100 + 4, 2 + 100, 1]);
}

#[test]
fn a_body_over_the_rate_is_neither_asked_for_nor_looked_into_and_the_answer_arrives_behind_it() {
    let fixture = Fixture::start(&["--max-rate-per-peer=1"]);
    let mut connection = fixture.connect();
    // 100 s
    connection.send(post("", &[], &b"a=1\n".repeat(100)));
    assert_eq!(connection.reply().status, 204);
    for (encoding, body) in [("gzip", &b"this is no gzip"[..]), ("br", b"a=1"), ("identity", &[b'a'; 200_000])] {
        connection.send(post("", &[("Content-Encoding", encoding), ("Origin", "null")], body));
        let reply = connection.reply();
        assert_eq!((reply.status, reply.header("tallylight-refused")), (429, Some("rate")), "{encoding}");
        assert_eq!(reply.header("access-control-allow-origin"), Some("null"));
    }
    connection.send("POST /api/beacon HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n");
    let reply = connection.reply();
    assert_eq!((reply.status, reply.header("connection")), (429, Some("close")));
    assert!(connection.is_closed());
    fixture.assert_ledger([104, 100, 0]);
    assert_eq!(shed(&fixture), 4);
}

#[test]
fn connections_over_a_peers_limit_are_closed_at_once_and_others_are_served() {
    let here = Ipv4Addr::LOCALHOST;
    let (other, proxy) = (Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::new(127, 0, 0, 3));
    let fixture = Fixture::start(&["--max-connections-per-peer=3", "--trusted-proxy=127.0.0.3", "--workers=4"]);
    let http = fixture.collector.http;
    let request = format!("{GET}\r\n");
    let serve = |connection: &mut Connection| {
        connection.try_send(&request);
        connection.try_reply().map(|reply| reply.status)
    };
    let mut first: Vec<_> = (0..3).map(|_| Connection::open_from(here, http).unwrap()).collect();
    for connection in &mut first {
        assert_eq!(serve(connection), Some(200));
    }
    let refused = |n: usize| {
        for _ in 0..n {
            // the reset may be there before anything else
            let status = Connection::open_from(here, http).ok().and_then(|mut connection| serve(&mut connection));
            assert_eq!(status, None);
        }
    };
    refused(20);
    let open: Vec<_> = [other, other, other, proxy, proxy, proxy, proxy, proxy]
        .into_iter()
        .map(|from| {
            let mut connection = Connection::open_from(from, http).unwrap();
            assert_eq!(serve(&mut connection), Some(200), "{from}");
            connection
        })
        .collect();
    assert_eq!(fixture.connections(), 11.0);
    let over = || fixture.collector.metrics().count("tallylight_http_connections_over_peer_limit_total");
    assert_eq!(over(), 20);
    for connection in &mut first {
        assert_eq!(serve(connection), Some(200), "those that there were go on");
    }
    drop(first.pop());
    let mut next = wait_for("its place", || {
        let mut connection = Connection::open_from(here, http).ok()?;
        (serve(&mut connection) == Some(200)).then_some(connection)
    });
    refused(5);
    assert_eq!(serve(&mut next), Some(200));
    drop((first, next, open));
    wait_for("all to be gone", || (fixture.connections() == 0.0).then_some(()));
    let events = 3 + 8 + 3 + 2;
    fixture.assert_ledger([events, events, 0]);
}
