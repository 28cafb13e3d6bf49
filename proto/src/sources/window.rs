//! Which numbers of one source came, and which are missing.
//!
//! ```text
//!  first ……… floor ………………… aged ………… next
//!        stale   | missing: lost | missing: │ not sent yet,
//!                | or came       | or came  │ as far as is known
//! ```
//!
//! A missing number is lost once it is a second old, or at once when it leaves the window; as long as it is in the
//! window it can still come. So at any time `next − first = came + lost − recovered + pending`.

use std::collections::VecDeque;
use std::ops::Range;

/// How many numbers below the next one are told apart; older ones are stale.
pub const WINDOW: u64 = 65_536;
/// After so many milliseconds a missing number is lost.
pub const LOST_AFTER_MS: u64 = 1000;

const WORDS: usize = 1024;

/// What a number is, by those that came before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It comes for the first time.
    New,
    /// It came before.
    Duplicate,
    /// It is older than the window: nobody knows.
    Stale,
}

/// The numbers of one source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Window {
    first: u64,
    floor: u64,
    aged: u64,
    next: u64,
    /// None while nothing is missing, which is nearly always.
    missing: Option<Box<Missing>>,
    /// What `next` was at times past, until everything missing below is a second old.
    checkpoints: VecDeque<(u64, u64)>,
}

/// A ring of bits: number n is missing if bit n modulo WINDOW is set.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Missing {
    words: [u64; WORDS],
    count: u64,
}

/// What is written down of a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// The number that it began with.
    pub first: u64,
    /// Numbers below are stale.
    pub floor: u64,
    /// Missing ones below are lost.
    pub aged: u64,
    /// One above the highest number that is known to have been sent.
    pub next: u64,
}

impl Window {
    /// Nothing came yet.
    pub fn new(first: u64) -> Self {
        Self::restore(Bounds { first, floor: first, aged: first, next: first }, &[])
    }

    /// As it was written down.
    pub fn restore(bounds: Bounds, missing: &[(u64, u64)]) -> Self {
        let Bounds { first, floor, aged, next } = bounds;
        let mut window = Self { first, floor, aged, next, missing: None, checkpoints: VecDeque::new() };
        for (word, bits) in missing {
            for number in (0..64).filter(|bit| bits >> bit & 1 == 1).map(|bit| word * 64 + bit) {
                if (window.floor..window.next).contains(&number) {
                    window.insert(number..number + 1);
                }
            }
        }
        window
    }

    pub fn bounds(&self) -> Bounds {
        Bounds { first: self.first, floor: self.floor, aged: self.aged, next: self.next }
    }

    pub fn next(&self) -> u64 {
        self.next
    }

    /// What this number is.
    pub fn look(&self, number: u64) -> Seen {
        match number {
            n if n < self.floor => Seen::Stale,
            n if n >= self.next || self.is_missing(n) => Seen::New,
            _ => Seen::Duplicate,
        }
    }

    /// Whether a missing number counts as lost already.
    pub fn is_lost(&self, number: u64) -> bool {
        number < self.aged
    }

    /// A new number came. Says how many are thereby lost.
    pub fn came(&mut self, number: u64) -> u64 {
        if number < self.next {
            self.remove(number..number + 1);
            return 0;
        }
        let lost = self.were_sent_below(number);
        let floor = self.floor.max((number + 1).saturating_sub(WINDOW));
        let lost = lost + self.raise_floor(floor);
        self.next = number + 1;
        lost
    }

    /// All numbers below this one were sent. Says how many are thereby lost.
    pub fn were_sent_below(&mut self, next: u64) -> u64 {
        if next <= self.next {
            return 0;
        }
        let floor = self.floor.max(next.saturating_sub(WINDOW));
        // those that are out of the window as soon as they are known
        let skipped = floor.saturating_sub(self.next);
        let lost = skipped + self.raise_floor(floor);
        self.insert(self.next.max(floor)..next);
        self.next = next;
        lost
    }

    /// The first number was not the first: this one was sent before, if it is within the window.
    pub fn begin_earlier(&mut self, number: u64) {
        if number < self.first && self.next - number <= WINDOW && self.floor == self.first {
            self.insert(number..self.first);
            (self.first, self.floor, self.aged) = (number, number, number);
            self.checkpoints.clear();
        }
    }

    /// So many of those that are pending are missing no longer, the newest first.
    pub fn take_for_come(&mut self, mut count: u64) {
        let mut end = self.next;
        while count > 0 && end > self.aged.max(self.floor) {
            end -= 1;
            if self.is_missing(end) {
                self.remove(end..end + 1);
                count -= 1;
            }
        }
    }

    /// Missing ones that are a second old are lost from now on. Says how many.
    pub fn settle(&mut self, now: u64) -> u64 {
        if self.missing.is_none() {
            self.aged = self.next;
            self.checkpoints.clear();
            return 0;
        }
        let mut lost = 0;
        while let Some(&(_, next)) = self.checkpoints.front().filter(|(at, _)| at + LOST_AFTER_MS <= now) {
            lost += self.age(next);
            self.checkpoints.pop_front();
        }
        if self.next > self.checkpoints.back().map_or(self.aged, |(_, next)| *next) {
            self.checkpoints.push_back((now, self.next));
        }
        lost
    }

    /// Everything missing is lost from now on. Says how many.
    pub fn settle_all(&mut self) -> u64 {
        self.age(self.next)
    }

    /// How many are missing and not lost yet.
    pub fn pending(&self) -> u64 {
        self.count(self.aged.max(self.floor)..self.next)
    }

    /// Numbers in this range that came, as far as the window tells.
    pub fn count_came(&self, range: Range<u64>) -> u64 {
        let range = range.start.max(self.floor)..range.end.min(self.next);
        range.end.saturating_sub(range.start) - self.count(range)
    }

    /// Missing numbers, newest first: 64 a word, word n has the numbers from 64 n on.
    pub fn missing(&self) -> impl Iterator<Item = (u64, u64)> {
        let words = self.missing.as_deref().into_iter();
        let spans = words.flat_map(|missing| spans(self.floor..self.next).map(move |span| (missing, span)));
        let mut all: Vec<_> = spans
            .map(|(missing, span)| (span.word, missing.words[span.slot()] & span.mask))
            .filter(|(_, bits)| *bits != 0)
            .collect();
        all.reverse();
        all.into_iter()
    }

    fn age(&mut self, up_to: u64) -> u64 {
        let lost = self.count(self.aged.max(self.floor)..up_to);
        self.aged = self.aged.max(up_to);
        lost
    }

    fn raise_floor(&mut self, floor: u64) -> u64 {
        let leaving = self.floor..floor.min(self.next);
        let lost = if leaving.is_empty() || self.missing.is_none() {
            0
        } else {
            let lost = self.count(leaving.start.max(self.aged)..leaving.end);
            self.remove(leaving);
            lost
        };
        self.floor = floor;
        self.aged = self.aged.max(floor);
        lost
    }

    fn is_missing(&self, number: u64) -> bool {
        self.count(number..number + 1) == 1
    }

    fn count(&self, range: Range<u64>) -> u64 {
        let Some(missing) = &self.missing else { return 0 };
        spans(range).map(|span| u64::from((missing.words[span.slot()] & span.mask).count_ones())).sum()
    }

    fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let missing = self.missing.get_or_insert_with(|| Box::new(Missing { words: [0; WORDS], count: 0 }));
        for span in spans(range) {
            let word = &mut missing.words[span.slot()];
            missing.count += u64::from((span.mask & !*word).count_ones());
            *word |= span.mask;
        }
    }

    fn remove(&mut self, range: Range<u64>) {
        let Some(missing) = &mut self.missing else { return };
        for span in spans(range) {
            let word = &mut missing.words[span.slot()];
            missing.count -= u64::from((span.mask & *word).count_ones());
            *word &= !span.mask;
        }
        if missing.count == 0 {
            self.missing = None;
        }
    }
}

/// The part of a word that a range of numbers covers.
struct Span {
    word: u64,
    mask: u64,
}

impl Span {
    fn slot(&self) -> usize {
        usize::try_from(self.word % WORDS as u64).expect("below 1024")
    }
}

/// The words of a range of numbers, which is no longer than the window.
fn spans(range: Range<u64>) -> impl Iterator<Item = Span> {
    let words = if range.is_empty() { 0..0 } else { range.start / 64..range.end.div_ceil(64) };
    words.map(move |word| {
        let from = range.start.saturating_sub(word * 64);
        let to = (range.end - word * 64).min(64);
        Span { word, mask: !0 >> (64 - (to - from)) << from }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// What the window must do, told with sets.
    #[derive(Default)]
    struct Model {
        came: BTreeSet<u64>,
        lost: BTreeSet<u64>,
        recovered: u64,
        next: u64,
        aged: u64,
    }

    impl Model {
        fn look(&self, number: u64) -> Seen {
            match number {
                n if n + WINDOW < self.next => Seen::Stale,
                n if self.came.contains(&n) => Seen::Duplicate,
                _ => Seen::New,
            }
        }

        fn sent_below(&mut self, next: u64) {
            self.next = self.next.max(next);
            self.age(self.next.saturating_sub(WINDOW));
        }

        fn age(&mut self, up_to: u64) {
            let aged = self.aged.max(1);
            self.aged = aged.max(up_to);
            self.lost.extend((aged..self.aged).filter(|n| !self.came.contains(n)));
        }
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Number(u64),
        Heartbeat(u64),
        Age,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let jump = prop_oneof![8 => 0..200_u64, 1 => 0..WINDOW * 3, 1 => WINDOW - 2..WINDOW + 3];
        let back = prop_oneof![3 => 0..100_u64, 1 => 0..WINDOW + 100];
        prop::collection::vec((jump, back, 0..12_u8), 1..60).prop_map(|choices| {
            let mut next = 1;
            let mut steps = Vec::new();
            for (jump, back, kind) in choices {
                match kind {
                    0..4 => {
                        steps.push(Step::Number(next + jump));
                        next += jump + 1;
                    }
                    4..6 => {
                        steps.extend((next..next + jump % 50).map(Step::Number));
                        next += jump % 50;
                    }
                    6..10 => steps.push(Step::Number(next.saturating_sub(back).max(1))),
                    10 => {
                        steps.push(Step::Heartbeat(next + jump));
                        next += jump;
                    }
                    _ => steps.push(Step::Age),
                }
            }
            steps
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_window_is_what_sets_would_be(steps in steps()) {
            let mut model = Model { next: 1, ..Model::default() };
            let mut window = Window::new(1);
            let (mut lost, mut came, mut recovered) = (0, 0, 0);
            for step in steps {
                match step {
                    Step::Number(n) => {
                        prop_assert_eq!(window.look(n), model.look(n), "{}", n);
                        if window.look(n) == Seen::New {
                            recovered += u64::from(window.is_lost(n));
                            lost += window.came(n);
                            came += 1;
                            model.recovered += u64::from(model.lost.contains(&n));
                            model.came.insert(n);
                            model.sent_below(n + 1);
                        }
                    }
                    Step::Heartbeat(next) => {
                        lost += window.were_sent_below(next);
                        model.sent_below(next);
                    }
                    Step::Age => {
                        lost += window.settle_all();
                        model.age(model.next);
                    }
                }
                let Bounds { first, next, .. } = window.bounds();
                prop_assert_eq!(next, model.next);
                prop_assert_eq!((lost, recovered), (model.lost.len() as u64, model.recovered));
                prop_assert_eq!(next - first, came + lost - recovered + window.pending());
            }
            let words: Vec<_> = window.missing().collect();
            let restored = Window::restore(window.bounds(), &words);
            prop_assert_eq!(restored.missing, window.missing);
        }
    }

    #[test]
    fn a_gap_is_lost_when_it_is_a_second_old_and_not_before() {
        let mut window = Window::new(1);
        assert_eq!(window.came(5), 0);
        assert_eq!((window.settle(10_000), window.pending()), (0, 4));
        assert_eq!((window.settle(10_999), window.came(2)), (0, 0));
        assert_eq!((window.settle(11_000), window.pending()), (3, 0));
        assert!(window.is_lost(1) && window.look(1) == Seen::New && window.look(2) == Seen::Duplicate);
        assert_eq!((window.came(1), window.look(1)), (0, Seen::Duplicate));
    }

    #[test]
    fn a_jump_over_the_window_loses_all_between_and_costs_no_time() {
        let mut window = Window::new(1);
        window.came(1);
        assert_eq!(window.came(1 << 47), (1 << 47) - 2 - (WINDOW - 1));
        assert_eq!(window.pending(), WINDOW - 1);
        assert_eq!(window.look(2), Seen::Stale);
    }

    #[test]
    fn nothing_is_kept_where_nothing_is_missing() {
        let mut window = Window::new(1);
        (1..100).for_each(|n| assert_eq!(window.came(n), 0));
        assert!(window.missing.is_none());
        window.came(101);
        assert!(window.missing.is_some());
        window.came(100);
        assert!(window.missing.is_none());
        assert_eq!((window.settle(1), window.bounds().aged), (0, 102));
    }
}
