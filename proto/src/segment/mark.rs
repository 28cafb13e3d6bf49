//! The three lengths of a segment that change while it is written.
//!
//! Each mark has two slots of 64 bytes, written in turn, so that a writer killed between two stores, or a page
//! that reached the disk half way, always leaves one whole: the reader takes the furthest whole one.
//!
//! ```text
//! slot   0  u64  length: offset in the file
//!        8  u64  ordinal of the next record
//!       16  u64  check: CRC-32C of kind, slot, length and ordinal, seeded with the salt; high half 0
//!       24       zeros
//! ```

use super::header::array;

pub(super) const MARKS_OFFSET: usize = 1024;
const SLOT_LEN: usize = 64;
pub(super) const MARKS_END: usize = MARKS_OFFSET + MarkKind::ALL.len() * 2 * SLOT_LEN;

/// How many 64-bit words a slot is.
pub const MARK_WORDS: usize = 3;

/// How far a segment has got: an offset in the file between two records, and the ordinal of the next record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    /// Bytes from the start of the file, header included.
    pub length: u64,
    /// The ordinal that the record there has or will have.
    pub ordinal: u64,
}

/// What is known of the records below a mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MarkKind {
    /// They are complete in the map: they survive the death of the writer.
    Committed,
    /// They are on disk: they survive a power cut.
    Synced,
    /// They are on disk, and there will be no more.
    Sealed,
}

impl MarkKind {
    /// All of them, in the order in which they lie in the header page.
    pub const ALL: [MarkKind; 3] = [MarkKind::Committed, MarkKind::Synced, MarkKind::Sealed];
}

impl Mark {
    /// The offset in the file of a slot (0 or 1): 64-byte aligned.
    pub const fn offset(kind: MarkKind, slot: usize) -> usize {
        MARKS_OFFSET + (kind as usize * 2 + slot % 2) * SLOT_LEN
    }

    /// The words of a slot, to be stored in this order, each whole.
    pub fn words(self, salt: u64, kind: MarkKind, slot: usize) -> [u64; MARK_WORDS] {
        [self.length, self.ordinal, self.check(salt, kind, slot)]
    }

    /// Writes a slot into a header page that nobody reads yet.
    pub fn write(self, page: &mut [u8], salt: u64, kind: MarkKind, slot: usize) {
        for (at, word) in (Self::offset(kind, slot)..).step_by(8).zip(self.words(salt, kind, slot)) {
            page[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
    }

    /// The furthest whole one, and the offset of a slot that is neither whole nor empty.
    pub fn read(page: &[u8], salt: u64, kind: MarkKind) -> (Option<Self>, Option<usize>) {
        let mut furthest = None;
        let mut damaged = None;
        for slot in 0..2 {
            let at = Self::offset(kind, slot);
            let bytes = &page[at..at + SLOT_LEN];
            if bytes.iter().all(|byte| *byte == 0) {
                continue;
            }
            let word = |n: usize| u64::from_le_bytes(array(bytes, n * 8));
            let mark = Self { length: word(0), ordinal: word(1) };
            let is_whole = word(2) == mark.check(salt, kind, slot);
            if is_whole {
                furthest = furthest.max(Some(mark));
            }
            if !is_whole || bytes[MARK_WORDS * 8..].iter().any(|byte| *byte != 0) {
                damaged = Some(at);
            }
        }
        (furthest, damaged)
    }

    /// Whether both slots of a header page hold this mark.
    pub(super) fn is_in_both_slots(self, page: &[u8], salt: u64, kind: MarkKind) -> bool {
        let is_in = |slot| {
            let words = self.words(salt, kind, slot).into_iter().flat_map(u64::to_le_bytes);
            let at = Self::offset(kind, slot);
            page[at..at + SLOT_LEN].iter().copied().eq(words.chain([0; SLOT_LEN - MARK_WORDS * 8]))
        };
        is_in(0) && is_in(1)
    }

    fn check(self, salt: u64, kind: MarkKind, slot: usize) -> u64 {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&salt.to_le_bytes());
        bytes[8..16].copy_from_slice(&(Self::offset(kind, slot) as u64).to_le_bytes());
        bytes[16..24].copy_from_slice(&self.length.to_le_bytes());
        bytes[24..].copy_from_slice(&self.ordinal.to_le_bytes());
        u64::from(crc32c::crc32c(&bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SALT: u64 = 99;

    #[test]
    fn the_furthest_whole_slot_wins() {
        let mut page = vec![0; 4096];
        assert_eq!(Mark::read(&page, SALT, MarkKind::Synced), (None, None));
        Mark { length: 4096, ordinal: 1 }.write(&mut page, SALT, MarkKind::Synced, 0);
        Mark { length: 4120, ordinal: 2 }.write(&mut page, SALT, MarkKind::Synced, 1);
        assert_eq!(Mark::read(&page, SALT, MarkKind::Synced), (Some(Mark { length: 4120, ordinal: 2 }), None));
        assert_eq!(Mark::read(&page, SALT, MarkKind::Sealed), (None, None));
    }

    #[test]
    fn a_mark_stands_in_both_slots_once_it_was_written_twice() {
        let mut page = vec![0; 4096];
        let end = Mark { length: 4120, ordinal: 2 };
        let is_in_both = |page: &[u8]| end.is_in_both_slots(page, SALT, MarkKind::Sealed);
        end.write(&mut page, SALT, MarkKind::Sealed, 1);
        assert!(!is_in_both(&page));
        end.write(&mut page, SALT, MarkKind::Sealed, 0);
        assert!(is_in_both(&page));
        for at in Mark::offset(MarkKind::Sealed, 0)..Mark::offset(MarkKind::Sealed, 1) + SLOT_LEN {
            page[at] ^= 1;
            assert!(!is_in_both(&page), "byte {at}");
            page[at] ^= 1;
        }
    }

    #[test]
    fn a_mark_of_one_place_is_none_of_another() {
        let mut page = vec![0; 4096];
        Mark { length: 4096, ordinal: 1 }.write(&mut page, SALT, MarkKind::Synced, 0);
        let from = Mark::offset(MarkKind::Synced, 0);
        for (kind, slot) in [(MarkKind::Synced, 1), (MarkKind::Sealed, 0), (MarkKind::Committed, 1)] {
            page.copy_within(from..from + SLOT_LEN, Mark::offset(kind, slot));
        }
        let read = |kind| Mark::read(&page, SALT, kind);
        assert_eq!(
            read(MarkKind::Synced),
            (Some(Mark { length: 4096, ordinal: 1 }), Some(Mark::offset(MarkKind::Synced, 1)))
        );
        assert_eq!(read(MarkKind::Sealed), (None, Some(Mark::offset(MarkKind::Sealed, 0))));
        assert_eq!(read(MarkKind::Committed), (None, Some(Mark::offset(MarkKind::Committed, 1))));
    }

    #[test]
    fn a_half_written_slot_is_passed_over() {
        let mut page = vec![0; 4096];
        Mark { length: 4096, ordinal: 1 }.write(&mut page, SALT, MarkKind::Committed, 0);
        let next = Mark { length: 4120, ordinal: 2 }.words(SALT, MarkKind::Committed, 1);
        let at = Mark::offset(MarkKind::Committed, 1);
        page[at..at + 8].copy_from_slice(&next[0].to_le_bytes());
        let read = Mark::read(&page, SALT, MarkKind::Committed);
        assert_eq!(read, (Some(Mark { length: 4096, ordinal: 1 }), Some(at)));
    }

    #[test]
    fn a_mark_of_another_use_of_the_file_is_none() {
        let mut page = vec![0; 4096];
        Mark { length: 4096, ordinal: 1 }.write(&mut page, SALT, MarkKind::Sealed, 0);
        assert_eq!(Mark::read(&page, SALT + 1, MarkKind::Sealed).0, None);
    }
}
