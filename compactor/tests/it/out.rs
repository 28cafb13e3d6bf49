//! The output folder, as a program in Rust finds it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;
use tallylight_proto::layout;

/// The name of the node that made this data.
pub fn node(data: &Path) -> String {
    fs::read_to_string(data.join(layout::NODE)).unwrap().trim().to_owned()
}

/// The last commit, if there is one.
pub fn commit(data: &Path, out: &Path) -> Option<Value> {
    let path = out.join(layout::WATERMARK).join(layout::watermark_file(&node(data)));
    Some(serde_json::from_slice(&fs::read(path).ok()?).unwrap())
}

/// The files of a table (`events` or `hourly`), by their paths in it, sorted. None of them is being written.
pub fn files(out: &Path, table: &str) -> Vec<PathBuf> {
    let list = |folder: PathBuf| -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
        entries.map(|entry| entry.unwrap().path()).collect()
    };
    let table = out.join(table);
    let hours = list(table.clone()).into_iter().flat_map(list);
    let is_parquet = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "parquet");
    let mut files: Vec<PathBuf> = hours.flat_map(list).filter(is_parquet).collect();
    files.iter_mut().for_each(|path| *path = path.strip_prefix(&table).unwrap().to_owned());
    files.sort();
    files
}

/// How many events of a target the hourly files have now.
pub fn events_of_target(out: &Path, target: &str) -> i64 {
    let of_file = |path: &PathBuf| {
        let file = File::open(out.join(layout::HOURLY).join(path)).unwrap();
        let batches = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
        let of_batch = batches.map(|batch| {
            let batch = batch.unwrap();
            let targets = batch.column_by_name("target").unwrap().as_string::<i32>();
            let events = batch.column_by_name("events").unwrap().as_primitive::<Int64Type>();
            let rows = targets.iter().zip(events.values()).filter(|(other, _)| *other == Some(target));
            rows.map(|(_, events)| *events).sum::<i64>()
        });
        of_batch.sum::<i64>()
    };
    files(out, layout::HOURLY).iter().map(of_file).sum()
}
