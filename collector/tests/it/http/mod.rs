//! The HTTP front, as browsers, clients and worse see it.

mod answers;
mod attacks;
mod bodies;
mod connections;
mod hostile;
pub mod http2;
mod http2_attacks;
mod limits;
mod proxy_protocol;
mod redirect;
mod script;
mod sign_link;
mod visitors;
mod whole;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

use crate::harness::{Collector, PATIENCE, Reply, assert_ledger_adds_up};

/// It is answered by hyper, and so is all that follows it on its connection.
pub const OF_HYPER: &str = "GET /nothing HTTP/1.1\r\nHost: beacons.example\r\nUpgrade: none\r\n\r\n";

/// A collector with a folder of its own.
pub struct Fixture {
    pub collector: Collector,
    _folder: TempDir,
}

impl Fixture {
    pub fn start(flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let flags = [&["--segment-size=4MiB", "--reserve=1MiB"], flags].concat();
        Self { collector: Collector::start(&folder.path().join("data"), &flags), _folder: folder }
    }

    pub fn connect(&self) -> Connection {
        Connection::open(self.collector.http)
    }

    /// Asserts how many events were received, logged and refused once all are through. A pixel is answered before
    /// it is counted, so this may take a moment.
    pub fn assert_ledger(&self, expected: [u64; 3]) {
        let deadline = Instant::now() + PATIENCE;
        while self.ledger() != expected {
            assert!(Instant::now() < deadline, "{:?} are not {expected:?}", self.ledger());
            thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(self.ledger(), expected);
    }

    /// Events received, logged and refused so far.
    pub fn ledger(&self) -> [u64; 3] {
        assert_ledger_adds_up(&self.collector);
        let metrics = self.collector.metrics();
        ["received", "logged", "refused"].map(|word| {
            let events = metrics.sum(&format!("tallylight_events_{word}_total"));
            format!("{events}").parse().expect("a count")
        })
    }

    /// How many connections are open.
    pub fn connections(&self) -> f64 {
        self.collector.metrics().get("tallylight_http_connections")
    }

    /// What `debug=1` says about a beacon.
    pub fn debug(&self, query: &str, headers: &[(&str, &str)]) -> serde_json::Value {
        let reply = self.collector.request("GET", &format!("/api/beacon?debug=1&{query}"), headers, b"");
        assert_eq!(reply.status, 200, "{}", reply.text());
        serde_json::from_slice(&reply.body).unwrap()
    }
}

/// A connection that stays open, for bytes of any kind.
pub struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    pub fn open(addr: SocketAddr) -> Self {
        Self::of(TcpStream::connect_timeout(&addr, PATIENCE).unwrap()).unwrap()
    }

    /// One that comes from another address of the loopback interface, like 127.0.0.2. It may be refused.
    pub fn open_from(from: Ipv4Addr, addr: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((from, 0)).into())?;
        socket.connect_timeout(&addr.into(), PATIENCE)?;
        Self::of(socket.into())
    }

    fn of(stream: TcpStream) -> io::Result<Self> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.get_mut().write_all(bytes.as_ref()).unwrap();
    }

    /// Like `send`, to a peer that may have stopped listening.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) {
        drop(self.stream.get_mut().write_all(bytes.as_ref()));
    }

    /// Says that nothing more will be sent.
    pub fn half_close(&mut self) {
        self.stream.get_mut().shutdown(Shutdown::Write).unwrap();
    }

    /// The next answer on it.
    pub fn reply(&mut self) -> Reply {
        self.try_reply().expect("an answer, not the end of the connection")
    }

    /// The next answer, or nothing if the peer has closed.
    pub fn try_reply(&mut self) -> Option<Reply> {
        let status: u16 = self.line()?.split(' ').nth(1)?.parse().unwrap();
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            let Some((name, value)) = line.split_once(':') else { break };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let mut reply = Reply { status, headers, body: Vec::new() };
        let len = reply.header("content-length").map_or(0, |len| len.parse().unwrap());
        reply.body = vec![0; len];
        self.stream.read_exact(&mut reply.body).unwrap();
        Some(reply)
    }

    /// Whether the peer closes without another byte.
    pub fn is_closed(&mut self) -> bool {
        matches!(self.stream.fill_buf(), Ok([]))
    }

    /// Whether the peer says nothing for so long, and does not close.
    pub fn stays_open_for(&mut self, time: Duration) -> bool {
        self.stream.get_ref().set_read_timeout(Some(time)).unwrap();
        let said = self.stream.fill_buf().map(<[u8]>::len);
        self.stream.get_ref().set_read_timeout(Some(PATIENCE)).unwrap();
        said.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        // an end in whatever manner: a reset is one, too
        self.stream.read_line(&mut line).ok().filter(|len| *len > 0)?;
        Some(line.trim_end().to_owned())
    }
}

/// The bytes of a POST of a beacon.
pub fn post(query: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut request = format!("POST /api/beacon?{query} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in headers {
        request += &format!("{name}: {value}\r\n");
    }
    [request.as_bytes(), b"\r\n", body].concat()
}
