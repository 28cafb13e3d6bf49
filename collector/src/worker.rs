//! A worker: one thread, one event loop, its own sockets and its own door.
//!
//! The rule kept here: workers share nothing that a request touches but the channel to the log. When the loop
//! has nothing left to do, what the door gathered is sent.

use std::cell::RefCell;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::net::SocketFlags;
use tallylight_proto::keys::Keys;
use tokio::io::Interest;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{spawn_local, yield_now};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::door::Door;
use crate::http::{self, Options, Shared};
use crate::ids::IdMaker;
use crate::limits::{Admitted, ConnectionLimit, Crowd, RateLimit};
use crate::listen::{UdpSocket, is_shortage};
use crate::log::{Appender, Status};
use crate::phase::{Phase, Watch};
use crate::sites::Sites;
use crate::socket_state::{waiting_connections, watched};
use crate::stats::WorkerStats;
use crate::udp::{Admission, Receiver, UdpFront};
use crate::watched::Watched;

/// Tasks that are run between two looks at the sockets, and between two at what the log's writer has told. tokio's own
/// numbers, 61 and 31, are for tasks that take some microseconds; here one may be a body of 32 events or a piece of one, and all
/// who wait for theirs wait for as many of those.
const TASKS_A_LOOK: u32 = 8;
/// Connections that one socket gives between two looks at all where many wait: each costs some 15 µs until it is answered, or has its
/// place in the line. Where fewer do it gives one: whoever is accepted later has asked by then, and need not be waited for.
const ACCEPTS_A_LOOK: u32 = 4;
/// So many are many: they wait some milliseconds.
const MANY_WAITING: u32 = 128;
/// Between two looks how many wait.
const LOOKS_A_COUNT: u32 = 16;
/// Out of descriptors or memory: asking again at once would only spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Before it is asked again who could make room for a connection: whoever has spoken a moment ago will have been silent.
const CROWD_PAUSE: Duration = Duration::from_millis(20);
/// A batch that found the channel full is tried again after this long, if nothing comes in before.
const TICK: Duration = Duration::from_millis(250);
/// When time is up, requests are told so; this is how long that may take.
const FAREWELL: Duration = Duration::from_secs(1);
/// Between two tries to send the last batch.
const LAST_PAUSE: Duration = Duration::from_millis(1);

/// What a worker is made of.
pub struct Worker {
    /// Its sockets for connections.
    pub listeners: Vec<TcpListener>,
    /// Others accept on the same sockets, also when this process has gone.
    pub are_shared: bool,
    /// Its sockets for datagrams.
    pub udp: Vec<UdpSocket>,
    /// Others receive on the same ones.
    pub udp_are_shared: bool,
    /// Who may send datagrams.
    pub admission: Admission,
    /// The settings of its front.
    pub options: Options,
    /// Its way to the log.
    pub appender: Appender,
    /// What the log is doing.
    pub log: Arc<Status>,
    /// Its source of ids.
    pub ids: IdMaker,
    /// The sites whose events are taken.
    pub sites: watch::Receiver<Arc<Sites>>,
    /// The keys that redirects are signed with.
    pub redirect_keys: watch::Receiver<Arc<Keys>>,
    /// Connections that may still be served, of all workers.
    pub slots: Arc<Semaphore>,
    /// How many one peer may have, of all workers.
    pub peer_limit: Option<Arc<ConnectionLimit>>,
    /// How many tokens one peer may use up, of all workers.
    pub rate_limit: Option<Arc<RateLimit>>,
    /// What it counts.
    pub stats: Arc<WorkerStats>,
    /// Whether the collector is stopping.
    pub phase: watch::Receiver<Phase>,
}

thread_local! {
    /// The door of the worker that this thread is.
    static DOOR: RefCell<Option<Rc<Door>>> = const { RefCell::new(None) };
}

impl Worker {
    /// Starts its thread.
    ///
    /// # Errors
    /// If the system has no thread or no event queue left.
    pub fn start(self, number: usize) -> io::Result<JoinHandle<()>> {
        std::thread::Builder::new().name(format!("worker-{number}")).spawn(move || self.run())
    }

    fn run(self) {
        let mut runtime = Builder::new_current_thread();
        let runtime = runtime.enable_all().event_interval(TASKS_A_LOOK).global_queue_interval(TASKS_A_LOOK);
        let runtime = runtime.on_thread_park(flush).build_local(LocalOptions::default());
        let runtime = runtime.expect("the kernel has a few descriptors left when a worker starts");
        let door = Rc::new(Door::new(self.appender, self.ids, self.sites));
        DOOR.set(Some(Rc::clone(&door)));
        runtime.block_on(async {
            // connections watch a phase of their worker's own: no lock that workers share
            let (set_phase, phase) = watch::channel(Phase::Serving);
            let sockets = self.listeners.len() + self.udp.len();
            let mut shared = Shared::new(self.options, Rc::clone(&door), self.stats, Watch::new(phase), sockets);
            (shared.redirect_keys, shared.rate_limit) = (Watched::new(self.redirect_keys), self.rate_limit);
            shared.peer_limit = self.peer_limit;
            let shared = Rc::new(shared);
            for turnstile in [&shared.turnstile, &shared.leaving].map(Rc::clone) {
                spawn_local(async move { turnstile.run().await });
            }
            let crowd = Rc::<Crowd>::default();
            for listener in self.listeners {
                let acceptor = Acceptor {
                    shared: Rc::clone(&shared),
                    slots: Arc::clone(&self.slots),
                    crowd: Rc::clone(&crowd),
                    are_shared: self.are_shared,
                };
                spawn_local(acceptor.run(listener));
            }
            let front = UdpFront { shared: Rc::clone(&shared), admission: self.admission, buffers: RefCell::default() };
            let front = Rc::new(front);
            for socket in self.udp {
                let receiver = Receiver::new(Rc::clone(&front), socket, self.udp_are_shared);
                spawn_local(receiver.expect("a bound socket can be watched").run());
            }
            stay(&shared, self.phase, &set_phase).await;
        });
        // connections that are still there are dropped with it
        drop(runtime);
        DOOR.set(None);
        while !door.is_empty() && !self.log.snapshot().failed {
            door.flush();
            std::thread::sleep(LAST_PAUSE);
        }
    }
}

fn flush() {
    DOOR.with_borrow(|door| {
        if let Some(door) = door {
            door.flush();
        }
    });
}

/// Passes on the phase until the last connection has ended, or time is up.
async fn stay(shared: &Shared, mut phase: watch::Receiver<Phase>, set_phase: &watch::Sender<Phase>) {
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let is_quiet = || shared.accepting.get() == 0 && shared.stats.opened.get() == shared.stats.closed.get();
    loop {
        let now = match *phase.borrow_and_update() {
            // those that came since then have had their answer, or will have it soon
            Phase::Draining if shared.early.get() == 0 => Phase::Closing,
            now => now,
        };
        pass_on(set_phase, now);
        match now {
            Phase::Closed => break,
            Phase::Closing if is_quiet() => break,
            Phase::Serving | Phase::Draining | Phase::Closing => {}
        }
        tokio::select! {
            // the thread parks after each tick and thereby flushes
            _ = tick.tick() => {}
            changed = phase.changed() => if changed.is_err() { break },
            () = shared.ended.notified(), if now >= Phase::Draining => {}
        }
    }
    shared.door.close();
    set_phase.send_replace(Phase::Closed);
    let all_ended = async {
        while !is_quiet() {
            shared.ended.notified().await;
        }
    };
    // what has not ended by now is dropped
    let _ = timeout(FAREWELL, all_ended).await;
}

/// Wakes all connections, so only if there is something to tell: there may be tens of thousands that are silent.
fn pass_on(set_phase: &watch::Sender<Phase>, now: Phase) {
    set_phase.send_if_modified(|phase| std::mem::replace(phase, now) != now);
}

/// Accepts on one socket.
struct Acceptor {
    shared: Rc<Shared>,
    slots: Arc<Semaphore>,
    crowd: Rc<Crowd>,
    are_shared: bool,
}

impl Acceptor {
    async fn run(self, listener: TcpListener) {
        let listener = watched(listener.into()).expect("a bound socket can be watched");
        let phase = self.shared.phase.clone();
        let (mut looks, mut most, mut of_this_look) = (0_u32, 1, 0);
        loop {
            let accepted = tokio::select! {
                biased;
                () = phase.ends_taking_from(self.are_shared) => break,
                accepted = listener.async_io(Interest::READABLE, accept) => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    if let Some(admitted) = self.shared.admit(&stream, peer.ip()) {
                        // accepted first, so that no worker keeps a slot for a connection that another one will get
                        let slot = self.slot().await;
                        if let Err(error) = self.serve(stream, peer, admitted, slot) {
                            self.failed(&error).await;
                        }
                    }
                    of_this_look += 1;
                    if of_this_look >= most {
                        // those that are there go on, however many come
                        yield_now().await;
                        of_this_look = 0;
                        if looks.is_multiple_of(LOOKS_A_COUNT) {
                            most = accepts_a_look(&listener);
                        }
                        looks = looks.wrapping_add(1);
                    }
                }
                Err(error) => self.failed(&error).await,
            }
        }
        if !self.are_shared {
            self.accept_rest(listener.into_inner());
        }
        self.shared.accepting.set(self.shared.accepting.get() - 1);
        self.shared.ended.notify_one();
    }

    /// A slot for a connection: one that is free, or that another connection has to leave.
    async fn slot(&self) -> OwnedSemaphorePermit {
        loop {
            if let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() {
                return slot;
            }
            // those of other workers may end, too
            let patience = if self.crowd.make_room() { TICK } else { CROWD_PAUSE };
            if let Ok(slot) = timeout(patience, Arc::clone(&self.slots).acquire_owned()).await {
                return slot.expect("never closed");
            }
        }
    }

    /// Takes what waits in the socket's queue: closing the socket would reset it. Nobody is answered before that is closed, or those who
    /// come again for each request would come for ever.
    fn accept_rest(&self, listener: OwnedFd) {
        let mut rest = Vec::new();
        while let Ok((stream, peer)) = accept(&listener) {
            let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() else { break };
            rest.push((stream, peer, slot));
        }
        drop(listener);
        for (stream, peer, slot) in rest {
            if let Some(admitted) = self.shared.admit(&stream, peer.ip()) {
                // without descriptors it is closed
                let _ = self.serve(stream, peer, admitted, slot);
            }
        }
    }

    /// Serves a connection: at once, where it has one request and ends with that, else in a task of its own.
    fn serve(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        admitted: Admitted,
        slot: OwnedSemaphorePermit,
    ) -> io::Result<()> {
        self.shared.stats.opened.add(1);
        // where connections come without a pause, the thread does not park
        self.shared.door.flush_if_due();
        let is_early = self.shared.phase.is_serving();
        self.shared.early.set(self.shared.early.get() + usize::from(is_early));
        let open = Open { shared: Rc::clone(&self.shared), is_early, _admitted: admitted, _slot: slot };
        let opening = http::Opening::of(&self.shared, &stream, peer);
        if opening.is_all() {
            return Ok(());
        }
        let stream = tokio::net::TcpStream::from_std(stream)?;
        let membership = Rc::new(self.crowd.join());
        spawn_local(async move {
            let serving = http::serve(Rc::clone(&open.shared), stream, peer, opening, Rc::clone(&membership));
            // pinned here: given away, it would have its place twice in what is kept of each connection
            if !membership.serve(pin!(serving)).await {
                open.shared.stats.evicted.add(1);
            }
            drop(open);
        });
        Ok(())
    }

    async fn failed(&self, error: &io::Error) {
        self.shared.stats.accept_errors.add(1);
        if is_shortage(error) {
            tracing::debug!(%error, "cannot accept");
            sleep(ACCEPT_PAUSE).await;
        }
    }
}

/// Accepts a connection, which is not watched yet: it may be over before it needs to be.
fn accept(listener: &OwnedFd) -> io::Result<(TcpStream, SocketAddr)> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let (stream, peer) = rustix::net::acceptfrom_with(listener, flags)?;
    let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok()).ok_or(io::ErrorKind::AddrNotAvailable)?;
    Ok((stream.into(), peer))
}

/// How many connections a socket gives between two looks now.
fn accepts_a_look(listener: &impl AsFd) -> u32 {
    let are_many = waiting_connections(listener).is_ok_and(|waiting| waiting >= MANY_WAITING);
    if are_many { ACCEPTS_A_LOOK } else { 1 }
}

/// A connection that is being served.
struct Open {
    shared: Rc<Shared>,
    /// Accepted before the collector was told to stop.
    is_early: bool,
    _admitted: Admitted,
    _slot: OwnedSemaphorePermit,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.shared.stats.closed.add(1);
        self.shared.early.set(self.shared.early.get() - usize::from(self.is_early));
        self.shared.ended.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// Has somebody accept on a socket to which so many connections have come already, each with a beginning.
    fn with_waiting<T>(
        waiting: u32,
        beginning: &[u8],
        work: impl AsyncFnOnce(Acceptor, TcpListener, &[TcpStream]) -> T,
    ) -> T {
        let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).unwrap();
        runtime.block_on(async {
            let (shared, _batches, _phase) = Shared::for_tests(Options::for_tests(), 1);
            let shared = Rc::new(shared);
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            // with more room than there is by default
            rustix::net::listen(&listener, 4096).unwrap();
            let addr = listener.local_addr().unwrap();
            let streams: Vec<_> = (0..waiting)
                .map(|_| {
                    let mut stream = TcpStream::connect(addr).unwrap();
                    stream.write_all(beginning).unwrap();
                    stream.set_nonblocking(true).unwrap();
                    stream
                })
                .collect();
            listener.set_nonblocking(true).unwrap();
            let slots = Arc::new(Semaphore::new(1000));
            work(Acceptor { shared, slots, crowd: Rc::default(), are_shared: false }, listener, &streams).await
        })
    }

    /// The same, and looks at the sockets until `count` says that it has done with all. What it counted after each look.
    fn seen_after_looks(waiting: u32, beginning: &[u8], count: impl Fn(&Shared, &[TcpStream]) -> u64) -> Vec<u64> {
        with_waiting(waiting, beginning, async |acceptor, listener, streams| {
            let shared = Rc::clone(&acceptor.shared);
            spawn_local(acceptor.run(listener));
            let turnstile = Rc::clone(&shared.turnstile);
            spawn_local(async move { turnstile.run().await });
            let mut seen = vec![0];
            while seen.last() != Some(&waiting.into()) {
                yield_now().await;
                seen.push(count(&shared, streams));
            }
            seen
        })
    }

    fn most_a_look(seen: &[u64]) -> Option<u64> {
        seen.windows(2).map(|two| two[1] - two[0]).max()
    }

    #[test]
    fn few_connections_are_accepted_between_two_looks_at_the_sockets_however_many_wait() {
        for (waiting, expected) in [(50, 1), (MANY_WAITING - 1, 1), (2 * MANY_WAITING, ACCEPTS_A_LOOK)] {
            let seen = seen_after_looks(waiting, b"", |shared, _| shared.stats.opened.get());
            assert_eq!(most_a_look(&seen), Some(expected.into()), "{seen:?}");
        }
    }

    #[test]
    fn one_http2_connection_begins_between_two_looks_at_the_sockets_however_many_wait() {
        // it begins with what we say of ourselves
        let count = |_: &Shared, waiting: &[TcpStream]| {
            waiting.iter().filter(|stream| stream.peek(&mut [0]).is_ok()).count() as u64
        };
        let seen = seen_after_looks(2 * MANY_WAITING, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0", count);
        assert_eq!(most_a_look(&seen), Some(1), "{seen:?}");
    }

    #[test]
    fn no_more_are_taken_at_the_end_than_there_is_room_for_however_soon_they_have_their_answer() {
        let request = b"GET /nothing HTTP/1.1\r\nConnection: close\r\n\r\n";
        with_waiting(50, request, async |acceptor, listener, _| {
            let acceptor = Acceptor { slots: Arc::new(Semaphore::new(20)), ..acceptor };
            acceptor.accept_rest(listener.into());
            let stats = &acceptor.shared.stats;
            assert_eq!((stats.opened.get(), stats.closed.get(), acceptor.slots.available_permits()), (20, 20, 20));
        });
    }

    #[test]
    fn connections_are_woken_when_the_phase_changes_and_not_at_each_tick() {
        let (set_phase, mut phase) = watch::channel(Phase::Serving);
        let phases = [Phase::Serving, Phase::Serving, Phase::Draining, Phase::Draining, Phase::Closing, Phase::Closed];
        let told = phases.map(|now| {
            pass_on(&set_phase, now);
            let told = phase.has_changed().unwrap();
            assert_eq!(*phase.borrow_and_update(), now);
            told
        });
        assert_eq!(told, [false, false, true, false, true, true]);
    }
}
