//! Whoever sends anything to the port: it stays up, counts each datagram, and answers nothing.

use std::thread;
use std::time::Duration;

use super::{Datagrams, Fixture};
use crate::harness::datagrams::{self, key};
use crate::harness::{Chance, Pace, wait_for};

#[test]
fn datagrams_of_every_size_are_taken_whole() {
    const LARGEST: usize = 65_507;
    let fixture = Fixture::start(&[]);
    let socket = datagrams::socket(fixture.collector.udp);
    let mut received = 0;
    let mut send = |bytes: &[u8]| {
        received += 1;
        datagrams::send(&socket, bytes);
        fixture.wait_received(received);
    };
    send(b"");
    send(b"\n");
    let one = |len: usize| {
        let start = format!("event=e{len}&text=");
        let text = "x".repeat(len - start.len());
        start + &text
    };
    // around what fits into a packet of an Ethernet, and the largest that UDP can carry
    for len in [1472, 1473, 9000, 65_506, LARGEST] {
        send(one(len).as_bytes());
    }
    let lines = |count: usize| format!("event={:057}\n", 7).repeat(count);
    send(&lines(1000).as_bytes()[..64_000]);
    // each line is an event of a body with too many
    let too_many = format!("{}\n{}", lines(1000), "a=1\n".repeat(7));
    send(too_many.as_bytes());
    let mut source = fixture.source();
    source.send(&one(LARGEST - 24).into_bytes());
    fixture.wait_received(10);
    assert_eq!(fixture.settled(&source).events, 1);
    assert_eq!(fixture.datagrams(), Datagrams { received: 10, malformed: 2, ..Datagrams::default() });
    let events = fixture.events();
    assert_eq!((events.received, events.logged, events.too_large), (5 + 1000 + 1007 + 1, 1006, 1007));
    let texts: Vec<usize> =
        fixture.inspect().iter().filter_map(|event| Some(event["props"]["text"].as_str()?.len())).collect();
    let expected =
        [1472, 1473, 9000, 65_506, LARGEST, LARGEST - 24].map(|len| len - format!("event=e{len}&text=").len());
    assert_eq!(texts, expected);
    fixture.end();
}

#[test]
fn a_keyed_datagram_that_was_cut_or_touched_anywhere_is_refused() {
    let (line, key) = key(7, 1);
    let fixture = Fixture::with_keys(&line, &[]);
    let mut source = fixture.keyed(&key);
    // a number with two bits: none that is flipped makes 0 of it
    source.skip(2);
    let whole = source.frame(b"site=a.example&event=click");
    let len = whole.len() as u64;
    let mut sent = 0;
    let mut send = |bytes: &[u8]| {
        source.send_bytes(bytes);
        sent += 1;
        // a few at a time: none of them may be dropped by the kernel
        if sent % 64 == 0 {
            fixture.wait_received(sent);
        }
    };
    for cut in 0..whole.len() {
        send(&whole[..cut]);
    }
    for bit in 0..whole.len() * 8 {
        let mut touched = whole.clone();
        touched[bit / 8] ^= 1 << (bit % 8);
        send(&touched);
    }
    fixture.wait_received(sent);
    // header and tag must be there; then it can only be a wrong tag
    let cuts = Datagrams { malformed: 40, tag: len - 40, ..Datagrams::default() };
    // no text, but no frame either: without F5 it is plain; then magic, flags but the lowest, reserved, and a sequence
    // beyond 48 bits
    let bits = Datagrams { plain: 8, malformed: 24 + 7 + 16 + 16, ..Datagrams::default() };
    let tag = len * 8 - bits.plain - bits.malformed;
    let expected = Datagrams {
        received: len + len * 8,
        plain: bits.plain,
        malformed: cuts.malformed + bits.malformed,
        tag: cuts.tag + tag,
        ..Datagrams::default()
    };
    assert_eq!(fixture.datagrams(), expected);
    assert_eq!(fixture.events().received, 0);
    assert_eq!(fixture.collector.sources().sources.len(), 0);
    source.send_bytes(&whole);
    fixture.wait_received(expected.received + 1);
    assert_eq!(fixture.settled(&source).events, 1);
    fixture.end();
}

#[test]
fn an_unkeyed_datagram_that_was_cut_is_malformed_a_heartbeat_or_shorter() {
    let fixture = Fixture::start(&[]);
    let mut source = fixture.source();
    let whole = source.frame(b"event=click");
    for cut in 0..=whole.len() {
        source.send_bytes(&whole[..cut]);
    }
    let sent = whole.len() as u64 + 1;
    fixture.wait_received(sent);
    // the first that is more than a header is one byte of a body, which is no event; the others have its number
    let report = fixture.settled(&source);
    assert_eq!((report.received, report.events, report.duplicate, report.lost), (1, 0, sent - 26, 0));
    let expected = Datagrams { received: sent, malformed: 24, duplicate: sent - 26, ..Datagrams::default() };
    assert_eq!(fixture.datagrams(), expected);
    let events = fixture.events();
    assert_eq!((events.received, events.malformed), (1, 1));
    fixture.end();
}

/// Bytes without any sense. Half of them begin as a frame does, and half of those have a header without a fault.
fn nonsense(chance: &mut Chance) -> Vec<u8> {
    let len = usize::try_from(chance.below(1501)).unwrap();
    let mut bytes = vec![0; len];
    chance.fill(&mut bytes);
    let kind = chance.below(4);
    if kind < 2 {
        for (byte, magic) in bytes.iter_mut().zip(*b"\xF5TL\x01") {
            *byte = magic;
        }
    }
    if kind == 0 && len >= 24 {
        // every other one says that it is tagged
        bytes[4] &= 1;
        bytes[6..8].fill(0);
        bytes[16..18].fill(0);
    }
    bytes
}

#[test]
fn a_million_datagrams_of_nonsense_are_counted_and_change_nothing() {
    const SENDERS: u64 = 4;
    const EACH: u64 = 250_000;
    let fixture = Fixture::start(&["--segment-size=64MiB"]);
    let pace = Pace::new(fixture.collector.admin, 1500);
    let mut good = fixture.source();
    good.send(b"event=before");
    fixture.wait_received(1);
    let mut heartbeats = 0;
    thread::scope(|scope| {
        let senders = (0..SENDERS).map(|sender| {
            let (pace, udp) = (&pace, fixture.collector.udp);
            scope.spawn(move || {
                let socket = datagrams::socket(udp);
                let mut chance = Chance(sender << 32);
                for _ in 0..EACH {
                    let bytes = nonsense(&mut chance);
                    pace.wait();
                    datagrams::send(&socket, &bytes);
                }
                assert_eq!(datagrams::answer(&socket), None);
            })
        });
        let senders: Vec<_> = senders.collect();
        // whoever gives signs of life is not let go, however crowded it is
        while !senders.iter().all(thread::ScopedJoinHandle::is_finished) {
            good.heartbeat();
            heartbeats += 1;
            thread::sleep(Duration::from_millis(500));
        }
    });
    wait_for("all of them", || {
        let now = fixture.datagrams();
        (now.received + now.kernel_dropped == 1 + heartbeats + SENDERS * EACH).then_some(())
    });
    let (datagrams, events, sources) = (fixture.datagrams(), fixture.events(), fixture.settle());
    println!("{datagrams:?} {events:?}, {} sources, {} untracked", sources.sources.len(), sources.untracked);
    // what is not refused is a heartbeat, or of a source of its own, or plain
    let eighth = SENDERS * EACH / 8;
    assert!(datagrams.malformed > 2 * eighth && datagrams.malformed < 3 * eighth, "{datagrams:?}");
    assert!(datagrams.tag > eighth / 2 && datagrams.tag < eighth * 3 / 2, "{datagrams:?}");
    assert_eq!((datagrams.plain, datagrams.address, datagrams.stale, datagrams.duplicate), (0, 0, 0, 0));
    assert!(events.malformed > SENDERS * EACH / 2 && events.logged > 10_000, "{events:?}");
    assert!(sources.sources.len() <= 1024 && sources.untracked > eighth / 2, "{}", sources.untracked);
    // the one that was there first is still followed
    good.send(b"event=after");
    fixture.wait_received(datagrams.received + 1);
    let report = fixture.settled(&good);
    assert_eq!((report.received, report.events, report.lost), (2, 2, 0));
    fixture.end();
}
