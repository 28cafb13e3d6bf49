//! How the copies of a group stand in its blocks: of each field what it is above the group's least, in as many bytes as the greatest
//! one needs, little-endian.
//!
//! All copies of a group take the same number of bytes, so that one is found without those before it.

use super::FirstCopy;
use super::page::{BODY_BYTES, PAGE_BYTES, Page, u64_at};

/// The most that a copy takes.
pub(super) const COPY_BYTES: usize = 32;

/// The bytes of a group's copies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Packing {
    /// The least of each field.
    least: FirstCopy,
    id: usize,
    position: usize,
    received_at: usize,
}

impl Packing {
    /// That it takes in a leaf.
    pub(super) const BYTES: usize = 8 + 8 + 3;

    /// For these copies, sorted, of which there is one at least.
    pub(super) fn of(copies: &[FirstCopy]) -> Self {
        let (mut least, mut most) = (copies[0], copies[copies.len() - 1]);
        for copy in copies {
            (least.position, most.position) = (least.position.min(copy.position), most.position.max(copy.position));
            (least.received_at, most.received_at) =
                (least.received_at.min(copy.received_at), most.received_at.max(copy.received_at));
        }
        let bytes = |most: u128| (u128::BITS - most.leading_zeros()).div_ceil(u8::BITS) as usize;
        Self {
            least,
            // of one id some byte must stand there, or it would be no copy
            id: bytes(most.id - least.id).max(1),
            position: bytes((most.position - least.position).into()),
            received_at: bytes(most.received_at.abs_diff(least.received_at).into()),
        }
    }

    /// As it stands there, of a group with this first id.
    pub(super) fn read(first: u128, bytes: &[u8]) -> Self {
        let [id, position, received_at] = [16, 17, 18].map(|at| usize::from(bytes[at]));
        let least = FirstCopy { id: first, position: u64_at(bytes, 0), received_at: u64_at(bytes, 8).cast_signed() };
        Self { least, id, position, received_at }
    }

    #[expect(clippy::cast_possible_truncation, reason = "a field has sixteen bytes at most")]
    pub(super) fn write(&self, to: &mut [u8]) {
        to[..8].copy_from_slice(&self.least.position.to_le_bytes());
        to[8..16].copy_from_slice(&self.least.received_at.to_le_bytes());
        to[16..Self::BYTES].copy_from_slice(&[self.id, self.position, self.received_at].map(|bytes| bytes as u8));
    }

    /// Bytes of a copy.
    pub(super) fn copy_bytes(&self) -> usize {
        self.id + self.position + self.received_at
    }

    pub(super) fn copies_in_block(&self) -> usize {
        BODY_BYTES / self.copy_bytes()
    }

    /// Puts a copy at the beginning of these bytes. Its fields are written whole, each one over the zeros of the one before: behind
    /// it stand zeros, up to [`COPY_BYTES`].
    pub(super) fn put(&self, copy: &FirstCopy, to: &mut [u8; COPY_BYTES]) {
        to[..16].copy_from_slice(&(copy.id - self.least.id).to_le_bytes());
        let received_at = copy.received_at.abs_diff(self.least.received_at);
        for (at, field) in [(self.id, copy.position - self.least.position), (self.id + self.position, received_at)] {
            to[at..at + 8].copy_from_slice(&field.to_le_bytes());
        }
    }

    /// The id of a block's `n`th copy.
    fn id_at(&self, block: &Page, n: usize) -> u128 {
        // what passes its checksum was written here
        self.least.id.wrapping_add(packed_at(block, n * self.copy_bytes(), self.id))
    }

    /// A block's `n`th copy.
    #[expect(clippy::cast_possible_truncation, reason = "those fields have eight bytes at most")]
    pub(super) fn copy_at(&self, block: &Page, n: usize) -> FirstCopy {
        let at = n * self.copy_bytes() + self.id;
        let position = packed_at(block, at, self.position) as u64;
        let received_at = packed_at(block, at + self.position, self.received_at) as u64;
        FirstCopy {
            id: self.id_at(block, n),
            position: self.least.position.wrapping_add(position),
            received_at: self.least.received_at.wrapping_add_unsigned(received_at),
        }
    }

    /// The place of the first of a block's copies whose id is not below this one.
    pub(super) fn first_not_below(&self, block: &Page, copies: usize, id: u128) -> usize {
        let (mut from, mut to) = (0, copies);
        while from < to {
            let middle = from.midpoint(to);
            if self.id_at(block, middle) < id { from = middle + 1 } else { to = middle }
        }
        from
    }
}

/// The number that stands in so many bytes at `at`, sixteen at most: little-endian.
fn packed_at(page: &Page, at: usize, bytes: usize) -> u128 {
    // always sixteen of them are read, which is one look at memory; near the page's end some are of what stands before
    let from = at.min(PAGE_BYTES - 16);
    let read: [u8; 16] = page[from..from + 16].try_into().expect("sixteen bytes were cut out");
    let from_there = u128::from_le_bytes(read) >> (8 * (at - from));
    from_there & u128::MAX.checked_shr(128 - 8 * u32::try_from(bytes).unwrap_or(16)).unwrap_or(0)
}
