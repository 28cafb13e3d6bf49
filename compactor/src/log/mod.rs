//! The log, as the compactor reads it.
//!
//! The rule: **every record below the place that a reader has reached was handed out once, or its loss was**.
//! Ordinals say how many were lost where bytes no longer do.
//!
//! ```text
//!  DATA/log/*.seg ──▶ SegmentFile ──▶ Reader ──▶ Item: a record, or the loss of some
//! ```

mod reader;
mod segment;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use tallylight_proto::layout;
use tallylight_proto::segment::{Framed, HeaderError};
use thiserror::Error;

use crate::storage::{self, StorageError};

pub use reader::{Progress, Purpose, Reader};
pub use segment::SegmentFile;

/// A place between two records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Where the next record is looked for.
    pub position: u64,
    /// The ordinal that it should have; not known behind a segment that went away while it was looked at.
    pub ordinal: Option<u64>,
}

/// What stands in the log.
#[derive(Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// A whole record.
    Record(Framed<'a>),
    /// Something that is not there any more.
    Lost(Lost),
    /// From here on so many ordinals are used again: a power cut took records that were read already, though they were
    /// synced.
    SetBack {
        /// How many.
        records: u64,
    },
}

impl Item<'_> {
    /// How much of the log a record takes.
    pub fn bytes(&self) -> u64 {
        match self {
            Item::Record(framed) => framed.end - framed.position,
            Item::Lost(_) | Item::SetBack { .. } => 0,
        }
    }
}

/// Something that is not there any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// The base of the segment.
    pub base: u64,
    /// The position where it begins.
    pub position: u64,
    /// The position behind it.
    pub end: u64,
    /// How many records, as far as ordinals say; 0 where other copies made up for what is damaged.
    pub records: u64,
    /// Why.
    pub cause: Cause,
}

/// Why something is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A power cut took it before it was on disk. Nobody was promised anything.
    Torn,
    /// Bytes that were on disk are bad or gone.
    Records,
    /// The header is unreadable, and with it the segment.
    Header(HeaderError),
    /// A part of the header page is bad, but its copy is good.
    HeaderPart,
    /// The file's name says another base than its header.
    Name,
    /// Whole segments are gone, as ordinals say.
    Segments,
}

impl Cause {
    /// Whether this is damage, or only what a power cut may take.
    pub fn is_damage(self) -> bool {
        self != Cause::Torn
    }

    /// In a few words.
    pub fn text(self) -> String {
        match self {
            Cause::Torn => "torn by a power cut above what was synced".into(),
            Cause::Records => "records bad or missing".into(),
            Cause::Header(error) => error.to_string(),
            Cause::HeaderPart => "a part of the header page is bad, its copy is good".into(),
            Cause::Name => "the header says another base than the name".into(),
            Cause::Segments => "segments are missing before this one".into(),
        }
    }
}

/// Why the log cannot be read on.
#[derive(Debug, Error)]
pub enum LogError {
    /// The disk.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// Written by a later version: nothing is skipped that a newer program can read.
    #[error("cannot read segment {}", path.display())]
    Version {
        /// The segment.
        path: PathBuf,
        /// Which version.
        source: HeaderError,
    },
    /// The log is shorter than what was compacted.
    #[error("the log in {} ends before position {position}, up to which it was compacted: is this other data?", folder.display())]
    EndsBefore {
        /// The log's folder.
        folder: PathBuf,
        /// The committed position.
        position: u64,
    },
    /// The segment is another than the one compacted before.
    #[error("segment {} is not the one that was compacted up to position {position}: is this other data?", path.display())]
    OtherLog {
        /// The segment.
        path: PathBuf,
        /// The committed position.
        position: u64,
    },
}

/// The bases of all segments, in order. A folder that does not exist has none.
pub fn bases(folder: &Path) -> Result<Vec<u64>, StorageError> {
    Ok(in_order(&names(folder)?, layout::segment_base))
}

/// The same, but for those behind one that has no name: a power cut took it, since they are begun in their order, and the
/// collector gives it back when it is started. Says which one that is.
fn bases_up_to_a_lost_name(folder: &Path) -> Result<(Vec<u64>, Option<u64>), StorageError> {
    let names = names(folder)?;
    let mut bases = in_order(&names, layout::segment_base);
    let new = in_order(&names, layout::new_segment_base);
    let lost = new.into_iter().find(|base| !bases.contains(base) && bases.last().is_some_and(|last| base < last));
    bases.retain(|base| lost.is_none_or(|lost| *base < lost));
    Ok((bases, lost))
}

fn names(folder: &Path) -> Result<Vec<OsString>, StorageError> {
    match storage::list(folder) {
        Err(error) if error.is_not_found() => Ok(Vec::new()),
        names => names,
    }
}

fn in_order(names: &[OsString], base: impl Fn(&str) -> Option<u64>) -> Vec<u64> {
    let mut bases: Vec<u64> = names.iter().filter_map(|name| base(name.to_str()?)).collect();
    bases.sort_unstable();
    bases
}

#[cfg(test)]
mod tests;
