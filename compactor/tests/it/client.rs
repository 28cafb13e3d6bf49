//! What stands in for many browsers and batch jobs: clicks, bodies full of them, and connections that are kept.
//!
//! The rule kept here: a client knows what it sent, and sends again, byte for byte, whatever got no 2xx.

use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use uuid::Uuid;

use crate::harness::{PATIENCE, Reply};

/// What a declared crawler calls itself.
pub const CRAWLER: &str = "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)";

/// How long a client sends the same body again and again: a collector that was killed must be back by then.
const STUBBORN: Duration = Duration::from_secs(120);

/// An event as a client makes it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Click {
    /// Version 7, made by the client.
    pub id: Uuid,
    /// Whose site.
    pub site: &'static str,
    /// What happened.
    pub event: &'static str,
    /// Where the link leads.
    pub target: String,
    /// Which of the clients' events it is, so that a reader can tell which are there: `item`.
    pub number: u64,
    /// Who clicked.
    pub visitor: String,
    /// Milliseconds since it happened.
    pub age_ms: i64,
    /// Thousandths of its value.
    pub value_milli: Option<i64>,
    /// Events that the client gave up.
    pub lost: u32,
    /// A crawler's.
    pub bot: bool,
}

/// How events are written into a body.
#[derive(Clone, Copy, Debug)]
pub enum Form {
    /// A query string a line.
    Queries,
    /// A JSON object a line.
    Objects,
    /// One JSON array.
    Array,
}

impl Click {
    /// The n-th event of a client that was started at this time.
    pub fn new(started_ms: u64, number: u64) -> Self {
        Self { id: id(started_ms, number), number, site: "shop.example", event: "click", ..Self::default() }
    }

    fn write_query(&self, body: &mut String) {
        let Self { id, site, event, target, number, visitor, .. } = self;
        write!(body, "id={id}&site={site}&event={event}&target={target}&item={number}&visitor={visitor}").unwrap();
        if self.age_ms != 0 {
            write!(body, "&age={}", self.age_ms).unwrap();
        }
        if let Some(milli) = self.value_milli {
            write!(body, "&value={}", decimal(milli)).unwrap();
        }
        if self.lost != 0 {
            write!(body, "&lost={}", self.lost).unwrap();
        }
        if self.bot {
            write!(body, "&ua={}", CRAWLER.replace(' ', "%20").replace('+', "%2B").replace(';', "%3B")).unwrap();
        }
    }

    fn write_object(&self, body: &mut String) {
        let Self { id, site, event, target, number, visitor, .. } = self;
        write!(body, r#"{{"id":"{id}","site":"{site}","event":"{event}","target":"{target}","item":"{number}""#)
            .unwrap();
        write!(body, r#","visitor":"{visitor}","age":{},"lost":{}"#, self.age_ms, self.lost).unwrap();
        if let Some(milli) = self.value_milli {
            write!(body, r#","value":{}"#, decimal(milli)).unwrap();
        }
        if self.bot {
            write!(body, r#","ua":"{CRAWLER}""#).unwrap();
        }
        body.push('}');
    }
}

/// A UUID of version 7 (RFC 9562, 5.7) whose random part follows from the number: the same event, the same id.
fn id(time_ms: u64, number: u64) -> Uuid {
    let random = mix(number);
    Uuid::from_u64_pair((time_ms << 16) | 0x7000 | (random & 0xfff), (1 << 63) | (mix(random) >> 2))
}

/// A number that follows from another and looks like chance (the finaliser of SplitMix64).
pub fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn decimal(milli: i64) -> String {
    format!("{}.{:03}", milli / 1000, milli % 1000)
}

/// A body with these events.
pub fn body<'a>(clicks: impl IntoIterator<Item = &'a Click>, form: Form) -> Vec<u8> {
    let mut body = String::new();
    let (open, between, close) = match form {
        Form::Queries | Form::Objects => ("", "\n", ""),
        Form::Array => ("[", ",", "]"),
    };
    body.push_str(open);
    for (n, click) in clicks.into_iter().enumerate() {
        body.push_str(if n == 0 { "" } else { between });
        match form {
            Form::Queries => click.write_query(&mut body),
            Form::Objects | Form::Array => click.write_object(&mut body),
        }
    }
    body.push_str(close);
    body.into_bytes()
}

/// The same body, compressed.
pub fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

/// A client with one connection, which it keeps, and makes again when it broke.
pub struct Client {
    /// How often a body was turned away with a 503.
    pub turned_away: u64,
    /// How often a body got no answer.
    pub unanswered: u64,
    addr: SocketAddr,
    connection: Option<BufReader<TcpStream>>,
}

impl Client {
    /// One that is not connected yet.
    pub fn new(addr: SocketAddr) -> Self {
        Self { addr, connection: None, turned_away: 0, unanswered: 0 }
    }

    /// One request and its answer.
    ///
    /// # Errors
    /// If there is no whole answer: the server is not there, or went away meanwhile.
    pub fn ask(&mut self, method: &str, path: &str, headers: &str, body: &[u8]) -> io::Result<Reply> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => BufReader::new(connect(self.addr)?),
        };
        let length = body.len();
        let head =
            format!("{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Length: {length}\r\n{headers}\r\n", self.addr);
        connection.get_mut().write_all(&[head.as_bytes(), body].concat())?;
        let reply = read_reply(&mut connection)?;
        if reply.header("connection") != Some("close") {
            self.connection = Some(connection);
        }
        Ok(reply)
    }

    /// Sends a body until it is acknowledged.
    ///
    /// # Panics
    /// If it is refused, in whole or in part, or if nobody takes it for a long time.
    pub fn post(&mut self, path: &str, body: &[u8], is_gzip: bool) {
        let deadline = Instant::now() + STUBBORN;
        let headers = if is_gzip { "Content-Encoding: gzip\r\n" } else { "" };
        loop {
            let answer = self.ask("POST", path, headers, body);
            match &answer {
                Ok(reply) if reply.status == 204 => {
                    assert_eq!(reply.header("tallylight-refused"), None, "{reply:?}");
                    return;
                }
                Ok(reply) => {
                    assert_eq!(reply.status, 503, "{}", reply.text());
                    self.turned_away += 1;
                }
                // killed: it will be back
                Err(_) => self.unanswered += 1,
            }
            assert!(Instant::now() < deadline, "nobody took it for {STUBBORN:?}; last: {answer:?}");
            // as a client would, only less patient
            thread::sleep(Duration::from_millis(20));
        }
    }
}

fn connect(addr: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&addr, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn read_reply(connection: &mut BufReader<TcpStream>) -> io::Result<Reply> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if connection.read_line(&mut head)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let mut reply = Reply::parse(head.as_bytes()).ok_or(io::ErrorKind::InvalidData)?;
    let length = reply.header("content-length").map_or(0, |length| length.parse().expect("a length in digits"));
    reply.body = vec![0; length];
    connection.read_exact(&mut reply.body)?;
    Ok(reply)
}
