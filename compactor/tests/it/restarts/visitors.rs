//! Visitors: so many new connections a second, whether those before them were answered or not, and some that are kept.
//!
//! The rule kept here: a visitor sends once. Whoever is not answered would be lost, and is told from who could not connect.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use crate::harness::{Over, PATIENCE, wait_for};

/// Who comes: its name is the site of its events.
pub const KINDS: [&str; 4] = ["post", "synced", "pixel", "kept"];
const KEPT: usize = 3;
/// Connections that are kept.
const KEPT_CONNECTIONS: u64 = 20;
/// Loopback addresses that visitors come from: one has ports for half a minute.
const ADDRESSES: u8 = 16;

/// What became of them.
#[derive(Debug, Default)]
pub struct Tally {
    /// Connections that were begun.
    pub came: AtomicU64,
    /// Events, by [`KINDS`], that were answered as taken.
    pub answered: [AtomicU64; KINDS.len()],
    /// Who could not connect.
    pub refused: AtomicU64,
    /// Who had sent, and heard no whole answer.
    pub cut_off: AtomicU64,
    /// Who was answered otherwise.
    pub not_taken: AtomicU64,
    /// The longest that an answer took, connecting included, in ms.
    pub longest_ms: AtomicU64,
}

/// All of them.
pub struct Visitors {
    pub tally: Arc<Tally>,
    to: SocketAddr,
    rate: u64,
}

impl Visitors {
    /// So many a second.
    pub fn of(to: SocketAddr, rate: u64) -> Self {
        Self { tally: Arc::default(), to, rate }
    }

    /// Waits until so many more were answered that did not keep their connection.
    pub fn wait_for_more(&self, count: u64) {
        let answered = || self.tally.answered[..KEPT].iter().map(|answered| answered.load(Relaxed)).sum::<u64>();
        let enough = answered() + count;
        wait_for("visitors to be answered", || (answered() >= enough).then_some(()));
    }

    /// They come until it is over, and all are answered or given up when this returns.
    pub fn come(&self, over: &Over) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut visits = JoinSet::new();
            let (end, is_over) = tokio::sync::watch::channel(false);
            for number in 0..KEPT_CONNECTIONS {
                visits.spawn(keep(Arc::clone(&self.tally), self.to, number, is_over.clone()));
            }
            let began = Instant::now();
            let mut tick = interval(Duration::from_millis(1));
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut number = 0;
            while !over.is_over() {
                tick.tick().await;
                let due = u64::try_from(began.elapsed().as_millis()).unwrap() * self.rate / 1000;
                for number in number..due {
                    visits.spawn(visit(Arc::clone(&self.tally), self.to, number));
                }
                number = due;
                while let Some(ended) = visits.try_join_next() {
                    ended.unwrap();
                }
            }
            end.send_replace(true);
            while let Some(ended) = visits.join_next().await {
                ended.unwrap();
            }
        });
    }
}

/// One visitor with one event.
async fn visit(tally: Arc<Tally>, to: SocketAddr, number: u64) {
    tally.came.fetch_add(1, Relaxed);
    let began = Instant::now();
    let Ok(mut stream) = connect(to, number).await else {
        tally.refused.fetch_add(1, Relaxed);
        return;
    };
    // not everybody is quick
    if number.is_multiple_of(16) {
        sleep(Duration::from_millis(number / 16 % 300)).await;
    }
    let kind = usize::try_from(number % 3).unwrap();
    // and some have only half of it ready
    let pause = number.is_multiple_of(17).then(|| Duration::from_millis(number / 17 % 200));
    let asked = ask(&mut stream, kind, number, !number.is_multiple_of(5), pause).await;
    tally.note(kind, asked.map(|answer| answer.status), began);
}

/// A visitor that keeps its connection, and comes again until it is over.
async fn keep(tally: Arc<Tally>, to: SocketAddr, visitor: u64, is_over: tokio::sync::watch::Receiver<bool>) {
    let mut kept = None;
    for count in 0.. {
        if *is_over.borrow() {
            return;
        }
        sleep(Duration::from_millis(5 + (count * 7 + visitor) % 30)).await;
        let began = Instant::now();
        let number = visitor << 32 | count;
        // one that was closed meanwhile is of no use: nothing is sent into it
        let open = kept.take().filter(|stream: &TcpStream| is_open(stream));
        let stream = match open {
            Some(stream) => Ok(stream),
            None => {
                tally.came.fetch_add(1, Relaxed);
                connect(to, visitor).await
            }
        };
        let Ok(mut stream) = stream else {
            tally.refused.fetch_add(1, Relaxed);
            continue;
        };
        let asked = ask(&mut stream, KEPT, number, false, None).await;
        kept = asked.as_ref().is_ok_and(|answer| !answer.is_last).then_some(stream);
        tally.note(KEPT, asked.map(|answer| answer.status), began);
    }
}

impl Tally {
    fn note(&self, kind: usize, status: io::Result<u16>, began: Instant) {
        let counter = match status {
            Ok(200 | 204) => &self.answered[kind],
            Ok(_) => &self.not_taken,
            Err(_) => &self.cut_off,
        };
        counter.fetch_add(1, Relaxed);
        self.longest_ms.fetch_max(u64::try_from(began.elapsed().as_millis()).unwrap(), Relaxed);
    }
}

async fn connect(to: SocketAddr, number: u64) -> io::Result<TcpStream> {
    let from = Ipv4Addr::new(127, 0, 1, 1 + u8::try_from(number % u64::from(ADDRESSES)).unwrap());
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((from, 0)))?;
    let stream = timeout(PATIENCE, socket.connect(to)).await.map_err(|_| io::ErrorKind::TimedOut)??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Nothing came of it since the last answer, not even its end.
fn is_open(stream: &TcpStream) -> bool {
    matches!(stream.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

struct Answer {
    status: u16,
    /// It says that nothing more will be answered.
    is_last: bool,
}

/// Sends an event, the second half of it after the pause, and reads the answer.
async fn ask(
    stream: &mut TcpStream,
    kind: usize,
    number: u64,
    says_close: bool,
    pause: Option<Duration>,
) -> io::Result<Answer> {
    let event = format!("site={}&item={number}", KINDS[kind]);
    let close = if says_close { "Connection: close\r\n" } else { "" };
    let id = uuid::Uuid::now_v7();
    let request = match KINDS[kind] {
        "pixel" => format!("GET /api/beacon?{event} HTTP/1.1\r\nHost: x\r\n{close}\r\n"),
        kind => {
            let query = if kind == "synced" { "?ack=synced" } else { "" };
            let body = format!("{event}&id={id}");
            let len = body.len();
            format!("POST /api/beacon{query} HTTP/1.1\r\nHost: x\r\n{close}Content-Length: {len}\r\n\r\n{body}")
        }
    };
    let (first, second) = request.split_at(if pause.is_some() { request.len() / 2 } else { request.len() });
    stream.write_all(first.as_bytes()).await?;
    if let Some(pause) = pause {
        sleep(pause).await;
        stream.write_all(second.as_bytes()).await?;
    }
    timeout(PATIENCE, read_answer(stream)).await.map_err(|_| io::ErrorKind::TimedOut)?
}

async fn read_answer(stream: &mut TcpStream) -> io::Result<Answer> {
    let mut bytes = Vec::new();
    loop {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
        let header = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        let len: usize = header("content-length").map_or(0, |len| len.parse().unwrap());
        if bytes.len() < end + 4 + len {
            continue;
        }
        let status = head[9..12].parse().unwrap();
        return Ok(Answer { status, is_last: header("connection") == Some("close") });
    }
}
