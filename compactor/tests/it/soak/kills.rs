//! `kill -9` of both programs, two hundred times in all, on a real disk and with real sockets: at work, while they
//! recover, and both at the same time.

use std::env;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use super::load::Load;
use super::oracle;
use super::tempo::Tempo;
use crate::harness::{Chance, Collector, Compactor, wait_for};

/// Small segments, used again at once: recovery meets files in every state.
const COLLECTOR: [&str; 2] = ["--segment-size=1MiB", "--sync-interval=100ms"];
const COMPACTOR: [&str; 2] = ["--every=20ms", "--retain=0s"];
/// Events a second, as far as the collector is there.
const RATE: u64 = 3000;

/// How often one program was killed, and how often of that before it was ready.
#[derive(Clone, Copy, Debug, Default)]
struct Kills {
    all: u64,
    at_start: u64,
}

impl Kills {
    /// The next one. Whether it comes at once.
    fn next(&mut self, chance: &mut Chance) -> bool {
        let is_at_start = chance.below(4) == 0;
        self.all += 1;
        self.at_start += u64::from(is_at_start);
        is_at_start
    }
}

/// The moment is what this is about, so here a time is waited for.
fn wait(chance: &mut Chance, most: u64) {
    thread::sleep(Duration::from_micros(chance.below(most * 1000)));
}

/// Kills the collector so often. It runs before and after.
fn kill_collector(collector: &mut Collector, count: u64, load: &Load) -> Kills {
    let (mut kills, mut chance) = (Kills::default(), Chance(1));
    while kills.all < count {
        if kills.next(&mut chance) {
            wait(&mut chance, 40);
        } else {
            collector.wait_ready();
            let before = load.tally.acknowledged();
            wait_for("an acknowledged event", || (load.tally.acknowledged() > before).then_some(()));
            wait(&mut chance, 30);
        }
        collector.kill9();
        collector.spawn_again();
    }
    collector.wait_ready();
    kills
}

/// Kills the compactor so often. It runs after that.
fn kill_compactor(data: &Path, out: &Path, count: u64) -> (Compactor, Kills) {
    let (mut kills, mut chance) = (Kills::default(), Chance(2));
    let start = || Compactor::spawn_follow(&Vec::new(), data, out, &COMPACTOR);
    let mut compactor = start();
    while kills.all < count {
        if kills.next(&mut chance) {
            wait(&mut chance, 60);
        } else {
            compactor.wait_ready();
            let passes = || compactor.metrics().count("tallylight_compactor_passes_total");
            wait_for("something published", || (passes() > 0).then_some(()));
            wait(&mut chance, 60);
        }
        compactor.kill9();
        compactor = start();
    }
    compactor.wait_ready();
    (compactor, kills)
}

/// The name of the file system that a folder is on.
fn file_system(folder: &Path) -> String {
    let output = Command::new("df").arg("--output=fstype").arg(folder).output().unwrap();
    String::from_utf8(output.stdout).unwrap().lines().last().unwrap().to_owned()
}

#[test]
fn two_hundred_kills_under_load_lose_nothing_and_count_nothing_twice() {
    let each = env::var("KILLS").map_or(200, |kills| kills.parse::<u64>().unwrap()) / 2;
    // beside the build, which is on a disk
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let disk = file_system(folder.path());
    assert!(!["tmpfs", "ramfs"].contains(&disk.as_str()), "{} is in memory", folder.path().display());
    let [data, out, journals] = ["data", "out", "journals"].map(|name| folder.path().join(name));
    std::fs::create_dir(&journals).unwrap();
    let mut collector = Collector::spawn_under(Vec::new(), &data, &COLLECTOR);
    let load = Load::new(collector.http, collector.udp, journals.clone(), Tempo::of(RATE), 200);
    let began = Instant::now();
    let (mut compactor, killed, sources) = thread::scope(|scope| {
        let over = load.over.when_dropped();
        let senders = scope.spawn(|| load.send());
        let compactors = scope.spawn(|| kill_compactor(&data, &out, each));
        let of_collector = kill_collector(&mut collector, each, &load);
        let (compactor, of_compactor) = compactors.join().unwrap();
        drop(over);
        (compactor, [of_collector, of_compactor], senders.join().unwrap())
    });
    let time = began.elapsed();
    let sources = oracle::settle_datagrams(&collector, sources);
    for (process, name) in [(&mut *collector, "collector"), (&mut *compactor, "compactor")] {
        assert_eq!(process.terminate().code(), Some(0), "{name}: {}", process.stderr());
    }
    let once = Compactor::once(&data, &out, &COMPACTOR[1..]);
    assert!(once.status.success(), "{}", String::from_utf8_lossy(&once.stderr));
    let found = oracle::judge(&data, &out, &journals, &load.tally, &sources);
    for (kills, name) in killed.iter().zip(["collector", "compactor"]) {
        println!("{} kills of the {name}, {} of them before it was ready", kills.all, kills.at_start);
    }
    println!(
        "in {time:.1?}, on {disk}: {} events acknowledged, all counted, {} others, {} copies, {} bodies that got no answer; \
         {} rows, none twice; audit: {}",
        load.tally.acknowledged(),
        found.unknown,
        load.tally.copies.load(Relaxed),
        load.tally.unanswered.load(Relaxed),
        found.rows,
        found.audit
    );
    assert_eq!(killed.map(|kills| kills.all), [each; 2]);
    assert!(load.tally.acknowledged() > 10 * each, "{:?}", load.tally);
}
