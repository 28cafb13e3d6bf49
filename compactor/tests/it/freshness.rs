//! From a click to the hourly file: seconds.

use std::time::{Duration, Instant};

use crate::harness::{
    Collector, Compactor, assert_audit, assert_compactor_ledger_adds_up, assert_ledger_adds_up, wait_for_within,
};
use crate::out;

#[test]
fn a_click_is_in_the_hourly_file_within_seconds() {
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (folder.path().join("data"), folder.path().join("out"));
    let collector = Collector::start(&data, &[]);
    let compactor = Compactor::follow(&data, &out, &["--every", "1s"]);
    // the first one meets an empty output, the second one an hour that is there
    for clicks in 1..=2 {
        let clicked = Instant::now();
        let reply = collector.request("GET", "/api/beacon?event=click&target=fresh&site=shop.example", &[], b"");
        assert_eq!(reply.status, 200);
        wait_for_within(Duration::from_secs(15), "the click in the hourly file", || {
            (out::events_of_target(&out, "fresh") == clicks).then_some(())
        });
        println!("click {clicks} was there after {:?}", clicked.elapsed());
    }
    assert_ledger_adds_up(&collector);
    assert_compactor_ledger_adds_up(&compactor);
    let report = assert_audit(&data, &out);
    assert!(report["lives"][0]["note"].as_str().unwrap().ends_with("the last one is running"), "{report}");
}
