//! Room is made on a disk that is full.

use std::fs;

use super::page::{Operator, blocks};
use super::send;
use crate::harness::disk::{Ballast, Disk};
use crate::harness::{Collector, Compactor, assert_audit, request, wait_for};

#[test]
fn a_disk_that_is_full_of_old_rows_takes_events_again_when_they_are_deleted() {
    let [make_room] = blocks("A full disk");
    let disk = Disk::ext4(64 << 20);
    let (data, out) = (disk.path.join("data"), disk.path.join("out"));
    let mut collector = Collector::start(&data, &["--segment-size=1MiB", "--reserve=2MiB"]);
    let mut compactor = Compactor::follow(&data, &out, &["--every", "50ms"]);
    send(collector.http, "before", 0..1000);
    // rows of a day that is long gone, and all the room that there is
    let old = out.join("events/date=2020-01-01");
    fs::create_dir_all(&old).unwrap();
    let ballast = Ballast::at(old.join("rows.parquet"));
    wait_for("the first hour", || out.join("hourly").is_dir().then_some(()));
    let many = "event=click&target=between\n".repeat(1000);
    let post = || collector.request("POST", "/api/beacon", &[("content-type", "text/plain")], many.as_bytes());
    let is_ready = || request(collector.admin, "GET", "/readyz", &[], b"").status == 200;
    wait_for("a full disk", || {
        ballast.grow();
        let refused = post();
        (!is_ready() && refused.header("tallylight-refused") == Some("disk")).then_some(())
    });

    let operator = Operator::of(&data, &out).with("COLLECTOR", collector.admin.to_string());
    operator.runs(&make_room);
    assert!(is_ready() && !old.exists());
    assert_eq!(post().status, 204);
    send(collector.http, "after", 1000..2000);
    assert!(collector.terminate().success() && compactor.terminate().success());
    assert!(Compactor::once(&data, &out, &[]).status.success());
    assert_audit(&data, &out);
    let totals = crate::python::read("totals.py", &[&out]);
    for target in ["before", "after"] {
        assert_eq!([&totals["targets"][target]["events"], &totals["targets"][target]["rows"]], [1000; 2], "{totals}");
    }
}
