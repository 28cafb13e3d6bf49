//! The commit: `OUT/watermark/NODE.json`.
//!
//! The rule: **a commit says what is published, and nothing is done that it does not allow.** Replay begins at its
//! position with its counts; what was published beyond it is known by its own footers. It is replaced whole.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tallylight_proto::time::{Hour, Millis};
use tallylight_proto::{Front, layout};
use thiserror::Error;

use crate::groups::By;
use crate::ledger_check::LedgerCheck;
use crate::log::Place;
use crate::storage::{self, StorageError};

/// The version of the file's format.
const VERSION: u32 = 1;

/// What became of the events of one front, or of all, cumulative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrontCounts {
    /// Events read.
    pub read: u64,
    /// Events that count.
    pub counted: u64,
    /// Copies of events that count elsewhere.
    pub duplicates: u64,
    /// Events by declared crawlers.
    pub bots: u64,
    /// Events logged before the first record that was read: the log began later.
    pub before: u64,
    /// Events that were read, and that a power cut then took from the log and its ledger.
    pub taken: u64,
}

/// What became of the records of the log, cumulative.
///
/// Of all that stand before a place: `ordinal = before + read + ledgers + damaged + torn − taken`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "CountsDocument", try_from = "CountsDocument")]
pub struct Counts {
    /// Events, by front.
    pub fronts: [FrontCounts; Front::ALL.len()],
    /// Ledger records.
    pub ledgers: u64,
    /// Records whose bytes are bad or gone.
    pub damaged: u64,
    /// Records that a power cut took before they were synced.
    pub torn: u64,
    /// Records before the first one that was read.
    pub records_before: u64,
    /// Records whose ordinals were used again: a power cut took them after they were read.
    pub records_taken: u64,
    /// Counted events that arrived over a minute after they happened.
    pub late: u64,
    /// Events that clients gave up, as counted events say.
    pub client_lost: u64,
}

impl FrontCounts {
    fn numbers(&mut self) -> [&mut u64; 6] {
        let Self { read, counted, duplicates, bots, before, taken } = self;
        [read, counted, duplicates, bots, before, taken]
    }
}

impl Counts {
    /// The sums over all fronts.
    pub fn events(&self) -> FrontCounts {
        let mut sum = FrontCounts::default();
        for mut front in self.fronts {
            sum.numbers().into_iter().zip(front.numbers()).for_each(|(sum, number)| *sum = sum.wrapping_add(*number));
        }
        sum
    }

    /// The ordinal of the next record, if all of them were counted.
    pub fn ordinal(&self) -> u64 {
        let parts = [self.records_before, self.events().read, self.ledgers, self.damaged, self.torn];
        parts.into_iter().fold(0, u64::saturating_add).saturating_sub(self.records_taken)
    }
}

/// As they stand in the file: the sums first, which readers may rely on.
#[derive(Serialize, Deserialize)]
struct CountsDocument {
    #[serde(flatten)]
    events: FrontCounts,
    damaged: u64,
    torn: u64,
    late: u64,
    client_lost: u64,
    ledgers: u64,
    records_before: u64,
    records_taken: u64,
    fronts: BTreeMap<String, FrontCounts>,
}

impl From<Counts> for CountsDocument {
    fn from(counts: Counts) -> Self {
        let events = counts.events();
        let Counts { fronts, ledgers, damaged, torn, records_before, records_taken, late, client_lost } = counts;
        let fronts = Front::ALL.iter().map(|front| (front.label().to_owned(), fronts[front.index()])).collect();
        Self { events, damaged, torn, late, client_lost, ledgers, records_before, records_taken, fronts }
    }
}

impl TryFrom<CountsDocument> for Counts {
    type Error = &'static str;

    fn try_from(document: CountsDocument) -> Result<Self, Self::Error> {
        let CountsDocument { events, damaged, torn, late, client_lost, ledgers, records_before, records_taken, fronts } =
            document;
        let of = |front: Front| fronts.get(front.label()).copied().unwrap_or_default();
        let fronts = Front::ALL.map(of);
        let counts = Self { fronts, ledgers, damaged, torn, records_before, records_taken, late, client_lost };
        if counts.events() == events { Ok(counts) } else { Err("its counts are not the sums over the fronts") }
    }
}

/// The state of the compaction at a place between two records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The place.
    pub place: Place,
    /// The salt of the segment that it lies in.
    pub salt: u64,
    /// Counts of all records before it.
    pub counts: Counts,
    /// The latest time that these records tell.
    pub log_time: Millis,
    /// The ledger as of there.
    pub ledger: LedgerCheck,
}

/// A commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Where replay begins.
    pub snapshot: Snapshot,
    /// Hours before this one change by amendment only.
    pub complete_through: Option<Hour>,
    /// Up to where hours' files cover them, of those that may still change.
    pub hours: BTreeMap<Hour, u64>,
}

/// Why there is no usable commit.
#[derive(Debug, Error)]
pub enum CommitError {
    /// The disk.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// Not as this program writes it.
    #[error("{} is not a commit that this version can read", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Where it goes wrong.
        source: Option<serde_json::Error>,
    },
    /// The output was made with another `--by`.
    #[error("{} was compacted with --by {was}: use the same, or another --out and an empty DATA/compactor", path.display())]
    OtherBy {
        /// The file.
        path: PathBuf,
        /// As it was.
        was: Box<str>,
    },
}

/// As it stands in the file. Readers may rely on the first three names.
#[derive(Serialize, Deserialize)]
struct Document {
    node: String,
    complete_through: Option<String>,
    position: u64,
    ordinal: Option<u64>,
    by: Vec<By>,
    counts: Counts,
    log_time: Millis,
    /// In hex: readers of JSON round large numbers.
    salt: String,
    ledger: LedgerCheck,
    hours: BTreeMap<String, u64>,
    version: u32,
}

impl Commit {
    /// The file of a node.
    pub fn path(out: &Path, node: &str) -> PathBuf {
        out.join(layout::WATERMARK).join(layout::watermark_file(node))
    }

    /// Reads the last commit, if there is one.
    pub fn read(out: &Path, node: &str, by: &[By]) -> Result<Option<Self>, CommitError> {
        let Some((commit, was)) = Self::read_any(out, node)? else { return Ok(None) };
        if was != by {
            return Err(CommitError::OtherBy { path: Self::path(out, node), was: by_text(&was).into() });
        }
        Ok(Some(commit))
    }

    /// The same, whatever it is grouped by.
    pub fn read_any(out: &Path, node: &str) -> Result<Option<(Self, Vec<By>)>, CommitError> {
        let path = Self::path(out, node);
        let Some(bytes) = storage::read_if_there(&path)? else { return Ok(None) };
        let unreadable = |source| CommitError::Unreadable { path: path.clone(), source };
        let document: Document = serde_json::from_slice(&bytes).map_err(|error| unreadable(Some(error)))?;
        let by = document.by.clone();
        document.into_commit().map(|commit| Some((commit, by))).ok_or_else(|| unreadable(None))
    }

    /// Puts this commit in the place of the last one.
    pub fn write(&self, out: &Path, node: &str, by: &[By]) -> Result<(), StorageError> {
        let path = Self::path(out, node);
        storage::create_dir_all(path.parent().expect("it is in a folder"))?;
        let snapshot = &self.snapshot;
        let document = Document {
            node: node.to_owned(),
            complete_through: self.complete_through.map(|hour| hour.to_string()),
            position: snapshot.place.position,
            ordinal: snapshot.place.ordinal,
            by: by.to_vec(),
            counts: snapshot.counts,
            log_time: snapshot.log_time,
            salt: format!("{:016x}", snapshot.salt),
            ledger: snapshot.ledger.clone(),
            hours: self.hours.iter().map(|(hour, covered)| (hour.to_string(), *covered)).collect(),
            version: VERSION,
        };
        let mut text = serde_json::to_vec_pretty(&document).expect("numbers and texts");
        text.push(b'\n');
        storage::write_new(&path, &text)
    }
}

impl Document {
    fn into_commit(self) -> Option<Commit> {
        let hours = self.hours.into_iter().map(|(hour, covered)| Some((Hour::parse(&hour)?, covered)));
        let complete_through = match self.complete_through {
            None => None,
            Some(text) => Some(Hour::parse(&text)?),
        };
        let snapshot = Snapshot {
            place: Place { position: self.position, ordinal: self.ordinal },
            salt: u64::from_str_radix(&self.salt, 16).ok()?,
            counts: self.counts,
            log_time: self.log_time,
            ledger: self.ledger,
        };
        let commit = Commit { snapshot, complete_through, hours: hours.collect::<Option<_>>()? };
        (self.version == VERSION).then_some(commit)
    }
}

/// As on the command line.
pub fn by_text(by: &[By]) -> String {
    if by.is_empty() {
        return "(nothing)".into();
    }
    by.iter().map(|by| by.name()).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_reads_back_and_another_by_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path();
        assert!(Commit::read(out, "n", &[]).unwrap().is_none());
        let mut ledger = LedgerCheck::default();
        ledger.event(Front::Udp);
        let commit = Commit {
            snapshot: Snapshot {
                place: Place { position: 4711, ordinal: Some(3) },
                salt: u64::MAX - 1,
                counts: Counts {
                    fronts: [FrontCounts { read: 3, counted: 2, duplicates: 1, ..FrontCounts::default() }; 4],
                    ..Counts::default()
                },
                log_time: 1_795_392_000_000,
                ledger,
            },
            complete_through: Some(Hour(498_720)),
            hours: BTreeMap::from([(Hour(498_719), 4096), (Hour(498_720), 4711)]),
        };
        commit.write(out, "n", &[By::Item]).unwrap();
        assert_eq!(Commit::read(out, "n", &[By::Item]).unwrap(), Some(commit));
        let error = Commit::read(out, "n", &[By::Page, By::Item]).unwrap_err();
        assert!(matches!(error, CommitError::OtherBy { ref was, .. } if **was == *"item"), "{error}");
        let text = String::from_utf8(storage::read(&Commit::path(out, "n")).unwrap()).unwrap();
        assert!(text.contains("\"complete_through\": \"2026-11-23T00:00:00Z\",\n  \"position\": 4711"), "{text}");
    }

    #[test]
    fn what_is_no_commit_is_an_error_and_not_a_fresh_start() {
        let folder = tempfile::tempdir().unwrap();
        let path = Commit::path(folder.path(), "n");
        storage::create_dir_all(path.parent().unwrap()).unwrap();
        for bad in ["", "{}", "{\"version\": 2}"] {
            storage::write_new(&path, bad.as_bytes()).unwrap();
            assert!(matches!(Commit::read(folder.path(), "n", &[]), Err(CommitError::Unreadable { .. })), "{bad}");
        }
    }
}
