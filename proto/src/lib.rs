//! The formats of Tallylight, and nothing else: what a beacon may look like, what an event is, how a record
//! lies in a segment, and what every file is called.
//!
//! ```text
//!  beacon ──▶ event ──▶ record ──▶ segment ──▶ hour
//!  bytes      checked   bytes      file        Parquet
//! ```
//!
//! This crate performs no I/O, reads no clock, starts no thread and has no unsafe code. Both directions of a
//! format stand side by side in one file: whoever changes how something is written sees how it is read.
//! The collector and the compactor share this crate and the log folder; what they agree on stands here.
//!
//! Start with [`Event`], what a beacon means, and [`segment::Scanner`], which gives back every whole record
//! of a segment, whatever happened to the file.
//!
//! What survives a crash is decided by [`segment`]: a record carries its own checksum, salted with its
//! segment and seeded with its position, so that a reader never has to trust a length.

#![forbid(unsafe_code)]

pub mod beacon;
pub mod datagram;
pub mod event;
pub mod json;
pub mod keys;
pub mod layout;
pub mod ledger;
pub mod link;
pub mod reason;
pub mod record;
pub mod segment;
pub mod sources;
pub mod time;
pub mod varint;

pub use event::{Event, Id, Micros};
pub use ledger::Counts;
pub use reason::{DatagramRefusal, Front, Refusal, Shed};
