//! The id index: which ids were seen, where, and when.
//!
//! The rule: **an id counts at one position.** The index holds the first copy of each id. A record is a duplicate
//! exactly if its id is held with *another* position and was received within 7 days of it, either way; the same
//! position again is the same record again, judged after a crash as it was before. So what the index holds beyond the
//! last commit does no harm, and nothing need be taken back.
//!
//! ```text
//! judge ──▶ head, in memory ──▶ runs, sorted files ──▶ merged, older ones dropped
//!           bounded; full or    immutable; filters     those of a size become one
//!           at a commit ───────▶
//! ```
//!
//! An id is sorted by its bytes and nothing else, so its copies always meet, whatever time it claims; for version 7
//! that order is also that of their making, and those asked for now lie together. How long a copy is held goes by when
//! the collector received it: until what is committed is 8 days past it, a day more than asked, in which clocks may
//! go back. What is not committed drops nothing, since it may be judged again.
//!
//! What survives a crash: whatever [`Index::flush`] returned from. Runs appear and disappear only by the replacement
//! of one file, the manifest; every page has a checksum. What cannot be trusted is an error, [`IndexError::Corrupt`],
//! and never an answer; then [`Index::reset`] starts over and the caller inserts what it finds in `events`.

use std::path::{Path, PathBuf};

use tallylight_proto::time::{DAY_MS, HOUR_MS, MAX_AGE_MS, Millis};
use thiserror::Error;
use uuid::Uuid;

use crate::storage::{self, StorageError};

mod cache;
mod filter;
mod head;
mod manifest;
mod merge;
mod packing;
mod page;
mod run;

use cache::PageCache;
use head::{Head, HeadKey, Keyed, Vacant};
use manifest::Manifest;
use merge::Held;
use run::Run;

/// Why the index has no answer.
#[derive(Debug, Error)]
pub enum IndexError {
    /// The disk failed, or is full: try again.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// What is on disk is not what was written: it must be rebuilt.
    #[error("the id index is damaged: {} at page {page}", path.display())]
    Corrupt {
        /// In which file.
        path: PathBuf,
        /// Where in it, in pages of 4 KiB.
        page: u64,
    },
}

impl IndexError {
    /// A run that is missing or cut short is damage, not a disk's failure.
    fn from_read(error: StorageError) -> Self {
        match error.source.kind() {
            std::io::ErrorKind::NotFound | std::io::ErrorKind::UnexpectedEof => {
                Self::Corrupt { path: error.path, page: 0 }
            }
            _ => Self::Storage(error),
        }
    }
}

/// With fewer small runs than this, merging waits until a commit is done, so that it keeps nobody waiting.
const MOST_RUNS_IN_A_COMMIT: usize = 24;

/// Whether a record counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is the first copy of its event.
    First,
    /// Another copy counts.
    Duplicate,
}

/// How much memory it may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Copies in memory before they are written out, at least one; 43 bytes each, and 16 more while they are sorted.
    pub head_copies: usize,
    /// Bytes of pages of runs kept in memory, at least one page.
    pub cache_bytes: usize,
}

impl Default for Limits {
    /// About 76 MiB in all: pages that are not kept are in the kernel's cache for as long as that has room.
    fn default() -> Self {
        // a table of 2^21 slots, of which most are empty
        Self { head_copies: (1 << 20) / 4 * 3, cache_bytes: 32 << 20 }
    }
}

/// What it takes now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Copies in memory, not yet in a run.
    pub head_copies: usize,
    /// Bytes of pages in memory.
    pub cache_bytes: usize,
    /// Bytes by which runs are found in: 20 for each 2032 copies.
    pub fence_bytes: usize,
    /// Files.
    pub runs: usize,
    /// Copies in them.
    pub run_copies: u64,
}

/// The first copy of an id. They sort by id, then position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct FirstCopy {
    id: u128,
    position: u64,
    received_at: Millis,
}

impl FirstCopy {
    /// What a held copy makes of this one; `None` if they have nothing to do with each other.
    fn judged_by(&self, held: &FirstCopy) -> Option<Verdict> {
        if held.id != self.id {
            None
        } else if held.position == self.position {
            Some(Verdict::First)
        } else {
            let apart = held.received_at.abs_diff(self.received_at);
            (apart <= MAX_AGE_MS.unsigned_abs()).then_some(Verdict::Duplicate)
        }
    }
}

/// Which ids were seen, where, and when.
#[derive(Debug)]
pub struct Index {
    folder: PathBuf,
    limits: Limits,
    head: Head,
    /// By their last ids: most ids that are asked for are behind all of them. No two copies of an id are within 7 days of each other, so
    /// it does not matter which is found first.
    runs: Vec<Run>,
    cache: PageCache,
    /// The number of the next run, also after one that failed: the file of a failed one may be there.
    next_number: u64,
    through: u64,
    /// The newest receive time judged since the last flush.
    newest: Option<Millis>,
    /// The newest judged before the last flush that had one.
    flushed: Option<Millis>,
    /// The same of the last commit: copies 8 days older than this can go. Not the newest ever: a clock that was years
    /// ahead for a while must not make the index forgetful from then on.
    settled: Millis,
}

impl Index {
    /// Opens the index in a folder, or begins one, and clears away what a crash has left there. One process at a
    /// time: the caller holds a lock.
    pub fn open(folder: &Path, limits: Limits) -> Result<Self, IndexError> {
        storage::create_dir_all(folder)?;
        let manifest = Manifest::read(folder)?.unwrap_or_default();
        let runs = manifest.runs.iter().map(|(number, copies)| Run::open(folder, *number, *copies));
        let mut runs = runs.collect::<Result<Vec<_>, _>>()?;
        runs.sort_unstable_by_key(|run| run.last);
        remove_all_but(folder, &manifest)?;
        Ok(Self {
            folder: folder.to_owned(),
            limits,
            head: Head::default(),
            runs,
            cache: PageCache::new(limits.cache_bytes),
            next_number: manifest.next_number,
            through: manifest.through,
            newest: None,
            flushed: None,
            settled: manifest.settled,
        })
    }

    /// Begins anew, whatever is in the folder. [`Self::through`] is 0 from the first moment, so that a rebuilding
    /// that a crash cut short is seen as such.
    pub fn reset(folder: &Path, limits: Limits) -> Result<Self, IndexError> {
        storage::create_dir_all(folder)?;
        Manifest::default().write(folder)?;
        Self::open(folder, limits)
    }

    /// Every record below this log position was judged or inserted when it was last flushed. If that is less than what
    /// was committed, it is not the index that belongs to the output: reset and rebuild it.
    pub fn through(&self) -> u64 {
        self.through
    }

    /// Judges the record at a position, and holds it if it is a first copy. Records come in log order, those after the
    /// last commit possibly again. After an error nothing has changed, and the same may be asked again.
    pub fn judge(&mut self, id: Uuid, position: u64, received_at: Millis) -> Result<Verdict, IndexError> {
        self.judge_keyed(id, position, received_at, self.head.key(id.as_u128()))
    }

    fn judge_keyed(
        &mut self,
        id: Uuid,
        position: u64,
        received_at: Millis,
        head_key: HeadKey,
    ) -> Result<Verdict, IndexError> {
        self.newest = self.newest.max(Some(received_at));
        let copy = FirstCopy { id: id.as_u128(), position, received_at };
        let vacant = match self.head.find(head_key, |held| copy.judged_by(held)) {
            Ok(verdict) => return Ok(verdict),
            Err(vacant) => vacant,
        };
        for run in self.runs.iter_mut().rev().take_while(|run| copy.id <= run.last) {
            let verdict = run.find(&mut self.cache, copy.id, |held| copy.judged_by(&held))?;
            if let Some(verdict) = verdict {
                return Ok(verdict);
            }
        }
        self.hold(copy, head_key, vacant)?;
        Ok(Verdict::First)
    }

    /// The same for many records, in log order.
    pub fn judge_all(&mut self, records: &[(Uuid, u64, Millis)]) -> Result<Vec<Verdict>, IndexError> {
        let keys: Vec<_> = records.iter().map(|(id, ..)| self.head.key(id.as_u128())).collect();
        self.head.prepare(&keys);
        let mut verdicts = Vec::with_capacity(records.len());
        for ((id, position, received_at), key) in records.iter().zip(keys) {
            verdicts.push(self.judge_keyed(*id, *position, *received_at, key)?);
        }
        Ok(verdicts)
    }

    /// Holds a copy that is known to be a first one: how the index is rebuilt.
    pub fn insert(&mut self, id: Uuid, position: u64, received_at: Millis) -> Result<(), IndexError> {
        let copy = FirstCopy { id: id.as_u128(), position, received_at };
        let key = self.head.key(copy.id);
        match self.head.find(key, |held| (*held == copy).then_some(())) {
            Ok(()) => Ok(()),
            Err(vacant) => self.hold(copy, key, vacant),
        }
    }

    /// Makes durable all that is held, and that every record below the log position `through` was judged. Comes first
    /// in a commit.
    pub fn flush(&mut self, through: u64) -> Result<(), IndexError> {
        self.write_head(self.through.max(through))?;
        self.flushed = self.newest.take().or(self.flushed);
        if merge::small(&self.held()) >= MOST_RUNS_IN_A_COMMIT { self.merge() } else { Ok(()) }
    }

    /// To be called once all that was judged before the last flush is committed, so that it will not be judged again:
    /// drops what is old, and merges where due. Comes last in a commit. All is well, if larger, when it fails.
    pub fn after_commit(&mut self) -> Result<(), IndexError> {
        // A clock that is ahead for a moment must not make it forget: what is settled goes up by an hour a commit.
        let most = if self.settled == 0 { Millis::MAX } else { self.settled.saturating_add(HOUR_MS) };
        self.settled = self.flushed.map_or(self.settled, |flushed| flushed.min(most));
        let horizon = self.horizon();
        if self.runs.iter().any(|run| run.newest < horizon) {
            self.replace(|run| run.newest < horizon, None, self.through)?;
        }
        self.merge()
    }

    /// What it takes now.
    pub fn usage(&self) -> Usage {
        Usage {
            head_copies: self.head.len(),
            cache_bytes: self.cache.bytes(),
            fence_bytes: self.runs.iter().map(Run::memory).sum(),
            runs: self.runs.len(),
            run_copies: self.runs.iter().map(|run| run.copies).sum(),
        }
    }

    fn hold(&mut self, copy: FirstCopy, key: HeadKey, mut vacant: Vacant) -> Result<(), IndexError> {
        if self.head.len() >= self.limits.head_copies.max(1) {
            self.write_head(self.through)?;
            self.merge()?;
            vacant = self.head.vacant(key);
        }
        self.head.push(copy, key, vacant);
        Ok(())
    }

    /// What was received before this is held no longer.
    fn horizon(&self) -> Millis {
        self.settled.saturating_sub(MAX_AGE_MS + DAY_MS)
    }

    /// Makes a run of the head.
    fn write_head(&mut self, through: u64) -> Result<(), IndexError> {
        if self.head.is_empty() && through == self.through {
            return Ok(());
        }
        let mut added = None;
        if !self.head.is_empty() {
            let number = self.take_number();
            let are_many = self.head.len() as u64 >= merge::MUCH;
            let sorted = self.head.sorted(are_many);
            let mut places = sorted.iter().flatten().map(|place| Ok(*place));
            let groups = std::iter::from_fn(|| merge::group_of(&mut places));
            let copies_of = |group: Vec<Keyed>| self.head.copies_at(&group).collect();
            let copies = run::write(&self.folder, number, are_many, groups, copies_of)?;
            added = Some(Run::open(&self.folder, number, copies)?);
        }
        self.replace(|_| false, added, through)?;
        self.head.clear();
        Ok(())
    }

    fn merge(&mut self) -> Result<(), IndexError> {
        while let Some(chosen) = merge::choose(&self.held()) {
            let runs: Vec<_> = chosen.iter().map(|n| &self.runs[*n]).collect();
            let numbers: Vec<_> = runs.iter().map(|run| run.number).collect();
            let number = self.next_number;
            let merged = merge::merge(&runs, self.horizon(), &self.folder, number);
            self.next_number += 1;
            let copies = match merged {
                // all is durable as it is; it is tried again after the next commit
                Err(IndexError::Storage(error)) if error.is_disk_full() => return Ok(()),
                merged => merged?,
            };
            let added = if copies > 0 { Some(Run::open(&self.folder, number, copies)?) } else { None };
            self.replace(|run| numbers.contains(&run.number), added, self.through)?;
        }
        Ok(())
    }

    /// What decides which runs are merged.
    fn held(&self) -> Vec<Held> {
        self.runs.iter().map(|run| Held { copies: run.copies, asked: run.asked }).collect()
    }

    /// Makes the index one run more and some fewer, at once.
    fn replace(&mut self, gone: impl Fn(&Run) -> bool, added: Option<Run>, through: u64) -> Result<(), IndexError> {
        let runs =
            self.runs.iter().filter(|run| !gone(run)).chain(&added).map(|run| (run.number, run.copies)).collect();
        Manifest { next_number: self.next_number, through, settled: self.settled, runs }.write(&self.folder)?;
        self.through = through;
        for run in self.runs.extract_if(.., |run| gone(run)) {
            // what cannot be removed now is when it is opened next
            let _ = storage::remove(&run::path(&self.folder, run.number));
        }
        self.runs.extend(added);
        self.runs.sort_unstable_by_key(|run| run.last);
        Ok(())
    }

    fn take_number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number - 1
    }
}

/// Removes what is in the folder and not in the manifest.
fn remove_all_but(folder: &Path, manifest: &Manifest) -> Result<(), IndexError> {
    let kept = |path: &Path| {
        path == folder.join(manifest::NAME)
            || manifest.runs.iter().any(|(number, _)| path == run::path(folder, *number))
    };
    for name in storage::list(folder)? {
        let path = folder.join(name);
        if !kept(&path) {
            storage::remove(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
