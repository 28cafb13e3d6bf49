//! How much goes to disk with a little that is to be there.

use std::fs::File;

use rustix::fs::{Advice, fadvise};

use crate::client::{self, Click, Client, Form};
use crate::harness::{Collector, Compactor};
use crate::segments;

const SEGMENT: u64 = 4 << 20;
/// Of a body, some 30 KiB of records.
const EVENTS: u64 = 160;
/// A body has a page more than it fills and its segment has a header, all pages were touched ahead, and the next segment is prepared.
const MOST_WRITTEN: f64 = 4.0;

#[test]
fn a_sync_writes_little_more_than_what_is_new_whoever_has_read_the_segment_before() {
    // memory has no disk behind it
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (data, out) = (folder.path().join("data"), folder.path().join("out"));
    let mut collector = Collector::start(&data, &["--segment-size", "4MiB"]);
    append(&collector, 5 * SEGMENT / 2);
    collector.terminate();
    // as after a while in which there was no memory for it, so that the compactor reads it from disk
    for path in segments::segments(&data) {
        fadvise(File::open(path).unwrap(), 0, None, Advice::DontNeed).unwrap();
    }
    let compacted = Compactor::once(&data, &out, &["--retain", "0s"]);
    let stderr = String::from_utf8_lossy(&compacted.stderr);
    assert_eq!(stderr.matches("became a spare").count(), 2, "{stderr}");

    collector.start_again();
    append(&collector, SEGMENT / 4);
    let before = collector.io_line("write_bytes");
    let appended = append(&collector, 2 * SEGMENT);
    let written = collector.io_line("write_bytes") - before;
    let ratio = written as f64 / appended as f64;
    assert!(ratio < MOST_WRITTEN, "{ratio:.1} times what was new went to disk");
}

/// Has the collector put at least so many bytes of records on disk, a body at a time, and says how many they were.
fn append(collector: &Collector, bytes: u64) -> u64 {
    let mut client = Client::new(collector.http);
    let appended = || collector.metrics().count("tallylight_log_appended_position_bytes");
    let begin = appended();
    let (mut number, mut sent) = (0, 0);
    // what a record leaves out of JSON is less than half of it
    while sent < 2 * bytes {
        let clicks: Vec<Click> = (number..number + EVENTS).map(|n| Click::new(0, n)).collect();
        let body = client::body(&clicks, Form::Array);
        client.post("/api/beacon?ack=synced", &body, false);
        number += EVENTS;
        sent += body.len() as u64;
    }
    let appended = appended() - begin;
    assert!(appended >= bytes, "{appended} of {bytes}");
    appended
}
