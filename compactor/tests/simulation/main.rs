//! The whole life of both programs, on a machine that exists in memory, driven by one seed in one thread.
//!
//! ```text
//!  traffic ──▶ door ──▶ channel ──▶ writer ──▶ segments ──▶ compactor ──▶ events, hourly, watermark ──▶ retention
//!     │                                                                            │
//!     └────────────▶ oracle: what was sent, what was promised ◀────────────────────┘
//! ```
//!
//! The machine (`tallylight_host::simulated`) kills, fails, fills up, loses power and rots as the seed says; what each
//! program does is its own code, unchanged. `life` says what happens next, `oracle` knows what must then be true, and `names`
//! what must be on disk before what.
//!
//! A seed that fails prints the line that runs it again. `SEEDS=10000` runs more of them, `SEED=7` that one, and
//! `TRACE=1 SEED=7` with `--nocapture` tells every call to the machine and all that the programs log.
//! `MOST_FAILURES=1` ends with the first that fails.

// all of this is tests, which clippy only knows of functions that are marked so
#![allow(clippy::unwrap_used)]

mod each_call;
mod figures;
mod life;
mod moments;
mod names;
mod oracle;
mod outputs;
mod plan;
mod programs;
#[path = "../it/testlog.rs"]
mod testlog;
mod traffic;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use figures::Figures;
use life::Life;

/// How many seeds `make test` runs.
const SEEDS: u64 = 2000;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable} is no number: {text}")))
}

/// Lives share nothing, so each processor can have one.
fn on_all_processors(work: impl Fn() + Sync) {
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(&work);
        }
    });
}

#[test]
fn every_promise_is_kept_whatever_the_seed_does() {
    if let Some(seed) = number("SEED") {
        if std::env::var_os("TRACE").is_some() {
            tracing_subscriber::fmt().without_time().with_writer(std::io::stderr).init();
        }
        let (figures, _) = Life::run(seed);
        return println!("seed {seed}: {figures}");
    }
    let (first, count) = (number("FIRST_SEED").unwrap_or(1), number("SEEDS").unwrap_or(SEEDS));
    let most_failures = number("MOST_FAILURES").unwrap_or(10);
    let started = Instant::now();
    let next = AtomicU64::new(first);
    let all = Mutex::new(Figures::default());
    let failed = Mutex::new(Vec::new());
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + count || failed.lock().unwrap().len() as u64 >= most_failures {
                return;
            }
            match catch_unwind(AssertUnwindSafe(|| Life::run(seed))) {
                Ok((figures, _)) => all.lock().unwrap().add(&figures),
                Err(_) => {
                    eprintln!(
                        "seed {seed} failed: SEED={seed} cargo test -p tallylight-compactor --test simulation every_promise"
                    );
                    failed.lock().unwrap().push(seed);
                }
            }
        }
    };
    on_all_processors(work);
    let (figures, failed) = (all.into_inner().unwrap(), failed.into_inner().unwrap());
    println!("{count} seeds from {first} on in {:.0} s: {figures}", started.elapsed().as_secs_f64());
    assert!(failed.is_empty(), "seeds {failed:?} failed");
    if count >= SEEDS {
        figures.assert_everything_happened();
    }
}

#[test]
fn a_seed_does_the_same_each_time() {
    for seed in 1..=20 {
        let (_, once) = Life::run(seed);
        let (_, again) = Life::run(seed);
        assert_eq!(once, again, "seed {seed}");
    }
}
