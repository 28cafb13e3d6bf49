//! What an operator can set: every flag is also an environment variable, checked once at start.
//!
//! The rule kept here: whatever gets past [`crate::command_line::CommandLine::parse`] can be used as it is. A setting that cannot be
//! used ends the program with code 2 and a line that names it.

use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::str::FromStr;

use clap::builder::FalseyValueParser;
use clap::{Args, ValueEnum};
use ipnet::IpNet;
use tallylight_service::{ByteSize, Period};
use thiserror::Error;

/// hyper reads heads into a buffer of at least this size.
const MIN_HEADER: u64 = 8 * 1024;
/// More would let every connection hold that much memory.
const MAX_HEADER: u64 = 1024 * 1024;
/// The contract's limit for a body as it was sent. A larger one would not fit into what decoding may give.
const MAX_BODY: u64 = 1024 * 1024;
/// The smallest segment.
const MIN_SEGMENT: u64 = 1024 * 1024;
/// The largest one: recovery reads a whole segment.
const MAX_SEGMENT: u64 = 1024 * 1024 * 1024 * 1024;
/// The smallest receive buffer: about that of the kernel.
const MIN_RECEIVE_BUFFER: u64 = 4096;
/// The largest one: the kernel keeps the double of it in 31 bits.
const MAX_RECEIVE_BUFFER: u64 = 512 * 1024 * 1024;
/// The highest limit of events a second from one peer: more than one worker answers.
const MAX_RATE: u32 = 1_000_000;
/// Segments are whole pages.
const PAGE: u64 = 4096;

/// What the collector runs with.
#[derive(Args, Clone, Debug)]
pub struct Settings {
    /// Where to take beacons: HTTP/1.1, and HTTP/2 with prior knowledge. `off` for none. Not used if TCP sockets are
    /// handed over (systemd socket activation)
    #[arg(long, env = "TALLYLIGHT_HTTP", value_name = "ADDR", value_delimiter = ',', help_heading = FRONT)]
    #[arg(default_value = "127.0.0.1:5000")]
    pub http: Vec<FrontAddr>,

    /// Take connections of trusted proxies only (--trusted-proxy), each of which begins with a header of the PROXY protocol,
    /// version 1 or 2: whom that names is the peer
    #[arg(long, env = "TALLYLIGHT_PROXY_PROTOCOL", help_heading = FRONT, value_parser = FalseyValueParser::new())]
    pub proxy_protocol: bool,

    /// File of the keys that redirects (/r) are signed with, one a line: ID HEX, # comments; read again on SIGHUP. Refused
    /// if everybody can read it [default: nothing is redirected]
    #[arg(long, env = "TALLYLIGHT_REDIRECT_KEY", value_name = "FILE", help_heading = FRONT)]
    pub redirect_key: Option<PathBuf>,

    /// Where to take datagrams. `off` for none. Not used if UDP sockets are handed over (systemd socket activation)
    #[arg(long, env = "TALLYLIGHT_UDP", value_name = "ADDR", value_delimiter = ',', help_heading = FRONT)]
    #[arg(default_value = "127.0.0.1:5001")]
    pub udp: Vec<FrontAddr>,

    /// Who may send datagrams without a key (may be repeated) [default: anybody, or nobody if there are keys]
    #[arg(long, env = "TALLYLIGHT_UDP_FROM", value_name = "CIDR", value_delimiter = ',', help_heading = FRONT)]
    #[arg(value_parser = cidr)]
    pub udp_from: Vec<IpNet>,

    /// File of the keys that datagrams are signed with, one a line: ID HEX, # comments; read again on SIGHUP. Refused
    /// if everybody can read it
    #[arg(long, env = "TALLYLIGHT_UDP_KEY", value_name = "FILE", help_heading = FRONT)]
    pub udp_key: Option<PathBuf>,

    /// Bytes of datagrams that wait in the kernel for a worker, at most net.core.rmem_max. Not used if UDP sockets are
    /// handed over: they come with theirs (ReceiveBuffer=)
    #[arg(long, env = "TALLYLIGHT_UDP_RECEIVE_BUFFER", value_name = "SIZE", help_heading = FRONT)]
    #[arg(default_value = "4MiB")]
    pub udp_receive_buffer: ByteSize,

    /// Where to show /metrics, /healthz, /readyz and /udp/sources. Not used if a socket named `admin` is handed over
    #[arg(long, env = "TALLYLIGHT_ADMIN", value_name = "ADDR", help_heading = FRONT)]
    #[arg(default_value = "127.0.0.1:9600")]
    pub admin: SocketAddr,

    /// Front threads [default: one a CPU]
    #[arg(long, env = "TALLYLIGHT_WORKERS", value_name = "N", help_heading = FRONT)]
    pub workers: Option<NonZeroUsize>,

    /// Serve the demo bookshop at /demo/
    #[arg(long, env = "TALLYLIGHT_DEMO", help_heading = FRONT, value_parser = FalseyValueParser::new())]
    pub demo: bool,

    /// Folder of the log (DIR/log) and of the node's name (DIR/node)
    #[arg(long, env = "TALLYLIGHT_DATA", value_name = "DIR", help_heading = LOG)]
    #[arg(default_value = "./data")]
    pub data: PathBuf,

    /// Bytes a segment of the log, at least 1MiB
    #[arg(long, env = "TALLYLIGHT_SEGMENT_SIZE", value_name = "SIZE", help_heading = LOG)]
    #[arg(default_value = "256MiB")]
    pub segment_size: ByteSize,

    /// Longest time between two syncs to disk: what is not synced is not compacted, either
    #[arg(long, env = "TALLYLIGHT_SYNC_INTERVAL", value_name = "TIME", help_heading = LOG)]
    #[arg(default_value = "1s")]
    pub sync_interval: Period,

    /// Free space on the disk below which events are shed, so that the compactor can finish
    /// [default: two segments]
    #[arg(long, env = "TALLYLIGHT_RESERVE", value_name = "SIZE", help_heading = LOG)]
    pub reserve: Option<ByteSize>,

    /// Take events of this site only (may be repeated) [default: of any]
    #[arg(long, env = "TALLYLIGHT_SITE", value_name = "NAME", value_delimiter = ',', help_heading = EVENTS)]
    pub site: Vec<String>,

    /// File of sites, one a line, # comments; read again on SIGHUP
    #[arg(long, env = "TALLYLIGHT_SITE_FILE", value_name = "FILE", help_heading = EVENTS)]
    pub site_file: Option<PathBuf>,

    /// How much of a visitor's address is written: all, /24 or /48, nothing
    #[arg(long, env = "TALLYLIGHT_IP", value_name = "MODE", help_heading = EVENTS)]
    #[arg(default_value = "truncate")]
    pub ip: IpMode,

    /// Proxies whose Forwarded is believed, or X-Forwarded-For if there is no Forwarded (may be repeated). They
    /// must replace or remove those that a visitor sends
    #[arg(long, env = "TALLYLIGHT_TRUSTED_PROXY", value_name = "CIDR", value_delimiter = ',', help_heading = EVENTS)]
    #[arg(value_parser = cidr)]
    pub trusted_proxy: Vec<IpNet>,

    /// Largest head of a request, 8KiB to 1MiB
    #[arg(long, env = "TALLYLIGHT_MAX_HEADER", value_name = "SIZE", help_heading = LIMITS)]
    #[arg(default_value = "16KiB")]
    pub max_header: ByteSize,

    /// Largest body of a request as sent, at most 1MiB
    #[arg(long, env = "TALLYLIGHT_MAX_BODY", value_name = "SIZE", help_heading = LIMITS)]
    #[arg(default_value = "64KiB")]
    pub max_body: ByteSize,

    /// Connections at a time. For one more, one that was silent for long is closed; if there is none it waits in the kernel
    #[arg(long, env = "TALLYLIGHT_MAX_CONNECTIONS", value_name = "N", help_heading = LIMITS)]
    #[arg(default_value = "16000")]
    pub max_connections: NonZeroUsize,

    /// The same for one address; of IPv6, for one network of 64 bits. What is more is closed at once. Trusted proxies have
    /// no such limit [default: none]
    #[arg(long, env = "TALLYLIGHT_MAX_CONNECTIONS_PER_PEER", value_name = "N", help_heading = LIMITS)]
    pub max_connections_per_peer: Option<NonZeroUsize>,

    /// Tokens a second for one visitor's address (of IPv6, for one network of 64 bits), at most 1000000; a second's worth may be
    /// used at once. Each request takes one, a body as many as it has events, or one for each 4 KiB when decompressed if that
    /// is more. What is over it is answered 429 and not looked into. Datagrams have no such limit [default: none]
    #[arg(long, env = "TALLYLIGHT_MAX_RATE_PER_PEER", value_name = "N", help_heading = LIMITS)]
    #[arg(value_parser = rate)]
    pub max_rate_per_peer: Option<NonZeroU32>,

    /// Time for the head of a request, and for a connection without one
    #[arg(long, env = "TALLYLIGHT_IDLE_TIMEOUT", value_name = "TIME", help_heading = LIMITS)]
    #[arg(default_value = "60s")]
    pub idle_timeout: Period,

    /// Time for the body of a request, and for a peer that takes none of its answer
    #[arg(long, env = "TALLYLIGHT_BODY_TIMEOUT", value_name = "TIME", help_heading = LIMITS)]
    #[arg(default_value = "10s")]
    pub body_timeout: Period,

    /// Time for what is in flight when the collector is told to stop
    #[arg(long, env = "TALLYLIGHT_DRAIN_TIMEOUT", value_name = "TIME", help_heading = LIMITS)]
    #[arg(default_value = "10s")]
    pub drain_timeout: Period,
}

const FRONT: &str = "Front";
const LOG: &str = "Log";
const EVENTS: &str = "Events";
const LIMITS: &str = "Limits";

/// Where a front listens, or that it does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrontAddr {
    /// `off`
    Off,
    /// An address of this machine; port 0 is any free one.
    At(SocketAddr),
}

impl FrontAddr {
    fn addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Off => None,
            Self::At(addr) => Some(*addr),
        }
    }
}

impl FromStr for FrontAddr {
    type Err = SettingError;

    fn from_str(text: &str) -> Result<Self, SettingError> {
        if text == "off" {
            return Ok(Self::Off);
        }
        text.parse().map(Self::At).map_err(|_| SettingError::Addr)
    }
}

/// How much of a visitor's address is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum IpMode {
    /// All of it.
    Keep,
    /// The network: 24 bits of IPv4, 48 of IPv6.
    Truncate,
    /// Nothing.
    Drop,
}

/// A setting that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SettingError {
    /// Not an address.
    #[error("neither an address and port, like 127.0.0.1:5000 or [::1]:5000, nor `off`")]
    Addr,
    /// Not a network.
    #[error("neither a network, like 10.0.0.0/8, nor an address")]
    Cidr,
    /// `off` beside an address.
    #[error("--{flag} is off and on at the same time")]
    OffAndOn {
        /// Which flag.
        flag: &'static str,
    },
    /// Not a number of events a second.
    #[error("not a number from 1 to {MAX_RATE}")]
    Rate,
    /// Headers that nobody could be believed.
    #[error("--proxy-protocol believes nobody without --trusted-proxy, the network of the proxy")]
    NoProxy,
    /// Out of bounds.
    #[error("--{flag} must be from {least} to {most}")]
    Range {
        /// Which flag.
        flag: &'static str,
        /// The least value that works.
        least: ByteSize,
        /// The greatest one.
        most: ByteSize,
    },
    /// A time of nothing.
    #[error("--{flag} must be longer than nothing")]
    Zero {
        /// Which flag.
        flag: &'static str,
    },
}

impl Settings {
    /// What no type can say of them.
    ///
    /// # Errors
    /// If one cannot be used.
    pub fn check(&self) -> Result<(), SettingError> {
        for (flag, addrs) in [("http", &self.http), ("udp", &self.udp)] {
            if addrs.len() > 1 && addrs.contains(&FrontAddr::Off) {
                return Err(SettingError::OffAndOn { flag });
            }
        }
        if self.proxy_protocol && self.trusted_proxy.is_empty() {
            return Err(SettingError::NoProxy);
        }
        for (flag, size, least, most) in [
            ("segment-size", self.segment_size, MIN_SEGMENT, MAX_SEGMENT),
            ("max-header", self.max_header, MIN_HEADER, MAX_HEADER),
            ("max-body", self.max_body, 1, MAX_BODY),
            ("udp-receive-buffer", self.udp_receive_buffer, MIN_RECEIVE_BUFFER, MAX_RECEIVE_BUFFER),
        ] {
            if !(least..=most).contains(&size.bytes()) {
                return Err(SettingError::Range { flag, least: ByteSize(least), most: ByteSize(most) });
            }
        }
        let times = [
            ("sync-interval", self.sync_interval),
            ("idle-timeout", self.idle_timeout),
            ("body-timeout", self.body_timeout),
        ];
        let zero = times.into_iter().find(|(_, time)| time.millis() == 0);
        zero.map_or(Ok(()), |(flag, _)| Err(SettingError::Zero { flag }))
    }

    /// Where to accept connections.
    pub fn http_addrs(&self) -> Vec<SocketAddr> {
        self.http.iter().filter_map(FrontAddr::addr).collect()
    }

    /// Where to receive datagrams.
    pub fn udp_addrs(&self) -> Vec<SocketAddr> {
        self.udp.iter().filter_map(FrontAddr::addr).collect()
    }

    /// How many front threads.
    pub fn worker_count(&self) -> usize {
        self.workers.or_else(|| std::thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get)
    }

    /// Bytes a segment, in whole pages.
    pub fn segment_bytes(&self) -> u64 {
        self.segment_size.bytes().next_multiple_of(PAGE)
    }

    /// Bytes that stay free on the disk.
    pub fn reserve_bytes(&self) -> u64 {
        self.reserve.map_or(2 * self.segment_bytes(), ByteSize::bytes)
    }
}

/// A network, or one address as a network of its own.
fn cidr(text: &str) -> Result<IpNet, SettingError> {
    let network = text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
    network.map(|network: IpNet| network.trunc()).ok_or(SettingError::Cidr)
}

/// Events a second.
fn rate(text: &str) -> Result<NonZeroU32, SettingError> {
    text.parse().ok().filter(|rate: &NonZeroU32| rate.get() <= MAX_RATE).ok_or(SettingError::Rate)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command_line::CommandLine;

    fn parse(flags: &[&str]) -> Result<Settings, String> {
        let line = CommandLine::try_from_args(["tallylight-collector"].iter().chain(flags));
        line.map(|line| line.settings).map_err(|error| format!("{} {error}", error.exit_code()))
    }

    #[test]
    fn defaults_are_those_of_the_contract() {
        let settings = parse(&[]).unwrap();
        assert_eq!(settings.http_addrs(), ["127.0.0.1:5000".parse().unwrap()]);
        assert_eq!(settings.udp_addrs(), ["127.0.0.1:5001".parse().unwrap()]);
        assert!(settings.udp_from.is_empty() && settings.udp_key.is_none() && settings.redirect_key.is_none());
        assert_eq!(settings.udp_receive_buffer.bytes(), 4 << 20);
        assert_eq!(settings.admin, "127.0.0.1:9600".parse().unwrap());
        assert_eq!(settings.data, PathBuf::from("./data"));
        assert_eq!((settings.segment_bytes(), settings.reserve_bytes()), (256 << 20, 512 << 20));
        assert_eq!(settings.sync_interval.millis(), 1000);
        assert_eq!(settings.ip, IpMode::Truncate);
        assert_eq!(settings.max_body.bytes(), 64 * 1024);
        assert!(settings.max_connections_per_peer.is_none() && settings.max_rate_per_peer.is_none());
        assert!(settings.worker_count() >= 1 && !settings.demo && settings.site.is_empty());
    }

    #[test]
    fn repeated_flags_add_up_and_commas_separate() {
        let settings = parse(&["--http", "127.0.0.1:0,[::1]:0", "--http", "127.0.0.2:1", "--site=a,b", "--site=c"]);
        let settings = settings.unwrap();
        assert_eq!(settings.http_addrs().len(), 3);
        assert_eq!(settings.site, ["a", "b", "c"]);
        assert!(parse(&["--http=off"]).unwrap().http_addrs().is_empty());
        assert!(parse(&["--udp=off"]).unwrap().udp_addrs().is_empty());
        assert_eq!(parse(&["--udp=127.0.0.1:0,[::1]:0", "--udp=127.0.0.2:1"]).unwrap().udp_addrs().len(), 3);
        let senders = parse(&["--udp-from=10.1.2.3/8", "--udp-from=::1"]).unwrap().udp_from;
        assert_eq!(senders, ["10.0.0.0/8".parse().unwrap(), "::1/128".parse::<IpNet>().unwrap()]);
        let proxies = parse(&["--trusted-proxy=10.1.2.3/8,::1"]).unwrap().trusted_proxy;
        assert_eq!(proxies, ["10.0.0.0/8".parse().unwrap(), "::1/128".parse::<IpNet>().unwrap()]);
    }

    #[test]
    fn what_cannot_be_used_ends_with_code_2_and_names_the_flag() {
        for (flags, named) in [
            (&["--http=localhost"] as &[&str], "--http"),
            (&["--http=off,127.0.0.1:1"], "--http"),
            (&["--udp=localhost"], "--udp"),
            (&["--udp=off,127.0.0.1:1"], "--udp"),
            (&["--udp-from=anybody"], "--udp-from"),
            (&["--udp-receive-buffer=1KiB"], "--udp-receive-buffer"),
            (&["--udp-receive-buffer=1GiB"], "--udp-receive-buffer"),
            (&["--admin=off"], "--admin"),
            (&["--workers=0"], "--workers"),
            (&["--segment-size=1023KiB"], "--segment-size"),
            (&["--segment-size=2000TiB"], "--segment-size"),
            (&["--sync-interval=0s"], "--sync-interval"),
            (&["--sync-interval=1"], "--sync-interval"),
            (&["--ip=half"], "--ip"),
            (&["--trusted-proxy=10.0.0.0/33"], "--trusted-proxy"),
            (&["--proxy-protocol"], "--trusted-proxy"),
            (&["--proxy-protocol"], "--proxy-protocol"),
            (&["--max-header=4KiB"], "--max-header"),
            (&["--max-body=0"], "--max-body"),
            (&["--max-connections=0"], "--max-connections"),
            (&["--nonsense"], "--nonsense"),
        ] {
            let error = parse(flags).expect_err(named);
            assert!(error.starts_with("2 ") && error.contains(named), "{flags:?}: {error}");
        }
    }

    #[test]
    fn every_flag_has_its_environment_variable_its_heading_and_a_text() {
        for argument in Settings::augment_args(clap::Command::new("settings")).get_arguments() {
            let flag = argument.get_long().unwrap();
            let variable = format!("TALLYLIGHT_{}", flag.to_uppercase().replace('-', "_"));
            assert_eq!(argument.get_env().and_then(|name| name.to_str()), Some(variable.as_str()));
            assert!(argument.get_help_heading().is_some() && argument.get_help().is_some(), "{flag}");
        }
    }
}
