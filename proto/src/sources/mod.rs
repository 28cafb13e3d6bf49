//! The sources of framed datagrams: what each of them sent, what came, what was lost.
//!
//! There is one table of them, kept by whoever appends to the log, and it goes forward only by what was appended and by
//! what is told in ledger records ([`Marks`]). So the log has all of it: after a crash the same table comes out of its
//! records, nothing that came is taken for lost, and nothing that was lost for come.
//!
//! Times are milliseconds of a clock that never goes back; where it begins does not matter.

mod marks;
mod window;

use std::collections::HashMap;

use crate::datagram::{Number, SourceId};
use crate::ledger::DatagramCounts;
use crate::reason::DatagramRefusal;

pub use marks::{Mark, Marks, Scope};
pub use window::{Bounds, LOST_AFTER_MS, Seen, WINDOW};

use window::Window;

/// How many sources are followed at a time: so many keyed ones, and so many others, who need only make them up. The
/// marks of all of them fit into one record.
pub const MAX_SOURCES: usize = 1024;
/// A source may be let go, if others need the room, when it was silent for so long. Senders give a sign of life each
/// second.
pub const IDLE_MS: u64 = 10_000;
/// How often missing numbers are looked at.
pub const TICK_MS: u64 = 100;

/// When so many of either kind are followed, the longest silent are let go, down to so many.
const CROWDED: usize = MAX_SOURCES / 8 * 7;
const ROOMY: usize = MAX_SOURCES / 4 * 3;
/// Of so many that were let go it is remembered how far they had got.
const REMEMBERED: usize = 8192;
/// With more ranges than this to be written down, all sources are written instead.
const MANY: usize = 4096;
/// Time passes no faster than this from one look to the next: after a stop of the whole process, what waits in the
/// sockets is looked at before anybody's time is up.
const STRIDE_MS: u64 = 2 * TICK_MS;
/// Bytes of marks in a record, of which one without missing numbers takes at most so many, and a word of those.
const ALL_BYTES: usize = 224 * 1024;
const MARK_BYTES: usize = 100;
const WORD_BYTES: usize = 12;

/// The counts of one source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Datagrams that came, each number once, heartbeats apart.
    pub received: u64,
    /// Events of theirs in the log.
    pub events: u64,
    /// Numbers that were missing for a second.
    pub lost: u64,
    /// Of those, what came after all.
    pub recovered: u64,
    /// Copies.
    pub duplicate: u64,
    /// Older than the window.
    pub stale: u64,
}

impl Figures {
    /// In the order in which they stand in the log.
    pub fn to_array(self) -> [u64; 6] {
        [self.received, self.events, self.lost, self.recovered, self.duplicate, self.stale]
    }

    /// The way back.
    pub fn from_array([received, events, lost, recovered, duplicate, stale]: [u64; 6]) -> Self {
        Self { received, events, lost, recovered, duplicate, stale }
    }

    fn add(&mut self, more: Self) {
        let sums = self.to_array().into_iter().zip(more.to_array()).map(|(a, b)| a.wrapping_add(b));
        *self = Self::from_array(std::array::from_fn({
            let mut sums = sums;
            move |_| sums.next().unwrap_or_default()
        }));
    }
}

/// A number so far ahead of all before that it may be a flipped bit. Until that is known, the window stays where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ahead {
    /// The number.
    pub number: u64,
    /// It came as a datagram, not as a heartbeat.
    pub came: bool,
}

/// A datagram with its outcome.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// Its number.
    pub number: Number,
    /// How many of its events are logged.
    pub events: u64,
    /// Its number stands in the log with those events. If not, it must be told in a ledger record.
    pub is_recorded: bool,
}

/// What is known of a source, for people.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    /// Which.
    pub id: SourceId,
    /// Its numbers.
    pub bounds: Bounds,
    /// Its counts.
    pub figures: Figures,
    /// Numbers missing and not lost yet.
    pub pending: u64,
    /// Milliseconds since it gave a sign of life.
    pub idle_ms: u64,
}

/// The table.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    table: HashMap<SourceId, Source>,
    /// What was counted since it was last asked for.
    counts: DatagramCounts,
    forgotten: (u64, Figures),
    untracked: u64,
    /// Let go since the last ledger record.
    gone: Vec<Mark>,
    /// Where those that were let go will go on, should they come again: what came of them before is not lost.
    remembered: HashMap<SourceId, u64>,
    /// Ranges that are to stand in the next ledger record.
    unwritten: usize,
    /// There were too many to keep: the next ledger record must have all sources.
    must_write_all: bool,
    /// A number that time has decided on: the records after that make sense only with a ledger record before them.
    is_decided: bool,
    /// Something is missing, or ahead: time alone will change the table.
    is_waiting: bool,
    /// How many are not keyed.
    unkeyed: usize,
    /// Time as far as it has passed here, and what the clock said then.
    clock: u64,
    clock_was: u64,
    ticked_at: u64,
}

#[derive(Clone, Debug)]
struct Source {
    window: Window,
    figures: Figures,
    ahead: Option<Waiting>,
    /// When it first and last gave a sign of life.
    born_at: u64,
    heard_at: u64,
    /// The latter by the clock itself, for people.
    heard_was: u64,
    /// Since the last ledger record.
    is_changed: bool,
    /// Start and length of ranges that came without leaving a record, since then.
    unwritten: Vec<(u64, u64)>,
}

/// A number ahead that waits to be confirmed, or contradicted by one that is not.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    ahead: Ahead,
    since: u64,
    is_contradicted: bool,
}

impl Sources {
    /// A datagram came, and its outcome is this if it is new; else it is to be dropped.
    pub fn arrive(&mut self, arrival: &Arrival, now: u64) -> Seen {
        let Number { source: id, sequence } = arrival.number;
        let now = self.pass(now);
        let Some(source) = self.source(id, sequence) else {
            self.untracked += 1;
            return Seen::New;
        };
        source.is_changed = true;
        source.begin_earlier(sequence, now);
        let mut deeds = DatagramCounts::default();
        let mut written = 0;
        let place = source.place(id, Ahead { number: sequence, came: true }, now, &mut deeds, &mut written);
        let seen = match place {
            Place::Ahead => Seen::New,
            Place::AheadAgain => Seen::Duplicate,
            Place::Near | Place::NearHeartbeat => source.window.look(sequence),
        };
        match seen {
            Seen::New => {
                source.figures.events += arrival.events;
                // what waits has come when it is believed
                if place != Place::Ahead {
                    source.come(sequence, &mut deeds);
                    if !arrival.is_recorded || place == Place::NearHeartbeat {
                        written += source.write_down(sequence);
                    }
                    if let Some(waiting) = &mut source.ahead {
                        waiting.is_contradicted = true;
                    }
                }
            }
            Seen::Duplicate => {
                source.figures.duplicate += 1;
                deeds.duplicate += 1;
            }
            Seen::Stale => {
                source.figures.stale += 1;
                deeds.refused[DatagramRefusal::Stale.index()] += 1;
            }
        }
        self.unwritten += written;
        self.bound_unwritten();
        self.note(deeds);
        seen
    }

    /// A heartbeat came: everything below its number was sent.
    pub fn heartbeat(&mut self, number: Number, now: u64) {
        let now = self.pass(now);
        let Some(source) = self.source(number.source, number.sequence) else { return };
        let mut deeds = DatagramCounts::default();
        let mut written = 0;
        let ahead = Ahead { number: number.sequence, came: false };
        let place = source.place(number.source, ahead, now, &mut deeds, &mut written);
        if place != Place::Ahead && number.sequence > source.window.next() {
            source.is_changed = true;
            let lost = source.window.were_sent_below(number.sequence);
            source.lose(lost, &mut deeds);
        }
        self.unwritten += written;
        self.bound_unwritten();
        self.note(deeds);
    }

    /// Lets time pass: what is missing for long enough is lost, who is silent for long makes room if that is needed.
    /// Cheap if it was done a moment ago.
    pub fn tick(&mut self, now: u64) {
        let now = self.pass(now);
        if now < self.ticked_at + TICK_MS {
            return;
        }
        self.ticked_at = now;
        let mut deeds = DatagramCounts::default();
        let mut written = 0;
        for source in self.table.values_mut() {
            let lost = source.window.settle(now);
            source.lose(lost, &mut deeds);
            self.is_decided |= source.decide_ahead(now, &mut deeds, &mut written);
        }
        self.unwritten += written;
        for is_keyed in [true, false] {
            self.let_go(is_keyed, now, &mut deeds);
        }
        self.bound_unwritten();
        self.note(deeds);
        self.is_waiting = self.table.values().any(|source| source.ahead.is_some() || source.window.pending() > 0);
    }

    /// Whether time alone will change the table: then it wants a [`Sources::tick`] every [`TICK_MS`].
    pub fn is_waiting(&self) -> bool {
        self.is_waiting
    }

    /// Whether something was decided that no record tells: a ledger record must, before the next event's.
    pub fn is_ahead_of_the_log(&self) -> bool {
        self.unwritten > 0 || self.must_write_all || self.is_decided || !self.gone.is_empty()
    }

    /// What was counted since [`Sources::take_counts`] or [`Sources::apply`] was last called.
    pub fn counted(&self) -> DatagramCounts {
        self.counts
    }

    /// The figures of all sources, those included that were let go.
    pub fn sum(&self) -> Figures {
        let figures = self.table.values().map(|source| source.figures.to_array());
        let add = |sum: [u64; 6], more: [u64; 6]| std::array::from_fn(|n| sum[n].saturating_add(more[n]));
        Figures::from_array(figures.fold(self.forgotten.1.to_array(), add))
    }

    /// What was counted since this was last called.
    pub fn take_counts(&mut self) -> DatagramCounts {
        std::mem::take(&mut self.counts)
    }

    /// What changed since the last ledger record, for the next one.
    pub fn changes(&self) -> Marks {
        if self.must_write_all {
            return self.all();
        }
        let changed = self.table.iter().filter(|(_, source)| source.is_changed);
        let mut marks: Vec<Mark> = changed.map(|(id, source)| source.mark(*id, source.unwritten.clone())).collect();
        marks.sort_unstable_by_key(|mark| mark.id);
        // first, since a source may have come again
        self.marks(Scope::Changes, self.gone.iter().cloned().chain(marks).collect())
    }

    /// All of it, for a ledger record that needs none before it.
    pub fn all(&self) -> Marks {
        let mut sources: Vec<_> = self.table.iter().collect();
        sources.sort_unstable_by_key(|(id, _)| **id);
        let mut left = sources.len();
        let mut room = ALL_BYTES.saturating_sub(left * MARK_BYTES) / WORD_BYTES;
        let mut marks = Vec::new();
        for (id, source) in sources {
            let share = (room / left).max(1);
            let mut mark = source.mark(*id, source.window.missing().collect());
            if mark.numbers.len() > share {
                // the oldest give way: what comes of them after a crash is stale
                mark.numbers.truncate(share);
                let oldest = mark.numbers.last().map_or(0, |(word, _)| word * 64);
                mark.bounds.floor = mark.bounds.floor.max(oldest);
                mark.bounds.aged = mark.bounds.aged.max(mark.bounds.floor);
            }
            room -= mark.numbers.len().min(room);
            left -= 1;
            marks.push(mark);
        }
        self.marks(Scope::All, marks)
    }

    /// A ledger record with [`Sources::changes`] or [`Sources::all`] is in the log.
    pub fn are_written(&mut self) {
        for source in self.table.values_mut() {
            source.is_changed = false;
        }
        self.drop_unwritten();
        self.must_write_all = false;
        self.is_decided = false;
    }

    /// Goes on from what a ledger record says. What was counted since the last one is dropped: the record has it.
    pub fn apply(&mut self, marks: &Marks, now: u64) {
        let now = self.pass(now);
        self.counts = DatagramCounts::default();
        if marks.scope == Scope::All {
            self.table.clear();
            self.unkeyed = 0;
        }
        self.forgotten = marks.forgotten;
        self.untracked = marks.untracked;
        for mark in &marks.marks {
            let known = self.remove(mark.id);
            if mark.is_gone {
                continue;
            }
            let mut source = known.unwrap_or_else(|| Source::new(Window::new(mark.bounds.first), now));
            let mut deeds = DatagramCounts::default();
            source.apply(mark, marks.scope, now, &mut deeds);
            self.note(deeds);
            self.insert(mark.id, source);
        }
        self.is_waiting = true;
    }

    /// An event of this datagram stands in the log; `is_last` says that the datagram is whole.
    pub fn replay(&mut self, number: Number, is_last: bool, now: u64) {
        self.pass(now);
        let Some(source) = self.source(number.source, number.sequence) else { return };
        source.figures.events += 1;
        if is_last {
            self.arrive(&Arrival { number, events: 0, is_recorded: true }, now);
        }
    }

    /// The counts of a source, if it is followed.
    pub fn figures(&self, id: SourceId) -> Option<Figures> {
        self.table.get(&id).map(|source| source.figures)
    }

    /// How many of the numbers in these ranges (start, length) came from a source as far as the table does not know.
    pub fn count_unknown(&self, id: SourceId, ranges: &[(u64, u64)]) -> u64 {
        let window = self.table.get(&id).map(|source| &source.window);
        let unknown = |(start, len): &(u64, u64)| {
            let known = window.map_or(0, |window| window.count_came(*start..start.saturating_add(*len)));
            len.saturating_sub(known)
        };
        ranges.iter().map(unknown).fold(0, u64::saturating_add)
    }

    /// How many are followed.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// All that are followed, in the order of their ids.
    pub fn reports(&self, now: u64) -> Vec<Report> {
        let mut reports: Vec<_> = self.table.iter().map(|(id, source)| source.report(*id, now)).collect();
        reports.sort_unstable_by_key(|report| report.id);
        reports
    }

    /// How many were let go, and their figures.
    pub fn forgotten(&self) -> (u64, Figures) {
        self.forgotten
    }

    /// Datagrams for whose sources there was no room.
    pub fn untracked(&self) -> u64 {
        self.untracked
    }

    fn marks(&self, scope: Scope, marks: Vec<Mark>) -> Marks {
        Marks { scope, forgotten: self.forgotten, untracked: self.untracked, marks }
    }

    /// The source of a number, which may be its first. None if there is no room.
    fn source(&mut self, id: SourceId, sequence: u64) -> Option<&mut Source> {
        if !self.table.contains_key(&id) {
            if self.followed(id.key.is_some()) >= MAX_SOURCES {
                return None;
            }
            let mut source = Source::new(Window::new(if sequence <= WINDOW { 1 } else { sequence }), self.clock);
            if let Some(next) = self.remembered.remove(&id) {
                source.window = Window::new(next);
                // it is not young, and did not begin earlier
                source.born_at = self.clock.saturating_sub(LOST_AFTER_MS);
                // a reader of the log would think that it began at 1
                self.is_decided = true;
            }
            self.insert(id, source);
        }
        let source = self.table.get_mut(&id)?;
        source.heard_at = self.clock;
        source.heard_was = self.clock_was;
        self.is_waiting = true;
        Some(source)
    }

    fn insert(&mut self, id: SourceId, source: Source) {
        self.unkeyed += usize::from(id.key.is_none());
        self.table.insert(id, source);
    }

    fn remove(&mut self, id: SourceId) -> Option<Source> {
        let source = self.table.remove(&id)?;
        self.unkeyed -= usize::from(id.key.is_none());
        Some(source)
    }

    fn drop_unwritten(&mut self) {
        self.table.values_mut().for_each(|source| source.unwritten.clear());
        self.gone.clear();
        self.unwritten = 0;
    }

    /// Keeps what is to be written down within bounds: with a full disk there may be no ledger record for long.
    fn bound_unwritten(&mut self) {
        if self.unwritten + self.gone.len() > MANY {
            self.drop_unwritten();
            self.must_write_all = true;
        }
    }

    /// How many are followed of one kind.
    fn followed(&self, is_keyed: bool) -> usize {
        if is_keyed { self.table.len() - self.unkeyed } else { self.unkeyed }
    }

    /// Lets time pass, in strides.
    fn pass(&mut self, now: u64) -> u64 {
        self.clock += now.saturating_sub(self.clock_was).min(STRIDE_MS);
        self.clock_was = self.clock_was.max(now);
        self.clock
    }

    fn note(&mut self, deeds: DatagramCounts) {
        // nearly always there is nothing, and this is done for each datagram
        if deeds != DatagramCounts::default() {
            self.counts.add(deeds);
        }
    }

    fn let_go(&mut self, is_keyed: bool, now: u64, deeds: &mut DatagramCounts) {
        if self.followed(is_keyed) <= CROWDED {
            return;
        }
        let are_of_that_kind = self.table.iter().filter(|(id, _)| id.key.is_some() == is_keyed);
        let idle = are_of_that_kind.filter(|(_, source)| source.heard_at + IDLE_MS <= now);
        let mut idle: Vec<(u64, SourceId)> = idle.map(|(id, source)| (source.heard_at, *id)).collect();
        idle.sort_unstable();
        idle.truncate(self.followed(is_keyed) - ROOMY);
        for (_, id) in idle {
            let Some(mut source) = self.remove(id) else { continue };
            let lost = source.window.settle_all();
            source.lose(lost, deeds);
            self.forgotten.0 += 1;
            self.forgotten.1.add(source.figures);
            self.unwritten -= source.unwritten.len();
            if self.remembered.len() >= REMEMBERED {
                self.remembered.clear();
            }
            self.remembered.insert(id, source.window.next());
            let mut mark = source.mark(id, Vec::new());
            mark.is_gone = true;
            self.gone.push(mark);
        }
    }
}

/// Where a number stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// In the window, or a little above it.
    Near,
    /// The same, but only a heartbeat shows it, of which no record tells.
    NearHeartbeat,
    /// Too far ahead to be believed.
    Ahead,
    /// The same one once more.
    AheadAgain,
}

impl Source {
    fn new(window: Window, now: u64) -> Self {
        let figures = Figures::default();
        Self {
            window,
            figures,
            ahead: None,
            born_at: now,
            heard_at: now,
            heard_was: 0,
            is_changed: true,
            unwritten: Vec::new(),
        }
    }

    /// A source that did not begin at 1 for us may have been overtaken by its own second datagram.
    fn begin_earlier(&mut self, number: u64, now: u64) {
        if now < self.born_at + LOST_AFTER_MS && self.figures.lost == 0 {
            self.window.begin_earlier(number);
        }
    }

    /// Whether a number may move the window. One that is ahead waits for another one beside it.
    fn place(&mut self, id: SourceId, new: Ahead, now: u64, deeds: &mut DatagramCounts, written: &mut usize) -> Place {
        // also when the window has come near it meanwhile
        if self.ahead.is_some_and(|waiting| waiting.ahead.came && waiting.ahead == new) {
            return Place::AheadAgain;
        }
        // a tag vouches for the number, too; and a source begins anywhere
        let is_near = id.key.is_some() || new.number < self.window.next() + WINDOW || self.is_untouched();
        if is_near {
            return Place::Near;
        }
        match self.ahead {
            Some(Waiting { ahead, .. }) if ahead.number.abs_diff(new.number) <= WINDOW => {
                *written += self.believe(ahead, deeds);
                if ahead.came { Place::Near } else { Place::NearHeartbeat }
            }
            _ => {
                self.is_changed = true;
                self.ahead = Some(Waiting { ahead: new, since: now, is_contradicted: false });
                Place::Ahead
            }
        }
    }

    fn is_untouched(&self) -> bool {
        self.window.next() == self.window.bounds().first
    }

    /// Time is up for a number ahead: it is believed unless an ordinary one came since. True if it was decided.
    fn decide_ahead(&mut self, now: u64, deeds: &mut DatagramCounts, written: &mut usize) -> bool {
        let Some(waiting) = self.ahead.filter(|waiting| waiting.since + LOST_AFTER_MS <= now) else { return false };
        self.is_changed = true;
        if waiting.is_contradicted {
            self.ahead = None;
            return true;
        }
        *written += self.believe(waiting.ahead, deeds);
        // what it shows to be missing has been so for a second
        let lost = self.window.settle_all();
        self.lose(lost, deeds);
        true
    }

    fn believe(&mut self, ahead: Ahead, deeds: &mut DatagramCounts) -> usize {
        self.ahead = None;
        self.is_changed = true;
        if ahead.came {
            self.come(ahead.number, deeds);
            // its record alone would not tell a later reader that it was believed
            self.write_down(ahead.number)
        } else {
            let lost = self.window.were_sent_below(ahead.number);
            self.lose(lost, deeds);
            0
        }
    }

    fn come(&mut self, number: u64, deeds: &mut DatagramCounts) {
        self.figures.received += 1;
        if self.window.is_lost(number) {
            self.figures.recovered += 1;
            deeds.recovered += 1;
        }
        let lost = self.window.came(number);
        self.lose(lost, deeds);
    }

    fn lose(&mut self, lost: u64, deeds: &mut DatagramCounts) {
        self.figures.lost += lost;
        deeds.lost += lost;
        self.is_changed |= lost > 0;
    }

    /// Has the next ledger record say that this number came. Says how many ranges there are more.
    fn write_down(&mut self, number: u64) -> usize {
        if let Some((start, len)) = self.unwritten.last_mut().filter(|(start, len)| start + len == number) {
            debug_assert!(*start <= number);
            *len += 1;
            return 0;
        }
        self.unwritten.push((number, 1));
        1
    }

    fn mark(&self, id: SourceId, numbers: Vec<(u64, u64)>) -> Mark {
        Mark {
            id,
            is_gone: false,
            bounds: self.window.bounds(),
            ahead: self.ahead.map(|waiting| waiting.ahead),
            figures: self.figures,
            numbers,
        }
    }

    fn apply(&mut self, mark: &Mark, scope: Scope, now: u64, deeds: &mut DatagramCounts) {
        if scope == Scope::Changes {
            // a heartbeat, or what left no record, may have come before the first record
            self.window.begin_earlier(mark.bounds.first);
            self.window.were_sent_below(mark.bounds.next);
            // one that is ahead for whoever reads its record may not have been so for the writer, who knew of others
            let ahead = self.ahead.filter(|waiting| waiting.ahead.came && mark.ahead != Some(waiting.ahead));
            let ahead = ahead.map(|waiting| (waiting.ahead.number, 1));
            for (start, len) in mark.numbers.iter().chain(&ahead) {
                // what is below the window is known already
                let from = self.window.bounds().floor.max(*start);
                for number in from..start.saturating_add(*len).min(mark.bounds.next) {
                    if self.window.look(number) == Seen::New {
                        self.window.came(number);
                    }
                }
            }
        }
        let missing = match scope {
            Scope::All => mark.numbers.clone(),
            Scope::Changes => self.window.missing().collect(),
        };
        self.window = Window::restore(mark.bounds, &missing);
        self.figures = mark.figures;
        self.ahead = mark.ahead.map(|ahead| Waiting { ahead, since: now, is_contradicted: false });
        self.is_changed = false;
        self.unwritten.clear();
        // What had no room in the record is lost. What came, and whose records a power cut took, is not: it is torn.
        let Figures { received, lost, recovered, .. } = self.figures;
        let open = (mark.bounds.next - mark.bounds.first + recovered).saturating_sub(received + lost);
        let pending = self.window.pending();
        self.lose(open.saturating_sub(pending), deeds);
        self.window.take_for_come(pending.saturating_sub(open));
    }

    fn report(&self, id: SourceId, now: u64) -> Report {
        Report {
            id,
            bounds: self.window.bounds(),
            figures: self.figures,
            pending: self.window.pending(),
            idle_ms: now.saturating_sub(self.heard_was),
        }
    }
}

#[cfg(test)]
mod tests;
