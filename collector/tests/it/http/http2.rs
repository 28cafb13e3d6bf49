//! HTTP/2 with prior knowledge, on the same port.

use std::convert::Infallible;
use std::io::{Read, Write};
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
use super::http2_attacks::{self as raw, DATA, END_HEADERS, END_STREAM, HEADERS, RST_STREAM};
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
    for _ in 0..30 {
        let mut stream = raw::connect(&fixture, &[]);
        let request = raw::frame(HEADERS, END_HEADERS | END_STREAM, 1, &raw::head(raw::GET, "/api/beacon"));
        stream.write_all(&request).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(raw::heads_of_answers(&mut stream, 1), 1);
    }
    fixture.assert_ledger([30, 30, 0]);
}

#[test]
fn a_body_cut_short_by_a_reset_without_an_error_is_no_event() {
    let fixture = Fixture::start(&[]);
    let mut stream = raw::connect(&fixture, &[]);
    let head = |number| raw::frame(HEADERS, END_HEADERS, number, &raw::head(raw::POST, "/api/beacon"));
    // cut at once, and while the rest of it is waited for
    for (cut, is_waited_for) in [(1, false), (3, true), (5, false), (7, true)] {
        stream.write_all(&[head(cut), raw::frame(DATA, 0, cut, b"value=10")].concat()).unwrap();
        if is_waited_for {
            raw::wait_until_read(&mut stream);
        }
        stream.write_all(&raw::frame(RST_STREAM, 0, cut, &[0; 4])).unwrap();
    }
    stream.write_all(&[head(9), raw::frame(DATA, END_STREAM, 9, b"value=1000")].concat()).unwrap();
    fixture.assert_ledger([1, 1, 0]);
}
