//! What is in `deploy/` works: systemd accepts the units, and `make run`'s script starts, watches and stops both
//! programs.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{PATIENCE, collector_binary, compactor_binary, free_addr, request, wait_for, workspace};

const SOCKETS: [&str; 4] = [
    "tallylight-collector.socket",
    "tallylight-collector-udp.socket",
    "tallylight-collector-admin.socket",
    "tallylight-compactor.socket",
];

fn unit(file: &str) -> String {
    fs::read_to_string(workspace().join("deploy/systemd").join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// All values of a setting in a unit.
fn values(file: &str, key: &str) -> Vec<String> {
    unit(file).lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=').map(str::to_owned)).collect()
}

/// The only one.
fn value(file: &str, key: &str) -> String {
    let [value] = &values(file, key)[..] else { panic!("{file} has not one {key}") };
    value.clone()
}

/// Puts the units into a folder, with the programs that were built in the place of installed ones. The services are first.
fn units_in(folder: &Path) -> Vec<std::path::PathBuf> {
    let programs = [("tallylight-collector", collector_binary()), ("tallylight-compactor", compactor_binary())];
    let service = |(name, binary): &(&str, std::path::PathBuf)| {
        let file = format!("{name}.service");
        let installed = format!("ExecStart={name}");
        let text = unit(&file);
        assert!(text.contains(&installed), "{file} has no {installed}");
        (file, text.replace(&installed, &format!("ExecStart={}", binary.display())))
    };
    let sockets = SOCKETS.map(|file| (file.to_owned(), unit(file)));
    let write = |(file, text): (String, String)| {
        let path = folder.join(file);
        fs::write(&path, text).unwrap();
        path
    };
    programs.iter().map(service).chain(sockets).map(write).collect()
}

fn systemd_analyze(arguments: &[&str], units: &[std::path::PathBuf]) -> std::process::Output {
    let output = Command::new("systemd-analyze").args(arguments).args(units).output();
    output.expect("systemd-analyze runs: `make test-env` installs it")
}

#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    let folder = tempfile::tempdir().unwrap();
    let output = systemd_analyze(&["verify", "--man=no"], &units_in(folder.path()));
    let said = String::from_utf8_lossy(&output.stderr);
    // an unknown setting is only warned about, with status 0
    assert!(output.status.success() && said.is_empty(), "{}\n{said}", output.status);
}

#[test]
fn the_units_leave_the_programs_little_that_they_could_harm() {
    let folder = tempfile::tempdir().unwrap();
    for unit in &units_in(folder.path())[..2] {
        // 100 is a service with all rights; the threshold is 2.0
        let output = systemd_analyze(
            &["security", "--offline=true", "--threshold=20", "--no-pager"],
            std::slice::from_ref(unit),
        );
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
}

#[test]
fn both_units_share_user_and_folder_and_every_flag_they_give_exists() {
    for key in ["User", "Group", "StateDirectory", "Environment", "UMask"] {
        let both = ["tallylight-collector.service", "tallylight-compactor.service"].map(|unit| value(unit, key));
        assert_eq!(both[0], both[1], "{key}");
    }
    for (unit, binary) in
        [("tallylight-collector.service", collector_binary()), ("tallylight-compactor.service", compactor_binary())]
    {
        let help = Command::new(binary).arg("--help").output().unwrap();
        let help = String::from_utf8_lossy(&help.stdout).into_owned();
        let command = value(unit, "ExecStart");
        let flags = command.split(' ').filter(|word| word.starts_with("--")).map(str::to_owned);
        // every flag is a variable, so a variable is a flag
        let setting = value(unit, "Environment");
        let (variable, _) = setting.split_once('=').unwrap();
        let variable = variable.strip_prefix("TALLYLIGHT_").unwrap().to_lowercase().replace('_', "-");
        for flag in flags.chain([format!("--{variable}")]) {
            assert!(help.contains(&format!("{flag} ")), "{unit} uses {flag}, which is not in --help:\n{help}");
        }
    }
}

#[test]
fn the_sockets_are_where_the_programs_listen_by_default_and_as_large() {
    let help = |binary: std::path::PathBuf| {
        let output = Command::new(binary).arg("--help").output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let (collector, compactor) = (help(collector_binary()), help(compactor_binary()));
    let listens = |socket: &str| [values(socket, "ListenStream"), values(socket, "ListenDatagram")].concat();
    for (socket, name, help) in SOCKETS.into_iter().zip(["http", "udp", "admin", "admin"]).map(|(socket, name)| {
        let is_compactors = socket.starts_with("tallylight-compactor");
        (socket, name, if is_compactors { &compactor } else { &collector })
    }) {
        let [addr] = &listens(socket)[..] else { panic!("{socket} listens at not one address") };
        let described = help.split(&format!("--{name} <ADDR>")).nth(1).unwrap();
        let described = described.split("\n      --").next().unwrap();
        assert!(described.contains(&format!("[default: {addr}")), "{socket}: {addr} is not in {described}");
        assert_eq!(value(socket, "FileDescriptorName"), name);
        assert_eq!(value(socket, "BindIPv6Only"), "ipv6-only", "[::] beside 0.0.0.0");
    }
    assert!(collector.contains("[default: 4MiB]"));
    assert_eq!(value(SOCKETS[1], "ReceiveBuffer"), "4M");
    let given: Vec<String> = value("tallylight-collector.service", "Sockets").split(' ').map(str::to_owned).collect();
    assert_eq!(given, SOCKETS[..3]);
    for socket in &SOCKETS[1..3] {
        assert_eq!(value(socket, "Service"), "tallylight-collector.service");
    }
}

/// `deploy/run.sh` with programs that were built for the tests, on free ports.
struct Run {
    script: Child,
    lines: Receiver<String>,
    admins: [std::net::SocketAddr; 2],
}

impl Run {
    fn start(data: &Path) -> Self {
        let admins = [free_addr(), free_addr()];
        let collector = collector_binary();
        let bin = collector.parent().unwrap();
        assert_eq!(bin, compactor_binary().parent().unwrap(), "both programs lie in one folder");
        // whoever runs tests in the background has Ctrl-C ignored, and a script cannot trap what it was told to ignore
        let mut script = Command::new("env")
            .arg("--default-signal=INT")
            .arg(workspace().join("deploy/run.sh"))
            .env("BIN", bin)
            .env("DATA", data)
            .env("HTTP", free_addr().to_string())
            .env("UDP", free_addr().to_string())
            .env("COLLECTOR_ADMIN", admins[0].to_string())
            .env("COMPACTOR_ADMIN", admins[1].to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("bash runs");
        let lines = read_lines(script.stdout.take().expect("stdout is piped"));
        let run = Self { script, lines, admins };
        run.wait_line("Ctrl-C stops both");
        run
    }

    fn wait_line(&self, part: &str) -> String {
        let mut seen = Vec::new();
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            if line.contains(part) {
                return line;
            }
            seen.push(line);
        }
        panic!("run.sh does not say {part:?}, but {seen:#?}");
    }

    /// The collector and the compactor: the script's children, in the order of their start, once it has no others.
    fn children(&self) -> [Pid; 2] {
        let path = format!("/proc/{0}/task/{0}/children", self.script.id());
        wait_for("run.sh to have two children", || {
            let text = fs::read_to_string(&path).unwrap();
            let pids = text.split_whitespace().map(|pid| Pid::from_raw(pid.parse().unwrap()).unwrap());
            pids.collect::<Vec<_>>().try_into().ok()
        })
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.script), signal).unwrap();
    }

    fn wait_end(&mut self) -> ExitStatus {
        let script = &mut self.script;
        wait_for("the end of run.sh", || script.try_wait().unwrap())
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // only a test that failed leaves something to stop; the script then stops its children
        if self.script.try_wait().is_ok_and(|ended| ended.is_none()) {
            self.signal(Signal::TERM);
            let _ = self.script.wait();
        }
    }
}

fn read_lines(stdout: ChildStdout) -> Receiver<String> {
    let (send, lines) = mpsc::channel();
    thread::spawn(move || BufReader::new(stdout).lines().map_while(Result::ok).try_for_each(|line| send.send(line)));
    lines
}

fn is_alive(pid: Pid) -> bool {
    Path::new(&format!("/proc/{}", pid.as_raw_nonzero())).exists()
}

#[test]
fn the_programs_that_are_shipped_know_no_simulated_machine() {
    let features = |edges: &str| {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["tree", "--offline", "--edges", edges, "-p", "tallylight-collector", "-p", "tallylight-compactor"]);
        let output = cargo.current_dir(workspace()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let is_simulated = "tallylight-host feature \"simulated\"";
    assert!(features("features").contains(is_simulated), "in tests it is");
    assert!(!features("features,no-dev").contains(is_simulated));
}

#[test]
fn the_run_script_starts_both_and_an_interrupt_stops_both_cleanly() {
    let data = tempfile::tempdir().unwrap();
    let mut run = Run::start(data.path());
    for admin in run.admins {
        assert_eq!(request(admin, "GET", "/readyz", &[], b"").status, 200);
    }
    let children = run.children();
    run.signal(Signal::INT);
    run.wait_line("the data stays in");
    assert_eq!(run.wait_end().code(), Some(0));
    assert!(!children.iter().any(|pid| is_alive(*pid)), "{children:?}");
}

#[test]
fn the_run_script_stops_one_program_when_the_other_dies() {
    for victim in [0, 1] {
        let data = tempfile::tempdir().unwrap();
        let mut run = Run::start(data.path());
        let children = run.children();
        kill_process(children[victim], Signal::KILL).unwrap();
        assert_eq!(run.wait_end().code(), Some(1));
        assert!(!children.iter().any(|pid| is_alive(*pid)), "{children:?}");
    }
}
