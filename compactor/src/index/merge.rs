//! Merging: as runs become many, several of like size become one, so that few have to be asked.
//!
//! A copy is written again each time its run moves up a size, that is a handful of times in its life. Runs above
//! [`MOST_COPIES`] stay as they are, and go as a whole when they are old.

use std::path::Path;

use super::run::{self, COPIES_IN_GROUP, Run, RunReader};
use super::{FirstCopy, IndexError};

/// So many runs of one size are merged.
const OF_ONE_SIZE: usize = 4;
/// Up to here, a run is of the smallest size; each next one is four times as large. 1 MiB.
const SMALLEST_COPIES: u64 = 32_768;
/// So many copies are worth starting threads for.
pub(super) const MUCH: u64 = 65_536;
/// No run is made larger than this by merging: 2 GiB, seconds of work.
const MOST_COPIES: u64 = 64 << 20;

/// The places of runs to be merged now, if there are any: the smallest that are enough of one size.
pub(super) fn choose(copies: &[u64]) -> Option<Vec<usize>> {
    let largest = copies.iter().map(|copies| size(*copies)).max()?;
    (0..=largest).find_map(|of| {
        let mut sum = 0;
        let of_that_size = (0..copies.len()).filter(|n| size(copies[*n]) == of);
        let few_enough = of_that_size.take_while(|n| {
            sum += copies[*n];
            sum <= MOST_COPIES
        });
        Some(few_enough.collect::<Vec<_>>()).filter(|chosen| chosen.len() >= OF_ONE_SIZE)
    })
}

fn size(copies: u64) -> u32 {
    copies
        .saturating_sub(1)
        .checked_div(SMALLEST_COPIES)
        .and_then(|times| times.checked_ilog(4))
        .map_or(0, |log| log + 1)
}

/// Writes one run with all that these hold, without what was received before the horizon. Says how many copies that
/// is; with none, there is no run.
pub(super) fn merge(runs: &[&Run], horizon: i64, folder: &Path, number: u64) -> Result<u64, IndexError> {
    let mut merged = Merged::of(runs)?;
    let are_many = runs.iter().map(|run| run.copies).sum::<u64>() >= MUCH;
    let mut last = None;
    let mut copies = std::iter::from_fn(|| merged.next().transpose()).filter(|copy| {
        let Ok(copy) = copy else { return true };
        let is_kept = copy.received_at >= horizon && last != Some(*copy);
        last = if is_kept { Some(*copy) } else { last };
        is_kept
    });
    let groups = std::iter::from_fn(|| group_of(&mut copies));
    run::write(folder, number, are_many, groups, |copies| copies)
}

/// The copies that are a group; none when there are no more.
fn group_of<E>(copies: &mut impl Iterator<Item = Result<FirstCopy, E>>) -> Option<Result<Vec<FirstCopy>, E>> {
    let mut group = Vec::with_capacity(COPIES_IN_GROUP);
    for copy in copies.take(COPIES_IN_GROUP) {
        match copy {
            Ok(copy) => group.push(copy),
            Err(error) => return Some(Err(error)),
        }
    }
    (!group.is_empty()).then_some(Ok(group))
}

/// The copies of several runs, sorted.
struct Merged<'a> {
    readers: Vec<RunReader<'a>>,
    /// The one whose next copy is the least of all.
    from: usize,
    /// The least next copy of the others, if they have one.
    until: Option<FirstCopy>,
}

impl<'a> Merged<'a> {
    fn of(runs: &[&'a Run]) -> Result<Self, IndexError> {
        let mut merged = Self { readers: runs.iter().map(|run| run.read_all()).collect(), from: 0, until: None };
        merged.choose()?;
        Ok(merged)
    }

    fn next(&mut self) -> Result<Option<FirstCopy>, IndexError> {
        // ids of version 7 are sorted by time, as runs are: mostly many of one run follow each other
        let next = self.readers[self.from].peek()?;
        let next = match next.filter(|next| self.until.is_none_or(|until| *next <= until)) {
            Some(next) => next,
            None => match self.choose()? {
                Some(next) => next,
                None => return Ok(None),
            },
        };
        self.readers[self.from].skip();
        Ok(Some(next))
    }

    /// Goes on with the run whose next copy is the least.
    fn choose(&mut self) -> Result<Option<FirstCopy>, IndexError> {
        let mut least = None;
        self.until = None;
        for (from, reader) in self.readers.iter_mut().enumerate() {
            let Some(next) = reader.peek()? else { continue };
            match least {
                Some(other) if other <= next => self.until = Some(self.until.map_or(next, |until| until.min(next))),
                other => {
                    self.until = other.or(self.until);
                    (least, self.from) = (Some(next), from);
                }
            }
        }
        Ok(least)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_of_a_size_are_merged_smallest_first() {
        assert_eq!(choose(&[]), None);
        assert_eq!(choose(&[1, 1, 1]), None);
        assert_eq!(choose(&[1, 32_768, 32_769, 7, 7]), Some(vec![0, 1, 3, 4]));
        assert_eq!(choose(&[200_000, 200_000, 200_000, 200_000, 1]), Some(vec![0, 1, 2, 3]));
        assert_eq!(choose(&[32 << 20; 4]), None, "they would be too large");
        assert_eq!(choose(&[12 << 20; 7]), Some(vec![0, 1, 2, 3, 4]), "so would all of them");
    }

    #[test]
    fn a_merged_run_has_every_copy_once() {
        let folder = tempfile::tempdir().unwrap();
        let week = 7 * 24 * 3600 * 1000;
        // an id is first again after a week
        let copies = [(1, 10, 0), (2, 20, 0), (2, 30, week + 1), (3, 40, week + 1)];
        let copies = copies.map(|(id, position, received_at)| FirstCopy { id, position, received_at });
        let run = |number, held: &[FirstCopy]| {
            let groups = held.chunks(COPIES_IN_GROUP).map(Ok);
            let held = run::write(folder.path(), number, false, groups, <[_]>::to_vec).unwrap();
            Run::open(folder.path(), number, held).unwrap()
        };
        // a copy may stand in two of them
        let (first, second) = (run(1, &[copies[0], copies[1], copies[3]]), run(2, &[copies[0], copies[2]]));
        for (horizon, kept) in [(0, &copies[..]), (1, &copies[2..])] {
            let held = merge(&[&first, &second], horizon, folder.path(), 3).unwrap();
            let merged = Run::open(folder.path(), 3, held).unwrap();
            let mut read = Merged::of(&[&merged]).unwrap();
            assert_eq!(std::iter::from_fn(|| read.next().unwrap()).collect::<Vec<_>>(), kept);
        }
    }

    #[test]
    fn runs_stay_few_however_many_are_added() {
        let mut runs: Vec<u64> = Vec::new();
        let (mut most, mut written, added) = (0, 0, 20_000);
        for _ in 0..added {
            runs.push(4_000);
            while let Some(chosen) = choose(&runs) {
                let merged = chosen.iter().map(|n| runs[*n]).sum();
                written += merged;
                runs = (0..runs.len()).filter(|n| !chosen.contains(n)).map(|n| runs[n]).chain([merged]).collect();
            }
            most = most.max(runs.len());
        }
        assert_eq!(runs.iter().sum::<u64>(), added * 4_000);
        assert!(most <= 24, "{most} runs");
        assert!(written <= 10 * added * 4_000, "each copy written {} times", written / (added * 4_000));
    }
}
