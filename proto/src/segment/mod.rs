//! A segment: a file of fixed size, preallocated and mapped, to which records are only ever appended.
//!
//! ```text
//!      0  header sector  ┐ the same 512 bytes twice, each with its own CRC: see [`Header`]
//!    512  its copy       ┘
//!   1024  committed ┐
//!   1152  synced    │ marks, two slots of 64 bytes each: see [`Mark`]
//!   1280  sealed    ┘
//!   1408  zeros
//!   2048  holes: byte ranges in which what is bad is torn, not damaged: see [`Holes`]
//!   4096  records, one behind the other: see [`Framing`]
//! ```
//!
//! A *position* is the segment's base and the offset in the file, header included. The next segment's base is
//! this one's base and capacity, so positions only grow, gaps may exist and none is used twice.
//!
//! Pages reach the disk in any order. So nothing here trusts a length: a record is whole if its checksum,
//! seeded with the segment's salt and the record's position, says so, and [`Scanner`] finds the whole ones
//! behind any hole.

mod frame;
mod header;
mod holes;
mod mark;
mod scanner;

pub use frame::{FRAME_LEN, Framing, MAX_PAYLOAD, framed_len};
pub use header::{HEADER_LEN, Header, HeaderError, HeaderPage, SECTOR_LEN, UNKNOWN_ORDINAL};
pub use holes::{HOLES_LEN, HOLES_OFFSET, Holes};
pub use mark::{MARK_WORDS, Mark, MarkKind};
pub use scanner::{Found, Framed, Gap, Scanner, ahead_of};

/// The smallest capacity of a segment, in bytes: some of the largest records and the header.
pub const MIN_CAPACITY: u64 = 1 << 20;
