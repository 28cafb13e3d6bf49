//! Batch engines in Python, where `benches/install-engines.sh` put them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::contender::Measured;
use super::data::Data;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/compact/engines.py");

/// The Python that has them.
#[derive(Clone)]
pub struct Engines(PathBuf);

/// How a roll-up differs from the exact one.
#[derive(Debug, Deserialize)]
pub struct Checked {
    pub groups: u64,
    /// Events in all of them.
    pub events: u64,
    /// Groups that are missing, too many, or wrong in anything but their visitors.
    pub differ: u64,
    /// The mean relative error of the visitors of groups that have a thousand or more.
    pub error: Option<f64>,
}

impl Engines {
    pub fn find(python: &Path) -> Result<Self> {
        ensure!(python.exists(), "{} is not there (benches/install-engines.sh)", python.display());
        Ok(Self(python.to_owned()))
    }

    /// Whether one of them is installed: not every machine can have all.
    pub fn has(&self, engine: &str) -> bool {
        let status = self.script(&["has", engine]).stdout(Stdio::null()).stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    }

    /// Makes of the lines what the others read.
    pub fn prepare(&self, data: &Data) -> Result<()> {
        let mut command = self.script(&["prepare"]);
        command.args([&data.lines, &data.parquet, &data.exact]);
        ensure!(command.status()?.success(), "the Parquet file could not be made");
        Ok(())
    }

    /// Has an engine do `roll-up` or `rows` from a file to a folder.
    pub fn run(&self, what: &str, engine: &str, from: &Path, to: &Path) -> Result<Measured> {
        self.answer(self.script(&[what, engine]).arg(from).arg(to))
    }

    /// Compares what was made with what is exact.
    pub fn check(&self, out: &Path, data: &Data) -> Result<Checked> {
        self.answer(self.script(&["check"]).arg(out).arg(&data.exact))
    }

    fn script(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.0);
        command.arg(SCRIPT).args(arguments);
        command
    }

    fn answer<T: DeserializeOwned>(&self, command: &mut Command) -> Result<T> {
        let output = command.stderr(Stdio::inherit()).output()?;
        ensure!(output.status.success(), "{command:?} failed");
        let text = String::from_utf8_lossy(&output.stdout);
        serde_json::from_str(&text).with_context(|| format!("{command:?} says {text:?}"))
    }
}
