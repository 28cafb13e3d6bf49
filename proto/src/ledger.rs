//! The ledger: how many events had which outcome.
//!
//! `received = logged + shed + refused`, always. The counts in the log are the writer's own: they advance
//! only by what was appended before them and by what travelled in the same batches, so that the sum holds in
//! every ledger record, after any crash.

use crate::reason::{Front, Refusal, Shed};

/// Cumulative counts of events by outcome, since the log began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Reached the door, by [`Front`].
    pub received: [u64; Front::ALL.len()],
    /// In the log.
    pub logged: u64,
    /// Not taken, may be sent again, by [`Shed`].
    pub shed: [u64; Shed::ALL.len()],
    /// Never to be taken, by [`Refusal`].
    pub refused: [u64; Refusal::ALL.len()],
}

/// How many numbers [`Counts`] is.
pub const COUNTS_LEN: usize = Front::ALL.len() + 1 + Shed::ALL.len() + Refusal::ALL.len();

impl Counts {
    /// All of them, in the order in which they stand in a ledger record. New ones are only ever added behind.
    pub fn to_array(&self) -> [u64; COUNTS_LEN] {
        let mut all = [0; COUNTS_LEN];
        let numbers = self.received.iter().chain([&self.logged]).chain(&self.shed).chain(&self.refused);
        all.iter_mut().zip(numbers).for_each(|(slot, number)| *slot = *number);
        all
    }

    /// The way back. Missing ones (an older writer) are 0.
    pub fn from_numbers(numbers: impl IntoIterator<Item = u64>) -> Self {
        let mut counts = Self::default();
        let slots =
            counts.received.iter_mut().chain([&mut counts.logged]).chain(&mut counts.shed).chain(&mut counts.refused);
        slots.zip(numbers).for_each(|(slot, number)| *slot = number);
        counts
    }

    /// Adds what happened since.
    pub fn add(&mut self, since: &Counts) {
        let sums = self.to_array().into_iter().zip(since.to_array()).map(|(a, b)| a.wrapping_add(b));
        *self = Self::from_numbers(sums);
    }

    /// Whether nothing was counted.
    pub fn is_zero(&self) -> bool {
        *self == Self::default()
    }

    /// `received = logged + shed + refused`
    pub fn is_balanced(&self) -> bool {
        let sum = |numbers: &[u64]| numbers.iter().map(|n| u128::from(*n)).sum::<u128>();
        sum(&self.received) == u128::from(self.logged) + sum(&self.shed) + sum(&self.refused)
    }
}

/// What a ledger record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ledger {
    /// When it was written: log time goes on without traffic.
    pub at: i64,
    /// When the collector that wrote it started: one number a life.
    pub life: i64,
    /// It is the last of its life, written at an orderly end. A life without one was killed, and what it
    /// received, shed and refused after its last ledger record is not known.
    pub closing: bool,
    /// Cumulative over all lives.
    pub counts: Counts,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_back_and_missing_ones_are_zero() {
        let counts = Counts::from_numbers(1..);
        assert_eq!(Counts::from_numbers(counts.to_array()), counts);
        assert_eq!(counts.refused[Refusal::Signature.index()], COUNTS_LEN as u64);
        assert_eq!(Counts::from_numbers([3]).received, [3, 0, 0, 0]);
    }

    #[test]
    fn an_unbalanced_ledger_is_seen() {
        let mut counts = Counts::default();
        assert!(counts.is_balanced());
        counts.received[0] = 3;
        counts.logged = 1;
        counts.shed[1] = 1;
        assert!(!counts.is_balanced());
        counts.refused[2] = 1;
        assert!(counts.is_balanced());
    }
}
