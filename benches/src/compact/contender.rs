//! Who compacts: how each is run and what of it is measured.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use serde::Deserialize;
use tallylight_proto::layout;

use super::data::{Data, bytes_below};
use super::engines::Engines;
use crate::process;

/// How often it is looked how much memory a process has taken.
const LOOK: Duration = Duration::from_millis(2);

/// Somebody who makes files of the same events. The first one of a comparison is what the others are compared with.
pub struct Contender {
    pub name: String,
    work: Work,
}

enum Work {
    /// `tallylight-compactor --once`, from no commit and no index.
    Compactor(PathBuf),
    /// The same without event rows, by this very program.
    RollUp(PathBuf),
    /// An engine's `roll-up` or `rows`.
    Engine { what: &'static str, engine: &'static str, from_lines: bool },
}

/// What one run took.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Measured {
    pub seconds: f64,
    /// CPU seconds of all threads.
    pub cpu: f64,
    pub rss_kib: u64,
}

/// What stands in the files that were made, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Made {
    pub roll_up: Option<u64>,
    pub rows: Option<u64>,
}

impl Contender {
    pub fn compactor(name: &str, program: &Path) -> Self {
        Self { name: name.into(), work: Work::Compactor(program.to_owned()) }
    }

    pub fn roll_up() -> Result<Self> {
        Ok(Self { name: "Tallylight, the roll-up alone".into(), work: Work::RollUp(std::env::current_exe()?) })
    }

    pub fn engine(name: &str, what: &'static str, engine: &'static str, from_lines: bool) -> Self {
        Self { name: name.into(), work: Work::Engine { what, engine, from_lines } }
    }

    /// Whether it is here; a peer may not be.
    pub fn is_there(&self, engines: &Engines) -> bool {
        match self.work {
            Work::Engine { engine, .. } => engines.has(engine),
            Work::Compactor(_) | Work::RollUp(_) => true,
        }
    }

    /// The roll-up that it makes in a folder; none if it makes rows only.
    pub fn roll_up_of(&self, out: &Path) -> Option<PathBuf> {
        match self.work {
            Work::Compactor(_) | Work::RollUp(_) => Some(out.join(layout::HOURLY)),
            Work::Engine { what, .. } => (what == "roll-up").then(|| out.to_owned()),
        }
    }

    /// Runs it from nothing into an empty folder.
    pub fn run(&self, data: &Data, out: &Path, engines: &Engines) -> Result<Measured> {
        begin_anew(data, out)?;
        match &self.work {
            Work::Compactor(program) => {
                let mut command = Command::new(program);
                command.args(["--once", "--retain", "1000000h", "--data"]).arg(&data.log).arg("--out").arg(out);
                measure(&mut command)
            }
            Work::RollUp(program) => {
                let mut command = Command::new(program);
                measure(command.arg("roll-up").arg(&data.log).arg(out).stdout(Stdio::null()))
            }
            Work::Engine { what, engine, from_lines } => {
                engines.run(what, engine, if *from_lines { &data.lines } else { &data.parquet }, out)
            }
        }
    }

    /// The size of what it made.
    pub fn made(&self, out: &Path) -> Result<Made> {
        let bytes = |folder: PathBuf| if folder.exists() { bytes_below(&folder).map(Some) } else { Ok(None) };
        Ok(match &self.work {
            Work::Compactor(_) | Work::RollUp(_) => {
                Made { roll_up: bytes(out.join(layout::HOURLY))?, rows: bytes(out.join(layout::EVENTS))? }
            }
            Work::Engine { what: "roll-up", .. } => Made { roll_up: bytes(out.to_owned())?, rows: None },
            Work::Engine { .. } => Made { roll_up: None, rows: bytes(out.to_owned())? },
        })
    }
}

/// How many seconds pass from the last event read until all that was read can be seen, rows and roll-up.
pub fn publishing(data: &Data, out: &Path) -> Result<f64> {
    begin_anew(data, out)?;
    let mut command = Command::new(std::env::current_exe()?);
    let output = command.args(["roll-up", "--rows"]).arg(&data.log).arg(out).stderr(Stdio::inherit()).output()?;
    ensure!(output.status.success(), "{command:?} failed");
    Ok(String::from_utf8_lossy(&output.stdout).trim().parse()?)
}

fn begin_anew(data: &Data, out: &Path) -> Result<()> {
    for old in [out, &data.log.join(layout::COMPACTOR)] {
        if old.exists() {
            fs::remove_dir_all(old)?;
        }
    }
    Ok(fs::create_dir_all(out.parent().context("a folder to write to")?)?)
}

/// Runs a process to its end: all of it counts, start and syncs too.
pub fn measure(command: &mut Command) -> Result<Measured> {
    let begun = Instant::now();
    let mut child = command.stdin(Stdio::null()).spawn().with_context(|| format!("{command:?}"))?;
    let pid = Pid::from_child(&child);
    let mut rss_kib = 0;
    let ended = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    while waitid(WaitId::Pid(pid), ended)?.is_none() {
        process::check()?;
        rss_kib = most_memory(pid).unwrap_or(0).max(rss_kib);
        std::thread::sleep(LOOK);
    }
    let seconds = begun.elapsed().as_secs_f64();
    // it is not waited for yet, so its times can still be read
    let cpu = process::cpu_of(pid)?;
    ensure!(child.wait()?.success(), "{command:?} failed");
    Ok(Measured { seconds, cpu, rss_kib })
}

/// The most memory that a process had so far.
fn most_memory(pid: Pid) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}
