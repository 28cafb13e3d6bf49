//! Honest clients: browsers' POSTs, each at its time, over connections that stay open for some requests.
//!
//! One thread does all of it, so that it needs little of the CPU: it waits in `poll(2)` for answers and for the time of the
//! next request. A request for which no connection is free waits, and its latency goes on.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::Result;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;
use serde_json::json;
use socket2::{Domain, Socket, Type};

use super::ground::write;
use crate::beacons::Beacons;
use crate::process;

/// The site of all honest events.
pub const SITE: &str = "honest.example";
/// Clients, each with an address and a connection of its own.
const CLIENTS: usize = 64;
/// Requests until a client connects anew.
const REQUESTS_A_CONNECTION: u32 = 200;
/// Different requests.
const VARIANTS: usize = 2048;
/// What is not answered so long after the window is lost.
const PATIENCE: Duration = Duration::from_secs(15);

/// All clients.
pub struct Honest {
    to: SocketAddr,
    clients: Vec<Client>,
    requests: Vec<Vec<u8>>,
    next_request: usize,
    acknowledged: u64,
    lost: u64,
    again: u64,
}

/// What a window of time was like.
pub struct Window {
    /// From when a request was due to its answer, sorted.
    latencies: Vec<Duration>,
    lost: u64,
    /// Sent again, since the connection broke.
    again: u64,
}

struct Client {
    from: Ipv4Addr,
    stream: Option<TcpStream>,
    /// Requests on this connection.
    served: u32,
    /// What is under way.
    request: Option<Request>,
}

struct Request {
    due: Instant,
    variant: usize,
    written: usize,
    answer: Vec<u8>,
}

impl Window {
    pub fn quantile(&self, share: f64) -> Duration {
        let Some(last) = self.latencies.len().checked_sub(1) else { return PATIENCE };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place among them")]
        let place = (last as f64 * share).round() as usize;
        self.latencies[place]
    }

    pub fn lost(&self) -> u64 {
        self.lost
    }
}

impl Honest {
    pub fn new(to: SocketAddr) -> Self {
        let mut beacons = Beacons::new(7);
        let client = |n| Client { from: Ipv4Addr::new(127, 0, 1, n), stream: None, served: 0, request: None };
        Self {
            to,
            clients: (1..=CLIENTS).map(|n| client(u8::try_from(n).expect("fewer than 256"))).collect(),
            requests: (0..VARIANTS).map(|_| post(&mut beacons)).collect(),
            next_request: 0,
            acknowledged: 0,
            lost: 0,
            again: 0,
        }
    }

    /// Requests that were answered 204, over all windows.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Requests that were not, over all windows.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// How often one was sent again, over all windows.
    pub fn again(&self) -> u64 {
        self.again
    }

    /// Sends at this rate, requests a second, for so long, and waits for the last answer.
    pub fn run(&mut self, rate: u32, time: Duration) -> Result<Window> {
        let begin = Instant::now();
        let gap = Duration::from_secs(1) / rate;
        let (mut due, end) = (begin, begin + time);
        let mut waiting = VecDeque::new();
        let mut window = Window { latencies: Vec::new(), lost: 0, again: 0 };
        loop {
            let now = Instant::now();
            while due <= now && due < end {
                waiting.push_back(due);
                due += gap;
            }
            self.give_out(&mut waiting);
            let is_idle = waiting.is_empty() && self.clients.iter().all(|client| client.request.is_none());
            if due >= end && (is_idle || now > end + PATIENCE) {
                break;
            }
            let until =
                if due < end { due.saturating_duration_since(Instant::now()) } else { Duration::from_millis(10) };
            self.wait(until, &mut window, &mut waiting)?;
            process::check()?;
        }
        window.lost += waiting.len() as u64;
        for client in &mut self.clients {
            if client.request.take().is_some() {
                client.stream = None;
                window.lost += 1;
            }
        }
        self.acknowledged += window.latencies.len() as u64;
        self.lost += window.lost;
        self.again += window.again;
        window.latencies.sort_unstable();
        Ok(window)
    }

    /// Gives requests to clients that have none.
    fn give_out(&mut self, waiting: &mut VecDeque<Instant>) {
        let mut free = self.clients.iter_mut().filter(|client| client.request.is_none());
        while let Some(due) = waiting.front() {
            let Some(client) = free.next() else { return };
            let variant = self.next_request % self.requests.len();
            client.request = Some(Request { due: *due, variant, written: 0, answer: Vec::new() });
            self.next_request += 1;
            waiting.pop_front();
            // it may be writable at once; what goes wrong shows at the next try
            let _ = client.connect(self.to).and_then(|()| client.write(&self.requests));
        }
        // the next request goes to the client that has waited longest
        self.clients.rotate_left(1);
    }

    /// Waits for answers, at most so long, and takes them.
    fn wait(&mut self, at_most: Duration, window: &mut Window, waiting: &mut VecDeque<Instant>) -> Result<()> {
        let mut places = Vec::with_capacity(CLIENTS);
        let mut fds = Vec::with_capacity(CLIENTS);
        for (place, client) in self.clients.iter().enumerate() {
            if let (Some(stream), Some(request)) = (&client.stream, &client.request) {
                let is_written = request.written == self.requests[request.variant].len();
                let flags = if is_written { PollFlags::IN } else { PollFlags::OUT };
                places.push(place);
                fds.push(PollFd::new(stream, flags));
            }
        }
        let timeout = Timespec::try_from(at_most)?;
        poll(&mut fds, Some(&timeout))?;
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(fds);
        for place in places.into_iter().zip(ready).filter_map(|(place, is_ready)| is_ready.then_some(place)) {
            let client = &mut self.clients[place];
            match client.step(&self.requests) {
                Ok(None) => {}
                Ok(Some(Answer { latency, is_taken: true })) => window.latencies.push(latency),
                Ok(Some(_)) => window.lost += 1,
                // as any client does; the latency goes on
                Err(_) => {
                    client.stream = None;
                    waiting.extend(client.request.take().map(|request| request.due));
                    window.again += 1;
                }
            }
        }
        Ok(())
    }
}

struct Answer {
    latency: Duration,
    is_taken: bool,
}

impl Client {
    fn connect(&mut self, to: SocketAddr) -> io::Result<()> {
        if self.served >= REQUESTS_A_CONNECTION {
            self.stream = None;
        }
        if self.stream.is_some() {
            return Ok(());
        }
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((self.from, 0)).into())?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        match socket.connect(&to.into()) {
            Err(error) if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {
                return Err(error);
            }
            _ => {}
        }
        self.stream = Some(socket.into());
        self.served = 0;
        Ok(())
    }

    fn write(&mut self, requests: &[Vec<u8>]) -> io::Result<()> {
        let (Some(stream), Some(request)) = (&mut self.stream, &mut self.request) else { return Ok(()) };
        let bytes = &requests[request.variant];
        while request.written < bytes.len() {
            match write(stream, &bytes[request.written..]) {
                Ok(len) => request.written += len,
                // also while it is still being connected
                Err(error) if [io::ErrorKind::WouldBlock, io::ErrorKind::NotConnected].contains(&error.kind()) => {
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Writes or reads on. An answer, if there is a whole one.
    fn step(&mut self, requests: &[Vec<u8>]) -> io::Result<Option<Answer>> {
        self.write(requests)?;
        let (Some(stream), Some(request)) = (&mut self.stream, &mut self.request) else { return Ok(None) };
        let mut buffer = [0; 2048];
        match stream.read(&mut buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(len) => request.answer.extend_from_slice(&buffer[..len]),
            Err(error) if [io::ErrorKind::WouldBlock, io::ErrorKind::NotConnected].contains(&error.kind()) => {}
            Err(error) => return Err(error),
        }
        // what is taken has an answer without a body; any other one ends the connection
        if !request.answer.ends_with(b"\r\n\r\n") && !request.answer.windows(4).any(|four| four == b"\r\n\r\n") {
            return Ok(None);
        }
        let is_taken = request.answer.starts_with(b"HTTP/1.1 204 ");
        let latency = request.due.elapsed();
        self.request = None;
        self.served += 1;
        if !is_taken {
            self.stream = None;
        }
        Ok(Some(Answer { latency, is_taken }))
    }
}

/// What a browser sends of an event of the client's.
fn post(beacons: &mut Beacons) -> Vec<u8> {
    let event = beacons.event();
    let body = json!({
        "id": event.id.uuid.to_string(), "site": SITE, "event": event.event, "target": event.target, "page": event.page,
        "item": event.item, "placement": event.placement, "visitor": event.visitor, "age": event.age_ms,
        "campaign": "autumn",
    })
    .to_string();
    format!(
        "POST /api/beacon HTTP/1.1\r\nHost: collector.example\r\nConnection: keep-alive\r\nContent-Length: {}\r\n\
         User-Agent: {}\r\nContent-Type: text/plain;charset=UTF-8\r\nAccept: */*\r\nOrigin: https://shop.example\r\n\
         Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: cors\r\nSec-Fetch-Dest: empty\r\nReferer: https://shop.example/\r\n\
         Accept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: en-GB,en;q=0.9,de;q=0.8\r\n\r\n{body}",
        body.len(),
        event.user_agent,
    )
    .into_bytes()
}
