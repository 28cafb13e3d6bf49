//! A stream that first gives again what was already read from it, to find out which protocol it speaks, and that keeps
//! its reader's turns short.
//!
//! The rule kept here: a peer that always has more to read costs the others its turn and no more. A read that takes as much
//! as may be read at a time is the last one of a turn; what follows it, and requests that are more than a turn's worth of one read
//! ([`Turn::end_if_used`]), pass the worker's turnstile. The end of a connection, which takes longer than most
//! requests, passes another one: thousands may end at once, and as many as are let in must be let out. What keeps a thread busy is read somewhere, so it is here, too,
//! that the door is asked to send what waits although the thread never parks.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use hyper::body::Body;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Semaphore;

use crate::door::Door;
use crate::turnstile::{Ticket, Turnstile};

/// How many bytes are read at a time, at most.
///
/// The smallest frames of HTTP/2 have 9 bytes, and each may cost as much as a request: so it is few, until requests stand
/// in what was read. Then it is more, and few again when they do not.
#[derive(Clone, Copy, Debug)]
pub(super) struct AtOnce {
    now: usize,
    least: usize,
}

/// What is read of an HTTP/2 connection at first: of the smallest frames, 56.
const FEW: usize = 512;
/// So much more is read where there are requests enough.
const MORE: usize = 16;

impl AtOnce {
    /// For HTTP/1, where nothing is answered but requests: as many as there is room for.
    pub(super) const ALL: Self = Self::at_least(usize::MAX);
    /// For HTTP/2.
    pub(super) const FEW: Self = Self::at_least(FEW);

    const fn at_least(least: usize) -> Self {
        Self { now: least, least }
    }

    fn was_read(&mut self, len: usize, requests: usize) {
        if len == self.now {
            let is_worth_it = requests * self.least >= len;
            self.now = if is_worth_it { (2 * len).min(MORE * self.least) } else { self.least };
        }
    }
}

/// Requests of a turn: some 80 µs. What browsers send at a time over HTTP/2 is answered in one write.
const REQUESTS: u32 = 16;

/// How much of its connection's turn a request with this body takes: all of it, if there is one.
///
/// More than there is, and so a place in the line in any case, where the length of the body is not said: a chunk's
/// extensions are read byte by byte, 16 KiB of which take as long as a hundred requests.
pub(super) fn of_a_turn(body: &impl Body) -> u32 {
    match body.size_hint().exact() {
        Some(0) => 1,
        Some(_) => REQUESTS,
        None => REQUESTS + 1,
    }
}

/// A connection's turn on its thread: one read, a few requests.
pub(super) struct Turn {
    /// Requests that are still in this turn.
    left: Cell<u32>,
    /// Requests since the last read.
    requests: Cell<usize>,
    /// The requests of HTTP/2, which come all at once, stand in line.
    line: Semaphore,
    door: Rc<Door>,
    turnstile: Rc<Turnstile>,
    leaving: Rc<Turnstile>,
}

impl Turn {
    pub(super) fn new(door: Rc<Door>, turnstile: Rc<Turnstile>, leaving: Rc<Turnstile>) -> Self {
        Self { left: Cell::new(REQUESTS), requests: Cell::default(), line: Semaphore::new(1), door, turnstile, leaving }
    }

    fn begin(&self) {
        self.left.set(REQUESTS);
        self.door.flush_if_due();
    }

    /// Takes so much of the turn for a request, if there is as much and nobody stands in line for it.
    pub(super) fn take(&self, taken: u32) -> bool {
        let left = self.left.get().checked_sub(taken).filter(|_| self.line.available_permits() > 0);
        if let Some(left) = left {
            self.left.set(left);
            self.requests.set(self.requests.get() + 1);
        }
        left.is_some()
    }

    /// Takes so much of the turn for a request. Lets the others have theirs first, if this one is used up.
    pub(super) async fn end_if_used(&self, taken: u32) {
        self.requests.set(self.requests.get() + 1);
        let _first = self.line.acquire().await.expect("never closed");
        if self.left.get() < taken {
            self.turnstile.pass().await;
            self.door.flush_if_due();
            self.left.set(REQUESTS);
        }
        self.left.set(self.left.get().saturating_sub(taken));
    }
}

/// `seen`, then the rest of the stream.
pub(super) struct Replay<S> {
    /// Emptied, and its memory given back, by the first reads.
    seen: Bytes,
    stream: S,
    turn: Rc<Turn>,
    at_once: AtOnce,
    /// The last read took as much as it might: for the next one it waits here.
    waits: Option<Ticket>,
    /// How the stream ended, which is not said before it is called.
    end: Option<(Ticket, io::Result<()>)>,
}

impl<S> Replay<S> {
    pub(super) fn new(seen: Bytes, stream: S, turn: Rc<Turn>, at_once: AtOnce) -> Self {
        Self { seen, stream, turn, at_once, waits: None, end: None }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Replay<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(ticket) = &self.waits {
            ready!(ticket.poll_called(cx));
            self.waits = None;
        }
        if let Some((ticket, _)) = &self.end {
            ready!(ticket.poll_called(cx));
            return Poll::Ready(self.end.take().map_or(Ok(()), |(_, end)| end));
        }
        let room = self.at_once.now.min(buf.remaining());
        let len = if !self.seen.is_empty() {
            let len = self.seen.len().min(room);
            buf.put_slice(&self.seen[..len]);
            self.seen.advance(len);
            if self.seen.is_empty() {
                self.seen = Bytes::new();
            }
            len
        } else {
            let before = buf.filled().len();
            let read = if room == buf.remaining() {
                ready!(Pin::new(&mut self.stream).poll_read(cx, buf))
            } else {
                let mut part = ReadBuf::new(buf.initialize_unfilled_to(room));
                let read = ready!(Pin::new(&mut self.stream).poll_read(cx, &mut part));
                let len = part.filled().len();
                buf.advance(len);
                read
            };
            let len = buf.filled().len() - before;
            if read.is_err() || (len == 0 && room > 0) {
                let ticket = self.turn.leaving.queue();
                // the ticket wakes whoever waits
                let called = ticket.poll_called(cx);
                self.end = Some((ticket, read));
                ready!(called);
            }
            len
        };
        if len == room {
            self.waits = Some(self.turn.turnstile.queue());
        }
        let Self { at_once, turn, .. } = &mut *self;
        at_once.was_read(len, turn.requests.take());
        turn.begin();
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Replay<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, bufs))?))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::Arc;
    use std::task::Waker;
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::ids::IdMaker;
    use crate::log::{Appender, Batch};
    use tallylight_proto::Refusal;
    use tokio::io::AsyncReadExt;
    use tokio::sync::watch;

    fn turn() -> (Rc<Turn>, crossbeam_channel::Receiver<Batch>) {
        let (appender, batches) = Appender::to_nobody(1);
        let (_, sites) = watch::channel(Arc::default());
        let door = Rc::new(Door::new(appender, IdMaker::new().unwrap(), sites));
        (Rc::new(Turn::new(door, Rc::default(), Rc::default())), batches)
    }

    /// Polls until it is ready, calling at the turnstile before each further time. Also gives how many times that was.
    async fn poll_calling<T>(turn: &Turn, mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> (T, usize) {
        let mut polls = 0;
        poll_fn(|cx| {
            loop {
                polls += 1;
                if let Poll::Ready(value) = poll(cx) {
                    return Poll::Ready((value, polls));
                }
                assert!(turn.turnstile.call() || turn.leaving.call(), "it waits for nothing");
            }
        })
        .await
    }

    #[tokio::test]
    async fn what_was_seen_comes_first_whatever_the_buffer() {
        for (size, at_once) in (1..8).flat_map(|size| [1, 3, usize::MAX].map(|least| (size, AtOnce::at_least(least)))) {
            let turn = turn().0;
            let mut stream = Replay::new(Bytes::from_static(b"abc"), &b"defg"[..], Rc::clone(&turn), at_once);
            let mut all = Vec::new();
            loop {
                let mut bytes = vec![0; size];
                let mut buffer = ReadBuf::new(&mut bytes);
                let (read, _) = poll_calling(&turn, |cx| Pin::new(&mut stream).poll_read(cx, &mut buffer)).await;
                read.unwrap();
                if buffer.filled().is_empty() {
                    break;
                }
                all.extend_from_slice(buffer.filled());
            }
            assert_eq!(all, b"abcdefg");
        }
    }

    #[tokio::test]
    async fn whoever_always_has_more_waits_for_the_next_turn() {
        for (seen, expected) in [(0, [10; 5]), (25, [10, 10, 15, 10, 10])] {
            let seen = Bytes::from(vec![b'a'; seen]);
            let turn = turn().0;
            let mut stream = Replay::new(seen, tokio::io::repeat(b'a'), Rc::clone(&turn), AtOnce::at_least(10));
            let mut turns = Vec::new();
            let mut cx = Context::from_waker(Waker::noop());
            for _ in 0..5 {
                let mut taken = 0;
                loop {
                    let mut bytes = [0; 100];
                    let mut buffer = ReadBuf::new(&mut bytes);
                    if Pin::new(&mut stream).poll_read(&mut cx, &mut buffer).is_pending() {
                        break;
                    }
                    taken += buffer.filled().len();
                }
                turns.push(taken);
                assert!(turn.turnstile.call() && !turn.turnstile.call(), "it stands there once");
            }
            assert_eq!(turns, expected);
        }
    }

    #[tokio::test]
    async fn where_requests_come_more_is_read_at_once() {
        let turn = turn().0;
        let mut stream = Replay::new(Bytes::new(), tokio::io::repeat(b'a'), Rc::clone(&turn), AtOnce::at_least(10));
        let mut cx = Context::from_waker(Waker::noop());
        let mut read_after = |requests: usize| {
            for _ in 0..requests {
                let _ = std::pin::pin!(turn.end_if_used(REQUESTS)).poll(&mut cx);
            }
            let mut bytes = [0; 1000];
            let mut buffer = ReadBuf::new(&mut bytes);
            while Pin::new(&mut stream).poll_read(&mut cx, &mut buffer).is_pending() {
                assert!(turn.turnstile.call(), "it waits for nothing");
            }
            buffer.filled().len()
        };
        assert_eq!([0, 0, 1, 2, 4, 8].map(&mut read_after), [10, 10, 10, 20, 40, 80], "a request in 10 bytes each");
        assert_eq!([16, 15, 15, 0].map(&mut read_after), [160, 160, 10, 20]);
    }

    #[tokio::test]
    async fn of_connections_that_end_together_one_is_let_out_at_a_time() {
        let one = turn().0;
        let mut ends: Vec<_> = (0..100)
            .map(|_| {
                let turn = Turn::new(Rc::clone(&one.door), Rc::default(), Rc::clone(&one.leaving));
                Replay::new(Bytes::new(), tokio::io::empty(), Rc::new(turn), AtOnce::ALL)
            })
            .collect();
        let mut cx = Context::from_waker(Waker::noop());
        let mut waiting = || {
            ends.retain_mut(|end| Pin::new(end).poll_read(&mut cx, &mut ReadBuf::new(&mut [0; 10])).is_pending());
            ends.len()
        };
        assert_eq!(waiting(), 100);
        for left in (0..100).rev() {
            assert!(one.leaving.call());
            assert_eq!(waiting(), left);
        }
    }

    #[tokio::test]
    async fn a_request_that_came_with_the_one_before_it_waits_for_the_next_turn() {
        let (turn, _batches) = turn();
        let polls_for = async |turn: &Turn, taken| {
            let mut end = std::pin::pin!(turn.end_if_used(taken));
            poll_calling(turn, |cx| end.as_mut().poll(cx)).await.1
        };
        let polls = async |turn: &Turn| polls_for(turn, REQUESTS).await;
        assert_eq!(polls(&turn).await, 1, "the first one");
        assert_eq!([polls(&turn).await, polls(&turn).await], [2, 2]);
        let another = Turn::new(Rc::clone(&turn.door), Rc::default(), Rc::default());
        assert_eq!(polls_for(&another, REQUESTS + 1).await, 2, "more than a turn, whenever it comes");
        assert_eq!(polls_for(&another, 1).await, 2, "nothing is left");
        let mut stream = Replay::new(Bytes::new(), &b"more"[..], Rc::clone(&turn), AtOnce::ALL);
        stream.read_u8().await.unwrap();
        drop(stream);
        assert_eq!(polls(&turn).await, 1, "it was read since");
    }

    #[tokio::test]
    async fn small_requests_that_came_together_share_a_turn() {
        let (turn, _batches) = turn();
        let mut cx = Context::from_waker(Waker::noop());
        let mut all: Vec<_> = (0..3 * REQUESTS).map(|_| Box::pin(turn.end_if_used(1))).collect();
        let mut waiting = || {
            all.retain_mut(|end| end.as_mut().poll(&mut cx).is_pending());
            all.len()
        };
        let mut left = vec![waiting()];
        while turn.turnstile.call() {
            left.push(waiting());
        }
        assert_eq!(left, [2 * REQUESTS as usize, REQUESTS as usize, 0]);
    }

    #[tokio::test]
    async fn what_is_taken_at_once_is_of_the_turn_and_passes_nobody_who_waits_for_the_next_one() {
        let (turn, _batches) = turn();
        assert!((0..REQUESTS).all(|_| turn.take(1)) && !turn.take(1));
        let mut cx = Context::from_waker(Waker::noop());
        let mut all: Vec<_> = (0..2 * REQUESTS).map(|_| Box::pin(turn.end_if_used(1))).collect();
        all.retain_mut(|end| end.as_mut().poll(&mut cx).is_pending());
        assert!(turn.turnstile.call());
        // the first of those that wait has its turn, in which there is more than it needs
        assert!(all.remove(0).as_mut().poll(&mut cx).is_ready());
        assert!(!turn.take(1), "the others are before it");
        all.clear();
        assert!(turn.take(1));
    }

    #[tokio::test]
    async fn requests_of_one_connection_stand_in_line_together_and_those_of_another_do_not_wait_for_them_all() {
        let (one, _batches) = turn();
        let other = Turn::new(Rc::clone(&one.door), Rc::clone(&one.turnstile), Rc::default());
        let mut cx = Context::from_waker(Waker::noop());
        one.end_if_used(REQUESTS).await;
        other.end_if_used(REQUESTS).await;
        let mut many: Vec<_> = (0..100).map(|_| Box::pin(one.end_if_used(REQUESTS))).collect();
        let mut last = Box::pin(other.end_if_used(REQUESTS));
        // how many of the hundred still wait, and whether the other one does
        let mut waiting = || {
            many.retain_mut(|end| end.as_mut().poll(&mut cx).is_pending());
            (many.len(), last.as_mut().poll(&mut cx).is_pending())
        };
        assert_eq!(waiting(), (100, true));
        assert!(one.turnstile.call());
        assert_eq!(waiting(), (99, true));
        assert!(one.turnstile.call());
        assert_eq!(waiting(), (99, false), "only one of the hundred was before it");
    }

    #[tokio::test]
    async fn a_thread_that_is_kept_busy_sends_what_waits() {
        let (turn, batches) = turn();
        turn.door.refuse(tallylight_proto::Front::Http1, Refusal::Type);
        // longer than a batch may be kept
        thread::sleep(Duration::from_millis(2));
        assert!(batches.is_empty());
        let mut stream = Replay::new(Bytes::new(), &b"more"[..], turn, AtOnce::ALL);
        stream.read_u8().await.unwrap();
        assert_eq!(batches.len(), 1);
    }
}
