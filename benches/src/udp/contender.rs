//! Who receives: how each is started, and how what it has is counted.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;

use super::load::Shape;
use super::peers;
use crate::peers::Peers;
use crate::spares::{self, Recycler};

/// What every receiver asks the kernel for.
pub const RECEIVE_BUFFER: usize = 4 << 20;
/// Microseconds in which the bare loop lets datagrams gather; 50 and 200 were no better.
const GATHER: &str = "100";
/// The collector's count of events in its log.
const LOGGED: &str = "tallylight_events_logged_total";

/// A receiver. The first one of a comparison is what the others are compared with.
pub struct Contender {
    pub name: String,
    /// Whether it is sent framed datagrams.
    pub is_framed: bool,
    kind: Kind,
}

#[derive(Clone)]
enum Kind {
    Collector {
        program: PathBuf,
        /// Whether a compactor gives it segments back.
        is_recycled: bool,
    },
    Rsyslog(Peers),
    SyslogNg(Peers),
    Bare {
        to_file: bool,
        /// Whether it lets datagrams gather.
        gathers: bool,
    },
}

/// How to start a receiver, and where what it received is.
pub struct Start {
    pub command: Command,
    pub port: u16,
    pub output: Output,
    /// Makes it write what it still holds.
    pub flush: Option<Signal>,
    /// What runs beside it.
    pub recycler: Option<Recycler>,
}

/// What was received is counted here.
pub enum Output {
    /// Lines of a file.
    Lines {
        path: PathBuf,
        /// How far it has been counted: bytes and lines.
        counted: (u64, u64),
    },
    /// A number in a file.
    Number(PathBuf),
    /// A metric.
    Metric(SocketAddr),
}

/// All contenders that are there.
pub fn all(shape: Shape, beside: &[PathBuf], root: &Path) -> Result<Vec<Contender>> {
    let mut all = Vec::new();
    let recycled = |program: &Path| Kind::Collector { program: program.to_owned(), is_recycled: true };
    let mut add = |name: &str, is_framed, kind| all.push(Contender { name: name.to_owned(), is_framed, kind });
    let collector = std::env::current_exe()?.with_file_name("tallylight-collector");
    if takes_udp(&collector) {
        add("Tallylight, plain", false, recycled(&collector));
        add("Tallylight, framed", true, recycled(&collector));
        let fresh = Kind::Collector { program: collector, is_recycled: false };
        add("Tallylight, plain, fresh segments", false, fresh);
    } else {
        eprintln!("left out: {} (make build)", collector.display());
    }
    for collector in beside {
        ensure!(takes_udp(collector), "{} is no collector with --udp", collector.display());
        add(&format!("{}, plain", collector.display()), false, recycled(collector));
        add(&format!("{}, framed", collector.display()), true, recycled(collector));
    }
    if shape == Shape::Single {
        match Peers::find(root)? {
            Some(peers) => {
                add("rsyslog, to a file", false, Kind::Rsyslog(peers.clone()));
                add("syslog-ng, to a file", false, Kind::SyslogNg(peers));
            }
            None => eprintln!("left out: rsyslog and syslog-ng (benches/install-peers.sh)"),
        }
    }
    add("bare loop, to a file", false, Kind::Bare { to_file: true, gathers: true });
    add("bare loop, thrown away", false, Kind::Bare { to_file: false, gathers: true });
    if shape == Shape::Single {
        add("bare loop, thrown away, without a pause", false, Kind::Bare { to_file: false, gathers: false });
    }
    Ok(all)
}

/// Whether this is a collector that knows `--udp`.
fn takes_udp(collector: &Path) -> bool {
    Command::new(collector)
        .arg("--help")
        .output()
        .is_ok_and(|help| String::from_utf8_lossy(&help.stdout).contains("--udp "))
}

impl Contender {
    /// How to start it with all its files in this folder.
    pub fn start(&self, folder: &Path) -> Result<Start> {
        let port = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port)).to_string();
        let out = folder.join("out");
        let lines = Output::Lines { path: out.clone(), counted: (0, 0) };
        let mut recycler = None;
        let (command, output) = match &self.kind {
            Kind::Collector { program, is_recycled } => {
                let admin = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
                let mut command = Command::new(program);
                command.args(["--http", "off", "--udp", &address, "--admin", &admin.to_string(), "--data"]).arg(folder);
                if *is_recycled {
                    recycler = Some(Recycler::start(folder)?);
                    command.args(["--segment-size", &spares::LEN.to_string()]);
                }
                (command, Output::Metric(admin))
            }
            Kind::Rsyslog(unpacked) => (peers::rsyslog(unpacked, folder, port, &out)?, lines),
            Kind::SyslogNg(unpacked) => (peers::syslog_ng(unpacked, folder, port, &out)?, lines),
            Kind::Bare { to_file, gathers } => {
                let count = folder.join("count");
                let mut command = Command::new(std::env::current_exe()?);
                command.args(["udp-receiver", "--listen", &address, "--count"]).arg(&count);
                if *gathers {
                    command.args(["--gather", GATHER]);
                }
                if *to_file {
                    command.arg("--out").arg(&out);
                }
                (command, if *to_file { lines } else { Output::Number(count) })
            }
        };
        let flush = matches!(self.kind, Kind::Rsyslog(_)).then_some(Signal::HUP);
        Ok(Start { command, port, output, flush, recycler })
    }
}

impl Output {
    /// How many datagrams have got there.
    pub fn count(&mut self) -> Result<u64> {
        match self {
            Self::Lines { path, counted } => {
                // a receiver may make its file with the first datagram
                if let Ok(mut file) = File::open(path) {
                    count_lines(&mut file, counted)?;
                }
                Ok(counted.1)
            }
            Self::Number(path) => {
                let bytes = std::fs::read(path)?;
                Ok(bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes)))
            }
            Self::Metric(admin) => metric(*admin),
        }
    }
}

/// Counts what has been added.
fn count_lines(file: &mut File, (at, lines): &mut (u64, u64)) -> Result<()> {
    use std::os::unix::fs::FileExt;
    let mut buffer = vec![0; 1 << 20];
    loop {
        let len = file.read_at(&mut buffer, *at)?;
        if len == 0 {
            return Ok(());
        }
        *at += len as u64;
        *lines += buffer[..len].iter().filter(|byte| **byte == b'\n').count() as u64;
    }
}

fn metric(admin: SocketAddr) -> Result<u64> {
    let mut connection = TcpStream::connect_timeout(&admin, Duration::from_secs(5))?;
    connection.set_read_timeout(Some(Duration::from_secs(5)))?;
    connection.write_all(b"GET /metrics HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    if !answer.starts_with("HTTP/1.1 200 ") {
        bail!("/metrics says {:?}", answer.lines().next());
    }
    let values = answer.lines().filter(|line| line.split([' ', '{']).next() == Some(LOGGED));
    let numbers = values.map(|line| line.rsplit(' ').next().unwrap_or_default().parse::<f64>());
    let sum: f64 = numbers.sum::<Result<f64, _>>().context(LOGGED)?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
    Ok(sum as u64)
}
