//! What attacks cost honest clients: their latency and their losses, beside those of quiet times in the same run.
//!
//! The collector runs on the first CPU, everybody who sends to it on the second one, on which the honest clients run whenever they
//! want to: what is measured is the collector's time, not theirs, which rows of controls show. Honest clients send at half of what
//! the two CPUs can do, each request at its time, whatever became of the one before (an open loop); latency counts from
//! that time. Each attack gets a collector of its own, and windows that alternate: quiet, attack, attack, quiet.

mod attacks;
mod ground;
mod honest;
mod http1;
mod http2;
mod report;
mod target;

use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::process;
use attacks::Attack;
use ground::{Ground, Sink};
use honest::{Honest, Window};
use report::Row;
use target::Target;

/// Honest clients' first try at what the machine can do, requests a second, and how much more each next one is.
const CLIMB: (u32, f64) = (2_000, 1.25);
/// A step whose p99 is longer than this, or that is behind by more than a tenth, is above what the machine can do.
const TOO_LONG: Duration = Duration::from_millis(10);
/// After an attack, before the next quiet window: what it left behind is cleared away.
const SETTLE: Duration = Duration::from_millis(1500);

/// What is attacked how.
#[derive(clap::Args)]
pub struct Arguments {
    /// Seconds a window.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Honest requests a second [default: half of what a short climb finds].
    #[arg(long)]
    rate: Option<u32>,
    /// Only attacks whose names contain this (may be repeated).
    #[arg(long)]
    only: Vec<String>,
    /// Folder on the disk that the log is written to.
    #[arg(long, default_value = "target")]
    dir: PathBuf,
}

/// Measures and prints the table.
pub fn run(arguments: &Arguments, rounds: u32) -> Result<()> {
    process::pin(process::LOAD_CPU).context("two CPUs are needed")?;
    process::watch_signals()?;
    let first = process::First::take();
    if first.is_none() {
        eprintln!("runs as any other process does: only root may put it first");
    }
    process::raise_descriptors()?;
    http1::prepare();
    let window = Duration::try_from_secs_f64(arguments.seconds)?;
    std::fs::create_dir_all(&arguments.dir)?;
    let folder = tempfile::Builder::new().prefix("bench-hostile-").tempdir_in(&arguments.dir)?;
    if process::Whenever::take().is_none() {
        eprintln!("honest clients wait for the attackers on their CPU: only root may put them first");
    }
    let rate = match arguments.rate {
        Some(rate) => rate,
        None => capacity(&folder.path().join("climb"))? / 2,
    };
    ensure!(rate > 0, "the machine can do nothing at all");
    let mut rows = Vec::new();
    for (number, attack) in attacks::all().into_iter().enumerate() {
        if !arguments.only.is_empty() && !arguments.only.iter().any(|part| attack.name.contains(part.as_str())) {
            continue;
        }
        let row = measure(&attack, rate, rounds, window, &folder.path().join(number.to_string()));
        let row = row.with_context(|| attack.name)?;
        eprintln!("{}", row.text());
        rows.push(row);
    }
    report::print(&rows, rate, rounds, window);
    Ok(())
}

/// Requests a second that honest clients get answered in time, without anybody else.
fn capacity(data: &std::path::Path) -> Result<u32> {
    let target = Target::start(data, &[])?;
    let mut honest = Honest::new(target.http);
    let _first = process::Whenever::take();
    honest.run(CLIMB.0, Duration::from_secs(1))?;
    let (mut rate, mut held, mut misses) = (CLIMB.0, 0, 0);
    // one step above may be the machine's fault, two in a row are not
    while misses < 2 {
        let window = honest.run(rate, Duration::from_secs(1))?;
        let is_held = window.quantile(0.99) < TOO_LONG && window.lost() == 0;
        eprintln!("{rate}/s: p99 {:.2} ms", window.quantile(0.99).as_secs_f64() * 1e3);
        (held, misses) = if is_held { (rate, 0) } else { (held, misses + 1) };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few thousand")]
        let next = (f64::from(rate) * CLIMB.1) as u32;
        rate = next;
    }
    target.stop()?;
    Ok(held)
}

fn measure(attack: &Attack, rate: u32, rounds: u32, window: Duration, data: &std::path::Path) -> Result<Row> {
    let mut target = Target::start(data, attack.flags)?;
    let mut honest = Honest::new(target.http);
    honest.run(rate, Duration::from_secs(1))?;
    let (mut quiet, mut attacked): (Vec<Window>, Vec<Window>) = (Vec::new(), Vec::new());
    let sink = attack.aside.map(Sink::start).transpose()?;
    let ground = Ground::new(sink.as_ref().map_or(target.http, |sink| sink.addr));
    for _ in 0..rounds {
        for is_attack in [false, true, true, false] {
            process::check()?;
            if is_attack {
                ground.open();
                let measured = thread::scope(|scope| {
                    for _ in 0..attack.threads {
                        scope.spawn(|| {
                            // the attacker gets what the honest clients leave of their CPU
                            ground::step_back();
                            (attack.run)(&ground);
                        });
                    }
                    let first = process::Whenever::take();
                    let measured = honest.run(rate, window);
                    drop(first);
                    target.look();
                    ground.close();
                    measured
                });
                attacked.push(measured?);
            } else {
                thread::sleep(SETTLE);
                let _first = process::Whenever::take();
                quiet.push(honest.run(rate, window)?);
            }
        }
    }
    target.look();
    let (acknowledged, lost, again) = (honest.acknowledged(), honest.lost(), honest.again());
    let most_memory = target.most_memory();
    target.stop()?;
    let logged = target::honest_events(data)?;
    std::fs::remove_dir_all(data)?;
    Ok(Row {
        name: attack.name,
        quiet,
        attacked,
        acknowledged,
        logged,
        lost,
        again,
        volume: ground.volume(),
        most_memory,
    })
}
