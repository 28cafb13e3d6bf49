//! What the system counts and tells of a socket.

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The place of the dropped datagrams among the numbers of `SO_MEMINFO` (`SK_MEMINFO_DROPS`), which are so many.
const DROPS: usize = 8;
const MEMINFO_LEN: usize = 9;
/// The place of `tcpi_unacked` in `tcp_info`, in numbers of 32 bits.
const UNACKED: usize = 6;

/// How many datagrams the kernel dropped because this socket's buffer was full, or because they were damaged. Never
/// goes back but around 2³².
///
/// # Errors
/// If the system does not say.
pub fn kernel_drops(socket: &impl AsFd) -> io::Result<u32> {
    // kernels before 4.12 do not know it
    Ok(numbers::<MEMINFO_LEN>(socket, libc::SOL_SOCKET, libc::SO_MEMINFO)?[DROPS])
}

/// How many connections wait to be accepted from this socket, which is what `tcpi_unacked` says of one that listens
/// (`tcp_get_info` in Linux' net/ipv4/tcp.c, as `ss -l` shows it).
///
/// # Errors
/// If the system does not say.
pub fn waiting_connections(listener: &impl AsFd) -> io::Result<u32> {
    Ok(numbers::<{ UNACKED + 1 }>(listener, libc::IPPROTO_TCP, libc::TCP_INFO)?[UNACKED])
}

/// The first so many numbers of an option of a socket, see getsockopt(2).
fn numbers<const LEN: usize>(socket: &impl AsFd, level: libc::c_int, option: libc::c_int) -> io::Result<[u32; LEN]> {
    let mut numbers = [0_u32; LEN];
    let mut len = libc::socklen_t::try_from(mem::size_of_val(&numbers)).expect("a few bytes");
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: `numbers` and `len` live until the call returns, and the kernel writes at most `len` bytes to the first,
    // which is as many as it has; any bytes are numbers. The descriptor is open, since it is borrowed.
    let result = unsafe { libc::getsockopt(fd, level, option, numbers.as_mut_ptr().cast(), &raw mut len) };
    if result == 0 { Ok(numbers) } else { Err(io::Error::last_os_error()) }
}

/// What the system can tell of each datagram beside its bytes and its sender, and [`quinn_udp`] has it tell for QUIC: when it came,
/// to which address, and how it was marked on its way.
const NOTES: [(libc::c_int, libc::c_int); 5] = [
    (libc::SOL_SOCKET, libc::SO_TIMESTAMPNS),
    (libc::IPPROTO_IP, libc::IP_PKTINFO),
    (libc::IPPROTO_IP, libc::IP_RECVTOS),
    (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
    (libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS),
];

/// Has the system tell none of that any more. A socket that goes on to has only lost some time with each datagram.
pub fn take_no_notes(socket: &impl AsFd) {
    let off: libc::c_int = 0;
    let len = libc::socklen_t::try_from(mem::size_of_val(&off)).expect("a few bytes");
    for (level, option) in NOTES {
        // SAFETY: `off` lives until the call returns, and has `len` bytes. The descriptor is open, since it is borrowed.
        unsafe { libc::setsockopt(socket.as_fd().as_raw_fd(), level, option, (&raw const off).cast(), len) };
    }
}

/// Has the event loop tell when there is something to read.
///
/// # Errors
/// If the system does not watch it, or is out of memory.
pub fn watched(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an owned descriptor is open, and is the same, until its owner is dropped, which only the result does.
    Ok(unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream, UdpSocket};

    #[test]
    fn nothing_is_told_of_a_datagram_but_what_is_asked_for() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let socket = UdpSocket::bind(address).unwrap();
            let told = || NOTES.map(|(level, option)| numbers::<1>(&socket, level, option).map_or(0, |[on]| on));
            quinn_udp::UdpSocketState::new((&socket).into()).unwrap();
            assert_ne!(told(), [0; 5], "this turns some on");
            take_no_notes(&socket);
            assert_eq!(told(), [0; 5]);
            assert_eq!(numbers::<1>(&socket, libc::SOL_UDP, libc::UDP_GRO).unwrap(), [1]);
        }
    }

    #[test]
    fn what_the_kernel_drops_is_known() {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.connect(receiver.local_addr().unwrap()).unwrap();
        socket2::SockRef::from(&receiver).set_recv_buffer_size(4096).unwrap();
        assert_eq!(kernel_drops(&receiver).unwrap(), 0);
        for _ in 0..100 {
            sender.send(&[0; 500]).unwrap();
        }
        receiver.set_nonblocking(true).unwrap();
        let received = (0..).take_while(|_| receiver.recv(&mut [0; 500]).is_ok()).count();
        assert_eq!(received + usize::try_from(kernel_drops(&receiver).unwrap()).unwrap(), 100);
        assert!(received < 100);
    }

    #[test]
    fn how_many_connections_wait_is_known() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let _waiting: Vec<_> = (0..7).map(|_| TcpStream::connect(addr).unwrap()).collect();
        let _accepted = [listener.accept().unwrap(), listener.accept().unwrap()];
        assert_eq!(waiting_connections(&listener).unwrap(), 5);
    }
}
