//! What the program is asked to do: to run the collector, or something beside that.

use std::ffi::OsString;

use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use tallylight_service::manual::{Completions, Man};

use crate::check::CheckArgs;
use crate::send::SendArgs;
use crate::settings::Settings;
use crate::sign_link::SignLinkArgs;

/// Takes beacons from browsers and servers, and appends their events to a memory-mapped log.
///
/// Every flag is also an environment variable, TALLYLIGHT_ and the flag's name; what can be repeated is
/// separated by commas there. TALLYLIGHT_LOG=debug and TALLYLIGHT_LOG_FORMAT=json set what stderr gets.
#[derive(Clone, Debug, Parser)]
#[command(name = "tallylight-collector", version, args_conflicts_with_subcommands = true)]
#[command(disable_help_subcommand = true)]
pub struct CommandLine {
    /// What to do instead of running the collector.
    #[command(subcommand)]
    pub other: Option<Other>,

    /// What to run it with.
    #[command(flatten)]
    pub settings: Settings,
}

/// What the program does beside running the collector.
#[derive(Clone, Debug, Subcommand)]
pub enum Other {
    /// Says whether the collector would work here with these flags, and what to change if not
    ///
    /// Prints the settings in effect and looks at data folder, ports, key and site files, limits of the system, and clock. Nothing
    /// is changed by that. Exit status 1: something would not work. Warnings alone are no failure. What the service runs with
    /// stands in its environment: `set -a; . /etc/default/tallylight-collector` has it here, too.
    Check(CheckArgs),

    /// Sends lines from stdin to a collector by UDP: query strings or JSON objects, one event a line
    ///
    /// Lines go out as they are, several in a datagram. Exit status 1: not all could be sent. What was lost on the
    /// way only the collector knows, if they are not --plain: see /udp/sources at its admin port.
    Send(SendArgs),

    /// Prints a signed link that the collector counts and redirects, for e-mails
    ///
    /// How services make many of them is described in proto/LINKS.md.
    SignLink(SignLinkArgs),

    /// Prints what a shell needs to complete this command line
    Completions(Completions),

    /// Writes the manual pages
    Man(Man),
}

impl CommandLine {
    /// That of this process. Ends it with a message where it cannot be used, or where `--help` or `--version` is asked
    /// for.
    pub fn parse() -> Self {
        Self::try_from_args(std::env::args_os()).unwrap_or_else(|error| error.exit())
    }

    /// That of these arguments, the program's name first, and of the environment.
    ///
    /// # Errors
    /// If it cannot be used.
    pub fn try_from_args(args: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> Result<Self, clap::Error> {
        let mut command = Self::command();
        let matches = command.try_get_matches_from_mut(args)?;
        let line = Self::from_arg_matches(&matches)?;
        let settings = match &line.other {
            Some(Other::Check(args)) => &args.settings,
            _ => &line.settings,
        };
        settings.check().map_err(|error| command.error(ErrorKind::ValueValidation, error))?;
        Ok(line)
    }
}
