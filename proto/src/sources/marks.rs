//! How far sources have got, as it stands in a ledger record, behind the counts.
//!
//! All numbers are LEB128, but the source, which is eight bytes, big-endian.
//!
//! ```text
//! scope: 0 none, 1 changes since the last ledger record, 2 all
//! forgotten: sources, and the six figures of all of them; untracked datagrams
//! count of marks, and each:
//!   source u64 | key: 0 none, else id + 1 | flags: 1 gone, 2 ahead, 4 ahead came
//!   first | floor − first | aged − floor | next − aged | number ahead − next, if there is one
//!   received | events | lost | recovered | duplicate | stale
//!   count of numbers, and each
//!     scope 1, ranges that came without leaving a record: start, length
//!     scope 2, words with missing numbers, highest first: how far below the last one (the first: below next / 64), bits
//! ```

use crate::datagram::SourceId;
use crate::varint::{put, take};

use super::window::Bounds;
use super::{Ahead, Figures};

/// What a ledger record says of sources.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// Whether all sources stand here, or those that changed.
    pub scope: Scope,
    /// How many sources were let go, and their figures, since the log began.
    pub forgotten: (u64, Figures),
    /// Datagrams of sources for which there was no room.
    pub untracked: u64,
    /// One a source.
    pub marks: Vec<Mark>,
}

/// Which sources marks are of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// Those that changed since the last ledger record.
    #[default]
    Changes,
    /// All.
    All,
}

/// How far one source has got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Which.
    pub id: SourceId,
    /// It was let go.
    pub is_gone: bool,
    /// Its window.
    pub bounds: Bounds,
    /// A number too far ahead to be believed yet.
    pub ahead: Option<Ahead>,
    /// Its counts.
    pub figures: Figures,
    /// [`Scope::Changes`]: start and length of ranges of numbers that came without leaving a record.
    /// [`Scope::All`]: words with missing numbers, as in `Window::missing`.
    pub numbers: Vec<(u64, u64)>,
}

const FLAG_GONE: u8 = 1;
const FLAG_AHEAD: u8 = 2;
const FLAG_AHEAD_CAME: u8 = 4;

impl Marks {
    /// Appends them to a record.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(match self.scope {
            Scope::Changes => 1,
            Scope::All => 2,
        });
        put(out, self.forgotten.0);
        self.forgotten.1.encode(out);
        put(out, self.untracked);
        put(out, self.marks.len() as u64);
        for mark in &self.marks {
            mark.encode(self.scope, out);
        }
    }

    /// Reads them from the end of a record. None if they are not whole; nothing there (an older writer): no marks.
    pub fn decode(bytes: &mut &[u8]) -> Option<Self> {
        let Some((scope, rest)) = bytes.split_first() else { return Some(Self::default()) };
        *bytes = rest;
        let scope = match scope {
            0 => return Some(Self::default()),
            1 => Scope::Changes,
            2 => Scope::All,
            _ => return None,
        };
        let forgotten = (take(bytes)?, Figures::decode(bytes)?);
        let untracked = take(bytes)?;
        let count = take(bytes)?;
        let mut marks = Vec::new();
        for _ in 0..count {
            marks.push(Mark::decode(scope, bytes)?);
        }
        Some(Self { scope, forgotten, untracked, marks })
    }
}

impl Mark {
    fn encode(&self, scope: Scope, out: &mut Vec<u8>) {
        let Self { id, is_gone, bounds: Bounds { first, floor, aged, next }, ahead, figures, numbers } = self;
        out.extend_from_slice(&id.source.to_be_bytes());
        put(out, id.key.map_or(0, |key| u64::from(key) + 1));
        let came = ahead.is_some_and(|ahead| ahead.came);
        let flags = [(*is_gone, FLAG_GONE), (ahead.is_some(), FLAG_AHEAD), (came, FLAG_AHEAD_CAME)];
        out.push(flags.into_iter().map(|(is_set, flag)| u8::from(is_set) * flag).sum());
        [*first, floor - first, aged - floor, next - aged].into_iter().for_each(|number| put(out, number));
        if let Some(ahead) = ahead {
            put(out, ahead.number.saturating_sub(*next));
        }
        figures.encode(out);
        put(out, numbers.len() as u64);
        let mut last = next / 64;
        for (number, bits_or_len) in numbers {
            match scope {
                Scope::Changes => put(out, *number),
                Scope::All => put(out, last - number),
            }
            put(out, *bits_or_len);
            last = *number;
        }
    }

    fn decode(scope: Scope, bytes: &mut &[u8]) -> Option<Self> {
        let (source, rest) = bytes.split_first_chunk::<8>()?;
        *bytes = rest;
        let key = match take(bytes)? {
            0 => None,
            key => Some(u8::try_from(key - 1).ok()?),
        };
        let (flags, rest) = bytes.split_first()?;
        *bytes = rest;
        let first = take(bytes)?;
        let floor = first.checked_add(take(bytes)?)?;
        let aged = floor.checked_add(take(bytes)?)?;
        let next = aged.checked_add(take(bytes)?)?;
        let ahead = if flags & FLAG_AHEAD == 0 {
            None
        } else {
            Some(Ahead { number: next.checked_add(take(bytes)?)?, came: flags & FLAG_AHEAD_CAME != 0 })
        };
        let figures = Figures::decode(bytes)?;
        let mut numbers = Vec::new();
        let mut last = next / 64;
        for _ in 0..take(bytes)? {
            let number = match scope {
                Scope::Changes => take(bytes)?,
                Scope::All => last.checked_sub(take(bytes)?)?,
            };
            last = number;
            numbers.push((number, take(bytes)?));
        }
        Some(Self {
            id: SourceId { key, source: u64::from_be_bytes(*source) },
            is_gone: flags & FLAG_GONE != 0,
            bounds: Bounds { first, floor, aged, next },
            ahead,
            figures,
            numbers,
        })
    }
}

impl Figures {
    fn encode(&self, out: &mut Vec<u8>) {
        self.to_array().into_iter().for_each(|number| put(out, number));
    }

    fn decode(bytes: &mut &[u8]) -> Option<Self> {
        let mut numbers = [0; 6];
        for number in &mut numbers {
            *number = take(bytes)?;
        }
        Some(Self::from_array(numbers))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_mark() -> impl Strategy<Value = Mark> {
        let number = || prop_oneof![0..1000_u64, 0..1_u64 << 48];
        let bounds = (number(), 0..1_u64 << 20, 0..1_u64 << 20, 0..1_u64 << 20);
        let words = prop::collection::vec((0..20_u64, any::<u64>()), 0..5);
        let ahead = any::<Option<(u32, bool)>>();
        (any::<(Option<u8>, u64, bool)>(), bounds, ahead, prop::array::uniform6(number()), words).prop_map(
            |((key, source, is_gone), (first, floor, aged, next), ahead, figures, words)| {
                let (floor, aged) = (first + floor, first + floor + aged);
                let next = aged + next + 64 * 100;
                let mut word = next / 64;
                let numbers = words.into_iter().map(|(below, bits)| {
                    word -= below;
                    (word, bits)
                });
                Mark {
                    numbers: numbers.collect(),
                    id: SourceId { key, source },
                    is_gone,
                    bounds: Bounds { first, floor, aged, next },
                    ahead: ahead.map(|(more, came)| Ahead { number: next + u64::from(more), came }),
                    figures: Figures::from_array(figures),
                }
            },
        )
    }

    proptest! {
        #[test]
        fn marks_read_back(marks in prop::collection::vec(any_mark(), 0..4), is_all: bool, forgotten: (u64, [u64; 6])) {
            let scope = if is_all { Scope::All } else { Scope::Changes };
            let forgotten = (forgotten.0, Figures::from_array(forgotten.1));
            let marks = Marks { scope, forgotten, untracked: 3, marks };
            let mut bytes = Vec::new();
            marks.encode(&mut bytes);
            let mut rest = &bytes[..];
            prop_assert_eq!(Marks::decode(&mut rest), Some(marks));
            prop_assert!(rest.is_empty());
            prop_assert_eq!(Marks::decode(&mut &bytes[..bytes.len() - 1]), None);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>, scope in 0..4_u8) {
            let bytes: Vec<u8> = [scope].into_iter().chain(bytes).collect();
            let _ = Marks::decode(&mut &bytes[..]);
        }
    }
}
