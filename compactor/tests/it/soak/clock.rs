//! The time of day as a program believes it: libfaketime answers for the system, and reads an offset from a file.
//!
//! Only the clock that shows the time of day is moved. The one that waiting is measured with goes on, as it does on a
//! machine whose clock is set. The file is read at each question, so a jump is believed at once.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::time::SystemTime;

use crate::harness::Environment;

/// Milliseconds.
pub const SECOND: i64 = 1000;
pub const MINUTE: i64 = 60 * SECOND;
pub const HOUR: i64 = 60 * MINUTE;
pub const DAY: i64 = 24 * HOUR;

/// The clock of one program. It jumps when it is told to.
pub struct Clock {
    file: PathBuf,
    offset: AtomicI64,
    /// The latest time that it has shown before it was set.
    latest: AtomicI64,
}

impl Clock {
    /// One that is right.
    pub fn new(folder: &Path, name: &str) -> Self {
        let clock = Self { file: folder.join(name), offset: AtomicI64::new(0), latest: AtomicI64::new(0) };
        clock.set(0);
        clock
    }

    /// What makes a program believe it.
    pub fn environment(&self) -> Environment {
        vec![
            ("LD_PRELOAD", library().into()),
            ("FAKETIME_TIMESTAMP_FILE", self.file.clone().into()),
            ("FAKETIME_NO_CACHE", "1".into()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
            // times of files are none of this
            ("NO_FAKE_STAT", "1".into()),
            // what it would share with children it leaves behind in /dev/shm when it is killed
            ("FAKETIME_DISABLE_SHM", "1".into()),
        ]
    }

    /// What it shows, in milliseconds since 1970.
    pub fn now(&self) -> i64 {
        now() + self.offset()
    }

    /// The latest time that it has ever shown.
    pub fn latest(&self) -> i64 {
        self.latest.load(Relaxed).max(self.now())
    }

    /// How far it is off.
    pub fn offset(&self) -> i64 {
        self.offset.load(Relaxed)
    }

    /// Sets it to be so many milliseconds off.
    #[expect(clippy::disallowed_methods, reason = "nothing of this is to outlive the test")]
    pub fn set(&self, offset: i64) {
        self.latest.store(self.latest(), Relaxed);
        let new = self.file.with_extension("new");
        let sign = if offset < 0 { '-' } else { '+' };
        fs::write(&new, format!("{sign}{}.{:03}\n", offset.abs() / 1000, offset.abs() % 1000)).unwrap();
        // what it has shown is never later than what is said of it
        let is_forward = offset > self.offset();
        if is_forward {
            self.offset.store(offset, Relaxed);
        }
        // whole at any time
        fs::rename(&new, &self.file).unwrap();
        self.offset.store(offset, Relaxed);
    }

    /// Sets it forward, or back.
    pub fn shift(&self, by: i64) {
        self.set(self.offset() + by);
    }
}

/// The right time.
#[expect(clippy::disallowed_methods, reason = "whoever moves clocks has one of their own")]
pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_millis()).unwrap()
}

/// Debian's libfaketime, for programs with threads. It lies in a folder named after the machine's architecture.
fn library() -> PathBuf {
    let folders = fs::read_dir("/usr/lib").unwrap().map(|entry| entry.unwrap().path());
    let found = folders.map(|folder| folder.join("faketime/libfaketimeMT.so.1")).find(|path| path.exists());
    found.expect("libfaketime is missing: run `make test-env`")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::{Collector, Compactor, assert_audit, inspect};
    use crate::out;
    use tallylight_proto::layout;

    #[test]
    fn both_programs_believe_a_clock_that_is_set_while_they_run() {
        let folder = tempfile::tempdir().unwrap();
        let (data, out) = (folder.path().join("data"), folder.path().join("out"));
        let clock = Clock::new(folder.path(), "clock");
        let mut collector = Collector::spawn_under(clock.environment(), &data, &[]);
        collector.wait_ready();
        let jumps = [0, 3 * HOUR, -DAY, 2 * DAY + 500];
        let mut expected = Vec::new();
        for jump in jumps {
            clock.set(jump);
            let before = clock.now();
            assert_eq!(collector.request("POST", "/api/beacon", &[], b"event=tick").status, 204);
            expected.push(before..=clock.now());
        }
        assert!(collector.terminate().success());
        let ticks = inspect(&data);
        assert_eq!(ticks.len(), expected.len());
        for (tick, expected) in ticks.iter().zip(expected) {
            let received: jiff::Timestamp = tick["received_at"].as_str().unwrap().parse().unwrap();
            assert!(expected.contains(&received.as_millisecond()), "{tick} {expected:?}");
        }

        // log time has passed the end of every hour but the last one's, but the compactor's clock says that it has not
        let complete = |offset| {
            clock.set(offset);
            let once = Compactor::once_under(&clock.environment(), &data, &out, &["--grace", "0s"]);
            assert!(once.status.success(), "{}", String::from_utf8_lossy(&once.stderr));
            let text = out::commit(&data, &out).unwrap()["complete_through"].as_str().unwrap().to_owned();
            text.parse::<jiff::Timestamp>().unwrap().as_millisecond()
        };
        let early = complete(-HOUR);
        assert!(early <= clock.now(), "{early} {}", clock.now());
        let late = complete(2 * DAY + HOUR);
        assert!((now() + DAY..=clock.now()).contains(&late), "{late} {}", clock.now());
        assert_eq!(out::files(&out, layout::HOURLY).len(), 4);
        assert_audit(&data, &out);
    }
}
