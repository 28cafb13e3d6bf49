//! The manifest: which runs there are. Replacing it is what makes a run part of the index, or no more.
//!
//! | bytes | |
//! | --- | --- |
//! | 0 | magic 8 |
//! | 8 | the next run's number 8 |
//! | 16 | through 8: every record below this log position was judged |
//! | 24 | settled 8: what was received by then is never judged again |
//! | 32 | runs: number 8, copies 8 each |
//! | end | CRC-32C over all before it 4 |

use std::path::{Path, PathBuf};

use super::IndexError;
use super::page::u64_at;
use crate::storage;

const MAGIC: [u8; 8] = *b"TLruns01";
const HEAD_BYTES: usize = 32;
const RUN_BYTES: usize = 16;
pub(super) const NAME: &str = "manifest";

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Manifest {
    pub(super) next_number: u64,
    pub(super) through: u64,
    pub(super) settled: i64,
    /// Number and copies of each run.
    pub(super) runs: Vec<(u64, u64)>,
}

impl Manifest {
    /// The one in a folder; `None` if there is none.
    pub(super) fn read(folder: &Path) -> Result<Option<Self>, IndexError> {
        let path = path(folder);
        let Some(bytes) = storage::read_if_there(&path)? else { return Ok(None) };
        Self::from_bytes(&bytes).map(Some).ok_or(IndexError::Corrupt { path, page: 0 })
    }

    /// Puts it in place of the one before.
    pub(super) fn write(&self, folder: &Path) -> Result<(), IndexError> {
        Ok(storage::write_new(&path(folder), &self.to_bytes())?)
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        let head = [self.next_number, self.through, self.settled.cast_unsigned()];
        let numbers = head.into_iter().chain(self.runs.iter().flat_map(|run| [run.0, run.1]));
        bytes.extend(numbers.flat_map(u64::to_le_bytes));
        bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (bytes, check) = bytes.split_last_chunk()?;
        if crc32c::crc32c(bytes) != u32::from_le_bytes(*check) || bytes.len() < HEAD_BYTES || bytes[..8] != MAGIC {
            return None;
        }
        let (runs, rest) = bytes[HEAD_BYTES..].as_chunks::<RUN_BYTES>();
        rest.is_empty().then(|| Self {
            next_number: u64_at(bytes, 8),
            through: u64_at(bytes, 16),
            settled: u64_at(bytes, 24).cast_signed(),
            runs: runs.iter().map(|run| (u64_at(run, 0), u64_at(run, 8))).collect(),
        })
    }
}

fn path(folder: &Path) -> PathBuf {
    folder.join(NAME)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_back_and_any_flipped_or_missing_byte_is_seen() {
        let manifest = Manifest { next_number: 9, through: 1 << 40, settled: -5, runs: vec![(3, 100), (8, 1)] };
        let bytes = manifest.to_bytes();
        assert_eq!(Manifest::from_bytes(&bytes), Some(manifest));
        for at in 0..bytes.len() {
            assert_eq!(Manifest::from_bytes(&bytes[..at]), None, "cut at {at}");
            for bit in 0..8 {
                let mut bytes = bytes.clone();
                bytes[at] ^= 1 << bit;
                assert_eq!(Manifest::from_bytes(&bytes), None, "bit {bit} of {at}");
            }
        }
    }
}
