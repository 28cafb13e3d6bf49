//! Where attackers stand: whom they attack, whether they still do, and how much they have done.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use rustix::process::setpriority_process;
use socket2::{Domain, Socket, Type};

/// How long an attacker waits for anything.
const PATIENCE: Duration = Duration::from_millis(200);
/// Attackers have so many addresses where one is not enough: a port waits a minute after each connection.
const ADDRESSES: u64 = 100;

/// Somebody else who is attacked, on the attackers' CPU: takes connections, and reads nothing.
pub struct Sink {
    pub addr: SocketAddr,
    is_over: Arc<AtomicBool>,
}

impl Sink {
    /// Keeps the last ones that came, so many of them.
    pub fn start(kept: usize) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let addr = listener.local_addr()?;
        let is_over = Arc::new(AtomicBool::new(false));
        std::thread::spawn({
            let is_over = Arc::clone(&is_over);
            move || {
                step_back();
                let mut streams = VecDeque::new();
                for stream in listener.incoming().take_while(|_| !is_over.load(Relaxed)) {
                    streams.push_back(stream);
                    streams.drain(..streams.len().saturating_sub(kept));
                }
            }
        });
        Ok(Self { addr, is_over })
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.is_over.store(true, Relaxed);
        // whoever waits for the next one sees it then; if there is nobody, it is over anyway
        let _ = TcpStream::connect(self.addr);
    }
}

/// Shared by the threads of an attack.
pub struct Ground {
    to: SocketAddr,
    is_over: AtomicBool,
    connections: AtomicU64,
    requests: AtomicU64,
    bytes: AtomicU64,
}

/// How much attackers have done.
#[derive(Clone, Copy)]
pub struct Volume {
    pub connections: u64,
    pub requests: u64,
    pub bytes: u64,
}

impl Ground {
    pub fn new(to: SocketAddr) -> Self {
        let zero = || AtomicU64::new(0);
        Self { to, is_over: AtomicBool::new(true), connections: zero(), requests: zero(), bytes: zero() }
    }

    /// An attack begins.
    pub fn open(&self) {
        self.is_over.store(false, Relaxed);
    }

    /// It ends.
    pub fn close(&self) {
        self.is_over.store(true, Relaxed);
    }

    pub fn is_over(&self) -> bool {
        self.is_over.load(Relaxed)
    }

    pub fn volume(&self) -> Volume {
        let [connections, requests, bytes] =
            [&self.connections, &self.requests, &self.bytes].map(|count| count.load(Relaxed));
        Volume { connections, requests, bytes }
    }

    /// Counts requests.
    pub fn requested(&self, more: u64) {
        self.requests.fetch_add(more, Relaxed);
    }

    /// Counts bytes that were sent elsewhere.
    pub fn sent(&self, more: usize) {
        self.bytes.fetch_add(more as u64, Relaxed);
    }

    /// A connection from the one address of this attacker.
    pub fn connect(&self) -> io::Result<TcpStream> {
        self.connect_from(Ipv4Addr::new(127, 0, 66, 1))
    }

    /// A connection from one of many.
    pub fn connect_from_many(&self) -> io::Result<TcpStream> {
        let last = 1 + self.connections.load(Relaxed) % ADDRESSES;
        self.connect_from(Ipv4Addr::new(127, 0, 77, u8::try_from(last).unwrap_or(1)))
    }

    fn connect_from(&self, from: Ipv4Addr) -> io::Result<TcpStream> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((from, 0)).into())?;
        socket.connect_timeout(&self.to.into(), PATIENCE)?;
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        self.connections.fetch_add(1, Relaxed);
        Ok(stream)
    }

    /// Sends all of it, as long as the attack goes on and the collector takes it.
    pub fn send(&self, stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match write(stream, bytes) {
                Ok(len) => {
                    self.sent(len);
                    bytes = &bytes[len..];
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && !self.is_over() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// As much as the kernel takes now, or within the stream's time for that.
pub fn write(stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    Ok(rustix::io::write(stream, bytes)?)
}

/// This thread goes behind the honest clients, which run before all others if that is allowed.
pub fn step_back() {
    // of a thread that may not, the niceness is that of the others
    let _ = setpriority_process(None, 0);
}
