//! The head: copies that are in no run yet, in the order in which they came.

use std::convert::Infallible;
use std::hash::BuildHasher;
use std::hint::black_box;

use super::FirstCopy;
use crate::side_by_side::all;

/// The slots that a table begins with.
const FIRST_SLOTS: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Head {
    /// An id may be in it twice, with receive times far apart.
    copies: Vec<FirstCopy>,
    /// A power of two of them, at least half of them empty. A copy is in the first empty one from where its hash says.
    ///
    /// In the lower bits, of which there are as many as a slot's number has, stands one more than the copy's place in `copies`;
    /// above them those of its hash, so that few other copies are looked at in vain. All zeros, if it is empty.
    slots: Vec<u32>,
    hasher: foldhash::fast::RandomState,
}

/// What the head knows an id by.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeadKey(u32);

/// The slot for a copy that is not held, until another one is, or all are forgotten.
#[derive(Clone, Copy, Debug)]
pub(super) struct Vacant(usize);

impl Head {
    pub(super) fn len(&self) -> usize {
        self.copies.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.copies.is_empty()
    }

    pub(super) fn key(&self, id: u128) -> HeadKey {
        HeadKey((self.hasher.hash_one(id) >> 32) as u32)
    }

    /// Has what judging ids needs fetched from memory: for all of them at a time, not for one after the other.
    pub(super) fn prepare(&self, keys: &[HeadKey]) {
        if let Some(mask) = self.slots.len().checked_sub(1) {
            black_box(keys.iter().fold(0, |all, key| all ^ self.slots[key.0 as usize & mask]));
        }
    }

    /// Shows the copies that may have an id, until one of them is an answer. If none is, this is the slot for one more.
    pub(super) fn find<T>(
        &self,
        HeadKey(hash): HeadKey,
        mut answer: impl FnMut(&FirstCopy) -> Option<T>,
    ) -> Result<T, Vacant> {
        let mask = self.mask();
        for at in self.probed(hash) {
            let slot = self.slots[at];
            if slot == 0 {
                return Err(Vacant(at));
            }
            if (slot ^ hash) & !mask == 0
                && let Some(answer) = answer(&self.copies[(slot & mask) as usize - 1])
            {
                return Ok(answer);
            }
        }
        // there is no table yet
        Err(Vacant(0))
    }

    /// The slot for one more copy.
    pub(super) fn vacant(&self, key: HeadKey) -> Vacant {
        let Err(vacant) = self.find(key, |_| None::<Infallible>);
        vacant
    }

    /// The places in the table where a hash may be, in order.
    fn probed(&self, hash: u32) -> impl Iterator<Item = usize> + use<> {
        let (slots, mask) = (self.slots(), self.mask());
        (0..slots).map(move |further| (hash.wrapping_add(further) & mask) as usize)
    }

    /// The bits of a slot's number.
    fn mask(&self) -> u32 {
        self.slots().wrapping_sub(1)
    }

    fn slots(&self) -> u32 {
        u32::try_from(self.slots.len()).expect("it is written out before")
    }

    /// Adds a copy, into the slot that there is for it.
    pub(super) fn push(&mut self, copy: FirstCopy, key: HeadKey, vacant: Vacant) {
        self.copies.push(copy);
        if self.copies.len() * 2 > self.slots.len() {
            self.slots = vec![0; (self.slots.len() * 2).max(FIRST_SLOTS)];
            for place in 0..self.copies.len() {
                let key = self.key(self.copies[place].id);
                self.enter(place, key, self.vacant(key));
            }
        } else {
            self.enter(self.copies.len() - 1, key, vacant);
        }
    }

    fn enter(&mut self, place: usize, HeadKey(hash): HeadKey, Vacant(at): Vacant) {
        let number = u32::try_from(place + 1).expect("there are fewer than slots");
        self.slots[at] = hash & !self.mask() | number;
    }

    /// Forgets all copies, and keeps the memory for others.
    pub(super) fn clear(&mut self) {
        self.copies.clear();
        self.slots.fill(0);
    }

    /// The places of all copies, sorted, in two parts: if they `are_many`, each is sorted on a processor of its own.
    pub(super) fn sorted(&self, are_many: bool) -> Vec<Vec<Keyed>> {
        let step = self.copies.len().div_ceil(SAMPLE).max(1);
        let mut sample: Vec<u64> = self.copies.iter().step_by(step).map(FirstCopy::upper).collect();
        sample.sort_unstable();
        let middle = sample.get(sample.len() / 2).copied().unwrap_or(0);
        let sorted = |spare: &mut Vec<Keyed>, is_above: bool| {
            let mut part = Vec::with_capacity(self.copies.len());
            for (place, copy) in (0..).zip(&self.copies) {
                if (copy.upper() > middle) == is_above {
                    part.push(Keyed { key: 0, place });
                }
            }
            sort(&mut part, spare, &|place| self.copies[place as usize]);
            part
        };
        all(are_many, [false, true], sorted)
    }

    /// The copies at these places.
    pub(super) fn copies_at(&self, places: &[Keyed]) -> impl Iterator<Item = FirstCopy> {
        places.iter().map(|keyed| self.copies[keyed.place as usize])
    }
}

impl FirstCopy {
    /// The upper half of its id.
    fn upper(&self) -> u64 {
        (self.id >> 64) as u64
    }
}

/// A copy by its place, and a part of its id to sort it by.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Keyed {
    key: u32,
    place: u32,
}

/// Of so many copies the middle one stands for that of all.
const SAMPLE: usize = 1024;
/// So few are sorted by comparing them.
const FEW: usize = 64;
/// Bits that are dealt out by at a time: the counters fit in the processor's first cache.
const DIGIT_BITS: u32 = 11;

/// Sorts places by the copies there.
///
/// By the upper half of their ids, of which the highest 32 bits that differ are dealt out digit by digit, from the last one on
/// (LSD radix sort: Knuth, The Art of Computer Programming 3, 5.2.5). Ids of version 7 are of few hours, others are spread
/// evenly: few are left to be compared, unless some clients' clocks are years off. Those that are alike are sorted again by the
/// bits in which they differ.
#[expect(clippy::cast_possible_truncation, reason = "what is shifted to 32 bits has no more")]
fn sort(order: &mut [Keyed], spare: &mut Vec<Keyed>, copy: &impl Fn(u32) -> FirstCopy) {
    let upper = |keyed: &Keyed| copy(keyed.place).upper();
    let (least, most) =
        order.iter().map(upper).fold((u64::MAX, 0), |(least, most), upper| (least.min(upper), most.max(upper)));
    if order.len() <= FEW || least == most {
        return order.sort_unstable_by_key(|keyed| copy(keyed.place));
    }
    let bits = u64::BITS - (most - least).leading_zeros();
    let shift = bits.saturating_sub(u32::BITS);
    let mut ends = [[0_u32; 1 << DIGIT_BITS]; u32::BITS.div_ceil(DIGIT_BITS) as usize];
    let digit = |key: u32, place: u32| (key >> (place * DIGIT_BITS)) as usize % (1 << DIGIT_BITS);
    for keyed in &mut *order {
        keyed.key = ((upper(keyed) - least) >> shift) as u32;
        (0..).zip(&mut ends).for_each(|(place, ends)| ends[digit(keyed.key, place)] += 1);
    }
    spare.resize(order.len(), Keyed::default());
    let (mut from, mut to) = (&mut *order, &mut spare[..]);
    let mut is_swapped = false;
    for (place, ends) in (0..(bits - shift).div_ceil(DIGIT_BITS)).zip(&mut ends) {
        // from how many to where the first one goes
        ends.iter_mut().fold(0, |before, end| before + std::mem::replace(end, before));
        for keyed in &*from {
            let at = &mut ends[digit(keyed.key, place)];
            to[*at as usize] = *keyed;
            *at += 1;
        }
        std::mem::swap(&mut from, &mut to);
        is_swapped = !is_swapped;
    }
    if is_swapped {
        to.copy_from_slice(from);
    }
    for alike in order.chunk_by_mut(|a, b| a.key == b.key).filter(|alike| alike.len() > 1) {
        sort(alike, spare, copy);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]

        #[test]
        fn copies_are_sorted_however_their_ids_are_spread(ids in prop::collection::vec(any::<u128>(), 0..600), shift in 0..127_u32, same in any::<bool>(), outlier in any::<bool>()) {
            let mut head = Head::default();
            for (position, id) in ids.iter().enumerate() {
                let id = if same { 7 } else { id >> shift };
                let key = head.key(id);
                let position = (position as u64).wrapping_mul(0x9e37) % 1000;
                head.push(FirstCopy { id, position, received_at: 0 }, key, head.vacant(key));
            }
            if outlier {
                let key = head.key(u128::MAX);
                head.push(FirstCopy { id: u128::MAX, position: 1, received_at: 0 }, key, head.vacant(key));
            }
            let mut expected = head.copies.clone();
            expected.sort();
            for are_many in [false, true] {
                let sorted = head.sorted(are_many).concat();
                prop_assert_eq!(head.copies_at(&sorted).collect::<Vec<_>>(), &*expected);
            }
        }
    }
}
