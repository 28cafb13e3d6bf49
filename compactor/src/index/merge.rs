//! Merging: several runs of like size become one, so that few have to be asked.
//!
//! That is due when they have been asked as often as they hold copies, since looking into one costs about what writing a copy
//! again does, or when runs become many. Ids of version 7 are sorted by their time, as runs are, and hardly ever have one
//! looked into that is older; of other ids each has all of them. A copy is written again each time its run moves up a size, that
//! is a handful of times in its life; where nobody asks for it, seldom once its run is large: merging those takes seconds, and
//! all that it saves is a file. Runs above [`MOST_COPIES`] stay as they are, and go as a whole when they are old.

use std::path::Path;

use super::run::{self, COPIES_IN_GROUP, Run, RunReader};
use super::{FirstCopy, IndexError};

/// So many runs of one size are merged, at least.
const OF_ONE_SIZE: usize = 4;
/// So many that are not large are many.
const MANY_SMALL_RUNS: usize = 16;
/// So many in all are many: each is a file that is open, and how often it is asked is known only since then.
const MANY_RUNS: usize = 32;
/// Runs with more copies are large: some 40 MiB.
const LARGE_COPIES: u64 = 2 << 20;
/// Up to here, a run is of the smallest size; each next one is four times as large.
const SMALLEST_COPIES: u64 = 32_768;
/// So many copies are worth starting threads for.
pub(super) const MUCH: u64 = 65_536;
/// No run is made larger than this by merging: 1.1 to 1.7 GiB, seconds of work.
const MOST_COPIES: u64 = 64 << 20;

/// What decides whether a run is merged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    pub(super) copies: u64,
    /// How often it was looked into.
    pub(super) asked: u64,
}

/// The places of runs to be merged now, if there are any: of the smallest size of which there are enough.
pub(super) fn choose(runs: &[Held]) -> Option<Vec<usize>> {
    let largest = runs.iter().map(|run| size(run.copies)).max()?;
    let many_small = small(runs) >= MANY_SMALL_RUNS;
    (0..=largest).find_map(|of| {
        let are_many = if of > size(LARGE_COPIES) { runs.len() >= MANY_RUNS } else { many_small };
        let mut candidates: Vec<usize> = (0..runs.len()).filter(|n| size(runs[*n].copies) == of).collect();
        if are_many {
            candidates.sort_by_key(|n| runs[*n].copies);
        } else {
            // by how often they were asked for each copy
            let often = |n: usize, other: usize| u128::from(runs[n].asked) * u128::from(runs[other].copies);
            candidates.sort_by(|a, b| often(*b, *a).cmp(&often(*a, *b)));
        }
        let (mut copies, mut asked) = (0, 0);
        let chosen = candidates.into_iter().take_while(|n| {
            copies += runs[*n].copies;
            asked += runs[*n].asked;
            copies <= MOST_COPIES && (are_many || asked >= copies)
        });
        let mut chosen: Vec<_> = chosen.collect();
        chosen.sort_unstable();
        (chosen.len() >= OF_ONE_SIZE).then_some(chosen)
    })
}

/// How many are not large.
pub(super) fn small(runs: &[Held]) -> usize {
    runs.iter().filter(|run| run.copies <= LARGE_COPIES).count()
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

/// Those that are a group; none when there are no more.
pub(super) fn group_of<T, E>(copies: &mut impl Iterator<Item = Result<T, E>>) -> Option<Result<Vec<T>, E>> {
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
    fn four_of_a_size_are_merged_smallest_first_once_that_has_paid() {
        let held = |copies: &[u64], asked: &[u64]| -> Vec<_> {
            copies.iter().zip(asked).map(|(copies, asked)| Held { copies: *copies, asked: *asked }).collect()
        };
        // each was asked as often as it has copies
        let all_asked = |copies: &[u64]| choose(&held(copies, copies));
        assert_eq!(all_asked(&[]), None);
        assert_eq!(all_asked(&[1, 1, 1]), None);
        assert_eq!(all_asked(&[1, 32_768, 32_769, 7, 7]), Some(vec![0, 1, 3, 4]));
        assert_eq!(all_asked(&[200_000, 200_000, 200_000, 200_000, 1]), Some(vec![0, 1, 2, 3]));
        assert_eq!(all_asked(&[32 << 20; 4]), None, "they would be too large");
        assert_eq!(all_asked(&[12 << 20; 7]), Some(vec![0, 1, 2, 3, 4]), "so would all of them");

        let asked = [12 << 20, 12 << 20, 12 << 20, 12 << 20, 12 << 20, 0, 0];
        let five = Some(vec![0, 1, 2, 3, 4]);
        assert_eq!(choose(&held(&[12 << 20; 7], &asked)), five, "what is not merged has no part in it");

        let few = [100, 100, 100, 100, 200_000, 200_000, 200_000, 200_000];
        assert_eq!(choose(&held(&few, &[0, 0, 0, 399, 0, 0, 0, 0])), None);
        assert_eq!(choose(&held(&few, &[0, 0, 0, 400, 0, 0, 0, 0])), Some(vec![0, 1, 2, 3]));
        assert_eq!(choose(&held(&few, &[0, 0, 0, 0, 800_000, 0, 0, 0])), Some(vec![4, 5, 6, 7]));
        assert_eq!(choose(&held(&[100; 15], &[0; 15])), None);
        assert_eq!(choose(&held(&[100; 16], &[0; 16])), Some((0..16).collect()), "they are many");
        let large = [3 << 20; 31];
        assert_eq!(choose(&held(&large, &[0; 31])), None);
        assert_eq!(choose(&held(&[&large[..], &[100]].concat(), &[0; 32])), Some((0..21).collect()), "all are many");
        assert_eq!(choose(&held(&[&large[..16], &[100; 15]].concat(), &[0; 31])), None);
        assert_eq!(choose(&held(&[&large[..15], &[100; 16]].concat(), &[0; 31])), Some((15..31).collect()));

        // of one size, those that are too large for others to go with them
        let uneven = [&[30 << 20; 2][..], &[9 << 20; 30]].concat();
        assert_eq!(choose(&held(&uneven, &[0; 32])), Some((2..9).collect()), "the smallest");
        let asked = [&[0; 28][..], &[9 << 20; 4]].concat();
        assert_eq!(choose(&held(&uneven[1..], &asked[1..])), Some((27..31).collect()), "those that are asked");
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
    fn runs_stay_few_and_copies_are_seldom_written_again() {
        // small runs, full heads, or all sizes; ids are looked for in no run, or in all of them
        for (added, copies, are_asked, few, seldom) in [
            (20_000, 4_000..=4_000, false, 32, 4.0),
            (20_000, 4_000..=4_000, true, 20, 7.0),
            (128, 3 << 18..=3 << 18, false, 23, 1.0),
            (128, 3 << 18..=3 << 18, true, 11, 3.0),
            (5_000, 30_000..=150_000, false, 32, 3.5),
            (5_000, 30_000..=150_000, true, 24, 5.0),
        ] {
            let mut runs: Vec<Held> = Vec::new();
            let (mut most, mut written, mut all) = (0, 0, 0);
            for n in 0..added {
                let copies = copies.start() + n * 7_919 % (copies.end() - copies.start() + 1);
                all += copies;
                runs.push(Held { copies, asked: 0 });
                runs.iter_mut().for_each(|run| run.asked += u64::from(are_asked) * copies);
                most = most.max(runs.len());
                while let Some(chosen) = choose(&runs) {
                    let merged = chosen.iter().map(|n| runs[*n].copies).sum();
                    written += merged;
                    let mut places = 0..;
                    runs.retain(|_| !chosen.contains(&places.next().unwrap()));
                    runs.push(Held { copies: merged, asked: 0 });
                }
            }
            assert_eq!(runs.iter().map(|run| run.copies).sum::<u64>(), all);
            let times = written as f64 / all as f64;
            assert!(
                most <= few && times <= seldom,
                "{added} of {copies:?}: {most} runs, each written {times} times again"
            );
        }
    }
}
