//! How much goes to disk with a little that is to be there.

use std::fs::File;

use rustix::fs::{Advice, fadvise};

use crate::client::{self, Click, Client, Form};
use crate::harness::{Collector, Compactor};
use crate::segments;

const LOGGED: &str = "/api/beacon";
const SYNCED: &str = "/api/beacon?ack=synced";
const SEGMENT: u64 = 16 << 20;
/// The first pages of a segment are touched when it is made.
const TOUCHED: u64 = 8 << 20;
/// Of a body, some 20 KiB.
const EVENTS: u64 = 160;
/// Bodies between two looks at how far the log is.
const LOOK: u64 = 16;
/// Twice, as a rule: a body has a page more than it fills, its segment a header, and the writer has touched some pages behind it.
const MOST_WRITTEN: f64 = 3.0;

#[test]
fn a_sync_writes_little_more_than_what_is_new_whoever_has_read_the_segment_before() {
    // memory has no disk behind it
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (data, out) = (folder.path().join("data"), folder.path().join("out"));
    let mut collector = Collector::start(&data, &["--segment-size", "16MiB"]);
    append(&collector, LOGGED, 5 * SEGMENT / 2);
    collector.terminate();
    // as after a while in which there was no memory for it, so that the compactor reads it from disk
    for path in segments::segments(&data) {
        fadvise(File::open(path).unwrap(), 0, None, Advice::DontNeed).unwrap();
    }
    let compacted = Compactor::once(&data, &out, &["--retain", "0s"]);
    let stderr = String::from_utf8_lossy(&compacted.stderr);
    assert_eq!(stderr.matches("became a spare").count(), 2, "{stderr}");

    collector.start_again();
    append(&collector, LOGGED, TOUCHED);
    let before = collector.io_line("write_bytes");
    let appended = append(&collector, SYNCED, SEGMENT / 4);
    let written = collector.io_line("write_bytes") - before;
    let ratio = written as f64 / appended as f64;
    assert!(ratio < MOST_WRITTEN, "{ratio:.1} times what was new went to disk");
}

/// Has the collector append at least so many bytes of records, a body at a time, and says how many they were.
fn append(collector: &Collector, path: &str, bytes: u64) -> u64 {
    let mut client = Client::new(collector.http);
    let appended = || collector.metrics().count("tallylight_log_appended_position_bytes");
    let begin = appended();
    for body in 0.. {
        let clicks: Vec<Click> = (0..EVENTS).map(|n| Click::new(0, body * EVENTS + n)).collect();
        client.post(path, &client::body(&clicks, Form::Array), false);
        if body % LOOK == 0 && appended() - begin >= bytes {
            break;
        }
    }
    appended() - begin
}
