//! Looks at both programs from outside, every few seconds: memory, threads, open files, and files on disk.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use tallylight_proto::layout;

use super::programs::Place;
use crate::harness::Over;
use crate::out;

/// What one look found. What is not there has no number.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// Which stretch without restarts this was in.
    pub calm: Option<usize>,
    pub collector: Option<Process>,
    pub compactor: Option<Process>,
    pub segments: f64,
    pub spares: f64,
    pub index_files: f64,
    pub hourly_files_per_hour: f64,
    pub parts_per_hour: f64,
}

/// A process.
#[derive(Clone, Copy, Debug)]
pub struct Process {
    /// MiB of memory that is no file, and the most of all memory that it ever had.
    pub anonymous: f64,
    pub most_resident: f64,
    pub threads: f64,
    pub open_files: f64,
}

/// All samples.
#[derive(Default)]
pub struct Watch {
    samples: Mutex<Vec<Sample>>,
    calm: Mutex<Option<usize>>,
}

impl Watch {
    /// Says which stretch without restarts this is, if it is one.
    pub fn calm(&self, number: Option<usize>) {
        *self.calm.lock().unwrap() = number;
    }

    /// All that was seen so far.
    pub fn samples(&self) -> MutexGuard<'_, Vec<Sample>> {
        self.samples.lock().unwrap()
    }

    /// Looks, until it is over. What may never happen fails at once.
    pub fn run(&self, place: &Place, every: Duration, over: &Over) {
        let mut complete_through = String::new();
        while !over.is_over() {
            let next = Instant::now() + every;
            assert_goes_on(place, &mut complete_through);
            let sample = sample(place, *self.calm.lock().unwrap());
            self.samples().push(sample);
            while Instant::now() < next && !over.is_over() {
                thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

/// `complete_through` never goes back, and is never ahead of the clock.
fn assert_goes_on(place: &Place, before: &mut String) {
    if !place.data().join(layout::NODE).exists() {
        return;
    }
    let Some(commit) = out::commit(place.data(), place.out()) else { return };
    let Some(now) = commit["complete_through"].as_str() else { return };
    assert!(now >= before.as_str(), "complete_through went back from {before} to {now}");
    let at: jiff::Timestamp = now.parse().unwrap();
    let latest = place.compactor_clock.latest();
    assert!(at.as_millisecond() <= latest, "complete_through {now} is ahead of the clock, {latest}");
    now.clone_into(before);
}

fn sample(place: &Place, calm: Option<usize>) -> Sample {
    let log = place.data().join(layout::LOG);
    let hourly = out::files(place.out(), layout::HOURLY);
    let parts = out::files(place.out(), layout::EVENTS);
    let hours =
        |files: &[std::path::PathBuf]| files.iter().filter_map(|file| file.parent()).collect::<BTreeSet<_>>().len();
    #[expect(clippy::cast_precision_loss, reason = "some thousands")]
    let per_hour = |files: &[std::path::PathBuf]| files.len() as f64 / hours(files).max(1) as f64;
    Sample {
        calm,
        collector: process(place.collector_pid.load(Relaxed)),
        compactor: process(place.compactor_pid.load(Relaxed)),
        segments: count(&log) - 1.0,
        spares: count(&log.join(layout::SPARE)),
        index_files: count(&place.data().join(layout::COMPACTOR).join("index")),
        hourly_files_per_hour: per_hour(&hourly),
        parts_per_hour: per_hour(&parts),
    }
}

/// What the system says of a process, if it is there.
fn process(pid: u32) -> Option<Process> {
    let folder = Path::new("/proc").join(pid.to_string());
    let status = fs::read_to_string(folder.join("status")).ok()?;
    let value = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse::<f64>().ok()
    };
    Some(Process {
        anonymous: value("RssAnon:")? / 1024.0,
        most_resident: value("VmHWM:")? / 1024.0,
        threads: value("Threads:")?,
        open_files: count(&folder.join("fd")),
    })
}

#[expect(clippy::cast_precision_loss, reason = "some thousands")]
fn count(folder: &Path) -> f64 {
    fs::read_dir(folder).map_or(0.0, |entries| entries.count() as f64)
}
