//! How far the collector is on its way out. It goes one way only.

use tokio::sync::watch;

/// Where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Connections are accepted, requests answered.
    Serving,
    /// What is in flight is answered. Connections are accepted only where others will accept them when this process has
    /// gone: they need not wait for that yet.
    Draining,
    /// What is in flight is answered, and nothing is accepted any more.
    Closing,
    /// Time is up: whatever is still coming in is shed.
    Closed,
}

/// A view of the phase for one thread.
#[derive(Clone, Debug)]
pub struct Watch {
    receiver: watch::Receiver<Phase>,
}

impl Watch {
    /// Looks at this.
    pub fn new(receiver: watch::Receiver<Phase>) -> Self {
        Self { receiver }
    }

    /// Whether nothing has been said about stopping.
    pub fn is_serving(&self) -> bool {
        *self.receiver.borrow() == Phase::Serving
    }

    /// Returns when nothing more is to be taken from a socket, which others may have, too.
    pub async fn ends_taking_from(&self, is_shared: bool) {
        self.reaches(if is_shared { Phase::Closing } else { Phase::Draining }).await;
    }

    /// Returns when the collector stops; at once if it does already.
    pub async fn is_draining(&self) {
        self.reaches(Phase::Draining).await;
    }

    /// Returns when the collector begins to stop; never if it does already.
    pub async fn is_draining_now(&self) {
        if self.is_serving() { self.is_draining().await } else { std::future::pending().await }
    }

    /// Returns when time is up.
    pub async fn is_closed(&self) {
        self.reaches(Phase::Closed).await;
    }

    async fn reaches(&self, phase: Phase) {
        let mut receiver = self.receiver.clone();
        // without a sender nobody is left to say so: the collector is gone
        let _ = receiver.wait_for(|now| *now >= phase).await;
    }
}
