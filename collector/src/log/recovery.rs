//! What a crash left becomes sealed segments again, before anything is appended.
//!
//! Below the synced mark everything must be whole; what is not is damage, for the compactor to report. Above it
//! each whole record is kept, the holes between them are written down as torn, and the segment is sealed behind
//! the last. Pages reach the disk in any order, so only checksums are believed, and marks only for how much there
//! once was. The log then goes on in a new segment: no position is used twice.
//!
//! Dying here at any step, and again, changes nothing: a segment is not sealed before all else that is said of it
//! is on disk.

use std::path::Path;

use tallylight_proto::ledger::{self, Counts, Ledger};
use tallylight_proto::record::{self, Record};
use tallylight_proto::segment::{
    Found, Framing, Gap, HEADER_LEN, Header, HeaderPage, Holes, Mark, Scanner, UNKNOWN_ORDINAL, framed_len,
};
use tallylight_proto::sources::{Figures, Sources};
use tallylight_proto::{DatagramRefusal, Event, event::Origin, layout};
use tracing::{error, info, warn};

use super::LogError;
use super::active::Shared;
use super::storage::{self, Exclusive, MappedFile, StorageError};
use tallylight_host::clock;

/// Added to the base of a last segment whose header is lost, and with it its capacity: more than any has.
const LOST_HEADER_JUMP: u64 = 1 << 40;

/// The time of the sources while an earlier life is read: theirs stands still.
const BEFORE_TIME: u64 = 0;

/// Where the log goes on, and what was found out on the way.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    /// The base of the next segment.
    pub next_base: u64,
    /// The ordinal of the next record.
    pub next_ordinal: u64,
    /// The ledger as of the last record.
    pub counts: Counts,
    /// How far the sources of framed datagrams had got by then.
    pub sources: Sources,
    /// Segments that had to be sealed.
    pub sealed: u64,
    /// Records that a power cut took from above the synced mark, as far as it is known.
    pub torn: u64,
    /// The last life did not end in order.
    pub was_killed: bool,
    /// When that life began.
    life: i64,
}

/// Seals what is not sealed in the log's folder.
pub(super) fn recover(folder: &Path) -> Result<Recovered, LogError> {
    let names = storage::list(folder)?;
    let bases = settle_new(folder, &names)?;
    let mut recovered = Recovered::default();
    let mut tail = tail(folder, &bases)?.into_iter().peekable();
    while let Some(Left { base, file, page }) = tail.next() {
        let Some(page) = page else {
            error!(segment = base, "both copies of a segment's header are damaged: its records are lost");
            recovered.next_base = base + LOST_HEADER_JUMP;
            continue;
        };
        recovered.next_base = base + page.header.capacity.max(file.size());
        let next = tail.peek().map(first_ordinal).transpose()?;
        recover_segment(&file, page, next, &mut recovered)?;
    }
    storage::sync_folder(folder)?;
    Ok(recovered)
}

/// The segments there are, in their order. One that was begun, but lost its name, gets it back; what of it is on disk is then
/// looked at as in any other. One that was only prepared is removed.
fn settle_new(folder: &Path, names: &[String]) -> Result<Vec<u64>, LogError> {
    let mut bases: Vec<u64> = names.iter().filter_map(|name| layout::segment_base(name)).collect();
    let new: Vec<u64> = names.iter().filter_map(|name| layout::new_segment_base(name)).collect();
    let mut last_begun = bases.iter().max().copied();
    for base in &new {
        if is_begun(folder, *base)? {
            last_begun = last_begun.max(Some(*base));
        }
    }
    for base in new {
        let path = folder.join(layout::new_segment(base));
        // they are begun in their order: all before one that was, though not a byte of what was written there is on disk
        if last_begun.is_some_and(|last| base <= last) && !bases.contains(&base) {
            storage::rename(&path, &folder.join(layout::segment(base)))?;
            bases.push(base);
        } else {
            storage::remove(&path)?;
        }
    }
    bases.sort_unstable();
    Ok(bases)
}

/// Whether the header of a segment that has not its name yet says that it was begun.
fn is_begun(folder: &Path, base: u64) -> Result<bool, StorageError> {
    // an empty file cannot be mapped
    let page = match MappedFile::open(&folder.join(layout::new_segment(base))) {
        Ok(file) => header(&file, base)?,
        Err(_) => None,
    };
    Ok(page.is_some_and(|page| page.header.first_ordinal != UNKNOWN_ORDINAL))
}

/// A segment as an earlier life left it.
struct Left {
    base: u64,
    file: Exclusive,
    /// None if both copies of the header are damaged.
    page: Option<HeaderPage>,
}

/// The segments from the last one on that is sealed and says how ledger and sources stand: all before it are sealed too.
fn tail(folder: &Path, bases: &[u64]) -> Result<Vec<Left>, LogError> {
    let mut tail = Vec::new();
    for &base in bases.iter().rev() {
        let path = folder.join(layout::segment(base));
        let opened = match storage::size(&path) {
            // an empty one cannot be mapped, and says nothing
            Ok(0) => continue,
            size => size.and_then(|_| MappedFile::open(&path)),
        };
        let file = match opened {
            // the compactor has just released it
            Err(error) if error.source.kind() == std::io::ErrorKind::NotFound => break,
            opened => opened?,
        };
        // also of a sealed one: the sync of its seal may be what failed
        file.read_from_disk()?;
        let page = header(&file, base)?;
        let is_last = match &page {
            Some(page) if page.sealed.is_some() => {
                ledger::is_carried_by(scanner(&file, page), |at, buffer| file.read_at(at, buffer))?
            }
            _ => false,
        };
        tail.insert(0, Left { base, file, page });
        if is_last {
            break;
        }
    }
    Ok(tail)
}

fn header(file: &Exclusive, base: u64) -> Result<Option<HeaderPage>, StorageError> {
    let mut page = vec![0; HEADER_LEN];
    let len = file.read_at(0, &mut page)?;
    Ok(HeaderPage::decode(&page[..len]).ok().filter(|page| page.header.base == base))
}

/// What a segment begins with: as its header says, or else the record right behind that.
fn first_ordinal(left: &Left) -> Result<u64, StorageError> {
    let Some(page) = &left.page else { return Ok(UNKNOWN_ORDINAL) };
    if page.header.first_ordinal != UNKNOWN_ORDINAL {
        return Ok(page.header.first_ordinal);
    }
    let first = scanner(&left.file, page)
        .next(|offset, buffer| left.file.read_at(offset, buffer))?
        .and_then(|found| if let Found::Record(framed) = found { Some(framed.ordinal) } else { None });
    Ok(first.unwrap_or(UNKNOWN_ORDINAL))
}

/// Over all records that may be in it: up to the seal, or the end of the file.
fn scanner(file: &Exclusive, page: &HeaderPage) -> Scanner {
    let start = Mark { length: HEADER_LEN as u64, ordinal: page.header.first_ordinal };
    let framing = Framing::new(page.header.salt, page.header.base);
    let until = page.sealed.map_or(file.size(), |mark| mark.length);
    Scanner::new(framing, start, until, page.sealed.map(|mark| mark.ordinal))
}

/// Reads one segment to its end, and seals it if it is not. `next` is the first ordinal of the one behind it, if there is
/// one.
fn recover_segment(
    file: &Exclusive,
    page: HeaderPage,
    next: Option<u64>,
    recovered: &mut Recovered,
) -> Result<(), LogError> {
    let whole_below = page.whole_below();
    let mut found = Contents::new(&page, recovered.next_ordinal);
    let mut scanner = scanner(file, &page);
    while let Some(item) = scanner.next(|offset, buffer| file.read_at(offset, buffer))? {
        match item {
            Found::Gap(gap) => found.gap = Some(gap),
            Found::Record(framed) => {
                found.record(framed.end - page.header.base, framed.ordinal, whole_below);
                count(framed.payload, recovered);
            }
        }
    }
    sum_up(recovered);
    if let Some(sealed) = page.sealed {
        if !page.is_sealed_twice {
            // killed between the two
            let _ = Shared::recovered(file.share(), page.header, sealed)?.seal(&Holes::default())?;
        }
        recovered.next_ordinal = sealed.ordinal;
        return Ok(());
    }
    let known = page.committed.max(page.synced).filter(|mark| mark.length > found.end.length);
    if let Some(mark) = known {
        found.lost_up_to(mark, whole_below);
    }
    let header = Header { first_ordinal: found.first_ordinal, ..page.header };
    match next {
        Some(UNKNOWN_ORDINAL) => {}
        Some(ordinal) => found.lost_up_to(Mark { length: found.end.length, ordinal }, whole_below),
        None => carry_ledger(file, &header, &mut found.end, recovered),
    }
    Shared::recovered(file.share(), header, found.end)?.seal(&found.holes)?;
    if found.torn > 0 {
        warn!(torn = found.torn, "a power cut took records that no synced acknowledgement stands for");
    }
    info!(segment = page.header.base, length = found.end.length, "sealed a segment that an earlier life left open");
    recovered.sealed += 1;
    recovered.torn += found.torn;
    recovered.next_ordinal = found.end.ordinal;
    Ok(())
}

/// What was found in an unsealed segment.
struct Contents {
    first_ordinal: u64,
    /// Behind the last whole record, or what is known to have stood behind it.
    end: Mark,
    holes: Holes,
    torn: u64,
    /// The hole found last. It is one only if a whole record, or a mark, shows that something was there.
    gap: Option<Gap>,
}

impl Contents {
    /// `expected` is the ordinal behind the segment before this one.
    fn new(page: &HeaderPage, expected: u64) -> Self {
        let first_ordinal = Some(page.header.first_ordinal).filter(|known| *known != UNKNOWN_ORDINAL);
        let end = Mark { length: HEADER_LEN as u64, ordinal: first_ordinal.unwrap_or(expected) };
        // a recovery that was cut short may have got as far as to write some down
        Self { first_ordinal: end.ordinal, end, holes: page.holes.clone(), torn: 0, gap: None }
    }

    fn record(&mut self, end: u64, ordinal: u64, whole_below: u64) {
        match self.gap.take() {
            // below the synced mark it is damage, and must look like it
            Some(gap) if gap.from >= whole_below => {
                self.push_hole(gap.from, gap.to);
                self.torn += ordinal.saturating_sub(self.end.ordinal);
            }
            Some(_) => {}
            // the header was lost with its first ordinal: this record has it
            None if self.end.length == HEADER_LEN as u64 => self.first_ordinal = ordinal,
            None => {}
        }
        self.end = Mark { length: end, ordinal: ordinal + 1 };
    }

    fn push_hole(&mut self, from: u64, to: u64) {
        if !self.holes.cover(from, to) {
            self.holes.push(from, to);
        }
    }

    /// There once were records up to this mark.
    fn lost_up_to(&mut self, mark: Mark, whole_below: u64) {
        if mark.ordinal > self.end.ordinal || mark.length > self.end.length {
            let from = self.end.length.max(whole_below.min(mark.length));
            self.push_hole(from, mark.length);
            self.torn += mark.ordinal.saturating_sub(self.end.ordinal);
            self.end = Mark { length: mark.length, ordinal: mark.ordinal.max(self.end.ordinal) };
        }
    }
}

/// What is known of each source is believed, and not a sum that a later record gives: a record that told of one of them may be
/// in a hole before it.
fn sum_up(recovered: &mut Recovered) {
    let Figures { lost, recovered: came_late, duplicate, stale, .. } = recovered.sources.sum();
    let datagrams = &mut recovered.counts.datagrams;
    (datagrams.lost, datagrams.recovered, datagrams.duplicate) = (lost, came_late, duplicate);
    datagrams.refused[DatagramRefusal::Stale.index()] = stale;
}

/// Carries the ledger on: a ledger record says what came before it, and each event behind it was received and logged.
fn count(payload: &[u8], recovered: &mut Recovered) {
    match record::decode(payload) {
        Ok(Record::Ledger(ledger)) => {
            recovered.counts = ledger.counts;
            recovered.was_killed = !ledger.closing;
            recovered.life = ledger.life;
            recovered.sources.apply(&ledger.marks, BEFORE_TIME);
        }
        Ok(Record::Event(event)) => count_event(&event, recovered),
        Err(error) => error!(%error, "a whole record cannot be read: was it written by a later version?"),
    }
    recovered.counts.datagrams.add(recovered.sources.take_counts());
}

fn count_event(event: &Event<'_>, recovered: &mut Recovered) {
    let counts = recovered.counts.front(event.front);
    counts.received += 1;
    counts.logged += 1;
    if let Some(Origin { number, is_last, place: _ }) = event.origin {
        recovered.sources.replay(number, is_last, BEFORE_TIME);
        recovered.counts.datagrams.received += u64::from(is_last);
    }
}

/// Writes the ledger, as it stands now, behind the last record of the log: so that it need not be pieced together
/// again, whichever segments are released meanwhile. Not through the map: there a full disk would be SIGBUS.
fn carry_ledger(file: &Exclusive, header: &Header, end: &mut Mark, recovered: &Recovered) {
    let Recovered { counts, life, .. } = *recovered;
    let mut payload = Vec::new();
    let marks = recovered.sources.all();
    record::encode_ledger(&Ledger { at: clock::now(), life, closing: false, counts, marks }, &mut payload);
    let mut framed = vec![0; framed_len(payload.len())];
    if end.length + framed.len() as u64 > file.size() {
        return;
    }
    Framing::new(header.salt, header.base).write(&mut framed, end.length, end.ordinal, &payload);
    match file.write_at(end.length, &framed) {
        Ok(()) => *end = Mark { length: end.length + framed.len() as u64, ordinal: end.ordinal + 1 },
        Err(error) => warn!(%error, "the ledger could not be carried on"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_that_is_released_while_it_is_looked_for_is_none_and_one_that_cannot_be_opened_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let base = 4096;
        assert!(tail(folder.path(), &[base]).unwrap().is_empty());
        std::fs::create_dir(folder.path().join(layout::segment(base))).unwrap();
        assert!(tail(folder.path(), &[base]).is_err());
    }
}
