//! x
#![allow(clippy::unwrap_used)]
#[path = "it/testlog.rs"]
mod testlog;
#[path = "it/outputs.rs"]
mod outputs;
#[path = "it/program.rs"]
mod program;
#[path = "it/speed.rs"]
mod speed;
