//! Numbers of datagrams: what comes twice, late, in another order, or not at all.

use std::time::{Duration, Instant};

use super::{Datagrams, Fixture};
use crate::harness::datagrams::{self, key};
use crate::harness::wait_for;

#[test]
fn an_id_that_is_missing_follows_from_source_sequence_and_place() {
    let fixture = Fixture::start(&[]);
    let mut source = fixture.source();
    source.source = 0x0123_4567_89ab_cdef;
    source.send(b"event=a\nnothing\nevent=b&id=0198c5a1-7b3c-7def-8123-456789abcdef\nevent=c");
    source.send(b"[{\"event\":\"d\"},{\"event\":\"e\"}]");
    fixture.wait_received(2);
    fixture.settle();
    let events = fixture.inspect();
    let ids: Vec<&str> = events.iter().map(|event| event["id"].as_str().unwrap()).collect();
    assert_eq!(
        ids,
        [
            "01234567-89ab-8cde-bc00-000000000400",
            "0198c5a1-7b3c-7def-8123-456789abcdef",
            "01234567-89ab-8cde-bc00-000000000403",
            "01234567-89ab-8cde-bc00-000000000800",
            "01234567-89ab-8cde-bc00-000000000801",
        ]
    );
    let numbers: Vec<_> = events.iter().map(|event| event["sequence"].as_u64().unwrap()).collect();
    assert_eq!(numbers, [1, 1, 1, 2, 2]);
    assert!(events.iter().all(|event| event["source"] == "0123456789abcdef" && event["key"].is_null()));
    fixture.end();
}

#[test]
fn what_comes_twice_is_dropped_at_the_door_whichever_worker_it_comes_to() {
    let fixture = Fixture::start(&[]);
    let mut source = fixture.source();
    let sent: Vec<_> = (0..50).map(|n| source.send(format!("event=e{n}").as_bytes())).collect();
    fixture.wait_received(50);
    for bytes in &sent {
        // each from a port of its own
        datagrams::send(&datagrams::socket(fixture.collector.udp), bytes);
    }
    source.send_bytes(&sent[7]);
    fixture.wait_received(101);
    let report = fixture.settled(&source);
    assert_eq!((report.received, report.duplicate, report.events, report.lost), (50, 51, 50, 0));
    assert_eq!(fixture.datagrams(), Datagrams { received: 101, duplicate: 51, ..Datagrams::default() });
    let events = fixture.events();
    assert_eq!((events.received, events.logged), (50, 50));
    assert_eq!(fixture.inspect().len(), 50);
    fixture.end();
}

#[test]
fn copies_that_come_at_the_same_time_to_two_workers_count_once() {
    let fixture = Fixture::start(&[]);
    let mut source = fixture.source();
    let frames: Vec<_> = (0..2000).map(|n| source.frame(format!("event=e{n}").as_bytes())).collect();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let socket = datagrams::socket(fixture.collector.udp);
            let frames = &frames;
            scope.spawn(move || frames.iter().for_each(|frame| datagrams::send(&socket, frame)));
        }
    });
    fixture.wait_received(8000);
    let report = fixture.settled(&source);
    assert_eq!((report.received, report.duplicate, report.events, report.lost), (2000, 6000, 2000, 0));
    assert_eq!(fixture.inspect().len(), 2000);
    fixture.end();
}

#[test]
fn what_is_missing_for_a_second_is_lost_and_recovered_if_it_comes_then() {
    let fixture = Fixture::start(&[]);
    let mut source = fixture.source();
    source.send(b"event=one");
    let late = [source.frame(b"event=two"), source.frame(b"event=three")];
    let started = Instant::now();
    source.send(b"event=four");
    wait_for("the missing to be known", || fixture.report(&source).filter(|report| report.pending == 2));
    let report = wait_for("the loss", || fixture.report(&source).filter(|report| report.lost > 0));
    let took = started.elapsed();
    assert!(took >= Duration::from_secs(1) && took < Duration::from_secs(5), "{took:?}");
    assert_eq!((report.lost, report.pending, report.received, report.next), (2, 0, 2, 5));
    assert_eq!((fixture.datagrams().lost, fixture.datagrams().recovered), (2, 0));

    source.send_bytes(&late[1]);
    fixture.wait_received(3);
    let report = fixture.settled(&source);
    assert_eq!((report.lost, report.recovered, report.received, report.events), (2, 1, 3, 3));
    // and once more it is a copy
    source.send_bytes(&late[1]);
    source.send_bytes(&late[0]);
    fixture.wait_received(5);
    let report = fixture.settled(&source);
    assert_eq!((report.lost, report.recovered, report.received, report.duplicate), (2, 2, 4, 1));
    let names: Vec<_> = fixture.inspect().iter().map(|event| event["event"].clone()).collect();
    assert_eq!(names, ["one", "four", "three", "two"]);
    fixture.end();
}

#[test]
fn what_only_comes_in_another_order_is_not_lost() {
    let fixture = Fixture::start(&[]);
    let mut source = fixture.source();
    let frames: Vec<_> = (0..300).map(|n| source.frame(format!("event=e{n}").as_bytes())).collect();
    // the first one to come is not the first that was sent
    let mut reversed = frames.iter().rev();
    reversed.by_ref().take(150).for_each(|frame| source.send_bytes(frame));
    // missing for some time, and not for a second
    wait_for("a little time", || fixture.report(&source).filter(|report| report.idle_seconds > 0.3));
    reversed.for_each(|frame| source.send_bytes(frame));
    fixture.wait_received(300);
    let report = fixture.settled(&source);
    assert_eq!((report.received, report.lost, report.duplicate, report.first, report.next), (300, 0, 0, 1, 301));
    assert_eq!(fixture.inspect().len(), 300);
    fixture.end();
}

#[test]
fn a_heartbeat_tells_of_what_was_lost_at_the_end_and_uses_no_number_up() {
    let fixture = Fixture::start(&[]);
    let mut source = fixture.source();
    source.heartbeat();
    source.send(b"event=one");
    source.heartbeat();
    source.heartbeat();
    source.skip(4);
    source.heartbeat();
    source.heartbeat();
    source.send(b"event=two");
    // one that never gets anything through
    let mut silent = fixture.source();
    silent.skip(3);
    silent.heartbeat();
    fixture.wait_received(8);
    let report = wait_for("the loss", || Some(fixture.settled(&source)).filter(|report| report.lost > 0));
    assert_eq!((report.lost, report.received, report.duplicate, report.first, report.next), (4, 2, 0, 1, 7));
    let report = fixture.settled(&silent);
    assert_eq!((report.lost, report.received, report.first, report.next), (3, 0, 1, 4));
    let events = fixture.events();
    assert_eq!((events.received, events.logged), (2, 2));
    // an older one changes nothing
    let heartbeat = source.frame_of(2, b"");
    source.send_bytes(&heartbeat);
    fixture.wait_received(9);
    assert_eq!(fixture.settled(&source).next, 7);
    fixture.end();
}

#[test]
fn what_is_older_than_the_window_is_stale() {
    let (line, key) = key(9, 1);
    let fixture = Fixture::with_keys(&line, &[]);
    let mut source = fixture.keyed(&key);
    source.send(b"event=one");
    let [stale, late] = [2, 5000].map(|number| source.frame_of(number, b"event=late"));
    // a tag vouches for the number, however far ahead it is
    source.next = 70_000;
    source.send(b"event=two");
    fixture.wait_received(2);
    let report = wait_for("the loss", || Some(fixture.settled(&source)).filter(|report| report.lost > 0));
    assert_eq!((report.first, report.next, report.received, report.lost), (1, 70_001, 2, 69_998));
    source.send_bytes(&stale);
    source.send_bytes(&late);
    fixture.wait_received(4);
    let report = fixture.settled(&source);
    assert_eq!((report.received, report.recovered, report.stale, report.events), (3, 1, 1, 3));
    let expected = Datagrams { received: 4, lost: 69_998, recovered: 1, stale: 1, ..Datagrams::default() };
    assert_eq!(fixture.datagrams(), expected);
    let events = fixture.events();
    assert_eq!((events.received, events.logged), (3, 3));
    fixture.end();
}

#[test]
fn a_source_first_seen_far_on_starts_there() {
    let fixture = Fixture::start(&[]);
    let mut source = fixture.source();
    source.next = 65_537;
    source.send(b"event=one");
    source.send(b"event=two");
    let mut near = fixture.source();
    near.next = 65_536;
    near.send(b"event=three");
    fixture.wait_received(3);
    let report = wait_for("the loss", || Some(fixture.settled(&near)).filter(|report| report.lost > 0));
    assert_eq!((report.first, report.next, report.received, report.lost), (1, 65_537, 1, 65_535));
    let report = fixture.settled(&source);
    assert_eq!((report.first, report.next, report.received, report.lost), (65_537, 65_539, 2, 0));
    fixture.end();
}

#[test]
fn one_number_far_ahead_that_no_key_vouches_for_makes_nothing_stale() {
    let fixture = Fixture::start(&[]);
    let mut source = fixture.source();
    source.send(b"event=one");
    let flipped = source.frame_of(1 << 40, b"event=flipped");
    source.send_bytes(&flipped);
    source.send_bytes(&flipped);
    source.send(b"event=two");
    fixture.wait_received(4);
    // what is missing for longer than it may be believed shows that this is decided
    source.skip(1);
    source.send(b"event=three");
    let report = wait_for("the loss", || fixture.report(&source).filter(|report| report.lost > 0));
    assert_eq!((report.first, report.next, report.lost, report.stale), (1, 5, 1, 0));
    assert_eq!((report.received, report.duplicate), (3, 1));
    // it is an event all the same
    assert_eq!(fixture.inspect().len(), 4);
    fixture.end();
}

#[test]
fn a_number_far_ahead_is_believed_with_another_beside_it_or_if_nothing_contradicts_it() {
    let fixture = Fixture::start(&[]);
    let mut confirmed = fixture.source();
    let mut alone = fixture.source();
    let mut told = fixture.source();
    for source in [&mut confirmed, &mut alone, &mut told] {
        source.send(b"event=one");
        source.next = 200_000;
    }
    confirmed.send(b"event=two");
    confirmed.send(b"event=three");
    alone.send(b"event=two");
    told.heartbeat();
    told.heartbeat();
    fixture.wait_received(8);
    for (source, received, next) in [(&confirmed, 3, 200_002), (&alone, 2, 200_001), (&told, 1, 200_000)] {
        let report = wait_for("it to be believed", || fixture.report(source).filter(|report| report.next == next));
        assert_eq!((report.first, report.received), (1, received), "{report:?}");
        let report = fixture.settled(source);
        assert_eq!((report.lost, report.recovered), (200_000 - 2, 0), "{report:?}");
    }
    fixture.end();
}

#[test]
fn a_keyed_source_and_an_unkeyed_one_of_the_same_number_are_two() {
    let (line, key) = key(3, 1);
    let fixture = Fixture::with_keys(&line, &["--udp-from=127.0.0.0/8"]);
    let (mut keyed, mut unkeyed) = (fixture.keyed(&key), fixture.source());
    unkeyed.source = keyed.source;
    keyed.send(b"event=one");
    unkeyed.send(b"event=one");
    unkeyed.send(b"event=two");
    fixture.wait_received(3);
    assert_eq!((fixture.settled(&keyed).received, fixture.settled(&unkeyed).received), (1, 2));
    assert_eq!(fixture.datagrams().duplicate, 0);
    let keys: Vec<_> = fixture.inspect().iter().map(|event| event["key"].clone()).collect();
    assert_eq!(keys.iter().filter(|key| **key == 3).count(), 1);
    fixture.end();
}
