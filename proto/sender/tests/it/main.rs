//! The sender against a socket that plays the collector.

// all of this is tests, which clippy only knows of functions that are marked so
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::thread;
use std::time::{Duration, Instant};

use tallylight_proto::datagram::{Datagram, Number};
use tallylight_sender::{Keys, SendError, Sender};

const PATIENCE: Duration = Duration::from_secs(30);

/// A socket, and a sender to it that may be made otherwise.
struct Collector(UdpSocket);

struct Came {
    number: Number,
    body: String,
    len: usize,
    bytes: Vec<u8>,
}

impl Collector {
    fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(socket)
    }

    fn addr(&self) -> String {
        self.0.local_addr().unwrap().to_string()
    }

    fn next(&self) -> Came {
        let mut buffer = vec![0; 65_535];
        let len = self.0.recv(&mut buffer).expect("a datagram comes");
        buffer.truncate(len);
        match Datagram::parse(&buffer) {
            Ok(Datagram::Framed(frame)) => {
                let body = String::from_utf8(frame.body.to_vec()).unwrap();
                Came { number: frame.number, body, len, bytes: buffer }
            }
            other => panic!("{other:?}"),
        }
    }

    /// All until the heartbeat that a sender ends with, which has the last number.
    fn rest(&self) -> (Vec<Came>, u64) {
        let mut all = Vec::new();
        loop {
            let came = self.next();
            if came.body.is_empty() {
                return (all, came.number.sequence);
            }
            all.push(came);
        }
    }
}

fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn events_share_a_datagram_and_read_as_they_were_given() {
    let collector = Collector::start();
    let sender = Sender::builder().linger(Duration::from_millis(100)).connect(collector.addr()).unwrap();
    sender.send(&[("site", "books"), ("event", "click"), ("target", "https://b.example/?a=1&b=ä\n#x")]).unwrap();
    sender.send([("event".to_owned(), String::new())]).unwrap();
    sender.send(vec![("note", "{"), ("", "empty")]).unwrap();
    let came = collector.next();
    let lines: Vec<&str> = came.body.split('\n').collect();
    let target = "target=https%3A%2F%2Fb.example%2F%3Fa%3D1%26b%3D%C3%A4%0A%23x";
    assert_eq!(lines, [format!("site=books&event=click&{target}").as_str(), "event=", "note=%7B&=empty"]);
    assert_eq!((came.number.sequence, came.number.source.key), (1, None));
    drop(sender);
    assert_eq!(collector.rest().1, 2);
}

#[test]
fn datagrams_of_a_sender_with_a_key_are_tagged_and_heartbeats_too() {
    let keys = Keys::parse(&format!("7 {}\n3 {}", "ab".repeat(32), "cd".repeat(40))).unwrap();
    let collector = Collector::start();
    let sender = Sender::builder().key(keys.signing().unwrap().clone()).connect(collector.addr()).unwrap();
    sender.send(&[("a", "1")]).unwrap();
    drop(sender);
    for expected in ["a=1", ""] {
        let came = collector.next();
        assert_eq!((came.body.as_str(), came.number.source.key), (expected, Some(7)));
        let Ok(Datagram::Framed(frame)) = Datagram::parse(&came.bytes) else { panic!("framed") };
        assert!(frame.is_signed_by(keys.get(7).unwrap()) && !frame.is_signed_by(keys.get(3).unwrap()));
    }
}

#[test]
fn each_sender_is_a_source_of_its_own() {
    let collector = Collector::start();
    for _ in 0..3 {
        Sender::connect(collector.addr()).unwrap().send(&[("a", "1")]).unwrap();
    }
    let came = (0..6).map(|_| collector.next());
    let sources: BTreeSet<u64> = came.map(|came| came.number.source.source).collect();
    assert_eq!(sources.len(), 3);
}

#[test]
fn a_silent_sender_gives_signs_of_life_and_numbers_go_on_behind_them() {
    let collector = Collector::start();
    let sender = Sender::builder().heartbeat(Duration::from_millis(20)).connect(collector.addr()).unwrap();
    for _ in 0..3 {
        let came = collector.next();
        assert_eq!((came.body.as_str(), came.number.sequence), ("", 1));
    }
    sender.send(&[("a", "1")]).unwrap();
    let mut came = collector.next();
    while came.body.is_empty() {
        assert_eq!(came.number.sequence, 1);
        came = collector.next();
    }
    assert_eq!((came.body.as_str(), came.number.sequence), ("a=1", 1));
    assert_eq!(collector.next().number.sequence, 2);
}

#[test]
fn what_many_threads_send_arrives_once_each_in_datagrams_of_the_given_size() {
    let collector = Collector::start();
    let sender = Sender::builder().max_datagram(1400).connect(collector.addr()).unwrap();
    // no more than a small receive buffer holds, since nobody reads yet
    thread::scope(|scope| {
        for thread in 0..4 {
            let sender = &sender;
            scope.spawn(move || (0..250).for_each(|n| sender.send([("n", format!("{thread}-{n}"))]).unwrap()));
        }
    });
    wait_for("all to leave", || sender.stats().events == 1000);
    let stats = sender.stats();
    assert_eq!((stats.not_sent, stats.refused, stats.datagram_size), (0, 0, 1400 - 24));
    drop(sender);
    let (came, next) = collector.rest();
    assert_eq!((came.len() as u64, next), (stats.datagrams, stats.datagrams + 1));
    assert!(came.iter().zip(1..).all(|(came, number)| came.number.sequence == number && came.len <= 1400));
    let events: BTreeSet<&str> = came.iter().flat_map(|came| came.body.split('\n')).collect();
    assert_eq!(events.len(), 1000);
}

#[test]
fn an_event_that_fits_into_no_datagram_is_the_callers_error_and_uses_no_number_up() {
    let collector = Collector::start();
    let sender = Sender::builder().max_datagram(1000).connect(collector.addr()).unwrap();
    let most = 1000 - 24;
    sender.send([("a", "x".repeat(most - 2))]).unwrap();
    let error = sender.send([("a", "x".repeat(most - 1))]);
    assert_eq!(error, Err(SendError::TooLarge { len: most + 1, most }));
    assert_eq!(sender.send::<_, &str, &str>(&[]), Err(SendError::Empty));
    drop(sender);
    let (came, next) = collector.rest();
    assert_eq!((came.len(), came[0].len, next), (1, 1000, 2));
}

#[test]
fn what_finds_the_buffer_full_shows_as_a_hole_in_the_numbers() {
    let collector = Collector::start();
    let sender = Sender::builder().max_datagram(1024).buffer(1000).linger(Duration::from_millis(100));
    let sender = sender.connect(collector.addr()).unwrap();
    // 19 lines of 50 bytes fit, and the thread is not woken before there is one more
    for _ in 0..200 {
        sender.send([("a", "x".repeat(48))]).unwrap();
    }
    wait_for("all to be decided", || {
        let stats = sender.stats();
        stats.events + stats.not_sent == 200
    });
    let stats = sender.stats();
    assert!(stats.not_sent > 0, "{stats:?}");
    drop(sender);
    let (came, next) = collector.rest();
    let arrived: usize = came.iter().map(|came| came.body.split('\n').count()).sum();
    assert_eq!((arrived as u64, came.len() as u64), (stats.events, stats.datagrams));
    let holes = next - 1 - stats.datagrams;
    assert!(holes >= stats.not_sent.div_ceil(20) && holes <= stats.not_sent, "{holes} of {stats:?}");
}

#[test]
fn a_collector_that_comes_back_finds_a_hole_for_what_it_missed() {
    let collector = Collector::start();
    let addr = collector.0.local_addr().unwrap();
    let sender = Sender::builder().linger(Duration::ZERO).connect(addr).unwrap();
    let send = |n: u64| {
        sender.send([("n", n.to_string())]).unwrap();
        wait_for("it to leave", || sender.stats().datagrams + sender.stats().not_sent == n);
    };
    send(1);
    assert_eq!(collector.next().number.sequence, 1);
    drop(collector);
    (2..=5).for_each(send);
    assert!(sender.stats().refused > 0, "{:?}", sender.stats());
    let collector = Collector(UdpSocket::bind(addr).unwrap());
    collector.0.set_read_timeout(Some(PATIENCE)).unwrap();
    send(6);
    let mut came = collector.next();
    while came.body.is_empty() {
        came = collector.next();
    }
    assert_eq!((came.body.as_str(), came.number.sequence), ("n=6", 6));
}
