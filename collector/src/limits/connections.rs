//! Connections at a time from one peer.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;

use super::Peer;

/// Counts each peer's connections. A peer is known as long as it has one, so there are no more of them than connections.
#[derive(Debug)]
pub struct ConnectionLimit {
    most: usize,
    /// Their connections are those of many visitors.
    trusted: Vec<IpNet>,
    open: Mutex<HashMap<Peer, usize>>,
}

/// A connection that counts until this is dropped; by default one that is not counted.
#[derive(Debug, Default)]
pub struct Admitted {
    counted: Option<(Arc<ConnectionLimit>, Peer)>,
}

impl ConnectionLimit {
    /// So many for each peer that is no trusted proxy.
    pub fn new(most: usize, trusted: Vec<IpNet>) -> Self {
        Self { most, trusted, open: Mutex::default() }
    }

    /// Counts a connection in. None if the peer has as many as it may.
    pub fn admit(self: &Arc<Self>, address: IpAddr) -> Option<Admitted> {
        let address = address.to_canonical();
        if self.trusted.iter().any(|network| network.contains(&address)) {
            return Some(Admitted { counted: None });
        }
        let peer = Peer::from(address);
        let mut open = self.open();
        let count = open.entry(peer).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Admitted { counted: Some((Arc::clone(self), peer)) })
    }

    fn open(&self) -> MutexGuard<'_, HashMap<Peer, usize>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let Some((limit, peer)) = &self.counted else { return };
        if let Entry::Occupied(mut count) = limit.open().entry(*peer) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_gets_as_many_as_it_may_and_again_when_they_end_and_is_then_forgotten() {
        let limit = Arc::new(ConnectionLimit::new(2, vec!["10.0.0.0/8".parse().unwrap()]));
        let admit = |text: &str| limit.admit(text.parse().unwrap());
        let first = admit("192.0.2.1").unwrap();
        let second = admit("::ffff:192.0.2.1").unwrap();
        assert!(admit("192.0.2.1").is_none());
        let other = admit("192.0.2.2").unwrap();
        drop(first);
        let third = admit("192.0.2.1").unwrap();
        assert!(admit("192.0.2.1").is_none());
        let proxies: Vec<_> = (0..9).map(|_| admit("::ffff:10.1.2.3").unwrap()).collect();
        assert_eq!(limit.open().len(), 2, "a trusted proxy is not counted");
        drop((second, third, other, proxies));
        assert!(limit.open().is_empty());
    }
}
