//! The PROXY protocol: for whom a proxy speaks, said once and before all else on a connection
//! (<https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>).
//!
//! | version | bytes |
//! | --- | --- |
//! | 1 | `PROXY TCP4 192.0.2.1 198.51.100.1 4711 443\r\n`, also `TCP6` and `UNKNOWN`; 107 at most |
//! | 2 | `\r\n\r\n\0\r\nQUIT\n`, command, family, length u16 of what follows: addresses, then TLVs |
//!
//! The rule kept here: where a header ends is known from the header alone, so what follows it is the connection's, however
//! they are cut into reads. Only one that is whole is read, and that by a library.

use std::net::IpAddr;

use bytes::BytesMut;
use proxy_header::{ParseConfig, ProxyHeader};

/// How a header of version 1 begins.
const V1: &[u8] = b"PROXY ";
/// Its longest one, with its end.
const V1_MOST: usize = 107;
/// How a header of version 2 begins.
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Up to and with its length.
const V2_FIXED: usize = 16;
/// Its longest one here. It could say 64 KiB, which every connection could then have us keep; what proxies put into
/// TLVs, a client's certificate at most, fits into this.
const V2_MOST: usize = 4096;
/// The command of version 2 for a connection that the proxy opened for itself.
const LOCAL: u8 = 0x20;

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// The connection is this client's.
    Client(IpAddr),
    /// It is the proxy's own, to see whether we are well, or of somebody who has no address (`LOCAL`, `UNKNOWN`, a Unix socket).
    Proxys,
    /// It is no header.
    Nonsense,
}

/// Why a connection is closed that should have begun with a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderRefusal {
    /// Its peer is no trusted proxy.
    Address,
    /// It begins with something else, or with more than a header may have.
    Malformed,
    /// The header was not whole when time was up, or when its peer had gone.
    Incomplete,
}

impl HeaderRefusal {
    /// All of them, in the order of [`Self::index`].
    pub const ALL: [Self; 3] = [Self::Address, Self::Malformed, Self::Incomplete];

    /// The word used in metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Malformed => "malformed",
            Self::Incomplete => "incomplete",
        }
    }

    /// The place in tables with one slot for each.
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// Takes the header off what a connection began with. None if there is more to come of it.
pub(super) fn take(seen: &mut BytesMut) -> Option<Said> {
    match len(seen) {
        Ok(len) => len.map(|len| read(&seen.split_to(len))),
        Err(Endless) => Some(Said::Nonsense),
    }
}

/// There is no header in it, or none that is short enough.
struct Endless;

/// How long the header is that these bytes begin with. None if they are not all of it.
fn len(bytes: &[u8]) -> Result<Option<usize>, Endless> {
    if is_beginning(bytes, V1) {
        let line = &bytes[..bytes.len().min(V1_MOST)];
        let len = line.iter().position(|byte| *byte == b'\n').map(|end| end + 1);
        return if len.is_none() && line.len() == V1_MOST { Err(Endless) } else { Ok(len) };
    }
    if !is_beginning(bytes, V2) {
        return Err(Endless);
    }
    let Some(fixed) = bytes.get(..V2_FIXED) else { return Ok(None) };
    let len = V2_FIXED + usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if len > V2_MOST { Err(Endless) } else { Ok((len <= bytes.len()).then_some(len)) }
}

/// Whether these bytes begin as that does, as far as they go.
fn is_beginning(bytes: &[u8], of: &[u8]) -> bool {
    bytes.iter().zip(of).all(|(byte, known)| byte == known)
}

/// Reads a whole header.
fn read(header: &[u8]) -> Said {
    if header.starts_with(V2) && header[V2.len()] == LOCAL {
        // what else it says is not to be looked at
        return Said::Proxys;
    }
    let config = ParseConfig { include_tlvs: false, ..ParseConfig::default() };
    match ProxyHeader::parse(header, config) {
        Ok((said, len)) if len == header.len() => {
            said.proxied_address().map_or(Said::Proxys, |proxied| Said::Client(proxied.source.ip()))
        }
        _ => Said::Nonsense,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proxy_header::ProxiedAddress;

    const REQUEST: &[u8] = b"GET /pixel.gif HTTP/1.1\r\n\r\n";

    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let len = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [V2, &[command, family], &len, rest].concat()
    }

    /// What the header in front of a request says, and what of the request is left.
    fn said(header: &[u8]) -> (Option<Said>, Vec<u8>) {
        let mut seen = BytesMut::from(&[header, REQUEST].concat()[..]);
        let said = take(&mut seen);
        (said, seen.to_vec())
    }

    #[test]
    fn what_is_said_in_either_version_is_understood_and_what_follows_it_is_left() {
        let v4 = [192, 0, 2, 1, 198, 51, 100, 1, 0x12, 0x34, 0x01, 0xBB];
        let v6: [u8; 36] = std::array::from_fn(|n| if n < 16 { [0x20, 1, 0xD, 0xB8][n % 4] } else { 9 });
        let tlvs = [&v4[..], &[0x02, 0, 5], b"a.com", &[0x04, 1, 0], &[0; 256]].concat();
        let client = |text: &str| Said::Client(text.parse().unwrap());
        for (header, expected) in [
            (b"PROXY TCP4 192.0.2.1 198.51.100.1 4711 443\r\n".to_vec(), client("192.0.2.1")),
            (b"PROXY TCP6 2001:db8::1 ::1 4711 443\r\n".to_vec(), client("2001:db8::1")),
            (b"PROXY UNKNOWN\r\n".to_vec(), Said::Proxys),
            (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n".to_vec(), Said::Proxys),
            (v2(0x21, 0x11, &v4), client("192.0.2.1")),
            (v2(0x21, 0x21, &v6), client("2001:db8:2001:db8:2001:db8:2001:db8")),
            (v2(0x21, 0x11, &tlvs), client("192.0.2.1")),
            (v2(0x21, 0x11, &[&v4[..], &[0; V2_MOST - V2_FIXED - 12]].concat()), client("192.0.2.1")),
            (v2(0x21, 0x31, &[b'/'; 216]), Said::Proxys),
            (v2(0x21, 0x00, b"of any kind"), Said::Proxys),
            (v2(0x20, 0x00, b""), Said::Proxys),
            (v2(0x20, 0x11, &v4), Said::Proxys),
            (v2(0x20, 0x77, b"what is not looked at"), Said::Proxys),
        ] {
            let name = header.escape_ascii().to_string();
            assert_eq!(said(&header), (Some(expected), REQUEST.to_vec()), "{name}");
            for cut in 0..header.len() {
                let mut seen = BytesMut::from(&header[..cut]);
                assert_eq!(take(&mut seen), None, "{name} cut at {cut}");
                assert_eq!(seen, header[..cut]);
            }
        }
    }

    #[test]
    fn what_is_no_header_is_known_as_soon_as_it_can_be() {
        let too_long = format!("PROXY UNKNOWN {}", "a".repeat(V1_MOST - 14));
        let v4 = [192, 0, 2, 1, 198, 51, 100, 1, 0x12, 0x34, 0x01, 0xBB];
        for bytes in [
            &b"G"[..],
            b"PROXI",
            b"PROXY\r",
            b"\r\n\r\nG",
            b"PROXY \n",
            b"PROXY TCP4\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.1 4711 443\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.1 4711 65536\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.1 4711 443 \r\n",
            b"PROXY TCP4 ::1 ::1 4711 443\r\n",
            b"PROXY TCP4 192.0.2.256 198.51.100.1 4711 443\r\n",
            b"PROXY TCP5 192.0.2.1 198.51.100.1 4711 443\r\n",
            b"PROXY UNKNOWN a\r b\n",
            too_long.as_bytes(),
            &v2(0x21, 0x11, &v4[..11]),
            &v2(0x21, 0x21, &v4),
            &v2(0x22, 0x11, &v4),
            &v2(0x11, 0x11, &v4),
            &v2(0x21, 0x41, &v4),
            &v2(0x21, 0x00, &[0; V2_MOST - V2_FIXED + 1])[..V2_FIXED],
        ] {
            assert_eq!(take(&mut BytesMut::from(bytes)), Some(Said::Nonsense), "{}", bytes.escape_ascii());
        }
        assert_eq!(take(&mut BytesMut::from(&too_long.as_bytes()[..V1_MOST - 1])), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_header_or_not_and_no_more_than_one_is_taken(
            begin in prop::sample::select(vec![&b""[..], V1, b"PROXY TCP4 ", b"PROXY TCP6 ", b"PROXY UNKNOWN", V2,
                b"\r\n\r\n\0\r\nQUIT\n\x21\x11", b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0"]),
            rest in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let all = [begin, &rest].concat();
            let mut seen = BytesMut::from(&all[..]);
            let whole = take(&mut seen);
            prop_assert!(all.ends_with(&seen) && all.len() - seen.len() <= V2_MOST);
            // the same, as it would have come byte by byte
            let mut pieces = BytesMut::new();
            let first = all.iter().find_map(|byte| {
                pieces.extend_from_slice(&[*byte]);
                take(&mut pieces)
            });
            prop_assert_eq!(first, whole);
        }

        #[test]
        fn whatever_addresses_are_said_are_understood(
            source: std::net::SocketAddr, destination: std::net::SocketAddr, is_v1: bool,
        ) {
            prop_assume!(source.is_ipv4() == destination.is_ipv4());
            let header = ProxyHeader::with_address(ProxiedAddress::stream(source, destination));
            let mut bytes = Vec::new();
            if is_v1 { header.encode_v1(&mut bytes) } else { header.encode_v2(&mut bytes) }.unwrap();
            prop_assert_eq!(said(&bytes), (Some(Said::Client(source.ip())), REQUEST.to_vec()));
        }
    }
}
