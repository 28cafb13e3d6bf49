//! Every state of the collector, in every browser: `clicks` of each kind of tracking in each.

use std::env;
use std::path::Path;
use std::thread;
use std::time::Duration;

use crate::browsers::state::{Patient, State};
use crate::browsers::table;
use crate::browsers::trial::{self, Tracking, Trial};
use crate::harness::browser::{Browser, Kind};
use crate::harness::site::Site;
use crate::harness::{Compactor, assert_audit, free_addr, inspect, wait_for_within};
use crate::python;

/// Clicks of each kind of tracking in each state, unless `CLICKS` says otherwise.
const CLICKS: u8 = 2;
/// What is promised to arrive without another visit has done so by then: a kernel asks for a connection again after 1,
/// 3 and 7 seconds.
const BY_ITSELF: Duration = Duration::from_secs(30);
/// Were clicks to wait for a collector that is slow or silent, each would wait longer than that. On a busy machine single
/// ones do, whatever they are.
const AT_ONCE_MS: f64 = 200.0;

#[test]
fn every_click_in_chromium_counts_once_and_nobody_waits_whatever_the_collector_does() {
    play(Kind::Chromium);
}

#[test]
fn every_click_in_firefox_counts_once_and_nobody_waits_whatever_the_collector_does() {
    play(Kind::Firefox);
}

#[test]
#[ignore = "needs WebKitGTK, which only `make browsers` installs"]
fn every_click_in_webkit_counts_once_and_nobody_waits_whatever_the_collector_does() {
    play(Kind::Webkit);
}

fn play(kind: Kind) {
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (folder.path().join("data"), folder.path().join("out"));
    let site = Site::start(trial::serve);
    let mut patient = Patient::new(&data, free_addr().port());
    let browser = Browser::start(kind);
    let clicks = env::var("CLICKS").map_or(CLICKS, |clicks| clicks.parse().expect("CLICKS is a number up to 80"));

    let mut trials: Vec<Trial> = Vec::new();
    for (cell, state) in (1..).zip(State::ALL) {
        trials.extend(play_cell(&browser, &site, &mut patient, &data, Cell { state, cell, clicks }));
    }
    patient.end();
    let once = Compactor::once(&data, &out, &["--by", "item"]);
    assert!(once.status.success(), "{}", String::from_utf8_lossy(&once.stderr));
    assert_audit(&data, &out);

    let counted = python::read("by_item.py", &[&out]);
    println!("{}", table::of(&browser, &trials, &counted));
    for trial in &trials {
        let name = format!("{:?}, {:?}, {}", trial.state, trial.tracking, trial.item);
        assert!(trial.delay.is_some(), "{name}: the visitor is stuck");
        assert_eq!(trial.console, Vec::<String>::new(), "{name}");
        let counted = &counted[&trial.item]["events"];
        if trial.is_tracked() {
            assert_eq!(*counted, 1, "{name}: counted, not once");
        } else {
            assert!(counted.is_null(), "{name}: {counted}");
        }
    }
    assert!(counted["bad"].is_null(), "{counted}");
    for state in State::ALL {
        let added = table::least_added(&trials, state);
        assert!(added < AT_ONCE_MS, "{state:?}: each visitor waits, {added} ms at least");
    }
}

/// A row of the table.
#[derive(Clone, Copy)]
struct Cell {
    state: State,
    cell: u8,
    clicks: u8,
}

fn play_cell(browser: &Browser, site: &Site, patient: &mut Patient, data: &Path, cell: Cell) -> Vec<Trial> {
    let Cell { state, cell, clicks } = cell;
    let port = patient.port(state);
    let mut trials: Vec<Trial> = (0..clicks)
        .flat_map(|number| {
            let mut order = Tracking::ALL;
            // so that none of them is always the first
            order.rotate_left(usize::from(number) % Tracking::ALL.len());
            order.map(|tracking| Trial::new(state, tracking, cell, number))
        })
        .collect();

    let open = |trials: &mut [Trial], inline: bool| {
        let chosen = trials.iter_mut().filter(|trial| (trial.tracking == Tracking::Inline) == inline);
        chosen.for_each(|trial| trial.open(browser, site, port));
    };
    open(&mut trials, false);
    patient.fall_into(state);
    open(&mut trials, true);
    let half = trials.len() / 2;
    for (place, trial) in trials.iter_mut().enumerate() {
        match state {
            State::Dies if place == half => patient.die(),
            State::RefusesOneEvent => trial.make_bad_event(),
            _ => {}
        }
        thread::scope(|scope| {
            if let Some(time) = state.without_syns() {
                patient.lose_syns(true);
                let patient = &*patient;
                // this is what the network does, not a wait for anything
                scope.spawn(move || {
                    thread::sleep(time);
                    patient.lose_syns(false);
                });
            }
            trial.click(site);
        });
    }
    patient.recover(state);
    see_what_is_there(data, state, &mut trials);
    trials.iter_mut().for_each(|trial| trial.come_back(browser, site, port));
    trials
}

/// Which clicks are in the log before anybody comes back. Those that are promised to be are waited for.
fn see_what_is_there(data: &Path, state: State, trials: &mut [Trial]) {
    let mut look = || {
        let events = inspect(data);
        for trial in trials.iter_mut() {
            trial.at_once = events.iter().any(|event| event["item"] == *trial.item);
        }
        trials.iter().all(|trial| trial.at_once || !trial.is_tracked()).then_some(())
    };
    if state.takes_all_at_once() {
        wait_for_within(BY_ITSELF, &format!("all clicks to arrive by themselves: {}", state.words()), look);
    } else {
        look();
    }
}
