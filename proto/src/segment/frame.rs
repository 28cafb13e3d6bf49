//! The frame of a record.
//!
//! ```text
//!  0  u32  length of the payload, 1 to MAX_PAYLOAD
//!  4  u32  CRC-32C of: salt, position, length, ordinal, payload, padding
//!  8  u64  ordinal: one more than the record before it, over all segments
//! 16  …    payload (see crate::record)
//!     …    zeros up to a multiple of 8
//! ```
//!
//! The salt and the position are in the sum but not in the file. So neither the records that an earlier use of
//! the file left behind, nor bytes that a visitor chose, pass for a record.

use super::header::array;
use crate::event::MAX_EVENT_BYTES;

/// Bytes before the payload.
pub const FRAME_LEN: usize = 16;
/// The longest payload, in bytes.
pub const MAX_PAYLOAD: usize = MAX_EVENT_BYTES;
/// The shortest frame with its payload: what a hole of so many bytes can have held at most is counted with it.
pub(super) const MIN_FRAMED: usize = FRAME_LEN + 8;

/// What a payload takes up in the file, frame and padding included.
pub const fn framed_len(payload_len: usize) -> usize {
    FRAME_LEN + payload_len.next_multiple_of(8)
}

/// How the records of one segment are checked.
#[derive(Clone, Copy, Debug)]
pub struct Framing {
    seed: u32,
    base: u64,
}

/// What stands at an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Check {
    /// A whole record.
    Whole { ordinal: u64, payload_len: usize },
    /// It may be one, but more bytes are needed to tell.
    NeedsMore,
    /// None.
    Bad,
}

impl Framing {
    /// Of the segment with this salt and base.
    pub fn new(salt: u64, base: u64) -> Self {
        Self { seed: crc32c::crc32c(&salt.to_le_bytes()), base }
    }

    /// The position of an offset in the file.
    pub fn position(&self, offset: u64) -> u64 {
        self.base + offset
    }

    /// Writes a record at `offset` of the file into `out`, which is [`framed_len`] of the payload long.
    ///
    /// # Panics
    /// If `out` has another length or the payload is empty or longer than [`MAX_PAYLOAD`].
    pub fn write(&self, out: &mut [u8], offset: u64, ordinal: u64, payload: &[u8]) {
        assert!(!payload.is_empty() && payload.len() <= MAX_PAYLOAD, "the door bounds records");
        let (frame, body) = out.split_at_mut(FRAME_LEN);
        body[..payload.len()].copy_from_slice(payload);
        body[payload.len()..].fill(0);
        let length = u32::try_from(payload.len()).unwrap_or(0);
        frame[..4].copy_from_slice(&length.to_le_bytes());
        frame[8..].copy_from_slice(&ordinal.to_le_bytes());
        let crc = self.crc(offset, length, &out[8..]);
        out[4..8].copy_from_slice(&crc.to_le_bytes());
    }

    /// Looks at what stands at `offset`, where `bytes` begins and of which `left` bytes follow in all.
    ///
    /// `plausible` judges the ordinal before the sum is taken.
    pub(super) fn check(&self, bytes: &[u8], offset: u64, left: u64, plausible: impl Fn(u64) -> bool) -> Check {
        if left < MIN_FRAMED as u64 {
            return Check::Bad;
        }
        if bytes.len() < FRAME_LEN {
            return Check::NeedsMore;
        }
        let length = u32::from_le_bytes(array(bytes, 0));
        let ordinal = u64::from_le_bytes(array(bytes, 8));
        let payload_len = usize::try_from(length).unwrap_or(usize::MAX);
        if payload_len == 0 || payload_len > MAX_PAYLOAD || framed_len(payload_len) as u64 > left || !plausible(ordinal)
        {
            return Check::Bad;
        }
        let Some(framed) = bytes.get(..framed_len(payload_len)) else {
            return Check::NeedsMore;
        };
        if self.crc(offset, length, &framed[8..]) == u32::from_le_bytes(array(framed, 4)) {
            Check::Whole { ordinal, payload_len }
        } else {
            Check::Bad
        }
    }

    fn crc(&self, offset: u64, length: u32, rest: &[u8]) -> u32 {
        let mut head = [0; 12];
        head[..8].copy_from_slice(&self.position(offset).to_le_bytes());
        head[8..].copy_from_slice(&length.to_le_bytes());
        let (words, []) = rest.as_chunks::<8>() else { unreachable!("a frame is padded to whole words") };
        tallylight_checksum::append(self.seed, &head, words)
    }
}
