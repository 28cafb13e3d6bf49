//! The outputs, read by a plain Parquet reader and compared with a plain model.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type, TimestampMillisecondType};
use arrow_array::{Array, RecordBatch};
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tallylight_compactor::compaction::{Compaction, Config};
use tallylight_compactor::groups::By;
use tallylight_compactor::hours::Bounds;
use tallylight_compactor::index::Limits;
use tallylight_proto::time::{Hour, MAX_AGE_MS, Millis};
use tallylight_proto::{Event, Id, Micros, layout};

use crate::testlog::{self, HOUR, TestLog, crawled, event};

fn compact(data: &Path, by: &[By]) -> PathBuf {
    let config = Config {
        data: data.to_owned(),
        out: data.join("out"),
        node: "node-1".into(),
        by: by.to_vec(),
        grace: 60_000,
        retain: Millis::MAX,
        index_limits: Limits::default(),
        bounds: Bounds::default(),
        hour_bytes: usize::MAX,
        watchdog: Default::default(),
        rows: true,
    };
    let mut compaction = Compaction::open(config).unwrap();
    compaction.look().unwrap();
    compaction.read(None, &AtomicBool::new(false)).unwrap();
    compaction.publish(Millis::MAX, true).unwrap();
    data.join("out")
}

/// All files of a table, with their hours.
fn files(table: &Path) -> Vec<(Hour, PathBuf)> {
    let list =
        |folder: &Path| fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect::<BTreeSet<_>>();
    let hours = list(table).into_iter().flat_map(|date| list(&date));
    hours
        .flat_map(|hour| list(&hour))
        .map(|file| (layout::hour_of_folder(file.parent().unwrap()).unwrap(), file))
        .collect()
}

fn batches(file: &Path) -> Vec<RecordBatch> {
    let bytes = Bytes::from(fs::read(file).unwrap());
    ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap().build().unwrap().map(Result::unwrap).collect()
}

/// Columns of a batch by name and row.
struct Row<'a>(&'a RecordBatch, usize);

impl Row<'_> {
    fn column(&self, name: &str) -> &dyn Array {
        self.0.column_by_name(name).unwrap_or_else(|| panic!("no column {name}"))
    }
    fn text(&self, name: &str) -> String {
        self.column(name).as_string::<i32>().value(self.1).to_owned()
    }
    fn number(&self, name: &str) -> i64 {
        self.column(name).as_primitive::<Int64Type>().value(self.1)
    }
    fn time(&self, name: &str) -> Option<i64> {
        let column = self.column(name).as_primitive::<TimestampMillisecondType>();
        column.is_valid(self.1).then(|| column.value(self.1))
    }
    fn double(&self, name: &str) -> Option<f64> {
        let column = self.column(name).as_primitive::<Float64Type>();
        column.is_valid(self.1).then(|| column.value(self.1))
    }
}

#[derive(Debug, Default, PartialEq)]
struct Group {
    events: i64,
    bot_events: i64,
    duplicates: i64,
    late: i64,
    client_lost: i64,
    visitors: i64,
    value_sum: Option<f64>,
    first_at: Option<i64>,
    last_at: Option<i64>,
}

#[derive(Default)]
struct Model {
    group: Group,
    visitors: BTreeSet<String>,
    micros: Option<i128>,
}

type Groups = BTreeMap<(i64, Vec<String>), Group>;

/// The rules, written down once more, as plainly as can be.
fn model(events: &[Event<'_>], by: &[By]) -> Groups {
    let mut first: HashMap<uuid::Uuid, Millis> = HashMap::new();
    let mut groups: BTreeMap<(i64, Vec<String>), Model> = BTreeMap::new();
    for event in events {
        let mut key = vec![event.site.to_string(), event.event.to_string(), event.target.to_string()];
        key.extend(by.iter().map(|by| match by {
            By::Item => event.item.to_string(),
            By::Placement => event.placement.to_string(),
            By::Page => event.page.to_string(),
        }));
        let at = event.received_at - i64::from(event.age_ms);
        let model = groups.entry((at.div_euclid(HOUR), key)).or_default();
        let seen = first.get(&event.id.uuid).is_some_and(|seen| (event.received_at - seen).abs() <= MAX_AGE_MS);
        if seen && !event.id.made_here {
            model.group.duplicates += 1;
            continue;
        }
        first.insert(event.id.uuid, event.received_at);
        if event.user_agent.contains("Googlebot") {
            model.group.bot_events += 1;
            continue;
        }
        model.group.events += 1;
        model.group.late += i64::from(event.age_ms > 60_000);
        model.group.client_lost += i64::from(event.lost);
        if !event.visitor.is_empty() {
            model.visitors.insert(event.visitor.to_string());
        }
        if let Some(value) = event.value {
            *model.micros.get_or_insert(0) += i128::from(value.0);
        }
        model.group.first_at = Some(model.group.first_at.map_or(at, |first| first.min(at)));
        model.group.last_at = Some(model.group.last_at.map_or(at, |last| last.max(at)));
    }
    let finish = |mut model: Model| {
        model.group.visitors = i64::try_from(model.visitors.len()).unwrap();
        let decimal = |micros: i128| {
            let sign = if micros < 0 { "-" } else { "" };
            format!("{sign}{}.{:06}", micros.unsigned_abs() / 1_000_000, micros.unsigned_abs() % 1_000_000)
        };
        model.group.value_sum = model.micros.map(|micros| decimal(micros).parse().unwrap());
        model.group
    };
    groups.into_iter().map(|(key, model)| (key, finish(model))).collect()
}

fn published(out: &Path, by: &[By]) -> Groups {
    let mut groups = Groups::new();
    for (hour, file) in files(&out.join("hourly")) {
        let mut last = None;
        for batch in batches(&file) {
            for row in (0..batch.num_rows()).map(|row| Row(&batch, row)) {
                assert_eq!(row.time("hour_start"), Some(hour.start()));
                let names = ["site", "event", "target"].into_iter().chain(by.iter().map(|by| by.name()));
                let key: Vec<String> = names.map(|name| row.text(name)).collect();
                assert!(last.replace(key.clone()) < Some(key.clone()), "sorted, each group once");
                let group = Group {
                    events: row.number("events"),
                    bot_events: row.number("bot_events"),
                    duplicates: row.number("duplicates"),
                    late: row.number("late"),
                    client_lost: row.number("client_lost"),
                    visitors: row.number("visitors"),
                    value_sum: row.double("value_sum"),
                    first_at: row.time("first_at"),
                    last_at: row.time("last_at"),
                };
                assert!(groups.insert((hour.0, key), group).is_none());
            }
        }
    }
    groups
}

/// Events of all kinds, from a fixed seed.
fn any_events(count: u64) -> Vec<Event<'static>> {
    let mut state = 88_172_645_463_325_252_u64;
    let mut random = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let millis = |number: u64| Millis::try_from(number).unwrap();
    let mut after = 0;
    let mut events: Vec<Event<'static>> = Vec::new();
    for n in 0..count {
        after += millis(random(400_000));
        let mut made = if random(15) == 0 { crawled(n, after) } else { event(n, after) };
        let age = [0, 0, 59_999, 60_000, 60_001, 3_600_000, 604_800_000][usize::try_from(random(7)).unwrap()];
        made.age_ms = u32::try_from(random(age + 1)).unwrap();
        made.target = ["", "https://a.example/", "https://a.example/é"][usize::try_from(random(3)).unwrap()].into();
        made.visitor = if random(4) == 0 { "".into() } else { format!("v{}", random(40)).into() };
        made.value = (random(3) > 0).then(|| Micros(millis(random(18_000_000_000_000_000)) - Micros::MAX.0));
        if random(8) == 0 && n > 0 {
            // a copy, whose content may be another
            made.id = events[usize::try_from(random(n)).unwrap()].id;
        }
        if random(10) == 0 {
            made.id = Id { uuid: uuid::Uuid::from_u128(u128::from(n) << 70 | 3), made_here: true };
        }
        events.push(made);
    }
    events
}

#[test]
fn hourly_files_say_what_a_plain_model_says() {
    for by in [&[][..], &[By::Page, By::Item, By::Placement][..]] {
        let folder = testlog::folder();
        let mut log = TestLog::new(folder.path(), 4 << 20);
        let events = any_events(5000);
        log.events(&events);
        log.commit();
        let out = compact(folder.path(), by);
        let (ours, expected) = (published(&out, by), model(&events, by));
        assert!(expected.values().any(|group| group.duplicates > 0 && group.events == 0 && group.first_at.is_none()));
        assert_eq!(ours.len(), expected.len());
        for (key, group) in &expected {
            assert_eq!(ours.get(key), Some(group), "{key:?}");
        }
    }
}

#[test]
fn events_have_every_first_copy_once_with_all_its_columns() {
    let folder = testlog::folder();
    let mut log = TestLog::new(folder.path(), 4 << 20);
    let events = any_events(2000);
    log.events(&events);
    log.commit();
    let out = compact(folder.path(), &[]);
    let by_position: HashMap<u64, &Event<'_>> = log.places.iter().map(|place| place.0).zip(&events).collect();
    let mut rows = 0;
    for (hour, file) in files(&out.join("events")) {
        let mut last = None;
        for batch in batches(&file) {
            for row in (0..batch.num_rows()).map(|row| Row(&batch, row)) {
                rows += 1;
                let position = u64::try_from(row.number("position")).unwrap();
                assert!(last.replace(position) < Some(position), "in log order");
                let event = by_position[&position];
                assert_eq!(Hour::of(event.event_at()), hour);
                assert_eq!(row.column("id").as_fixed_size_binary().value(row.1), event.id.uuid.as_bytes());
                assert_eq!(row.time("event_at"), Some(event.event_at()));
                assert_eq!(row.time("received_at"), Some(event.received_at));
                let texts = [
                    ("site", &event.site),
                    ("event", &event.event),
                    ("target", &event.target),
                    ("page", &event.page),
                    ("item", &event.item),
                    ("placement", &event.placement),
                    ("visitor", &event.visitor),
                    ("user_agent", &event.user_agent),
                ];
                texts.iter().for_each(|(name, text)| assert_eq!(row.text(name), **text, "{name}"));
                assert_eq!((row.text("ip"), row.text("front")), ("192.0.2.0".into(), "http1".into()));
                assert_eq!(row.double("value"), event.value.map(Micros::to_f64));
                assert_eq!(row.number("lost"), i64::from(event.lost));
                assert_eq!(row.column("bot").as_boolean().value(row.1), event.user_agent.contains("Googlebot"));
                let pairs = row.column("props").as_map().value(row.1);
                let [keys, values] = [0, 1].map(|n| pairs.column(n).as_string::<i32>());
                let props: Vec<_> = (0..pairs.len()).map(|n| (keys.value(n), values.value(n))).collect();
                let expected: Vec<_> = event.props.iter().map(|(key, value)| (&**key, &**value)).collect();
                assert_eq!(props, expected);
            }
        }
    }
    let counted: i64 = model(&events, &[]).values().map(|group| group.events + group.bot_events).sum();
    assert_eq!(rows, counted);
}
