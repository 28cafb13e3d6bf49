//! A proxy that says in a header of its own for whom it speaks, before all else on a connection.

use std::net::Ipv4Addr;

use hyper::client::conn::http2::handshake;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::http2::{run, send};
use super::{Connection, Fixture, post};
use crate::harness::{Reply, inspect, wait_for};

const PIXEL: &str = "GET /api/beacon HTTP/1.1\r\nHost: x\r\n\r\n";
/// 192.0.2.1, for 198.51.100.1.
const V4: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 1, 0x12, 0x34, 0x01, 0xBB];

/// One that believes this machine's 127.0.0.1, and a further proxy before that.
fn start(flags: &[&str]) -> Fixture {
    Fixture::start(&[&["--proxy-protocol", "--trusted-proxy=127.0.0.1,10.0.0.0/8", "--ip=keep"], flags].concat())
}

fn v1(client: &str) -> Vec<u8> {
    let family = if client.contains(':') { "TCP6" } else { "TCP4" };
    let server = if client.contains(':') { "::1" } else { "198.51.100.1" };
    format!("PROXY {family} {client} {server} 4711 443\r\n").into_bytes()
}

fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let len = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [&b"\r\n\r\n\0\r\nQUIT\n"[..], &[command, family], &len, rest].concat()
}

/// Both versions, with what may follow the addresses.
fn headers() -> [Vec<u8>; 2] {
    [v1("192.0.2.1"), v2(0x21, 0x11, &[&V4[..], &[0x04, 0, 3, 0, 0, 0]].concat())]
}

/// A question for what is understood of its sender.
fn debug(headers: &str) -> Vec<u8> {
    format!("GET /api/beacon?debug=1 HTTP/1.1\r\nHost: x\r\n{headers}\r\n").into_bytes()
}

/// Whose event it would be.
fn ip(reply: &Reply) -> String {
    assert_eq!(reply.status, 200, "{}", reply.text());
    let said: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
    said["event"]["ip"].as_str().unwrap_or("nobody's").to_owned()
}

fn refused(fixture: &Fixture) -> [u64; 3] {
    let metrics = fixture.collector.metrics();
    ["address", "malformed", "incomplete"]
        .map(|reason| metrics.count(&format!("tallylight_http_connections_refused_total{{reason=\"{reason}\"}}")))
}

fn assert_refused(fixture: &Fixture, expected: [u64; 3]) {
    wait_for("the connections to be counted", || (refused(fixture) == expected).then_some(()));
    wait_for("all to be gone", || (fixture.connections() == 0.0).then_some(()));
}

#[test]
fn whom_the_header_names_is_the_peer_and_its_word_about_others_is_judged_as_any_peers() {
    let fixture = start(&[]);
    let v6 = [&[0x20, 0x01, 0x0D, 0xB8, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9][..], &[0; 20]].concat();
    let mapped = [&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 192, 0, 2, 4][..], &[0; 20]].concat();
    for (header, headers, expected) in [
        (v1("192.0.2.1"), "", "192.0.2.1"),
        (v1("2001:db8::9"), "", "2001:db8::9"),
        (v1("::ffff:192.0.2.3"), "", "192.0.2.3"),
        (v2(0x21, 0x11, &V4), "", "192.0.2.1"),
        (v2(0x21, 0x12, &V4), "", "192.0.2.1"),
        (v2(0x21, 0x21, &v6), "", "2001:db8:7::9"),
        (v2(0x21, 0x21, &mapped), "", "192.0.2.4"),
        (v2(0x21, 0x11, &[&V4[..], &[0x02, 0, 3], b"a.b", &[0x04, 0x0F, 0], &[0; 0xF00]].concat()), "", "192.0.2.1"),
        // the proxy's own
        (b"PROXY UNKNOWN\r\n".to_vec(), "", "127.0.0.1"),
        (b"PROXY UNKNOWN 192.0.2.1 192.0.2.2 1 2\r\n".to_vec(), "", "127.0.0.1"),
        (v2(0x20, 0x00, b""), "", "127.0.0.1"),
        (v2(0x20, 0x11, &V4), "", "127.0.0.1"),
        (v2(0x21, 0x00, b""), "", "127.0.0.1"),
        (v2(0x21, 0x31, &[b'/'; 216]), "", "127.0.0.1"),
        // a stranger is not believed, whoever brings it here
        (v1("192.0.2.1"), "X-Forwarded-For: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\n", "192.0.2.1"),
        (v2(0x21, 0x11, &V4), "X-Forwarded-For: 6.6.6.6\r\n", "192.0.2.1"),
        // another proxy is
        (v1("10.1.1.1"), "X-Forwarded-For: 6.6.6.6, 192.0.2.77\r\n", "192.0.2.77"),
        (v1("10.1.1.1"), "", "10.1.1.1"),
    ] {
        let mut connection = fixture.connect();
        connection.send([header.clone(), debug(headers)].concat());
        assert_eq!(ip(&connection.reply()), expected, "{} {headers}", header.escape_ascii());
    }
    assert_refused(&fixture, [0; 3]);
}

#[test]
fn a_header_may_come_in_any_two_pieces_and_what_follows_it_with_either() {
    let fixture = start(&[]);
    let accepted = || fixture.collector.metrics().count("tallylight_http_connections_opened_total");
    let mut opened = 0;
    for header in headers() {
        let all = [&header[..], &debug("")].concat();
        for cut in 0..=header.len() + 1 {
            let mut connection = fixture.connect();
            connection.send(&all[..cut]);
            opened += 1;
            // and read: what is there when a connection is accepted is read in the same turn
            wait_for("it to be accepted", || (accepted() == opened).then_some(()));
            connection.send(&all[cut..]);
            assert_eq!(ip(&connection.reply()), "192.0.2.1", "cut at {cut}");
        }
        let mut connection = fixture.connect();
        all.iter().for_each(|byte| connection.send([*byte]));
        opened += 1;
        assert_eq!(ip(&connection.reply()), "192.0.2.1", "byte by byte");
    }
    assert_refused(&fixture, [0; 3]);
}

#[test]
fn a_connection_without_a_header_is_closed_without_an_answer_and_counted() {
    let fixture = start(&[]);
    let long_line = format!("PROXY UNKNOWN {}\r\n", "a".repeat(92));
    assert_eq!(long_line.len(), 108);
    let mut malformed = 0;
    for bytes in [
        PIXEL.as_bytes(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"PROXY TCP4 192.0.2.1 198.51.100.1 4711\r\n",
        b"PROXY TCP4 2001:db8::9 ::1 4711 443\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.1 4711 443\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.1 4711 99999\r\n",
        b"proxy TCP4 192.0.2.1 198.51.100.1 4711 443\r\n",
        long_line.as_bytes(),
        &v2(0x21, 0x11, &V4[..11]),
        &v2(0x22, 0x11, &V4),
        &v2(0x31, 0x11, &V4),
        &v2(0x21, 0x11, &[0; 4081])[..16],
    ] {
        let mut connection = fixture.connect();
        connection.try_send([bytes, PIXEL.as_bytes()].concat());
        assert!(connection.try_reply().is_none(), "{}", bytes.escape_ascii());
        malformed += 1;
    }
    assert_refused(&fixture, [0, malformed, 0]);

    // a second one is what the client sent, and no HTTP
    let mut connection = fixture.connect();
    connection.send([v1("192.0.2.1"), v1("192.0.2.2"), PIXEL.into()].concat());
    assert_eq!(connection.reply().status, 400);
    drop(connection);

    // whose peer is not believed, whatever it says
    for header in [&b""[..], &v1("192.0.2.1"), &v2(0x20, 0, b"")] {
        let stranger = Connection::open_from(Ipv4Addr::new(127, 0, 0, 2), fixture.collector.http);
        // it may be closed already
        let Ok(mut connection) = stranger else { continue };
        connection.try_send([header, PIXEL.as_bytes()].concat());
        assert!(connection.try_reply().is_none());
    }
    assert_refused(&fixture, [3, malformed, 0]);

    // half of one, and then the end
    for header in headers() {
        let mut connection = fixture.connect();
        connection.send(&header[..header.len() - 1]);
        connection.half_close();
        assert!(connection.is_closed());
    }
    // to see whether somebody listens, as proxies do, is nothing wrong
    let mut connection = fixture.connect();
    connection.half_close();
    assert!(connection.is_closed());
    assert_refused(&fixture, [3, malformed, 2]);
    fixture.assert_ledger([0, 0, 0]);
}

#[test]
fn a_header_that_does_not_come_in_time_is_not_waited_for() {
    let fixture = start(&["--idle-timeout=300ms"]);
    let [v1, v2] = headers();
    for beginning in [&b""[..], b"P", b"\r", &v1[..v1.len() - 1], &v2[..v2.len() - 1]] {
        let mut connection = fixture.connect();
        connection.send(beginning);
        assert!(connection.is_closed(), "{}", beginning.escape_ascii());
    }
    assert_refused(&fixture, [0, 0, 5]);
    // the header alone is no request either, and no fault of the proxy's
    for header in headers() {
        let mut connection = fixture.connect();
        connection.send(header);
        assert!(connection.is_closed());
    }
    assert_refused(&fixture, [0, 0, 5]);
}

#[test]
fn connections_go_on_behind_the_header_in_either_version_of_http() {
    let fixture = start(&[]);
    for header in headers() {
        let mut connection = fixture.connect();
        connection.send(header.clone());
        for _ in 0..3 {
            connection.send(PIXEL);
            assert_eq!(connection.reply().status, 200);
            connection.send(post("ack=synced", &[], b"event=buy"));
            assert_eq!(connection.reply().status, 204);
        }
        // two in a read are hyper's, and all that follows them
        connection.send(PIXEL.repeat(2));
        assert_eq!([connection.reply().status, connection.reply().status], [200; 2]);
        connection.send(debug(""));
        assert_eq!(ip(&connection.reply()), "192.0.2.1");
        // a proxy says it once
        connection.send(header);
        assert_eq!(connection.reply().status, 400);

        let mut connection = fixture.connect();
        let [one, other] = headers();
        connection.send([&one[..], PIXEL.repeat(2).as_bytes()].concat());
        assert_eq!([connection.reply().status, connection.reply().status], [200; 2]);

        run(async {
            let mut stream = TcpStream::connect(fixture.collector.http).await.unwrap();
            stream.write_all(&other).await.unwrap();
            let (mut sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
            tokio::spawn(connection);
            for _ in 0..10 {
                assert_eq!(send(&mut sender, "GET", "/api/beacon", vec![]).await.unwrap().status(), 200);
            }
            let posted = send(&mut sender, "POST", "/api/beacon", b"event=over-http2".to_vec());
            assert_eq!(posted.await.unwrap().status(), 204);
        });
    }
    let events = 2 * (6 + 2 + 2 + 10 + 1);
    fixture.assert_ledger([events, events, 0]);
    let events = inspect(&fixture.collector.data);
    assert!(events.iter().all(|event| event["ip"] == "192.0.2.1"), "{events:?}");
    assert_eq!(events.iter().filter(|event| event["front"] == "http2").count(), 22);
    assert_refused(&fixture, [0; 3]);
}

#[test]
fn limits_are_the_clients_and_not_the_proxys() {
    let fixture = start(&["--max-connections-per-peer=2", "--max-rate-per-peer=1000", "--workers=4"]);
    let open = |client: &str| {
        let mut connection = fixture.connect();
        connection.try_send([v1(client), PIXEL.into()].concat());
        connection.try_reply().map(|reply| (reply.status, connection))
    };
    let mut held = Vec::new();
    for n in 1..=5 {
        for _ in 0..2 {
            let (status, connection) = open(&format!("192.0.2.{n}")).expect("an answer");
            assert_eq!(status, 200);
            held.push(connection);
        }
        assert!(open(&format!("192.0.2.{n}")).is_none(), "a third one");
    }
    // one that many come from has no such limit
    held.extend((0..5).map(|_| open("10.1.1.1").expect("an answer").1));
    let over = || fixture.collector.metrics().count("tallylight_http_connections_over_peer_limit_total");
    assert_eq!(over(), 5);
    drop(held);
    wait_for("its place", || open("192.0.2.1").filter(|(status, _)| *status == 200));

    let mut connection = fixture.connect();
    // two seconds' worth and more
    connection.send([v1("192.0.2.7"), post("", &[], &b"a=1\n".repeat(1000)), PIXEL.repeat(1500).into()].concat());
    assert_eq!(connection.reply().status, 204);
    let over_rate = (0..1500).filter(|_| connection.reply().status == 429).count();
    assert!(over_rate > 0);
    assert_eq!(open("192.0.2.8").expect("an answer").0, 200, "another client");
    drop(connection);
    assert_refused(&fixture, [0; 3]);
}

#[test]
fn what_is_not_expected_is_no_request() {
    let fixture = Fixture::start(&["--trusted-proxy=127.0.0.1"]);
    for header in headers() {
        let mut connection = fixture.connect();
        connection.send([&header[..], PIXEL.as_bytes()].concat());
        assert_eq!(connection.reply().status, 400);
        assert!(connection.is_closed());
    }
    assert_eq!(refused(&fixture), [0; 3]);
    fixture.assert_ledger([0, 0, 0]);
}
