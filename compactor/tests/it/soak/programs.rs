//! The two programs, on disks and with clocks of their own: started, killed, stopped and started again.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::clock::Clock;
use crate::harness::disk::{Ballast, Disk};
use crate::harness::{Collector, Compactor, Process};

/// Small segments that are soon let go of, so that files are used again and again.
const COLLECTOR: [&str; 4] = ["--segment-size=1MiB", "--reserve=4MiB", "--workers=2", "--sync-interval=300ms"];
const COMPACTOR: [&str; 3] = ["--every=300ms", "--retain=0s", "--grace=2s"];

/// Where they work.
pub struct Place {
    pub log: Volume,
    pub output: Volume,
    pub collector_clock: Clock,
    pub compactor_clock: Clock,
    /// Process ids for whoever watches; 0 while there is none.
    pub collector_pid: AtomicU32,
    pub compactor_pid: AtomicU32,
}

/// A folder on a disk of its own, which can be filled.
pub struct Volume {
    pub folder: PathBuf,
    pub ballast: Ballast,
    _disk: Disk,
}

impl Volume {
    fn new(bytes: u64, folder: &str) -> Self {
        let disk = Disk::ext4(bytes);
        Self { folder: disk.path.join(folder), ballast: Ballast::on(&disk), _disk: disk }
    }
}

impl Place {
    /// Disks of so many bytes, and clocks that are right.
    pub fn new(bytes: u64, clocks: &Path) -> Self {
        Self {
            log: Volume::new(bytes, "data"),
            output: Volume::new(bytes, "out"),
            collector_clock: Clock::new(clocks, "collector"),
            compactor_clock: Clock::new(clocks, "compactor"),
            collector_pid: AtomicU32::new(0),
            compactor_pid: AtomicU32::new(0),
        }
    }

    /// The collector's `--data`.
    pub fn data(&self) -> &Path {
        &self.log.folder
    }

    /// The compactor's `--out`.
    pub fn out(&self) -> &Path {
        &self.output.folder
    }
}

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    Collector,
    Compactor,
    Both,
}

impl Who {
    pub fn is_collector(self) -> bool {
        self != Self::Compactor
    }

    pub fn is_compactor(self) -> bool {
        self != Self::Collector
    }
}

/// The programs.
pub struct Programs<'a> {
    pub collector: Collector,
    pub compactor: Compactor,
    /// What they complained of, without what differs from time to time.
    pub errors: BTreeMap<String, u64>,
    place: &'a Place,
}

impl<'a> Programs<'a> {
    /// Starts both and waits until they are ready.
    pub fn start(place: &'a Place) -> Self {
        fs::create_dir_all(place.data()).unwrap();
        let collector = Collector::spawn_under(place.collector_clock.environment(), place.data(), &COLLECTOR);
        let compactor = Self::follow(place);
        let mut programs = Self { collector, compactor, errors: BTreeMap::new(), place };
        programs.tell_pids();
        programs.wait_ready(Who::Both);
        programs
    }

    fn follow(place: &Place) -> Compactor {
        Compactor::spawn_follow(&place.compactor_clock.environment(), place.data(), place.out(), &COMPACTOR)
    }

    fn tell_pids(&self) {
        self.place.collector_pid.store(self.collector.pid(), Relaxed);
        self.place.compactor_pid.store(self.compactor.pid(), Relaxed);
    }

    /// SIGKILL.
    pub fn kill(&mut self, who: Who) {
        if who.is_collector() {
            self.place.collector_pid.store(0, Relaxed);
            self.collector.kill9();
        }
        if who.is_compactor() {
            self.place.compactor_pid.store(0, Relaxed);
            self.compactor.kill9();
        }
        self.read_stderr(who);
    }

    /// SIGTERM; they end in order.
    pub fn terminate(&mut self, who: Who) {
        let end = |process: &mut Process| {
            let status: ExitStatus = process.terminate();
            assert_eq!(status.code(), Some(0), "{}", process.stderr());
        };
        if who.is_collector() {
            self.place.collector_pid.store(0, Relaxed);
            end(&mut self.collector);
        }
        if who.is_compactor() {
            self.place.compactor_pid.store(0, Relaxed);
            end(&mut self.compactor);
        }
        self.read_stderr(who);
    }

    /// Starts those that ended, and waits for nothing.
    pub fn spawn(&mut self, who: Who) {
        if who.is_collector() {
            self.collector.spawn_again();
        }
        if who.is_compactor() {
            self.compactor = Self::follow(self.place);
        }
        self.tell_pids();
    }

    /// Until they answer, whatever they say.
    pub fn wait_answers(&mut self, who: Who) {
        self.each(who, Process::wait_answers);
    }

    /// Until they can do what they are for.
    pub fn wait_ready(&mut self, who: Who) {
        self.each(who, Process::wait_ready);
    }

    /// Nobody ends without having been told to.
    pub fn assert_alive(&mut self) {
        self.each(Who::Both, |process| {
            let ended = process.ended();
            assert_eq!(ended, None, "it ended by itself: {}", process.stderr());
        });
    }

    /// Does something to each.
    pub fn each(&mut self, who: Who, mut what: impl FnMut(&mut Process)) {
        if who.is_collector() {
            what(&mut self.collector);
        }
        if who.is_compactor() {
            what(&mut self.compactor);
        }
    }

    /// Compacts what there is, by the compactor's clock.
    pub fn compact_once(&self) {
        let environment = self.place.compactor_clock.environment();
        let once = Compactor::once_under(&environment, self.place.data(), self.place.out(), &COMPACTOR[1..]);
        assert!(once.status.success(), "{}", String::from_utf8_lossy(&once.stderr));
    }

    fn read_stderr(&mut self, who: Who) {
        let mut text = String::new();
        self.each(who, |process| text += &process.stderr());
        assert!(!text.contains("panicked"), "{text}");
        for line in text.lines() {
            if let Some((_, error)) = line.split_once(" ERROR ") {
                // numbers and paths differ
                let words = error.split(['/', '=']).next().unwrap().trim_end_matches(|c: char| !c.is_whitespace());
                *self.errors.entry(words.trim().to_owned()).or_default() += 1;
            }
        }
    }
}
