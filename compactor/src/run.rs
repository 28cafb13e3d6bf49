//! How the compactor runs: once, or following the log.
//!
//! The rule: whatever fails, nothing half done is kept. `--once` then ends with an error; `--follow` says so, drops what
//! it has in memory and begins again from the commit, for as long as it takes. Segments are let go of before
//! anything is published: on a full disk that makes the room.

use std::time::{Duration, Instant};

use tallylight_proto::time::Millis;
use thiserror::Error;

use crate::commit::CommitError;
use crate::compaction::{CompactError, Compaction, Config};
use crate::hours::Bounds;
use crate::index::Limits;
use crate::log::{Progress, bases};
use crate::metrics::Metrics;
use crate::settings::Settings;
use crate::state_folder::{Settled, StateError, StateFolder};
use crate::stop::Stop;
use crate::storage;
use tallylight_host::clock;
use tallylight_proto::layout;
use tallylight_service::Watchdog;
use tallylight_service::memory::give_back;

/// Why a run ended.
#[derive(Debug, Error)]
pub enum RunError {
    /// The compactor's own folder.
    #[error(transparent)]
    State(#[from] StateError),
    /// The compaction.
    #[error(transparent)]
    Compact(#[from] CompactError),
}

impl RunError {
    /// Whether other arguments would help, and trying again would not.
    pub fn is_unusable(&self) -> bool {
        match self {
            Self::State(error) => error.is_unusable(),
            Self::Compact(error) => matches!(error, CompactError::Commit(CommitError::OtherBy { .. })),
        }
    }
}

impl RunError {
    fn is_damaged_index(&self) -> bool {
        matches!(self, Self::Compact(error) if error.is_damaged_index())
    }
}

/// What came of `--once`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// There is no log yet.
    NoLog,
    /// What was there is published.
    Done,
}

/// How long `--once` waits for the collector to sync what there is, which it does once a second if not told otherwise.
const SYNC_PATIENCE: Duration = Duration::from_secs(10);
/// How often it looks whether that has happened.
const SYNC_LOOK: Duration = Duration::from_millis(20);

/// A compactor, with all that it needs beside the disk.
#[derive(Clone, Copy)]
pub struct Compactor<'a> {
    /// As given.
    pub settings: &'a Settings,
    /// What it counts.
    pub metrics: &'a Metrics,
    /// Whether it is to end.
    pub stop: &'a Stop,
    /// Fed while it does something, and while it waits.
    pub watchdog: &'a Watchdog,
}

/// What a pass is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    /// All that there is, and then the end.
    Once,
    /// What has come since the last pass.
    Following,
    /// The last pass could not publish.
    Retrying,
}

impl Compactor<'_> {
    /// Compacts what there is.
    pub fn once(self) -> Result<Outcome, RunError> {
        let data = &self.settings.folders.data;
        if storage::is_dir(data) && !StateFolder::is_settled(data) && self.has_no_log()? {
            return Ok(Outcome::NoLog);
        }
        let state = StateFolder::take(data)?;
        let mut compaction = self.open(&state)?;
        self.metrics.opened(&compaction);
        compaction.begin_showing()?;
        if compaction.commit().is_none() && self.has_no_log()? {
            return Ok(Outcome::NoLog);
        }
        if let Err(error) = self.pass(&mut compaction, When::Once) {
            if !error.is_damaged_index() {
                return Err(error);
            }
            tracing::warn!("{}: it is made again from events", chain(&error));
            Compaction::discard_index(compaction.config());
            compaction = self.open(&state)?;
            compaction.begin_showing()?;
            self.pass(&mut compaction, When::Once)?;
        }
        Ok(Outcome::Done)
    }

    /// Compacts as the log grows, until it is to end.
    pub fn follow(self) -> Result<(), RunError> {
        let mut state = None;
        let mut compaction = None;
        let mut has_failed = false;
        loop {
            let ended = self.follow_once(&mut state, &mut compaction, has_failed);
            has_failed = ended.is_err();
            match ended {
                Err(error) if error.is_unusable() || self.stop.is_set() => return Err(error),
                Err(error) => {
                    let text = chain(&error);
                    tracing::error!("cannot compact, trying again: {text}");
                    self.metrics.ended(Some(text));
                    if compaction.is_none() {
                        // how far it is behind is not known, but that it is
                        self.metrics.behind(1);
                    }
                    if let Some(compaction) = compaction.take().filter(|_| error.is_damaged_index()) {
                        Compaction::discard_index(compaction.config());
                    }
                }
                Ok(()) => self.metrics.ended(None),
            }
            if self.stop.is_set() {
                return Ok(());
            }
            self.rest();
        }
    }

    fn follow_once(
        self,
        state: &mut Option<StateFolder>,
        compaction: &mut Option<Compaction>,
        has_failed: bool,
    ) -> Result<(), RunError> {
        let data = &self.settings.folders.data;
        if !storage::is_dir(data) {
            return Ok(());
        }
        let state = match state {
            Some(state) => state,
            None => state.insert(StateFolder::take(data)?),
        };
        if compaction.is_none() {
            if !StateFolder::is_settled(data) && self.has_no_log()? {
                return Ok(());
            }
            let mut opened = self.open(state)?;
            self.metrics.opened(&opened);
            opened.begin_showing()?;
            self.metrics.behind(opened.bytes_behind()?);
            *compaction = Some(opened);
        }
        let compaction = compaction.as_mut().expect("opened just now");
        // what could not be published is tried again at once: it must not look well while it gathers anew
        let ended = self.pass(compaction, if has_failed { When::Retrying } else { When::Following });
        if let Ok(behind) = compaction.bytes_behind() {
            // after a failure what was read counts for nothing
            self.metrics.behind(if ended.is_ok() { behind } else { behind.max(1) });
        }
        ended
    }

    /// Reads up to where the log has got, publishing in steps that memory can hold.
    fn pass(self, compaction: &mut Compaction, when: When) -> Result<(), RunError> {
        let Self { settings, metrics, stop, watchdog } = self;
        release(compaction, metrics, clock::now())?;
        compaction.look()?;
        let mut awaited = None;
        loop {
            watchdog.feed();
            let until = (when != When::Once).then(|| clock::instant() + settings.running.every.duration());
            let progress = compaction.read(until, stop.flag())?;
            let is_at_end = progress == Progress::AtEnd;
            if when == When::Once && is_at_end && self.waits_for_a_sync(compaction, &mut awaited)? {
                continue;
            }
            let is_last = is_at_end || stop.is_set();
            let now = clock::now();
            compaction.publish(now, stop.is_set() || when == When::Retrying || (when == When::Once && is_last))?;
            metrics.published(compaction);
            release(compaction, metrics, now)?;
            if is_last {
                compaction.end_showing();
                return Ok(());
            }
            metrics.behind(compaction.bytes_behind()?);
        }
    }

    /// Waits a little and looks again, if the collector has not synced what was there when this was first asked. What comes
    /// meanwhile is not waited for.
    fn waits_for_a_sync(
        self,
        compaction: &mut Compaction,
        awaited: &mut Option<(u64, Instant)>,
    ) -> Result<bool, RunError> {
        let Some(unsynced) = compaction.unsynced() else { return Ok(false) };
        let (until, since) = *awaited.get_or_insert_with(|| (unsynced, clock::instant()));
        if compaction.position() >= until || self.stop.is_set() {
            return Ok(false);
        }
        if clock::since(since) >= SYNC_PATIENCE {
            tracing::warn!(
                "the collector has not synced the end of the log for {SYNC_PATIENCE:?}: it is left for the next time"
            );
            return Ok(false);
        }
        self.stop.wait(SYNC_LOOK);
        compaction.look()?;
        Ok(true)
    }

    /// Until the next pass, or it is to end.
    fn rest(self) {
        give_back();
        let until = clock::instant() + self.settings.running.every.duration();
        while !self.stop.is_set() && clock::instant() < until {
            self.watchdog.feed();
            self.stop.wait(until.saturating_duration_since(clock::instant()).min(self.watchdog.patience()));
        }
    }

    fn open(self, state: &StateFolder) -> Result<Compaction, RunError> {
        let settings = self.settings;
        let settled = state.settle(&settings.folders.data, &settings.out(), settings.by())?;
        Ok(Compaction::open(config(settings, settled, self.watchdog.clone()))?)
    }

    fn has_no_log(self) -> Result<bool, RunError> {
        let bases = bases(&self.settings.folders.data.join(layout::LOG)).map_err(CompactError::from)?;
        Ok(bases.is_empty())
    }
}

/// What the settings say, where they agree with what was settled when the log was first compacted.
fn config(settings: &Settings, settled: Settled, watchdog: Watchdog) -> Config {
    let millis = |period: tallylight_service::Period| Millis::try_from(period.millis()).unwrap_or(Millis::MAX);
    Config {
        data: settings.folders.data.clone(),
        out: settled.out,
        node: settled.node,
        by: settled.by,
        grace: millis(settings.output.grace),
        retain: millis(settings.output.retain),
        index_limits: Limits::default(),
        bounds: Bounds { shown_every: settings.running.every.duration(), ..Bounds::default() },
        hour_bytes: usize::try_from(settings.output.max_groups.bytes()).unwrap_or(usize::MAX),
        watchdog,
        rows: true,
    }
}

fn release(compaction: &Compaction, metrics: &Metrics, now: Millis) -> Result<(), RunError> {
    metrics.released(compaction.release(now)?);
    Ok(())
}

/// An error and what caused it, on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::groups::By;
    use clap::Parser;
    use std::path::PathBuf;

    #[test]
    fn whatever_can_be_set_is_handed_over() {
        let config = |line: &str| {
            let words = ["tallylight-compactor"].into_iter().chain(line.split_whitespace());
            let settings = Settings::try_parse_from(words).unwrap();
            let (out, by) = (settings.out(), settings.by().to_vec());
            super::config(&settings, Settled { node: "n".into(), out, by }, Watchdog::default())
        };
        let set = config("--data d --out o --every 7s --grace 3m --retain 5h --max-groups 10MiB --by item");
        assert_eq!((&set.data, &set.out), (&PathBuf::from("d"), &PathBuf::from("o")));
        assert_eq!((&*set.node, &set.by[..]), ("n", &[By::Item][..]));
        assert_eq!(set.bounds.shown_every, Duration::from_secs(7));
        assert_eq!((set.grace, set.retain, set.hour_bytes), (180_000, 18_000_000, 10 << 20));
        assert!(set.rows);
    }
}
