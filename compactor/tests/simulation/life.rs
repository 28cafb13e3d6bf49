//! One life: what happens next, and what is looked at after it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use tallylight_collector::door::Posted;
use tallylight_collector::log::by_turns::Thread;
use tallylight_collector::log::{Level, LogError, Recovered, storage};
use tallylight_compactor::commit::Commit;
use tallylight_host::disk;
use tallylight_host::simulated::{Call, Chance, Death, Fate, Faults, Process, World};
use tallylight_proto::beacon::{Body, Context, Entries, Query};
use tallylight_proto::datagram::{Number, SourceId};
use tallylight_proto::{Counts, Front, layout};

use crate::figures::Figures;
use crate::names::UnsyncedNames;
use crate::oracle::Oracle;
use crate::outputs::{self, Counted};
use crate::plan::{Action, HOUR, Plan, START};
use crate::programs::{COLLECTOR, COMPACTOR, Collector, Compactor, NODE, data, out};
use crate::traffic::{Sent, Server, body};

/// Starts that may fail one after the other, before it is no chance any more.
const STARTS: usize = 100;

/// All that is shared with turns that others get in between.
struct Stage {
    world: Rc<World>,
    plan: Plan,
    chance: RefCell<Chance>,
    collector: RefCell<Option<Rc<Collector>>>,
    compactor: RefCell<Option<Compactor>>,
    is_compacting: Cell<bool>,
    /// Whether everything is told.
    is_traced: bool,
    oracle: RefCell<Oracle>,
    unsynced_names: RefCell<UnsyncedNames>,
    figures: RefCell<Figures>,
    /// How the life before ended, and whether the disk has kept all of it.
    before: Cell<Before>,
}

/// The end of the collector's last life.
#[expect(clippy::large_enum_variant, reason = "there is one of it")]
#[derive(Clone, Copy, Debug)]
enum Before {
    /// The disk has lost something since.
    Unknown,
    /// It was killed.
    Killed,
    /// It ended in order, with this ledger, told to the end.
    Ended(Counts),
}

/// What is left of a turn.
enum Turn {
    Done,
    /// The machine is off.
    PowerCut,
}

pub struct Life {
    stage: Rc<Stage>,
    servers: Vec<Server>,
}

impl Life {
    /// Lives through a seed. Says how much happened, and a digest of it.
    pub fn run(seed: u64) -> (Figures, u64) {
        let mut chance = Chance::new(seed);
        let plan = Plan::of(&mut chance);
        Self::run_as(plan, chance, None)
    }

    /// Lives as planned, but for what comes of one call.
    pub fn run_as(plan: Plan, mut chance: Chance, fate: Option<(u64, Fate)>) -> (Figures, u64) {
        let world = World::new(chance.bits(), plan.machine.clone());
        let _here = world.enter();
        world.set_fate(fate);
        for folder in [data(), out()] {
            disk::create_folder(folder).unwrap();
        }
        disk::sync_folder(Path::new("/")).unwrap();
        storage::write_small(&data().join(layout::NODE), NODE).unwrap();

        let stage = Rc::new(Stage {
            world: Rc::clone(&world),
            chance: RefCell::new(chance),
            collector: RefCell::default(),
            compactor: RefCell::default(),
            is_compacting: Cell::default(),
            is_traced: std::env::var_os("TRACE").is_some(),
            oracle: RefCell::default(),
            unsynced_names: RefCell::default(),
            figures: RefCell::default(),
            before: Cell::new(Before::Unknown),
            plan,
        });
        stage.watch();
        if stage.is_traced {
            eprintln!("-- {:?}", stage.plan);
        }
        let servers = (1..=2).map(|source| Server { source, next: 1, late: Vec::new() }).collect();
        let mut life = Self { stage, servers };
        life.live();
        life.end();
        let stage = Rc::clone(&life.stage);
        drop(life);
        world.set_hook(|_| {});
        world.set_waiter(|| {});
        let mut figures = stage.figures.borrow().clone();
        let oracle = stage.oracle.borrow();
        figures.minutes = world.elapsed().as_secs() / 60;
        figures.events = oracle.events.len() as u64;
        (figures.acked, figures.synced, figures.shed) = (oracle.acked, oracle.synced, oracle.shed);
        (figures, world.trace())
    }

    fn live(&mut self) {
        let stage = Rc::clone(&self.stage);
        stage.world.set_faults(stage.plan.faults);
        for n in 0..stage.plan.actions {
            if stage.collector.borrow().is_none() {
                self.start_collector();
            }
            let action = stage.plan.next(n, &mut stage.chance.borrow_mut());
            if stage.is_traced {
                eprintln!("-- {action:?} at {} ms", stage.world.elapsed().as_millis());
            }
            self.act(action);
            stage.hear();
            stage.see_what_is_acknowledged();
        }
    }

    fn act(&mut self, action: Action) {
        let stage = Rc::clone(&self.stage);
        let turn = |thread| {
            let batches = 1 + stage.chance.borrow_mut().below(8);
            stage.turn_of(thread, batches)
        };
        let done = match action {
            Action::Post => self.post(),
            Action::Pixel => self.pixel(),
            Action::Datagram => self.datagram(),
            Action::Again => self.again(),
            Action::Write => turn(Thread::Writer),
            Action::Sync => turn(Thread::Syncer),
            Action::Supply => turn(Thread::Supply),
            Action::Compact => {
                let is_once = stage.chance.borrow_mut().percent(25);
                stage.compact(is_once)
            }
            Action::Wait => self.wait(stage.chance.borrow_mut().below(3000) as u64),
            Action::WaitLong => self.wait(stage.chance.borrow_mut().below(7_200_000) as u64),
            Action::SetClock => self.set_clock(),
            Action::Fill => self.fill(),
            Action::KillCollector => self.kill_collector(),
            Action::KillCompactor => self.kill_compactor(),
            Action::PowerCut => Turn::PowerCut,
            Action::Stop => self.stop(),
            Action::Rot => self.rot(),
        };
        if matches!(done, Turn::PowerCut) {
            self.power_cut();
        }
    }

    /// Some new events, in one body.
    fn post(&mut self) -> Turn {
        let events: Vec<usize> = {
            let mut chance = self.stage.chance.borrow_mut();
            let mut oracle = self.stage.oracle.borrow_mut();
            let count = 1 + chance.below(4);
            let mut new = || {
                let number = oracle.events.len();
                oracle.add(Sent::any(number, &mut chance))
            };
            (0..count).map(|_| new()).collect()
        };
        self.stage.send(&events)
    }

    fn pixel(&mut self) -> Turn {
        let Some(collector) = self.stage.collector() else { return Turn::Done };
        let mut oracle = self.stage.oracle.borrow_mut();
        let number = oracle.events.len();
        let sent = Sent { id: None, ..Sent::any(number, &mut self.stage.chance.borrow_mut()) };
        let query = sent.query();
        let event = oracle.add(sent);
        oracle.events[event].copies += 1;
        drop(oracle);
        self.stage.at_the_door(|| {
            drop(collector.door.pixel(Query::of(&query), &context(Front::Http1, &self.stage.world, None)))
        })
    }

    /// What was sent before, again: because it was not answered, or because its sender did not hear the answer.
    fn again(&mut self) -> Turn {
        let events: Vec<usize> = {
            let oracle = self.stage.oracle.borrow();
            let mut chance = self.stage.chance.borrow_mut();
            let unanswered = oracle.unanswered();
            let any = |chance: &mut Chance| match chance.percent(60) && !unanswered.is_empty() {
                true => *chance.pick(&unanswered),
                false => chance.below(oracle.events.len()),
            };
            let some: Vec<usize> = (0..3.min(oracle.events.len())).map(|_| any(&mut chance)).collect();
            some.into_iter().filter(|event| oracle.events[*event].sent.id.is_some()).collect()
        };
        if events.is_empty() { Turn::Done } else { self.stage.send(&events) }
    }

    fn datagram(&mut self) -> Turn {
        let Some(collector) = self.stage.collector() else { return Turn::Done };
        let which = self.stage.chance.borrow_mut().below(self.servers.len());
        let server = &mut self.servers[which];
        let sequence = server.next;
        server.next += 1;
        let bytes = {
            let mut oracle = self.stage.oracle.borrow_mut();
            let mut chance = self.stage.chance.borrow_mut();
            let mut lines = Vec::new();
            for _ in 0..=chance.below(2) {
                let number = oracle.events.len();
                // its id follows from the datagram's number: copies of that are copies of it
                let mut sent = Sent::any(number, &mut chance);
                sent.id = None;
                sent.padding = sent.padding.min(200);
                lines.extend_from_slice(sent.query().as_bytes());
                lines.push(b'\n');
                let event = oracle.add(sent);
                oracle.events[event].copies = 1;
            }
            lines
        };
        let fate = self.stage.chance.borrow_mut().below(10);
        let mut deliver = vec![(sequence, bytes.clone())];
        match fate {
            0 => deliver.clear(),
            1 => deliver.push((sequence, bytes)),
            2 => server.late.append(&mut deliver),
            3 => deliver.append(&mut server.late),
            _ => {}
        }
        let source = SourceId { key: None, source: server.source };
        self.stage.at_the_door(|| {
            for (sequence, bytes) in deliver {
                let number = Some(Number { source, sequence });
                collector.door.datagram(&bytes, &context(Front::Udp, &self.stage.world, number));
                collector.door.flush_if_due();
            }
        })
    }

    fn wait(&mut self, ms: u64) -> Turn {
        self.stage.world.advance(Duration::from_millis(ms));
        Turn::Done
    }

    fn set_clock(&mut self) -> Turn {
        let world = &self.stage.world;
        let jump = *self.stage.chance.borrow_mut().pick(&[-1000, 1000, -HOUR, HOUR, -26 * HOUR, 26 * HOUR]);
        let begin = START + i64::try_from(world.elapsed().as_millis()).expect("days");
        // no further from the truth than copies of an event are looked for
        world.set_clock((world.now() + jump).clamp(begin - 48 * HOUR, begin + 48 * HOUR));
        self.stage.figures.borrow_mut().clock_jumps += 1;
        Turn::Done
    }

    fn fill(&mut self) -> Turn {
        let mut chance = self.stage.chance.borrow_mut();
        let is_full = chance.percent(50);
        self.stage.world.set_ballast(if is_full { (3 << 20) + (chance.below(1 << 20) as u64) } else { 0 });
        self.stage.figures.borrow_mut().full_disks += u64::from(is_full);
        Turn::Done
    }

    fn rot(&mut self) -> Turn {
        let folder = data().join(layout::LOG);
        let is_rotten = self.stage.world.rot(&folder, ".seg");
        self.stage.figures.borrow_mut().rotten += u64::from(is_rotten);
        Turn::Done
    }

    fn kill_collector(&mut self) -> Turn {
        if self.stage.collector.borrow().is_some() {
            self.stage.collector_died();
            self.stage.figures.borrow_mut().collector_kills += 1;
        }
        Turn::Done
    }

    fn kill_compactor(&mut self) -> Turn {
        self.stage.compactor_died();
        Turn::Done
    }

    /// SIGTERM, and a new life at once.
    fn stop(&mut self) -> Turn {
        let stage = &self.stage;
        let Some(collector) = stage.collector() else { return Turn::Done };
        let ended = stage.world.run(COLLECTOR, || collector.finish());
        stage.hear();
        let status = collector.log.status().snapshot();
        let mut counts = collector.recovered.counts;
        counts.add(status.counts);
        drop(collector);
        stage.collector_died();
        let mut figures = stage.figures.borrow_mut();
        match ended {
            Ok(Ok(())) => {
                // while events are shed there may be no room to tell of the end
                let is_told = !status.shedding && stage.failed_syncs() == 0;
                stage.before.set(if is_told { Before::Ended(counts) } else { Before::Unknown });
                figures.stops += 1;
            }
            Ok(Err(error)) => {
                stage.has_reason_to_fail(&error);
                figures.failures += 1;
            }
            Err(Death::Killed(_)) => figures.collector_kills += 1,
            Err(Death::PowerCut) => return Turn::PowerCut,
        }
        Turn::Done
    }

    fn power_cut(&mut self) {
        let stage = &self.stage;
        if stage.is_traced {
            eprintln!("-- the power is cut");
        }
        stage.hear();
        stage.collector_died();
        stage.before.set(Before::Unknown);
        stage.compactor.borrow_mut().take();
        stage.world.power_cut();
        stage.unsynced_names.take();
        if stage.is_traced {
            outputs::tell_segments(&stage.world);
        }
        stage.oracle.borrow_mut().power_was_cut();
        let mut figures = stage.figures.borrow_mut();
        figures.power_cuts += 1;
        figures.lies += u64::from(stage.plan.machine.liar.is_some());
        drop(figures);
        for server in &mut self.servers {
            server.late.clear();
        }
    }

    fn start_collector(&mut self) {
        let stage = Rc::clone(&self.stage);
        let faults = stage.world.faults();
        let mut whole = BTreeSet::new();
        for tries in 0..STARTS {
            if tries == STARTS / 4 {
                // not even the worst disk fails for ever
                stage.world.set_faults(Faults::default());
            }
            stage.world.revive(COLLECTOR);
            if stage.plan.is_honest() && stage.failed_syncs() == 0 {
                whole.append(&mut outputs::whole_records());
            }
            stage.doom(COLLECTOR, 60);
            let started = stage.world.run(COLLECTOR, || {
                let collector = Rc::new(Collector::start(&stage.plan)?);
                *stage.collector.borrow_mut() = Some(Rc::clone(&collector));
                stage.unsynced_names.borrow().collector_has_recovered();
                collector.log.begin()?;
                Ok::<_, LogError>(collector)
            });
            match started {
                Ok(Ok(collector)) => {
                    stage.world.set_faults(faults);
                    stage.figures.borrow_mut().torn += collector.recovered.torn;
                    stage.goes_on(&collector.recovered);
                    return stage.check(&whole);
                }
                Ok(Err(error)) => {
                    stage.has_reason_to_fail(&error);
                    stage.figures.borrow_mut().failures += 1;
                }
                Err(Death::Killed(_)) => stage.figures.borrow_mut().collector_kills += 1,
                Err(Death::PowerCut) => {
                    stage.figures.borrow_mut().power_cuts_in_recovery += 1;
                    whole.clear();
                    self.power_cut();
                }
            }
            // that may have begun a segment and a ledger
            stage.is_before_killed();
            stage.collector_died();
        }
        panic!("the collector did not start in {STARTS} tries");
    }

    /// All is well again: what was not answered is sent until it is, both programs end, and all is counted.
    fn end(&mut self) {
        let stage = Rc::clone(&self.stage);
        stage.figures.borrow_mut().steps = stage.world.steps();
        stage.world.set_faults(Faults::default());
        stage.world.set_fate(None);
        stage.world.spare();
        stage.world.set_ballast(0);
        for _ in 0..STARTS {
            if stage.collector.borrow().is_none() {
                self.start_collector();
            }
            let unanswered = stage.oracle.borrow().unanswered();
            if unanswered.is_empty() {
                break;
            }
            for some in unanswered.chunks(5) {
                let _ = stage.send(some);
                let _ = stage.turn_of(Thread::Supply, 0);
                let _ = stage.turn_of(Thread::Writer, 100);
                let _ = stage.turn_of(Thread::Syncer, 0);
                stage.hear();
            }
            stage.world.advance(Duration::from_millis(500));
            // what is kept for ever may fill the disk
            let _ = stage.compact(true);
        }
        assert!(stage.oracle.borrow().unanswered().is_empty(), "what is sent again and again is taken in the end");
        if stage.collector.borrow().is_none() {
            self.start_collector();
        }
        let _ = self.stop();
        stage.world.advance(Duration::from_secs(1));
        stage.finish();
    }
}

fn context<'a>(front: Front, world: &World, number: Option<Number>) -> Context<'a> {
    Context {
        received_at: world.now(),
        front,
        ip: None,
        referer: "",
        origin: "",
        user_agent: "Mozilla/5.0",
        number,
        private: false,
    }
}

impl Stage {
    /// Has others run between the steps of a program, and sees that no segment goes that is not covered.
    fn watch(self: &Rc<Self>) {
        let stage = Rc::downgrade(self);
        self.world.set_hook(move |call| {
            if let Some(stage) = stage.upgrade() {
                stage.others_run(call);
            }
        });
        let stage = Rc::downgrade(self);
        self.world.set_waiter(move || {
            let Some(stage) = stage.upgrade() else { return };
            if let Err(death) = stage.run_thread(Thread::Supply, 0) {
                World::go_on_dying(death);
            }
        });
        let (is_honest, is_traced) = (self.plan.is_honest(), self.is_traced);
        let stage = Rc::downgrade(self);
        self.world.set_watch(move |world, call| {
            if is_traced {
                let who = if call.process == COLLECTOR { "collector" } else { "compactor" };
                eprintln!("{who}: {} {}", call.action, call.path.display());
            }
            if call.process == COLLECTOR
                && let Some(stage) = stage.upgrade()
            {
                let is_spare = call.path.parent().is_some_and(|folder| folder.ends_with(layout::SPARE));
                let mut figures = stage.figures.borrow_mut();
                figures.recycled += u64::from(call.action == "rename" && is_spare);
                figures.segments +=
                    u64::from(call.action == "renamed" && call.path.extension().is_some_and(|e| e == "seg"));
            }
            if is_honest && let Some(stage) = stage.upgrade() {
                stage.unsynced_names.borrow_mut().see(call);
            }
            let base = call.path.file_name().and_then(|name| layout::segment_base(name.to_str()?));
            let Some(base) = base.filter(|_| call.process == COMPACTOR) else { return };
            if matches!(call.action, "rename" | "remove") && call.path.parent() == Some(&data().join(layout::LOG)) {
                let Some(stage) = stage.upgrade() else { return };
                stage.figures.borrow_mut().released += 1;
                if !is_honest {
                    return;
                }
                stage.unsynced_names.borrow().are_not_relied_upon();
                let next = segments(world).into_iter().find(|other| *other > base).expect("the last one never goes");
                let commit = world.durable(&Commit::path(out(), NODE)).expect("a commit covers what goes");
                let commit: serde_json::Value = serde_json::from_slice(&commit).unwrap();
                assert!(commit["position"].as_u64() >= Some(next), "segment {base} goes, and is not covered: {commit}");
            }
        });
    }

    /// Of the log, by either program: what these were to put on disk may be lost.
    fn failed_syncs(&self) -> u64 {
        self.world.failed_syncs(&data().join(layout::LOG))
    }

    fn collector(&self) -> Option<Rc<Collector>> {
        self.collector.borrow().clone()
    }

    /// In the midst of a call, others get a turn.
    fn others_run(&self, call: &Call<'_>) {
        let choice = self.chance.borrow_mut().below(if call.process == COLLECTOR { 5 } else { 4 });
        let batches = 1 + self.chance.borrow_mut().below(4);
        let (process, done) = match choice {
            0 | 1 => (COLLECTOR, self.run_thread(Thread::Writer, batches)),
            2 => (COLLECTOR, self.run_thread(Thread::Syncer, batches)),
            3 => (COLLECTOR, self.run_thread(Thread::Supply, batches)),
            _ => (COMPACTOR, self.run_compactor(false)),
        };
        match done {
            Ok(()) => {}
            // it ends the process in the midst of a call of that
            Err(Death::Killed(killed)) if killed == call.process => World::go_on_dying(Death::Killed(killed)),
            Err(Death::Killed(_)) if process == COLLECTOR => self.collector_died(),
            Err(Death::Killed(_)) => self.compactor_died(),
            Err(Death::PowerCut) => World::go_on_dying(Death::PowerCut),
        }
    }

    fn run_thread(&self, thread: Thread, batches: usize) -> Result<(), Death> {
        let Some(collector) = self.collector() else { return Ok(()) };
        let ended = self.world.run(COLLECTOR, || collector.log.turn(thread, batches));
        self.oracle.borrow_mut().hear(&collector.log.status().snapshot(), self.failed_syncs());
        match ended {
            Ok(Ok(_)) => Ok(()),
            // a failed disk ends the process: a kill that it does to itself
            Ok(Err(error)) => {
                self.has_reason_to_fail(&error);
                self.figures.borrow_mut().failures += 1;
                self.world.bury(COLLECTOR);
                Err(Death::Killed(COLLECTOR))
            }
            Err(death) => {
                self.figures.borrow_mut().collector_kills += u64::from(death != Death::PowerCut);
                Err(death)
            }
        }
    }

    fn turn_of(&self, thread: Thread, batches: usize) -> Turn {
        match self.run_thread(thread, batches) {
            Ok(()) => Turn::Done,
            Err(Death::Killed(_)) => {
                self.collector_died();
                Turn::Done
            }
            Err(Death::PowerCut) => Turn::PowerCut,
        }
    }

    fn run_compactor(&self, is_once: bool) -> Result<(), Death> {
        if self.is_compacting.replace(true) {
            return Ok(());
        }
        let mut compactor = self.compactor.borrow_mut().take().unwrap_or_else(|| {
            self.world.revive(COMPACTOR);
            self.doom(COMPACTOR, 150);
            Compactor::new(&self.plan, out().to_owned())
        });
        let ended = self.world.run(COMPACTOR, || compactor.pass(is_once));
        self.is_compacting.set(false);
        if self.is_traced
            && let Some(compaction) = compactor.compaction()
        {
            eprintln!(
                "-- the compactor has {:?}, {:?}",
                compaction.counts(),
                compaction.commit().map(|c| c.snapshot.place)
            );
        }
        let mut figures = self.figures.borrow_mut();
        match ended {
            Ok(Ok(())) => self.unsynced_names.borrow().compactor_is_done(),
            Ok(Err(_)) => {
                figures.setbacks += 1;
                self.unsynced_names.borrow_mut().compactor_was_disturbed();
            }
            Err(death) => {
                figures.compactor_kills += u64::from(death != Death::PowerCut);
                return Err(death);
            }
        }
        *self.compactor.borrow_mut() = Some(compactor);
        Ok(())
    }

    fn compact(&self, is_once: bool) -> Turn {
        match self.run_compactor(is_once) {
            Ok(()) => Turn::Done,
            Err(Death::Killed(_)) => {
                self.compactor_died();
                Turn::Done
            }
            Err(Death::PowerCut) => Turn::PowerCut,
        }
    }

    fn collector_died(&self) {
        if self.is_traced {
            eprintln!("-- the collector is dead");
        }
        self.world.bury(COLLECTOR);
        if self.collector.borrow_mut().take().is_some() {
            self.is_before_killed();
        }
        self.oracle.borrow_mut().collector_died();
        self.unsynced_names.borrow_mut().collector_died();
    }

    fn is_before_killed(&self) {
        if !matches!(self.before.get(), Before::Unknown) {
            self.before.set(Before::Killed);
        }
    }

    /// Perhaps a program that starts now does not get far, or the machine.
    fn doom(&self, process: Process, steps: usize) {
        let mut chance = self.chance.borrow_mut();
        if chance.percent(self.plan.early_deaths) && self.world.faults().kill + self.world.faults().power_cut > 0 {
            let death = *chance.pick(&[Death::Killed(process), Death::Killed(process), Death::PowerCut]);
            self.world.doom(1 + chance.below(steps), death);
        }
    }

    /// The collector ends by itself only if the disk fails.
    fn has_reason_to_fail(&self, error: &LogError) {
        let is_dead = error.to_string().ends_with("the process is dead");
        let has_reason = self.plan.has_errors() || !self.plan.is_honest() || is_dead;
        assert!(has_reason, "the disk is sound, and the collector ends: {error}");
    }

    /// What a new life makes of the one before.
    fn goes_on(&self, recovered: &Recovered) {
        let is_sure = self.plan.is_honest() && self.failed_syncs() == 0;
        match self.before.replace(Before::Killed) {
            Before::Unknown => {}
            _ if !is_sure => {}
            Before::Killed => assert_eq!(recovered.torn, 0, "a kill takes nothing that is committed"),
            Before::Ended(counts) => {
                assert!(!recovered.was_killed, "the collector ended in order, and the log does not say so");
                assert_eq!(recovered.counts.fronts, counts.fronts, "the ledger goes on where it ended");
            }
        }
    }

    /// What is acknowledged is there for others.
    fn see_what_is_acknowledged(&self) {
        let (fresh, from) = self.oracle.borrow_mut().take_fresh();
        // what a collector that is gone has left is seen when the next one has recovered it
        if fresh.is_empty()
            || self.collector().is_none()
            || !self.plan.is_honest()
            || self.chance.borrow_mut().percent(60)
        {
            return;
        }
        let mut there = outputs::log(from).tokens;
        if fresh.iter().any(|token| !there.contains(token)) {
            there.extend(outputs::rows(&self.world, out()).into_iter().map(|row| row.token));
        }
        let missing: Vec<&String> = fresh.iter().filter(|token| !there.contains(*token)).collect();
        assert!(missing.is_empty(), "{missing:?} were acknowledged, and nobody can read them");
    }

    fn compactor_died(&self) {
        if self.is_traced {
            eprintln!("-- the compactor is dead");
        }
        self.world.bury(COMPACTOR);
        self.unsynced_names.borrow_mut().compactor_was_disturbed();
        self.compactor.borrow_mut().take();
        self.world.revive(COMPACTOR);
    }

    fn hear(&self) {
        if let Some(collector) = self.collector() {
            self.oracle.borrow_mut().hear(&collector.log.status().snapshot(), self.failed_syncs());
        }
    }

    /// Sends a body of these events.
    fn send(&self, events: &[usize]) -> Turn {
        let Some(collector) = self.collector() else { return Turn::Done };
        let (bytes, level) = {
            let mut chance = self.chance.borrow_mut();
            let mut oracle = self.oracle.borrow_mut();
            let mut all = Vec::new();
            for event in events {
                oracle.events[*event].copies += 1;
                all.push(oracle.events[*event].sent.clone());
            }
            let level = if chance.percent(40) { Level::Synced } else { Level::Logged };
            (body(&all, &mut chance), level)
        };
        self.at_the_door(|| {
            let body = Body { bytes: bytes.as_bytes(), ..Body::default() };
            match collector.door.body(Entries::of(body), &context(Front::Http2, &self.world, None), level) {
                Posted::Sent { ack, refused, .. } => {
                    assert_eq!(refused, 0, "all of these are good: {bytes}");
                    // of a body that is larger than a segment a part may be there
                    let is_whole = bytes.len() < 16 * 1024;
                    self.oracle.borrow_mut().waits(ack, events.to_vec(), level, is_whole);
                }
                Posted::Shed(_) => self.oracle.borrow_mut().is_shed(events),
                Posted::Refused(reject) => panic!("{reject}: {bytes}"),
            }
        })
    }

    /// Something comes to the door; the worker goes idle now and then.
    fn at_the_door(&self, doing: impl FnOnce()) -> Turn {
        let Some(collector) = self.collector() else { return Turn::Done };
        let is_idle = self.chance.borrow_mut().percent(60);
        let ended = self.world.run(COLLECTOR, || {
            doing();
            if is_idle {
                collector.door.flush();
            }
        });
        match ended {
            Ok(()) => Turn::Done,
            Err(Death::Killed(_)) => {
                self.collector_died();
                Turn::Done
            }
            Err(Death::PowerCut) => Turn::PowerCut,
        }
    }

    /// After each start: what was promised is there, and what is not there is known.
    fn check(&self, whole: &BTreeSet<String>) {
        let logged = outputs::log(0);
        let mut there = logged.tokens;
        self.oracle.borrow_mut().syncs_failed(self.failed_syncs());
        let oracle = self.oracle.borrow();
        if self.plan.is_honest() {
            assert!(logged.wrong.is_empty(), "nothing is damaged on a disk that keeps its word: {:?}", logged.wrong);
            outputs::check_segments();
        }
        let is_sure = self.plan.is_honest() && self.failed_syncs() == 0;
        if oracle.missing_from(&there) > 0 || (is_sure && !whole.is_subset(&there)) {
            // what the log has let go of is published
            there.extend(outputs::rows(&self.world, out()).into_iter().map(|row| row.token));
        }
        if self.plan.is_honest() {
            oracle.must_be_in(&there);
        }
        if is_sure {
            let lost: Vec<&String> = whole.difference(&there).collect();
            assert!(lost.is_empty(), "{lost:?} stood in whole records, and recovery has not kept them");
        }
    }

    /// At the end everything is compacted, and adds up.
    fn finish(&self) {
        let honest = self.plan.is_honest();
        let mut last = None;
        for _ in 0..2 {
            let mut compactor = Compactor::new(&self.plan, out().to_owned());
            self.world.revive(COMPACTOR);
            match self.world.run(COMPACTOR, || compactor.pass(true)).expect("nobody dies any more") {
                Ok(()) => {
                    last = Some(compactor);
                    break;
                }
                // said to whoever runs it, and nothing is published that is wrong
                Err(error) => {
                    // the program begins once more by itself where the index is to be made again
                    assert!(!honest || error.is_damaged_index(), "it can be compacted: {error}");
                }
            }
        }
        assert!(!honest || last.is_some(), "it can be compacted");
        let rows = outputs::rows(&self.world, out());
        let mut oracle = self.oracle.borrow_mut();
        oracle.must_agree_with(&rows, honest);
        let there = rows.iter().map(|row| row.token.clone()).collect();
        let missing = oracle.missing_from(&there);
        let mut figures = self.figures.borrow_mut();
        figures.rows = rows.len() as u64;
        let Some(counts) = last.as_ref().and_then(Compactor::compaction).map(|compaction| compaction.counts()) else {
            return;
        };
        figures.duplicates = counts.events().duplicates;
        figures.damaged = counts.damaged;
        let told = counts.damaged + counts.torn + counts.records_taken;
        if honest {
            oracle.must_be_in(&there);
            assert_eq!(
                (counts.damaged, counts.records_taken),
                (0, 0),
                "nothing is damaged, and nothing was taken back"
            );
        } else {
            // of the end of a log that a disk has kept to itself, nothing on the disk can tell
            let is_told = told > 0 || self.plan.machine.liar.is_some();
            assert!(missing == 0 || is_told, "{missing} promised events are lost, and nothing says so");
        }
        let mut audit = Vec::new();
        let adds_up = tallylight_compactor::audit::audit(data(), Some(out()), false, &mut audit).unwrap();
        assert!(adds_up || !honest, "the audit does not add up:\n{}", String::from_utf8_lossy(&audit));
        // what a disk lost after it was read may stand in one output and not in the other: it is told of, but for the end of a
        // log that a disk which lies has kept to itself
        if honest || (adds_up && told == 0 && self.plan.machine.liar.is_none()) {
            self.groups_are_the_rows(&rows, counts.events().duplicates);
        }
        if honest && self.plan.retain == i64::MAX && figures.released == 0 {
            drop(figures);
            self.is_a_function_of_the_log();
        }
    }

    fn groups_are_the_rows(&self, rows: &[outputs::Row], duplicates: u64) {
        let (groups, duplicates_of_groups) = outputs::hourly(&self.world, out());
        let mut counted = Counted::new();
        for row in rows {
            let group = counted.entry((row.hour.clone(), row.token.clone())).or_insert((0, 0.0));
            group.0 += 1;
            // whole numbers: their sums are exact
            group.1 += row.value.unwrap_or(0.0);
        }
        let only_in = |these: &Counted, those: &Counted| -> Counted {
            these
                .iter()
                .filter(|(group, count)| those.get(group) != Some(count))
                .map(|(g, c)| (g.clone(), *c))
                .collect()
        };
        let (more, less) = (only_in(&groups, &counted), only_in(&counted, &groups));
        assert!(more.is_empty() && less.is_empty(), "only in hourly: {more:?}, only in events: {less:?}");
        if self.plan.is_honest() {
            assert_eq!(duplicates_of_groups, i64::try_from(duplicates).unwrap());
        }
    }

    /// Compacted once more, from the beginning and at once, it is the same.
    fn is_a_function_of_the_log(&self) {
        let other = PathBuf::from("/other");
        disk::create_folder(&other).unwrap();
        let index = data().join("compactor/index");
        for file in self.world.files(&index) {
            disk::remove(&file).unwrap();
        }
        let mut compactor = Compactor::new(&self.plan, other.clone());
        self.world.run(COMPACTOR, || compactor.pass(true)).unwrap().unwrap();
        let (as_lived, at_once) =
            (outputs::hourly_bytes(&self.world, out()), outputs::hourly_bytes(&self.world, &other));
        for (name, bytes) in &as_lived {
            assert!(at_once.get(name) == Some(bytes), "{name} depends on the life of the compactor");
        }
        assert_eq!(as_lived.len(), at_once.len(), "there are no others");
    }
}

/// The bases of the segments that have a name now.
fn segments(world: &World) -> Vec<u64> {
    let log = data().join(layout::LOG);
    let in_log = world.files(&log).into_iter().filter(|path| path.parent() == Some(&log));
    in_log.filter_map(|path| layout::segment_base(path.file_name()?.to_str()?)).collect()
}
