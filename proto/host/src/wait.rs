//! Waiting for another thread.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Waits until something may have changed ([`Condvar::wait`]), and has the guard again.
pub fn for_a_change<'m, T>(changed: &Condvar, state: &'m Mutex<T>, guard: MutexGuard<'m, T>) -> MutexGuard<'m, T> {
    #[cfg(feature = "simulated")]
    if let Some(world) = crate::simulated::here() {
        drop(guard);
        world.wait_for_others();
        return state.lock().unwrap_or_else(PoisonError::into_inner);
    }
    #[cfg(not(feature = "simulated"))]
    let _ = state;
    changed.wait(guard).unwrap_or_else(PoisonError::into_inner)
}
