//! Sequences of numbered datagrams, heartbeats, time and ledger records.
//!
//! Each step is three bytes: what happens and to which source, how far ahead or back, and how it is written down.

use std::collections::HashSet;

use tallylight_proto::datagram::{MAX_SEQUENCE, Number, SourceId};
use tallylight_proto::ledger::{Counts, DatagramCounts, Ledger};
use tallylight_proto::record::{self, Record};
use tallylight_proto::sources::{Arrival, Bounds, Figures, Marks, Seen, Sources, TICK_MS, WINDOW};

const SOURCES: usize = 4;

/// What the log would have.
enum Entry {
    Event(Number),
    Ledger(Vec<u8>),
}

struct State {
    table: Sources,
    log: Vec<Entry>,
    total: DatagramCounts,
    now: u64,
    /// What each source would send next.
    next: [u64; SOURCES],
    /// What was new once.
    came: HashSet<(usize, u64)>,
}

/// Arrivals → the table of sources. For each source `next − first = received + lost − recovered + pending` at any time,
/// and the same table comes out of the log.
pub fn sources(bytes: &[u8]) {
    let next = [1, 1, 1, MAX_SEQUENCE - WINDOW * 4];
    let mut state = State {
        table: Sources::default(),
        log: Vec::new(),
        total: DatagramCounts::default(),
        now: 0,
        next,
        came: HashSet::new(),
    };
    let (steps, _) = bytes.as_chunks::<3>();
    for step in steps.iter().take(256) {
        state.step(*step);
        state.check_sums();
    }
    state.write(false);
    state.check_restored();
}

fn id(source: usize) -> SourceId {
    SourceId { key: (source % 2 == 1).then_some(1), source: source as u64 }
}

impl State {
    fn step(&mut self, [what, far, how]: [u8; 3]) {
        let source = usize::from(what) % SOURCES;
        let is_recorded = how % 2 == 0;
        // few, many, and all around the size of the window
        let far = match far {
            0..=199 => u64::from(far / 8),
            200..=229 => u64::from(far - 199) * 50,
            _ => WINDOW - 12 + u64::from(far - 230) * if how > 127 { 3001 } else { 1 },
        };
        let is_due = match what / 4 % 8 {
            0..=3 => {
                let sequence = (self.next[source] + far).min(MAX_SEQUENCE);
                self.next[source] = (sequence + 1).min(MAX_SEQUENCE);
                self.arrive(source, sequence, is_recorded);
                false
            }
            4 => {
                self.arrive(source, self.next[source].saturating_sub(far).max(1), is_recorded);
                false
            }
            5 => {
                self.next[source] = (self.next[source] + far).min(MAX_SEQUENCE);
                self.table.heartbeat(Number { source: id(source), sequence: self.next[source] }, self.now);
                true
            }
            6 => {
                for _ in 0..far.min(30) {
                    self.now += TICK_MS;
                    self.table.tick(self.now);
                }
                true
            }
            _ => true,
        };
        self.total.add(self.table.take_counts());
        if is_due || self.table.is_ahead_of_the_log() {
            self.write(what / 4 % 8 == 7 && how % 2 == 1);
        }
    }

    fn arrive(&mut self, source: usize, sequence: u64, is_recorded: bool) {
        let number = Number { source: id(source), sequence };
        let arrival = Arrival { number, events: u64::from(is_recorded), is_recorded };
        if self.table.arrive(&arrival, self.now) == Seen::New {
            // an unkeyed one far ahead may be forgotten again, as if a bit of it had flipped
            assert!(self.came.insert((source, sequence)) || number.source.key.is_none(), "{number:?} came before");
            if is_recorded {
                self.log.push(Entry::Event(number));
            }
        }
        let again = self.table.clone().arrive(&arrival, self.now);
        assert_ne!(again, Seen::New, "{number:?} a second time");
    }

    /// Writes a ledger record; in a new segment, where a reader may begin, it is the first.
    fn write(&mut self, is_new_segment: bool) {
        let marks = if is_new_segment { self.table.all() } else { self.table.changes() };
        if is_new_segment {
            self.log.clear();
        }
        self.table.are_written();
        let counts = Counts { datagrams: self.total, ..Counts::default() };
        let mut bytes = Vec::new();
        record::encode_ledger(&Ledger { at: 0, life: 0, closing: false, counts, marks }, &mut bytes);
        self.log.push(Entry::Ledger(bytes));
    }

    fn check_sums(&self) {
        for report in self.table.reports(self.now) {
            let Figures { received, lost, recovered, .. } = report.figures;
            let Bounds { first, floor, aged, next } = report.bounds;
            assert_eq!(next - first + recovered, received + lost + report.pending, "{report:?}");
            assert!(first <= floor && floor <= aged.max(floor) && aged <= next && next - floor <= WINDOW, "{report:?}");
        }
    }

    fn check_restored(&self) {
        let (mut table, mut counts) = (Sources::default(), DatagramCounts::default());
        for entry in &self.log {
            match entry {
                Entry::Event(number) => table.replay(*number, true, self.now),
                Entry::Ledger(bytes) => {
                    let Ok(Record::Ledger(ledger)) = record::decode(bytes) else { panic!("a ledger record") };
                    counts = ledger.counts.datagrams;
                    table.apply(&ledger.marks, self.now);
                }
            }
        }
        counts.add(table.take_counts());
        assert_eq!(counts, self.total);
        assert_eq!(kept(&table.all()), kept(&self.table.all()));
    }
}

/// What of the table must come out of the log.
fn kept(marks: &Marks) -> Vec<(SourceId, Figures, u64)> {
    marks.marks.iter().map(|mark| (mark.id, mark.figures, mark.bounds.next)).collect()
}
