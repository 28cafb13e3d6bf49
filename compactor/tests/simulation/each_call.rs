//! A short life, in which each call to the machine goes wrong once: SQLite is tested like this.

use std::sync::atomic::{AtomicU64, Ordering};

use tallylight_host::simulated::{Chance, Fate, Journal};

use crate::life::Life;
use crate::on_all_processors;
use crate::plan::Plan;

/// Lives as often as there are calls; in each life the next one has this fate. A panic names it.
fn at_each_call(fate: Fate, journal: Journal) {
    let one_call_fails = matches!(fate, Fate::Error | Fate::NoSpace);
    let live = |at| Life::run_as(Plan { one_call_fails, ..Plan::short(journal) }, Chance::new(1), at);
    let (undisturbed, _) = live(None);
    assert!(undisturbed.steps > 500 && undisturbed.released > 0, "too little happens: {undisturbed}");
    let next = AtomicU64::new(1);
    on_all_processors(|| {
        loop {
            let step = next.fetch_add(1, Ordering::Relaxed);
            if step > undisturbed.steps {
                return;
            }
            let lived = std::panic::catch_unwind(|| live(Some((step, fate))));
            assert!(lived.is_ok(), "{fate:?} at call {step} of {}", undisturbed.steps);
        }
    });
}

#[test]
fn a_kill_before_any_call_changes_nothing() {
    at_each_call(Fate::Kill, Journal::Loose);
}

#[test]
fn a_power_cut_before_any_call_takes_nothing_that_was_promised() {
    at_each_call(Fate::PowerCut, Journal::Loose);
    at_each_call(Fate::PowerCut, Journal::Ordered);
}

#[test]
fn an_error_of_any_call_loses_nothing() {
    at_each_call(Fate::Error, Journal::Loose);
}

#[test]
fn a_full_disk_at_any_call_loses_nothing() {
    at_each_call(Fate::NoSpace, Journal::Loose);
}
