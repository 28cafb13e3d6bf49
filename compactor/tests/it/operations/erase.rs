//! A visitor is forgotten, and what they did stays counted.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::page::{Operator, blocks};
use crate::harness::{Collector, Compactor, assert_audit, inspect, wait_for};
use crate::{out, python};

const VISITOR: &str = "visitor-4711-who-wants-to-go";
const THEIRS: usize = 40;
const OTHERS: usize = 200;
const FLAGS: [&str; 2] = ["--every", "50ms"];

/// Events of theirs among those of others; some of the others' were made in an hour of its own.
fn body() -> String {
    let line = |n: usize| {
        let (visitor, age) = match n % 6 {
            0 => (VISITOR, 0),
            5 => ("somebody-else", 7_200_000),
            _ => ("somebody-else", 0),
        };
        let id = uuid::Uuid::from_u128(0x0198_0000_0000_7000_8000_0000_0000_0000 | n as u128);
        format!(
            "id={id}&site=s&event=click&target=t&item={n}&visitor={visitor}&age={age}&page=http://s/?me={visitor}\
             &ua=Mozilla/5.0&mail={visitor}"
        )
    };
    (0..THEIRS + OTHERS).map(line).collect::<Vec<_>>().join("\n")
}

fn hourly(out: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = out::files(out, "hourly").into_iter();
    files.map(|path| (path.clone(), fs::read(out.join("hourly").join(path)).unwrap())).collect()
}

fn counted(out: &Path) -> u64 {
    match out::files(out, "hourly").is_empty() {
        true => 0,
        false => python::read("totals.py", &[out])["hourly"]["events"].as_u64().unwrap(),
    }
}

#[test]
fn a_visitor_is_gone_from_log_and_rows_and_what_they_did_stays_counted() {
    let [of_log, of_rows] = blocks("One visitor's data");
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (folder.path().join("data"), folder.path().join("out"));
    let operator = Operator::of(&data, &out).with("VISITOR", VISITOR);
    let flags = ["--segment-size=1MiB", "--reserve=1MiB", "--ip=keep"];
    let mut collector = Collector::start(&data, &flags);
    let mut compactor = Compactor::follow(&data, &out, &FLAGS);
    let post = |collector: &Collector| {
        let reply = collector.request("POST", "/api/beacon", &[("content-type", "text/plain")], body().as_bytes());
        assert_eq!((reply.status, reply.header("tallylight-refused")), (204, None), "{reply:?}");
    };
    post(&collector);
    let all = (THEIRS + OTHERS) as u64;
    wait_for("all to be counted", || (counted(&out) == all).then_some(()));

    let too_early = operator.tries(&of_rows);
    assert!(!too_early.status.success(), "the compactor runs");
    assert!(String::from_utf8_lossy(&too_early.stderr).contains("stop it first"));
    assert!(compactor.terminate().success());
    let before = python::read("erased.py", &[out.to_str().unwrap(), VISITOR]);
    let (hourly_before, expected) = (hourly(&out), THEIRS as u64);
    assert_eq!(
        [&before["theirs"], &before["named"], &before["nobodys"]].map(Value::as_u64),
        [Some(expected), Some(expected), Some(0)]
    );
    assert!(collector.terminate().success());
    assert!(!operator.tries(&of_rows).status.success(), "it is still in the log");

    // a restart; then it is a matter of a second
    collector.start_again();
    wait_for("the log to let go of it", || {
        operator.runs(&of_log);
        operator.tries(&of_rows).status.success().then_some(())
    });
    let found = python::read("erased.py", &[out.to_str().unwrap(), VISITOR]);
    assert_eq!(
        [&found["theirs"], &found["named"], &found["nobodys"]].map(Value::as_u64),
        [Some(0), Some(0), Some(expected)]
    );
    assert_eq!((&found["rows"], &found["counted"]), (&before["rows"], &before["counted"]));
    assert!(found["files"].as_u64() > Some(1));
    assert_eq!((&found["schemas"], &found["footers"]), (&1.into(), &1.into()), "as those that were left alone");
    assert_eq!(hourly(&out), hourly_before);
    assert!(!inspect(&data).iter().any(|event| event.to_string().contains(VISITOR)));
    assert_audit(&data, &out);

    // the compactor goes on from there, also where it must make its index of these rows: no id counts again
    fs::remove_dir_all(data.join("compactor/index")).unwrap();
    let mut compactor = Compactor::follow(&data, &out, &FLAGS);
    post(&collector);
    assert!(collector.terminate().success() && compactor.terminate().success());
    assert!(Compactor::once(&data, &out, &[]).status.success());
    let totals = python::read("totals.py", &[&out]);
    assert_eq!([&totals["hourly"]["events"], &totals["hourly"]["duplicates"]], [all; 2], "{totals}");
    assert_audit(&data, &out);
}
