//! From the log to hourly Parquet, beside what batch engines make of the same events in NDJSON and Parquet.
//!
//! Everybody leaves copies out by id, groups by hour, site, event and target, counts, estimates visitors, adds up values,
//! finds the first and the last time, and writes zstd Parquet in a folder for each hour, on all CPUs. What is made is
//! compared with an exact roll-up once. The compactor does more: it checks records, keeps a durable index of ids, a
//! mergeable sketch a group and all rows, and syncs its files; it is measured with its start, the engines without.

mod contender;
mod data;
mod engines;
mod growth;
mod report;
mod roll_up;
pub mod traffic;

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::compare::{alternate, spread};
use crate::{machine, process};
use contender::{Contender, Made};
use data::Data;
use engines::{Checked, Engines};
use traffic::Traffic;

pub use growth::{Arguments as GrowthArguments, run as growth};
pub use roll_up::{Arguments as RollUpArguments, run as roll_up};

/// What is compacted, and who does.
#[derive(clap::Args)]
pub struct Arguments {
    /// How many events: 1000000 or 1M.
    #[arg(long, default_value = "1M", value_parser = count)]
    events: u64,
    /// Events that arrive in an hour: they fill so many hours as they need.
    #[arg(long, default_value = "400k", value_parser = count)]
    an_hour: u64,
    /// Different targets, some of them much more wanted than others: what an hour's groups are made of.
    #[arg(long, default_value = "280k", value_parser = count)]
    targets: u64,
    /// How many of a thousand events are late.
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u64).range(0..=1000))]
    late: u64,
    /// Over how many hours those are late.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=168))]
    late_hours: u64,
    /// Only contenders whose names contain this (may be repeated).
    #[arg(long)]
    only: Vec<String>,
    /// Another build of the compactor, to be measured as well (may be repeated).
    #[arg(long)]
    beside: Vec<PathBuf>,
    /// Folder for the events, which are kept, and for what is made of them.
    #[arg(long, default_value = "target/bench-compact")]
    dir: PathBuf,
    /// The Python that has the engines.
    #[arg(long, default_value = ".test-env/engines/bin/python")]
    python: PathBuf,
    /// Writes every round to this file.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Measures and prints the comparison.
pub fn run(arguments: &Arguments, rounds: u32) -> Result<()> {
    process::watch_signals()?;
    let compactor = process::ours("tallylight-compactor")?;
    let engines = Engines::find(&arguments.python)?;
    let traffic = Traffic::new(arguments.an_hour, arguments.targets, arguments.late, arguments.late_hours);
    std::fs::create_dir_all(&arguments.dir)?;
    let dir = arguments.dir.canonicalize()?;
    let data = Data::of(&traffic, arguments.events, &dir, &compactor, &engines)?;
    let out = dir.join("out");

    let mut contenders = vec![Contender::compactor("Tallylight", &compactor), Contender::roll_up()?];
    contenders.extend(arguments.beside.iter().map(|other| Contender::compactor(&other.display().to_string(), other)));
    contenders.extend([
        Contender::engine("DuckDB, from Parquet", "roll-up", "duckdb", false),
        Contender::engine("DuckDB, from NDJSON", "roll-up", "duckdb", true),
        Contender::engine("ClickHouse (chdb), from Parquet", "roll-up", "clickhouse", false),
        Contender::engine("ClickHouse (chdb), from NDJSON", "roll-up", "clickhouse", true),
        Contender::engine("Polars, from Parquet", "roll-up", "polars", false),
        Contender::engine("Polars, from NDJSON", "roll-up", "polars", true),
        Contender::engine("DataFusion, from Parquet", "roll-up", "datafusion", false),
        Contender::engine("DuckDB, rows without copies, from Parquet", "rows", "duckdb", false),
    ]);
    contenders.retain(|contender| {
        let is_wanted = arguments.only.is_empty() || arguments.only.iter().any(|part| contender.name.contains(part));
        let is_there = is_wanted && contender.is_there(&engines);
        if is_wanted && !is_there {
            eprintln!("{}: not installed, left out", contender.name);
        }
        is_there
    });

    // a first round warms up, and what is made in it is looked at
    let mut made: Vec<(Made, Option<Checked>)> = Vec::new();
    for contender in &contenders {
        let measured = contender.run(&data, &out, &engines).with_context(|| contender.name.clone())?;
        let checked = contender.roll_up_of(&out).map(|roll_up| engines.check(&roll_up, &data)).transpose()?;
        eprintln!("{}: {:.2} s, {checked:?}", contender.name, measured.seconds);
        made.push((contender.made(&out)?, checked));
    }
    let runs = alternate(rounds, contenders.len(), |round, n| {
        let contender = &contenders[n];
        let measured = contender.run(&data, &out, &engines).with_context(|| contender.name.clone())?;
        process::check()?;
        eprintln!(
            "{} of {rounds}: {}: {:.2} s, {:.2} CPU s",
            round + 1,
            contender.name,
            measured.seconds,
            measured.cpu
        );
        Ok(measured)
    })?;
    let rows: Vec<report::Row<'_>> = contenders
        .iter()
        .zip(&runs)
        .zip(&made)
        .map(|((contender, runs), (made, checked))| report::Row {
            contender,
            runs,
            made: *made,
            checked: checked.as_ref(),
        })
        .collect();
    let title = format!(
        "{} events, {:.0} bytes of log each",
        arguments.events,
        data.log_bytes()? as f64 / arguments.events as f64
    );
    let table = report::print(&title, arguments.events, &rows);
    let publishing = (0..rounds).map(|_| contender::publishing(&data, &out)).collect::<Result<Vec<f64>>>()?;
    let publishing = publishing.into_iter().map(|seconds| seconds * 1e3);
    println!("\nfrom the last event read until all can be seen: {} ms", spread(publishing));
    if let Some(path) = &arguments.json {
        std::fs::write(path, machine::report(&[table], rounds, 0.0)).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

/// A count with `k` or `M` for thousands and millions.
fn count(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.strip_suffix('k') {
        Some(digits) => (digits, 1_000),
        None => text.strip_suffix('M').map_or((text, 1), |digits| (digits, 1_000_000)),
    };
    let number = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit)).filter(|number| *number > 0);
    number.ok_or_else(|| "not a number of at least 1, like 250000, 400k or 10M".into())
}
