//! What a request costs in numbers that no other process can change: instructions, allocations, system calls.
//!
//! The collector, as it is released, runs under callgrind and under strace, and takes so many requests, and then
//! more: the difference is theirs, what start and end cost is not in it. Requests come over one connection, one after another, so that
//! each is a wake-up of its own: more than it costs under load, and the same each time. Over HTTP/2, whose streams are there for that,
//! 16 come together. Counted is the worker; the log's writer looks for
//! work by the clock, and `bench-http` has what it costs.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use http::Request;
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

use crate::http::requests::{self, Ask};

/// Requests of the shorter and of the longer run.
const REQUESTS: [usize; 2] = [1_000, 5_000];
/// Instructions may be so many times what is recorded.
const TOLERANCE: f64 = 1.02;
/// Calls, which a request makes in whole numbers, may be so many more: where the log's writer is late, and under callgrind one thread
/// runs at a time, some requests find no emptied batch and make a new one.
const HALF_A_CALL: f64 = 0.5;
/// How long one run may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// What disturbs a count only ever adds to it: of so many the least one is it, and one is enough where it is low enough.
const TRIES: usize = 3;
/// What is counted as a request.
const ASKS: [(&str, How); 3] =
    [("pixel", How::Http1(Ask::Get)), ("post", How::Http1(Ask::Post)), ("http2-pixel", How::Http2)];
/// So many streams are opened at a time over HTTP/2.
const STREAMS: usize = 16;
const ALLOCATORS: [&str; 5] = ["malloc", "calloc", "realloc", "aligned_alloc", "posix_memalign"];

/// What is counted, and what is made of it.
#[derive(clap::Args)]
pub struct Arguments {
    /// The collector.
    #[arg(long, default_value = "target/release/tallylight-collector")]
    collector: PathBuf,
    /// Figures that were recorded: ends with an error if instructions have risen by more than 2 %, or calls by more than a half.
    #[arg(long)]
    check: Option<PathBuf>,
    /// Records the figures in this file.
    #[arg(long)]
    record: Option<PathBuf>,
}

/// How requests come.
#[derive(Clone, Copy)]
enum How {
    /// One after another.
    Http1(Ask),
    /// Pixels, so many together.
    Http2,
}

/// By what is asked.
type All = BTreeMap<String, Figures>;

/// Of one request.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Figures {
    /// User instructions of the worker.
    instructions: f64,
    allocations: f64,
    /// Calls of sockets and descriptors.
    system_calls: f64,
}

/// Counts, prints and compares.
pub fn run(arguments: &Arguments) -> Result<()> {
    ensure!(arguments.collector.exists(), "{} is not there (make build)", arguments.collector.display());
    let recorded = arguments.check.as_ref().map(|path| -> Result<All> {
        let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
        Ok(serde_json::from_slice(&bytes)?)
    });
    let recorded = recorded.transpose()?;
    let mut least = All::new();
    let mut risen = Vec::new();
    for _ in 0..TRIES {
        for (name, how) in ASKS {
            let now = Figures::count(&arguments.collector, how)?;
            let figures = least.entry(name.to_owned()).or_insert(now);
            *figures = figures.least(now);
            println!("{name}: {}", figures.text());
        }
        let Some(recorded) = &recorded else { break };
        risen = least.iter().flat_map(|(name, now)| risen_above(name, now, recorded.get(name))).collect();
        if risen.is_empty() {
            break;
        }
    }
    if let Some(path) = &arguments.record {
        std::fs::write(path, format!("{:#}\n", serde_json::to_value(&least)?))?;
    }
    ensure!(risen.is_empty(), "{}\nIf that is worth it, record it with make bench-counters.", risen.join("\n"));
    Ok(())
}

impl Figures {
    fn count(collector: &Path, how: How) -> Result<Self> {
        let (instructions, allocations) = by_callgrind(collector, how)?;
        Ok(Self { instructions, allocations, system_calls: by_strace(collector, how)? })
    }

    fn least(self, other: Self) -> Self {
        Self {
            instructions: self.instructions.min(other.instructions),
            allocations: self.allocations.min(other.allocations),
            system_calls: self.system_calls.min(other.system_calls),
        }
    }

    fn text(&self) -> String {
        let Self { instructions, allocations, system_calls } = self;
        format!(
            "{instructions:.0} instructions, {allocations:.2} allocations, {system_calls:.2} system calls a request"
        )
    }
}

/// What has risen above what was recorded.
fn risen_above(name: &str, now: &Figures, recorded: Option<&Figures>) -> Vec<String> {
    let Some(recorded) = recorded else { return vec![format!("{name}: nothing is recorded")] };
    let calls = |recorded| recorded + HALF_A_CALL;
    let figures = [
        ("instructions", now.instructions, recorded.instructions, recorded.instructions * TOLERANCE),
        ("allocations", now.allocations, recorded.allocations, calls(recorded.allocations)),
        ("system calls", now.system_calls, recorded.system_calls, calls(recorded.system_calls)),
    ];
    let above = figures.into_iter().filter(|(_, now, _, most)| now > most);
    above
        .map(|(what, now, recorded, _)| format!("{name}: {now:.2} {what} a request, recorded are {recorded:.2}"))
        .collect()
}

/// Instructions and allocations.
fn by_callgrind(collector: &Path, how: How) -> Result<(f64, f64)> {
    let mut runs = Vec::new();
    for requests in REQUESTS {
        let folder = tempfile::tempdir()?;
        let out = folder.path().join("threads");
        std::fs::create_dir(&out)?;
        let mut command = Command::new("valgrind");
        command.args(["--quiet", "--tool=callgrind", "--separate-threads=yes"]);
        command.arg(format!("--callgrind-out-file={}", out.join("out").display()));
        serve(command, collector, folder.path(), how, requests)?;
        runs.push(worker(&out)?);
    }
    let [(few, few_allocations), (many, many_allocations)] = runs[..] else { unreachable!("two runs") };
    Ok((a_request(few, many), a_request(few_allocations, many_allocations)))
}

/// Instructions and allocations of the thread that has done most: a file each, without names.
fn worker(threads: &Path) -> Result<(u64, u64)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(threads)? {
        let out = std::fs::read_to_string(entry?.path())?;
        if let Ok(total) = total(&out) {
            all.push((total, allocations(&out)));
        }
    }
    all.into_iter().max().context("callgrind counts nothing")
}

/// System calls of sockets and descriptors: what the writer and the clocks do by time is not among them.
fn by_strace(collector: &Path, how: How) -> Result<f64> {
    let mut runs = Vec::new();
    for requests in REQUESTS {
        let folder = tempfile::tempdir()?;
        let out = folder.path().join("strace.out");
        let mut command = Command::new("strace");
        command.args([
            "-f",
            "-qq",
            "-c",
            "--seccomp-bpf",
            "-e",
            "trace=%network,epoll_wait,epoll_pwait,epoll_ctl,read,write,writev,readv",
        ]);
        command.arg("-o").arg(&out);
        serve(command, collector, folder.path(), how, requests)?;
        // "% time  seconds  usecs/call  calls  errors  syscall", with a sum as the last line
        let out = std::fs::read_to_string(&out)?;
        let sum = out.lines().rev().find(|line| line.ends_with("total")).context("strace counts nothing")?;
        runs.push(sum.split_ascii_whitespace().nth(3).context("no sum")?.parse::<u64>()?);
    }
    Ok(a_request(runs[0], runs[1]))
}

#[expect(clippy::cast_precision_loss, reason = "counts of a few thousand million")]
fn a_request(few: u64, many: u64) -> f64 {
    (many as f64 - few as f64) / (REQUESTS[1] - REQUESTS[0]) as f64
}

/// Runs the collector under this command until it has answered so many requests.
fn serve(mut command: Command, collector: &Path, folder: &Path, how: How, requests: usize) -> Result<()> {
    let free = || -> Result<SocketAddr> { Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?) };
    let (http, admin) = (free()?, free()?);
    command.arg(collector).args(["--http", &http.to_string(), "--admin", &admin.to_string(), "--udp", "off"]);
    command.args(["--workers", "1", "--segment-size", "64MiB", "--reserve", "0", "--data"]).arg(folder.join("data"));
    let mut running = Running(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("make test-env")?);
    let end = Instant::now() + PATIENCE;
    let stream = loop {
        match TcpStream::connect(http) {
            Ok(stream) => break stream,
            Err(_) => running.wait_a_moment(end)?,
        }
    };
    stream.set_nodelay(true)?;
    match how {
        How::Http1(ask) => over_http1(stream, ask, requests)?,
        How::Http2 => over_http2(stream, http, requests)?,
    }
    running.stop(end)
}

fn over_http1(mut stream: TcpStream, ask: Ask, requests: usize) -> Result<()> {
    for request in requests::all(ask, false, &requests::of_chrome()).iter().cycle().take(requests) {
        stream.write_all(request)?;
        answer(&mut stream)?;
    }
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn over_http2(stream: TcpStream, collector: SocketAddr, requests: usize) -> Result<()> {
    stream.set_nonblocking(true)?;
    let (mut client, connection) = h2::client::handshake(tokio::net::TcpStream::from_std(stream)?).await?;
    let connection = tokio::spawn(connection);
    let pixels = requests::pixels_of_http2(&collector.to_string(), &requests::of_chrome())?;
    let pixels: Vec<&Request<()>> = pixels.iter().cycle().take(requests).collect();
    for together in pixels.chunks(STREAMS) {
        client = client.ready().await?;
        // they are written when this thread has nothing else to do
        let ask = |pixel: &&Request<()>| client.send_request((*pixel).clone(), true);
        let answers = together.iter().map(ask).collect::<Result<Vec<_>, _>>()?;
        for (answer, _) in answers {
            let answer = answer.await?;
            ensure!([200, 503].contains(&answer.status().as_u16()), "{answer:?}");
            let mut body = answer.into_body();
            while let Some(bytes) = body.data().await {
                body.flow_control().release_capacity(bytes?.len())?;
            }
        }
    }
    drop(client);
    Ok(connection.await??)
}

/// Reads an answer, whose length says its head.
fn answer(stream: &mut TcpStream) -> Result<()> {
    let mut bytes = [0; 2048];
    let mut len = 0;
    loop {
        len += match stream.read(&mut bytes[len..])? {
            0 => bail!("the connection ended"),
            read => read,
        };
        let text = String::from_utf8_lossy(&bytes[..len]);
        let Some((head, _)) = text.split_once("\r\n\r\n") else { continue };
        // where each call is traced, the log's writer may be late, and that costs the same calls
        ensure!(["HTTP/1.1 20", "HTTP/1.1 503"].iter().any(|status| head.starts_with(status)), "{head}");
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap_or("0");
        if len >= head.len() + 4 + length.parse::<usize>()? {
            return Ok(());
        }
    }
}

/// The program under its tool, which does not outlive this value.
struct Running(Child);

impl Running {
    fn wait_a_moment(&mut self, end: Instant) -> Result<()> {
        if let Some(status) = self.0.try_wait()? {
            bail!("ended at start: {status}");
        }
        ensure!(Instant::now() < end, "it takes too long");
        std::thread::sleep(Duration::from_millis(10));
        Ok(())
    }

    /// Ends the collector in order, so that its tool says what it has counted.
    fn stop(mut self, end: Instant) -> Result<()> {
        // valgrind is the collector's own process, strace has it for a child
        let id = self.0.id();
        let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children"))?;
        let pid = children.split_ascii_whitespace().next().map_or(Ok(id), str::parse)?;
        let pid = Pid::from_raw(i32::try_from(pid)?).context("a process has a number")?;
        kill_process(pid, Signal::TERM)?;
        while self.0.try_wait()?.is_none() {
            ensure!(Instant::now() < end, "it does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The instructions of a thread, of callgrind's file.
fn total(out: &str) -> Result<u64> {
    let line = out.lines().find_map(|line| line.strip_prefix("summary: ").or(line.strip_prefix("totals: ")));
    Ok(line.context("callgrind counts nothing")?.trim().parse()?)
}

/// Calls of the allocator, of the same. A name stands there once, and is a number from then on.
fn allocations(out: &str) -> u64 {
    let (mut numbers, mut is_allocator, mut sum) = (std::collections::BTreeSet::new(), false, 0);
    for line in out.lines() {
        let (is_callee, named) = match (line.strip_prefix("cfn="), line.strip_prefix("fn=")) {
            (Some(named), _) => (true, named),
            (_, Some(named)) => (false, named),
            _ => {
                if let Some(calls) = line.strip_prefix("calls=").filter(|_| is_allocator) {
                    sum += calls.split(' ').next().and_then(|count| count.parse::<u64>().ok()).unwrap_or(0);
                }
                continue;
            }
        };
        let (number, name) = named.split_once(' ').unwrap_or((named, ""));
        if ALLOCATORS.contains(&name) {
            numbers.insert(number);
        }
        if is_callee {
            is_allocator = numbers.contains(number);
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_of_the_allocator_are_added_up_whoever_makes_them() {
        let out = "fn=(1) main\n16 3\ncfn=(2) malloc\ncalls=3 0\n16 90\ncfn=(3) free\ncalls=9 0\n16 9\nfn=(2)\n17 5\n\
            fn=(4) other\ncfn=(2)\ncalls=4 0\n16 8\nsummary: 123\n";
        assert_eq!((allocations(out), total(out).unwrap()), (7, 123));
    }

    #[test]
    fn what_rises_by_more_than_it_may_is_told() {
        let recorded = Figures { instructions: 100.0, allocations: 2.0, system_calls: 3.0 };
        let told = |now| risen_above("pixel", &now, Some(&recorded)).len();
        assert_eq!(told(recorded), 0);
        assert_eq!(told(Figures { instructions: 101.9, allocations: 2.4, system_calls: 3.4 }), 0);
        assert_eq!(told(Figures { instructions: 102.1, allocations: 2.6, system_calls: 3.6 }), 3);
        assert_eq!(risen_above("post", &recorded, None).len(), 1);
    }
}
