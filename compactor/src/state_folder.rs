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
            Self::Storage(_) | Self::Settings { .. } | Self::NoNode { .. } => false,
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
    /// The output folder, absolute.
    pub out: PathBuf,
    /// More columns to group by.
    pub by: Vec<By>,
}

/// Says if there is no log, to whoever would take nothing for a good sign.
pub fn require_log(data: &Path) -> Result<(), StateError> {
    let path = data.join(layout::LOG);
    if path.is_dir() { Ok(()) } else { Err(StateError::NoLog { path }) }
}

impl StateFolder {
    /// Takes the folder for this process.
    pub fn take(data: &Path) -> Result<Self, StateError> {
        if !data.is_dir() {
            return Err(StateError::NoData { path: data.to_owned() });
        }
        let folder = data.join(layout::COMPACTOR);
        storage::create_dir_all(&folder)?;
        let lock = Lock::take(&folder.join(layout::LOCK))?;
        Ok(Self { folder, _lock: lock })
    }

    /// Whether a log was compacted from here before.
    pub fn is_settled(data: &Path) -> bool {
        data.join(layout::COMPACTOR).join(SETTINGS).exists()
    }

    /// Settles with what the log is compacted, or checks that it is with the same as before.
    pub fn settle(&self, data: &Path, out: &Path, by: &[By]) -> Result<Settled, StateError> {
        storage::create_dir_all(out)?;
        let out = std::path::absolute(out).and_then(|out| out.canonicalize());
        let out = out.map_err(|source| StorageError { action: "find", path: self.folder.clone(), source })?;
        let path = self.folder.join(SETTINGS);
        let before: Option<Settled> = match storage::read(&path) {
            Ok(bytes) => {
                let before = serde_json::from_slice(&bytes);
                Some(before.map_err(|source| StateError::Settings { path: path.clone(), source })?)
            }
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error.into()),
        };
        let Some(before) = before else {
            let settled = Settled { node: node_of(data)?, out, by: by.to_vec() };
            storage::write_new(&path, &serde_json::to_vec_pretty(&settled).expect("texts"))?;
            return Ok(settled);
        };
        let changed = |flag, was: String, now: String| {
            Err(StateError::Changed { flag, was: was.into(), now: now.into(), folder: self.folder.clone() })
        };
        if before.by != by {
            return changed("--by", by_text(&before.by), by_text(by));
        }
        if before.out != out {
            return changed("--out", before.out.display().to_string(), out.display().to_string());
        }
        Ok(before)
    }
}

/// The node that a log is of.
fn node_of(data: &Path) -> Result<String, StateError> {
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
