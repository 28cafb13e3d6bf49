//! A connection of HTTP/2: requests in, answers out.
//!
//! The rule kept here: requests that come together are answered together, in one write. Those that wait for nothing are
//! answered where they are read; those that have a body, or are more than their connection's turn or than its peer takes
//! answers of, each in a task of its own.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::server::{Builder, Connection, SendResponse};
use h2::{RecvStream, SendStream};
use http::{Method, Request, Response, header};
use hyper::body::{Body, Frame, SizeHint};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::spawn_local;
use tokio::time::{sleep, sleep_until, timeout};

use super::replay::{Replay, Turn, of_a_turn};
use super::{Caller, Shared, answer, answer_of_head};

/// Requests at a time on one connection: what RFC 9113, 6.5.2, wants at least.
const STREAMS: u32 = 100;
/// Streams that a peer may open and reset before they are looked at (CVE-2023-44487): fewer than one read may have.
const RESET_STREAMS: usize = 8;
/// Streams that a peer's errors may reset.
const ERROR_RESETS: usize = 128;
/// What a peer may send of bodies before we have read it: as much as a body may have.
const WINDOW: u32 = 1024 * 1024;
/// Answers of which not all is taken, on one connection, after which no more are made.
const UNTAKEN: usize = 16;
/// What is kept of a stream's answer until its peer takes it. Answers are small.
const SEND_BUFFER: usize = 16 * 1024;
/// How long an idle connection may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(1);

/// Serves a connection until it ends, or is idle for too long, or the collector ends.
pub(super) async fn serve(
    shared: Rc<Shared>,
    io: Replay<TcpStream>,
    caller: Caller,
    turn: Rc<Turn>,
) -> Result<(), h2::Error> {
    let idle_timeout = shared.options.idle_timeout;
    let header_list = u32::try_from(2 * shared.options.max_header).unwrap_or(u32::MAX);
    let mut builder = Builder::new();
    builder
        .initial_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_concurrent_streams(STREAMS)
        .max_pending_accept_reset_streams(RESET_STREAMS)
        .max_local_error_reset_streams(Some(ERROR_RESETS))
        .max_header_list_size(header_list)
        .max_send_buffer_size(SEND_BUFFER);
    let activity = Activity { in_flight: Cell::new(0), last: Cell::new(Instant::now()) };
    let streams = Rc::new(Streams { shared, caller, turn, activity, room: Rc::default() });
    let Streams { shared, activity, .. } = &*streams;
    // a peer that has no request in flight may not say goodbye either
    let is_over = async || {
        shared.phase.is_draining().await;
        sleep(GOODBYE).await;
        activity.is_idle_for(GOODBYE).await;
    };
    let mut connection = tokio::select! {
        connection = builder.handshake(io) => connection?,
        () = activity.is_idle_for(idle_timeout) => return Ok(()),
        () = is_over() => return Ok(()),
    };
    tokio::select! {
        ended = streams.answer_all(&mut connection) => ended,
        () = activity.is_idle_for(idle_timeout) => {
            connection.graceful_shutdown();
            timeout(GOODBYE, streams.answer_all(&mut connection)).await.unwrap_or(Ok(()))
        }
        // those that come when it does already are told at once, and are answered what they have asked by then
        () = shared.phase.is_draining() => {
            connection.graceful_shutdown();
            tokio::select! {
                ended = streams.answer_all(&mut connection) => ended,
                () = is_over() => Ok(()),
            }
        }
    }
}

/// What the requests of a connection have in common.
struct Streams {
    shared: Rc<Shared>,
    caller: Caller,
    turn: Rc<Turn>,
    activity: Activity,
    room: Rc<Room>,
}

impl Streams {
    /// Answers what is asked on a connection, until that ends.
    async fn answer_all(
        self: &Rc<Self>,
        connection: &mut Connection<Replay<TcpStream>, Bytes>,
    ) -> Result<(), h2::Error> {
        let mut asked = Vec::new();
        poll_fn(|cx| {
            let ended = loop {
                match connection.poll_accept(cx) {
                    Poll::Ready(Some(Ok(request))) => asked.push(request),
                    Poll::Ready(Some(Err(error))) => break Poll::Ready(Err(error)),
                    Poll::Ready(None) => break Poll::Ready(Ok(())),
                    Poll::Pending => break Poll::Pending,
                }
            };
            let is_any_answered =
                asked.drain(..).fold(false, |is, (request, respond)| self.take(request, respond) | is);
            if ended.is_ready() || !is_any_answered {
                return ended;
            }
            // all of them in one write; what is read by the way is taken when this is polled again
            cx.waker().wake_by_ref();
            connection.poll_closed(cx)
        })
        .await
    }

    /// Answers a request, and says whether that is done: not if it has to wait for something.
    fn take(self: &Rc<Self>, request: Request<RecvStream>, respond: SendResponse<Bytes>) -> bool {
        let read_at = Instant::now();
        let request = RequestBody::of(request);
        let may_have_events = request.method() == Method::POST || !request.body().is_end_stream();
        if may_have_events || self.room.is_full() || !self.turn.take(of_a_turn(request.body())) {
            spawn_local(Rc::clone(self).answer(request, respond, read_at));
            return false;
        }
        let response = answer_of_head(&self.shared, &self.caller, request.into_parts().0, read_at);
        self.activity.last.set(read_at);
        self.send(response, respond, read_at, Place::of(&self.room));
        true
    }

    /// Answers a request when it is its turn, unless its peer gives it up before: that makes room for another stream, and so
    /// must what is kept of this one.
    async fn answer(self: Rc<Self>, request: Request<RequestBody>, mut respond: SendResponse<Bytes>, read_at: Instant) {
        let answered = async {
            self.turn.end_if_used(of_a_turn(request.body())).await;
            let (place, read_at) = self.room.enter(read_at).await;
            // not before: a peer that takes nothing is idle, however much it asks for
            let _busy = Busy::new(&self.activity);
            (answer(&self.shared, &self.caller, request, read_at).await, place)
        };
        let (response, place) = tokio::select! {
            biased;
            answered = answered => answered,
            _ = poll_fn(|cx| respond.poll_reset(cx)) => return,
        };
        self.send(response, respond, Instant::now(), place);
    }

    /// Sends an answer, now if its peer has room for it. If it has given the request up there is nobody to be told.
    fn send(&self, response: Response<Bytes>, mut respond: SendResponse<Bytes>, now: Instant, mut place: Place) {
        let (mut parts, body) = response.into_parts();
        parts.headers.insert(header::DATE, self.shared.date.at(now).clone());
        let Ok(mut stream) = respond.send_response(Response::from_parts(parts, ()), body.is_empty()) else { return };
        if body.is_empty() {
            return;
        }
        stream.reserve_capacity(body.len());
        if stream.capacity() >= body.len() {
            let _ = stream.send_data(body, true);
            return;
        }
        place.fill();
        spawn_local(async move {
            let _ = send_as_taken(stream, body).await;
            drop(place);
        });
    }
}

/// Sends a body in pieces for which its peer has room.
async fn send_as_taken(mut stream: SendStream<Bytes>, mut body: Bytes) -> Result<(), h2::Error> {
    while !body.is_empty() {
        stream.reserve_capacity(body.len());
        while stream.capacity() == 0 {
            // none: it was reset
            let Some(room) = poll_fn(|cx| stream.poll_capacity(cx)).await else { return Ok(()) };
            room?;
        }
        let piece = body.split_to(stream.capacity().min(body.len()));
        stream.send_data(piece, body.is_empty())?;
    }
    Ok(())
}

/// What comes behind the head of a request.
struct RequestBody {
    stream: RecvStream,
    /// Its length, where the head says that: h2 sees to it that it is true.
    length: Option<u64>,
}

impl RequestBody {
    fn of(request: Request<RecvStream>) -> Request<Self> {
        let length = match request.headers().get(header::CONTENT_LENGTH) {
            // nobody is connected to anybody here: what comes behind that is nothing that anybody waits for
            _ if request.body().is_end_stream() || request.method() == Method::CONNECT => Some(0),
            Some(length) => length.to_str().ok().and_then(|text| text.parse().ok()),
            None => None,
        };
        request.map(|stream| Self { stream, length })
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if self.length == Some(0) {
            return Poll::Ready(None);
        }
        // trailers say nothing here
        let Some(data) = ready!(self.stream.poll_data(cx)?) else { return Poll::Ready(None) };
        // there is room for as much more
        self.stream.flow_control().release_capacity(data.len())?;
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.length == Some(0) || self.stream.is_end_stream()
    }

    /// Of all of it, whatever was read.
    fn size_hint(&self) -> SizeHint {
        self.length.map(SizeHint::with_exact).unwrap_or_default()
    }
}

/// What a connection is doing: h2 has no clock for idle ones.
struct Activity {
    in_flight: Cell<u32>,
    last: Cell<Instant>,
}

impl Activity {
    /// Returns when there was no request for so long.
    async fn is_idle_for(&self, limit: Duration) {
        loop {
            let now = Instant::now();
            let end = if self.in_flight.get() > 0 { now } else { self.last.get() } + limit;
            if end <= now {
                return;
            }
            sleep_until(end.into()).await;
        }
    }
}

/// Room for the answers that an HTTP/2 connection's peer has yet to take. Those that wait for a body or for the log take none.
#[derive(Default)]
struct Room {
    untaken: Cell<usize>,
    freed: Notify,
}

impl Room {
    fn is_full(&self) -> bool {
        self.untaken.get() >= UNTAKEN
    }

    /// Returns when another answer may be made, with the time from which that counts: while its peer takes nothing, a request
    /// is not ours to answer.
    async fn enter(self: &Rc<Self>, mut read_at: Instant) -> (Place, Instant) {
        while self.is_full() {
            self.freed.notified().await;
            read_at = Instant::now();
        }
        (Place::of(self), read_at)
    }
}

/// Room for one answer.
struct Place {
    room: Rc<Room>,
    is_filled: bool,
}

impl Place {
    fn of(room: &Rc<Room>) -> Self {
        Self { room: Rc::clone(room), is_filled: false }
    }

    /// The answer is made.
    fn fill(&mut self) {
        self.is_filled = true;
        self.room.untaken.set(self.room.untaken.get() + 1);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.room.untaken.set(self.room.untaken.get() - usize::from(self.is_filled));
        // whoever was let in lets in the next one, answered or not
        self.room.freed.notify_one();
    }
}

/// One request in flight.
struct Busy<'a>(&'a Activity);

impl<'a> Busy<'a> {
    fn new(activity: &'a Activity) -> Self {
        activity.in_flight.set(activity.in_flight.get() + 1);
        Self(activity)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.in_flight.set(self.0.in_flight.get() - 1);
        self.0.last.set(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::super::Options;
    use super::super::replay::AtOnce;
    use super::*;
    use crate::limits::Crowd;
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::pin::pin;
    use tokio::runtime::{Builder, LocalOptions};
    use tokio::task::yield_now;

    #[test]
    fn of_requests_that_come_together_those_of_a_turn_are_answered_and_the_others_wait_for_the_next_one() {
        let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).unwrap();
        runtime.block_on(async {
            let (shared, _batches, _phase) =
                Shared::for_tests(Options { max_header: 8192, ..Options::for_tests() }, 64);
            let shared = Rc::new(shared);
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let mut client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            // GET http: /, with indexed fields (RFC 7541, appendix A)
            let get = |stream: u8| [0, 0, 3, 1, 5, 0, 0, 0, stream, 0x82, 0x86, 0x84];
            client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
            (0..36).for_each(|n| client.write_all(&get(2 * n + 1)).unwrap());
            client.set_nonblocking(true).unwrap();
            let (stream, peer) = listener.accept().unwrap();
            stream.set_nonblocking(true).unwrap();
            stream.set_nodelay(true).unwrap();
            let (door, turnstile) = (Rc::clone(&shared.door), Rc::clone(&shared.turnstile));
            let turn = Rc::new(Turn::new(door, turnstile, Rc::clone(&shared.leaving)));
            let stream = TcpStream::from_std(stream).unwrap();
            let io = Replay::new(Bytes::new(), stream, Rc::clone(&turn), AtOnce::FEW);
            let caller = Caller { address: peer.ip(), membership: Rc::new(Rc::<Crowd>::default().join()) };
            spawn_local(serve(Rc::clone(&shared), io, caller, turn));
            let mut taken = Vec::new();
            let mut answered = async || {
                // whatever can be done without anybody called is done by then
                for _ in 0..100 {
                    yield_now().await;
                }
                let _ = client.read_to_end(&mut taken);
                let (mut rest, mut heads) = (&taken[..], 0);
                while let [a, b, c, kind, ..] = rest {
                    heads += usize::from(*kind == 1);
                    rest = &rest[9 + u32::from_be_bytes([0, *a, *b, *c]) as usize..];
                }
                heads
            };
            // behind the preface it waits, too, since that is all that is read at a time
            let mut so_far = vec![answered().await];
            while shared.turnstile.call() {
                so_far.push(answered().await);
            }
            assert_eq!(so_far, [0, 16, 32, 36]);
        });
    }

    #[test]
    fn the_time_in_which_a_peer_takes_no_answers_is_its_own() {
        let runtime = Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let room = Rc::<Room>::default();
            let asked_at = Instant::now();
            let mut places = Vec::new();
            for _ in 0..UNTAKEN {
                let (mut place, from) = room.enter(asked_at).await;
                assert_eq!(from, asked_at);
                place.fill();
                places.push(place);
            }
            let mut waits = pin!(room.enter(asked_at));
            assert!(waits.as_mut().poll(&mut Context::from_waker(std::task::Waker::noop())).is_pending());
            let taken_at = Instant::now();
            drop(places.pop());
            assert!(waits.await.1 >= taken_at);
        });
    }
}
