//! The page, and somebody who does what it says.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use crate::harness::{Environment, collector_binary, compactor_binary, test_env, workspace};

/// What a block is run by, as it says behind its language.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// `make test`.
    Test,
    /// `make test-deb`.
    Debian,
}

/// A block of commands.
#[derive(Clone, Debug)]
pub struct Block {
    /// The heading that it stands under; none above the first.
    pub section: String,
    pub by: By,
    pub commands: String,
}

fn text() -> String {
    fs::read_to_string(workspace().join("deploy/OPERATIONS.md")).unwrap()
}

/// All of them, in their order.
pub fn all_blocks() -> Vec<Block> {
    let (mut blocks, mut section, mut open) = (Vec::new(), String::new(), None);
    for line in text().lines() {
        match (&mut open, line) {
            (None, line) if line.starts_with("## ") => section = line[3..].to_owned(),
            (None, "```sh") => open = Some((By::Test, String::new())),
            (None, "```sh systemd") => open = Some((By::Debian, String::new())),
            (None, line) => assert!(!line.starts_with("```"), "who runs {line}?"),
            (Some(_), "```") => {
                let (by, commands) = open.take().unwrap();
                blocks.push(Block { section: section.clone(), by, commands });
            }
            (Some((_, commands)), line) => *commands += &format!("{line}\n"),
        }
    }
    blocks
}

/// Those of a section that `make test` runs, which are so many.
pub fn blocks<const N: usize>(section: &str) -> [String; N] {
    let ours = all_blocks().into_iter().filter(|block| block.section == section && block.by == By::Test);
    let commands: Vec<String> = ours.map(|block| block.commands).collect();
    commands.try_into().unwrap_or_else(|blocks: Vec<_>| panic!("{section} has {} blocks, not {N}", blocks.len()))
}

/// The number that begins the row of a table which is about this.
pub fn number(about: &str) -> u64 {
    let text = text();
    let row = text.lines().find(|line| line.starts_with("| ") && line.contains(&format!("| {about}")));
    let number = row.and_then(|row| row.split('|').nth(1)?.trim().parse().ok());
    number.unwrap_or_else(|| panic!("no number of bytes for {about}"))
}

/// Who runs blocks, on folders that are set.
pub struct Operator {
    variables: Environment,
}

impl Operator {
    /// One who looks after this data and output.
    pub fn of(data: &Path, out: &Path) -> Self {
        let doc = workspace().join("deploy");
        let folders = [("DATA", data.as_os_str()), ("OUT", out.as_os_str()), ("DOC", doc.as_os_str())];
        Self { variables: folders.map(|(name, value)| (name, value.to_owned())).to_vec() }
    }

    /// With one more variable.
    pub fn with(mut self, name: &'static str, value: impl Into<OsString>) -> Self {
        self.variables.push((name, value.into()));
        self
    }

    /// Runs a block behind what the page says above all others.
    pub fn tries(&self, block: &str) -> Output {
        let [settings] = blocks("");
        let programs = [collector_binary(), compactor_binary(), test_env("venv/bin/python3")];
        let folders = programs.iter().map(|program| program.parent().unwrap().to_owned());
        let path = std::env::var_os("PATH").unwrap();
        let path = std::env::join_paths(folders.chain(std::env::split_paths(&path))).unwrap();
        // what waits for something has a deadline here
        let mut bash = Command::new("timeout");
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("TALLYLIGHT_")) {
            bash.env_remove(name);
        }
        bash.envs(self.variables.iter().map(|(name, value)| (name, value))).env("PATH", path);
        bash.args(["60", "bash", "-euo", "pipefail", "-c", &(settings + block)]).output().unwrap()
    }

    /// The same, which must work. Gives back what it printed.
    pub fn runs(&self, block: &str) -> String {
        let Output { status, stdout, stderr } = self.tries(block);
        let said = String::from_utf8(stdout).unwrap();
        assert!(status.success(), "{status}\n{block}\n{said}{}", String::from_utf8_lossy(&stderr));
        said
    }
}
