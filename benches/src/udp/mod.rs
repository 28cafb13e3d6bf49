//! How many datagrams a second arrive whole, and what they cost, beside rsyslog, syslog-ng and a bare loop.
//!
//! Receivers run one at a time, each as a process of its own on the first CPU; the load comes from this process on
//! the second one, over loopback. Every run climbs the same steps of paced load. What was sent is compared with
//! what stands in the receiver's output: lines of its file, or events that it says are in its log.

mod climb;
mod contender;
mod load;
mod peers;
mod receiver;
mod report;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::compare::alternate;
use crate::{machine, process};
use contender::Contender;
use load::Shape;

pub use receiver::Arguments as ReceiverArguments;
pub use receiver::run as receive;

/// What is to be sent, to whom.
#[derive(clap::Args)]
pub struct Arguments {
    /// Datagrams a second, step by step.
    #[arg(long, value_delimiter = ',', default_value = "25000,50000,100000,150000,200000,270000,350000")]
    steps: Vec<u32>,
    /// The same for trains: up to 64 datagrams handed to the kernel in one call (UDP GSO).
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "100000,200000,300000,400000,600000,800000,1200000,1600000,2000000,2400000,3200000,6400000"
    )]
    train_steps: Vec<u32>,
    /// The step whose CPU time is compared.
    #[arg(long, default_value_t = 100_000)]
    rate: u32,
    /// The same for trains.
    #[arg(long, default_value_t = 200_000)]
    train_rate: u32,
    /// Seconds a step.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Only contenders whose names contain this (may be repeated).
    #[arg(long)]
    only: Vec<String>,
    /// Another build of the collector, to be measured as well (may be repeated).
    #[arg(long)]
    beside: Vec<PathBuf>,
    /// Folder on the disk that logs and files are written to.
    #[arg(long, default_value = "target")]
    dir: PathBuf,
    /// Where the peers were unpacked.
    #[arg(long, default_value = ".test-env/peers/root")]
    peers: PathBuf,
    /// Writes every step of every run to this file.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Measures and prints the comparison.
pub fn run(arguments: &Arguments, rounds: u32) -> Result<()> {
    let step = Duration::try_from_secs_f64(arguments.seconds)?;
    let plans = [
        (Shape::Single, climb::Plan { steps: &arguments.steps, step }, arguments.rate),
        (Shape::Train, climb::Plan { steps: &arguments.train_steps, step }, arguments.train_rate),
    ];
    for (_, plan, rate) in &plans {
        ensure!(plan.steps.contains(rate), "{rate} is none of the steps {:?}", plan.steps);
    }
    process::pin(process::LOAD_CPU).context("two CPUs are needed")?;
    process::watch_signals()?;
    let first = process::First::take();
    if first.is_none() {
        eprintln!("runs as any other process does: only root may put it first");
    }
    std::fs::create_dir_all(&arguments.dir)?;
    let folder = tempfile::Builder::new().prefix("bench-udp-").tempdir_in(&arguments.dir)?;
    let folder_path = folder.path().canonicalize()?;
    let mut tables = Vec::new();
    for (shape, plan, rate) in &plans {
        let contenders = arguments.contenders(*shape)?;
        if contenders.is_empty() {
            continue;
        }
        let runs = alternate(rounds, contenders.len(), |round, n| {
            let contender = &contenders[n];
            let climb = climb::run(contender, *shape, plan, &folder_path).with_context(|| contender.name.clone())?;
            eprintln!("{} of {rounds}: {}: {}", round + 1, contender.name, climb::Brief(&climb));
            Ok(climb)
        })?;
        tables.push(report::print(*shape, *rate, &contenders, &runs));
    }
    if let Some(path) = &arguments.json {
        let report = machine::report(&tables, rounds, arguments.seconds);
        std::fs::write(path, report).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

impl Arguments {
    fn contenders(&self, shape: Shape) -> Result<Vec<Contender>> {
        let mut contenders = contender::all(shape, &self.beside, &self.peers)?;
        let is_wanted = |name: &str| self.only.is_empty() || self.only.iter().any(|part| name.contains(part));
        contenders.retain(|contender| is_wanted(&contender.name));
        Ok(contenders)
    }
}
