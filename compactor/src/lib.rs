//! The compactor of Tallylight: rolls the log into events and hourly Parquet.
//!
//! ```text
//!  DATA/log ──▶ log ──▶ compaction ──┬──▶ events   OUT/events/…   every event once
//!              reader    judge: index└──▶ hourly   OUT/hourly/…   aggregates with sketches
//!                                         commit   OUT/watermark/NODE.json
//! ```
//!
//! It reads segments and never writes one; it alone knows Parquet. It shares nothing with the collector but the
//! `proto` crate and the log folder, and no answer ever goes back. It opens no socket but the admin port.
//!
//! Start with [`compaction::Compaction`], which reads, publishes and commits, and [`hours::Hours`], which holds what
//! is not published yet. [`run`] decides when; [`storage`] is the only way to the disk.
//!
//! What survives a crash: whatever the last commit says, and whatever files beyond it say of themselves in
//! their footers. What they cover is skipped when the log is read again from the commit, so dying at any moment
//! and running again counts nothing twice and loses nothing.

#![forbid(unsafe_code)]

pub mod audit;
pub mod batch;
pub mod chunk;
pub mod commit;
pub mod compaction;
pub mod counting_sort;
pub mod crawlers;
pub mod events;
pub mod groups;
pub mod hourly;
pub mod hours;
pub mod index;
pub mod inspect;
pub mod ledger_check;
pub mod lock;
pub mod log;
pub mod metrics;
pub mod parquet_file;
pub mod pieces;
pub mod portion;
pub mod rebuild;
pub mod release;
pub mod rows;
pub mod run;
pub mod settings;
pub mod side_by_side;
pub mod stage;
pub mod state_folder;
pub mod stop;
pub mod storage;
pub mod sum;
pub mod texts;
pub mod verify;
pub mod visitors;

#[cfg(test)]
#[path = "../tests/it/testlog.rs"]
mod testlog;
