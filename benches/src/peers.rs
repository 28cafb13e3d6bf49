//! Peers, from where `benches/install-peers.sh` unpacked them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

/// Where they are.
#[derive(Clone)]
pub struct Peers {
    root: PathBuf,
    /// Where the linker looks first.
    libraries: String,
    /// Where Debian has libraries: a folder named after the machine.
    pub usr_lib: PathBuf,
    /// Of syslog-ng: in a folder after its version.
    pub syslog_ng_modules: PathBuf,
}

impl Peers {
    /// None, if they are not there.
    pub fn find(root: &Path) -> Result<Option<Self>> {
        let Ok(root) = root.canonicalize() else { return Ok(None) };
        let usr_lib = subfolder(&root.join("usr/lib"), |folder| folder.join("rsyslog").is_dir())?;
        let syslog_ng = root.join("usr/lib/syslog-ng");
        let syslog_ng_modules = subfolder(&syslog_ng, |folder| folder.join("libafsocket.so").exists())?;
        let machine = usr_lib.file_name().context("no name")?;
        let folders = [usr_lib.clone(), root.join("lib").join(machine), syslog_ng];
        let libraries = folders.map(|folder| folder.display().to_string()).join(":");
        Ok(Some(Self { root, libraries, usr_lib, syslog_ng_modules }))
    }

    /// One of the programs.
    pub fn command(&self, program: &str) -> Command {
        let [sbin, bin] = ["usr/sbin", "usr/bin"].map(|folder| self.root.join(folder).join(program));
        let mut command = Command::new(if sbin.exists() { sbin } else { bin });
        command.env("LD_LIBRARY_PATH", &self.libraries);
        command
    }
}

/// Writes a configuration with its holes, as `@PORT@`, filled.
pub fn fill(template: &str, folder: &Path, holes: &[(&str, String)]) -> Result<PathBuf> {
    let config = folder.join("conf");
    let mut text = template.replace("@FOLDER@", &folder.display().to_string());
    for (name, value) in holes {
        text = text.replace(&format!("@{name}@"), value);
    }
    std::fs::write(&config, text)?;
    Ok(config)
}

fn subfolder(parent: &Path, is_it: impl Fn(&Path) -> bool) -> Result<PathBuf> {
    let entries = std::fs::read_dir(parent).with_context(|| parent.display().to_string())?;
    let mut folders = entries.filter_map(|entry| Some(entry.ok()?.path()));
    folders.find(|folder| is_it(folder)).with_context(|| format!("{} is not whole", parent.display()))
}
