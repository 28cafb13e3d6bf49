//! The UDP front, as servers that send datagrams find it, and whoever else sends something to its port.

mod admission;
mod bodies;
mod hostile;
mod load;
mod numbers;
mod restarts;
mod silence;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use serde_json::Value;
use tallylight_proto::keys::Key;
use tempfile::TempDir;

use crate::harness::datagrams::Source;
use crate::harness::{Collector, SourceReport, Sources, assert_datagrams_add_up, inspect, wait_for};

/// A collector with a folder of its own.
pub struct Fixture {
    pub collector: Collector,
    folder: TempDir,
}

/// The counts of datagrams of one life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Datagrams {
    pub received: u64,
    pub lost: u64,
    pub recovered: u64,
    pub duplicate: u64,
    pub kernel_dropped: u64,
    pub tag: u64,
    pub plain: u64,
    pub stale: u64,
    pub malformed: u64,
    pub address: u64,
}

/// Events of datagrams, by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Events {
    pub received: u64,
    pub logged: u64,
    pub malformed: u64,
    pub site: u64,
    pub too_large: u64,
}

impl Fixture {
    pub fn start(flags: &[&str]) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), flags)
    }

    /// Starts one whose folder has something in it already.
    pub fn start_in(folder: TempDir, flags: &[&str]) -> Self {
        let mut own = vec!["--reserve=1MiB", "--workers=2"];
        if !flags.iter().any(|flag| flag.starts_with("--segment-size")) {
            own.push("--segment-size=4MiB");
        }
        let flags = [&own, flags].concat();
        Self { collector: Collector::start(&folder.path().join("data"), &flags), folder }
    }

    /// Starts one with these lines in its file of keys.
    pub fn with_keys(lines: &str, flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = key_file(&folder, lines);
        Self::start_in(folder, &[&["--udp-key", file.to_str().unwrap()], flags].concat())
    }

    /// Writes its file of keys anew.
    pub fn set_keys(&self, lines: &str) -> PathBuf {
        key_file(&self.folder, lines)
    }

    /// A new sender without a key.
    pub fn source(&self) -> Source {
        Source::new(self.collector.udp)
    }

    /// A new sender with this key.
    pub fn keyed(&self, key: &Key) -> Source {
        Source::keyed(self.collector.udp, key.clone())
    }

    pub fn datagrams(&self) -> Datagrams {
        let metrics = self.collector.metrics();
        let of = |word: &str| metrics.count(&format!("tallylight_udp_datagrams_{word}_total"));
        let refused =
            |reason: &str| metrics.count(&format!("tallylight_udp_datagrams_refused_total{{reason=\"{reason}\"}}"));
        Datagrams {
            received: of("received"),
            lost: of("lost"),
            recovered: of("recovered"),
            duplicate: of("duplicate"),
            kernel_dropped: of("kernel_dropped"),
            tag: refused("tag"),
            plain: refused("plain"),
            stale: refused("stale"),
            malformed: refused("malformed"),
            address: refused("address"),
        }
    }

    /// What became of events. Nothing but datagrams was sent in this life, so all of them are of those.
    pub fn events(&self) -> Events {
        assert_datagrams_add_up(&self.collector);
        let metrics = self.collector.metrics();
        let refused = |reason: &str| metrics.count(&format!("tallylight_events_refused_total{{reason=\"{reason}\"}}"));
        Events {
            received: metrics.count("tallylight_events_received_total{front=\"udp\"}"),
            logged: metrics.count("tallylight_events_logged_total"),
            malformed: refused("malformed"),
            site: refused("site"),
            too_large: refused("too_large"),
        }
    }

    /// Waits until so many datagrams were read, in this life.
    pub fn wait_received(&self, count: u64) {
        wait_for(&format!("{count} datagrams, there are {:?}", self.datagrams()), || {
            let received = self.datagrams().received;
            assert!(received <= count, "{received} are more than {count}");
            (received == count).then_some(())
        });
    }

    /// Waits until nothing is missing that is not lost, and asserts that everything adds up.
    pub fn settle(&self) -> Sources {
        assert_datagrams_add_up(&self.collector)
    }

    /// What is known of a source once nothing is missing that is not lost.
    pub fn settled(&self, source: &Source) -> SourceReport {
        let sources = self.settle();
        sources.get(source.key_id(), &source.name()).unwrap_or_else(|| panic!("{sources:#?}")).clone()
    }

    /// What is known of a source now, if anything is.
    pub fn report(&self, source: &Source) -> Option<SourceReport> {
        self.collector.sources().get(source.key_id(), &source.name()).cloned()
    }

    /// The events in the log.
    pub fn inspect(&self) -> Vec<Value> {
        inspect(&self.collector.data)
    }

    /// All adds up, it ends well, and it had nothing to complain about.
    pub fn end(mut self) {
        self.settle();
        let status = self.collector.terminate();
        let stderr = self.collector.stderr();
        assert!(status.success() && !stderr.contains("ERROR"), "{status}\n{stderr}");
    }
}

/// A file of keys as it should be: nobody else can read it.
pub fn key_file(folder: &TempDir, lines: &str) -> PathBuf {
    let path = folder.path().join("keys");
    fs::write(&path, lines).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}
