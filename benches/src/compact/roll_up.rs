//! What `--once` does, step by step: to measure the roll-up by itself, since what engines make of the events has no rows
//! either, and how long it takes until what was read can be seen.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::Result;
use tallylight_compactor::compaction::{Compaction, Config};
use tallylight_compactor::hours::Bounds;
use tallylight_compactor::index::Limits;
use tallylight_compactor::log::Progress;
use tallylight_host::clock;
use tallylight_proto::time::Millis;
use tallylight_service::memory::share_what_is_freed;

use super::data::NODE;

/// From where to where.
#[derive(clap::Args)]
pub struct Arguments {
    data: PathBuf,
    out: PathBuf,
    /// With event rows, as the program always is.
    #[arg(long)]
    rows: bool,
}

/// Says how many seconds the last step of publishing took: what is read last is seen then.
pub fn run(arguments: &Arguments) -> Result<()> {
    // as the program does
    share_what_is_freed();
    let config = Config {
        watchdog: Default::default(),
        data: arguments.data.clone(),
        out: arguments.out.clone(),
        node: NODE.into(),
        by: Vec::new(),
        grace: 60_000,
        retain: Millis::MAX,
        index_limits: Limits::default(),
        bounds: Bounds::default(),
        hour_bytes: 512 << 20,
        rows: arguments.rows,
    };
    let mut compaction = Compaction::open(config)?;
    compaction.look()?;
    loop {
        let is_last = compaction.read(None, &AtomicBool::new(false))? == Progress::AtEnd;
        let begun = Instant::now();
        compaction.publish(clock::now(), is_last)?;
        if is_last {
            println!("{}", begun.elapsed().as_secs_f64());
            return Ok(());
        }
    }
}
