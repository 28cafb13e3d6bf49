//! Requests that come whole are answered without hyper, and nobody can tell.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use serde_json::Value;

use super::{Connection, Fixture, post};
use crate::harness::{PATIENCE, Reply, inspect, wait_for};

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

/// Requests of each kind that is answered at once, and of some that are not.
fn requests() -> Vec<Vec<u8>> {
    let id = format!("id={ID}");
    let mut requests = Vec::new();
    for target in [
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

/// The answer to a request on a connection that asked for this before.
fn ask(addr: SocketAddr, before: Option<&[u8]>, request: &[u8]) -> Reply {
    let mut stream = TcpStream::connect_timeout(&addr, PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut connection = Connection::of(stream.try_clone().unwrap()).unwrap();
    if let Some(before) = before {
        connection.send(before);
        assert_eq!(connection.reply().status, 404);
    }
    stream.write_all(request).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let mut reply = Reply::parse(&bytes).unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(&bytes)));
    reply.headers.retain(|(name, _)| name != "date");
    reply.headers.sort();
    reply
}

/// But for what is another one each time.
fn without_names(mut event: Value) -> Value {
    let has_made_up_id = event["id"] != ID;
    let fields = event.as_object_mut().unwrap();
    fields.retain(|name, _| !["position", "received_at", "event_at"].contains(&name.as_str()));
    if has_made_up_id {
        fields.remove("id");
    }
    event
}

#[test]
fn a_request_that_comes_whole_is_answered_as_hyper_would() {
    let flags = ["--workers=1", "--site=shop.example", "--trusted-proxy=127.0.0.0/8", "--trusted-proxy=10.0.0.0/8"];
    let [whole, hyper] = [(); 2].map(|()| Fixture::start(&flags));
    // the connection that asks for this is hyper's from then on
    let of_hyper = get("GET", "/nothing", &[]);
    let requests = requests();
    let mut taken = 0;
    for request in &requests {
        let [one, other] = [(&whole, None), (&hyper, Some(&of_hyper[..]))]
            .map(|(fixture, before)| ask(fixture.collector.http, before, request));
        assert_eq!(format!("{one:?}"), format!("{other:?}"), "{}", String::from_utf8_lossy(request));
        taken += usize::from(one.status < 300);
    }
    assert!(taken > requests.len() / 3, "{taken} of {}", requests.len());

    let ledger = wait_for("the same ledger", || Some(whole.ledger()).filter(|ledger| *ledger == hyper.ledger()));
    let [one, other] = [&whole, &hyper].map(|fixture| {
        let events = wait_for("all in the log", || {
            Some(inspect(&fixture.collector.data)).filter(|events| events.len() as u64 == ledger[1])
        });
        events.into_iter().map(without_names).collect::<Vec<_>>()
    });
    assert!(one.len() > 50 && ledger[2] > 10, "{ledger:?}");
    for (one, other) in one.iter().zip(&other) {
        assert_eq!(one, other);
    }
}
