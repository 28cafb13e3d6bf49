//! The load: browsers' requests over many connections, by one thread.
//!
//! The rule: latency counts from when a request was due. In a closed loop that is when the answer before it came; in an open
//! one its time comes whatever became of the others, and a request for which no connection is free waits while its latency
//! goes on ("coordinated omission", Tene 2013). Where pixels are among what is asked, it is theirs alone: what else is asked is to wait
//! for the log.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::time::Timespec;
use socket2::{Domain, Socket, Type};

use crate::process;

/// Source addresses of clients that connect anew for each request: a port of one waits a minute after each.
const ADDRESSES: u32 = 200;
/// What is not answered so long after the end was lost.
const PATIENCE: Duration = Duration::from_secs(5);
/// While nothing is due.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
const AT_ONCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// How requests follow each other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// Each connection has one request under way, always.
    Closed,
    /// So many a second.
    Open(f64),
}

/// What came of one stretch of time.
pub struct Window {
    pub answered: u64,
    /// Not answered with 2xx, or not at all.
    pub failed: u64,
    pub seconds: f64,
    /// Sorted.
    latencies: Vec<Duration>,
}

impl Window {
    /// Microseconds that this share of requests took at most.
    pub fn quantile(&self, share: f64) -> f64 {
        let Some(last) = self.latencies.len().checked_sub(1) else { return f64::NAN };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place among them")]
        let place = (last as f64 * share).round() as usize;
        self.latencies[place].as_secs_f64() * 1e6
    }
}

/// All clients.
pub struct Load<'a> {
    to: SocketAddr,
    requests: &'a [Vec<u8>],
    /// Whether each of them has its latency noted.
    are_timed: Vec<bool>,
    next_request: usize,
    /// Whether each request has a connection of its own.
    is_anew: bool,
    connections: Vec<Connection>,
    /// Connections made so far.
    connected: u32,
    epoll: OwnedFd,
    /// How long the last answer was: most are the same.
    answer_len: usize,
}

#[derive(Default)]
struct Connection {
    stream: Option<TcpStream>,
    request: Option<Request>,
    answer: Vec<u8>,
}

struct Request {
    due: Instant,
    variant: usize,
    written: usize,
}

impl<'a> Load<'a> {
    pub fn new(to: SocketAddr, requests: &'a [Vec<u8>], connections: usize, is_anew: bool) -> Result<Self> {
        let is_pixel = |request: &Vec<u8>| request.starts_with(b"GET ");
        let has_pixels = requests.iter().any(is_pixel);
        Ok(Self {
            to,
            requests,
            are_timed: requests.iter().map(|request| is_pixel(request) || !has_pixels).collect(),
            next_request: 0,
            is_anew,
            connections: (0..connections).map(|_| Connection::default()).collect(),
            connected: 0,
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            answer_len: 0,
        })
    }

    /// Sends for so long, and waits for the last answer.
    pub fn run(&mut self, pace: Pace, time: Duration) -> Result<Window> {
        let begin = Instant::now();
        let end = begin + time;
        let mut window = Window { answered: 0, failed: 0, seconds: 0.0, latencies: Vec::new() };
        let mut free: VecDeque<usize> = (0..self.connections.len()).collect();
        let (mut due, gap) = match pace {
            Pace::Closed => (end, time),
            Pace::Open(rate) => (begin, Duration::from_secs_f64(1.0 / rate)),
        };
        let mut waiting = VecDeque::new();
        if pace == Pace::Closed {
            waiting.extend(self.connections.iter().map(|_| begin));
        }
        let mut events = Vec::with_capacity(1024);
        let mut in_flight = 0_usize;
        loop {
            let now = Instant::now();
            while due <= now && due < end {
                waiting.push_back(due);
                due += gap;
            }
            while !waiting.is_empty() && !free.is_empty() {
                let (due, place) = (waiting.pop_front().expect("one waits"), free.pop_front().expect("one is free"));
                self.send(place, due)?;
                in_flight += 1;
            }
            if now >= end && waiting.is_empty() && in_flight == 0 || now > end + PATIENCE {
                break;
            }
            events.clear();
            let timeout = if pace == Pace::Closed || now >= end { TICK } else { AT_ONCE };
            epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&timeout))?;
            let now = Instant::now();
            for event in &events {
                let place = usize::try_from(event.data.u64())?;
                let Some(answered) = self.step(place) else { continue };
                let connection = &mut self.connections[place];
                let request = connection.request.take().expect("it was answered");
                if answered {
                    window.latencies.extend(self.are_timed[request.variant].then(|| now - request.due));
                    window.answered += 1;
                } else {
                    window.failed += 1;
                }
                if self.is_anew || !answered {
                    connection.stream = None;
                }
                connection.answer.clear();
                in_flight -= 1;
                if pace == Pace::Closed && now < end {
                    self.send(place, now)?;
                    in_flight += 1;
                } else {
                    free.push_back(place);
                }
            }
            process::check()?;
        }
        window.failed += (in_flight + waiting.len()) as u64;
        for connection in &mut self.connections {
            if connection.request.take().is_some() {
                connection.stream = None;
                connection.answer.clear();
            }
        }
        window.seconds = begin.elapsed().as_secs_f64().min(time.as_secs_f64());
        window.latencies.sort_unstable();
        Ok(window)
    }

    fn send(&mut self, place: usize, due: Instant) -> Result<()> {
        let variant = self.next_request % self.requests.len();
        self.next_request += 1;
        self.connections[place].request = Some(Request { due, variant, written: 0 });
        if self.connections[place].stream.is_none() {
            let stream = self.connect()?;
            let flags = EventFlags::IN | EventFlags::OUT | EventFlags::ET;
            epoll::add(&self.epoll, &stream, EventData::new_u64(place as u64), flags)?;
            self.connections[place].stream = Some(stream);
        }
        // what goes wrong shows at the next event
        let _ = self.connections[place].write(self.requests);
        Ok(())
    }

    fn connect(&mut self) -> Result<TcpStream> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        if self.is_anew {
            let last = u8::try_from(1 + self.connected % ADDRESSES)?;
            socket.bind(&SocketAddr::from((Ipv4Addr::new(127, 0, 3, last), 0)).into())?;
        }
        self.connected += 1;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        if let Err(error) = socket.connect(&self.to.into()) {
            ensure!(error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()), error);
        }
        Ok(socket.into())
    }

    /// Goes on with a connection. Whether its request was answered well, once that is known.
    fn step(&mut self, place: usize) -> Option<bool> {
        let connection = &mut self.connections[place];
        connection.request.as_ref()?;
        if connection.write(self.requests).is_err() {
            return Some(false);
        }
        let mut buffer = [0; 4096];
        match connection.stream.as_mut()?.read(&mut buffer) {
            Ok(0) => return Some(false),
            Ok(len) => connection.answer.extend_from_slice(&buffer[..len]),
            Err(error) if is_early(&error) => return None,
            Err(_) => return Some(false),
        }
        let answer = &connection.answer;
        if answer.len() != self.answer_len {
            self.answer_len = whole_answer(answer)?;
        }
        Some(answer.starts_with(b"HTTP/1.1 2"))
    }
}

impl Connection {
    fn write(&mut self, requests: &[Vec<u8>]) -> io::Result<()> {
        let (Some(stream), Some(request)) = (&mut self.stream, &mut self.request) else { return Ok(()) };
        let bytes = &requests[request.variant];
        while request.written < bytes.len() {
            match rustix::io::write(&*stream, &bytes[request.written..]).map_err(io::Error::from) {
                Ok(len) => request.written += len,
                Err(error) if is_early(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Also while it is still being connected.
fn is_early(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected)
}

/// The length of an answer, if it is whole.
fn whole_answer(answer: &[u8]) -> Option<usize> {
    let head = 4 + answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    let text = String::from_utf8_lossy(&answer[..head]).to_ascii_lowercase();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
    // an answer to HEAD has a length and no body: whoever asks with HEAD gets nothing but heads here
    let body: usize = length.unwrap_or(0);
    let is_whole = answer.len() == head + body || answer.len() == head;
    is_whole.then_some(answer.len())
}
