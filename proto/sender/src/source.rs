//! The numbers of a sender.
//!
//! The rule kept here: a source is drawn at random, its numbers begin at 1 and never go back, and a number that may
//! have left is never given again.

use std::io;

use tallylight_proto::datagram::{self, HEADER_LEN, TAG_LEN};
use tallylight_proto::keys::Key;

/// One life of a sender.
#[derive(Debug)]
pub(crate) struct Source {
    source: u64,
    next: u64,
    key: Option<Key>,
    /// The datagram that was written last; kept for its memory.
    datagram: Vec<u8>,
}

impl Source {
    /// A new one.
    pub(crate) fn draw(key: Option<Key>) -> io::Result<Self> {
        Ok(Self { source: getrandom::u64()?, next: 1, key, datagram: Vec::new() })
    }

    /// Bytes of a datagram that are not its body.
    pub(crate) fn overhead(&self) -> usize {
        HEADER_LEN + if self.key.is_some() { TAG_LEN } else { 0 }
    }

    /// The datagram of the next number, which is not used up by that. Without a body it is a heartbeat.
    pub(crate) fn datagram(&mut self, body: &[u8]) -> &[u8] {
        datagram::write(&mut self.datagram, self.source, self.next, body, self.key.as_ref());
        &self.datagram
    }

    /// The next numbers were sent, or stand for what was not.
    pub(crate) fn use_up(&mut self, numbers: u64) {
        self.next += numbers;
    }
}
