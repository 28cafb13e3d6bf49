//! The comparison as a table, and every round as JSON.

use serde_json::{Value, json};

use super::contender::{Contender, Made, Measured};
use super::engines::Checked;
use crate::compare::{quartiles, ratios, spread};
use crate::machine;

/// A contender with all that is known of it.
pub struct Row<'a> {
    pub contender: &'a Contender,
    pub runs: &'a [Measured],
    pub made: Made,
    pub checked: Option<&'a Checked>,
}

/// Prints a table, and gives the same with all rounds.
pub fn print(title: &str, events: u64, rows: &[Row<'_>]) -> Value {
    let millions = events as f64 / 1e6;
    let base = rows.first().map_or(&[][..], |row| row.runs);
    let rounds = base.len();
    // copies left out, there is a row for each
    let counted = rows.iter().find_map(|row| Some(row.checked?.events as f64));
    println!("\n{title}: {rounds} rounds, median (quartiles); {}", machine::describe());
    println!(
        "| | M events/s | CPU s/M | time, ratio | CPU, ratio | peak RSS MiB | bytes a group | bytes a row | groups that differ | visitors off |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    let mut written = Vec::new();
    for row in rows {
        let rate = || row.runs.iter().map(|run| millions / run.seconds);
        let cpu = || row.runs.iter().map(|run| run.cpu / millions);
        let ratio = |figure: fn(&Measured) -> f64| ratios(row.runs, base, move |run| Some(figure(run)));
        let rss = row.runs.iter().map(|run| run.rss_kib).max().unwrap_or(0) / 1024;
        let groups = row.checked.map(|checked| checked.groups as f64);
        let a_group = row.made.roll_up.zip(groups).map(|(bytes, groups)| bytes as f64 / groups);
        let a_row = row.made.rows.zip(counted).map(|(bytes, counted)| bytes as f64 / counted);
        let text = |figure: Option<f64>| figure.map_or("–".to_owned(), |figure| format!("{figure:.1}"));
        let differ =
            row.checked.map_or("–".to_owned(), |checked| format!("{} of {}", checked.differ, checked.groups));
        let error = row.checked.and_then(|checked| checked.error);
        println!(
            "| {} | {} | {} | {} | {} | {rss} | {} | {} | {differ} | {} |",
            row.contender.name,
            spread(rate()),
            spread(cpu()),
            spread(ratio(|run| run.seconds)),
            spread(ratio(|run| run.cpu)),
            text(a_group),
            text(a_row),
            error.map_or("–".to_owned(), |error| format!("{:.1} %", error * 100.0)),
        );
        written.push(json!({
            "name": row.contender.name,
            "events_per_second": quartiles(rate().map(|rate| rate * 1e6)),
            "cpu_us_per_event": quartiles(cpu()),
            "seconds_ratio": quartiles(ratio(|run| run.seconds)),
            "cpu_ratio": quartiles(ratio(|run| run.cpu)),
            "peak_rss_mib": rss,
            "bytes_per_group": a_group,
            "bytes_per_row": a_row,
            "groups": row.checked.map(|checked| checked.groups),
            "groups_that_differ": row.checked.map(|checked| checked.differ),
            "visitors_mean_error": error,
            "rounds": row.runs.iter().map(|run| json!({ "seconds": run.seconds, "cpu_seconds": run.cpu, "rss_kib": run.rss_kib })).collect::<Vec<_>>(),
        }));
    }
    json!({ "name": title, "events": events, "contenders": written })
}
