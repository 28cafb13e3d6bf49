//! One connection: which protocol it speaks, and for how long.
//!
//! Where it comes from a proxy that says so in a header of its own, that is the first to be read.
//!
//! The rule kept here: every wait has an end. A peer that says nothing, says half of something, or takes no
//! answer costs a connection for as long as the settings allow, and no other peer anything.
//!
//! hyper refuses by itself what is no HTTP (400) and, as h2 does, a head of more than twice what it may be (431), without the
//! headers of our answers. Browsers send neither; a head that is merely too large gets a whole answer.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use http::Request;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::net::RecvFlags;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use super::proxy_header::{self, HeaderRefusal, Said};
use super::replay::{AtOnce, Replay, Turn, of_a_turn};
use super::whole::{self, Answered};
use super::{Caller, Shared, answer, http2};
use crate::limits::{Admitted, Membership};

/// How an HTTP/2 connection begins (RFC 9113, 3.4). No request line of HTTP/1 begins with these three.
const PREFACE: &[u8] = b"PRI";
/// How long a connection may take to say something while the collector stops: what it says may be under way.
pub(super) const LATE_PATIENCE: Duration = Duration::from_secs(1);

/// What a connection begins with, as far as that is there when it is accepted: with all that most connections are opened for.
pub enum Opening {
    /// So much was read, which may be nothing.
    Read(BytesMut),
    /// One request, that ends the connection.
    Request(Answered),
}

impl Opening {
    /// Reads it, and answers a request that is all.
    pub fn of(shared: &Shared, stream: &impl AsFd, peer: SocketAddr) -> Self {
        let mut buffer = shared.buffer.borrow_mut();
        // it is not watched yet, and what is there need not be waited for
        let read = rustix::net::recv(stream, &mut buffer[..], RecvFlags::DONTWAIT);
        // what has failed will do so again where it is waited for
        let bytes = read.map_or(&[][..], |(_, len)| &buffer[..len]);
        let is_the_peers = !shared.options.proxy_protocol;
        match is_the_peers.then(|| whole::only(shared, stream, peer.ip(), bytes)).flatten() {
            Some(answered) => Self::Request(answered),
            None => Self::Read(bytes.into()),
        }
    }

    /// Whether nothing is left to be done for the connection.
    pub fn is_all(&self) -> bool {
        matches!(self, Self::Request(answered) if answered.is_sent())
    }
}

/// Serves a connection until it ends, or the collector does.
pub async fn serve(
    shared: Rc<Shared>,
    mut stream: TcpStream,
    peer: SocketAddr,
    opening: Opening,
    membership: Rc<Membership>,
) {
    match opening {
        Opening::Request(answered) => {
            answered.finish(&shared, &mut stream).await;
        }
        Opening::Read(seen) => serve_from(shared, stream, peer, seen, membership).await,
    }
}

/// Serves a connection that begins with what was read.
async fn serve_from(
    shared: Rc<Shared>,
    mut stream: TcpStream,
    peer: SocketAddr,
    seen: BytesMut,
    membership: Rc<Membership>,
) {
    let mut beginning = Beginning::new(&shared, &stream, seen);
    let client = if shared.options.proxy_protocol {
        // boxed: most collectors have no such proxy, and all connections would have room for it
        Box::pin(beginning.read_header(peer.ip())).await
    } else {
        Some((peer.ip(), Admitted::default()))
    };
    let is_http2 = match client {
        Some(_) => beginning.read(|seen| protocol(seen)).await.unwrap_or_default(),
        None => None,
    };
    let (Some((address, _admitted)), Some(is_http2)) = (client, is_http2) else {
        // before it is dropped
        shared.leaving.pass().await;
        return;
    };
    let mut seen = beginning.seen.freeze();
    let caller = Caller { address, membership };
    if !is_http2 {
        match whole::serve(&shared, &mut stream, seen, &caller).await {
            Some(rest) => seen = rest,
            None => return,
        }
    } else {
        // what is made of such a connection, and read first, takes as long as some requests
        shared.turnstile.pass().await;
    }
    let turn = Rc::new(Turn::new(Rc::clone(&shared.door), Rc::clone(&shared.turnstile), Rc::clone(&shared.leaving)));
    let at_once = if is_http2 { AtOnce::FEW } else { AtOnce::ALL };
    let io = Replay::new(seen, stream, Rc::clone(&turn), at_once);
    // What the peer did wrong is the peer's to know, and what it sent is counted where it was understood. Boxed: most connections
    // never come to this, and all would have room for it.
    if is_http2 {
        drop(Box::pin(http2::serve(shared, io, caller, turn)).await);
    } else {
        drop(Box::pin(serve_http1(shared, TokioIo::new(io), caller, turn)).await);
    }
}

/// Whether it is HTTP/2 that begins like this. None if it is too soon to say.
fn protocol(seen: &[u8]) -> Option<bool> {
    let is_http2 = seen.starts_with(PREFACE);
    (is_http2 || !PREFACE.starts_with(seen)).then_some(is_http2)
}

/// What a connection begins with, and how long that may take.
struct Beginning<'a> {
    shared: &'a Shared,
    stream: &'a TcpStream,
    /// What was read, and is nobody's yet.
    seen: BytesMut,
    deadline: Instant,
    is_late: bool,
}

impl<'a> Beginning<'a> {
    fn new(shared: &'a Shared, stream: &'a TcpStream, seen: BytesMut) -> Self {
        let is_late = !shared.phase.is_serving();
        let patience = if is_late { LATE_PATIENCE } else { shared.options.idle_timeout };
        Self { shared, stream, seen, deadline: Instant::now() + patience, is_late }
    }

    /// Reads the header in which a proxy says for whom it speaks: that one's address, and that it may have this connection.
    /// None: it is to be closed, for which reason is counted.
    async fn read_header(&mut self, proxy: IpAddr) -> Option<(IpAddr, Admitted)> {
        let client = match self.read(proxy_header::take).await {
            Ok(Some(Said::Client(client))) => client,
            Ok(Some(Said::Proxys)) => proxy,
            Ok(Some(Said::Nonsense)) => return self.refuse(HeaderRefusal::Malformed),
            // whoever says nothing and goes only wanted to see whether we listen; or it is we who go
            Ok(None) | Err(_) if self.seen.is_empty() && (self.is_late || Instant::now() < self.deadline) => {
                return None;
            }
            Ok(None) | Err(_) => return self.refuse(HeaderRefusal::Incomplete),
        };
        let admitted = self.shared.admit_client(self.stream, client)?;
        Some((client, admitted))
    }

    fn refuse<T>(&self, why: HeaderRefusal) -> Option<T> {
        self.shared.stats.refused_header(why);
        None
    }

    /// Reads until something can be made of it. None: the peer has gone, or has said too little for too long.
    async fn read<T>(&mut self, mut made: impl FnMut(&mut BytesMut) -> Option<T>) -> io::Result<Option<T>> {
        let Self { shared, stream, .. } = *self;
        loop {
            if let Some(made) = made(&mut self.seen) {
                return Ok(Some(made));
            }
            let read = {
                let mut buffer = shared.buffer.borrow_mut();
                // no memory for those who say nothing
                stream.try_read(&mut buffer).inspect(|len| self.seen.extend_from_slice(&buffer[..*len]))
            };
            match read {
                Ok(0) => return Ok(None),
                Ok(_) => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            tokio::select! {
                biased;
                ready = timeout_at(self.deadline, stream.readable()) => match ready {
                    Ok(ready) => ready?,
                    Err(_) => return Ok(None),
                },
                // what it is about to say may be under way
                () = shared.phase.is_draining_now(), if !self.is_late => {
                    self.is_late = true;
                    self.deadline = self.deadline.min(Instant::now() + LATE_PATIENCE);
                }
            }
        }
    }
}

type Io = TokioIo<Replay<TcpStream>>;

async fn serve_http1(shared: Rc<Shared>, io: Io, caller: Caller, turn: Rc<Turn>) -> Result<(), hyper::Error> {
    let options = &shared.options;
    let service = service_fn(|request: Request<Incoming>| {
        // waiting for its turn is a part of how long a request took
        let read_at = std::time::Instant::now();
        let (shared, caller, turn) = (&shared, &caller, &turn);
        async move {
            turn.end_if_used(of_a_turn(request.body())).await;
            Ok::<_, Infallible>(answer(shared, caller, request, read_at).await.map(Full::new))
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        // also the time between two requests
        .header_read_timeout(options.idle_timeout)
        // scripts and nc close their side when they have asked
        .half_close(true)
        .writev(false)
        // not `pipeline_flush`: it keeps an answer back while half of the next request is there, and loses a 400
        .max_buf_size(2 * options.max_header)
        .keep_alive(shared.phase.is_serving())
        .serve_connection(io, service);
    let mut connection = pin!(connection);
    tokio::select! {
        result = connection.as_mut() => result,
        () = shared.phase.is_draining_now() => {
            // A request that is under way now would find the connection closed, and only the peer could send it again. So
            // those of the next moment are answered, and each answer says that it is the last.
            if let Ok(result) = timeout(LATE_PATIENCE, connection.as_mut()).await {
                return result;
            }
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Options;
    use super::*;
    use crate::limits::{Crowd, RateLimit};
    use socket2::{Domain, SockRef, Socket, Type};
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::sync::Arc;

    fn options() -> Options {
        Options { max_header: 8192, demo: true, ..Options::for_tests() }
    }

    #[test]
    fn an_answer_that_its_peer_has_no_room_for_follows_when_it_has() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (shared, _batches, _phase) = Shared::for_tests(options(), 64);
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            client.set_recv_buffer_size(1).unwrap();
            client.connect(&listener.local_addr().unwrap().into()).unwrap();
            let mut client = std::net::TcpStream::from(client);
            client.write_all(b"GET /demo/ HTTP/1.0\r\n\r\n").unwrap();
            let (stream, peer) = listener.accept().unwrap();
            SockRef::from(&stream).set_send_buffer_size(1).unwrap();
            stream.set_nonblocking(true).unwrap();
            let opening = Opening::of(&shared, &stream, peer);
            assert!(!opening.is_all() && matches!(opening, Opening::Request(_)));
            let reader = std::thread::spawn(move || std::io::read_to_string(client).unwrap());
            let stream = TcpStream::from_std(stream).unwrap();
            let membership = Rc::new(Rc::<Crowd>::default().join());
            serve(Rc::new(shared), stream, peer, opening, membership).await;
            let answer = reader.join().unwrap();
            assert!(answer.ends_with(include_str!("../demo/index.html")), "{} bytes", answer.len());
        });
    }

    #[test]
    fn a_request_that_a_connection_is_opened_for_is_answered_when_it_is_accepted() {
        let (mut shared, _batches, _phase) = Shared::for_tests(options(), 64);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let opened = |shared: &Shared, sent: &str| {
            let mut client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            client.write_all(sent.as_bytes()).unwrap();
            let (stream, peer) = listener.accept().unwrap();
            let opening = Opening::of(shared, &stream, peer);
            drop(stream);
            let mut answer = Vec::new();
            // what was not read ends in a reset
            let _ = client.read_to_end(&mut answer);
            (opening.is_all(), opening, String::from_utf8_lossy(&answer).into_owned())
        };
        let head = |line: &str, connection: &str| format!("{line}\r\nHost: b\r\n{connection}\r\n");
        for (line, status) in [
            ("GET /api/beacon?event=click HTTP/1.1", "200 OK"),
            ("HEAD /pixel.gif HTTP/1.1", "200 OK"),
            ("OPTIONS /api/beacon HTTP/1.1", "204 No Content"),
            ("GET /nothing HTTP/1.1", "404 Not Found"),
        ] {
            let (is_all, _, answer) = opened(&shared, &head(line, "Connection: close\r\n"));
            assert!(is_all && answer.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{line}: {answer}");
        }
        let old = head("GET /pixel.gif HTTP/1.0", "");
        assert!(opened(&shared, &old).0);

        let post = head("POST /api/beacon HTTP/1.1", "Connection: close\r\nContent-Length: 7\r\n") + "event=a";
        let goes_on = head("GET /pixel.gif HTTP/1.1", "");
        for sent in ["", "PRI", &old[..old.len() - 1], &old.repeat(2), &goes_on, &post] {
            let (is_all, opening, answer) = opened(&shared, sent);
            let read = matches!(opening, Opening::Read(read) if read == sent);
            assert!(!is_all && read && answer.is_empty(), "{sent}");
        }
        // nothing is taken for what is not answered
        shared.rate_limit = Some(Arc::new(RateLimit::new(1)));
        assert!(!opened(&shared, &head("POST /api/beacon HTTP/1.1", "Connection: close\r\n")).0);
        assert!(opened(&shared, &old).2.contains("200 OK"));
        // whoever the header says it is for
        shared.options.proxy_protocol = true;
        assert!(!opened(&shared, &old).0);
    }
}
