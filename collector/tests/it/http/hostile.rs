//! Bytes that come in odd pieces, odd order, or with bad intent.

use super::{Connection, Fixture, post};
use crate::harness::wait_for;

const GET: &[u8] = b"GET /api/beacon?event=pixel&item=42 HTTP/1.1\r\nHost: x\r\nUser-Agent: u\r\n\r\n";

fn chunked() -> Vec<u8> {
    b"POST /api/beacon HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n4;name=x\r\na=1&\r\n3\r\nb=2\r\n0\r\nTrailer: t\r\n\r\n".to_vec()
}

#[test]
fn a_request_may_be_split_at_every_byte() {
    let fixture = Fixture::start(&[]);
    let requests = [(GET.to_vec(), 200), (post("ack=logged", &[], b"event=a&item=b"), 204), (chunked(), 204)];
    let mut events = 0;
    for (request, status) in &requests {
        // all beginnings first, so that the collector has seen each of them alone
        let mut halves: Vec<_> = (1..request.len()).map(|cut| (cut, fixture.connect())).collect();
        for (cut, connection) in &mut halves {
            connection.send(&request[..*cut]);
        }
        wait_for("all to be accepted", || (fixture.connections() >= halves.len() as f64).then_some(()));
        for (cut, connection) in &mut halves {
            connection.send(&request[*cut..]);
            assert_eq!(connection.reply().status, *status, "cut at {cut}");
            events += 1;
        }
    }
    for (request, status) in &requests {
        let mut connection = fixture.connect();
        for byte in request {
            connection.send([*byte]);
        }
        assert_eq!(connection.reply().status, *status);
        events += 1;
    }
    fixture.assert_ledger([events, events, 0]);
}

#[test]
fn pipelined_requests_are_answered_in_their_order() {
    let fixture = Fixture::start(&[]);
    let mut connection = fixture.connect();
    let mut requests = Vec::new();
    for n in 0..100 {
        requests.extend(format!("GET /api/beacon?debug=1&event=n{n} HTTP/1.1\r\nHost: x\r\n\r\n").bytes());
        requests.extend(post("", &[], b"a=1"));
        requests.extend(GET);
        requests.extend(b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n");
    }
    connection.send(&requests);
    for n in 0..100 {
        let report: serde_json::Value = serde_json::from_slice(&connection.reply().body).unwrap();
        assert_eq!(report["event"]["event"], format!("n{n}"));
        let statuses = [(); 3].map(|()| connection.reply().status);
        assert_eq!(statuses, [204, 200, 404], "{n}");
    }
    fixture.assert_ledger([200, 200, 0]);
}

#[test]
fn an_answer_does_not_wait_for_the_rest_of_the_next_request() {
    let fixture = Fixture::start(&[]);
    let mut connection = fixture.connect();
    connection.send([GET, &GET[..30]].concat());
    assert_eq!(connection.reply().status, 200);
    connection.send([&GET[30..], b"GET "].concat());
    assert_eq!(connection.reply().status, 200);
}

#[test]
fn requests_that_are_no_http_are_refused_and_harm_nobody() {
    let fixture = Fixture::start(&[]);
    let mut bystander = fixture.connect();
    let head = |lines: &str| format!("GET /api/beacon HTTP/1.1\r\nHost: x\r\n{lines}\r\n\r\n").into_bytes();
    let many: String = (0..150).map(|n| format!("a{n}: b\r\n")).collect();
    let body =
        |lines: &str, body: &str| format!("POST /api/beacon HTTP/1.1\r\nHost: x\r\n{lines}\r\n\r\n{body}").into_bytes();
    let cases: Vec<(&str, Vec<u8>, &[u16])> = vec![
        ("a NUL in a header", head("A: b\0c"), &[400]),
        ("a bare carriage return", head("A: b\rc"), &[400]),
        ("a folded line", head("A: b\r\n c"), &[400]),
        ("a blank before the colon", head("A : b"), &[400]),
        ("a header without a colon", head("A"), &[400]),
        ("an empty name", head(": b"), &[400]),
        // hyper looks whether it is too much between two reads
        ("100 KB of a header", head(&format!("A: {}", "b".repeat(100_000))), &[431]),
        ("150 headers", head(many.trim_end()), &[431]),
        ("a long path", format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(70_000)).into_bytes(), &[414, 431]),
        ("an unknown version", b"GET /api/beacon HTTP/9.9\r\n\r\n".to_vec(), &[400]),
        ("no version", b"GET /api/beacon\r\n\r\n".to_vec(), &[400]),
        ("a control character in the path", b"GET /api/beacon?a=\x01 HTTP/1.1\r\n\r\n".to_vec(), &[400]),
        ("a blank in the path", b"GET /api/beacon?a= b HTTP/1.1\r\n\r\n".to_vec(), &[400]),
        ("a method that is none", b"G@T /api/beacon HTTP/1.1\r\n\r\n".to_vec(), &[400]),
        ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), &[400]),
        ("a negative length", body("Content-Length: -1", ""), &[400]),
        ("a length with a sign", body("Content-Length: +3", "a=1"), &[400]),
        ("a length that is no number", body("Content-Length: 1e1", "a=1"), &[400]),
        ("two lengths", body("Content-Length: 3\r\nContent-Length: 4", "a=12"), &[400]),
        ("a coding that is not chunked", body("Transfer-Encoding: gzip", "a=1"), &[400, 501]),
        ("a chunk of no size", body("Transfer-Encoding: chunked", "x\r\n\r\n"), &[400]),
        ("a chunk of too many digits", body("Transfer-Encoding: chunked", "fffffffffffffffff\r\n"), &[400]),
        ("a chunk without its end", body("Transfer-Encoding: chunked", "3\r\na=1x\r\n0\r\n\r\n"), &[400]),
    ];
    for (what, bytes, statuses) in cases {
        let mut connection = fixture.connect();
        connection.try_send(&bytes);
        let reply = connection.try_reply().unwrap_or_else(|| panic!("{what}: no answer"));
        assert!(statuses.contains(&reply.status), "{what}: {reply:?}");
        assert!(connection.try_reply().is_none(), "{what}: the connection goes on");
    }
    bystander.send(GET);
    assert_eq!(bystander.reply().status, 200);
    fixture.assert_ledger([1, 1, 0]);
}

#[test]
fn a_head_that_is_too_large_gets_a_whole_answer_and_is_counted() {
    let fixture = Fixture::start(&[]);
    let mut connection = fixture.connect();
    let request = |method: &str, path: &str, len: usize| {
        let cookie = "c".repeat(len);
        format!("{method} {path} HTTP/1.1\r\nOrigin: null\r\nContent-Length: 0\r\nCookie: {cookie}\r\n\r\n")
    };
    for (method, path, len, status) in [
        ("GET", "/api/beacon", 15_000, 200),
        ("GET", "/api/beacon", 17_000, 431),
        ("POST", "/api/beacon", 17_000, 431),
        ("GET", "/nothing", 17_000, 431),
    ] {
        connection.send(request(method, path, len));
        let reply = connection.reply();
        assert_eq!((reply.status, reply.header("access-control-allow-origin")), (status, Some("null")));
        assert_eq!(reply.body.starts_with(b"GIF"), method == "GET" && path == "/api/beacon");
        assert_eq!(reply.header("tallylight-refused"), (status == 431).then_some("too_large"));
    }
    fixture.assert_ledger([3, 1, 2]);
}

#[test]
fn headers_that_are_odd_but_legal_do_no_harm() {
    let fixture = Fixture::start(&["--trusted-proxy=127.0.0.1"]);
    let mut connection = fixture.connect();
    for line in [
        &b"Referer: \xff\xfe\xfd"[..],
        b"User-Agent: ",
        b"Origin: \xf0\x9f\x93\x9a",
        b"Origin: https://a.example\r\nOrigin: https://b.example",
        b"Forwarded: ;;,,\"\\\"",
        b"X-Forwarded-For: ,,,[::",
        b"Cookie: a=b",
        b"Content-Type: \xff",
        b"Sec-Purpose: \xff",
        b"Accept-Encoding: br",
    ] {
        connection.send([b"GET /api/beacon?%ff=%zz&%00=a&=b& HTTP/1.1\r\nHost: x\r\n", line, b"\r\n\r\n"].concat());
        let reply = connection.reply();
        assert_eq!((reply.status, reply.header("set-cookie")), (200, None), "{}", line.escape_ascii());
    }
    fixture.assert_ledger([10, 10, 0]);
}

#[test]
fn a_second_request_cannot_hide_in_the_body_of_the_first() {
    let fixture = Fixture::start(&[]);
    let hidden = "GET /api/beacon?event=hidden HTTP/1.1\r\nHost: x\r\n\r\n";
    for lines in ["Content-Length: 5\r\nTransfer-Encoding: chunked", "Transfer-Encoding: chunked\r\nContent-Length: 5"]
    {
        let mut connection = Connection::open(fixture.collector.http);
        connection.send(format!("POST /api/beacon HTTP/1.1\r\nHost: x\r\n{lines}\r\n\r\n0\r\n\r\n{hidden}"));
        connection.half_close();
        // by RFC 9112, 6.3: refused, or read as chunked; what follows is not answered on this connection
        let statuses: Vec<_> = std::iter::from_fn(|| connection.try_reply()).map(|reply| reply.status).collect();
        assert!([&[400][..], &[204]].contains(&&statuses[..]), "{lines}: {statuses:?}");
    }
    let [received, ..] = fixture.ledger();
    assert!(received <= 2, "the hidden one was counted");
}

#[test]
fn old_and_half_closed_clients_get_their_answer() {
    let fixture = Fixture::start(&[]);
    let mut connection = fixture.connect();
    connection.send("GET /api/beacon HTTP/1.0\r\n\r\n");
    assert_eq!(connection.reply().status, 200);
    assert!(connection.is_closed());

    let mut connection = fixture.connect();
    connection.send(post("ack=synced", &[], b"a=1"));
    connection.half_close();
    assert_eq!(connection.reply().status, 204);
    assert!(connection.is_closed());
    fixture.assert_ledger([2, 2, 0]);
}
