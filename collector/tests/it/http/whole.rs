//! Requests that come whole are answered without hyper, and nobody can tell.

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};

use serde_json::Value;

use super::redirect::Redirecting;
use super::{Connection, Fixture, OF_HYPER, post};
use crate::harness::datagrams::key;
use crate::harness::{PATIENCE, Reply, inspect, wait_for};
use tallylight_proto::link::Link;

const ID: &str = "0192b1a2-7000-7000-8000-000000000001";
const CHROME: &[(&str, &str)] = &[
    ("Connection", "keep-alive"),
    ("sec-ch-ua-platform", "\"Windows\""),
    ("User-Agent", "Mozilla/5.0 (Windows NT 10.0; Win64; x64) Chrome/156.0.0.0"),
    ("Accept", "image/avif,image/webp,*/*;q=0.8"),
    ("Sec-Fetch-Site", "cross-site"),
    ("Referer", "https://shop.example/books"),
    ("Accept-Encoding", "gzip, deflate, br, zstd"),
];

fn get(method: &str, target: &str, headers: &[(&str, &str)]) -> Vec<u8> {
    let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("{method} {target} HTTP/1.1\r\nHost: beacons.example\r\n{lines}\r\n").into_bytes()
}

fn with_body(target: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("POST {target} HTTP/1.1\r\nHost: beacons.example\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// Requests of each kind that is answered at once, and of some that are not.
fn requests(link: &str) -> Vec<Vec<u8>> {
    let id = format!("id={ID}");
    let mut requests = Vec::new();
    let (good, bad) = (format!("/r?{link}&id={ID}"), format!("/r?{link}0"));
    for target in [
        &good,
        &bad,
        "/r",
        "/beacon.js",
        "/beacon-0000000000000000.js",
        "/demo",
        "/demo/",
        "/demo/inline.html",
        "/demo/mail.html",
        "/demo/nothing",
        "/",
        "//",
        "/caf%C3%A9",
        "/`",
        "/a?`",
        "/{}|^~\\[]",
        "*",
        "/api/beacon?site=shop.example&event=click&target=https%3A%2F%2Fshop.example%2Fa+b&item=%C3%A9&value=1.25&age=3",
        "/api/beacon",
        "/pixel.gif?site=shop.example&lost=2&colour=red",
        "/pixel.gif?",
        "/api/beacon?site=elsewhere.example",
        "/api/beacon?site=shop.example&id=no-uuid",
        "/api/beacon?site=shop.example&age=old",
        "/api/beacon?site=shop.example&debug=2",
        "/pixel.gifs",
        "/api/beacon#there",
        "/api/beacon?site=shop.example&item=\"<>\"",
        "http://beacons.example/api/beacon?site=shop.example",
    ] {
        for method in ["GET", "HEAD", "PUT", "OPTIONS"] {
            requests.push(get(method, target, CHROME));
        }
        requests.push(with_body(target, b"event=a"));
        requests.push(get("GET", target, &[CHROME, &[("Origin", "https://shop.example")]].concat()));
        for connection in [
            "",
            "Connection: keep-alive\r\n",
            "Connection: Close\r\n",
            "Connection: close\r\nConnection: keep-alive\r\n",
        ] {
            requests.push(format!("GET {target} HTTP/1.0\r\n{connection}\r\n").into_bytes());
        }
    }
    for known in ["*", "W/\"x\"", "\"x\", *"] {
        requests.push(get("GET", "/beacon.js", &[("If-None-Match", known)]));
        requests.push(get("HEAD", "/beacon.js", &[("If-None-Match", known), ("Accept-Encoding", "gzip")]));
    }
    for more in [
        ("Origin", "https://shop.example"),
        ("Origin", "null"),
        ("Origin", "https://sh\u{f6}p.example"),
        ("DNT", "1"),
        ("sec-gpc", "1"),
        ("Sec-Purpose", "prefetch;prerender"),
        ("Purpose", "prefetch"),
        ("X-Forwarded-For", "192.0.2.77, 10.9.9.9"),
        ("Forwarded", "for=\"[2001:db8::1]:4711\""),
        ("User-Agent", "another one, which does not count"),
        ("Cookie", "name=value"),
        ("Connection", "close"),
        ("Content-Length", "0"),
        ("X-Long", &"x".repeat(8 * 1024)),
    ] {
        let headers = [CHROME, &[more]].concat();
        requests.push(get("GET", &format!("/api/beacon?site=shop.example&visitor=v1&{id}"), &headers));
        requests.push(post(&format!("site=shop.example&visitor=v1&{id}"), &headers, b"event=buy"));
    }
    for body in [
        &b"event=a\nevent=b\nnonsense\n"[..],
        b"[{\"event\":\"a\",\"site\":\"shop.example\"},{\"event\":\"b\",\"site\":\"shop.example\"}]",
        b"[{\"event\":1",
        b"",
        b"\xff\xfe",
    ] {
        for content_type in ["text/plain", "application/json", "application/x-www-form-urlencoded", "text/ping"] {
            for query in ["site=shop.example", "ack=synced&site=shop.example", "ack=perhaps"] {
                requests.push(post(query, &[("Content-Type", content_type), ("Ping-To", "https://a.example/")], body));
            }
        }
    }
    requests.push(post("", &[("Content-Encoding", "gzip")], b"not gzip"));
    requests.push(post("", &[("Content-Encoding", "br")], b"event=a"));
    requests
}

/// How a request is sent.
#[derive(Clone, Copy)]
enum Sent {
    /// In one piece.
    Whole,
    /// In three, each of which is read before the next one is sent.
    InPieces,
    /// In one, over a connection that is hyper's since it asked for this.
    After(&'static [u8]),
}

/// Waits until the collector has read all that was sent to it over this connection.
fn wait_until_read(stream: &TcpStream) {
    let address = |addr: SocketAddr| match addr.ip() {
        IpAddr::V4(ip) => format!("{:08X}:{:04X}", u32::from_ne_bytes(ip.octets()), addr.port()),
        IpAddr::V6(_) => unreachable!("the tests are on 127.0.0.1"),
    };
    let ends = format!(" {} {} ", address(stream.peer_addr().unwrap()), address(stream.local_addr().unwrap()));
    wait_for("all to be read", || {
        // proc(5): addresses, state, and what is in the queues for sending and for reading
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let (_, rest) = table.split_once(&ends)?;
        rest.split_whitespace().nth(1)?.ends_with(":00000000").then_some(())
    });
}

/// The answer to a request.
fn ask(addr: SocketAddr, sent: Sent, request: &[u8]) -> Reply {
    let mut stream = TcpStream::connect_timeout(&addr, PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut connection = Connection::of(stream.try_clone().unwrap()).unwrap();
    stream.set_nodelay(true).unwrap();
    let third = request.len() / 3;
    let pieces = match sent {
        Sent::Whole => vec![request],
        Sent::InPieces => vec![&request[..third], &request[third..2 * third], &request[2 * third..]],
        Sent::After(before) => {
            connection.send(before);
            assert_eq!(connection.reply().status, 404);
            vec![request]
        }
    };
    for (n, piece) in pieces.into_iter().enumerate() {
        if n > 0 {
            wait_until_read(&stream);
        }
        stream.write_all(piece).unwrap();
    }
    stream.shutdown(Shutdown::Write).unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let mut reply = Reply::parse(&bytes).unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(&bytes)));
    let version = String::from_utf8_lossy(&bytes[..8]).into_owned();
    reply.headers.push(("version".to_owned(), version));
    reply.headers.retain(|(name, _)| name != "date");
    reply.headers.sort();
    reply
}

/// But for what is another one each time; ordinals, since a record of the ledger may stand between.
fn without_names(mut event: Value) -> Value {
    let has_made_up_id = event["id"] != ID;
    let fields = event.as_object_mut().unwrap();
    fields.retain(|name, _| !["position", "ordinal", "received_at", "event_at"].contains(&name.as_str()));
    if has_made_up_id {
        fields.remove("id");
    }
    event
}

#[test]
fn a_request_that_comes_whole_or_in_pieces_is_answered_as_hyper_would() {
    let flags =
        ["--workers=1", "--site=shop.example", "--trusted-proxy=127.0.0.0/8", "--trusted-proxy=10.0.0.0/8", "--demo"];
    let (line, key) = key(7, 1);
    let all = [Sent::After(OF_HYPER.as_bytes()), Sent::Whole, Sent::InPieces]
        .map(|sent| (Redirecting::start(&line, &flags), sent));
    let link =
        Link { site: Some("shop.example".into()), target: Some("https://shop.example/".into()), ..Link::default() };
    let mut requests = requests(&link.to_query(&key).unwrap());
    // larger than what is read at a time
    requests.push(post("site=shop.example", &[], "event=click&item=a-very-long-name-indeed\n".repeat(1000).as_bytes()));
    let mut taken = 0;
    for request in &requests {
        let what = String::from_utf8_lossy(request);
        let [hyper, whole, in_pieces] =
            all.each_ref().map(|(fixture, sent)| ask(fixture.collector.http, *sent, request));
        assert_eq!(format!("{whole:?}"), format!("{hyper:?}"), "{what}");
        assert_eq!(format!("{in_pieces:?}"), format!("{hyper:?}"), "in pieces: {what}");
        taken += usize::from(whole.status < 300);
    }
    assert!(taken > requests.len() / 3, "{taken} of {}", requests.len());

    let [hyper, whole, in_pieces] = all.each_ref().map(|(fixture, _)| {
        let ledger = wait_for("all to be logged", || {
            Some(fixture.ledger()).filter(|[all, logged, refused]| *all == logged + refused)
        });
        let events = wait_for("all in the log", || {
            Some(inspect(&fixture.collector.data)).filter(|events| events.len() as u64 == ledger[1])
        });
        (ledger, events.into_iter().map(without_names).collect::<Vec<_>>())
    });
    assert!(hyper.1.len() > 1050 && hyper.0[2] > 10, "{:?}", hyper.0);
    for other in [whole, in_pieces] {
        assert_eq!(other.0, hyper.0);
        for (one, other) in hyper.1.iter().zip(&other.1) {
            assert_eq!(one, other);
        }
    }
}

#[test]
fn a_body_that_nobody_looks_into_is_no_request() {
    let fixture = Fixture::start(&["--max-rate-per-peer=2", "--trusted-proxy=127.0.0.1", "--max-header=8KiB"]);
    let hidden = "GET /api/beacon?event=hidden HTTP/1.1\r\nHost: x\r\n\r\n";
    let (len, long) = (hidden.len(), "x".repeat(8 * 1024));
    let mut clients = 1..;
    for before in [None, Some(OF_HYPER)] {
        for (path, long, status) in
            [("/nothing", "", 404), ("/pixel.gif", "", 405), ("/api/beacon", &*long, 431), ("/nothing", "", 429)]
        {
            let stream = TcpStream::connect_timeout(&fixture.collector.http, PATIENCE).unwrap();
            let mut connection = Connection::of(stream.try_clone().unwrap()).unwrap();
            let mut next = || format!("X-Forwarded-For: 192.0.2.{}\r\nHost:", clients.next().unwrap());
            if let Some(before) = before {
                connection.send(before.replace("Host:", &next()));
                assert_eq!(connection.reply().status, 404);
            }
            let client = next();
            let head = format!("POST {path} HTTP/1.1\r\n{client} x\r\nX-Long: {long}\r\nContent-Length: {len}\r\n\r\n");
            wait_for("its answer", || {
                connection.send(&head);
                wait_until_read(&stream);
                connection.send(hidden);
                let answered = connection.reply().status;
                // of which hyper gets none, so that the connection stays where it is
                connection.send(format!("OPTIONS /api/beacon HTTP/1.1\r\n{} x\r\n\r\n", next()));
                assert_eq!(connection.reply().status, 204, "{path} {status}");
                (answered == status).then_some(())
            });
        }
    }
    fixture.assert_ledger([2, 0, 2]);
}
