//! rsyslog and syslog-ng, set up for what they do best here: datagrams that are not looked into, each a line of one file,
//! written in large blocks.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::contender::RECEIVE_BUFFER;
use crate::peers::{Peers, fill};

/// rsyslog that writes what comes in at this port to this file.
pub fn rsyslog(peers: &Peers, folder: &Path, port: u16, out: &Path) -> Result<Command> {
    let config = fill(include_str!("rsyslog.conf"), folder, &holes(port, out))?;
    let mut command = peers.command("rsyslogd");
    command.arg("-n").arg("-f").arg(config).arg("-i").arg(folder.join("pid"));
    command.arg("-M").arg(peers.usr_lib.join("rsyslog"));
    Ok(command)
}

/// The same of syslog-ng.
pub fn syslog_ng(peers: &Peers, folder: &Path, port: u16, out: &Path) -> Result<Command> {
    let config = fill(include_str!("syslog-ng.conf"), folder, &holes(port, out))?;
    let mut command = peers.command("syslog-ng");
    command.args(["--foreground", "--no-caps"]).arg("--cfgfile").arg(config);
    command.arg("--module-path").arg(&peers.syslog_ng_modules);
    for (flag, file) in [("--persist-file", "persist"), ("--pidfile", "pid"), ("--control", "control")] {
        command.arg(flag).arg(folder.join(file));
    }
    Ok(command)
}

fn holes(port: u16, out: &Path) -> [(&'static str, String); 3] {
    let (port, out) = (port.to_string(), out.display().to_string());
    [("PORT", port), ("OUT", out), ("RECEIVE_BUFFER", RECEIVE_BUFFER.to_string())]
}
