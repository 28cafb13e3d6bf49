//! The log without threads: its parts take turns as a simulation says, on one thread.

use std::cell::RefCell;
use std::sync::Arc;

use crossbeam_channel::Receiver;

use super::{
    Appender, Batch, LogError, Options, Parts, Recovered, Status, supply::Supply, syncer::Syncer, writer::Writer,
};

/// The running log. Dropping it leaves what a crash would leave.
pub struct LogByTurns {
    /// None once it has closed the log.
    writer: RefCell<Option<Writer>>,
    syncer: RefCell<Syncer>,
    supply: Arc<Supply>,
    is_supplying: RefCell<()>,
    appender: Appender,
    batches: Receiver<Batch>,
}

/// One of the threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thread {
    /// Appends what is in the channel.
    Writer,
    /// Syncs and seals.
    Syncer,
    /// Prepares segments.
    Supply,
}

impl LogByTurns {
    /// Recovers what is there.
    ///
    /// # Errors
    /// As [`super::Log::start`].
    pub fn start(options: &Options) -> Result<(Self, Recovered), LogError> {
        let Parts { writer, syncer, supply, appender, batches, recovered } = Parts::of(options)?;
        let log = Self {
            writer: RefCell::new(Some(writer)),
            syncer: RefCell::new(syncer),
            supply,
            is_supplying: RefCell::default(),
            appender,
            batches,
        };
        Ok((log, recovered))
    }

    /// The writer's first turn.
    ///
    /// # Errors
    /// As the thread's.
    pub fn begin(&self) -> Result<(), LogError> {
        self.writer.borrow_mut().as_mut().map_or(Ok(()), Writer::begin)
    }

    /// A way to the log.
    pub fn appender(&self) -> Appender {
        self.appender.clone()
    }

    /// What the log is doing.
    pub fn status(&self) -> Arc<Status> {
        Arc::clone(&self.appender.status)
    }

    /// Gives a thread a turn; the writer takes so many batches at most. False if it is in the midst of one.
    ///
    /// # Errors
    /// As the thread's, which ends the process.
    pub fn turn(&self, of: Thread, batches: usize) -> Result<bool, LogError> {
        match of {
            Thread::Writer => {
                // it may have to wait for the supply, which must then be free to take a turn
                let (Ok(mut writer), true) = (self.writer.try_borrow_mut(), self.is_supplying.try_borrow_mut().is_ok())
                else {
                    return Ok(false);
                };
                if let Some(writer) = &mut *writer {
                    writer.turn(self.batches.try_iter().take(batches))?;
                }
            }
            Thread::Syncer => {
                let Ok(mut syncer) = self.syncer.try_borrow_mut() else { return Ok(false) };
                let next = syncer.next();
                let _ = syncer.turn(next)?;
            }
            Thread::Supply => {
                let Ok(_busy) = self.is_supplying.try_borrow_mut() else { return Ok(false) };
                drop(self.supply.turn()?);
            }
        }
        Ok(true)
    }

    /// Ends in order: all is appended, sealed and synced.
    ///
    /// # Errors
    /// As the threads'.
    pub fn finish(&self) -> Result<(), LogError> {
        while !self.batches.is_empty() {
            self.turn(Thread::Writer, usize::MAX)?;
        }
        if let Some(writer) = self.writer.take() {
            writer.close()?;
        }
        self.turn(Thread::Syncer, 0)?;
        self.supply.stop();
        self.turn(Thread::Supply, 0)?;
        Ok(())
    }
}
