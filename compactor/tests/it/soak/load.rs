//! Everybody who sends: clients that insist, clients that go away, pixels, nonsense and datagrams.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use tallylight_sender::Sender;

use super::clock;
use super::journal::{Journal, Level};
use super::tempo::{Pacer, Tempo};
use crate::client::{self, Click, Client, Form, gzip, mix};
use crate::harness::datagrams::Source;
use crate::harness::{Chance, Over};

/// Clients that send a body until it is acknowledged.
const POSTERS: u64 = 4;
/// Sources that send one event a datagram and skip numbers, and services that use the sender's library.
const SOURCES: u64 = 2;
const SERVICES: u64 = 2;
/// Numbers of one sender's events begin here for the next.
const SENDER_NUMBERS: u64 = 1 << 40;

/// What all senders share.
pub struct Load {
    /// Ends them.
    pub over: Over,
    pub tempo: Tempo,
    pub tally: Tally,
    http: SocketAddr,
    udp: SocketAddr,
    journals: PathBuf,
    seed: u64,
}

/// What they did.
#[derive(Debug, Default)]
pub struct Tally {
    /// Events, each once, by HTTP.
    pub sent: AtomicU64,
    pub logged: AtomicU64,
    pub synced: AtomicU64,
    /// Events whose sender did not wait for an answer, or got one that says nothing.
    pub unknown: AtomicU64,
    /// Copies of acknowledged events, sent on purpose.
    pub copies: AtomicU64,
    /// Bodies that are no beacons.
    pub nonsense: AtomicU64,
    /// Bodies that were sent again for want of an answer, and because of a 503.
    pub unanswered: AtomicU64,
    pub turned_away: AtomicU64,
}

impl Tally {
    /// Events whose senders were told that they are in the log.
    pub fn acknowledged(&self) -> u64 {
        self.logged.load(Relaxed) + self.synced.load(Relaxed)
    }
}

impl Load {
    /// Senders to there, which write their journals there.
    pub fn new(http: SocketAddr, udp: SocketAddr, journals: PathBuf, tempo: Tempo, seed: u64) -> Self {
        Self { over: Over::default(), tempo, tally: Tally::default(), http, udp, journals, seed }
    }

    /// Sends in many ways until it is over. Gives back the sources of datagrams, to be asked after.
    pub fn send(&self) -> Vec<Source> {
        thread::scope(|scope| {
            for sender in 0..POSTERS {
                scope.spawn(move || self.post(sender));
            }
            scope.spawn(|| self.get(POSTERS));
            scope.spawn(|| self.hang_up(POSTERS + 1));
            for sender in POSTERS + 2..POSTERS + 2 + SERVICES {
                scope.spawn(move || self.serve(sender));
            }
            let sources: Vec<_> = (0..SOURCES).map(|n| scope.spawn(move || self.fire(n))).collect();
            sources.into_iter().map(|source| source.join().unwrap()).collect()
        })
    }

    fn chance(&self, sender: u64) -> Chance {
        Chance(mix(self.seed ^ sender))
    }

    fn journal(&self, sender: u64) -> Journal {
        Journal::new(&self.journals, &sender.to_string())
    }

    /// Bodies of all kinds, each until it is acknowledged; some of them by two connections at once, some again later.
    pub fn post(&self, sender: u64) {
        let (mut chance, mut journal) = (self.chance(sender), self.journal(sender));
        let (mut client, mut other) = (Client::new(self.http), Client::new(self.http));
        let mut pacer = Pacer::new(&self.tempo, 20);
        let mut numbers = sender * SENDER_NUMBERS..;
        let mut copies: Vec<Click> = Vec::new();
        while !self.over.is_over() {
            let size = chance.one_of(&[1, 1, 3, 10, 40, 150]);
            let clicks: Vec<Click> = numbers.by_ref().take(size).map(click).collect();
            self.tally.sent.fetch_add(size as u64, Relaxed);
            let (path, level, count) = match chance.below(4) {
                0 => ("/api/beacon?ack=synced", Level::Synced, &self.tally.synced),
                _ => ("/api/beacon", Level::Logged, &self.tally.logged),
            };
            let (body, is_gzip) = write(&clicks, &mut chance);
            if chance.below(20) == 0 {
                thread::scope(|scope| {
                    scope.spawn(|| other.post(path, &body, is_gzip));
                    client.post(path, &body, is_gzip);
                });
                self.tally.copies.fetch_add(size as u64, Relaxed);
            } else {
                client.post(path, &body, is_gzip);
            }
            clicks.iter().for_each(|click| journal.note(click.id, level));
            count.fetch_add(size as u64, Relaxed);
            if chance.below(10) == 0 {
                copies.extend(clicks);
            }
            if copies.len() >= 100 {
                copies.truncate(250);
                // as if they had happened earlier, so that many fall into another hour
                copies.iter_mut().for_each(|copy| copy.age_ms += clock::HOUR / 2);
                client.post("/api/beacon", &client::body(&copies, Form::Queries), false);
                self.tally.copies.fetch_add(copies.len() as u64, Relaxed);
                copies.clear();
            }
            pacer.sent(size, &self.over);
        }
        journal.close();
        self.tally.unanswered.fetch_add(client.unanswered + other.unanswered, Relaxed);
        self.tally.turned_away.fetch_add(client.turned_away + other.turned_away, Relaxed);
    }

    /// Pixels, whatever becomes of them, and now and then something that is no beacon.
    fn get(&self, sender: u64) {
        let (mut chance, mut journal) = (self.chance(sender), self.journal(sender));
        let mut client = Client::new(self.http);
        let mut pacer = Pacer::new(&self.tempo, 4);
        for number in sender * SENDER_NUMBERS.. {
            if self.over.is_over() {
                break;
            }
            if chance.below(50) == 0 {
                let reply = client.ask("POST", "/api/beacon", "", b"{\"event\":");
                assert!(!reply.is_ok_and(|reply| reply.status == 204), "nonsense is taken");
                self.tally.nonsense.fetch_add(1, Relaxed);
            }
            let click = click(number);
            self.note_unknown(&mut journal, &click);
            let query = String::from_utf8(client::body([&click], Form::Queries)).unwrap();
            // no answer, or one that comes before the event is written: it says nothing
            let _ = client.ask("GET", &format!("/api/beacon?{query}"), "", b"");
            pacer.sent(1, &self.over);
        }
        journal.close();
    }

    /// Bodies whose senders go away before they can have been answered.
    fn hang_up(&self, sender: u64) {
        let (mut chance, mut journal) = (self.chance(sender), self.journal(sender));
        let mut pacer = Pacer::new(&self.tempo, 4);
        let mut numbers = sender * SENDER_NUMBERS..;
        while !self.over.is_over() {
            let clicks: Vec<Click> = numbers.by_ref().take(10).map(click).collect();
            clicks.iter().for_each(|click| self.note_unknown(&mut journal, click));
            let body = client::body(&clicks, Form::Queries);
            if let Ok(mut stream) = TcpStream::connect(self.http) {
                let head = format!(
                    "POST /api/beacon HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n\r\n",
                    self.http,
                    body.len()
                );
                // sometimes not even all of it
                let cut = if chance.below(5) == 0 { body.len() / 2 } else { body.len() };
                let _ = stream.write_all(&[head.as_bytes(), &body[..cut]].concat());
                // how soon it goes is what this is about
                thread::sleep(Duration::from_micros(chance.below(2000)));
            }
            pacer.sent(clicks.len(), &self.over);
        }
        journal.close();
    }

    /// A service that sends datagrams by the library.
    fn serve(&self, sender: u64) {
        let mut journal = self.journal(sender);
        let mut pacer = Pacer::new(&self.tempo, 4);
        let service = Sender::connect(self.udp).unwrap();
        for number in sender * SENDER_NUMBERS.. {
            if self.over.is_over() {
                break;
            }
            let click = click(number);
            self.note_unknown(&mut journal, &click);
            let (id, item) = (click.id.to_string(), number.to_string());
            let fields =
                [("id", &id), ("site", &"service.example".to_owned()), ("item", &item), ("target", &click.target)];
            service.send(&fields).unwrap();
            pacer.sent(1, &self.over);
        }
        drop(service);
        journal.close();
    }

    /// A source that names itself, skips numbers and sends some datagrams twice. Its events have ids made by the collector.
    fn fire(&self, n: u64) -> Source {
        let mut chance = self.chance(1000 + n);
        let mut source = Source::new(self.udp);
        let mut pacer = Pacer::new(&self.tempo, 2);
        while !self.over.is_over() {
            if chance.below(100) == 0 {
                source.skip(1);
            }
            let body = format!("site={}&event=click&item={}", source.name(), source.next);
            let bytes = source.send(body.as_bytes());
            if chance.below(100) == 0 {
                source.send_bytes(&bytes);
            }
            pacer.sent(1, &self.over);
        }
        source
    }

    fn note_unknown(&self, journal: &mut Journal, click: &Click) {
        journal.note(click.id, Level::Unknown);
        self.tally.sent.fetch_add(1, Relaxed);
        self.tally.unknown.fetch_add(1, Relaxed);
    }
}

/// The n-th event of all. Made now, by the right clock.
fn click(number: u64) -> Click {
    let luck = mix(number ^ 0x50a4);
    let kind = usize::try_from(luck % 3).unwrap();
    Click {
        site: ["books.example", "shoes.example", "news.example"][kind],
        event: ["click", "view", "buy"][usize::try_from(luck / 3 % 3).unwrap()],
        target: format!("https://books.example/book/{}", luck / 9 % 40),
        visitor: format!("v{}", luck % 20_000),
        age_ms: if luck % 20 == 7 { i64::try_from(luck % 3).unwrap() * clock::HOUR + 61_000 } else { 0 },
        value_milli: (luck % 10 == 3).then(|| i64::try_from(luck % 100_000).unwrap()),
        lost: u32::from(luck % 1000 == 11),
        bot: luck % 200 == 5,
        ..Click::new(u64::try_from(clock::now()).unwrap(), number)
    }
}

/// A body of any form, and whether it is compressed.
fn write(clicks: &[Click], chance: &mut Chance) -> (Vec<u8>, bool) {
    let form = chance.one_of(&[Form::Queries, Form::Array, Form::Objects]);
    let body = client::body(clicks, form);
    if chance.below(4) == 0 { (gzip(&body), true) } else { (body, false) }
}
