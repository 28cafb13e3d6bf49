//! The log's way to the disk, and the map that it is written through: the collector's only unsafe code beside two system calls
//! that have no safe wrapper (`udp/socket.rs`, `check/machine.rs`).
//!
//! The two ways in which a memory-mapped log dies are a disk that is full when a page is first touched and a
//! file that is cut short under the map: both are SIGBUS. So space is allocated before it is mapped, and the
//! data folder is locked, so that no second collector can touch the files.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use tallylight_host::disk::{self, File, Locked, Map, Mode, PAGE};
use tallylight_proto::segment::{MARK_WORDS, Mark, MarkKind, ahead_of};
use thiserror::Error;

/// A system call that failed.
#[derive(Debug, Error)]
#[error("cannot {action} {path}: {source}")]
pub struct StorageError {
    /// What was tried.
    pub action: &'static str,
    /// On what.
    pub path: PathBuf,
    /// Why not.
    pub source: io::Error,
}

impl StorageError {
    /// Whether there is no room for it now, but may be later.
    pub fn is_full(&self) -> bool {
        matches!(self.source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

type Result<T> = std::result::Result<T, StorageError>;

/// Names the action and the path of a failed call.
fn at<T>(action: &'static str, path: &Path, result: io::Result<T>) -> Result<T> {
    result.map_err(|source| StorageError { action, path: path.to_owned(), source })
}

/// Makes a folder and those above it, and makes sure that they are there after a power cut.
pub fn create_folder(path: &Path) -> Result<()> {
    if is_folder(path) {
        return Ok(());
    }
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        create_folder(parent)?;
    }
    match disk::create_folder(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => at("create the folder", path, made),
    }?;
    sync_folder(path.parent().unwrap_or(path))
}

fn is_folder(path: &Path) -> bool {
    disk::metadata(path).is_ok_and(|metadata| metadata.is_folder)
}

/// Makes what was created, renamed or removed in a folder survive a power cut.
pub fn sync_folder(path: &Path) -> Result<()> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    at("sync the folder", path, disk::sync_folder(path))
}

/// Makes a folder's own name survive a power cut. A folder above it that this process may not open, or that cannot be
/// written to, is not one in which an earlier life has made it.
pub fn sync_name(folder: &Path) -> Result<()> {
    match sync_folder(folder.parent().unwrap_or(folder)) {
        Err(StorageError { source, .. })
            if matches!(source.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem) =>
        {
            Ok(())
        }
        synced => synced,
    }
}

/// Takes a lock that lasts as long as the file is open (`flock(2)`); nothing if another process holds it.
pub fn lock(path: &Path) -> Result<Option<File>> {
    let file = at("open", path, File::open(path, Mode::Create))?;
    Ok(match at("lock", path, file.try_lock())? {
        Locked::Taken => Some(file),
        Locked::Held => None,
    })
}

/// Reads a small file; nothing if there is none.
pub fn read_small(path: &Path) -> Result<Option<String>> {
    let read = disk::read(path).and_then(|bytes| String::from_utf8(bytes).map_err(io::Error::other));
    match read {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        read => at("read", path, read).map(Some),
    }
}

/// Writes a small file so that it is there whole or not at all, also after a power cut.
pub fn write_small(path: &Path, text: &str) -> Result<()> {
    let aside = path.with_extension("tmp");
    let mut file = at("create", &aside, File::open(&aside, Mode::Truncate))?;
    at("write", &aside, io::Write::write_all(&mut file, text.as_bytes()))?;
    at("sync", &aside, file.sync_all())?;
    rename(&aside, path)?;
    sync_folder(path.parent().unwrap_or(path))
}

/// The names in a folder, sorted.
pub fn list(folder: &Path) -> Result<Vec<String>> {
    let names = at("list", folder, disk::list(folder))?;
    Ok(names.into_iter().map(|name| name.to_string_lossy().into_owned()).collect())
}

/// Renames a file. That is seen at once, and survives a power cut once the folder is synced.
pub fn rename(from: &Path, to: &Path) -> Result<()> {
    at("rename", from, disk::rename(from, to))
}

/// Removes a file; one that is gone already is no error.
pub fn remove(path: &Path) -> Result<()> {
    match disk::remove(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => at("remove", path, removed),
    }
}

/// The size of a file in bytes.
pub fn size(path: &Path) -> Result<u64> {
    at("look at", path, disk::metadata(path)).map(|metadata| metadata.len)
}

/// How many bytes of a file have space of their own.
pub fn allocated(path: &Path) -> Result<u64> {
    at("look at", path, disk::metadata(path)).map(|metadata| metadata.allocated)
}

/// Free bytes on the disk of a folder, for whoever is not root.
pub fn free_space(folder: &Path) -> Result<u64> {
    at("ask for the free space of", folder, disk::free_space(folder))
}

/// A segment's file in memory.
///
/// Whoever has one may sync it and store marks; only the one [`Exclusive`] may write records.
#[derive(Debug)]
pub struct MappedFile {
    path: PathBuf,
    file: File,
    map: Map,
}

/// The right to write into a mapped file: given out once, by [`MappedFile::create`] and [`MappedFile::open`].
#[derive(Debug)]
pub struct Exclusive(std::sync::Arc<MappedFile>);

impl MappedFile {
    /// Allocates a file of this size, in which all space is real, and maps it. What it holds stays as it is.
    pub fn create(path: &Path, size: u64) -> Result<Exclusive> {
        let file = at("create", path, File::open(path, Mode::Create))?;
        allocate(path, &file, size)?;
        Self::map(path, file)
    }

    /// Maps a file that is there, as large as it is.
    pub fn open(path: &Path) -> Result<Exclusive> {
        Self::map(path, at("open", path, File::open(path, Mode::Write))?)
    }

    fn map(path: &Path, file: File) -> Result<Exclusive> {
        let map = at("map", path, file.map())?;
        // what cannot be advised is read and synced in pieces of the kernel's choice
        let _ = file.read_by_the_page();
        Ok(Exclusive(std::sync::Arc::new(Self { path: path.to_owned(), file, map })))
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.map.len() as u64
    }

    /// Reads from an offset, as much as there is.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        if let Some(range) = ahead_of(offset, buffer.len()) {
            // what is not fetched is read when its turn comes
            let _ = self.file.fetch(range);
        }
        at("read", &self.path, self.file.read_up_to(buffer, offset))
    }

    /// Stores a mark, word by word, so that readers in other processes see it after the records below it.
    pub fn store_mark(&self, mark: Mark, salt: u64, kind: MarkKind, slot: usize) {
        let offset = Mark::offset(kind, slot);
        assert!(offset + MARK_WORDS * 8 <= self.map.len(), "a segment is longer than its header");
        for (n, word) in mark.words(salt, kind, slot).into_iter().enumerate() {
            self.map.will_write(offset + n * 8, 8);
            // SAFETY: the assertion above keeps the address within the map.
            let address = unsafe { self.map.start().add(offset + n * 8) };
            // SAFETY: the address is mapped as long as `self` lives, and 8-byte aligned because the map is
            // page-aligned and slots are 64-byte aligned. All accesses of this process to the marks of a mapped
            // file are these atomic stores: `Exclusive::bytes` begins behind the header, and header pages are
            // written by `pwrite` before the marks are first stored.
            let atomic = unsafe { AtomicU64::from_ptr(address.cast()) };
            atomic.store(word.to_le(), Ordering::Release);
        }
    }

    /// Has the kernel give real pages to a range before it is written to (`MADV_POPULATE_WRITE`, Linux 5.14):
    /// a first touch costs ten times the copy.
    pub fn populate(&self, from: u64, to: u64) {
        let (from, to) = (from.min(self.size()), to.min(self.size()));
        let (Ok(from), Ok(to)) = (usize::try_from(from), usize::try_from(to)) else { return };
        let from = from / PAGE * PAGE;
        if from < to {
            // an older kernel cannot: then the writer pays for it
            let _ = self.map.populate(from, to - from);
        }
    }

    /// Takes the pages between two offsets out of the map, which nobody will write to again. A sync takes them away from all
    /// writers one by one, and interrupts the other processors for each; this does once for all.
    pub fn let_go(&self, from: u64, to: u64) {
        let (Ok(from), Ok(to)) = (usize::try_from(from), usize::try_from(to)) else { return };
        let (from, to) = (from.next_multiple_of(PAGE), to / PAGE * PAGE);
        if from < to {
            // then the sync does it
            let _ = self.map.let_go(from, to - from);
        }
    }

    /// Puts on disk what was written through the map (`fdatasync(2)`).
    pub fn sync(&self) -> Result<()> {
        at("sync", &self.path, self.file.sync_data())
    }

    /// Forgets what the page cache holds of it, once that is on disk. After a failed sync the cache may hold what
    /// never got there, marked as if it had.
    pub fn read_from_disk(&self) -> Result<()> {
        self.sync()?;
        at("drop the cache of", &self.path, self.file.drop_cache())
    }

    /// Writes into the file beside the map: for header pages that nobody reads yet.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        at("write", &self.path, self.file.write_all_at(bytes, offset))
    }

    /// Gives back the space from an offset on; the size stays. Not every file system can: then it is kept.
    pub fn free_behind(&self, offset: u64) {
        let offset = offset.next_multiple_of(PAGE as u64);
        if offset < self.size() {
            let _ = self.file.punch_hole(offset, self.size() - offset);
        }
    }
}

impl Exclusive {
    /// What others may have of it.
    pub fn share(&self) -> std::sync::Arc<MappedFile> {
        std::sync::Arc::clone(&self.0)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// The bytes of a range behind the header, to be written.
    pub fn bytes(&mut self, offset: u64, len: usize) -> &mut [u8] {
        let offset = usize::try_from(offset).expect("an offset in a mapped file fits in memory");
        let end = offset.checked_add(len).expect("records are small");
        assert!(offset >= tallylight_proto::segment::HEADER_LEN && end <= self.0.map.len(), "not in the records");
        self.0.map.will_write(offset, len);
        // SAFETY: the assertion above keeps the address within the map.
        let start = unsafe { self.0.map.start().add(offset) };
        // SAFETY: the range is mapped, readable and writable as long as `self` lives, and any bytes are valid u8.
        // It is not aliased: `Exclusive` cannot be cloned and is made once a mapping, this borrows it mutably,
        // `store_mark` stays in the header, and the data folder's lock keeps other collectors out. The compactor
        // is another process, which reads the file and not this memory.
        unsafe { std::slice::from_raw_parts_mut(start, len) }
    }

    /// The same file under its new name.
    pub fn renamed(self, path: &Path) -> Result<Self> {
        rename(&self.0.path, path)?;
        // the old name stays in the messages of those who share it already: nobody does before it is begun
        let file = std::sync::Arc::try_unwrap(self.0).map_err(|shared| StorageError {
            action: "rename the shared",
            path: shared.path.clone(),
            source: io::ErrorKind::ResourceBusy.into(),
        })?;
        Ok(Self(std::sync::Arc::new(MappedFile { path: path.to_owned(), ..file })))
    }
}

impl std::ops::Deref for Exclusive {
    type Target = MappedFile;

    fn deref(&self) -> &MappedFile {
        &self.0
    }
}

/// Gives a file real space for all its bytes, so that touching a page of its map cannot fail for want of space.
fn allocate(path: &Path, file: &File, size: u64) -> Result<()> {
    match file.allocate(size) {
        Err(error) if error.kind() == io::ErrorKind::Unsupported => at("fill", path, fill(file, size)),
        allocated => at("allocate", path, allocated),
    }
}

/// The slow way, where `fallocate` is not known: writes over every page what stands there, zeros where nothing
/// does. Page by page: larger writes make larger folios, of which every later sync writes the whole.
fn fill(file: &File, size: u64) -> io::Result<()> {
    let mut page = [0; PAGE];
    for offset in (0..size).step_by(page.len()) {
        page.fill(0);
        let _ = file.read_at(&mut page, offset)?;
        file.write_all_at(&page, offset)?;
    }
    file.set_len(size)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_file_is_really_allocated_and_gives_its_tail_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut file = MappedFile::create(&folder.path().join("x"), 1 << 20).expect("room");
        let blocks = |file: &Exclusive| file.file.metadata().expect("it is there").allocated;
        assert!(blocks(&file) >= 1 << 20);
        file.bytes(8192, 3).copy_from_slice(b"abc");
        file.free_behind(8195);
        assert!(blocks(&file) <= 16384);
        assert_eq!(file.size(), 1 << 20);
        let mut read = [1; 5];
        assert_eq!(file.read_at(8191, &mut read).expect("readable"), 5);
        assert_eq!(&read, b"\0abc\0");
    }

    #[test]
    fn what_was_taken_out_of_the_map_is_on_disk_after_the_next_sync() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut file = MappedFile::create(&folder.path().join("x"), 1 << 20).expect("room");
        let (from, len) = (5_000, 600_000);
        let last = from + len as u64 - 10;
        file.bytes(from, len).fill(7);
        file.let_go(from, from + len as u64);
        // both ends lie in pages that stay
        file.bytes(from, 10).fill(8);
        file.bytes(last, 20).fill(9);
        file.read_from_disk().expect("a disk");
        let mut read = vec![0; len + 10];
        assert_eq!(file.read_at(from, &mut read).expect("readable"), read.len());
        let expected = [vec![8; 10], vec![7; len - 20], vec![9; 20]].concat();
        assert!(read == expected && file.bytes(from, read.len()) == expected);
    }

    #[test]
    fn a_file_filled_by_hand_keeps_what_it_held() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x");
        std::fs::write(&path, b"held").expect("room");
        let file = File::open(&path, Mode::Write).expect("it is there");
        fill(&file, 10_000).expect("room");
        let read = std::fs::read(&path).expect("it is there");
        assert_eq!((read.len(), &read[..5]), (10_000, &b"held\0"[..]));
    }

    #[test]
    fn a_lock_is_held_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("lock");
        let held = lock(&path).expect("a lockable file system");
        assert!(held.is_some());
        assert!(lock(&path).expect("a lockable file system").is_none());
        drop(held);
        assert!(lock(&path).expect("a lockable file system").is_some());
    }

    #[test]
    #[should_panic(expected = "not in the records")]
    fn records_cannot_be_written_over_the_header() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut file = MappedFile::create(&folder.path().join("x"), 1 << 20).expect("room");
        file.bytes(4095, 2);
    }
}
