//! What is done to the programs: a storm of kills, and long lives in which everything else happens.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use super::clock::{DAY, HOUR, MINUTE, SECOND};
use super::programs::{Place, Programs, Volume, Who};
use crate::harness::{Chance, Process, assert_audit, try_request};

/// How often the audit is made while both programs work.
const AUDIT_EVERY: Duration = Duration::from_secs(60);
/// Before a border of an hour or a day, and behind it.
const BORDER: i64 = 1500;

/// How a clock jumps.
#[derive(Clone, Copy, Debug)]
enum Jump {
    Forward,
    Back,
    Ahead,
    HourBorder,
    DayBorder,
    RepeatedSecond,
}

/// What happens while the processes live on.
#[derive(Clone, Copy, Debug)]
enum Calm {
    Stand,
    Fill,
    Jump(Jump),
}

/// In this order, again and again.
const CALM: [Calm; 13] = [
    Calm::Fill,
    Calm::Jump(Jump::Forward),
    Calm::Jump(Jump::Back),
    Calm::Jump(Jump::HourBorder),
    Calm::Stand,
    Calm::Fill,
    Calm::Jump(Jump::RepeatedSecond),
    Calm::Jump(Jump::Ahead),
    Calm::Jump(Jump::Forward),
    Calm::Stand,
    Calm::Jump(Jump::DayBorder),
    Calm::Fill,
    Calm::Jump(Jump::Back),
];

/// Does things to the programs, by chance.
pub struct Faults<'a> {
    pub programs: Programs<'a>,
    /// How often what was done.
    pub done: BTreeMap<&'static str, u64>,
    place: &'a Place,
    chance: Chance,
    /// Where in [`CALM`].
    turn: usize,
    audited: Instant,
}

impl<'a> Faults<'a> {
    /// Nothing yet.
    pub fn new(place: &'a Place, programs: Programs<'a>, seed: u64) -> Self {
        Self { programs, done: BTreeMap::new(), place, chance: Chance(seed), turn: 0, audited: Instant::now() }
    }

    /// Mostly kills, one after another.
    pub fn storm(&mut self, until: Instant) {
        while Instant::now() < until {
            let who = self.anybody();
            match self.chance.below(100) {
                0..50 => self.kill(who),
                50..65 => self.kill_at_start(who),
                65..80 => self.restart(who),
                80..85 => self.stand(who),
                85..92 => self.fill(true),
                _ => {
                    let jumps = [
                        Jump::Forward,
                        Jump::Back,
                        Jump::Ahead,
                        Jump::HourBorder,
                        Jump::DayBorder,
                        Jump::RepeatedSecond,
                    ];
                    let jump = self.chance.one_of(&jumps);
                    self.jump(who, jump);
                }
            }
            self.rest(50, 1200);
        }
    }

    /// The processes live on, while disks fill up and clocks jump, each in its turn.
    pub fn calm(&mut self, until: Instant) {
        while Instant::now() < until {
            let who = self.anybody();
            match CALM[self.turn % CALM.len()] {
                Calm::Stand => self.stand(who),
                Calm::Fill => self.fill(false),
                Calm::Jump(jump) => self.jump(who, jump),
            }
            self.turn += 1;
            self.rest(500, 4000);
        }
    }

    /// A moment by chance, which is what this is about, after which all is in order.
    fn rest(&mut self, least: u64, most: u64) {
        self.wait(least, most);
        self.programs.assert_alive();
        if self.audited.elapsed() > AUDIT_EVERY {
            assert_audit(self.place.data(), self.place.out());
            self.count("audits on the way");
            self.audited = Instant::now();
        }
    }

    fn wait(&mut self, least: u64, most: u64) {
        thread::sleep(Duration::from_millis(least + self.chance.below(most - least)));
    }

    fn count(&mut self, what: &'static str) {
        *self.done.entry(what).or_default() += 1;
    }

    fn anybody(&mut self) -> Who {
        self.chance.one_of(&[Who::Collector, Who::Collector, Who::Compactor, Who::Compactor, Who::Both])
    }

    fn count_kill(&mut self, who: Who) {
        if who.is_collector() {
            self.count("kill -9 of the collector");
        }
        if who.is_compactor() {
            self.count("kill -9 of the compactor");
        }
    }

    fn kill(&mut self, who: Who) {
        self.programs.kill(who);
        self.count_kill(who);
        self.programs.spawn(who);
        self.programs.wait_ready(who);
    }

    /// Again and again, while it recovers what the last one left.
    fn kill_at_start(&mut self, who: Who) {
        for _ in 0..1 + self.chance.below(4) {
            self.programs.kill(who);
            self.count_kill(who);
            self.count("of the kills, within 40 ms of the start");
            self.programs.spawn(who);
            self.wait(0, 40);
        }
        self.kill(who);
    }

    fn restart(&mut self, who: Who) {
        self.programs.terminate(who);
        self.count("restarts by SIGTERM");
        self.programs.spawn(who);
        self.programs.wait_ready(who);
    }

    fn stand(&mut self, who: Who) {
        self.programs.each(who, |process| process.stop());
        self.wait(200, 3000);
        self.programs.each(who, |process| process.cont());
        self.count("standing still (SIGSTOP)");
    }

    /// Disks are full for some seconds, then free.
    fn fill(&mut self, with_kills: bool) {
        let who = self.anybody();
        let place = self.place;
        let volumes: Vec<&Volume> = match who {
            Who::Collector => vec![&place.log],
            Who::Compactor => vec![&place.output],
            Who::Both => vec![&place.log, &place.output],
        };
        self.count(match who {
            Who::Collector => "full disk under the log",
            Who::Compactor => "full disk under the output",
            Who::Both => "both disks full",
        });
        let end = Instant::now() + Duration::from_millis(2000 + self.chance.below(4000));
        let (mut has_shed, mut has_waited) = (false, false);
        while Instant::now() < end {
            // what the programs let go of is taken, too
            volumes.iter().for_each(|volume| volume.ballast.grow());
            if with_kills && self.chance.below(8) == 0 {
                let who = self.anybody();
                self.programs.kill(who);
                self.count_kill(who);
                self.count("of the kills, on a full disk");
                self.programs.spawn(who);
                self.programs.wait_answers(who);
            }
            has_shed |= !is_ready(&self.programs.collector);
            has_waited |= !is_ready(&self.programs.compactor);
            self.wait(50, 200);
        }
        volumes.iter().for_each(|volume| volume.ballast.free());
        self.programs.wait_ready(Who::Both);
        if has_shed {
            self.count("of the full disks, the collector shed");
        }
        if has_waited {
            self.count("of the full disks, the compactor had to try again");
        }
    }

    fn jump(&mut self, who: Who, jump: Jump) {
        match jump {
            Jump::Forward => {
                let by = self.chance.one_of(&[90 * SECOND, 25 * MINUTE, HOUR, 5 * HOUR, DAY]);
                self.shift(who, by);
                self.count("clock jumps forward");
            }
            Jump::Back => {
                let by = self.chance.one_of(&[2 * SECOND, 10 * MINUTE, 3 * HOUR, DAY + 2 * HOUR]);
                self.shift_for_a_while(who, -by);
                self.count("clock jumps back, and right again");
            }
            Jump::Ahead => {
                let by = self.chance.one_of(&[HOUR, DAY, 2 * DAY]);
                self.shift_for_a_while(who, by);
                self.count("clock jumps ahead, and right again");
            }
            Jump::HourBorder => self.cross(who, HOUR, "hour borders crossed, set back behind and crossed again"),
            Jump::DayBorder => self.cross(who, DAY, "day borders crossed, set back behind and crossed again"),
            Jump::RepeatedSecond => self.repeat_a_second(who),
        }
        self.wait(1000, 4000);
        // a clock that stays behind the other keeps segments for as long: this is about other things
        let ahead = self.place.collector_clock.now().max(self.place.compactor_clock.now());
        for clock in [&self.place.collector_clock, &self.place.compactor_clock] {
            clock.shift(ahead - clock.now());
        }
    }

    fn shift_for_a_while(&mut self, who: Who, by: i64) {
        self.shift(who, by);
        self.wait(1000, 4000);
        self.shift(who, -by);
    }

    fn shift(&self, who: Who, by: i64) {
        if who.is_collector() {
            self.place.collector_clock.shift(by);
        }
        if who.is_compactor() {
            self.place.compactor_clock.shift(by);
        }
    }

    /// To a moment before the next border, over it, back behind it, and over it again.
    fn cross(&mut self, who: Who, border: i64, what: &'static str) {
        let clock = if who.is_collector() { &self.place.collector_clock } else { &self.place.compactor_clock };
        let to = border - clock.now().rem_euclid(border) - BORDER;
        self.shift(who, to);
        for _ in 0..2 {
            self.wait(2000, 2500);
            self.shift(who, -2 * BORDER);
        }
        self.count(what);
    }

    /// As for a leap second, only more often: the same second three times.
    fn repeat_a_second(&mut self, who: Who) {
        for _ in 0..3 {
            self.wait(900, 1100);
            self.shift(who, -SECOND);
        }
        self.count("seconds repeated three times");
    }
}

fn is_ready(process: &Process) -> bool {
    try_request(process.admin, "GET", "/readyz", &[], b"").is_ok_and(|reply| reply.status == 200)
}
