//! The command line. Each doc comment is a help text.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::builder::FalseyValueParser;
use clap::{Args, Parser, Subcommand};
use tallylight_service::manual::{Completions, Man};
use tallylight_service::{ByteSize, Period};
use thiserror::Error;

use crate::groups::By;

/// Where `--follow` shows its metrics unless told otherwise.
const DEFAULT_ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9601);

/// Rolls the collector's log into Parquet: each event once, and hourly aggregates.
///
/// Without a subcommand it compacts what there is (--once) or goes on as the log grows (--follow). It may be killed
/// at any moment and run again: no event counts twice and none is lost.
#[derive(Clone, Debug, Parser)]
#[command(name = "tallylight-compactor", version, max_term_width = 100)]
#[command(after_help = "Every flag is also an environment variable: --every is TALLYLIGHT_EVERY.\n\
    TALLYLIGHT_LOG filters the program's own log on stderr (info), TALLYLIGHT_LOG_FORMAT is text or json.\n\
    Exit codes: 0 done, 1 failed, damage found or a sum that does not add up, 2 unusable arguments.")]
pub struct Settings {
    /// What to do instead of compacting.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Where from and where to.
    #[command(flatten)]
    pub folders: Folders,
    /// How it runs.
    #[command(flatten)]
    pub running: Running,
    /// What it makes.
    #[command(flatten)]
    pub output: Output,
}

/// What to do instead of compacting.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Print events of the log as JSON lines.
    ///
    /// Needs nothing but the log folder, and may run at any time.
    Inspect(Inspect),
    /// Read the whole log and print each damaged position.
    ///
    /// Exit code 1 if there is one; what a power cut tore off is printed too, and is no damage.
    Verify,
    /// Print the balance of events from the collector's door to the rows, line by line.
    ///
    /// Exit code 1 if something does not add up. Needs only files (log and output), and may run at any time.
    Audit(Audit),
    /// Print what a shell needs to complete this command line.
    Completions(Completions),
    /// Write the manual pages.
    Man(Man),
}

/// How `audit` prints.
#[derive(Clone, Copy, Debug, Args)]
pub struct Audit {
    /// Print one JSON object, with all sources of datagrams.
    #[arg(long, env = "TALLYLIGHT_JSON", hide_env = true)]
    pub json: bool,
}

/// Which records `inspect` prints.
#[derive(Clone, Debug, Args)]
pub struct Inspect {
    /// Begin at this position of the log.
    #[arg(long, value_name = "POSITION", env = "TALLYLIGHT_FROM", hide_env = true)]
    pub from: Option<u64>,
    /// End after so many lines.
    #[arg(long, value_name = "N", env = "TALLYLIGHT_LIMIT", hide_env = true)]
    pub limit: Option<u64>,
    /// Print the collector's ledger records too.
    #[arg(long, env = "TALLYLIGHT_LEDGER", hide_env = true)]
    pub ledger: bool,
}

/// Where from and where to.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Folders")]
pub struct Folders {
    /// The collector's data folder: the log is in DIR/log.
    #[arg(long, global = true, value_name = "DIR", default_value = "./data", env = "TALLYLIGHT_DATA", hide_env = true)]
    pub data: PathBuf,
    /// The output folder: events/, hourly/ and watermark/ [default: DATA/out].
    #[arg(long, global = true, value_name = "DIR", env = "TALLYLIGHT_OUT", hide_env = true)]
    #[arg(value_parser = folder)]
    pub out: Option<PathBuf>,
}

/// How it runs.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Running")]
pub struct Running {
    /// Compact what is in the log now, once the collector has synced it, and end. This is the default.
    #[arg(long, global = true, conflicts_with = "follow", env = "TALLYLIGHT_ONCE", hide_env = true)]
    #[arg(value_parser = FalseyValueParser::new())]
    pub once: bool,
    /// Go on as the log grows, until SIGTERM or Ctrl-C.
    #[arg(long, global = true, env = "TALLYLIGHT_FOLLOW", hide_env = true)]
    #[arg(value_parser = FalseyValueParser::new())]
    pub follow: bool,
    /// How often --follow publishes. What arrives late for hours that are complete gathers up to ten minutes.
    #[arg(long, global = true, value_name = "TIME", default_value = "10s", env = "TALLYLIGHT_EVERY", hide_env = true)]
    #[arg(value_parser = some_time)]
    pub every: Period,
    /// Where /metrics, /healthz and /readyz are, or `off` [default: 127.0.0.1:9601 with --follow, else off].
    #[arg(long, global = true, value_name = "ADDR", env = "TALLYLIGHT_ADMIN", hide_env = true)]
    pub admin: Option<Admin>,
}

/// What it makes.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Output")]
pub struct Output {
    /// How long after its end an hour is complete; what arrives later amends it.
    #[arg(long, global = true, value_name = "TIME", default_value = "60s", env = "TALLYLIGHT_GRACE", hide_env = true)]
    pub grace: Period,
    /// How long compacted segments of the log are kept, while there is space.
    #[arg(long, global = true, value_name = "TIME", default_value = "72h", env = "TALLYLIGHT_RETAIN", hide_env = true)]
    pub retain: Period,
    /// More columns to group by: any of item, placement, page, with commas. Fixed at the first run [default: none].
    #[arg(long, global = true, value_name = "COLUMNS", env = "TALLYLIGHT_BY", hide_env = true)]
    pub by: Option<Columns>,
    /// About how much memory the groups of one hour may take; what needs further ones counts in `(other)`, first by target,
    /// then by site. With another size an hour that has too many of them comes out differently.
    #[arg(long, global = true, value_name = "SIZE", default_value = "512MiB", env = "TALLYLIGHT_MAX_GROUPS")]
    #[arg(hide_env = true)]
    pub max_groups: ByteSize,
}

impl Settings {
    /// The output folder.
    pub fn out(&self) -> PathBuf {
        self.folders.out.clone().unwrap_or_else(|| self.folders.data.join("out"))
    }

    /// More columns to group by.
    pub fn by(&self) -> &[By] {
        self.output.by.as_ref().map_or(&[], |columns| &columns.0)
    }

    /// Where the admin port is, if there is one.
    pub fn admin(&self) -> Option<SocketAddr> {
        match self.running.admin {
            Some(Admin::Off) => None,
            Some(Admin::At(addr)) => Some(addr),
            None => self.running.follow.then_some(DEFAULT_ADMIN),
        }
    }
}

/// A folder of this machine. A URL would become one with an odd name, in which nobody looks.
fn folder(text: &str) -> Result<PathBuf, Box<dyn std::error::Error + Send + Sync>> {
    if text.contains("://") { Err("must be a folder: object stores are not known".into()) } else { Ok(text.into()) }
}

/// A period that is longer than nothing.
fn some_time(text: &str) -> Result<Period, Box<dyn std::error::Error + Send + Sync>> {
    let period: Period = text.parse()?;
    if period.millis() == 0 { Err("must be longer than nothing".into()) } else { Ok(period) }
}

/// An address, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admin {
    /// No admin port.
    Off,
    /// There.
    At(SocketAddr),
}

/// Columns to group by, each once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Columns(pub Vec<By>);

/// Why a setting could not be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SettingError {
    /// Neither an address nor off.
    #[error("{text:?} is neither an address with a port, like 127.0.0.1:9601, nor off")]
    Admin {
        /// What was given.
        text: Box<str>,
    },
    /// No such column.
    #[error("{text:?} is none of item, placement, page")]
    Column {
        /// What was given.
        text: Box<str>,
    },
    /// A column twice.
    #[error("{text:?} is given twice")]
    Twice {
        /// What was given.
        text: Box<str>,
    },
}

impl FromStr for Admin {
    type Err = SettingError;

    fn from_str(text: &str) -> Result<Self, SettingError> {
        match text.trim() {
            "off" => Ok(Self::Off),
            addr => addr.parse().map(Self::At).map_err(|_| SettingError::Admin { text: text.into() }),
        }
    }
}

impl FromStr for Columns {
    type Err = SettingError;

    fn from_str(text: &str) -> Result<Self, SettingError> {
        let mut columns = Vec::new();
        for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            let by = By::ALL.into_iter().find(|by| by.name() == name);
            let by = by.ok_or_else(|| SettingError::Column { text: name.into() })?;
            if columns.contains(&by) {
                return Err(SettingError::Twice { text: name.into() });
            }
            columns.push(by);
        }
        Ok(Self(columns))
    }
}

impl fmt::Display for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::At(addr) => addr.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn publishing_without_a_pause_or_to_an_object_store_is_refused() {
        for (flag, value) in [("--every", "0s"), ("--out", "s3://bucket/prefix")] {
            let error = Settings::try_parse_from(["tallylight-compactor", "--follow", flag, value]).unwrap_err();
            assert!(error.to_string().contains(flag), "{error}");
            assert_eq!(error.exit_code(), 2);
        }
    }

    fn parse(line: &str) -> Settings {
        let words = ["tallylight-compactor"].into_iter().chain(line.split_whitespace());
        Settings::try_parse_from(words).unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn flags_may_stand_before_or_after_the_subcommand() {
        Settings::command().debug_assert();
        for line in ["--data x --out y inspect --limit 3", "inspect --limit 3 --data x --out y"] {
            let settings = parse(line);
            assert_eq!(settings.folders.data, PathBuf::from("x"));
            assert_eq!(settings.out(), PathBuf::from("y"));
            assert!(matches!(settings.command, Some(Command::Inspect(Inspect { limit: Some(3), .. }))));
        }
        assert!(matches!(parse("verify --data x").command, Some(Command::Verify)));
        for line in ["--data x --out y audit --json", "audit --json --out y --data x"] {
            let settings = parse(line);
            assert!(matches!(settings.command, Some(Command::Audit(Audit { json: true }))));
            assert_eq!((settings.folders.data.to_str(), settings.out().to_str()), (Some("x"), Some("y")));
        }
    }

    #[test]
    fn the_defaults_are_those_of_the_contract() {
        let settings = parse("");
        assert_eq!(settings.folders.data, PathBuf::from("./data"));
        assert_eq!(settings.out(), PathBuf::from("./data/out"));
        assert_eq!(settings.running.every.millis(), 10_000);
        assert_eq!(settings.output.grace.millis(), 60_000);
        assert_eq!(settings.output.retain.millis(), 72 * 3_600_000);
        assert_eq!((settings.by(), settings.admin()), (&[][..], None));
        assert_eq!(settings.output.max_groups.bytes(), 512 << 20);
        assert_eq!(parse("--follow").admin(), Some("127.0.0.1:9601".parse().unwrap()));
        assert_eq!(parse("--follow --admin off").admin(), None);
        assert_eq!(parse("--admin 127.0.0.1:1").admin(), Some("127.0.0.1:1".parse().unwrap()));
    }

    #[test]
    fn columns_are_taken_in_their_order_and_each_once() {
        assert_eq!(parse("--by page,item").by(), [By::Page, By::Item]);
        assert_eq!("".parse(), Ok(Columns(vec![])));
        assert_eq!("item,item".parse::<Columns>(), Err(SettingError::Twice { text: "item".into() }));
        assert_eq!("target".parse::<Columns>(), Err(SettingError::Column { text: "target".into() }));
    }

    #[test]
    fn once_and_follow_exclude_each_other() {
        let words = ["tallylight-compactor", "--once", "--follow"];
        let error = Settings::try_parse_from(words).unwrap_err();
        assert_eq!(error.exit_code(), 2);
    }
}
