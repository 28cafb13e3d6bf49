//! Requests as plain as they get, each on a connection of its own, and what the admin port's metrics say.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::PATIENCE;

/// A page of metrics.
pub struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    /// Asks an admin port.
    pub fn of(admin: SocketAddr) -> Self {
        let reply = request(admin, "GET", "/metrics", &[], b"");
        assert_eq!(reply.status, 200, "{}", reply.text());
        let page = reply.text();
        let lines = page.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let sample = |line: &str| {
            let (series, value) = line.rsplit_once(' ')?;
            Some((series.to_owned(), value.parse().ok()?))
        };
        Self(lines.map(|line| sample(line).unwrap_or_else(|| panic!("not a sample: {line}"))).collect())
    }

    /// One series as it is written, labels and all. It must be there.
    pub fn get(&self, series: &str) -> f64 {
        *self.0.get(series).unwrap_or_else(|| panic!("no {series} in {:?}", self.0.keys()))
    }

    /// The same, of a counter.
    pub fn count(&self, series: &str) -> u64 {
        whole(self.get(series))
    }

    /// The sum of all series of a metric. There must be one.
    pub fn sum(&self, name: &str) -> f64 {
        let of_name = self.0.iter().filter(|(series, _)| series.split('{').next() == Some(name));
        let values: Vec<f64> = of_name.map(|(_, value)| *value).collect();
        assert!(!values.is_empty(), "no {name} in {:?}", self.0.keys());
        values.iter().sum()
    }
}

/// A count as the number that it is.
#[expect(clippy::cast_possible_truncation, reason = "that it is whole is asserted")]
pub fn whole(value: f64) -> u64 {
    let whole = value as u64;
    assert!(value >= 0.0 && value.fract() == 0.0 && value < 9e15, "{value} is no count");
    whole
}

/// An answer over HTTP/1.1.
#[derive(Debug)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// Names in lower case, in the order sent.
    pub headers: Vec<(String, String)>,
    /// What follows the head.
    pub body: Vec<u8>,
}

impl Reply {
    /// The first header of a name, which is given in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Reads an answer; nothing if its head is not whole.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
        let head = std::str::from_utf8(&bytes[..end]).ok()?;
        let mut lines = head.split("\r\n");
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let header = |line: &str| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_ascii_lowercase(), value.trim().to_owned()))
        };
        Some(Self { status, headers: lines.filter_map(header).collect(), body: bytes[end + 4..].to_vec() })
    }
}

/// A request on a connection of its own, which the server must answer.
pub fn request(addr: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
    try_request(addr, method, path, headers, body).unwrap_or_else(|error| panic!("{method} {path} at {addr}: {error}"))
}

/// A request on a connection of its own, to a server that may be down.
///
/// # Errors
/// If it cannot be sent, or what comes back is not a whole answer.
pub fn try_request(
    addr: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> io::Result<Reply> {
    let mut stream = TcpStream::connect_timeout(&addr, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    if !body.is_empty() || method == "POST" {
        head += &format!("Content-Length: {}\r\n", body.len());
    }
    head += "\r\n";
    stream.write_all(&[head.as_bytes(), body].concat())?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    Reply::parse(&bytes).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}
