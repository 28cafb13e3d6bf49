//! The HTTP front: requests in, beacons to the door, answers out.
//!
//! ```text
//!  connection ──▶ answer ─┬─ GET  /api/beacon ──▶ pixel ─┬─▶ door
//!                         ├─ POST /api/beacon ──▶ post ──┘
//!                         ├─ GET  /r          ──▶ redirect ──▶ door
//!                         └─ OPTIONS, /beacon.js, /demo/, whatever else
//! ```
//!
//! The rule kept here: a request for a beacon or a redirect reaches the door exactly once; any other request never does.
//! 404, 405, preflights, HEAD and `debug=1` are no events. Whatever it is, it takes a token out of its peer's bucket,
//! and is not looked into where there is none.

mod answer;
mod connection;
mod debug;
mod demo;
mod html;
mod payload;
mod peer;
mod pixel;
mod post;
mod redirect;
mod replay;
mod script;

use std::borrow::Cow;
use std::cell::Cell;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use tallylight_proto::beacon::Context;
use tallylight_proto::keys::Keys;
use tallylight_proto::{Front, Refusal, Shed};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::door::Door;
use crate::limits::{Membership, RateLimit};
use crate::phase::Watch;
use crate::stats::WorkerStats;
use crate::turnstile::Turnstile;
use crate::watched::Watched;
use tallylight_host::clock;

pub use connection::serve;
pub use peer::Peers;

use answer::Answer;

/// What the front must know of the settings.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whose address is believed and how much of it is kept.
    pub peers: Peers,
    /// Whether `/demo/` is there.
    pub demo: bool,
    /// Bytes of a request's head.
    pub max_header: usize,
    /// Bytes of a body as sent.
    pub max_body: u64,
    /// Time for a head, and between two requests.
    pub idle_timeout: Duration,
    /// Time for a body.
    pub body_timeout: Duration,
}

/// Whose connection a request came over.
#[derive(Clone)]
struct Caller {
    address: IpAddr,
    membership: Rc<Membership>,
}

/// All that a worker's connections share, and its sockets for datagrams.
pub struct Shared {
    /// The settings.
    pub options: Options,
    /// Keys that verify redirects; none: nothing is redirected.
    pub redirect_keys: Watched<Keys>,
    /// How many tokens a peer may use up, of all workers.
    pub rate_limit: Option<Arc<RateLimit>>,
    /// Where what is more than a connection's turn waits for another one.
    pub turnstile: Rc<Turnstile>,
    /// Where connections that end wait for that.
    pub leaving: Rc<Turnstile>,
    /// The worker's door.
    pub door: Rc<Door>,
    /// What the worker counts.
    pub stats: Arc<WorkerStats>,
    /// Whether the collector is stopping.
    pub phase: Watch,
    /// Sockets that are accepted or received on.
    pub accepting: Cell<usize>,
    /// Connections that are open since before the collector was told to stop.
    pub early: Cell<usize>,
    /// Told when a connection, or the accepting or receiving on a socket, has ended.
    pub ended: Notify,
}

static BEACON_METHODS: [(HeaderName, &str); 1] = [(header::ALLOW, "GET, HEAD, POST, OPTIONS")];
static PIXEL_METHODS: [(HeaderName, &str); 1] = [(header::ALLOW, "GET, HEAD, OPTIONS")];
static PAGE_METHODS: [(HeaderName, &str); 1] = [(header::ALLOW, "GET, HEAD")];
/// A day is the longest that any browser keeps a preflight.
static PREFLIGHT: [(HeaderName, &str); 3] = [
    (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, HEAD, POST"),
    (header::ACCESS_CONTROL_ALLOW_HEADERS, "content-type, content-encoding"),
    (header::ACCESS_CONTROL_MAX_AGE, "86400"),
];

static SEC_GPC: HeaderName = HeaderName::from_static("sec-gpc");
static SEC_PURPOSE: HeaderName = HeaderName::from_static("sec-purpose");
static PURPOSE: HeaderName = HeaderName::from_static("purpose");
static X_MOZ: HeaderName = HeaderName::from_static("x-moz");

/// Answers one request.
async fn answer(shared: Rc<Shared>, caller: Caller, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let started = std::time::Instant::now();
    caller.membership.speaks(started);
    let peer = caller.address;
    let (parts, mut body) = request.into_parts();
    let deadline = Instant::from_std(started) + shared.options.body_timeout;
    let answer = route(&shared, peer, &parts, &mut body, deadline).await;
    let is_http1 = parts.version < Version::HTTP_2;
    // the last answer says so: a peer that knows sends nothing more into a connection that ends
    let is_last = !is_read(&shared, &parts, &mut body, deadline).await || !shared.phase.is_serving();

    let is_head = parts.method == Method::HEAD;
    let timing = if is_http1 { &shared.stats.http1 } else { &shared.stats.http2 };
    timing.record(started.elapsed());
    if let Some(answers) = shared.stats.answers.get(usize::from(answer.class()).wrapping_sub(2)) {
        answers.add(1);
    }
    let mut response = answer.into_response(parts.headers, is_head);
    if is_last && is_http1 {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Reads what is left of a body, so that nobody sees a reset in place of the answer. Whether it is all read.
async fn is_read(shared: &Shared, parts: &Parts, body: &mut Incoming, deadline: Instant) -> bool {
    if body.is_end_stream() {
        return true;
    }
    // whoever asks before sending has sent nothing yet, and need not
    if parts.headers.contains_key(header::EXPECT) {
        return false;
    }
    tokio::select! {
        is_read = payload::drain(body, deadline) => is_read,
        () = shared.phase.is_closed() => false,
    }
}

async fn route(shared: &Shared, peer: IpAddr, parts: &Parts, body: &mut Incoming, deadline: Instant) -> Answer {
    let method = &parts.method;
    let is_get = matches!(*method, Method::GET | Method::HEAD);
    let over_rate = over_rate(shared, peer, &parts.headers);
    match over_rate {
        // whoever follows a link is a person
        Some(reason) if parts.uri.path() != "/r" => return not_looked_into(shared, parts, reason),
        _ => {}
    }
    if head_len(parts) > shared.options.max_header {
        return large_head(shared, parts);
    }
    match parts.uri.path() {
        path @ ("/api/beacon" | "/pixel.gif") => match *method {
            Method::GET | Method::HEAD => {
                let facts = Facts::of(shared, peer, parts);
                pixel::answer(shared, &facts, *method == Method::HEAD)
            }
            Method::POST if path == "/api/beacon" => {
                let facts = Facts::of(shared, peer, parts);
                post::answer(shared, &facts, body, deadline).await
            }
            Method::OPTIONS => Answer::no_content().with(&PREFLIGHT),
            _ if path == "/api/beacon" => wrong_method(&BEACON_METHODS),
            _ => wrong_method(&PIXEL_METHODS),
        },
        "/r" if is_get => redirect::answer(shared, &Facts::of(shared, peer, parts), *method == Method::HEAD, over_rate),
        "/r" => wrong_method(&PAGE_METHODS),
        path => {
            let page = if shared.options.demo { demo::answer(shared, parts) } else { None };
            match page.or_else(|| script::answer(path, &parts.headers)) {
                Some(page) if is_get => page,
                Some(_) => wrong_method(&PAGE_METHODS),
                None => unknown_path(),
            }
        }
    }
}

/// A token for a request. Why it is not answered, if its sender has none left.
fn over_rate(shared: &Shared, peer: IpAddr, headers: &HeaderMap) -> Option<Shed> {
    let limit = shared.rate_limit.as_ref()?;
    // for whom a trusted proxy speaks without saying so cannot be limited
    let client = shared.options.peers.client(peer, headers)?;
    (!limit.take(client)).then_some(Shed::Rate)
}

/// What has no token is answered for its head alone: a beacon is one event, whatever its body has.
fn not_looked_into(shared: &Shared, parts: &Parts, reason: Shed) -> Answer {
    let reason = shared.door.would_shed().unwrap_or(reason);
    let answer = Answer::shed(reason);
    match (parts.uri.path(), &parts.method) {
        ("/api/beacon" | "/pixel.gif", &Method::GET) => {
            if !debug::is_wanted(parts.uri.query().unwrap_or_default()) {
                shared.door.shed(front(parts), reason);
            }
            answer.with_pixel()
        }
        ("/api/beacon", &Method::POST) => {
            shared.door.shed(front(parts), reason);
            answer
        }
        _ => answer,
    }
}

/// The bytes of a request's head, but for a few between them.
fn head_len(parts: &Parts) -> usize {
    let uri = parts.uri.path_and_query().map_or(0, |path| path.as_str().len());
    parts.headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum::<usize>() + uri
}

fn large_head(shared: &Shared, parts: &Parts) -> Answer {
    let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
    let line = format_args!("the head is larger than {} bytes", shared.options.max_header).to_string();
    let answer = Answer::refused(status, Refusal::TooLarge.label(), line);
    match (parts.uri.path(), &parts.method) {
        ("/api/beacon" | "/pixel.gif", &Method::GET) => {
            shared.door.refuse(front(parts), Refusal::TooLarge);
            answer.with_pixel()
        }
        ("/api/beacon", &Method::POST) | ("/r", &Method::GET) => {
            shared.door.refuse(front(parts), Refusal::TooLarge);
            answer
        }
        _ => answer,
    }
}

fn front(parts: &Parts) -> Front {
    if parts.version < Version::HTTP_2 { Front::Http1 } else { Front::Http2 }
}

fn unknown_path() -> Answer {
    Answer::refused(StatusCode::NOT_FOUND, "path", "nothing is here, beacons go to /api/beacon")
}

fn wrong_method(allowed: &'static [(HeaderName, &'static str); 1]) -> Answer {
    let line = format_args!("only {} are answered here", allowed[0].1).to_string();
    Answer::refused(StatusCode::METHOD_NOT_ALLOWED, "method", line).with(allowed)
}

/// What a request says beside its body, as text.
struct Facts<'a> {
    headers: &'a HeaderMap,
    peer: IpAddr,
    query: &'a str,
    front: Front,
    ip: Option<IpAddr>,
    referer: Cow<'a, str>,
    origin: Cow<'a, str>,
    user_agent: Cow<'a, str>,
}

impl<'a> Facts<'a> {
    fn of(shared: &Shared, peer: IpAddr, parts: &'a Parts) -> Self {
        let headers = &parts.headers;
        Self {
            headers,
            peer,
            query: parts.uri.query().unwrap_or_default(),
            front: front(parts),
            ip: shared.options.peers.visitor(peer, headers),
            referer: text(headers, &header::REFERER),
            origin: text(headers, &header::ORIGIN),
            user_agent: text(headers, &header::USER_AGENT),
        }
    }

    fn context(&self) -> Context<'_> {
        // said once is enough
        let is_one = |name| self.headers.get_all(name).iter().any(|value| value.as_bytes() == b"1");
        Context {
            received_at: clock::now(),
            front: self.front,
            ip: self.ip,
            referer: &self.referer,
            origin: &self.origin,
            user_agent: &self.user_agent,
            number: None,
            private: is_one(&SEC_GPC) || is_one(&header::DNT),
        }
    }

    /// Its sender pays for so much beside the request itself.
    fn charge(&self, shared: &Shared, tokens: u64) {
        if let Some(limit) = &shared.rate_limit
            && let Some(client) = shared.options.peers.client(self.peer, self.headers)
        {
            limit.charge(client, tokens);
        }
    }

    /// Whether a browser only guesses that its user will want this.
    fn is_speculative(&self) -> bool {
        [&SEC_PURPOSE, &PURPOSE, &X_MOZ].iter().flat_map(|name| self.headers.get_all(*name)).any(|value| {
            let value = value.as_bytes().to_ascii_lowercase();
            let says = |word: &[u8]| value.windows(word.len()).any(|window| window == word);
            says(b"prefetch") || says(b"prerender")
        })
    }
}

/// A header as text; bytes that are not UTF-8 become U+FFFD.
fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Cow<'a, str> {
    let Some(value) = headers.get(name) else { return Cow::Borrowed("") };
    // asked first because it is faster where the answer is yes
    str::from_utf8(value.as_bytes()).map_or_else(|_| String::from_utf8_lossy(value.as_bytes()), Cow::Borrowed)
}
