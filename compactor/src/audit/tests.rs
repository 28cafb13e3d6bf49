//! What adds up, what does not, and what only looks as if it did not.

use std::fs;
use std::sync::atomic::AtomicBool;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{ArrayRef, BooleanArray, Int64Array, RecordBatch};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::metadata::KeyValue;
use serde_json::Value;
use tallylight_proto::Event;
use tallylight_proto::segment::MarkKind;
use tallylight_proto::sources::{Arrival, Marks, Scope, Sources};
use tallylight_proto::time::{Hour, Millis};

use super::*;
use crate::compaction::{CompactError, Compaction, Config};
use crate::groups::By;
use crate::hours::Bounds;
use crate::index::Limits;
use crate::lock::Lock;
use crate::parquet_file;
use crate::storage::{self, crash};
use crate::testlog::{self, HOUR, MINUTE, START, TestLog, aged, crawled, event, framed};

const NOW: Millis = START + 1000 * HOUR;

/// A log with a collector's table of sources beside it, and its compactor.
struct World {
    folder: tempfile::TempDir,
    log: TestLog,
    sources: Sources,
    now: u64,
}

impl World {
    fn new() -> Self {
        let folder = testlog::folder();
        let log = TestLog::new(folder.path(), 1 << 20);
        Self { folder, log, sources: Sources::default(), now: 0 }
    }

    /// Two hours of all that there is: crawlers, copies, late ones, shed and refused ones, datagrams, two lives.
    fn full() -> Self {
        let mut world = Self::new();
        for n in 0..20 {
            world.log.event(&event(n, MINUTE));
            world.arrive(&framed(1000 + n, MINUTE, 7, n + 1), n != 3);
        }
        world.log.events([&event(3, MINUTE), &crawled(50, MINUTE), &aged(51, MINUTE, HOUR), &crawled(50, 2 * MINUTE)]);
        world.log.counts.fronts[0].received += 5;
        world.log.counts.fronts[0].shed[0] += 3;
        world.log.counts.fronts[0].refused[2] += 2;
        world.tell(2 * MINUTE, false);
        world.begin(3 * MINUTE);
        world.log.events([&event(70, HOUR), &event(3, HOUR)]);
        world.arrive(&framed(1000, HOUR, 7, 23), true);
        world.tell(HOUR + MINUTE, true);
        world.log.seal();
        world
    }

    /// A datagram with one event. What is refused leaves no record.
    fn arrive(&mut self, event: &Event<'_>, is_recorded: bool) {
        let number = event.origin.unwrap().number;
        self.sources.arrive(&Arrival { number, events: u64::from(is_recorded), is_recorded }, self.now);
        self.log.counts.datagrams.received += 1;
        if is_recorded {
            self.log.event(event);
        } else {
            self.log.counts.fronts[3].received += 1;
            self.log.counts.fronts[3].refused[0] += 1;
        }
    }

    /// Two seconds later a ledger record follows.
    fn tell(&mut self, at: Millis, closing: bool) {
        let marks = self.changes();
        self.log.ledger_with(START + at, closing, marks);
        self.sources.are_written();
        self.log.commit();
    }

    fn changes(&mut self) -> Marks {
        (0..20).for_each(|_| {
            self.now += 100;
            self.sources.tick(self.now);
        });
        self.log.counts.datagrams.add(self.sources.take_counts());
        self.sources.changes()
    }

    /// Another segment, with all sources in its first ledger record.
    fn begin(&mut self, at: Millis) {
        self.log.first_marks = self.sources.all();
        self.log.counts.datagrams.add(self.sources.take_counts());
        self.log.next_segment(START + at);
    }

    fn data(&self) -> &Path {
        self.folder.path()
    }

    fn config(&self) -> Config {
        Config {
            data: self.data().to_owned(),
            out: self.data().join("out"),
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

    fn pass(&self, all: bool) -> Result<Compaction, CompactError> {
        let mut compaction = Compaction::open(self.config())?;
        compaction.look()?;
        compaction.read(None, &AtomicBool::new(false))?;
        compaction.publish(NOW, all)?;
        Ok(compaction)
    }

    fn compact(&self) {
        self.pass(true).unwrap();
    }

    /// The text and whether all adds up.
    fn audit(&self) -> (bool, String) {
        let mut text = Vec::new();
        let adds_up = audit(self.data(), None, false, &mut text).unwrap();
        (adds_up, String::from_utf8(text).unwrap())
    }

    #[track_caller]
    fn assert_adds_up(&self) -> String {
        let (adds_up, text) = self.audit();
        assert!(adds_up && !text.contains("DOES NOT"), "{text}");
        text
    }

    /// All of these lines must be there, and be marked, and no others.
    #[track_caller]
    fn assert_wrong(&self, expected: &[&str]) {
        let (adds_up, text) = self.audit();
        let is_wrong = |line: &&str| line.ends_with("DOES NOT ADD UP") && !line.starts_with("Node");
        let wrong: Vec<&str> = text.lines().filter(is_wrong).collect();
        assert!(!adds_up, "{text}");
        for said in expected {
            assert!(wrong.iter().any(|line| line.contains(said)), "no {said:?}:\n{text}");
        }
        let is_expected = |line: &&&str| expected.iter().any(|said| line.contains(said));
        assert_eq!(wrong.iter().filter(is_expected).count(), wrong.len(), "{text}");
    }

    fn hour(after: Millis) -> Hour {
        Hour::of(START + after)
    }

    fn hourly_file(&self, hour: Hour) -> PathBuf {
        Hourly::new(&self.config().out, "node-1", &[By::Item]).path(hour)
    }

    fn part(&self, hour: Hour) -> PathBuf {
        Events::new(&self.config().out, "node-1").parts(hour).unwrap().remove(0)
    }

    /// Writes a file again with other rows, and the same footer.
    fn rewrite(&self, path: &Path, change: impl Fn(RecordBatch) -> RecordBatch) {
        let bytes = bytes::Bytes::from(storage::read(path).unwrap());
        let builder = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap();
        let value = |key| (key, parquet_file::value(builder.metadata(), key).unwrap().to_owned());
        let footer = [parquet_file::NODE, parquet_file::COVERED_POSITION].map(value);
        let schema = builder.schema().clone();
        let mut writer = ArrowWriter::try_new(Vec::new(), schema, None).unwrap();
        for batch in builder.build().unwrap() {
            writer.write(&change(batch.unwrap())).unwrap();
        }
        for (key, value) in footer {
            writer.append_key_value_metadata(KeyValue::new(key.to_owned(), value));
        }
        storage::write_new(path, &writer.into_inner().unwrap()).unwrap();
    }

    fn edit_commit(&self, edit: impl FnOnce(&mut Value)) {
        let path = Commit::path(&self.config().out, "node-1");
        let mut commit: Value = serde_json::from_slice(&storage::read(&path).unwrap()).unwrap();
        edit(&mut commit);
        storage::write_new(&path, commit.to_string().as_bytes()).unwrap();
    }
}

fn without_first_row(batch: RecordBatch) -> RecordBatch {
    batch.slice(1, batch.num_rows() - 1)
}

/// The first value of a column is another one.
fn with_first(batch: &RecordBatch, column: &str, change: impl Fn(i64) -> i64) -> RecordBatch {
    let at = batch.schema().index_of(column).unwrap();
    let mut values = batch.column(at).as_primitive::<Int64Type>().values().to_vec();
    values[0] = change(values[0]);
    let mut columns: Vec<ArrayRef> = batch.columns().to_vec();
    columns[at] = std::sync::Arc::new(Int64Array::from(values));
    RecordBatch::try_new(batch.schema(), columns).unwrap()
}

#[test]
fn everything_that_was_compacted_adds_up_line_by_line() {
    let world = World::full();
    world.compact();
    let text = world.assert_adds_up();
    for line in [
        "  http1                  31 received = 26 logged + 3 shed + 2 refused  (queue 3, too_large 2)  ok",
        "  udp                    21 received = 20 logged + 0 shed + 1 refused  (malformed 1)  ok",
        "  records                50 records = 46 read + 4 ledger records + 0 damaged + 0 torn  ok",
        "  http1                  26 logged = 26 read; 26 read = 22 counted + 3 duplicates + 1 bots  ok",
        "  events                 41 hourly = 41 counted  ok",
        "  rows udp               19 rows = 19 counted; 0 bot rows = 0 bots  ok",
        "  hours                  3 hours, in each as many rows as events  ok",
        "  0000000000000007 key - 23 sent = 21 received + 2 lost - 0 recovered + 0 pending; 20 events = 19 counted + 1 \
         duplicates  ok",
        "  lives                  1 in the log: 1 ended in order, 0 killed",
        "Node node-1: everything adds up",
    ] {
        assert!(text.lines().any(|found| found == line), "no {line:?}:\n{text}");
    }
    let mut json = Vec::new();
    assert!(audit(world.data(), Some(&world.data().join("out")), true, &mut json).unwrap());
    let json: Value = serde_json::from_slice(&json).unwrap();
    assert_eq!((&json["adds_up"], &json["node"]), (&true.into(), &"node-1".into()));
    assert_eq!(json["ledger"][0]["sums"][0]["received"], 31);
    assert_eq!(json["sources"][0]["sums"][0]["lost"], 2);
    assert_eq!(json["commit"][0]["sums"][0]["ledger_records"], 4);
}

#[test]
fn a_row_that_is_missing_or_too_many_is_found() {
    let world = World::full();
    world.compact();
    let part = world.part(World::hour(0));
    let whole = fs::read(&part).unwrap();
    world.rewrite(&part, without_first_row);
    world.assert_wrong(&["rows http1", "2026-11-22T13:00:00Z", "http1 committed"]);
    fs::write(&part, whole).unwrap();
    world.assert_adds_up();

    let part = world.part(World::hour(HOUR));
    world.rewrite(&part, |batch| with_first(&batch, "position", |position| position + 1));
    let row = world.log.places[world.log.places.len() - 3].0 + 1;
    world.assert_wrong(&[&format!("row {row}"), "http1 committed"]);
    world.rewrite(&part, |batch| with_first(&batch, "position", |position| position + (1 << 40)));
    world.assert_wrong(&["rows http1", "2026-11-22T14", &format!("row {}", row + (1 << 40)), "http1 committed"]);
    fs::remove_file(&part).unwrap();
    world.assert_wrong(&["rows http1", "2026-11-22T14", "http1 committed"]);
}

#[test]
fn a_row_that_became_a_crawlers_is_found() {
    let world = World::full();
    world.compact();
    world.rewrite(&world.part(World::hour(0)), |batch| {
        let at = batch.schema().index_of("bot").unwrap();
        let mut columns: Vec<ArrayRef> = batch.columns().to_vec();
        let bots = columns[at].as_boolean().iter().enumerate().map(|(row, bot)| Some(bot.unwrap() || row == 0));
        columns[at] = std::sync::Arc::new(bots.collect::<BooleanArray>());
        RecordBatch::try_new(batch.schema(), columns).unwrap()
    });
    world.assert_wrong(&["rows http1", "2026-11-22T13:00:00Z"]);
}

#[test]
fn an_hourly_file_that_counts_otherwise_or_is_gone_is_found() {
    for (column, said) in [
        ("events", &["events  ", "2026-11-22T13:00:00Z"][..]),
        ("bot_events", &["bot events", "2026-11-22T13:00:00Z"]),
        ("duplicates", &["duplicates   "]),
        ("client_lost", &["client lost"]),
    ] {
        let world = World::full();
        world.compact();
        world.rewrite(&world.hourly_file(World::hour(0)), |batch| with_first(&batch, column, |value| value + 1));
        world.assert_wrong(said);
    }
    let world = World::full();
    world.compact();
    fs::remove_file(world.hourly_file(World::hour(-HOUR))).unwrap();
    world.assert_wrong(&["events  ", "2026-11-22T12:00:00Z"]);
}

#[test]
fn a_commit_that_was_edited_is_found() {
    let edited = |edit: fn(&mut Value), said: &[&str]| {
        let world = World::full();
        world.compact();
        world.edit_commit(edit);
        world.assert_wrong(said);
    };
    edited(|commit| commit["counts"]["counted"] = 7.into(), &["its counts are not the sums over the fronts"]);
    edited(|commit| commit["counts"]["torn"] = 1.into(), &["records   "]);
    edited(|commit| commit["ordinal"] = 49.into(), &["records   ", "log   "]);
    edited(
        |commit| {
            for counts in ["/counts", "/counts/fronts/http1"] {
                let counts = commit.pointer_mut(counts).unwrap();
                counts["read"] = (counts["read"].as_u64().unwrap() + 1).into();
                counts["counted"] = (counts["counted"].as_u64().unwrap() + 1).into();
            }
        },
        &["records   ", "http1   ", "all   ", "events   ", "rows http1", "http1 committed"],
    );
    edited(
        |commit| {
            for counts in ["/counts", "/counts/fronts/udp"] {
                let counts = commit.pointer_mut(counts).unwrap();
                counts["duplicates"] = (counts["duplicates"].as_u64().unwrap() + 1).into();
                counts["counted"] = (counts["counted"].as_u64().unwrap() - 1).into();
            }
        },
        &["events   ", "duplicates   ", "rows udp", "udp committed"],
    );
    edited(
        |commit| {
            let hours = commit["hours"].as_object_mut().unwrap();
            hours.values_mut().next().unwrap().clone_from(&(1_u64 << 40).into());
        },
        &["was published up to 1099511627776"],
    );
}

#[test]
fn a_ledger_record_with_wrong_counts_is_found_where_it_stands() {
    let mut world = World::new();
    world.log.events([&event(1, 0), &event(2, 0)]);
    world.log.counts.fronts[0].logged += 1;
    world.log.counts.fronts[0].received += 1;
    let at = world.log.position();
    world.tell(MINUTE, true);
    world.compact();
    let label = format!("position {at}");
    world.assert_wrong(&[&label, "http1  ", "all  "]);

    let mut world = World::new();
    world.log.counts.fronts[3].received += 1;
    let at = world.log.position();
    world.tell(MINUTE, true);
    world.compact();
    let label = format!("position {at}");
    world.assert_wrong(&[&label, "udp  ", "all  "]);
}

#[test]
fn a_mark_of_a_source_with_a_wrong_figure_is_found_where_it_stands() {
    let mut world = World::new();
    (1..5).for_each(|n| world.arrive(&framed(n, 0, 9, n), true));
    let mut marks = world.changes();
    marks.marks[0].figures.received += 1;
    marks.marks[0].bounds.next += 1;
    marks.marks[0].bounds.aged += 1;
    let at = world.log.position();
    world.log.ledger_with(START, true, marks);
    world.log.commit();
    world.compact();
    world.assert_wrong(&[&format!("position {at}")]);
    let (_, text) = world.audit();
    assert!(text.contains("0000000000000009 key -: received 5, but 4 by the records"), "{text}");
}

#[test]
fn a_life_without_an_end_is_a_gap_that_is_named_and_no_failure() {
    let mut world = World::new();
    world.log.event(&event(1, 0));
    world.tell(1000, false);
    world.log.event(&event(2, 1700));
    world.log.commit();
    world.compact();
    let text = world.assert_adds_up();
    let said = "killed after 2026-11-22T13:00:01.000Z (events were logged until 2026-11-22T13:00:01.700Z): what it \
                received, shed and refused after 2026-11-22T13:00:01.000Z is not known: at most a second, or ten while the disk was full";
    assert!(text.contains(said), "{text}");
    let lock = Lock::take(&world.data().join(layout::LOCK)).unwrap();
    let text = world.assert_adds_up();
    assert!(text.contains("0 killed, the last one is running") && !text.contains("killed after"), "{text}");
    drop(lock);
    world.log.life = START + MINUTE;
    world.begin(MINUTE);
    world.tell(2 * MINUTE, true);
    let text = world.assert_adds_up();
    assert!(text.contains("2 in the log: 1 ended in order, 1 killed") && text.contains(said), "{text}");
}

#[test]
fn an_output_beyond_its_commit_is_found_again_in_the_log() {
    let mut world = World::full();
    let nothing = world.assert_adds_up();
    assert!(nothing.contains("none yet at") && nothing.contains("only the log is audited"), "{nothing}");
    let compaction = world.pass(false).unwrap();
    world.log.events([&event(80, HOUR + MINUTE), &event(70, HOUR), &crawled(81, HOUR)]);
    world.log.life += 1;
    world.log.first_marks = world.sources.all();
    world.log.next_segment(START + HOUR);
    world.log.commit();
    drop(compaction);
    world.pass(false).unwrap();
    let text = world.assert_adds_up();
    assert!(text.contains("hours are published further than the commit"), "{text}");
    assert!(text.contains("is known when the compactor is at rest"), "{text}");
    // and a real mismatch is seen all the same
    let file = world.hourly_file(World::hour(HOUR));
    world.rewrite(&file, |batch| with_first(&batch, "duplicates", |duplicates| duplicates + 1));
    let (adds_up, text) = world.audit();
    assert!(!adds_up, "{text}");
    let wrong: Vec<&str> = text.lines().filter(|line| line.ends_with("DOES NOT ADD UP")).collect();
    assert!(wrong[0].starts_with("  all ") && wrong[0].contains("ahead of it"), "{text}");
}

#[test]
fn a_compactor_that_dies_at_any_change_to_the_disk_leaves_what_adds_up() {
    for steps in 0.. {
        let world = World::full();
        let (_, survived) = crash::after(steps, || world.pass(false).and_then(|_| world.pass(true)).map(drop));
        world.assert_adds_up();
        if survived {
            return assert!(steps > 30, "only {steps} steps");
        }
    }
}

#[test]
fn damaged_and_torn_records_are_told_and_leave_room_for_no_more_than_they_are() {
    let world = World::full();
    let places = world.log.places.clone();
    world.log.patch(places[44].0 - world.log.base() + 30, &[1]);
    world.compact();
    let text = world.assert_adds_up();
    assert!(text.contains("1 records damaged, 0 torn"), "{text}");
    assert!(text.contains("26 logged = 25 read (1 over); 25 read"), "{text}");

    // lost before it was compacted, or after: the same
    let world = World::full();
    world.compact();
    world.log.patch(places[43].0 - world.log.base() + 30, &[1]);
    let text = world.assert_adds_up();
    assert!(text.contains("1 of events that the log has lost since they were published"), "{text}");

    let mut world = World::new();
    world.log.events([&event(0, 0), &event(1, 0), &event(2, 0)]);
    world.log.commit_only();
    world.log.patch(world.log.places[1].0 + 17, &[0xff]);
    world.log.patch(world.log.places[2].0 + 17, &[0xff]);
    world.log.write_mark(MarkKind::Sealed, world.log.mark());
    world.log.write_holes(&[(world.log.places[1].0, world.log.length())]);
    world.compact();
    assert!(world.assert_adds_up().contains("0 records damaged, 2 torn"));
}

#[test]
fn what_a_power_cut_takes_after_it_was_published_is_told() {
    for is_committed in [true, false] {
        let mut world = World::new();
        world.log.events([&event(0, 0), &event(1, 0), &event(2, 0)]);
        world.log.commit();
        let (synced, counts, old) = (world.log.mark(), world.log.counts, world.log.path());
        let file = fs::read(&old).unwrap();
        world.log.events([&event(3, 0), &event(4, 0), &event(3, 0)]);
        world.log.commit();
        if is_committed {
            world.compact();
        } else {
            // it dies after the rows and the aggregate, before the commit
            let steps = (0..).find(|steps| {
                let _ = fs::remove_dir_all(world.data().join("out"));
                let _ = fs::remove_dir_all(world.data().join("compactor"));
                let _ = crash::after(*steps, || world.pass(true).map(drop));
                world.hourly_file(World::hour(0)).exists()
            });
            assert!(steps.is_some() && Commit::read_any(&world.config().out, "node-1").unwrap().is_none());
        }
        fs::write(&old, &file).unwrap();
        let text = world.assert_adds_up();
        assert!(text.contains("killed after"), "{text}");
        // the collector carries its ledger on where the first of them stood, seals, and goes on; clients send again
        world.log.set_back(synced, counts);
        world.log.ledger_with(START + MINUTE, false, Marks { scope: Scope::All, ..Marks::default() });
        world.log.seal();
        world.assert_adds_up();
        world.log.life += 1;
        world.log.begin_next(START + MINUTE);
        world.log.events([&event(3, 0), &event(4, 0), &event(5, 0)]);
        world.tell(MINUTE, true);
        let text = world.assert_adds_up();
        assert!(!is_committed || text.contains("a power cut took records that were read already"), "{text}");
        world.compact();
        let text = world.assert_adds_up();
        assert!(
            !is_committed || text.contains("2 taken by power cuts") && text.contains("3 taken by power cuts"),
            "{text}"
        );
        assert!(text.contains("2 of events that the log has lost since they were published"), "{text}");
        // but for what is in no hole there is no room
        let part = world.part(World::hour(0));
        world.rewrite(&part, without_first_row);
        assert!(!world.audit().0);
    }
}

#[test]
fn segments_that_were_released_or_were_gone_from_the_beginning_are_no_failure() {
    for is_compacted_before in [true, false] {
        let mut world = World::full();
        if is_compacted_before {
            world.compact();
        }
        fs::remove_file(world.log.segment_path(0)).unwrap();
        world.compact();
        let text = world.assert_adds_up();
        assert!(text.contains("before the log +"), "{text}");
        assert!(text.contains("23 sent = 21 received"), "{text}");
        let position = world.log.places.last().unwrap().0;
        world.rewrite(&world.part(World::hour(HOUR)), |batch| {
            with_first(&batch, "position", |_| i64::try_from(position).unwrap() + 1)
        });
        assert!(!world.audit().0);
        world.log.life += 1;
    }
}

#[test]
fn without_a_log_or_an_output_it_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let mut text = Vec::new();
    assert!(audit(folder.path(), None, false, &mut text).unwrap());
    assert!(String::from_utf8(text).unwrap().contains("nothing was logged yet"));
}
