//! A sender of datagrams as a test wants one: it knows its number, can skip some, and can send the same bytes again.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use tallylight_proto::datagram;
use tallylight_proto::keys::Key;

/// A life of a sender of framed datagrams, on a socket of its own.
pub struct Source {
    /// What it drew.
    pub source: u64,
    /// The next number.
    pub next: u64,
    key: Option<Key>,
    socket: UdpSocket,
}

impl Source {
    /// An unkeyed one.
    pub fn new(to: SocketAddr) -> Self {
        Self::on(socket(to), None)
    }

    /// One whose datagrams are tagged.
    pub fn keyed(to: SocketAddr, key: Key) -> Self {
        Self::on(socket(to), Some(key))
    }

    /// One on a socket that is connected already.
    pub fn on(socket: UdpSocket, key: Option<Key>) -> Self {
        Self { source: RandomState::new().build_hasher().finish(), next: 1, key, socket }
    }

    /// Its name in reports and in the log.
    pub fn name(&self) -> String {
        format!("{:016x}", self.source)
    }

    /// The id of its key.
    pub fn key_id(&self) -> Option<u8> {
        self.key.as_ref().map(Key::id)
    }

    /// Makes the next datagram, whose number is thereby used up, and sends nothing.
    pub fn frame(&mut self, body: &[u8]) -> Vec<u8> {
        let bytes = self.frame_of(self.next, body);
        self.next += u64::from(!body.is_empty());
        bytes
    }

    /// A datagram of any number.
    pub fn frame_of(&self, sequence: u64, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        datagram::write(&mut bytes, self.source, sequence, body, self.key.as_ref());
        bytes
    }

    /// Sends the next datagram and gives back what was sent.
    pub fn send(&mut self, body: &[u8]) -> Vec<u8> {
        let bytes = self.frame(body);
        self.send_bytes(&bytes);
        bytes
    }

    /// Says which number is next.
    pub fn heartbeat(&mut self) {
        self.send(b"");
    }

    /// Sends any bytes. That nobody may be there is a sender's lot.
    pub fn send_bytes(&self, bytes: &[u8]) {
        send(&self.socket, bytes);
    }

    /// Uses up so many numbers, as if their datagrams got lost.
    pub fn skip(&mut self, count: u64) {
        self.next += count;
    }

    /// What was sent back to it. Nothing ever should be.
    pub fn answer(&self) -> Option<Vec<u8>> {
        answer(&self.socket)
    }
}

/// A socket of its own that sends to there, from the address that is used by default.
pub fn socket(to: SocketAddr) -> UdpSocket {
    socket_at(Ipv4Addr::LOCALHOST, to)
}

/// A socket that sends from another address of the loopback interface, like 127.0.0.2.
pub fn socket_at(from: Ipv4Addr, to: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind((IpAddr::V4(from), 0)).expect("a free port");
    socket.connect(to).expect("an address of the loopback interface");
    socket
}

/// Sends a datagram to where the socket is connected. While nobody listens there, the system tells that, by an error,
/// of an earlier one and does not send this one: then it is sent again, once.
pub fn send(socket: &UdpSocket, bytes: &[u8]) {
    for _ in 0..2 {
        match socket.send(bytes) {
            Ok(len) => {
                assert_eq!(len, bytes.len());
                return;
            }
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{error}"),
        }
    }
}

/// What waits on a socket to be read.
pub fn answer(socket: &UdpSocket) -> Option<Vec<u8>> {
    socket.set_nonblocking(true).expect("a socket can be told so");
    let mut bytes = vec![0; 65_536];
    let received = socket.recv(&mut bytes);
    socket.set_nonblocking(false).expect("a socket can be told so");
    match received {
        Ok(len) => Some(bytes[..len].to_vec()),
        Err(error) => {
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "{error}");
            None
        }
    }
}

/// A line of a key file, and the key that it is.
pub fn key(id: u8, seed: u8) -> (String, Key) {
    let secret: Vec<u8> = (0..32_u8).map(|n| n.wrapping_mul(7) ^ seed).collect();
    let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    (format!("{id} {hex}\n"), Key::new(id, &secret).expect("long enough"))
}
