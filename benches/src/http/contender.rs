//! Who serves: how each is started.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use super::requests::Ask;
use crate::peers::{Peers, fill};
use crate::process::{self, Process};
use crate::spares;

/// How long one may take to start.
const START_LIMIT: Duration = Duration::from_secs(20);

/// A server, and what it is asked. The first one of a comparison is what the others are compared with.
#[derive(Clone)]
pub struct Contender {
    pub name: String,
    pub ask: Ask,
    /// Of an open loop.
    pub connections: Option<usize>,
    server: Server,
}

#[derive(Clone)]
enum Server {
    Nginx(Peers),
    Collector {
        program: PathBuf,
        /// Whether its segments were used before, as they are wherever a compactor runs.
        is_recycled: bool,
    },
}

/// A server that runs.
pub struct Running {
    pub http1: SocketAddr,
    pub http2: SocketAddr,
    pub process: Process,
}

impl Contender {
    pub fn nginx(peers: &Peers, ask: Ask) -> Self {
        Self::new("nginx, access_log buffer=64k", ask, Server::Nginx(peers.clone()))
    }

    pub fn collector(name: &str, ask: Ask, program: &Path, is_recycled: bool) -> Self {
        Self::new(name, ask, Server::Collector { program: program.to_owned(), is_recycled })
    }

    fn new(name: &str, ask: Ask, server: Server) -> Self {
        Self { name: name.into(), ask, connections: None, server }
    }

    /// The same, asked over so many connections.
    pub fn over(self, connections: usize) -> Self {
        Self { name: format!("{}, {connections}", self.name), connections: Some(connections), ..self }
    }

    /// Starts it with all its files in this folder.
    pub fn start(&self, folder: &Path) -> Result<Running> {
        let free = || -> Result<SocketAddr> { Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?) };
        let http1 = free()?;
        let mut http2 = http1;
        let command = match &self.server {
            Server::Nginx(peers) => {
                http2 = free()?;
                // as long as ours
                let script = "x".repeat(1024);
                let holes = [
                    ("SCRIPT", script),
                    ("PORT", http1.port().to_string()),
                    ("HTTP2_PORT", http2.port().to_string()),
                    ("OUT", folder.join("access.log").display().to_string()),
                ];
                let config = fill(include_str!("nginx.conf"), folder, &holes)?;
                let mut command = peers.command("nginx");
                command.arg("-c").arg(config).arg("-p").arg(folder).arg("-e").arg(folder.join("error.log"));
                command
            }
            Server::Collector { program, is_recycled } => {
                ensure!(program.exists(), "{} is not there (make build)", program.display());
                let mut command = Command::new(program);
                command.args(["--http", &http1.to_string(), "--udp", "off", "--workers", "1", "--data"]).arg(folder);
                command.args(["--admin", &free()?.to_string()]);
                if *is_recycled {
                    spares::make(folder)?;
                    command.args(["--segment-size", &spares::LEN.to_string()]);
                }
                command
            }
        };
        let process = Process::start(&command, &folder.join("output"))?;
        let end = Instant::now() + START_LIMIT;
        while !is_serving(http1) {
            process::check()?;
            if Instant::now() > end {
                bail!("did not start: {}", std::fs::read_to_string(folder.join("output"))?);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(Running { http1, http2, process })
    }
}

fn is_serving(to: SocketAddr) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut connection = TcpStream::connect(to)?;
        connection.set_read_timeout(Some(Duration::from_secs(1)))?;
        connection.write_all(b"HEAD /api/beacon HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
        let mut answer = Vec::new();
        connection.read_to_end(&mut answer)?;
        Ok(answer.starts_with(b"HTTP/1.1 200 "))
    };
    ask().unwrap_or(false)
}
