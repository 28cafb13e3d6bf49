//! Ids for events that came without one: UUIDs of version 7 (RFC 9562), made without asking the kernel.
//!
//! Nobody's secret depends on them; they only have to differ. Each maker draws 256 bits from the kernel once and
//! goes on with xoshiro256++ (<https://prng.di.unimi.it/>), 74 bits of it beside each millisecond.

use tallylight_host::chance;
use tallylight_proto::Id;
use tallylight_proto::time::Millis;
use uuid::Builder;

/// Makes ids; one a worker.
#[derive(Debug)]
pub struct IdMaker {
    state: [u64; 4],
}

impl IdMaker {
    /// A maker that no other one will repeat.
    ///
    /// # Errors
    /// If the kernel gives no random numbers.
    pub fn new() -> std::io::Result<Self> {
        let mut state = [0; 4];
        for word in &mut state {
            *word = chance::bits()?;
        }
        // the one state that it never leaves
        state[0] |= u64::from(state == [0; 4]);
        Ok(Self { state })
    }

    /// A new id for an event received at `now`.
    pub fn make(&mut self, now: Millis) -> Id {
        let mut random = [0; 10];
        random[..8].copy_from_slice(&self.next().to_ne_bytes());
        random[8..].copy_from_slice(&self.next().to_ne_bytes()[..2]);
        let millis = u64::try_from(now).unwrap_or_default();
        Id { uuid: Builder::from_unix_timestamp_millis(millis, &random).into_uuid(), made_here: true }
    }

    fn next(&mut self) -> u64 {
        let [a, b, c, d] = &mut self.state;
        let result = a.wrapping_add(*d).rotate_left(23).wrapping_add(*a);
        let t = *b << 17;
        *c ^= *a;
        *d ^= *b;
        *b ^= *c;
        *a ^= *d;
        *c ^= t;
        *d = d.rotate_left(45);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn the_generator_is_the_published_one() {
        // the first outputs of the authors' C code for the state 1, 2, 3, 4
        let mut maker = IdMaker { state: [1, 2, 3, 4] };
        let first = [maker.next(), maker.next(), maker.next()];
        assert_eq!(first, [41_943_041, 58_720_359, 3_588_806_011_781_223]);
    }

    #[test]
    fn ids_are_of_version_7_carry_the_time_and_differ() {
        let (mut one, mut other) = (IdMaker::new().unwrap(), IdMaker::new().unwrap());
        let made: HashSet<_> = (0..1000)
            .flat_map(|_| [one.make(1_772_323_200_042), other.make(1_772_323_200_042)])
            .map(|id| {
                assert!(id.made_here);
                assert_eq!(id.uuid.get_version_num(), 7);
                assert_eq!(id.uuid.as_u128() >> 80, 1_772_323_200_042);
                id.uuid
            })
            .collect();
        assert_eq!(made.len(), 2000);
    }
}
