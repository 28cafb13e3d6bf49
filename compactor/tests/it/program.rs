//! The program as people run it.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use tallylight_proto::layout;
use tallylight_proto::time::Hour;

use crate::harness::{Compactor, Sockets, Systemd};
use crate::testlog::{self, HOUR, MINUTE, START, TestLog, aged, crawled, event};

fn command(data: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tallylight-compactor"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("TALLYLIGHT_")) {
        command.env_remove(name);
    }
    command.args(args).arg("--data").arg(data);
    command
}

fn compactor(data: &Path, args: &[&str]) -> Output {
    command(data, args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn log() -> (TempDir, TestLog) {
    let folder = testlog::folder();
    let log = TestLog::new(&folder.path().join("data"), 1 << 20);
    (folder, log)
}

fn watermark(data: &Path) -> Option<Value> {
    serde_json::from_slice(&fs::read(data.join("out/watermark/node-1.json")).ok()?).ok()
}

/// Waits for something to become true.
fn until<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A compactor that follows the log; killed when dropped.
struct Following {
    child: Child,
    admin: SocketAddr,
}

impl Following {
    fn start(data: &Path, args: &[&str]) -> Self {
        let mut command = command(data, &["--follow", "--every", "50ms", "--admin", "127.0.0.1:0"]);
        let mut child = command.args(args).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap());
        let mut said = String::new();
        let admin = loop {
            let mut line = String::new();
            assert!(lines.read_line(&mut line).unwrap() > 0, "it ended: {said}");
            said.push_str(&line);
            if let Some((_, addr)) = line.trim_end().rsplit_once("addr=") {
                break addr.parse().unwrap();
            }
        };
        std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
        Self { child, admin }
    }

    fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.admin).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn metric(&self, name: &str) -> f64 {
        let page = self.get("/metrics");
        let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no {name} in {page}")).parse().unwrap()
    }

    fn terminate(mut self) -> i32 {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        self.child.wait().unwrap().code().unwrap()
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn once_publishes_what_is_in_the_log() {
    let (_folder, mut log) = log();
    log.event(&event(1, 0));
    log.event(&event(1, MINUTE));
    log.event(&crawled(2, MINUTE));
    log.event(&aged(3, HOUR, HOUR));
    log.ledger(START + 2 * HOUR);
    log.commit();
    let done = compactor(&log.data, &["--once", "--by", "item"]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    let out = log.data.join("out");
    let watermark = watermark(&log.data).unwrap();
    assert_eq!(watermark["position"], log.position());
    assert_eq!(watermark["complete_through"], "2026-11-22T14:00:00Z");
    assert_eq!(watermark["by"], json!(["item"]));
    assert_eq!(watermark["counts"]["read"], 4);
    assert_eq!(watermark["counts"]["counted"], 2);
    assert_eq!(watermark["counts"]["duplicates"], 1);
    assert_eq!(watermark["counts"]["bots"], 1);
    assert!(out.join("hourly/date=2026-11-22/hour=13/node-1.parquet").exists());
    let part = format!("events/date=2026-11-22/hour=13/node-1-{:020}.parquet", log.places[0].0);
    assert!(out.join(part).exists());
}

#[test]
fn without_a_log_once_says_so_and_without_a_folder_it_is_an_error() {
    let folder = testlog::folder();
    let done = compactor(folder.path(), &[]);
    assert_eq!(done.status.code(), Some(0));
    assert!(text(&done.stderr).contains("no log yet"), "{}", text(&done.stderr));
    assert!(fs::read_dir(folder.path()).unwrap().next().is_none(), "nothing is made");
    let done = compactor(&folder.path().join("x"), &["--once"]);
    assert_eq!(done.status.code(), Some(2));
    assert!(text(&done.stderr).contains("no data folder"), "{}", text(&done.stderr));
    assert!(!folder.path().join("x").exists());
    for looking in ["inspect", "verify", "audit"] {
        let done = compactor(folder.path(), &[looking]);
        assert_eq!(done.status.code(), Some(2), "{looking}");
        assert!(text(&done.stderr).contains("no log folder"), "{}", text(&done.stderr));
    }
}

#[test]
fn a_second_compactor_is_refused() {
    let (_folder, mut log) = log();
    log.event(&event(1, 0));
    log.commit();
    let following = Following::start(&log.data, &[]);
    until("the first pass", || watermark(&log.data));
    for args in [&["--once"][..], &["--follow", "--admin", "off"][..]] {
        let done = compactor(&log.data, args);
        assert_eq!(done.status.code(), Some(2));
        assert!(text(&done.stderr).contains("another compactor is running"), "{}", text(&done.stderr));
    }
    assert_eq!(following.terminate(), 0);
    assert!(compactor(&log.data, &["--once"]).status.success());
}

#[test]
fn another_by_or_out_than_before_is_refused() {
    let (folder, mut log) = log();
    log.event(&event(1, 0));
    log.commit();
    assert!(compactor(&log.data, &["--by", "item,page"]).status.success());
    let other = folder.path().join("other");
    let out = ["--by", "item,page", "--out", other.to_str().unwrap()];
    for (args, said) in [
        (&[][..], "--by item,page, not --by (nothing)"),
        (&["--by", "page,item"][..], "--by item,page"),
        (&out[..], "--out"),
    ] {
        let done = compactor(&log.data, args);
        assert_eq!(done.status.code(), Some(2), "{args:?}");
        assert!(text(&done.stderr).contains(said), "{}", text(&done.stderr));
    }
    // the output remembers too
    fs::remove_dir_all(log.data.join("compactor")).unwrap();
    assert_eq!(compactor(&log.data, &["--by", "item"]).status.code(), Some(2));
    fs::remove_dir_all(log.data.join("compactor")).unwrap();
    assert!(compactor(&log.data, &["--by", "item,page"]).status.success());
    assert_eq!(watermark(&log.data).unwrap()["counts"]["read"], 1);
}

#[test]
fn inspect_prints_events_as_json_lines_with_nothing_but_the_log() {
    let (_folder, mut log) = log();
    for n in 0..5 {
        log.event(&event(n, 0));
    }
    log.ledger(START);
    log.next_segment(START);
    log.event(&event(5, 0));
    log.commit();
    fs::remove_file(log.data.join("node")).unwrap();
    let lines = |args: &[&str]| -> Vec<Value> {
        let done = compactor(&log.data, args);
        assert!(done.status.success(), "{}", text(&done.stderr));
        text(&done.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let all = lines(&["inspect"]);
    assert_eq!(all.len(), 6);
    assert_eq!((&all[1]["position"], &all[1]["ordinal"]), (&json!(log.places[1].0), &json!(2)));
    assert_eq!((&all[1]["site"], &all[1]["item"]), (&json!("shop.example"), &json!("item-1")));
    let from = log.places[3].0.to_string();
    let some = lines(&["inspect", "--from", &from, "--limit", "2"]);
    assert_eq!(some, all[3..5]);
    assert_eq!(lines(&["inspect", "--from", &log.places[5].0.to_string()]), all[5..]);
    assert!(lines(&["inspect", "--limit", "0"]).is_empty());
    assert!(lines(&["inspect", "--from", "99999999999"]).is_empty());
    let ledgers: Vec<_> =
        lines(&["inspect", "--ledger"]).into_iter().filter(|line| line.get("ledger").is_some()).collect();
    assert_eq!(ledgers.len(), 3);
    assert_eq!(ledgers[1]["ledger"]["fronts"]["http1"]["received"], 5);
    assert_eq!(ledgers[1]["ledger"]["fronts"]["http1"]["logged"], 5);
    assert!(!log.data.join("compactor").exists() && !log.data.join("out").exists(), "it only looks");
}

#[test]
fn a_reader_of_inspect_may_go_away() {
    let (_folder, mut log) = log();
    for n in 0..3000 {
        log.event(&event(n, 0));
    }
    log.commit();
    let mut child = command(&log.data, &["inspect"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut first = [0; 10];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn verify_names_each_damaged_position() {
    let (_folder, mut log) = log();
    for n in 0..5 {
        log.event(&event(n, 0));
    }
    log.seal();
    let done = compactor(&log.data, &["verify"]);
    assert_eq!(text(&done.stdout), "5 events, 1 ledger records, 0 records damaged in 0 places, 0 torn\n");
    assert_eq!(done.status.code(), Some(0));
    log.patch(log.places[2].0 + 30, &[1]);
    let done = compactor(&log.data, &["verify"]);
    assert_eq!(done.status.code(), Some(1));
    let said =
        format!("damaged 00000000000000000000.seg position {} to {} records 1", log.places[2].0, log.places[2].1);
    assert!(text(&done.stdout).contains(&said), "{}", text(&done.stdout));
    assert!(text(&done.stdout).contains("4 events, 1 ledger records, 1 records damaged in 1 places"));
}

#[test]
fn audit_needs_only_log_and_output_and_exits_1_where_something_does_not_add_up() {
    let (folder, mut log) = log();
    log.event(&event(1, 0));
    log.closing(START + MINUTE);
    log.commit();
    let out = folder.path().join("out");
    let out_flag = ["--out", out.to_str().unwrap()];
    assert!(compactor(&log.data, &out_flag).status.success());
    // it finds the output by itself, and where that is not known is told of it
    let done = compactor(&log.data, &["audit"]);
    assert_eq!(done.status.code(), Some(0), "{}", text(&done.stdout));
    assert!(text(&done.stdout).contains("1 hourly = 1 counted  ok"), "{}", text(&done.stdout));
    for gone in [log.data.join("compactor"), log.data.join("log/spare")] {
        let _ = fs::remove_dir_all(gone);
    }
    fs::remove_file(log.data.join("node")).unwrap();
    let done = compactor(&log.data, &["--out", out.to_str().unwrap(), "audit", "--json"]);
    assert_eq!(done.status.code(), Some(0), "{}", text(&done.stderr));
    let report: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!((&report["adds_up"], &report["node"]), (&json!(true), &json!("node-1")));
    assert!(!log.data.join("compactor").exists(), "it only looks");
    fs::remove_dir_all(out.join("hourly")).unwrap();
    let done = compactor(&log.data, &["audit", "--out", out.to_str().unwrap()]);
    assert_eq!(done.status.code(), Some(1));
    let said = "  events                 0 hourly = 1 counted (1 short)  DOES NOT ADD UP\n";
    assert!(text(&done.stdout).contains(said), "{}", text(&done.stdout));
}

#[test]
fn following_publishes_as_the_log_grows_and_shows_its_ledger() {
    let folder = testlog::folder();
    let data: PathBuf = folder.path().join("data");
    let following = Following::start(&data, &[]);
    assert!(following.get("/readyz").starts_with("HTTP/1.1 200"), "waiting for a collector is no failure");
    for name in [
        "events_read_total",
        "events_counted_total",
        "duplicate_events_total",
        "bot_events_total",
        "late_events_total",
        "client_lost_events_total",
        "damaged_records_total",
        "torn_records_total",
        "open_partitions",
        "complete_through_timestamp_seconds",
        "lag_seconds",
        "lag_bytes",
        "ledger_mismatches_total",
        "publish_errors_total",
    ] {
        assert_eq!(following.metric(&format!("tallylight_compactor_{name}")), 0.0, "{name}");
    }
    let mut log = TestLog::new(&data, 1 << 20);
    log.event(&event(10, 0));
    log.event(&event(10, 0));
    log.event(&crawled(11, 0));
    log.commit();
    until("three events", || (following.metric("tallylight_compactor_events_read_total") == 3.0).then_some(()));
    log.event(&aged(12, 2 * HOUR, MINUTE + 1));
    log.commit();
    until("one more", || (following.metric("tallylight_compactor_events_read_total") == 4.0).then_some(()));
    assert_eq!(following.metric("tallylight_compactor_events_counted_total"), 2.0);
    assert_eq!(following.metric("tallylight_compactor_late_events_total"), 1.0);
    assert_eq!(following.metric("tallylight_compactor_duplicate_events_total"), 1.0);
    assert_eq!(following.metric("tallylight_compactor_bot_events_total"), 1.0);
    assert_eq!(following.metric("tallylight_compactor_client_lost_events_total"), 1.0);
    until("nothing left", || (following.metric("tallylight_compactor_lag_bytes") == 0.0).then_some(()));
    assert_eq!(following.metric("tallylight_compactor_lag_seconds"), 0.0);
    let before = watermark(&data).unwrap();
    assert_eq!(before["complete_through"], "2026-11-22T14:00:00Z");
    let complete_through = following.metric("tallylight_compactor_complete_through_timestamp_seconds");
    assert_eq!(complete_through * 1e3, Hour::parse("2026-11-22T14:00:00Z").unwrap().start() as f64);
    assert_eq!(following.metric("tallylight_compactor_open_partitions"), 1.0);
    assert_eq!(before["position"], log.places[3].0, "the open hour's events wait");
    assert_eq!(following.terminate(), 0);
    let after = watermark(&data).unwrap();
    assert_eq!(after["position"], log.position(), "at the end nothing waits");
    assert_eq!(after["counts"]["read"], 4);
}

#[test]
fn systemd_hands_it_its_admin_port_and_is_told_that_it_follows_lives_and_ends() {
    let (_folder, mut log) = log();
    log.event(&event(1, 0));
    log.commit();
    let systemd = Systemd::new();
    let mut environment = systemd.environment();
    environment.push(("WATCHDOG_USEC", "900000".into()));
    let sockets = Sockets::open();
    // it sleeps for longer than it may be silent
    let flags = ["--every", "1h", "--admin", "192.0.2.1:1"];
    let mut compactor = Compactor::follow_on(&sockets, &environment, &log.data, &flags);
    while systemd.hear() != "READY=1\nSTATUS=following the log" {}
    let period = Duration::from_millis(900);
    systemd.heard_within(period);
    let heard = systemd.heard_within(4 * period);
    assert!((8..=13).contains(&heard), "{heard}");
    assert_eq!(compactor.metrics().get("tallylight_compactor_events_read_total"), 1.0);
    compactor.tell_to_end();
    let stopping = until("it to say so", || Some(systemd.hear()).filter(|said| said != "WATCHDOG=1"));
    assert_eq!(stopping, "STOPPING=1\nSTATUS=committing what has been read");
    assert!(until("its end", || compactor.ended()).success());
}

#[test]
fn a_failing_output_is_shown_and_tried_again() {
    let (_folder, mut log) = log();
    log.event(&event(1, 0));
    log.commit();
    fs::create_dir_all(log.data.join("out")).unwrap();
    fs::write(log.data.join("out/hourly"), "in the way").unwrap();
    let done = compactor(&log.data, &["--once"]);
    assert_eq!(done.status.code(), Some(1));
    assert!(watermark(&log.data).is_none(), "nothing is committed");

    let following = Following::start(&log.data, &[]);
    until("not ready", || following.get("/readyz").starts_with("HTTP/1.1 503").then_some(()));
    assert!(following.metric("tallylight_compactor_publish_errors_total") >= 1.0);
    assert!(following.metric("tallylight_compactor_lag_bytes") > 0.0);
    until("the lag grows", || (following.metric("tallylight_compactor_lag_seconds") > 0.0).then_some(()));
    fs::remove_file(log.data.join("out/hourly")).unwrap();
    until("ready again", || following.get("/readyz").starts_with("HTTP/1.1 200").then_some(()));
    assert_eq!(following.metric("tallylight_compactor_events_read_total"), 1.0, "read again is not counted again");
    assert_eq!(following.metric("tallylight_compactor_lag_bytes"), 0.0);
    assert_eq!(following.terminate(), 0);
    assert_eq!(watermark(&log.data).unwrap()["counts"]["counted"], 1);
}

#[test]
fn an_output_that_fails_for_one_hour_does_not_look_well_while_that_gathers() {
    const ERRORS: &str = "tallylight_compactor_publish_errors_total";
    let (_folder, mut log) = log();
    log.event(&event(1, 0));
    log.commit();
    assert!(compactor(&log.data, &[]).status.success());
    log.events(&[event(2, HOUR), aged(3, HOUR, 6 * HOUR)]);
    log.commit();
    let folders =
        [START + HOUR, START - 5 * HOUR].map(|at| log.data.join("out/hourly").join(layout::hour_folder(Hour::of(at))));
    for folder in &folders {
        fs::create_dir_all(folder.parent().unwrap()).unwrap();
        fs::write(folder, "in the way").unwrap();
    }
    let following = Following::start(&log.data, &[]);
    until("not ready", || following.get("/readyz").starts_with("HTTP/1.1 503").then_some(()));
    // the hour that is running could be published, and the other one would gather for ten minutes
    fs::remove_file(&folders[0]).unwrap();
    let errors = following.metric(ERRORS);
    until("it goes on failing", || (following.metric(ERRORS) >= errors + 3.0).then_some(()));
    assert!(following.get("/readyz").starts_with("HTTP/1.1 503"));
    fs::remove_file(&folders[1]).unwrap();
    until("both hours", || folders.iter().all(|folder| folder.join("node-1.parquet").exists()).then_some(()));
    until("ready again", || following.get("/readyz").starts_with("HTTP/1.1 200").then_some(()));
}

#[test]
fn bit_rot_in_the_id_index_costs_its_making_and_nothing_else() {
    let (folder, mut log) = log();
    let data = folder.path().join("data");
    log.events(&(0..50).map(|n| event(n, 0)).collect::<Vec<_>>());
    log.commit();
    assert!(compactor(&data, &[]).status.success());
    // a bit in the block that holds the ids, which is not read when the index is opened
    let index = data.join("compactor/index");
    let runs: Vec<PathBuf> = fs::read_dir(&index).unwrap().map(|entry| entry.unwrap().path()).collect();
    for run in runs.iter().filter(|path| !path.ends_with("manifest")) {
        let mut bytes = fs::read(run).unwrap();
        bytes[40] ^= 4;
        fs::write(run, bytes).unwrap();
    }
    log.events(&(0..50).map(|n| event(n, MINUTE)).collect::<Vec<_>>());
    log.commit();
    let output = compactor(&data, &[]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("made again from events"), "{}", text(&output.stderr));
    let counts = &watermark(&data).unwrap()["counts"];
    assert_eq!((&counts["counted"], &counts["duplicates"]), (&json!(50), &json!(50)));
}

#[test]
fn what_stands_before_an_unreadable_last_header_is_published() {
    let (folder, mut log) = log();
    let data = folder.path().join("data");
    log.events(&(0..20).map(|n| event(n, 0)).collect::<Vec<_>>());
    log.seal();
    log.next_segment(START + MINUTE);
    log.patch(0, &[0; 4096]);
    assert!(compactor(&data, &[]).status.success());
    assert_eq!(watermark(&data).unwrap()["counts"]["counted"], json!(20));
}

#[test]
fn a_clock_that_was_ahead_for_one_record_completes_no_hour_for_good() {
    let (folder, mut log) = log();
    let data = folder.path().join("data");
    log.events(&[event(1, 0), event(2, 1000 * HOUR), event(3, MINUTE)]);
    log.commit();
    assert!(compactor(&data, &[]).status.success());
    let complete = watermark(&data).unwrap()["complete_through"].clone();
    assert_eq!(complete, json!(Hour::of(START).to_string()));
}
