//! An open file of a simulated machine.

use std::fs::File as RealFile;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::file::Sync;
use super::{CutShort, World, here};
use crate::disk::{Locked, Metadata, PAGE};

/// An open file. Of the world of the thread that opened it.
#[derive(Clone, Debug)]
pub struct Handle(Arc<Open>);

#[derive(Debug)]
struct Open {
    handle: u64,
    file: u64,
    /// Where it was when it was opened.
    path: PathBuf,
    /// Where the next append goes.
    position: AtomicUsize,
    /// How many of the file's failed syncs this open file has been told of.
    told: AtomicU64,
}

impl Drop for Open {
    fn drop(&mut self) {
        // a process that is gone has no locks
        let Some(world) = here() else { return };
        let mut disk = world.disk.borrow_mut();
        if let Some(locks) = disk.locks.get_mut(&self.file) {
            locks.retain(|(handle, _)| *handle != self.handle);
        }
        if let Some(maps) = disk.touched.get_mut(&self.file) {
            maps.remove(&self.handle);
        }
    }
}

fn world() -> std::rc::Rc<World> {
    here().expect("a simulated file is used in its world")
}

fn index(offset: u64) -> usize {
    usize::try_from(offset).expect("simulated files are small")
}

impl Handle {
    /// One to which that many failed syncs of the file are no news.
    pub(super) fn new(handle: u64, file: u64, path: &Path, told: u64) -> Self {
        let (position, told) = (AtomicUsize::new(0), AtomicU64::new(told));
        Self(Arc::new(Open { handle, file, path: path.to_owned(), position, told }))
    }

    pub(crate) fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let world = world();
        world.step("read", &self.0.path)?;
        world.may_fail(|faults| faults.read_error)?;
        let wanted = match world.one_in(16) {
            // less than asked for, as a signal may have it
            true => 1 + world.chance.borrow_mut().below(buffer.len()),
            false => buffer.len(),
        };
        let wanted = wanted.min(buffer.len());
        Ok(world.disk.borrow_mut().file(self.0.file).read(index(offset), &mut buffer[..wanted]))
    }

    pub(crate) fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut done = 0;
        while done < bytes.len() {
            done += self.write("write", index(offset) + done, &bytes[done..])?;
        }
        Ok(())
    }

    pub(crate) fn append(&self, bytes: &[u8]) -> io::Result<usize> {
        let at = self.0.position.load(Ordering::Relaxed);
        let written = self.write("append", at, bytes)?;
        self.0.position.store(at + written, Ordering::Relaxed);
        Ok(written)
    }

    /// Writes some of it.
    fn write(&self, action: &'static str, offset: usize, bytes: &[u8]) -> io::Result<usize> {
        let world = world();
        world.step(action, &self.0.path)?;
        world.may_fail(|faults| faults.write_error)?;
        let mut len = bytes.len();
        if len > 1 && world.one_in(4) {
            len = 1 + world.chance.borrow_mut().below(len);
        }
        let mut disk = world.disk.borrow_mut();
        let free = disk.free(world.machine.disk_size);
        let file = disk.file(self.0.file);
        while len > 0 && (file.missing(offset, offset + len) * PAGE) as u64 > free {
            // as much as there is room for
            len = (offset + len - 1) / PAGE * PAGE;
            len = len.saturating_sub(offset);
        }
        if len == 0 && !bytes.is_empty() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        file.write(offset, &bytes[..len]);
        Ok(len)
    }

    pub(crate) fn metadata(&self) -> io::Result<Metadata> {
        let world = world();
        world.step("look at", &self.0.path)?;
        Ok(world.disk.borrow_mut().file(self.0.file).metadata())
    }

    pub(crate) fn allocate(&self, len: u64) -> io::Result<()> {
        let world = world();
        world.step("allocate", &self.0.path)?;
        world.may_fail(|faults| faults.write_error)?;
        let mut disk = world.disk.borrow_mut();
        let free = disk.free(world.machine.disk_size);
        let file = disk.file(self.0.file);
        let len = index(len);
        if (file.missing(0, len) * PAGE) as u64 > free {
            // what there was is taken
            let some = index(free) / PAGE * PAGE;
            file.allocate(0, some.min(len));
            return Err(io::ErrorKind::StorageFull.into());
        }
        file.allocate(0, len);
        Ok(())
    }

    pub(crate) fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        let world = world();
        world.step("punch", &self.0.path)?;
        world.disk.borrow_mut().file(self.0.file).punch_hole(index(offset), index(len));
        Ok(())
    }

    pub(crate) fn set_len(&self, len: u64) -> io::Result<()> {
        let world = world();
        world.step("cut", &self.0.path)?;
        world.disk.borrow_mut().file(self.0.file).set_len(index(len));
        Ok(())
    }

    pub(crate) fn sync(&self) -> io::Result<()> {
        let world = world();
        world.step("sync", &self.0.path)?;
        let mut failed = world.may_fail(|faults| faults.sync_error);
        let how = if failed.is_err() { Sync::Failing } else { world.sync_of(&self.0.path) };
        {
            let mut disk = world.disk.borrow_mut();
            let file = disk.file(self.0.file);
            file.sync(how, &mut world.chance.borrow_mut());
            // every file that was open when it failed is told once, by whoever's sync it failed
            if self.0.told.swap(file.failed_syncs, Ordering::Relaxed) < file.failed_syncs {
                failed = failed.and(Err(io::Error::from_raw_os_error(super::EIO)));
            }
            if how == Sync::Honest {
                disk.names[super::file_system(&self.0.path)].sync_of_a_file();
            }
        }
        if failed.is_err() {
            world.failed_syncs.borrow_mut().push(self.0.path.clone());
        }
        failed?;
        // what others write now is not in it
        world.step("synced", &self.0.path)
    }

    pub(crate) fn drop_cache(&self) -> io::Result<()> {
        let world = world();
        world.step("drop the cache of", &self.0.path)?;
        let mut disk = world.disk.borrow_mut();
        // what is mapped stays
        if disk.touched.get(&self.0.file).is_none_or(|maps| maps.is_empty()) {
            disk.file(self.0.file).drop_cache();
        }
        Ok(())
    }

    pub(crate) fn try_lock(&self, is_exclusive: bool) -> io::Result<Locked> {
        let world = world();
        world.step("lock", &self.0.path)?;
        let mut disk = world.disk.borrow_mut();
        let locks = disk.locks.entry(self.0.file).or_default();
        let is_held = locks.iter().any(|(handle, exclusive)| *handle != self.0.handle && (*exclusive || is_exclusive));
        if is_held {
            return Ok(Locked::Held);
        }
        locks.retain(|(handle, _)| *handle != self.0.handle);
        locks.push((self.0.handle, is_exclusive));
        Ok(Locked::Taken)
    }

    /// The memory that a map shows.
    pub(crate) fn memory(&self) -> io::Result<RealFile> {
        let world = world();
        world.step("map", &self.0.path)?;
        let mut disk = world.disk.borrow_mut();
        disk.file(self.0.file).memory()
    }

    /// A program is about to write through its map. It may not live to do so, or only to do a part of it.
    pub(crate) fn will_write(&self, offset: usize, len: usize) {
        let world = world();
        if world.step("store", &self.0.path).is_err() {
            return;
        }
        let Some(process) = world.current.get() else { return };
        world.disk.borrow_mut().touched.entry(self.0.file).or_default().insert(self.0.handle);
        // an aligned word is stored whole
        if len > size_of::<u64>() && world.one_in(world.faults.get().kill) {
            let mut before = vec![0; len];
            world.disk.borrow_mut().file(self.0.file).read(offset, &mut before);
            *world.cut_short.borrow_mut() = Some(CutShort { process, file: self.0.file, offset, before });
        }
    }
}
