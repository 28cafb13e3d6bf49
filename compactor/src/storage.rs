//! The compactor's only way to the disk.
//!
//! The rule: **a file is under its name whole and durable, or not at all.** What is made is written aside,
//! synced, renamed, and the folder synced. Nothing is changed in place. No other module touches files, so
//! that a simulated disk can stand behind this one.

use std::ffi::{OsStr, OsString};
use std::io::{self, BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use tallylight_host::disk::{self, File, Mode};
use thiserror::Error;

/// What could not be done to which path, and why.
#[derive(Debug, Error)]
#[error("cannot {action} {}", path.display())]
pub struct StorageError {
    /// What was tried, as a verb: `read`, `rename`.
    pub action: &'static str,
    /// To what.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

impl StorageError {
    /// Whether the path does not exist.
    pub fn is_not_found(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }

    /// Whether the disk, or this user's part of it, is full.
    pub fn is_disk_full(&self) -> bool {
        matches!(self.source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

/// Names the action and the path of a failed system call.
fn because(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StorageError {
    let path = path.to_owned();
    move |source| StorageError { action, path, source }
}

/// A file opened for reading. It stays readable after its name is gone.
#[derive(Debug)]
pub struct ReadFile {
    file: File,
    path: PathBuf,
}

impl ReadFile {
    /// Opens an existing file.
    pub fn open(path: &Path) -> Result<Self, StorageError> {
        let file = File::open(path, Mode::Read).map_err(because("open", path))?;
        Ok(Self { file, path: path.to_owned() })
    }

    /// Where it was when it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its length in bytes, now.
    pub fn len(&self) -> Result<u64, StorageError> {
        Ok(self.file.metadata().map_err(because("read the length of", &self.path))?.len)
    }

    /// Whether it has no bytes, now.
    pub fn is_empty(&self) -> Result<bool, StorageError> {
        Ok(self.len()? == 0)
    }

    /// Fills the whole buffer from this offset; the file's end before that is an error (`UnexpectedEof`).
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), StorageError> {
        match self.read_up_to(buffer, offset)? {
            read if read == buffer.len() => Ok(()),
            _ => Err(because("read", &self.path)(io::ErrorKind::UnexpectedEof.into())),
        }
    }

    /// Fills as much of the buffer as the file has from this offset and says how much that was.
    pub fn read_up_to(&self, buffer: &mut [u8], offset: u64) -> Result<usize, StorageError> {
        self.file.read_up_to(buffer, offset).map_err(because("read", &self.path))
    }

    /// Has what is read of it come into the page cache page by page, because it will be mapped and written to again, see
    /// [`File::read_by_the_page`]. A file system that cannot does what it does.
    pub fn read_by_the_page(&self) {
        let _ = self.file.read_by_the_page();
    }

    /// Has the kernel begin to read a range of it. What it does not is read when it is asked for.
    pub fn fetch(&self, range: Range<u64>) {
        let _ = self.file.fetch(range);
    }

    /// Makes durable what any process has written into it so far. What is read from then on is what is on disk: after a
    /// sync that failed for somebody else the page cache may hold what never got there, marked as if it had. (Pages that a
    /// process has mapped stay, but a collector whose sync fails ends.)
    pub fn sync(&self) -> Result<(), StorageError> {
        step("sync", &self.path)?;
        self.file.sync_all().map_err(because("sync", &self.path))?;
        self.file.drop_cache().map_err(because("drop the cache of", &self.path))
    }
}

/// A file being written aside. It gets its name with [`NewFile::commit`]; dropped before that, it is gone.
#[derive(Debug)]
pub struct NewFile {
    /// `None` once committed, so that the drop removes nothing.
    writer: Option<BufWriter<File>>,
    /// How much was appended since the kernel was last told to begin putting it on disk.
    unsynced: usize,
    aside: PathBuf,
    path: PathBuf,
}

impl NewFile {
    /// Starts writing what will be at `path`, whose folder exists.
    pub fn create(path: &Path) -> Result<Self, StorageError> {
        let aside = path.with_file_name(temporary_name(path));
        step("create", &aside)?;
        let file = File::open(&aside, Mode::Truncate).map_err(because("create", &aside))?;
        Ok(Self {
            writer: Some(BufWriter::with_capacity(BUFFER_BYTES, file)),
            unsynced: 0,
            aside,
            path: path.to_owned(),
        })
    }

    /// Adds these bytes at its end.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        self.write_all(bytes).map_err(because("write", &self.aside))
    }

    /// Makes it durable and gives it its name, in place of whatever had it.
    pub fn commit(mut self) -> Result<(), StorageError> {
        let Some(mut writer) = self.writer.take() else { return Ok(()) };
        let done = self.publish(&mut writer);
        if done.is_err() {
            self.writer = Some(writer);
        }
        done
    }

    fn publish(&self, writer: &mut BufWriter<File>) -> Result<(), StorageError> {
        step("write", &self.aside)?;
        writer.flush().map_err(because("write", &self.aside))?;
        step("sync", &self.aside)?;
        writer.get_ref().sync_all().map_err(because("sync", &self.aside))?;
        step("rename", &self.path)?;
        disk::rename(&self.aside, &self.path).map_err(because("rename", &self.path))?;
        sync_dir(parent(&self.path))
    }

    fn writer(&mut self) -> &mut BufWriter<File> {
        self.writer.as_mut().expect("commit consumes the file, so whoever writes holds an uncommitted one")
    }
}

impl Write for NewFile {
    #[expect(clippy::disallowed_methods, reason = "this is the method itself: short writes are the caller's")]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.writer().write(bytes)?;
        self.unsynced += written;
        if self.unsynced >= MUCH_UNSYNCED {
            self.unsynced = 0;
            // what cannot be written shows when it is synced
            let _ = self.writer().get_ref().begin_sync();
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer().flush()
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        let Some(writer) = self.writer.take() else { return };
        // what is still buffered is not wanted
        drop(writer.into_parts());
        if step("remove", &self.aside).is_ok() {
            // failing that, whoever opens the folder next removes it
            let _ = disk::remove(&self.aside);
        }
    }
}

/// Writes a whole file: aside, synced, renamed, folder synced.
pub fn write_new(path: &Path, bytes: &[u8]) -> Result<(), StorageError> {
    let mut file = NewFile::create(path)?;
    file.append(bytes)?;
    file.commit()
}

/// Gives a file another name, durably, in place of whatever had it.
pub fn move_file(from: &Path, to: &Path) -> Result<(), StorageError> {
    step("rename", from)?;
    disk::rename(from, to).map_err(because("rename", from))?;
    sync_dir(parent(to))?;
    if parent(from) != parent(to) {
        sync_dir(parent(from))?;
    }
    Ok(())
}

/// Removes a file. Not durable before [`sync_dir`]: a removal that comes back after a power cut must be harmless.
pub fn remove(path: &Path) -> Result<(), StorageError> {
    step("remove", path)?;
    disk::remove(path).map_err(because("remove", path))
}

/// The names in a folder, sorted; those of files being written aside too (see [`is_temporary`]).
pub fn list(folder: &Path) -> Result<Vec<OsString>, StorageError> {
    disk::list(folder).map_err(because("list", folder))
}

/// Whether this is the name of a file being written aside. After a crash it is litter.
pub fn is_temporary(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(TEMPORARY.as_bytes())
}

/// The name that a file being written aside is to get.
pub fn name_of_temporary(name: &OsStr) -> Option<&str> {
    name.to_str()?.strip_prefix(TEMPORARY)?.strip_suffix('~')
}

/// A whole file.
pub fn read(path: &Path) -> Result<Vec<u8>, StorageError> {
    disk::read(path).map_err(because("read", path))
}

/// A whole file, if there is one.
pub fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>, StorageError> {
    match read(path) {
        Err(error) if error.is_not_found() => Ok(None),
        bytes => bytes.map(Some),
    }
}

/// Makes a folder and those above it that are missing, all of them durable.
pub fn create_dir_all(path: &Path) -> Result<(), StorageError> {
    if is_dir(path) {
        return Ok(());
    }
    let above = parent(path);
    if above != path {
        create_dir_all(above)?;
    }
    step("create folder", path)?;
    match disk::create_folder(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists || !is_dir(path) => {
            return Err(because("create folder", path)(error));
        }
        _ => {}
    }
    sync_dir(above)
}

/// Makes durable which names are in a folder.
pub fn sync_dir(folder: &Path) -> Result<(), StorageError> {
    step("sync", folder)?;
    disk::sync_folder(folder).map_err(because("sync", folder))
}

/// Bytes that an unprivileged process may still write to the file system of this path.
pub fn free_space(path: &Path) -> Result<u64, StorageError> {
    disk::free_space(path).map_err(because("ask for the free space of", path))
}

/// Whether there is a folder with this name.
pub fn is_dir(path: &Path) -> bool {
    disk::metadata(path).is_ok_and(|metadata| metadata.is_folder)
}

/// Whether there is anything with this name.
pub fn exists(path: &Path) -> bool {
    disk::metadata(path).is_ok()
}

/// What is written aside is gathered up to so many bytes. What is as many, as most of it is, is not copied once more.
const BUFFER_BYTES: usize = 64 * 1024;
/// Of so much the kernel may begin to put on disk what is there while the rest is made.
const MUCH_UNSYNCED: usize = 4 << 20;
/// How the name of a file being written aside begins. Readers of Parquet skip names that begin with a dot.
const TEMPORARY: &str = ".tmp-";

/// The `~` at its end keeps it out of a plain `*.parquet`, which some readers expand to hidden files as well.
fn temporary_name(path: &Path) -> OsString {
    let mut name = OsString::from(TEMPORARY);
    name.push(path.file_name().unwrap_or_default());
    name.push("~");
    name
}

/// The folder that a name stands in; of a bare name, the current one.
fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(above) if above.as_os_str().is_empty() => Path::new("."),
        Some(above) => above,
        None => path,
    }
}

#[cfg(not(test))]
#[expect(clippy::unnecessary_wraps, reason = "in tests it fails on command")]
fn step(_action: &'static str, _path: &Path) -> Result<(), StorageError> {
    Ok(())
}

#[cfg(test)]
use crash::step;

/// A process that dies before its n-th change to the disk.
#[cfg(test)]
pub(crate) mod crash {
    use super::*;
    use std::cell::Cell;

    thread_local! {
        static STEPS_LEFT: Cell<Option<u32>> = const { Cell::new(None) };
    }

    /// Runs `doing` in a process that dies after so many steps: every later change to the disk fails.
    /// Says what came of it and whether it got to the end.
    pub(crate) fn after<T>(steps: u32, doing: impl FnOnce() -> T) -> (T, bool) {
        STEPS_LEFT.set(Some(steps));
        let done = doing();
        let survived = STEPS_LEFT.take() > Some(0);
        (done, survived)
    }

    pub(super) fn step(action: &'static str, path: &Path) -> Result<(), StorageError> {
        let Some(left) = STEPS_LEFT.get() else { return Ok(()) };
        STEPS_LEFT.set(Some(left.saturating_sub(1)));
        if left > 0 { Ok(()) } else { Err(because(action, path)(io::Error::other("the process is dead"))) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        list(folder).unwrap().into_iter().map(|name| name.into_string().unwrap()).collect()
    }

    #[test]
    fn a_file_appears_whole_or_not_at_all_whenever_the_process_dies() {
        for steps in 0.. {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("x");
            write_new(&path, b"old").unwrap();
            let (written, survived) = crash::after(steps, || write_new(&path, b"newer"));
            let now = read(&path).unwrap();
            assert!(now == b"old" || now == b"newer", "{now:?}");
            if written.is_ok() {
                assert_eq!(now, b"newer");
            }
            if survived {
                assert_eq!(names(folder.path()), ["x"]);
                return assert!(steps >= 5, "create, write, sync, rename, sync folder");
            }
        }
    }

    #[test]
    fn an_abandoned_file_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = NewFile::create(&folder.path().join("x.parquet")).unwrap();
        file.write_all(&[7; 1 << 20]).unwrap();
        assert_eq!(names(folder.path()), [".tmp-x.parquet~"]);
        assert!(list(folder.path()).unwrap().iter().all(|name| is_temporary(name)));
        drop(file);
        assert!(names(folder.path()).is_empty());
    }

    #[test]
    fn reading_past_the_end_is_an_error_and_says_where() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        write_new(&path, b"abc").unwrap();
        let file = ReadFile::open(&path).unwrap();
        let mut buffer = [0; 4];
        assert_eq!(file.read_up_to(&mut buffer, 1).unwrap(), 2);
        let error = file.read_at(&mut buffer, 0).unwrap_err();
        assert_eq!(error.to_string(), format!("cannot read {}", path.display()));
        assert!(ReadFile::open(&folder.path().join("y")).unwrap_err().is_not_found());
    }

    #[test]
    fn folders_are_made_from_the_top_and_made_again_without_harm() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("a/b/c");
        create_dir_all(&deep).unwrap();
        create_dir_all(&deep).unwrap();
        write_new(&deep.join("x"), b"1").unwrap();
        move_file(&deep.join("x"), &folder.path().join("a/y")).unwrap();
        assert_eq!(names(&folder.path().join("a")), ["b", "y"]);
        assert!(create_dir_all(&folder.path().join("a/y/z")).is_err(), "a file is in the way");
        assert!(free_space(folder.path()).unwrap() > 0);
    }
}
