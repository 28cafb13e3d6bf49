//! Filters: most ids that are asked for are new, and a filter says so without a look at the copies.
//!
//! A Bloom filter of [`PROBES`] bits an id. It never denies an id that was added; with 15 bits for each it wrongly
//! admits about one in a thousand others. The hash is fixed, since it stands on disk: whoever makes up ids that
//! collide costs us a page read each, no more.

/// Bits set for an id.
const PROBES: u32 = 8;

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

    /// The places of its bits among so many.
    #[expect(clippy::cast_possible_truncation, reason = "the halves of the hash; then a place below the bits")]
    fn places(self, bits: usize) -> impl Iterator<Item = usize> {
        let (mut place, step) = (self.0 as u32, (self.0 >> 32) as u32 | 1);
        (0..PROBES).map(move |_| {
            place = place.wrapping_add(step);
            ((u64::from(place) * bits as u64) >> 32) as usize
        })
    }
}

/// Adds an id.
pub(super) fn add(filter: &mut [u8], key: FilterKey) {
    for place in key.places(filter.len() * 8) {
        filter[place / 8] |= 1 << (place % 8);
    }
}

/// False: the id was never added. True: it probably was.
pub(super) fn may_hold(filter: &[u8], key: FilterKey) -> bool {
    key.places(filter.len() * 8).all(|place| filter[place / 8] & (1 << (place % 8)) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn it_admits_all_that_were_added_and_few_others() {
        // what a group's filter holds, of ids that differ as little as ids of one client's batch do
        let id = |n: u128| Uuid::from_u128(0x019a_b000_0000_7000_8000_0000_0000_0000 + n * 3).as_u128();
        let mut filter = vec![0; 3836];
        (0..2032).for_each(|n| add(&mut filter, FilterKey::of(id(n))));
        assert!((0..2032).all(|n| may_hold(&filter, FilterKey::of(id(n)))));
        let wrong = (2032..102_032).filter(|n| may_hold(&filter, FilterKey::of(id(*n)))).count();
        assert!(wrong < 300, "{wrong} of 100000");
    }

    #[test]
    fn places_on_disk_do_not_change() {
        let places: Vec<_> = FilterKey::of(0x019a_b000_0000_7000_8000_0000_0000_0001).places(30_688).collect();
        assert_eq!(places, PLACES_OF_VERSION_1);
    }

    const PLACES_OF_VERSION_1: [usize; 8] = [271, 9433, 18595, 27757, 6232, 15394, 24556, 3030];
}
