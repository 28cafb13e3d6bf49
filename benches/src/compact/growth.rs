//! What the compactor costs as there is more: as the ids that it knows become more, since events arrive, are compacted, and more
//! arrive; and as an hour has more groups.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tallylight_compactor::parquet_file;
use tallylight_proto::layout;

use super::contender::{Measured, measure};
use super::count;
use super::data::{bytes_below, files_below, write_log};
use super::traffic::Traffic;
use crate::compare::{alternate, quartiles, ratios, spread};
use crate::{machine, process};

/// How much, and how many of it at a time.
#[derive(clap::Args)]
pub struct Arguments {
    /// Events in all, none of which is old enough to be forgotten.
    #[arg(long, default_value = "100M", value_parser = count)]
    up_to: u64,
    /// Events of a run of the compactor.
    #[arg(long, default_value = "10M", value_parser = count)]
    step: u64,
    /// Events that arrive in an hour.
    #[arg(long, default_value = "10M", value_parser = count)]
    an_hour: u64,
    /// Different targets, some of them much more wanted than others: what an hour's groups are made of. For each of
    /// these all is done from nothing.
    #[arg(long, default_value = "280k", value_parser = count, value_delimiter = ',')]
    targets: Vec<u64>,
    /// Folder for the log and for what is made of it, which is removed in the end.
    #[arg(long, default_value = "target/bench-growth")]
    dir: PathBuf,
    /// Writes every round to this file.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// What one run of the compactor took, and what there is since.
struct Step {
    /// In all.
    events: u64,
    /// In millions, those that were new.
    new: f64,
    took: Measured,
    groups: u64,
    /// Megabytes.
    index: u64,
    hourly: u64,
    rows: u64,
}

impl Step {
    fn cost(&self) -> f64 {
        self.took.cpu / self.new
    }
}

/// Runs the compactor again and again, and prints what each run took, beside the first one of its round.
pub fn run(arguments: &Arguments, rounds: u32) -> Result<()> {
    process::watch_signals()?;
    let compactor = process::ours("tallylight-compactor")?;
    let runs = alternate(rounds, arguments.targets.len(), |_, n| {
        arguments.grow(&compactor, arguments.targets[n]).with_context(|| format!("{} targets", arguments.targets[n]))
    })?;
    println!("{rounds} rounds, median (quartiles); {}\n", machine::describe());
    println!(
        "| targets | events | groups | M events/s | CPU s/M | CPU, ratio | peak RSS MiB | index MB | hourly MB | events MB |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    let first: Vec<&Step> = runs[0].iter().map(|steps| &steps[0]).collect();
    let mut written = Vec::new();
    for (targets, own) in arguments.targets.iter().zip(&runs) {
        for step in 0..own[0].len() {
            let own: Vec<&Step> = own.iter().map(|steps| &steps[step]).collect();
            written.push(print(*targets, &own, &first));
        }
    }
    if let Some(path) = &arguments.json {
        fs::write(path, machine::report(&written, rounds, 0.0)).with_context(|| path.display().to_string())?;
    }
    Ok(fs::remove_dir_all(&arguments.dir)?)
}

/// Prints the rounds of a step as a line, and gives the same with all of them.
fn print(targets: u64, own: &[&Step], first: &[&Step]) -> Value {
    let rate = || own.iter().map(|step| step.new / step.took.seconds);
    let cost = || own.iter().map(|step| step.cost());
    let ratio = || ratios(own, first, |step| Some(step.cost()));
    let rss = own.iter().map(|step| step.took.rss_kib).max().unwrap_or(0) / 1024;
    // what there is depends on the events alone
    let Step { events, groups, index, hourly, rows, .. } = own[0];
    println!(
        "| {targets} | {events} | {groups} | {} | {} | {} | {rss} | {index} | {hourly} | {rows} |",
        spread(rate()),
        spread(cost()),
        spread(ratio()),
    );
    json!({
        "targets": targets,
        "events": events,
        "groups": groups,
        "events_per_second": quartiles(rate().map(|rate| rate * 1e6)),
        "cpu_us_per_event": quartiles(cost()),
        "cpu_ratio": quartiles(ratio()),
        "peak_rss_mib": rss,
        "index_mb": index,
        "hourly_mb": hourly,
        "events_mb": rows,
        "rounds": own.iter().map(|step| json!({
            "seconds": step.took.seconds,
            "cpu_seconds": step.took.cpu,
            "rss_kib": step.took.rss_kib,
        })).collect::<Vec<_>>(),
    })
}

impl Arguments {
    /// From nothing.
    fn grow(&self, compactor: &Path, targets: u64) -> Result<Vec<Step>> {
        let traffic = Traffic::new(self.an_hour, targets, 9, 3);
        if self.dir.exists() {
            fs::remove_dir_all(&self.dir)?;
        }
        let (data, out) = (self.dir.join("data"), self.dir.join("out"));
        fs::create_dir_all(&data)?;
        let mut steps = Vec::new();
        let mut from = 0;
        while from < self.up_to {
            let to = self.up_to.min(from + self.step);
            write_log(&data, &traffic, from..to)?;
            let mut command = Command::new(compactor);
            // what is compacted is used for what comes next
            command.args(["--once", "--retain", "0s", "--data"]).arg(&data).arg("--out").arg(&out);
            let took = measure(command.stderr(Stdio::null())).context("the compactor")?;
            let megabytes = |folder: PathBuf| bytes_below(&folder).map(|bytes| bytes / 1_000_000);
            let step = Step {
                events: to,
                new: (to - from) as f64 / 1e6,
                took,
                groups: groups_below(&out.join(layout::HOURLY))?,
                index: megabytes(data.join(layout::COMPACTOR))?,
                hourly: megabytes(out.join(layout::HOURLY))?,
                rows: megabytes(out.join(layout::EVENTS))?,
            };
            eprintln!("{targets} targets, {to} events: {:.2} s, {:.2} CPU s/M", took.seconds, step.cost());
            steps.push(step);
            from = to;
        }
        Ok(steps)
    }
}

/// How many groups all hours have.
fn groups_below(hourly: &Path) -> Result<u64> {
    let rows = |file: PathBuf| Ok(parquet_file::footer(&file)?.file_metadata().num_rows().unsigned_abs());
    files_below(hourly)?.into_iter().map(rows).sum()
}
