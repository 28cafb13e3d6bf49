//! Work on all processors.
//!
//! The rule: **other threads only compute.** Everything that asks the machine for something, files above all, is done by
//! the thread that called, and in an order that depends on the jobs alone: not on who is done when, nor on how many threads there
//! are. So what is on disk when does not depend on them either.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, available_parallelism};

/// Jobs that were begun and whose results were not handed over, at most.
const UNDER_WAY: usize = 64;

/// Does all jobs, on other threads if it is much, and says what came of each, in their order.
pub fn all<J: Send, T: Send, S: Default>(
    is_much: bool,
    jobs: impl IntoIterator<Item = J>,
    work: impl Fn(&mut S, J) -> T + Sync,
) -> Vec<T> {
    let mut results = Vec::new();
    let done = |result| {
        results.push(result);
        Ok(())
    };
    let Ok(()) = in_order(is_much, jobs.into_iter().map(Ok::<_, Infallible>), work, || Ok(()), done);
    results
}

/// Does all jobs, on other threads if it is much, and hands over what comes of each in the order of the jobs; `meanwhile` comes
/// before. Jobs are fetched as they are needed, by the thread that called: where there is none for now there may be one when the
/// next result has been handed over. After an error no more is fetched or handed over.
pub fn in_order<J: Send, T: Send, S: Default, E>(
    is_much: bool,
    jobs: impl IntoIterator<Item = Result<J, E>>,
    work: impl Fn(&mut S, J) -> T + Sync,
    meanwhile: impl FnOnce() -> Result<(), E>,
    done: impl FnMut(T) -> Result<(), E>,
) -> Result<(), E> {
    let jobs = jobs.into_iter();
    let processors = if is_much { available_parallelism().map_or(1, NonZero::get) } else { 1 };
    let threads = processors.min(jobs.size_hint().1.unwrap_or(usize::MAX));
    if threads < 2 {
        return drive(Alone { work, state: S::default(), to_do: VecDeque::new() }, jobs, meanwhile, done);
    }
    let work = &work;
    let (give, to_do) = sync_channel(UNDER_WAY);
    let to_do = &Mutex::new(to_do);
    thread::scope(|scope| {
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
        drive(Others { give, fetched, early: BTreeMap::new(), given: 0, taken: 0 }, jobs, meanwhile, done)
    })
}

/// Who does the jobs.
trait Workers<J, T> {
    /// Gives them one.
    fn give(&mut self, job: J);
    /// What came of the first of those given that was not asked for yet.
    fn result(&mut self) -> T;
}

fn drive<J, T, E>(
    mut workers: impl Workers<J, T>,
    mut jobs: impl Iterator<Item = Result<J, E>>,
    meanwhile: impl FnOnce() -> Result<(), E>,
    mut done: impl FnMut(T) -> Result<(), E>,
) -> Result<(), E> {
    let mut meanwhile = Some(meanwhile);
    let mut under_way = 0;
    loop {
        while under_way < UNDER_WAY
            && let Some(job) = jobs.next()
        {
            workers.give(job?);
            under_way += 1;
        }
        if let Some(meanwhile) = meanwhile.take() {
            meanwhile()?;
        }
        if under_way == 0 {
            return Ok(());
        }
        // one at a time, even if more are done
        done(workers.result())?;
        under_way -= 1;
    }
}

/// The thread that called, which does each job when it is asked what came of it.
struct Alone<J, S, W> {
    work: W,
    state: S,
    to_do: VecDeque<J>,
}

impl<J, T, S, W: Fn(&mut S, J) -> T> Workers<J, T> for Alone<J, S, W> {
    fn give(&mut self, job: J) {
        self.to_do.push_back(job);
    }

    fn result(&mut self) -> T {
        let job = self.to_do.pop_front().expect("one was given");
        (self.work)(&mut self.state, job)
    }
}

/// Other threads. They end when this is gone.
struct Others<J, T> {
    give: SyncSender<(u64, J)>,
    fetched: Receiver<(u64, thread::Result<T>)>,
    /// Results of later jobs than the one that is asked for.
    early: BTreeMap<u64, thread::Result<T>>,
    /// How many jobs were given.
    given: u64,
    /// How many results were asked for.
    taken: u64,
}

impl<J, T> Workers<J, T> for Others<J, T> {
    fn give(&mut self, job: J) {
        self.give.send((self.given, job)).expect("threads wait for jobs");
        self.given += 1;
    }

    fn result(&mut self) -> T {
        let result = loop {
            if let Some(result) = self.early.remove(&self.taken) {
                break result;
            }
            let (number, result) = self.fetched.recv().expect("there are threads as long as there are jobs");
            self.early.insert(number, result);
        };
        self.taken += 1;
        result.unwrap_or_else(|panic| resume_unwind(panic))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::{Cell, RefCell};

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
                let meanwhile = Cell::new(false);
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
            let (fetched, handed_over) = (Cell::new(0), Cell::new(0));
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
    fn what_is_asked_of_the_machine_has_one_order_whoever_is_done_when() {
        let order = |is_much: bool, slow: u64| {
            // each third result makes two more jobs
            let (log, to_come) = (RefCell::new(Vec::new()), Cell::new(200_u64));
            let mut number = 0;
            let jobs = std::iter::from_fn(|| {
                to_come.set(to_come.get().checked_sub(1)?);
                number += 1;
                log.borrow_mut().push(('f', number));
                Some(Ok::<_, Infallible>(number))
            });
            let work =
                |(): &mut (), job: u64| (0..job % slow * 2_000).fold(job, |all, n| std::hint::black_box(all ^ n ^ n));
            let Ok(()) = in_order(
                is_much,
                jobs,
                work,
                || Ok(()),
                |job| {
                    log.borrow_mut().push(('d', job));
                    to_come.set(to_come.get() + if job % 3 == 0 && job < 600 { 2 } else { 0 });
                    Ok(())
                },
            );
            log.into_inner()
        };
        let alone = order(false, 1);
        assert!(alone.len() > 1_000);
        for slow in [1, 2, 7, 64, 65] {
            assert!(order(true, slow) == alone, "{slow}");
        }
    }

    #[test]
    #[should_panic(expected = "the third")]
    fn a_job_that_panics_is_not_waited_for() {
        let work = |(): &mut (), n: u64| assert!(n != 3, "the third");
        let _ = in_order(true, (0..1_000).map(Ok::<_, ()>), work, || Ok(()), |()| Ok(()));
    }
}
