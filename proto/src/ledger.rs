//! The ledger: how many events had which outcome.
//!
//! For each front `received = logged + shed + refused`, always. The counts in the log are the writer's own: they advance
//! only by what was appended before them and by what travelled in the same batches, so that the sum holds in
//! every ledger record, after any crash.

use crate::reason::{DatagramRefusal, Front, Refusal, Shed};
use crate::record::{self, Record};
use crate::segment::{Found, Scanner};
use crate::sources::{Marks, Scope};

/// What became of the events of one front, or of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrontCounts {
    /// Reached the door.
    pub received: u64,
    /// In the log.
    pub logged: u64,
    /// Not taken, may be sent again, by [`Shed`].
    pub shed: [u64; Shed::ALL.len()],
    /// Never to be taken, by [`Refusal`].
    pub refused: [u64; Refusal::ALL.len()],
}

/// What became of datagrams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DatagramCounts {
    /// Read from a socket, whatever they are.
    pub received: u64,
    /// Sent, as later numbers show, and not there within a second.
    pub lost: u64,
    /// Lost ones that came after all.
    pub recovered: u64,
    /// Copies of what was there already.
    pub duplicate: u64,
    /// Dropped by the kernel, whose buffer was full. Framed ones are among the lost as well.
    pub kernel_dropped: u64,
    /// Not looked into, by [`DatagramRefusal`].
    pub refused: [u64; DatagramRefusal::ALL.len()],
}

/// Cumulative counts by outcome, since the log began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Events, by [`Front`].
    pub fronts: [FrontCounts; Front::ALL.len()],
    /// Datagrams.
    pub datagrams: DatagramCounts,
}

const FRONT_COUNTS_LEN: usize = 2 + Shed::ALL.len() + Refusal::ALL.len();

/// How many numbers [`Counts`] is.
pub const COUNTS_LEN: usize = Front::ALL.len() * FRONT_COUNTS_LEN + 5 + DatagramRefusal::ALL.len();

impl FrontCounts {
    /// Adds what happened since.
    pub fn add(&mut self, since: &Self) {
        self.received = self.received.wrapping_add(since.received);
        self.logged = self.logged.wrapping_add(since.logged);
        add_all(&mut self.shed, &since.shed);
        add_all(&mut self.refused, &since.refused);
    }

    fn numbers(&mut self) -> impl Iterator<Item = &mut u64> {
        let Self { received, logged, shed, refused } = self;
        [received, logged].into_iter().chain(shed).chain(refused)
    }

    /// All that are shed, whatever for.
    pub fn all_shed(&self) -> u64 {
        self.shed.iter().sum()
    }

    /// All that are refused, whatever for.
    pub fn all_refused(&self) -> u64 {
        self.refused.iter().sum()
    }

    /// `received = logged + shed + refused`
    pub fn is_balanced(&self) -> bool {
        let parts = [self.logged].into_iter().chain(self.shed).chain(self.refused);
        parts.map(u128::from).sum::<u128>() == u128::from(self.received)
    }
}

impl DatagramCounts {
    fn numbers(&mut self) -> impl Iterator<Item = &mut u64> {
        let Self { received, lost, recovered, duplicate, kernel_dropped, refused } = self;
        [received, lost, recovered, duplicate, kernel_dropped].into_iter().chain(refused)
    }

    /// Adds what happened since.
    pub fn add(&mut self, since: Self) {
        let Self { received, lost, recovered, duplicate, kernel_dropped, refused } = self;
        for (sum, number) in [
            (received, since.received),
            (lost, since.lost),
            (recovered, since.recovered),
            (duplicate, since.duplicate),
            (kernel_dropped, since.kernel_dropped),
        ] {
            *sum = sum.wrapping_add(number);
        }
        add_all(refused, &since.refused);
    }
}

impl Counts {
    fn numbers(&mut self) -> impl Iterator<Item = &mut u64> {
        self.fronts.iter_mut().flat_map(FrontCounts::numbers).chain(self.datagrams.numbers())
    }

    /// All of them, in the order in which they stand in a ledger record. New ones are only ever added behind.
    pub fn to_array(mut self) -> [u64; COUNTS_LEN] {
        let mut all = [0; COUNTS_LEN];
        all.iter_mut().zip(self.numbers()).for_each(|(slot, number)| *slot = *number);
        all
    }

    /// The way back. Missing ones (an older writer) are 0.
    pub fn from_numbers(numbers: impl IntoIterator<Item = u64>) -> Self {
        let mut counts = Self::default();
        counts.numbers().zip(numbers).for_each(|(slot, number)| *slot = number);
        counts
    }

    /// The counts of one front.
    pub fn front(&mut self, front: Front) -> &mut FrontCounts {
        &mut self.fronts[front.index()]
    }

    /// The sums over all fronts.
    pub fn events(&self) -> FrontCounts {
        let mut sum = FrontCounts::default();
        self.fronts.iter().for_each(|front| sum.add(front));
        sum
    }

    /// Adds what happened since.
    pub fn add(&mut self, since: Counts) {
        self.fronts.iter_mut().zip(&since.fronts).for_each(|(sum, front)| sum.add(front));
        self.datagrams.add(since.datagrams);
    }

    /// Whether nothing was counted.
    pub fn is_zero(&self) -> bool {
        *self == Self::default()
    }

    /// `received = logged + shed + refused`, for each front.
    pub fn is_balanced(&self) -> bool {
        self.fronts.iter().all(FrontCounts::is_balanced)
    }
}

/// Plain loops over a few numbers: a batch is added twice, and most have few events.
fn add_all(sums: &mut [u64], numbers: &[u64]) {
    sums.iter_mut().zip(numbers).for_each(|(sum, number)| *sum = sum.wrapping_add(*number));
}

/// What a ledger record says.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// How far the sources of framed datagrams have got.
    pub marks: Marks,
}

/// Whether a ledger record with all sources is among what a scanner finds: then no record before it is needed to know how
/// ledger and sources stand. `read` is that of [`Scanner::next`].
///
/// # Errors
/// If `read` fails.
pub fn is_carried_by<E>(
    mut scanner: Scanner,
    mut read: impl FnMut(u64, &mut [u8]) -> Result<usize, E>,
) -> Result<bool, E> {
    while let Some(found) = scanner.next(&mut read)? {
        if let Found::Record(framed) = found
            && let Ok(Record::Ledger(ledger)) = record::decode(framed.payload)
            && ledger.marks.scope == Scope::All
        {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_back_and_missing_ones_are_zero() {
        let counts = Counts::from_numbers(1..);
        assert_eq!(Counts::from_numbers(counts.to_array()), counts);
        assert_eq!(counts.datagrams.refused[DatagramRefusal::Address.index()], COUNTS_LEN as u64);
        assert_eq!(Counts::from_numbers([3]), Counts::from_numbers([3, 0, 0, 0]));
    }

    #[test]
    fn sums_are_over_all_fronts() {
        let mut counts = Counts::default();
        for front in Front::ALL {
            counts.front(front).received = 10;
            counts.front(front).shed[1] = 2;
        }
        counts.add(counts);
        assert_eq!((counts.events().received, counts.events().all_shed()), (80, 16));
    }

    #[test]
    fn an_unbalanced_ledger_is_seen_whatever_the_other_fronts_say() {
        let mut counts = Counts::default();
        assert!(counts.is_balanced());
        counts.front(Front::Udp).received = 3;
        counts.front(Front::Udp).logged = 1;
        counts.front(Front::Udp).shed[1] = 1;
        counts.front(Front::Http1).refused[2] = 1;
        assert!(!counts.is_balanced());
        counts.front(Front::Http1).refused[2] = 0;
        counts.front(Front::Udp).refused[2] = 1;
        assert!(counts.is_balanced());
    }
}
