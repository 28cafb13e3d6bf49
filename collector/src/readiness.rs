//! Whether the collector is well, and whether it is ready, for whoever restarts programs or deals out traffic.

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use tallylight_service::admin::Check;

use crate::log::Status;

/// What the admin port is asked for.
#[derive(Default)]
pub struct Readiness {
    step: AtomicU8,
    log: OnceLock<Arc<Status>>,
}

const SERVING: u8 = 1;
const DRAINING: u8 = 2;

impl Readiness {
    /// There is a log: it has a say from now on.
    pub fn set_log(&self, log: Arc<Status>) {
        // there is one log a process
        let _ = self.log.set(log);
    }

    /// Beacons are taken from now on.
    pub fn serve(&self) {
        self.step.store(SERVING, Relaxed);
    }

    /// They are no longer.
    pub fn drain(&self) {
        self.step.store(DRAINING, Relaxed);
    }

    /// Not well means that a restart would help.
    ///
    /// # Errors
    /// If the log has failed.
    pub fn health(&self) -> Result<(), String> {
        match self.log.get() {
            Some(log) if log.snapshot().failed => Err("the log has failed".into()),
            _ => Ok(()),
        }
    }

    /// Not ready means that beacons had better go elsewhere.
    ///
    /// # Errors
    /// If that is so, with the reason.
    pub fn ready(&self) -> Result<(), String> {
        self.health()?;
        match self.step.load(Relaxed) {
            SERVING if self.log.get().is_some_and(|log| log.is_shedding()) => {
                Err("disk: events are shed until the log can have another segment".into())
            }
            SERVING => Ok(()),
            DRAINING => Err("draining: the collector is stopping".into()),
            _ => Err("starting: the log is being recovered".into()),
        }
    }
}

/// One of them as the admin port wants it.
pub fn check(of_whom: &Arc<Readiness>, of: fn(&Readiness) -> Result<(), String>) -> Check {
    let of_whom = Arc::clone(of_whom);
    Arc::new(move || of(&of_whom))
}
