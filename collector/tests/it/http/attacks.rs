//! Attacks, each while honest clients go on: they lose nothing, what the attack costs is bounded, and it ends.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use socket2::SockRef;

use super::{Connection, Fixture, post};
use crate::harness::{Over, PATIENCE, wait_for};

/// What an attack may add to the collector's memory.
const MEMORY: f64 = 48.0 * 1024.0 * 1024.0;
const POST: &str = "POST /api/beacon HTTP/1.1\r\nHost: x\r\n";

/// Attacks while an honest client posts. What the client posted is logged, and the collector is left as it was. Gives
/// how many events that were.
pub fn attack(fixture: &Fixture, attack: impl FnOnce()) -> u64 {
    let memory = || fixture.collector.metrics().get("process_resident_memory_bytes");
    let over = Over::default();
    let before = memory();
    let (acknowledged, most) = thread::scope(|scope| {
        let end = over.when_dropped();
        let honest = scope.spawn(|| {
            let (mut acknowledged, mut most) = (0, 0.0_f64);
            while acknowledged < 10 || !over.is_over() {
                let mut connection = fixture.connect();
                for _ in 0..10 {
                    connection.send(post("", &[], b"site=honest"));
                    assert_eq!(connection.reply().status, 204);
                    acknowledged += 1;
                }
                most = most.max(memory());
            }
            (acknowledged, most)
        });
        attack();
        drop(end);
        honest.join().unwrap()
    });
    assert!(most - before < MEMORY, "{} bytes more", most - before);
    wait_for("all to be gone", || (fixture.connections() == 0.0).then_some(()));
    fixture.ledger();
    acknowledged
}

/// Whether the collector has closed a connection, which does not wait. What it said is thrown away.
fn is_closed(mut stream: &TcpStream) -> bool {
    loop {
        match stream.read(&mut [0; 4096]) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
        }
    }
}

/// Connections that begin like this and go on byte by byte, until all are closed.
fn drip(fixture: &Fixture, beginning: &str) {
    let mut slow: Vec<TcpStream> = (0..100)
        .map(|_| {
            let mut stream = TcpStream::connect(fixture.collector.http).unwrap();
            stream.write_all(beginning.as_bytes()).unwrap();
            stream.set_nonblocking(true).unwrap();
            stream
        })
        .collect();
    let deadline = Instant::now() + PATIENCE;
    while !slow.is_empty() {
        assert!(Instant::now() < deadline, "{} are still open", slow.len());
        slow.retain_mut(|stream| !is_closed(stream) && stream.write_all(b"a").is_ok());
        // the pace of the attack
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn heads_and_bodies_that_come_byte_by_byte_end_when_their_time_is_up() {
    let fixture = Fixture::start(&["--idle-timeout=1s", "--body-timeout=1s"]);
    let mut honest = 0;
    for beginning in [
        "GET /api/beacon?item=",
        "GET /api/beacon HTTP/1.1\r\nHost: ",
        &format!("{POST}Content-Length: 60000\r\n\r\n"),
        &format!("{POST}Transfer-Encoding: chunked\r\n\r\nea60\r\n"),
        &format!("{POST}Transfer-Encoding: chunked\r\n\r\n5;"),
    ] {
        honest += attack(&fixture, || drip(&fixture, beginning));
    }
    fixture.assert_ledger([honest, honest, 0]);
}

/// A request that goes on for ever, until the collector has had enough of it.
fn drown(fixture: &Fixture, what: &str, beginning: &str, more: &[u8]) {
    let mut stream = TcpStream::connect(fixture.collector.http).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(beginning.as_bytes()).unwrap();
    let begun = Instant::now();
    while stream.write_all(more).is_ok() {
        assert!(begun.elapsed() < PATIENCE, "{what}: there is no end to it");
    }
}

#[test]
fn what_has_no_end_is_cut_off_and_is_no_event_or_one_that_is_too_large() {
    let fixture = Fixture::start(&["--body-timeout=3s", "--idle-timeout=3s"]);
    let chunked = format!("{POST}Transfer-Encoding: chunked\r\n\r\n");
    let letters = [b'a'; 65_536];
    for (what, beginning, more) in [
        ("a body of 10 TB", format!("{POST}Content-Length: 10000000000000\r\n\r\n"), letters.to_vec()),
        ("a body of large chunks", chunked.clone(), [b"10000\r\n", &letters[..], b"\r\n"].concat()),
        ("a body of chunks of a byte", chunked.clone(), b"1\r\na\r\n".repeat(10_000)),
        ("a chunk's extension", format!("{chunked}5;"), letters.to_vec()),
        ("a chunk's size", chunked.clone(), [b'0'; 65_536].to_vec()),
        ("extensions of many chunks", chunked.clone(), [b"1;", &letters[..100], b"\r\na\r\n"].concat().repeat(500)),
        ("trailers", format!("{chunked}0\r\n"), b"a: b\r\n".repeat(10_000)),
        ("one trailer", format!("{chunked}0\r\na: "), letters.to_vec()),
        ("a head of many lines", "GET /api/beacon HTTP/1.1\r\n".into(), b"a: b\r\n".repeat(10_000)),
        ("a head of one line", "GET /api/beacon HTTP/1.1\r\na: ".into(), letters.to_vec()),
        ("an address", "GET /".into(), letters.to_vec()),
        ("empty lines", "\r\n".into(), b"\r\n".repeat(30_000)),
    ] {
        attack(&fixture, || drown(&fixture, what, &beginning, &more));
    }
}

#[test]
fn gzip_that_becomes_a_thousand_times_as_much_is_refused_and_takes_no_memory() {
    let fixture = Fixture::start(&[]);
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(&vec![b'a'; 60 << 20]).unwrap();
    let bomb = encoder.finish().unwrap();
    assert!(bomb.len() < 64 * 1024);
    let mut empty = GzEncoder::new(Vec::new(), Compression::best());
    empty.write_all(b"").unwrap();
    // members of nothing, as many as a body may have
    let members = empty.finish().unwrap().repeat(3_000);
    let honest = attack(&fixture, || {
        let mut connection = fixture.connect();
        for body in [&bomb, &members].into_iter().cycle().take(100) {
            connection.send(post("", &[("Content-Encoding", "gzip")], body));
            assert!([204, 413].contains(&connection.reply().status));
        }
    });
    fixture.assert_ledger([honest + 100, honest + 50, 50]);
}

#[test]
fn connections_that_are_gone_at_once_leave_nothing() {
    let fixture = Fixture::start(&[]);
    let requests = "GET /api/beacon?debug=1 HTTP/1.1\r\nHost: x\r\n\r\n".repeat(10);
    let honest = attack(&fixture, || {
        for n in 0..5_000 {
            let mut stream = TcpStream::connect(fixture.collector.http).unwrap();
            if n % 4 == 3 {
                stream.write_all(requests.as_bytes()).unwrap();
            }
            if n % 2 == 1 {
                SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
            }
        }
    });
    fixture.assert_ledger([honest, honest, 0]);
}

#[test]
fn whoever_asks_without_end_and_takes_no_answer_is_cut_off() {
    let fixture = Fixture::start(&["--body-timeout=1s"]);
    let requests = "GET /api/beacon?debug=1 HTTP/1.1\r\nHost: x\r\n\r\n".repeat(2_000);
    let honest = attack(&fixture, || {
        let mut greedy: Vec<_> = (0..20)
            .map(|_| {
                let mut stream = TcpStream::connect(fixture.collector.http).unwrap();
                // 100 kB in one write, again and again until no more is taken
                stream.set_write_timeout(Some(Duration::from_millis(100))).unwrap();
                while stream.write_all(requests.as_bytes()).is_ok() {}
                stream
            })
            .collect();
        let deadline = Instant::now() + PATIENCE;
        // the collector's end is gone when nothing can be sent any more: what it sent still waits to be read
        while !greedy.is_empty() {
            assert!(Instant::now() < deadline, "{} are still open", greedy.len());
            greedy.retain_mut(|stream| {
                stream.write_all(b"G").err().is_none_or(|e| e.kind() == io::ErrorKind::WouldBlock)
            });
        }
    });
    fixture.assert_ledger([honest, honest, 0]);
}

#[test]
fn new_names_in_every_event_add_nothing_to_the_metrics() {
    let fixture = Fixture::start(&[]);
    let series = || {
        let page = fixture.collector.metrics_page();
        page.lines()
            .filter_map(|line| line.rsplit_once(' '))
            .map(|(series, _)| series.to_owned())
            .collect::<BTreeSet<_>>()
    };
    let before = series();
    assert!(before.len() > 50);
    let honest = attack(&fixture, || {
        let mut connection = fixture.connect();
        for body in 0..30 {
            let lines: String = (0..1000).map(|n| format!("site=s{body}-{n}&event=e{n}&p{body}-{n}=v{n}\n")).collect();
            connection.send(post("", &[], lines.as_bytes()));
            assert_eq!(connection.reply().status, 204);
        }
    });
    fixture.assert_ledger([honest + 30_000, honest + 30_000, 0]);
    let after = series();
    assert!(after == before, "{:?}", after.symmetric_difference(&before));
}

#[test]
fn clients_that_vanish_without_a_word_are_forgotten() {
    // only in a network of their own can all be cut off at once
    let run = Command::new("unshare")
        .args(["--map-root-user", "--net", "sh", "-c", r#"ip link set lo up && exec "$0" "$@""#])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "http::attacks::cut_off_in_a_network_of_their_own"])
        .output()
        .expect("unshare of Debian's util-linux is there");
    let said = String::from_utf8_lossy(&run.stdout).into_owned() + &String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success() && said.contains("1 passed"), "{}\n{said}", run.status);
}

#[test]
#[ignore = "for `clients_that_vanish_without_a_word_are_forgotten`, which runs it where it harms nobody"]
fn cut_off_in_a_network_of_their_own() {
    let link = |state: &str| assert!(Command::new("ip").args(["link", "set", "lo", state]).status().unwrap().success());
    let fixture = Fixture::start(&["--idle-timeout=4s", "--body-timeout=4s"]);
    let mut vanishing: Vec<Connection> = [
        "",
        "GET /api/bea",
        "GET /api/beacon HTTP/1.1\r\nHost: x\r\n\r\n",
        &format!("{POST}Content-Length: 9\r\n\r\na"),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
    ]
    .iter()
    .map(|beginning| {
        let mut connection = fixture.connect();
        connection.send(beginning);
        connection
    })
    .collect();
    assert_eq!(vanishing[2].reply().status, 200);
    link("down");
    for connection in vanishing.drain(..) {
        // the reset goes nowhere
        SockRef::from(connection.stream.get_ref()).set_linger(Some(Duration::ZERO)).unwrap();
    }
    link("up");
    assert_eq!(fixture.connections(), 5.0, "the collector knows nothing of it yet");
    wait_for("all to be gone", || (fixture.connections() == 0.0).then_some(()));
    fixture.assert_ledger([1, 1, 0]);
}
