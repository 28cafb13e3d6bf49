//! The log: batches in, segments out.
//!
//! ```text
//!  fronts ──batch──▶ channel ──▶ writer ──▶ active segment ──▶ syncer ──▶ disk, sealed segments
//!                                  ▲
//!                     supply: the next segment, ready before it is needed
//! ```
//!
//! One thread writes (`writer`); it never waits for the disk unless a whole segment fills before the next one
//! is ready. A second one syncs and seals (`syncer`), a third one prepares segments (`supply`).
//! What a crash leaves is made a sealed segment again by `recovery` before anything is appended.
//! All system calls and the mapped memory are in [`storage`].

mod ack;
mod active;
mod batch;
#[cfg(feature = "simulated")]
pub mod by_turns;
mod recovery;
mod slice;
mod status;
pub mod storage;
mod supply;
mod syncer;
mod writer;

use std::cell::Cell;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{JoinHandle, yield_now};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use tallylight_proto::layout;
use tallylight_service::Watchdog;
use thiserror::Error;
use tracing::debug;

pub use ack::{Ack, ack};
pub use batch::{Batch, Level};
pub use recovery::Recovered;
pub use status::{Status, StatusSnapshot};
pub use storage::StorageError;

use supply::Supply;

/// How many batches may wait for the writer. With the batches of a busy front (some 64 KiB) that is 64 MiB and
/// about a tenth of a second of appending.
pub const QUEUE_LEN: usize = 1024;
/// Batches wait for so long where the writer, which comes once a millisecond, is late.
const LATE: Duration = Duration::from_micros(1_500);
/// And this long for it when a thread has made way already.
const STILL_LATE: Duration = Duration::from_micros(250);
/// How many emptied batches wait to be used again.
const RECYCLED_LEN: usize = 64;

/// How the log is to be kept.
#[derive(Clone, Debug)]
pub struct Options {
    /// The data folder; the log is in `log` below it.
    pub data: PathBuf,
    /// The node's name.
    pub node: String,
    /// Bytes a segment, header included.
    pub segment_size: u64,
    /// The longest time between two syncs while there is something to sync.
    pub sync_interval: Duration,
    /// Free bytes on the disk below which no further segment is allocated.
    pub reserve: u64,
    /// Fed by the writer, a turn after the other.
    pub watchdog: Watchdog,
}

/// Why the log cannot go on. All of these end the process.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LogError {
    /// The disk said no.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A thread could not be started.
    #[error("cannot start the thread {name}: {source}")]
    Thread {
        /// Its name.
        name: &'static str,
        /// Why.
        source: std::io::Error,
    },
}

/// The running log. Dropping it without [`Log::finish`] leaves what a crash would leave.
pub struct Log {
    threads: Vec<JoinHandle<()>>,
    supply: Arc<Supply>,
    status: Arc<Status>,
    appender: Appender,
}

/// A front's way to the log.
#[derive(Clone)]
pub struct Appender {
    queue: Sender<Batch>,
    recycled: Receiver<Batch>,
    status: Arc<Status>,
    /// How many batches the writer had taken when that was last looked at, and from when on it is late if it takes no more.
    late_at: Cell<Option<(u64, Instant)>>,
}

/// What the log is made of; each has a thread of its own.
struct Parts {
    writer: writer::Writer,
    syncer: syncer::Syncer,
    supply: Arc<Supply>,
    appender: Appender,
    batches: Receiver<Batch>,
    recovered: Recovered,
}

impl Parts {
    /// Recovers what is there, and stands ready to go on.
    fn of(options: &Options) -> Result<Self, LogError> {
        let folder = options.data.join(layout::LOG);
        let spares = folder.join(layout::SPARE);
        storage::create_folder(&spares)?;
        // whoever made or moved what is in them may have been killed before its name was on disk
        storage::sync_name(&options.data)?;
        [&options.data, &spares].into_iter().try_for_each(|folder| storage::sync_folder(folder))?;
        let recovered = recovery::recover(&folder)?;
        let status = Arc::new(Status::new(&recovered));
        let (queue, batches) = bounded(QUEUE_LEN);
        let (recycle, recycled) = bounded(RECYCLED_LEN);
        let supply = Arc::new(Supply::new(options, folder.clone(), &recovered, Arc::clone(&status)));
        let (sync_tasks, tasks) = crossbeam_channel::unbounded();
        let syncer = syncer::Syncer::new(folder.clone(), options.sync_interval, Arc::clone(&status), tasks);
        let channels = writer::Channels { sync_tasks, recycle };
        let writer = writer::Writer::new(folder, &recovered, Arc::clone(&supply), channels, Arc::clone(&status));
        let appender = Appender { queue, recycled, status, late_at: Cell::default() };
        Ok(Self { writer, syncer, supply, appender, batches, recovered })
    }
}

impl Log {
    /// Recovers what is there and starts the threads. `on_failure` is called once, from one of them, if the log
    /// can never go on: a failed sync is final, since the kernel then forgets what it could not write.
    pub fn start(
        options: Options,
        on_failure: impl Fn(LogError) + Send + Sync + 'static,
    ) -> Result<(Self, Recovered), LogError> {
        let Parts { writer, syncer, supply, appender, batches, recovered } = Parts::of(&options)?;
        let status = Arc::clone(&appender.status);
        let fail: Arc<dyn Fn(LogError) + Send + Sync> = {
            let status = Arc::clone(&status);
            Arc::new(move |error| {
                status.set_failed();
                on_failure(error);
            })
        };
        let threads = vec![
            spawn("log-supply", Arc::clone(&fail), {
                let supply = Arc::clone(&supply);
                move || supply.run()
            })?,
            spawn("log-sync", Arc::clone(&fail), move || syncer.run())?,
            spawn("log-writer", fail, move || {
                if let Err(error) = slice::shorten() {
                    debug!(%error, "the log's writer has no shorter time slice: it may be late where processors are few");
                }
                writer.run(&batches, &options.watchdog)
            })?,
        ];
        Ok((Self { threads, supply, status, appender }, recovered))
    }

    /// A front's way to the log. All of them must be dropped before [`Log::finish`] can return.
    pub fn appender(&self) -> Appender {
        self.appender.clone()
    }

    /// What the log is doing, for metrics and for the door.
    pub fn status(&self) -> Arc<Status> {
        Arc::clone(&self.status)
    }

    /// Appends what is still in the channel, writes the closing ledger record, seals and syncs.
    pub fn finish(self) {
        let Self { threads, supply, status: _, appender } = self;
        drop(appender);
        for thread in threads.into_iter().rev() {
            if thread.thread().name() == Some("log-supply") {
                supply.stop();
            }
            // a panic in it has ended the process already
            let _ = thread.join();
        }
    }
}

impl Appender {
    /// An empty batch, with the memory of an earlier one if there is one.
    pub fn batch(&self) -> Batch {
        self.recycled.try_recv().unwrap_or_default()
    }

    /// Hands a batch to the writer, or gives it back if the channel is full: never a wait.
    #[expect(clippy::result_large_err, reason = "what comes back is the batch itself; a box would cost each send")]
    pub fn try_send(&self, batch: Batch) -> Result<(), Batch> {
        let result = self.queue.try_send(batch);
        if result.is_ok() {
            self.status.pushed();
        }
        result.map_err(|error| match error {
            TrySendError::Full(batch) | TrySendError::Disconnected(batch) => batch,
        })
    }

    /// A way to a log whose writer never comes: the channel has room for so many batches.
    #[cfg(test)]
    pub(crate) fn to_nobody(room: usize) -> (Self, Receiver<Batch>) {
        let (queue, batches) = bounded(room);
        let status = Arc::new(Status::new(&Recovered::default()));
        (Self { queue, recycled: bounded(0).1, status, late_at: Cell::default() }, batches)
    }

    /// To be called when a batch was sent, or found no room: makes way for the writer where it is late. It may be waiting for this very processor: where a clock
    /// tick interrupts its turn, Linux lets a thread that is never idle go on until the next tick, 4 ms later. That is a system
    /// call, and a thread that sends each event by itself would make one for each, did it go by how many wait.
    pub fn make_way(&self, now: Instant) {
        if self.is_writer_late(now) {
            yield_now();
        }
    }

    fn is_writer_late(&self, now: Instant) -> bool {
        let taken = self.status.taken();
        match self.late_at.get() {
            Some((before, late_at)) if before == taken && self.queue.len() > 1 => {
                let is_late = now >= late_at;
                if is_late {
                    self.late_at.set(Some((taken, now + STILL_LATE)));
                }
                is_late
            }
            // it has come since, or had nothing to come for
            _ => {
                self.late_at.set(Some((taken, now + LATE)));
                false
            }
        }
    }

    /// Whether the channel is nearly full: who can wait, better does.
    pub fn is_crowded(&self) -> bool {
        self.queue.capacity().is_some_and(|capacity| self.queue.len() >= capacity - capacity / 4)
    }

    /// Whether events are shed for the disk right now.
    pub fn is_shedding(&self) -> bool {
        self.status.is_shedding()
    }
}

fn spawn(
    name: &'static str,
    fail: Arc<dyn Fn(LogError) + Send + Sync>,
    body: impl FnOnce() -> Result<(), LogError> + Send + 'static,
) -> Result<JoinHandle<()>, LogError> {
    let run = move || body().unwrap_or_else(|error| fail(error));
    std::thread::Builder::new().name(name.into()).spawn(run).map_err(|source| LogError::Thread { name, source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tallylight_host::clock;
    use tallylight_proto::Counts;

    #[test]
    fn a_thread_makes_way_where_its_batches_wait_for_long_and_not_where_they_are_many() {
        // the times at which it makes way while the writer comes once in so long: after a pause a batch each 20 µs for 6 ms, and one of
        // another thread right before it
        let made_way = |turn: u64| -> Vec<u64> {
            let (appender, batches) = Appender::to_nobody(QUEUE_LEN);
            let (other, begun) = (appender.clone(), clock::instant());
            let sends = |appender: &Appender, micros: u64| {
                assert!(appender.try_send(Batch::default()).is_ok());
                appender.is_writer_late(begun + Duration::from_micros(micros))
            };
            let come = || appender.status.drained(batches.try_iter().count() as u64, None, &Counts::default());
            assert_eq!([&other, &appender].map(|appender| sends(appender, 0)), [false; 2]);
            come();
            let mut late = Vec::new();
            for micros in (0..6_000).step_by(20) {
                if micros % turn == 0 {
                    come();
                }
                let is_late = [&other, &appender].map(|appender| sends(appender, 1_000_000 + micros));
                assert_eq!(is_late[0], is_late[1], "{micros}");
                late.extend(is_late[0].then_some(micros));
            }
            late
        };
        assert!(made_way(1_000).is_empty());
        // 1.5 ms after it should have come, and then each time that a batch would be old
        let late: Vec<u64> = [0, 3_000].into_iter().flat_map(|at| (0..6).map(move |n| at + 1_500 + n * 260)).collect();
        assert_eq!(made_way(3_000), late);
    }
}
