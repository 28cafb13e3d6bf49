//! Records of events that are judged and counted together: what one of them waits for in memory, the others wait for at
//! the same time.

use std::time::Instant;

use tallylight_proto::record::{EventView, Fields, RecordError};
use tallylight_proto::segment::Framed;

use crate::counting_sort::counting_sort;

/// Records of a batch, at most, and bytes from which on it is full: they stay in the processor's cache.
const MOST_RECORDS: usize = 512;
const FULL_BYTES: usize = 192 * 1024;

/// What becomes of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It counts.
    Counted,
    /// A declared crawler caused it.
    Bot,
    /// Another copy of it counts.
    Duplicate,
}

/// Records of events, in log order.
#[derive(Debug, Default)]
pub struct Batch {
    payloads: Vec<u8>,
    records: Vec<Record>,
    /// What was decided of each.
    decisions: Vec<Decision>,
    /// Their places, those of an hour together and in log order.
    order: Vec<usize>,
    decided_at: Option<Instant>,
}

/// Where a record is, and what was decided.
#[derive(Clone, Debug)]
struct Record {
    position: u64,
    /// The position behind it, less its own.
    framed_len: u32,
    /// Where its payload begins, and its length.
    payload: (u32, u32),
    fields: Fields,
}

/// What was decided of a record.
#[derive(Clone, Copy, Debug)]
pub struct Decision {
    /// Its hour, by its place among those that are being compacted.
    pub place: usize,
    /// What becomes of it.
    pub fate: Fate,
}

/// An event that is taken into its hour.
#[derive(Clone, Copy, Debug)]
pub struct Taken<'a> {
    /// The position of its record.
    pub position: u64,
    /// The position behind it.
    pub end: u64,
    /// What the record says.
    pub event: EventView<'a>,
    /// What becomes of it.
    pub fate: Fate,
}

/// The events of a batch, those of an hour together.
#[derive(Debug)]
pub struct ByHour<'a> {
    /// When it was decided about them.
    pub decided_at: Option<Instant>,
    /// Each hour, by its place among those that are being compacted, and its events in log order.
    pub hours: Vec<(usize, Vec<Taken<'a>>)>,
}

impl Batch {
    /// Makes it empty, with the memory that it has.
    pub fn clear(&mut self) {
        self.payloads.clear();
        self.records.clear();
        self.decisions.clear();
        self.order.clear();
    }

    /// Adds an event's record, if it can be understood.
    #[expect(clippy::cast_possible_truncation, reason = "a record, and a batch, are far below 4 GiB")]
    pub fn push(&mut self, framed: &Framed<'_>) -> Result<(), RecordError> {
        let payload = (self.payloads.len() as u32, framed.payload.len() as u32);
        let framed_len = (framed.end - framed.position) as u32;
        let record = Record { position: framed.position, framed_len, payload, fields: Fields::NONE };
        // while it is in the processor's first cache
        if let Err(error) = self.records.push_mut(record).fields.find_checked(framed.payload) {
            self.records.pop();
            return Err(error);
        }
        self.payloads.extend_from_slice(framed.payload);
        Ok(())
    }

    /// Whether there are enough.
    pub fn is_full(&self) -> bool {
        self.records.len() >= MOST_RECORDS || self.payloads.len() >= FULL_BYTES
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Their positions and events.
    pub fn events(&self) -> impl Iterator<Item = (u64, EventView<'_>)> {
        self.records.iter().map(|record| (record.position, self.event(record)))
    }

    /// Says of each event what was decided.
    pub fn decide(&mut self, decisions: impl IntoIterator<Item = Decision>, now: Instant) {
        self.decided_at = Some(now);
        self.decisions.clear();
        self.decisions.extend(decisions);
        // those of one hour stay in log order
        let places = self.decisions.iter().map(|decision| decision.place);
        let hours = places.clone().max().map_or(0, |last| last + 1);
        (self.order, _) = counting_sort(places.zip(0..self.decisions.len()), hours);
    }

    /// Its events, those of an hour together.
    pub fn by_hour(&self) -> ByHour<'_> {
        let place = |at: usize| self.decisions[at].place;
        let hours = self.order.chunk_by(|a, b| place(*a) == place(*b)).map(|of_hour| {
            let taken = of_hour.iter().map(|at| {
                let record = &self.records[*at];
                let (event, fate) = (self.event(record), self.decisions[*at].fate);
                let end = record.position + u64::from(record.framed_len);
                Taken { position: record.position, end, event, fate }
            });
            (place(of_hour[0]), taken.collect())
        });
        ByHour { decided_at: self.decided_at, hours: hours.collect() }
    }

    fn event<'a>(&'a self, record: &'a Record) -> EventView<'a> {
        let (from, len) = record.payload;
        EventView::new(&self.payloads[from as usize..][..len as usize], &record.fields)
    }
}
