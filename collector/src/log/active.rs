//! A segment from its preparation to its seal: prepared, active, closed are three types.

use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tallylight_host::disk::PAGE;
use tallylight_proto::layout;
use tallylight_proto::segment::{
    Framing, HEADER_LEN, HOLES_OFFSET, Header, Holes, Mark, MarkKind, SECTOR_LEN, framed_len,
};

use super::storage::{Exclusive, MappedFile, StorageError};

/// Touched at a time by a writer that the supply touches nothing ahead of, or that has overtaken it: little, since a sync writes what is
/// touched as it is.
const CHUNK: u64 = 16 << 10;
/// From so many bytes on they are taken out of the map before they are synced.
const LET_GO: u64 = 64 << 10;
/// Bytes at the end of a segment that events leave to ledger records: so that what is shed while the disk is full, and
/// the end of a life, can still be told.
const LEDGER_ROOM: u64 = 32 * 1024;

/// A segment that is allocated, mapped and has its header, but no record and not yet its name.
#[derive(Debug)]
pub(super) struct Prepared {
    file: Exclusive,
    header: Header,
    touched: u64,
}

/// The segment that the writer appends to.
#[derive(Debug)]
pub(super) struct Active {
    file: Exclusive,
    framing: Framing,
    /// Behind the last record written, which may be further than what is committed.
    end: Mark,
    /// Up to here pages are known to be touched.
    touched: u64,
    shared: Arc<Shared>,
}

/// What the syncer and the supply see of a segment.
#[derive(Debug)]
pub(super) struct Shared {
    file: Arc<MappedFile>,
    header: Header,
    committed: Mutex<Mark>,
    /// Up to where pages were touched before anything was written to them.
    touched: AtomicU64,
    /// Up to where pages were taken out of the map, since nothing will be written to them again.
    let_go: AtomicU64,
    /// Which slots of the marks were written last; the writer's and the syncer's own, in this order.
    slots: [AtomicUsize; MarkKind::ALL.len()],
}

impl Prepared {
    /// Writes a fresh header over whatever an earlier use left, and puts it on disk.
    pub fn new(file: Exclusive, header: Header) -> Result<Self, StorageError> {
        let mut page = vec![0; HEADER_LEN];
        write_sectors(&mut page, &header);
        file.write_at(0, &page)?;
        file.sync()?;
        Ok(Self { file, header, touched: 0 })
    }

    /// Where its records will begin in the log.
    pub fn base(&self) -> u64 {
        self.header.base
    }

    /// Touches the first pages of it.
    pub fn touch(&mut self, len: u64) {
        self.file.populate(0, len);
        self.touched = len;
    }

    /// Removes it unused.
    pub fn discard(self) -> Result<(), StorageError> {
        super::storage::remove(self.file.path())
    }

    /// Gives it its first ordinal and its name. Both reach the disk with the first sync, for which the syncer
    /// also syncs the folder; recovery knows a begun segment that has lost its name.
    pub fn begin(self, folder: &Path, first_ordinal: u64) -> Result<Active, StorageError> {
        let header = Header { first_ordinal, ..self.header };
        let mut page = vec![0; HEADER_LEN];
        let end = Mark { length: HEADER_LEN as u64, ordinal: first_ordinal };
        write_sectors(&mut page, &header);
        end.write(&mut page, header.salt, MarkKind::Committed, 0);
        self.file.write_at(0, &page)?;
        let file = self.file.renamed(&folder.join(layout::segment(header.base)))?;
        let framing = Framing::new(header.salt, header.base);
        let shared = Shared::new(file.share(), header, end);
        shared.touched.store(self.touched, Ordering::Relaxed);
        Ok(Active { file, framing, end, touched: self.touched, shared: Arc::new(shared) })
    }
}

impl Active {
    /// Whether an event's payload of this length fits behind the last record.
    pub fn has_room(&self, payload_len: usize) -> bool {
        framed_len(payload_len) as u64 <= self.room()
    }

    /// Bytes for events behind the last record.
    pub fn room(&self) -> u64 {
        (self.file.size() - self.end.length).saturating_sub(LEDGER_ROOM)
    }

    /// Whether a ledger record's payload of this length fits behind the last record.
    pub fn has_room_for_ledger(&self, payload_len: usize) -> bool {
        framed_len(payload_len) as u64 <= self.file.size() - self.end.length
    }

    /// Writes a record. It is not there for readers before [`Active::commit`].
    pub fn append(&mut self, payload: &[u8]) {
        let framed = framed_len(payload.len());
        let end = self.end.length + framed as u64;
        if end > self.touched {
            self.touched = self.shared.touch(end + CHUNK);
        }
        let out = self.file.bytes(self.end.length, framed);
        self.framing.write(out, self.end.length, self.end.ordinal, payload);
        self.end = Mark { length: end, ordinal: self.end.ordinal + 1 };
    }

    /// Shows readers all that was appended, in this process and in others.
    pub fn commit(&mut self) {
        *self.shared.committed.lock().unwrap_or_else(PoisonError::into_inner) = self.end;
        self.shared.store(self.end, MarkKind::Committed);
    }

    /// Whether readers have seen all of it.
    pub fn is_committed(&self) -> bool {
        self.shared.committed() == self.end
    }

    /// Behind the last record.
    pub fn end(&self) -> Mark {
        self.end
    }

    /// The position behind the last record.
    pub fn position(&self) -> u64 {
        self.framing.position(self.end.length)
    }

    /// For the syncer and the supply.
    pub fn share(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }
}

impl Shared {
    fn new(file: Arc<MappedFile>, header: Header, committed: Mark) -> Self {
        let let_go = AtomicU64::new(committed.length);
        let touched = AtomicU64::new(0);
        Self { file, header, committed: Mutex::new(committed), touched, let_go, slots: Default::default() }
    }

    /// Of a segment that an earlier life left behind. Its first ordinal is written once more: it may have been
    /// found out only now.
    pub fn recovered(file: Arc<MappedFile>, header: Header, end: Mark) -> Result<Self, StorageError> {
        let mut sectors = vec![0; 2 * SECTOR_LEN];
        write_sectors(&mut sectors, &header);
        file.write_at(0, &sectors)?;
        Ok(Self::new(file, header, end))
    }

    /// Up to where readers may read.
    pub fn committed(&self) -> Mark {
        *self.committed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The position of an offset.
    pub fn position(&self, mark: Mark) -> u64 {
        self.header.base + mark.length
    }

    /// Puts what is committed on disk, says so in the segment, and returns how far that is.
    pub fn sync(&self) -> Result<Mark, StorageError> {
        let committed = self.committed();
        self.let_go_of(committed.length);
        self.file.sync()?;
        self.store(committed, MarkKind::Synced);
        Ok(committed)
    }

    /// What is committed is not written to again, but for the page that it ends in.
    fn let_go_of(&self, to: u64) {
        let from = self.let_go.load(Ordering::Relaxed);
        if to - from >= LET_GO {
            self.file.let_go(from, to);
            self.let_go.store(to / PAGE as u64 * PAGE as u64, Ordering::Relaxed);
        }
    }

    /// Ends the segment: holes and records are put on disk, the space behind them is given back, and only then
    /// it is said: below the seal what is missing is damage, and once it is there the file may be used again.
    pub fn seal(&self, holes: &Holes) -> Result<Mark, StorageError> {
        if *holes != Holes::default() {
            self.file.write_at(HOLES_OFFSET as u64, &holes.encode(self.header.salt))?;
        }
        let end = self.committed();
        self.let_go_of(end.length);
        self.file.sync()?;
        self.file.free_behind(end.length);
        // both slots of every mark, so that one that was torn by a crash is whole again
        for kind in MarkKind::ALL {
            self.store(end, kind);
            self.store(end, kind);
        }
        self.file.sync()?;
        Ok(end)
    }

    /// The size of its file in bytes.
    pub fn capacity(&self) -> u64 {
        self.file.size()
    }

    /// Up to where pages are touched.
    pub fn touched(&self) -> u64 {
        self.touched.load(Ordering::Relaxed)
    }

    /// Touches pages up to an offset, in one call: a fault for each would cost three times as much. Says up to
    /// where they are touched now.
    pub fn touch(&self, to: u64) -> u64 {
        let to = to.min(self.capacity());
        let from = self.touched.fetch_max(to, Ordering::Relaxed);
        if from < to {
            self.file.populate(from, to);
        }
        from.max(to)
    }

    fn store(&self, mark: Mark, kind: MarkKind) {
        let slot = self.slots[kind as usize].fetch_add(1, Ordering::Relaxed) + 1;
        self.file.store_mark(mark, self.header.salt, kind, slot);
    }
}

fn write_sectors(page: &mut [u8], header: &Header) {
    for at in [0, SECTOR_LEN] {
        page[at..at + SECTOR_LEN].copy_from_slice(&header.encode());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tallylight_proto::segment::FRAME_LEN;

    const CAPACITY: usize = 64 * 1024;

    fn begun(folder: &Path) -> Active {
        let file = MappedFile::create(&folder.join("x.new"), CAPACITY as u64).expect("room");
        let header = Header {
            node: "n".into(),
            base: 0,
            capacity: CAPACITY as u64,
            salt: 1,
            first_ordinal: 0,
            reserve: 0,
            created_at: 0,
        };
        Prepared::new(file, header).and_then(|new| new.begin(folder, 0)).expect("room")
    }

    #[test]
    fn a_mark_that_is_torn_leaves_the_one_before_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut active = begun(folder.path());
        let mut marks = Vec::new();
        for _ in 0..4 {
            active.append(&[7; 100]);
            active.commit();
            marks.push(active.end());
            let mut page = vec![0; HEADER_LEN];
            active.file.read_at(0, &mut page).expect("readable");
            let newest = Mark::read(&page, 1, MarkKind::Committed).0;
            assert_eq!(newest, marks.last().copied());
            for slot in 0..2 {
                let mut torn = page.clone();
                torn[Mark::offset(MarkKind::Committed, slot)] ^= 1;
                let (left, damaged) = Mark::read(&torn, 1, MarkKind::Committed);
                assert!(damaged.is_some() && left >= marks.iter().rev().nth(1).copied(), "{left:?} of {marks:?}");
            }
        }
    }

    #[test]
    fn events_leave_room_for_the_ledger_and_nothing_goes_over_the_end() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut active = begun(folder.path());
        while active.has_room(1000) {
            active.append(&[7; 1000]);
        }
        assert!(active.has_room_for_ledger(16 * 1024) && active.end().length > 16 * 1024);
        let left = CAPACITY - usize::try_from(active.end().length).expect("small");
        assert!(active.has_room_for_ledger(left - FRAME_LEN));
        assert!(!active.has_room_for_ledger(left - FRAME_LEN + 1));
        active.append(&vec![7; left - FRAME_LEN]);
        assert!(!active.has_room_for_ledger(1) && !active.has_room(1));
    }
}
