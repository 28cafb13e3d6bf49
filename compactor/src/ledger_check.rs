//! Checks the ledger that the collector leaves in the log.
//!
//! The rule: in every ledger record, for each front, `received = logged + shed + refused`; no number ever goes down; and
//! from one to the next `logged` goes up by the events of that front that stand between them. Where records were lost,
//! by at most so many more in all.

use serde::{Deserialize, Serialize};
use tallylight_proto::{Counts, DatagramRefusal, Front};

/// One number a front.
pub type ByFront = [u64; Front::ALL.len()];

/// The last ledger record and what was read since.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerCheck {
    /// The counts of the last ledger record.
    last: Option<Vec<u64>>,
    /// Events read since, by front.
    events: ByFront,
    /// Records lost since: events or ledger records, nobody knows.
    lost: u64,
}

/// What does not add up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// `received` is not `logged + shed + refused`.
    Unbalanced {
        /// Of this front.
        front: Front,
    },
    /// A number went down.
    WentDown,
    /// `logged` went up by another number than there are events.
    Logged {
        /// Of this front.
        front: Front,
        /// By so much it went up.
        said: u64,
        /// So many events are there.
        read: u64,
        /// And so many records of any front lost.
        lost: u64,
    },
}

impl Mismatch {
    /// In a few words.
    pub fn text(self) -> String {
        match self {
            Self::Unbalanced { front } => format!("{}: received is not logged + shed + refused", front.label()),
            Self::WentDown => "a count went down".into(),
            Self::Logged { front, said, read, lost } => {
                let front = front.label();
                format!("{front}: logged went up by {said}, but there are {read} events and {lost} lost records")
            }
        }
    }
}

impl LedgerCheck {
    /// An event was read.
    pub fn event(&mut self, front: Front) {
        self.events[front.index()] += 1;
    }

    /// Records were lost.
    pub fn lost(&mut self, records: u64) {
        self.lost += records;
    }

    /// A ledger record was read.
    pub fn check(&mut self, counts: &Counts) -> Option<Mismatch> {
        let mismatch = self.mismatch(counts);
        *self = Self { last: Some(counts.to_array().to_vec()), events: [0; Front::ALL.len()], lost: 0 };
        mismatch
    }

    /// The counts of the last ledger record and the events behind it, if there was one.
    pub fn counts(&self) -> Option<Counts> {
        let mut counts = Counts::from_numbers(self.last.as_ref()?.iter().copied());
        for (front, events) in counts.fronts.iter_mut().zip(self.events) {
            front.received = front.received.saturating_add(events);
            front.logged = front.logged.saturating_add(events);
        }
        Some(counts)
    }

    fn mismatch(&self, counts: &Counts) -> Option<Mismatch> {
        let unbalanced = Front::ALL.into_iter().find(|front| !counts.fronts[front.index()].is_balanced());
        if let Some(front) = unbalanced {
            return Some(Mismatch::Unbalanced { front });
        }
        let last = Counts::from_numbers(self.last.as_ref()?.iter().copied());
        let (before, now) = (of_no_source(last), of_no_source(*counts));
        if before.to_array().iter().zip(now.to_array()).any(|(before, now)| now < *before) {
            return Some(Mismatch::WentDown);
        }
        let mut room = self.lost;
        for front in Front::ALL {
            let said = counts.fronts[front.index()].logged - last.fronts[front.index()].logged;
            let read = self.events[front.index()];
            match said.checked_sub(read).and_then(|more| room.checked_sub(more)) {
                Some(left) => room = left,
                None => return Some(Mismatch::Logged { front, said, read, lost: self.lost }),
            }
        }
        None
    }
}

/// Without the sums over sources, which a recovery makes anew of what it knows of each: what a torn record had told of one is
/// not said any more. The audit holds them against the sources.
fn of_no_source(mut counts: Counts) -> Counts {
    let datagrams = &mut counts.datagrams;
    (datagrams.lost, datagrams.recovered, datagrams.duplicate) = (0, 0, 0);
    datagrams.refused[DatagramRefusal::Stale.index()] = 0;
    counts
}

#[cfg(test)]
mod tests {
    use super::*;
    use tallylight_proto::ledger::FrontCounts;

    fn counts(logged: u64, shed: u64) -> Counts {
        let mut counts = Counts::default();
        *counts.front(Front::Http1) =
            FrontCounts { received: logged + shed, logged, shed: [shed, 0, 0, 0], ..FrontCounts::default() };
        counts
    }

    #[test]
    fn a_ledger_that_adds_up_passes_and_lost_records_leave_room() {
        let mut check = LedgerCheck::default();
        assert_eq!(check.check(&counts(100, 5)), None, "nothing is known of what came before");
        check.event(Front::Http1);
        check.event(Front::Http1);
        assert_eq!(check.check(&counts(102, 5)), None);
        check.event(Front::Http1);
        check.lost(2);
        assert_eq!(check.check(&counts(104, 6)), None, "one of the lost was an event");
        assert_eq!(check.check(&counts(104, 6)), None);
    }

    #[test]
    fn what_does_not_add_up_is_named() {
        let logged = |front, said, read, lost| Some(Mismatch::Logged { front, said, read, lost });
        let mut check = LedgerCheck::default();
        let mut unbalanced = Counts::default();
        unbalanced.front(Front::Udp).logged = 1;
        unbalanced.front(Front::Http2).received = 1;
        assert_eq!(check.check(&unbalanced), Some(Mismatch::Unbalanced { front: Front::Http2 }));
        check = LedgerCheck::default();
        check.check(&counts(10, 0));
        check.event(Front::Http1);
        assert_eq!(check.counts().map(|counts| counts.events().logged), Some(11));
        assert_eq!(check.check(&counts(10, 0)), logged(Front::Http1, 0, 1, 0));
        check.lost(1);
        assert_eq!(check.check(&counts(12, 0)), logged(Front::Http1, 2, 0, 1));
        assert_eq!(check.check(&counts(11, 3)), Some(Mismatch::WentDown));
        check.event(Front::Udp);
        assert_eq!(check.check(&counts(12, 3)), logged(Front::Http1, 1, 0, 0), "it came by another front");
    }

    #[test]
    fn the_room_that_lost_records_leave_is_for_all_fronts_together() {
        let mut check = LedgerCheck::default();
        check.check(&Counts::default());
        check.lost(2);
        let mut more = Counts::default();
        for front in [Front::Http1, Front::Http2, Front::Udp] {
            more.front(front).received = 1;
            more.front(front).logged = 1;
        }
        assert!(matches!(check.check(&more), Some(Mismatch::Logged { front: Front::Udp, lost: 2, .. })));
    }
}
