//! The UDP front: datagrams in, beacons to the door. It never sends anything.
//!
//! ```text
//!  socket ──▶ Buffers ──▶ Admission ─┬─▶ door
//!             many at once           └─▶ refused, by reason
//! ```
//!
//! The rule kept here: every datagram that is read is told to the door exactly once. Where the log cannot take any more,
//! nothing is read: the kernel's buffer is one more queue, and what it drops is counted as well.

mod admission;
mod lookout;
mod report;
mod socket;

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{IpAddr, UdpSocket};
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use quinn_udp::{BATCH_SIZE, UdpSocketState};
use tallylight_proto::Front;
use tallylight_proto::beacon::Context;
use tallylight_proto::datagram::Datagram;
use tallylight_proto::time::Millis;
use tokio::task::yield_now;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::http::{Heard, Shared};
use crate::listen::{self, is_shortage};
use crate::socket_state::{kernel_drops, take_no_notes};
use tallylight_host::clock;

pub use admission::Admission;
pub use report::Page;
pub use socket::Buffers;

use admission::Sender;
use lookout::Lookout;
use socket::Received;

/// Datagrams after which a socket lets others have their turn.
const TURN: usize = 512;
/// Between two looks at what the kernel dropped.
const DROPS_INTERVAL: Duration = Duration::from_secs(1);
/// Between two looks whether the log can take something again.
const BLOCKED_PAUSE: Duration = Duration::from_millis(1);
/// Out of memory: asking again at once would only spin.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(50);
/// After any other failure, of which none is known that lasts.
const ERROR_PAUSE: Duration = Duration::from_millis(1);
/// How long, and how many bytes, a socket is emptied when the collector stops: senders need not stop.
const DRAIN_TIME: Duration = Duration::from_secs(1);
const DRAIN_BYTES: usize = 64 * 1024 * 1024;

/// What a worker's sockets share.
pub struct UdpFront {
    /// What all of the worker's fronts share.
    pub shared: Rc<Shared>,
    /// Who may send.
    pub admission: Admission,
    /// Used by one socket at a time, and never across a wait.
    pub buffers: RefCell<Buffers>,
}

/// Receives on one socket.
pub struct Receiver {
    front: Rc<UdpFront>,
    socket: UdpSocket,
    state: UdpSocketState,
    lookout: Lookout,
    /// Something may wait in the socket of which the lookout has told already.
    may_wait: bool,
    /// What the kernel dropped as far as it is counted. None: another one counts it.
    drops: Option<Cell<u32>>,
    /// Others receive on the same socket, also when this process has gone.
    is_shared: bool,
}

/// What one call gave.
#[derive(Default)]
struct Read {
    /// Those that the kernel put together are in one.
    buffers: usize,
    datagrams: usize,
    bytes: usize,
}

impl Receiver {
    /// A receiver on a bound socket, which is counted in [`Shared::accepting`] until it has ended.
    ///
    /// # Errors
    /// If the system will not have it watched.
    pub fn new(front: Rc<UdpFront>, socket: listen::UdpSocket, is_shared: bool) -> io::Result<Self> {
        let listen::UdpSocket { socket, drops_before, buffer: _ } = socket;
        let state = UdpSocketState::new((&socket).into())?;
        take_no_notes(&socket);
        let lookout = Lookout::new(&socket)?;
        Ok(Self { front, socket, state, lookout, may_wait: false, drops: drops_before.map(Cell::new), is_shared })
    }

    /// Receives until the collector stops.
    pub async fn run(mut self) {
        let phase = self.front.shared.phase.clone();
        let mut end = pin!(phase.ends_taking_from(self.is_shared));
        let mut look = interval(DROPS_INTERVAL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = end.as_mut() => break,
                _ = look.tick() => {
                    self.count_drops();
                    // a call that failed in between has left the rest there
                    self.may_wait = true;
                }
                () = self.receive() => {}
            }
        }
        if !self.is_shared {
            self.drain().await;
        }
        self.count_drops();
        let Self { front, socket, lookout, .. } = self;
        drop((socket, lookout));
        front.shared.accepting.set(front.shared.accepting.get() - 1);
        front.shared.ended.notify_one();
    }

    /// Waits for datagrams and takes some. Nothing is lost if it is dropped while it waits.
    async fn receive(&mut self) {
        let front = Rc::clone(&self.front);
        let door = &front.shared.door;
        while door.is_crowded() {
            sleep(BLOCKED_PAUSE).await;
        }
        let told = if self.may_wait { Ok(()) } else { self.lookout.wait().await };
        match told.and_then(|()| self.take_turn(TURN)) {
            Ok(()) if self.may_wait => {
                // a thread without a pause does not park, and so does not flush either
                door.flush();
                yield_now().await;
            }
            Ok(()) => {}
            Err(error) => self.failed(&error).await,
        }
    }

    /// Reads until nothing waits, or it was so many that others should have their turn.
    fn take_turn(&mut self, most: usize) -> io::Result<()> {
        self.may_wait = true;
        let (mut taken, mut buffers) = (0, 0);
        while taken < most && !self.front.shared.door.is_crowded() {
            let read = match self.read() {
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Read::default(),
                Err(error) => return Err(error),
            };
            taken += read.datagrams;
            buffers += read.buffers;
            // what comes after that is told
            if read.buffers < BATCH_SIZE {
                self.may_wait = false;
                break;
            }
        }
        self.lookout.came(buffers, &self.socket);
        Ok(())
    }

    fn read(&self) -> io::Result<Read> {
        let mut buffers = self.front.buffers.borrow_mut();
        let received = buffers.fill(&self.state, &self.socket)?;
        Ok(Read { buffers: received.buffers(), datagrams: self.front.take(received), bytes: received.bytes() })
    }

    /// Takes what waits in the socket: it was sent while there was a collector.
    async fn drain(&self) {
        let deadline = Instant::now() + DRAIN_TIME;
        let mut left = DRAIN_BYTES;
        while left > 0 && Instant::now() < deadline {
            if self.front.shared.door.is_crowded() {
                sleep(BLOCKED_PAUSE).await;
                continue;
            }
            match self.read() {
                Ok(read) => left = left.saturating_sub(read.bytes),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => self.failed(&error).await,
            }
            yield_now().await;
        }
        tracing::debug!("the datagrams do not end: what still waits is not read");
    }

    async fn failed(&self, error: &io::Error) {
        self.front.shared.stats.udp_receive_errors.add(1);
        tracing::debug!(%error, "cannot receive datagrams");
        sleep(if is_shortage(error) { SHORTAGE_PAUSE } else { ERROR_PAUSE }).await;
    }

    /// Counts what the kernel dropped since the last look.
    fn count_drops(&self) {
        let Some(counted) = &self.drops else { return };
        match kernel_drops(&self.socket) {
            Ok(all) => match all.wrapping_sub(counted.replace(all)) {
                0 => {}
                more => self.front.shared.door.kernel_dropped(more.into()),
            },
            Err(error) => tracing::debug!(%error, "the kernel does not say what it dropped"),
        }
    }
}

impl UdpFront {
    /// Tells the door of each of these datagrams. Says how many they are.
    fn take(&self, received: Received<'_>) -> usize {
        self.admission.refresh();
        let received_at = clock::now();
        let mut taken = 0;
        for (peer, datagrams) in received.datagrams() {
            let sender = self.admission.sender(peer);
            let ip = self.shared.options.peers.visitor(peer, &Heard::default());
            for bytes in datagrams {
                self.take_one(sender, bytes, received_at, ip);
                taken += 1;
            }
        }
        self.shared.door.flush_if_due();
        taken
    }

    fn take_one(&self, sender: Sender<'_>, bytes: &[u8], received_at: Millis, ip: Option<IpAddr>) {
        let door = &self.shared.door;
        let (body, number) = match sender.admit(bytes) {
            Err(reason) => return door.refuse_datagram(reason),
            Ok(Datagram::Framed(frame)) if frame.is_heartbeat() => return door.heartbeat(frame.number),
            Ok(Datagram::Framed(frame)) => (frame.body, Some(frame.number)),
            Ok(Datagram::Plain(body)) => (body, None),
        };
        let context = Context {
            received_at,
            front: Front::Udp,
            ip,
            referer: "",
            origin: "",
            user_agent: "",
            number,
            private: false,
        };
        door.datagram(body, &context);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket as Sender;
    use std::sync::Arc;

    use socket2::SockRef;
    use tallylight_proto::DatagramRefusal;
    use tallylight_proto::ledger::{Counts, DatagramCounts};
    use tokio::runtime::{Builder, LocalOptions};
    use tokio::sync::watch;
    use tokio::task::spawn_local;
    use tokio::time::timeout;

    use crate::http::Options;
    use crate::log::Batch;
    use crate::phase::Phase;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// A worker, somebody who sends to it, and a log whose writer never comes.
    struct Fixture {
        shared: Rc<Shared>,
        sender: Sender,
        batches: crossbeam_channel::Receiver<Batch>,
        seen: RefCell<Counts>,
        set_phase: watch::Sender<Phase>,
    }

    impl Fixture {
        /// With room for so many batches in the channel.
        fn new(room: usize) -> Self {
            let (shared, batches, set_phase) = Shared::for_tests(Options::for_tests(), room);
            let sender = Sender::bind("127.0.0.1:0").unwrap();
            Self { shared: Rc::new(shared), sender, batches, seen: RefCell::default(), set_phase }
        }

        /// A receiver on a small socket, in which so many datagrams wait already, or found no room.
        fn receiver(&self, waiting: usize, drops_before: impl Fn(&Sender) -> Option<u32>, is_shared: bool) -> Receiver {
            let socket = Sender::bind("127.0.0.1:0").unwrap();
            SockRef::from(&socket).set_recv_buffer_size(8192).unwrap();
            socket.set_nonblocking(true).unwrap();
            self.sender.connect(socket.local_addr().unwrap()).unwrap();
            (0..waiting).for_each(|_| assert_eq!(self.sender.send(b"a=1").unwrap(), 3));
            let (_, keys) = watch::channel(Arc::default());
            let admission = Admission::new(keys, Vec::new());
            let front = UdpFront { shared: Rc::clone(&self.shared), admission, buffers: RefCell::default() };
            let socket = listen::UdpSocket { drops_before: drops_before(&socket), socket, buffer: 0 };
            Receiver::new(Rc::new(front), socket, is_shared).unwrap()
        }

        /// What was sent on by the door so far.
        fn counts(&self) -> DatagramCounts {
            let mut seen = self.seen.borrow_mut();
            self.batches.try_iter().for_each(|batch| seen.add(batch.counts()));
            seen.datagrams
        }
    }

    fn on_a_worker(test: impl AsyncFnOnce()) {
        let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).unwrap();
        runtime.block_on(async { timeout(PATIENCE, test()).await.expect("it ends") });
    }

    #[test]
    fn what_waits_when_the_collector_stops_is_read_unless_others_share_the_socket() {
        on_a_worker(async || {
            for (is_shared, phase, expected) in [(false, Phase::Draining, 5), (true, Phase::Closing, 0)] {
                let fixture = Fixture::new(1000);
                let receiver = fixture.receiver(5, |_| Some(0), is_shared);
                fixture.set_phase.send_replace(phase);
                receiver.run().await;
                fixture.shared.door.flush();
                assert_eq!((fixture.counts().received, fixture.shared.accepting.get()), (expected, 0));
            }
        });
    }

    #[test]
    fn a_socket_is_no_longer_watched_where_much_comes_and_is_again_afterwards() {
        on_a_worker(async || {
            let fixture = Fixture::new(100_000);
            let mut receiver = fixture.receiver(0, |_| None, false);
            let mut sent = 0;
            for is_by_clock in [false, true, false, true] {
                while receiver.lookout.is_by_clock() != is_by_clock {
                    // by the clock it comes to an end although nothing is sent
                    if is_by_clock {
                        assert_eq!(fixture.sender.send(b"a=1").unwrap(), 3);
                        sent += 1;
                    }
                    receiver.receive().await;
                }
                // whoever waits for the first that comes must not wait for another one
                assert_eq!(fixture.sender.send(b"a=1").unwrap(), 3);
                sent += 1;
                while fixture.counts().received < sent {
                    receiver.receive().await;
                    fixture.shared.door.flush();
                }
            }
        });
    }

    #[test]
    fn what_a_turn_leaves_is_taken_without_waiting_and_what_is_not_there_is_waited_for() {
        on_a_worker(async || {
            let fixture = Fixture::new(1000);
            let mut receiver = fixture.receiver(0, |_| None, false);
            SockRef::from(&receiver.socket).set_recv_buffer_size(212_992).unwrap();
            (0..BATCH_SIZE + 1).for_each(|_| assert_eq!(fixture.sender.send(b"a=1").unwrap(), 3));
            receiver.take_turn(BATCH_SIZE).unwrap();
            assert!(receiver.may_wait, "{:?}", fixture.counts());
            receiver.receive().await;
            fixture.shared.door.flush();
            assert_eq!(fixture.counts().received, BATCH_SIZE as u64 + 1);
            assert!(!receiver.may_wait);
        });
    }

    #[test]
    fn what_the_kernel_dropped_is_counted_once_and_only_if_it_is_ours_to_count() {
        on_a_worker(async || {
            let so_far: fn(&Sender) -> Option<u32> = |socket| kernel_drops(socket).ok();
            for (drops_before, is_counted) in [(so_far, false), (|_| None, false), (|_| Some(0), true)] {
                let fixture = Fixture::new(1000);
                let receiver = fixture.receiver(200, drops_before, false);
                receiver.count_drops();
                receiver.count_drops();
                fixture.set_phase.send_replace(Phase::Draining);
                receiver.run().await;
                fixture.shared.door.flush();
                let DatagramCounts { received, kernel_dropped, .. } = fixture.counts();
                assert!((1..200).contains(&received), "{received}");
                assert_eq!(kernel_dropped, if is_counted { 200 - received } else { 0 });
            }
        });
    }

    #[test]
    fn the_count_of_dropped_datagrams_may_go_around() {
        on_a_worker(async || {
            let fixture = Fixture::new(1000);
            let receiver = fixture.receiver(0, |_| Some(u32::MAX - 1), false);
            receiver.count_drops();
            fixture.shared.door.flush();
            assert_eq!(fixture.counts().kernel_dropped, 2);
        });
    }

    #[test]
    fn nothing_is_read_while_the_log_can_take_nothing() {
        on_a_worker(async || {
            let fixture = Fixture::new(1);
            for _ in 0..2 {
                fixture.shared.door.refuse_datagram(DatagramRefusal::Tag);
                fixture.shared.door.flush();
            }
            assert!(fixture.shared.door.is_crowded());
            let receiver = fixture.receiver(5, |_| Some(0), false);
            let socket = SockRef::from(&receiver.socket).try_clone().unwrap();
            let running = spawn_local(receiver.run());
            for _ in 0..20 {
                sleep(BLOCKED_PAUSE).await;
            }
            let mut first = [std::mem::MaybeUninit::uninit(); 8];
            assert_eq!(socket.peek(&mut first).unwrap(), 3);
            while fixture.counts().received < 7 {
                fixture.shared.door.flush();
                sleep(BLOCKED_PAUSE).await;
            }
            fixture.set_phase.send_replace(Phase::Draining);
            running.await.unwrap();
        });
    }
}
