//! The compactor's roll-up without its event rows, which the program always writes: to be measured by itself, as what
//! engines make of the events has no rows either.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use anyhow::Result;
use tallylight_compactor::compaction::{Compaction, Config};
use tallylight_compactor::hours::Bounds;
use tallylight_compactor::index::Limits;
use tallylight_compactor::log::Progress;
use tallylight_host::clock;
use tallylight_proto::time::Millis;

use super::data::NODE;

/// From where to where.
#[derive(clap::Args)]
pub struct Arguments {
    data: PathBuf,
    out: PathBuf,
}

/// Does what `--once` does.
pub fn run(arguments: &Arguments) -> Result<()> {
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
        rows: false,
    };
    let mut compaction = Compaction::open(config)?;
    compaction.look()?;
    loop {
        let is_last = compaction.read(None, &AtomicBool::new(false))? == Progress::AtEnd;
        compaction.publish(clock::now(), is_last)?;
        if is_last {
            return Ok(());
        }
    }
}
