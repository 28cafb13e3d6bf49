//! Both programs for a long time, under a load that changes, with kills, full disks and clocks that jump; then the audit.
//!
//! ```text
//!  tempo ─▶ load ──HTTP, datagrams──▶ programs ─▶ audit ─┐
//!             └────────── journals ────────────────────────┴─▶ oracle ─▶ report
//!  faults ─▶ programs, disks, clocks          watch ─▶ flat ─────────────┘
//! ```
//!
//! `make soak MINUTES=30` runs it on release binaries. A minute of it is among the tests.

pub mod clock;
mod faults;
mod flat;
mod journal;
mod kills;
mod load;
mod oracle;
mod programs;
mod report;
mod tempo;
mod watch;

use std::env;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::Over;
use faults::Faults;
use load::Load;
use programs::{Place, Programs, Who};
use report::Report;
use tempo::Tempo;
use watch::Watch;

/// How long, and what of it.
struct Plan {
    /// How often kills come and a stretch without restarts follows.
    rounds: usize,
    storm: Duration,
    calm: Duration,
    /// How often to look.
    look: Duration,
    /// Bytes of each of the two disks.
    disk: u64,
    /// Events a second, mostly.
    rate: u64,
    /// Whether what is seen is enough for a verdict.
    judges_flatness: bool,
    seed: u64,
}

impl Plan {
    /// A third of the time kills, for the rest the processes live on; rounds of some ten minutes.
    fn of_minutes(minutes: u64) -> Self {
        let rounds = minutes.div_ceil(10).max(1);
        let round = Duration::from_secs(minutes * 60) / u32::try_from(rounds).unwrap();
        Self {
            rounds: usize::try_from(rounds).unwrap(),
            storm: round * 3 / 10,
            calm: round * 7 / 10,
            look: Duration::from_secs(2),
            // a full disk is filled by ballast, so that it may be as large as what comes together needs
            disk: (192 + 32 * minutes) << 20,
            rate: 2500,
            judges_flatness: minutes >= 10,
            seed: env::var("SEED").map_or_else(|_| clock::now().unsigned_abs(), |seed| seed.parse().unwrap()),
        }
    }

    fn run(self) {
        println!("seed {}", self.seed);
        let began = Instant::now();
        let folder = tempfile::tempdir().unwrap();
        let journals = folder.path().join("journals");
        std::fs::create_dir(&journals).unwrap();
        let place = Place::new(self.disk, folder.path());
        let programs = Programs::start(&place);
        let (http, udp) = (programs.collector.http, programs.collector.udp);
        let load = Load::new(http, udp, journals.clone(), Tempo::of(self.rate), self.seed);
        let (watch, watched) = (Watch::default(), Over::default());
        let mut faults = Faults::new(&place, programs, self.seed);
        let sources = thread::scope(|scope| {
            let stop_watching = watched.when_dropped();
            scope.spawn(|| watch.run(&place, self.look, &watched));
            let stop_sending = load.over.when_dropped();
            scope.spawn(|| load.tempo.conduct(&load.over, self.rate, self.seed));
            let senders = scope.spawn(|| load.send());
            for round in 0..self.rounds {
                faults.storm(Instant::now() + self.storm);
                watch.calm(Some(round));
                faults.calm(Instant::now() + self.calm);
                watch.calm(None);
                println!("{:>4} s: {} events acknowledged", began.elapsed().as_secs(), load.tally.acknowledged());
            }
            drop(stop_sending);
            let sources = oracle::settle_datagrams(&faults.programs.collector, senders.join().unwrap());
            drop(stop_watching);
            sources
        });
        let programs = &mut faults.programs;
        programs.terminate(Who::Both);
        programs.compact_once();
        let found = oracle::judge(place.data(), place.out(), &journals, &load.tally, &sources);
        let report = Report { time: began.elapsed(), tally: &load.tally, faults: &faults, found: &found };
        println!("{report}");
        let (table, rising) = flat::table(&watch.samples());
        println!("{table}");
        assert!(rising.is_empty() || !self.judges_flatness, "not flat: {rising:?}");
        let done = |what: &str| faults.done.iter().any(|(name, times)| name.contains(what) && *times > 0);
        let missing: Vec<&str> =
            ["of the collector", "of the compactor", "full", "clock"].into_iter().filter(|what| !done(what)).collect();
        assert!(missing.is_empty(), "never done: {missing:?}");
    }
}

#[test]
fn a_minute_of_kills_full_disks_and_clock_jumps_loses_nothing_and_counts_nothing_twice() {
    Plan {
        rounds: 1,
        storm: Duration::from_secs(20),
        calm: Duration::from_secs(25),
        look: Duration::from_millis(500),
        disk: 128 << 20,
        rate: 1000,
        judges_flatness: false,
        ..Plan::of_minutes(1)
    }
    .run();
}

#[test]
#[ignore = "takes as long as MINUTES says: `make soak`"]
fn for_as_long_as_you_like_nothing_is_lost_nothing_counts_twice_and_memory_and_files_stay_flat() {
    Plan::of_minutes(env::var("MINUTES").map_or(30, |minutes| minutes.parse().unwrap())).run();
}
