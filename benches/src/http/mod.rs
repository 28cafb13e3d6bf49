//! What a beacon over HTTP costs, beside nginx with a buffered access log: the leanest pixel logger that people run.
//!
//! Servers run one at a time, each as a process of its own on the first CPU; the load comes from this process, or for
//! HTTP/2 from h2load, on the second one, over loopback.

mod contender;
mod load;
mod report;
pub mod requests;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::compare::{alternate, quartiles};
use crate::peers::Peers;
use crate::{machine, process};
use contender::{Contender, Running};
use load::{Load, Pace, Window};
use requests::{Ask, Headers};

/// Requests before those that are measured.
const WARM_UP: Duration = Duration::from_millis(500);
/// Connections of an open loop, where it is not said.
const OPEN_CONNECTIONS: usize = 64;

/// What is asked how.
#[derive(clap::Args)]
pub struct Arguments {
    /// Seconds a window.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Requests a second of the open loop [default: half of what the slowest of those compared does in a closed loop].
    #[arg(long)]
    rate: Option<f64>,
    /// Connections of the closed loops.
    #[arg(long, value_delimiter = ',', default_value = "64,512")]
    connections: Vec<usize>,
    /// Connections of open loops at one rate. The collector takes 16,000 at a time unless it is told to take more.
    #[arg(long, value_delimiter = ',', default_value = "1,64,1024,4096,15000")]
    open_connections: Vec<usize>,
    /// Requests a second of those.
    #[arg(long, default_value_t = 10_000.0)]
    open_rate: f64,
    /// A header of each request, in place of those that Chrome sends (may be repeated): "name: value".
    #[arg(long, value_parser = header)]
    header: Vec<(String, String)>,
    /// Only workloads whose names contain this (may be repeated).
    #[arg(long)]
    only: Vec<String>,
    /// Another build of the collector, to be measured as well (may be repeated).
    #[arg(long)]
    beside: Vec<PathBuf>,
    /// Folder on the disk that logs are written to.
    #[arg(long, default_value = "target")]
    dir: PathBuf,
    /// Where the peers were unpacked.
    #[arg(long, default_value = ".test-env/peers/root")]
    peers: PathBuf,
    /// Writes every round to this file.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// What is asked of all that take part.
struct Workload {
    name: String,
    shape: Shape,
    contenders: Vec<Contender>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Shape {
    /// So many connections, each with a request under way.
    Closed { connections: usize },
    /// The same with a new connection for each request.
    Anew { connections: usize },
    /// So many requests a second, over connections in turn. No rate yet: half of what they can.
    Open { rate: Option<f64> },
    /// So many connections with so many streams each.
    Http2 { connections: usize, streams: usize },
    /// Half of so many connections as in a closed loop, and the other half over HTTP/2 at the same time, with so many streams each.
    Both { connections: usize, streams: usize },
}

/// What one window of one contender was like.
pub struct Measured {
    answered: u64,
    failed: u64,
    seconds: f64,
    cpu: f64,
    /// Microseconds: p50, p99, p99.9. h2load does not say.
    latency: Option<[f64; 3]>,
}

impl Measured {
    fn of(window: &Window, cpu: f64) -> Self {
        let latency = Some([0.5, 0.99, 0.999].map(|share| window.quantile(share)));
        Self { answered: window.answered, failed: window.failed, seconds: window.seconds, cpu, latency }
    }

    fn rate(&self) -> f64 {
        self.answered as f64 / self.seconds
    }

    /// CPU seconds for a million requests, or microseconds for one.
    fn cost(&self) -> f64 {
        self.cpu * 1e6 / self.answered as f64
    }
}

/// Measures and prints the comparison.
pub fn run(arguments: &Arguments, rounds: u32) -> Result<()> {
    process::pin(process::LOAD_CPU).context("two CPUs are needed")?;
    process::watch_signals()?;
    let first = process::First::take();
    if first.is_none() {
        eprintln!("runs as any other process does: only root may put it first");
    }
    process::raise_descriptors()?;
    std::fs::create_dir_all(&arguments.dir)?;
    let folder = tempfile::Builder::new().prefix("bench-http-").tempdir_in(&arguments.dir)?;
    let folder = folder.path().canonicalize()?;
    let peers = Peers::find(&arguments.peers)?.context("nginx and h2load (benches/install-peers.sh)")?;
    let headers = if arguments.header.is_empty() { requests::of_chrome() } else { arguments.header.clone() };
    let mut closed = HashMap::new();
    let mut tables = Vec::new();
    for workload in arguments.workloads(&peers)? {
        if !arguments.only.is_empty() && !arguments.only.iter().any(|part| workload.name.contains(part.as_str())) {
            continue;
        }
        let shape = match workload.shape {
            Shape::Open { rate: None } => {
                Shape::Open { rate: Some(arguments.rate.map_or_else(|| half(&workload, &closed), Ok)?) }
            }
            other => other,
        };
        let window = Duration::try_from_secs_f64(arguments.seconds)?;
        let runs = alternate(rounds, workload.contenders.len(), |round, n| {
            let contender = &workload.contenders[n];
            let measured = measure(contender, shape, &headers, window, &folder, &peers);
            let measured = measured.with_context(|| contender.name.clone())?;
            let (rate, cost) = (measured.rate(), measured.cost());
            eprintln!("{}: {} of {rounds}: {}: {rate:.0}/s, {cost:.2} us", workload.name, round + 1, contender.name);
            Ok(measured)
        })?;
        if workload.shape == (Shape::Closed { connections: OPEN_CONNECTIONS }) {
            let medians = runs.iter().filter_map(|own| quartiles(own.iter().map(Measured::rate)));
            let names = workload.contenders.iter().map(|contender| contender.name.clone());
            closed = names.zip(medians.map(|[_, median, _]| median)).collect();
        }
        tables.push(report::print(&workload.name, shape, &workload.contenders, &runs));
    }
    if let Some(path) = &arguments.json {
        std::fs::write(path, machine::report(&tables, rounds, arguments.seconds))
            .with_context(|| path.display().to_string())?;
    }
    Ok(())
}

/// A header, as it stands in a request.
fn header(text: &str) -> Result<(String, String)> {
    let (name, value) = text.split_once(':').context("name: value")?;
    Ok((name.into(), value.trim().into()))
}

/// Half of what the slowest of them did in a closed loop, over as many connections.
fn half(workload: &Workload, closed: &HashMap<String, f64>) -> Result<f64> {
    let rates = workload.contenders.iter().map(|contender| closed.get(&contender.name).copied());
    let slowest = rates.reduce(|slowest, rate| Some(slowest?.min(rate?))).flatten();
    Ok(slowest.context("--rate, or a closed loop before it")? / 2.0)
}

impl Arguments {
    fn workloads(&self, peers: &Peers) -> Result<Vec<Workload>> {
        let program = process::ours("tallylight-collector")?;
        let nginx = |ask| Contender::nginx(peers, ask);
        let collector = |name, ask, is_recycled| Contender::collector(name, ask, &program, is_recycled);
        let asked = |ask| {
            let others = self.beside.iter();
            let others = others.map(move |other| Contender::collector(&other.display().to_string(), ask, other, true));
            [nginx(ask), collector("Tallylight", ask, true)].into_iter().chain(others)
        };
        let pair = || asked(Ask::Get);
        let mut all = Vec::new();
        for connections in self.connections.iter().copied() {
            let mut contenders: Vec<Contender> = pair().collect();
            if connections == OPEN_CONNECTIONS {
                contenders.push(collector("Tallylight, fresh segments", Ask::Get, false));
                contenders.push(collector("Tallylight, nothing logged (HEAD)", Ask::Head, true));
                contenders.push(collector("Tallylight, POST, 204 after the log", Ask::Post, true));
                contenders.push(collector("Tallylight, POST, 204 after the disk", Ask::PostSynced, true));
            }
            all.push(Workload {
                name: format!("{connections} keep-alive"),
                shape: Shape::Closed { connections },
                contenders,
            });
        }
        let mut open: Vec<Contender> = pair().collect();
        open.push(collector("Tallylight, nothing logged (HEAD)", Ask::Head, true));
        // of other requests, half of the load is another rate
        let post = vec![collector("Tallylight, POST, 204 after the log", Ask::Post, true)];
        for (name, contenders) in [("half load, open loop", open), ("half load of POSTs, open loop", post)] {
            all.push(Workload { name: name.into(), shape: Shape::Open { rate: None }, contenders });
        }
        let over = |connections: &usize| pair().map(|contender| contender.over(*connections)).collect::<Vec<_>>();
        all.push(Workload {
            name: "more and more connections, open loop".into(),
            shape: Shape::Open { rate: Some(self.open_rate) },
            contenders: self.open_connections.iter().flat_map(over).collect(),
        });
        all.push(Workload {
            name: format!("{OPEN_CONNECTIONS} of a proxy, for the script as well"),
            shape: Shape::Closed { connections: OPEN_CONNECTIONS },
            contenders: asked(Ask::GetOrScript).collect(),
        });
        all.push(Workload {
            name: "acknowledgements of all kinds, open loop".into(),
            shape: Shape::Open { rate: Some(self.open_rate) },
            contenders: vec![
                collector("Tallylight, pixels", Ask::Get, true),
                collector("Tallylight, POST, 204 after the log", Ask::Post, true),
                collector("Tallylight, POST, 204 after the disk", Ask::PostSynced, true),
                collector("Tallylight, half pixels, a quarter each of those", Ask::AnyAck, true),
            ],
        });
        let anew = Shape::Anew { connections: OPEN_CONNECTIONS };
        all.push(Workload { name: "a new connection a request".into(), shape: anew, contenders: pair().collect() });
        for (connections, streams) in [(16, 16), (64, 1)] {
            let name = format!("HTTP/2, {connections} × {streams} streams");
            all.push(Workload { name, shape: Shape::Http2 { connections, streams }, contenders: pair().collect() });
        }
        let (connections, streams) = (OPEN_CONNECTIONS, 4);
        all.push(Workload {
            name: format!("{connections} keep-alive, half of them HTTP/2 × {streams} streams"),
            shape: Shape::Both { connections, streams },
            contenders: pair().collect(),
        });
        Ok(all)
    }
}

fn measure(
    contender: &Contender,
    shape: Shape,
    headers: &Headers,
    window: Duration,
    folder: &Path,
    peers: &Peers,
) -> Result<Measured> {
    let http1 = |running: &Running, connections, is_anew, pace| {
        let requests = requests::all(contender.ask, is_anew, headers);
        http1(running, &requests, connections, is_anew, pace, window)
    };
    let folder = tempfile::tempdir_in(folder)?;
    let running = contender.start(folder.path())?;
    let measured = match shape {
        Shape::Http2 { connections, streams } => http2(&running, headers, connections, streams, window, peers),
        Shape::Both { connections, streams } => {
            let requests = requests::all(contender.ask, false, headers);
            let mut load = Load::new(running.http1, &requests, connections / 2, false)?;
            load.run(Pace::Closed, WARM_UP)?;
            let before = running.process.cpu()?;
            let (own, other) = std::thread::scope(|scope| {
                let other = scope.spawn(|| http2(&running, headers, connections / 2, streams, window, peers));
                (load.run(Pace::Closed, window), other.join().expect("errors are returned"))
            });
            let cpu = running.process.cpu()? - before;
            let (own, other) = (Measured::of(&own?, cpu), other?);
            Ok(Measured { answered: own.answered + other.answered, failed: own.failed + other.failed, ..own })
        }
        Shape::Closed { connections } => http1(&running, connections, false, Pace::Closed),
        Shape::Anew { connections } => http1(&running, connections, true, Pace::Closed),
        Shape::Open { rate } => {
            let rate = rate.context("it was to be half of what they can")?;
            let connections = contender.connections.unwrap_or(OPEN_CONNECTIONS);
            http1(&running, connections, false, Pace::Open(rate))
        }
    }?;
    running.process.stop()?;
    Ok(measured)
}

fn http1(
    running: &Running,
    requests: &[Vec<u8>],
    connections: usize,
    is_anew: bool,
    pace: Pace,
    window: Duration,
) -> Result<Measured> {
    let mut load = Load::new(running.http1, requests, connections, is_anew)?;
    // each connection is made, and has had a request
    let all = match pace {
        Pace::Open(rate) => Duration::from_secs_f64(connections as f64 / rate),
        Pace::Closed => Duration::ZERO,
    };
    load.run(pace, WARM_UP + all)?;
    let before = running.process.cpu()?;
    let window = load.run(pace, window)?;
    let cpu = running.process.cpu()? - before;
    Ok(Measured::of(&window, cpu))
}

/// The same by h2load, which does it well.
fn http2(
    running: &Running,
    headers: &Headers,
    connections: usize,
    streams: usize,
    window: Duration,
    peers: &Peers,
) -> Result<Measured> {
    let mut command: Command = peers.command("h2load");
    command.args(["-c", &connections.to_string(), "-m", &streams.to_string(), "-t", "1", "-p", "h2c"]);
    command.args(["-D", &window.as_secs().max(1).to_string()]);
    for (name, value) in headers {
        command.args(["-H", &format!("{name}: {value}")]);
    }
    let mut beacons = crate::beacons::Beacons::new(3);
    for _ in 0..16 {
        command.arg(format!("http://{}/api/beacon?{}", running.http2, requests::query(&mut beacons)));
    }
    let before = running.process.cpu()?;
    let output = command.output().context("h2load")?;
    let cpu = running.process.cpu()? - before;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "h2load: {text}{}", String::from_utf8_lossy(&output.stderr));
    report::of_h2load(&text, cpu).with_context(|| text)
}
