//! Work on all processors.
//!
//! The rule: **other threads only compute.** Everything that asks the machine for something, files above all, is done by
//! the thread that called, in the order that it wants. So what is on disk when does not depend on them.

use std::num::NonZero;
use std::sync::Mutex;
use std::sync::mpsc::sync_channel;
use std::thread::available_parallelism;

/// Results that wait to be fetched, at most.
const WAITING: usize = 64;

/// Does all jobs, on other threads if it is much, and hands over what comes of each in the order of the jobs; `meanwhile` comes
/// before. After an error no more is handed over.
pub fn in_order<J: Send, T: Send, S: Default, E>(
    is_much: bool,
    jobs: Vec<J>,
    work: impl Fn(&mut S, J) -> T + Sync,
    meanwhile: impl FnOnce() -> Result<(), E>,
    mut done: impl FnMut(T) -> Result<(), E>,
) -> Result<(), E> {
    let threads = if is_much { available_parallelism().map_or(1, NonZero::get).min(jobs.len()) } else { 1 };
    if threads < 2 {
        meanwhile()?;
        let mut state = S::default();
        return jobs.into_iter().try_for_each(|job| done(work(&mut state, job)));
    }
    let jobs = &Mutex::new(jobs.into_iter().enumerate());
    let work = &work;
    std::thread::scope(|scope| {
        let (results, fetched) = sync_channel(WAITING);
        for _ in 0..threads {
            let results = results.clone();
            scope.spawn(move || {
                let mut state = S::default();
                let next = || jobs.lock().expect("taking a job does not panic").next();
                while let Some((number, job)) = next() {
                    // nobody fetches it after an error
                    if results.send((number, work(&mut state, job))).is_err() {
                        break;
                    }
                }
            });
        }
        drop(results);
        meanwhile()?;
        let mut early = std::collections::BTreeMap::new();
        let mut wanted = 0;
        for (number, result) in fetched {
            early.insert(number, result);
            while let Some(result) = early.remove(&wanted) {
                done(result)?;
                wanted += 1;
            }
        }
        Ok(())
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
                let jobs: Vec<u64> = (0..1_000).collect();
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
        let nothing = in_order(true, vec![1; 500], |(): &mut (), n: u8| n, || Err("before"), |_| unreachable!());
        assert_eq!(nothing, Err("before"));
    }
}
