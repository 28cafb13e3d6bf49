//! Files and folders, call by call.
//!
//! The rule: one function, one system call, its error as the kernel gave it. What must be done in which order is for
//! the storage modules of the two programs to know.

use std::ffi::OsString;
use std::fs::{self, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::num::NonZero;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use memmap2::{Advice, MmapOptions, MmapRaw, UncheckedAdvice};
use rustix::fs::FallocateFlags;

#[cfg(feature = "simulated")]
use crate::simulated::Handle;

/// The size of a page of memory, and of a block on the disk.
pub const PAGE: usize = 4096;

/// An open file.
#[derive(Debug)]
pub struct File(Opened);

#[derive(Debug)]
enum Opened {
    Real(fs::File),
    #[cfg(feature = "simulated")]
    Simulated(Handle),
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// For reading; it exists.
    Read,
    /// For reading and writing; it exists.
    Write,
    /// For reading and writing; made if it does not exist, and kept as it is if it does.
    Create,
    /// For writing; made, or emptied if it exists.
    Truncate,
}

/// What is known of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// The length of the file in bytes.
    pub len: u64,
    /// How many bytes of it have space of their own on the disk.
    pub allocated: u64,
    /// Whether it is a folder.
    pub is_folder: bool,
}

/// What came of a try to lock a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Locked {
    /// The lock is held by this open file, until it is closed.
    Taken,
    /// Another holds it.
    Held,
}

impl File {
    /// Opens a file (open(2)).
    ///
    /// # Errors
    /// As the kernel says.
    pub fn open(path: &Path, mode: Mode) -> io::Result<Self> {
        ask_the_world!(world => Ok(Self(Opened::Simulated(world.open(path, mode)?))));
        let mut options = OpenOptions::new();
        match mode {
            Mode::Read => options.read(true),
            Mode::Write => options.read(true).write(true),
            Mode::Create => options.read(true).write(true).create(true).truncate(false),
            Mode::Truncate => options.write(true).create(true).truncate(true),
        };
        Ok(Self(Opened::Real(options.open(path)?)))
    }

    /// Reads from an offset into the buffer, perhaps less than there is (pread(2)).
    ///
    /// # Errors
    /// As the kernel says.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        match &self.0 {
            Opened::Real(file) => file.read_at(buffer, offset),
            #[cfg(feature = "simulated")]
            Opened::Simulated(file) => file.read_at(buffer, offset),
        }
    }

    /// Reads from an offset until the buffer is full or the file ends, and says how much that was.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn read_up_to(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    /// Writes all of it at an offset (pwrite(2), as often as it takes).
    ///
    /// # Errors
    /// As the kernel says; a part may be written.
    pub fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        match &self.0 {
            Opened::Real(file) => file.write_all_at(bytes, offset),
            #[cfg(feature = "simulated")]
            Opened::Simulated(file) => file.write_all_at(bytes, offset),
        }
    }

    /// Its length and space (fstat(2)).
    ///
    /// # Errors
    /// As the kernel says.
    pub fn metadata(&self) -> io::Result<Metadata> {
        match &self.0 {
            Opened::Real(file) => file.metadata().map(|metadata| from_real(&metadata)),
            #[cfg(feature = "simulated")]
            Opened::Simulated(file) => file.metadata(),
        }
    }

    /// Makes it at least this long, all of it with space of its own; what it holds stays (fallocate(2)).
    ///
    /// # Errors
    /// As the kernel says; some space may be taken.
    pub fn allocate(&self, len: u64) -> io::Result<()> {
        match &self.0 {
            Opened::Real(file) => Ok(rustix::fs::fallocate(file, FallocateFlags::empty(), 0, len)?),
            #[cfg(feature = "simulated")]
            Opened::Simulated(file) => file.allocate(len),
        }
    }

    /// Gives a range back to the disk; it then reads as zeros, and the length stays
    /// (`FALLOC_FL_PUNCH_HOLE`).
    ///
    /// # Errors
    /// As the kernel says; some file systems cannot.
    pub fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match &self.0 {
            Opened::Real(file) => Ok(rustix::fs::fallocate(file, flags, offset, len)?),
            #[cfg(feature = "simulated")]
            Opened::Simulated(file) => file.punch_hole(offset, len),
        }
    }

    /// Cuts or lengthens it (ftruncate(2)).
    ///
    /// # Errors
    /// As the kernel says.
    pub fn set_len(&self, len: u64) -> io::Result<()> {
        match &self.0 {
            Opened::Real(file) => file.set_len(len),
            #[cfg(feature = "simulated")]
            Opened::Simulated(file) => file.set_len(len),
        }
    }

    /// Has the kernel begin to put on disk what was written, so that a sync has less to wait for (sync_file_range(2)). Promises
    /// nothing.
    ///
    /// # Errors
    /// As the kernel says; some file systems cannot. A sync tells what could not be written.
    pub fn begin_sync(&self) -> io::Result<()> {
        match &self.0 {
            Opened::Real(file) => {
                // SAFETY: it takes no pointer, and the descriptor is the open file's
                let done = unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) };
                if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
            }
            #[cfg(feature = "simulated")]
            Opened::Simulated(_) => Ok(()),
        }
    }

    /// Puts on disk what was written by anyone, through a map too, and the length (fdatasync(2)).
    ///
    /// # Errors
    /// As the kernel says. What could not be written is then forgotten: the next call may say that all is well.
    pub fn sync_data(&self) -> io::Result<()> {
        match &self.0 {
            Opened::Real(file) => file.sync_data(),
            #[cfg(feature = "simulated")]
            Opened::Simulated(file) => file.sync(),
        }
    }

    /// The same, and all else that is known of the file (fsync(2)). Its name is the folder's to sync.
    ///
    /// # Errors
    /// As of [`File::sync_data`].
    pub fn sync_all(&self) -> io::Result<()> {
        match &self.0 {
            Opened::Real(file) => file.sync_all(),
            #[cfg(feature = "simulated")]
            Opened::Simulated(file) => file.sync(),
        }
    }

    /// Has the page cache forget what is on disk, so that the next read comes from there
    /// (`POSIX_FADV_DONTNEED`, posix_fadvise(2)).
    ///
    /// # Errors
    /// As the kernel says.
    pub fn drop_cache(&self) -> io::Result<()> {
        match &self.0 {
            Opened::Real(file) => Ok(rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed)?),
            #[cfg(feature = "simulated")]
            Opened::Simulated(file) => file.drop_cache(),
        }
    }

    /// Has reads by this open file bring single pages into the page cache, and no others than are asked for
    /// (`POSIX_FADV_RANDOM`, posix_fadvise(2)). Otherwise they come in folios of up to 2 MiB, and a sync writes all of a folio in which
    /// a byte was changed through a map.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn read_by_the_page(&self) -> io::Result<()> {
        self.advise(0..0, rustix::fs::Advice::Random)
    }

    /// Has the kernel begin to read a range into the page cache (`POSIX_FADV_WILLNEED`).
    ///
    /// # Errors
    /// As the kernel says.
    pub fn fetch(&self, range: Range<u64>) -> io::Result<()> {
        self.advise(range, rustix::fs::Advice::WillNeed)
    }

    /// An empty range is all of the file.
    fn advise(&self, range: Range<u64>, advice: rustix::fs::Advice) -> io::Result<()> {
        match &self.0 {
            Opened::Real(file) => {
                Ok(rustix::fs::fadvise(file, range.start, NonZero::new(range.end.saturating_sub(range.start)), advice)?)
            }
            // it has no page cache to be advised about
            #[cfg(feature = "simulated")]
            Opened::Simulated(_) => Ok(()),
        }
    }

    /// Tries to lock it for this open file alone (flock(2)).
    ///
    /// # Errors
    /// As the kernel says; some file systems cannot.
    pub fn try_lock(&self) -> io::Result<Locked> {
        match &self.0 {
            Opened::Real(file) => locked(file.try_lock()),
            #[cfg(feature = "simulated")]
            Opened::Simulated(file) => file.try_lock(true),
        }
    }

    /// Tries to lock it together with others who do so too.
    ///
    /// # Errors
    /// As the kernel says; some file systems cannot.
    pub fn try_lock_shared(&self) -> io::Result<Locked> {
        match &self.0 {
            Opened::Real(file) => locked(file.try_lock_shared()),
            #[cfg(feature = "simulated")]
            Opened::Simulated(file) => file.try_lock(false),
        }
    }

    /// Maps all of it, for reading and writing, shared with every process that reads the file (mmap(2)).
    ///
    /// # Errors
    /// As the kernel says; an empty file cannot be mapped.
    pub fn map(&self) -> io::Result<Map> {
        match &self.0 {
            Opened::Real(file) => Ok(Map {
                raw: MmapOptions::new().map_raw(file)?,
                #[cfg(feature = "simulated")]
                of: None,
            }),
            #[cfg(feature = "simulated")]
            Opened::Simulated(file) => {
                Ok(Map { raw: MmapOptions::new().map_raw(&file.memory()?)?, of: Some(file.clone()) })
            }
        }
    }
}

impl Write for File {
    #[expect(clippy::disallowed_methods, reason = "this is the method itself: short writes are the caller's")]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            Opened::Real(file) => file.write(bytes),
            #[cfg(feature = "simulated")]
            Opened::Simulated(file) => file.append(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A file in memory. It stays mapped when its file is closed.
#[derive(Debug)]
pub struct Map {
    raw: MmapRaw,
    #[cfg(feature = "simulated")]
    of: Option<Handle>,
}

#[expect(clippy::len_without_is_empty, reason = "no map is empty")]
impl Map {
    /// Its first byte. Page-aligned.
    pub fn start(&self) -> *mut u8 {
        self.raw.as_mut_ptr()
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.raw.len()
    }

    /// Has the kernel give real pages to a range before it is written to (`MADV_POPULATE_WRITE`, Linux 5.14).
    ///
    /// # Errors
    /// As the kernel says; an older one cannot.
    pub fn populate(&self, from: usize, len: usize) -> io::Result<()> {
        self.raw.advise_range(Advice::PopulateWrite, from, len)
    }

    /// Takes whole pages of a range out of this process's memory (`MADV_DONTNEED`): they stay in the file's cache, as they were written.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn let_go(&self, from: usize, len: usize) -> io::Result<()> {
        #[cfg(feature = "simulated")]
        if self.of.is_some() {
            return Ok(());
        }
        // SAFETY: the map is shared with its file, so what was written is there and is what a later access finds
        unsafe { self.raw.unchecked_advise_range(UncheckedAdvice::DontNeed, from, len) }
    }

    /// To be called right before so many bytes are written at an offset. A simulated machine may stop before or
    /// during that; on a real one this is nothing.
    #[inline]
    pub fn will_write(&self, offset: usize, len: usize) {
        #[cfg(feature = "simulated")]
        if let Some(file) = &self.of {
            file.will_write(offset, len);
        }
        #[cfg(not(feature = "simulated"))]
        let _ = (offset, len);
    }
}

/// What is known of a path (stat(2)).
///
/// # Errors
/// As the kernel says.
pub fn metadata(path: &Path) -> io::Result<Metadata> {
    ask_the_world!(world => world.metadata(path));
    fs::metadata(path).map(|metadata| from_real(&metadata))
}

/// Makes a folder (mkdir(2)).
///
/// # Errors
/// As the kernel says.
pub fn create_folder(path: &Path) -> io::Result<()> {
    ask_the_world!(world => world.create_folder(path));
    fs::create_dir(path)
}

/// The names in a folder, sorted.
///
/// # Errors
/// As the kernel says.
pub fn list(folder: &Path) -> io::Result<Vec<OsString>> {
    ask_the_world!(world => world.list(folder));
    let mut names = fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()?;
    names.sort_unstable();
    Ok(names)
}

/// Gives a file another name, in place of whatever had it (rename(2)). Durable once the folders are synced.
///
/// # Errors
/// As the kernel says.
#[expect(clippy::disallowed_methods, reason = "the one rename; the storage modules sync the folders")]
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    ask_the_world!(world => world.rename(from, to));
    fs::rename(from, to)
}

/// Removes a file (unlink(2)). Durable once the folder is synced.
///
/// # Errors
/// As the kernel says.
pub fn remove(path: &Path) -> io::Result<()> {
    ask_the_world!(world => world.remove(path));
    fs::remove_file(path)
}

/// Makes durable which names are in a folder (fsync(2) of it).
///
/// # Errors
/// As the kernel says.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    ask_the_world!(world => world.sync_folder(folder));
    fs::File::open(folder)?.sync_all()
}

/// Bytes that an unprivileged process may still write to the file system of this path (statvfs(3), `f_bavail`).
///
/// # Errors
/// As the kernel says.
pub fn free_space(path: &Path) -> io::Result<u64> {
    ask_the_world!(world => world.free_space(path));
    let stat = rustix::fs::statvfs(path)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// A whole file.
///
/// # Errors
/// As the kernel says.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path, Mode::Read)?;
    let mut bytes = vec![0; usize::try_from(file.metadata()?.len).unwrap_or(usize::MAX)];
    let len = file.read_up_to(&mut bytes, 0)?;
    bytes.truncate(len);
    Ok(bytes)
}

fn from_real(metadata: &fs::Metadata) -> Metadata {
    Metadata { len: metadata.len(), allocated: metadata.blocks() * 512, is_folder: metadata.is_dir() }
}

fn locked(result: Result<(), TryLockError>) -> io::Result<Locked> {
    match result {
        Ok(()) => Ok(Locked::Taken),
        Err(TryLockError::WouldBlock) => Ok(Locked::Held),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sync_can_be_begun_before_a_file_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let mut file = File::open(&path, Mode::Truncate).unwrap();
        for half in [b"one ", b"half"] {
            file.write_all(half).unwrap();
            file.begin_sync().unwrap();
        }
        file.sync_all().unwrap();
        assert_eq!(read(&path).unwrap(), b"one half");
    }
}
