//! Work on all processors.
//!
//! The rule: **other threads only compute.** Everything that asks the machine for something, files above all, is done by
//! the thread that called, in the order that it wants. So what is on disk when does not depend on them.

use std::collections::BTreeMap;
use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Mutex;
use std::sync::mpsc::sync_channel;
use std::thread::available_parallelism;

/// Jobs that were begun and whose results were not handed over, at most.
const UNDER_WAY: usize = 64;

/// Does all jobs, on other threads if it is much, and hands over what comes of each in the order of the jobs; `meanwhile` comes
/// before. Jobs are fetched as they are needed, by the thread that called: where there is none for now there may be one when the
/// next result has been handed over. After an error no more is fetched or handed over.
pub fn in_order<J: Send, T: Send, S: Default, E>(
    is_much: bool,
    jobs: impl IntoIterator<Item = Result<J, E>>,
    work: impl Fn(&mut S, J) -> T + Sync,
    meanwhile: impl FnOnce() -> Result<(), E>,
    mut done: impl FnMut(T) -> Result<(), E>,
) -> Result<(), E> {
    let mut jobs = jobs.into_iter();
    let threads = if is_much { available_parallelism().map_or(1, NonZero::get) } else { 1 };
    if threads < 2 {
        meanwhile()?;
        let mut state = S::default();
        return jobs.try_for_each(|job| done(work(&mut state, job?)));
    }
    let work = &work;
    let (give, to_do) = sync_channel(UNDER_WAY);
    let to_do = &Mutex::new(to_do);
    std::thread::scope(|scope| {
        let give = give;
        let (results, fetched) = sync_channel(UNDER_WAY);
        for _ in 0..threads {
            let results = results.clone();
            scope.spawn(move || {
                let mut state = S::default();
                let next = || to_do.lock().expect("taking a job does not panic").recv();
                while let Ok((number, job)) = next() {
                    let result = catch_unwind(AssertUnwindSafe(|| work(&mut state, job)));
                    // nobody fetches it after an error
                    if results.send((number, result)).is_err() {
                        break;
                    }
                }
            });
        }
        drop(results);
        let mut meanwhile = Some(meanwhile);
        let mut early = BTreeMap::new();
        let (mut begun, mut wanted) = (0, 0);
        loop {
            while begun - wanted < UNDER_WAY
                && let Some(job) = jobs.next()
            {
                give.send((begun, job?)).expect("threads wait for jobs");
                begun += 1;
            }
            if let Some(meanwhile) = meanwhile.take() {
                meanwhile()?;
            }
            if wanted == begun {
                return Ok(());
            }
            let (number, result) = fetched.recv().expect("there are threads as long as there are jobs");
            early.insert(number, result.unwrap_or_else(|panic| resume_unwind(panic)));
            while let Some(result) = early.remove(&wanted) {
                done(result)?;
                wanted += 1;
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_of_jobs_is_handed_over_in_their_order_until_an_error() {
        for is_much in [false, true] {
            for failing in [0, 1, 500, 1_000] {
                let mut log = vec![];
                let jobs = (0..1_000_u64).map(Ok);
                let work = |done: &mut u64, job: u64| {
                    *done += 1;
                    // some take longer
                    (0..job % 7 * 1_000).fold(job, |all, n| std::hint::black_box(all ^ n ^ n))
                };
                let meanwhile = std::cell::Cell::new(false);
                let ended = in_order(
                    is_much,
                    jobs,
                    work,
                    || {
                        meanwhile.set(true);
                        Ok(())
                    },
                    |result| {
                        assert!(meanwhile.get());
                        if result == failing {
                            return Err(result);
                        }
                        log.push(result);
                        Ok(())
                    },
                );
                assert_eq!(ended.err(), (failing < 1_000).then_some(failing));
                assert_eq!(log, (0..failing).collect::<Vec<_>>());
            }
        }
        let nothing = in_order(true, vec![Ok(1); 500], |(): &mut (), n: u8| n, || Err("before"), |_| unreachable!());
        assert_eq!(nothing, Err("before"));
    }

    #[test]
    fn jobs_are_fetched_as_they_are_needed_until_an_error() {
        for is_much in [false, true] {
            let (fetched, handed_over) = (std::cell::Cell::new(0), std::cell::Cell::new(0));
            let jobs = (0..1_000).map(|n| {
                assert!(fetched.get() - handed_over.get() < UNDER_WAY, "so much is in memory");
                fetched.set(n + 1);
                if n < 700 { Ok(n) } else { Err("fetched") }
            });
            let ended = in_order(
                is_much,
                jobs,
                |(): &mut (), n| n,
                || Ok(()),
                |n| {
                    assert_eq!(n, handed_over.get());
                    handed_over.set(n + 1);
                    Ok(())
                },
            );
            assert_eq!((ended, fetched.get()), (Err("fetched"), 701));
        }
    }

    #[test]
    #[should_panic(expected = "the third")]
    fn a_job_that_panics_is_not_waited_for() {
        let work = |(): &mut (), n: u64| assert!(n != 3, "the third");
        let _ = in_order(true, (0..1_000).map(Ok::<_, ()>), work, || Ok(()), |()| Ok(()));
    }
}
