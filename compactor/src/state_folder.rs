//! `DATA/compactor`: what the compactor keeps for itself, and whose the output is.
//!
//! The rule: one compactor a data folder, and one output with one `--by` for its log. Another would publish
//! half of the events there and half here.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tallylight_proto::layout;
use thiserror::Error;

use crate::commit::by_text;
use crate::groups::By;
use crate::lock::{Lock, LockError};
use crate::log::{SegmentFile, bases};
use crate::storage::{self, StorageError};

const SETTINGS: &str = "settings.json";

/// Why the compactor must not run with these arguments, or cannot.
#[derive(Debug, Error)]
pub enum StateError {
    /// There is no such folder.
    #[error("there is no data folder {}", path.display())]
    NoData {
        /// As given.
        path: PathBuf,
    },
    /// There is nothing to look at.
    #[error("there is no log folder {}", path.display())]
    NoLog {
        /// Where it would be.
        path: PathBuf,
    },
    /// A second compactor.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The log was compacted otherwise before.
    #[error("this log was compacted with {flag} {was}, not {flag} {now}: go on with that, or remove {} to begin anew", folder.display())]
    Changed {
        /// Which flag.
        flag: &'static str,
        /// As it was.
        was: Box<str>,
        /// As it is now.
        now: Box<str>,
        /// The compactor's folder.
        folder: PathBuf,
    },
    /// Something else is where the output was.
    #[error(
        "{} is not the output that this log was compacted to, it has no watermark folder: is a disk not mounted? To \
         compact what is left of the log to a new output, remove {}",
        out.display(), folder.display()
    )]
    NotTheOutput {
        /// The output folder.
        out: PathBuf,
        /// The compactor's folder.
        folder: PathBuf,
    },
    /// The disk.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The file of settings is not readable.
    #[error("cannot understand {}", path.display())]
    Settings {
        /// The file.
        path: PathBuf,
        /// Where it goes wrong.
        source: serde_json::Error,
    },
    /// Nothing says whose log it is.
    #[error("no node name: neither in {} nor in a segment", path.display())]
    NoNode {
        /// Where the collector writes it.
        path: PathBuf,
    },
}

impl StateError {
    /// Whether other arguments would help, and trying again would not.
    pub fn is_unusable(&self) -> bool {
        match self {
            Self::NoData { .. } | Self::NoLog { .. } | Self::Changed { .. } => true,
            Self::Lock(error) => matches!(error, LockError::Held { .. }),
            Self::NotTheOutput { .. } | Self::Storage(_) | Self::Settings { .. } | Self::NoNode { .. } => false,
        }
    }
}

/// The compactor's folder, locked.
#[derive(Debug)]
pub struct StateFolder {
    folder: PathBuf,
    _lock: Lock,
}

/// With what the log is compacted, for good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settled {
    /// The node that the log is of.
    pub node: String,
    /// The output folder: in the file relative to the data folder if it is within, else absolute.
    pub out: PathBuf,
    /// More columns to group by.
    pub by: Vec<By>,
}

/// Says if there is no log, to whoever would take nothing for a good sign.
pub fn require_log(data: &Path) -> Result<(), StateError> {
    let path = data.join(layout::LOG);
    if storage::is_dir(&path) { Ok(()) } else { Err(StateError::NoLog { path }) }
}

impl StateFolder {
    /// Takes the folder for this process.
    pub fn take(data: &Path) -> Result<Self, StateError> {
        if !storage::is_dir(data) {
            return Err(StateError::NoData { path: data.to_owned() });
        }
        let folder = data.join(layout::COMPACTOR);
        storage::create_dir_all(&folder)?;
        let lock = Lock::take(&folder.join(layout::LOCK))?;
        Ok(Self { folder, _lock: lock })
    }

    /// The output that a log was compacted to before. Unreadable settings say nothing.
    pub fn settled_out(data: &Path) -> Option<PathBuf> {
        let bytes = storage::read(&data.join(layout::COMPACTOR).join(SETTINGS)).ok()?;
        let stored: Settled = serde_json::from_slice(&bytes).ok()?;
        Some(data.join(stored.out))
    }

    /// Whether a log was compacted from here before.
    pub fn is_settled(data: &Path) -> bool {
        storage::exists(&data.join(layout::COMPACTOR).join(SETTINGS))
    }

    /// Settles with what the log is compacted, or checks that it is with the same as before.
    pub fn settle(&self, data: &Path, out: &Path, by: &[By]) -> Result<Settled, StateError> {
        let path = self.folder.join(SETTINGS);
        let data_folder = located(data)?;
        let Some(before) = self.before(&path, &data_folder)? else {
            storage::create_dir_all(&out.join(layout::WATERMARK))?;
            let settled = Settled { node: node_of(data)?, out: located(out)?, by: by.to_vec() };
            // an output within the data folder moves with it
            let out = settled.out.strip_prefix(&data_folder).unwrap_or(&settled.out).to_owned();
            let stored = Settled { out, ..settled.clone() };
            storage::write_new(&path, &serde_json::to_vec_pretty(&stored).expect("texts"))?;
            return Ok(settled);
        };
        let out = located(out)?;
        let changed = |flag, was: String, now: String| {
            Err(StateError::Changed { flag, was: was.into(), now: now.into(), folder: self.folder.clone() })
        };
        if before.by != by {
            return changed("--by", by_text(&before.by), by_text(by));
        }
        if before.out != out {
            return changed("--out", before.out.display().to_string(), out.display().to_string());
        }
        // an empty folder where the output was is a disk that is not mounted; one that is gone was removed
        if storage::is_dir(&out) && !storage::is_dir(&out.join(layout::WATERMARK)) {
            return Err(StateError::NotTheOutput { out, folder: self.folder.clone() });
        }
        storage::create_dir_all(&out.join(layout::WATERMARK))?;
        Ok(before)
    }

    /// As it was settled at the first run.
    fn before(&self, path: &Path, data: &Path) -> Result<Option<Settled>, StateError> {
        let Some(bytes) = storage::read_if_there(path)? else { return Ok(None) };
        let stored: Settled =
            serde_json::from_slice(&bytes).map_err(|source| StateError::Settings { path: path.to_owned(), source })?;
        let out = data.join(&stored.out);
        Ok(Some(Settled { out, ..stored }))
    }
}

/// Where a folder really is; as far as it is there.
fn located(folder: &Path) -> Result<PathBuf, StorageError> {
    let failed = |source| StorageError { action: "find", path: folder.to_owned(), source };
    let absolute = std::path::absolute(folder).map_err(failed)?;
    let Some(there) = absolute.ancestors().find(|ancestor| ancestor.exists()) else { return Ok(absolute) };
    let rest = absolute.strip_prefix(there).unwrap_or(Path::new("")).to_owned();
    let there = there.canonicalize().map_err(failed)?;
    Ok(if rest.as_os_str().is_empty() { there } else { there.join(rest) })
}

/// The node that a log is of.
pub fn node_of(data: &Path) -> Result<String, StateError> {
    let path = data.join(layout::NODE);
    match storage::read(&path) {
        Ok(bytes) => {
            let name = String::from_utf8_lossy(&bytes).trim().to_owned();
            if layout::is_node_name(&name) {
                return Ok(name);
            }
        }
        Err(error) if error.is_not_found() => {}
        Err(error) => return Err(error.into()),
    }
    let log = data.join(layout::LOG);
    for base in bases(&log)? {
        if let Ok(page) = SegmentFile::open(&log, base)?.page()? {
            return Ok(page.header.node);
        }
    }
    Err(StateError::NoNode { path })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_compactor_and_other_settings_are_refused() {
        let data = tempfile::tempdir().unwrap();
        let (data, out) = (data.path(), data.path().join("out"));
        storage::write_new(&data.join("node"), b"web-1\n").unwrap();
        assert!(!StateFolder::is_settled(data));
        let state = StateFolder::take(data).unwrap();
        let settled = state.settle(data, &out, &[By::Item]).unwrap();
        assert_eq!((&*settled.node, &settled.by[..]), ("web-1", &[By::Item][..]));
        assert_eq!(state.settle(data, &data.join("./out/../out"), &[By::Item]).unwrap(), settled);
        assert!(StateFolder::is_settled(data));

        // a data folder that was moved is still the same
        let stored = std::fs::read_to_string(data.join("compactor").join(SETTINGS)).unwrap();
        assert!(stored.contains("\"out\": \"out\""), "{stored}");
        // an output that was removed is made anew, one that is only not mounted is missed
        std::fs::remove_dir_all(&out).unwrap();
        assert_eq!(state.settle(data, &out, &[By::Item]).unwrap(), settled);
        std::fs::remove_dir_all(out.join(layout::WATERMARK)).unwrap();
        let unmounted = state.settle(data, &out, &[By::Item]).unwrap_err();
        assert!(!unmounted.is_unusable() && unmounted.to_string().contains("not mounted"), "{unmounted}");
        storage::create_dir_all(&out.join(layout::WATERMARK)).unwrap();

        let other_by = state.settle(data, &out, &[By::Item, By::Page]).unwrap_err();
        assert!(other_by.is_unusable() && other_by.to_string().contains("--by item, not --by item,page"), "{other_by}");
        let other_out = state.settle(data, &data.join("out2"), &[By::Item]).unwrap_err();
        assert!(other_out.is_unusable() && other_out.to_string().contains("out2"), "{other_out}");

        let second = StateFolder::take(data).unwrap_err();
        assert!(second.is_unusable() && second.to_string().contains("another compactor"), "{second}");
        drop(state);
        StateFolder::take(data).unwrap();
    }

    #[test]
    fn no_data_folder_is_said() {
        let data = tempfile::tempdir().unwrap();
        let error = StateFolder::take(&data.path().join("x")).unwrap_err();
        assert!(error.is_unusable(), "{error}");
    }
}
