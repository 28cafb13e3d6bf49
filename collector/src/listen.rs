//! Sockets to accept and to receive on: bound before anything else is begun, one for each worker, or handed over by
//! systemd.
//!
//! The rule kept here: whoever wants a taken port is told at the start. Each worker has a socket of its own
//! for each address (`SO_REUSEPORT`), so that the kernel deals connections and senders out and workers share nothing.
//! Handed over sockets are shared instead, and never shut down: what is in their queue is the next process's.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use rustix::io::Errno;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tallylight_service::handed_over::{HandedOver, HandedOverError};
use thiserror::Error;

use crate::socket_state::kernel_drops;

/// Connections that wait to be accepted. The kernel cuts it to `net.core.somaxconn`.
pub(crate) const BACKLOG: i32 = 4096;

/// Why there is nothing to listen on.
#[derive(Debug, Error)]
pub enum ListenError {
    /// The address is taken, or not this machine's.
    #[error("cannot listen on {addr}: {source}")]
    Bind {
        /// As given.
        addr: SocketAddr,
        /// The system's reason.
        source: io::Error,
    },
    /// What was handed over is neither a listening TCP socket nor a UDP socket.
    #[error("{error}: {}", .error.source)]
    HandedOver {
        /// Which one, and why.
        #[from]
        error: HandedOverError,
    },
}

/// What is to be listened on.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Where to accept connections.
    pub http: Vec<SocketAddr>,
    /// Where to receive datagrams.
    pub udp: Vec<SocketAddr>,
    /// For how many workers.
    pub workers: usize,
    /// Time for a peer that takes none of its answer.
    pub stall: Duration,
    /// Bytes of datagrams that may wait in the kernel, for each socket.
    pub receive_buffer: usize,
}

/// Bound sockets.
#[derive(Debug)]
pub struct Listeners {
    /// To accept on.
    pub http: Sockets<TcpListener>,
    /// To receive on.
    pub udp: Sockets<UdpSocket>,
}

/// Bound sockets of one kind.
#[derive(Debug)]
pub struct Sockets<S> {
    /// For each worker one for each address.
    pub of_workers: Vec<Vec<S>>,
    /// Where they are bound, with the port that port 0 became.
    pub addrs: Vec<SocketAddr>,
    /// They were handed over: others use them, too, also when this process has gone.
    pub are_shared: bool,
}

/// A socket that receives datagrams.
#[derive(Debug)]
pub struct UdpSocket {
    /// The socket.
    pub socket: std::net::UdpSocket,
    /// Datagrams dropped by the kernel that are not to be counted by whoever has this. None: all are another one's to
    /// count, who shares the socket.
    pub drops_before: Option<u32>,
    /// Bytes that may wait in it, as the kernel granted.
    pub buffer: usize,
}

impl Listeners {
    /// Sockets at these addresses. Where some of a kind were handed over, it is those.
    ///
    /// # Errors
    /// If one cannot be had.
    pub fn bind(wanted: &Wanted, handed_over: Vec<HandedOver>) -> Result<Self, ListenError> {
        let mut listeners = Self { http: Sockets::new(wanted.workers), udp: Sockets::new(wanted.workers) };
        for HandedOver { name, fd, socket } in handed_over {
            listeners.add_shared(&socket, wanted).map_err(|source| HandedOverError { name, fd, source })?;
        }
        let Self { http, udp } = &mut listeners;
        if !http.are_shared {
            for addr in wanted.http.iter().copied() {
                http.add(addr, wanted).map_err(|source| ListenError::Bind { addr, source })?;
            }
        }
        if !udp.are_shared {
            for addr in wanted.udp.iter().copied() {
                udp.add(addr, wanted).map_err(|source| ListenError::Bind { addr, source })?;
            }
        }
        Ok(listeners)
    }

    fn add_shared(&mut self, socket: &Socket, wanted: &Wanted) -> io::Result<()> {
        let addr = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::InvalidInput)?;
        match socket.r#type()? {
            Type::STREAM if socket.is_listener()? => self.http.add_shared(addr, socket, wanted),
            Type::DGRAM => self.udp.add_shared(addr, socket, wanted),
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }
}

impl<S> Sockets<S> {
    fn new(workers: usize) -> Self {
        Self {
            of_workers: std::iter::repeat_with(Vec::new).take(workers).collect(),
            addrs: Vec::new(),
            are_shared: false,
        }
    }
}

impl Sockets<TcpListener> {
    fn add(&mut self, addr: SocketAddr, wanted: &Wanted) -> io::Result<()> {
        // A port that somebody else has, with SO_REUSEPORT too, would be shared with them without a word. It is not listened
        // on for that: who connected just then would be reset.
        drop(bind_tcp(addr, false)?);
        let mut addr = addr;
        for worker in &mut self.of_workers {
            let socket = bind_tcp(addr, true)?;
            prepare_tcp(&socket, wanted.stall)?;
            socket.listen(BACKLOG)?;
            let listener = TcpListener::from(socket);
            // port 0 is decided by the first
            addr = listener.local_addr()?;
            worker.push(listener);
        }
        self.addrs.push(addr);
        Ok(())
    }

    fn add_shared(&mut self, addr: SocketAddr, socket: &Socket, wanted: &Wanted) -> io::Result<()> {
        prepare_tcp(socket, wanted.stall)?;
        for worker in &mut self.of_workers {
            worker.push(socket.try_clone()?.into());
        }
        self.addrs.push(addr);
        self.are_shared = true;
        Ok(())
    }
}

impl Sockets<UdpSocket> {
    fn add(&mut self, addr: SocketAddr, wanted: &Wanted) -> io::Result<()> {
        let mut addr = addr;
        for (number, worker) in self.of_workers.iter_mut().enumerate() {
            // The first is bound without SO_REUSEPORT and gets it then: a port that somebody else has, with
            // SO_REUSEPORT too, would be shared with them without a word, and port 0 could become such a port.
            let socket = bind_udp(addr, number > 0, wanted.receive_buffer)?;
            socket.set_reuse_port(true)?;
            let buffer = receive_buffer(&socket)?;
            let socket = std::net::UdpSocket::from(socket);
            addr = socket.local_addr()?;
            worker.push(UdpSocket { socket, drops_before: Some(0), buffer });
        }
        self.tell_buffer(addr, wanted.receive_buffer, "net.core.rmem_max limits it");
        self.addrs.push(addr);
        Ok(())
    }

    fn add_shared(&mut self, addr: SocketAddr, socket: &Socket, wanted: &Wanted) -> io::Result<()> {
        socket.set_nonblocking(true)?;
        let buffer = receive_buffer(socket)?;
        // The socket is older than this process. What it dropped so far was counted by the process before this one, or
        // while there was none to count: it is not of this life.
        let mut drops_before = Some(kernel_drops(socket)?);
        for worker in &mut self.of_workers {
            let socket = socket.try_clone()?.into();
            // the first worker counts for all
            worker.push(UdpSocket { socket, drops_before: drops_before.take(), buffer });
        }
        self.tell_buffer(addr, wanted.receive_buffer, "it came with the socket that was handed over (ReceiveBuffer=)");
        self.addrs.push(addr);
        self.are_shared = true;
        Ok(())
    }

    fn tell_buffer(&self, addr: SocketAddr, wanted: usize, limit: &str) {
        let Some(granted) = self.smallest_buffer() else { return };
        if granted < wanted {
            tracing::warn!(%addr, wanted, granted, "the receive buffer is smaller than wanted: {limit}");
        } else {
            tracing::info!(%addr, wanted, granted, "receive buffer");
        }
    }

    /// Bytes that may wait in each socket, at least. None if there is no socket.
    pub fn smallest_buffer(&self) -> Option<usize> {
        self.of_workers.iter().flatten().map(|socket| socket.buffer).min()
    }
}

fn bind_tcp(addr: SocketAddr, is_one_of_many: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(is_one_of_many)?;
    if addr.is_ipv6() {
        // [::] beside 0.0.0.0 must be possible, and means the same everywhere
        socket.set_only_v6(true)?;
    }
    socket.bind(&addr.into())?;
    Ok(socket)
}

/// What accepted connections inherit.
fn prepare_tcp(socket: &Socket, stall: Duration) -> io::Result<()> {
    let socket = SockRef::from(socket);
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_user_timeout(Some(stall))
}

/// Not with SO_REUSEADDR: for datagrams that lets anybody take the port over.
fn bind_udp(addr: SocketAddr, is_one_of_many: bool, buffer: usize) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_port(is_one_of_many)?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // before it is bound: the first datagram may come right then
    socket.set_recv_buffer_size(buffer)?;
    socket.bind(&addr.into())?;
    Ok(socket)
}

/// Bytes that may wait in a socket, in the measure in which they are asked for: Linux doubles that to make up for its
/// own overhead, and answers with the double (`socket(7)`).
fn receive_buffer(socket: &Socket) -> io::Result<usize> {
    Ok(socket.recv_buffer_size()? / 2)
}

/// Whether the system is short of something, so that asking again at once would only spin.
pub fn is_shortage(error: &io::Error) -> bool {
    let shortages = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    shortages.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANY: [&str; 2] = ["127.0.0.1:0", "127.0.0.1:0"];

    fn wanted(http: &[&str], udp: &[&str], workers: usize) -> Wanted {
        let addrs = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        Wanted { http: addrs(http), udp: addrs(udp), workers, stall: Duration::from_secs(10), receive_buffer: 65_536 }
    }

    #[test]
    fn workers_share_a_port_that_nobody_else_gets() {
        let listeners = Listeners::bind(&wanted(&ANY, &ANY, 3), Vec::new()).unwrap();
        let Listeners { http, udp } = &listeners;
        for addrs in [&http.addrs, &udp.addrs] {
            assert_eq!(addrs.len(), 2);
            assert_ne!(addrs[0], addrs[1]);
        }
        for (http_of_one, udp_of_one) in http.of_workers.iter().zip(&udp.of_workers) {
            let addrs: Vec<_> = http_of_one.iter().map(|listener| listener.local_addr().unwrap()).collect();
            assert_eq!(addrs, http.addrs);
            let addrs: Vec<_> = udp_of_one.iter().map(|socket| socket.socket.local_addr().unwrap()).collect();
            assert_eq!(addrs, udp.addrs);
        }
        let (http, udp) = (http.addrs[0].to_string(), udp.addrs[0].to_string());
        for (wanted, taken) in [(wanted(&[&http], &[], 1), &http), (wanted(&[], &[&udp], 2), &udp)] {
            let error = Listeners::bind(&wanted, Vec::new()).unwrap_err();
            assert!(error.to_string().contains(taken), "{error}");
        }
    }

    #[test]
    fn datagrams_of_many_senders_reach_every_worker() {
        let listeners = Listeners::bind(&wanted(&[], &["127.0.0.1:0"], 2), Vec::new()).unwrap();
        for _ in 0..64 {
            let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            sender.send_to(b"a=1", listeners.udp.addrs[0]).unwrap();
        }
        let received =
            |worker: &Vec<UdpSocket>| (0..).take_while(|_| worker[0].socket.recv(&mut [0; 9]).is_ok()).count();
        let received: Vec<usize> = listeners.udp.of_workers.iter().map(received).collect();
        assert_eq!(received.iter().sum::<usize>(), 64);
        assert!(received.iter().all(|count| *count > 0), "{received:?}");
    }

    #[test]
    fn the_receive_buffer_is_told_as_it_was_asked_for() {
        let listeners = Listeners::bind(&wanted(&[], &["127.0.0.1:0"], 1), Vec::new()).unwrap();
        assert_eq!(listeners.udp.smallest_buffer(), Some(65_536));
        let greedy = Wanted { receive_buffer: 512 << 20, ..wanted(&[], &["127.0.0.1:0"], 1) };
        let granted = Listeners::bind(&greedy, Vec::new()).unwrap().udp.smallest_buffer().unwrap();
        let limit = std::fs::read_to_string("/proc/sys/net/core/rmem_max").unwrap();
        assert_eq!(granted, limit.trim().parse::<usize>().unwrap().min(512 << 20));
    }

    #[test]
    fn both_families_of_addresses_may_have_the_same_port() {
        let v4 = Listeners::bind(&wanted(&[], &["0.0.0.0:0"], 2), Vec::new()).unwrap();
        let v6 = format!("[::]:{}", v4.udp.addrs[0].port());
        assert_eq!(Listeners::bind(&wanted(&[], &[&v6], 2), Vec::new()).unwrap().udp.addrs.len(), 1);
    }
}
