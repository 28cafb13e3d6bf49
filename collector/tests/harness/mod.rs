//! Real processes for end-to-end tests: a collector, a compactor, and what their admin ports say.
//!
//! The rule kept here: nothing outlives its test. A process is killed when its value is dropped, ports are
//! free ones of the loopback interface, and whatever is waited for has a deadline. A process that fails to
//! start shows its stderr.
//!
//! Both crates' tests share this file; the binary of the crate under test is the one that cargo built for the
//! test, the other one is built when it is first asked for.

// each test binary uses another part
#![allow(dead_code, unused_imports)]

pub mod browser;
mod chance;
pub mod datagrams;
pub mod disk;
mod http;
mod pace;
pub mod site;
mod sources;
mod systemd;

use std::collections::HashSet;
use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

pub use chance::Chance;
pub use http::{Metrics, Reply, request, try_request, whole};
pub use pace::{Over, OverWhenDropped, Pace};
pub use sources::{Forgotten, SourceReport, Sources};
pub use systemd::{Sockets, Stopped, Systemd};

/// Time for anything that should be quick, on a machine that is busy with other tests.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// What a collector and a compactor have in common stands at [`Process`].
macro_rules! deref_to_process {
    ($($name:ident),*) => {$(
        impl std::ops::Deref for $name {
            type Target = Process;

            fn deref(&self) -> &Process {
                &self.process
            }
        }

        impl std::ops::DerefMut for $name {
            fn deref_mut(&mut self) -> &mut Process {
                &mut self.process
            }
        }
    )*};
}

/// A running collector. Dropping it kills it.
pub struct Collector {
    /// Where it takes beacons.
    pub http: SocketAddr,
    /// Where it takes datagrams.
    pub udp: SocketAddr,
    /// Its `--data`.
    pub data: PathBuf,
    flags: Vec<String>,
    environment: Environment,
    /// Handed over to each of its lives.
    sockets: Option<Arc<Sockets>>,
    process: Process,
}

/// Variables that a program gets beside those of whoever runs the tests.
pub type Environment = Vec<(&'static str, OsString)>;

impl Collector {
    /// Starts one on free ports and waits until it is ready. `flags` come after `--data`, `--http`, `--udp` and
    /// `--admin`.
    pub fn start(data: &Path, flags: &[&str]) -> Self {
        Self::start_at(free_addr(), data, flags)
    }

    /// Starts one that takes beacons where it does by default, which is at `http`.
    pub fn start_at_default(http: SocketAddr, data: &Path, flags: &[&str]) -> Self {
        Self::start_with(&[], http, data, flags)
    }

    /// Starts one that takes beacons at a given address.
    pub fn start_at(http: SocketAddr, data: &Path, flags: &[&str]) -> Self {
        Self::start_with(&["--http", &http.to_string()], http, data, flags)
    }

    /// Starts one at a given address that wants more room than any disk has, and so sheds all that comes.
    pub fn start_without_room_at(http: SocketAddr, data: &Path) -> Self {
        let (udp, admin) = (free_addr(), free_addr());
        let own = ["--http", &http.to_string(), "--udp", &udp.to_string(), "--reserve", "100TiB"];
        let flags = own.map(str::to_owned).to_vec();
        let mut process = Self::spawn(admin, data, &flags, &Environment::new(), None);
        process.wait_ready_or_not();
        Self { http, udp, data: data.to_owned(), flags, environment: Environment::new(), sockets: None, process }
    }

    /// Starts one on free ports, with variables that it also has when it is started again. Waits for nothing.
    pub fn spawn_under(environment: Environment, data: &Path, flags: &[&str]) -> Self {
        let [http, udp, admin] = [(); 3].map(|()| free_addr());
        let own = ["--http", &http.to_string(), "--udp", &udp.to_string()].map(str::to_owned);
        let flags: Vec<String> = own.into_iter().chain(flags.iter().map(ToString::to_string)).collect();
        let process = Self::spawn(admin, data, &flags, &environment, None);
        Self { http, udp, data: data.to_owned(), flags, environment, sockets: None, process }
    }

    /// Starts one on free ports, with its stderr where the caller says.
    pub fn start_with_stderr(data: &Path, stderr: Stdio) -> Self {
        let [http, udp, admin] = [(); 3].map(|()| free_addr());
        let flags = ["--http", &http.to_string(), "--udp", &udp.to_string()].map(str::to_owned).to_vec();
        let process = Process::spawn_with_stderr("collector", Self::command(admin, data, &flags), admin, stderr);
        let environment = Environment::new();
        let mut collector = Self { http, udp, data: data.to_owned(), flags, environment, sockets: None, process };
        collector.wait_ready();
        collector
    }

    /// Starts one on sockets that it is handed, and that stay when it goes.
    pub fn start_on(sockets: Sockets, environment: Environment, data: &Path, flags: &[&str]) -> Self {
        let [http, udp, admin] = sockets.addrs();
        let flags: Vec<String> = flags.iter().map(ToString::to_string).collect();
        let process = Self::spawn(admin, data, &flags, &environment, Some(&sockets));
        let sockets = Some(Arc::new(sockets));
        let mut collector = Self { http, udp, data: data.to_owned(), flags, environment, sockets, process };
        collector.wait_ready();
        collector
    }

    fn start_with(http_flag: &[&str], http: SocketAddr, data: &Path, flags: &[&str]) -> Self {
        let udp = free_addr();
        let own = http_flag.iter().map(ToString::to_string).chain(["--udp".to_owned(), udp.to_string()]);
        let flags: Vec<String> = own.chain(flags.iter().map(ToString::to_string)).collect();
        let environment = Environment::new();
        let process = Self::spawn(free_addr(), data, &flags, &environment, None);
        let mut collector = Self { http, udp, data: data.to_owned(), flags, environment, sockets: None, process };
        collector.wait_ready();
        collector
    }

    /// Starts it again where it was, after it ended.
    pub fn start_again(&mut self) {
        self.spawn_again();
        self.wait_ready();
    }

    /// The same, waiting for nothing.
    pub fn spawn_again(&mut self) {
        assert!(self.ended().is_some(), "the collector is still running");
        self.process = Self::spawn(self.admin, &self.data, &self.flags, &self.environment, self.sockets.as_deref());
    }

    fn spawn(
        admin: SocketAddr,
        data: &Path,
        flags: &[String],
        environment: &Environment,
        sockets: Option<&Sockets>,
    ) -> Process {
        let mut command = Self::command(admin, data, flags);
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        match sockets {
            Some(sockets) => Process::spawn_on(sockets, "collector", &command, admin),
            None => Process::spawn("collector", command, admin),
        }
    }

    fn command(admin: SocketAddr, data: &Path, flags: &[String]) -> Command {
        let mut command = Command::new(collector_binary());
        command.arg("--data").arg(data).args(["--admin", &admin.to_string()]).args(flags);
        command
    }

    /// What is known of the sources of framed datagrams now.
    pub fn sources(&self) -> Sources {
        Sources::of(self.admin)
    }

    /// A request on a connection of its own.
    pub fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        request(self.http, method, path, headers, body)
    }
}

/// A running `tallylight-compactor --follow`, and runs of its other modes. Dropping it kills it.
pub struct Compactor {
    process: Process,
}

impl Compactor {
    /// Starts one that follows a log, and waits until it is ready.
    pub fn follow(data: &Path, out: &Path, flags: &[&str]) -> Self {
        let mut compactor = Self::spawn_follow(&Environment::new(), data, out, flags);
        compactor.wait_ready();
        compactor
    }

    /// The same, with these variables and waiting for nothing.
    pub fn spawn_follow(environment: &Environment, data: &Path, out: &Path, flags: &[&str]) -> Self {
        let admin = free_addr();
        let mut command = Command::new(compactor_binary());
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        command.arg("--follow").arg("--data").arg(data).arg("--out").arg(out);
        command.args(["--admin", &admin.to_string()]).args(flags);
        Self { process: Process::spawn("compactor", command, admin) }
    }

    /// Starts one that follows a log, on an admin port that it is handed.
    pub fn follow_on(sockets: &Sockets, environment: &Environment, data: &Path, flags: &[&str]) -> Self {
        let mut command = Command::new(compactor_binary());
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        command.arg("--follow").arg("--data").arg(data).args(flags);
        let [.., admin] = sockets.addrs();
        let mut compactor = Self { process: Process::spawn_on(sockets, "compactor", &command, admin) };
        compactor.wait_ready();
        compactor
    }

    /// Compacts what there is and waits for the end. Look at the status yourself.
    pub fn once(data: &Path, out: &Path, flags: &[&str]) -> Output {
        Self::once_under(&Environment::new(), data, out, flags)
    }

    /// The same, with these variables.
    pub fn once_under(environment: &Environment, data: &Path, out: &Path, flags: &[&str]) -> Output {
        let mut command = Command::new(compactor_binary());
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        command.arg("--once").arg("--data").arg(data).arg("--out").arg(out).args(flags);
        output(command)
    }

    /// Starts one with any arguments and waits for nothing. It has no admin port that a test knows of.
    pub fn spawn<A: AsRef<OsStr>>(arguments: &[A]) -> Self {
        let mut command = Command::new(compactor_binary());
        command.args(arguments);
        Self { process: Process::spawn("compactor", command, free_addr()) }
    }

    /// Runs it with any arguments and waits for the end.
    pub fn run<A: AsRef<OsStr>>(arguments: &[A]) -> Output {
        let mut command = Command::new(compactor_binary());
        command.args(arguments);
        output(command)
    }
}

deref_to_process!(Collector, Compactor);

/// All events of a log, in log order, as `tallylight-compactor inspect` prints them.
pub fn inspect(data: &Path) -> Vec<Value> {
    let output = Compactor::run(&[OsStr::new("inspect"), OsStr::new("--data"), data.as_os_str()]);
    assert!(output.status.success(), "inspect: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("inspect prints UTF-8");
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

/// The events of a log, each id once. A click that led to a page of the same site may be in it twice: the page that sent it
/// was gone before the answer came, so the next one sent it once more.
pub fn inspect_once_each(data: &Path) -> Vec<Value> {
    let mut events = inspect(data);
    let mut ids = HashSet::new();
    events.retain(|event| ids.insert(event["id"].to_string()));
    events
}

/// The ledger of one life, at rest: every event that reached the door was logged, shed or refused.
pub fn assert_ledger_adds_up(collector: &Collector) {
    assert_adds_up(
        || collector.metrics(),
        "tallylight_events_received_total",
        &["tallylight_events_logged_total", "tallylight_events_shed_total", "tallylight_events_refused_total"],
    );
    assert_adds_up(|| collector.metrics(), "tallylight_events_received_total", &["tallylight_event_outcomes_total"]);
}

/// The ledger of one life adds up, at rest, and so does what is known of each source of datagrams: nothing is missing
/// any longer that is not lost. Gives that back.
pub fn assert_datagrams_add_up(collector: &Collector) -> Sources {
    assert_ledger_adds_up(collector);
    sources::settled(collector.admin)
}

/// The compactor's ledger of one life, at rest: every event read was counted, a duplicate, or a bot's.
pub fn assert_compactor_ledger_adds_up(compactor: &Process) {
    assert_adds_up(
        || compactor.metrics(),
        "tallylight_compactor_events_read_total",
        &[
            "tallylight_compactor_events_counted_total",
            "tallylight_compactor_duplicate_events_total",
            "tallylight_compactor_bot_events_total",
        ],
    );
}

/// What all lives left on disk adds up, from the door to the rows. Both programs may be running.
pub fn assert_audit(data: &Path, out: &Path) -> Value {
    let audit = |flags: &[&str]| {
        let folders = [OsStr::new("--data"), data.as_os_str(), OsStr::new("--out"), out.as_os_str()];
        let arguments: Vec<&OsStr> = [OsStr::new("audit")].into_iter().chain(folders).collect();
        Compactor::run(&[arguments, flags.iter().map(OsStr::new).collect()].concat())
    };
    let output = audit(&["--json"]);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        panic!("audit: {}\n{}{stderr}", output.status, String::from_utf8_lossy(&audit(&[]).stdout));
    }
    let report: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert_eq!(report["adds_up"], true, "{stderr}");
    report
}

fn assert_adds_up(metrics: impl Fn() -> Metrics, whole: &str, parts: &[&str]) {
    // what is still between door and log comes to rest within moments
    let deadline = Instant::now() + PATIENCE;
    loop {
        let now = metrics();
        let (left, right) = (now.sum(whole), parts.iter().map(|part| now.sum(part)).sum::<f64>());
        if left == right {
            return;
        }
        assert!(Instant::now() < deadline, "{whole} {left} is not the sum {right} of {parts:?}");
        pause();
    }
}

/// An address of the loopback interface that was free a moment ago, and that no other test here was given.
///
/// Its port is below those that Linux gives to outgoing connections: it stays free while what listens there is
/// restarted, and a client that tries meanwhile cannot connect to itself.
pub fn free_addr() -> SocketAddr {
    static NEXT: Mutex<Option<u16>> = Mutex::new(None);
    const PORTS: std::ops::Range<u16> = 12_000..32_000;
    let mut next = NEXT.lock().expect("no test panics while it holds this");
    // test binaries that run side by side begin at different places
    let pid = u16::try_from(std::process::id() % 400).expect("less than 400");
    let mut port = next.unwrap_or(PORTS.start + pid * 50);
    for _ in PORTS {
        let addr = SocketAddr::from(([127, 0, 0, 1], port));
        port = if port + 1 < PORTS.end { port + 1 } else { PORTS.start };
        if TcpListener::bind(addr).is_ok() && UdpSocket::bind(addr).is_ok() {
            *next = Some(port);
            return addr;
        }
    }
    panic!("no free loopback port in {PORTS:?}");
}

/// Asks again and again until there is an answer. Panics, saying what was waited for, when patience ends.
pub fn wait_for<T>(what: &str, ask: impl FnMut() -> Option<T>) -> T {
    wait_for_within(PATIENCE, what, ask)
}

/// As [`wait_for`], for what is promised sooner or takes longer.
pub fn wait_for_within<T>(patience: Duration, what: &str, ask: impl FnMut() -> Option<T>) -> T {
    within(patience, ask).unwrap_or_else(|| panic!("waited {patience:?} in vain for {what}"))
}

/// As [`wait_for_within`], for what may not come: nothing, if patience ends.
pub fn within<T>(patience: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if Instant::now() >= deadline {
            return None;
        }
        pause();
    }
}

/// Between two looks at a state that is waited for.
fn pause() {
    thread::sleep(Duration::from_millis(10));
}

/// The folder of the workspace.
pub fn workspace() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().expect("a crate lies in the workspace").to_owned()
}

/// A file of the test environment that `make test-env` makes. Tests that need it fail without it.
pub fn test_env(file: &str) -> PathBuf {
    let folder = env::var_os("TALLYLIGHT_TEST_ENV").map_or_else(|| workspace().join(".test-env"), PathBuf::from);
    let path = folder.join(file);
    assert!(path.exists(), "{} is missing: run `make test-env`", path.display());
    path
}

/// The collector's program.
pub fn collector_binary() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let own = option_env!("CARGO_BIN_EXE_tallylight-collector");
    own.map_or_else(|| BUILT.get_or_init(|| build("tallylight-collector")).clone(), PathBuf::from)
}

/// The compactor's program.
pub fn compactor_binary() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let own = option_env!("CARGO_BIN_EXE_tallylight-compactor");
    own.map_or_else(|| BUILT.get_or_init(|| build("tallylight-compactor")).clone(), PathBuf::from)
}

/// Builds another crate's program where this test was built.
fn build(name: &str) -> PathBuf {
    let test = env::current_exe().expect("the test knows its own file");
    let profile = test.parent().and_then(Path::parent).expect("tests lie in TARGET/PROFILE/deps");
    let target = profile.parent().expect("tests lie in TARGET/PROFILE/deps");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--package", name, "--bin", name, "--target-dir"]).arg(target);
    if profile.ends_with("release") {
        cargo.arg("--release");
    }
    let output = cargo.current_dir(workspace()).output().expect("cargo runs");
    assert!(output.status.success(), "cargo build of {name}:\n{}", String::from_utf8_lossy(&output.stderr));
    profile.join(name)
}

fn output(mut command: Command) -> Output {
    without_settings(&mut command);
    command.stdin(Stdio::null()).output().expect("the program runs")
}

/// The settings of whoever runs the tests are none of theirs.
fn without_settings(command: &mut Command) {
    for (name, _) in env::vars_os() {
        if name.to_string_lossy().starts_with("TALLYLIGHT_") {
            command.env_remove(name);
        }
    }
}

/// A child process and where its stderr goes.
pub struct Process {
    /// Where it shows metrics and readiness.
    pub admin: SocketAddr,
    name: &'static str,
    child: Child,
    /// A file, so that nobody has to read while the test runs. `None`: the test has it.
    stderr: Option<tempfile::NamedTempFile>,
}

impl Process {
    /// Starts one that shows what it does at `admin`, and waits for nothing.
    pub fn spawn(name: &'static str, command: Command, admin: SocketAddr) -> Self {
        let stderr = tempfile::NamedTempFile::new().expect("a temporary file");
        let writer: File = stderr.reopen().expect("the file is there");
        let mut process = Self::spawn_with_stderr(name, command, admin, writer.into());
        process.stderr = Some(stderr);
        process
    }

    fn spawn_on(sockets: &Sockets, name: &'static str, command: &Command, admin: SocketAddr) -> Self {
        let stderr = tempfile::NamedTempFile::new().expect("a temporary file");
        let command = sockets.hand_over_to(command, stderr.path());
        let mut process = Self::spawn_as_it_is(name, command, admin);
        process.stderr = Some(stderr);
        process
    }

    fn spawn_with_stderr(name: &'static str, mut command: Command, admin: SocketAddr, stderr: Stdio) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
        Self::spawn_as_it_is(name, command, admin)
    }

    fn spawn_as_it_is(name: &'static str, mut command: Command, admin: SocketAddr) -> Self {
        without_settings(&mut command);
        let child = command.spawn();
        let child = child.unwrap_or_else(|error| panic!("cannot start the {name}: {error}"));
        Self { admin, name, child, stderr: None }
    }

    /// Until it can do what it is for.
    pub fn wait_ready(&mut self) {
        self.wait_for_readyz(|reply| reply.status == 200);
    }

    /// Until it serves, if only to say that it can take nothing.
    fn wait_ready_or_not(&mut self) {
        self.wait_for_readyz(|reply| reply.status == 200 || reply.text().contains("disk"));
    }

    /// Until its admin port answers, whatever it says.
    pub fn wait_answers(&mut self) {
        self.wait_for_readyz(|_| true);
    }

    fn wait_for_readyz(&mut self, is_so: impl Fn(&Reply) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if try_request(self.admin, "GET", "/readyz", &[], b"").is_ok_and(|reply| is_so(&reply)) {
                return;
            }
            if let Some(status) = self.ended() {
                panic!("the {} ended at its start, {status}:\n{}", self.name, self.stderr());
            }
            assert!(Instant::now() < deadline, "the {} is not ready:\n{}", self.name, self.stderr());
            pause();
        }
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A number that `/proc/PID/status` says of it, without its unit (`proc_pid_status(5)`).
    pub fn status_line(&self, name: &str) -> u64 {
        self.proc_line("status", name)
    }

    /// The same of `/proc/PID/io` (`proc_pid_io(5)`).
    pub fn io_line(&self, name: &str) -> u64 {
        self.proc_line("io", name)
    }

    fn proc_line(&self, file: &str, name: &str) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/{file}", self.pid())).expect("it runs");
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let number = value.and_then(|value| value.split_whitespace().next()?.parse().ok());
        number.unwrap_or_else(|| panic!("no number {name} in {text}"))
    }

    /// Whether it ended, and how.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("our own child can be waited for")
    }

    /// SIGKILL: it gets to do nothing more.
    pub fn kill9(&mut self) {
        self.child.kill().expect("our own child can be killed");
        self.child.wait().expect("our own child can be waited for");
    }

    /// SIGSTOP: it gets to do nothing until [`Process::cont`].
    pub fn stop(&self) {
        self.signal(Signal::STOP);
        // it is told at once, and stops when it next runs
        wait_for("it to have stopped", || {
            let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("our own child is there");
            stat.rsplit(") ").next().expect("a state").starts_with('T').then_some(())
        });
    }

    /// SIGCONT.
    pub fn cont(&self) {
        self.signal(Signal::CONT);
    }

    /// SIGHUP: it reads again what it reads again.
    pub fn hang_up(&self) {
        self.signal(Signal::HUP);
    }

    /// SIGTERM, without waiting for anything.
    pub fn tell_to_end(&self) {
        self.signal(Signal::TERM);
    }

    fn signal(&self, signal: Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("our own child takes signals");
    }

    /// SIGTERM, and waits for the end.
    pub fn terminate(&mut self) -> ExitStatus {
        self.tell_to_end();
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.ended() {
                return status;
            }
            assert!(Instant::now() < deadline, "the {} does not end on SIGTERM:\n{}", self.name, self.stderr());
            pause();
        }
    }

    /// What `/metrics` says now.
    pub fn metrics(&self) -> Metrics {
        Metrics::of(self.admin)
    }

    /// The page as it is.
    pub fn metrics_page(&self) -> String {
        request(self.admin, "GET", "/metrics", &[], b"").text()
    }

    /// What it wrote to stderr so far.
    pub fn stderr(&self) -> String {
        self.stderr.as_ref().and_then(|file| fs::read_to_string(file.path()).ok()).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- stderr of the {} (pid {}):\n{}", self.name, self.child.id(), self.stderr());
        }
        // it may have ended by itself
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
