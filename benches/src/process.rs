//! A receiver's process. The rule kept here: it runs on the first CPU, and it does not outlive this one, however
//! this one ends.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setpriority_process, setrlimit};
use rustix::thread::{CpuSet, sched_setaffinity};
use tokio::signal::unix::{SignalKind, signal};

/// The CPU of the receivers.
pub const RECEIVER_CPU: usize = 0;
/// The CPU of the load.
pub const LOAD_CPU: usize = 1;
const AUTOGROUP: &str = "/proc/self/autogroup";
/// How long a receiver may take to stop, before it is killed.
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// A program of ours, where this one was built.
pub fn ours(name: &str) -> Result<PathBuf> {
    let program = std::env::current_exe()?.with_file_name(name);
    ensure!(program.exists(), "{} is not there (make build)", program.display());
    Ok(program)
}

/// Lets this process, and what it starts, have as many descriptors as they may.
pub fn raise_descriptors() -> Result<()> {
    let limits = getrlimit(Resource::Nofile);
    let wanted = limits.maximum.map_or(200_000, |most| most.max(200_000));
    let raised = Rlimit { current: Some(wanted), maximum: Some(wanted) };
    // only root may have more than it was given
    if setrlimit(Resource::Nofile, raised).is_err() {
        setrlimit(Resource::Nofile, Rlimit { current: limits.maximum, maximum: limits.maximum })?;
    }
    Ok(())
}

/// Keeps this thread, and what it starts from now on, on one CPU.
pub fn pin(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    Ok(sched_setaffinity(None, &set)?)
}

static IS_INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// From now on Ctrl-C and SIGTERM make [`check`] fail, so that all is put back and removed as at any other end.
pub fn watch_signals() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let (mut interrupt, mut terminate) = {
        let _guard = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    // ends with the process
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
        });
        IS_INTERRUPTED.store(true, Ordering::Relaxed);
    });
    Ok(())
}

/// Whether to go on.
pub fn check() -> Result<()> {
    ensure!(!IS_INTERRUPTED.load(Ordering::Relaxed), "interrupted");
    Ok(())
}

/// Puts this process, and what it starts, before others, as long as this value lives.
pub struct First {
    /// What the niceness of this session was.
    session: String,
}

impl First {
    /// None, if it may not: only root may.
    pub fn take() -> Option<Self> {
        setpriority_process(None, -20).ok()?;
        // where the kernel shares the CPU among sessions (sched(7), autogroup), niceness counts only within one
        let group = std::fs::read_to_string(AUTOGROUP).unwrap_or_default();
        let session = group.rsplit(' ').next().unwrap_or_default().trim().to_owned();
        // not there, it is not needed
        let _ = std::fs::write(AUTOGROUP, "-20");
        Some(Self { session })
    }
}

impl Drop for First {
    fn drop(&mut self) {
        let _ = std::fs::write(AUTOGROUP, &self.session);
    }
}

/// Lets this thread run whenever it wants to, before all that shares its CPU (`sched(7)`, SCHED_FIFO), as long as this value lives.
/// What it starts meanwhile does not.
pub struct Whenever;

impl Whenever {
    /// None, if it may not: only root may.
    pub fn take() -> Option<Self> {
        Self::schedule(&["--reset-on-fork", "--fifo", "--pid", "1"]).then_some(Self)
    }

    /// chrt is of util-linux, as setpriv is.
    fn schedule(how: &[&str]) -> bool {
        let thread = rustix::thread::gettid().as_raw_nonzero().to_string();
        let run = Command::new("chrt").args(how).arg(thread).stdout(Stdio::null()).stderr(Stdio::null()).status();
        run.is_ok_and(|status| status.success())
    }
}

impl Drop for Whenever {
    fn drop(&mut self) {
        Self::schedule(&["--other", "--pid", "0"]);
    }
}

/// A receiver that runs.
pub struct Process {
    child: Child,
    pid: Pid,
}

impl Process {
    /// Starts it on its CPU. What it prints goes to a file.
    pub fn start(command: &Command, output: &Path) -> Result<Self> {
        let output = File::create(output)?;
        // setpriv becomes the program, which the kernel then kills with this process
        let mut started = Command::new("setpriv");
        started.args(["--pdeathsig", "KILL"]).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            started.env(name, value.unwrap_or_default());
        }
        started.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        pin(RECEIVER_CPU)?;
        let child = started.spawn();
        pin(LOAD_CPU)?;
        let child = child.context("setpriv, of util-linux")?;
        let pid = Pid::from_child(&child);
        Ok(Self { child, pid })
    }

    /// Waits until it has bound this UDP port.
    pub fn wait_for_port(&mut self, port: u16) -> Result<()> {
        let (local, end) = (format!("0100007F:{port:04X}"), Instant::now() + Duration::from_secs(20));
        while !std::fs::read_to_string("/proc/net/udp")?.contains(&local) {
            check()?;
            if let Some(status) = self.child.try_wait()? {
                bail!("ended at start: {status}");
            }
            if Instant::now() > end {
                bail!("did not bind its port");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Seconds of CPU that all its threads have used, also those that ended.
    pub fn cpu(&self) -> Result<f64> {
        cpu_of(self.pid)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(self.pid, signal)?)
    }

    /// Ends it, as an operator would.
    pub fn stop(mut self) -> Result<()> {
        self.signal(Signal::TERM)?;
        let end = Instant::now() + STOP_LIMIT;
        while self.child.try_wait()?.is_none() {
            if Instant::now() > end {
                bail!("did not stop");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

/// Seconds of CPU that all threads of a process have used, also those that ended; it may have ended itself.
pub fn cpu_of(pid: Pid) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()))?;
    // the name, in parentheses, may have spaces in it; utime and stime are the 14th and 15th field
    let (_, fields) = stat.rsplit_once(')').context("stat without a name")?;
    let ticks: f64 = fields.split_ascii_whitespace().skip(11).take(2).map_while(|f| f.parse::<f64>().ok()).sum();
    Ok(ticks / rustix::param::clock_ticks_per_second() as f64)
}

impl Drop for Process {
    fn drop(&mut self) {
        // does nothing to a child that was waited for
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
