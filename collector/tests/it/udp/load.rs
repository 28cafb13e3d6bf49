//! Kills under load: what is in the log came, what is not there and was sent is lost, and no number is both.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::{Duration, Instant};

use super::Fixture;
use crate::harness::datagrams::{Source, key, socket_at};
use crate::harness::{Chance, Over, inspect, wait_for};

const KILLS: u64 = 20;
/// Events in a datagram of several.
const SEVERAL: usize = 3;

/// What a sender knows when it is done.
struct Sent {
    source: Source,
    /// Numbers of datagrams with events that are taken, and how many of those each has.
    good: BTreeMap<u64, usize>,
    /// Numbers of datagrams with nothing but events that are refused.
    refused: BTreeSet<u64>,
    copies: u64,
}

/// Sends, at a steady pace, until told to stop.
fn send_until(over: &Over, mut source: Source, seed: u64) -> Sent {
    let mut chance = Chance(seed);
    let (mut good, mut refused, mut copies) = (BTreeMap::new(), BTreeSet::new(), 0);
    let mut last = Vec::new();
    let mut beat_at = Instant::now();
    while !over.is_over() {
        for _ in 0..10 {
            let number = source.next;
            match chance.below(10) {
                0 | 1 => {
                    refused.insert(number);
                    last = source.send(b"site=b.example&event=refused");
                }
                2 => {
                    copies += 1;
                    source.send_bytes(&last);
                }
                3 => {
                    good.insert(number, SEVERAL);
                    let lines = format!("site=a.example&event=several&n={number}\n").repeat(SEVERAL);
                    last = source.send(format!("{lines}site=b.example").as_bytes());
                }
                _ => {
                    good.insert(number, 1);
                    last = source.send(format!("site=a.example&event=one&n={number}").as_bytes());
                }
            }
        }
        if beat_at.elapsed() > Duration::from_secs(1) {
            source.heartbeat();
            beat_at = Instant::now();
        }
        // the pace: about 5000 a second
        thread::sleep(Duration::from_millis(2));
    }
    Sent { source, good, refused, copies }
}

#[test]
fn twenty_kills_under_load_leave_no_number_unaccounted_for() {
    let (line, key) = key(4, 1);
    let flags = ["--site=a.example", "--segment-size=4MiB", "--udp-from=127.0.0.2"];
    let mut fixture = Fixture::with_keys(&line, &flags);
    let udp = fixture.collector.udp;
    let sources = (0..4).map(|n| match n {
        0 | 1 => Source::on(socket_at([127, 0, 0, 2].into(), udp), None),
        _ => Source::keyed(udp, key.clone()),
    });
    let over = Over::default();
    let mut chance = Chance(77);
    let mut sent: Vec<Sent> = thread::scope(|scope| {
        let (over, end) = (&over, over.when_dropped());
        let senders = (0..).zip(sources).map(|(seed, source)| scope.spawn(move || send_until(over, source, seed)));
        let senders: Vec<_> = senders.collect();
        for _ in 0..KILLS {
            wait_for("datagrams", || (fixture.datagrams().received > 0).then_some(()));
            // the moment is what this is about, so here a time is waited for
            thread::sleep(Duration::from_millis(chance.below(400)));
            fixture.collector.kill9();
            fixture.collector.start_again();
        }
        wait_for("datagrams", || (fixture.datagrams().received > 1000).then_some(()));
        drop(end);
        senders.into_iter().map(|sender| sender.join().unwrap()).collect()
    });
    for Sent { source, .. } in &mut sent {
        wait_for("the last heartbeat", || {
            // the socket may still be full
            source.heartbeat();
            fixture.report(source).filter(|report| report.next == source.next)
        });
    }
    fixture.settle();

    let mut of_source: BTreeMap<String, BTreeMap<u64, usize>> = BTreeMap::new();
    for event in inspect(&fixture.collector.data) {
        let source = event["source"].as_str().unwrap().to_owned();
        assert_eq!(event["props"]["n"], event["sequence"].to_string());
        *of_source.entry(source).or_default().entry(event["sequence"].as_u64().unwrap()).or_default() += 1;
    }
    for Sent { source, good, refused, copies } in &sent {
        let report = fixture.settled(source);
        let logged = &of_source[&source.name()];
        println!("{report:?}, {} logged, {copies} copies", logged.len());
        assert_eq!((report.first, report.next), (1, source.next), "{report:?}");
        assert_eq!(report.received + report.lost - report.recovered, source.next - 1, "{report:?}");
        assert!(report.lost > 0 && report.duplicate > 0 && report.duplicate <= *copies, "{report:?}");
        assert_eq!(report.events, logged.values().sum::<usize>() as u64, "{report:?}");
        assert!(logged.iter().all(|(number, events)| *events <= good[number]), "one is there more than once");
        // a kill may cut a datagram of several in two: that one did not come
        let whole = logged.iter().filter(|(number, events)| **events == good[number]).count() as u64;
        assert!(report.received >= whole && report.received <= whole + refused.len() as u64, "{report:?}: {whole}");
        assert!(whole > report.received / 2, "{report:?}: {whole}");
    }
    fixture.end();
}
