//! The admin port: `/metrics`, `/healthz` and `/readyz`, for Prometheus and whoever restarts programs, and whatever pages
//! a program adds.
//!
//! The rule kept here: the admin port runs on a thread of its own, with a few connections and short patience,
//! so that it answers when the rest of the program is busy and the rest never waits for it. What it shows
//! is asked of the program at the moment of the request.

use std::convert::Infallible;
use std::fmt::Write;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics_exporter_prometheus::PrometheusHandle;
use thiserror::Error;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::MissedTickBehavior;

use crate::handed_over::{HandedOver, HandedOverError};
use crate::process;

/// Connections at a time; a few scrapers and probes keep one each.
const CONNECTIONS: usize = 64;

/// Time for a request's head, which is also how long a connection may idle between two requests: over the
/// usual scrape interval, so that a scraper keeps its connection.
const HEAD_LIMIT: Duration = Duration::from_secs(75);

/// Time for a peer that takes none of its answer.
const STALL_LIMIT: Duration = Duration::from_secs(10);

/// How often histograms are drained; they keep every sample until then.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// The `FileDescriptorName=` of the socket that is this port's, if it is handed over.
const NAME: &str = "admin";

/// What every program has.
const PATHS: [&str; 3] = ["/metrics", "/healthz", "/readyz"];

/// The format of metrics.
const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Says that all is well, or in one line what is not.
pub type Check = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// What the port shows. The closures run on its thread and must not wait for anything.
#[derive(Clone)]
pub struct Pages {
    /// The program's recorder.
    pub metrics: PrometheusHandle,
    /// The program's version, for `tallylight_build_info`.
    pub version: &'static str,
    /// Called before metrics are rendered: publishes counts that are kept elsewhere.
    pub refresh: Arc<dyn Fn() + Send + Sync>,
    /// `/healthz`: 200 if `Ok`, else 503. Not well means that a restart would help.
    pub health: Check,
    /// `/readyz`: 200 if `Ok`, else 503. Not ready means that traffic should go elsewhere.
    pub ready: Check,
    /// What only this program has.
    pub further: Arc<[Page]>,
}

/// A page of one program.
#[derive(Clone)]
pub struct Page {
    /// Where it is.
    pub path: &'static str,
    /// What its text is.
    pub content_type: &'static str,
    /// Its text as of now.
    pub body: Arc<dyn Fn() -> String + Send + Sync>,
}

/// Why there is no admin port.
#[derive(Debug, Error)]
pub enum AdminError {
    /// The address is taken, or not this machine's.
    #[error("cannot listen on admin address {addr}")]
    Bind {
        /// As given.
        addr: SocketAddr,
        /// The system's reason.
        source: io::Error,
    },
    /// What was handed over is not a listening TCP socket.
    #[error(transparent)]
    HandedOver(#[from] HandedOverError),
    /// The system gave no thread or no event queue.
    #[error("cannot start the admin port")]
    Start {
        /// The system's reason.
        #[from]
        source: io::Error,
    },
}

/// A bound admin port that does not answer yet.
#[derive(Debug)]
pub struct AdminServer {
    listener: TcpListener,
    local_addr: SocketAddr,
}

impl AdminServer {
    /// Takes the address, or of these sockets the one that is meant for it. Separate from [`AdminServer::serve`], so that a
    /// taken port is known before any work is begun.
    ///
    /// # Errors
    /// If the address cannot be had.
    pub fn bind(addr: SocketAddr, handed_over: &mut Vec<HandedOver>) -> Result<Self, AdminError> {
        if let Some(place) = handed_over.iter().position(|one| one.name == NAME) {
            return Ok(Self::take_over(handed_over.remove(place))?);
        }
        let bound = TcpListener::bind(addr).and_then(Self::of);
        bound.map_err(|source| AdminError::Bind { addr, source })
    }

    fn take_over(handed_over: HandedOver) -> Result<Self, HandedOverError> {
        let HandedOver { name, fd, socket } = handed_over;
        let taken = match socket.is_listener() {
            Ok(true) => Self::of(socket.into()),
            Ok(false) => Err(io::ErrorKind::InvalidInput.into()),
            Err(error) => Err(error),
        };
        taken.map_err(|source| HandedOverError { name, fd, source })
    }

    fn of(listener: TcpListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self { local_addr: listener.local_addr()?, listener })
    }

    /// The address taken, with the port that port 0 became.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Answers on a thread of its own until what is returned is dropped.
    ///
    /// # Errors
    /// If the system has no thread or no descriptor left.
    pub fn serve(self, pages: Pages) -> Result<Serving, AdminError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = {
            let _inside = runtime.enter();
            tokio::net::TcpListener::from_std(self.listener)?
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = thread::Builder::new().name("admin".into()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = accept(listener, &pages) => {}
                    () = upkeep(&pages.metrics) => {}
                    _ = stopped => {}
                }
            });
        })?;
        Ok(Serving { local_addr: self.local_addr, stop: Some(stop), thread: Some(thread) })
    }
}

/// An admin port that answers. Dropping it closes the port.
#[derive(Debug)]
pub struct Serving {
    local_addr: SocketAddr,
    /// Taken when dropped.
    stop: Option<oneshot::Sender<()>>,
    /// Taken when dropped.
    thread: Option<JoinHandle<()>>,
}

impl Serving {
    /// The address taken, with the port that port 0 became.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // it ends on its own; if it panicked, the panic has been logged
            let _ = thread.join();
        }
    }
}

async fn upkeep(metrics: &PrometheusHandle) {
    let mut tick = tokio::time::interval(UPKEEP_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        metrics.run_upkeep();
    }
}

async fn accept(listener: tokio::net::TcpListener, pages: &Pages) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let slot = Arc::clone(&slots).acquire_owned().await.expect("the semaphore is never closed");
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // out of descriptors, most likely: asking again at once would only spin
                tracing::debug!(%error, "admin port cannot accept");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        // best effort: without it a stalled peer keeps its slot for longer
        let _ = socket2::SockRef::from(&stream).set_tcp_user_timeout(Some(STALL_LIMIT));
        let pages = pages.clone();
        tokio::spawn(async move {
            let answer = service_fn(|request| std::future::ready(Ok::<_, Infallible>(answer(&request, &pages))));
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_LIMIT)
                .max_buf_size(16 * 1024)
                .half_close(true)
                .serve_connection(TokioIo::new(stream), answer);
            // whatever the peer did wrong is the peer's to know
            let _ = connection.await;
            drop(slot);
        });
    }
}

/// The whole of the port: one request, one answer.
fn answer<B>(request: &Request<B>, pages: &Pages) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    let further = pages.further.iter().find(|page| page.path == path);
    if further.is_none() && !PATHS.contains(&path) {
        let further = pages.further.iter().map(|page| page.path);
        let paths: Vec<&str> = PATHS.into_iter().chain(further).collect();
        return text(StatusCode::NOT_FOUND, format!("not found: here are {}\n", paths.join(", ")));
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are answered here\n".into());
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match (path, further) {
        (_, Some(page)) => shown((page.body)(), page.content_type),
        ("/metrics", None) => {
            (pages.refresh)();
            shown(metrics_page(pages), EXPOSITION)
        }
        ("/healthz", None) => checked(&pages.health, "ok"),
        _ => checked(&pages.ready, "ready"),
    }
}

fn shown(body: String, content_type: &'static str) -> Response<Full<Bytes>> {
    let mut response = text(StatusCode::OK, body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn metrics_page(pages: &Pages) -> String {
    let mut page = pages.metrics.render();
    process::render(&mut page, pages.version);
    page
}

fn checked(check: &Check, well: &str) -> Response<Full<Bytes>> {
    match check() {
        Ok(()) => text(StatusCode::OK, format!("{well}\n")),
        Err(reason) => {
            let mut line = reason.replace(['\r', '\n'], " ");
            // writing to a String does not fail
            let _ = writeln!(line);
            text(StatusCode::SERVICE_UNAVAILABLE, line)
        }
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write as _};
    use std::net::TcpStream;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

    use super::*;
    use crate::recorder;

    /// A server whose checks say what `state` holds, and whose refresh counts its calls.
    struct Fixture {
        serving: Serving,
        state: Arc<Mutex<Result<(), String>>>,
        refreshed: Arc<AtomicU64>,
    }

    fn serve() -> Fixture {
        let state = Arc::new(Mutex::new(Ok(())));
        let refreshed = Arc::new(AtomicU64::new(0));
        let recorder = recorder::tests::local();
        let handle = recorder.handle();
        let counter = metrics::with_local_recorder(&recorder, || {
            metrics::describe_counter!("things_total", "Things seen.");
            metrics::counter!("things_total")
        });
        let check: Check = Arc::new({
            let state = Arc::clone(&state);
            move || state.lock().unwrap().clone()
        });
        let refresh = Arc::new({
            let refreshed = Arc::clone(&refreshed);
            move || counter.absolute(refreshed.fetch_add(1, SeqCst) + 1)
        });
        let further = Page { path: "/things", content_type: "application/json", body: Arc::new(|| "[1]".into()) };
        let pages = Pages {
            metrics: handle,
            version: "1.2.3",
            refresh,
            health: Arc::clone(&check),
            ready: check,
            further: [further].into(),
        };
        let server = AdminServer::bind("127.0.0.1:0".parse().unwrap(), &mut Vec::new()).unwrap();
        Fixture { serving: server.serve(pages).unwrap(), state, refreshed }
    }

    /// Sends a request on a connection of its own and reads until the server closes it.
    fn ask(addr: SocketAddr, line: &str) -> String {
        let mut stream = TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        write!(stream, "{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn metrics_are_refreshed_before_they_are_shown() {
        let fixture = serve();
        let addr = fixture.serving.local_addr();
        let first = ask(addr, "GET /metrics");
        assert!(first.starts_with("HTTP/1.1 200 OK\r\n"), "{first}");
        assert!(first.to_lowercase().contains("content-type: text/plain; version=0.0.4"), "{first}");
        assert!(first.contains("# HELP things_total Things seen.\n# TYPE things_total counter\nthings_total 1\n"));
        assert!(first.contains("tallylight_build_info{version=\"1.2.3\"} 1"));
        assert!(ask(addr, "GET /metrics?again").contains("things_total 2\n"));
        assert_eq!(fixture.refreshed.load(SeqCst), 2);
    }

    #[test]
    fn a_programs_own_pages_are_shown_beside_the_others() {
        let fixture = serve();
        let page = ask(fixture.serving.local_addr(), "GET /things?all");
        assert!(page.starts_with("HTTP/1.1 200 OK\r\n") && page.ends_with("\r\n\r\n[1]"), "{page}");
        assert!(page.to_lowercase().contains("\r\ncontent-type: application/json\r\n"), "{page}");
    }

    #[test]
    fn head_has_the_headers_and_no_body() {
        let fixture = serve();
        let answer = ask(fixture.serving.local_addr(), "HEAD /metrics");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.ends_with("\r\n\r\n") && !answer.contains("things_total"), "{answer}");
    }

    #[test]
    fn checks_are_asked_each_time_and_their_reason_is_one_line() {
        let fixture = serve();
        let addr = fixture.serving.local_addr();
        assert!(ask(addr, "GET /healthz").ends_with("\r\n\r\nok\n"));
        assert!(ask(addr, "GET /readyz").ends_with("\r\n\r\nready\n"));
        *fixture.state.lock().unwrap() = Err("disk: no space\nleft".into());
        for path in ["/healthz", "/readyz"] {
            let answer = ask(addr, &format!("GET {path}"));
            assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
            assert!(answer.ends_with("\r\n\r\ndisk: no space left\n"), "{answer}");
        }
    }

    #[test]
    fn other_paths_and_methods_are_told_so() {
        let fixture = serve();
        let addr = fixture.serving.local_addr();
        let nowhere = ask(addr, "GET /");
        assert!(nowhere.starts_with("HTTP/1.1 404 "), "{nowhere}");
        assert!(nowhere.ends_with("\r\n\r\nnot found: here are /metrics, /healthz, /readyz, /things\n"), "{nowhere}");
        assert!(ask(addr, "POST /things").starts_with("HTTP/1.1 405 "));
        assert!(ask(addr, "POST /nowhere").starts_with("HTTP/1.1 404 "));
        let wrong = ask(addr, "POST /metrics");
        assert!(wrong.starts_with("HTTP/1.1 405 "), "{wrong}");
        assert!(wrong.to_lowercase().contains("\r\nallow: get, head\r\n"), "{wrong}");
        assert_eq!(fixture.refreshed.load(SeqCst), 0);
    }

    #[test]
    fn a_few_silent_connections_do_not_keep_others_out() {
        let fixture = serve();
        let addr = fixture.serving.local_addr();
        let _silent: Vec<_> = (0..CONNECTIONS / 2).map(|_| TcpStream::connect(addr).unwrap()).collect();
        assert!(ask(addr, "GET /healthz").starts_with("HTTP/1.1 200 "));
    }

    #[test]
    fn a_taken_address_is_named_and_a_dropped_port_is_free_again() {
        let fixture = serve();
        let addr = fixture.serving.local_addr();
        let error = AdminServer::bind(addr, &mut Vec::new()).unwrap_err();
        assert_eq!(error.to_string(), format!("cannot listen on admin address {addr}"));
        drop(fixture);
        assert!(AdminServer::bind(addr, &mut Vec::new()).is_ok());
    }

    #[test]
    fn of_the_sockets_that_are_handed_over_it_takes_the_one_with_its_name() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let not_listening = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let one = |name: &str, socket| HandedOver { name: name.into(), fd: 3, socket };
        let mut handed_over = vec![one("http", other.into()), one("admin", listener.into())];
        let nowhere = "192.0.2.1:1".parse().unwrap();
        assert_eq!(AdminServer::bind(nowhere, &mut handed_over).unwrap().local_addr(), addr);
        assert_eq!(handed_over.len(), 1);
        let error = AdminServer::bind(nowhere, &mut vec![one("admin", not_listening.into())]).unwrap_err();
        assert_eq!(error.to_string(), "the socket admin handed over as descriptor 3 cannot be used");
    }
}
