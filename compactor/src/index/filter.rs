//! Filters: most ids that are asked for are new, and a filter says so without a look at the copies.
//!
//! A split block Bloom filter, as Parquet has it (Putze, Sanders, Singler, *Cache-, Hash- and Space-Efficient Bloom Filters*,
//! 2007): an id has a bit in each of the eight words of one block, so that it is one place in memory. It never denies an id that was
//! added; with 15 bits for each it wrongly admits one or two in a thousand others. The hash is fixed, since it stands on disk:
//! whoever makes up ids that collide costs us a page read each, no more.

/// Bytes of a word.
const WORD: usize = size_of::<u32>();
/// Words of a block.
const WORDS: usize = 8;
/// Bytes of a group's filter: all whole blocks for which its leaf has room.
pub(super) const BYTES: usize = 119 * WORDS * WORD;
/// Odd numbers, one for each word: those of Parquet.
const SALT: [u32; WORDS] =
    [0x47b6_137b, 0x4497_4d91, 0x8824_ad5b, 0xa2b7_289d, 0x7054_95c7, 0x2df1_424b, 0x9efc_4947, 0x5c6b_fb31];

/// What filters know an id by.
#[derive(Clone, Copy)]
pub(super) struct FilterKey(u64);

impl FilterKey {
    #[expect(clippy::cast_possible_truncation, reason = "the halves of a product are folded together")]
    pub(super) fn of(id: u128) -> Self {
        let fold = |a: u64, b: u64| {
            let product = u128::from(a) * u128::from(b);
            (product >> 64) as u64 ^ product as u64
        };
        // odd constants without structure: digits of pi
        let mixed = fold((id >> 64) as u64 ^ 0x243f_6a88_85a3_08d3, id as u64 ^ 0x1319_8a2e_0370_7345);
        Self(fold(mixed ^ 0xa409_3822_299f_31d1, 0x082e_fa98_ec4e_6c89))
    }

    /// Which one of so many blocks is its own.
    #[expect(clippy::cast_possible_truncation, reason = "less than the blocks")]
    fn block(self, blocks: usize) -> usize {
        ((u128::from(self.0) * blocks as u128) >> 64) as usize
    }

    /// Its bit in each word of that.
    #[expect(clippy::cast_possible_truncation, reason = "the lower half of the hash")]
    fn bits(self) -> [u32; WORDS] {
        SALT.map(|salt| 1 << ((self.0 as u32).wrapping_mul(salt) >> 27))
    }
}

/// Adds an id.
pub(super) fn add(filter: &mut [u8], key: FilterKey) {
    let blocks = filter.as_chunks_mut::<{ WORDS * WORD }>().0;
    let words = blocks[key.block(blocks.len())].as_chunks_mut().0;
    for (word, bit) in words.iter_mut().zip(key.bits()) {
        *word = (u32::from_le_bytes(*word) | bit).to_le_bytes();
    }
}

/// False: the id was never added. True: it probably was.
pub(super) fn may_hold(filter: &[u8], key: FilterKey) -> bool {
    let blocks = filter.as_chunks::<{ WORDS * WORD }>().0;
    let words = blocks[key.block(blocks.len())].as_chunks().0;
    words.iter().zip(key.bits()).all(|(word, bit)| u32::from_le_bytes(*word) & bit != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn it_admits_all_that_were_added_and_few_others() {
        // what a group's filter holds, of ids that differ as little as ids of one client's batch do
        let id = |n: u128| Uuid::from_u128(0x019a_b000_0000_7000_8000_0000_0000_0000 + n * 3).as_u128();
        let mut filter = vec![0; BYTES];
        (0..2032).for_each(|n| add(&mut filter, FilterKey::of(id(n))));
        assert!((0..2032).all(|n| may_hold(&filter, FilterKey::of(id(n)))));
        let wrong = (2032..102_032).filter(|n| may_hold(&filter, FilterKey::of(id(*n)))).count();
        assert!(wrong < 300, "{wrong} of 100000");
    }

    #[test]
    fn places_on_disk_do_not_change() {
        // one id may have the same place in filters of like sizes
        assert_eq!(BYTES, 3808);
        let mut filter = vec![0; BYTES];
        add(&mut filter, FilterKey::of(0x019a_b000_0000_7000_8000_0000_0000_0001));
        let bits = (0..filter.len() * 8).filter(|bit| filter[bit / 8] & (1 << (bit % 8)) != 0);
        assert_eq!(bits.collect::<Vec<_>>(), BITS_OF_VERSION_3);
    }

    const BITS_OF_VERSION_3: [usize; 8] = [8961, 8993, 9037, 9069, 9097, 9146, 9179, 9197];
}
