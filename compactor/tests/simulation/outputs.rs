//! What stands on the disk, as readers find it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::Path;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type};
use arrow_array::{Array, RecordBatch};
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tallylight_compactor::log::{Item, LogError, Purpose, Reader, SegmentFile, bases};
use tallylight_host::disk;
use tallylight_host::simulated::World;
use tallylight_proto::layout;
use tallylight_proto::record::{self, Record};
use tallylight_proto::segment::{Found, Framing, HEADER_LEN, HeaderPage, Mark, Scanner};

use crate::programs::data;

/// A row of `events`.
#[derive(Clone, Debug)]
pub struct Row {
    pub hour: String,
    pub position: i64,
    pub token: String,
    pub site: String,
    pub target: String,
    pub value: Option<f64>,
    /// The length of its property `p`.
    pub padding: usize,
}

/// What the log holds.
#[derive(Default)]
pub struct Logged {
    pub tokens: BTreeSet<String>,
    pub torn: u64,
    /// What must not be on a disk that keeps its word: damage, and records that were taken back.
    pub wrong: Vec<String>,
}

/// Reads the log from the segment on that holds this position.
pub fn log(from: u64) -> Logged {
    let mut logged = Logged::default();
    let mut reader = Reader::new(data(), Purpose::Look, None);
    reader.look().unwrap();
    reader.skip_to(from);
    reader
        .read(|item| {
            match item {
                Item::Record(framed) => match record::decode(framed.payload).expect("a whole record can be read") {
                    Record::Event(event) => drop(logged.tokens.insert(event.item.to_string())),
                    Record::Ledger(_) => {}
                },
                Item::Lost(lost) if lost.cause.is_damage() => logged.wrong.push(format!("{lost:?}")),
                Item::Lost(lost) => logged.torn += lost.records,
                Item::SetBack { .. } => logged.wrong.push(format!("{item:?}")),
            }
            Ok::<_, LogError>(ControlFlow::Continue(()))
        })
        .unwrap();
    logged
}

/// The events in whole records of segments that are not sealed, wherever they stand there.
pub fn whole_records() -> BTreeSet<String> {
    let log = data().join(layout::LOG);
    let mut tokens = BTreeSet::new();
    for base in bases(&log).unwrap() {
        let file = SegmentFile::open(&log, base).unwrap();
        let Ok(page) = file.page().unwrap() else { continue };
        if page.sealed.is_some() || page.header.base != base {
            continue;
        }
        let begin = Mark { length: HEADER_LEN as u64, ordinal: page.header.first_ordinal };
        let framing = Framing::new(page.header.salt, base);
        let mut scanner = Scanner::new(framing, begin, page.header.capacity, None);
        while let Some(found) = scanner.next(|offset, buffer| file.read(offset, buffer)).unwrap() {
            if let Found::Record(framed) = found
                && let Record::Event(event) = record::decode(framed.payload).expect("a whole record can be read")
            {
                tokens.insert(event.item.to_string());
            }
        }
    }
    tokens
}

/// For a trace: what the segments on disk say of themselves.
pub fn tell_segments(world: &World) {
    let files = world.files(&data().join(layout::LOG));
    for (path, bytes) in files.iter().filter_map(|path| Some((path, world.durable(path)?))) {
        if let Ok(page) = HeaderPage::decode(&bytes) {
            let ordinal = page.header.first_ordinal.cast_signed();
            let marks = [page.committed, page.synced, page.sealed].map(|m| m.map(|m| (m.length, m.ordinal)));
            eprintln!("-- {}: from {ordinal}, committed, synced, sealed {marks:?}, {:?}", path.display(), page.holes);
        }
    }
}

/// After a start every segment is sealed but the last, has the base that its name says, and a salt of its own.
pub fn check_segments() {
    let log = data().join(layout::LOG);
    let bases = bases(&log).unwrap();
    let mut salts = BTreeSet::new();
    for (at, base) in bases.iter().enumerate() {
        let Ok(page) = SegmentFile::open(&log, *base).unwrap().page().unwrap() else {
            panic!("segment {base} has no header");
        };
        assert_eq!(page.header.base, *base, "a segment's name and its header");
        assert!(salts.insert(page.header.salt), "segment {base} has the salt of another");
        assert!(page.sealed.is_some() || at + 1 == bases.len(), "segment {base} was left unsealed: {page:?}");
    }
}

fn parquet(world: &World, folder: &Path) -> Vec<(String, RecordBatch)> {
    let mut batches = Vec::new();
    for path in world.files(folder) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.starts_with('.') {
            continue;
        }
        let hour = path.parent().unwrap().strip_prefix(folder).unwrap().to_string_lossy().into_owned();
        let bytes = Bytes::from(disk::read(&path).unwrap());
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes)
            .unwrap_or_else(|error| panic!("{} is visible, and half: {error}", path.display()));
        for batch in reader.build().unwrap() {
            batches.push((hour.clone(), batch.unwrap()));
        }
    }
    batches
}

/// All rows of `events`.
pub fn rows(world: &World, out: &Path) -> Vec<Row> {
    let mut rows = Vec::new();
    for (hour, batch) in parquet(world, &out.join(layout::EVENTS)) {
        let text =
            |name: &str, row: usize| batch.column_by_name(name).unwrap().as_string::<i32>().value(row).to_owned();
        let positions = batch.column_by_name("position").unwrap().as_primitive::<Int64Type>().clone();
        let values = batch.column_by_name("value").unwrap().as_primitive::<Float64Type>().clone();
        let props = batch.column_by_name("props").unwrap().as_map().clone();
        for row in 0..batch.num_rows() {
            let entries = props.value(row);
            let values_of = entries.column(1).as_string::<i32>();
            rows.push(Row {
                hour: hour.clone(),
                position: positions.value(row),
                token: text("item", row),
                site: text("site", row),
                target: text("target", row),
                value: values.is_valid(row).then(|| values.value(row)),
                padding: (0..values_of.len()).map(|n| values_of.value(n).len()).sum(),
            });
        }
    }
    rows
}

/// Of an hour and item: how many events, and the sum of their values.
pub type Counted = BTreeMap<(String, String), (i64, f64)>;

/// For each hour of `hourly`, and each item of it, what is counted. And duplicates in all.
pub fn hourly(world: &World, out: &Path) -> (Counted, i64) {
    let (mut groups, mut duplicates) = (Counted::new(), 0);
    for (hour, batch) in parquet(world, &out.join(layout::HOURLY)) {
        let number =
            |name: &str, row: usize| batch.column_by_name(name).unwrap().as_primitive::<Int64Type>().value(row);
        let items = batch.column_by_name("item").unwrap().as_string::<i32>().clone();
        let sums = batch.column_by_name("value_sum").unwrap().as_primitive::<Float64Type>().clone();
        for row in 0..batch.num_rows() {
            let events = number("events", row) + number("bot_events", row);
            duplicates += number("duplicates", row);
            if events > 0 {
                let counted = groups.entry((hour.clone(), items.value(row).to_owned())).or_insert((0, 0.0));
                counted.0 += events;
                counted.1 += if sums.is_valid(row) { sums.value(row) } else { 0.0 };
            }
        }
    }
    (groups, duplicates)
}

/// The bytes of all hourly files.
pub fn hourly_bytes(world: &World, out: &Path) -> BTreeMap<String, Vec<u8>> {
    let folder = out.join(layout::HOURLY);
    let files = world.files(&folder).into_iter().filter(|path| !path.to_string_lossy().contains("/.tmp"));
    files.map(|path| (path.strip_prefix(&folder).unwrap().display().to_string(), disk::read(&path).unwrap())).collect()
}
