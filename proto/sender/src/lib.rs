//! Sends events from a service to a collector over UDP, numbered, so that it is known what got lost.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let url = "https://books.example/lamplighters-atlas";
//! use tallylight_sender::Sender;
//! let sender = Sender::connect("127.0.0.1:5001")?;
//! sender.send(&[("site", "books"), ("event", "click"), ("target", url)])?;
//! # Ok(())
//! # }
//! ```
//!
//! ```text
//!  send ──line──▶ buffer ──10 ms or a datagram's worth──▶ thread: cut ─▶ number, tag ─▶ socket, never waited for
//! ```
//!
//! Make one [`Sender`] a process and share it. It never makes the caller wait, for nothing longer than the time in
//! which somebody else puts a line into the buffer, and it never tells that an event arrived: nobody answers. What was
//! lost, on the way or before, is what the collector does not find between the numbers. [`Sender::stats`] says what
//! left.
//!
//! It has a thread of its own, which a `fork` does not take along: make it after that, or the child's events stay in
//! the buffer. Events that are younger than the linger when the process ends without dropping it go with it.
//!
//! Start with [`Sender`]. [`outlet`] is what is beneath it, for a program that would rather wait than lose.

#![forbid(unsafe_code)]

mod link;
pub mod outlet;
mod sender;
mod source;

pub use tallylight_proto::keys::{Key, KeyError, Keys};

pub use sender::{Builder, SendError, Sender, Stats};
