//! Attacks that only HTTP/2 knows (RFC 9113), while honest clients go on.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::Fixture;
use super::attacks::attack;
use crate::harness::PATIENCE;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
/// More than any flood may send on one connection.
const MOST_TAKEN: usize = 64 * 1024 * 1024;

/// A frame (RFC 9113, 4.1).
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&len[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// `:method`, `:scheme`, and `:path` and `:authority` as literals (RFC 7541, appendix A).
pub fn head(method: u8, path: &str) -> Vec<u8> {
    let len = u8::try_from(path.len()).unwrap();
    [&[method, 0x86, 0x04, len][..], path.as_bytes(), &[0x01, 1], b"x"].concat()
}

pub const GET: u8 = 0x82;
pub const POST: u8 = 0x83;

/// A connection that has begun with these settings.
pub fn connect(fixture: &Fixture, settings: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(fixture.collector.http).unwrap();
    stream.write_all(&[&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(SETTINGS, 0, 0, settings)].concat()).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Sends `first`, then `more` of a number that goes up, reading what comes back, until it is closed or all was sent. Gives
/// how much was taken, and whether it was closed.
fn flood(fixture: &Fixture, first: &[u8], writes: u32, more: impl Fn(u32) -> Vec<u8>) -> (usize, bool) {
    let mut stream = connect(fixture, &[]);
    let mut taken = 0;
    if stream.write_all(first).is_err() {
        return (0, true);
    }
    for number in 0..writes {
        let bytes = more(number);
        if stream.write_all(&bytes).is_err() || is_closed(&mut stream) {
            return (taken, true);
        }
        taken += bytes.len();
    }
    (taken, false)
}

fn is_closed(stream: &mut TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let is_closed = loop {
        match stream.read(&mut [0; 65_536]) {
            Ok(0) => break true,
            Ok(_) => {}
            Err(error) => break error.kind() != io::ErrorKind::WouldBlock,
        }
    };
    stream.set_nonblocking(false).unwrap();
    is_closed
}

#[test]
fn streams_that_are_reset_as_soon_as_they_are_opened_end_the_connection() {
    let fixture = Fixture::start(&[]);
    let head = head(GET, "/api/beacon?debug=1");
    let honest = attack(&fixture, || {
        for _ in 0..20 {
            let pairs = |number: u32| {
                let streams = (0..100).map(|n| 2 * (number * 100 + n) + 1);
                let open = |stream| frame(HEADERS, END_HEADERS | END_STREAM, stream, &head);
                streams
                    .flat_map(|stream| [open(stream), frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat())
                    .collect()
            };
            let (taken, is_closed) = flood(&fixture, &[], 5_000, pairs);
            assert!(is_closed, "{taken} bytes were taken");
        }
    });
    fixture.assert_ledger([honest, honest, 0]);
}

#[test]
fn heads_and_frames_without_end_end_the_connection() {
    let fixture = Fixture::start(&["--body-timeout=1s"]);
    let field = [&[0x00, 1, b'a', 100][..], &[b'b'; 100]].concat();
    let continuation = frame(CONTINUATION, 0, 1, &field.repeat(150));
    let tiny = frame(CONTINUATION, 0, 1, &[]).repeat(1_000);
    let open = frame(HEADERS, 0, 1, &head(GET, "/api/beacon"));
    let body = frame(HEADERS, END_HEADERS, 1, &head(POST, "/api/beacon"));
    let nothing = frame(DATA, 0, 1, &[]).repeat(1_000);
    let no_window = [frame(HEADERS, END_HEADERS, 1, &head(POST, "/api/beacon")), frame(WINDOW_UPDATE, 0, 0, &[0; 4])];
    let honest = attack(&fixture, || {
        for (what, first, more) in [
            ("a head of many frames", &open, &continuation),
            ("a head of empty frames", &open, &tiny),
            ("a window that grows by nothing", &no_window.concat(), &nothing),
            ("a body of empty frames", &body, &nothing),
        ] {
            let most = u32::try_from(MOST_TAKEN / more.len()).unwrap();
            // an empty body is cut off after its time, which other floods never need
            let (deadline, mut closed) = (Instant::now() + PATIENCE, false);
            while !closed && Instant::now() < deadline {
                closed = flood(&fixture, first, most, |_| more.clone()).1;
            }
            assert!(closed, "{what}");
        }
    });
    fixture.assert_ledger([honest, honest, 0]);
}

#[test]
fn settings_and_pings_without_end_hold_up_nobody_and_take_no_memory() {
    let fixture = Fixture::start(&[]);
    let honest = attack(&fixture, || {
        for more in [frame(SETTINGS, 0, 0, &[]).repeat(1_000), frame(PING, 0, 0, b"01234567").repeat(1_000)] {
            flood(&fixture, &[], 1_000, |_| more.clone());
        }
    });
    fixture.assert_ledger([honest, honest, 0]);
}

#[test]
fn whoever_takes_no_byte_of_an_answer_is_cut_off() {
    let fixture = Fixture::start(&["--idle-timeout=1s", "--body-timeout=1s"]);
    let head = head(GET, "/beacon.js");
    let requests: Vec<u8> = (0..100).flat_map(|n| frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, &head)).collect();
    let honest = attack(&fixture, || {
        let held: Vec<_> = (0..50)
            .map(|_| {
                // SETTINGS_INITIAL_WINDOW_SIZE is 0: answers have no room for a body
                let mut stream = connect(&fixture, &[0, 4, 0, 0, 0, 0]);
                stream.write_all(&requests).unwrap();
                stream
            })
            .collect();
        for mut stream in held {
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let begun = Instant::now();
            while stream.read(&mut [0; 65_536]).is_ok_and(|len| len > 0) {
                assert!(begun.elapsed() < PATIENCE + Duration::from_secs(1), "it is still open");
            }
        }
    });
    fixture.assert_ledger([honest, honest, 0]);
}

/// Reads the head of a frame, and what is in it: its kind and its flags.
fn read_frame(stream: &mut TcpStream) -> io::Result<[u8; 2]> {
    let mut head = [0; 9];
    stream.read_exact(&mut head)?;
    let len = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    io::copy(&mut stream.take(len.into()), &mut io::sink())?;
    Ok([head[3], head[4]])
}

/// Returns when all that was sent has been read: a PING is answered.
pub fn wait_until_read(stream: &mut TcpStream) {
    stream.write_all(&frame(PING, 0, 0, b"01234567")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    while read_frame(stream).unwrap() != [PING, 1] {}
}

/// A connection on which so many answers as there is room for wait for room for their bodies.
fn with_answers_that_wait(fixture: &Fixture, request: impl Fn(u32) -> Vec<u8>) -> TcpStream {
    // SETTINGS_INITIAL_WINDOW_SIZE is 0
    let mut stream = connect(fixture, &[0, 4, 0, 0, 0, 0]);
    stream.write_all(&(0..16).flat_map(request).collect::<Vec<_>>()).unwrap();
    assert_eq!(heads_of_answers(&mut stream, 16), 16);
    stream
}

/// Reads frames until there are so many answers' heads, and then for a moment more: whether there is another one.
pub fn heads_of_answers(stream: &mut TcpStream, until: usize) -> usize {
    let mut heads = 0;
    loop {
        let moment = if heads >= until { Duration::from_millis(300) } else { PATIENCE };
        stream.set_read_timeout(Some(moment)).unwrap();
        match read_frame(stream) {
            Ok([kind, _]) => heads += usize::from(kind == HEADERS),
            Err(_) => return heads,
        }
    }
}

#[test]
fn whoever_takes_no_answer_gets_no_more_of_them_and_all_when_it_does() {
    let fixture = Fixture::start(&[]);
    let get = head(GET, "/beacon.js");
    let request = |n: u32| frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, &get);
    let mut stream = with_answers_that_wait(&fixture, request);
    stream.write_all(&(16..100).flat_map(request).collect::<Vec<_>>()).unwrap();
    assert_eq!(heads_of_answers(&mut stream, 0), 0);
    // what takes no room goes on: its window is that of the connection
    let settings = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 255, 255]);
    stream.write_all(&[settings, frame(WINDOW_UPDATE, 0, 0, &[0, 16, 0, 0])].concat()).unwrap();
    assert_eq!(heads_of_answers(&mut stream, 84), 84);
    fixture.assert_ledger([0, 0, 0]);
}

#[test]
fn what_is_given_up_while_it_waits_is_kept_no_longer_and_never_answered() {
    let fixture = Fixture::start(&[]);
    let get = head(GET, "/api/beacon");
    let request = |n: u32| frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, &get);
    let mut stream = with_answers_that_wait(&fixture, request);
    // there is no room for more of them: each has come, and waits, when it is given up
    for n in 16..500 {
        stream.write_all(&request(n)).unwrap();
        wait_until_read(&mut stream);
        stream.write_all(&frame(RST_STREAM, 0, 2 * n + 1, &[0, 0, 0, 8])).unwrap();
    }
    let settings = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 255, 255]);
    stream.write_all(&[settings, request(500)].concat()).unwrap();
    assert_eq!(heads_of_answers(&mut stream, 1), 1);
    fixture.assert_ledger([17, 17, 0]);
}

#[test]
fn whoever_wants_to_be_connected_is_told_at_once_that_nothing_is_here() {
    let fixture = Fixture::start(&["--body-timeout=30s"]);
    let mut stream = connect(&fixture, &[]);
    // CONNECT x, both as literals: there is no other way to say it (RFC 9113, 8.5)
    let connect = [&[0x02, 7][..], b"CONNECT", &[0x01, 1], b"x"].concat();
    let begun = Instant::now();
    stream.write_all(&frame(HEADERS, END_HEADERS, 1, &connect)).unwrap();
    assert_eq!(heads_of_answers(&mut stream, 1), 1);
    assert!(begun.elapsed() < PATIENCE);
    fixture.assert_ledger([0, 0, 0]);
}
