//! The head: copies that are in no run yet, in the order in which they came.

use std::hash::BuildHasher;

use hashbrown::HashTable;

use super::{FirstCopy, Verdict};

#[derive(Debug, Default)]
pub(super) struct Head {
    /// An id may be in it twice, with receive times far apart.
    copies: Vec<FirstCopy>,
    /// Places in `copies`.
    table: HashTable<u32>,
    hasher: foldhash::fast::RandomState,
}

impl Head {
    pub(super) fn len(&self) -> usize {
        self.copies.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.copies.is_empty()
    }

    /// What the copies in it make of this one; `None` if they have nothing to do with it.
    pub(super) fn judge(&self, copy: &FirstCopy) -> Option<Verdict> {
        let places = self.table.iter_hash(self.hasher.hash_one(copy.id));
        places.map(|place| self.copies[*place as usize]).find_map(|held| copy.judged_by(&held))
    }

    /// Whether this very copy is in it.
    pub(super) fn holds(&self, copy: &FirstCopy) -> bool {
        self.table.iter_hash(self.hasher.hash_one(copy.id)).any(|place| self.copies[*place as usize] == *copy)
    }

    pub(super) fn push(&mut self, copy: FirstCopy) {
        let place = u32::try_from(self.copies.len()).expect("it is written out before");
        self.copies.push(copy);
        let hash = |place: &u32| self.hasher.hash_one(self.copies[*place as usize].id);
        self.table.insert_unique(self.hasher.hash_one(copy.id), place, hash);
    }

    /// Forgets all copies, and keeps the memory for others.
    pub(super) fn clear(&mut self) {
        self.copies.clear();
        self.table.clear();
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
