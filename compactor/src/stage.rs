//! Stages that several threads go through, each with work of its own: in a stage one of them is at a time, in the order of
//! their work.
//!
//! So what a stage does is the same as if one thread did it all, and what a thread works on stays in its processor's caches
//! from one stage to the next.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ScopedJoinHandle};

/// A stage, with what it works with.
pub struct Stage<S> {
    turn: Mutex<Turn<S>>,
    turned: Condvar,
}

struct Turn<S> {
    /// Whose it is; nobody's any more once somebody has failed.
    of: Option<u64>,
    /// How many wait for theirs. To notify costs a system call even where nobody does.
    waiting: usize,
    state: S,
}

impl<S> Stage<S> {
    /// That the work with number 0 is first in.
    pub fn new(state: S) -> Self {
        Self { turn: Mutex::new(Turn { of: Some(0), waiting: 0, state }), turned: Condvar::new() }
    }

    /// Does a piece of work when it is its turn, and then it is that of the next number. Once one has failed or panicked there
    /// is nothing for those behind it.
    pub fn pass<T, E>(&self, number: u64, work: impl FnOnce(&mut S) -> Result<T, E>) -> Result<Option<T>, E> {
        let is_early = |turn: &mut Turn<S>| turn.of.is_some_and(|of| of != number);
        let mut turn = self.turn();
        if is_early(&mut turn) {
            turn.waiting += 1;
            turn = self.turned.wait_while(turn, is_early).unwrap_or_else(PoisonError::into_inner);
            turn.waiting -= 1;
        }
        if turn.of.is_none() {
            return Ok(None);
        }
        let done = catch_unwind(AssertUnwindSafe(|| work(&mut turn.state)));
        turn.of = matches!(done, Ok(Ok(_))).then_some(number + 1);
        let is_awaited = turn.waiting > 0;
        drop(turn);
        if is_awaited {
            self.turned.notify_all();
        }
        done.unwrap_or_else(|panic| resume_unwind(panic)).map(Some)
    }

    fn turn(&self) -> MutexGuard<'_, Turn<S>> {
        // panics of the work are caught while it is locked
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Does the same on so many threads, of which this one is one, and gives the first error. Panics where one of them does.
pub fn on_threads<E: Send>(threads: usize, work: impl Fn() -> Result<(), E> + Sync) -> Result<(), E> {
    thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(&work)).collect();
        let join = |thread: ScopedJoinHandle<'_, _>| thread.join().unwrap_or_else(|panic| resume_unwind(panic));
        others.into_iter().map(join).fold(work(), Result::and)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    /// Has 1,000 pieces of work go through two stages, in four threads. Says what each stage has seen, and how many threads have come
    /// to the end, have failed, and have panicked.
    fn go_through(second: impl Fn(u64) -> Result<(), u64> + Sync) -> ([Vec<u64>; 2], [usize; 3]) {
        let stages = [Stage::new(Vec::new()), Stage::new(Vec::new())];
        let next = AtomicU64::new(0);
        let work = || {
            while let number @ 0..1_000 = next.fetch_add(1, Relaxed) {
                let note = |seen: &mut Vec<u64>| {
                    seen.push(number);
                    Ok::<_, u64>(())
                };
                stages[0].pass(number, note)?;
                if stages[1].pass(number, |seen| note(seen).and_then(|()| second(number)))?.is_none() {
                    break;
                }
            }
            Ok(())
        };
        let ended = thread::scope(|scope| {
            let threads = [(); 4].map(|()| scope.spawn(work));
            threads.map(|thread| thread.join().map_or(2, |ended: Result<(), u64>| usize::from(ended.is_err())))
        });
        let ended = [0, 1, 2].map(|how| ended.iter().filter(|ended| **ended == how).count());
        (stages.map(|stage| stage.turn.into_inner().unwrap().state), ended)
    }

    #[test]
    fn each_stage_sees_all_in_its_order() {
        let (seen, ended) = go_through(|_| Ok(()));
        assert!(seen.iter().all(|seen| seen.iter().copied().eq(0..1_000)));
        assert_eq!(ended, [4, 0, 0]);
    }

    #[test]
    fn nothing_passes_behind_what_has_failed_or_panicked_and_nobody_waits_for_it() {
        let fail = go_through(|number| if number == 500 { Err(number) } else { Ok(()) });
        let panic = go_through(|number| if number == 500 { panic!("the five hundredth") } else { Ok(()) });
        for ((seen, ended), expected) in [(fail, [3, 1, 0]), (panic, [3, 0, 1])] {
            assert!(seen[1].iter().copied().eq(0..=500));
            assert_eq!(ended, expected);
        }
    }
}
