//! What became of events, counted.

use crate::ledger_check::ByFront;

/// What a row, or its absence, says of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Its row counts.
    Counted,
    /// Its row is a crawler's.
    Bot,
    /// It has no row.
    Duplicate,
    /// It is not compacted yet.
    Waiting,
}

/// How many of each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fates {
    /// With a row that counts.
    pub counted: u64,
    /// With a row of a crawler.
    pub bots: u64,
    /// Without a row.
    pub duplicates: u64,
    /// Not compacted yet.
    pub waiting: u64,
}

impl Fates {
    /// One more.
    pub fn add(&mut self, found: Found) {
        let counter = match found {
            Found::Counted => &mut self.counted,
            Found::Bot => &mut self.bots,
            Found::Duplicate => &mut self.duplicates,
            Found::Waiting => &mut self.waiting,
        };
        *counter += 1;
    }

    /// Those of others.
    pub fn merge(&mut self, other: Self) {
        self.counted += other.counted;
        self.bots += other.bots;
        self.duplicates += other.duplicates;
        self.waiting += other.waiting;
    }

    /// All that are compacted.
    pub fn compacted(&self) -> u64 {
        self.counted + self.bots + self.duplicates
    }
}

/// The sum over all fronts.
pub fn sum(fronts: &ByFront) -> u64 {
    fronts.iter().sum()
}
