//! One segment's file: its header page and its bytes, by `pread`.
//!
//! The rule: a header page is believed as it is read, and what looks damaged in it is looked at again, because
//! the collector may be writing just that mark.

use std::path::Path;

use tallylight_proto::layout;
use tallylight_proto::ledger;
use tallylight_proto::record::{self, Record};
use tallylight_proto::segment::{
    Found, Framing, HEADER_LEN, HeaderError, HeaderPage, MARK_WORDS, Mark, Scanner, ahead_of,
};
use tallylight_proto::time::Millis;

use crate::storage::{ReadFile, StorageError};

/// How often a page is read before a part of it counts as damaged. A mark is [`MARK_WORDS`] stores, so one read
/// seldom falls between two of them, and so many reads do not.
const LOOKS: usize = 2 + MARK_WORDS;

/// A segment opened for reading.
#[derive(Debug)]
pub struct SegmentFile {
    /// As its name says.
    pub base: u64,
    file: ReadFile,
}

impl SegmentFile {
    /// Opens the segment with this base.
    pub fn open(folder: &Path, base: u64) -> Result<Self, StorageError> {
        let file = ReadFile::open(&folder.join(layout::segment(base)))?;
        file.read_by_the_page();
        Ok(Self { base, file })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Its header page, now.
    pub fn page(&self) -> Result<Result<HeaderPage, HeaderError>, StorageError> {
        let mut page = self.page_once()?;
        for _ in 1..LOOKS {
            let damaged = match &page {
                Ok(read) if read.damaged.is_empty() => break,
                Ok(read) => read.damaged.clone(),
                Err(_) => Vec::new(),
            };
            page = self.page_once()?;
            if let Ok(read) = &mut page
                && !damaged.is_empty()
            {
                // only what is bad each time
                read.damaged.retain(|part| damaged.contains(part));
            }
        }
        Ok(page)
    }

    fn page_once(&self) -> Result<Result<HeaderPage, HeaderError>, StorageError> {
        let mut bytes = [0; HEADER_LEN];
        let len = self.file.read_up_to(&mut bytes, 0)?;
        Ok(HeaderPage::decode(&bytes[..len]))
    }

    /// Fills as much of the buffer as there is from this offset.
    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, StorageError> {
        ahead_of(offset, buffer.len()).into_iter().for_each(|range| self.file.fetch(range));
        self.file.read_up_to(buffer, offset)
    }

    /// When its first record was written; nothing if there is none. Its header may be older: segments are prepared.
    pub fn begun_at(&self, page: &HeaderPage) -> Result<Option<Millis>, StorageError> {
        let mut scanner = self.scanner(page, end_mark(page).length);
        while let Some(found) = scanner.next(|offset, buffer| self.read(offset, buffer))? {
            let Found::Record(framed) = found else { continue };
            match record::decode(framed.payload) {
                Ok(Record::Ledger(ledger)) => return Ok(Some(ledger.at)),
                Ok(Record::Event(event)) => return Ok(Some(event.received_at)),
                Err(_) => {}
            }
        }
        Ok(None)
    }

    /// Whether a ledger with all sources is in it, and on disk.
    pub fn carries_the_ledger(&self, page: &HeaderPage) -> Result<bool, StorageError> {
        ledger::is_carried_by(self.scanner(page, page.whole_below()), |offset, buffer| self.read(offset, buffer))
    }

    fn scanner(&self, page: &HeaderPage, until: u64) -> Scanner {
        Scanner::new(Framing::new(page.header.salt, self.base), first_mark(page), until, None)
    }

    /// Puts on disk what the collector has written so far, so that no power cut takes back what is published.
    pub fn sync(&self) -> Result<(), StorageError> {
        self.file.sync()
    }
}

/// Where the records of a segment end for now, by its marks.
pub(super) fn end_mark(page: &HeaderPage) -> Mark {
    page.sealed.or(page.committed.max(page.synced)).unwrap_or(first_mark(page))
}

/// Where they begin.
fn first_mark(page: &HeaderPage) -> Mark {
    Mark { length: HEADER_LEN as u64, ordinal: page.header.first_ordinal }
}
