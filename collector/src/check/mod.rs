//! `tallylight-collector check`: would it run here, and what had better be changed first?
//!
//! ```text
//!  settings ─▶ effective ─┐
//!  data folder ─▶ folder ─┤
//!  addresses  ─▶ ports  ──┼─▶ Report ─▶ text, or JSON
//!  files, limits, clock ──┘
//! ```
//!
//! The rule kept here: **it looks, and changes nothing.** No file is made or written, no lock is taken for longer than a look,
//! and an address is bound for just as long as it takes to find out whether it can be. Whatever is not right is said
//! together with what to do about it.

mod effective;
mod files;
mod folder;
mod machine;
mod owners;
mod ports;
mod print;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{ArgMatches, Args, CommandFactory};
use serde::Serialize;

use crate::command_line::CommandLine;
use crate::settings::Settings;
use effective::Setting;

/// What to check, and how to say it.
#[derive(Args, Clone, Debug)]
pub struct CheckArgs {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,

    /// The settings that the collector would run with.
    #[command(flatten)]
    pub settings: Settings,
}

/// How good something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    /// As it should be.
    Ok,
    /// It works, and could be better.
    Warning,
    /// It would not work.
    Problem,
}

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize)]
struct Finding {
    verdict: Verdict,
    about: &'static str,
    /// What was found, in a line.
    found: String,
    /// What to do about it: a command, or a line of a file.
    change: Option<String>,
}

impl Finding {
    fn ok(about: &'static str, found: impl Into<String>) -> Self {
        Self { verdict: Verdict::Ok, about, found: found.into(), change: None }
    }

    fn warning(about: &'static str, found: impl Into<String>, change: impl Into<String>) -> Self {
        Self { verdict: Verdict::Warning, about, found: found.into(), change: Some(change.into()) }
    }

    fn problem(about: &'static str, found: impl Into<String>, change: impl Into<String>) -> Self {
        Self { verdict: Verdict::Problem, about, found: found.into(), change: Some(change.into()) }
    }
}

/// All of it.
#[derive(Debug, Serialize)]
struct Report {
    settings: Vec<Setting>,
    checks: Vec<Finding>,
    warnings: usize,
    problems: usize,
}

impl Report {
    /// `matches` say where the settings come from.
    fn of(settings: &Settings, matches: &ArgMatches) -> Self {
        let mut checks = folder::check(settings);
        let running = folder::running(&settings.data);
        checks.extend(ports::check(settings, running.as_ref()));
        checks.extend(files::check(settings));
        checks.extend(machine::check(settings));
        let count = |verdict| checks.iter().filter(|finding| finding.verdict == verdict).count();
        let (warnings, problems) = (count(Verdict::Warning), count(Verdict::Problem));
        Self { settings: effective::of(settings, matches), checks, warnings, problems }
    }
}

/// Prints what was found. Exit code 1 if the collector would not work.
pub fn run(args: &CheckArgs) -> ExitCode {
    // they were parsed once already, to get here
    let matches = CommandLine::command().get_matches();
    let matches = matches.subcommand_matches("check").unwrap_or(&matches);
    let report = Report::of(&args.settings, matches);
    let text = if args.json { print::json(&report) } else { print::text(&report) };
    // whoever asked may have gone
    let _ = io::stdout().write_all(text.as_bytes());
    if report.problems == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
