//! A list that grows without being moved.

use std::ops::{Index, IndexMut};

/// Things of a piece, a power of two.
const PIECE: usize = 1024;

/// Things in the order in which they were pushed, in pieces: what a [`Vec`] has is copied each time that it needs more room, and
/// takes three times the memory meanwhile.
#[derive(Clone, Debug)]
pub struct Pieces<T> {
    /// All but the last are full.
    pieces: Vec<Vec<T>>,
}

impl<T> Default for Pieces<T> {
    fn default() -> Self {
        Self { pieces: Vec::new() }
    }
}

impl<T> Pieces<T> {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.pieces.last().map_or(0, |last| (self.pieces.len() - 1) * PIECE + last.len())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Adds one.
    pub fn push(&mut self, thing: T) {
        match self.pieces.last_mut() {
            Some(last) if last.len() < PIECE => last.push(thing),
            // the first one grows as it is needed: most hours are small
            None => self.pieces.push(vec![thing]),
            Some(_) => {
                let mut piece = Vec::with_capacity(PIECE);
                piece.push(thing);
                self.pieces.push(piece);
            }
        }
    }

    /// The one at this place, if there are as many.
    pub fn get(&self, place: usize) -> Option<&T> {
        self.pieces.get(place / PIECE)?.get(place % PIECE)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.pieces.iter().flatten()
    }

    /// The same, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.pieces.iter_mut().flatten()
    }
}

impl<T: Default> Pieces<T> {
    /// Puts at each place what is where `from` says, which says each place once.
    pub fn arrange(&mut self, mut from: Vec<u32>) {
        const DONE: u32 = u32::MAX;
        for first in 0..from.len() {
            if from[first] == DONE {
                continue;
            }
            // a cycle of places, to each of which comes what is at the next one
            let (held, mut place) = (std::mem::take(&mut self[first]), first);
            loop {
                let next = std::mem::replace(&mut from[place], DONE) as usize;
                if next == first {
                    break self[place] = held;
                }
                self[place] = std::mem::take(&mut self[next]);
                place = next;
            }
        }
    }
}

impl<T> Index<usize> for Pieces<T> {
    type Output = T;

    fn index(&self, place: usize) -> &T {
        &self.pieces[place / PIECE][place % PIECE]
    }
}

impl<T> IndexMut<usize> for Pieces<T> {
    fn index_mut(&mut self, place: usize) -> &mut T {
        &mut self.pieces[place / PIECE][place % PIECE]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn it_is_a_list_of_what_was_pushed() {
        let mut pieces = Pieces::default();
        for n in 0..3 * PIECE + 1 {
            assert_eq!((pieces.len(), pieces.get(n), pieces.is_empty()), (n, None, n == 0));
            pieces.push(n);
            assert_eq!((pieces.get(n), pieces[n]), (Some(&n), n));
        }
        pieces.iter_mut().for_each(|n| *n += 1);
        pieces[PIECE] += 1;
        let expected = (0..3 * PIECE + 1).map(|n| if n == PIECE { n + 2 } else { n + 1 });
        assert!(pieces.iter().copied().eq(expected));
    }

    proptest! {
        #[test]
        fn what_is_arranged_is_where_it_was_to_go(keys in prop::collection::vec(any::<u8>(), 0..3 * PIECE)) {
            let mut pieces = Pieces::default();
            keys.iter().for_each(|key| pieces.push(*key));
            let mut from: Vec<u32> = (0..).take(keys.len()).collect();
            from.sort_by_key(|place| keys[*place as usize]);
            let expected: Vec<u8> = from.iter().map(|place| keys[*place as usize]).collect();
            pieces.arrange(from);
            prop_assert!(pieces.iter().eq(&expected));
        }
    }
}
