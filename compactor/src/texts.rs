//! Texts, each kept once and known by a number.
//!
//! The rule: numbers are given in the order in which texts first come, from 0 on, and depend on nothing else.

use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use hashbrown::HashTable;

/// What a text takes in memory besides its bytes, about.
const TEXT_BYTES: usize = 24;

/// Different texts.
#[derive(Clone, Debug, Default)]
pub struct Texts {
    table: HashTable<Slot>,
    hasher: RandomState,
    /// All of them, one behind the other.
    bytes: Vec<u8>,
    /// Where each of them ends.
    ends: Vec<u32>,
}

/// A text's place in the table.
#[derive(Clone, Copy, Debug)]
struct Slot {
    /// A part of its hash: few others are looked at in vain, and none when the table grows.
    hash: u32,
    number: u32,
}

impl Texts {
    /// The number of a text, a new one if it has none.
    pub fn number(&mut self, text: &[u8]) -> u32 {
        let hash = (self.hasher.hash_one(text) >> 32) as u32;
        let is_it = |slot: &Slot| slot.hash == hash && text_of(&self.bytes, &self.ends, slot.number) == text;
        if let Some(slot) = self.table.find(spread(hash), is_it) {
            return slot.number;
        }
        let number = u32::try_from(self.ends.len()).expect("memory ends before four billion texts");
        self.bytes.extend_from_slice(text);
        self.ends.push(u32::try_from(self.bytes.len()).expect("what waits in memory is far below 4 GiB"));
        self.table.insert_unique(spread(hash), Slot { hash, number }, |slot| spread(slot.hash));
        number
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The text with a number that was given.
    pub fn get(&self, number: u32) -> &[u8] {
        text_of(&self.bytes, &self.ends, number)
    }

    /// All of them, in the order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        (0..).take(self.len()).map(|number| self.get(number))
    }

    /// The bytes of all of them.
    pub fn total_len(&self) -> usize {
        self.bytes.len()
    }
}

/// A column of texts.
#[derive(Clone, Debug, Default)]
pub struct TextColumn {
    /// Those that stand in it.
    pub texts: Texts,
    /// The number of each row's.
    pub numbers: Vec<u32>,
}

impl TextColumn {
    /// Adds a row, and says how much memory its text takes: none, if it was there, and about so much otherwise.
    pub fn push(&mut self, text: &[u8]) -> usize {
        let before = self.texts.len();
        self.numbers.push(self.texts.number(text));
        if self.texts.len() > before { text.len() + TEXT_BYTES } else { 0 }
    }
}

fn text_of<'t>(bytes: &'t [u8], ends: &[u32], number: u32) -> &'t [u8] {
    let number = number as usize;
    let from = number.checked_sub(1).map_or(0, |before| ends[before]);
    &bytes[from as usize..ends[number] as usize]
}

/// The table takes the place from the lower bits of a hash, and what tells neighbours apart from the upper ones.
fn spread(hash: u32) -> u64 {
    u64::from(hash) << 32 | u64::from(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_keeps_the_number_that_it_got_first() {
        let mut texts = Texts::default();
        let all: Vec<String> = (0..10_000).map(|n| format!("{}", n * n % 7_001)).chain([String::new()]).collect();
        let numbers: Vec<u32> = all.iter().map(|text| texts.number(text.as_bytes())).collect();
        let mut firsts: Vec<&str> = Vec::new();
        for (text, number) in all.iter().zip(&numbers) {
            let place = firsts.iter().position(|first| first == text);
            let place = place.unwrap_or_else(|| {
                firsts.push(text);
                firsts.len() - 1
            });
            assert_eq!((*number as usize, texts.get(*number)), (place, text.as_bytes()));
        }
        assert_eq!(texts.iter().collect::<Vec<_>>(), firsts.iter().map(|text| text.as_bytes()).collect::<Vec<_>>());
        assert!(!texts.is_empty());
    }

    #[test]
    fn a_column_says_what_a_text_takes_once() {
        let mut column = TextColumn::default();
        let taken = ["a", "bc", "a", ""].map(|text| column.push(text.as_bytes()));
        assert_eq!(taken, [1 + TEXT_BYTES, 2 + TEXT_BYTES, 0, TEXT_BYTES]);
        assert_eq!((column.numbers, column.texts.total_len()), (vec![0, 1, 0, 2], 3));
    }
}
