//! Dying at any moment, and being split in any way, changes nothing.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tallylight_proto::Event;
use tallylight_proto::segment::{HEADER_LEN, Mark, MarkKind};

use super::*;
use crate::groups::{Measures, OTHER};
use crate::log::Item;
use crate::storage::crash;
use crate::testlog::{self, HOUR, MINUTE, START, TestLog, aged, crawled, event};

/// A clock that is ahead of everything in the log.
const NOW: Millis = START + 1000 * HOUR;

fn config(data: &Path) -> Config {
    Config {
        data: data.to_owned(),
        out: data.join("out"),
        node: "node-1".into(),
        by: vec![By::Item],
        grace: MINUTE,
        retain: Millis::MAX,
        index_limits: Limits { head_copies: 7, cache_bytes: 1 << 16 },
        bounds: Bounds::default(),
        hour_bytes: usize::MAX,
        watchdog: Default::default(),
        rows: true,
    }
}

fn pass(compaction: &mut Compaction, all: bool) -> Result<(), CompactError> {
    compaction.look()?;
    assert_eq!(compaction.read(None, &AtomicBool::new(false))?, Progress::AtEnd);
    compaction.publish(NOW, all)?;
    compaction.release(NOW)?;
    Ok(())
}

/// Events with these numbers, all received at once.
fn numbered(numbers: std::ops::Range<u64>, after: Millis) -> Vec<Event<'static>> {
    numbers.map(|n| event(n, after)).collect()
}

/// Opens, compacts all that is there, and ends.
fn once(config: &Config) -> Result<Compaction, CompactError> {
    let mut compaction = Compaction::open(config.clone())?;
    pass(&mut compaction, true)?;
    let commit = compaction.commit().expect("something was read");
    assert_eq!(commit.snapshot.place.ordinal, Some(commit.snapshot.counts.ordinal()), "{commit:?}");
    Ok(compaction)
}

/// What a reader of the output sees: hours' files, the events' rows, and the commit's counts.
#[derive(Debug, PartialEq)]
struct Published {
    hourly: BTreeMap<Hour, Vec<u8>>,
    rows: BTreeMap<Hour, Vec<i64>>,
    counts: Counts,
    complete_through: Option<Hour>,
}

fn published(config: &Config) -> Published {
    let hourly = Hourly::new(&config.out, &config.node, &config.by);
    let events = Events::new(&config.out, &config.node);
    let commit = Commit::read(&config.out, &config.node, &config.by).unwrap().unwrap();
    let hours = events.hours_from(Hour(0)).unwrap();
    let read = |hour: &Hour| Some((*hour, storage::read(&hourly.path(*hour)).ok()?));
    let all_hours: Vec<Hour> = (-200..200).map(|n| Hour(Hour::of(START).0 + n)).collect();
    Published {
        hourly: all_hours.iter().filter_map(read).collect(),
        rows: hours.into_iter().map(|hour| (hour, rows(&events, hour))).collect(),
        counts: commit.snapshot.counts,
        complete_through: commit.complete_through,
    }
}

/// Positions of an hour's rows, in the order of the parts.
fn rows(events: &Events, hour: Hour) -> Vec<i64> {
    let mut rows = Vec::new();
    for part in events.parts(hour).unwrap() {
        let bytes = Bytes::from(storage::read(&part).unwrap());
        for batch in ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap().build().unwrap() {
            let batch = batch.unwrap();
            rows.extend(batch.column_by_name("position").unwrap().as_primitive::<Int64Type>().values());
        }
    }
    rows
}

/// All groups of an hour added up.
fn totals(config: &Config, hour: Hour) -> Measures {
    let hourly = Hourly::new(&config.out, &config.node, &config.by);
    let mut all = Measures::default();
    for group in hourly.parse(hour, hourly.read(hour).unwrap().unwrap()).unwrap().sorted().iter() {
        let Measures { events, bot_events, duplicates, late, client_lost, visitors, value_sum, times } = group.measures;
        all.events += events;
        all.bot_events += bot_events;
        all.duplicates += duplicates;
        all.late += late;
        all.client_lost += client_lost;
        all.visitors.merge(visitors);
        if let Some(sum) = value_sum {
            *all.value_sum.get_or_insert(0) += sum;
        }
        if let Some((first, last)) = *times {
            let (a, b) = all.times.unwrap_or((first, last));
            all.times = Some((first.min(a), last.max(b)));
        }
    }
    all
}

const STAGES: u64 = 4;

/// Half an hour of log: new events, copies of earlier ones, late ones, crawlers, ledger records, another segment.
fn write_stage(log: &mut TestLog, stage: u64) {
    let begin = i64::try_from(stage).unwrap() * 30 * MINUTE;
    for n in 0..12 {
        log.event(&event(stage * 100 + n, begin + i64::try_from(n).unwrap() * MINUTE));
    }
    log.ledger(START + begin + 15 * MINUTE);
    if stage > 0 {
        log.event(&event(stage * 100 - 95, begin + 20 * MINUTE));
        log.event(&aged(stage * 100 + 50, begin + 20 * MINUTE, (i64::try_from(stage).unwrap() + 3) * 20 * MINUTE));
        log.event(&crawled(stage * 100 + 51, begin + 21 * MINUTE));
        log.event(&crawled(stage * 100 + 51, begin + 22 * MINUTE));
    }
    if stage % 2 == 1 {
        log.next_segment(START + begin + 25 * MINUTE);
    }
    log.commit();
}

/// The same log, compacted at once.
fn reference() -> Published {
    let folder = testlog::folder();
    let mut log = TestLog::new(folder.path(), 1 << 20);
    (0..STAGES).for_each(|stage| write_stage(&mut log, stage));
    let config = config(folder.path());
    once(&config).unwrap();
    published(&config)
}

#[test]
fn dying_at_any_change_to_the_disk_and_running_again_changes_nothing() {
    let reference = reference();
    assert_eq!(reference.counts.events().read, 12 * STAGES + 4 * (STAGES - 1));
    assert_eq!(reference.counts.events().duplicates, 2 * (STAGES - 1));
    for steps in 0.. {
        let folder = testlog::folder();
        let config = config(folder.path());
        let mut log = TestLog::new(folder.path(), 1 << 20);
        let mut written = 0;
        let (died, survived) = crash::after(steps, || {
            let mut compaction = Compaction::open(config.clone())?;
            for stage in 0..STAGES {
                write_stage(&mut log, stage);
                written = stage + 1;
                pass(&mut compaction, stage == STAGES - 1)?;
            }
            Ok::<_, CompactError>(())
        });
        if !survived {
            // what may fail unnoticed is only the removal of what nobody needs
            assert!(died.is_err() || written == STAGES, "it died at step {steps} and did not notice");
            if steps % 3 == 0 {
                // of what it kept for itself, nothing is left
                let _ = std::fs::remove_dir_all(folder.path().join("compactor"));
            }
            // and once more, while it makes good what the first death left
            let _ = crash::after(steps % 17, || once(&config));
            (written..STAGES).for_each(|stage| write_stage(&mut log, stage));
            once(&config).unwrap();
        }
        assert_eq!(published(&config), reference, "died at step {steps}");
        if survived {
            return assert!(steps > 100, "only {steps} steps");
        }
    }
}

#[test]
fn an_hours_bytes_do_not_depend_on_how_the_log_was_split_over_runs() {
    let reference = reference();
    for runs in 1..1 << (STAGES - 1) {
        let folder = testlog::folder();
        let config = config(folder.path());
        let mut log = TestLog::new(folder.path(), 1 << 20);
        let mut open = None;
        for stage in 0..STAGES {
            write_stage(&mut log, stage);
            let compaction = open.get_or_insert_with(|| Compaction::open(config.clone()).unwrap());
            pass(compaction, stage == STAGES - 1).unwrap();
            // killed here, in some of the runs
            if runs >> stage & 1 == 1 {
                open = None;
            }
        }
        assert_eq!(published(&config), reference, "runs {runs:b}");
    }
}

#[test]
fn an_hours_bytes_do_not_depend_on_how_little_memory_there_is() {
    let reference = reference();
    let tight = [
        Bounds { part_bytes: usize::MAX, pending_bytes: usize::MAX, group_bytes: 1000, ..Bounds::default() },
        Bounds { part_bytes: 500, pending_bytes: 3000, group_bytes: usize::MAX, ..Bounds::default() },
        Bounds { part_bytes: 1, pending_bytes: 1, group_bytes: 1, ..Bounds::default() },
    ];
    for bounds in tight {
        let folder = testlog::folder();
        let config = Config { bounds, ..config(folder.path()) };
        let mut log = TestLog::new(folder.path(), 1 << 20);
        (0..STAGES).for_each(|stage| write_stage(&mut log, stage));
        let mut compaction = Compaction::open(config.clone()).unwrap();
        compaction.look().unwrap();
        let mut steps = 1;
        while compaction.read(None, &AtomicBool::new(false)).unwrap() == Progress::Paused {
            compaction.publish(NOW, false).unwrap();
            steps += 1;
        }
        compaction.publish(NOW, true).unwrap();
        assert!(steps > 3, "{bounds:?} is not tight");
        assert_eq!(published(&config), reference, "{bounds:?}");
    }
}

#[test]
fn when_groups_need_room_the_oldest_hours_go() {
    let folder = testlog::folder();
    let bounds = Bounds { group_bytes: 1600, ..Bounds::default() };
    let config = Config { bounds, ..config(folder.path()) };
    let mut log = TestLog::new(folder.path(), 1 << 20);
    let hours = [0, 1, 2, 3].map(|n| Hour::of(START + n * HOUR));
    for n in 0..4 {
        log.event(&event(n, i64::try_from(n).unwrap() * HOUR));
    }
    log.ledger(START + 3 * HOUR + 2 * MINUTE);
    log.commit();
    let mut compaction = Compaction::open(config.clone()).unwrap();
    let mut publish = |all: bool| {
        compaction.look().unwrap();
        // with little room it pauses, perhaps
        compaction.read(None, &AtomicBool::new(false)).unwrap();
        compaction.publish(NOW, all).unwrap();
        compaction.open_hours()
    };
    publish(false);
    let hourly = Hourly::new(&config.out, &config.node, &config.by);
    let covered = || hours.map(|hour| hourly.footer(hour).unwrap().map(|footer| footer.covered));
    let before = covered();
    assert!(before.iter().all(Option::is_some), "three are complete, and the fourth shows");

    // an event of each, of which those that amend would wait for others
    for (n, late) in (10..).zip([3, 2, 1, 0]) {
        log.event(&aged(n, 3 * HOUR + 3 * MINUTE, late * HOUR));
    }
    log.commit();
    assert_eq!(publish(false), 1, "the others are forgotten");
    let now = covered();
    assert_eq!([0, 1, 2, 3].map(|n| now[n] > before[n]), [true, true, true, false]);
    publish(true);
    let all = Config { bounds: Bounds::default(), out: folder.path().join("whole"), ..config.clone() };
    std::fs::remove_dir_all(folder.path().join("compactor")).unwrap();
    once(&all).unwrap();
    assert_eq!(published(&config), published(&all));
}

#[test]
fn an_hours_bytes_do_not_depend_on_runs_where_its_groups_have_no_room() {
    let run = |runs: u64, hour_bytes: usize, group_bytes: usize| {
        let folder = testlog::folder();
        let bounds = Bounds { group_bytes, ..Bounds::default() };
        let config = Config { hour_bytes, bounds, ..config(folder.path()) };
        let mut log = TestLog::new(folder.path(), 1 << 20);
        let mut open: Option<Compaction> = None;
        for stage in 0..STAGES {
            write_stage(&mut log, stage);
            let compaction = open.get_or_insert_with(|| Compaction::open(config.clone()).unwrap());
            compaction.look().unwrap();
            while compaction.read(None, &AtomicBool::new(false)).unwrap() == Progress::Paused {
                compaction.publish(NOW, false).unwrap();
            }
            compaction.publish(NOW, stage == STAGES - 1 || runs >> stage & 1 == 1).unwrap();
            if runs >> stage & 1 == 1 {
                open = None;
            }
        }
        let others = |hour: Hour| {
            let hourly = Hourly::new(&config.out, &config.node, &config.by);
            let groups = hourly.parse(hour, hourly.read(hour).unwrap().unwrap()).unwrap();
            groups.sorted().iter().filter(|group| group.column(2) == OTHER.as_bytes()).count()
        };
        (published(&config), others(Hour::of(START)))
    };
    for hour_bytes in [0, 1_000] {
        let (whole, others) = run(0, hour_bytes, usize::MAX);
        assert!(others > 0, "{hour_bytes} bytes are room enough");
        for runs in 0..1 << STAGES {
            for group_bytes in [usize::MAX, 1] {
                assert!(
                    run(runs, hour_bytes, group_bytes).0 == whole,
                    "{hour_bytes} bytes, runs {runs:b}, {group_bytes}"
                );
            }
        }
    }
}

#[test]
fn what_is_complete_changes_by_amendment_only_and_never_goes_back() {
    let folder = testlog::folder();
    let config = config(folder.path());
    let mut log = TestLog::new(folder.path(), 1 << 20);
    let mut compaction = Compaction::open(config.clone()).unwrap();
    log.event(&event(1, 10 * MINUTE));
    log.commit();
    pass(&mut compaction, false).unwrap();
    let through = |compaction: &Compaction| compaction.commit().unwrap().complete_through;
    assert_eq!(through(&compaction), Some(Hour::of(START)));

    log.ledger(START + HOUR);
    log.commit();
    pass(&mut compaction, false).unwrap();
    assert_eq!(through(&compaction), Some(Hour::of(START)), "the grace is not over");
    log.ledger(START + HOUR + MINUTE);
    log.commit();
    pass(&mut compaction, false).unwrap();
    assert_eq!(through(&compaction), Some(Hour::of(START + HOUR)));
    assert_eq!(published(&config).rows[&Hour::of(START)].len(), 1, "closed: its events are published too");

    // a late event waits for others, and then amends
    log.event(&aged(2, 70 * MINUTE, 20 * MINUTE));
    log.commit();
    pass(&mut compaction, false).unwrap();
    assert_eq!(totals(&config, Hour::of(START)).events, 1);
    assert!(compaction.commit().unwrap().snapshot.place.position <= log.places[1].0);
    pass(&mut compaction, true).unwrap();
    let all = totals(&config, Hour::of(START));
    assert_eq!((all.events, all.late), (2, 1));
    assert_eq!(compaction.commit().unwrap().snapshot.place.position, log.position());

    // a clock set back, in the log and here
    log.event(&event(3, -5 * HOUR));
    log.commit();
    compaction.look().unwrap();
    compaction.read(None, &AtomicBool::new(false)).unwrap();
    compaction.publish(START - HOUR, true).unwrap();
    assert_eq!(through(&compaction), Some(Hour::of(START + HOUR)));
    assert_eq!(totals(&config, Hour::of(START - 5 * HOUR)).events, 1);
}

#[test]
fn rows_that_need_room_go_alone_but_not_for_ever() {
    rows_go_first(Bounds { pending_bytes: 1, shown_every: Duration::MAX, ..Bounds::default() }, u64::from(MOST_STEPS));
}

#[test]
fn a_full_part_goes_alone_but_not_for_ever() {
    let bounds = Bounds { part_bytes: 1, pending_bytes: 1, shown_every: Duration::MAX, ..Bounds::default() };
    rows_go_first(bounds, u64::from(MOST_STEPS));
}

#[test]
fn a_full_part_goes_although_there_is_room() {
    rows_go_first(Bounds { part_bytes: 1, ..Bounds::default() }, 0);
}

#[test]
fn an_open_hour_is_shown_as_often_as_it_is_to_be_however_often_there_must_be_room() {
    rows_go_first(Bounds { pending_bytes: 1, shown_every: Duration::ZERO, ..Bounds::default() }, 0);
}

#[test]
fn what_comes_after_all_of_an_hour_was_published_waits_from_then_on() {
    let folder = testlog::folder();
    let mut log = TestLog::new(folder.path(), 1 << 20);
    let mut compaction = Compaction::open(config(folder.path())).unwrap();
    let mut before = None;
    for n in 1..=2 {
        log.event(&event(n, 0));
        log.commit();
        compaction.look().unwrap();
        compaction.read(None, &AtomicBool::new(false)).unwrap();
        let [Some(since)] = compaction.sorter.hours.waiting_since()[..] else { panic!("it waits") };
        assert!(before < Some(since));
        before = Some(since);
        // the hour is open, and its aggregate alone is not all
        compaction.publish(START + MINUTE, false).unwrap();
        assert_eq!(compaction.sorter.hours.waiting_since(), [before]);
        compaction.publish(START + MINUTE, true).unwrap();
        assert_eq!(compaction.sorter.hours.waiting_since(), [None]);
    }
}

/// Publishes an event at a time, of which only rows can be seen before so many were.
fn rows_go_first(bounds: Bounds, steps: u64) {
    let folder = testlog::folder();
    let mut log = TestLog::new(folder.path(), 1 << 20);
    let config = Config { bounds, ..config(folder.path()) };
    let mut compaction = Compaction::open(config.clone()).unwrap();
    let (events, hourly) = (Events::new(&config.out, "node-1"), Hourly::new(&config.out, "node-1", &config.by));
    let hour = Hour::of(START);
    for n in 1..=u64::from(MOST_STEPS) + 1 {
        log.event(&event(n, 0));
        log.commit();
        compaction.look().unwrap();
        compaction.read(None, &AtomicBool::new(false)).unwrap();
        // the hour is open
        compaction.publish(START + MINUTE, false).unwrap();
        assert_eq!(rows(&events, hour).len() as u64, n);
        let all = if n <= steps { 0 } else { n };
        assert_eq!(compaction.commit().unwrap().snapshot.counts.events().counted, all);
        assert_eq!(hourly.footer(hour).unwrap().is_some(), all > 0);
    }
    assert_eq!(totals(&config, hour).events, i64::from(MOST_STEPS) + 1);
}

#[test]
fn complete_through_is_never_ahead_of_the_clock() {
    let folder = testlog::folder();
    let config = config(folder.path());
    let mut log = TestLog::new(folder.path(), 1 << 20);
    log.event(&event(1, 500 * HOUR));
    log.commit();
    let mut compaction = Compaction::open(config).unwrap();
    compaction.look().unwrap();
    compaction.read(None, &AtomicBool::new(false)).unwrap();
    compaction.publish(START + 2 * HOUR, true).unwrap();
    assert_eq!(compaction.commit().unwrap().complete_through, Some(Hour::of(START + HOUR)));
}

#[test]
fn a_copy_counts_in_its_own_hour_and_only_within_seven_days() {
    let folder = testlog::folder();
    let config = config(folder.path());
    let mut log = TestLog::new(folder.path(), 1 << 20);
    let week = 7 * 24 * HOUR;
    for after in [0, 3 * HOUR, week, week + 1] {
        log.event(&event(8, after));
    }
    let here = Event { id: tallylight_proto::Id { made_here: true, ..event(9, 0).id }, ..event(9, week + 2) };
    log.events([&here, &here]);
    log.commit();
    let compaction = once(&config).unwrap();
    let counts = compaction.counts();
    assert_eq!((counts.events().read, counts.events().counted, counts.events().duplicates), (6, 4, 2));
    assert_eq!(totals(&config, Hour::of(START)).events, 1);
    assert_eq!(totals(&config, Hour::of(START + 3 * HOUR)).duplicates, 1);
    let last = totals(&config, Hour::of(START + week));
    assert_eq!((last.events, last.duplicates), (3, 1));
    assert_eq!(last.value_sum, Some(i128::from(8 * 100_001)), "a duplicate adds nothing");
    assert_eq!(rows(&Events::new(&config.out, "node-1"), Hour::of(START + week)).len(), 3);
}

#[test]
fn the_index_says_how_far_it_has_judged_and_no_further() {
    let folder = testlog::folder();
    let config = config(folder.path());
    let mut log = TestLog::new(folder.path(), 1 << 20);
    log.events(&numbered(0..20, HOUR));
    log.commit();
    let position = once(&config).unwrap().commit().unwrap().snapshot.place.position;
    let index = Index::open(&folder.path().join("compactor/index"), config.index_limits).unwrap();
    assert_eq!(index.through(), position);
}

#[test]
fn an_index_made_again_knows_what_is_six_days_old_and_was_six_days_old_when_it_came() {
    let folder = testlog::folder();
    let config = config(folder.path());
    let days = 6 * 24 * HOUR;
    let mut log = TestLog::new(folder.path(), 1 << 20);
    log.events(&[event(1, HOUR), aged(2, HOUR, days), event(3, HOUR + days)]);
    log.commit();
    once(&config).unwrap();
    std::fs::remove_dir_all(folder.path().join("compactor/index")).unwrap();
    log.events(&[event(1, 2 * HOUR + days), event(2, 2 * HOUR + days)]);
    log.commit();
    let counts = once(&config).unwrap().counts();
    assert_eq!((counts.events().counted, counts.events().duplicates), (3, 2));
}

#[test]
fn a_lost_index_is_made_again_from_the_events() {
    for damage in ["gone", "older", "bad"] {
        let folder = testlog::folder();
        let config = config(folder.path());
        let index = folder.path().join("compactor/index");
        let mut log = TestLog::new(folder.path(), 1 << 20);
        log.events(&numbered(0..20, HOUR));
        log.commit();
        once(&config).unwrap();
        match damage {
            "gone" => std::fs::remove_dir_all(&index).unwrap(),
            "older" => drop(Index::reset(&index, config.index_limits).unwrap()),
            _ => {
                for name in storage::list(&index).unwrap() {
                    let path = index.join(name);
                    let mut bytes = storage::read(&path).unwrap();
                    bytes.iter_mut().for_each(|byte| *byte ^= 0x55);
                    std::fs::write(&path, bytes).unwrap();
                }
            }
        }
        log.events(&numbered(0..20, 2 * HOUR));
        log.commit();
        let counts = once(&config).unwrap().counts();
        assert_eq!((counts.events().counted, counts.events().duplicates), (20, 20), "{damage}");
    }
}

#[test]
fn an_hour_whose_file_is_gone_or_older_than_the_commit_stops_everything() {
    let folder = testlog::folder();
    let config = config(folder.path());
    let path = Hourly::new(&config.out, "node-1", &config.by).path(Hour::of(START));
    let mut log = TestLog::new(folder.path(), 1 << 20);
    log.event(&event(1, 0));
    log.commit();
    once(&config).unwrap();
    let older = storage::read(&path).unwrap();
    log.event(&event(2, 0));
    log.commit();
    once(&config).unwrap();
    let right = storage::read(&path).unwrap();
    log.event(&event(3, 0));
    log.commit();

    let behind = |error: CompactError| matches!(error, CompactError::Hour(HourError::Behind { .. }));
    std::fs::write(&path, &older).unwrap();
    assert!(once(&config).is_err_and(behind));
    std::fs::write(&path, &right[..right.len() / 2]).unwrap();
    assert!(once(&config).is_err());
    std::fs::remove_file(&path).unwrap();
    assert!(once(&config).is_err_and(behind));
    assert!(!path.exists(), "no partial hour");
    std::fs::write(&path, &right).unwrap();
    once(&config).unwrap();
    assert_eq!(totals(&config, Hour::of(START)).events, 3);
}

#[test]
fn damage_and_what_was_torn_are_counted_and_cost_nothing_else() {
    let folder = testlog::folder();
    let config = config(folder.path());
    let mut log = TestLog::new(folder.path(), 1 << 20);
    log.events(&numbered(0..10, 0));
    log.commit();
    log.events(&numbered(10..20, 0));
    log.commit_only();
    let offset = |n: usize| log.places[n].0 + 20;
    log.patch(offset(3), &[0xff]);
    log.patch(offset(12), &[0xff]);
    log.patch(offset(13), &[0xff]);
    let counts = once(&config).unwrap().counts();
    assert_eq!((counts.events().counted, counts.damaged, counts.torn), (17, 1, 2));
    assert_eq!(totals(&config, Hour::of(START)).events, 17);

    // recovered and sealed: what was torn stays torn
    log.seal();
    log.patch(offset(3), &[0xff]);
    log.patch(offset(12), &[0xff; 200]);
    log.write_holes(&[(log.places[12].0, log.places[14].0)]);
    std::fs::remove_dir_all(folder.path().join("out")).unwrap();
    std::fs::remove_dir_all(folder.path().join("compactor")).unwrap();
    let counts = once(&config).unwrap().counts();
    assert_eq!((counts.events().counted, counts.damaged, counts.torn), (17, 1, 2));
}

#[test]
fn a_sealed_segment_cut_at_any_byte_loses_what_is_behind_the_cut_and_counts_it() {
    let folder = testlog::folder();
    let config = config(folder.path());
    let mut log = TestLog::new(folder.path(), 1 << 20);
    log.events(&numbered(0..4, 0));
    let (cut_path, length, places) = (log.path(), log.length(), log.places.clone());
    log.next_segment(START);
    log.event(&event(100, 0));
    log.commit();
    let whole = std::fs::read(&cut_path).unwrap();
    let header = HEADER_LEN as u64;
    for cut in (0..header).step_by(509).chain(header..=length) {
        std::fs::write(&cut_path, &whole[..usize::try_from(cut).unwrap()]).unwrap();
        let mut reader = Reader::new(folder.path(), Purpose::Cover, None);
        reader.look().unwrap();
        let (mut records, mut lost) = (0, 0);
        reader
            .read(|item| {
                match item {
                    Item::Record(_) => records += 1,
                    Item::Lost(gone) => lost += gone.records,
                    Item::SetBack { .. } => panic!("no power cut here"),
                }
                Ok::<_, LogError>(ControlFlow::Continue(()))
            })
            .unwrap();
        if cut < header {
            assert_eq!((records, lost), (2, 5), "cut at {cut}: the next segment says how many there were");
            continue;
        }
        let left = places.iter().filter(|place| place.1 <= cut).count() as u64;
        let ledger = u64::from(cut >= places[0].0);
        assert_eq!((records, lost), (left + ledger + 2, 5 - left - ledger), "cut at {cut}");
    }
    std::fs::write(&cut_path, &whole[..usize::try_from(places[1].1).unwrap()]).unwrap();
    let counts = once(&config).unwrap().counts();
    assert_eq!((counts.events().counted, counts.damaged), (3, 2));
    // and is not counted again
    let counts = once(&config).unwrap().counts();
    assert_eq!((counts.events().counted, counts.damaged), (3, 2));
}

#[test]
fn a_log_that_a_power_cut_set_back_counts_nothing_twice() {
    let folder = testlog::folder();
    let config = config(folder.path());
    let mut log = TestLog::new(folder.path(), 1 << 20);
    log.events(&numbered(0..5, 0));
    log.commit();
    let synced = (log.mark(), std::fs::read(log.path()).unwrap());
    let counts = log.counts;
    log.events(&numbered(5..10, 0));
    log.commit_only();
    assert_eq!(once(&config).unwrap().counts().events().counted, 10);

    // the disk lied: the file is as it was synced. The collector seals it there and goes on; clients send again.
    let old = log.path();
    std::fs::write(&old, &synced.1).unwrap();
    assert_eq!(once(&config).unwrap().counts().events().counted, 10, "before it is recovered there is nothing new");
    log.write_mark(MarkKind::Sealed, synced.0);
    log.set_back(synced.0, counts);
    log.begin_next(START);
    log.events(&numbered(5..12, 0));
    log.commit();
    log.ledger(START);
    log.commit();
    let compaction = once(&config).unwrap();
    let counts = compaction.counts();
    assert_eq!((counts.events().counted, counts.events().duplicates, counts.damaged, counts.torn), (12, 5, 0, 0));
    assert_eq!((counts.records_taken, counts.events().taken), (5, 5));
    assert_eq!(compaction.ledger_mismatches(), 0);
}

#[test]
fn another_log_under_the_same_output_is_refused() {
    let folder = testlog::folder();
    let config = config(folder.path());
    let mut log = TestLog::new(folder.path(), 1 << 20);
    log.events(&numbered(0..5, 0));
    log.next_segment(START);
    log.event(&event(6, 0));
    log.commit();
    once(&config).unwrap();
    let logs = folder.path().join("log");
    let (last, bytes) = (log.path(), std::fs::read(log.path()).unwrap());

    std::fs::remove_file(&last).unwrap();
    let ends_before = |error: CompactError| matches!(error, CompactError::Log(LogError::EndsBefore { .. }));
    assert!(once(&config).is_err_and(ends_before), "the newest segment is gone");
    std::fs::remove_dir_all(&logs).unwrap();
    assert!(once(&config).is_err_and(ends_before), "the whole log is gone");
    let mut other = TestLog::with_salt(folder.path(), 1 << 20, 99);
    assert!(once(&config).is_err_and(ends_before), "another log, still short");
    other.next_segment(START);
    other.events(&numbered(10..40, 0));
    other.commit();
    let is_other = |error: CompactError| matches!(error, CompactError::Log(LogError::OtherLog { .. }));
    assert!(once(&config).is_err_and(is_other), "another log that has grown");
    std::fs::write(&last, bytes).unwrap();
    once(&config).unwrap();
}

#[test]
fn an_unsealed_segment_is_left_only_when_nothing_more_can_come() {
    let folder = testlog::folder();
    let config = config(folder.path());
    let collector = crate::lock::Lock::take(&folder.path().join("lock")).unwrap();
    let mut log = TestLog::new(folder.path(), 1 << 20);
    log.event(&event(1, 0));
    log.commit();
    log.event(&event(2, 0));
    let late = (log.length(), log.path());
    log.begin_next(START);
    log.event(&event(3, 0));
    log.commit();
    assert_eq!(once(&config).unwrap().counts().events().counted, 1, "the collector may still write to it");

    // its last record reaches the file, but no mark says so, and the collector dies
    let mut first = TestLog::new(&folder.path().join("twin"), 1 << 20);
    first.events([&event(1, 0), &event(2, 0)]);
    first.commit();
    let bytes = std::fs::read(first.path()).unwrap();
    let end = usize::try_from(late.0).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&late.1).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &bytes[HEADER_LEN..end], HEADER_LEN as u64).unwrap();
    drop(collector);
    let counts = once(&config).unwrap().counts();
    assert_eq!((counts.events().counted, counts.damaged, counts.torn), (3, 0, 0));
}

#[test]
fn compacted_segments_are_kept_spared_or_deleted_but_never_the_last() {
    let folder = testlog::folder();
    let mut config = config(folder.path());
    let mut log = TestLog::new(folder.path(), 1 << 20);
    for n in 0..6 {
        log.event(&event(n, 0));
        log.next_segment(NOW - 2 * HOUR);
    }
    log.commit();
    let segments = || crate::log::bases(&folder.path().join("log")).unwrap().len();
    let spares = || crate::log::bases(&folder.path().join("log/spare")).unwrap().len();
    config.retain = 3 * HOUR;
    once(&config).unwrap();
    assert_eq!((segments(), spares()), (7, 0), "younger than is kept");
    config.retain = HOUR;
    once(&config).unwrap();
    assert_eq!((segments(), spares()), (1, 2));
    once(&config).unwrap();
    log.event(&event(10, 0));
    log.commit();
    assert_eq!(once(&config).unwrap().counts().events().counted, 7);
}

#[test]
fn segments_begun_by_a_clock_that_was_ahead_go_with_those_behind_them() {
    let folder = testlog::folder();
    let mut config = config(folder.path());
    let mut log = TestLog::new(folder.path(), 1 << 20);
    let mut left = |retain: Millis, begun: &[Millis]| {
        config.retain = retain;
        for begun in begun {
            log.event(&event(log.base(), 0));
            log.next_segment(*begun);
        }
        log.commit();
        once(&config).unwrap();
        crate::log::bases(&folder.path().join("log")).unwrap().len()
    };
    let ahead = NOW + 9000 * HOUR;
    assert_eq!(left(HOUR, &[ahead, ahead]), 3, "nothing tells yet when they ended");
    assert_eq!(left(3 * HOUR, &[NOW - 2 * HOUR]), 4, "less than three hours ago, for all that is known");
    assert_eq!(left(HOUR, &[]), 1);
}

#[test]
fn a_segment_that_the_collector_has_yet_to_seal_stays() {
    let folder = testlog::folder();
    let config = Config { retain: 0, ..config(folder.path()) };
    let mut log = TestLog::new(folder.path(), 1 << 20);
    log.event(&event(1, 0));
    log.commit();
    let left = log.base();
    log.begin_next(NOW - HOUR);
    let left_in = || crate::log::bases(&folder.path().join("log")).unwrap();
    let compaction = once(&config).unwrap();
    assert!(compaction.commit().unwrap().snapshot.place.position > log.base(), "it is covered");
    assert_eq!(left_in(), [left, log.base()]);

    // a power cut may keep the later of two seals
    let sealed = log.base();
    log.next_segment(NOW - HOUR);
    once(&config).unwrap();
    assert_eq!(left_in(), [left, sealed, log.base()]);
}

#[test]
fn a_segment_of_which_one_mark_says_that_it_is_sealed_stays_until_the_next_one_is() {
    let folder = testlog::folder();
    let config = Config { retain: 0, ..config(folder.path()) };
    let mut log = TestLog::new(folder.path(), 1 << 20);
    log.event(&event(1, 0));
    log.commit();
    // the collector is between its two stores
    log.write_mark_once(MarkKind::Sealed, log.mark());
    let left = log.base();
    log.begin_next(NOW - HOUR);
    log.event(&event(2, 0));
    log.commit();
    once(&config).unwrap();
    assert_eq!(crate::log::bases(&folder.path().join("log")).unwrap(), [left, log.base()]);
    log.next_segment(NOW - HOUR);
    once(&config).unwrap();
    assert_eq!(crate::log::bases(&folder.path().join("log")).unwrap(), [log.base()]);
}

#[test]
fn the_last_segment_with_a_ledger_on_disk_and_those_behind_it_stay() {
    let folder = testlog::folder();
    let config = Config { retain: 0, ..config(folder.path()) };
    let segments = || crate::log::bases(&folder.path().join("log")).unwrap();
    let mut log = TestLog::new(folder.path(), 1 << 20);
    for n in 0..2 {
        log.event(&event(n, 0));
        log.next_segment(NOW - HOUR);
    }
    log.event(&event(2, 0));
    log.commit();
    let all = segments();
    let damage = |base| {
        let path = log.segment_path(base);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[HEADER_LEN + 40] ^= 0xff;
        std::fs::write(path, bytes).unwrap();
    };
    all[1..].iter().copied().for_each(damage);
    once(&config).unwrap();
    assert_eq!(segments(), all, "the first one alone has a ledger");

    // sealed, the last one is as it was written; the next one has a ledger, too, but no mark says that it is on disk
    log.next_segment(NOW - HOUR);
    log.write_mark(MarkKind::Synced, Mark { length: HEADER_LEN as u64, ordinal: log.ordinal() - 1 });
    once(&config).unwrap();
    assert_eq!(segments(), [all[2], log.base()]);
    log.commit();
    once(&config).unwrap();
    assert_eq!(segments(), [log.base()]);
}

#[test]
fn a_full_disk_lets_go_of_segments_before_their_time() {
    let left_where_reserved = |share: fn(u64) -> u64| {
        let folder = testlog::folder();
        let mut log = TestLog::new(folder.path(), 1 << 20);
        log.event(&event(1, 0));
        log.reserve = share(storage::free_space(folder.path()).unwrap());
        log.next_segment(START);
        once(&config(folder.path())).unwrap();
        crate::log::bases(&folder.path().join("log")).unwrap().len()
    };
    assert_eq!(left_where_reserved(|free| free / 3), 2, "more than twice that is free");
    assert_eq!(left_where_reserved(|free| free / 4 * 3), 1, "less");
}

#[test]
fn what_a_collector_that_is_there_has_not_synced_is_left_to_it() {
    let folder = testlog::folder();
    let config = config(folder.path());
    let collector = crate::lock::Lock::take(&folder.path().join("lock")).unwrap();
    let mut log = TestLog::new(folder.path(), 1 << 20);
    let mut compaction = Compaction::open(config).unwrap();
    let mut counted = |unsynced: Option<u64>| {
        pass(&mut compaction, true).unwrap();
        assert_eq!(compaction.unsynced(), unsynced);
        compaction.counts().events().counted
    };
    log.event(&event(1, 0));
    log.commit_only();
    assert_eq!(counted(Some(log.position())), 0);
    log.commit();
    assert_eq!(counted(None), 1);
    // not even the begin of the next one is on disk
    log.seal();
    log.begin_next(START);
    log.event(&event(2, 0));
    log.commit_only();
    log.unsync();
    assert_eq!(counted(Some(log.position())), 1);
    // the collector writes on in others before it has synced this one
    for n in [3, 4] {
        log.begin_next(START);
        log.event(&event(n, 0));
        log.commit_only();
        log.unsync();
    }
    assert_eq!(counted(Some(log.position())), 1);
    drop(collector);
    assert_eq!(counted(None), 4, "nobody else will sync it");
}

#[test]
fn rows_go_out_with_their_aggregates_where_the_collector_had_not_synced_them() {
    let published = |commit: fn(&TestLog)| {
        let folder = testlog::folder();
        let config = config(folder.path());
        let mut log = TestLog::new(folder.path(), 1 << 20);
        log.event(&event(1, 0));
        commit(&log);
        pass(&mut Compaction::open(config.clone()).unwrap(), false).unwrap();
        let hour = Hour::of(START);
        (totals(&config, hour).events, rows(&Events::new(&config.out, &config.node), hour).len())
    };
    assert_eq!(published(TestLog::commit), (1, 0), "rows gather");
    assert_eq!(published(TestLog::commit_only), (1, 1));
}

#[test]
fn an_hour_whose_rows_cannot_be_written_is_not_published() {
    let folder = testlog::folder();
    let config = config(folder.path());
    let mut log = TestLog::new(folder.path(), 1 << 20);
    log.event(&event(1, 0));
    log.commit();
    let hour = Hour::of(START);
    let in_the_way = config.out.join("events").join(layout::hour_folder(hour));
    let mut compaction = Compaction::open(config.clone()).unwrap();
    compaction.look().unwrap();
    while compaction.read(None, &AtomicBool::new(false)).unwrap() == Progress::Paused {}
    storage::create_dir_all(in_the_way.parent().unwrap()).unwrap();
    std::fs::write(&in_the_way, "no folder").unwrap();
    compaction.publish(NOW, true).unwrap_err();
    let hourly = Hourly::new(&config.out, &config.node, &config.by).path(hour);
    assert!(!hourly.exists(), "before its rows");
    // what is left in memory is not published
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| compaction.publish(NOW, true))).unwrap_err();
    // the same with nothing in the way
    std::fs::remove_file(&in_the_way).unwrap();
    once(&config).unwrap();
    assert!(hourly.exists());
}

#[test]
fn an_index_older_than_the_rows_beyond_the_commit_is_made_again() {
    let hour = Hour::of(START);
    for steps in 0.. {
        let folder = testlog::folder();
        let config = config(folder.path());
        let events = Events::new(&config.out, &config.node);
        let mut log = TestLog::new(folder.path(), 1 << 20);
        log.events(&numbered(0..5, 0));
        log.commit();
        let position = once(&config).unwrap().commit().unwrap().snapshot.place.position;
        let (synced, counts) = ((log.mark(), std::fs::read(log.path()).unwrap()), log.counts);
        let index = folder.path().join("compactor/index");
        let kept: Vec<_> = files(&index);
        log.events(&numbered(5..10, 0));
        log.commit_only();
        let (died, survived) = crash::after(steps, || once(&config).map(drop));
        assert!(!survived, "it never died between rows and commit");
        let commit = Commit::read(&config.out, &config.node, &config.by).unwrap().unwrap();
        if died.is_ok() || rows(&events, hour).len() < 10 || commit.snapshot.place.position > position {
            continue;
        }
        // the disk lied: what is left of the index and of the log is older than the rows
        std::fs::remove_dir_all(&index).unwrap();
        std::fs::create_dir(&index).unwrap();
        kept.iter().for_each(|(path, bytes)| std::fs::write(path, bytes).unwrap());
        std::fs::write(log.path(), &synced.1).unwrap();
        log.write_mark(MarkKind::Sealed, synced.0);
        log.set_back(synced.0, counts);
        log.begin_next(START);
        log.events(&numbered(5..12, 0));
        log.commit();
        once(&config).unwrap();
        return assert_eq!(rows(&events, hour).len(), 12, "each once");
    }
}

/// All files in a folder, with their bytes.
fn files(folder: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let paths = storage::list(folder).unwrap().into_iter().map(|name| folder.join(name));
    paths.map(|path| (path.clone(), storage::read(&path).unwrap())).collect()
}

#[test]
fn a_ledger_that_does_not_add_up_is_counted() {
    let folder = testlog::folder();
    let config = config(folder.path());
    let mut log = TestLog::new(folder.path(), 1 << 20);
    log.event(&event(1, 0));
    log.ledger(START);
    log.commit();
    assert_eq!(once(&config).unwrap().ledger_mismatches(), 0);
    log.event(&event(2, 0));
    log.counts.front(tallylight_proto::Front::Http1).logged += 1;
    log.counts.front(tallylight_proto::Front::Http1).received += 1;
    log.ledger(START);
    log.commit();
    assert_eq!(once(&config).unwrap().ledger_mismatches(), 1, "across a restart");
}

#[test]
fn a_record_of_a_later_version_is_skipped_and_counted() {
    let folder = testlog::folder();
    let config = config(folder.path());
    let mut log = TestLog::new(folder.path(), 1 << 20);
    log.append(&[9, 9, 9]);
    log.event(&event(1, 0));
    log.commit();
    let counts = once(&config).unwrap().counts();
    assert_eq!((counts.events().counted, counts.damaged), (1, 1));
}

/// A log that is much longer than what one thread reads, with all that may stand between events.
fn long_log(data: &Path) {
    let mut log = TestLog::new(data, 16 << 20);
    for n in 0..3 * EVENTS_ALONE as u64 {
        // each hundredth one is a copy of the one before
        let id = tallylight_proto::Id {
            uuid: uuid::Uuid::from_u128(u128::from(n - u64::from(n % 100 == 99)) << 80 | 1),
            made_here: false,
        };
        log.event(&Event { id, ..event(n, 0) });
        if n % 1000 == 0 {
            log.ledger(START);
        }
        if n % 5000 == 4999 {
            log.next_segment(START);
        }
    }
    log.commit();
}

#[test]
fn what_is_read_ahead_is_taken_in_its_order() {
    let folders = [testlog::folder(), testlog::folder()];
    let published = folders.each_ref().map(|folder| {
        long_log(folder.path());
        let second = folder.path().join(layout::LOG).join(layout::segment(16 << 20));
        let mut bytes = std::fs::read(&second).unwrap();
        bytes[HEADER_LEN + 1_000_000] ^= 1;
        std::fs::write(second, bytes).unwrap();
        let mut config = config(folder.path());
        config.index_limits.head_copies = 3000;
        let mut compaction = Compaction::open(config.clone()).unwrap();
        compaction.look().unwrap();
        // one reads all of it ahead, the other stops again and again, before there is anything to be ahead of
        let until = (folder.path() == folders[1].path()).then(clock::instant);
        while compaction.read(until, &AtomicBool::new(false)).unwrap() == Progress::Paused {}
        compaction.publish(NOW, true).unwrap();
        assert_eq!((compaction.ledger_mismatches(), compaction.counts().damaged), (0, 1));
        published(&config)
    });
    assert_eq!(published[0].counts.events().duplicates, 3 * EVENTS_ALONE as u64 / 100);
    assert_eq!(published[0], published[1]);
}

#[test]
fn rows_that_come_to_take_less_leave_no_room_taken() {
    let folder = testlog::folder();
    let mut log = TestLog::new(folder.path(), 16 << 20);
    // more visitors than a column looks at before it stops to number them
    for n in 0..20_000 {
        let id = tallylight_proto::Id { made_here: true, ..event(n, 0).id };
        log.event(&Event { id, visitor: format!("visitor-{n}").into(), ..event(n, 0) });
    }
    log.commit();
    let config = Config { bounds: Bounds { pending_bytes: 1, ..Bounds::default() }, ..config(folder.path()) };
    let mut compaction = Compaction::open(config.clone()).unwrap();
    compaction.look().unwrap();
    while compaction.read(None, &AtomicBool::new(false)).unwrap() == Progress::Paused {}
    compaction.publish(NOW, true).unwrap();
    assert!(!compaction.sorter.hours.is_full());
    assert_eq!(totals(&config, Hour::of(START)).events, 20_000);
}

#[test]
fn whoever_is_ahead_ends_where_what_was_read_before_cannot_be_judged() {
    let folders = [testlog::folder(), testlog::folder()];
    let config = folders.each_ref().map(|folder| {
        long_log(folder.path());
        let config = config(folder.path());
        Config { index_limits: Limits { head_copies: 1000, ..config.index_limits }, ..config }
    });
    once(&config[1]).unwrap();
    // with each run of the index the disk fails once: from the fifth on several threads are at it
    for run in 0..3 * EVENTS_ALONE / 1000 {
        let mut compaction = Compaction::open(config[0].clone()).unwrap();
        compaction.look().unwrap();
        let in_the_way = config[0].data.join(layout::COMPACTOR).join(INDEX).join(format!(".tmp-{run:020}.run~"));
        std::fs::create_dir(&in_the_way).unwrap();
        let mut reads = std::iter::repeat_with(|| compaction.read(None, &AtomicBool::new(false)));
        let ended = reads.find(|read| !matches!(read, Ok(Progress::Paused))).unwrap();
        assert!(ended.is_err(), "{run}");
        std::fs::remove_dir(in_the_way).unwrap();
    }
    once(&config[0]).unwrap();
    assert_eq!(published(&config[0]), published(&config[1]));
}
