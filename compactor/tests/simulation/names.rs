//! What of names must be on disk before what.
//!
//! The rule: **whoever renames syncs the folders before anything relies upon it.** A power cut at the worst moment would
//! show most of what breaks that, but few seeds have that moment, so the calls themselves are looked at. It is what POSIX
//! asks for; a journal that keeps the order forgives much of it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use tallylight_host::simulated::{Call, Process};
use tallylight_proto::layout;

use crate::programs::{COLLECTOR, COMPACTOR, out};

/// Names that a power cut could take back.
#[derive(Default)]
pub struct UnsyncedNames {
    /// Folders in which a process has renamed, or made a folder.
    folders: BTreeMap<Process, BTreeSet<PathBuf>>,
    /// Those in which one had done so that is no more: of a compactor, its outputs.
    left: BTreeSet<PathBuf>,
    /// The folder of what a process is about to rename.
    renaming: BTreeMap<Process, PathBuf>,
    /// What files were renamed to.
    files: BTreeSet<PathBuf>,
}

impl UnsyncedNames {
    /// A call is about to be made.
    pub fn see(&mut self, call: &Call<'_>) {
        let folder = || call.path.parent().unwrap_or(call.path).to_owned();
        match call.action {
            "created folder" => {
                self.folders.entry(call.process).or_default().insert(folder());
            }
            "rename" => {
                self.renaming.insert(call.process, folder());
            }
            "renamed" => {
                let folders = self.folders.entry(call.process).or_default();
                folders.extend(self.renaming.remove(&call.process));
                folders.insert(folder());
                self.files.insert(call.path.to_owned());
            }
            "synced folder" => {
                for folders in self.folders.values_mut().chain([&mut self.left]) {
                    folders.remove(call.path);
                }
                self.files.retain(|file| file.parent() != Some(call.path));
            }
            // the header of a segment that was a spare may not reach the disk before its name has left the spares; one that is
            // begun may: recovery knows a begun segment that has lost its name
            "sync" if call.process == COLLECTOR && !is_begun(call.path) => {
                assert!(!self.files.contains(call.path), "{} is synced, and its name is not", call.path.display());
            }
            _ => {}
        }
    }

    /// A segment is let go of, so what it was published to must be there whatever happens.
    pub fn are_not_relied_upon(&self) {
        let all = self.folders.values().flatten().chain(&self.left);
        let outputs: Vec<&PathBuf> = all.filter(|folder| folder.starts_with(out())).collect();
        assert!(outputs.is_empty(), "a segment goes, and a power cut could take back what was renamed in {outputs:?}");
    }

    /// The collector has recovered its log.
    pub fn collector_has_recovered(&self) {
        let all = self.folders.get(&COLLECTOR).into_iter().flatten().chain(&self.left);
        let left: Vec<&PathBuf> = all.filter(|folder| !folder.starts_with(out())).collect();
        assert!(left.is_empty(), "the log is recovered, and a power cut could take back what was renamed in {left:?}");
    }

    /// The collector is gone: the next one must see to what it has left.
    pub fn collector_died(&mut self) {
        self.left.extend(self.folders.remove(&COLLECTOR).unwrap_or_default());
    }

    /// The compactor says that a pass is done.
    pub fn compactor_is_done(&self) {
        let left = self.folders.get(&COMPACTOR).filter(|folders| !folders.is_empty());
        assert!(left.is_none(), "the compactor is done, and a power cut could take back what it renamed in {left:?}");
    }

    /// The compactor is killed, or an error has it begin again. What it has left in its outputs the next one must see to.
    pub fn compactor_was_disturbed(&mut self) {
        let folders = self.folders.remove(&COMPACTOR).unwrap_or_default();
        self.left.extend(folders.into_iter().filter(|folder| folder.starts_with(out())));
    }
}

fn is_begun(segment: &Path) -> bool {
    segment.file_name().and_then(|name| layout::segment_base(name.to_str()?)).is_some()
}
