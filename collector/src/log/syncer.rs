//! Group commit: one thread puts on disk what the writer has committed, at intervals, or at once when somebody
//! waits for it. Everyone who waits at that moment is answered by the same sync.
//!
//! A sync that fails is final. The kernel has marked the pages clean by then, and the next call would say that
//! all is well ("Can Applications Recover from fsync Failures?", Rebello et al., USENIX ATC 2020).

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use metrics::Histogram;
use tallylight_host::clock;
use tallylight_proto::segment::Holes;
use tracing::debug;

use super::ack::{AckSender, answer_all};
use super::active::Shared;
use super::status::Status;
use super::{LogError, storage};

/// What the writer tells the syncer.
#[derive(Debug)]
pub(super) enum Task {
    /// The writer appends to this one now.
    Begin(Arc<Shared>),
    /// The writer has left this one, with everything committed.
    Seal(Arc<Shared>),
    /// These wait until a position is on disk.
    Wait(Vec<(u64, AckSender)>),
}

/// The state of the thread.
pub(super) struct Syncer {
    folder: PathBuf,
    interval: Duration,
    status: Arc<Status>,
    tasks: Receiver<Task>,
    active: Option<Arc<Shared>>,
    sealing: Vec<Arc<Shared>>,
    waiting: Vec<(u64, AckSender)>,
    /// When it was last time to sync.
    last: Instant,
    /// A segment has got its name since the folder was last synced.
    is_folder_dirty: bool,
    duration: Histogram,
}

impl Syncer {
    pub fn new(folder: PathBuf, interval: Duration, status: Arc<Status>, tasks: Receiver<Task>) -> Self {
        let duration = metrics::histogram!("tallylight_log_sync_duration_seconds");
        let (active, sealing, waiting) = (None, Vec::new(), Vec::new());
        let last = clock::instant();
        Self { folder, interval, status, tasks, active, sealing, waiting, last, is_folder_dirty: false, duration }
    }

    /// The thread's body. It ends when the writer has gone, with everything on disk.
    pub fn run(mut self) -> Result<(), LogError> {
        loop {
            let first = match self.waiting.is_empty() {
                true => self.tasks.recv_deadline(self.last + self.interval),
                false => self.next(),
            };
            if self.turn(first)?.is_break() {
                return Ok(());
            }
        }
    }

    /// Takes all tasks there are, this one first, and syncs if it is time or somebody waits. A break when the writer
    /// has gone.
    pub fn turn(&mut self, first: Result<Task, RecvTimeoutError>) -> Result<ControlFlow<()>, LogError> {
        let is_gone = self.gather(first);
        let is_due = clock::since(self.last) >= self.interval;
        if is_due {
            self.last = clock::instant();
        }
        if is_due || !self.waiting.is_empty() || !self.sealing.is_empty() {
            self.sync()?;
        }
        Ok(if is_gone { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    }

    /// The next task, if there is one.
    pub fn next(&self) -> Result<Task, RecvTimeoutError> {
        self.tasks.try_recv().map_err(|error| match error.is_disconnected() {
            true => RecvTimeoutError::Disconnected,
            false => RecvTimeoutError::Timeout,
        })
    }

    /// True when the writer has gone.
    fn gather(&mut self, mut next: Result<Task, RecvTimeoutError>) -> bool {
        loop {
            match next {
                Ok(Task::Begin(active)) => {
                    self.active = Some(active);
                    self.is_folder_dirty = true;
                }
                Ok(Task::Seal(left)) => self.sealing.push(left),
                Ok(Task::Wait(waiting)) => self.waiting.extend(waiting),
                Err(error) => return error == RecvTimeoutError::Disconnected,
            }
            next = self.next();
        }
    }

    fn sync(&mut self) -> Result<(), LogError> {
        if std::mem::take(&mut self.is_folder_dirty) {
            storage::sync_folder(&self.folder)?;
        }
        for left in std::mem::take(&mut self.sealing) {
            let end = self.timed(|| left.seal(&Holes::default()))?;
            self.status.sealed_segment();
            self.status.synced_to(left.position(end));
            debug!(position = left.position(end), "sealed a segment");
            if self.active.as_ref().is_some_and(|active| Arc::ptr_eq(active, &left)) {
                self.active = None;
            }
        }
        if let Some(active) = self.active.clone()
            && active.position(active.committed()) > self.status.snapshot().synced
        {
            let mark = self.timed(|| active.sync())?;
            self.status.synced_to(active.position(mark));
        }
        self.answer();
        Ok(())
    }

    fn timed<T>(&self, sync: impl FnOnce() -> T) -> T {
        let start = clock::instant();
        let result = sync();
        self.duration.record(clock::since(start));
        result
    }

    /// Answers all whose records are on disk.
    fn answer(&mut self) {
        let position = self.status.snapshot().synced;
        let (reached, waiting) = std::mem::take(&mut self.waiting).into_iter().partition(|(at, _)| *at <= position);
        self.waiting = waiting;
        let reached: Vec<(u64, AckSender)> = reached;
        answer_all(reached.into_iter().map(|(_, sender)| (sender, Ok(()))));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::{Recovered, ack};

    #[test]
    fn whoever_waits_for_what_is_on_disk_is_answered_and_nobody_else() {
        let status = Arc::new(Status::new(&Recovered::default()));
        status.synced_to(4096);
        let (_tasks, receiver) = crossbeam_channel::unbounded();
        let mut syncer = Syncer::new(PathBuf::new(), Duration::ZERO, status, receiver);
        let mut waiters = Vec::new();
        for position in [4095, 4096, 4097] {
            let (sender, waiter) = ack();
            syncer.waiting.push((position, sender));
            waiters.push(waiter);
        }
        syncer.answer();
        assert_eq!([0, 1, 2].map(|n| waiters[n].try_recv().is_ok()), [true, true, false]);
    }
}
