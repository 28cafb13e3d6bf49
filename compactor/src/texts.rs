//! Texts, each kept once and known by a number; and columns of them, of which those that hardly ever come again are not looked for.
//!
//! The rule: numbers are given in the order in which texts first come, from 0 on, and depend on nothing else.
//!
//! Many texts are looked for at a time where that is possible: a table of many texts is larger than the processor's caches, and
//! waiting for memory is then all that finding one costs. The steps for many texts are taken side by side, so that
//! they wait for it together.

use std::hash::BuildHasher;
use std::hint::black_box;
use std::ops::Range;

use foldhash::fast::RandomState;

/// What a text takes in memory besides its bytes, about: its end, and two slots.
const TEXT_BYTES: usize = 36;
/// Texts looked for side by side: more than the processor has loads under way.
const SIDE_BY_SIDE: usize = 32;
/// A table of so few is in the processor's first cache: nothing waits for it.
const FEW_SLOTS: usize = 512;
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
    /// All of them, in the order of their numbers.
    list: TextList,
}

/// Texts, one behind the other.
#[derive(Clone, Debug, Default)]
pub struct TextList {
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
        if self.slots.len() <= FEW_SLOTS {
            return numbers.extend(texts.iter().map(|text| self.find(text)));
        }
        let mask = self.slots.len() - 1;
        for texts in texts.chunks(SIDE_BY_SIDE) {
            let mut hashes = [0; SIDE_BY_SIDE];
            for (hash, text) in hashes.iter_mut().zip(texts) {
                *hash = self.hash(text);
            }
            // none of these loads waits for another one
            let mut slots = [EMPTY; SIDE_BY_SIDE];
            for (slot, hash) in slots.iter_mut().zip(&hashes[..texts.len()]) {
                *slot = self.slots[*hash as usize & mask];
            }
            // nor do these, of a text's first and last byte
            let byte = |at: u32| self.list.bytes.get(at as usize).copied().unwrap_or(0);
            let ends = slots.iter().map(|slot| byte(slot.begin) ^ byte(slot.begin + slot.len.saturating_sub(1)));
            black_box(ends.fold(0, |all, byte| all ^ byte));
            numbers.extend(texts.iter().zip(hashes).map(|(text, hash)| self.find_hashed(text, hash)));
        }
    }

    /// All of them, in the order of their numbers.
    pub fn list(&self) -> &TextList {
        &self.list
    }

    /// The same, without what finds them.
    pub fn into_list(self) -> TextList {
        self.list
    }

    /// What they take in memory, about.
    pub fn memory(&self) -> usize {
        self.list.bytes.len() + self.list.len() * TEXT_BYTES
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
            if slot.hash == hash && &self.list.bytes[slot.begin as usize..][..slot.len as usize] == text {
                return slot.number;
            }
            at = (at + 1) & mask;
        }
    }

    /// Adds a text that is not there.
    fn add(&mut self, text: &[u8], hash: u32) -> u32 {
        if (self.list.len() + 1) * 4 > self.slots.len() * 3 {
            self.grow();
        }
        let number = u32::try_from(self.list.len()).expect("memory ends before four billion texts");
        let Range { start: begin, end } = self.list.push(text);
        self.place(Slot { hash, number, begin, len: end - begin });
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

impl From<TextList> for Texts {
    /// Of different texts.
    fn from(list: TextList) -> Self {
        let slots = (list.len() * 4 / 3 + 1).next_power_of_two().max(FIRST_SLOTS);
        let mut texts = Self { slots: vec![EMPTY; slots], list, ..Self::default() };
        let mut begin = 0;
        for number in 0..u32::try_from(texts.list.len()).expect("they had numbers") {
            let text = texts.list.get(number);
            let (hash, len) = (texts.hash(text), u32::try_from(text.len()).expect("it is in memory"));
            texts.place(Slot { hash, number, begin, len });
            begin += len;
        }
        texts
    }
}

impl TextList {
    /// Adds a text, and says where it stands.
    pub fn push(&mut self, text: &[u8]) -> Range<u32> {
        let end = |bytes: &Vec<u8>| u32::try_from(bytes.len()).expect("what is in memory is far below 4 GiB");
        let begin = end(&self.bytes);
        self.bytes.extend_from_slice(text);
        self.ends.push(end(&self.bytes));
        begin..end(&self.bytes)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The text with a number, counted from 0.
    pub fn get(&self, number: u32) -> &[u8] {
        self.at(number as usize)
    }

    /// The same.
    pub fn at(&self, place: usize) -> &[u8] {
        let from = place.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[from as usize..self.ends[place] as usize]
    }

    /// Those with these numbers, one behind the other.
    pub fn chosen(&self, numbers: &[u32]) -> Self {
        // what it takes if each is chosen once
        let mut chosen = Self { bytes: Vec::with_capacity(self.bytes.len()), ends: Vec::with_capacity(numbers.len()) };
        numbers.iter().for_each(|number| _ = chosen.push(self.get(*number)));
        chosen
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.len()).map(|place| self.at(place))
    }
}

/// A column of texts: numbered where they come again, and as they come where most are new.
///
/// The rule: which of the two it is shows in its first 16,384 texts, and depends on nothing else.
#[derive(Clone, Debug)]
pub enum TextColumn {
    /// Different texts, and the number of each row's.
    Numbered(Texts, Vec<u32>),
    /// Each row's.
    Plain(TextList),
}

/// So many tell whether texts come again. With fewer those of a part that come twice or thrice would all seem new.
const LOOKED_AT: usize = 16 * 1024;

impl Default for TextColumn {
    fn default() -> Self {
        Self::Numbered(Texts::default(), Vec::new())
    }
}

impl TextColumn {
    /// Adds rows.
    pub fn push_all(&mut self, texts: &[&[u8]]) {
        let undecided = LOOKED_AT.saturating_sub(self.len());
        let (first, rest) = texts.split_at(undecided.min(texts.len()));
        self.add(first);
        if first.len() == undecided && undecided > 0 {
            self.decide();
        }
        self.add(rest);
    }

    /// The texts and each row's number; without numbers each row has its own text.
    pub fn parts(&self) -> (&TextList, Option<&[u32]>) {
        match self {
            Self::Numbered(texts, numbers) => (texts.list(), Some(numbers)),
            Self::Plain(texts) => (texts, None),
        }
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        let (texts, numbers) = self.parts();
        numbers.map_or(texts.len(), <[u32]>::len)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What it takes in memory besides 4 bytes a row, about.
    pub fn memory(&self) -> usize {
        match self {
            Self::Numbered(texts, _) => texts.memory(),
            Self::Plain(texts) => texts.bytes.len(),
        }
    }

    fn add(&mut self, added: &[&[u8]]) {
        match self {
            Self::Numbered(texts, numbers) => texts.number_all(added, numbers),
            Self::Plain(texts) => added.iter().for_each(|text| _ = texts.push(text)),
        }
    }

    /// What stands in a table in vain costs more than all else of its row.
    fn decide(&mut self) {
        let Self::Numbered(texts, numbers) = self else { return };
        if texts.list.len() < LOOKED_AT / 8 * 7 {
            return;
        }
        *self = Self::Plain(texts.list.chosen(numbers));
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
                column.push_all(texts);
            }
            let (texts, numbers) = column.parts();
            assert!(numbers == Some(&expected), "{at_a_time} at a time");
            assert!(texts.iter().eq(firsts.iter().copied()));
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
        assert_eq!((texts.list().len(), texts.list().is_empty()), (2, false));
    }

    #[test]
    fn whether_texts_are_numbered_shows_in_the_first_ones_however_they_come() {
        let rows = 3 * LOOKED_AT;
        // of eight texts so many are new; behind the first ones all are, or none is
        for (new, later_are_new, is_plain) in [(8, false, true), (7, true, true), (6, true, false), (0, true, false)] {
            let is_new = |n: usize| if n < LOOKED_AT { n % 8 < new } else { later_are_new };
            let all: Vec<String> = (0..rows).map(|n| (if is_new(n) { n + 1 } else { 0 }).to_string()).collect();
            let all: Vec<&[u8]> = all.iter().map(String::as_bytes).collect();
            for at_a_time in [1, 500, LOOKED_AT, rows] {
                let mut column = TextColumn::default();
                all.chunks(at_a_time).for_each(|texts| column.push_all(texts));
                let (texts, numbers) = column.parts();
                assert_eq!((column.len(), numbers.is_none()), (rows, is_plain), "{new}, {at_a_time} at a time");
                let read = |row: u32| texts.get(numbers.map_or(row, |numbers| numbers[row as usize]));
                assert!((0..).zip(&all).all(|(row, text)| read(row) == *text), "{new}, {at_a_time} at a time");
            }
        }
    }
}
