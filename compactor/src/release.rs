//! Lets go of segments that are compacted.
//!
//! The rule: **a segment goes only when the commit is past it, nobody will write to it any more, and one behind it carries
//! positions, ordinals and the ledger on.** One that is not sealed, or that only one of two marks says to be sealed, the
//! collector is still about to write to; one behind which no ledger is on disk is all that tells how the ledger stands. It
//! goes when it is older than `--retain`, or sooner while the disk has less free than twice what the collector reserves.
//! Two become spares, which the collector uses again without asking the disk for space; the others are deleted. Spares are
//! the collector's, and never deleted here.

use std::path::Path;

use tallylight_proto::layout;
use tallylight_proto::segment::HeaderPage;
use tallylight_proto::time::Millis;

use crate::log::{SegmentFile, bases};
use crate::storage::{self, StorageError};

/// Spares that are enough for the collector: the next segment and one more.
const SPARES: usize = 2;

/// What segments are let go of.
#[derive(Clone, Copy, Debug)]
pub struct Release {
    /// Those wholly below this position.
    pub below: u64,
    /// And followed by one that was begun before this time: its begin is this one's end.
    pub ended_before: Millis,
    /// By the clock.
    pub now: Millis,
}

impl Release {
    /// Lets go of what it may. Says of how many.
    pub fn run(self, data: &Path) -> Result<usize, StorageError> {
        let log = data.join(layout::LOG);
        let all = bases(&log)?;
        // most of the time there is nothing to let go of, and nothing is read
        if all.get(1).is_none_or(|next| *next > self.below) {
            return Ok(0);
        }
        let Some(carrier) = last_carrier(&log, &all)? else { return Ok(0) };
        let mut released = 0;
        for (n, (base, next)) in all.iter().zip(all.iter().skip(1)).enumerate() {
            if *next > self.below || *base >= carrier {
                break;
            }
            let next_file = SegmentFile::open(&log, *next)?;
            let Ok(next_page) = next_file.page()? else { break };
            let page = SegmentFile::open(&log, *base)?.page()?;
            // one whose header is lost will never be sealed, and is only ever deleted
            if page.as_ref().is_ok_and(|page| page.sealed.is_none()) {
                break;
            }
            // they are sealed in their order, so with the next one it is known that this was done with
            if page.as_ref().is_ok_and(|page| !page.is_sealed_twice) && next_page.sealed.is_none() {
                break;
            }
            let is_old = self.has_ended(&log, &all[n + 1..])?;
            if !is_old && !is_short_of_space(&log, &next_page)? {
                break;
            }
            let is_reusable = page.is_ok_and(|page| page.header.capacity == next_page.header.capacity);
            let how = let_go(&log, *base, is_reusable)?;
            tracing::info!(segment = %layout::segment(*base), is_old, "segment {how}");
            released += 1;
        }
        Ok(released)
    }

    /// Whether a segment ended long enough ago, by the begin of the next one. If that is in the future, a clock was ahead
    /// for a while, and the begin of a later one tells: by then this one had ended, too.
    fn has_ended(self, log: &Path, later: &[u64]) -> Result<bool, StorageError> {
        for base in later {
            let file = SegmentFile::open(log, *base)?;
            let Ok(page) = file.page()? else { return Ok(false) };
            match file.begun_at(&page)? {
                Some(begun) if begun < self.ended_before => return Ok(true),
                Some(begun) if begun > self.now => {}
                _ => return Ok(false),
            }
        }
        Ok(false)
    }
}

/// The last segment that has a whole ledger on disk.
fn last_carrier(log: &Path, all: &[u64]) -> Result<Option<u64>, StorageError> {
    for base in all.iter().rev() {
        let file = SegmentFile::open(log, *base)?;
        if let Ok(page) = file.page()?
            && file.carries_the_ledger(&page)?
        {
            return Ok(Some(*base));
        }
    }
    Ok(None)
}

fn is_short_of_space(log: &Path, page: &HeaderPage) -> Result<bool, StorageError> {
    Ok(storage::free_space(log)? < page.header.reserve.saturating_mul(2))
}

/// Makes a spare of a segment, or deletes it.
fn let_go(log: &Path, base: u64, is_reusable: bool) -> Result<&'static str, StorageError> {
    let path = log.join(layout::segment(base));
    let spares = log.join(layout::SPARE);
    if is_reusable && spares_in(&spares)? < SPARES {
        storage::create_dir_all(&spares)?;
        storage::move_file(&path, &spares.join(layout::segment(base)))?;
        return Ok("became a spare");
    }
    storage::remove(&path)?;
    storage::sync_dir(log)?;
    Ok("deleted")
}

fn spares_in(folder: &Path) -> Result<usize, StorageError> {
    match storage::list(folder) {
        Err(error) if error.is_not_found() => Ok(0),
        names => Ok(names?.iter().filter(|name| name.as_encoded_bytes().ends_with(b".seg")).count()),
    }
}
