//! Records of events that are judged and counted together: what one of them waits for in memory, the others wait for at
//! the same time.

use std::ops::Range;

use tallylight_proto::record::{EventView, Fields, RecordError};
use tallylight_proto::segment::Framed;

/// Records of a batch, at most, and bytes from which on it is full: they stay in the processor's cache.
const MOST_RECORDS: usize = 256;
const FULL_BYTES: usize = 128 * 1024;

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
}

/// Where a record is, and what was decided.
#[derive(Clone, Debug)]
struct Record {
    position: u64,
    end: u64,
    payload: Range<usize>,
    /// What was found out about it.
    fields: Option<Fields>,
    decision: Option<Decision>,
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

impl Batch {
    /// Makes it empty, with the memory that it has.
    pub fn clear(&mut self) {
        self.payloads.clear();
        self.records.clear();
    }

    /// Adds a record.
    pub fn push(&mut self, framed: &Framed<'_>) {
        let from = self.payloads.len();
        self.payloads.extend_from_slice(framed.payload);
        let payload = from..self.payloads.len();
        self.records.push(Record { position: framed.position, end: framed.end, payload, fields: None, decision: None });
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

    /// Finds out what stands in each record; of those that cannot be understood, `bad` is told where and why.
    pub fn understand(&mut self, mut bad: impl FnMut(u64, RecordError)) {
        self.records.retain_mut(|record| match Fields::checked(&self.payloads[record.payload.clone()]) {
            Ok(fields) => {
                record.fields = Some(fields);
                true
            }
            Err(error) => {
                bad(record.position, error);
                false
            }
        });
    }

    /// The positions and events of those that were understood.
    pub fn events(&self) -> impl Iterator<Item = (u64, EventView<'_>)> {
        self.records.iter().filter_map(|record| Some((record.position, self.event(record)?)))
    }

    /// Says of each event what was decided.
    pub fn decide(&mut self, decisions: impl IntoIterator<Item = Decision>) {
        self.records.iter_mut().zip(decisions).for_each(|(record, decision)| record.decision = Some(decision));
        // of one hour, they stay in log order
        self.records.sort_by_key(|record| record.decision.map(|decision| decision.place));
    }

    /// The events of each hour, by its place, in log order.
    pub fn by_hour(&self) -> impl Iterator<Item = (usize, Vec<Taken<'_>>)> {
        let place = |record: &Record| record.decision.map(|decision| decision.place);
        self.records.chunk_by(move |a, b| place(a) == place(b)).filter_map(move |records| {
            let taken = records.iter().filter_map(|record| {
                let (event, fate) = (self.event(record)?, record.decision?.fate);
                Some(Taken { position: record.position, end: record.end, event, fate })
            });
            Some((place(records.first()?)?, taken.collect()))
        })
    }

    fn event<'a>(&'a self, record: &'a Record) -> Option<EventView<'a>> {
        let fields = record.fields.as_ref()?;
        Some(EventView::new(&self.payloads[record.payload.clone()], fields))
    }
}
