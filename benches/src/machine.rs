//! The machine that was measured on, as every report names it.

use std::process::Command;

use serde_json::{Value, json};

/// What was printed, with where and how it was measured.
pub fn report(tables: &[Value], rounds: u32, seconds: f64) -> String {
    let command: Vec<String> = std::env::args().collect();
    let report = json!({
        "machine": describe(),
        "command": command.join(" "),
        "rounds": rounds,
        "seconds": seconds,
        "tables": tables,
    });
    format!("{report:#}\n")
}

/// The machine, how busy it is, and the commit.
pub fn describe() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model =
        cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map_or("?", |it| it.1);
    let cpus = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    let memory = read("/proc/meminfo");
    let gib = memory.split_ascii_whitespace().nth(1).and_then(|kb| kb.parse::<f64>().ok()).unwrap_or(0.0) / 1048576.0;
    let load = read("/proc/loadavg");
    format!(
        "{cpus} CPUs ({model}), {gib:.0} GiB, Linux {}, net.core.rmem_max {}, load {}, commit {}",
        read("/proc/sys/kernel/osrelease").trim(),
        read("/proc/sys/net/core/rmem_max").trim(),
        load.split(' ').next().unwrap_or_default(),
        commit(),
    )
}

fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(["-C", env!("CARGO_MANIFEST_DIR")]).args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short", "HEAD"]) else { return "unknown".into() };
    let is_changed = git(&["status", "--porcelain"]).is_none_or(|status| !status.is_empty());
    if is_changed { format!("{commit}, changed") } else { commit }
}
