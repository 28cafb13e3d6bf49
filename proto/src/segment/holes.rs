//! Where a recovered segment has holes: what a power cut took from above the synced length is *torn*, and must
//! not be mistaken for damage once the segment is sealed beyond it.
//!
//! ```text
//! 0  u32  number of ranges      8  u64 u64  from, to: offsets in the file
//! 4  u32  CRC-32C of salt, number and ranges       … up to 127, zeros behind them
//! ```
//! A segment without holes has zeros here.

use super::header::{HEADER_LEN, array};

/// The offset of the table in the file.
pub const HOLES_OFFSET: usize = 2048;
/// Its length in bytes.
pub const HOLES_LEN: usize = HEADER_LEN - HOLES_OFFSET;

const RANGE_LEN: usize = 16;
const MAX_HOLES: usize = (HOLES_LEN - 8) / RANGE_LEN;

/// Byte ranges of a segment, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holes(Vec<(u64, u64)>);

impl Holes {
    /// Adds a range behind the others. When the table is full the last range grows to take it in: then what is
    /// between two holes counts as torn too, should it ever go bad.
    pub fn push(&mut self, from: u64, to: u64) {
        let is_full = self.0.len() == MAX_HOLES;
        match self.0.last_mut() {
            Some(last) if is_full => last.1 = to,
            _ => self.0.push((from, to)),
        }
    }

    /// Whether a range lies within one of these.
    pub fn cover(&self, from: u64, to: u64) -> bool {
        self.0.iter().any(|hole| hole.0 <= from && to <= hole.1)
    }

    /// The table.
    pub fn encode(&self, salt: u64) -> [u8; HOLES_LEN] {
        let mut table = [0; HOLES_LEN];
        if self.0.is_empty() {
            return table;
        }
        table[..4].copy_from_slice(&u32::try_from(self.0.len()).unwrap_or(0).to_le_bytes());
        for (at, (from, to)) in (8..).step_by(RANGE_LEN).zip(&self.0) {
            table[at..at + 8].copy_from_slice(&from.to_le_bytes());
            table[at + 8..at + 16].copy_from_slice(&to.to_le_bytes());
        }
        let crc = check(&table, salt);
        table[4..8].copy_from_slice(&crc.to_le_bytes());
        table
    }

    /// Reads the table; nothing if it is damaged.
    pub fn decode(table: &[u8], salt: u64) -> Option<Self> {
        if table.iter().all(|byte| *byte == 0) {
            return Some(Self::default());
        }
        let count = usize::try_from(u32::from_le_bytes(array(table, 0))).ok().filter(|count| *count <= MAX_HOLES)?;
        if check(table, salt) != u32::from_le_bytes(array(table, 4)) {
            return None;
        }
        let range = |n: usize| {
            let at = 8 + n * RANGE_LEN;
            (u64::from_le_bytes(array(table, at)), u64::from_le_bytes(array(table, at + 8)))
        };
        Some(Self((0..count).map(range).collect()))
    }
}

fn check(table: &[u8], salt: u64) -> u32 {
    let crc = crc32c::crc32c_append(crc32c::crc32c(&salt.to_le_bytes()), &table[..4]);
    crc32c::crc32c_append(crc, &table[8..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_read_back_and_a_full_table_takes_in_what_follows() {
        let mut holes = Holes::default();
        for n in 0..200 {
            holes.push(n * 100, n * 100 + 8);
        }
        let read = Holes::decode(&holes.encode(5), 5).expect("undamaged");
        assert_eq!(read, holes);
        assert!(read.cover(300, 308) && !read.cover(300, 309) && read.cover(19_900, 19_908));
        assert_eq!(Holes::decode(&holes.encode(5), 6), None);
    }
}
