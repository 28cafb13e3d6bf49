//! A bad network on the loopback interface: it drops, doubles and delays datagrams, and knows how many.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::datagrams::{self, socket_at};
use crate::harness::{Chance, PATIENCE, Pace};

/// In so many per mille of datagrams each.
const DROPPED: u64 = 40;
const DOUBLED: u64 = 30;
const DELAYED: u64 = 30;
/// So many others at most overtake a delayed one.
const DELAY: u64 = 300;
/// Datagrams that may wait in the relay's own socket, which has the smallest buffer that systems give.
const ROOM: u64 = 100;

/// The way of one sender.
pub struct Relay {
    socket: UdpSocket,
    onward: UdpSocket,
    received: AtomicU64,
}

/// What a relay did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Done {
    pub dropped: u64,
    pub doubled: u64,
    pub delayed: u64,
}

impl Relay {
    /// One that sends on from this address.
    pub fn new(from: Ipv4Addr, to: SocketAddr) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket, onward: socket_at(from, to), received: AtomicU64::new(0) }
    }

    /// Where to send to.
    pub fn addr(&self) -> SocketAddr {
        self.socket.local_addr().unwrap()
    }

    /// Has a sender that has sent so many wait until there is room for one more.
    pub fn wait(&self, sent: u64) {
        let deadline = Instant::now() + PATIENCE;
        while sent - self.received.load(Ordering::Relaxed) >= ROOM {
            assert!(Instant::now() < deadline, "the relay stands still");
            thread::sleep(Duration::from_micros(100));
        }
    }

    /// Sends on so many datagrams, at a pace, as a bad network does.
    pub fn run(&self, count: u64, seed: u64, pace: &Pace) -> Done {
        let mut chance = Chance(seed);
        let mut done = Done::default();
        let mut delayed: BTreeMap<u64, Vec<Vec<u8>>> = BTreeMap::new();
        let mut buffer = [0; 2048];
        let onward = |bytes: &[u8]| {
            pace.wait();
            datagrams::send(&self.onward, bytes);
        };
        for number in 0..count {
            let len = self.socket.recv(&mut buffer).unwrap();
            let bytes = &buffer[..len];
            let fate = chance.below(1000);
            let mut delay = || delayed.entry(number + 1 + chance.below(DELAY)).or_default().push(bytes.to_owned());
            if fate < DROPPED {
                done.dropped += 1;
            } else if fate < DROPPED + DOUBLED {
                onward(bytes);
                done.doubled += 1;
                delay();
            } else if fate < DROPPED + DOUBLED + DELAYED {
                done.delayed += 1;
                delay();
            } else {
                onward(bytes);
            }
            while let Some(due) = delayed.first_entry().filter(|due| *due.key() <= number) {
                due.remove().iter().for_each(|bytes| onward(bytes));
            }
            self.received.store(number + 1, Ordering::Relaxed);
        }
        delayed.into_values().flatten().for_each(|bytes| onward(&bytes));
        done
    }

    /// Sends one more on, as it is.
    pub fn pass_on(&self, pace: &Pace) {
        let mut buffer = [0; 2048];
        let len = self.socket.recv(&mut buffer).unwrap();
        pace.wait();
        datagrams::send(&self.onward, &buffer[..len]);
    }
}
