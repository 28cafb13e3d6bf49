//! How it is said: to people in columns, to programs as JSON.

use std::fmt::Write;

use super::{Report, Verdict};

pub(super) fn json(report: &Report) -> String {
    let mut text = serde_json::to_string_pretty(report).expect("texts and numbers are JSON");
    text.push('\n');
    text
}

pub(super) fn text(report: &Report) -> String {
    let mut text = String::from("settings\n");
    // writing to a String does not fail
    for setting in &report.settings {
        let from = if setting.from == "default" { String::new() } else { format!("    (from the {})", setting.from) };
        let _ = writeln!(text, "  --{:<26} {}{from}", setting.flag, setting.value);
    }
    text.push_str("\nchecks\n");
    for finding in &report.checks {
        let verdict = match finding.verdict {
            Verdict::Ok => "ok",
            Verdict::Warning => "warning",
            Verdict::Problem => "PROBLEM",
        };
        let _ = writeln!(text, "  {verdict:<8} {:<15} {}", finding.about, finding.found);
        if let Some(change) = &finding.change {
            let _ = writeln!(text, "  {:<8} {:<15} -> {change}", "", "");
        }
    }
    let count = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let (problems, warnings) = (count(report.problems, "problem"), count(report.warnings, "warning"));
    let verdict = if report.problems == 0 { "the collector would work" } else { "the collector would not work" };
    let _ = writeln!(text, "\n{problems}, {warnings}: {verdict}");
    text
}
