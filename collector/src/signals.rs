//! Signals: SIGTERM and SIGINT stop, SIGHUP reloads.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a signal asks for.
pub enum Asked {
    /// SIGHUP.
    ToReload,
    /// SIGTERM, or Ctrl-C.
    ToStop,
}

/// The signals that the collector knows.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    /// From here on they no longer end the process by themselves.
    ///
    /// # Errors
    /// If the system does not let us.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// The next one.
    pub async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::ToStop,
            _ = self.interrupt.recv() => Asked::ToStop,
            _ = self.hangup.recv() => Asked::ToReload,
        }
    }

    /// Returns when told to stop once more.
    pub async fn asked_again(&mut self) {
        while let Asked::ToReload = self.next().await {}
    }
}
