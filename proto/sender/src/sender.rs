//! The sender of a service: a buffer that everybody may append to, and a thread that empties it.
//!
//! The rule kept here: whoever calls never waits for the network. The buffer is bounded; what finds no room in it is
//! lost like a datagram on the way, and looks like one to the collector.

use std::borrow::Borrow;
use std::io;
use std::net::ToSocketAddrs;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use form_urlencoded::Serializer;
use tallylight_proto::keys::Key;
use thiserror::Error;

use crate::outlet::Outlet;

/// How long an event waits for others. Its time is that of its arrival, so this is how wrong it may be.
const LINGER: Duration = Duration::from_millis(10);
/// More would be a wrong time, which only `age` could make good.
const MAX_LINGER: Duration = Duration::from_millis(100);
/// How often a silent sender gives a sign of life. A collector may let go of one that gives none for ten seconds.
const HEARTBEAT: Duration = Duration::from_secs(1);
const MAX_HEARTBEAT: Duration = Duration::from_secs(5);
/// Bytes that wait, at most; as many again are on their way out.
const BUFFER: usize = 1 << 20;

/// Sends events. Dropping it sends what waits, which takes moments, and says that this was all.
#[derive(Debug)]
pub struct Sender {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// How a [`Sender`] is made.
#[derive(Clone, Debug)]
pub struct Builder {
    key: Option<Key>,
    linger: Duration,
    heartbeat: Duration,
    max_datagram: Option<usize>,
    buffer: usize,
}

/// What is wrong with an event. Nothing of it was sent.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum SendError {
    /// No fields.
    #[error("an event has at least one field")]
    Empty,
    /// It would have to be sent in pieces.
    #[error("an event of {len} bytes does not fit into a datagram, which takes {most}")]
    TooLarge {
        /// Its bytes as a query string.
        len: usize,
        /// What fits.
        most: usize,
    },
}

/// What a sender did. Events that are neither sent nor given up are in the buffer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Events that left.
    pub events: u64,
    /// Datagrams that left, heartbeats apart.
    pub datagrams: u64,
    /// Events given up: the buffer was full, or the kernel did not take them. The collector counts their datagrams, or
    /// as many as they would have filled, as lost.
    pub not_sent: u64,
    /// How often the other side said that nobody listened there. What it said that of is in `events`.
    pub refused: u64,
    /// Bytes of events that fit into a datagram. Less than at first: the path turned out to take less.
    pub datagram_size: usize,
}

impl Sender {
    /// One that tags nothing, to the first of these addresses that there is a route to. A name is looked up now and
    /// not again.
    ///
    /// # Errors
    /// If there is none, or no random number or thread.
    pub fn connect(addr: impl ToSocketAddrs) -> io::Result<Self> {
        Self::builder().connect(addr)
    }

    /// For one that is not as all others.
    pub fn builder() -> Builder {
        Builder { key: None, linger: LINGER, heartbeat: HEARTBEAT, max_datagram: None, buffer: BUFFER }
    }

    /// Takes an event, as the pairs of a query string. It leaves within the linger.
    ///
    /// `Ok` does not say that it arrives. One that finds the buffer full is given up, as if it had been lost on the way.
    ///
    /// # Errors
    /// If it can never be sent.
    pub fn send<I, K, V>(&self, fields: I) -> Result<(), SendError>
    where
        I: IntoIterator,
        I::Item: Borrow<(K, V)>,
        K: AsRef<str>,
        V: AsRef<str>,
    {
        let line = Serializer::new(String::new()).extend_pairs(fields).finish();
        if line.is_empty() {
            return Err(SendError::Empty);
        }
        if self.shared.state().append(&line)? {
            self.shared.wake.notify_one();
        }
        Ok(())
    }

    /// What it did so far.
    pub fn stats(&self) -> Stats {
        self.shared.state().stats
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.shared.state().is_closing = true;
        self.shared.wake.notify_one();
        if let Some(thread) = self.thread.take() {
            // it has said what it had to, or there is nobody to say it
            let _ = thread.join();
        }
    }
}

impl Builder {
    /// Tags all datagrams.
    #[must_use]
    pub fn key(self, key: Key) -> Self {
        Self { key: Some(key), ..self }
    }

    /// How long an event waits for others to share its datagram, 10 ms unless said otherwise, at most 100 ms.
    #[must_use]
    pub fn linger(self, linger: Duration) -> Self {
        Self { linger: linger.min(MAX_LINGER), ..self }
    }

    /// After which silence to give a sign of life, 1 s unless said otherwise, at most 5 s. This is how late the loss
    /// of the last datagram is noticed.
    #[must_use]
    pub fn heartbeat(self, heartbeat: Duration) -> Self {
        Self { heartbeat: heartbeat.min(MAX_HEARTBEAT), ..self }
    }

    /// The most bytes of a datagram, headers of IP and UDP apart, 512 at least. Unless said otherwise it is what the
    /// path takes without fragments.
    #[must_use]
    pub fn max_datagram(self, bytes: usize) -> Self {
        Self { max_datagram: Some(bytes), ..self }
    }

    /// The most bytes of events that wait, 1 MiB unless said otherwise, and never less than a datagram has.
    #[must_use]
    pub fn buffer(self, bytes: usize) -> Self {
        Self { buffer: bytes, ..self }
    }

    /// Makes it: see [`Sender::connect`].
    ///
    /// # Errors
    /// If there is no such address, no route to it, or no random number or thread.
    pub fn connect(self, addr: impl ToSocketAddrs) -> io::Result<Sender> {
        let outlet = Outlet::framed(addr, self.key, self.max_datagram)?;
        outlet.never_wait()?;
        let stats = Stats { datagram_size: outlet.most_body(), ..Stats::default() };
        let state = State { room: self.buffer.max(outlet.most_body()), stats, ..State::default() };
        let shared = Arc::new(Shared { state: Mutex::new(state), wake: Condvar::new() });
        let worker = Worker { shared: Arc::clone(&shared), outlet, linger: self.linger, heartbeat: self.heartbeat };
        let thread = thread::Builder::new().name("tallylight-send".to_owned()).spawn(|| worker.run())?;
        Ok(Sender { shared, thread: Some(thread) })
    }
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    wake: Condvar,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // whoever panicked while holding it left it as it was
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What waits.
#[derive(Debug, Default)]
struct State {
    /// Separated by line feeds.
    lines: Vec<u8>,
    /// When the first of them came.
    since: Option<Instant>,
    /// Events, and their bytes, for which there was no room.
    dropped: (u64, u64),
    is_closing: bool,
    /// Bytes that may wait.
    room: usize,
    stats: Stats,
}

impl State {
    /// Adds an event, or gives it up. Whether the thread must hear of it now.
    fn append(&mut self, line: &str) -> Result<bool, SendError> {
        let most = self.stats.datagram_size;
        if line.len() > most {
            return Err(SendError::TooLarge { len: line.len(), most });
        }
        let was = self.lines.len();
        if was == 0 {
            self.since = Some(Instant::now());
        } else if was + 1 + line.len() > self.room {
            self.dropped.0 += 1;
            self.dropped.1 += line.len() as u64 + 1;
            return Ok(self.dropped.0 == 1);
        } else {
            self.lines.push(b'\n');
        }
        self.lines.extend_from_slice(line.as_bytes());
        Ok(was == 0 || was < most && self.lines.len() >= most)
    }

    /// When there is something to do, if nothing changes.
    fn due(&self, now: Instant, linger: Duration, heartbeat_at: Instant) -> Instant {
        match self.since {
            _ if self.is_closing => now,
            Some(_) if self.dropped.0 > 0 || self.lines.len() >= self.stats.datagram_size => now,
            Some(since) => since + linger,
            None => heartbeat_at,
        }
    }
}

struct Worker {
    shared: Arc<Shared>,
    outlet: Outlet,
    linger: Duration,
    heartbeat: Duration,
}

impl Worker {
    fn run(mut self) {
        let mut lines = Vec::new();
        let mut spoken_at = Instant::now();
        loop {
            let ((events, bytes), is_closing) = self.wait(&mut lines, spoken_at + self.heartbeat);
            self.outlet.deliver(&lines);
            // behind what came before them
            self.outlet.give_up(events, bytes);
            if lines.is_empty() || is_closing {
                self.outlet.heartbeat();
            }
            spoken_at = Instant::now();
            lines.clear();
            self.publish();
            if is_closing {
                return;
            }
        }
    }

    /// Waits until there is something to do. Gives what waited in `lines`, what was dropped, and whether this is all.
    fn wait(&self, lines: &mut Vec<u8>, heartbeat_at: Instant) -> ((u64, u64), bool) {
        let mut state = self.shared.state();
        loop {
            let now = Instant::now();
            let due = state.due(now, self.linger, heartbeat_at);
            if due <= now {
                break;
            }
            let wait = self.shared.wake.wait_timeout(state, due - now);
            state = wait.unwrap_or_else(PoisonError::into_inner).0;
        }
        std::mem::swap(lines, &mut state.lines);
        state.since = None;
        (std::mem::take(&mut state.dropped), state.is_closing)
    }

    fn publish(&self) {
        let counts = self.outlet.counts();
        self.shared.state().stats = Stats {
            events: counts.events,
            datagrams: counts.datagrams,
            not_sent: counts.not_sent,
            refused: counts.refused,
            datagram_size: self.outlet.most_body(),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        State { room: 20, stats: Stats { datagram_size: 10, ..Stats::default() }, ..State::default() }
    }

    #[test]
    fn the_thread_hears_of_the_first_line_and_of_a_full_datagram_only() {
        let mut state = state();
        let heard: Vec<bool> = ["a=1", "b=2", "c=3", "d=4"].map(|line| state.append(line).unwrap()).to_vec();
        assert_eq!(heard, [true, false, true, false]);
        assert_eq!(state.lines, b"a=1\nb=2\nc=3\nd=4");
    }

    #[test]
    fn a_full_buffer_is_emptied_at_once() {
        let mut state = State { room: 10, ..state() };
        let heard = ["a=12345", "b=2", "c=3"].map(|line| state.append(line).unwrap());
        assert_eq!((heard, state.lines.len()), ([true, true, false], 7));
        let now = Instant::now();
        assert_eq!(state.due(now, MAX_LINGER, now + HEARTBEAT), now);
    }

    #[test]
    fn what_finds_no_room_is_counted_with_its_bytes() {
        let mut state = state();
        for _ in 0..7 {
            state.append("abc=1").unwrap();
        }
        assert_eq!((state.lines.len(), state.dropped), (17, (4, 24)));
        assert_eq!(state.append("abcdefgh=12"), Err(SendError::TooLarge { len: 11, most: 10 }));
        assert_eq!(state.dropped.0, 4);
    }

    #[test]
    fn lines_wait_for_the_linger_unless_they_fill_a_datagram_or_it_is_the_end() {
        let (now, linger) = (Instant::now(), Duration::from_millis(10));
        let heartbeat_at = now + Duration::from_secs(1);
        let mut state = state();
        assert_eq!(state.due(now, linger, heartbeat_at), heartbeat_at);
        state.append("a=1").unwrap();
        assert_eq!(state.due(now, linger, heartbeat_at), state.since.unwrap() + linger);
        state.append("b=23456").unwrap();
        assert_eq!(state.due(now, linger, heartbeat_at), now);
        let closing = State { is_closing: true, ..super::State::default() };
        assert_eq!(closing.due(now, linger, heartbeat_at), now);
    }

    #[test]
    fn what_would_hurt_is_bounded() {
        let builder = Sender::builder().linger(Duration::MAX).heartbeat(Duration::MAX);
        assert_eq!((builder.linger, builder.heartbeat), (MAX_LINGER, MAX_HEARTBEAT));
    }
}
