//! The collector: takes beacons from browsers and servers, and appends their events to a memory-mapped log.
//!
//! ```text
//!            worker 0 ┬ http, udp ──▶ door ─┐
//!  beacons ─▶ …       │                     ├─batches─▶ channel ──▶ log writer ──▶ DATA/log/*.seg
//!            worker n ┴ http, udp ──▶ door ─┘  bounded               one thread
//! ```
//!
//! Workers are threads that share nothing but the channel. At the door a beacon becomes an event with exactly one
//! outcome: taken, refused or shed; the counts of all three travel with the records. The log writer appends, a
//! second thread syncs; what a crash leaves is read back whole at the next start.
//!
//! It never makes a page wait: a pixel is answered before its event is written, a full channel or disk is an
//! answer with `Retry-After`, and no cookie is set. It never looks into an event after the door: duplicates,
//! bots and hours are the compactor's.
//!
//! Start with [`door::Door`], where events get their outcome, and [`log::Log`], where they become durable;
//! [`lifecycle::run`] puts everything together.
//!
//! A `kill -9` loses what is between door and log, which nobody was told is there: at most what came in during
//! the last milliseconds. A power cut loses what came in since the last sync (`--sync-interval`), and nothing
//! that was answered with `ack=synced`.

pub mod check;
pub mod command_line;
pub mod door;
pub mod http;
pub mod ids;
pub mod keys;
pub mod lifecycle;
pub mod limits;
pub mod listen;
pub mod log;
pub mod metrics;
pub mod node;
pub mod phase;
pub mod readiness;
pub mod send;
pub mod settings;
pub mod sign_link;
pub mod signals;
pub mod sites;
pub mod socket_state;
pub mod stats;
pub mod turnstile;
pub mod udp;
pub mod watched;
pub mod worker;
