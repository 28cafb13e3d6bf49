//! Requests that come as nearly all do: one of HTTP/1 at a time, mostly in one read.
//!
//! The rule kept here: **what is answered here is answered as it would be over hyper, and whatever is out of the ordinary goes
//! there**, with all that was read: more than one request, a body in chunks. The
//! connection then stays with hyper, so that is nothing that browsers, or proxies over whose few connections everybody comes, have a use for. What is here is
//! read by hyper's own parser and judged and answered by the same code; what is saved is a map of each head, twice, which is most of what a beacon costs.
//!
//! A connection holds no memory but its own: what is read is read into a buffer of the worker's, and what came of a request
//! that is not whole is all that is kept. Thousands that never end theirs take a tenth of what they would over hyper.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::Method;
use hyper::body::{Body, Frame, SizeHint};
use rustix::io::Errno;
use rustix::net::SendFlags;
use tallylight_proto::Front;
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use super::answer::{Answer, Sent};
use super::connection::LATE_PATIENCE;
use super::heard::{HEADERS, Headers};
use super::{Caller, Facts, Head, Shared, is_read, of_head, post};
use crate::turnstile::Ticket;

/// What is read at a time: most requests whole. A head that fills it is hyper's to refuse.
pub const READ: usize = 16 * 1024;

/// Serves a connection of which `bytes` were read, until it has ended, or hyper is to go on with what is given back.
pub(super) async fn serve(shared: &Shared, stream: &mut TcpStream, bytes: Bytes, caller: &Caller) -> Option<Bytes> {
    let mut draining = pin!(shared.phase.is_draining_now());
    let mut idle = pin!(sleep(shared.options.idle_timeout));
    let (mut is_watching, mut is_late) = (false, false);
    // when the first bytes of the last request came
    let mut since = Instant::now();
    // of a head that may still end
    let mut half = Bytes::new();
    let mut came = Came::Bytes(bytes);
    loop {
        let done = match came {
            Came::Nothing => {
                // thousands may end at once
                shared.leaving.pass().await;
                return None;
            }
            Came::Request(answered) => {
                since = answered.began;
                answered.finish(shared, stream).await
            }
            Came::Bytes(bytes) => {
                let began = Instant::now();
                // nothing ends without the end of a line, and what comes byte by byte is not parsed as often
                let may_end = half.is_empty() || half.len() + bytes.len() >= READ || bytes.contains(&b'\n');
                if half.is_empty() {
                    since = began;
                }
                let all = joined(std::mem::take(&mut half), bytes);
                let done = if may_end { answer(shared, stream, &all, caller, began).await } else { Done::NotYet };
                match done {
                    Done::Elsewhere => return Some(all),
                    Done::NotYet => half = all,
                    Done::GoesOn | Done::ForGood => {}
                }
                done
            }
        };
        if matches!(done, Done::ForGood) {
            return None;
        }
        came = poll_fn(|cx| {
            if let Poll::Ready(came) = poll_read(shared, stream, caller, half.is_empty(), cx) {
                return Poll::Ready(came);
            }
            // polled once, it wakes this task when that begins
            let may_drain = !is_late && (!is_watching || !shared.phase.is_serving());
            is_watching = true;
            if may_drain && draining.as_mut().poll(cx).is_ready() {
                // what it is about to say may be under way
                is_late = true;
                idle.as_mut().reset(Instant::now() + LATE_PATIENCE);
            }
            // set anew when it is over, not at each request
            while idle.as_mut().poll(cx).is_ready() {
                let deadline = since + shared.options.idle_timeout;
                if is_late || deadline <= Instant::now() {
                    return Poll::Ready(Came::Nothing);
                }
                idle.as_mut().reset(deadline);
            }
            Poll::Pending
        })
        .await;
    }
}

/// Answers a request that a connection was opened for and ends with, if these bytes are one, and it has no body.
pub(super) fn only(shared: &Shared, stream: &impl AsFd, peer: IpAddr, bytes: &[u8]) -> Option<Answered> {
    let began = Instant::now();
    let Parsed::Request(request) = Request::parse(bytes) else { return None };
    // a POST takes its token where its body is read
    if !request.is_last || request.body_len() > 0 || request.head.method == Method::POST {
        return None;
    }
    let answer = of_head(shared, peer, &request.head)?;
    Some(send(shared, stream, &answer, &request, began))
}

/// What a connection's next read has given.
enum Came {
    /// The end, or nothing in time.
    Nothing,
    /// Something that is kept while it is looked at.
    Bytes(Bytes),
    /// A request that was answered where it was read.
    Request(Answered),
}

/// Reads. A GET is answered at once, without a copy of what was read; only if nothing of it was there before.
fn poll_read(
    shared: &Shared,
    stream: &mut TcpStream,
    caller: &Caller,
    is_beginning: bool,
    cx: &mut Context<'_>,
) -> Poll<Came> {
    let mut buffer = shared.buffer.borrow_mut();
    let mut buffer = ReadBuf::new(&mut buffer[..]);
    let read = ready!(Pin::new(&mut *stream).poll_read(cx, &mut buffer));
    let bytes = buffer.filled();
    if read.is_err() || bytes.is_empty() {
        return Poll::Ready(Came::Nothing);
    }
    if is_beginning
        && bytes.starts_with(b"GET ")
        && let Begun::Answered(answered) = begin(shared, stream, bytes, caller, Instant::now())
    {
        return Poll::Ready(Came::Request(answered));
    }
    Poll::Ready(Came::Bytes(Bytes::copy_from_slice(bytes)))
}

fn joined(half: Bytes, more: Bytes) -> Bytes {
    if half.is_empty() {
        return more;
    }
    let mut both = BytesMut::from(half);
    both.extend_from_slice(&more);
    both.freeze()
}

/// What became of a request.
pub(super) enum Done {
    /// It is hyper's.
    Elsewhere,
    /// There is too little of it.
    NotYet,
    /// It is answered, and another one may come.
    GoesOn,
    /// It was the last one on its connection.
    ForGood,
}

/// Answers a request, if that can be done here.
async fn answer(shared: &Shared, stream: &mut TcpStream, bytes: &Bytes, caller: &Caller, began: Instant) -> Done {
    let answered = match begin(shared, stream, bytes, caller, began) {
        Begun::Elsewhere => return Done::Elsewhere,
        Begun::NotYet => return Done::NotYet,
        Begun::Answered(answered) => answered,
        // boxed: few requests have one, and all connections would have room for it
        Begun::WithBody(request, answer) => {
            Box::pin(with_body(shared, stream, bytes, caller, request, answer, began)).await
        }
    };
    answered.finish(shared, stream).await
}

/// A request that is answered.
pub struct Answered {
    began: Instant,
    /// What of the answer the peer has yet to make room for.
    left: io::Result<Vec<u8>>,
    /// The connection ends with it.
    is_last: bool,
}

impl Answered {
    /// Whether there is nothing more to be sent.
    pub(super) fn is_sent(&self) -> bool {
        self.left.as_ref().map_or(true, Vec::is_empty)
    }

    /// Sends what is left.
    pub(super) async fn finish(self, shared: &Shared, stream: &mut TcpStream) -> Done {
        let is_taken = match self.left {
            Ok(left) if left.is_empty() => true,
            Ok(left) => matches!(timeout(shared.options.idle_timeout, stream.write_all(&left)).await, Ok(Ok(()))),
            Err(_) => false,
        };
        if self.is_last || !is_taken { Done::ForGood } else { Done::GoesOn }
    }
}

/// Answers a request with a body, for the rest of which, and for the log, it may have to wait.
async fn with_body(
    shared: &Shared,
    stream: &TcpStream,
    bytes: &Bytes,
    caller: &Caller,
    mut request: Request<'_>,
    answer: Option<Answer>,
    began: Instant,
) -> Answered {
    let Request { head, body, missing, .. } = &request;
    let mut body =
        Rest { begun: bytes.slice_ref(body), missing: *missing, stream, shared, waits: None, has_gone: false };
    let deadline = began + shared.options.body_timeout;
    let answer = match answer {
        Some(answer) => answer,
        None => post::answer(shared, &Facts::of(shared, caller.address, head), &mut body, deadline).await,
    };
    request.is_last |= !is_read(shared, false, &mut body, deadline).await || !shared.phase.is_serving();
    send(shared, stream, &answer, &request, began)
}

/// A body of which the beginning was read with its head.
struct Rest<'a> {
    begun: Bytes,
    /// So many bytes are still to come.
    missing: usize,
    stream: &'a TcpStream,
    shared: &'a Shared,
    /// The last read took as much as it might, for the next one it waits here; or the peer has gone, which is said when it is called.
    waits: Option<Ticket>,
    has_gone: bool,
}

impl Body for Rest<'_> {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let rest = &mut *self;
        if !rest.begun.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut rest.begun)))));
        }
        if rest.missing == 0 {
            return Poll::Ready(None);
        }
        if let Some(ticket) = &rest.waits {
            ready!(ticket.poll_called(cx));
            rest.waits = None;
        }
        if rest.has_gone {
            return Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof.into())));
        }
        let mut buffer = rest.shared.buffer.borrow_mut();
        let room = buffer.len().min(rest.missing);
        let len = loop {
            ready!(rest.stream.poll_read_ready(cx))?;
            match rest.stream.try_read(&mut buffer[..room]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // thousands may go at once
                Ok(0) | Err(_) => {
                    rest.has_gone = true;
                    let ticket = rest.waits.insert(rest.shared.leaving.queue());
                    // it wakes whoever waits
                    return ticket.poll_called(cx).map(|()| Some(Err(io::ErrorKind::UnexpectedEof.into())));
                }
                Ok(len) => break len,
            }
        };
        rest.missing -= len;
        if len == buffer.len() {
            rest.waits = Some(rest.shared.turnstile.queue());
        }
        Poll::Ready(Some(Ok(Frame::data(Bytes::copy_from_slice(&buffer[..len])))))
    }

    fn is_end_stream(&self) -> bool {
        self.begun.is_empty() && self.missing == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact((self.begun.len() + self.missing) as u64)
    }
}

/// What came of a request at once.
#[expect(clippy::large_enum_variant, reason = "nearly all are the large one, and none is kept")]
enum Begun<'a> {
    /// It is not for here.
    Elsewhere,
    /// There is too little of it.
    NotYet,
    /// It is answered.
    Answered(Answered),
    /// Its body is to be read, for the answer if there is none yet.
    WithBody(Request<'a>, Option<Answer>),
}

fn begin<'a>(shared: &Shared, stream: &TcpStream, bytes: &'a [u8], caller: &Caller, began: Instant) -> Begun<'a> {
    let mut request = match Request::parse(bytes) {
        Parsed::Request(request) if shared.options.max_body < request.body_len() => return Begun::Elsewhere,
        Parsed::Request(request) => request,
        Parsed::Half if bytes.len() < READ => return Begun::NotYet,
        Parsed::Half | Parsed::Odd => return Begun::Elsewhere,
    };
    // a peer that knows sends nothing more into a connection that ends
    request.is_last |= !shared.phase.is_serving();
    caller.membership.speaks(began.into_std());
    match of_head(shared, caller.address, &request.head) {
        // what is still to come of a body must not be taken for a request
        Some(answer) if request.missing == 0 => Begun::Answered(send(shared, stream, &answer, &request, began)),
        answer => Begun::WithBody(request, answer),
    }
}

/// Sends an answer, of which something may be left, but seldom is.
fn send(shared: &Shared, stream: &impl AsFd, answer: &Answer, request: &Request<'_>, began: Instant) -> Answered {
    let Request { head, is_last, is_old, .. } = request;
    shared.answered(Front::Http1, began.into_std(), answer);
    let mut out = shared.answers.take();
    // where it is not what the version says by itself
    let connection = match (is_last, is_old) {
        (true, false) => Some("close"),
        (false, true) => Some("keep-alive"),
        _ => None,
    };
    let date = &shared.date.at(began.into_std());
    let sent_with = Sent { is_head: head.method == Method::HEAD, is_old: *is_old, connection, date };
    answer.write_http1(head.heard.origin, sent_with, &mut out);
    let left = match rustix::net::send(stream, &out, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
        Err(Errno::AGAIN) => Ok(out),
        Err(error) => Err(error.into()),
        Ok(sent) => {
            out.drain(..sent);
            // its memory is for the next one
            let left = if out.is_empty() { Vec::new() } else { std::mem::take(&mut out) };
            shared.answers.set(out);
            Ok(left)
        }
    };
    Answered { began, left, is_last: *is_last }
}

/// What some bytes are.
#[expect(clippy::large_enum_variant, reason = "nearly all are the large one, and none is kept")]
enum Parsed<'a> {
    /// One request, with as much as there is of its body.
    Request(Request<'a>),
    /// A head that may still become one.
    Half,
    /// Something else.
    Odd,
}

/// A request.
struct Request<'a> {
    head: Head<'a>,
    body: &'a [u8],
    /// So many bytes of the body are still to come.
    missing: usize,
    /// The connection ends with it.
    is_last: bool,
    /// It is one of HTTP/1.0.
    is_old: bool,
}

impl<'a> Request<'a> {
    fn parse(bytes: &'a [u8]) -> Parsed<'a> {
        let mut headers = [const { MaybeUninit::uninit() }; HEADERS];
        let mut request = httparse::Request::new(&mut []);
        match request.parse_with_uninit_headers(bytes, &mut headers) {
            Ok(httparse::Status::Complete(len)) => {
                let (head, body) = bytes.split_at(len);
                Self::of(&request, head, body).map_or(Parsed::Odd, Parsed::Request)
            }
            Ok(httparse::Status::Partial) => Parsed::Half,
            Err(_) => Parsed::Odd,
        }
    }

    /// None if it is not as it is in most of them.
    fn of(request: &httparse::Request<'_, 'a>, bytes: &'a [u8], body: &'a [u8]) -> Option<Self> {
        let method = match request.method? {
            "GET" => Method::GET,
            "POST" => Method::POST,
            "HEAD" => Method::HEAD,
            "OPTIONS" => Method::OPTIONS,
            _ => return None,
        };
        let uri = request.path.filter(|uri| uri.starts_with('/') && is_plain(uri))?;
        let path_len = uri.bytes().position(|byte| byte == b'?').unwrap_or(uri.len());
        let path = Some(&uri[..path_len]).filter(|path| !path.contains('`'))?;
        let query = uri.get(path_len + 1..).unwrap_or_default();
        let is_old = request.version == Some(0);
        let mut framing = Framing::default();
        let headers = request.headers.iter().map(|header| (header.name, header.value));
        let heard = headers.inspect(|(name, value)| framing.hear(name, value)).collect();
        let missing = framing.body_len(&method)?.checked_sub(body.len())?;
        let (front, uri_len, headers) = (Front::Http1, uri.len(), Headers::Head(bytes));
        let head = Head { method, path, query, front, uri_len, heard, headers };
        Some(Self { head, body, missing, is_last: framing.is_last(is_old)?, is_old })
    }

    fn body_len(&self) -> u64 {
        (self.body.len() + self.missing) as u64
    }
}

/// What stands in a query as browsers write it, and means the same to every reader of URIs. In a path too, but for backticks.
// a function of its own, in which the compiler takes many bytes at a time
#[inline(never)]
fn is_plain(uri: &str) -> bool {
    let is_odd = |byte: u8| !matches!(byte, 0x21 | 0x24..=0x3B | 0x3D | 0x3F..=0x7E);
    // all of it, since it is faster without a branch for each
    !uri.bytes().fold(false, |odd, byte| odd | is_odd(byte))
}

/// What heads say of their bodies and connections, as far as that is understood here.
#[derive(Default)]
struct Framing {
    content_length: Option<usize>,
    /// The connection is to end, or to go on.
    says_close: bool,
    says_keep_alive: bool,
    is_odd: bool,
}

impl Framing {
    fn hear(&mut self, name: &str, value: &[u8]) {
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        self.is_odd |= match name.len() {
            6 => is("expect"),
            7 => is("upgrade") || is("trailer"),
            10 if is("connection") => {
                let (closes, keeps) = (value.eq_ignore_ascii_case(b"close"), value.eq_ignore_ascii_case(b"keep-alive"));
                self.says_close |= closes;
                self.says_keep_alive |= keeps;
                !closes && !keeps
            }
            14 if is("content-length") => {
                let is_number = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
                let len = str::from_utf8(value).ok().filter(|_| is_number).and_then(|digits| digits.parse().ok());
                len.is_none() || self.content_length.replace(len.unwrap_or_default()).is_some()
            }
            17 => is("transfer-encoding"),
            _ => false,
        };
    }

    /// How long the body is. None if that takes more to know, or if nobody would know what to make of one.
    fn body_len(&self, method: &Method) -> Option<usize> {
        let has_one = self.content_length.is_some() && *method != Method::POST;
        (!self.is_odd && !has_one).then_some(self.content_length.unwrap_or(0))
    }

    /// Whether the connection ends with the request, which one of HTTP/1.0 does unless it says otherwise (RFC 9112, 9.3). None if it says both.
    fn is_last(&self, is_old: bool) -> Option<bool> {
        (!self.says_close || !self.says_keep_alive).then_some(self.says_close || is_old && !self.says_keep_alive)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHROME: &str = "GET /api/beacon?site=shop.example&event=click&target=https%3A%2F%2Fshop.example HTTP/1.1\r\n\
        Host: beacons.example\r\nConnection: keep-alive\r\nsec-ch-ua-platform: \"Windows\"\r\nUser-Agent: Mozilla/5.0\r\n\
        Accept: image/avif,*/*;q=0.8\r\nReferer: https://shop.example/\r\nAccept-Encoding: gzip, br\r\n\r\n";

    fn parse(bytes: &[u8]) -> Option<Request<'_>> {
        match Request::parse(bytes) {
            Parsed::Request(request) => Some(request),
            Parsed::Half | Parsed::Odd => None,
        }
    }

    #[test]
    fn a_browsers_beacons_are_answered_here() {
        let Request { head, body, missing, is_last, .. } = parse(CHROME.as_bytes()).unwrap();
        assert!(!is_last);
        assert_eq!((head.method, body, missing), (Method::GET, &[][..], 0));
        assert_eq!(head.query, "site=shop.example&event=click&target=https%3A%2F%2Fshop.example");
        assert_eq!(head.heard.user_agent, Some(&b"Mozilla/5.0"[..]));
        let post = b"POST /api/beacon?ack=synced HTTP/1.1\r\nHost: b\r\nContent-Length: 9\r\n\r\nevent=buy";
        let Request { head, body, missing, is_last, .. } = parse(post).unwrap();
        assert!(!is_last);
        assert_eq!((head.method, head.query, body, missing), (Method::POST, "ack=synced", &b"event=buy"[..], 0));
        assert!(parse(b"HEAD /pixel.gif HTTP/1.1\r\n\r\n").is_some());
        assert!(parse(CHROME.replace("keep-alive", "Close").as_bytes()).unwrap().is_last);
    }

    #[test]
    fn what_comes_in_pieces_is_waited_for() {
        for len in 0..CHROME.len() {
            assert!(matches!(Request::parse(&CHROME.as_bytes()[..len]), Parsed::Half), "cut at {len}");
        }
        let post = b"POST /api/beacon HTTP/1.1\r\nHost: b\r\nContent-Length: 9\r\n\r\nevent=buy";
        for missing in 0..=9 {
            let request = parse(&post[..post.len() - missing]).unwrap();
            assert_eq!((request.missing, request.body_len()), (missing, 9));
            assert_eq!(request.body, &b"event=buy"[..9 - missing]);
        }
    }

    #[test]
    fn whatever_is_out_of_the_ordinary_is_hypers() {
        assert!(parse(CHROME.repeat(2).as_bytes()).is_none(), "two at once");
        for (from, to) in [
            ("GET ", "DELETE "),
            ("GET ", "get "),
            ("/api/beacon", "/api`beacon"),
            ("/api/beacon", "*"),
            ("/api/beacon", "http://beacons.example/api/beacon"),
            ("/api/beacon", "/api/beacon#"),
            ("click", "cl\"ick"),
            ("click", "cl\u{e9}ck"),
            ("keep-alive", "close, upgrade"),
            ("keep-alive", "close\r\nConnection: keep-alive"),
            ("keep-alive", "keep-alive, upgrade"),
            ("Accept:", "Upgrade:"),
            ("Accept:", "Expect:"),
            ("Accept:", "Trailer:"),
            ("Accept:", "Transfer-Encoding:"),
            ("Accept: image/avif,*/*;q=0.8", "Content-Length: 0"),
            ("Accept: image/avif,*/*;q=0.8", "Content-Length: 1"),
            ("Accept:", "Accept :"),
        ] {
            assert!(CHROME.contains(from));
            assert!(parse(CHROME.replacen(from, to, 1).as_bytes()).is_none(), "{from} → {to}");
        }
        for length in ["8", "+9", "9, 9", "9\r\nContent-Length: 9", "", "99999999999999999999999"] {
            let post = format!("POST /api/beacon HTTP/1.1\r\nContent-Length: {length}\r\n\r\nevent=buy");
            assert!(parse(post.as_bytes()).is_none(), "{length}");
        }
        let many = "A: b\r\n".repeat(HEADERS + 1);
        assert!(parse(format!("GET /pixel.gif HTTP/1.1\r\n{many}\r\n").as_bytes()).is_none());
    }
}
