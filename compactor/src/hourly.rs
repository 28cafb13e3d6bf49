//! An hour's aggregate as a Parquet file.
//!
//! The rule: **the bytes depend only on the hour's records up to the covered position.** Groups are sorted,
//! sketches canonical, sums exact, row groups of fixed size; nothing of the run gets in.
//!
//! ```text
//! hour_start  site event target [by…]  events bot_events duplicates late client_lost
//!             visitors visitors_sketch value_sum first_at last_at
//! ```

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type, TimestampMillisecondType};
use arrow_array::{Array, BinaryArray, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray};
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use bytes::Bytes;
use parquet::file::metadata::SortingColumn;
use parquet::file::properties::WriterProperties;
use parquet::schema::types::SchemaDescPtr;
use tallylight_proto::layout;
use tallylight_proto::time::Hour;

use crate::chunk::{Chunk, Encoder, Levels};
use crate::events::hours_from;
use crate::groups::{BASE_COLUMNS, By, Groups, Key, Measures, Sorted};
use crate::parquet_file::{self, Batches, FileError, Writer};
use crate::side_by_side::in_order;
use crate::storage::{self, StorageError};
use crate::sum;
use crate::texts::TextColumn;
use crate::visitors::Visitors;

/// Groups of a row group: what a reader must take at once.
const ROW_GROUP_ROWS: usize = 128 * 1024;
/// Bytes of its sketches, so that many large ones do not stand in memory together.
const ROW_GROUP_BYTES: usize = 32 << 20;
/// So many hours are prepared or encoded at a time. They are all in memory, some of them read again from their files.
const HOURS_TOGETHER: usize = 2;
const SKETCH: &str = "visitors_sketch";
const MEASURES: [&str; 6] = ["events", "bot_events", "duplicates", "late", "client_lost", "visitors"];

/// Where the hourly files of a node lie, and how they are grouped.
#[derive(Clone, Debug)]
pub struct Hourly {
    out: PathBuf,
    node: String,
    by: Vec<By>,
    schema: SchemaRef,
    /// The same as Parquet has it.
    parquet: SchemaDescPtr,
}

/// What the end of an hour's file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footer {
    /// The position behind the last record in it.
    pub covered: u64,
    /// How many groups it has.
    pub groups: usize,
}

/// What an hour's file is to say.
#[derive(Debug)]
pub struct Unwritten {
    /// Which hour.
    pub hour: Hour,
    /// The file as it is, whose groups stay; none, if all are in `groups`.
    pub earlier: Option<Bytes>,
    /// Its groups, or those of records behind what is in that file.
    pub groups: Groups,
    /// The position behind the last record in them.
    pub covered: u64,
}

impl Hourly {
    /// Those of a node, under `OUT`.
    pub fn new(out: &Path, node: &str, by: &[By]) -> Self {
        let schema = schema(by);
        let parquet = parquet_file::schema(&schema);
        Self { out: out.join(layout::HOURLY), node: node.to_owned(), by: by.to_vec(), schema, parquet }
    }

    /// The columns that are grouped by beside those that always are.
    pub fn by(&self) -> &[By] {
        &self.by
    }

    /// How many columns a group's key has.
    pub fn columns(&self) -> usize {
        BASE_COLUMNS.len() + self.by.len()
    }

    /// The file of an hour.
    pub fn path(&self, hour: Hour) -> PathBuf {
        self.out.join(layout::hour_folder(hour)).join(layout::hourly_file(&self.node))
    }

    /// Puts hours' files in the places of those that were there, in this order, and hands over the groups that are in each. They are
    /// prepared and encoded on all processors if it `is_much`, a few hours at a time: groups of an earlier file are in
    /// memory for no longer. Those of an hour may take about `most` bytes.
    pub fn write<E: From<FileError>>(
        &self,
        hours: impl IntoIterator<Item = Result<Unwritten, E>>,
        most: usize,
        is_much: bool,
        mut written: impl FnMut(Hour, Sorted),
    ) -> Result<(), E> {
        let columns = self.parquet.num_columns();
        let mut hours = hours.into_iter().fuse();
        let begun = Cell::new(0);
        let prepared: RefCell<VecDeque<Job>> = RefCell::default();
        // none for now, perhaps: there are more when something is done
        let next = || match prepared.borrow_mut().pop_front() {
            Some(column) => Some(Ok(column)),
            None if begun.get() == HOURS_TOGETHER => None,
            None => {
                let hour = hours.next()?;
                begun.set(begun.get() + 1);
                Some(hour.map(Job::Prepare))
            }
        };
        let work = |encoder: &mut Encoder, job| match job {
            Job::Prepare(hour) => Done::Prepared(self.prepare(hour, most)),
            Job::Encode(row_group, column) => {
                let chunk = self.column(&row_group, column, encoder);
                Done::Encoded(row_group, Box::new(chunk))
            }
        };
        let mut chunks = Vec::with_capacity(columns);
        let mut file = None;
        let done = |done| {
            let (row_group, chunk) = match done {
                Done::Prepared(hour) => {
                    let columns_of = |row_group: RowGroup| (0..columns).map(move |n| Job::Encode(row_group.clone(), n));
                    prepared.borrow_mut().extend(row_groups(hour?).into_iter().flat_map(columns_of));
                    return Ok(());
                }
                Done::Encoded(row_group, chunk) => (row_group, chunk),
            };
            chunks.push(*chunk);
            if chunks.len() < columns {
                return Ok(());
            }
            let hour = &row_group.hour;
            let mut writer = match file.take() {
                Some(writer) => writer,
                None => self.begin(hour.hour)?,
            };
            writer.write(std::mem::take(&mut chunks))?;
            if row_group.places.end < hour.groups.len() {
                file = Some(writer);
                return Ok(());
            }
            writer.commit(self.footer_of(hour))?;
            let Prepared { hour, groups, .. } = Arc::into_inner(row_group.hour).expect("all its columns are written");
            begun.set(begun.get() - 1);
            written(hour, groups);
            Ok(())
        };
        in_order(is_much, std::iter::from_fn(next), work, || Ok(()), done)
    }

    /// Reads an hour's file, if that is to be done, and sorts.
    fn prepare(&self, hour: Unwritten, most: usize) -> Result<Prepared, FileError> {
        let Unwritten { hour, earlier, groups, covered } = hour;
        let groups = match earlier {
            None => groups,
            Some(earlier) => {
                let mut all = self.parse(hour, earlier)?;
                all.merge_within(groups, most);
                all
            }
        };
        Ok(Prepared { hour, covered, groups: groups.sorted() })
    }

    fn begin(&self, hour: Hour) -> Result<Writer, FileError> {
        let path = self.path(hour);
        storage::create_dir_all(path.parent().expect("the file is in its hour's folder"))?;
        Writer::create(&path, &self.parquet, self.properties())
    }

    fn footer_of(&self, hour: &Prepared) -> Vec<(&'static str, String)> {
        let sums = hour.groups.measures(0..hour.groups.len()).enumerate();
        let sums = sums.filter_map(|(row, measures)| Some((row, measures.value_sum?)));
        let exact = sums.filter(|(_, micros)| !sum::is_given_back(*micros));
        let exact: Vec<(usize, String)> = exact.map(|(row, micros)| (row, micros.to_string())).collect();
        let mut footer = vec![
            (parquet_file::NODE, self.node.clone()),
            (parquet_file::COVERED_POSITION, hour.covered.to_string()),
            (parquet_file::BY, self.by_text()),
        ];
        if !exact.is_empty() {
            footer.push((parquet_file::EXACT_SUMS, serde_json::to_string(&exact).expect("numbers and digits")));
        }
        footer
    }

    /// An hour's file, if there is one.
    pub fn read(&self, hour: Hour) -> Result<Option<Bytes>, StorageError> {
        Ok(storage::read_if_there(&self.path(hour))?.map(Bytes::from))
    }

    /// The groups in the file of an hour.
    pub fn parse(&self, hour: Hour, bytes: Bytes) -> Result<Groups, FileError> {
        let path = self.path(hour);
        let builder = parquet_file::open(&path, bytes)?;
        let foreign = |what| FileError::Foreign { path: path.clone(), what };
        if parquet_file::value(builder.metadata(), parquet_file::BY) != Some(&self.by_text()) {
            return Err(foreign("grouped by other columns"));
        }
        let exact = match parquet_file::value(builder.metadata(), parquet_file::EXACT_SUMS) {
            None => Vec::new(),
            Some(text) => serde_json::from_str::<Vec<(usize, String)>>(text).map_err(|_| foreign("bad exact sums"))?,
        };
        let mut exact = exact.into_iter().peekable();
        let mut groups = Groups::default();
        let mut row = 0;
        let names = || self.schema.fields().iter().map(|field| field.name());
        for batch in Batches::new(&path, builder)? {
            let batch = batch?;
            if !batch.schema().fields().iter().map(|field| field.name()).eq(names()) {
                return Err(foreign("other columns"));
            }
            let rows = Rows::of(&batch, self.by.len()).ok_or_else(|| foreign("columns of other types"))?;
            for at in 0..batch.num_rows() {
                let mut measures = rows.measures(at).ok_or_else(|| foreign("an unreadable sketch"))?;
                if let Some((_, micros)) = exact.next_if(|(exact_row, _)| *exact_row == row) {
                    measures.value_sum = Some(micros.parse().map_err(|_| foreign("bad exact sums"))?);
                }
                *groups.of(&rows.key(at)) = measures;
                row += 1;
            }
        }
        Ok(groups)
    }

    /// The hours that have a folder.
    pub fn hours(&self) -> Result<Vec<Hour>, StorageError> {
        hours_from(&self.out, Hour(i64::MIN))
    }

    /// What the end of an hour's file says, if there is one.
    pub fn footer(&self, hour: Hour) -> Result<Option<Footer>, FileError> {
        let path = self.path(hour);
        match parquet_file::footer(&path) {
            Ok(footer) => {
                let groups = usize::try_from(footer.file_metadata().num_rows()).unwrap_or(0);
                Ok(Some(Footer { covered: parquet_file::covered_position(&path, &footer)?, groups }))
            }
            Err(FileError::Storage(error)) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Removes what a crash left half written.
    pub fn sweep(&self) -> Result<(), StorageError> {
        sweep(&self.out, |name| name == layout::hourly_file(&self.node))
    }

    fn by_text(&self) -> String {
        self.by.iter().map(|by| by.name()).collect::<Vec<_>>().join(",")
    }

    fn properties(&self) -> WriterProperties {
        let keys = 1..=self.columns();
        let sorting = |column| SortingColumn {
            column_idx: i32::try_from(column).expect("a few columns"),
            descending: false,
            nulls_first: false,
        };
        parquet_file::properties().set_sorting_columns(Some(keys.map(sorting).collect())).build()
    }

    /// A column of these groups, by its place in the schema.
    fn column(&self, RowGroup { hour, places }: &RowGroup, place: usize, encoder: &mut Encoder) -> Chunk {
        let measures = || hour.groups.measures(places.clone());
        let column = &self.parquet.column(place);
        let one = Levels::Required;
        let Some(place) = place.checked_sub(1) else {
            return encoder.numbers(column, one, &vec![hour.hour.start(); places.len()]);
        };
        let Some(place) = place.checked_sub(self.columns()) else {
            let mut keys = TextColumn::default();
            keys.push_all(&hour.groups.range(places.clone()).map(|group| group.column(place)).collect::<Vec<_>>());
            let (texts, numbers) = keys.parts();
            return encoder.texts(column, one, texts, numbers);
        };
        let mut numbers =
            |number: fn(&Measures) -> i64| encoder.numbers(column, one, &measures().map(number).collect::<Vec<_>>());
        match place {
            0 => numbers(|m| m.events),
            1 => numbers(|m| m.bot_events),
            2 => numbers(|m| m.duplicates),
            3 => numbers(|m| m.late),
            4 => numbers(|m| m.client_lost),
            5 => numbers(|m| m.visitors.estimate()),
            6 => {
                let (mut sketches, mut ends) = (Vec::new(), Vec::with_capacity(places.len()));
                for measures in measures() {
                    measures.visitors.write_sketch(&mut sketches);
                    ends.push(sketches.len());
                }
                encoder.binaries(column, &sketches, &ends)
            }
            7 => {
                let has_sum: Vec<bool> = measures().map(|measures| measures.value_sum.is_some()).collect();
                let sums = measures().filter_map(|measures| measures.value_sum);
                encoder.doubles(column, Levels::Optional(&has_sum), &sums.map(sum::to_f64).collect::<Vec<_>>())
            }
            8 | 9 => {
                let has_times: Vec<bool> = measures().map(|measures| measures.times.is_some()).collect();
                let times = measures().filter_map(|measures| measures.times);
                let times = times.map(|(first, last)| if place == 8 { first } else { last });
                encoder.times(column, Levels::Optional(&has_times), &times.collect::<Vec<_>>())
            }
            _ => unreachable!("the schema has ten columns behind the key"),
        }
    }
}

/// What a thread does for hours' files.
enum Job {
    Prepare(Unwritten),
    Encode(RowGroup, usize),
}

/// What comes of it.
enum Done {
    Prepared(Result<Prepared, FileError>),
    Encoded(RowGroup, Box<Chunk>),
}

/// An hour whose groups are all there and sorted.
struct Prepared {
    hour: Hour,
    covered: u64,
    groups: Sorted,
}

/// Some of an hour's groups.
#[derive(Clone)]
struct RowGroup {
    hour: Arc<Prepared>,
    places: Range<usize>,
}

/// All row groups of an hour, at least one: a file without groups has one without rows.
fn row_groups(hour: Prepared) -> Vec<RowGroup> {
    let hour = Arc::new(hour);
    let mut row_groups = Vec::new();
    let mut begin = 0;
    loop {
        let end = begin + row_group_len(hour.groups.measures(begin..hour.groups.len()));
        row_groups.push(RowGroup { hour: Arc::clone(&hour), places: begin..end });
        if end == hour.groups.len() {
            return row_groups;
        }
        begin = end;
    }
}

/// Removes files being written aside whose later name is one of ours, in all hours' folders, and makes durable which names
/// those have: whoever gave them may have been killed before that, and from now on files are relied upon.
pub(crate) fn sweep(table: &Path, is_ours: impl Fn(&str) -> bool) -> Result<(), StorageError> {
    let list = |folder: &Path| match storage::list(folder) {
        Err(error) if error.is_not_found() || error.source.kind() == std::io::ErrorKind::NotADirectory => {
            Ok(Vec::new())
        }
        listed => listed,
    };
    for date in list(table)? {
        let date = table.join(&date);
        let mut has_hours = false;
        for hour in list(&date)? {
            let folder = date.join(hour);
            if layout::hour_of_folder(&folder).is_none() {
                continue;
            }
            has_hours = true;
            for name in list(&folder)? {
                let later = storage::name_of_temporary(&name);
                if later.is_some_and(&is_ours) {
                    storage::remove(&folder.join(name))?;
                }
            }
            storage::sync_dir(&folder)?;
        }
        if has_hours {
            storage::sync_dir(&date)?;
        }
    }
    if storage::is_dir(table) { storage::sync_dir(table) } else { Ok(()) }
}

/// How many of the groups with these measures, in their order, are a row group.
fn row_group_len<'a>(measures: impl ExactSizeIterator<Item = &'a Measures>) -> usize {
    let least = measures.len().min(1);
    let sketches = measures.scan(0, |bytes, measures| {
        *bytes += measures.visitors.sketch_len();
        Some(*bytes)
    });
    sketches.take(ROW_GROUP_ROWS).take_while(|bytes| *bytes <= ROW_GROUP_BYTES).count().max(least)
}

fn schema(by: &[By]) -> SchemaRef {
    let time = || DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()));
    let mut fields = vec![Field::new("hour_start", time(), false)];
    let keys = BASE_COLUMNS.into_iter().chain(by.iter().map(|by| by.name()));
    fields.extend(keys.map(|name| Field::new(name, DataType::Utf8, false)));
    fields.extend(MEASURES.map(|name| Field::new(name, DataType::Int64, false)));
    fields.push(Field::new(SKETCH, DataType::Binary, false));
    fields.push(Field::new("value_sum", DataType::Float64, true));
    fields.push(Field::new("first_at", time(), true));
    fields.push(Field::new("last_at", time(), true));
    Arc::new(Schema::new(fields))
}

/// A batch's columns by their types.
struct Rows<'a> {
    keys: Vec<&'a StringArray>,
    numbers: Vec<&'a Int64Array>,
    sketches: &'a BinaryArray,
    sums: &'a Float64Array,
    times: [&'a TimestampMillisecondArray; 2],
}

impl<'a> Rows<'a> {
    fn of(batch: &'a RecordBatch, by: usize) -> Option<Self> {
        let mut columns = batch.columns().iter().skip(1);
        let keys = columns
            .by_ref()
            .take(BASE_COLUMNS.len() + by)
            .map(|column| column.as_string_opt())
            .collect::<Option<_>>()?;
        let numbers = columns
            .by_ref()
            .take(MEASURES.len())
            .map(|column| column.as_primitive_opt::<Int64Type>())
            .collect::<Option<_>>()?;
        let sketches = columns.next()?.as_binary_opt()?;
        let sums = columns.next()?.as_primitive_opt::<Float64Type>()?;
        let mut times = || columns.next()?.as_primitive_opt::<TimestampMillisecondType>();
        Some(Self { keys, numbers, sketches, sums, times: [times()?, times()?] })
    }

    fn key(&self, row: usize) -> Key<'a> {
        Key::new(self.keys.iter().map(|column| column.value(row)))
    }

    fn measures(&self, row: usize) -> Option<Measures> {
        let number = |column: usize| self.numbers[column].value(row);
        let [first, last] = self.times.map(|column| column.is_valid(row).then(|| column.value(row)));
        Some(Measures {
            events: number(0),
            bot_events: number(1),
            duplicates: number(2),
            late: number(3),
            client_lost: number(4),
            visitors: Visitors::from_sketch(self.sketches.value(row)).ok()?,
            value_sum: self.sums.is_valid(row).then(|| sum::from_f64(self.sums.value(row))),
            times: first.zip(last),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups(reversed: bool) -> Groups {
        let mut groups = Groups::default();
        let mut order: Vec<i64> = (0..20_000).collect();
        if reversed {
            order.reverse();
        }
        for n in order {
            let target = format!("t{}", n % 9_000);
            let measures = groups.of(&Key::new(["site", "click", &target, "é"]));
            measures.events += 1;
            measures.visitors.add(&format!("v{n}"));
            if n % 3 == 0 {
                *measures.value_sum.get_or_insert(0) += i128::from(n) * ((1 << 55) + 1);
            }
            if n % 2 == 0 {
                let times = measures.times.unwrap_or((n, n));
                measures.times = Some((times.0.min(n), times.1.max(n)));
            }
        }
        groups
    }

    fn write(hourly: &Hourly, hour: Hour, groups: Groups, covered: u64) {
        let unwritten = Unwritten { hour, earlier: None, groups, covered };
        hourly.write([Ok::<_, FileError>(unwritten)], usize::MAX, true, |_, _| {}).unwrap();
    }

    fn load(hourly: &Hourly, hour: Hour) -> Result<Groups, FileError> {
        hourly.parse(hour, hourly.read(hour)?.expect("it is there"))
    }

    #[test]
    fn an_hour_reads_back_exactly_and_its_bytes_do_not_depend_on_order() {
        let folder = tempfile::tempdir().unwrap();
        let hourly = Hourly::new(folder.path(), "n", &[By::Item]);
        assert!(hourly.read(Hour(7)).unwrap().is_none());
        assert_eq!(hourly.footer(Hour(7)).unwrap(), None);
        write(&hourly, Hour(7), groups(false), 4711);
        let bytes = storage::read(&hourly.path(Hour(7))).unwrap();
        let loaded = load(&hourly, Hour(7)).unwrap();
        assert_eq!(hourly.footer(Hour(7)).unwrap(), Some(Footer { covered: 4711, groups: loaded.len() }));
        let sums = |groups: Groups| groups.sorted().iter().map(|g| g.measures.value_sum).collect::<Vec<_>>();
        assert_eq!(sums(loaded.clone()), sums(groups(false)));
        for again in [loaded, groups(true)] {
            write(&hourly, Hour(7), again, 4711);
            assert!(storage::read(&hourly.path(Hour(7))).unwrap() == bytes, "other bytes");
        }
    }

    #[test]
    fn hours_are_written_in_their_order_with_what_they_had_and_few_of_them_are_in_memory() {
        let folder = tempfile::tempdir().unwrap();
        let (hourly, anew) =
            (Hourly::new(&folder.path().join("a"), "n", &[]), Hourly::new(&folder.path().join("b"), "n", &[]));
        let of = |hour: Hour, targets: Range<i64>| {
            let mut groups = Groups::default();
            for n in targets {
                let measures = groups.of(&Key::new(["site", "click", &format!("t{}", n * hour.0 % 5_000)]));
                measures.events += n;
                measures.visitors.add(&n.to_string());
            }
            groups
        };
        let hours = [9, 3, 1, 4, 8, 6, 5].map(Hour);
        hours.iter().step_by(2).for_each(|hour| write(&hourly, *hour, of(*hour, 0..6_000), 1));
        for is_much in [false, true] {
            let order = RefCell::new(Vec::new());
            let unwritten = hours.iter().enumerate().map(|(n, hour)| {
                assert!(n < order.borrow().len() + HOURS_TOGETHER, "so many are in memory");
                let earlier = if n % 2 == 0 { hourly.read(*hour)? } else { None };
                let from = if n % 2 == 0 { 6_000 } else { 0 };
                Ok::<_, FileError>(Unwritten { hour: *hour, earlier, groups: of(*hour, from..9_000), covered: 2 })
            });
            hourly
                .write(unwritten, usize::MAX, is_much, |hour, groups| {
                    assert_eq!(hourly.footer(hour).unwrap(), Some(Footer { covered: 2, groups: groups.len() }));
                    order.borrow_mut().push((hour, groups.len()));
                })
                .unwrap();
            assert_eq!(*order.borrow(), hours.map(|hour| (hour, of(hour, 0..9_000).len())));
            for hour in hours {
                write(&anew, hour, of(hour, 0..9_000), 2);
                assert!(hourly.read(hour).unwrap() == anew.read(hour).unwrap(), "{hour:?}");
            }
            // as they were before
            hours.iter().step_by(2).for_each(|hour| write(&hourly, *hour, of(*hour, 0..6_000), 1));
        }
    }

    #[test]
    fn an_hour_grouped_otherwise_or_cut_short_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let hourly = Hourly::new(folder.path(), "n", &[By::Item]);
        write(&hourly, Hour(7), groups(false), 1);
        let other = Hourly::new(folder.path(), "n", &[By::Page]);
        assert!(matches!(load(&other, Hour(7)), Err(FileError::Foreign { .. })));
        let bytes = storage::read(&hourly.path(Hour(7))).unwrap();
        storage::write_new(&hourly.path(Hour(7)), &bytes[..bytes.len() - 1]).unwrap();
        assert!(load(&hourly, Hour(7)).is_err() && hourly.footer(Hour(7)).is_err());
        // nor is it written over
        let earlier = hourly.read(Hour(7)).unwrap();
        let amended = Unwritten { hour: Hour(7), earlier, groups: groups(false), covered: 2 };
        for is_much in [false, true] {
            let amended = Unwritten { earlier: amended.earlier.clone(), groups: groups(false), ..amended };
            let written = hourly.write([Ok(amended)], usize::MAX, is_much, |_, _| unreachable!());
            assert!(matches!(written, Err(FileError::Parquet { .. } | FileError::Foreign { .. })), "{written:?}");
        }
        assert!(storage::read(&hourly.path(Hour(7))).unwrap() == bytes[..bytes.len() - 1]);
    }

    #[test]
    fn an_hour_with_any_byte_harmed_is_an_error_and_never_a_panic() {
        let folder = tempfile::tempdir().unwrap();
        let hourly = Hourly::new(folder.path(), "n", &[]);
        let mut groups = Groups::default();
        groups.of(&Key::new(["site", "click", "target"])).visitors.add("v");
        write(&hourly, Hour(7), groups, 4711);
        let path = hourly.path(Hour(7));
        let whole = storage::read(&path).unwrap();
        let mut errors = 0;
        for at in 0..whole.len() {
            for byte in [whole[at] ^ 1, !whole[at], whole[at] ^ 0x80] {
                let mut harmed = whole.clone();
                harmed[at] = byte;
                // not synced: there are thousands
                std::fs::write(&path, &harmed).unwrap();
                errors += usize::from(load(&hourly, Hour(7)).is_err());
                let columns = parquet_file::columns(&path, &["events", "visitors_sketch"]);
                let _ = columns.and_then(|columns| Batches::new(&path, columns)?.collect::<Result<Vec<_>, _>>());
            }
        }
        assert!(errors > whole.len(), "{errors} errors");
    }

    #[test]
    fn only_our_own_litter_is_swept() {
        let folder = tempfile::tempdir().unwrap();
        let hourly = Hourly::new(folder.path(), "n", &[]);
        write(&hourly, Hour(7), groups(false), 1);
        let here = hourly.path(Hour(7)).with_file_name("x");
        let litter = [".tmp-n.parquet~", ".tmp-n2.parquet~", "x"].map(|name| here.with_file_name(name));
        litter.iter().for_each(|path| storage::write_new(path, b"").unwrap());
        hourly.sweep().unwrap();
        assert_eq!(litter.map(|path| storage::read(&path).is_ok()), [false, true, true]);
        assert!(load(&hourly, Hour(7)).is_ok());
    }
}
