//! Checks the ledger that the collector leaves in the log.
//!
//! The rule: in every ledger record `received = logged + shed + refused`; no number ever goes down; and from one to
//! the next `logged` goes up by the events that stand between them. Where records were lost, by at most so many
//! more.

use serde::{Deserialize, Serialize};
use tallylight_proto::Counts;

/// The last ledger record and what was read since.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerCheck {
    /// The counts of the last ledger record.
    last: Option<Vec<u64>>,
    /// Events read since.
    events: u64,
    /// Records lost since: events or ledger records, nobody knows.
    lost: u64,
}

/// What does not add up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// `received` is not `logged + shed + refused`.
    Unbalanced,
    /// A number went down.
    WentDown,
    /// `logged` went up by another number than there are events.
    Logged {
        /// By so much it went up.
        said: u64,
        /// So many events are there.
        read: u64,
        /// And so many records lost.
        lost: u64,
    },
}

impl Mismatch {
    /// In a few words.
    pub fn text(self) -> String {
        match self {
            Self::Unbalanced => "received is not logged + shed + refused".into(),
            Self::WentDown => "a count went down".into(),
            Self::Logged { said, read, lost } => {
                format!("logged went up by {said}, but there are {read} events and {lost} lost records")
            }
        }
    }
}

impl LedgerCheck {
    /// An event was read.
    pub fn event(&mut self) {
        self.events += 1;
    }

    /// Records were lost.
    pub fn lost(&mut self, records: u64) {
        self.lost += records;
    }

    /// A ledger record was read.
    pub fn check(&mut self, counts: &Counts) -> Option<Mismatch> {
        let mismatch = self.mismatch(counts);
        *self = Self { last: Some(counts.to_array().to_vec()), events: 0, lost: 0 };
        mismatch
    }

    fn mismatch(&self, counts: &Counts) -> Option<Mismatch> {
        if !counts.is_balanced() {
            return Some(Mismatch::Unbalanced);
        }
        let last = self.last.as_ref()?;
        if last.iter().zip(counts.to_array()).any(|(before, now)| now < *before) {
            return Some(Mismatch::WentDown);
        }
        let said = counts.logged - Counts::from_numbers(last.iter().copied()).logged;
        let fits = self.events <= said && said <= self.events + self.lost;
        (!fits).then_some(Mismatch::Logged { said, read: self.events, lost: self.lost })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(logged: u64, shed: u64) -> Counts {
        Counts { received: [logged + shed, 0, 0, 0], logged, shed: [shed, 0, 0, 0], ..Counts::default() }
    }

    #[test]
    fn a_ledger_that_adds_up_passes_and_lost_records_leave_room() {
        let mut check = LedgerCheck::default();
        assert_eq!(check.check(&counts(100, 5)), None, "nothing is known of what came before");
        check.event();
        check.event();
        assert_eq!(check.check(&counts(102, 5)), None);
        check.event();
        check.lost(2);
        assert_eq!(check.check(&counts(104, 6)), None, "one of the lost was an event");
        assert_eq!(check.check(&counts(104, 6)), None);
    }

    #[test]
    fn what_does_not_add_up_is_named() {
        let mut check = LedgerCheck::default();
        let unbalanced = Counts { logged: 1, ..Counts::default() };
        assert_eq!(check.check(&unbalanced), Some(Mismatch::Unbalanced));
        check = LedgerCheck::default();
        check.check(&counts(10, 0));
        check.event();
        assert_eq!(check.check(&counts(10, 0)), Some(Mismatch::Logged { said: 0, read: 1, lost: 0 }));
        check.lost(1);
        assert_eq!(check.check(&counts(12, 0)), Some(Mismatch::Logged { said: 2, read: 0, lost: 1 }));
        assert_eq!(check.check(&counts(11, 3)), Some(Mismatch::WentDown));
    }
}
