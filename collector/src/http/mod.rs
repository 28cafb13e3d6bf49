//! The HTTP front: requests in, beacons to the door, answers out.
//!
//! ```text
//!  connection ─┬─ whole ─┬─ GET  /api/beacon ──▶ pixel ────┬─▶ door       (behind a PROXY header, if that is asked for)
//!              ├─ http2 ─┤  POST /api/beacon ──▶ post ─────┤
//!              └─ hyper ─┤  GET  /r          ──▶ redirect ─┘
//!                        └─ OPTIONS, /beacon.js, /demo/, whatever else
//! ```
//!
//! The rule kept here: a request for a beacon or a redirect reaches the door exactly once; any other request never does.
//! 404, 405, preflights, HEAD and `debug=1` are no events. Whatever it is, it takes a token out of its peer's bucket,
//! and is not looked into where there is none.

mod answer;
mod connection;
mod date;
mod debug;
mod demo;
mod heard;
mod html;
mod http2;
mod payload;
mod peer;
mod pixel;
mod post;
mod proxy_header;
mod redirect;
mod replay;
mod script;
mod whole;

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use hyper::body::Body;
use simdutf8::basic::from_utf8;
use socket2::SockRef;
use tallylight_proto::beacon::Context;
use tallylight_proto::keys::Keys;
use tallylight_proto::{Front, Refusal, Shed};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::door::Door;
use crate::limits::{Admitted, ConnectionLimit, Membership, RateLimit};
use crate::phase::Watch;
use crate::stats::WorkerStats;
use crate::turnstile::Turnstile;
use crate::watched::Watched;
use tallylight_host::clock;

pub use connection::{Opening, serve};
pub use heard::Heard;
pub use peer::Peers;
pub use proxy_header::HeaderRefusal;

#[cfg(test)]
use {
    crate::ids::IdMaker,
    crate::log::{Appender, Batch},
    crate::phase::Phase,
    crossbeam_channel::Receiver,
};

use answer::Answer;
use date::Date;
use heard::Headers;

/// What the front must know of the settings.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whose address is believed and how much of it is kept.
    pub peers: Peers,
    /// Whether each connection is a trusted proxy's, and begins with a PROXY header.
    pub proxy_protocol: bool,
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

#[cfg(test)]
impl Options {
    /// For tests that send no requests.
    pub fn for_tests() -> Self {
        let patience = Duration::from_secs(60);
        Self {
            peers: Peers::new(Vec::new(), crate::settings::IpMode::Keep),
            proxy_protocol: false,
            demo: false,
            max_header: 0,
            max_body: 0,
            idle_timeout: patience,
            body_timeout: patience,
        }
    }
}

/// Whose connection a request came over: the peer's, or the client's for whom that speaks in a PROXY header.
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
    /// How many connections a peer may have, of all workers.
    pub peer_limit: Option<Arc<ConnectionLimit>>,
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
    /// Where requests are read into that come whole, one after another.
    buffer: RefCell<Box<[u8]>>,
    /// Memory for their answers.
    answers: Cell<Vec<u8>>,
    date: Date,
}

impl Shared {
    /// What begins to serve, without keys and limits. `sockets` are accepted or received on.
    pub fn new(options: Options, door: Rc<Door>, stats: Arc<WorkerStats>, phase: Watch, sockets: usize) -> Self {
        Self {
            options,
            redirect_keys: Watched::new(watch::channel(Arc::default()).1),
            rate_limit: None,
            peer_limit: None,
            turnstile: Rc::default(),
            leaving: Rc::default(),
            door,
            stats,
            phase,
            accepting: Cell::new(sockets),
            early: Cell::default(),
            ended: Notify::new(),
            buffer: RefCell::new(vec![0; whole::READ].into()),
            answers: Cell::default(),
            date: Date::default(),
        }
    }

    /// For tests: what serves, with room for so many batches in the channel that these come out of, in a phase that can be set.
    #[cfg(test)]
    pub fn for_tests(options: Options, room: usize) -> (Self, Receiver<Batch>, watch::Sender<Phase>) {
        let (appender, batches) = Appender::to_nobody(room);
        let (_, sites) = watch::channel(Arc::default());
        let (set_phase, phase) = watch::channel(Phase::Serving);
        let door = Rc::new(Door::new(appender, IdMaker::new().expect("random numbers"), sites));
        (Self::new(options, door, Arc::default(), Watch::new(phase), 1), batches, set_phase)
    }

    /// Counts an answer to a request that came at this time, and sends what is due: where requests come without a pause, the
    /// thread does not park.
    fn answered(&self, front: Front, came: std::time::Instant, answer: &Answer) {
        let now = clock::instant();
        self.stats.answered(front, now.saturating_duration_since(came), answer.class());
        self.door.flush_if_due_at(now);
    }

    /// Whether this connection is one to be served, as far as its peer's address says.
    pub fn admit(&self, stream: &impl AsFd, peer: IpAddr) -> Option<Admitted> {
        if !self.options.proxy_protocol {
            return self.admit_client(stream, peer);
        }
        // whose it is will stand in its header
        let is_proxy = self.options.peers.trusts(peer);
        if !is_proxy {
            self.stats.refused_header(HeaderRefusal::Address);
        }
        is_proxy.then(Admitted::default)
    }

    /// Whether a client may have another connection. If not, this one is reset: a word of why would have to wait until all
    /// that was sent is read, or it would be lost, and so would cost what the limit is to save.
    fn admit_client(&self, stream: &impl AsFd, client: IpAddr) -> Option<Admitted> {
        let Some(limit) = &self.peer_limit else { return Some(Admitted::default()) };
        let admitted = limit.admit(client);
        if admitted.is_none() {
            self.stats.over_peer_limit.add(1);
            // if it fails, the connection is closed in the usual way
            let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
        }
        admitted
    }
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

/// Answers one request, whose head was read at this time.
async fn answer<B: Body<Data = Bytes> + Unpin>(
    shared: &Shared,
    caller: &Caller,
    request: Request<B>,
    read_at: std::time::Instant,
) -> Response<Bytes> {
    caller.membership.speaks(read_at);
    let (parts, mut body) = request.into_parts();
    let deadline = Instant::from_std(read_at) + shared.options.body_timeout;
    let answer = route(shared, caller.address, &Head::of(&parts), &mut body, deadline).await;
    // the last answer says so: a peer that knows sends nothing more into a connection that ends
    let asks_first = parts.headers.contains_key(header::EXPECT);
    let is_last = !is_read(shared, asks_first, &mut body, deadline).await || !shared.phase.is_serving();
    let may_say_so = front(&parts) == Front::Http1;
    let mut response = respond(shared, parts, answer, read_at);
    if is_last && may_say_so {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// The same at once, where there is no body. The request is no POST, for which events would be looked for in that.
fn answer_of_head(shared: &Shared, caller: &Caller, parts: Parts, read_at: std::time::Instant) -> Response<Bytes> {
    caller.membership.speaks(read_at);
    let answer = of_head(shared, caller.address, &Head::of(&parts)).expect("only a POST has events in its body");
    respond(shared, parts, answer, read_at)
}

fn respond(shared: &Shared, parts: Parts, answer: Answer, read_at: std::time::Instant) -> Response<Bytes> {
    shared.answered(front(&parts), read_at, &answer);
    answer.into_response(parts.headers, parts.method == Method::HEAD)
}

/// Reads what is left of a body, so that nobody sees a reset in place of the answer. Whether it is all read. Whoever asks
/// before sending has sent nothing yet, and need not.
async fn is_read<B: Body<Data = Bytes> + Unpin>(
    shared: &Shared,
    asks_first: bool,
    body: &mut B,
    deadline: Instant,
) -> bool {
    if body.is_end_stream() || asks_first {
        return body.is_end_stream();
    }
    tokio::select! {
        is_read = payload::drain(body, deadline) => is_read,
        () = shared.phase.is_closed() => false,
    }
}

/// A request's head, whichever parser read it.
struct Head<'a> {
    method: Method,
    path: &'a str,
    query: &'a str,
    front: Front,
    /// Bytes of path and query.
    uri_len: usize,
    heard: Heard<'a>,
    /// These and all other headers.
    headers: Headers<'a>,
}

impl<'a> Head<'a> {
    fn of(parts: &'a Parts) -> Self {
        Self {
            method: parts.method.clone(),
            path: parts.uri.path(),
            query: parts.uri.query().unwrap_or_default(),
            front: front(parts),
            uri_len: parts.uri.path_and_query().map_or(0, |uri| uri.as_str().len()),
            heard: Heard::of(&parts.headers),
            headers: Headers::Parts(parts),
        }
    }

    fn is_get(&self) -> bool {
        matches!(self.method, Method::GET | Method::HEAD)
    }
}

async fn route<B: Body<Data = Bytes> + Unpin>(
    shared: &Shared,
    peer: IpAddr,
    head: &Head<'_>,
    body: &mut B,
    deadline: Instant,
) -> Answer {
    match of_head(shared, peer, head) {
        Some(answer) => answer,
        None => post::answer(shared, &Facts::of(shared, peer, head), body, deadline).await,
    }
}

/// What is answered to a request whatever its body is. None: it has events in that.
fn of_head(shared: &Shared, peer: IpAddr, head: &Head<'_>) -> Option<Answer> {
    let over_rate = match gate(shared, peer, head) {
        ControlFlow::Continue(over_rate) => over_rate,
        ControlFlow::Break(answer) => return Some(answer),
    };
    let (is_get, is_head) = (head.is_get(), head.method == Method::HEAD);
    Some(match (head.path, &head.method) {
        ("/api/beacon" | "/pixel.gif", _) if is_get => pixel::answer(shared, &Facts::of(shared, peer, head), is_head),
        ("/api/beacon", &Method::POST) => return None,
        ("/api/beacon" | "/pixel.gif", &Method::OPTIONS) => Answer::no_content().with(&PREFLIGHT),
        ("/api/beacon", _) => wrong_method(&BEACON_METHODS),
        ("/pixel.gif", _) => wrong_method(&PIXEL_METHODS),
        ("/r", _) if is_get => redirect::answer(shared, &Facts::of(shared, peer, head), is_head, over_rate),
        ("/r", _) => wrong_method(&PAGE_METHODS),
        (path, _) => {
            let page = if shared.options.demo { demo::answer(shared, head) } else { None };
            match page.or_else(|| script::answer(path, head.headers)) {
                Some(page) if is_get => page,
                Some(_) => wrong_method(&PAGE_METHODS),
                None => unknown_path(),
            }
        }
    })
}

/// What comes first: a token, and whether the head is as small as it should be. What is let in though its sender has no token
/// left is told why it had better not be.
fn gate(shared: &Shared, peer: IpAddr, head: &Head<'_>) -> ControlFlow<Answer, Option<Shed>> {
    let over_rate = over_rate(shared, peer, &head.heard);
    match over_rate {
        // whoever follows a link is a person
        Some(reason) if head.path != "/r" => ControlFlow::Break(not_looked_into(shared, head, reason)),
        _ if head.heard.len + head.uri_len > shared.options.max_header => ControlFlow::Break(large_head(shared, head)),
        _ => ControlFlow::Continue(over_rate),
    }
}

/// A token for a request. Why it is not answered, if its sender has none left.
fn over_rate(shared: &Shared, peer: IpAddr, heard: &Heard<'_>) -> Option<Shed> {
    let limit = shared.rate_limit.as_ref()?;
    // for whom a trusted proxy speaks without saying so cannot be limited
    let client = shared.options.peers.client(peer, heard)?;
    (!limit.take(client)).then_some(Shed::Rate)
}

/// What has no token is answered for its head alone: a beacon is one event, whatever its body has.
fn not_looked_into(shared: &Shared, head: &Head<'_>, reason: Shed) -> Answer {
    let reason = shared.door.would_shed().unwrap_or(reason);
    let answer = Answer::shed(reason);
    match (head.path, &head.method) {
        ("/api/beacon" | "/pixel.gif", &Method::GET) => {
            if !debug::is_wanted(head.query) {
                shared.door.shed(head.front, reason);
            }
            answer.with_pixel()
        }
        ("/api/beacon", &Method::POST) => {
            shared.door.shed(head.front, reason);
            answer
        }
        _ => answer,
    }
}

fn large_head(shared: &Shared, head: &Head<'_>) -> Answer {
    let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
    let line = format_args!("the head is larger than {} bytes", shared.options.max_header).to_string();
    let answer = Answer::refused(status, Refusal::TooLarge.label(), line);
    match (head.path, &head.method) {
        ("/api/beacon" | "/pixel.gif", &Method::GET) => {
            shared.door.refuse(head.front, Refusal::TooLarge);
            answer.with_pixel()
        }
        ("/api/beacon", &Method::POST) | ("/r", &Method::GET) => {
            shared.door.refuse(head.front, Refusal::TooLarge);
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
    heard: &'a Heard<'a>,
    peer: IpAddr,
    query: &'a str,
    front: Front,
    ip: Option<IpAddr>,
    referer: Cow<'a, str>,
    origin: Cow<'a, str>,
    user_agent: Cow<'a, str>,
}

impl<'a> Facts<'a> {
    fn of(shared: &Shared, peer: IpAddr, head: &'a Head<'_>) -> Self {
        let heard = &head.heard;
        Self {
            heard,
            peer,
            query: head.query,
            front: head.front,
            ip: shared.options.peers.visitor(peer, heard),
            referer: text(heard.referer),
            origin: text(heard.origin),
            user_agent: text(heard.user_agent),
        }
    }

    fn context(&self) -> Context<'_> {
        Context {
            received_at: clock::now(),
            front: self.front,
            ip: self.ip,
            referer: &self.referer,
            origin: &self.origin,
            user_agent: &self.user_agent,
            number: None,
            private: self.heard.is_private,
        }
    }

    /// Its sender pays for so much beside the request itself.
    fn charge(&self, shared: &Shared, tokens: u64) {
        if let Some(limit) = &shared.rate_limit
            && let Some(client) = shared.options.peers.client(self.peer, self.heard)
        {
            limit.charge(client, tokens);
        }
    }
}

/// A header as text; bytes that are not UTF-8 become U+FFFD.
fn text(value: Option<&[u8]>) -> Cow<'_, str> {
    let Some(value) = value else { return Cow::Borrowed("") };
    // asked first because it is faster where the answer is yes
    from_utf8(value).map_or_else(|_| String::from_utf8_lossy(value), Cow::Borrowed)
}
