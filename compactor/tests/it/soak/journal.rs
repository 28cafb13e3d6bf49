//! What senders write down of each of their events: its id, and what they know of it at the end.
//!
//! The rule kept here: what is acknowledged stands in the journal, and whatever may be counted does. So an event that is
//! missing, there twice, or in no journal is a fault of the programs.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use uuid::Uuid;

/// What is known of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Answered with `204`: it is in the log.
    Logged,
    /// The same, with `ack=synced`.
    Synced,
    /// Sent by somebody who heard nothing, or nothing that counts, and gave up: it counts once at most.
    Unknown,
}

/// The journal of one sender, a line an event.
pub struct Journal(BufWriter<File>);

impl Journal {
    /// An empty one.
    pub fn new(folder: &Path, sender: &str) -> Self {
        Self(BufWriter::new(File::create_new(folder.join(format!("{sender}.csv"))).unwrap()))
    }

    /// Writes down an event.
    pub fn note(&mut self, id: Uuid, level: Level) {
        let level = match level {
            Level::Logged => "logged",
            Level::Synced => "synced",
            Level::Unknown => "unknown",
        };
        writeln!(self.0, "{},{level}", id.simple()).unwrap();
    }

    /// All of it is in the file.
    pub fn close(mut self) {
        self.0.flush().unwrap();
    }
}
