//! HTTP/2 with prior knowledge, on the same port.

use std::convert::Infallible;
use std::io::Read;
use std::net::{Shutdown, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tallylight_proto::link::Link;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{Sleep, sleep, timeout};

use super::Fixture;
use crate::harness::datagrams::key;
use crate::harness::{PATIENCE, wait_for};
use crate::udp::key_file;

pub type Sender = SendRequest<Full<Bytes>>;

pub fn run<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

async fn connect(fixture: &Fixture) -> Sender {
    open(fixture.collector.http).await.0
}

/// A connection, and what ends when it does.
pub async fn open(addr: SocketAddr) -> (Sender, JoinHandle<hyper::Result<()>>) {
    let stream = TcpStream::connect(addr).await.unwrap();
    let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    (sender, tokio::spawn(connection))
}

pub fn send(
    sender: &mut Sender,
    method: &str,
    path: &str,
    body: Vec<u8>,
) -> impl Future<Output = hyper::Result<Response<Incoming>>> + use<> {
    let request = Request::builder().method(method).uri(format!("http://x{path}"));
    sender.send_request(request.body(Full::new(body.into())).unwrap())
}

#[test]
fn beacons_come_over_http2_too_many_at_a_time() {
    let fixture = Fixture::start(&[]);
    run(async {
        let mut sender = connect(&fixture).await;
        // until the first answer a client does not know how many streams it may open
        assert_eq!(send(&mut sender, "GET", "/api/beacon", vec![]).await.unwrap().status(), 200);
        let gets: Vec<_> = (0..500).map(|_| send(&mut sender, "GET", "/api/beacon", vec![])).collect();
        let posts: Vec<_> = (0..500).map(|_| send(&mut sender, "POST", "/api/beacon", b"a=1\na=2".to_vec())).collect();
        for get in gets {
            let response = get.await.unwrap();
            assert_eq!(response.status(), 200);
            assert_eq!(response.into_body().collect().await.unwrap().to_bytes().len(), 43);
        }
        for post in posts {
            assert_eq!(post.await.unwrap().status(), 204);
        }
    });
    fixture.assert_ledger([1501, 1501, 0]);
    assert_eq!(fixture.collector.metrics().get("tallylight_events_received_total{front=\"http2\"}"), 1501.0);
}

#[test]
fn answers_over_http2_are_those_of_http1() {
    let folder = tempfile::tempdir().unwrap();
    let (line, key) = key(7, 1);
    let file = key_file(&folder, &line);
    let fixture = Fixture::start(&["--redirect-key", file.to_str().unwrap()]);
    let link = Link { target: Some("https://a.example/".into()), ..Link::default() };
    let link = format!("/r?{}", link.to_query(&key).unwrap());
    run(async {
        let mut sender = connect(&fixture).await;
        for (method, path, body, status) in [
            ("POST", "/api/beacon", vec![b'a'; 64 * 1024 + 1], 413),
            ("POST", "/nothing", vec![b'a'; 1_000_000], 404),
            ("POST", "/api/beacon", b"nothing".to_vec(), 400),
            ("PUT", "/api/beacon", vec![], 405),
            ("HEAD", "/api/beacon", vec![], 200),
            ("OPTIONS", "/api/beacon", vec![], 204),
            ("GET", &link, vec![], 302),
            ("GET", "/r?target=https://a.example/", vec![], 403),
            ("POST", "/api/beacon?ack=synced", b"a=1".to_vec(), 204),
        ] {
            let response = send(&mut sender, method, path, body).await.unwrap();
            assert_eq!(response.status(), status, "{method} {path}");
            assert_eq!(response.headers()["access-control-allow-origin"], "*");
            assert!(!response.headers().contains_key("connection"));
            response.into_body().collect().await.unwrap();
        }
    });
    fixture.assert_ledger([5, 2, 3]);
}

/// A body that takes its time.
struct Slow(Pin<Box<Sleep>>);

impl Body for Slow {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.0.is_elapsed() {
            return Poll::Ready(None);
        }
        self.0.as_mut().poll(cx).map(|()| Some(Ok(Frame::data("a=1".into()))))
    }
}

#[test]
fn an_idle_http2_connection_is_closed_and_a_busy_one_is_not() {
    let fixture = Fixture::start(&["--idle-timeout=300ms"]);
    run(async {
        let stream = TcpStream::connect(fixture.collector.http).await.unwrap();
        let (mut sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        let connection = tokio::spawn(connection);
        let slow = Slow(Box::pin(sleep(Duration::from_millis(1000))));
        let request = Request::post("http://x/api/beacon").body(slow).unwrap();
        assert_eq!(sender.send_request(request).await.unwrap().status(), 204);
        // idle from here on, and pings are answered
        timeout(PATIENCE, connection).await.expect("the connection ends").unwrap().unwrap();
    });
    wait_for("it to be gone", || (fixture.connections() == 0.0).then_some(()));
    fixture.assert_ledger([1, 1, 0]);
}

#[test]
fn the_preface_may_come_byte_by_byte() {
    let fixture = Fixture::start(&[]);
    let mut connection = fixture.connect();
    // preface and an empty SETTINGS frame
    for byte in b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0" {
        connection.send([*byte]);
    }
    let mut frame = [0; 9];
    connection.stream.read_exact(&mut frame).unwrap();
    assert_eq!(frame[3], 4, "a SETTINGS frame comes first");
}

#[test]
fn whoever_has_asked_and_says_no_more_is_answered() {
    let fixture = Fixture::start(&[]);
    // GET, http, :path and :authority as literals (RFC 7541, appendix A)
    let head = [&[0x82, 0x86, 0x04, 11][..], b"/api/beacon", &[0x01, 1], b"x"].concat();
    for _ in 0..30 {
        let mut connection = fixture.connect();
        let asked = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"[..], &frame(1, 5, 1, &head)].concat();
        connection.send(asked);
        connection.stream.get_ref().shutdown(Shutdown::Write).unwrap();
        let mut all = Vec::new();
        connection.stream.read_to_end(&mut all).unwrap();
        let (mut rest, mut kinds) = (&all[..], Vec::new());
        while let [0, a, b, kind, ..] = rest {
            kinds.push(*kind);
            rest = &rest[9 + usize::from(u16::from_be_bytes([*a, *b]))..];
        }
        assert!(kinds.contains(&1), "{kinds:?}");
    }
    fixture.assert_ledger([30, 30, 0]);
}

/// A frame of HTTP/2 (RFC 9113, 4.1).
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let len = u8::try_from(payload.len()).unwrap();
    [&[0, 0, len, kind, flags, 0, 0, 0, stream][..], payload].concat()
}

#[test]
fn a_body_cut_short_by_a_reset_without_an_error_is_no_event() {
    const HEADERS: u8 = 1;
    const RST_STREAM: u8 = 3;
    const PING: u8 = 6;
    const END_STREAM: u8 = 1;
    const END_HEADERS: u8 = 4;
    // POST, http, :path and :authority as literals (RFC 7541, appendix A)
    let head = [&[0x83, 0x86, 0x04, 11][..], b"/api/beacon", &[0x01, 1], b"x"].concat();
    let fixture = Fixture::start(&[]);
    let mut connection = fixture.connect();
    connection.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
    // cut at once, and while the rest of it is waited for
    for (cut, is_waited_for) in [(1, false), (3, true), (5, false), (7, true)] {
        connection.send(frame(HEADERS, END_HEADERS, cut, &head));
        connection.send(frame(0, 0, cut, b"value=10"));
        if is_waited_for {
            connection.send(frame(PING, 0, 0, &[cut; 8]));
            let mut head = [0; 9];
            while head[3] != PING {
                connection.stream.read_exact(&mut head).unwrap();
                let mut payload = vec![0; usize::from(head[2])];
                connection.stream.read_exact(&mut payload).unwrap();
            }
        }
        connection.send(frame(RST_STREAM, 0, cut, &[0; 4]));
    }
    connection.send(frame(HEADERS, END_HEADERS, 9, &head));
    connection.send(frame(0, END_STREAM, 9, b"value=1000"));
    fixture.assert_ledger([1, 1, 0]);
}
