//! The head: copies that are in no run yet, in the order in which they came.

use std::hash::BuildHasher;
use std::hint::black_box;

use super::{FirstCopy, Verdict};

/// The slots that a table begins with.
const FIRST_SLOTS: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Head {
    /// An id may be in it twice, with receive times far apart.
    copies: Vec<FirstCopy>,
    /// A power of two of them, at least a quarter empty. A copy is in the first empty one from where its hash says.
    slots: Vec<Slot>,
    hasher: foldhash::fast::RandomState,
}

/// A copy's place in the table; all zeros, if it is empty.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    /// A part of the hash: few other copies are looked at in vain, and none when the table grows.
    hash: u32,
    /// One more than the place in `copies`.
    number: u32,
}

impl Head {
    pub(super) fn len(&self) -> usize {
        self.copies.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.copies.is_empty()
    }

    /// Has what judging these ids needs fetched from memory: for all of them at a time, not for one after the other.
    pub(super) fn prepare(&self, ids: impl Iterator<Item = u128>) {
        if let Some(mask) = self.slots.len().checked_sub(1) {
            let slots = ids.map(|id| self.slots[self.hash(id) as usize & mask].hash);
            black_box(slots.fold(0, |all, hash| all ^ hash));
        }
    }

    /// What the copies in it make of this one; `None` if they have nothing to do with it.
    pub(super) fn judge(&self, copy: &FirstCopy) -> Option<Verdict> {
        self.held(copy.id).find_map(|held| copy.judged_by(held))
    }

    /// Whether this very copy is in it.
    pub(super) fn holds(&self, copy: &FirstCopy) -> bool {
        self.held(copy.id).any(|held| held == copy)
    }

    /// The copies that may have this id.
    fn held(&self, id: u128) -> impl Iterator<Item = &FirstCopy> {
        let hash = self.hash(id);
        let slots = self.probed(hash).map(|at| self.slots[at]).take_while(|slot| slot.number != 0);
        slots.filter(move |slot| slot.hash == hash).map(|slot| &self.copies[slot.number as usize - 1])
    }

    /// The places in the table where a hash may be, in order.
    fn probed(&self, hash: u32) -> impl Iterator<Item = usize> + use<> {
        let slots = self.slots.len();
        (0..slots).map(move |further| (hash as usize + further) & (slots - 1))
    }

    pub(super) fn push(&mut self, copy: FirstCopy) {
        if (self.copies.len() + 1) * 4 > self.slots.len() * 3 {
            let slots = (self.slots.len() * 2).max(FIRST_SLOTS);
            let old = std::mem::replace(&mut self.slots, vec![Slot::default(); slots]);
            old.into_iter().filter(|slot| slot.number != 0).for_each(|slot| self.place(slot));
        }
        self.copies.push(copy);
        let number = u32::try_from(self.copies.len()).expect("it is written out before");
        self.place(Slot { hash: self.hash(copy.id), number });
    }

    fn place(&mut self, slot: Slot) {
        let mut probed = self.probed(slot.hash);
        let at = probed.find(|at| self.slots[*at].number == 0).expect("a quarter is empty");
        self.slots[at] = slot;
    }

    fn hash(&self, id: u128) -> u32 {
        (self.hasher.hash_one(id) >> 32) as u32
    }

    /// Forgets all copies, and keeps the memory for others.
    pub(super) fn clear(&mut self) {
        self.copies.clear();
        self.slots.fill(Slot::default());
    }

    /// All copies, sorted.
    pub(super) fn sorted(&self) -> impl Iterator<Item = FirstCopy> {
        let mut order: Vec<Keyed> = (0..).zip(&self.copies).map(|(place, _)| Keyed { key: 0, place }).collect();
        sort(&mut order, &mut Vec::new(), &|place| self.copies[place as usize]);
        order.into_iter().map(|keyed| self.copies[keyed.place as usize])
    }
}

/// A copy by its place, and a part of its id to sort it by.
#[derive(Clone, Copy, Debug, Default)]
struct Keyed {
    key: u32,
    place: u32,
}

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
    let upper = |keyed: &Keyed| (copy(keyed.place).id >> 64) as u64;
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
                head.push(FirstCopy { id, position: (position as u64).wrapping_mul(0x9e37) % 1000, received_at: 0 });
            }
            if outlier {
                head.push(FirstCopy { id: u128::MAX, position: 1, received_at: 0 });
            }
            let mut expected = head.copies.clone();
            expected.sort();
            prop_assert_eq!(head.sorted().collect::<Vec<_>>(), expected);
        }
    }
}
