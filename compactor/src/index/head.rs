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
    ///
    /// Ids of version 7 come nearly in order, and others are spread evenly: dealt out by their upper bits, few of them
    /// are left to be compared.
    pub(super) fn sorted(&self) -> impl Iterator<Item = FirstCopy> {
        let upper = |copy: &FirstCopy| (copy.id >> 64) as u64;
        let least = self.copies.iter().map(upper).min().unwrap_or(0);
        let range = self.copies.iter().map(upper).max().unwrap_or(0) - least;
        // about as many piles as copies
        let bits = self.copies.len().checked_ilog2().unwrap_or(0);
        let shift = (u64::BITS - range.leading_zeros()).saturating_sub(bits);
        let number = |upper: u64| usize::try_from((upper - least) >> shift).expect("below twice the number of copies");
        let pile = |copy: &FirstCopy| number(upper(copy));
        let mut ends = vec![0_u32; number(least + range) + 2];
        self.copies.iter().for_each(|copy| ends[pile(copy) + 1] += 1);
        (1..ends.len()).for_each(|at| ends[at] += ends[at - 1]);
        let mut places = vec![0_u32; self.copies.len()];
        for (place, copy) in (0..).zip(&self.copies) {
            let end = &mut ends[pile(copy)];
            places[*end as usize] = place;
            *end += 1;
        }
        let at = |place: &u32| self.copies[*place as usize];
        for pile in places.chunk_by_mut(|a, b| pile(&at(a)) == pile(&at(b))) {
            pile.sort_unstable_by_key(at);
        }
        places.into_iter().map(move |place| self.copies[place as usize])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]

        #[test]
        fn copies_are_sorted_however_their_ids_are_spread(ids in prop::collection::vec(any::<u128>(), 0..300), shift in 0..127_u32, same in any::<bool>()) {
            let mut head = Head::default();
            for (position, id) in ids.iter().enumerate() {
                let id = if same { 7 } else { id >> shift };
                head.push(FirstCopy { id, position: (position as u64).wrapping_mul(0x9e37) % 1000, received_at: 0 });
            }
            let mut expected = head.copies.clone();
            expected.sort();
            prop_assert_eq!(head.sorted().collect::<Vec<_>>(), expected);
        }
    }
}
