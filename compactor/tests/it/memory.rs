//! What a compactor that has nothing to do keeps in memory.

use std::fs;
use std::time::Duration;

use tallylight_proto::Event;

use crate::harness::{Compactor, wait_for_within};
use crate::testlog::{self, HOUR, TestLog};

const EVENTS: u64 = 240_000;
/// Besides the program's own few MiB, what was needed is freed: a quarter of the most is plenty.
const PART_KEPT: u64 = 4;
/// An arena of another thread than the first reserves 64 MiB, of which most is out of reach until it grows (`malloc/arena.c` of glibc).
const RESERVED: u64 = 16 << 20;

#[test]
fn what_a_long_log_needed_is_given_back_and_its_threads_had_it_in_common() {
    let folder = testlog::folder();
    let (data, out) = (folder.path().join("data"), folder.path().join("out"));
    let mut log = TestLog::new(&data, 64 << 20);
    for n in 0..EVENTS {
        log.event(&Event { target: format!("https://shop.example/{n}").into(), ..testlog::event(n, 0) });
    }
    // the hour is over
    log.ledger(testlog::START + 9 * HOUR);
    log.commit();
    let compactor = Compactor::follow(&data, &out, &["--every", "1h"]);
    wait_for_within(Duration::from_secs(60), "all of it compacted", || {
        out.join("watermark/node-1.json").exists().then_some(())
    });
    assert_eq!(reserved(&compactor), 0, "arenas of single threads");
    wait_for_within(Duration::from_secs(30), "memory given back", || {
        let [now, most] = ["VmRSS", "VmHWM"].map(|name| compactor.status_line(name));
        (now < most / PART_KEPT).then_some(())
    });
}

/// How many large ranges of addresses there are that nobody may touch (`proc_pid_maps(5)`).
fn reserved(compactor: &Compactor) -> usize {
    let maps = fs::read_to_string(format!("/proc/{}/maps", compactor.pid())).unwrap();
    let untouchable = maps.lines().filter(|line| line.contains(" ---p "));
    let len = |line: &str| {
        let (from, to) = line.split_once(' ')?.0.split_once('-')?;
        Some(u64::from_str_radix(to, 16).ok()? - u64::from_str_radix(from, 16).ok()?)
    };
    untouchable.filter(|line| len(line).unwrap() >= RESERVED).count()
}
