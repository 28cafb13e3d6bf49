//! What a seed has in mind: what the machine is like, and what happens how often. Seeds differ in that on purpose: where
//! all things happen all the time, some never come together.

use std::path::PathBuf;
use std::time::Duration;

use tallylight_host::simulated::{Chance, Faults, Journal, Machine};

/// 2026-11-22T13:00:00Z, when all begins.
pub const START: i64 = 1_795_352_400_000;
pub const SECOND: i64 = 1000;
pub const HOUR: i64 = 3600 * SECOND;

#[derive(Debug)]
pub struct Plan {
    pub machine: Machine,
    /// What may happen while nothing else is said.
    pub faults: Faults,
    /// Of a hundred starts of a program, so many end early.
    pub early_deaths: u32,
    /// Whether one call fails, chance apart.
    pub one_call_fails: bool,
    /// Whether bits rot.
    pub rots: bool,
    pub segment_size: u64,
    pub sync_interval: Duration,
    /// How long segments are kept, in ms.
    pub retain: i64,
    /// Things that happen.
    pub actions: usize,
    /// Those that happen first.
    pub script: Vec<Action>,
    /// How often each kind of thing happens.
    pub weights: Vec<(Action, u32)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Post,
    Pixel,
    Datagram,
    Again,
    Write,
    Sync,
    Supply,
    Compact,
    Wait,
    WaitLong,
    SetClock,
    Fill,
    KillCollector,
    KillCompactor,
    PowerCut,
    Stop,
    Rot,
}

impl Plan {
    pub fn of(chance: &mut Chance) -> Self {
        let journal = if chance.percent(50) { Journal::Loose } else { Journal::Ordered };
        let is_honest = chance.percent(88);
        let rots = is_honest && chance.percent(10);
        let liar = (!is_honest).then(|| PathBuf::from("/data"));
        let mut often = |percent: u32, choices: &[u32]| if chance.percent(percent) { *chance.pick(choices) } else { 0 };
        let has_errors = often(35, &[1]) == 1;
        let faults = Faults {
            kill: often(60, &[100, 300, 1000]),
            power_cut: often(50, &[300, 1000, 3000]),
            read_error: if has_errors { often(50, &[200, 1000]) } else { 0 },
            write_error: if has_errors { often(50, &[50, 200]) } else { 0 },
            sync_error: if has_errors { often(70, &[5, 20, 60]) } else { 0 },
            turn: often(80, &[2, 5, 20]),
            write_back: often(70, &[5, 20, 100]),
        };
        let early_deaths = often(30, &[3, 10]);
        let mut weights = vec![
            (Action::Post, 20),
            (Action::Pixel, often(60, &[4, 10])),
            (Action::Datagram, often(60, &[5, 20])),
            (Action::Again, often(70, &[3, 10])),
            (Action::Write, 20),
            (Action::Sync, 10),
            (Action::Supply, 10),
            (Action::Compact, often(90, &[1, 4, 10])),
            (Action::Wait, 10),
            (Action::WaitLong, often(60, &[1, 2])),
            (Action::SetClock, often(30, &[1])),
            (Action::Fill, often(30, &[1, 3])),
            (Action::KillCollector, often(50, &[1, 2])),
            (Action::KillCompactor, often(50, &[1])),
            (Action::PowerCut, often(50, &[1, 2])),
            (Action::Stop, often(40, &[1])),
        ];
        if rots {
            weights.push((Action::Rot, 1));
        }
        let segment_size = u64::from(*chance.pick(&[64_u32, 64, 96])) * 1024;
        Self {
            machine: Machine { disk_size: 4 << 20, journal, liar, now: START },
            faults,
            early_deaths,
            one_call_fails: false,
            rots,
            segment_size,
            sync_interval: Duration::from_millis(u64::from(*chance.pick(&[50_u32, 1000, 1000, 5000]))),
            retain: *chance.pick(&[0, HOUR, 3 * HOUR, i64::MAX]),
            actions: 150 + chance.below(250),
            script: Vec::new(),
            weights,
        }
    }

    /// A short life with everything in it, in which nothing goes wrong by itself.
    pub fn short(journal: Journal) -> Self {
        use Action::{Again, Compact, Datagram, Post, Stop, Sync, WaitLong, Write};
        let day = [Post, Post, Write, Sync, Post, Datagram, Write, Compact, Again, Post, Write, WaitLong];
        let script = [&day[..], &day[..], &[Stop, Post, Write, Compact, Post, Write, Sync, WaitLong, Compact]].concat();
        Self {
            machine: Machine { disk_size: 4 << 20, journal, liar: None, now: START },
            faults: Faults::default(),
            rots: false,
            early_deaths: 0,
            one_call_fails: false,
            segment_size: 64 << 10,
            sync_interval: Duration::from_secs(1),
            retain: HOUR,
            actions: script.len(),
            script,
            weights: Vec::new(),
        }
    }

    /// Whether what was synced stays, and nothing else is changed.
    pub fn is_honest(&self) -> bool {
        self.machine.liar.is_none() && !self.rots
    }

    /// Whether calls fail that a sound disk has no reason to fail.
    pub fn has_errors(&self) -> bool {
        let Faults { read_error, write_error, sync_error, .. } = self.faults;
        self.one_call_fails || read_error + write_error + sync_error > 0
    }

    /// What happens as the n-th thing.
    pub fn next(&self, n: usize, chance: &mut Chance) -> Action {
        if let Some(action) = self.script.get(n) {
            return *action;
        }
        let sum: u32 = self.weights.iter().map(|(_, weight)| weight).sum();
        let mut at = u32::try_from(chance.below(sum as usize)).expect("weights are small");
        for (action, weight) in &self.weights {
            if at < *weight {
                return *action;
            }
            at -= weight;
        }
        unreachable!("it is below the sum")
    }
}
