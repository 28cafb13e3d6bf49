//! Whose address it is: the visitor's, not a proxy's, and only as much of it as may be kept.
//!
//! The rule kept here: an address in a header is believed only if everybody between it and us is a trusted
//! proxy, and no full address is written unless the operator wants that.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

use super::heard::{Heard, ascii};
use crate::settings::IpMode;

/// How visitors' addresses are found and kept.
#[derive(Clone, Debug)]
pub struct Peers {
    trusted: Vec<IpNet>,
    mode: IpMode,
}

impl Peers {
    /// Believes these proxies and keeps this much.
    pub fn new(trusted: Vec<IpNet>, mode: IpMode) -> Self {
        Self { trusted, mode }
    }

    /// The visitor's address as it is kept, for a request that came from `peer`.
    pub fn visitor(&self, peer: IpAddr, heard: &Heard<'_>) -> Option<IpAddr> {
        match self.mode {
            IpMode::Drop => None,
            IpMode::Keep => self.find(peer.to_canonical(), heard),
            IpMode::Truncate => self.find(peer.to_canonical(), heard).map(truncated),
        }
    }

    /// The visitor's address, all of it, to know one from another and for nothing else. None if nobody says it.
    pub fn client(&self, peer: IpAddr, heard: &Heard<'_>) -> Option<IpAddr> {
        self.find(peer.to_canonical(), heard)
    }

    /// The nearest address that is no trusted proxy's. None if a trusted proxy does not say, in words that
    /// can be read, whom it speaks for.
    fn find(&self, peer: IpAddr, heard: &Heard<'_>) -> Option<IpAddr> {
        if !self.trusts(peer) {
            return Some(peer);
        }
        let mut nearest = peer;
        for hop in hops(heard).into_iter().rev() {
            nearest = hop?;
            if !self.trusts(nearest) {
                break;
            }
        }
        Some(nearest)
    }

    /// Whether it is a trusted proxy's.
    pub fn trusts(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.trusted.iter().any(|network| network.contains(&address))
    }
}

/// What the proxies say, the nearest one last.
fn hops(heard: &Heard<'_>) -> Vec<Option<IpAddr>> {
    if heard.forwarded.is_empty() {
        return texts(&heard.x_forwarded_for).flat_map(|text| text.split(',')).map(address).collect();
    }
    texts(&heard.forwarded).flat_map(forwarded).collect()
}

fn texts<'a>(lines: &[&'a [u8]]) -> impl Iterator<Item = &'a str> {
    lines.iter().map(|line| ascii(line).unwrap_or_default())
}

/// The `for` of each element of `Forwarded` (<https://www.rfc-editor.org/rfc/rfc7239#section-4>).
fn forwarded(text: &str) -> Vec<Option<IpAddr>> {
    split_unquoted(text, ',')
        .into_iter()
        .map(|element| {
            let pairs = split_unquoted(element, ';');
            let value = pairs.into_iter().find_map(|pair| {
                let (name, value) = pair.trim().split_once('=')?;
                name.eq_ignore_ascii_case("for").then_some(value)
            })?;
            match value.strip_prefix('"') {
                Some(quoted) => address(&quoted.strip_suffix('"')?.replace('\\', "")),
                None => address(value),
            }
        })
        .collect()
}

/// Splits where the separator does not stand between quotation marks.
fn split_unquoted(text: &str, separator: char) -> Vec<&str> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    text.split(|c| {
        let is_end = c == separator && !is_quoted;
        is_quoted ^= c == '"' && !is_escaped;
        is_escaped = c == '\\' && is_quoted && !is_escaped;
        is_end
    })
    .collect()
}

/// An address as proxies write it: with or without port, IPv6 in brackets or not. Not one: `unknown`, `_hidden`.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let bracketed = || text.strip_prefix('[')?.split_once(']')?.0.parse().ok();
    let address = text.parse().ok().or_else(bracketed).or_else(|| Some(text.parse::<SocketAddr>().ok()?.ip()));
    address.map(|address: IpAddr| address.to_canonical())
}

fn truncated(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits() & !0xff).into(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 80 << 80).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visitor(peer: &str, headers: &[(&'static str, &str)]) -> Option<String> {
        let trusted = ["10.0.0.0/8", "fd00::/8"].map(|network| network.parse().unwrap()).to_vec();
        kept(&Peers::new(trusted, IpMode::Keep), peer, headers)
    }

    fn kept(peers: &Peers, peer: &str, headers: &[(&'static str, &str)]) -> Option<String> {
        let heard = headers.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
        peers.visitor(peer.parse().unwrap(), &heard).map(|address| address.to_string())
    }

    #[test]
    fn a_stranger_is_not_believed() {
        for header in ["x-forwarded-for", "forwarded"] {
            let value = if header == "forwarded" { "for=192.0.2.1" } else { "192.0.2.1" };
            assert_eq!(visitor("198.51.100.7", &[(header, value)]).as_deref(), Some("198.51.100.7"));
        }
    }

    #[test]
    fn the_nearest_stranger_is_the_visitor() {
        for (headers, expected) in [
            (vec![], Some("10.0.0.1")),
            (vec![("x-forwarded-for", "192.0.2.1")], Some("192.0.2.1")),
            (vec![("x-forwarded-for", "6.6.6.6, 192.0.2.1, 10.9.9.9")], Some("192.0.2.1")),
            (vec![("x-forwarded-for", "6.6.6.6"), ("x-forwarded-for", "192.0.2.1")], Some("192.0.2.1")),
            (vec![("x-forwarded-for", "10.0.0.3, 10.0.0.2")], Some("10.0.0.3")),
            (vec![("x-forwarded-for", "192.0.2.1:4711")], Some("192.0.2.1")),
            (vec![("x-forwarded-for", "[2001:db8::1]:4711")], Some("2001:db8::1")),
            (vec![("x-forwarded-for", "2001:db8::1")], Some("2001:db8::1")),
            (vec![("x-forwarded-for", "::ffff:192.0.2.1")], Some("192.0.2.1")),
            (vec![("x-forwarded-for", "192.0.2.1, nonsense")], None),
            (vec![("x-forwarded-for", "")], None),
            (vec![("forwarded", "for=192.0.2.1;proto=https")], Some("192.0.2.1")),
            (vec![("forwarded", "proto=https;FOR=\"[2001:db8::1]:80\", for=10.2.3.4")], Some("2001:db8::1")),
            (vec![("forwarded", "for=6.6.6.6, for=192.0.2.1;by=\"a,b;for=7.7.7.7\"")], Some("192.0.2.1")),
            (vec![("forwarded", "for=192.0.2.1, for=unknown")], None),
            (vec![("forwarded", "for=192.0.2.1, for=_gazonk")], None),
            (vec![("forwarded", "proto=https")], None),
            (vec![("forwarded", "for=\"192.0.2.1")], None),
            (vec![("forwarded", "for=192.0.2.1"), ("x-forwarded-for", "6.6.6.6")], Some("192.0.2.1")),
        ] {
            assert_eq!(visitor("10.0.0.1", &headers).as_deref(), expected, "{headers:?}");
        }
    }

    #[test]
    fn only_as_much_is_kept_as_may_be() {
        let keep = |mode, peer| kept(&Peers::new(vec![], mode), peer, &[]);
        assert_eq!(keep(IpMode::Truncate, "192.0.2.255").as_deref(), Some("192.0.2.0"));
        assert_eq!(keep(IpMode::Truncate, "::ffff:192.0.2.255").as_deref(), Some("192.0.2.0"));
        assert_eq!(keep(IpMode::Truncate, "2001:db8:1:2:3:4:5:6").as_deref(), Some("2001:db8:1::"));
        assert_eq!(keep(IpMode::Keep, "2001:db8:1:2:3:4:5:6").as_deref(), Some("2001:db8:1:2:3:4:5:6"));
        assert_eq!(keep(IpMode::Drop, "192.0.2.255"), None);
    }
}
