//! What Tallylight reads from others, given anything.
//!
//! Each target is a function of bytes that panics if something does not hold that must hold for all bytes. Two things
//! call it: libFuzzer, which makes up bytes for as long as it is let (`make fuzz`), and a test, which goes through what
//! libFuzzer found worth keeping (`corpus`) and what once was wrong (`regressions`) at every `cargo test`.
//!
//! ```text
//!  decoder ─▶ datagram, link ─▶ record ─▶ sources ─▶ segment
//! ```
//!
//! A target holds more than that nothing panics: what is read is written and read again, what is counted adds up, and
//! where there is a standard, another reader of it has the last word. README.md has the table.

#![forbid(unsafe_code)]

mod answers;
mod datagram;
mod decoder;
mod files;
mod http;
mod link;
mod parquet;
mod record;
mod sample;
mod segment;
mod sources;

use std::alloc::System;

use cap::Cap;

pub use datagram::datagram;
pub use decoder::decoder;
pub use http::{http, look_at_log};
pub use link::link;
pub use parquet::parquet;
pub use record::record;
pub use segment::segment;
pub use sources::sources;

/// All that a target may have in memory at a time: whoever believes a length that a file or a peer names dies of it.
const MOST_MEMORY: usize = 512 << 20;

#[global_allocator]
static MEMORY: Cap<System> = Cap::new(System, MOST_MEMORY);

/// A target: its name, as it is called, and its function.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 8] = [
    ("decoder", decoder),
    ("datagram", datagram),
    ("link", link),
    ("record", record),
    ("sources", sources),
    ("segment", segment),
    ("http", http),
    ("parquet", parquet),
];
