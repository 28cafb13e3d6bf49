//! The way from browsers to the collector, which can be slow, or let no connection begin.
//!
//! It passes bytes on and knows nothing of HTTP. It listens on all addresses of the loopback interface, so that each
//! click can have a collector of an address of its own, and no connection is used again.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use socket2::{Domain, SockFilter, SockRef, Socket, Type};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;
/// Returns 0, the number of bytes of a packet that are to be kept (`BPF_RET | BPF_K`, linux/filter.h).
const DROP_ALL: SockFilter = SockFilter::new(0x06, 0, 0, 0);

/// A way to a collector.
pub struct Way {
    /// Its port, on any address of the loopback interface.
    pub port: u16,
    listener: TcpListener,
    delay_ms: Arc<AtomicU64>,
}

impl Way {
    /// To the collector at this address, quick and open.
    pub fn new(to: SocketAddr) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)).into()).unwrap();
        socket.listen(BACKLOG).unwrap();
        let listener = TcpListener::from(socket);
        let delay_ms = Arc::new(AtomicU64::new(0));
        let (accepting, delay) = (listener.try_clone().unwrap(), Arc::clone(&delay_ms));
        // ends with the test's process
        thread::spawn(move || {
            for browser in accepting.incoming().map_while(Result::ok) {
                let delay = Arc::clone(&delay);
                thread::spawn(move || pass(&browser, to, &delay));
            }
        });
        Self { port: listener.local_addr().unwrap().port(), listener, delay_ms }
    }

    /// Answers are passed on that much later.
    pub fn delay_answers(&self, delay: Duration) {
        self.delay_ms.store(u64::try_from(delay.as_millis()).unwrap(), Relaxed);
    }

    /// Whoever wants to connect hears nothing, and tries again as its kernel does: after 1, 3, 7, … seconds.
    pub fn lose_packets(&self, lose: bool) {
        let socket = SockRef::from(&self.listener);
        if lose { socket.attach_filter(&[DROP_ALL]) } else { socket.detach_filter() }.unwrap();
    }
}

/// Passes on what comes, either way, until both sides are done or one fails.
fn pass(browser: &TcpStream, to: SocketAddr, delay_ms: &AtomicU64) {
    let Ok(collector) = TcpStream::connect(to) else { return };
    for stream in [browser, &collector] {
        stream.set_nodelay(true).unwrap();
    }
    thread::scope(|scope| {
        scope.spawn(|| pump(browser, &collector, || Duration::ZERO));
        pump(&collector, browser, || Duration::from_millis(delay_ms.load(Relaxed)));
    });
}

fn pump(mut from: &TcpStream, mut to: &TcpStream, delay: impl Fn() -> Duration) {
    let mut bytes = [0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        // this is what the way does, not a wait for anything
        thread::sleep(delay());
        if to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    // an error says that it is closed already
    let _ = to.shutdown(Shutdown::Write);
}
