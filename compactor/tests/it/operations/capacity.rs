//! How much of a disk an event takes, and its readahead.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use arrow_array::Array;
use arrow_array::cast::AsArray;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::page::{self, Operator, blocks};
use crate::client::{Click, Client, mix};
use crate::harness::disk::Disk;
use crate::harness::{Collector, Compactor};
use crate::out;

const EVENTS: u64 = 100_000;
const EVENTS_A_GROUP: u64 = 25;
/// Of whom those of a group are.
const VISITORS_A_GROUP: u64 = 60;
/// Of one group more.
const FANS: u64 = 2000;
const BROWSERS: [&str; 4] = [
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.6 Mobile/15E148 Safari/604.1",
    "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Mobile Safari/537.36",
    "Mozilla/5.0 (X11; Linux x86_64; rv:144.0) Gecko/20100101 Firefox/144.0",
];

/// What a page of a bookshop's review site sends.
fn event(started_ms: u64, n: u64) -> String {
    let chance = mix(n);
    let book = if n < EVENTS { (chance >> 20) % (EVENTS / EVENTS_A_GROUP) } else { 0 };
    let who = if n < EVENTS { book * VISITORS_A_GROUP + chance % VISITORS_A_GROUP } else { n };
    let (event, shop) =
        if n < EVENTS { (["view", "click"][usize::from(book % 3 == 0)], "shop") } else { ("fan", "club") };
    let id = Click::new(started_ms + n / 30, n).id;
    let (visitor, review) = (mix(!who), chance % 500);
    let browser = BROWSERS[usize::try_from(visitor % 4).unwrap()];
    format!(
        r#"{{"id":"{id}","site":"reviews.example","event":"{event}","target":"https://{shop}.example/books/a-title-of-some-words-{book}","page":"https://reviews.example/2026/11/what-we-read-this-week-{review}?from=newsletter","item":"978{:010}","placement":"below-review","visitor":"{visitor:016x}{:08x}","ua":"{browser}"}}"#,
        mix(book) % 10_000_000_000,
        mix(visitor) >> 32,
    )
}

/// Rows of the hourly files, and the longest sketch.
fn hourly(out: &Path) -> (u64, usize) {
    let (mut rows, mut longest) = (0, 0);
    for path in out::files(out, "hourly") {
        let file = File::open(out.join("hourly").join(path)).unwrap();
        for batch in ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap() {
            let batch = batch.unwrap();
            rows += batch.num_rows() as u64;
            let sketches = batch.column_by_name("visitors_sketch").unwrap().as_binary::<i32>();
            longest = longest.max((0..sketches.len()).map(|row| sketches.value(row).len()).max().unwrap_or(0));
        }
    }
    (rows, longest)
}

#[test]
fn an_event_takes_as_many_bytes_as_the_page_says() {
    let [measure, _] = blocks("Capacity");
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (folder.path().join("data"), folder.path().join("out"));
    let mut collector = Collector::start(&data, &["--ip=truncate", "--trusted-proxy=127.0.0.1"]);
    let started_ms = u64::try_from(tallylight_host::clock::now()).unwrap();
    let mut client = Client::new(collector.http);
    let events: Vec<String> = (0..EVENTS + FANS).map(|n| event(started_ms, n)).collect();
    for (n, events) in (0..).zip(events.chunks(50)) {
        let from = mix(n);
        let headers = format!("X-Forwarded-For: 198.{}.{}.7\r\n", 18 + from % 2, from >> 8 & 255);
        let reply = client.ask("POST", "/api/beacon", &headers, events.join("\n").as_bytes()).unwrap();
        assert_eq!((reply.status, reply.header("tallylight-refused")), (204, None), "{reply:?}");
    }
    assert!(collector.terminate().success());
    assert!(Compactor::once(&data, &out, &[]).status.success());

    let said = Operator::of(&data, &out).runs(&measure);
    let of = |what: &str| -> u64 {
        let line = said.lines().find_map(|line| line.strip_prefix(what)).unwrap_or_else(|| panic!("{said}"));
        line.trim().parse().unwrap()
    };
    let (rows, longest) = hourly(&out);
    let hourly_bytes: u64 =
        out::files(&out, "hourly").iter().map(|path| fs::metadata(out.join("hourly").join(path)).unwrap().len()).sum();
    let all = EVENTS + FANS;
    println!(
        "{} bytes of JSON an event, {rows} groups of which one has {FANS} visitors in a sketch of {longest} bytes:\n\
         log {}, events {}, hourly {} an event and {} a row, index {}",
        events.iter().map(String::len).sum::<usize>() as u64 / all,
        of("log "),
        of("events "),
        of("hourly "),
        hourly_bytes / rows,
        of("index "),
    );
    assert!(longest <= 4200, "{longest}");
    for (what, measured) in [
        ("event in the log", of("log ")),
        ("row of `events`", of("events ")),
        ("row of `hourly`", hourly_bytes / rows),
        ("id in the index", of("index ")),
    ] {
        let stated = page::number(what);
        assert!(stated.abs_diff(measured) * 10 <= stated, "{what}: {stated} is stated, and {measured} measured");
    }
}

#[test]
fn what_the_page_says_of_readahead_sets_it_now_and_at_each_boot() {
    let [_, set] = blocks("Capacity");
    let disk = Disk::ext4(16 << 20);
    let device = fs::metadata(&disk.path).unwrap().dev();
    let device = format!("/sys/dev/block/{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    let device = fs::canonicalize(device).unwrap();
    let readahead = device.join("queue/read_ahead_kb");
    let set_to = |size: &str| fs::write(&readahead, size).unwrap();
    set_to("8192");
    // the machine's own settings stay as they are: this is seen by the block alone
    let block = format!("mount -t tmpfs tmpfs /etc/tmpfiles.d\n{set}cat /etc/tmpfiles.d/*");
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "bash", "-euo", "pipefail", "-c", &block]).env("DISK", device.file_name().unwrap());
    let output = unshare.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(fs::read_to_string(&readahead).unwrap(), "128\n");
    // what the boot does with it
    set_to("4096");
    let config = disk.path.join("readahead.conf");
    fs::write(&config, &output.stdout).unwrap();
    assert!(Command::new("systemd-tmpfiles").arg("--create").arg(&config).status().unwrap().success());
    assert_eq!(fs::read_to_string(&readahead).unwrap(), "128\n");
}
