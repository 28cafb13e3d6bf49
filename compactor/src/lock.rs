//! Who may run: one compactor a data folder, and is the collector there?
//!
//! The rule: a lock is the kernel's (flock(2)) on an open file. It ends with its process, however that ends,
//! and nothing is ever written into the file.

use std::io;
use std::path::{Path, PathBuf};

use tallylight_host::disk::{File, Locked, Mode};
use thiserror::Error;

/// Why a lock could not be taken.
#[derive(Debug, Error)]
pub enum LockError {
    /// Another process has it.
    #[error("another compactor is running: {} is locked", path.display())]
    Held {
        /// The lock's file.
        path: PathBuf,
    },
    /// The system refused.
    #[error("cannot lock {}", path.display())]
    Failed {
        /// The lock's file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A lock, held until this is dropped.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock or says at once that it is taken. The folder exists.
    pub fn take(path: &Path) -> Result<Self, LockError> {
        let failed = |source| LockError::Failed { path: path.to_owned(), source };
        let file = File::open(path, Mode::Create).map_err(failed)?;
        match file.try_lock().map_err(failed)? {
            Locked::Taken => Ok(Self { _file: file }),
            Locked::Held => Err(LockError::Held { path: path.to_owned() }),
        }
    }
}

/// Whether some process holds this lock exclusively. What cannot be found out counts as held: then the reader
/// waits instead of guessing.
///
/// A shared lock is taken for a moment, which a collector that starts in that moment could stumble over. So this
/// is asked only when a segment was left unsealed with another behind it.
pub fn is_held(path: &Path) -> bool {
    match File::open(path, Mode::Read) {
        Ok(file) => !matches!(file.try_lock_shared(), Ok(Locked::Taken)),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_held_until_it_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        assert!(!is_held(&path), "nobody ever took it");
        let lock = Lock::take(&path).unwrap();
        assert!(is_held(&path));
        let error = Lock::take(&path).unwrap_err();
        assert!(error.to_string().starts_with("another compactor is running"), "{error}");
        drop(lock);
        assert!(!is_held(&path));
        Lock::take(&path).unwrap();
    }
}
