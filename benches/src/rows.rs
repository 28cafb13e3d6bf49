//! Events become rows of Parquet, beside the library's own writer with the same columns and compression.
//!
//! Both work in a thread on each processor, each of which writes a file of its own, and syncs it.

use std::cell::LazyCell;
use std::fs::File;
use std::num::NonZero;
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, available_parallelism};

use anyhow::{Result, anyhow};
use arrow_array::builder::{
    BooleanBuilder, FixedSizeBinaryBuilder, Float64Builder, Int64Builder, MapBuilder, MapFieldNames, StringBuilder,
    TimestampMillisecondBuilder,
};
use arrow_array::{ArrayRef, RecordBatch};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use tallylight_compactor::batch::{Fate, Taken};
use tallylight_compactor::events::{Events, Pending, schema};
use tallylight_compactor::parquet_file::FileError;
use tallylight_proto::record::{self, EventView, Fields, Text};
use tallylight_proto::time::Hour;

use crate::compact::traffic::Traffic;
use crate::compare::Contender;

/// Events that are taken at a time, as the compactor does.
const BATCH: usize = 512;
/// Rows that the library is given at a time.
const STOCK_BATCH: usize = 8192;
const TEXTS: [Text; 8] =
    [Text::Site, Text::Event, Text::Target, Text::Page, Text::Item, Text::Placement, Text::Visitor, Text::UserAgent];

/// A record, and where everything is in it.
type Checked = (Vec<u8>, Fields);
type Records = LazyCell<Vec<Checked>, Box<dyn FnOnce() -> Vec<Checked>>>;

/// Events of a busy hour, made when they are needed.
pub fn records(events: usize) -> Records {
    LazyCell::new(Box::new(move || {
        let traffic = Traffic::new(1_250_000, 280_000, 9, 3);
        let record = |n| {
            let mut payload = Vec::new();
            record::encode_event(&traffic.event(n), &mut payload);
            let fields = Fields::checked(&payload).expect("what was just encoded");
            (payload, fields)
        };
        (0..events as u64).map(record).collect()
    }))
}

/// The library's writer, and ours.
pub fn contenders<'a>(records: &'a Records, folder: &'a Path) -> Vec<Contender<'a>> {
    vec![
        contender("ArrowWriter, zstd 1", records, move |n, records| {
            stock(records, &folder.join(format!("{n}.parquet")))
        }),
        contender("Tallylight", records, move |n, records| ours(records, &folder.join(n.to_string()))),
    ]
}

/// Does it to the records of each thread.
fn contender<'a>(
    name: &'static str,
    records: &'a Records,
    write: impl Fn(usize, &[Checked]) -> Result<()> + Sync + 'a,
) -> Contender<'a> {
    let run = move || {
        let threads = available_parallelism().map_or(1, NonZero::get);
        let parts = records.chunks(records.len().div_ceil(threads)).enumerate();
        thread::scope(|scope| {
            let write = &write;
            let threads: Vec<_> = parts.map(|(n, records)| scope.spawn(move || write(n, records))).collect();
            threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| anyhow!("a thread has panicked"))?)
        })
    };
    Contender { name, run: Box::new(run), reset: Box::new(|| Ok(())) }
}

fn ours(records: &[Checked], folder: &Path) -> Result<()> {
    let mut pending = Pending::default();
    for (batch, records) in (0..).step_by(BATCH).zip(records.chunks(BATCH)) {
        let taken = (batch..).zip(records).map(|(position, (payload, fields))| Taken {
            position,
            end: position + 1,
            event: EventView::new(payload, fields),
            fate: Fate::Counted,
        });
        let taken: Vec<_> = taken.collect();
        pending.push_all(&taken.iter().collect::<Vec<_>>());
    }
    let events = Events::new(folder, "bench");
    Ok(events.write(&[(Hour(0), pending)], || Ok::<_, FileError>(()), |error| error)?)
}

fn stock(records: &[Checked], path: &Path) -> Result<()> {
    let properties = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?)).build();
    let schema = Arc::new(schema());
    let mut writer = ArrowWriter::try_new(File::create(path)?, Arc::clone(&schema), Some(properties))?;
    for (batch, records) in (0..).step_by(STOCK_BATCH).zip(records.chunks(STOCK_BATCH)) {
        writer.write(&RecordBatch::try_new(Arc::clone(&schema), columns(batch, records)?)?)?;
    }
    Ok(writer.into_inner()?.sync_all()?)
}

fn columns(first: i64, records: &[Checked]) -> Result<Vec<ArrayRef>> {
    let mut ids = FixedSizeBinaryBuilder::new(16);
    let mut positions = Int64Builder::new();
    let times = || TimestampMillisecondBuilder::new().with_timezone("UTC");
    let (mut event_at, mut received_at) = (times(), times());
    let mut texts = [(); TEXTS.len()].map(|()| StringBuilder::new());
    let (mut ips, mut fronts) = (StringBuilder::new(), StringBuilder::new());
    let (mut values, mut lost, mut bots) = (Float64Builder::new(), Int64Builder::new(), BooleanBuilder::new());
    let [entry, key, value] = ["key_value", "key", "value"].map(str::to_owned);
    let field = |name: &str| arrow_schema::Field::new(name, arrow_schema::DataType::Utf8, false);
    let names = Some(MapFieldNames { entry, key, value });
    let mut properties = MapBuilder::new(names, StringBuilder::new(), StringBuilder::new())
        .with_keys_field(field("key"))
        .with_values_field(field("value"));
    for (position, (payload, fields)) in (first..).zip(records) {
        let event = EventView::new(payload, fields);
        ids.append_value(event.id().uuid.into_bytes())?;
        positions.append_value(position);
        event_at.append_value(event.event_at());
        received_at.append_value(event.received_at());
        for (builder, text) in texts.iter_mut().zip(TEXTS) {
            builder.append_value(str::from_utf8(event.text(text))?);
        }
        ips.append_value(record::ip_of(event.ip()).map(|ip| ip.to_string()).unwrap_or_default());
        fronts.append_value(event.front().label());
        values.append_option(event.value().map(|value| value.to_f64()));
        lost.append_value(event.lost().into());
        bots.append_value(false);
        for (key, value) in event.properties() {
            properties.keys().append_value(str::from_utf8(key)?);
            properties.values().append_value(str::from_utf8(value)?);
        }
        properties.append(true)?;
    }
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(ids.finish()),
        Arc::new(positions.finish()),
        Arc::new(event_at.finish()),
        Arc::new(received_at.finish()),
    ];
    columns.extend(texts.iter_mut().map(|texts| Arc::new(texts.finish()) as ArrayRef));
    columns.extend([Arc::new(ips.finish()) as ArrayRef, Arc::new(fronts.finish())]);
    columns.extend([Arc::new(values.finish()) as ArrayRef, Arc::new(lost.finish()), Arc::new(bots.finish())]);
    columns.push(Arc::new(properties.finish()));
    Ok(columns)
}
