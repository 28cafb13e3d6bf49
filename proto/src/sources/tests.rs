use super::*;
use proptest::prelude::*;

fn keyed(source: u64) -> SourceId {
    SourceId { key: Some(1), source }
}

fn unkeyed(source: u64) -> SourceId {
    SourceId { key: None, source }
}

fn arrival(source: SourceId, sequence: u64) -> Arrival {
    Arrival { number: Number { source, sequence }, events: 1, is_recorded: true }
}

/// A table and its clock.
#[derive(Default)]
struct Fixture {
    sources: Sources,
    now: u64,
}

impl Fixture {
    fn come(&mut self, source: SourceId, sequence: u64) -> Seen {
        self.sources.arrive(&arrival(source, sequence), self.now)
    }

    fn heartbeat(&mut self, source: SourceId, sequence: u64) {
        self.sources.heartbeat(Number { source, sequence }, self.now);
    }

    /// As the writer does: a look each 100 ms.
    fn pass(&mut self, ms: u64) {
        for _ in 0..ms / TICK_MS {
            self.now += TICK_MS;
            self.sources.tick(self.now);
        }
    }

    fn report(&self, source: SourceId) -> Report {
        self.sources.reports(self.now).into_iter().find(|report| report.id == source).unwrap()
    }

    fn lost(&self, source: SourceId) -> u64 {
        self.report(source).figures.lost
    }
}

#[test]
fn what_is_missing_is_lost_after_a_second_and_may_be_recovered() {
    let mut fixture = Fixture::default();
    for number in [1, 2, 5, 4, 2] {
        fixture.come(keyed(7), number);
    }
    fixture.heartbeat(keyed(7), 8);
    assert!(fixture.sources.is_waiting());
    fixture.pass(900);
    assert_eq!((fixture.lost(keyed(7)), fixture.report(keyed(7)).pending), (0, 3));
    fixture.pass(300);
    assert_eq!(fixture.come(keyed(7), 3), Seen::New);
    let Report { figures, bounds, pending, .. } = fixture.report(keyed(7));
    let expected = Figures { received: 5, events: 5, lost: 3, recovered: 1, duplicate: 1, stale: 0 };
    assert_eq!((figures, bounds.first, bounds.next, pending), (expected, 1, 8, 0));
    let counts = fixture.sources.take_counts();
    assert_eq!((counts.lost, counts.recovered, counts.duplicate), (3, 1, 1));
    assert_eq!(fixture.sources.take_counts(), DatagramCounts::default());
    fixture.pass(100);
    assert!(!fixture.sources.is_waiting());
}

#[test]
fn the_same_source_under_another_key_is_another_one() {
    let mut fixture = Fixture::default();
    assert_eq!(fixture.come(keyed(7), 1), Seen::New);
    assert_eq!(fixture.come(unkeyed(7), 1), Seen::New);
    assert_eq!(fixture.come(unkeyed(7), 1), Seen::Duplicate);
    assert_eq!(fixture.sources.len(), 2);
}

#[test]
fn a_source_begins_at_1_unless_it_is_seen_late() {
    let mut fixture = Fixture::default();
    fixture.come(keyed(1), WINDOW);
    fixture.come(keyed(2), WINDOW + 1);
    fixture.heartbeat(keyed(3), 3);
    fixture.pass(1200);
    assert_eq!((fixture.lost(keyed(1)), fixture.lost(keyed(2)), fixture.lost(keyed(3))), (WINDOW - 1, 0, 2));
    assert_eq!(fixture.report(keyed(2)).bounds.first, WINDOW + 1);
}

#[test]
fn the_first_datagrams_of_a_source_may_overtake_each_other() {
    let mut fixture = Fixture::default();
    for number in [100_000, 99_998, 100_001, 99_998] {
        fixture.come(keyed(1), number);
    }
    fixture.pass(1200);
    let Report { figures, bounds, .. } = fixture.report(keyed(1));
    assert_eq!((figures.received, figures.duplicate, figures.stale, figures.lost), (3, 1, 0, 1));
    assert_eq!((bounds.first, bounds.next), (99_998, 100_002));
    assert_eq!(fixture.come(keyed(1), 99_997), Seen::Stale);
}

#[test]
fn what_is_older_than_the_window_is_stale() {
    let mut fixture = Fixture::default();
    fixture.come(keyed(1), 1);
    fixture.come(keyed(1), WINDOW + 1);
    assert_eq!(fixture.come(keyed(1), 1), Seen::Stale);
    assert_eq!(fixture.come(keyed(1), 2), Seen::New);
    assert_eq!(fixture.sources.take_counts().refused[DatagramRefusal::Stale.index()], 1);
}

#[test]
fn a_keyed_number_far_ahead_is_believed_at_once() {
    let mut fixture = Fixture::default();
    fixture.come(keyed(1), 1);
    fixture.come(keyed(1), 1_000_000);
    assert_eq!(fixture.report(keyed(1)).bounds.next, 1_000_001);
    fixture.pass(1200);
    assert_eq!(fixture.lost(keyed(1)), 999_998);
}

#[test]
fn an_unkeyed_number_far_ahead_is_believed_with_a_second_one_beside_it() {
    for second in [1_000_001, 999_990] {
        let mut fixture = Fixture::default();
        fixture.come(unkeyed(1), 1);
        assert_eq!(fixture.come(unkeyed(1), 1_000_000), Seen::New);
        assert_eq!(fixture.come(unkeyed(1), 1_000_000), Seen::Duplicate);
        assert_eq!(fixture.report(unkeyed(1)).bounds.next, 2);
        assert_eq!(fixture.come(unkeyed(1), second), Seen::New);
        assert_eq!(fixture.come(unkeyed(1), 1_000_000), Seen::Duplicate);
        fixture.pass(1200);
        let Report { figures, bounds, .. } = fixture.report(unkeyed(1));
        assert_eq!((figures.received, figures.lost), (3, bounds.next - 1 - 3));
    }
    let mut fixture = Fixture::default();
    fixture.come(unkeyed(1), 1);
    fixture.come(unkeyed(1), 1_000_000);
    fixture.heartbeat(unkeyed(1), 1_000_001);
    assert_eq!(fixture.report(unkeyed(1)).bounds.next, 1_000_001);
}

#[test]
fn an_unkeyed_number_far_ahead_is_believed_after_a_second_that_does_not_contradict_it() {
    let mut fixture = Fixture::default();
    fixture.come(unkeyed(1), 1);
    fixture.come(unkeyed(1), 1_000_000);
    fixture.pass(1200);
    assert_eq!((fixture.lost(unkeyed(1)), fixture.report(unkeyed(1)).bounds.next), (999_998, 1_000_001));
    assert!(fixture.sources.is_ahead_of_the_log());
    assert_eq!(fixture.come(unkeyed(1), 1_000_000), Seen::Duplicate);

    fixture = Fixture::default();
    fixture.come(unkeyed(1), 1);
    fixture.come(unkeyed(1), 1 << 40);
    fixture.heartbeat(unkeyed(1), 1 << 45);
    fixture.come(unkeyed(1), 2);
    fixture.pass(1200);
    assert_eq!((fixture.lost(unkeyed(1)), fixture.report(unkeyed(1)).bounds.next), (0, 3));
    assert_eq!(fixture.come(unkeyed(1), 3), Seen::New);
}

#[test]
fn silent_sources_make_room_and_live_ones_stay() {
    let mut fixture = Fixture::default();
    for source in 0..MAX_SOURCES as u64 {
        assert_eq!(fixture.come(unkeyed(source), 2), Seen::New);
    }
    assert_eq!(fixture.come(unkeyed(1 << 40), 1), Seen::New);
    assert_eq!((fixture.sources.len(), fixture.sources.untracked()), (MAX_SOURCES, 1));
    fixture.come(keyed(1), 1);
    assert_eq!(fixture.sources.len(), MAX_SOURCES + 1, "made-up sources do not take the room of keyed ones");
    for _ in 0..12 {
        fixture.heartbeat(unkeyed(5), 3);
        fixture.pass(1000);
    }
    let (gone, figures) = fixture.sources.forgotten();
    assert_eq!((gone, figures.lost), ((MAX_SOURCES - ROOMY) as u64, (MAX_SOURCES - ROOMY) as u64));
    assert_eq!(fixture.lost(unkeyed(5)), 1);
    assert_eq!(fixture.lost(keyed(1)), 0);

    // one that comes again goes on where it was
    let is_followed = |fixture: &Fixture, id| fixture.sources.reports(0).iter().any(|report| report.id == id);
    let again = (0..).map(unkeyed).find(|id| !is_followed(&fixture, *id)).unwrap();
    assert_eq!((fixture.come(again, 2), fixture.come(again, 4)), (Seen::Stale, Seen::New));
    fixture.pass(1200);
    let Report { figures, bounds, .. } = fixture.report(again);
    assert_eq!((figures.lost, figures.received, bounds.first, bounds.next), (1, 1, 3, 5));
}

#[test]
fn a_stop_of_the_whole_process_is_nobodys_silence() {
    let mut fixture = Fixture::default();
    fixture.come(keyed(1), 1);
    fixture.come(keyed(1), 3);
    fixture.pass(100);
    fixture.now += 60_000;
    fixture.sources.tick(fixture.now);
    assert_eq!((fixture.lost(keyed(1)), fixture.report(keyed(1)).idle_ms), (0, 60_100));
    fixture.come(keyed(1), 2);
    assert_eq!(fixture.report(keyed(1)).idle_ms, 0);
    fixture.pass(2000);
    assert_eq!(fixture.lost(keyed(1)), 0);
}

#[test]
fn marks_of_all_sources_fit_into_a_record_however_much_is_missing() {
    let mut fixture = Fixture::default();
    for source in 0..MAX_SOURCES as u64 {
        for id in [keyed(u64::MAX - source), unkeyed(u64::MAX - source)] {
            (1..1200).step_by(2).for_each(|number| {
                fixture.come(id, (1 << 47) + number);
            });
        }
    }
    let marks = fixture.sources.all();
    let mut bytes = Vec::new();
    marks.encode(&mut bytes);
    assert!(bytes.len() + 1024 < crate::segment::MAX_PAYLOAD, "{}", bytes.len());
    // those that had no room are lost, and the rest is as it was
    let mut restored = Sources::default();
    restored.apply(&marks, 0);
    for (before, after) in fixture.sources.reports(0).into_iter().zip(restored.reports(0)) {
        let missing = |report: &Report| report.pending + report.figures.lost - report.figures.recovered;
        assert_eq!(missing(&before), missing(&after));
        assert_eq!(before.figures.received, after.figures.received);
    }
}

#[test]
fn what_a_power_cut_took_from_the_log_is_torn_and_not_lost() {
    let mut live = Fixture::default();
    (1..=100).for_each(|number| assert_eq!(live.come(keyed(1), number), Seen::New));
    let marks = live.sources.changes();
    let mut restored = Fixture::default();
    (1..=90).for_each(|sequence| restored.sources.replay(arrival(keyed(1), sequence).number, true, 0));
    restored.sources.apply(&marks, 0);
    restored.pass(1200);
    assert_eq!((restored.lost(keyed(1)), restored.report(keyed(1)).figures.received), (0, 100));
    assert_eq!(restored.come(keyed(1), 95), Seen::Duplicate);
}

/// Plays what the log has of these: records, then a ledger record.
fn restored(live: &Fixture, records: &[Number]) -> Fixture {
    let mut restored = Fixture::default();
    records.iter().for_each(|number| restored.sources.replay(*number, true, 0));
    restored.sources.apply(&live.sources.changes(), 0);
    restored
}

#[test]
fn a_source_that_begins_with_a_late_heartbeat_comes_out_of_the_log_as_it_was() {
    let mut live = Fixture::default();
    live.heartbeat(keyed(1), 100_000);
    live.come(keyed(1), 100_003);
    let mut restored = restored(&live, &[arrival(keyed(1), 100_003).number]);
    assert_eq!((restored.lost(keyed(1)), restored.report(keyed(1)).pending), (0, 3));
    assert_eq!(restored.come(keyed(1), 100_001), Seen::New);
}

#[test]
fn a_number_that_a_far_heartbeat_confirms_is_told_in_the_ledger() {
    let mut live = Fixture::default();
    live.come(unkeyed(1), 1);
    live.heartbeat(unkeyed(1), 200_000);
    live.come(unkeyed(1), 200_000);
    assert!(live.sources.is_ahead_of_the_log());
    let numbers = [1, 200_000].map(|sequence| arrival(unkeyed(1), sequence).number);
    let mut restored = restored(&live, &numbers);
    assert_eq!(restored.report(unkeyed(1)).figures, live.report(unkeyed(1)).figures);
    assert_eq!(restored.come(unkeyed(1), 200_000), Seen::Duplicate);
}

#[test]
fn a_number_ahead_comes_once_also_when_the_window_has_come_near_it() {
    for is_heartbeat in [false, true] {
        let mut fixture = Fixture::default();
        fixture.come(unkeyed(1), 1);
        let ahead = WINDOW + 10;
        if is_heartbeat {
            fixture.heartbeat(unkeyed(1), ahead);
            fixture.come(unkeyed(1), 20);
            assert_eq!(fixture.come(unkeyed(1), ahead), Seen::New);
        } else {
            assert_eq!(fixture.come(unkeyed(1), ahead), Seen::New);
            fixture.come(unkeyed(1), 20);
        }
        assert_eq!(fixture.come(unkeyed(1), ahead), Seen::Duplicate);
        fixture.pass(1500);
        assert_eq!(fixture.come(unkeyed(1), ahead), if is_heartbeat { Seen::Duplicate } else { Seen::New });
        assert_eq!(fixture.come(unkeyed(1), ahead), Seen::Duplicate);
    }
}

#[test]
fn what_waits_for_a_ledger_record_is_bounded_and_not_forgotten() {
    let mut live = Fixture::default();
    for sequence in (1..60_000).step_by(2) {
        let arrival = Arrival { is_recorded: false, events: 0, ..arrival(keyed(1), sequence) };
        live.sources.arrive(&arrival, 0);
        assert!(live.sources.unwritten <= MANY && live.sources.is_ahead_of_the_log());
    }
    let marks = live.sources.changes();
    assert_eq!(marks.scope, Scope::All);
    let mut restored = Fixture::default();
    restored.sources.apply(&marks, 0);
    assert_eq!(restored.come(keyed(1), 1), Seen::Duplicate);
    assert_eq!(restored.come(keyed(1), 2), Seen::New);
    live.sources.are_written();
    assert!(!live.sources.is_ahead_of_the_log());
}

/// What the log would have.
enum Entry {
    Event(Number),
    Ledger(Marks, DatagramCounts),
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// From the next number of this source: skip so many; recorded or not.
    Ahead(usize, u64, bool),
    Back(usize, u64),
    Heartbeat(usize, u64),
    Pass(u64),
    Ledger,
    NewSegment,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let source = 0..3_usize;
    let skip = prop_oneof![6 => Just(0), 3 => 1..5_u64, 1 => WINDOW - 2..WINDOW * 3];
    let step = prop_oneof![
        12 => (source.clone(), skip.clone(), any::<bool>()).prop_map(|(s, n, r)| Step::Ahead(s, n, r)),
        4 => (source.clone(), 1..40_u64).prop_map(|(s, n)| Step::Back(s, n)),
        1 => (source, skip).prop_map(|(s, n)| Step::Heartbeat(s, n)),
        2 => (1..15_u64).prop_map(|n| Step::Pass(n * TICK_MS)),
        1 => Just(Step::Ledger),
        1 => Just(Step::NewSegment),
    ];
    prop::collection::vec(step, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn the_table_comes_out_of_the_log_as_it_was(steps in steps()) {
        let ids = [keyed(1), unkeyed(1), keyed(2)];
        let mut next = [1_u64; 3];
        let (mut live, mut log, mut total) = (Fixture::default(), Vec::new(), DatagramCounts::default());
        for step in steps {
            let mut is_due = false;
            let number = match step {
                Step::Ahead(source, skip, is_recorded) => {
                    next[source] += skip + 1;
                    Some((source, next[source] - 1, is_recorded))
                }
                Step::Back(source, back) => Some((source, next[source].saturating_sub(back).max(1), true)),
                Step::Heartbeat(source, skip) => {
                    next[source] += skip;
                    live.heartbeat(ids[source], next[source]);
                    // not in the log until the next ledger record, and then only
                    is_due = true;
                    None
                }
                Step::Pass(ms) => {
                    // what time does is told at once, or with the next ledger record
                    live.pass(ms);
                    is_due = true;
                    None
                }
                Step::Ledger | Step::NewSegment => {
                    is_due = true;
                    None
                }
            };
            if let Some((source, sequence, is_recorded)) = number {
                let arrival = Arrival { is_recorded, events: u64::from(is_recorded), ..arrival(ids[source], sequence) };
                if live.sources.arrive(&arrival, live.now) == Seen::New && is_recorded {
                    log.push(Entry::Event(arrival.number));
                }
            }
            total.add(live.sources.take_counts());
            if is_due || live.sources.is_ahead_of_the_log() {
                let is_new = matches!(step, Step::NewSegment);
                let marks = if is_new { live.sources.all() } else { live.sources.changes() };
                if is_new {
                    // a reader may begin here
                    log.clear();
                }
                live.sources.are_written();
                log.push(Entry::Ledger(marks, total));
            }
            for report in live.sources.reports(live.now) {
                let Figures { received, lost, recovered, .. } = report.figures;
                let Bounds { first, next, .. } = report.bounds;
                prop_assert_eq!(next - first + recovered, received + lost + report.pending);
            }

            let mut restored = Sources::default();
            let mut counts = DatagramCounts::default();
            for entry in &log {
                match entry {
                    Entry::Event(number) => restored.replay(*number, true, live.now),
                    Entry::Ledger(marks, total) => {
                        counts = *total;
                        restored.apply(marks, live.now);
                    }
                }
                counts.add(restored.take_counts());
            }
            prop_assert_eq!((counts.lost, counts.recovered), (total.lost, total.recovered));
            for (was, is) in live.sources.reports(live.now).into_iter().zip(restored.reports(live.now)) {
                // copies are counted, and stand in the log with the next ledger record
                let without_copies = |figures: Figures| Figures { duplicate: 0, stale: 0, ..figures };
                prop_assert_eq!((was.id, without_copies(was.figures)), (is.id, without_copies(is.figures)));
                prop_assert_eq!(was.pending, is.pending);
                let Bounds { first, next, .. } = was.bounds;
                prop_assert_eq!((first, next), (is.bounds.first, is.bounds.next));
            }
        }
    }
}
