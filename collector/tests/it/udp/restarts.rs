//! Numbers go on over a restart: what came is known, what was missed shows, and nothing else.

use super::{Datagrams, Fixture};
use crate::harness::datagrams::{self, Source, key};
use crate::harness::wait_for;

/// Asserts how much of a source is lost, once everything missing so far is. Leaves one more lost behind.
fn assert_lost(fixture: &Fixture, source: &mut Source, expected: u64) {
    source.skip(1);
    source.heartbeat();
    // what is skipped just now is the last to be lost
    let next = source.next;
    let report = wait_for("the heartbeat", || fixture.report(source).filter(|report| report.next == next));
    assert!(report.lost <= expected + 1, "{report:?}");
    let report = fixture.settled(source);
    assert_eq!(report.lost - report.recovered, expected + 1, "{report:?}");
}

#[test]
fn what_is_in_the_sockets_when_it_is_told_to_stop_is_taken() {
    let (line, key) = key(4, 1);
    let mut fixture = Fixture::with_keys(&line, &["--udp-from=127.0.0.0/8"]);
    let mut sources: Vec<Source> = (0..8).map(|_| fixture.source()).collect();
    sources.push(fixture.keyed(&key));
    let plain = datagrams::socket(fixture.collector.udp);
    sources[0].send(b"event=first");
    fixture.wait_received(1);
    // stopped, it reads nothing; it finds the signal and the datagrams together
    fixture.collector.stop();
    for n in 0..20 {
        for source in &mut sources {
            source.send(format!("event=e{n}\nevent=f{n}").as_bytes());
        }
        datagrams::send(&plain, b"event=plain");
    }
    fixture.collector.tell_to_end();
    fixture.collector.cont();
    let status = wait_for("its end", || fixture.collector.ended());
    assert!(status.success(), "{status}\n{}", fixture.collector.stderr());
    assert_eq!(fixture.inspect().len(), 1 + 20 * (9 * 2 + 1));

    fixture.collector.start_again();
    for (n, source) in sources.iter_mut().enumerate() {
        let report = fixture.report(source).unwrap_or_else(|| panic!("{n} is forgotten"));
        let received = if n == 0 { 21 } else { 20 };
        assert_eq!((report.received, report.lost, report.next), (received, 0, received + 1));
        assert_lost(&fixture, source, 0);
    }
    fixture.end();
}

#[test]
fn what_came_before_a_restart_is_a_copy_after_it_and_what_was_sent_meanwhile_is_lost() {
    for is_killed in [false, true] {
        let mut fixture = Fixture::start(&["--site=a.example"]);
        let mut source = fixture.source();
        let mut sent: Vec<_> = (0..100).map(|_| source.send(b"site=a.example&event=good")).collect();
        // these leave no record behind that has their number
        sent.extend((0..50).map(|_| source.send(b"site=b.example&event=refused")));
        let missing = source.frame(b"site=a.example&event=late");
        sent.push(source.send(b"site=a.example\nsite=b.example\nsite=a.example"));
        fixture.wait_received(151);
        fixture.settle();
        if is_killed {
            fixture.collector.kill9();
        } else {
            assert!(fixture.collector.terminate().success());
        }
        for _ in 0..10 {
            source.send(b"site=a.example&event=while-it-is-down");
        }
        fixture.collector.start_again();
        let report = fixture.report(&source).expect("it is known");
        assert_eq!((report.received, report.events, report.next), (151, 102, 153), "{is_killed}");
        sent.iter().for_each(|bytes| source.send_bytes(bytes));
        fixture.wait_received(151);
        assert_eq!(fixture.report(&source).unwrap().duplicate, 151, "{is_killed}");
        assert_eq!(fixture.datagrams().duplicate, 151);
        source.send(b"site=a.example&event=back");
        assert_lost(&fixture, &mut source, 11);
        // what is missing can come later still
        source.send_bytes(&missing);
        fixture.wait_received(154);
        let report = fixture.settled(&source);
        assert_eq!((report.received, report.recovered, report.lost), (153, 1, 12), "{is_killed}");
        assert_eq!(fixture.inspect().len(), 104);
        fixture.end();
    }
}

#[test]
fn a_kill_at_rest_loses_nothing_and_invents_nothing_however_often() {
    let (line, key) = key(200, 1);
    let flags = ["--site=a.example", "--segment-size=1MiB", "--udp-from=127.0.0.0/8"];
    let mut fixture = Fixture::with_keys(&line, &flags);
    let mut sources = [fixture.keyed(&key), fixture.source(), fixture.source()];
    let mut events = 0;
    for life in 0..8 {
        let mut sent = 0;
        for n in 0..200 {
            for (place, source) in sources.iter_mut().enumerate() {
                let body = if (n + place) % 3 == 0 { "site=b.example" } else { "site=a.example&text=ninety-bytes" };
                let bytes = source.send(format!("{body}&life={life}&n={n}").as_bytes());
                events += usize::from(body.starts_with("site=a"));
                sent += 1;
                if n % 10 == 0 {
                    source.send_bytes(&bytes);
                    sent += 1;
                }
            }
            // one of them jumps, as if it had been away for long
            if n == 100 && life == 4 {
                sources[0].skip(100_000);
            }
        }
        fixture.wait_received(sent);
        fixture.settle();
        let before = sources.each_ref().map(|source| fixture.report(source).unwrap());
        fixture.collector.kill9();
        fixture.collector.start_again();
        for (source, before) in sources.iter().zip(before) {
            let after = fixture.settled(source);
            let kept = |report: &crate::harness::SourceReport| {
                [report.first, report.next, report.received, report.events, report.lost, report.recovered]
            };
            assert_eq!(kept(&after), kept(&before));
        }
    }
    for (n, source) in sources.iter_mut().enumerate() {
        assert_lost(&fixture, source, if n == 0 { 100_000 } else { 0 });
    }
    assert_eq!(fixture.inspect().len(), events);
    assert_eq!(fixture.datagrams(), Datagrams { received: 3, lost: 3, ..Datagrams::default() });
    fixture.end();
}
