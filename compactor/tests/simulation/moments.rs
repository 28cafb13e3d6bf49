//! Single moments that a seed seldom has.

use std::rc::Rc;

use tallylight_collector::log::by_turns::Thread;
use tallylight_host::simulated::{Death, Fate, Faults, Journal, World};
use tallylight_proto::layout;
use tallylight_proto::record::{self, Record};
use tallylight_proto::segment::{Found, Framing, HEADER_LEN, HeaderPage, Mark, Scanner};

use crate::plan::Plan;
use crate::programs::{COLLECTOR, COMPACTOR, Collector, Compactor, data, out};
use crate::testlog::event;

/// How many events stand in the first segment as a power cut would leave it.
fn events_on_platter(world: &World) -> u64 {
    let bytes = world.durable(&data().join(layout::LOG).join(layout::segment(0))).expect("it is there for sure");
    let page = HeaderPage::decode(&bytes).expect("a header");
    let start = Mark { length: HEADER_LEN as u64, ordinal: page.header.first_ordinal };
    let framing = Framing::new(page.header.salt, page.header.base);
    let mut scanner = Scanner::new(framing, start, bytes.len() as u64, None);
    let mut events = 0;
    let mut read = |offset: u64, buffer: &mut [u8]| {
        let from = bytes.len().min(usize::try_from(offset).expect("small"));
        let len = buffer.len().min(bytes.len() - from);
        buffer[..len].copy_from_slice(&bytes[from..from + len]);
        Ok::<_, std::convert::Infallible>(len)
    };
    while let Ok(Some(found)) = scanner.next(&mut read) {
        if let Found::Record(framed) = found {
            events += u64::from(matches!(record::decode(framed.payload), Ok(Record::Event(_))));
        }
    }
    events
}

/// A collector that is ready to write.
fn start(plan: &Plan) -> Rc<Collector> {
    let collector = Rc::new(Collector::start(plan).expect("a sound disk"));
    assert!(collector.log.turn(Thread::Supply, 0).expect("a sound disk"));
    collector.log.begin().expect("a sound disk");
    collector
}

/// So many more events, in the log.
fn log_events(collector: &Collector, count: u64) {
    let appender = collector.log.appender();
    let mut batch = appender.batch();
    (0..count).for_each(|n| batch.push(&event(n, 0)));
    appender.try_send(batch).expect("room in the channel");
    assert!(collector.log.turn(Thread::Writer, usize::MAX).expect("it can write"));
}

#[test]
fn what_a_failed_sync_has_forgotten_is_not_published() {
    let mut forgotten = 0;
    for seed in 0..20 {
        let plan = Plan::short(Journal::Ordered);
        let world = World::new(seed, plan.machine.clone());
        let _here = world.enter();
        let ended = world.run(COLLECTOR, || {
            let collector = start(&plan);
            log_events(&collector, 10);
            world.advance(plan.sync_interval);
            assert!(collector.log.turn(Thread::Syncer, 0).expect("a sound disk"));
            log_events(&collector, 80);
            world.advance(plan.sync_interval);
            world.set_faults(Faults { sync_error: 1, ..Faults::default() });
            collector.log.turn(Thread::Syncer, 0)
        });
        assert!(ended.expect("nobody kills it").is_err(), "a failed sync ends the collector");
        world.set_faults(Faults::default());

        let mut compactor = Compactor::new(&plan, out().to_owned());
        world.run(COMPACTOR, || compactor.pass(true)).expect("nobody kills it").expect("a sound disk");
        let published = compactor.compaction().expect("it is open").counts().events().read;
        assert_eq!(published, events_on_platter(&world), "seed {seed}");
        forgotten += u64::from(published < 90);
    }
    assert!(forgotten > 5, "in {forgotten} of 20 lives only a page is forgotten");
}

#[test]
fn a_data_folder_is_there_after_a_power_cut_though_whoever_made_it_was_killed_before_it_was_on_disk() {
    for (call, seed) in (1..20).flat_map(|call| (0..10).map(move |seed| (call, seed))) {
        let plan = Plan::short(Journal::Loose);
        let world = World::new(seed, plan.machine.clone());
        let _here = world.enter();
        world.set_fate(Some((call, Fate::Kill)));
        assert_eq!(world.run(COLLECTOR, || drop(start(&plan))), Err(Death::Killed(COLLECTOR)));
        world.revive(COLLECTOR);
        let ended = world.run(COLLECTOR, || {
            let collector = start(&plan);
            log_events(&collector, 10);
            world.advance(plan.sync_interval);
            collector.log.turn(Thread::Syncer, 0)
        });
        assert!(ended.expect("nobody kills it").expect("a sound disk"));
        world.power_cut();
        let segments = world.files(&data().join(layout::LOG));
        assert!(!segments.is_empty(), "killed at call {call}, seed {seed}");
    }
}
