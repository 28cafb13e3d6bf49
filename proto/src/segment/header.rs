//! The first page of a segment: who wrote it, where it lies in the log, and how far it got.
//!
//! ```text
//! header sector, little-endian
//!   0  8    magic "TALLYSEG"
//!   8  u32  version = 1
//!  12  u32  length of the node's name
//!  16  u64  base: the position of the file's first byte
//!  24  u64  capacity: the size of the file in bytes, this page included
//!  32  u64  salt: random, new at each use of the file
//!  40  u64  ordinal of its first record; all ones: not known yet
//!  48  u64  reserve: free bytes on the disk that the collector leaves to the compactor
//!  56  i64  when it was made, ms
//!  64  72   the node's name, zeros behind it
//! 136       zeros
//! 508  u32  CRC-32C of the 508 bytes before it
//! ```

use thiserror::Error;

use super::holes::{HOLES_LEN, HOLES_OFFSET, Holes};
use super::mark::{MARKS_END, MARKS_OFFSET, Mark, MarkKind};
use crate::layout::{MAX_NODE_LEN, is_node_name};
use crate::time::Millis;

/// The size of the page, in bytes: the offset of the first record.
pub const HEADER_LEN: usize = 4096;
/// The size of a header sector, in bytes: the least that a disk writes whole.
pub const SECTOR_LEN: usize = 512;
/// A first ordinal that is not known yet: the segment has been prepared, but not begun.
pub const UNKNOWN_ORDINAL: u64 = u64::MAX;

const MAGIC: &[u8; 8] = b"TALLYSEG";
const VERSION: u32 = 1;
const NODE_OFFSET: usize = 64;
const CRC_OFFSET: usize = SECTOR_LEN - 4;

/// What a segment says of itself once and for all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The node that wrote it.
    pub node: String,
    /// The position of the file's first byte.
    pub base: u64,
    /// The size of the file in bytes.
    pub capacity: u64,
    /// Random, new at each use of the file: what an earlier use left in it cannot come back to life.
    pub salt: u64,
    /// The ordinal of its first record, or [`UNKNOWN_ORDINAL`].
    pub first_ordinal: u64,
    /// Free bytes on the disk below which the collector sheds.
    pub reserve: u64,
    /// When it was made.
    pub created_at: Millis,
}

/// Why a page is not the header of a segment.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum HeaderError {
    /// The file ends within it.
    #[error("file of {len} bytes is shorter than a segment's header")]
    Short {
        /// Bytes there are.
        len: usize,
    },
    /// Some other file.
    #[error("not a segment: the first bytes are not TALLYSEG")]
    Magic,
    /// Written by a later version.
    #[error("segment of version {version}, this program reads version 1")]
    Version {
        /// As it stands in the header.
        version: u32,
    },
    /// Both copies are bad.
    #[error("both copies of the segment's header are damaged")]
    Damaged,
}

/// A whole header page as a reader finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderPage {
    /// The header, from whichever copy is good.
    pub header: Header,
    /// Up to here records are complete, as far as the writer got.
    pub committed: Option<Mark>,
    /// Up to here they are on disk.
    pub synced: Option<Mark>,
    /// The end of the segment, once it has one.
    pub sealed: Option<Mark>,
    /// Both slots say so: whoever seals it is done with it.
    pub is_sealed_twice: bool,
    /// Where what is bad is torn.
    pub holes: Holes,
    /// Offsets of parts that are damaged though another copy made up for it. A mark of a segment that is being
    /// written may look so for a moment.
    pub damaged: Vec<usize>,
}

impl Header {
    /// The sector; it stands in the file twice, at 0 and at [`SECTOR_LEN`].
    ///
    /// # Panics
    /// If the node's name is none ([`is_node_name`]).
    pub fn encode(&self) -> [u8; SECTOR_LEN] {
        assert!(is_node_name(&self.node), "a node's name is checked when it is made");
        let mut sector = [0; SECTOR_LEN];
        let mut put = |at: usize, bytes: &[u8]| sector[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, MAGIC);
        put(8, &VERSION.to_le_bytes());
        put(12, &u32::try_from(self.node.len()).unwrap_or(0).to_le_bytes());
        put(16, &self.base.to_le_bytes());
        put(24, &self.capacity.to_le_bytes());
        put(32, &self.salt.to_le_bytes());
        put(40, &self.first_ordinal.to_le_bytes());
        put(48, &self.reserve.to_le_bytes());
        put(56, &self.created_at.to_le_bytes());
        put(NODE_OFFSET, self.node.as_bytes());
        let crc = crc32c::crc32c(&sector[..CRC_OFFSET]);
        sector[CRC_OFFSET..].copy_from_slice(&crc.to_le_bytes());
        sector
    }

    fn decode(sector: &[u8]) -> Result<Self, HeaderError> {
        let u32_at = |at: usize| u32::from_le_bytes(array(sector, at));
        let u64_at = |at: usize| u64::from_le_bytes(array(sector, at));
        if !sector.starts_with(MAGIC) {
            return Err(HeaderError::Magic);
        }
        if crc32c::crc32c(&sector[..CRC_OFFSET]) != u32_at(CRC_OFFSET) {
            return Err(HeaderError::Damaged);
        }
        if u32_at(8) != VERSION {
            return Err(HeaderError::Version { version: u32_at(8) });
        }
        let node_len = usize::try_from(u32_at(12)).ok().filter(|len| *len <= MAX_NODE_LEN);
        let node = node_len.and_then(|len| std::str::from_utf8(&sector[NODE_OFFSET..NODE_OFFSET + len]).ok());
        Ok(Self {
            node: node.filter(|name| is_node_name(name)).ok_or(HeaderError::Damaged)?.to_owned(),
            base: u64_at(16),
            capacity: u64_at(24),
            salt: u64_at(32),
            first_ordinal: u64_at(40),
            reserve: u64_at(48),
            created_at: i64::from_le_bytes(array(sector, 56)),
        })
    }
}

impl HeaderPage {
    /// Reads a header page, of which the first [`HEADER_LEN`] bytes are looked at.
    pub fn decode(page: &[u8]) -> Result<Self, HeaderError> {
        let page = page.get(..HEADER_LEN).ok_or(HeaderError::Short { len: page.len() })?;
        let mut damaged = Vec::new();
        let copies = [0, SECTOR_LEN].map(|at| (at, Header::decode(&page[at..at + SECTOR_LEN])));
        damaged.extend(copies.iter().filter(|(_, copy)| copy.is_err()).map(|(at, _)| *at));
        let header = match copies.map(|(_, copy)| copy) {
            // begun, but only one copy of that had reached the disk
            [Ok(first), Ok(second)] if first.first_ordinal == UNKNOWN_ORDINAL => second,
            [Ok(first), _] => first,
            [_, Ok(second)] => second,
            [Err(HeaderError::Magic), Err(HeaderError::Magic)] => return Err(HeaderError::Magic),
            [Err(version @ HeaderError::Version { .. }), _] => return Err(version),
            _ => return Err(HeaderError::Damaged),
        };
        let mut mark = |kind| {
            let (mark, bad) = Mark::read(page, header.salt, kind);
            damaged.extend(bad);
            mark
        };
        let [committed, synced, sealed] = MarkKind::ALL.map(&mut mark);
        let holes = Holes::decode(&page[HOLES_OFFSET..HOLES_OFFSET + HOLES_LEN], header.salt).unwrap_or_else(|| {
            damaged.push(HOLES_OFFSET);
            Holes::default()
        });
        let zeros = [(SECTOR_LEN * 2, MARKS_OFFSET), (MARKS_END, HOLES_OFFSET)];
        let not_zero =
            zeros.into_iter().filter_map(|(from, to)| Some(from + page[from..to].iter().position(|b| *b != 0)?));
        damaged.extend(not_zero);
        let is_sealed_twice = sealed.is_some_and(|end| end.is_in_both_slots(page, header.salt, MarkKind::Sealed));
        Ok(Self { header, committed, synced, sealed, is_sealed_twice, holes, damaged })
    }

    /// Up to which offset everything must be whole: what is not is damaged.
    pub fn whole_below(&self) -> u64 {
        self.sealed.or(self.synced).map_or(HEADER_LEN as u64, |mark| mark.length)
    }
}

/// `N` bytes at `at`, within what the caller has measured.
pub(super) fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    array
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            node: "web-1-0a1b2c".into(),
            base: 1 << 33,
            capacity: 1 << 28,
            salt: 0x0123_4567_89ab_cdef,
            first_ordinal: 7,
            reserve: 1 << 29,
            created_at: 1_795_392_000_000,
        }
    }

    fn page() -> Vec<u8> {
        let mut page = vec![0; HEADER_LEN];
        for at in [0, SECTOR_LEN] {
            page[at..at + SECTOR_LEN].copy_from_slice(&header().encode());
        }
        for (kind, length) in MarkKind::ALL.into_iter().zip([9000, 8000, 9000]) {
            for slot in 0..2 {
                Mark { length, ordinal: 20 }.write(&mut page, header().salt, kind, slot);
            }
        }
        let mut holes = Holes::default();
        holes.push(4096, 8192);
        page[HOLES_OFFSET..HOLES_OFFSET + HOLES_LEN].copy_from_slice(&holes.encode(header().salt));
        page
    }

    #[test]
    fn a_header_page_reads_back() {
        let read = HeaderPage::decode(&page()).expect("a good page");
        assert_eq!(read.header, header());
        assert_eq!(read.committed, Some(Mark { length: 9000, ordinal: 20 }));
        assert_eq!(read.synced, Some(Mark { length: 8000, ordinal: 20 }));
        assert!(read.holes.cover(4096, 8192));
        assert!(read.damaged.is_empty());
        assert_eq!(read.whole_below(), 9000);
    }

    #[test]
    fn all_below_the_seal_must_be_whole_or_below_the_synced_mark_or_nothing() {
        let mut read = HeaderPage::decode(&page()).expect("a good page");
        read.sealed = None;
        assert_eq!(read.whole_below(), 8000);
        read.synced = None;
        assert_eq!(read.whole_below(), HEADER_LEN as u64);
    }

    #[test]
    fn every_flipped_bit_is_seen_and_none_is_believed() {
        let good = HeaderPage::decode(&page()).expect("a good page");
        for bit in 0..HEADER_LEN * 8 {
            let mut flipped = page();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let read = HeaderPage::decode(&flipped).expect("the other copy is good");
            assert_eq!(read.damaged.len(), 1, "bit {bit}");
            assert_eq!((read.header, read.sealed), (good.header.clone(), good.sealed), "bit {bit}");
        }
    }

    #[test]
    fn what_is_no_header_is_said() {
        assert_eq!(HeaderPage::decode(&page()[..4095]), Err(HeaderError::Short { len: 4095 }));
        assert_eq!(HeaderPage::decode(&[0; HEADER_LEN]), Err(HeaderError::Magic));
        let mut both = page();
        both[20] ^= 1;
        both[SECTOR_LEN + 20] ^= 1;
        assert_eq!(HeaderPage::decode(&both), Err(HeaderError::Damaged));
    }

    #[test]
    fn a_begun_header_wins_over_a_prepared_one() {
        let mut page = page();
        let prepared = Header { first_ordinal: UNKNOWN_ORDINAL, ..header() };
        page[..SECTOR_LEN].copy_from_slice(&prepared.encode());
        assert_eq!(HeaderPage::decode(&page).map(|page| page.header.first_ordinal), Ok(7));
    }
}
