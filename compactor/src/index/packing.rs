//! How the copies of a group stand in its blocks: of each field what it is above the group's least, in as many bytes as the greatest
//! one needs.
//!
//! All copies of a group take the same number of bytes, so that one is found without those before it: id, position, received at, each
//! little-endian. A leaf says what it is for its group:
//!
//! | bytes | what |
//! | --- | --- |
//! | 0..8 | the least position, little-endian |
//! | 8..16 | the least receive time, little-endian; the least id is the first of the group |
//! | 16, 17, 18 | how many bytes an id, a position and a receive time take: 1 to 16, up to 8, up to 8 |

use super::FirstCopy;
use super::page::{BODY_BYTES, PAGE_BYTES, Page, u64_at};

/// The most that a copy takes.
pub(super) const MOST_BYTES: usize = 16 + 8 + 8;

/// How a group's copies are packed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Packing {
    /// The least of each field.
    least: FirstCopy,
    id_bytes: usize,
    position_bytes: usize,
    received_bytes: usize,
}

impl Packing {
    /// What it takes in a leaf.
    pub(super) const BYTES: usize = 8 + 8 + 3;

    /// For these copies, sorted, of which there is one at least.
    pub(super) fn of(copies: &[FirstCopy]) -> Self {
        let (mut least, mut most) = (copies[0], copies[copies.len() - 1]);
        for copy in copies {
            (least.position, most.position) = (least.position.min(copy.position), most.position.max(copy.position));
            (least.received_at, most.received_at) =
                (least.received_at.min(copy.received_at), most.received_at.max(copy.received_at));
        }
        let bytes = |greatest: u128| (u128::BITS - greatest.leading_zeros()).div_ceil(u8::BITS) as usize;
        Self {
            least,
            // even a copy that is alone has a byte: else as many as one likes would have room in a block
            id_bytes: bytes(most.id - least.id).max(1),
            position_bytes: bytes((most.position - least.position).into()),
            received_bytes: bytes(most.received_at.abs_diff(least.received_at).into()),
        }
    }

    /// As it stands in the leaf of a group with this first id; none if nothing can be packed so.
    pub(super) fn read(first: u128, bytes: &[u8]) -> Option<Self> {
        let [id_bytes, position_bytes, received_bytes] = [16, 17, 18].map(|at| usize::from(bytes[at]));
        let least = FirstCopy { id: first, position: u64_at(bytes, 0), received_at: u64_at(bytes, 8).cast_signed() };
        let is_possible = (1..=16).contains(&id_bytes) && position_bytes <= 8 && received_bytes <= 8;
        is_possible.then_some(Self { least, id_bytes, position_bytes, received_bytes })
    }

    #[expect(clippy::cast_possible_truncation, reason = "a field has sixteen bytes at most")]
    pub(super) fn write(&self, to: &mut [u8]) {
        to[..8].copy_from_slice(&self.least.position.to_le_bytes());
        to[8..16].copy_from_slice(&self.least.received_at.to_le_bytes());
        let widths = [self.id_bytes, self.position_bytes, self.received_bytes];
        to[16..Self::BYTES].copy_from_slice(&widths.map(|bytes| bytes as u8));
    }

    /// Bytes of a copy.
    pub(super) fn copy_bytes(&self) -> usize {
        self.id_bytes + self.position_bytes + self.received_bytes
    }

    pub(super) fn copies_in_block(&self) -> usize {
        BODY_BYTES / self.copy_bytes()
    }

    /// Puts a copy at the beginning of these bytes. Its fields are written whole, each one over the zeros of the one before: behind
    /// it stand zeros, up to [`MOST_BYTES`].
    pub(super) fn put(&self, copy: &FirstCopy, to: &mut [u8; MOST_BYTES]) {
        to[..16].copy_from_slice(&(copy.id - self.least.id).to_le_bytes());
        let position = copy.position - self.least.position;
        to[self.id_bytes..][..8].copy_from_slice(&position.to_le_bytes());
        let received_at = copy.received_at.abs_diff(self.least.received_at);
        to[self.id_bytes + self.position_bytes..][..8].copy_from_slice(&received_at.to_le_bytes());
    }

    /// The id of a block's `n`th copy.
    fn id_of(&self, block: &Page, n: usize) -> u128 {
        self.least.id.wrapping_add(packed_at(block, n * self.copy_bytes(), self.id_bytes))
    }

    /// A block's `n`th copy.
    #[expect(clippy::cast_possible_truncation, reason = "those fields have eight bytes at most")]
    pub(super) fn copy_at(&self, block: &Page, n: usize) -> FirstCopy {
        let at = n * self.copy_bytes() + self.id_bytes;
        let position = packed_at(block, at, self.position_bytes) as u64;
        let received_at = packed_at(block, at + self.position_bytes, self.received_bytes) as u64;
        FirstCopy {
            id: self.id_of(block, n),
            position: self.least.position.wrapping_add(position),
            received_at: self.least.received_at.wrapping_add_unsigned(received_at),
        }
    }

    /// The place of the first of a block's copies whose id is not below this one.
    pub(super) fn first_not_below(&self, block: &Page, copies: usize, id: u128) -> usize {
        let (mut from, mut to) = (0, copies);
        while from < to {
            let middle = from.midpoint(to);
            if self.id_of(block, middle) < id { from = middle + 1 } else { to = middle }
        }
        from
    }
}

/// The number that stands in so many bytes at `at`, sixteen at most.
fn packed_at(page: &Page, at: usize, bytes: usize) -> u128 {
    // always sixteen of them are read, which is one look at memory; near the page's end some are of what stands before
    let from = at.min(PAGE_BYTES - 16);
    let read: [u8; 16] = page[from..from + 16].try_into().expect("sixteen bytes were cut out");
    let from_there = u128::from_le_bytes(read) >> (8 * (at - from));
    if bytes == 16 { from_there } else { from_there & ((1 << (8 * bytes)) - 1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A full block of copies whose fields are as far apart as so many bytes allow.
    fn block_of([id_bytes, position_bytes, received_bytes]: [usize; 3]) -> Vec<FirstCopy> {
        // the least is there, and the greatest
        let above_least = |n: usize, bytes: usize| {
            let greatest = u128::MAX.checked_shr(128 - 8 * u32::try_from(bytes).unwrap()).unwrap_or(0);
            [0, greatest].get(n).copied().unwrap_or_else(|| mixed(n) & greatest)
        };
        let copy = |n| FirstCopy {
            id: if id_bytes < 16 { 7 } else { 0 } + above_least(n, id_bytes),
            position: if position_bytes < 8 { 7 } else { 0 } + u64::try_from(above_least(n, position_bytes)).unwrap(),
            received_at: i64::MIN.wrapping_add_unsigned(u64::try_from(above_least(n, received_bytes)).unwrap()),
        };
        let mut block: Vec<_> = (0..BODY_BYTES / (id_bytes + position_bytes + received_bytes)).map(copy).collect();
        block.sort_unstable();
        block
    }

    fn mixed(n: usize) -> u128 {
        let mixed = (n as u128).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
        mixed ^ mixed >> 64
    }

    fn packed(packing: &Packing, block: &[FirstCopy]) -> Page {
        // what is behind the page is its group's next one
        let mut bytes = [0; PAGE_BYTES + MOST_BYTES];
        for (copy, at) in block.iter().zip((0..).step_by(packing.copy_bytes())) {
            packing.put(copy, bytes[at..].first_chunk_mut().unwrap());
        }
        *bytes.first_chunk().unwrap()
    }

    #[test]
    fn what_is_read_is_what_was_put_there_whatever_bytes_it_takes_and_up_to_the_pages_end() {
        for widths in (0..16 * 9 * 9).map(|n| [n / 81 + 1, n / 9 % 9, n % 9]) {
            let block = block_of(widths);
            let packing = Packing::of(&block);
            assert_eq!([packing.id_bytes, packing.position_bytes, packing.received_bytes], widths);
            assert_eq!(packing.copies_in_block(), block.len());
            let mut leaf = [0; Packing::BYTES];
            packing.write(&mut leaf);
            assert_eq!(Packing::read(block[0].id, &leaf), Some(packing));

            let page = packed(&packing, &block);
            for (n, copy) in block.iter().enumerate() {
                assert_eq!(packing.copy_at(&page, n), *copy, "{widths:?}, {n}");
                let first = block.partition_point(|other| other.id < copy.id);
                assert_eq!(packing.first_not_below(&page, block.len(), copy.id), first, "{widths:?}, {n}");
            }
        }
    }

    #[test]
    fn places_on_disk_do_not_change() {
        let copy = |id, position, received_at| FirstCopy { id, position, received_at };
        let block = [copy(0x0100, 0x3000, -2), copy(0x0102, 0x2000, 0x1_0000), copy(0x1_0103, 0x2001, 0)];
        let packing = Packing::of(&block);
        let mut leaf = [0; Packing::BYTES];
        packing.write(&mut leaf);
        let least = [[0x00, 0x20, 0, 0, 0, 0, 0, 0], [0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]];
        assert_eq!((leaf[..16].to_vec(), &leaf[16..]), (least.concat(), &[3, 2, 3][..]));
        let copies = [[0, 0, 0, 0x00, 0x10, 0, 0, 0], [2, 0, 0, 0, 0, 2, 0, 1], [3, 0, 1, 1, 0, 2, 0, 0]];
        assert_eq!(packed(&packing, &block)[..24], copies.concat());
    }

    #[test]
    fn widths_that_no_field_has_are_none() {
        for (at, most) in [(16, 16), (17, 8), (18, 8)] {
            for width in 0..=u8::MAX {
                let mut leaf = [1; Packing::BYTES];
                leaf[at] = width;
                let is_there = Packing::read(0, &leaf).is_some();
                assert_eq!(is_there, width <= most && (at > 16 || width > 0), "{width} at {at}");
            }
        }
    }
}
