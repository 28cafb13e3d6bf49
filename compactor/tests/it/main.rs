//! Tests of the whole compactor, on logs that a small writer makes.

// all of this is tests, which clippy only knows of functions that are marked so
#![allow(clippy::unwrap_used)]

#[path = "../../../collector/tests/harness/mod.rs"]
mod harness;

mod batch;
mod browsers;
mod client;
mod containers;
mod crowd;
mod deb;
mod deploy;
mod disk_full;
mod docs;
mod freshness;
mod fronts;
mod isolated;
mod killed;
mod manual;
mod memory;
mod mutants;
mod operations;
mod out;
mod outputs;
mod power_cut;
mod program;
mod prometheus;
mod python;
mod restarts;
mod segments;
mod small_syncs;
mod soak;
mod terminal;
mod testlog;
mod udp;
mod whole_path;
