//! `audit`: does everything add up, from the collector's door to the rows?
//!
//! ```text
//!  log: ledger records, events ─┐
//!  OUT/hourly, OUT/events ──────┼─▶ Scan ─▶ sections: sums ─▶ text or JSON
//!  OUT/watermark/NODE.json ─────┘
//! ```
//!
//! The rule: **only files are asked, and what they cannot tell is named.** Nothing is written, and nothing locked but
//! for the moment in which it is asked whether a collector runs. So both programs may run meanwhile: the commit is read first and the log last, and what is published beyond the commit is
//! found again in the log. Where a kill or a power cut took what nobody can count, there is room for it in the sum, and
//! the line says so.

mod balance;
mod fates;
mod lives;
mod log;
mod output;
mod print;
mod rows;
mod sections;
mod sources;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use tallylight_proto::layout;
use tallylight_service::Bar;
use thiserror::Error;

use self::balance::{Line, Report, Section};
use self::log::Scan;
use self::rows::Rows;
use self::sections::Found;
use crate::commit::{Commit, CommitError};
use crate::events::Events;
use crate::hourly::Hourly;
use crate::lock;
use crate::log::{Item, LogError, Purpose, Reader, bases};
use crate::parquet_file::FileError;
use crate::run::chain;
use crate::state_folder::{StateError, StateFolder, node_of};
use crate::storage::{self, StorageError};

/// How often it is read again where segments were let go of or a commit was made meanwhile.
const TRIES: usize = 5;

/// Why it cannot be found out.
#[derive(Debug, Error)]
pub enum AuditError {
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The disk.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A Parquet file.
    #[error(transparent)]
    File(#[from] FileError),
    /// The commit.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// Whose data it is.
    #[error(transparent)]
    State(#[from] StateError),
    /// Standard output.
    #[error("cannot print")]
    Print {
        /// What the system said.
        #[from]
        source: io::Error,
    },
}

/// Prints the balance of a data folder and its output, if another than the one that it was compacted to. Whether it adds up.
pub fn audit(data: &Path, out: Option<&Path>, is_json: bool, mut to: impl Write) -> Result<bool, AuditError> {
    let report = report(data, out)?;
    let adds_up = report.adds_up();
    let printed = if is_json {
        serde_json::to_writer(&mut to, &report.json()).map_err(io::Error::from).and_then(|()| to.write_all(b"\n"))
    } else {
        print::print(&report, &mut to)
    };
    match printed.and_then(|()| to.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(adds_up),
    }
}

fn report(data: &Path, out: Option<&Path>) -> Result<Report, AuditError> {
    if bases(&data.join(layout::LOG))?.is_empty() && !storage::exists(&data.join(layout::NODE)) {
        let lines = vec![Line::fact("log", "nothing was logged yet")];
        let sections = vec![Section { name: "log", title: "The log".into(), lines }];
        return Ok(Report { node: "(none yet)".into(), sections });
    }
    let node = node_of(data)?;
    let settled = || StateFolder::settled_out(data).unwrap_or_else(|| data.join("out"));
    let out: PathBuf = out.map_or_else(settled, Path::to_owned);
    let mut tries = 0;
    loop {
        tries += 1;
        let (report, is_disturbed) = look(data, &out, &node)?;
        if report.adds_up() || !is_disturbed || tries == TRIES {
            return Ok(report);
        }
    }
}

/// Reads everything once. Whether something changed that it had still to read.
fn look(data: &Path, out: &Path, node: &str) -> Result<(Report, bool), AuditError> {
    let mut troubles = Vec::new();
    let commit = match Commit::read_any(out, node) {
        Err(error @ CommitError::Unreadable { .. }) => {
            troubles.push(Line::wrong("commit", chain(&error)));
            None
        }
        commit => commit?,
    };
    let (commit, by) = commit.map_or((None, Vec::new()), |(commit, by)| (Some(commit), by));
    // without the commit the output cannot be judged, while before the first one there may be an output
    let (hourly, rows) = if troubles.is_empty() {
        (output::hourly(&Hourly::new(out, node, &by))?, Rows::list(&Events::new(out, node))?)
    } else {
        (BTreeMap::new(), Rows::none())
    };
    let parts = rows.parts();
    let position = commit.as_ref().map_or(0, |commit| commit.snapshot.place.position);
    let mut scan = Scan::new(position, rows, hourly.clone());
    read_log(data, &mut scan)?;
    let is_running = scan.lives.is_open() && lock::is_held(&data.join(layout::LOCK));
    scan.finish(is_running)?;

    let found = Found { commit: commit.as_ref(), scan: &scan, hourly: &hourly, parts, is_running };
    let mut sections = found.sections();
    if commit.is_none() && troubles.is_empty() {
        let path = Commit::path(out, node);
        troubles.push(Line::fact("commit", format!("none yet at {}: only the log is audited", path.display())));
    }
    if !troubles.is_empty() {
        sections.insert(1, Section { name: "commit", title: "The commit".into(), lines: troubles });
    }
    let now = Commit::read_any(out, node).ok().flatten().map(|(commit, _)| commit);
    let is_disturbed = scan.vanished > 0 || now != commit;
    Ok((Report { node: node.to_owned(), sections }, is_disturbed))
}

fn read_log(data: &Path, scan: &mut Scan) -> Result<(), AuditError> {
    let mut reader = Reader::new(data, Purpose::Look, None);
    reader.look()?;
    let bar = Bar::start("auditing", reader.bytes_behind()?);
    reader.read(|item: Item<'_>| {
        bar.add(item.bytes());
        scan.take(&item)?;
        Ok::<_, AuditError>(ControlFlow::Continue(()))
    })?;
    Ok(())
}

#[cfg(test)]
mod tests;
