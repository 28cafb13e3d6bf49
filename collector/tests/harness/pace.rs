//! How fast datagrams may be sent so that the kernel drops none: never more on the way than a socket's buffer holds.

use std::fs;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::{Metrics, PATIENCE};

/// Bytes that a collector asks for by default, for each of its sockets.
const BUFFER: u64 = 4 << 20;

/// The pace of all that is sent to one life of a collector. Its senders share it.
pub struct Pace {
    admin: SocketAddr,
    /// Datagrams that may be on the way.
    room: u64,
    sent: AtomicU64,
    /// Of those, what the collector has read or the kernel dropped.
    arrived: AtomicU64,
    /// What had arrived before. Whoever asks the collector holds it.
    before: Mutex<u64>,
}

impl Pace {
    /// For datagrams of so many bytes at most, to a collector to which nothing is on the way.
    pub fn new(admin: SocketAddr, largest: usize) -> Self {
        let limit = fs::read_to_string("/proc/sys/net/core/rmem_max").expect("this is Linux");
        // the kernel doubles what is asked for, and then counts what a datagram takes in memory, not its bytes
        let buffer = 2 * BUFFER.min(limit.trim().parse().expect("a number"));
        let size = (largest as u64 + 512).next_power_of_two() + 256;
        let (sent, arrived) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { admin, room: buffer / size / 2, sent, arrived, before: Mutex::new(arrived_at(admin)) }
    }

    /// Waits until one more may be sent, and counts it as sent.
    pub fn wait(&self) {
        let number = self.sent.fetch_add(1, Ordering::Relaxed);
        if number - self.arrived.load(Ordering::Relaxed).min(number) >= self.room {
            self.wait_for(number - self.room / 2);
        }
    }

    /// Waits until all that was sent has arrived.
    pub fn finish(&self) {
        self.wait_for(self.sent.load(Ordering::Relaxed));
    }

    fn wait_for(&self, number: u64) {
        let before = self.before.lock().expect("no test goes on after a panic");
        let deadline = Instant::now() + PATIENCE;
        loop {
            if self.arrived.load(Ordering::Relaxed) >= number {
                return;
            }
            let arrived = arrived_at(self.admin) - *before;
            self.arrived.store(arrived, Ordering::Relaxed);
            assert!(Instant::now() < deadline, "of {number} datagrams no more than {arrived} arrive");
            // the collector has better things to do than to answer this
            thread::sleep(Duration::from_millis(2));
        }
    }
}

fn arrived_at(admin: SocketAddr) -> u64 {
    let metrics = Metrics::of(admin);
    ["received", "kernel_dropped"]
        .map(|word| metrics.count(&format!("tallylight_udp_datagrams_{word}_total")))
        .iter()
        .sum()
}

/// Tells senders that it is enough.
#[derive(Default)]
pub struct Over(AtomicBool);

/// It is over when this is dropped, also by a panic: whoever waits for senders that go on would wait for ever.
pub struct OverWhenDropped<'a>(&'a Over);

impl Over {
    /// Whether it is.
    pub fn is_over(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// What makes it so.
    pub fn when_dropped(&self) -> OverWhenDropped<'_> {
        OverWhenDropped(self)
    }
}

impl Drop for OverWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}
