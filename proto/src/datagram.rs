//! Datagrams: what a server sends, and what it means.
//!
//! A **plain** datagram is text, the same as the body of a POST. A **framed** one carries a number beside it, so that
//! what got lost on the way is known. All numbers are big-endian:
//!
//! ```text
//!  0  4   F5 'T' 'L' 01            no text in UTF-8 begins with F5
//!  4  u8  flags: 1 tagged          all others must be 0
//!  5  u8  key id                   of the key that the tag is made with
//!  6  u16 0
//!  8  u64 source                   drawn at random by the sender at each start
//! 16  u64 sequence                 1 to 2⁴⁸ − 1, one more with each datagram
//! 24  …   body                     as of a POST; none: a heartbeat, whose sequence is the next one
//!     16  tag, if flagged          HMAC-SHA-256 over all before it, cut to 16 bytes
//! ```
//!
//! An event in it that has no id gets one that follows from source, sequence and its place: see [`Number::event_id`].
//! `vectors/datagrams.json` in this crate has examples for other languages to check against.

use thiserror::Error;
use uuid::Uuid;

use crate::beacon::is_blank;
use crate::keys::Key;

/// What a framed datagram begins with; the last byte is the version.
pub const MAGIC: [u8; 4] = [0xF5, b'T', b'L', 1];
/// Bytes before the body.
pub const HEADER_LEN: usize = 24;
/// Bytes behind the body, if it is tagged.
pub const TAG_LEN: usize = 16;
/// The greatest sequence number: at a million datagrams a second, nine years.
pub const MAX_SEQUENCE: u64 = (1 << 48) - 1;

const FLAG_TAGGED: u8 = 1;

/// A sender's life: its source, and the key that vouches for that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceId {
    /// The id of the key, if its datagrams are tagged.
    pub key: Option<u8>,
    /// What the sender drew.
    pub source: u64,
}

/// The number of a datagram, which no other one has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Number {
    /// Whose.
    pub source: SourceId,
    /// Its sequence number, 1 to [`MAX_SEQUENCE`].
    pub sequence: u64,
}

/// A datagram, whose tag is not checked yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Datagram<'a> {
    /// Text without a number.
    Plain(&'a [u8]),
    /// Text with a number.
    Framed(Frame<'a>),
}

/// A framed datagram, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Its number. The key is who it says it is, until the tag is checked.
    pub number: Number,
    /// What it carries; empty for a heartbeat.
    pub body: &'a [u8],
    signed: &'a [u8],
    tag: Option<&'a [u8]>,
}

/// Why bytes are no datagram.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Malformed {
    /// Nothing, or white space.
    #[error("nothing is in it")]
    Blank,
    /// Neither text nor a frame that this version knows.
    #[error("it begins neither like text nor like a frame of version 1")]
    Magic,
    /// It was cut, or was never one.
    #[error("{len} bytes are too few for a frame")]
    Short {
        /// Its length in bytes.
        len: usize,
    },
    /// A later version's.
    #[error("it has flags or reserved bits that version 1 does not know")]
    Reserved,
    /// 0, or too great.
    #[error("{sequence} is no sequence number")]
    Sequence {
        /// What stands there.
        sequence: u64,
    },
}

impl<'a> Datagram<'a> {
    /// Takes a datagram apart.
    ///
    /// # Errors
    /// If it is none.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        if bytes.first() == Some(&MAGIC[0]) {
            return Frame::parse(bytes).map(Self::Framed);
        }
        if is_blank(bytes) { Err(Malformed::Blank) } else { Ok(Self::Plain(bytes)) }
    }
}

impl<'a> Frame<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let short = Malformed::Short { len: bytes.len() };
        let (header, rest) = bytes.split_first_chunk::<HEADER_LEN>().ok_or(short)?;
        let [m0, m1, m2, m3, flags, key, r0, r1, numbers @ ..] = header;
        if [*m0, *m1, *m2, *m3] != MAGIC {
            return Err(Malformed::Magic);
        }
        if flags & !FLAG_TAGGED != 0 || [*r0, *r1] != [0, 0] {
            return Err(Malformed::Reserved);
        }
        let is_tagged = *flags == FLAG_TAGGED;
        let body_len = if is_tagged { rest.len().checked_sub(TAG_LEN).ok_or(short)? } else { rest.len() };
        let (body, tag) = rest.split_at(body_len);
        let number = |at: usize| numbers[at..at + 8].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        let (source, sequence) = (number(0), number(8));
        if !(1..=MAX_SEQUENCE).contains(&sequence) {
            return Err(Malformed::Sequence { sequence });
        }
        Ok(Self {
            number: Number { source: SourceId { key: is_tagged.then_some(*key), source }, sequence },
            body,
            signed: &bytes[..HEADER_LEN + body_len],
            tag: is_tagged.then_some(tag),
        })
    }

    /// Whether it is tagged with this key. False without a tag.
    pub fn is_signed_by(&self, key: &Key) -> bool {
        self.tag.is_some_and(|tag| key.verifies(self.signed, tag))
    }

    /// It says only that everything before its number was sent.
    pub fn is_heartbeat(&self) -> bool {
        self.body.is_empty()
    }
}

/// Writes a framed datagram into `out`, in the place of what is there. An empty body is a heartbeat.
pub fn write(out: &mut Vec<u8>, source: u64, sequence: u64, body: &[u8], key: Option<&Key>) {
    out.clear();
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&[u8::from(key.is_some()) * FLAG_TAGGED, key.map_or(0, Key::id), 0, 0]);
    out.extend_from_slice(&source.to_be_bytes());
    out.extend_from_slice(&sequence.to_be_bytes());
    out.extend_from_slice(body);
    if let Some(key) = key {
        let tag = key.sign(out);
        out.extend_from_slice(&tag[..TAG_LEN]);
    }
}

impl Number {
    /// The id of the event at this place (from 0) of the datagram, if it came without: a UUID of version 8 (RFC 9562)
    /// whose 122 free bits are the source (64), the sequence (48) and the place (10). The same datagram gives the same
    /// ids, whoever receives it.
    pub fn event_id(&self, place: u16) -> Uuid {
        let free = u128::from(self.source.source) << 58
            | u128::from(self.sequence & MAX_SEQUENCE) << 10
            | u128::from(place & 0x3ff);
        // 48 bits, version, 12 bits, variant, 62 bits
        let bits = free >> 74 << 80 | 8 << 76 | (free >> 62 & 0xfff) << 64 | 2 << 62 | free & ((1 << 62) - 1);
        Uuid::from_u128(bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(id: u8) -> Key {
        Key::new(id, &[id; 32]).unwrap()
    }

    fn framed(bytes: &[u8]) -> Frame<'_> {
        match Datagram::parse(bytes) {
            Ok(Datagram::Framed(frame)) => frame,
            other => panic!("{other:?}"),
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(source: u64, sequence in 1..=MAX_SEQUENCE, body: Vec<u8>, id: Option<u8>) {
            let mut bytes = b"something older".to_vec();
            let key = id.map(key);
            write(&mut bytes, source, sequence, &body, key.as_ref());
            let frame = framed(&bytes);
            prop_assert_eq!(frame.number, Number { source: SourceId { key: id, source }, sequence });
            prop_assert_eq!(frame.body, &body[..]);
            prop_assert_eq!(frame.is_heartbeat(), body.is_empty());
            prop_assert_eq!(key.map(|key| frame.is_signed_by(&key)).unwrap_or(true), true);
        }

        #[test]
        fn arbitrary_bytes_never_panic(mut bytes: Vec<u8>, is_framed: bool) {
            let magic = if is_framed { &MAGIC[..] } else { &[] };
            bytes.splice(..0, magic.iter().copied());
            let _ = Datagram::parse(&bytes);
        }

        #[test]
        fn ids_differ_where_numbers_differ(one: (u64, u64, u16), other: (u64, u64, u16)) {
            let id = |(source, sequence, place): (u64, u64, u16)| {
                let number = Number { source: SourceId { key: None, source }, sequence: sequence & MAX_SEQUENCE };
                (number.event_id(place % 1000), (source, sequence & MAX_SEQUENCE, place % 1000))
            };
            let ((id, of), (other_id, of_other)) = (id(one), id(other));
            prop_assert_eq!(id.get_version_num(), 8);
            prop_assert_eq!(id.get_variant(), uuid::Variant::RFC4122);
            prop_assert_eq!(id == other_id, of == of_other);
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_of_a_tagged_datagram_is_found() {
        let (right, mut bytes) = (key(7), Vec::new());
        write(&mut bytes, 0xdead_beef, 42, b"site=shop.example&event=click", Some(&right));
        assert!(framed(&bytes).is_signed_by(&right));
        assert!(!framed(&bytes).is_signed_by(&key(8)));
        let is_taken = |bytes: &[u8]| match Datagram::parse(bytes) {
            Ok(Datagram::Framed(frame)) => frame.number.source.key == Some(7) && frame.is_signed_by(&right),
            Ok(Datagram::Plain(_)) | Err(_) => false,
        };
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(!is_taken(&flipped), "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert!(!is_taken(&bytes[..len]), "{len} bytes");
        }
    }

    #[test]
    fn what_is_no_datagram_is_named() {
        let mut bytes = Vec::new();
        write(&mut bytes, 1, 1, b"a=1", None);
        let with = |at: usize, byte: u8| {
            let mut bytes = bytes.clone();
            bytes[at] = byte;
            bytes
        };
        for (bytes, error) in [
            (vec![], Malformed::Blank),
            (b" \r\n".to_vec(), Malformed::Blank),
            (b"\xEF\xBB\xBF\n".to_vec(), Malformed::Blank),
            (vec![0xF5], Malformed::Short { len: 1 }),
            (bytes[..HEADER_LEN - 1].to_vec(), Malformed::Short { len: 23 }),
            (with(4, 1)[..HEADER_LEN + 3].to_vec(), Malformed::Short { len: 27 }),
            (with(3, 2), Malformed::Magic),
            (with(4, 2), Malformed::Reserved),
            (with(6, 1), Malformed::Reserved),
            (with(23, 0), Malformed::Sequence { sequence: 0 }),
            (with(17, 1), Malformed::Sequence { sequence: (1 << 48) + 1 }),
        ] {
            assert_eq!(Datagram::parse(&bytes), Err(error));
        }
        assert_eq!(Datagram::parse(b"a=1"), Ok(Datagram::Plain(b"a=1")));
    }
}
