//! When a socket is looked at: as soon as something comes, or, where much comes, at intervals.
//!
//! A thread that is as fast as its senders is woken by each datagram, and takes one or two in a call: at 200,000 a second that is
//! half of what they cost. What gathers for part of a millisecond is taken in a call or two, and meanwhile the kernel
//! wakes nobody. What it has put together (GRO) counts as one datagram here.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

use crate::socket_state::watched;

/// Between two looks where much comes. The smallest receive buffer that Linux grants as it is installed (212,992 bytes, which it
/// doubles) holds the short datagrams of a million a second for that long, but not for a millisecond, which is the shortest
/// of the event loop's own timers.
const INTERVAL: Duration = Duration::from_micros(400);
/// Looks after which it is judged how much comes.
const LOOKS: u32 = 64;
/// So many in an interval are much, and so few no longer: waking the thread costs as much as some of them.
const MUCH: u32 = 4;
const LITTLE: u32 = 2;

/// Says when to look.
pub struct Lookout {
    by: By,
    flow: Flow,
}

enum By {
    /// The socket, of which is told what comes.
    Arrival(AsyncFd<OwnedFd>),
    /// A timer, and nothing of the socket.
    Clock(AsyncFd<OwnedFd>),
}

impl Lookout {
    /// For a socket that does not block.
    ///
    /// # Errors
    /// If the system will not have it watched.
    pub fn new(socket: &impl AsFd) -> io::Result<Self> {
        Ok(Self { by: By::arrival(socket)?, flow: Flow::since(Instant::now()) })
    }

    /// Waits until it is time to look. Nothing is missed if it is dropped, nor later: what comes from now on ends the next wait.
    pub async fn wait(&self) -> io::Result<()> {
        match &self.by {
            By::Arrival(socket) => socket.readable().await?.clear_ready(),
            By::Clock(timer) => {
                timer.readable().await?.clear_ready();
                // starts it again (timerfd_create(2)); that it has ended since is no matter
                match rustix::io::read(timer.get_ref(), &mut [0; 8]) {
                    Ok(_) | Err(rustix::io::Errno::AGAIN) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    /// So many datagrams came at a look at this socket. Where the system has no descriptor left to look otherwise, it goes on as it did.
    pub fn came(&mut self, datagrams: usize, socket: &impl AsFd) {
        let Some(is_much) = self.flow.came(datagrams, Instant::now) else { return };
        let by = match (&self.by, is_much) {
            (By::Arrival(_), true) => By::clock(),
            (By::Clock(_), false) => By::arrival(socket),
            _ => return,
        };
        match by {
            Ok(by) => self.by = by,
            Err(error) => tracing::debug!(%error, is_much, "a socket is looked at as before"),
        }
    }
}

#[cfg(test)]
impl Lookout {
    pub fn is_by_clock(&self) -> bool {
        matches!(self.by, By::Clock(_))
    }
}

impl By {
    /// Tells of what waits already, too.
    fn arrival(socket: &impl AsFd) -> io::Result<Self> {
        Ok(Self::Arrival(watched(socket.as_fd().try_clone_to_owned()?)?))
    }

    fn clock() -> io::Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        let interval = Timespec { tv_sec: 0, tv_nsec: INTERVAL.subsec_nanos().into() };
        let each = Itimerspec { it_interval: interval, it_value: interval };
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &each)?;
        Ok(Self::Clock(watched(timer)?))
    }
}

/// How much comes.
struct Flow {
    since: Instant,
    looks: u32,
    datagrams: u32,
    is_much: bool,
}

impl Flow {
    fn since(since: Instant) -> Self {
        Self { since, looks: 0, datagrams: 0, is_much: false }
    }

    /// So many came at a look. Says after some of them whether that is much.
    fn came(&mut self, datagrams: usize, now: impl Fn() -> Instant) -> Option<bool> {
        self.looks += 1;
        self.datagrams = self.datagrams.saturating_add(u32::try_from(datagrams).unwrap_or(u32::MAX));
        if self.looks < LOOKS {
            return None;
        }
        let now = now();
        let bound = if self.is_much { LITTLE } else { MUCH };
        let is_much = INTERVAL.saturating_mul(self.datagrams) >= (now - self.since).saturating_mul(bound);
        *self = Self { is_much, ..Self::since(now) };
        Some(is_much)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said after [`LOOKS`] looks, so many microseconds apart, at each of which so many came.
    fn said(flow: &mut Flow, micros: u64, datagrams: usize) -> Option<bool> {
        let mut now = flow.since;
        let looks = (0..LOOKS).map(|_| {
            now += Duration::from_micros(micros);
            flow.came(datagrams, || now)
        });
        let said: Vec<_> = looks.collect();
        let (last, before) = said.split_last().unwrap();
        assert!(before.iter().all(Option::is_none));
        *last
    }

    #[test]
    fn much_is_four_in_an_interval_and_little_is_less_than_two() {
        let mut flow = Flow::since(Instant::now());
        assert_eq!(said(&mut flow, 101, 1), Some(false));
        assert_eq!(said(&mut flow, 100, 1), Some(true), "4 in 400 µs");
        assert_eq!(said(&mut flow, 400, 2), Some(true));
        assert_eq!(said(&mut flow, 401, 2), Some(false));
        assert_eq!(said(&mut flow, 400, 3), Some(false), "no longer enough");
        assert_eq!(said(&mut flow, 0, 0), Some(true), "no time at all");
        assert_eq!(said(&mut flow, 400, 0), Some(false));
        assert_eq!(said(&mut flow, 1_000_000, usize::MAX), Some(true));
    }
}
