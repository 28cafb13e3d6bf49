//! The collector as a process: what a browser, a client and an operator see of it.

// all of this is tests, which clippy only knows of functions that are marked so
#![allow(clippy::unwrap_used)]

#[path = "../harness/mod.rs"]
mod harness;

mod browser;
mod check;
mod client;
mod http;
mod injection;
mod lifecycle;
mod log;
mod senders;
mod stderr;
mod systemd;
mod udp;
