//! A small writer of logs, for tests: what the collector leaves on disk, byte by byte, without the collector.
//!
//! Unit tests use it too.

#![allow(dead_code, reason = "not every test binary needs all of it")]

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use tallylight_proto::datagram::{Number, SourceId};
use tallylight_proto::event::Origin;
use tallylight_proto::ledger::{Counts, Ledger};
use tallylight_proto::record::{encode_event, encode_ledger};
use tallylight_proto::segment::{
    Framing, HEADER_LEN, HOLES_OFFSET, Header, Holes, MARK_WORDS, Mark, MarkKind, SECTOR_LEN, framed_len,
};
use tallylight_proto::sources::{Marks, Scope};
use tallylight_proto::time::Millis;
use tallylight_proto::{Event, Front, Id, Micros, layout};
use uuid::Uuid;

/// 2026-11-22T13:00:00Z, when these tests' events begin.
pub const START: Millis = 1_795_352_400_000;
pub const MINUTE: Millis = 60_000;
pub const HOUR: Millis = 60 * MINUTE;

/// A log being written.
pub struct TestLog {
    pub data: PathBuf,
    pub node: String,
    /// Positions of all events so far: where their records begin and end.
    pub places: Vec<(u64, u64)>,
    /// The ledger as of the last record.
    pub counts: Counts,
    /// When the collector that writes seems to have been started.
    pub life: Millis,
    /// What the first ledger record of the next segment says of sources.
    pub first_marks: Marks,
    pub reserve: u64,
    base: u64,
    capacity: u64,
    ordinal: u64,
    salt: u64,
    /// The bytes of the segment's records, and how many of them are in the file.
    bytes: Vec<u8>,
    first_ordinal: u64,
    created_at: Millis,
}

impl TestLog {
    /// A log in `DATA` with one segment begun.
    pub fn new(data: &Path, capacity: u64) -> Self {
        Self::with_salt(data, capacity, 77)
    }

    /// The same with segments of their own salts.
    pub fn with_salt(data: &Path, capacity: u64, salt: u64) -> Self {
        fs::create_dir_all(data.join(layout::LOG)).unwrap();
        fs::write(data.join(layout::NODE), "node-1\n").unwrap();
        let mut log = Self {
            data: data.to_owned(),
            node: "node-1".into(),
            places: Vec::new(),
            counts: Counts::default(),
            life: START,
            first_marks: all_of_none(),
            reserve: 0,
            base: 0,
            capacity,
            ordinal: 0,
            salt,
            bytes: Vec::new(),
            first_ordinal: 0,
            created_at: START,
        };
        log.begin(START);
        log
    }

    pub fn path(&self) -> PathBuf {
        self.segment_path(self.base)
    }

    pub fn segment_path(&self, base: u64) -> PathBuf {
        self.data.join(layout::LOG).join(layout::segment(base))
    }

    pub fn base(&self) -> u64 {
        self.base
    }

    /// The offset in the file behind the last record.
    pub fn length(&self) -> u64 {
        (HEADER_LEN + self.bytes.len()) as u64
    }

    pub fn position(&self) -> u64 {
        self.base + self.length()
    }

    pub fn ordinal(&self) -> u64 {
        self.ordinal
    }

    /// Appends an event.
    pub fn event(&mut self, event: &Event<'_>) -> u64 {
        let mut payload = Vec::new();
        encode_event(event, &mut payload);
        self.counts.front(event.front).received += 1;
        self.counts.front(event.front).logged += 1;
        let begin = self.position();
        self.append(&payload);
        self.places.push((begin, self.position()));
        begin
    }

    pub fn events<'e>(&mut self, events: impl IntoIterator<Item = &'e Event<'e>>) {
        for event in events {
            self.event(event);
        }
    }

    /// Appends a ledger record.
    pub fn ledger(&mut self, at: Millis) {
        self.ledger_with(at, false, Marks::default());
    }

    /// Appends the ledger record of an orderly end.
    pub fn closing(&mut self, at: Millis) {
        self.ledger_with(at, true, Marks::default());
    }

    /// Appends a ledger record with marks of sources.
    pub fn ledger_with(&mut self, at: Millis, closing: bool, marks: Marks) {
        let mut payload = Vec::new();
        encode_ledger(&Ledger { at, life: self.life, closing, counts: self.counts, marks }, &mut payload);
        self.append(&payload);
    }

    /// Appends any bytes as a record.
    pub fn append(&mut self, payload: &[u8]) {
        let offset = self.length();
        let from = self.bytes.len();
        self.bytes.resize(from + framed_len(payload.len()), 0);
        Framing::new(self.salt, self.base).write(&mut self.bytes[from..], offset, self.ordinal, payload);
        self.ordinal += 1;
        assert!(self.length() <= self.capacity, "the test's segment is full");
    }

    /// Makes all of it visible and synced.
    pub fn commit(&self) {
        self.write(&[MarkKind::Committed, MarkKind::Synced], self.mark());
    }

    /// Makes all of it visible, but not synced beyond what was.
    pub fn commit_only(&self) {
        self.write(&[MarkKind::Committed], self.mark());
    }

    /// Seals the segment.
    pub fn seal(&self) {
        self.write(&MarkKind::ALL, self.mark());
    }

    pub fn mark(&self) -> Mark {
        Mark { length: self.length(), ordinal: self.ordinal }
    }

    /// Seals the segment and begins the next.
    pub fn next_segment(&mut self, at: Millis) {
        self.seal();
        self.begin_next(at);
    }

    /// Begins the next segment without sealing this one.
    pub fn begin_next(&mut self, at: Millis) {
        self.base += self.capacity;
        self.salt += 1;
        self.bytes.clear();
        self.begin(at);
    }

    /// Goes on counting as a collector that a power cut set back.
    pub fn set_back(&mut self, mark: Mark, counts: Counts) {
        (self.ordinal, self.counts) = (mark.ordinal, counts);
        self.bytes.truncate(usize::try_from(mark.length).unwrap() - HEADER_LEN);
    }

    /// What recovery writes: holes that are torn.
    pub fn write_holes(&self, ranges: &[(u64, u64)]) {
        let mut holes = Holes::default();
        ranges.iter().for_each(|(from, to)| holes.push(*from, *to));
        self.patch(HOLES_OFFSET as u64, &holes.encode(self.salt));
    }

    /// Changes bytes of the segment's file.
    pub fn patch(&self, offset: u64, bytes: &[u8]) {
        let file = OpenOptions::new().write(true).open(self.path()).unwrap();
        file.write_all_at(bytes, offset).unwrap();
    }

    /// Takes back that any of the segment was ever synced.
    pub fn unsync(&self) {
        self.clear_mark(MarkKind::Synced);
    }

    /// Takes a mark out of both its slots.
    pub fn clear_mark(&self, kind: MarkKind) {
        for slot in 0..2 {
            self.patch(Mark::offset(kind, slot) as u64, &[0; 8 * MARK_WORDS]);
        }
    }

    /// Writes a mark into both its slots.
    pub fn write_mark(&self, kind: MarkKind, mark: Mark) {
        (0..2).for_each(|slot| self.write_slot(kind, mark, slot));
    }

    /// Writes it into one of them only.
    pub fn write_mark_once(&self, kind: MarkKind, mark: Mark) {
        self.write_slot(kind, mark, 0);
    }

    fn write_slot(&self, kind: MarkKind, mark: Mark, slot: usize) {
        let mut page = [0; HEADER_LEN];
        mark.write(&mut page, self.salt, kind, slot);
        let at = Mark::offset(kind, slot);
        self.patch(at as u64, &page[at..at + 24]);
    }

    /// Writes both copies of the segment's header, which says that it begins with this ordinal.
    pub fn write_header(&self, first_ordinal: u64) {
        let header = Header {
            node: self.node.clone(),
            base: self.base,
            capacity: self.capacity,
            salt: self.salt,
            first_ordinal,
            reserve: self.reserve,
            created_at: self.created_at,
        };
        [0, SECTOR_LEN].iter().for_each(|sector| self.patch(*sector as u64, &header.encode()));
    }

    fn begin(&mut self, at: Millis) {
        self.first_ordinal = self.ordinal;
        self.created_at = at;
        fs::File::create(self.path()).unwrap().set_len(self.capacity).unwrap();
        self.write_header(self.first_ordinal);
        self.ledger_with(at, false, self.first_marks.clone());
        self.commit();
    }

    fn write(&self, kinds: &[MarkKind], mark: Mark) {
        self.patch(HEADER_LEN as u64, &self.bytes);
        for kind in kinds {
            self.write_mark(*kind, mark);
        }
    }
}

fn all_of_none() -> Marks {
    Marks { scope: Scope::All, ..Marks::default() }
}

/// An event with an id of its own, received so long after [`START`].
pub fn event(n: u64, after: Millis) -> Event<'static> {
    Event {
        id: Id { uuid: Uuid::from_u128((u128::from(n) << 64) | 0x7000_8000_0000_0000_0001), made_here: false },
        received_at: START + after,
        age_ms: 0,
        front: Front::Http1,
        site: "shop.example".into(),
        event: "click".into(),
        target: format!("https://shop.example/{}", n % 7).into(),
        page: format!("/page/{}", n % 3).into(),
        item: format!("item-{}", n % 5).into(),
        placement: "top".into(),
        visitor: format!("v{}", n % 11).into(),
        user_agent: "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0".into(),
        ip: Some([192, 0, 2, 0].into()),
        value: n.is_multiple_of(2).then(|| Micros(i64::try_from(n).unwrap() * 100_001)),
        lost: u32::from(n.is_multiple_of(10)),
        origin: None,
        props: if n.is_multiple_of(4) { vec![("k".into(), "é".into())] } else { vec![] },
    }
}

/// The same event, so much older when it was received.
pub fn aged(n: u64, after: Millis, age: Millis) -> Event<'static> {
    Event { age_ms: u32::try_from(age).unwrap(), ..event(n, after) }
}

/// The same event by a framed datagram of its own.
pub fn framed(n: u64, after: Millis, source: u64, sequence: u64) -> Event<'static> {
    let number = Number { source: SourceId { key: None, source }, sequence };
    Event { front: Front::Udp, origin: Some(Origin { number, place: 0, is_last: true }), ..event(n, after) }
}

/// By a declared crawler.
pub fn crawled(n: u64, after: Millis) -> Event<'static> {
    let user_agent = "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)";
    Event { user_agent: user_agent.into(), ..event(n, after) }
}

/// A folder for a test, in memory if the system has such: these tests sync a great deal.
pub fn folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
}
