//! What clients send: Chrome's requests, as a page makes them of a click.

use std::fmt::Write;

use serde_json::json;

use crate::beacons::Beacons;

/// Different requests.
const VARIANTS: usize = 64;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// The pixel.
    Get,
    /// The same without an event.
    Head,
    /// An event, answered when it is in the log.
    Post,
    /// The same, answered when it is on disk.
    PostSynced,
    /// The script that pages count clicks with.
    Script,
    /// Mostly the pixel, and the script for those that are new: what comes over the few connections of a proxy.
    GetOrScript,
    /// What sites send that ask for different acknowledgements: half of them pixels, the others as many of either.
    AnyAck,
}

/// Of so many pixels and scripts one is a script.
const SCRIPT_OF: usize = 16;

/// Names and values, but for those of the connection.
pub type Headers = Vec<(String, String)>;

/// Those that Chrome sends.
pub fn of_chrome() -> Headers {
    CHROME.map(|(name, value)| (name.into(), value.into())).into()
}

/// Some requests: with Chrome's headers, of which there are 13 then, about 840 bytes.
pub fn all(ask: Ask, is_anew: bool, headers: &Headers) -> Vec<Vec<u8>> {
    let mut beacons = Beacons::new(3);
    let ask = |n: usize| match ask {
        Ask::GetOrScript if n.is_multiple_of(SCRIPT_OF) => Ask::Script,
        Ask::GetOrScript => Ask::Get,
        Ask::AnyAck => [Ask::Get, Ask::Post, Ask::Get, Ask::PostSynced][n % 4],
        other => other,
    };
    (0..VARIANTS).map(|n| one(ask(n), is_anew, headers, &mut beacons)).collect()
}

/// The same pixels as requests over HTTP/2, of this host.
pub fn pixels_of_http2(host: &str, headers: &Headers) -> http::Result<Vec<http::Request<()>>> {
    let mut beacons = Beacons::new(3);
    let one = |_| {
        let request = http::Request::get(format!("http://{host}/api/beacon?{}", query(&mut beacons)));
        headers.iter().fold(request, |request, (name, value)| request.header(name, value)).body(())
    };
    (0..VARIANTS).map(one).collect()
}

/// A query of a click.
pub fn query(beacons: &mut Beacons) -> String {
    let event = beacons.event();
    let mut query = String::new();
    let id = event.id.uuid.simple();
    let target = event.target.replace(':', "%3A").replace('/', "%2F").replace('?', "%3F").replace('=', "%3D");
    let _ = write!(query, "id={id}&site={}&event=click&target={target}&item={}", event.site, event.item);
    let _ = write!(query, "&placement={}&visitor={}&age={}", event.placement, event.visitor, event.age_ms);
    query
}

const CHROME: [(&str, &str); 11] = [
    ("sec-ch-ua-platform", "\"Windows\""),
    (
        "user-agent",
        "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/156.0.0.0 Safari/537.36",
    ),
    ("sec-ch-ua", "\"Chromium\";v=\"156\", \"Google Chrome\";v=\"156\", \"Not_A Brand\";v=\"99\""),
    ("sec-ch-ua-mobile", "?0"),
    ("accept", "image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8"),
    ("sec-fetch-site", "cross-site"),
    ("sec-fetch-mode", "no-cors"),
    ("sec-fetch-dest", "image"),
    ("referer", "https://shop.example/"),
    ("accept-encoding", "gzip, deflate, br, zstd"),
    ("accept-language", "en-GB,en;q=0.9"),
];

fn one(ask: Ask, is_anew: bool, headers: &Headers, beacons: &mut Beacons) -> Vec<u8> {
    let (line, body) = match ask {
        Ask::Script => ("GET /beacon.js".into(), String::new()),
        Ask::Get | Ask::GetOrScript | Ask::AnyAck => (format!("GET /api/beacon?{}", query(beacons)), String::new()),
        Ask::Head => (format!("HEAD /api/beacon?{}", query(beacons)), String::new()),
        Ask::Post => ("POST /api/beacon".into(), body(beacons)),
        Ask::PostSynced => ("POST /api/beacon?ack=synced".into(), body(beacons)),
    };
    let mut request = format!("{line} HTTP/1.1\r\nHost: beacons.example\r\n");
    let connection = if is_anew { "close" } else { "keep-alive" };
    let _ = write!(request, "Connection: {connection}\r\n");
    if !body.is_empty() {
        let _ = write!(request, "Content-Length: {}\r\nContent-Type: text/plain;charset=UTF-8\r\n", body.len());
    }
    for (name, value) in headers {
        let _ = write!(request, "{name}: {value}\r\n");
    }
    let _ = write!(request, "\r\n{body}");
    request.into_bytes()
}

fn body(beacons: &mut Beacons) -> String {
    let event = beacons.event();
    json!({
        "id": event.id.uuid.to_string(), "site": event.site, "event": event.event, "target": event.target,
        "page": event.page, "item": event.item, "placement": event.placement, "visitor": event.visitor,
        "age": event.age_ms,
    })
    .to_string()
}
