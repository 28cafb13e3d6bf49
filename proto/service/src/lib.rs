//! What the collector and the compactor both need to be good services, and nothing of what they do.
//!
//! ```text
//!  --segment-size 256MiB ──▶ units     checked once, at start
//!  tracing::warn!(…)     ──▶ logging   ──▶ bounded channel ──▶ own thread ──▶ stderr
//!  metrics::counter!(…)  ──▶ recorder  ──┐
//!  /proc/self            ──▶ process   ──┴─▶ admin: /metrics, /healthz, /readyz on a port of its own
//!  systemd ──▶ handed_over: sockets;  systemd: «ready», signs of life ──▶ systemd
//!  the command line      ──▶ manual: completions, pages
//!  long work             ──▶ bar      ──▶ stderr, if that is a terminal
//!  malloc                ──▶ memory   one arena for all threads
//! ```
//!
//! Nothing in here may stop or slow the program that it serves: a stderr that nobody reads costs log lines,
//! which are counted; a scraper that hangs costs one of a few connections of the admin port's own thread; nobody waits for
//! systemd.
//!
//! Order matters at start: [`logging::init`] first, so that everything after it can be told; then
//! [`recorder::install`], because a metrics handle made before it never counts; then
//! [`AdminServer::bind`] and [`AdminServer::serve`].
//!
//! Start with [`AdminServer`] and [`Pages`]. Nothing here touches a disk, so there is nothing to survive a
//! crash.

#![deny(unsafe_code)]

pub mod admin;
pub mod bar;
pub mod handed_over;
pub mod logging;
pub mod manual;
pub mod memory;
pub mod process;
pub mod recorder;
pub mod systemd;
pub mod units;

pub use admin::{AdminServer, Pages};
pub use bar::Bar;
pub use handed_over::HandedOver;
pub use systemd::{Notifier, Watchdog};
pub use units::{ByteSize, Period};
