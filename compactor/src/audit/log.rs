//! The log, read once from its beginning to its end, beside the rows that were made of it.
//!
//! The rule: **every event below the commit has a row or is a duplicate, and every row has its event**: in the log, below
//! its beginning, or in a hole of which it is known how it came about.

use std::collections::BTreeMap;

use tallylight_proto::ledger::{Counts, Ledger};
use tallylight_proto::record::{self, Record};
use tallylight_proto::segment::Framed;
use tallylight_proto::time::Hour;
use tallylight_proto::{Event, Front};

use super::fates::{Fates, Found};
use super::lives::Lives;
use super::output::Measured;
use super::rows::{Row, Rows};
use super::sources::SourcesCheck;
use crate::crawlers::Crawlers;
use crate::ledger_check::{ByFront, LedgerCheck};
use crate::log::{Cause, Item, Lost};
use crate::parquet_file::FileError;

/// Things that are wrong are told one by one up to so many.
const TOLD: usize = 20;

/// Fates by front.
pub type FatesByFront = [Fates; Front::ALL.len()];

/// Where no records are, though positions go on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Hole {
    from: u64,
    to: u64,
    /// Records are known to have been here, or the collector that wrote here was killed: a power cut may have taken some.
    is_explained: bool,
}

/// What is published of an hour beyond the commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ahead {
    /// Records whose rows tell what they are.
    pub known: Fates,
    /// Without rows so far: they count, or are duplicates.
    pub counted_or_duplicate: u64,
    /// Crawlers' events without rows so far, or duplicates.
    pub bot_or_duplicate: u64,
    /// What clients gave up, of those that count, and of those that may.
    pub client_lost: [u64; 2],
}

/// The rows of one hour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HourRows {
    /// Below the position that the hourly file covers: those that count, and crawlers'.
    pub covered: [u64; 2],
    /// Those of them whose records the log no longer has.
    pub orphans: [u64; 2],
}

/// What the log and the rows say.
pub struct Scan {
    /// The commit's position; 0 without a commit.
    commit: u64,
    rows: Rows,
    hourly: BTreeMap<Hour, Measured>,
    crawlers: &'static Crawlers,

    check: LedgerCheck,
    /// Events logged before this log begins, as its first ledger record says.
    pub before: Option<ByFront>,
    /// Where the last ledger record stands.
    last_ledger: u64,
    /// Who wrote it.
    pub lives: Lives,
    /// Who sent datagrams.
    pub sources: SourcesCheck,
    holes: Vec<Hole>,
    /// The first position and its ordinal.
    pub begin: Option<(u64, u64)>,
    /// Behind the last record.
    pub end: u64,
    next_ordinal: Option<u64>,
    /// Records that went away while the log was read.
    pub vanished: u64,

    /// Ledger records.
    pub ledgers: u64,
    /// Records lost to damage.
    pub damaged: u64,
    /// Records lost to power cuts.
    pub torn: u64,
    /// Of the lost ones, those below the commit.
    pub lost_below_commit: u64,
    /// The ledger and the next ordinal at the commit.
    pub at_commit: Option<(Option<Counts>, Option<u64>)>,
    /// Events, each by its row.
    pub fronts: FatesByFront,
    /// What hourly files have beyond the commit.
    pub ahead: BTreeMap<Hour, Ahead>,
    /// Rows by hour.
    pub hours: BTreeMap<Hour, HourRows>,
    /// Rows below the commit.
    pub rows_below: FatesByFront,
    /// Rows of records that the log no longer has, though it is past them.
    pub orphans: FatesByFront,
    /// What is wrong, and how often more.
    pub wrong: Vec<(String, String)>,
    pub more_wrong: u64,
}

impl Scan {
    /// Nothing was read yet.
    pub fn new(commit: u64, rows: Rows, hourly: BTreeMap<Hour, Measured>) -> Self {
        Self {
            commit,
            rows,
            hourly,
            crawlers: Crawlers::all(),
            check: LedgerCheck::default(),
            before: None,
            last_ledger: 0,
            lives: Lives::default(),
            sources: SourcesCheck::default(),
            holes: Vec::new(),
            begin: None,
            end: 0,
            next_ordinal: None,
            vanished: 0,
            ledgers: 0,
            damaged: 0,
            torn: 0,
            lost_below_commit: 0,
            at_commit: None,
            fronts: FatesByFront::default(),
            ahead: BTreeMap::new(),
            hours: BTreeMap::new(),
            rows_below: FatesByFront::default(),
            orphans: FatesByFront::default(),
            wrong: Vec::new(),
            more_wrong: 0,
        }
    }

    /// What the log has next.
    pub fn take(&mut self, item: &Item<'_>) -> Result<(), FileError> {
        match item {
            // only whoever goes on from a commit is set back
            Item::SetBack { .. } => {}
            Item::Lost(lost) => self.lost(*lost),
            Item::Record(framed) => {
                let is_first = self.arrive(framed);
                match record::decode(framed.payload) {
                    Ok(Record::Event(event)) => self.event(framed, &event)?,
                    Ok(Record::Ledger(ledger)) => self.ledger(framed, ledger, is_first),
                    Err(_) => {
                        self.damaged += 1;
                        self.are_lost(1, framed.end);
                    }
                }
                self.end = framed.end;
            }
        }
        Ok(())
    }

    /// A record's place; true if another segment begins with it.
    fn arrive(&mut self, framed: &Framed<'_>) -> bool {
        let gone = self.next_ordinal.map_or(0, |next| framed.ordinal.saturating_sub(next));
        if gone > 0 {
            self.vanished += gone;
            self.are_lost(gone, framed.position);
        }
        self.pass(framed.end, framed.position);
        self.begin.get_or_insert((framed.position, framed.ordinal));
        self.next_ordinal = Some(framed.ordinal + 1);
        let is_first = self.end != framed.position;
        if is_first && self.end > 0 {
            self.holes.push(Hole { from: self.end, to: framed.position, is_explained: gone > 0 });
        }
        is_first
    }

    /// The commit may lie before something that ends here.
    fn pass(&mut self, end: u64, begin: u64) {
        if self.at_commit.is_none() && end > self.commit {
            let ordinal = self.next_ordinal.filter(|_| begin >= self.commit);
            self.at_commit = Some((self.check.counts(), ordinal));
        }
    }

    fn lost(&mut self, lost: Lost) {
        let Lost { position, end, records, cause, .. } = lost;
        self.pass(end, position);
        match cause.is_damage() {
            true => self.damaged += records,
            false => self.torn += records,
        }
        self.are_lost(records, end);
        if self.begin.is_none() && self.next_ordinal.is_none() {
            // a log that begins at 0 begins with ordinal 0
            self.begin = (position == 0).then_some((0, 0));
            self.next_ordinal = (position == 0).then_some(0);
        }
        self.next_ordinal = self.next_ordinal.map(|next| next + records);
        let is_hole = records > 0 || matches!(cause, Cause::Records | Cause::Torn);
        if end > self.end && is_hole {
            let from = if self.end == 0 { position } else { self.end };
            self.holes.push(Hole { from, to: end, is_explained: true });
            self.end = end;
        }
    }

    fn are_lost(&mut self, records: u64, end: u64) {
        self.check.lost(records);
        self.sources.lost(records);
        self.lives.lost(records);
        self.lost_below_commit += if end <= self.commit { records } else { 0 };
    }

    fn ledger(&mut self, framed: &Framed<'_>, ledger: Ledger, is_first: bool) {
        self.ledgers += 1;
        let here = self.logged();
        let logged_before = || std::array::from_fn(|at| ledger.counts.fronts[at].logged.saturating_sub(here[at]));
        self.before.get_or_insert_with(logged_before);
        let label = || format!("position {}", framed.position);
        if let Some(mismatch) = self.check.check(&ledger.counts) {
            self.wrong(label(), mismatch.text());
        }
        for text in self.sources.ledger(&ledger.marks) {
            self.wrong(label(), text);
        }
        if self.lives.was_killed_before(ledger.life) {
            self.explain_holes();
        }
        if Lives::is_carried(&ledger, is_first) {
            // it was written where the records stood that a power cut took
            self.holes.push(Hole { from: framed.position, to: framed.end, is_explained: false });
        }
        self.lives.ledger(&ledger, is_first);
        self.last_ledger = framed.position;
    }

    /// The life of the last ledger record was killed: behind that a power cut may have taken records.
    fn explain_holes(&mut self) {
        let since = self.last_ledger;
        self.holes.iter_mut().rev().take_while(|hole| hole.from >= since).for_each(|hole| hole.is_explained = true);
    }

    fn event(&mut self, framed: &Framed<'_>, event: &Event<'_>) -> Result<(), FileError> {
        self.check.event(event.front);
        self.lives.event(event.received_at);
        let hour = Hour::of(event.event_at());
        let mut skipped = Vec::new();
        let row = self.rows.take(hour, framed.position, |row| skipped.push(row))?;
        skipped.into_iter().for_each(|row| self.row(hour, row, false));
        let found = match row {
            Some(Row { is_bot: true, .. }) => Found::Bot,
            Some(_) => Found::Counted,
            None if framed.position < self.commit => Found::Duplicate,
            None => Found::Waiting,
        };
        if let Some(row) = row {
            self.row(hour, row, true);
            if row.front != Some(event.front) {
                self.wrong(format!("position {}", framed.position), "its row is of another front".into());
            }
        }
        if framed.position >= self.commit {
            self.ahead(hour, framed, event, found);
        }
        let compacted = if framed.position < self.commit { found } else { Found::Waiting };
        self.fronts[event.front.index()].add(compacted);
        if let Some(origin) = event.origin {
            self.sources.event(origin, compacted);
        }
        Ok(())
    }

    /// Takes in an event beyond the commit that its hourly file covers.
    fn ahead(&mut self, hour: Hour, framed: &Framed<'_>, event: &Event<'_>, found: Found) {
        if self.hourly.get(&hour).is_none_or(|measured| measured.covered < framed.end) {
            return;
        }
        let ahead = self.ahead.entry(hour).or_default();
        let lost = u64::from(event.lost);
        match found {
            Found::Waiting if framed.end <= self.rows.covered(hour) => ahead.known.add(Found::Duplicate),
            Found::Waiting if self.crawlers.is_crawler(&event.user_agent) => ahead.bot_or_duplicate += 1,
            Found::Waiting => {
                ahead.counted_or_duplicate += 1;
                ahead.client_lost[1] += lost;
            }
            _ => {
                ahead.known.add(found);
                ahead.client_lost[0] += if found == Found::Counted { lost } else { 0 };
            }
        }
    }

    /// A row, and whether its record is there.
    fn row(&mut self, hour: Hour, row: Row, is_there: bool) {
        let is_bot = usize::from(row.is_bot);
        let found = if row.is_bot { Found::Bot } else { Found::Counted };
        let is_covered = self.hourly.get(&hour).is_some_and(|measured| row.position < measured.covered);
        let is_old = self.begin.is_none_or(|(begin, _)| row.position < begin);
        let is_orphan = !is_there && !is_old;
        let rows = self.hours.entry(hour).or_default();
        rows.covered[is_bot] += u64::from(is_covered);
        rows.orphans[is_bot] += u64::from(is_covered && is_orphan);
        let Some(front) = row.front else {
            return self.wrong(format!("row {}", row.position), "of no known front".into());
        };
        if row.position < self.commit {
            self.rows_below[front.index()].add(found);
        }
        if !is_orphan {
            return;
        }
        if self.hole(row.position).is_some_and(|hole| hole.is_explained) {
            self.orphans[front.index()].add(found);
        } else {
            self.wrong(format!("row {}", row.position), format!("of hour {hour}: the log has no such event"));
        }
    }

    /// There is no more. What a power cut took behind the end is known only if the collector is not there.
    pub fn finish(&mut self, is_running: bool) -> Result<(), FileError> {
        // behind the end of the log nothing is missing that is there
        self.at_commit.get_or_insert_with(|| (self.check.counts(), self.next_ordinal));
        let is_explained = !is_running && self.lives.is_open();
        self.holes.push(Hole { from: self.end, to: u64::MAX, is_explained });
        if is_explained {
            self.explain_holes();
        }
        let mut rows = std::mem::replace(&mut self.rows, Rows::none());
        rows.drain(|hour, row| self.row(hour, row, false))?;
        self.rows = rows;
        Ok(())
    }

    /// Whether the log ends before the commit.
    pub fn is_behind_commit(&self) -> bool {
        self.end < self.commit
    }

    /// Whether the commit is where there was something once: a power cut took records that the compactor had read, and
    /// it does not know yet.
    pub fn is_set_back(&self) -> bool {
        self.hole(self.commit).is_some_and(|hole| hole.is_explained && hole.from < self.commit)
    }

    fn hole(&self, position: u64) -> Option<Hole> {
        let behind = self.holes.partition_point(|hole| hole.from <= position);
        behind.checked_sub(1).map(|at| self.holes[at]).filter(|hole| position < hole.to)
    }

    /// What the ledger says at the end of the log.
    pub fn counts(&self) -> Option<Counts> {
        self.check.counts()
    }

    /// Events logged by front, with or without rows.
    pub fn logged(&self) -> ByFront {
        self.fronts.map(|fates| fates.compacted() + fates.waiting)
    }

    /// How many rows the log no longer explains, of which kind.
    pub fn all_orphans(&self) -> Fates {
        let mut all = Fates::default();
        self.orphans.iter().for_each(|fates| all.merge(*fates));
        all
    }

    fn wrong(&mut self, label: String, text: String) {
        if self.wrong.len() < TOLD {
            self.wrong.push((label, text));
        } else {
            self.more_wrong += 1;
        }
    }
}
