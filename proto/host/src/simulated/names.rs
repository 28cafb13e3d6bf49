//! Folders: what names there are now, and what names there would be after a power cut.
//!
//! The rule: every creation, rename and removal is atomic, and waits in a list until a sync of a folder makes it
//! durable. What order they reach the disk in is for [`Journal`] to say.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use super::chance::Chance;

/// How changes of names reach the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Journal {
    /// In their order, all of them with any sync: ext4 and XFS.
    Ordered,
    /// Each for itself, those of a folder with its sync: all that POSIX promises.
    Loose,
}

/// What stands under a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Node {
    Folder,
    File(u64),
}

#[derive(Clone, Debug)]
struct Change {
    node: Node,
    from: Option<PathBuf>,
    to: Option<PathBuf>,
}

type Tree = BTreeMap<PathBuf, Node>;

#[derive(Debug)]
pub(super) struct Names {
    now: Tree,
    durable: Tree,
    pending: Vec<Change>,
    journal: Journal,
}

impl Names {
    pub fn new(journal: Journal) -> Self {
        let tree = Tree::from([(PathBuf::from("/"), Node::Folder)]);
        Self { now: tree.clone(), durable: tree, pending: Vec::new(), journal }
    }

    pub fn get(&self, path: &Path) -> io::Result<Node> {
        self.now.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// The file that this name would have after a power cut, if none of what waits were kept.
    pub fn durable_file(&self, path: &Path) -> Option<u64> {
        match self.durable.get(path) {
            Some(Node::File(file)) => Some(*file),
            _ => None,
        }
    }

    /// The files that have a name now, or would have one after a power cut.
    pub fn files(&self) -> impl Iterator<Item = u64> {
        let changed = self.pending.iter().map(|change| &change.node);
        self.now.values().chain(self.durable.values()).chain(changed).filter_map(|node| match node {
            Node::File(file) => Some(*file),
            Node::Folder => None,
        })
    }

    /// All paths of files, now.
    pub fn paths(&self) -> impl Iterator<Item = (&Path, u64)> {
        self.now.iter().filter_map(|(path, node)| match node {
            Node::File(file) => Some((path.as_path(), *file)),
            Node::Folder => None,
        })
    }

    pub fn add(&mut self, path: &Path, node: Node) -> io::Result<()> {
        if self.now.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.folder(path.parent().unwrap_or(path))?;
        self.change(Change { node, from: None, to: Some(path.to_owned()) });
        Ok(())
    }

    pub fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let node = self.get(from)?;
        self.folder(to.parent().unwrap_or(to))?;
        self.change(Change { node, from: Some(from.to_owned()), to: Some(to.to_owned()) });
        Ok(())
    }

    pub fn remove(&mut self, path: &Path) -> io::Result<()> {
        let node = self.get(path)?;
        if node == Node::Folder {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        self.change(Change { node, from: Some(path.to_owned()), to: None });
        Ok(())
    }

    pub fn list(&self, folder: &Path) -> io::Result<Vec<OsString>> {
        self.folder(folder)?;
        let inside = self.now.keys().filter(|path| path.parent() == Some(folder));
        Ok(inside.filter_map(|path| path.file_name().map(OsString::from)).collect())
    }

    fn folder(&self, path: &Path) -> io::Result<()> {
        match self.get(path)? {
            Node::Folder => Ok(()),
            Node::File(_) => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    /// A folder was synced.
    pub fn sync(&mut self, folder: &Path) -> io::Result<()> {
        self.folder(folder)?;
        let is_in_it = |path: &Option<PathBuf>| path.as_ref().is_some_and(|path| path.parent() == Some(folder));
        let wanted = match self.journal {
            Journal::Ordered => vec![true; self.pending.len()],
            Journal::Loose => self.pending.iter().map(|c| is_in_it(&c.from) || is_in_it(&c.to)).collect(),
        };
        self.settle(wanted);
        Ok(())
    }

    /// A file was synced: a journal that keeps the order then has all that came before.
    pub fn sync_of_a_file(&mut self) {
        if self.journal == Journal::Ordered {
            self.settle(vec![true; self.pending.len()]);
        }
    }

    /// Some of what waits gets there by itself.
    pub fn write_back(&mut self, chance: &mut Chance) {
        let wanted = self.some(chance, 50);
        self.settle(wanted);
    }

    /// What names are left. So many of a hundred changes that wait are kept.
    pub fn power_cut(&mut self, chance: &mut Chance, kept: u32) {
        let wanted = self.some(chance, kept);
        self.settle(wanted);
        self.pending.clear();
        // a name is lost with its folder
        let mut left = Tree::new();
        for (path, node) in &self.durable {
            if path.parent().is_none_or(|folder| left.get(folder) == Some(&Node::Folder)) {
                left.insert(path.clone(), *node);
            }
        }
        self.now.clone_from(&left);
        self.durable = left;
    }

    fn some(&self, chance: &mut Chance, kept: u32) -> Vec<bool> {
        let count = self.pending.len();
        match self.journal {
            Journal::Ordered => {
                let until = (0..count).take_while(|_| chance.percent(kept)).count();
                (0..count).map(|at| at < until).collect()
            }
            Journal::Loose => (0..count).map(|_| chance.percent(kept)).collect(),
        }
    }

    /// Makes these durable, and those that they build upon.
    fn settle(&mut self, mut wanted: Vec<bool>) {
        for later in (0..wanted.len()).rev().filter(|at| wanted[*at]).collect::<Vec<_>>() {
            self.want_before(later, &mut wanted);
        }
        let mut left = Vec::new();
        for (change, is_wanted) in std::mem::take(&mut self.pending).into_iter().zip(wanted) {
            if is_wanted {
                apply(&mut self.durable, &change);
            } else {
                left.push(change);
            }
        }
        self.pending = left;
    }

    fn want_before(&self, later: usize, wanted: &mut [bool]) {
        for at in (0..later).rev() {
            if !wanted[at] && self.pending[at].is_under(&self.pending[later]) {
                wanted[at] = true;
                self.want_before(at, wanted);
            }
        }
    }

    fn change(&mut self, change: Change) {
        apply(&mut self.now, &change);
        self.pending.push(change);
    }
}

impl Change {
    /// Whether a later change cannot be without this one.
    fn is_under(&self, later: &Self) -> bool {
        let is_same_file = matches!(self.node, Node::File(_)) && self.node == later.node;
        let names = |change: &Self| [change.from.clone(), change.to.clone()];
        is_same_file || names(self).iter().flatten().any(|path| names(later).contains(&Some(path.clone())))
    }
}

fn apply(tree: &mut Tree, change: &Change) {
    if let Some(from) = &change.from
        && tree.get(from) == Some(&change.node)
    {
        tree.remove(from);
    }
    if let Some(to) = &change.to {
        tree.insert(to.clone(), change.node);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> PathBuf {
        PathBuf::from(text)
    }

    #[test]
    fn a_name_is_durable_with_its_folder_not_with_its_file() {
        let mut names = Names::new(Journal::Loose);
        names.add(&path("/a"), Node::Folder).unwrap();
        names.add(&path("/a/x"), Node::File(1)).unwrap();
        names.sync_of_a_file();
        assert_eq!(names.durable_file(&path("/a/x")), None);
        names.sync(&path("/a")).unwrap();
        assert_eq!(names.durable_file(&path("/a/x")), Some(1));
        // the folder's own name is not synced: all in it goes
        names.power_cut(&mut Chance::new(1), 0);
        assert!(names.get(&path("/a/x")).is_err());
    }

    #[test]
    fn a_kept_rename_takes_along_what_it_builds_upon_and_never_leaves_two_names() {
        for seed in 0..200 {
            let mut chance = Chance::new(seed);
            let mut names = Names::new(Journal::Loose);
            names.add(&path("/a"), Node::File(1)).unwrap();
            names.sync(&path("/")).unwrap();
            names.add(&path("/b"), Node::File(2)).unwrap();
            names.rename(&path("/b"), &path("/a")).unwrap();
            names.rename(&path("/a"), &path("/c")).unwrap();
            names.power_cut(&mut chance, 50);
            let left: Vec<u64> = names.files().collect();
            assert!(left.iter().filter(|file| **file == 2).count() <= 2, "once now and once durable: {left:?}");
            assert!(names.get(&path("/b")).is_err() || names.get(&path("/c")).is_err());
        }
    }

    #[test]
    fn an_ordered_journal_keeps_a_prefix() {
        for seed in 0..100 {
            let mut names = Names::new(Journal::Ordered);
            for n in 0..5 {
                names.add(&path(&format!("/{n}")), Node::File(n)).unwrap();
            }
            names.power_cut(&mut Chance::new(seed), 70);
            let left: Vec<bool> = (0..5).map(|n| names.get(&path(&format!("/{n}"))).is_ok()).collect();
            assert!(left.is_sorted_by(|earlier, later| earlier >= later), "{left:?}");
        }
    }
}
