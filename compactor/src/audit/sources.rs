//! The sources of datagrams: the table made again from the log, and compared with what the ledger records say of it.
//!
//! The rule: what came is a record, or a ledger record says that it came without one. So between two of them `received`
//! and `events` of a source go up by exactly that, and at any time `sent = received + lost − recovered + pending`; and what
//! the ledger says of datagrams is the sum over all sources. Lost records leave room.

use std::collections::{HashMap, HashSet};

use tallylight_proto::DatagramRefusal;
use tallylight_proto::datagram::SourceId;
use tallylight_proto::event::Origin;
use tallylight_proto::ledger::DatagramCounts;
use tallylight_proto::sources::{Bounds, Figures, Mark, Marks, Scope, Sources};

use super::balance::{Line, Room, Sum, minus, plus};
use super::fates::{Fates, Found};

/// Sources that are printed one by one.
const PRINTED: usize = 50;

/// The table, and what became of each source's events.
#[derive(Default)]
pub struct SourcesCheck {
    table: Sources,
    fates: HashMap<SourceId, Fates>,
    /// Events of a source before the log begins.
    before: HashMap<SourceId, u64>,
    /// Sources of which a ledger record could not tell everything that is missing.
    is_cut: HashSet<SourceId>,
    /// Sources that the next ledger record must tell of.
    touched: HashSet<SourceId>,
    /// Of sources that were let go.
    forgotten: Fates,
    /// Of those for which there was no room.
    untracked: Fates,
    /// A ledger record was seen, with all that was before.
    has_begun: bool,
    /// Records lost, in all and since the last ledger record that told of all sources.
    lost: u64,
    lost_since: u64,
}

impl SourcesCheck {
    /// An event in a framed datagram.
    pub fn event(&mut self, origin: Origin, found: Found) {
        let id = origin.number.source;
        self.table.replay(origin.number, origin.is_last, 0);
        if self.table.figures(id).is_none() {
            return self.untracked.add(found);
        }
        self.fates.entry(id).or_default().add(found);
        self.touched.insert(id);
    }

    /// Records were lost.
    pub fn lost(&mut self, records: u64) {
        self.lost += records;
        self.lost_since += records;
    }

    /// Compares what a ledger record says with what came before it, and goes on from that. Says what is wrong.
    pub fn ledger(&mut self, marks: &Marks) -> Vec<String> {
        // changes of what is not known: the record that told it went with a power cut, or with earlier segments
        if !self.has_begun && marks.scope == Scope::Changes {
            return Vec::new();
        }
        let mut wrong = if self.has_begun { self.differences(marks) } else { Vec::new() };
        if !self.has_begun {
            for mark in &marks.marks {
                let here = self.fates.get(&mark.id).map_or(0, |fates| fates.compacted() + fates.waiting);
                self.before.insert(mark.id, mark.figures.events.saturating_sub(here));
            }
        }
        self.has_begun = true;
        self.table.apply(marks, 0);
        for mark in &marks.marks {
            let was_cut = self.is_cut.contains(&mark.id);
            if marks.scope == Scope::All {
                self.is_cut.remove(&mark.id);
                self.is_cut.extend(is_cut(mark).then_some(mark.id));
            }
            // the table takes for lost what is accounted for nowhere
            let now = self.table.figures(mark.id).filter(|_| !mark.is_gone && !was_cut && !is_cut(mark));
            if now.is_some_and(|now| now.lost != mark.figures.lost) {
                wrong.push(format!("{}: sent is not received + lost - recovered + pending", name(mark.id)));
            }
        }
        self.forget();
        self.touched.clear();
        // one with changes does not tell of the sources that only lost records were of
        if marks.scope == Scope::All {
            self.lost_since = 0;
        }
        wrong
    }

    /// What became of those that are no longer in the table goes to the forgotten ones.
    fn forget(&mut self) {
        let table = &self.table;
        self.fates.retain(|id, fates| {
            let is_there = table.figures(*id).is_some();
            if !is_there {
                self.forgotten.merge(*fates);
            }
            is_there
        });
        self.before.retain(|id, _| table.figures(*id).is_some());
        self.is_cut.retain(|id| table.figures(*id).is_some());
    }

    fn differences(&self, marks: &Marks) -> Vec<String> {
        // who found no room in the collector's table may have found some in ours
        if marks.untracked != self.table.untracked() {
            return Vec::new();
        }
        let mut wrong = Vec::new();
        let mut by_id: HashMap<SourceId, Vec<&Mark>> = HashMap::new();
        marks.marks.iter().for_each(|mark| by_id.entry(mark.id).or_default().push(mark));
        let mut room = self.lost_since;
        let mut ids: Vec<_> = by_id.keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            let (of_source, replayed) = (&by_id[&id], self.table.figures(id).unwrap_or_default());
            let said = of_source.iter().fold(Figures::default(), |sum, mark| Figures {
                received: sum.received.saturating_add(mark.figures.received),
                events: sum.events.saturating_add(mark.figures.events),
                ..sum
            });
            let mut out = |what: &str, said: u64, found: u64, is_exact: bool| {
                let Some(more) = said.checked_sub(found) else {
                    wrong.push(format!("{}: {what} {said}, but {found} by the records", name(id)));
                    return;
                };
                if !is_exact || more == 0 {
                    return;
                }
                match room.checked_sub(more) {
                    Some(left) => room = left,
                    None => wrong.push(format!("{}: {what} {said}, but {found} by the records", name(id))),
                }
            };
            let told: Vec<(u64, u64)> = match marks.scope {
                Scope::Changes => of_source.iter().flat_map(|mark| mark.numbers.iter().copied()).collect(),
                Scope::All => Vec::new(),
            };
            out("events", said.events, replayed.events, true);
            // A record with all tells what is missing instead of what came, one that is lost may have told of any number.
            let is_told = marks.scope == Scope::Changes && !of_source.iter().any(|mark| mark.is_gone);
            let is_exact = is_told && self.lost_since == 0 && !self.is_cut.contains(&id);
            let received = replayed.received.saturating_add(self.table.count_unknown(id, &told));
            out("received", said.received, received, is_exact);
        }
        // a ledger record that is lost may have told what this one need not tell again
        if marks.scope == Scope::Changes && self.lost_since == 0 {
            let silent = self.touched.iter().filter(|id| !by_id.contains_key(id));
            wrong.extend(silent.map(|id| format!("{}: events stand before it, of which it says nothing", name(*id))));
            wrong.extend(self.forgotten_difference(marks));
        }
        wrong
    }

    /// Those that were let go are added to the forgotten ones.
    fn forgotten_difference(&self, marks: &Marks) -> Option<String> {
        if self.lost_since > 0 {
            return None;
        }
        let (mut count, figures) = self.table.forgotten();
        let mut sums = figures.to_array();
        for gone in marks.marks.iter().filter(|mark| mark.is_gone) {
            count += 1;
            sums.iter_mut().zip(gone.figures.to_array()).for_each(|(sum, more)| *sum = sum.saturating_add(more));
        }
        let adds_up = (count, Figures::from_array(sums)) == marks.forgotten;
        (!adds_up).then(|| "forgotten sources: not the sum of those that were let go".into())
    }

    /// A line a source, and the sums.
    pub fn lines(&self) -> Vec<Line> {
        let mut all = Figures::default().to_array();
        let (mut sent, mut pending, mut before, mut fates) = (0, 0, 0, Fates::default());
        let mut lines = Vec::new();
        for report in self.table.reports(0) {
            let Bounds { first, next, .. } = report.bounds;
            let of_source = self.fates.get(&report.id).copied().unwrap_or_default();
            let earlier = self.before.get(&report.id).copied().unwrap_or(0);
            let mut line = self.line(name(report.id), next - first, report.pending, report.figures, earlier, of_source);
            if first > 1 {
                line.note.push_str(&format!(" first seen at {first}"));
            }
            line.is_hidden = lines.len() >= PRINTED;
            lines.push(line);
            all.iter_mut().zip(report.figures.to_array()).for_each(|(sum, more)| *sum = sum.saturating_add(more));
            (sent, pending, before) = (sent + next - first, pending + report.pending, before + earlier);
            fates.merge(of_source);
        }
        if lines.len() > 1 {
            let label = format!("all {}", lines.len());
            lines.push(self.line(label, sent, pending, Figures::from_array(all), before, fates));
        }
        let (sources, figures) = self.table.forgotten();
        if sources > 0 {
            let of_them = |name, value: u64| format!("{value} {name}");
            let Figures { received, events, lost, recovered, duplicate, stale } = figures;
            let said = [
                of_them("received", received),
                of_them("lost", lost),
                of_them("recovered", recovered),
                of_them("duplicate", duplicate),
                of_them("stale", stale),
                of_them("events", events),
                fates_text(&self.forgotten),
            ];
            lines.push(Line::fact(format!("forgotten {sources}"), said.join(", ")));
        }
        if self.table.untracked() > 0 {
            let note = format!("{} datagrams of sources that found no room", self.table.untracked());
            lines.push(Line::fact("untracked", format!("{note}, {}", fates_text(&self.untracked))));
        }
        lines
    }

    /// What the ledger says of datagrams against the figures of all sources, those that were let go included.
    pub fn totals(&self, ledger: &DatagramCounts) -> Line {
        // what a hole or a cut mark has hidden from this table, or from the collector's, is in one of them only
        let is_whole = self.has_begun && self.lost == 0 && self.is_cut.is_empty() && self.table.untracked() == 0;
        let room = if is_whole { Room::default() } else { Room { more: u64::MAX, less: u64::MAX } };
        let since = self.table.counted();
        let figures = self.table.reports(0).into_iter().map(|report| report.figures);
        let sum = |figure: fn(&Figures) -> u64| {
            let of_all = figures.clone().chain([self.table.forgotten().1]).map(|figures| figure(&figures));
            of_all.fold(0, u64::saturating_add)
        };
        let stale = DatagramRefusal::Stale.index();
        let of = |name, ledger: u64, since: u64, of_sources: u64| {
            Sum::within(plus(name, ledger.saturating_add(since)), [plus("of_sources", of_sources)], room)
        };
        let sums = vec![
            of("lost", ledger.lost, since.lost, sum(|of| of.lost)),
            of("recovered", ledger.recovered, since.recovered, sum(|of| of.recovered)),
            of("duplicate", ledger.duplicate, since.duplicate, sum(|of| of.duplicate)),
            of("stale", ledger.refused[stale], since.refused[stale], sum(|of| of.stale)),
        ];
        Line { label: "datagrams".into(), sums, ..Line::default() }
    }

    fn line(&self, label: String, sent: u64, pending: u64, figures: Figures, before: u64, fates: Fates) -> Line {
        let Figures { received, events, lost, recovered, duplicate, stale } = figures;
        let datagrams = [plus("received", received), plus("lost", lost), minus("recovered", recovered)];
        let datagrams = datagrams.into_iter().chain([plus("pending", pending)]);
        let events_of = [
            plus("before_this_log", before),
            plus("counted", fates.counted),
            plus("duplicates", fates.duplicates),
            plus("bots", fates.bots),
            plus("waiting", fates.waiting),
        ];
        let events_of = events_of.into_iter().filter(|term| term.value > 0 || term.name == "counted");
        let sums = vec![
            Sum::exact(plus("sent", sent), datagrams),
            Sum::within(plus("events", events), events_of, Room { more: self.lost, less: 0 }),
        ];
        let note = match (duplicate, stale) {
            (0, 0) => String::new(),
            _ => format!("({duplicate} datagrams twice, {stale} stale)"),
        };
        Line { label, sums, note, ..Line::default() }
    }
}

fn fates_text(fates: &Fates) -> String {
    let Fates { counted, bots, duplicates, waiting } = fates;
    format!("of those in this log {counted} counted, {duplicates} duplicates, {bots} bots, {waiting} waiting")
}

/// Whether the oldest of what is missing may have had no room.
fn is_cut(mark: &Mark) -> bool {
    mark.numbers.last().is_some_and(|(word, _)| mark.bounds.floor == word * 64)
}

/// As people see it.
fn name(id: SourceId) -> String {
    let key = id.key.map_or("-".to_owned(), |key| key.to_string());
    format!("{:016x} key {key}", id.source)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tallylight_proto::datagram::Number;
    use tallylight_proto::sources::Arrival;

    fn number(source: u64, sequence: u64) -> Number {
        Number { source: SourceId { key: None, source }, sequence }
    }

    /// A collector's table and the check of what it writes.
    #[derive(Default)]
    struct Pair {
        table: Sources,
        check: SourcesCheck,
        now: u64,
    }

    impl Pair {
        fn begun() -> Self {
            let mut pair = Self::default();
            assert_eq!(pair.tell(pair.table.all()), Vec::<String>::new());
            pair
        }

        fn arrive(&mut self, source: u64, sequence: u64, is_recorded: bool) {
            let number = number(source, sequence);
            self.table.arrive(&Arrival { number, events: u64::from(is_recorded), is_recorded }, self.now);
            if is_recorded {
                self.check.event(Origin { number, place: 0, is_last: true }, Found::Counted);
            }
        }

        fn tell(&mut self, marks: Marks) -> Vec<String> {
            self.table.are_written();
            self.check.ledger(&marks)
        }

        fn changes(&mut self) -> Marks {
            for _ in 0..20 {
                self.now += 100;
                self.table.tick(self.now);
            }
            self.table.changes()
        }
    }

    #[test]
    fn what_the_collector_writes_adds_up_whatever_came_and_was_lost() {
        let mut pair = Pair::begun();
        for n in (1..3000).filter(|n| n % 7 != 0) {
            pair.arrive(1, n, n % 3 != 0);
            pair.arrive(2, n + 100_000, true);
            if n % 100 == 1 {
                let marks = pair.changes();
                assert_eq!(pair.tell(marks), Vec::<String>::new(), "{n}");
            }
            if n % 1000 == 1 {
                assert_eq!(pair.tell(pair.table.all()), Vec::<String>::new(), "{n}");
            }
        }
        let lines = pair.check.lines();
        assert!(lines.iter().all(Line::adds_up), "{lines:?}");
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[1].note.trim(), "first seen at 100001");
    }

    #[test]
    fn the_ledger_says_of_datagrams_what_the_sources_say() {
        let mut pair = Pair::begun();
        for n in [1, 2, 2, 5, 60_000, 65_600, 3] {
            pair.arrive(1, n, false);
        }
        let marks = pair.changes();
        assert_eq!(pair.tell(marks), Vec::<String>::new());
        let told = pair.table.take_counts();
        assert!(told.lost > 0 && told.duplicate == 1 && told.refused[DatagramRefusal::Stale.index()] == 1, "{told:?}");
        assert!(pair.check.totals(&told).adds_up());
        for tamper in [
            |told: &mut DatagramCounts| told.lost -= 1,
            |told: &mut DatagramCounts| told.recovered += 1,
            |told: &mut DatagramCounts| told.duplicate += 1,
            |told: &mut DatagramCounts| told.refused[DatagramRefusal::Stale.index()] = 0,
        ] {
            let mut wrong = told;
            tamper(&mut wrong);
            assert!(!pair.check.totals(&wrong).adds_up(), "{wrong:?}");
        }
        pair.check.lost(1);
        assert!(pair.check.totals(&DatagramCounts::default()).adds_up());
    }

    #[test]
    fn a_wrong_figure_is_named_and_lost_records_leave_room() {
        let tampered = |tamper: fn(&mut Mark), lost: u64| {
            let mut pair = Pair::begun();
            (1..=10).for_each(|n| pair.arrive(1, n, n != 5));
            pair.check.lost(lost);
            let mut marks = pair.changes();
            tamper(&mut marks.marks[0]);
            pair.tell(marks)
        };
        let of = |text: &str| vec![format!("0000000000000001 key -: {text}")];
        assert_eq!(tampered(|_| {}, 0), Vec::<String>::new());
        assert_eq!(tampered(|mark| mark.figures.events += 1, 0), of("events 10, but 9 by the records"));
        assert_eq!(tampered(|mark| mark.figures.events += 1, 1), Vec::<String>::new());
        assert_eq!(tampered(|mark| mark.figures.events -= 1, 1), of("events 8, but 9 by the records"));
        let more = tampered(|mark| mark.figures.received += 1, 0);
        assert_eq!(more, of("received 11, but 10 by the records"));
        assert_eq!(tampered(|mark| mark.numbers.clear(), 0), more_by_one());
        let sent = tampered(|mark| mark.bounds.next += 1, 0);
        assert!(sent.is_empty(), "one more was sent, and is pending: {sent:?}");
        let lost = tampered(|mark| (mark.bounds.next, mark.bounds.aged) = (12, 12), 0);
        assert_eq!(lost, of("sent is not received + lost - recovered + pending"));
        let mut pair = Pair::begun();
        pair.arrive(1, 1, true);
        let silent = pair.tell(Marks::default());
        assert_eq!(silent, of("events stand before it, of which it says nothing"));
        // the one that told of it was lost
        let mut pair = Pair::begun();
        pair.arrive(1, 1, true);
        pair.check.lost(1);
        assert_eq!(pair.tell(Marks::default()), Vec::<String>::new());
        // and so was an event of another source, of which only the next one with all tells
        pair.table.arrive(&Arrival { number: number(2, 1), events: 1, is_recorded: true }, pair.now);
        assert_eq!(pair.tell(pair.table.all()), Vec::<String>::new());
    }

    fn more_by_one() -> Vec<String> {
        vec!["0000000000000001 key -: received 10, but 9 by the records".to_owned()]
    }

    #[test]
    fn a_log_that_begins_later_goes_on_from_its_first_ledger_record() {
        let mut early = Pair::begun();
        (1..=10).for_each(|n| early.arrive(1, n, true));
        let mut late = Pair { table: early.table, ..Pair::default() };
        assert!(late.tell(late.table.all()).is_empty());
        late.arrive(1, 11, true);
        let marks = late.changes();
        assert!(late.tell(marks).is_empty());
        let lines = late.check.lines();
        let events = &lines[0].sums[1];
        assert_eq!((events.whole.value, events.parts[0].value, events.parts[1].value), (11, 10, 1));
        assert!(lines[0].adds_up());
    }

    #[test]
    fn changes_of_what_the_log_no_longer_has_are_no_beginning() {
        let mut early = Pair::begun();
        for n in 1..=10 {
            [1, 2].into_iter().for_each(|source| early.arrive(source, n, true));
        }
        assert!(early.tell(early.table.all()).is_empty());
        let mut late = Pair { table: early.table, ..Pair::default() };
        for source in [2, 1] {
            late.arrive(source, 11, true);
            let marks = late.changes();
            assert_eq!(late.tell(marks), Vec::<String>::new(), "it says 11 events, of which the log has 1");
        }
        assert!(late.tell(late.table.all()).is_empty());
        let lines = late.check.lines();
        let events = &lines[0].sums[1];
        assert_eq!((events.whole.value, events.parts[0].value, events.parts[1].value), (11, 10, 1));
        assert!(lines[0].adds_up());
    }
}
