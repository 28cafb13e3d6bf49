//! Attacks over HTTP/1.1, and below it.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use socket2::SockRef;

use super::ground::{Ground, write};

/// Slow ones at a time.
pub const SLOW: usize = 4_000;
/// Silent ones at a time.
const IDLE: usize = 20_000;
const PAUSE: Duration = Duration::from_millis(20);
const POST: &str = "POST /api/beacon HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\n";

/// Does nothing, as fast as it can.
pub fn spin(ground: &Ground) {
    while !ground.is_over() {
        std::hint::spin_loop();
    }
}

/// A head that comes byte by byte, one a second.
pub fn slow_heads(ground: &Ground) {
    drip(ground, b"GET /api/beacon?event=");
}

/// The same of a body.
pub fn slow_bodies(ground: &Ground) {
    drip(ground, format!("{POST}Content-Length: 60000\r\n\r\n").as_bytes());
}

fn drip(ground: &Ground, beginning: &[u8]) {
    let mut slow: Vec<TcpStream> = Vec::new();
    while !ground.is_over() {
        // not all at once: what is shown is that they are there, not what a burst costs
        let round = Instant::now();
        let gap = Duration::from_secs(1) / u32::try_from(SLOW).expect("a few thousand");
        let mut number = 0;
        slow.retain(|stream| {
            number += 1;
            while round.elapsed() < gap * number && !ground.is_over() {
                thread::sleep(Duration::from_millis(1));
            }
            write(stream, b"a").inspect(|len| ground.sent(*len)).is_ok()
        });
        while slow.len() < SLOW && !ground.is_over() {
            let Ok(stream) = ground.connect_from_many() else { break };
            if ground.send(&stream, beginning).is_ok() {
                ground.requested(1);
                slow.push(stream);
            }
        }
        while round.elapsed() < Duration::from_secs(1) && !ground.is_over() {
            thread::sleep(PAUSE);
        }
    }
}

/// Connections that say nothing, or half of something.
pub fn idle(ground: &Ground) {
    hold(ground, Ground::connect_from_many);
}

/// The same from one address.
pub fn idle_from_one(ground: &Ground) {
    hold(ground, Ground::connect);
}

fn hold(ground: &Ground, connect: fn(&Ground) -> io::Result<TcpStream>) {
    let mut idle = Vec::new();
    while !ground.is_over() {
        if idle.len() == IDLE {
            thread::sleep(PAUSE);
            continue;
        }
        // one that was closed at once is tried again, as whoever attacks would
        let Ok(stream) = connect(ground) else { continue };
        if idle.len() % 2 == 1 && ground.send(&stream, b"GET /api/beacon HTTP/1.1\r\nHost").is_err() {
            continue;
        }
        idle.push(stream);
    }
}

/// Connections that end as soon as they are there.
pub fn connect_and_close(ground: &Ground) {
    while !ground.is_over() {
        drop(ground.connect_from_many());
    }
}

/// The same with a reset in place of an end.
pub fn connect_and_reset(ground: &Ground) {
    while !ground.is_over() {
        if let Ok(stream) = ground.connect_from_many() {
            reset(&stream);
        }
    }
}

/// Asks ten times, and is gone before the first answer.
pub fn ask_and_reset(ground: &Ground) {
    let requests = b"GET /api/beacon?site=attack HTTP/1.1\r\nHost: x\r\n\r\n".repeat(10);
    while !ground.is_over() {
        if let Ok(stream) = ground.connect_from_many() {
            ground.requested(10);
            // a broken connection is what is wanted
            let _ = ground.send(&stream, &requests);
            reset(&stream);
        }
    }
}

fn reset(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// A beginning, then the same again and again, as fast as it is taken.
fn endless(ground: &Ground, beginning: &str, more: &[u8]) {
    while !ground.is_over() {
        let Ok(stream) = ground.connect() else { continue };
        ground.requested(1);
        let mut result = ground.send(&stream, beginning.as_bytes());
        while result.is_ok() && !ground.is_over() {
            result = ground.send(&stream, more);
        }
    }
}

/// Bodies of which it is known at once that they are too large.
pub fn huge_bodies(ground: &Ground) {
    endless(ground, &format!("{POST}Content-Length: 10000000000\r\n\r\n"), &[b'a'; 65_536]);
}

/// Bodies that never end, in the smallest pieces.
pub fn endless_chunks(ground: &Ground) {
    endless(ground, &format!("{POST}Transfer-Encoding: chunked\r\n\r\n"), &b"1\r\na\r\n".repeat(10_000));
}

/// A chunk whose size is followed by what nobody wants.
pub fn endless_extensions(ground: &Ground) {
    endless(ground, &format!("{POST}Transfer-Encoding: chunked\r\n\r\n5;"), &[b'a'; 65_536]);
}

/// What may follow the last chunk.
pub fn endless_trailers(ground: &Ground) {
    endless(ground, &format!("{POST}Transfer-Encoding: chunked\r\n\r\n0\r\n"), &b"a: b\r\n".repeat(10_000));
}

/// A head without an end.
pub fn endless_heads(ground: &Ground) {
    endless(ground, "GET /api/beacon HTTP/1.1\r\nHost: x\r\nCookie: ", &[b'a'; 65_536]);
}

/// Asks `times` at once, as `make` says each time, reads the answers, and asks again.
fn ask(ground: &Ground, times: usize, mut make: impl FnMut() -> Vec<u8>) {
    let mut buffer = vec![0; 65_536];
    'connections: while !ground.is_over() {
        let Ok(mut stream) = ground.connect() else { continue };
        while !ground.is_over() {
            let bytes = make();
            ground.requested(times as u64);
            if ground.send(&stream, &bytes).is_err() {
                continue 'connections;
            }
            let mut answers = 0;
            while answers < times && !ground.is_over() {
                match stream.read(&mut buffer) {
                    // one that lies on the edge of two reads is not seen: then the next write comes a little late
                    Ok(len) if len > 0 => {
                        answers += buffer[..len].windows(9).filter(|nine| nine == b"HTTP/1.1 ").count()
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    _ => continue 'connections,
                }
            }
        }
    }
}

fn post(more: &str, body: &[u8]) -> Vec<u8> {
    [format!("{POST}{more}Content-Length: {}\r\n\r\n", body.len()).as_bytes(), body].concat()
}

/// 60 KB that become 60 MB.
pub fn gzip_bombs(ground: &Ground) {
    ask(ground, 1, || BOMB.clone());
}

static BOMB: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    let megabyte = vec![b'a'; 1 << 20];
    let packed = (0..60).try_for_each(|_| encoder.write_all(&megabyte)).and_then(|()| encoder.finish());
    post("Content-Encoding: gzip\r\n", &packed.expect("memory does not fail"))
});

/// Makes what takes longer to make than an attack may last.
pub fn prepare() {
    LazyLock::force(&BOMB);
}

/// 100 kB of small requests in one write.
pub fn pipelined(ground: &Ground) {
    let (times, requests) = many_small();
    ask(ground, times, || requests.clone());
}

/// The same by somebody who reads nothing, and so in the end gets no more answers.
pub fn never_read(ground: &Ground) {
    let (times, requests) = many_small();
    while !ground.is_over() {
        let mut streams: Vec<TcpStream> = Vec::new();
        for _ in 0..50 {
            let Ok(stream) = ground.connect() else { continue };
            for _ in 0..50 {
                match write(&stream, &requests) {
                    Ok(len) => {
                        ground.sent(len);
                        ground.requested((times * len / requests.len()) as u64);
                    }
                    Err(_) => break,
                }
                if ground.is_over() {
                    return;
                }
            }
            streams.push(stream);
        }
    }
}

fn many_small() -> (usize, Vec<u8>) {
    let one = b"GET /api/beacon?site=attack HTTP/1.1\r\nHost: x\r\n\r\n";
    let times = 100_000 / one.len();
    (times, one.repeat(times))
}

/// Names that nobody has seen before, a thousand a body.
pub fn property_names(ground: &Ground) {
    lines(ground, "site=attack&property-");
}

/// The same for sites.
pub fn sites(ground: &Ground) {
    lines(ground, "a=b&site=");
}

fn lines(ground: &Ground, beginning: &str) {
    let mut number = Instant::now().elapsed().as_nanos();
    ask(ground, 1, || {
        let body: String = (0..1000)
            .map(|_| {
                number += 1;
                format!("{beginning}{number:x}=1\n")
            })
            .collect();
        post("", body.as_bytes())
    });
}
