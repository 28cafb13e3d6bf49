//! What `GET /udp/sources` says, and that it adds up.

use std::net::SocketAddr;
use std::time::Instant;

use serde::Deserialize;

use super::{PATIENCE, pause, request};

/// The whole answer.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sources {
    /// Those that are followed.
    pub sources: Vec<SourceReport>,
    /// The sums of those that were let go.
    pub forgotten: Forgotten,
    /// Datagrams of sources for which there was no room.
    pub untracked: u64,
}

/// One source.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceReport {
    pub key: Option<u8>,
    pub source: String,
    pub first: u64,
    pub next: u64,
    pub received: u64,
    pub events: u64,
    pub lost: u64,
    pub recovered: u64,
    pub pending: u64,
    pub duplicate: u64,
    pub stale: u64,
    pub idle_seconds: f64,
}

/// The sums of those that were let go.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forgotten {
    pub sources: u64,
    pub received: u64,
    pub events: u64,
    pub lost: u64,
    pub recovered: u64,
    pub duplicate: u64,
    pub stale: u64,
}

impl Sources {
    /// Asks an admin port. The balance of each source holds at any time.
    pub fn of(admin: SocketAddr) -> Self {
        let reply = request(admin, "GET", "/udp/sources", &[], b"");
        assert_eq!((reply.status, reply.header("content-type")), (200, Some("application/json")), "{}", reply.text());
        let sources: Self = serde_json::from_slice(&reply.body).unwrap_or_else(|error| panic!("{error}: {reply:?}"));
        sources.sources.iter().for_each(SourceReport::assert_closes);
        sources
    }

    /// One of them; none if nothing came of it yet.
    pub fn get(&self, key: Option<u8>, source: &str) -> Option<&SourceReport> {
        let mut found = self.sources.iter().filter(|report| report.key == key && report.source == source);
        let one = found.next();
        assert!(found.next().is_none(), "{source} is there twice: {self:#?}");
        one
    }
}

impl SourceReport {
    /// `next − first = received + lost − recovered + pending`
    pub fn assert_closes(&self) {
        let Self { first, next, received, lost, recovered, pending, .. } = self;
        assert!(next >= first && lost >= recovered, "{self:?}");
        assert_eq!(next - first, received + (lost - recovered) + pending, "{self:?}");
    }
}

/// Waits until no source waits for anything, and gives back what is known of them then. Their balances close.
pub fn settled(admin: SocketAddr) -> Sources {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let sources = Sources::of(admin);
        if sources.sources.iter().all(|source| source.pending == 0) {
            return sources;
        }
        assert!(Instant::now() < deadline, "they wait for ever: {sources:#?}");
        pause();
    }
}
