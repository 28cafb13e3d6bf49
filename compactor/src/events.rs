//! The compacted log: every event once, in log order, as parts of an hour.
//!
//! The rule: **a part is immutable, and the parts of an hour follow each other.** A part is named by the
//! position of its first record and its footer says the position behind its last; the newest says how far
//! the hour's events are published.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::builder::{
    BooleanBuilder, FixedSizeBinaryBuilder, Float64Builder, Int64Builder, MapBuilder, MapFieldNames, StringBuilder,
    TimestampMillisecondBuilder,
};
use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use parquet::basic::{Compression, Encoding};
use parquet::file::properties::WriterProperties;
use parquet::schema::types::ColumnPath;
use tallylight_proto::Event;
use tallylight_proto::layout;
use tallylight_proto::segment::Framed;
use tallylight_proto::time::Hour;

use crate::hourly::sweep;
use crate::parquet_file::{self, FileError, Writer};
use crate::storage::{self, StorageError};

/// Rows that become Arrow arrays at a time: they stay in the processor's cache.
const BATCH_ROWS: usize = 1024;
const ID_LEN: i32 = 16;

/// What a row takes up in memory beside its texts, in bytes: numbers, and where each text ends.
const ROW_BYTES: usize = 128;

/// Events of an hour that are not in a part yet: rows of it already.
#[derive(Default)]
pub struct Pending {
    batches: Vec<RecordBatch>,
    /// Rows that are no batch yet.
    columns: Option<Box<Columns>>,
    bytes: usize,
    /// The position of the first row's record.
    first: Option<u64>,
    /// The position behind the last row's record.
    end: u64,
}

impl Pending {
    /// Adds an event and its record.
    pub fn push(&mut self, record: &Framed<'_>, event: &Event<'_>, bot: bool) {
        let columns = self.columns.get_or_insert_with(|| Box::new(Columns::new()));
        columns.push(record.position, event, bot);
        if columns.rows == BATCH_ROWS {
            self.batches.push(columns.finish());
        }
        self.bytes += record.payload.len() + ROW_BYTES;
        self.first.get_or_insert(record.position);
        self.end = record.end;
    }

    /// How much memory waits, about.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The position of the first row's record.
    pub fn first_position(&self) -> Option<u64> {
        self.first
    }

    /// The position behind the last row's record.
    pub fn end(&self) -> u64 {
        self.end
    }
}

/// Where the events of a node lie.
#[derive(Clone, Debug)]
pub struct Events {
    out: PathBuf,
    node: String,
    schema: SchemaRef,
}

impl Events {
    /// Those of a node, under `OUT`.
    pub fn new(out: &Path, node: &str) -> Self {
        Self { out: out.join(layout::EVENTS), node: node.to_owned(), schema: schema() }
    }

    /// Writes a part. There is at least one row.
    pub fn write(&self, hour: Hour, pending: Pending) -> Result<(), FileError> {
        let first = pending.first_position().expect("a part has rows");
        let folder = self.out.join(layout::hour_folder(hour));
        storage::create_dir_all(&folder)?;
        let path = folder.join(layout::events_part(&self.node, first));
        let mut writer = Writer::create(&path, Arc::clone(&self.schema), properties())?;
        for batch in &pending.batches {
            writer.write(batch)?;
        }
        if let Some(mut rest) = pending.columns.filter(|columns| columns.rows > 0) {
            writer.write(&rest.finish())?;
        }
        let covered = (parquet_file::COVERED_POSITION, pending.end.to_string());
        writer.commit([(parquet_file::NODE, self.node.clone()), covered])
    }

    /// The position up to which an hour's events are published.
    pub fn covered(&self, hour: Hour) -> Result<u64, FileError> {
        let Some(newest) = self.parts(hour)?.pop() else { return Ok(0) };
        parquet_file::covered_position(&newest, &parquet_file::footer(&newest)?)
    }

    /// The parts of an hour, in log order.
    pub fn parts(&self, hour: Hour) -> Result<Vec<PathBuf>, StorageError> {
        let folder = self.out.join(layout::hour_folder(hour));
        let names = match storage::list(&folder) {
            Err(error) if error.is_not_found() => return Ok(Vec::new()),
            names => names?,
        };
        let is_part = |name: &&std::ffi::OsString| {
            name.to_str().is_some_and(|name| layout::events_part_position(&self.node, name).is_some())
        };
        Ok(names.iter().filter(is_part).map(|name| folder.join(name)).collect())
    }

    /// The hours that have a folder, from this one on.
    pub fn hours_from(&self, first: Hour) -> Result<Vec<Hour>, StorageError> {
        hours_from(&self.out, first)
    }

    /// Up to where there are rows, at least this position: parts that begin beyond it are looked for in hours from
    /// this one on.
    pub fn covered_beyond(&self, position: u64, first: Hour) -> Result<u64, FileError> {
        let mut covered = position;
        for hour in self.hours_from(first)? {
            let parts = self.parts(hour)?;
            let name = |path: &PathBuf| path.file_name().map(|name| name.to_string_lossy().into_owned());
            let last = parts.last().and_then(|path| layout::events_part_position(&self.node, &name(path)?));
            if last.is_some_and(|begin| begin >= position) {
                covered = covered.max(self.covered(hour)?);
            }
        }
        Ok(covered)
    }

    /// Removes what a crash left half written.
    pub fn sweep(&self) -> Result<(), StorageError> {
        sweep(&self.out, |name| layout::events_part_position(&self.node, name).is_some())
    }
}

/// The hours that have a folder in a table, from this one on.
pub(crate) fn hours_from(table: &Path, first: Hour) -> Result<Vec<Hour>, StorageError> {
    let list = |folder: &Path| match storage::list(folder) {
        Err(error) if error.is_not_found() || error.source.kind() == std::io::ErrorKind::NotADirectory => {
            Ok(Vec::new())
        }
        listed => listed,
    };
    let mut hours = Vec::new();
    for date in list(table)? {
        let date = table.join(date);
        let of_day = list(&date)?.into_iter().filter_map(|hour| layout::hour_of_folder(&date.join(hour)));
        hours.extend(of_day.filter(|hour| *hour >= first));
    }
    Ok(hours)
}

fn time() -> DataType {
    DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()))
}

const TEXTS: [&str; 10] =
    ["site", "event", "target", "page", "item", "placement", "visitor", "user_agent", "ip", "front"];

fn schema() -> SchemaRef {
    let mut fields = vec![
        Field::new("id", DataType::FixedSizeBinary(ID_LEN), false),
        Field::new("position", DataType::Int64, false),
        Field::new("event_at", time(), false),
        Field::new("received_at", time(), false),
    ];
    fields.extend(TEXTS.map(|name| Field::new(name, DataType::Utf8, false)));
    // named as the Parquet format wants it, which Spark insists on
    let pair = Fields::from(vec![Field::new("key", DataType::Utf8, false), Field::new("value", DataType::Utf8, false)]);
    let pairs = Field::new("key_value", DataType::Struct(pair), false);
    fields.extend([
        Field::new("value", DataType::Float64, true),
        Field::new("lost", DataType::Int64, false),
        Field::new("bot", DataType::Boolean, false),
        Field::new("props", DataType::Map(Arc::new(pairs), false), false),
    ]);
    Arc::new(Schema::new(fields))
}

fn properties() -> WriterProperties {
    let mut properties = parquet_file::properties();
    for column in ["position", "event_at", "received_at"] {
        properties = properties
            .set_column_dictionary_enabled(ColumnPath::from(column), false)
            .set_column_encoding(ColumnPath::from(column), Encoding::DELTA_BINARY_PACKED);
    }
    properties
        .set_column_dictionary_enabled(ColumnPath::from("id"), false)
        .set_column_compression(ColumnPath::from("id"), Compression::UNCOMPRESSED)
        .build()
}

/// Arrow builders, in the order of the schema.
struct Columns {
    schema: SchemaRef,
    id: FixedSizeBinaryBuilder,
    position: Int64Builder,
    event_at: TimestampMillisecondBuilder,
    received_at: TimestampMillisecondBuilder,
    texts: [StringBuilder; TEXTS.len()],
    value: Float64Builder,
    lost: Int64Builder,
    bot: BooleanBuilder,
    props: MapBuilder<StringBuilder, StringBuilder>,
    rows: usize,
    /// For the address as text.
    ip: String,
}

impl Columns {
    fn new() -> Self {
        let names = MapFieldNames { entry: "key_value".into(), key: "key".into(), value: "value".into() };
        let props = MapBuilder::new(Some(names), StringBuilder::new(), StringBuilder::new())
            .with_values_field(Field::new("value", DataType::Utf8, false));
        Self {
            schema: schema(),
            id: FixedSizeBinaryBuilder::new(ID_LEN),
            position: Int64Builder::new(),
            event_at: TimestampMillisecondBuilder::new().with_timezone("UTC"),
            received_at: TimestampMillisecondBuilder::new().with_timezone("UTC"),
            texts: std::array::from_fn(|_| StringBuilder::new()),
            value: Float64Builder::new(),
            lost: Int64Builder::new(),
            bot: BooleanBuilder::new(),
            props,
            rows: 0,
            ip: String::new(),
        }
    }

    fn push(&mut self, position: u64, event: &Event<'_>, bot: bool) {
        use std::fmt::Write;
        self.ip.clear();
        if let Some(ip) = event.ip {
            write!(self.ip, "{ip}").expect("writing to a String does not fail");
        }
        self.id.append_value(event.id.uuid.as_bytes()).expect("an id is 16 bytes");
        self.position.append_value(i64::try_from(position).expect("a log of 8 EiB"));
        self.event_at.append_value(event.event_at());
        self.received_at.append_value(event.received_at);
        let texts = [
            &*event.site,
            &*event.event,
            &*event.target,
            &*event.page,
            &*event.item,
            &*event.placement,
            &*event.visitor,
            &*event.user_agent,
            &*self.ip,
            event.front.label(),
        ];
        self.texts.iter_mut().zip(texts).for_each(|(column, text)| column.append_value(text));
        self.value.append_option(event.value.map(|value| value.to_f64()));
        self.lost.append_value(event.lost.into());
        self.bot.append_value(bot);
        for (key, value) in &event.props {
            self.props.keys().append_value(key);
            self.props.values().append_value(value);
        }
        self.props.append(true).expect("as many keys as values");
        self.rows += 1;
    }

    fn finish(&mut self) -> RecordBatch {
        self.rows = 0;
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(self.id.finish()),
            Arc::new(self.position.finish()),
            Arc::new(self.event_at.finish()),
            Arc::new(self.received_at.finish()),
        ];
        columns.extend(self.texts.iter_mut().map(|column| Arc::new(column.finish()) as ArrayRef));
        columns.extend([
            Arc::new(self.value.finish()) as ArrayRef,
            Arc::new(self.lost.finish()),
            Arc::new(self.bot.finish()),
            Arc::new(self.props.finish()),
        ]);
        RecordBatch::try_new(Arc::clone(&self.schema), columns).expect("columns as in the schema")
    }
}
