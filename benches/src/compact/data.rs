//! The same events in every form that somebody reads: a log by the collector's own code, its records as JSON lines by
//! `inspect`, and a Parquet file that DuckDB makes of those. Kept from run to run, since making them takes longer than
//! what is measured.

use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tallylight_collector::log::{Log, Options};
use tallylight_proto::layout;

use super::engines::Engines;
use super::traffic::Traffic;
use crate::log;

/// As the collector has it by default.
const SEGMENT_SIZE: u64 = 256 << 20;
const BATCH: u64 = 128;
/// Whose log it is.
pub const NODE: &str = "bench-000000";

/// Where the events are.
pub struct Data {
    /// The collector's data folder.
    pub log: PathBuf,
    pub lines: PathBuf,
    pub parquet: PathBuf,
    /// What a roll-up must say.
    pub exact: PathBuf,
}

impl Data {
    /// So many events, made if they are not there.
    pub fn of(traffic: &Traffic, events: u64, dir: &Path, compactor: &Path, engines: &Engines) -> Result<Self> {
        let folder = dir.join(format!("{events}-events-{}", traffic.name()));
        let path = |name| folder.join(name);
        let data = Self {
            log: path("data"),
            lines: path("events.ndjson"),
            parquet: path("events.parquet"),
            exact: path("exact.parquet"),
        };
        // made last, so that what was interrupted is done again
        let stamp = path("stamp");
        if stamp.exists() {
            return Ok(data);
        }
        eprintln!("making {events} events in {}", folder.display());
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir_all(&data.log)?;
        write_log(&data.log, traffic, 0..events)?;
        let mut inspect = Command::new(compactor);
        inspect.arg("inspect").arg("--data").arg(&data.log).stdout(File::create(&data.lines)?);
        ensure!(inspect.status().context("the compactor")?.success(), "inspect failed");
        engines.prepare(&data)?;
        File::create(stamp)?;
        Ok(data)
    }

    /// What the log takes on the disk, in bytes.
    pub fn log_bytes(&self) -> Result<u64> {
        let segments = fs::read_dir(self.log.join(layout::LOG))?;
        // the end of the last one was given back
        segments.map(|segment| Ok(segment?.metadata()?.blocks() * 512)).sum()
    }
}

/// Has a collector's log take events.
pub fn write_log(data: &Path, traffic: &Traffic, events: Range<u64>) -> Result<()> {
    let options = Options {
        watchdog: Default::default(),
        data: data.to_owned(),
        node: NODE.into(),
        segment_size: SEGMENT_SIZE,
        sync_interval: Duration::from_secs(3600),
        reserve: 0,
    };
    let (running, _) = Log::start(options, |error| panic!("{error}"))?;
    let appender = running.appender();
    for from in events.clone().step_by(usize::try_from(BATCH)?) {
        let mut batch = appender.batch();
        (from..events.end.min(from + BATCH)).for_each(|n| batch.push(&traffic.event(n)));
        log::send(&appender, batch);
    }
    drop(appender);
    running.finish();
    Ok(())
}

/// What the files below a folder take, in bytes.
pub fn bytes_below(folder: &Path) -> Result<u64> {
    files_below(folder)?.into_iter().map(|file| Ok(fs::metadata(file)?.len())).sum()
}

/// The files below a folder.
pub fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            files.extend(files_below(&entry.path())?);
        } else {
            files.push(entry.path());
        }
    }
    Ok(files)
}
