//! A Debian of its own, with systemd as its first process, in the network of the test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::harness::{test_env, wait_for, wait_for_within};

/// It writes to its disk as it starts, which others use, too.
const BOOT: Duration = Duration::from_secs(120);

/// A running one. Dropping it ends all that runs in it.
pub struct Debian {
    folder: TempDir,
    nspawn: Child,
    /// Its first process.
    leader: u32,
}

impl Debian {
    /// Starts a copy of the one that `deploy/test-env.sh debian` made.
    pub fn start() -> Self {
        assert!(rustix::process::geteuid().is_root(), "this test starts a container: run it as root");
        let folder = tempfile::tempdir().unwrap();
        let mut copy = Command::new("cp");
        copy.args(["--archive", "--reflink=auto"]).arg(test_env("debian")).arg(folder.path());
        assert!(copy.status().unwrap().success());
        let root = folder.path().join("debian");
        let mut nspawn = Command::new("systemd-nspawn");
        nspawn.args(["--boot", "--quiet", "--register=no", "--keep-unit", "--directory"]).arg(&root);
        let console = fs::File::create(folder.path().join("console")).unwrap();
        let said = console.try_clone().unwrap();
        let nspawn = nspawn.stdin(Stdio::null()).stdout(console).stderr(said).spawn();
        let mut debian =
            Self { folder, nspawn: nspawn.expect("systemd-nspawn of Debian's systemd-container"), leader: 0 };
        debian.leader = wait_for("its systemd", || debian.find_leader());
        // some unit or other cannot work in a container
        let is_up = || ["running", "degraded"].contains(&debian.run(&["systemctl", "is-system-running"]).1.trim());
        wait_for_within(BOOT, "Debian to be up", || is_up().then_some(()));
        debian
    }

    fn find_leader(&self) -> Option<u32> {
        let mut descendants = vec![self.nspawn.id()];
        while let Some(pid) = descendants.pop() {
            if fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm == "systemd\n") {
                return Some(pid);
            }
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
            descendants.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        }
        None
    }

    /// A file in it, as seen from outside.
    pub fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join("debian").join(path.trim_start_matches('/'))
    }

    /// Puts a file into `/root`.
    pub fn bring(&self, file: &Path) -> String {
        let inside = format!("/root/{}", file.file_name().unwrap().to_str().unwrap());
        fs::copy(file, self.path(&inside)).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        inside
    }

    /// Runs something in it. Whether that worked, and what it said.
    pub fn run(&self, words: &[&str]) -> (bool, String) {
        let mut nsenter = Command::new("nsenter");
        nsenter.args(["--mount", "--uts", "--ipc", "--pid", "--cgroup", "--target", &self.leader.to_string(), "--"]);
        // what is set here is not set there
        nsenter.args([
            "env",
            "-i",
            "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
            "LC_ALL=C.UTF-8",
            "DEBIAN_FRONTEND=noninteractive",
        ]);
        let Output { status, stdout, stderr } = nsenter.args(words).stdin(Stdio::null()).output().unwrap();
        (status.success(), String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned())
    }

    /// Runs something that must work, and gives back what it said.
    pub fn does(&self, words: &[&str]) -> String {
        let (is_done, said) = self.run(words);
        assert!(is_done, "{words:?}: {said}\n{}", self.journal());
        said
    }

    /// What its services said last.
    pub fn journal(&self) -> String {
        self.run(&["journalctl", "--no-pager", "--lines=60", "--unit=tallylight-*"]).1
    }

    /// A property of a unit.
    pub fn property(&self, unit: &str, name: &str) -> String {
        self.does(&["systemctl", "show", "--value", "--property", name, unit]).trim().to_owned()
    }

    /// The process of a service, by its number outside.
    pub fn main_process(&self, service: &str) -> u32 {
        let inside = self.property(service, "MainPID");
        let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let own = namespace(&self.leader.to_string());
        let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().into_string().ok());
        let is_it = |pid: &String| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
            numbers.split_whitespace().last() == Some(&inside) && namespace(pid) == own
        };
        let mut found = pids.filter(is_it);
        found.next().and_then(|pid| pid.parse().ok()).unwrap_or_else(|| panic!("{service} has no process {inside}"))
    }

    /// All files in it but those that the system keeps for itself.
    pub fn files(&self) -> Vec<String> {
        let listed = self.does(&["find", "/etc", "/usr", "/var", "/opt", "/srv", "/root", "/home", "-xdev"]);
        listed.lines().filter(|path| !path.starts_with("/var/log/")).map(str::to_owned).collect()
    }
}

impl Drop for Debian {
    fn drop(&mut self) {
        // its first process ends all others with it
        let leader = i32::try_from(self.leader).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(leader) = leader {
            let _ = rustix::process::kill_process(leader, rustix::process::Signal::KILL);
        }
        let _ = self.nspawn.kill();
        let _ = self.nspawn.wait();
    }
}
