//! The attacks by name.

use super::ground::Ground;
use super::{http1, http2};

/// One way to attack.
pub struct Attack {
    pub name: &'static str,
    /// Flags of the collector.
    pub flags: &'static [&'static str],
    /// It attacks a sink that keeps so many connections, not the collector: what is shown is how much of all is the honest
    /// clients' own waiting, or the machine's.
    pub aside: Option<usize>,
    /// So many threads do it.
    pub threads: usize,
    /// Goes on until the ground says that it is over.
    pub run: fn(&Ground),
}

/// What an operator may set who expects this. An honest client here has one connection and some 50 requests a second.
const LIMITS: &[&str] = &["--max-connections-per-peer=32", "--max-rate-per-peer=500"];
const ROOM: &[&str] = &["--max-connections=40000"];

/// All of them.
pub fn all() -> Vec<Attack> {
    let attack = |name, flags, threads, run| Attack { name, flags, aside: None, threads, run };
    let aside = |name, kept, threads, run| Attack { name, flags: &[], aside: Some(kept), threads, run };
    vec![
        attack("nobody", &[], 1, |_| {}),
        aside("control: 4 threads that spin on the clients' CPU", 0, 4, http1::spin),
        aside("control: connect, close, at another server on the clients' CPU", 0, 2, http1::connect_and_close),
        aside("control: 4,000 slow ones, at another server on the clients' CPU", http1::SLOW, 1, http1::slow_heads),
        attack("slowloris, heads: 4,000", &[], 1, http1::slow_heads),
        attack("slowloris, bodies: 4,000", &[], 1, http1::slow_bodies),
        attack("20,000 connections", ROOM, 1, http1::idle),
        attack("20,000 connections from one address, limit of 32", LIMITS, 1, http1::idle_from_one),
        attack("connect, close", &[], 1, http1::connect_and_close),
        attack("connect, reset", &[], 1, http1::connect_and_reset),
        attack("ask, vanish half read", &[], 1, http1::ask_and_reset),
        attack("10 GB declared", &[], 2, http1::huge_bodies),
        attack("endless chunks of a byte", &[], 2, http1::endless_chunks),
        attack("endless chunk extensions", &[], 2, http1::endless_extensions),
        attack("endless trailers", &[], 2, http1::endless_trailers),
        attack("endless heads", &[], 2, http1::endless_heads),
        attack("gzip bombs", &[], 4, http1::gzip_bombs),
        attack("gzip bombs, limit of 500/s", LIMITS, 4, http1::gzip_bombs),
        attack("pipelined 100 kB a write", &[], 2, http1::pipelined),
        attack("pipelined 100 kB a write, limit of 500/s", LIMITS, 2, http1::pipelined),
        attack("pipelined, answers never read", &[], 2, http1::never_read),
        attack("1,000 property names a body", &[], 2, http1::property_names),
        attack("1,000 property names a body, limit of 500/s", LIMITS, 2, http1::property_names),
        attack("1,000 sites a body", &[], 2, http1::sites),
        attack("1,000 sites a body, limit of 500/s", LIMITS, 2, http1::sites),
        attack("HTTP/2 rapid reset", &[], 2, http2::rapid_reset),
        attack("HTTP/2 CONTINUATION", &[], 2, http2::continuation),
        attack("HTTP/2 SETTINGS", &[], 2, http2::settings),
        attack("HTTP/2 PING", &[], 2, http2::ping),
        attack("HTTP/2 empty DATA", &[], 2, http2::empty_data),
        attack("HTTP/2 window of 0", &[], 2, http2::closed_window),
        attack("HTTP/2 window of 0, limit of 32", LIMITS, 2, http2::closed_window),
    ]
}
