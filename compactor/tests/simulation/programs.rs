//! Both programs as they run on the simulated machine: their own code, called in turns.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tallylight_collector::door::Door;
use tallylight_collector::ids::IdMaker;
use tallylight_collector::log::by_turns::LogByTurns;
use tallylight_collector::log::{LogError, Options, Recovered, storage};
use tallylight_collector::sites::Sites;
use tallylight_compactor::compaction::{CompactError, Compaction, Config};
use tallylight_compactor::groups::By;
use tallylight_compactor::hours::Bounds;
use tallylight_compactor::index::Limits;
use tallylight_compactor::log::Progress;
use tallylight_host::clock;
use tallylight_host::disk::File;
use tallylight_host::simulated::Process;
use tokio::sync::watch;

use crate::plan::{Plan, SECOND};

pub const COLLECTOR: Process = Process(1);
pub const COMPACTOR: Process = Process(2);
pub const NODE: &str = "node-1";

pub fn data() -> &'static Path {
    Path::new("/data")
}

pub fn out() -> &'static Path {
    Path::new("/out")
}

/// The running collector.
pub struct Collector {
    pub log: LogByTurns,
    pub door: Door,
    /// What it found when it was started.
    pub recovered: Recovered,
    _lock: File,
}

impl Collector {
    pub fn start(plan: &Plan) -> Result<Self, LogError> {
        storage::create_folder(data())?;
        let lock = storage::lock(&data().join("lock"))?.expect("the life before is over");
        let options = Options {
            data: data().to_owned(),
            node: NODE.into(),
            segment_size: plan.segment_size,
            sync_interval: plan.sync_interval,
            reserve: 2 * plan.segment_size,
            watchdog: Default::default(),
        };
        let (log, recovered) = LogByTurns::start(&options)?;
        let sites = watch::channel(Arc::new(Sites::load(&[], None).expect("no file is read"))).1;
        let door = Door::new(log.appender(), IdMaker::new().expect("chance"), sites);
        Ok(Self { log, door, recovered, _lock: lock })
    }

    /// SIGTERM.
    pub fn finish(&self) -> Result<(), LogError> {
        self.door.close();
        self.door.flush();
        self.log.finish()
    }
}

/// The compactor, as it follows the log.
pub struct Compactor {
    config: Config,
    compaction: Option<Compaction>,
    has_failed: bool,
}

impl Compactor {
    pub fn new(plan: &Plan, out: PathBuf) -> Self {
        let config = Config {
            data: data().to_owned(),
            out,
            node: NODE.into(),
            by: vec![By::Item],
            grace: 60 * SECOND,
            retain: plan.retain,
            index_limits: Limits { head_copies: 20, cache_bytes: 1 << 16 },
            bounds: Bounds { part_bytes: 16 << 10, ..Bounds::default() },
            hour_bytes: usize::MAX,
            watchdog: Default::default(),
            rows: true,
        };
        Self { config, compaction: None, has_failed: false }
    }

    /// One round of `--follow`, or of `--once`.
    pub fn pass(&mut self, is_once: bool) -> Result<(), CompactError> {
        let ended = self.try_pass(is_once);
        self.has_failed = ended.is_err();
        if let Err(error) = &ended {
            let is_damaged_index = error.is_damaged_index();
            if self.compaction.take().is_some() && is_damaged_index {
                Compaction::discard_index(&self.config);
            }
        }
        ended
    }

    fn try_pass(&mut self, is_once: bool) -> Result<(), CompactError> {
        let all = is_once || self.has_failed;
        let compaction = match &mut self.compaction {
            Some(compaction) => compaction,
            none => none.insert(Compaction::open(self.config.clone())?),
        };
        compaction.release(clock::now())?;
        compaction.look()?;
        loop {
            let progress = compaction.read(None, &AtomicBool::new(false))?;
            compaction.publish(clock::now(), all && progress == Progress::AtEnd)?;
            compaction.release(clock::now())?;
            if progress == Progress::AtEnd {
                return Ok(());
            }
        }
    }

    pub fn compaction(&self) -> Option<&Compaction> {
        self.compaction.as_ref()
    }
}
