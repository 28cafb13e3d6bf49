//! A record: the bytes of one event, or of one ledger entry, as they lie in a segment.
//!
//! This is the payload; the frame around it (length, checksum, ordinal) is in [`crate::segment`].
//! All numbers are little-endian; *str* is a LEB128 length and that many bytes of UTF-8, verbatim.
//!
//! ```text
//! event                                     ledger
//!  0  u8   kind = 1                          0  u8   kind = 2
//!  1  u8   flags: 1 id made here, 2 value,   1  u8   flags: 1 closing
//!           4 framed, 8 last                  2  u16  count of numbers
//!  2  u8   front                             4  u32  0
//!  3  u8   length of ip: 0, 4 or 16          8  i64  at, ms
//!  4  u32  age, ms                          16  i64  life, ms
//!  8  i64  received at, ms                  24  …    counts, LEB128, in the order of Counts::to_array
//! 16  16   id                                   …    marks (crate::sources)
//! 32  i64  value, millionths
//! 40  u32  lost
//! 44  …    ip
//!          if framed: u64 source, u64 sequence, u16 place, u8 key, u8 flags: 1 keyed
//!          str site, event, target, page, item, placement, visitor, user agent
//!          str str a property, as often as there are any
//! ```
//!
//! The last record of a framed datagram is flagged: where it is missing, the datagram is not whole.

use std::borrow::Cow;
use std::net::IpAddr;
use std::ops::Range;

use thiserror::Error;
use uuid::Uuid;

use crate::datagram::{Number, SourceId};
use crate::event::{Event, Id, Micros, Origin};
use crate::ledger::{COUNTS_LEN, Counts, Ledger};
use crate::reason::Front;
use crate::sources::Marks;
use crate::time::{self, Millis};
use crate::varint;

const KIND_EVENT: u8 = 1;
const KIND_LEDGER: u8 = 2;
const FLAG_MADE_HERE: u8 = 1;
const FLAG_VALUE: u8 = 2;
const FLAG_FRAMED: u8 = 4;
const FLAG_LAST: u8 = 8;
const FLAG_KEYED: u8 = 1;
const FLAG_CLOSING: u8 = 1;
const EVENT_FIXED: usize = 44;
const ORIGIN_LEN: usize = 20;
const LEDGER_FIXED: usize = 24;

/// What a record holds.
#[expect(clippy::large_enum_variant, reason = "one at a time is decoded, and nearly all are events")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// One event; its strings borrow from the record's bytes.
    Event(Event<'a>),
    /// The state of the ledger at this place in the log.
    Ledger(Ledger),
}

/// A text that every event has, though it may be empty, in the order of the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Text {
    /// [`Event::site`]
    Site,
    /// [`Event::event`]
    Event,
    /// [`Event::target`]
    Target,
    /// [`Event::page`]
    Page,
    /// [`Event::item`]
    Item,
    /// [`Event::placement`]
    Placement,
    /// [`Event::visitor`]
    Visitor,
    /// [`Event::user_agent`]
    UserAgent,
}

const TEXTS: usize = 8;

/// Where the fields of an event's record are.
#[derive(Clone, Debug)]
pub struct Fields {
    front: Front,
    /// Where each text begins and ends.
    texts: [(u32, u32); TEXTS],
    /// Where the properties begin.
    properties: u32,
}

/// An event's record as it lies there, for whoever reads millions of them: an [`Event`] is more to make.
#[derive(Clone, Copy, Debug)]
pub struct EventView<'a> {
    payload: &'a [u8],
    fields: &'a Fields,
}

/// Why bytes whose checksum is right are no record. Never seen with a writer of this or an earlier version.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum RecordError {
    /// Written by a later version, perhaps.
    #[error("record of unknown kind {kind}")]
    UnknownKind {
        /// The first byte.
        kind: u8,
    },
    /// It ends before it should.
    #[error("record of {len} bytes ends too early")]
    Short {
        /// Its length in bytes.
        len: usize,
    },
    /// A field holds what the format does not know.
    #[error("record has a bad {field}")]
    BadField {
        /// Which.
        field: &'static str,
    },
}

/// Appends an event's record to `out`.
pub fn encode_event(event: &Event<'_>, out: &mut Vec<u8>) {
    let flags = [
        (event.id.made_here, FLAG_MADE_HERE),
        (event.value.is_some(), FLAG_VALUE),
        (event.origin.is_some(), FLAG_FRAMED),
        (event.origin.is_some_and(|origin| origin.is_last), FLAG_LAST),
    ];
    let flags = flags.into_iter().map(|(is_set, flag)| u8::from(is_set) * flag).sum();
    let mut ip = [0; 16];
    let ip_len: u8 = match event.ip {
        None => 0,
        Some(IpAddr::V4(v4)) => {
            ip[..4].copy_from_slice(&v4.octets());
            4
        }
        Some(IpAddr::V6(v6)) => {
            ip = v6.octets();
            16
        }
    };
    let mut fixed = [0; EVENT_FIXED];
    fixed[..4].copy_from_slice(&[KIND_EVENT, flags, event.front as u8, ip_len]);
    fixed[4..8].copy_from_slice(&event.age_ms.to_le_bytes());
    fixed[8..16].copy_from_slice(&event.received_at.to_le_bytes());
    fixed[16..32].copy_from_slice(event.id.uuid.as_bytes());
    fixed[32..40].copy_from_slice(&event.value.map_or(0, |value| value.0).to_le_bytes());
    fixed[40..44].copy_from_slice(&event.lost.to_le_bytes());
    out.extend_from_slice(&fixed);
    out.extend_from_slice(&ip[..usize::from(ip_len)]);
    if let Some(Origin { number: Number { source, sequence }, place, is_last: _ }) = event.origin {
        out.extend_from_slice(&source.source.to_le_bytes());
        out.extend_from_slice(&sequence.to_le_bytes());
        out.extend_from_slice(&place.to_le_bytes());
        out.extend_from_slice(&[source.key.unwrap_or(0), u8::from(source.key.is_some()) * FLAG_KEYED]);
    }
    for text in strings(event) {
        put_str(out, text.as_bytes());
    }
    for (key, value) in &event.props {
        put_str(out, key.as_bytes());
        put_str(out, value.as_bytes());
    }
}

/// Appends a ledger record to `out`.
pub fn encode_ledger(ledger: &Ledger, out: &mut Vec<u8>) {
    out.extend_from_slice(&[KIND_LEDGER, u8::from(ledger.closing) * FLAG_CLOSING]);
    let count = u16::try_from(COUNTS_LEN).expect("a few dozen numbers");
    out.extend_from_slice(&count.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&ledger.at.to_le_bytes());
    out.extend_from_slice(&ledger.life.to_le_bytes());
    ledger.counts.to_array().into_iter().for_each(|number| varint::put(out, number));
    ledger.marks.encode(out);
}

/// Flags an event's record as the last one of its datagram, after it was encoded.
pub fn flag_as_last(payload: &mut [u8]) {
    if let [KIND_EVENT, flags, ..] = payload {
        *flags |= FLAG_LAST;
    }
}

/// The front of an event's record, without reading the rest.
pub fn front(payload: &[u8]) -> Option<Front> {
    let [KIND_EVENT, _, front, ..] = payload else { return None };
    Front::from_index(usize::from(*front))
}

/// Whether a record is an event's, or at least says so.
pub fn is_event(payload: &[u8]) -> bool {
    payload.first() == Some(&KIND_EVENT)
}

/// Reads a record.
pub fn decode(payload: &[u8]) -> Result<Record<'_>, RecordError> {
    match payload.first() {
        Some(&KIND_EVENT) => Fields::of(payload)?.event_in(payload).map(Record::Event),
        Some(&KIND_LEDGER) => decode_ledger(payload).map(Record::Ledger),
        Some(&kind) => Err(RecordError::UnknownKind { kind }),
        None => Err(RecordError::Short { len: 0 }),
    }
}

impl Fields {
    /// Of no record yet.
    pub const NONE: Self = Self { front: Front::ALL[0], texts: [(0, 0); TEXTS], properties: 0 };

    /// Those of an event's record.
    pub fn of(payload: &[u8]) -> Result<Self, RecordError> {
        let mut fields = Self::NONE;
        fields.find(payload)?;
        Ok(fields)
    }

    /// The same, and that all texts are UTF-8.
    pub fn checked(payload: &[u8]) -> Result<Self, RecordError> {
        let mut fields = Self::NONE;
        fields.find_checked(payload)?;
        Ok(fields)
    }

    /// Finds those of an event's record, where they are to stay: moving them takes as long.
    #[expect(clippy::cast_possible_truncation, reason = "parts of a payload whose length fits")]
    fn find(&mut self, payload: &[u8]) -> Result<(), RecordError> {
        let short = RecordError::Short { len: payload.len() };
        let fixed = payload.first_chunk::<EVENT_FIXED>().ok_or(short)?;
        if fixed[0] != KIND_EVENT {
            return Err(RecordError::UnknownKind { kind: fixed[0] });
        }
        self.front = Front::from_index(usize::from(fixed[2])).ok_or(RecordError::BadField { field: "front" })?;
        if !matches!(fixed[3], 0 | 4 | 16) {
            return Err(RecordError::BadField { field: "ip" });
        }
        u32::try_from(payload.len()).map_err(|_| short)?;
        let mut at = texts_at(fixed);
        for place in &mut self.texts {
            let text = text_at(payload, at).ok_or(short)?;
            at = text.end;
            *place = (text.start as u32, at as u32);
        }
        self.properties = at as u32;
        while at < payload.len() {
            let key = text_at(payload, at).ok_or(short)?;
            at = text_at(payload, key.end).ok_or(short)?.end;
        }
        Ok(())
    }

    /// Becomes what [`Fields::checked`] is.
    pub fn find_checked(&mut self, payload: &[u8]) -> Result<(), RecordError> {
        self.find(payload)?;
        // all at once, most of the time: lengths below 128 are ASCII, too
        let (first, _) = self.texts[0];
        if !is_ascii_from(payload, first as usize) {
            let texts = self.texts.iter().map(|(from, to)| &payload[*from as usize..*to as usize]);
            let properties = self.properties_in(payload).flat_map(|(key, value)| [key, value]);
            let mut others = texts.chain(properties).filter(|text| !text.is_ascii());
            others.try_for_each(|text| checked(text).map(drop))?;
        }
        Ok(())
    }

    fn event_in<'a>(&self, payload: &'a [u8]) -> Result<Event<'a>, RecordError> {
        let view = EventView::new(payload, self);
        let text = |text: Text| checked(self.text_in(payload, text)).map(Cow::Borrowed);
        let property = |(key, value)| Ok((Cow::Borrowed(checked(key)?), Cow::Borrowed(checked(value)?)));
        Ok(Event {
            id: view.id(),
            received_at: view.received_at(),
            age_ms: view.age_ms(),
            front: self.front,
            site: text(Text::Site)?,
            event: text(Text::Event)?,
            target: text(Text::Target)?,
            page: text(Text::Page)?,
            item: text(Text::Item)?,
            placement: text(Text::Placement)?,
            visitor: text(Text::Visitor)?,
            user_agent: text(Text::UserAgent)?,
            ip: ip_of(view.ip()),
            value: view.value(),
            lost: view.lost(),
            origin: view.origin(),
            props: self.properties_in(payload).map(property).collect::<Result<_, RecordError>>()?,
        })
    }

    #[inline]
    fn text_in<'a>(&self, payload: &'a [u8], text: Text) -> &'a [u8] {
        let (from, to) = self.texts[text as usize];
        &payload[from as usize..to as usize]
    }

    #[inline]
    fn properties_in<'a>(&self, payload: &'a [u8]) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let mut strings = Strings { bytes: payload, at: self.properties as usize };
        std::iter::from_fn(move || strings.next().zip(strings.next()))
    }
}

impl<'a> EventView<'a> {
    /// Of a record and its own fields.
    #[inline]
    pub fn new(payload: &'a [u8], fields: &'a Fields) -> Self {
        Self { payload, fields }
    }

    /// See [`Event::id`].
    #[inline]
    pub fn id(&self) -> Id {
        Id { uuid: Uuid::from_bytes(chunk(self.payload, 16)), made_here: self.payload[1] & FLAG_MADE_HERE != 0 }
    }

    /// See [`Event::received_at`].
    #[inline]
    pub fn received_at(&self) -> Millis {
        i64::from_le_bytes(chunk(self.payload, 8))
    }

    /// See [`Event::age_ms`].
    #[inline]
    pub fn age_ms(&self) -> u32 {
        u32::from_le_bytes(chunk(self.payload, 4))
    }

    /// See [`Event::event_at`].
    #[inline]
    pub fn event_at(&self) -> Millis {
        time::event_at(self.received_at(), self.age_ms())
    }

    /// See [`Event::is_late`].
    #[inline]
    pub fn is_late(&self) -> bool {
        time::is_late(self.age_ms())
    }

    /// See [`Event::front`].
    #[inline]
    pub fn front(&self) -> Front {
        self.fields.front
    }

    /// One of the texts: UTF-8, if the record was [checked](Fields::checked).
    #[inline]
    pub fn text(&self, text: Text) -> &'a [u8] {
        self.fields.text_in(self.payload, text)
    }

    /// The texts from the first to this one, as they stand in the record: what [`Strings`] reads.
    #[inline]
    pub fn strings_through(&self, last: Text) -> &'a [u8] {
        let (_, end) = self.fields.texts[last as usize];
        &self.payload[texts_at(self.payload)..end as usize]
    }

    /// The bytes of [`Event::ip`]: none, 4 or 16.
    #[inline]
    pub fn ip(&self) -> &'a [u8] {
        &self.payload[EVENT_FIXED..][..usize::from(self.payload[3])]
    }

    /// See [`Event::value`].
    #[inline]
    pub fn value(&self) -> Option<Micros> {
        (self.payload[1] & FLAG_VALUE != 0).then(|| Micros(i64::from_le_bytes(chunk(self.payload, 32))))
    }

    /// See [`Event::lost`].
    #[inline]
    pub fn lost(&self) -> u32 {
        u32::from_le_bytes(chunk(self.payload, 40))
    }

    /// See [`Event::props`].
    #[inline]
    pub fn properties(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        self.fields.properties_in(self.payload)
    }

    /// See [`Event::origin`].
    fn origin(&self) -> Option<Origin> {
        let flags = self.payload[1];
        let origin: [u8; ORIGIN_LEN] =
            (flags & FLAG_FRAMED != 0).then(|| chunk(self.payload, EVENT_FIXED + self.ip().len()))?;
        let key = (origin[19] & FLAG_KEYED != 0).then_some(origin[18]);
        let source = SourceId { key, source: u64::from_le_bytes(chunk(&origin, 0)) };
        let number = Number { source, sequence: u64::from_le_bytes(chunk(&origin, 8)) };
        Some(Origin { number, place: u16::from_le_bytes(chunk(&origin, 16)), is_last: flags & FLAG_LAST != 0 })
    }
}

/// Whether all bytes from here on are ASCII. False if only some before them are not: the last ones are looked at together with
/// what stands before them, for this is asked of each record. Of few bytes it says false.
fn is_ascii_from(payload: &[u8], from: usize) -> bool {
    let (chunks, _) = payload[from..].as_chunks::<16>();
    let last = payload.last_chunk().unwrap_or(&[0xff; 16]);
    let union = chunks.iter().chain([last]).fold(0, |union, chunk| union | u128::from_ne_bytes(*chunk));
    union & u128::from_ne_bytes([0x80; 16]) == 0
}

/// Where the texts of an event's record begin.
fn texts_at(payload: &[u8]) -> usize {
    let origin_len = if payload[1] & FLAG_FRAMED == 0 { 0 } else { ORIGIN_LEN };
    EVENT_FIXED + usize::from(payload[3]) + origin_len
}

/// Where the text is of the *str* that begins at `at`, if that is whole.
#[inline]
fn text_at(bytes: &[u8], at: usize) -> Option<Range<usize>> {
    let (start, len) = match *bytes.get(at)? {
        // most lengths
        len @ 0..0x80 => (at + 1, usize::from(len)),
        _ => {
            let mut rest = &bytes[at..];
            let len = usize::try_from(varint::take(&mut rest)?).ok()?;
            (bytes.len() - rest.len(), len)
        }
    };
    (len <= bytes.len() - start).then(|| start..start + len)
}

/// The address with these bytes, as [`EventView::ip`] gives them.
pub fn ip_of(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

fn checked(text: &[u8]) -> Result<&str, RecordError> {
    simdutf8::basic::from_utf8(text).map_err(|_| RecordError::BadField { field: "string" })
}

fn decode_ledger(payload: &[u8]) -> Result<Ledger, RecordError> {
    let short = RecordError::Short { len: payload.len() };
    let (fixed, mut rest) = payload.split_first_chunk::<LEDGER_FIXED>().ok_or(short)?;
    let count = u16::from_le_bytes(chunk(fixed, 2));
    let numbers = (0..count).map(|_| varint::take(&mut rest).ok_or(short)).collect::<Result<Vec<_>, _>>()?;
    Ok(Ledger {
        at: i64::from_le_bytes(chunk(fixed, 8)),
        life: i64::from_le_bytes(chunk(fixed, 16)),
        closing: fixed[1] & FLAG_CLOSING != 0,
        counts: Counts::from_numbers(numbers),
        marks: Marks::decode(&mut rest).ok_or(RecordError::BadField { field: "mark" })?,
    })
}

fn strings<'e>(event: &'e Event<'_>) -> [&'e str; 8] {
    [
        &event.site,
        &event.event,
        &event.target,
        &event.page,
        &event.item,
        &event.placement,
        &event.visitor,
        &event.user_agent,
    ]
}

/// Appends a *str*, which is to be UTF-8.
pub fn put_str(out: &mut Vec<u8>, text: &[u8]) {
    varint::put(out, text.len() as u64);
    out.extend_from_slice(text);
}

/// Takes one *str* after the other, until there is no whole one. The same texts are always the same bytes.
#[derive(Clone, Debug)]
pub struct Strings<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Strings<'a> {
    /// Those that begin here.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }
}

impl<'a> Iterator for Strings<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        let text = text_at(self.bytes, self.at)?;
        self.at = text.end;
        Some(&self.bytes[text])
    }
}

/// `N` bytes at `at`, which the caller knows to be there.
fn chunk<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut chunk = [0; N];
    chunk.copy_from_slice(&bytes[at..at + N]);
    chunk
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_event() -> impl Strategy<Value = Event<'static>> {
        let text = || "\\PC{0,200}".prop_map(Cow::Owned);
        let ip = prop_oneof![
            Just(None),
            any::<[u8; 4]>().prop_map(|ip| Some(IpAddr::from(ip))),
            any::<[u8; 16]>().prop_map(|ip| Some(IpAddr::from(ip))),
        ];
        let numbers =
            (any::<[u8; 16]>(), any::<bool>(), any::<i64>(), any::<u32>(), any::<Option<i64>>(), any::<u32>());
        let texts = prop::array::uniform8(text());
        let origin = any::<Option<(Option<u8>, u64, u64, u16, bool)>>().prop_map(|origin| {
            let (key, source, sequence, place, is_last) = origin?;
            Some(Origin { number: Number { source: SourceId { key, source }, sequence }, place, is_last })
        });
        (numbers, 0..4_usize, texts, ip, origin, prop::collection::vec((text(), text()), 0..5)).prop_map(
            |((id, made_here, received_at, age_ms, value, lost), front, texts, ip, origin, props)| {
                let [site, event, target, page, item, placement, visitor, user_agent] = texts;
                Event {
                    id: Id { uuid: Uuid::from_bytes(id), made_here },
                    received_at,
                    age_ms,
                    front: Front::ALL[front],
                    site,
                    event,
                    target,
                    page,
                    item,
                    placement,
                    visitor,
                    user_agent,
                    ip,
                    value: value.map(Micros),
                    lost,
                    origin,
                    props,
                }
            },
        )
    }

    proptest! {
        #[test]
        fn an_event_reads_back(event in any_event()) {
            let mut bytes = Vec::new();
            encode_event(&event, &mut bytes);
            prop_assert_eq!(front(&bytes), Some(event.front));
            let mut event = event;
            prop_assert_eq!(decode(&bytes), Ok(Record::Event(event.clone())));
            flag_as_last(&mut bytes);
            if let Some(origin) = &mut event.origin {
                origin.is_last = true;
                prop_assert_eq!(decode(&bytes), Ok(Record::Event(event)));
            }
        }

        #[test]
        fn a_shortened_event_is_an_error_or_has_fewer_properties(event in any_event(), cut in any::<prop::sample::Index>()) {
            let mut bytes = Vec::new();
            encode_event(&event, &mut bytes);
            bytes.truncate(cut.index(bytes.len()));
            if let Ok(Record::Event(read)) = decode(&bytes) {
                prop_assert!(read.props.len() < event.props.len());
            }
        }

        #[test]
        fn a_ledger_reads_back(at in any::<i64>(), life in any::<i64>(), closing in any::<bool>(), first in any::<u64>()) {
            let numbers = (0..).map(|n: u64| first.wrapping_mul(n));
            let marks = Marks { untracked: first, ..Marks::default() };
            let ledger = Ledger { at, life, closing, counts: Counts::from_numbers(numbers), marks };
            let mut bytes = Vec::new();
            encode_ledger(&ledger, &mut bytes);
            bytes.extend_from_slice(b"what a later version adds");
            prop_assert_eq!(decode(&bytes), Ok(Record::Ledger(ledger)));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), kind in 0..4_u8) {
            let mut bytes = bytes;
            if let Some(first) = bytes.first_mut() {
                *first = kind;
            }
            let _ = decode(&bytes);
        }
    }

    /// A record whose texts have these lengths.
    fn record_of(lengths: [usize; 8]) -> Vec<u8> {
        let text = |n: usize| Cow::Owned("x".repeat(lengths[n]));
        let event = Event {
            id: Id { uuid: Uuid::from_u128(u128::MAX), made_here: false },
            received_at: -1,
            age_ms: 0,
            front: Front::Http1,
            site: text(0),
            event: text(1),
            target: text(2),
            page: text(3),
            item: text(4),
            placement: text(5),
            visitor: text(6),
            user_agent: text(7),
            ip: None,
            value: Some(Micros(-1)),
            lost: u32::MAX,
            origin: None,
            props: Vec::new(),
        };
        let mut payload = Vec::new();
        encode_event(&event, &mut payload);
        payload
    }

    #[test]
    fn a_byte_that_is_no_utf8_is_found_wherever_it_stands() {
        // few texts and many, longer ones with lengths of two bytes
        for lengths in [[0; 8], [0, 0, 1, 0, 0, 0, 0, 0], [1; 8], [9, 5, 40, 60, 4, 3, 36, 110], [130; 8]] {
            let payload = record_of(lengths);
            let fields = Fields::checked(&payload).unwrap();
            for (from, to) in fields.texts {
                for at in from..to {
                    let mut harmed = payload.clone();
                    harmed[at as usize] = 0x80;
                    assert!(Fields::checked(&harmed).is_err(), "{lengths:?} at {at}");
                    if at + 1 < to {
                        harmed[at as usize..][..2].copy_from_slice("é".as_bytes());
                        assert!(Fields::checked(&harmed).is_ok(), "{lengths:?} at {at}");
                    }
                }
            }
        }
    }

    #[test]
    fn texts_stand_together_as_they_are_written() {
        for len in [0, 1, 127, 128, 300] {
            let payload = record_of([len; 8]);
            let fields = Fields::of(&payload).unwrap();
            let view = EventView::new(&payload, &fields);
            let mut written = Vec::new();
            for text in [Text::Site, Text::Event, Text::Target] {
                put_str(&mut written, view.text(text));
            }
            assert_eq!(view.strings_through(Text::Target), written);
            assert_eq!(view.strings_through(Text::UserAgent), &payload[EVENT_FIXED..]);
            assert!(Strings::new(&written).eq([
                view.text(Text::Site),
                view.text(Text::Event),
                view.text(Text::Target)
            ]));
        }
    }

    #[test]
    fn a_string_of_any_length_that_an_event_may_have_reads_back() {
        for len in [127, 128, 16_383, 16_384, crate::event::MAX_EVENT_BYTES] {
            let mut bytes = Vec::new();
            put_str(&mut bytes, "x".repeat(len).as_bytes());
            let mut strings = Strings::new(&bytes);
            assert_eq!(strings.next().map(<[u8]>::len), Some(len));
            assert_eq!(strings.at, bytes.len());
        }
    }
}
