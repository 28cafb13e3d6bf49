//! Logging never fails the program: also not where nobody takes what it logs.

use std::io::{PipeReader, PipeWriter, Write};
use std::process::Stdio;

use crate::harness::{Collector, assert_ledger_adds_up, inspect};

/// A collector that logs into a pipe takes an event, acknowledges it and ends well.
fn assert_works_with_stderr(pipe: PipeWriter) {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let mut collector = Collector::start_with_stderr(&data, Stdio::from(pipe));
    let reply = collector.request("POST", "/api/beacon", &[], b"event=told");
    assert_eq!(reply.status, 204, "{reply:?}");
    assert_ledger_adds_up(&collector);
    let status = collector.terminate();
    assert_eq!(status.code(), Some(0), "{status}");
    assert_eq!(inspect(&data).len(), 1);
}

fn pipe() -> (PipeReader, PipeWriter) {
    std::io::pipe().unwrap()
}

#[test]
fn a_full_stderr_does_not_stop_the_collector() {
    let (reader, mut writer) = pipe();
    // the capacity of a pipe, pipe(7): the next byte has to wait for a reader, which never reads
    writer.write_all(&[b'x'; 65_536]).unwrap();
    assert_works_with_stderr(writer);
    drop(reader);
}

#[test]
fn a_closed_stderr_does_not_stop_the_collector() {
    let (reader, writer) = pipe();
    drop(reader);
    assert_works_with_stderr(writer);
}
