//! How much of the collector one peer may have: connections at a time, tokens a second, both off by default; and who makes
//! room when all have too much.
//!
//! The rule kept here: what is kept of peers is bounded, whoever they are and however many, and where it forgets one, that
//! one gets more than the limit, never less. The kernel deals a peer's connections out to all workers, so a limit is one
//! for all of them: the only thing besides the log that they share, and only where the flag is set.

mod connections;
mod crowd;
mod rate;

use std::net::{IpAddr, Ipv6Addr};

pub use connections::{Admitted, ConnectionLimit};
pub use crowd::{Crowd, Membership};
pub use rate::RateLimit;

/// Whoever is limited as one: an IPv4 address, or an IPv6 network of 64 bits, since who has one of its addresses has all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Peer(u128);

impl From<IpAddr> for Peer {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self(v4.to_ipv6_mapped().to_bits()),
            IpAddr::V6(v6) => Self(network(v6)),
        }
    }
}

/// Never that of a mapped IPv4 address: the last 64 bits of those are not 0.
fn network(v6: Ipv6Addr) -> u128 {
    v6.to_bits() >> 64 << 64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_an_ipv6_network_is_one_peer_and_each_ipv4_address_another() {
        let peer = |text: &str| Peer::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(peer("2001:db8:1:2::1"), peer("2001:db8:1:2:ffff::9"));
        assert_ne!(peer("2001:db8:1:2::1"), peer("2001:db8:1:3::1"));
        assert_ne!(peer("192.0.2.1"), peer("192.0.2.2"));
        assert_eq!(peer("192.0.2.1"), peer("::ffff:192.0.2.1"));
        assert_ne!(peer("0.0.0.0"), peer("::"));
    }
}
