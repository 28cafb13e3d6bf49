//! From start to end: what is done in which order, and what is said about it.
//!
//! ```text
//!  lock ─▶ name ─▶ bind ─▶ admin port ─▶ recover the log ─▶ workers ─▶ ready
//!  SIGTERM ─▶ not ready ─▶ stop accepting, answer what is in flight ─▶ shed the rest ─▶ finish the log ─▶ 0
//! ```
//!
//! Handed-over sockets are accepted from until what was in flight is answered: what comes then waits in them for the next
//! process, and so only for as long as it takes to finish the log and to start.
//!
//! The rule kept here: the folder's lock comes before anything that touches the log or takes a port, and the
//! log is finished after the last worker has handed over its last batch.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::io::fcntl_dupfd_cloexec;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tallylight_host::disk;
use tallylight_proto::keys::Keys;
use tallylight_proto::layout;
use tallylight_service::admin::{AdminError, Page};
use tallylight_service::recorder::RecorderError;
use tallylight_service::{AdminServer, HandedOver, Notifier, Pages, Watchdog, handed_over, recorder};
use thiserror::Error;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{Instant, sleep, timeout};

use crate::http;
use crate::ids::IdMaker;
use crate::keys::{self, KeysError};
use crate::limits::{ConnectionLimit, RateLimit};
use crate::listen::{self, ListenError, Listeners};
use crate::log::{self, Log, LogError, StorageError, storage};
use crate::metrics::Metrics;
use crate::node::{self, NodeError};
use crate::phase::Phase;
use crate::readiness::{Readiness, check};
use crate::settings::Settings;
use crate::signals::{Asked, Signals};
use crate::sites::{Sites, SitesError};
use crate::stats::WorkerStats;
use crate::udp::Admission;
use crate::worker::Worker;

/// Descriptors that are not connections: segments, sockets, the event loops, the admin port.
pub(crate) const OTHER_DESCRIPTORS: u64 = 256;
/// How long the data folder may be locked by somebody else, and how often that is asked.
const LOCK_PATIENCE: Duration = Duration::from_millis(500);
const LOCK_PAUSE: Duration = Duration::from_millis(20);
/// Of the time for what is in flight, the part that is left to those that came last.
const LAST_ONES: Duration = Duration::from_secs(2);

/// Why the collector does not run, or runs no longer.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RunError {
    /// The sites cannot be used.
    #[error(transparent)]
    Sites(#[from] SitesError),
    /// The keys cannot be used.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// Two collectors would write one log.
    #[error("another collector runs on {data}: its lock is held")]
    Locked {
        /// The data folder.
        data: PathBuf,
    },
    /// `--data` is something else.
    #[error("--data {data} is not a folder")]
    NotAFolder {
        /// As given.
        data: PathBuf,
    },
    /// The disk said no.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// No name.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// No socket.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// No admin port.
    #[error("{error}{}", because(.error))]
    Admin {
        /// What it could not do.
        #[from]
        error: AdminError,
    },
    /// No metrics.
    #[error(transparent)]
    Recorder(#[from] RecorderError),
    /// The log cannot be used, or cannot go on.
    #[error("the log: {0}")]
    Log(#[from] LogError),
    /// The system gave no thread, no event queue, or no random numbers.
    #[error("cannot start: {0}")]
    System(#[from] std::io::Error),
}

impl RunError {
    /// What the process ends with: 2 for unusable arguments, else 1.
    pub fn exit_code(&self) -> u8 {
        if matches!(self, Self::Sites(_) | Self::Keys(_) | Self::NotAFolder { .. }) { 2 } else { 1 }
    }
}

/// What is read from files at the start, and again when asked to.
struct Lists {
    sites: Sites,
    /// None of them: nothing can be tagged, and nothing need be.
    udp_keys: Keys,
    /// None of them: nothing is redirected.
    redirect_keys: Keys,
}

/// Where the workers see them.
struct SetLists {
    sites: watch::Sender<Arc<Sites>>,
    udp_keys: watch::Sender<Arc<Keys>>,
    redirect_keys: watch::Sender<Arc<Keys>>,
}

/// Runs the collector until it is told to stop.
///
/// # Errors
/// If it cannot start, or the log fails.
pub fn run(settings: Settings) -> Result<(), RunError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        // from here on no signal ends the process halfway
        let signals = Signals::new()?;
        let handed_over = handed_over::take().map_err(ListenError::from)?;
        let lists = Lists {
            sites: Sites::load(&settings.site, settings.site_file.as_deref())?,
            udp_keys: load_keys(settings.udp_key.as_deref())?,
            redirect_keys: load_keys(settings.redirect_key.as_deref())?,
        };
        if settings.data.exists() && !settings.data.is_dir() {
            return Err(RunError::NotAFolder { data: settings.data });
        }
        storage::create_folder(&settings.data)?;
        let lock = lock(&settings.data.join(layout::LOCK)).await?;
        let lock = lock.ok_or_else(|| RunError::Locked { data: settings.data.clone() })?;
        let result = serve(settings, lists, signals, handed_over).await;
        if result.is_err() {
            // the log's threads may still be writing: the lock goes when they do, with the process
            std::mem::forget(lock);
        }
        result
    });
    // after a failure there may be threads that would be waited for in vain
    runtime.shutdown_background();
    result
}

/// Takes the data folder's lock. A compactor that asks whether a collector is there holds it for a moment.
async fn lock(path: &Path) -> Result<Option<disk::File>, StorageError> {
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        let lock = storage::lock(path)?;
        if lock.is_some() || Instant::now() >= deadline {
            return Ok(lock);
        }
        sleep(LOCK_PAUSE).await;
    }
}

async fn serve(
    settings: Settings,
    lists: Lists,
    mut signals: Signals,
    mut handed_over: Vec<HandedOver>,
) -> Result<(), RunError> {
    let systemd = Notifier::from_env();
    let node = node::name(&settings.data)?;
    let max_connections = raise_descriptors(settings.max_connections.get());
    make_room(max_connections);
    let workers = settings.worker_count();
    let admin = AdminServer::bind(settings.admin, &mut handed_over)?;
    let wanted = listen::Wanted {
        http: settings.http_addrs(),
        udp: settings.udp_addrs(),
        workers,
        stall: settings.body_timeout.duration(),
        receive_buffer: usize::try_from(settings.udp_receive_buffer.bytes()).expect("checked: at most 512 MiB"),
    };
    let listeners = Listeners::bind(&wanted, handed_over)?;

    let stats: Vec<Arc<WorkerStats>> = std::iter::repeat_with(Arc::default).take(workers).collect();
    let recorder = recorder::install()?;
    let metrics = Arc::new(Metrics::new(recorder.clone(), stats.clone()));
    metrics.set_receive_buffer(listeners.udp.smallest_buffer());
    let readiness = Arc::new(Readiness::default());
    let admin = admin.serve(Pages {
        metrics: recorder,
        version: env!("CARGO_PKG_VERSION"),
        refresh: {
            let metrics = Arc::clone(&metrics);
            Arc::new(move || metrics.publish())
        },
        health: check(&readiness, Readiness::health),
        ready: check(&readiness, Readiness::ready),
        further: [Page {
            path: "/udp/sources",
            content_type: "application/json",
            body: {
                let metrics = Arc::clone(&metrics);
                Arc::new(move || metrics.udp_sources())
            },
        }]
        .into(),
    })?;

    let (failure, mut failures) = mpsc::unbounded_channel();
    let options = log::Options {
        data: settings.data.clone(),
        node: node.clone(),
        segment_size: settings.segment_bytes(),
        sync_interval: settings.sync_interval.duration(),
        reserve: settings.reserve_bytes(),
        watchdog: Watchdog::from_env(),
    };
    metrics.set_log_options(&options);
    let (log, recovered) = Log::start(options, move |error| {
        // if nobody listens any more, the process is ending already
        let _ = failure.send(error);
    })?;
    tracing::info!(position = recovered.next_base, was_killed = recovered.was_killed, "log recovered");
    metrics.set_log(log.status());
    readiness.set_log(log.status());

    let (set_phase, phase) = watch::channel(Phase::Serving);
    let (set_sites, sites) = watch::channel(Arc::new(lists.sites));
    let (set_udp_keys, udp_keys) = watch::channel(Arc::new(lists.udp_keys));
    let (set_redirect_keys, redirect_keys) = watch::channel(Arc::new(lists.redirect_keys));
    let set_lists = SetLists { sites: set_sites, udp_keys: set_udp_keys, redirect_keys: set_redirect_keys };
    let slots = Arc::new(Semaphore::new(max_connections));
    let peer_limit = settings.max_connections_per_peer.map(|most| {
        let trusted = settings.trusted_proxy.clone();
        Arc::new(ConnectionLimit::new(most.get(), trusted))
    });
    let rate_limit = settings.max_rate_per_peer.map(|a_second| Arc::new(RateLimit::new(a_second.get())));
    let Listeners { http, udp } = listeners;
    let mut threads = Vec::new();
    for (number, ((http_of_one, udp_of_one), stats)) in
        http.of_workers.into_iter().zip(udp.of_workers).zip(stats).enumerate()
    {
        let worker = Worker {
            listeners: http_of_one,
            are_shared: http.are_shared,
            udp: udp_of_one,
            udp_are_shared: udp.are_shared,
            admission: Admission::new(udp_keys.clone(), settings.udp_from.clone()),
            options: front_options(&settings),
            appender: log.appender(),
            log: log.status(),
            ids: IdMaker::new()?,
            sites: sites.clone(),
            redirect_keys: redirect_keys.clone(),
            slots: Arc::clone(&slots),
            peer_limit: peer_limit.clone(),
            rate_limit: rate_limit.clone(),
            stats,
            phase: phase.clone(),
        };
        threads.push(worker.start(number)?);
    }
    let listed = sites.borrow().count();
    let (udp_key_count, redirect_key_count) = (udp_keys.borrow().len(), redirect_keys.borrow().len());
    drop((sites, udp_keys, redirect_keys, phase));
    readiness.serve();
    let status = format!(
        "listening http={} udp={} admin={}",
        listed_or_off(&http.addrs),
        listed_or_off(&udp.addrs),
        admin.local_addr()
    );
    tracing::info!(
        node,
        data = %settings.data.display(),
        workers,
        sites = listed,
        udp_keys = udp_key_count,
        redirect_keys = redirect_key_count,
        "{status}",
    );
    systemd.ready(&status);

    loop {
        tokio::select! {
            Some(error) = failures.recv() => return Err(error.into()),
            signal = signals.next() => match signal {
                Asked::ToReload => {
                    systemd.reloading();
                    reload(&settings, &set_lists);
                    systemd.ready(&status);
                }
                Asked::ToStop => break,
            },
        }
    }
    tracing::info!("stopping");
    systemd.stopping("answering what is in flight");
    readiness.drain();
    drain(&settings, &set_phase, threads, &mut signals, &mut failures).await?;
    let finished = tokio::task::spawn_blocking(move || log.finish());
    tokio::select! {
        biased;
        Some(error) = failures.recv() => return Err(error.into()),
        // a panic in there has ended the process
        _ = finished => {}
    }
    // a failure may have been the last thing that it said
    failures.try_recv().map_or(Ok(()), |error| Err(RunError::from(error)))?;
    tracing::info!("stopped");
    Ok(())
}

/// Has the workers end: by themselves within the time for that, else by shedding. They go on accepting from sockets that
/// others have too until those that were there are answered, and for most of that time at most.
async fn drain(
    settings: &Settings,
    set_phase: &watch::Sender<Phase>,
    threads: Vec<JoinHandle<()>>,
    signals: &mut Signals,
    failures: &mut mpsc::UnboundedReceiver<LogError>,
) -> Result<(), RunError> {
    set_phase.send_replace(Phase::Draining);
    let ended = tokio::task::spawn_blocking(move || {
        for thread in threads {
            // a panic in it has ended the process
            let _ = thread.join();
        }
    });
    let mut ended = std::pin::pin!(ended);
    let in_time = async {
        let time = settings.drain_timeout.duration();
        let last = time.min(LAST_ONES);
        if timeout(time - last, ended.as_mut()).await.is_err() {
            set_phase.send_replace(Phase::Closing);
            let _ = timeout(last, ended.as_mut()).await;
        }
    };
    tokio::select! {
        biased;
        Some(error) = failures.recv() => return Err(error.into()),
        () = in_time => {}
        () = signals.asked_again() => tracing::warn!("told to stop again: not waiting for what is in flight"),
    }
    set_phase.send_replace(Phase::Closed);
    tokio::select! {
        biased;
        Some(error) = failures.recv() => Err(error.into()),
        _ = wait_if_running(ended) => Ok(()),
    }
}

/// A finished task must not be asked again.
async fn wait_if_running(mut task: std::pin::Pin<&mut tokio::task::JoinHandle<()>>) {
    if !task.is_finished() {
        let _ = task.as_mut().await;
    }
}

fn front_options(settings: &Settings) -> http::Options {
    http::Options {
        peers: http::Peers::new(settings.trusted_proxy.clone(), settings.ip),
        proxy_protocol: settings.proxy_protocol,
        demo: settings.demo,
        max_header: usize::try_from(settings.max_header.bytes()).expect("checked: at most 1 MiB"),
        max_body: settings.max_body.bytes(),
        idle_timeout: settings.idle_timeout.duration(),
        body_timeout: settings.body_timeout.duration(),
    }
}

/// The keys in a file; none without one.
fn load_keys(file: Option<&Path>) -> Result<Keys, KeysError> {
    file.map_or_else(|| Ok(Keys::default()), keys::load)
}

/// Reads sites and keys again; keeps the ones it has if that does not work.
fn reload(settings: &Settings, set: &SetLists) {
    match Sites::load(&settings.site, settings.site_file.as_deref()) {
        Ok(sites) => {
            tracing::info!(sites = sites.count(), "sites read again");
            set.sites.send_replace(Arc::new(sites));
        }
        Err(error) => tracing::error!(%error, "the sites stay as they were"),
    }
    reload_keys("udp", settings.udp_key.as_deref(), &set.udp_keys);
    reload_keys("redirect", settings.redirect_key.as_deref(), &set.redirect_keys);
}

/// `of` is what they are for.
fn reload_keys(of: &str, file: Option<&Path>, set: &watch::Sender<Arc<Keys>>) {
    match load_keys(file) {
        Ok(keys) => {
            tracing::info!(of, keys = keys.len(), "keys read again");
            set.send_replace(Arc::new(keys));
        }
        Err(error) => tracing::error!(of, %error, "the keys stay as they were"),
    }
}

fn listed_or_off(addrs: &[SocketAddr]) -> String {
    if addrs.is_empty() {
        return "off".to_owned();
    }
    addrs.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// Allows as many descriptors as the system lets us, and as many connections as those are enough for.
fn raise_descriptors(wanted: usize) -> usize {
    let limits = getrlimit(Resource::Nofile);
    if limits.current != limits.maximum {
        let raised = Rlimit { current: limits.maximum, maximum: limits.maximum };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::warn!(%error, "cannot raise the limit of open files");
        }
    }
    let enough = getrlimit(Resource::Nofile).current.map_or(wanted, |limit| {
        usize::try_from(limit.saturating_sub(OTHER_DESCRIPTORS).max(1)).unwrap_or(wanted).min(wanted)
    });
    if enough < wanted {
        tracing::warn!(enough, wanted, "fewer connections than wanted: the limit of open files is too low");
    }
    enough.min(Semaphore::MAX_PERMITS)
}

/// Has the kernel make room for so many connections' descriptors now: it doubles its table of them as it fills, and whoever
/// accepts in such a moment waits until no thread on any CPU can still look into the old one (`synchronize_rcu`), some 10 ms.
fn make_room(connections: usize) {
    let last = connections as u64 + OTHER_DESCRIPTORS - 1;
    // one with this number needs the whole table, which stays as large when it is closed
    if let Err(error) = fcntl_dupfd_cloexec(std::io::stderr(), i32::try_from(last).unwrap_or(i32::MAX)) {
        tracing::debug!(%error, "no room for descriptors ahead");
    }
}

fn because(error: &AdminError) -> String {
    std::error::Error::source(error).map(|source| format!(": {source}")).unwrap_or_default()
}
