//! A connection to the HTTP front, as bytes on a socket.
//!
//! The first byte says in pieces of how many bytes the rest is sent: 0, all at once. Behind that the peer closes its
//! side, and so the connection ends, too.

use std::cell::{Cell, RefCell};
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tallylight_collector::door::Door;
use tallylight_collector::http::{Opening, Options, Peers, Shared, serve};
use tallylight_collector::ids::IdMaker;
use tallylight_collector::limits::{Crowd, RateLimit};
use tallylight_collector::log::{self, Log, Status};
use tallylight_collector::phase::{Phase, Watch};
use tallylight_collector::settings::IpMode;
use tallylight_collector::sites::Sites;
use tallylight_collector::watched::Watched;
use tallylight_proto::keys::Keys;
use tallylight_proto::layout;
use tallylight_proto::record::{self, Record};
use tallylight_proto::segment::{Found, Framing, HEADER_LEN, HeaderPage, MIN_CAPACITY, Mark, Scanner};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::answers;
use crate::sample::{bare, check_event, key, secret};

/// No connection whose peer has closed its side takes so long, on whatever machine.
const PATIENCE: Duration = Duration::from_secs(15);
/// After so many connections the log is looked at.
const LOOK_EACH: u32 = 512;
/// So many bytes are sent at most.
const MOST_BYTES: usize = 256 * 1024;

thread_local! {
    static FRONT: Front = Front::start();
    /// The door that is flushed when the loop has nothing to do, as a worker's is.
    static DOOR: RefCell<Option<Rc<Door>>> = const { RefCell::new(None) };
}

/// Bytes on a socket → answers and a log. Every connection ends, every answer is HTTP with a status that the contract
/// knows, what was received was logged, shed or refused, and what was logged reads back.
pub fn http(bytes: &[u8]) {
    let [piece, request @ ..] = bytes else { return };
    let request = &request[..request.len().min(MOST_BYTES)];
    FRONT.with(|front| {
        let answers = front.connection(request, usize::from(*piece));
        if request.starts_with(b"PRI") {
            answers::check_http2(&answers);
        } else {
            answers::check_http1(&answers);
        }
        front.look_at_times();
    });
}

/// Looks at the log behind the connections of this thread, which [`http`] does once in a while.
pub fn look_at_log() {
    FRONT.with(Front::look_at_log);
}

/// One worker's front, and a log behind it.
struct Front {
    runtime: LocalRuntime,
    shared: Rc<Shared>,
    door: Rc<Door>,
    status: Arc<Status>,
    // both end with the process
    _log: Log,
    folder: TempDir,
    // the phase stays what it is as long as somebody could change it
    _phase: watch::Sender<Phase>,
    connections: Cell<u32>,
}

impl Front {
    fn start() -> Self {
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let folder = folder.expect("a folder for the log");
        let options = log::Options {
            data: folder.path().to_owned(),
            node: "fuzz-000000".into(),
            segment_size: MIN_CAPACITY,
            sync_interval: Duration::from_millis(100),
            reserve: 0,
            watchdog: Default::default(),
        };
        let (log, _) = Log::start(options, |error| panic!("the log: {error}")).expect("a log");
        let (_, sites) = watch::channel(Arc::new(Sites::default()));
        let ids = IdMaker::new().expect("random numbers");
        let door = Rc::new(Door::new(log.appender(), ids, sites));
        DOOR.set(Some(Rc::clone(&door)));
        let (set_phase, phase) = watch::channel(Phase::Serving);
        let (_, keys) = watch::channel(Arc::new(redirect_keys()));
        let options = Options {
            peers: Peers::new(vec!["192.0.2.0/24".parse().expect("a network")], IpMode::Keep),
            proxy_protocol: false,
            demo: true,
            max_header: 16 * 1024,
            max_body: 64 * 1024,
            idle_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(10),
        };
        let mut shared = Shared::new(options, Rc::clone(&door), Arc::default(), Watch::new(phase), 1);
        shared.redirect_keys = Watched::new(keys);
        shared.rate_limit = Some(Arc::new(RateLimit::new(1000)));
        let mut runtime = Builder::new_current_thread();
        let runtime = runtime.enable_all().on_thread_park(flush).build_local(LocalOptions::default());
        let runtime = runtime.expect("an event loop");
        for turnstile in [&shared.turnstile, &shared.leaving].map(Rc::clone) {
            runtime.spawn_local(async move { turnstile.run().await });
        }
        Self {
            runtime,
            shared: Rc::new(shared),
            door,
            status: log.status(),
            _log: log,
            folder,
            _phase: set_phase,
            connections: Cell::new(0),
        }
    }

    /// What comes back for these bytes.
    fn connection(&self, request: &[u8], piece: usize) -> Vec<u8> {
        let piece = if piece == 0 { request.len().max(1) } else { piece };
        let peer = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)), 4711);
        self.runtime.block_on(async {
            let (ours, theirs) = UnixStream::pair().expect("two ends");
            [&ours, &theirs].into_iter().for_each(|end| end.set_nonblocking(true).expect("a socket"));
            // for the front a stream is a descriptor
            let theirs = std::net::TcpStream::from(OwnedFd::from(theirs));
            // what has come before it is accepted
            #[expect(clippy::disallowed_methods, reason = "what is not written now is written later")]
            let sent = (&ours).write(&request[..piece.min(request.len())]).unwrap_or_default();
            let opening = Opening::of(&self.shared, &theirs, peer);
            let theirs = tokio::net::TcpStream::from_std(theirs).expect("a socket");
            let ours = tokio::net::UnixStream::from_std(ours).expect("a socket");
            let (mut hears, mut asks) = ours.into_split();
            let membership = Rc::new(Rc::<Crowd>::default().join());
            let ask = async {
                for piece in request[sent..].chunks(piece) {
                    if asks.write_all(piece).await.is_err() {
                        // it has ended already
                        return;
                    }
                    tokio::task::yield_now().await;
                }
                let _ = asks.shutdown().await;
            };
            let hear = async {
                let mut answers = Vec::new();
                // a reset comes after what was said before
                let _ = hears.read_to_end(&mut answers).await;
                answers
            };
            let all =
                async { tokio::join!(serve(Rc::clone(&self.shared), theirs, peer, opening, membership), ask, hear).2 };
            timeout(PATIENCE, all).await.expect("a connection whose peer closed its side ends")
        })
    }

    fn look_at_times(&self) {
        self.connections.set(self.connections.get() + 1);
        if self.connections.get().is_multiple_of(LOOK_EACH) {
            self.look_at_log();
        }
    }

    /// The ledger adds up, and all but the newest segments are read and removed.
    fn look_at_log(&self) {
        self.door.flush();
        let snapshot = loop {
            let snapshot = self.status.snapshot();
            assert!(!snapshot.failed);
            if self.door.is_empty() && snapshot.popped == snapshot.pushed {
                break snapshot;
            }
            std::thread::yield_now();
            self.door.flush();
        };
        assert!(snapshot.counts.is_balanced(), "{:?}", snapshot.counts);
        let log = self.folder.path().join(layout::LOG);
        let mut segments: Vec<PathBuf> = std::fs::read_dir(&log)
            .expect("the log's folder")
            .map(|entry| entry.expect("a file").path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "seg"))
            .collect();
        segments.sort_unstable();
        for segment in segments.iter().rev().skip(1) {
            let file = std::fs::read(segment).expect("a segment");
            let page = HeaderPage::decode(&file).expect("a header");
            if let Some(end) = page.sealed {
                check_segment(&file, &page, end);
                std::fs::remove_file(segment).expect("it can be removed");
            }
        }
    }
}

fn flush() {
    DOOR.with_borrow(|door| door.iter().for_each(|door| door.flush()));
}

fn redirect_keys() -> Keys {
    debug_assert_eq!(key(7).id(), 7);
    let hex = secret(7).map(|byte| format!("{byte:02x}")).concat();
    Keys::parse(&format!("7 {hex}")).expect("a key")
}

/// Everything in a sealed segment is whole, and means something.
fn check_segment(file: &[u8], page: &HeaderPage, end: Mark) {
    let from = Mark { length: HEADER_LEN as u64, ordinal: page.header.first_ordinal };
    let framing = Framing::new(page.header.salt, page.header.base);
    let mut scanner = Scanner::new(framing, from, end.length, Some(end.ordinal));
    let read = |offset: u64, buffer: &mut [u8]| {
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(file.len());
        let len = buffer.len().min(file.len() - from);
        buffer[..len].copy_from_slice(&file[from..from + len]);
        Ok::<_, std::convert::Infallible>(len)
    };
    while let Ok(Some(found)) = scanner.next(read) {
        let Found::Record(found) = found else { panic!("{found:?} in a sealed segment") };
        match record::decode(found.payload) {
            Ok(Record::Event(event)) => {
                let mut context = bare(event.front, None);
                context.received_at = event.received_at;
                check_event(&event, &context);
            }
            Ok(Record::Ledger(ledger)) => assert!(ledger.counts.is_balanced(), "{ledger:?}"),
            Err(error) => panic!("{error}"),
        }
    }
}
