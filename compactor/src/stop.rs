//! SIGTERM and Ctrl-C: a wish to end, which the compactor fulfils between two records.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};

/// Whether the compactor is to end; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    wanted: AtomicBool,
    changed: Mutex<()>,
    wake: Condvar,
}

impl Stop {
    /// One that signals set, which are told of then.
    pub fn on_signals(tell: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        let stop = Self::default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (mut term, mut int) = {
            let _inside = runtime.enter();
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?)
        };
        let set = stop.clone();
        thread::Builder::new().name("signals".into()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = term.recv() => {}
                    _ = int.recv() => {}
                }
            });
            set.set();
            tell();
        })?;
        Ok(stop)
    }

    /// Ends it.
    pub fn set(&self) {
        self.shared.wanted.store(true, Relaxed);
        let _changed = self.shared.changed.lock().unwrap_or_else(PoisonError::into_inner);
        self.shared.wake.notify_all();
    }

    /// To look at between records.
    pub fn flag(&self) -> &AtomicBool {
        &self.shared.wanted
    }

    /// Whether it is to end.
    pub fn is_set(&self) -> bool {
        self.shared.wanted.load(Relaxed)
    }

    /// Waits so long, or until it is to end.
    pub fn wait(&self, time: Duration) {
        let deadline = Instant::now() + time;
        let mut changed = self.shared.changed.lock().unwrap_or_else(PoisonError::into_inner);
        while !self.is_set() {
            let Some(left) = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) else {
                return;
            };
            changed = self.shared.wake.wait_timeout(changed, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends_when_it_is_to_end() {
        let stop = Stop::default();
        stop.wait(Duration::from_millis(1));
        assert!(!stop.is_set());
        let other = stop.clone();
        let setter = thread::spawn(move || other.set());
        stop.wait(Duration::from_secs(3600));
        assert!(stop.is_set());
        setter.join().unwrap();
    }
}
