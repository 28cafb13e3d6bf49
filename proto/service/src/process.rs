//! What Linux knows of this process, and which build it is, as Prometheus text.
//!
//! The rule kept here: a figure that cannot be read is left out, never shown as 0. The names are the
//! ones that every Prometheus client library gives to these figures, so that common dashboards work.
//! They are written as text rather than kept in the recorder, whose counters hold whole numbers only.

use std::fmt::{Display, Write};
use std::fs;
use std::sync::OnceLock;

use tallylight_host::clock;

/// Clock ticks a second in `/proc`: the kernel's user interface fixes it (`USER_HZ`), whatever its own tick is.
const TICKS_PER_SECOND: f64 = 100.0;

/// Adds the process's figures to a page of metrics. `version` is the program's.
pub fn render(page: &mut String, version: &str) {
    let mut one = |name: &str, kind: &str, help: &str, value: Option<&dyn Display>| {
        if let Some(value) = value {
            // writing to a String does not fail
            let _ = write!(page, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name}{value}\n\n");
        }
    };
    let build = format!("{{version=\"{version}\"}} 1");
    one("tallylight_build_info", "gauge", "The build that is running; always 1.", Some(&build));
    let now = format!(" {}", seconds(clock::now()));
    let help = "The wall clock of this machine: events get their hours by it, so compare it with another one.";
    one("tallylight_clock_timestamp_seconds", "gauge", help, Some(&now));
    let lost = format!(" {}", crate::logging::lost_lines());
    let help = "Log lines that stderr did not take in time: whatever reads it is stuck or slow.";
    one("tallylight_stderr_lines_lost_total", "counter", help, Some(&lost));

    let stat = fs::read_to_string("/proc/self/stat").ok().and_then(|text| Stat::parse(&text));
    let cpu = stat.as_ref().map(|stat| format!(" {}", stat.cpu_seconds));
    one("process_cpu_seconds_total", "counter", "User and system CPU time spent.", as_display(&cpu));
    let start = stat.and_then(|stat| start_seconds(&stat)).map(|seconds| format!(" {seconds}"));
    one("process_start_time_seconds", "gauge", "Start time since the Unix epoch.", as_display(&start));
    let resident = fs::read_to_string("/proc/self/status").ok().and_then(|text| resident_bytes(&text));
    let resident = resident.map(|bytes| format!(" {bytes}"));
    one("process_resident_memory_bytes", "gauge", "Resident memory size.", as_display(&resident));
    // one of the descriptors is that of the folder being read
    let open = fs::read_dir("/proc/self/fd").ok().map(|entries| format!(" {}", entries.count().saturating_sub(1)));
    one("process_open_fds", "gauge", "Open file descriptors.", as_display(&open));
    let limit = fs::read_to_string("/proc/self/limits").ok().and_then(|text| open_files_limit(&text));
    let limit = limit.map(|limit| format!(" {limit}"));
    one("process_max_fds", "gauge", "Limit of open file descriptors.", as_display(&limit));
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds fit into a double for long")]
fn seconds(millis: i64) -> f64 {
    millis as f64 / 1e3
}

fn as_display(text: &Option<String>) -> Option<&dyn Display> {
    text.as_ref().map(|text| text as &dyn Display)
}

/// Two figures of `/proc/PID/stat`, proc_pid_stat(5).
struct Stat {
    /// Fields 14 and 15, user and system time.
    cpu_seconds: f64,
    /// Field 22.
    started_after_boot_seconds: f64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // field 2, the name, stands in parentheses and may itself contain blanks and parentheses
        let (_, after_name) = text.rsplit_once(')')?;
        let ticks = |field: usize| after_name.split_ascii_whitespace().nth(field - 3)?.parse::<f64>().ok();
        Some(Self {
            cpu_seconds: (ticks(14)? + ticks(15)?) / TICKS_PER_SECOND,
            started_after_boot_seconds: ticks(22)? / TICKS_PER_SECOND,
        })
    }
}

/// When this process started, since the Unix epoch, by the clock of when that was first asked for: the kernel goes by the
/// clock of now, and whoever counts restarts would take a clock that is set for one.
fn start_seconds(stat: &Stat) -> Option<f64> {
    static BOOT: OnceLock<Option<f64>> = OnceLock::new();
    let boot = *BOOT.get_or_init(|| fs::read_to_string("/proc/stat").ok().and_then(|text| boot_seconds(&text)));
    Some(boot? + stat.started_after_boot_seconds)
}

/// When the machine started, since the Unix epoch: the line `btime` of `/proc/stat`.
fn boot_seconds(text: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

/// The line `VmRSS` of `/proc/PID/status`, in KiB there.
fn resident_bytes(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The soft limit `Max open files` of `/proc/PID/limits`; `None` also where it is unlimited.
fn open_files_limit(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_with_blanks_and_parentheses_does_not_shift_the_fields() {
        let numbers = (4..=52).map(|n| n.to_string()).collect::<Vec<_>>().join(" ");
        let stat = Stat::parse(&format!("1234 (a) b (c) R {numbers}\n")).unwrap();
        assert_eq!(stat.cpu_seconds, 0.29);
        assert_eq!(stat.started_after_boot_seconds, 0.22);
        assert!(Stat::parse("1234 (cut").is_none());
        assert!(Stat::parse("1234 (cut) R 1 2 3").is_none());
    }

    #[test]
    fn lines_of_proc_are_read_and_missing_ones_are_none() {
        assert_eq!(boot_seconds("cpu 1 2\nbtime 1700000000\n"), Some(1_700_000_000.0));
        assert_eq!(boot_seconds("cpu 1 2\n"), None);
        assert_eq!(resident_bytes("Name:\tx\nVmRSS:\t    2048 kB\n"), Some(2 << 20));
        assert_eq!(resident_bytes("Name:\tx\n"), None);
        let limits =
            "Limit     Soft Limit  Hard Limit  Units\nMax open files            1024                 4096   files\n";
        assert_eq!(open_files_limit(limits), Some(1024));
        assert_eq!(
            open_files_limit("Max open files            unlimited            unlimited            files\n"),
            None
        );
    }

    #[test]
    fn every_figure_of_a_live_process_is_there_with_help_and_a_plausible_value() {
        let mut page = String::new();
        render(&mut page, "1.2.3");
        assert!(page.contains("\ntallylight_build_info{version=\"1.2.3\"} 1\n"), "{page}");
        let value = |name: &str| -> f64 {
            assert!(page.contains(&format!("# HELP {name} ")), "{name} in {page}");
            let line = page.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap();
            line.rsplit_once(' ').unwrap().1.parse().unwrap()
        };
        assert!(value("process_resident_memory_bytes") > 100_000.0);
        assert!(value("process_open_fds") >= 3.0);
        assert!(value("process_max_fds") >= value("process_open_fds"));
        assert!(value("process_start_time_seconds") > 1_700_000_000.0);
        assert!(value("process_cpu_seconds_total") >= 0.0);
        assert!((value("tallylight_clock_timestamp_seconds") * 1e3 - clock::now() as f64).abs() < 60_000.0);
        assert!(value("tallylight_stderr_lines_lost_total") >= 0.0);
    }
}
