//! Sockets to accept on: bound before anything else is begun, one for each worker, or handed over by systemd.
//!
//! The rule kept here: whoever wants a taken port is told at the start. Each worker has a socket of its own
//! for each address (`SO_REUSEPORT`), so that the kernel deals connections out and workers share nothing. Handed
//! over sockets are shared instead, and never shut down: connections in their queue are the next process's.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{FromRawFd, OwnedFd};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use thiserror::Error;

/// Connections that wait to be accepted. The kernel cuts it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;
/// The first descriptor that is handed over, `sd_listen_fds(3)`.
const FIRST_HANDED_OVER: i32 = 3;

/// Why there is nothing to accept on.
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
    /// What was handed over is no listening TCP socket.
    #[error("the socket handed over as descriptor {fd} cannot be used: {source}")]
    HandedOver {
        /// Its number.
        fd: i32,
        /// The system's reason.
        source: io::Error,
    },
}

/// Bound sockets for all workers.
#[derive(Debug)]
pub struct Listeners {
    /// For each worker one for each address.
    pub of_workers: Vec<Vec<TcpListener>>,
    /// Where they listen, with the port that port 0 became.
    pub addrs: Vec<SocketAddr>,
    /// They were handed over.
    pub are_shared: bool,
}

impl Listeners {
    /// Sockets at these addresses, or those handed over if there are any. `stall` is the time for a peer that
    /// takes nothing.
    ///
    /// # Errors
    /// If one cannot be had.
    pub fn bind(addrs: impl Iterator<Item = SocketAddr>, workers: usize, stall: Duration) -> Result<Self, ListenError> {
        let handed_over = handed_over()?;
        let are_shared = !handed_over.is_empty();
        let mut listeners = Self { of_workers: Vec::new(), addrs: Vec::new(), are_shared };
        listeners.of_workers.resize_with(workers, Vec::new);
        for (fd, first) in (FIRST_HANDED_OVER..).zip(handed_over) {
            let added = listeners.add_shared(&first, stall);
            added.map_err(|source| ListenError::HandedOver { fd, source })?;
        }
        if !are_shared {
            for addr in addrs {
                listeners.add(addr, stall).map_err(|source| ListenError::Bind { addr, source })?;
            }
        }
        Ok(listeners)
    }

    fn add(&mut self, addr: SocketAddr, stall: Duration) -> io::Result<()> {
        // a port that somebody else has, with SO_REUSEPORT too, would be shared with them without a word
        drop(bind(addr, false, stall)?);
        let mut addr = addr;
        for worker in &mut self.of_workers {
            let listener = bind(addr, true, stall)?;
            // port 0 is decided by the first
            addr = listener.local_addr()?;
            worker.push(listener);
        }
        self.addrs.push(addr);
        Ok(())
    }

    fn add_shared(&mut self, first: &Socket, stall: Duration) -> io::Result<()> {
        if first.r#type()? != Type::STREAM || !first.is_listener()? {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        prepare(first, stall)?;
        let addr = first.local_addr()?.as_socket().ok_or(io::ErrorKind::InvalidInput)?;
        for worker in &mut self.of_workers {
            worker.push(first.try_clone()?.into());
        }
        self.addrs.push(addr);
        Ok(())
    }
}

fn bind(addr: SocketAddr, is_one_of_many: bool, stall: Duration) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(is_one_of_many)?;
    if addr.is_ipv6() {
        // [::] beside 0.0.0.0 must be possible, and means the same everywhere
        socket.set_only_v6(true)?;
    }
    socket.bind(&addr.into())?;
    prepare(&socket, stall)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// What accepted connections inherit.
fn prepare(socket: &Socket, stall: Duration) -> io::Result<()> {
    let socket = SockRef::from(socket);
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_user_timeout(Some(stall))
}

/// The sockets that systemd handed over, `sd_listen_fds(3)`. To be called once.
fn handed_over() -> Result<Vec<Socket>, ListenError> {
    let variable = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    // the variables may be somebody else's who started us without asking
    if variable("LISTEN_PID") != Some(std::process::id()) {
        return Ok(Vec::new());
    }
    let count = variable("LISTEN_FDS").and_then(|count| i32::try_from(count).ok()).unwrap_or_default();
    let fds = FIRST_HANDED_OVER..FIRST_HANDED_OVER.saturating_add(count);
    fds.map(|fd| take_over(fd).map_err(|source| ListenError::HandedOver { fd, source })).collect()
}

fn take_over(fd: i32) -> io::Result<Socket> {
    // it must be open: nothing else may be promised to `from_raw_fd`
    std::fs::symlink_metadata(format!("/proc/self/fd/{fd}"))?;
    // SAFETY: it is open, as just seen, and nobody else's: systemd handed it to this very process (LISTEN_PID),
    // which opens nothing at a number that is taken and calls this once.
    let owned = unsafe { OwnedFd::from_raw_fd(fd) };
    let socket = Socket::from(owned);
    socket.set_cloexec(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STALL: Duration = Duration::from_secs(10);

    #[test]
    fn workers_share_a_port_that_nobody_else_gets() {
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let listeners = Listeners::bind([any, any].into_iter(), 3, STALL).unwrap();
        assert_eq!(listeners.addrs.len(), 2);
        assert_ne!(listeners.addrs[0], listeners.addrs[1]);
        for worker in &listeners.of_workers {
            let addrs: Vec<_> = worker.iter().map(|listener| listener.local_addr().unwrap()).collect();
            assert_eq!(addrs, listeners.addrs);
        }
        let error = Listeners::bind([listeners.addrs[0]].into_iter(), 1, STALL).unwrap_err();
        assert!(error.to_string().contains(&listeners.addrs[0].to_string()), "{error}");
    }
}
