//! The collector under attack, and what its log says afterwards.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tallylight_proto::record::{self, Record};
use tallylight_proto::segment::{Found, Framing, HEADER_LEN, HeaderPage, Mark, Scanner};

use super::honest::SITE;
use crate::process::{self, Process};

/// How long it may take to start.
const START_LIMIT: Duration = Duration::from_secs(20);

/// A collector that runs.
pub struct Target {
    pub http: SocketAddr,
    admin: SocketAddr,
    process: Process,
    /// The largest resident memory that was seen, in bytes.
    most_memory: f64,
}

impl Target {
    pub fn start(data: &Path, flags: &[&str]) -> Result<Self> {
        std::fs::create_dir_all(data)?;
        let free = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr();
        let (http, admin) = (free()?, free()?);
        let program = process::ours("tallylight-collector")?;
        let mut command = Command::new(program);
        command.args(["--http", &http.to_string(), "--udp", "off", "--admin", &admin.to_string(), "--data"]);
        command.arg(data).args(flags);
        let process = Process::start(&command, &data.join("output"))?;
        let end = Instant::now() + START_LIMIT;
        while !ask(admin, "/readyz").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200 ")) {
            process::check()?;
            if Instant::now() > end {
                bail!("did not start: {}", std::fs::read_to_string(data.join("output"))?);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(Self { http, admin, process, most_memory: 0.0 })
    }

    /// Looks how much memory it has.
    pub fn look(&mut self) {
        let metric = |page: String| {
            let line = page.lines().find_map(|line| line.strip_prefix("process_resident_memory_bytes "))?;
            line.trim().parse::<f64>().ok()
        };
        let now = ask(self.admin, "/metrics").ok().and_then(metric).unwrap_or_default();
        self.most_memory = self.most_memory.max(now);
    }

    pub fn most_memory(&self) -> f64 {
        self.most_memory
    }

    /// Ends it, which seals the log.
    pub fn stop(self) -> Result<()> {
        self.process.stop()
    }
}

fn ask(admin: SocketAddr, path: &str) -> Result<String> {
    let mut connection = TcpStream::connect_timeout(&admin, Duration::from_secs(5))?;
    connection.set_read_timeout(Some(Duration::from_secs(5)))?;
    connection.write_all(format!("GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    Ok(answer)
}

/// How many events of honest clients stand in a log that was sealed.
pub fn honest_events(data: &Path) -> Result<u64> {
    let mut events = 0;
    for entry in std::fs::read_dir(data.join("log"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "seg") {
            events += honest_events_of(&path).with_context(|| path.display().to_string())?;
        }
    }
    Ok(events)
}

fn honest_events_of(path: &Path) -> Result<u64> {
    let file = File::open(path)?;
    let mut page = [0; HEADER_LEN];
    file.read_exact_at(&mut page, 0)?;
    let page = HeaderPage::decode(&page)?;
    let end = page.sealed.context("it was not sealed")?.length;
    let begin = Mark { length: HEADER_LEN as u64, ordinal: page.header.first_ordinal };
    let mut scanner = Scanner::new(Framing::new(page.header.salt, page.header.base), begin, end, None);
    let mut events = 0;
    while let Some(found) = scanner.next(|offset, buffer| file.read_at(buffer, offset))? {
        let Found::Record(framed) = found else { bail!("it has a hole") };
        if let Record::Event(event) = record::decode(framed.payload)? {
            events += u64::from(event.site == SITE);
        }
    }
    Ok(events)
}
