//! Tokens a second for one peer: a request takes one, and a body as many as it has events, or one for each 4 KiB as decoded
//! where that is more.
//!
//! A token bucket of one second, kept as the generic cell rate algorithm has it (ITU-T I.371): all that is known of a peer
//! is when its bucket will be full again. Each token puts that off by its share of a second, and who has put it off to a second
//! from now has had enough. A body of many events is taken as long as there is one left, and all of it is paid for before the
//! next: no body is too large for ever.
//!
//! The table has a fixed size. In a full row the peer whose bucket is full soonest makes room: mostly it is full already, and
//! then nothing is forgotten. Rows are chosen by a hash with a random key, so that nobody can choose a row to crowd.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::Peer;

/// The size of a bucket, in ns.
const BURST: u64 = 1_000_000_000;
/// Rows of the table: more than all workers together lock at a time.
const ROWS: usize = 8192;
/// Peers in a row: 65,536 in all, in 2 MiB.
const ROW_PEERS: usize = 8;

type Row = [Bucket; ROW_PEERS];

/// One peer's bucket.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    peer: Peer,
    /// When it is full again, in ns. One that nobody has is always full.
    full_at: u64,
}

/// How many tokens each peer may use up.
#[derive(Debug)]
pub struct RateLimit {
    /// What a token is of a bucket, in ns.
    share: u64,
    rows: Box<[Mutex<Row>]>,
    hasher: RandomState,
    /// What times are counted from.
    begun: Instant,
}

impl RateLimit {
    /// So many a second.
    pub fn new(a_second: u32) -> Self {
        let nobody = Bucket { peer: Peer(0), full_at: 0 };
        Self {
            share: BURST / u64::from(a_second.max(1)),
            rows: std::iter::repeat_with(|| Mutex::new([nobody; ROW_PEERS])).take(ROWS).collect(),
            hasher: RandomState::new(),
            begun: Instant::now(),
        }
    }

    /// Whether whoever has this address has a token left, which then is used up.
    pub fn take(&self, address: IpAddr) -> bool {
        self.ask(address.into(), self.now())
    }

    /// Takes so many, whether they are there or not: what is missing is paid for before the next one.
    pub fn charge(&self, address: IpAddr, tokens: u64) {
        if tokens > 0 {
            self.pay(address.into(), self.now(), tokens);
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn ask(&self, peer: Peer, now: u64) -> bool {
        let mut row = self.row(peer);
        let has_left = full_at(&row, peer, now) - now + self.share <= BURST;
        if has_left {
            self.put_off(&mut row, peer, now, 1);
        }
        has_left
    }

    fn pay(&self, peer: Peer, now: u64, tokens: u64) {
        self.put_off(&mut self.row(peer), peer, now, tokens);
    }

    fn row(&self, peer: Peer) -> MutexGuard<'_, Row> {
        let row = usize::try_from(self.hasher.hash_one(peer) % ROWS as u64).unwrap_or_default();
        self.rows[row].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put_off(&self, row: &mut Row, peer: Peer, now: u64, tokens: u64) {
        let full_at = full_at(row, peer, now) + tokens * self.share;
        let known = row.iter().position(|bucket| bucket.peer == peer);
        let soonest = || (0..ROW_PEERS).min_by_key(|place| row[*place].full_at).unwrap_or_default();
        row[known.unwrap_or_else(soonest)] = Bucket { peer, full_at };
    }
}

/// When a peer's bucket is full again: now, if it is already.
fn full_at(row: &Row, peer: Peer, now: u64) -> u64 {
    row.iter().find(|bucket| bucket.peer == peer).map_or(0, |bucket| bucket.full_at).max(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// How many of so many events at this time were taken.
    fn taken(limit: &RateLimit, peer: Peer, now: u64, asked: u32) -> u32 {
        (0..asked).map(|_| u32::from(limit.ask(peer, now))).sum()
    }

    #[test]
    fn a_second_holds_as_many_as_it_may_and_what_passes_brings_its_share_back() {
        let limit = RateLimit::new(100);
        let (one, other) = (Peer(1), Peer(2));
        let start = 7_000 * MS;
        assert_eq!(taken(&limit, one, start, 1_000), 100, "a burst of a second");
        assert_eq!(taken(&limit, other, start, 1_000), 100, "nobody pays for another one");
        assert_eq!(taken(&limit, one, start + 9 * MS, 1_000), 0);
        assert_eq!(taken(&limit, one, start + 10 * MS, 1_000), 1);
        assert_eq!(taken(&limit, one, start + 510 * MS, 1_000), 50);
        assert_eq!(taken(&limit, one, start + 60_000 * MS, 1_000), 100, "no more than a second is saved up");
        let steady: u32 = (0..10_000).map(|n| taken(&limit, one, start + (70_000 + n) * MS, 1)).sum();
        assert_eq!(steady, 100 + 999, "ten seconds and the burst before them");
    }

    #[test]
    fn a_body_of_many_events_is_taken_and_paid_for() {
        let limit = RateLimit::new(100);
        let peer = Peer(1);
        assert_eq!(taken(&limit, peer, 1_000 * MS, 99), 99);
        assert!(limit.ask(peer, 1_000 * MS), "one is left");
        limit.pay(peer, 1_000 * MS, 999);
        assert!(!limit.ask(peer, 10_990 * MS), "10 s are owed");
        assert!(limit.ask(peer, 11_000 * MS));
    }

    #[test]
    fn a_million_peers_take_no_more_room_and_none_of_them_gets_less_than_it_may() {
        let limit = RateLimit::new(10);
        for n in 0..1_000_000_u128 {
            let peer = Peer(n << 64 | 1);
            assert!(limit.ask(peer, 1_000 * MS), "a peer that was not seen before");
        }
        let known: usize =
            limit.rows.iter().map(|row| row.lock().unwrap().iter().filter(|b| b.full_at > 0).count()).sum();
        assert_eq!(known, ROWS * ROW_PEERS);
    }

    #[test]
    fn a_crowd_does_not_wash_the_greedy_one_out_as_long_as_it_behaves() {
        let limit = RateLimit::new(10);
        let greedy = Peer(9);
        assert_eq!(taken(&limit, greedy, 1_000 * MS, 100), 10);
        for n in 0..200_000_u128 {
            // each of them sends once, and later ones make room for each other
            limit.ask(Peer(n << 64 | 5), 1_000 * MS);
        }
        assert_eq!(taken(&limit, greedy, 1_000 * MS, 100), 0);
    }
}
