//! Bodies: their kinds, their limits, and what becomes of those that are not wanted.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::{Fixture, post};

const LIMIT: usize = 64 * 1024;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A form that is this long.
fn form(len: usize) -> Vec<u8> {
    let mut body = b"item=".to_vec();
    body.resize(len, b'a');
    body
}

const FORM: (&str, &str) = ("Content-Type", "application/x-www-form-urlencoded");
const TEXT: (&str, &str) = ("Content-Type", "text/plain;charset=UTF-8");
const GZIP: (&str, &str) = ("Content-Encoding", "gzip");

#[test]
fn every_kind_of_body_is_as_many_events_as_it_says() {
    let fixture = Fixture::start(&[]);
    let ping = [("Content-Type", "text/ping"), ("Ping-From", "https://a.example/"), ("Ping-To", "https://b.example/")];
    let three = gzip(b"a=1\na=2\na=3");
    type Case<'a> = (&'a [(&'a str, &'a str)], &'a [u8], u64);
    let cases: &[Case<'_>] = &[
        (&[TEXT], br#"{"event":"a"}"#, 1),
        (&[TEXT], br#" [{"event":"a"},{"event":"b"}]"#, 2),
        (&[FORM], b"event=a&item=b%20c", 1),
        (&[TEXT], b"event=a\nevent=b\r\n\nevent=c\n", 3),
        (&[TEXT], b"{\"event\":\"a\"}\nevent=b", 2),
        (&ping, b"PING", 1),
        (&[], b"", 1),
        (&[GZIP], &three, 3),
    ];
    let mut total = 0;
    for (headers, body, events) in cases {
        let reply = fixture.collector.request("POST", "/api/beacon", headers, body);
        assert_eq!((reply.status, reply.header("tallylight-refused")), (204, None), "{headers:?}");
        total += events;
        fixture.assert_ledger([total, total, 0]);
    }
}

#[test]
fn lines_are_judged_one_by_one_and_other_bodies_whole() {
    let fixture = Fixture::start(&["--site=s"]);
    let lines = b"site=s\nnothing\n{\"site\":\"s\",\"id\":7}\nsite=other\nsite=s&event=b";
    let reply = fixture.collector.request("POST", "/api/beacon", &[TEXT], lines);
    assert_eq!((reply.status, reply.header("tallylight-refused")), (204, Some("3 malformed")));
    fixture.assert_ledger([5, 2, 3]);

    let reply = fixture.collector.request("POST", "/api/beacon", &[TEXT], b"site=other\nnothing");
    assert_eq!((reply.status, reply.header("tallylight-refused")), (403, Some("site")));
    fixture.assert_ledger([7, 2, 5]);

    // 500 good ones before the bad one are not in the log either
    let array = format!("[{}{{\"site\":\"other\"}}]", "{\"site\":\"s\"},".repeat(500));
    let reply = fixture.collector.request("POST", "/api/beacon", &[TEXT], array.as_bytes());
    assert_eq!((reply.status, reply.header("tallylight-refused")), (403, Some("site")));
    assert_eq!(reply.text(), "site: entry 501: site is not one of those listed\n");
    fixture.assert_ledger([508, 2, 506]);
}

#[test]
fn a_body_of_64_kib_is_taken_and_one_byte_more_is_not() {
    let fixture = Fixture::start(&[]);
    let mut connection = fixture.connect();
    let chunked = |body: &[u8]| {
        let head = "POST /api/beacon HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n";
        let mut request = format!("{head}{}: {}\r\n\r\n", FORM.0, FORM.1).into_bytes();
        for chunk in body.chunks(10_000) {
            request.extend(format!("{:x}\r\n", chunk.len()).bytes());
            request.extend(chunk);
            request.extend(b"\r\n");
        }
        request.extend(b"0\r\n\r\n");
        request
    };
    for (len, status) in [(LIMIT, 204), (LIMIT + 1, 413)] {
        for request in [post("", &[FORM], &form(len)), chunked(&form(len))] {
            connection.send(request);
            assert_eq!(connection.reply().status, status, "{len}");
        }
    }
    for (len, status) in [(200_000, 204), (1024 * 1024 + 1, 413)] {
        connection.send(post("", &[FORM, GZIP], &gzip(&form(len))));
        assert_eq!(connection.reply().status, status, "{len} decompressed");
    }
    fixture.assert_ledger([6, 3, 3]);
}

#[test]
fn a_thousand_events_are_taken_and_one_more_is_not() {
    let fixture = Fixture::start(&[]);
    for (body, status) in [
        (format!("[{}{{}}]", "{},".repeat(999)), 204),
        (format!("[{}{{}}]", "{},".repeat(1000)), 413),
        ("a=1\n".repeat(1000), 204),
        ("a=1\n".repeat(1001), 413),
    ] {
        let reply = fixture.collector.request("POST", "/api/beacon", &[TEXT], body.as_bytes());
        assert_eq!(reply.status, status, "{}", reply.text());
    }
    fixture.assert_ledger([4002, 2000, 2002]);
}

#[test]
fn a_body_that_is_not_wanted_is_read_so_that_its_answer_arrives_and_the_connection_lives() {
    let fixture = Fixture::start(&[]);
    let large = form(5_000_000);
    let mut connection = fixture.connect();
    for (path, headers, status) in [
        ("/api/beacon", &[FORM] as &[_], 413),
        ("/nothing", &[FORM], 404),
        ("/api/beacon", &[("Content-Encoding", "br")], 415),
        ("/api/beacon?ack=no", &[FORM], 400),
        ("/api/beacon", &[("Purpose", "prefetch")], 403),
    ] {
        let request = String::from_utf8(post("", headers, &large)).unwrap().replacen("/api/beacon?", path, 1);
        connection.send(request);
        let reply = connection.reply();
        assert_eq!((reply.status, reply.header("connection")), (status, None), "{path}");
    }
    connection.send(post("", &[], b"a=1"));
    assert_eq!(connection.reply().status, 204);
}

#[test]
fn whoever_asks_before_sending_too_much_is_refused_at_once() {
    let fixture = Fixture::start(&[]);
    let mut connection = fixture.connect();
    connection.send("POST /api/beacon HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 99999999\r\n\r\n");
    let reply = connection.reply();
    assert_eq!((reply.status, reply.header("connection")), (413, Some("close")));
    assert!(connection.is_closed());

    let mut connection = fixture.connect();
    connection.send("POST /api/beacon HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n");
    assert_eq!(connection.reply().status, 100);
    connection.send("a=1");
    assert_eq!(connection.reply().status, 204);
    fixture.assert_ledger([2, 1, 1]);
}

#[test]
fn a_body_that_does_not_come_in_time_is_given_up_and_is_no_event() {
    let fixture = Fixture::start(&["--body-timeout=300ms"]);
    for body in ["", "a=", "a=1"] {
        let mut connection = fixture.connect();
        connection.send(format!("POST /api/beacon HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n{body}"));
        let reply = connection.reply();
        assert_eq!((reply.status, reply.header("tallylight-refused")), (408, Some("timeout")));
        assert_eq!(reply.header("connection"), Some("close"));
        assert!(connection.is_closed());
    }
    let mut connection = fixture.connect();
    connection.send("POST /api/beacon HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\na=1");
    drop(connection);
    assert_eq!(fixture.collector.request("POST", "/api/beacon", &[], b"a=1").status, 204);
    fixture.assert_ledger([1, 1, 0]);
}

#[test]
fn a_body_that_is_refused_unseen_counts_as_many_events_as_it_has() {
    let fixture = Fixture::start(&[]);
    let lines = b"a=1\na=2\na=3";
    let post = |query: &str, headers: &[(&str, &str)]| {
        fixture.collector.request("POST", &format!("/api/beacon{query}"), headers, lines)
    };
    assert_eq!(post("", &[("Sec-Purpose", "prefetch")]).header("tallylight-refused"), Some("speculative"));
    assert_eq!(post("?ack=never", &[]).header("tallylight-refused"), Some("malformed"));
    fixture.assert_ledger([6, 0, 6]);
}

#[test]
fn a_small_body_does_not_become_a_great_deal_of_log() {
    let fixture = Fixture::start(&[]);
    let referer = format!("https://shop.example/{}", "x".repeat(12_000));
    let reply =
        fixture.collector.request("POST", "/api/beacon", &[("Referer", &referer)], "a=1\n".repeat(1000).as_bytes());
    assert_eq!(reply.status, 204);
    let refused = reply.header("tallylight-refused").unwrap();
    let (events, reason) = refused.split_once(' ').unwrap();
    assert_eq!(reason, "too_large");
    let events: u64 = events.parse().unwrap();
    assert!((600..700).contains(&events), "{events}: 4 MiB are taken");
    fixture.assert_ledger([1000, 1000 - events, events]);
}
