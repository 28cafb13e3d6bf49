//! What the compactor costs as the ids that it knows become more: events arrive, are compacted, and more arrive.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use tallylight_proto::layout;

use super::contender::measure;
use super::count;
use super::data::{bytes_below, write_log};
use super::traffic::Traffic;
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
    /// Different targets, some of them much more wanted than others: what an hour's groups are made of.
    #[arg(long, default_value = "280k", value_parser = count)]
    targets: u64,
    /// Folder for the log and for what is made of it, which is removed in the end.
    #[arg(long, default_value = "target/bench-growth")]
    dir: PathBuf,
}

/// Runs the compactor again and again, and prints what each run took.
pub fn run(arguments: &Arguments) -> Result<()> {
    process::watch_signals()?;
    let compactor = std::env::current_exe()?.with_file_name("tallylight-compactor");
    ensure!(compactor.exists(), "{} is not there (make build)", compactor.display());
    let traffic = Traffic::new(arguments.an_hour, arguments.targets, 9, 3);
    if arguments.dir.exists() {
        fs::remove_dir_all(&arguments.dir)?;
    }
    let (data, out) = (arguments.dir.join("data"), arguments.dir.join("out"));
    fs::create_dir_all(&data)?;
    println!("{}\n", machine::describe());
    println!("| events | M events/s | CPU s/M | peak RSS MiB | index MB | hourly MB | events MB |");
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    let mut from = 0;
    while from < arguments.up_to {
        let to = arguments.up_to.min(from + arguments.step);
        write_log(&data, &traffic, from..to)?;
        let mut command = Command::new(&compactor);
        // what is compacted is used for what comes next
        command.args(["--once", "--retain", "0s", "--data"]).arg(&data).arg("--out").arg(&out).stderr(Stdio::null());
        let took = measure(&mut command).context("the compactor")?;
        let millions = (to - from) as f64 / 1e6;
        let megabytes = |folder: PathBuf| bytes_below(&folder).map(|bytes| bytes / 1_000_000);
        println!(
            "| {to} | {:.2} | {:.2} | {} | {} | {} | {} |",
            millions / took.seconds,
            took.cpu / millions,
            took.rss_kib / 1024,
            megabytes(data.join(layout::COMPACTOR))?,
            megabytes(out.join(layout::HOURLY))?,
            megabytes(out.join(layout::EVENTS))?,
        );
        from = to;
    }
    Ok(fs::remove_dir_all(&arguments.dir)?)
}
