//! rsyslog and syslog-ng, from where `benches/install-peers.sh` unpacked them, set up for what they do best here:
//! datagrams that are not looked into, each a line of one file, written in large blocks.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::contender::RECEIVE_BUFFER;

/// Where they are.
#[derive(Clone)]
pub struct Peers {
    root: PathBuf,
    /// Where the linker looks first.
    libraries: String,
    rsyslog_modules: PathBuf,
    syslog_ng_modules: PathBuf,
}

impl Peers {
    /// None, if they are not there.
    pub fn find(root: &Path) -> Result<Option<Self>> {
        let Ok(root) = root.canonicalize() else { return Ok(None) };
        // Debian has libraries in a folder named after the machine, syslog-ng its modules in one after its version
        let rsyslog_modules = subfolder(&root.join("usr/lib"), |folder| folder.join("rsyslog").is_dir())?;
        let syslog_ng = root.join("usr/lib/syslog-ng");
        let syslog_ng_modules = subfolder(&syslog_ng, |folder| folder.join("libafsocket.so").exists())?;
        let machine = rsyslog_modules.file_name().context("no name")?;
        let folders = [rsyslog_modules.clone(), root.join("lib").join(machine), syslog_ng];
        let libraries = folders.map(|folder| folder.display().to_string()).join(":");
        Ok(Some(Self { root, libraries, rsyslog_modules: rsyslog_modules.join("rsyslog"), syslog_ng_modules }))
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.root.join("usr/sbin").join(program));
        command.env("LD_LIBRARY_PATH", &self.libraries);
        command
    }

    /// rsyslog that writes what comes in at this port to this file.
    pub fn rsyslog(&self, folder: &Path, port: u16, out: &Path) -> Result<Command> {
        let config = include_str!("rsyslog.conf");
        let config = fill(config, folder, port, out)?;
        let mut command = self.command("rsyslogd");
        command.arg("-n").arg("-f").arg(config).arg("-i").arg(folder.join("pid")).arg("-M").arg(&self.rsyslog_modules);
        Ok(command)
    }

    /// The same of syslog-ng.
    pub fn syslog_ng(&self, folder: &Path, port: u16, out: &Path) -> Result<Command> {
        let config = fill(include_str!("syslog-ng.conf"), folder, port, out)?;
        let mut command = self.command("syslog-ng");
        command.args(["--foreground", "--no-caps"]).arg("--cfgfile").arg(config);
        command.arg("--module-path").arg(&self.syslog_ng_modules);
        for (flag, file) in [("--persist-file", "persist"), ("--pidfile", "pid"), ("--control", "control")] {
            command.arg(flag).arg(folder.join(file));
        }
        Ok(command)
    }
}

/// Writes a configuration with its holes filled.
fn fill(template: &str, folder: &Path, port: u16, out: &Path) -> Result<PathBuf> {
    let config = folder.join("conf");
    let text = template
        .replace("@PORT@", &port.to_string())
        .replace("@FOLDER@", &folder.display().to_string())
        .replace("@OUT@", &out.display().to_string())
        .replace("@RECEIVE_BUFFER@", &RECEIVE_BUFFER.to_string());
    std::fs::write(&config, text)?;
    Ok(config)
}

fn subfolder(parent: &Path, is_it: impl Fn(&Path) -> bool) -> Result<PathBuf> {
    let entries = std::fs::read_dir(parent).with_context(|| parent.display().to_string())?;
    let mut folders = entries.filter_map(|entry| Some(entry.ok()?.path()));
    folders.find(|folder| is_it(folder)).with_context(|| format!("{} is not whole", parent.display()))
}
