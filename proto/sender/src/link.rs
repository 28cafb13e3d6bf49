//! A connected socket, and how large a datagram may be on its path.
//!
//! The rule kept here: no datagram is sent in fragments, of which one lost would lose all. What does not fit is
//! not sent at all, and from then on less is tried.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};

use rustix::net::sockopt::{self, Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery};

/// The most that UDP takes over IPv4, and what a collector reads.
const MAX_DATAGRAM: usize = 65_507;
/// Every path takes so much. Less would mean that something else is wrong.
pub(crate) const MIN_DATAGRAM: usize = 512;
/// IP and UDP headers.
const HEADERS_V4: usize = 20 + 8;
const HEADERS_V6: usize = 40 + 8;
/// What the path takes if the system does not say: the least MTU of IPv6.
const UNKNOWN: usize = 1280 - HEADERS_V6;

/// Where datagrams go.
#[derive(Debug)]
pub(crate) struct Link {
    socket: UdpSocket,
    most: usize,
}

/// What became of a datagram.
#[derive(Debug)]
pub(crate) enum Sending {
    /// The kernel has it.
    Sent {
        /// Before that, it said that nobody had listened when an earlier one arrived.
        after_refusal: bool,
    },
    /// It is not sent, because it is too large, and so is what [`Link::most`] said before.
    TooLarge,
    /// It is not sent.
    Not(io::Error),
}

impl Link {
    /// Connects to the first address that can be. `most` bounds datagrams beside what the path does.
    pub(crate) fn connect(addr: impl ToSocketAddrs, most: Option<usize>) -> io::Result<Self> {
        let mut failed = io::Error::new(ErrorKind::InvalidInput, "there is no address");
        for addr in addr.to_socket_addrs()? {
            match connected(addr) {
                Ok(socket) => {
                    let most = path_size(&socket).min(most.unwrap_or(MAX_DATAGRAM)).max(MIN_DATAGRAM);
                    return Ok(Self { socket, most });
                }
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    /// From now on, a socket that takes nothing is an error rather than a wait.
    pub(crate) fn never_wait(&self) -> io::Result<()> {
        self.socket.set_nonblocking(true)
    }

    /// The most bytes of a datagram.
    pub(crate) fn most(&self) -> usize {
        self.most
    }

    /// Sends one.
    pub(crate) fn send(&mut self, datagram: &[u8]) -> Sending {
        let mut after_refusal = false;
        loop {
            match self.socket.send(datagram) {
                Ok(_) => return Sending::Sent { after_refusal },
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // an earlier one's error: this one was not tried
                Err(error) if error.kind() == ErrorKind::ConnectionRefused && !after_refusal => after_refusal = true,
                Err(error) if rustix::io::Errno::from_io_error(&error) == Some(rustix::io::Errno::MSGSIZE) => {
                    return if self.shrink(datagram.len()) { Sending::TooLarge } else { Sending::Not(error) };
                }
                Err(error) => return Sending::Not(error),
            }
        }
    }

    /// Whether what was sent last turned out to be refused, as far as that is known by now.
    pub(crate) fn is_refused(&self) -> bool {
        matches!(self.socket.take_error(), Ok(Some(error)) if error.kind() == ErrorKind::ConnectionRefused)
    }

    /// A datagram of `tried` bytes is too large. What the path takes now, if the system knows, else half.
    fn shrink(&mut self, tried: usize) -> bool {
        if tried <= MIN_DATAGRAM {
            return false;
        }
        let path = path_size(&self.socket);
        let less = if path < tried { path } else { tried / 2 };
        self.most = less.min(self.most).max(MIN_DATAGRAM);
        true
    }
}

#[cfg(test)]
impl Link {
    /// Nothing can be sent any more.
    pub(crate) fn end(&self) {
        rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Write).unwrap();
    }

    /// The path seems to take more than it does.
    pub(crate) fn pretend(&mut self, most: usize) {
        self.most = most;
    }
}

fn connected(addr: SocketAddr) -> io::Result<UdpSocket> {
    let any = match addr {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = UdpSocket::bind(any)?;
    match addr {
        SocketAddr::V4(_) => sockopt::set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::DO)?,
        SocketAddr::V6(_) => sockopt::set_ipv6_mtu_discover(&socket, Ipv6PathMtuDiscovery::DO)?,
    }
    socket.connect(addr)?;
    Ok(socket)
}

/// The largest datagram that the path takes whole, as far as the system knows now.
fn path_size(socket: &UdpSocket) -> usize {
    let size = match socket.peer_addr() {
        Ok(SocketAddr::V4(_)) => sockopt::ip_mtu(socket).map(|mtu| (mtu as usize).saturating_sub(HEADERS_V4)),
        Ok(SocketAddr::V6(_)) => sockopt::ipv6_mtu(socket).map(|mtu| (mtu as usize).saturating_sub(HEADERS_V6)),
        Err(_) => return UNKNOWN,
    };
    size.unwrap_or(UNKNOWN).clamp(MIN_DATAGRAM, MAX_DATAGRAM)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (UdpSocket, Link) {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        let link = Link::connect(receiver.local_addr().unwrap(), None).unwrap();
        (receiver, link)
    }

    #[test]
    fn loopback_takes_what_udp_does() {
        let (receiver, mut link) = pair();
        assert_eq!(link.most(), MAX_DATAGRAM);
        let datagram = vec![7; link.most()];
        assert!(matches!(link.send(&datagram), Sending::Sent { after_refusal: false }));
        let mut buffer = vec![0; MAX_DATAGRAM + 1];
        assert_eq!(receiver.recv(&mut buffer).unwrap(), MAX_DATAGRAM);
        let v6 = UdpSocket::bind("[::1]:0").unwrap();
        let link = Link::connect(v6.local_addr().unwrap(), None).unwrap();
        assert_eq!(link.most(), 65_536 - HEADERS_V6);
    }

    #[test]
    fn a_bound_is_kept_and_a_silly_one_is_not() {
        let (receiver, _) = pair();
        let addr = receiver.local_addr().unwrap();
        for (most, is) in [(9000, 9000), (100_000, MAX_DATAGRAM), (1, MIN_DATAGRAM)] {
            assert_eq!(Link::connect(addr, Some(most)).unwrap().most(), is);
        }
    }

    #[test]
    fn what_is_too_large_is_not_sent_and_less_is_tried_from_then_on() {
        let (_receiver, mut link) = pair();
        link.pretend(70_000);
        assert!(matches!(link.send(&[7; 70_000]), Sending::TooLarge));
        assert_eq!(link.most(), MAX_DATAGRAM);
        // the system knows no better
        assert!(link.shrink(60_000));
        assert_eq!(link.most(), 30_000);
        assert!(link.shrink(600));
        assert_eq!(link.most(), MIN_DATAGRAM);
        assert!(!link.shrink(MIN_DATAGRAM));
    }

    #[test]
    fn the_refusal_of_an_earlier_datagram_does_not_take_the_next_one_along() {
        let (receiver, mut link) = pair();
        let addr = receiver.local_addr().unwrap();
        drop(receiver);
        assert!(matches!(link.send(b"a=1"), Sending::Sent { after_refusal: false }));
        let receiver = UdpSocket::bind(addr).unwrap();
        assert!(matches!(link.send(b"a=2"), Sending::Sent { after_refusal: true }));
        let mut buffer = [0; 9];
        assert_eq!(receiver.recv(&mut buffer).unwrap(), 3);
        assert_eq!(&buffer[..3], b"a=2");
        assert!(!link.is_refused());
    }

    #[test]
    fn what_has_no_address_is_an_error() {
        assert!(Link::connect(&[][..], None).is_err());
        assert!(Link::connect("127.0.0.1", None).is_err());
    }
}
