//! A real browser in front of a real collector, at the address that the pages name literally.

use std::collections::HashSet;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::harness::{Collector, assert_ledger_adds_up, inspect, test_env, wait_for, workspace};

/// The collector's default `--http`, which the two pages of the origin say as `localhost:5000`.
const DEFAULT_HTTP: &str = "127.0.0.1:5000";

/// Runs a scenario of `tests/browser/pages.mjs`; gives a visitor's story each.
fn browse(scenario: &str) -> Vec<Value> {
    let script = workspace().join("collector/tests/browser/pages.mjs");
    let playwright = test_env("node_modules/playwright-core");
    let output = Command::new("node").arg(script).arg(playwright).arg(scenario).output();
    let output = output.expect("node runs: `make test-env` installs it");
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{scenario}: {}\n{stdout}\n{stderr}", output.status);
    stdout.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

/// The events of a log, once there are as many as awaited. A click that led to a page of the same site may be there
/// again: the page that sent it was gone before the answer came, so the next one sends it once more.
fn events(data: &Path, count: usize) -> Vec<Value> {
    let events = wait_for(&format!("{count} events in the log"), || {
        let mut events = inspect(data);
        let mut ids = HashSet::new();
        events.retain(|event| ids.insert(event["id"].to_string()));
        (events.len() >= count).then_some(events)
    });
    assert_eq!(events.len(), count, "{events:#?}");
    events
}

fn find<'a>(events: &'a [Value], key: &str, value: &str) -> &'a Value {
    let found = events.iter().find(|event| event[key] == value);
    found.unwrap_or_else(|| panic!("no event with {key} {value:?} in {events:#?}"))
}

fn assert_clean_console(story: &Value) {
    assert_eq!(story["console"], serde_json::json!([]), "{story:#}");
}

/// All in one test, since all need the one port.
#[test]
fn a_browser_is_counted_and_never_held_up() {
    let addr: SocketAddr = DEFAULT_HTTP.parse().unwrap();
    if let Err(error) = TcpListener::bind(addr) {
        panic!("{addr} is needed, since the pages under test name it, and it cannot be had: {error}");
    }
    the_pages_of_the_origin_are_counted_and_arrive_also_without_a_collector(addr);
    credentialed_beacons_leave_the_console_clean(addr);
    a_click_in_the_demo_bookshop_is_in_the_log(addr);
}

fn the_pages_of_the_origin_are_counted_and_arrive_also_without_a_collector(addr: SocketAddr) {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let mut collector = Collector::start_at_default(addr, &data, &[]);
    let stories = browse("origin");
    assert_eq!(stories.len(), 2, "{stories:#?}");
    let mut pages: Vec<String> = Vec::new();
    for story in &stories {
        assert_eq!(story["arrived"], "destination", "{story:#}");
        assert_clean_console(story);
        pages.push(format!("{}/", story["origin"].as_str().expect("the script says where it served")));
    }
    for event in events(&data, 2) {
        assert_eq!(event["event"], "beacon", "{event:#}");
        assert_eq!(event["site"], "127.0.0.1", "{event:#}");
        // a browser's Referer to another origin is the origin only
        assert!(pages.iter().any(|page| event["page"] == *page), "{event:#}\nis of none of {pages:?}");
    }
    assert_ledger_adds_up(&collector);
    assert!(collector.terminate().success(), "{}", collector.stderr());

    for story in browse("origin") {
        assert_eq!(story["arrived"], "destination", "without a collector: {story:#}");
    }
}

fn credentialed_beacons_leave_the_console_clean(addr: SocketAddr) {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let collector = Collector::start_at_default(addr, &data, &[]);
    let stories = browse("credentialed");
    let [story] = &stories[..] else { panic!("{stories:#?}") };
    assert_eq!(story["statuses"], serde_json::json!([204, 204, true]), "{story:#}");
    assert_eq!(story["cookies"], 0, "{story:#}");
    assert_clean_console(story);
    let events = events(&data, 3);
    for item in ["fetch", "sandboxed frame", "sendBeacon"] {
        assert_eq!(find(&events, "item", item)["event"], "credentialed");
    }
    assert_ledger_adds_up(&collector);
}

fn a_click_in_the_demo_bookshop_is_in_the_log(addr: SocketAddr) {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let collector = Collector::start_at_default(addr, &data, &["--demo"]);
    let stories = browse("demo");
    assert_eq!(stories.len(), 2, "{stories:#?}");
    // each of the two visitors saw the shop and a book
    let events = events(&data, 6);
    for story in &stories {
        assert_eq!(story["arrived"], story["href"], "{story:#}");
        assert_clean_console(story);
        let clicks: Vec<Value> = events.iter().filter(|event| event["event"] == "click").cloned().collect();
        assert_eq!(clicks.len(), 2, "{events:#?}");
        let click = find(&clicks, "item", story["item"].as_str().expect("the book has an item"));
        assert_eq!(click["placement"], "recommended", "{click:#}");
        assert_eq!(click["target"], story["href"], "{click:#}");
        assert_eq!(click["page"], "http://localhost:5000/demo/", "{click:#}");
        assert_eq!(click["site"], "bookshop", "{click:#}");
        assert!(click["id"].is_string(), "{click:#}");
    }
    assert_eq!(events.iter().filter(|event| event["event"] == "view").count(), 4, "{events:#?}");
    assert_ledger_adds_up(&collector);
}
