//! Texts, each kept once and known by a number.
//!
//! The rule: numbers are given in the order in which texts first come, from 0 on, and depend on nothing else.
//!
//! Many texts are looked for at a time where that is possible: a table of many texts is larger than the processor's caches, and
//! waiting for memory is then all that finding one costs. The steps for many texts are taken side by side, so that
//! they wait for it together.

use std::hash::BuildHasher;
use std::hint::black_box;

use foldhash::fast::RandomState;

/// What a text takes in memory besides its bytes, about: its end, and two slots.
const TEXT_BYTES: usize = 36;
/// Texts looked for side by side: more than the processor has loads under way.
const SIDE_BY_SIDE: usize = 32;
/// The slots that a table begins with.
const FIRST_SLOTS: usize = 64;
/// The number of no text.
pub const ABSENT: u32 = u32::MAX;

/// Different texts.
#[derive(Clone, Debug, Default)]
pub struct Texts {
    /// A power of two of them, at least a quarter empty. A text is in the first empty one from where its hash says.
    slots: Vec<Slot>,
    hasher: RandomState,
    /// All texts, one behind the other.
    bytes: Vec<u8>,
    /// Where each of them ends.
    ends: Vec<u32>,
}

/// A text's place in the table. All that is needed to look at the text itself stands together.
#[derive(Clone, Copy, Debug)]
struct Slot {
    /// A part of its hash: few others are looked at in vain, and none when the table grows.
    hash: u32,
    number: u32,
    begin: u32,
    len: u32,
}

const EMPTY: Slot = Slot { hash: 0, number: ABSENT, begin: 0, len: 0 };

impl Texts {
    /// The number of a text, a new one if it has none.
    pub fn number(&mut self, text: &[u8]) -> u32 {
        let hash = self.hash(text);
        match self.find_hashed(text, hash) {
            ABSENT => self.add(text, hash),
            number => number,
        }
    }

    /// The number of a text, [`ABSENT`] if it has none.
    pub fn find(&self, text: &[u8]) -> u32 {
        self.find_hashed(text, self.hash(text))
    }

    /// Appends the numbers of many texts, new ones for those that have none.
    pub fn number_all(&mut self, texts: &[&[u8]], numbers: &mut Vec<u32>) {
        let from = numbers.len();
        self.find_all(texts, numbers);
        for (number, text) in numbers[from..].iter_mut().zip(texts) {
            if *number == ABSENT {
                // it may have been added since
                *number = self.number(text);
            }
        }
    }

    /// Appends the numbers of many texts, [`ABSENT`] for those that have none.
    pub fn find_all(&self, texts: &[&[u8]], numbers: &mut Vec<u32>) {
        if self.slots.is_empty() {
            numbers.resize(numbers.len() + texts.len(), ABSENT);
            return;
        }
        let mask = self.slots.len() - 1;
        for texts in texts.chunks(SIDE_BY_SIDE) {
            let mut hashes = [0; SIDE_BY_SIDE];
            for (hash, text) in hashes.iter_mut().zip(texts) {
                *hash = self.hash(text);
            }
            // none of these loads waits for another one
            let mut begins = [0; SIDE_BY_SIDE];
            for (begin, hash) in begins.iter_mut().zip(&hashes[..texts.len()]) {
                *begin = self.slots[*hash as usize & mask].begin;
            }
            let touched = begins[..texts.len()]
                .iter()
                .fold(0, |all, begin| all ^ self.bytes.get(*begin as usize).copied().unwrap_or(0));
            black_box(touched);
            numbers.extend(texts.iter().zip(hashes).map(|(text, hash)| self.find_hashed(text, hash)));
        }
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
        let number = number as usize;
        let from = number.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[from as usize..self.ends[number] as usize]
    }

    /// All of them, in the order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        (0..).take(self.len()).map(|number| self.get(number))
    }

    /// The bytes of all of them.
    pub fn total_len(&self) -> usize {
        self.bytes.len()
    }

    /// What they take in memory, about.
    pub fn memory(&self) -> usize {
        self.bytes.len() + self.ends.len() * TEXT_BYTES
    }

    fn hash(&self, text: &[u8]) -> u32 {
        (self.hasher.hash_one(text) >> 32) as u32
    }

    fn find_hashed(&self, text: &[u8], hash: u32) -> u32 {
        let Some(mask) = self.slots.len().checked_sub(1) else { return ABSENT };
        let mut at = hash as usize & mask;
        loop {
            let slot = self.slots[at];
            if slot.number == ABSENT {
                return ABSENT;
            }
            if slot.hash == hash && &self.bytes[slot.begin as usize..][..slot.len as usize] == text {
                return slot.number;
            }
            at = (at + 1) & mask;
        }
    }

    /// Adds a text that is not there.
    fn add(&mut self, text: &[u8], hash: u32) -> u32 {
        if (self.ends.len() + 1) * 4 > self.slots.len() * 3 {
            self.grow();
        }
        let number = u32::try_from(self.ends.len()).expect("memory ends before four billion texts");
        let begin = u32::try_from(self.bytes.len()).expect("what is in memory is far below 4 GiB");
        let len = u32::try_from(text.len()).expect("a record is at most 256 KiB");
        self.bytes.extend_from_slice(text);
        self.ends.push(begin + len);
        self.place(Slot { hash, number, begin, len });
        number
    }

    fn place(&mut self, slot: Slot) {
        let mask = self.slots.len() - 1;
        let mut at = slot.hash as usize & mask;
        while self.slots[at].number != ABSENT {
            at = (at + 1) & mask;
        }
        self.slots[at] = slot;
    }

    fn grow(&mut self) {
        let slots = (self.slots.len() * 2).max(FIRST_SLOTS);
        for slot in std::mem::replace(&mut self.slots, vec![EMPTY; slots]) {
            if slot.number != ABSENT {
                self.place(slot);
            }
        }
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
    /// Adds a row.
    pub fn push(&mut self, text: &[u8]) {
        self.numbers.push(self.texts.number(text));
    }

    /// Adds many rows.
    pub fn push_all(&mut self, texts: &[&[u8]]) {
        self.texts.number_all(texts, &mut self.numbers);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_keeps_the_number_that_it_got_first_alone_or_among_many() {
        let all: Vec<String> = (0..10_000).map(|n| format!("{}", n * n % 7_001)).chain([String::new()]).collect();
        let all: Vec<&[u8]> = all.iter().map(String::as_bytes).collect();
        let mut firsts: Vec<&[u8]> = Vec::new();
        let mut expected = Vec::new();
        for text in &all {
            let place = firsts.iter().position(|first| first == text).unwrap_or(firsts.len());
            if place == firsts.len() {
                firsts.push(text);
            }
            expected.push(u32::try_from(place).unwrap());
        }
        for at_a_time in [1, 2, 31, 32, 33, 1_000, all.len()] {
            let mut column = TextColumn::default();
            for texts in all.chunks(at_a_time) {
                match texts {
                    [text] => column.push(text),
                    texts => column.push_all(texts),
                }
            }
            assert!(column.numbers == expected, "{at_a_time} at a time");
            assert!(column.texts.iter().eq(firsts.iter().copied()));
        }
    }

    #[test]
    fn what_is_not_there_is_absent_and_stays_so() {
        let (mut texts, mut found) = (Texts::default(), Vec::new());
        texts.find_all(&[b"a"], &mut found);
        texts.number(b"");
        texts.number(b"b");
        texts.find_all(&[b"a", b"b", b"", b"bb"], &mut found);
        assert_eq!(found, [ABSENT, ABSENT, 1, 0, ABSENT]);
        assert_eq!((texts.len(), texts.total_len(), texts.is_empty()), (2, 1, false));
    }
}
