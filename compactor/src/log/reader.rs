//! Walks over all segments from a place on.
//!
//! The rule: a segment is left for the next one only when it can get no more records. That is so when it is
//! sealed; when the next one begins with the ordinal that this one has come to; or when nobody is there to
//! seal it, because the collector is dead or long past it. Then the whole file is searched, not only what its
//! marks promise: after a power cut they may be older than the records.
//!
//! What is handed out for [`Purpose::Cover`] is on disk, and so is the begin of the segment that another one was left
//! for. As long as the collector may write to a segment, that is what it says: were it synced here and that failed, the cache, from
//! which mapped pages do not go, would hold what never got to the disk, and the next sync would say that all is well. A
//! segment of a collector that is dead is synced here first. At the end of the log, a hole with nothing behind it is left alone:
//! whether it is one is only known when the collector has recovered.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use tallylight_proto::layout;
use tallylight_proto::segment::{
    Found, Framing, Gap, HEADER_LEN, HeaderError, HeaderPage, Mark, Scanner, UNKNOWN_ORDINAL,
};

use super::segment::{SegmentFile, end_mark};
use super::{Cause, Item, LogError, Lost, Place, bases, bases_up_to_a_lost_name};
use crate::lock;
use crate::storage::{self, StorageError};

/// What the reading is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To publish what is read. Segments do not go away, since only the compactor lets them.
    Cover,
    /// To look at it, perhaps while a compactor lets go of segments: one that does is skipped.
    Look,
}

/// How far a call of [`Reader::read`] came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It was told to stop.
    Paused,
    /// There is no more for now.
    AtEnd,
}

/// Reads the log from a place on.
pub struct Reader {
    /// `DATA/log`
    folder: PathBuf,
    /// The collector's lock, beside it.
    collector_lock: PathBuf,
    purpose: Purpose,
    /// Where the next record is looked for; none yet: at the beginning of the log.
    place: Option<Place>,
    /// The salt of the segment that the place lies in, once it is known.
    salt: Option<u64>,
    /// Segments there were at the last look.
    bases: Vec<u64>,
    current: Option<Current>,
    /// The end of the segment that was left for the next one.
    left: Option<(Place, u64)>,
    /// The beginning of the log, if it was read from there.
    begun: Option<(Place, u64)>,
    /// The header that was found unreadable at the end of the log: said once.
    said: Option<u64>,
    /// Up to where the log was committed when its end was left, since the collector had not synced it.
    unsynced: Option<u64>,
    /// Whether something was read since the last look that only this reader has synced.
    is_ahead_of_syncs: bool,
}

/// The segment being read.
struct Current {
    file: SegmentFile,
    page: HeaderPage,
    scanner: Scanner,
    /// The next segment's base, if this one will be left for it.
    leave_for: Option<u64>,
    /// Whether there will be no more records in it, so that a hole at its end is one.
    is_final: bool,
}

impl Reader {
    /// A reader of the log of this data folder, from a place on whose segment has this salt.
    pub fn new(data: &Path, purpose: Purpose, from: Option<(Place, u64)>) -> Self {
        Self {
            folder: data.join(layout::LOG),
            collector_lock: data.join(layout::LOCK),
            purpose,
            place: from.map(|(place, _)| place),
            salt: from.map(|(_, salt)| salt),
            bases: Vec::new(),
            current: None,
            left: None,
            begun: None,
            said: None,
            unsynced: None,
            is_ahead_of_syncs: false,
        }
    }

    /// Looks again at what there is. Nothing that is written afterwards is read before the next look.
    pub fn look(&mut self) -> Result<(), LogError> {
        self.current = None;
        self.unsynced = None;
        self.is_ahead_of_syncs = false;
        let lost_name;
        (self.bases, lost_name) = bases_up_to_a_lost_name(&self.folder)?;
        if let Some(base) = lost_name.filter(|_| !lock::is_held(&self.collector_lock)) {
            tracing::warn!(base, "a segment has lost its name: the log is read on when the collector has been started");
        }
        Ok(())
    }

    /// Up to where there was more when it came to what the collector had not synced yet; nothing, if it did not.
    pub fn unsynced(&self) -> Option<u64> {
        self.unsynced
    }

    /// Whether something was read since the last look that the collector had not said to be on disk before it died. It is, but
    /// a log that is set back to what the collector vouches for would not have it.
    pub fn is_ahead_of_syncs(&self) -> bool {
        self.is_ahead_of_syncs
    }

    /// Begins with the segment that holds this position, at its first record.
    pub fn skip_to(&mut self, position: u64) {
        let behind = self.bases.partition_point(|base| *base <= position);
        self.bases.drain(..behind.saturating_sub(1));
    }

    /// The place reached and the salt of its segment; nothing as long as there is no log. Until the next segment is
    /// begun that is the end of the last one.
    pub fn place(&self) -> Option<(Place, u64)> {
        self.place.zip(self.salt).or(self.left)
    }

    /// Where the log began, if it was read from its beginning.
    pub fn begun(&self) -> Option<(Place, u64)> {
        self.begun
    }

    /// Hands out what stands in the log until there is no more or `take` breaks off.
    pub fn read<E: From<LogError>>(
        &mut self,
        mut take: impl FnMut(Item<'_>) -> Result<ControlFlow<()>, E>,
    ) -> Result<Progress, E> {
        loop {
            if self.current.is_none() {
                self.current = self.open_next(&mut take)?;
            }
            let Some(current) = &mut self.current else { return Ok(Progress::AtEnd) };
            let drained = current.drain(self.purpose, &mut take)?;
            let base = current.file.base;
            let mark = match drained {
                Drained::Paused(mark) | Drained::ToEnd(mark) => mark,
                Drained::Recycled => {
                    self.place = Some(Place { position: base + HEADER_LEN as u64, ordinal: None });
                    self.forget(base);
                    continue;
                }
            };
            let place = Place { position: base + mark.length, ordinal: Some(mark.ordinal) };
            self.place = Some(place);
            if matches!(drained, Drained::Paused(_)) {
                return Ok(Progress::Paused);
            }
            let Some(next) = current.leave_for else { return Ok(Progress::AtEnd) };
            if self.purpose == Purpose::Cover && !self.make_durable(next).map_err(LogError::from)? {
                self.unsynced = Some(self.committed_to(next).map_err(LogError::from)?);
                return Ok(Progress::AtEnd);
            }
            self.go_to(next, Some(mark.ordinal));
        }
    }

    /// Puts a segment's header and its name on disk. A power cut that took them would have the collector go on in the
    /// segment before it, which is left for good. False: that is left to the collector, which will.
    fn make_durable(&self, base: u64) -> Result<bool, StorageError> {
        let file = SegmentFile::open(&self.folder, base)?;
        // a synced mark was written after a sync; one more would have all that is cached of it read from disk again
        if !file.page()?.is_ok_and(|page| page.synced.is_some()) {
            if self.is_the_collectors(self.bases.partition_point(|other| *other < base))? {
                return Ok(false);
            }
            file.sync()?;
        }
        storage::sync_dir(&self.folder)?;
        Ok(true)
    }

    /// Up to where the log is committed, which is somewhere in this segment or behind it.
    fn committed_to(&self, base: u64) -> Result<u64, StorageError> {
        let base = self.bases.last().copied().unwrap_or(base);
        let page = SegmentFile::open(&self.folder, base)?.page()?;
        Ok(base + page.map_or(HEADER_LEN as u64, |page| end_mark(&page).length))
    }

    /// Whether the collector may have yet to sync a segment, by its place in `bases`, or to write to it: it is there, and has
    /// not synced any of those far behind, which it does in their order.
    fn is_the_collectors(&self, at: usize) -> Result<bool, StorageError> {
        if !lock::is_held(&self.collector_lock) {
            return Ok(false);
        }
        for base in self.bases.iter().skip(at + 2) {
            // one that is gone was covered
            let Some(file) = self.open(*base)? else { return Ok(false) };
            if file.page()?.is_ok_and(|page| page.synced.is_some() || page.sealed.is_some()) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// How many bytes there are that were not read yet.
    pub fn bytes_behind(&self) -> Result<u64, LogError> {
        let place = self.place.map_or(0, |place| place.position);
        let bases = bases(&self.folder)?;
        let mut behind = 0;
        for (at, base) in bases.iter().enumerate() {
            if bases.get(at + 1).is_some_and(|next| *next <= place) {
                continue;
            }
            let Ok(page) = SegmentFile::open(&self.folder, *base)?.page()? else { continue };
            let from = place.max(base + HEADER_LEN as u64);
            behind += (base + end_mark(&page).length).saturating_sub(from);
        }
        Ok(behind)
    }

    /// Opens the segment in which the place lies.
    fn open_next<E: From<LogError>>(
        &mut self,
        take: &mut impl FnMut(Item<'_>) -> Result<ControlFlow<()>, E>,
    ) -> Result<Option<Current>, E> {
        loop {
            let Some(at) = self.segment_of_place()? else { return Ok(None) };
            let (base, next) = (self.bases[at], self.bases.get(at + 1).copied());
            let Some(file) = self.open(base).map_err(LogError::from)? else {
                self.place = Some(Place { position: base + HEADER_LEN as u64, ordinal: None });
                self.forget(base);
                continue;
            };
            let cause = match file.page().map_err(LogError::from)? {
                Ok(page) if page.header.base == base => {
                    let capacity_end = base.saturating_add(page.header.capacity);
                    if let Some(place) = self.place.filter(|place| place.position >= capacity_end) {
                        let Some(next) = next else {
                            // the next one was begun and not used, and a collector that starts makes it again
                            let is_at_end = place.position <= capacity_end + HEADER_LEN as u64;
                            if is_at_end || self.purpose == Purpose::Look {
                                return Ok(None);
                            }
                            return Err(self.ends_before().into());
                        };
                        self.go_to(next, place.ordinal);
                        continue;
                    }
                    return self.begin(file, page, at, take).map(Some);
                }
                Ok(_) => Cause::Name,
                Err(source @ HeaderError::Version { .. }) => {
                    return Err(LogError::Version { path: file.path().to_owned(), source }.into());
                }
                Err(error) => Cause::Header(error),
            };
            let Some(next) = next else {
                // the collector may yet recover it: nothing is decided
                if self.said.replace(base) != Some(base) {
                    let end = base + HEADER_LEN as u64;
                    let _ = take(Item::Lost(Lost { base, position: base, end, records: 0, cause }))?;
                }
                return Ok(None);
            };
            let next_ordinal = self.first_ordinal(next).map_err(LogError::from)?;
            // a log begins at 0, and so do its ordinals
            let begin = (base == 0 && self.place.is_none()).then_some(0);
            let expected = self.place.map_or(begin, |place| place.ordinal);
            let (from, to) = expected.zip(next_ordinal).unwrap_or_default();
            if from > to {
                let _ = take(Item::SetBack { records: from - to })?;
            }
            let records = to.saturating_sub(from);
            let _ = take(Item::Lost(Lost { base, position: base, end: next, records, cause }))?;
            self.go_to(next, next_ordinal.or(expected));
        }
    }

    /// The place in `bases` of the segment to read next.
    fn segment_of_place(&self) -> Result<Option<usize>, LogError> {
        let Some(place) = self.place else { return Ok((!self.bases.is_empty()).then_some(0)) };
        if self.bases.is_empty() && self.purpose == Purpose::Cover {
            return Err(self.ends_before());
        }
        let behind = self.bases.partition_point(|base| *base <= place.position);
        Ok(match behind {
            0 if self.bases.is_empty() => None,
            0 => Some(0),
            behind => Some(behind - 1),
        })
    }

    fn ends_before(&self) -> LogError {
        let position = self.place.map_or(0, |place| place.position);
        LogError::EndsBefore { folder: self.folder.clone(), position }
    }

    /// Begins or goes on with a segment.
    fn begin<E: From<LogError>>(
        &mut self,
        file: SegmentFile,
        page: HeaderPage,
        at: usize,
        take: &mut impl FnMut(Item<'_>) -> Result<ControlFlow<()>, E>,
    ) -> Result<Current, E> {
        let base = file.base;
        let start = base + HEADER_LEN as u64;
        // of a segment of which nothing was read, the collector may have made another after a crash
        let is_inside = self.place.is_some_and(|place| place.position > start);
        if is_inside && self.salt.is_some_and(|salt| salt != page.header.salt) {
            let position = self.place.map_or(0, |place| place.position);
            return Err(LogError::OtherLog { path: file.path().to_owned(), position }.into());
        }
        // what is wrong with it is told once, and not at each look at where it begins
        let is_begun = self.salt == Some(page.header.salt);
        for part in page.damaged.iter().filter(|_| !is_begun || self.purpose == Purpose::Look) {
            let position = base + *part as u64;
            let lost = Lost { base, position, end: position + 1, records: 0, cause: Cause::HeaderPart };
            let _ = take(Item::Lost(lost))?;
        }
        let expected = self.place.and_then(|place| place.ordinal);
        let first = (page.header.first_ordinal != UNKNOWN_ORDINAL).then_some(page.header.first_ordinal);
        let from = match self.place {
            Some(place) if place.position > start => {
                Mark { length: place.position - base, ordinal: expected.or(first).unwrap_or(0) }
            }
            _ => {
                let ordinal = match (expected, first) {
                    (None, None) => probe(&file, &page)?,
                    (Some(expected), Some(first)) if first > expected => {
                        let lost = Lost {
                            base,
                            position: self.place.map_or(base, |place| place.position.min(base)),
                            end: base,
                            records: first - expected,
                            cause: Cause::Segments,
                        };
                        let _ = take(Item::Lost(lost))?;
                        first
                    }
                    // all of it was lost, and that did not take a byte
                    (Some(expected), Some(first)) if first < expected && is_begun => expected,
                    (Some(expected), Some(first)) if first < expected => {
                        tracing::warn!(
                            segment = %file.path().display(), first, expected,
                            "the log was set back by a power cut: ordinals are used again"
                        );
                        let _ = take(Item::SetBack { records: expected - first })?;
                        first
                    }
                    (expected, first) => first.or(expected).unwrap_or(0),
                };
                Mark { length: HEADER_LEN as u64, ordinal }
            }
        };
        let place = Place { position: base + from.length, ordinal: Some(from.ordinal) };
        if self.place.replace(place).is_none() {
            self.begun = Some((place, page.header.salt));
        }
        self.salt = Some(page.header.salt);

        let (mut end, mut leave_for, mut is_final) = self.end_of(&file, &page, at).map_err(LogError::from)?;
        let synced = page.synced.unwrap_or(Mark { length: HEADER_LEN as u64, ordinal: from.ordinal });
        let is_synced = page.sealed.is_some() || synced.length >= end.length;
        if self.purpose == Purpose::Cover && !is_synced && end.length > from.length {
            if self.is_the_collectors(at).map_err(LogError::from)? {
                self.unsynced = Some(self.committed_to(base).map_err(LogError::from)?);
                (end, leave_for, is_final) = (synced, None, false);
            } else {
                file.sync().map_err(LogError::from)?;
                self.is_ahead_of_syncs = true;
            }
        }
        let end_ordinal = (end.ordinal != UNKNOWN_ORDINAL).then_some(end.ordinal);
        let framing = Framing::new(page.header.salt, base);
        let scanner = Scanner::new(framing, from, end.length.max(from.length), end_ordinal);
        Ok(Current { file, page, scanner, leave_for, is_final })
    }

    /// Up to where a segment is read, which one it is left for, and whether that end is final.
    fn end_of(
        &self,
        file: &SegmentFile,
        page: &HeaderPage,
        at: usize,
    ) -> Result<(Mark, Option<u64>, bool), StorageError> {
        let end = end_mark(page);
        let next = self.bases.get(at + 1).copied();
        if page.sealed.is_some() {
            return Ok((end, next, true));
        }
        let Some(next) = next else { return Ok((end, None, false)) };
        let next_ordinal = self.first_ordinal(next)?;
        if next_ordinal == Some(end.ordinal) {
            return Ok((end, Some(next), true));
        }
        if self.is_the_collectors(at)? {
            return Ok((end, None, false));
        }
        tracing::warn!(segment = %file.path().display(), "nobody will seal this segment: all of it is searched");
        // where the next one does not say it, the marks say how many there once were, as they do to the collector
        let ordinal = next_ordinal.unwrap_or(end.ordinal);
        Ok((Mark { length: page.header.capacity.max(end.length), ordinal }, Some(next), true))
    }

    /// A segment; nothing if it went away while it was only looked at.
    fn open(&self, base: u64) -> Result<Option<SegmentFile>, StorageError> {
        match SegmentFile::open(&self.folder, base) {
            Err(error) if error.is_not_found() && self.purpose == Purpose::Look => Ok(None),
            opened => opened.map(Some),
        }
    }

    /// The ordinal that a segment begins with, as its header says or else the record right behind that. It is what the
    /// collector's recovery goes by.
    fn first_ordinal(&self, base: u64) -> Result<Option<u64>, StorageError> {
        let Some(file) = self.open(base)? else { return Ok(None) };
        let Ok(page) = file.page()? else { return Ok(None) };
        if page.header.first_ordinal != UNKNOWN_ORDINAL {
            return Ok(Some(page.header.first_ordinal));
        }
        let begin = Mark { length: HEADER_LEN as u64, ordinal: UNKNOWN_ORDINAL };
        let framing = Framing::new(page.header.salt, base);
        let mut scanner = Scanner::new(framing, begin, page.header.capacity, None);
        let first = scanner.next(|offset, buffer| file.read(offset, buffer))?;
        Ok(first.and_then(|found| if let Found::Record(framed) = found { Some(framed.ordinal) } else { None }))
    }

    fn go_to(&mut self, base: u64, ordinal: Option<u64>) {
        self.left = self.place();
        self.current = None;
        self.salt = None;
        self.place = Some(Place { position: base, ordinal });
    }

    /// A segment that went away is no longer there.
    fn forget(&mut self, base: u64) {
        self.current = None;
        self.salt = None;
        self.bases.retain(|other| *other != base);
    }
}

/// How far a segment was read: a mark is an offset and the next ordinal.
enum Drained {
    Paused(Mark),
    ToEnd(Mark),
    /// The file has got another use while it was read.
    Recycled,
}

impl Current {
    fn drain<E: From<LogError>>(
        &mut self,
        purpose: Purpose,
        take: &mut impl FnMut(Item<'_>) -> Result<ControlFlow<()>, E>,
    ) -> Result<Drained, E> {
        // a hole is told when it is known whether a record follows
        let mut hole: Option<(Gap, Mark)> = None;
        let base = self.file.base;
        loop {
            let before = self.scanner.next_mark();
            let found = self.scanner.next(|offset, buffer| self.file.read(offset, buffer));
            match found.map_err(LogError::from)? {
                Some(Found::Gap(gap)) => {
                    let page = self.file.page().map_err(LogError::from)?;
                    if purpose == Purpose::Look && page.is_ok_and(|page| page.header.salt != self.page.header.salt) {
                        return Ok(Drained::Recycled);
                    }
                    hole = Some((gap, Mark { length: gap.from, ordinal: before.ordinal }));
                }
                Some(Found::Record(record)) => {
                    if let Some((gap, _)) = hole.take() {
                        let _ = take(Item::Lost(lost(base, &self.page, gap)))?;
                    }
                    if take(Item::Record(record))?.is_break() {
                        return Ok(Drained::Paused(self.scanner.next_mark()));
                    }
                }
                None => break,
            }
        }
        let end = self.scanner.next_mark();
        let Some((mut gap, before)) = hole else { return Ok(Drained::ToEnd(end)) };
        // what lies behind the marks was searched, too, and is no part of it
        let marked = end_mark(&self.page).length;
        if gap.from < marked {
            gap.to = gap.to.min(marked);
        }
        // behind the records of a segment that nobody sealed lies what the file held before
        let is_nothing = self.page.sealed.is_none() && gap.records.is_none_or(|records| records == 0);
        if self.is_final || purpose == Purpose::Look {
            if !is_nothing {
                let _ = take(Item::Lost(lost(base, &self.page, gap)))?;
            }
            return Ok(Drained::ToEnd(end));
        }
        Ok(Drained::ToEnd(before))
    }
}

fn lost(base: u64, page: &HeaderPage, gap: Gap) -> Lost {
    let is_torn = page.holes.cover(gap.from, gap.to) || gap.from >= page.whole_below();
    let cause = if is_torn { Cause::Torn } else { Cause::Records };
    Lost { base, position: base + gap.from, end: base + gap.to, records: gap.records.unwrap_or(0), cause }
}

/// The ordinal of the first whole record of a segment that does not say it.
fn probe(file: &SegmentFile, page: &HeaderPage) -> Result<u64, LogError> {
    let begin = Mark { length: HEADER_LEN as u64, ordinal: 0 };
    let mut scanner = Scanner::new(Framing::new(page.header.salt, file.base), begin, end_mark(page).length, None);
    let found = scanner.next(|offset, buffer| file.read(offset, buffer))?;
    Ok(match found {
        Some(Found::Gap(gap)) => gap.records.unwrap_or(0),
        _ => 0,
    })
}
