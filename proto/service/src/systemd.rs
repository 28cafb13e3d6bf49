//! What systemd is told, `sd_notify(3)`: that the program is ready, what it is doing, and that it is alive.
//!
//! The rule kept here: **nobody waits for systemd.** A sign of life that it does not take at once is not given, since the
//! thread that gives it has better things to do; whatever else is said, is said for a moment at most. The crate for this
//! (`sd-notify`) waits for as long as it takes.
//!
//! All of it does nothing where nobody listens, that is without the variables that systemd sets.

use std::env;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// How long something is tried to be said.
const PATIENCE: Duration = Duration::from_secs(1);
/// So many signs of life are given within the time in which systemd wants one: it asks for two.
const SIGNS: u32 = 3;
/// After a sign that was not taken, or for which it was too early.
const AGAIN: Duration = Duration::from_millis(100);

/// Says to systemd how far the program is.
#[derive(Debug, Default)]
pub struct Notifier(Option<UnixDatagram>);

impl Notifier {
    /// To whom `NOTIFY_SOCKET` names.
    pub fn from_env() -> Self {
        Self::of(listener())
    }

    fn of(listener: Option<SocketAddr>) -> Self {
        let connect = |addr: SocketAddr| {
            let socket = connected(&addr)?;
            socket.set_write_timeout(Some(PATIENCE))?;
            Ok::<_, io::Error>(socket)
        };
        Self(listener.and_then(|addr| {
            connect(addr).inspect_err(|error| tracing::warn!(%error, "systemd cannot be told anything")).ok()
        }))
    }

    /// The program does what it is for, from now on or again; `status` says in a line what that is.
    pub fn ready(&self, status: &str) {
        self.say(&format!("READY=1\nSTATUS={}", line(status)));
    }

    /// It reads its files again, until it is ready again.
    pub fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        // systemd 253 and later want to know that this is younger than their signal
        let micros = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1_000;
        self.say(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
    }

    /// It is about to end.
    pub fn stopping(&self, status: &str) {
        self.say(&format!("STOPPING=1\nSTATUS={}", line(status)));
    }

    fn say(&self, text: &str) {
        let Some(socket) = &self.0 else { return };
        if let Err(error) = socket.send(text.as_bytes()) {
            tracing::warn!(%error, "systemd was not told: {}", line(text));
        }
    }
}

/// Tells systemd that the program is alive, for as long as somebody says so. Its copies are one.
#[derive(Clone, Debug, Default)]
pub struct Watchdog(Option<Arc<Dog>>);

#[derive(Debug)]
struct Dog {
    socket: UnixDatagram,
    /// Between two signs of life.
    interval: Duration,
    began: Instant,
    /// When the next one is due, in ms since it began.
    due: AtomicU64,
}

impl Watchdog {
    /// As `WATCHDOG_USEC` wants it (`WatchdogSec=`).
    pub fn from_env() -> Self {
        let number = |name: &str| env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
        let is_ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(process::id()));
        let period = number("WATCHDOG_USEC").filter(|micros| is_ours && *micros > 0).map(Duration::from_micros);
        Self::of(listener().zip(period))
    }

    fn of(wanted: Option<(SocketAddr, Duration)>) -> Self {
        let start = |(addr, period): (SocketAddr, Duration)| {
            let socket = connected(&addr)?;
            socket.set_nonblocking(true)?;
            let interval = period / SIGNS;
            Ok::<_, io::Error>(Arc::new(Dog { socket, interval, began: Instant::now(), due: AtomicU64::new(0) }))
        };
        Self(wanted.and_then(|wanted| {
            start(wanted).inspect_err(|error| tracing::warn!(%error, "the watchdog cannot be fed")).ok()
        }))
    }

    /// To be called by whoever must not hang, each time that something is done: more often than is asked for costs a look at
    /// the clock. Never waits.
    pub fn feed(&self) {
        let Some(dog) = &self.0 else { return };
        let now = millis(dog.began.elapsed());
        if now < dog.due.load(Relaxed) {
            return;
        }
        let next = if dog.socket.send(b"WATCHDOG=1").is_ok() { dog.interval } else { AGAIN.min(dog.interval) };
        dog.due.store(now + millis(next), Relaxed);
    }

    /// How long whoever feeds it may sleep; for ever if there is none.
    pub fn patience(&self) -> Duration {
        self.0.as_ref().map_or(Duration::MAX, |dog| dog.interval)
    }
}

/// Who listens, as `NOTIFY_SOCKET` has it: a path, or behind an @ an abstract name.
fn listener() -> Option<SocketAddr> {
    let name = env::var_os("NOTIFY_SOCKET")?;
    let addr = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(&name),
    };
    addr.inspect_err(|error| tracing::warn!(%error, "NOTIFY_SOCKET is no address")).ok()
}

fn connected(addr: &SocketAddr) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(addr)?;
    Ok(socket)
}

/// What is said is lines.
fn line(text: &str) -> String {
    text.replace('\n', " ")
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// Somebody who listens.
    fn systemd() -> (UnixDatagram, SocketAddr) {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let name = format!("tallylight-test-{}-{}", process::id(), NUMBER.fetch_add(1, Relaxed));
        let addr = SocketAddr::from_abstract_name(name).unwrap();
        let socket = UnixDatagram::bind_addr(&addr).unwrap();
        socket.set_nonblocking(true).unwrap();
        (socket, addr)
    }

    fn heard(socket: &UnixDatagram) -> Vec<String> {
        let mut buffer = [0; 1000];
        std::iter::from_fn(|| socket.recv(&mut buffer).ok().map(|len| String::from_utf8_lossy(&buffer[..len]).into()))
            .collect()
    }

    #[test]
    fn what_is_told_is_what_systemd_understands() {
        let (socket, addr) = systemd();
        let notifier = Notifier::of(Some(addr));
        notifier.ready("takes\nbeacons");
        notifier.reloading();
        notifier.stopping("drains");
        let heard = heard(&socket);
        assert_eq!(heard.len(), 3);
        assert_eq!((&*heard[0], &*heard[2]), ("READY=1\nSTATUS=takes beacons", "STOPPING=1\nSTATUS=drains"));
        let micros: u64 = heard[1].strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap().parse().unwrap();
        assert!(micros > 0);
    }

    #[test]
    fn signs_of_life_are_given_in_time_and_not_more_often() {
        let (socket, addr) = systemd();
        let watchdog = Watchdog::of(Some((addr, Duration::from_millis(300))));
        assert_eq!(watchdog.patience(), Duration::from_millis(100));
        let other = watchdog.clone();
        for _ in 0..1000 {
            watchdog.feed();
            other.feed();
        }
        let first = heard(&socket);
        assert!(first.contains(&"WATCHDOG=1".to_owned()) && first.len() <= 3, "{first:?}");
        thread::sleep(watchdog.patience());
        watchdog.feed();
        assert_eq!(heard(&socket), ["WATCHDOG=1"]);
        assert!(heard(&socket).is_empty(), "nobody says that it is alive");
    }

    #[test]
    fn who_feeds_does_not_wait_for_somebody_who_does_not_listen() {
        let (socket, addr) = systemd();
        let others = connected(&addr).unwrap();
        others.set_nonblocking(true).unwrap();
        while others.send(b"more than it takes").is_ok() {}
        let watchdog = Watchdog::of(Some((addr, Duration::from_secs(3))));
        let began = Instant::now();
        watchdog.feed();
        assert!(began.elapsed() < PATIENCE);
        heard(&socket);
        thread::sleep(AGAIN);
        watchdog.feed();
        assert_eq!(heard(&socket), ["WATCHDOG=1"], "it is tried again before it is due again");
    }

    #[test]
    fn without_somebody_who_listens_nothing_happens() {
        let gone = SocketAddr::from_abstract_name("tallylight-test-nobody").unwrap();
        for listener in [None, Some(gone)] {
            Notifier::of(listener.clone()).ready("all the same");
            let watchdog = Watchdog::of(listener.map(|addr| (addr, Duration::from_secs(1))));
            watchdog.feed();
            assert_eq!(watchdog.patience(), Duration::MAX);
        }
    }
}
