//! The settings as they are in effect, and where each of them comes from.

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Args, Command};
use serde::Serialize;
use tallylight_service::ByteSize;

use crate::settings::Settings;

/// One flag.
#[derive(Debug, Serialize)]
pub(super) struct Setting {
    /// Without its hyphens.
    pub flag: String,
    /// As it could be given.
    pub value: String,
    /// `default`, `environment` or `command line`.
    pub from: &'static str,
}

/// All of them, in the order of `--help`.
pub(super) fn of(settings: &Settings, matches: &ArgMatches) -> Vec<Setting> {
    let flags = Settings::augment_args(Command::new("settings"));
    flags.get_arguments().map(|flag| setting(flag, settings, matches)).collect()
}

fn setting(flag: &Arg, settings: &Settings, matches: &ArgMatches) -> Setting {
    let id = flag.get_id().as_str();
    let given = matches.get_raw(id).map(|values| {
        let values: Vec<_> = values.map(|value| value.to_string_lossy()).collect();
        values.join(",")
    });
    let value = given.unwrap_or_else(|| match id {
        "workers" => settings.worker_count().to_string(),
        "reserve" => ByteSize(settings.reserve_bytes()).to_string(),
        _ => described_default(flag),
    });
    let from = match matches.value_source(id) {
        Some(ValueSource::CommandLine) => "command line",
        Some(ValueSource::EnvVariable) => "environment",
        _ => "default",
    };
    Setting { flag: flag.get_long().unwrap_or(id).to_owned(), value, from }
}

/// What the help says of a default that is no value.
fn described_default(flag: &Arg) -> String {
    let help = flag.get_help().map(ToString::to_string).unwrap_or_default();
    let described = help.split("[default: ").nth(1).and_then(|rest| rest.split(']').next());
    format!("({})", described.unwrap_or("none"))
}
