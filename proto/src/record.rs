//! A record: the bytes of one event, or of one ledger entry, as they lie in a segment.
//!
//! This is the payload; the frame around it (length, checksum, ordinal) is in [`crate::segment`].
//! All numbers are little-endian; *str* is a LEB128 length and that many bytes of UTF-8, verbatim.
//!
//! ```text
//! event                                     ledger
//!  0  u8   kind = 1                          0  u8   kind = 2
//!  1  u8   flags: 1 id made here, 2 value    1  u8   flags: 1 closing
//!  2  u8   front                             2  u16  count of numbers
//!  3  u8   length of ip: 0, 4 or 16          4  u32  0
//!  4  u32  age, ms                           8  i64  at, ms
//!  8  i64  received at, ms                  16  i64  life, ms
//! 16  16   id                               24  u64… counts, in the order of Counts::to_array
//! 32  i64  value, millionths                    (a reader ignores what follows those it knows)
//! 40  u32  lost
//! 44  …    ip
//!          str site, event, target, page, item, placement, visitor, user agent
//!          str str a property, as often as there are any
//! ```

use std::borrow::Cow;
use std::net::IpAddr;

use thiserror::Error;
use uuid::Uuid;

use crate::event::{Event, Id, Micros};
use crate::ledger::{COUNTS_LEN, Counts, Ledger};
use crate::reason::Front;

const KIND_EVENT: u8 = 1;
const KIND_LEDGER: u8 = 2;
const FLAG_MADE_HERE: u8 = 1;
const FLAG_VALUE: u8 = 2;
const FLAG_CLOSING: u8 = 1;
const EVENT_FIXED: usize = 44;
const LEDGER_FIXED: usize = 24;

/// What a record holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// One event; its strings borrow from the record's bytes.
    Event(Event<'a>),
    /// The state of the ledger at this place in the log.
    Ledger(Ledger),
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
    let flags = u8::from(event.id.made_here) * FLAG_MADE_HERE + u8::from(event.value.is_some()) * FLAG_VALUE;
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
    for text in strings(event) {
        put_str(out, text);
    }
    for (key, value) in &event.props {
        put_str(out, key);
        put_str(out, value);
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
    for number in ledger.counts.to_array() {
        out.extend_from_slice(&number.to_le_bytes());
    }
}

/// The front of an event's record, without reading the rest.
pub fn front(payload: &[u8]) -> Option<Front> {
    let [KIND_EVENT, _, front, ..] = payload else { return None };
    Front::from_index(usize::from(*front))
}

/// Reads a record.
pub fn decode(payload: &[u8]) -> Result<Record<'_>, RecordError> {
    match payload.first() {
        Some(&KIND_EVENT) => decode_event(payload).map(Record::Event),
        Some(&KIND_LEDGER) => decode_ledger(payload).map(Record::Ledger),
        Some(&kind) => Err(RecordError::UnknownKind { kind }),
        None => Err(RecordError::Short { len: 0 }),
    }
}

fn decode_event(payload: &[u8]) -> Result<Event<'_>, RecordError> {
    let short = RecordError::Short { len: payload.len() };
    let (fixed, rest) = payload.split_first_chunk::<EVENT_FIXED>().ok_or(short)?;
    let front = Front::from_index(usize::from(fixed[2])).ok_or(RecordError::BadField { field: "front" })?;
    let (ip, rest) = rest.split_at_checked(usize::from(fixed[3])).ok_or(short)?;
    let ip = match ip.len() {
        0 => None,
        4 => <[u8; 4]>::try_from(ip).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(ip).ok().map(IpAddr::from),
        _ => return Err(RecordError::BadField { field: "ip" }),
    };
    let mut strings = Strings { rest, short };
    let mut event = Event {
        id: Id { uuid: Uuid::from_bytes(chunk(fixed, 16)), made_here: fixed[1] & FLAG_MADE_HERE != 0 },
        received_at: i64::from_le_bytes(chunk(fixed, 8)),
        age_ms: u32::from_le_bytes(chunk(fixed, 4)),
        front,
        site: strings.next()?,
        event: strings.next()?,
        target: strings.next()?,
        page: strings.next()?,
        item: strings.next()?,
        placement: strings.next()?,
        visitor: strings.next()?,
        user_agent: strings.next()?,
        ip,
        value: (fixed[1] & FLAG_VALUE != 0).then(|| Micros(i64::from_le_bytes(chunk(fixed, 32)))),
        lost: u32::from_le_bytes(chunk(fixed, 40)),
        props: Vec::new(),
    };
    while !strings.rest.is_empty() {
        event.props.push((strings.next()?, strings.next()?));
    }
    Ok(event)
}

fn decode_ledger(payload: &[u8]) -> Result<Ledger, RecordError> {
    let short = RecordError::Short { len: payload.len() };
    let (fixed, rest) = payload.split_first_chunk::<LEDGER_FIXED>().ok_or(short)?;
    let count = usize::from(u16::from_le_bytes(chunk(fixed, 2)));
    let numbers = rest.get(..count * 8).ok_or(short)?.chunks_exact(8).map(|eight| u64::from_le_bytes(chunk(eight, 0)));
    Ok(Ledger {
        at: i64::from_le_bytes(chunk(fixed, 8)),
        life: i64::from_le_bytes(chunk(fixed, 16)),
        closing: fixed[1] & FLAG_CLOSING != 0,
        counts: Counts::from_numbers(numbers),
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

fn put_str(out: &mut Vec<u8>, text: &str) {
    let mut len = text.len();
    while len >= 0x80 {
        out.push(len.to_le_bytes()[0] | 0x80);
        len >>= 7;
    }
    out.push(len.to_le_bytes()[0]);
    out.extend_from_slice(text.as_bytes());
}

/// Takes strings one by one from the end of an event's record.
struct Strings<'a> {
    rest: &'a [u8],
    short: RecordError,
}

impl<'a> Strings<'a> {
    fn next(&mut self) -> Result<Cow<'a, str>, RecordError> {
        let mut len = 0_usize;
        for shift in [0, 7, 14, 21] {
            let (&byte, rest) = self.rest.split_first().ok_or(self.short)?;
            self.rest = rest;
            len |= usize::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                let (text, rest) = self.rest.split_at_checked(len).ok_or(self.short)?;
                self.rest = rest;
                let text = std::str::from_utf8(text).map_err(|_| RecordError::BadField { field: "string" })?;
                return Ok(Cow::Borrowed(text));
            }
        }
        Err(RecordError::BadField { field: "length" })
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
        (numbers, 0..4_usize, texts, ip, prop::collection::vec((text(), text()), 0..5)).prop_map(
            |((id, made_here, received_at, age_ms, value, lost), front, texts, ip, props)| {
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
            prop_assert_eq!(decode(&bytes), Ok(Record::Event(event)));
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
            let ledger = Ledger { at, life, closing, counts: Counts::from_numbers(numbers) };
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

    #[test]
    fn a_string_of_any_length_that_an_event_may_have_reads_back() {
        for len in [127, 128, 16_383, 16_384, crate::event::MAX_EVENT_BYTES] {
            let mut bytes = Vec::new();
            put_str(&mut bytes, &"x".repeat(len));
            let mut strings = Strings { rest: &bytes, short: RecordError::Short { len: 0 } };
            assert_eq!(strings.next().map(|text| text.len()), Ok(len));
            assert!(strings.rest.is_empty());
        }
    }
}
