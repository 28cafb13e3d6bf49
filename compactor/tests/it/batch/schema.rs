//! `deploy/batch/SCHEMA.md` is held against files: their columns and footers here, and what each engine takes them for with
//! its queries.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use bytes::Bytes;
use parquet::basic::{LogicalType, TimeUnit};
use parquet::file::metadata::FileMetaData;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::schema::types::Type;
use serde_json::{Value, json};
use tallylight_proto::layout;

use super::traffic::BY;
use crate::harness::{Collector, Compactor, assert_audit, workspace};
use crate::out;

/// A table of the page: the cells of its rows, the heading first.
type Rows = Vec<Vec<String>>;

/// The tables of the page by the headings above them.
struct Page(BTreeMap<String, Rows>);

impl Page {
    fn read() -> Self {
        let text = fs::read_to_string(workspace().join("deploy/batch/SCHEMA.md")).unwrap();
        let section = |section: &str| {
            let heading = section.lines().next().unwrap().trim_matches('`').to_owned();
            let rows = section.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
            let cells = |row: &str| row.split(" | ").map(|cell| cell.trim_matches('`').to_owned()).collect();
            (heading, rows.filter(|row| !row.starts_with("---")).map(cells).collect())
        };
        Self(text.split("\n## ").skip(1).map(section).collect())
    }

    /// The rows of a table, without its heading.
    fn rows(&self, table: &str) -> &[Vec<String>] {
        &self.0.get(table).unwrap_or_else(|| panic!("the page has no {table}"))[1..]
    }

    /// What a type is called somewhere, as the table of types has it.
    fn type_in(&self, place: &str, name: &str) -> String {
        let types = &self.0["Types"];
        let column = types[0].iter().position(|heading| heading == place);
        let row = types.iter().find(|row| row[0] == name).unwrap_or_else(|| panic!("the page has no type {name}"));
        row[column.unwrap_or_else(|| panic!("the page has no types of {place}"))].clone()
    }
}

/// The columns of each table with their types in an engine, as the page has them.
pub fn types_in(engine: &str) -> Value {
    let page = Page::read();
    let places = [
        ("duckdb", "DuckDB"),
        ("clickhouse", "ClickHouse"),
        ("polars", "Polars"),
        ("pandas", "pyarrow"),
        ("spark", "Spark"),
    ];
    let (_, place) = places.into_iter().find(|(name, _)| *name == engine).unwrap();
    let types = |table: &str| -> Value {
        let of_column = |row: &Vec<String>| {
            let name = page.type_in(place, &row[1]);
            let is_nullable = engine == "clickhouse" && row[2] == "yes";
            (row[0].clone(), Value::from(if is_nullable { format!("Nullable({name})") } else { name }))
        };
        let folders = ["date", "hour"].map(|folder| (folder.to_owned(), page.type_in(place, folder).into()));
        Value::Object(page.rows(table).iter().map(of_column).chain(folders).collect())
    };
    json!({"hourly": types("hourly"), "events": types("events")})
}

/// A column as the file declares it, in the words of the page.
fn declared(column: &Type) -> [String; 3] {
    let name = column.name().to_owned();
    let null = if column.is_optional() { "yes" } else { "no" }.to_owned();
    let info = column.get_basic_info();
    let logical = match info.logical_type_ref() {
        None => String::new(),
        Some(LogicalType::String) => ", STRING".to_owned(),
        Some(LogicalType::Timestamp(time)) if time.is_adjusted_to_u_t_c && time.unit == TimeUnit::MILLIS => {
            ", TIMESTAMP(MILLIS, UTC)".to_owned()
        }
        Some(LogicalType::Map) => {
            let [key_value] = column.get_fields() else { panic!("{column:?}") };
            let [key, value] = key_value.get_fields() else { panic!("{column:?}") };
            let texts = [key, value].map(|column| declared(column));
            let text = |name: &str| [name, "BYTE_ARRAY, STRING", "no"].map(str::to_owned);
            assert_eq!(texts, [text("key"), text("value")]);
            return [name, "MAP of STRING to STRING".to_owned(), null];
        }
        Some(other) => panic!("{name} is of the type {other:?}"),
    };
    let physical = match column {
        Type::PrimitiveType { physical_type, type_length, .. } if *type_length > 0 => {
            format!("{physical_type}({type_length})")
        }
        _ => column.get_physical_type().to_string(),
    };
    [name, format!("{physical}{logical}"), null]
}

fn metadata(file: &Path) -> FileMetaData {
    let reader = SerializedFileReader::new(Bytes::from(fs::read(file).unwrap())).unwrap();
    reader.metadata().file_metadata().clone()
}

/// Some events, of which a double does not give back the sum of one group, and what becomes of them in `DATA/out`.
fn compact(data: &Path, flags: &[&str]) {
    let out = data.join("out");
    let mut collector = Collector::start(data, &[]);
    let body = "event=buy&value=8999999999.000001\nevent=buy&value=8999999999.000001\nevent=view&color=red";
    assert_eq!(collector.request("POST", "/api/beacon", &[], body.as_bytes()).status, 204);
    assert!(collector.terminate().success());
    let once = Compactor::once(data, &out, flags);
    assert!(once.status.success(), "{}", String::from_utf8_lossy(&once.stderr));
    assert_audit(data, &out);
}

#[test]
fn the_page_about_the_output_says_what_is_in_the_files() {
    let page = Page::read();
    for flags in [&["--by", BY][..], &[]] {
        let folder = tempfile::tempdir().unwrap();
        let (data, out) = (folder.path(), folder.path().join("out"));
        compact(data, flags);
        let mut keys = BTreeSet::new();
        for table in [layout::HOURLY, layout::EVENTS] {
            for file in out::files(&out, table) {
                let metadata = metadata(&out.join(table).join(file));
                assert_columns(&page, table, &metadata, !flags.is_empty());
                let of_file = metadata.key_value_metadata().unwrap().iter();
                keys.extend(of_file.map(|pair| (table, pair.key.clone())));
            }
        }
        assert_eq!(keys, footer_keys(&page));
        assert_watermark(&page, &out::commit(data, &out).unwrap());
    }
}

fn assert_columns(page: &Page, table: &str, metadata: &FileMetaData, has_by: bool) {
    let is_there = |row: &&Vec<String>| {
        assert!(!row[3].is_empty(), "{} has no meaning", row[0]);
        has_by || !row[3].contains("only with `--by")
    };
    let said = page.rows(table).iter().filter(is_there);
    let said = said.map(|row| [row[0].clone(), page.type_in("in the file", &row[1]), row[2].clone()]);
    let columns = metadata.schema().get_fields().iter().map(|column| declared(column));
    assert_eq!(columns.collect::<Vec<_>>(), said.collect::<Vec<_>>(), "{table}");
}

/// The keys of the files' footers with the tables that have them.
fn footer_keys(page: &Page) -> BTreeSet<(&'static str, String)> {
    let of_row = |row: &Vec<String>| {
        let tables = [layout::HOURLY, layout::EVENTS].into_iter().filter(|table| row[1] == "both" || row[1] == *table);
        tables.map(|table| (table, row[0].clone())).collect::<Vec<_>>()
    };
    page.rows("Footers").iter().flat_map(of_row).collect()
}

fn assert_watermark(page: &Page, commit: &Value) {
    for row in page.rows("watermark") {
        let value = commit.get(&row[0]).unwrap_or_else(|| panic!("no {} in {commit}", row[0]));
        let is_so = match &*row[1] {
            "string" => value.is_string(),
            "number" => value.is_u64(),
            "object" => row[2].split('`').skip(1).step_by(2).all(|name| value[name].is_u64()),
            other => panic!("no type {other}"),
        };
        assert!(is_so, "{row:?}: {value}");
    }
}
