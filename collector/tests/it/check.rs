//! `tallylight-collector check`: what it finds is so, what it says to change helps, and it changes nothing itself.

use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::disk::Disk;
use crate::harness::{Collector, collector_binary, free_addr, wait_for};

/// A user who may do little.
const NOBODY: u32 = 65_534;

/// What it found, and its exit code.
struct Checked {
    code: Option<i32>,
    report: Value,
}

impl Checked {
    fn by(mut command: Command, flags: &[&str]) -> Self {
        let output = command.args(["check", "--json"]).args(flags).output().unwrap();
        let report = serde_json::from_slice(&output.stdout);
        Self { code: output.status.code(), report: report.unwrap_or_else(|error| panic!("{error}: {output:?}")) }
    }

    /// On free addresses, but for those that are given.
    fn of(data: &Path, flags: &[&str]) -> Self {
        let mut command = Command::new(collector_binary());
        for name in ["HTTP", "UDP", "ADMIN"] {
            command.env(format!("TALLYLIGHT_{name}"), free_addr().to_string());
        }
        Self::by(command, &[&["--data", data.to_str().unwrap()], flags].concat())
    }

    /// What was found of a thing, and what to change, if it was found to be so.
    fn about(&self, about: &str, verdict: &str) -> Vec<[String; 2]> {
        let checks = self.report["checks"].as_array().unwrap().iter();
        let checks = checks.filter(|check| check["about"] == about && check["verdict"] == verdict);
        checks.map(|check| ["found", "change"].map(|key| check[key].as_str().unwrap_or_default().to_owned())).collect()
    }

    /// The only problem, which is one.
    fn problem(&self) -> [String; 2] {
        assert_eq!((self.code, &self.report["problems"]), (Some(1), &Value::from(1)), "{:#}", self.report);
        let checks = self.report["checks"].as_array().unwrap();
        let problem = checks.iter().find(|check| check["verdict"] == "problem").unwrap();
        ["found", "change"].map(|key| problem[key].as_str().unwrap().to_owned())
    }

    fn assert_would_work(&self) {
        assert_eq!((self.code, &self.report["problems"]), (Some(0), &Value::from(0)), "{:#}", self.report);
    }

    fn setting(&self, flag: &str) -> [&str; 2] {
        let settings = self.report["settings"].as_array().unwrap();
        let setting = settings.iter().find(|setting| setting["flag"] == flag).unwrap();
        ["value", "from"].map(|key| setting[key].as_str().unwrap())
    }
}

/// Does what it said to do.
fn change(what: &str) {
    let status = Command::new("sh").args(["-c", what]).status().unwrap();
    assert!(status.success(), "{what}: {status}");
}

/// All that is in a folder: names, sizes, and when each was changed.
fn snapshot(folder: &Path) -> Vec<(PathBuf, u64, i64, i64)> {
    let mut all = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            let metadata = fs::metadata(&path).unwrap();
            all.push((path.clone(), metadata.len(), metadata.mtime_nsec(), metadata.ctime_nsec()));
            if metadata.is_dir() {
                folders.push(path);
            }
        }
    }
    all.sort();
    all
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn where_all_is_well_it_says_so_and_makes_nothing() {
    let folder = folder();
    let data = folder.path().join("deep/data");
    let checked = Checked::of(&data, &["--ip=keep", "--site=a.example,b.example"]);
    checked.assert_would_work();
    assert!(checked.about("data folder", "ok")[0][0].ends_with("is not there, and is made at the start"));
    assert_eq!(checked.about("ports", "ok").len(), 3);
    assert_eq!(checked.about("sites", "ok")[0][0], "2 are listed");
    assert!(fs::read_dir(folder.path()).unwrap().next().is_none());

    assert_eq!(checked.setting("ip"), ["keep", "command line"]);
    assert_eq!(checked.setting("http")[1], "environment");
    assert_eq!(checked.setting("segment-size"), ["256MiB", "default"]);
    assert_eq!(checked.setting("reserve"), ["512MiB", "default"]);
    let cpus = std::thread::available_parallelism().unwrap().to_string();
    assert_eq!(checked.setting("workers"), [&cpus, "default"]);
    assert_eq!(checked.setting("site-file"), ["(none)", "default"]);
}

#[test]
fn people_get_the_same_in_lines() {
    let folder = folder();
    let output = Command::new(collector_binary())
        .args(["check", "--http=off", "--udp=off", "--site-file=/nonexistent/sites", "--data"])
        .arg(folder.path())
        .args(["--admin", &free_addr().to_string()])
        .output()
        .unwrap();
    assert_eq!((output.status.code(), output.stderr.len()), (Some(1), 0));
    let text = String::from_utf8(output.stdout).unwrap();
    for line in [
        "  --site-file                  /nonexistent/sites    (from the command line)\n",
        "  --segment-size               256MiB\n",
        "  PROBLEM  sites           cannot read the sites in /nonexistent/sites: No such file or directory (os error 2)\n",
        "                           -> a file at /nonexistent/sites\n",
        "\n1 problem, ",
    ] {
        assert!(text.contains(line), "{line:?} is not in\n{text}");
    }
    assert!(text.ends_with(": the collector would not work\n"), "{text}");
}

#[test]
fn a_collector_that_runs_is_known_and_its_ports_are_its_own() {
    let folder = folder();
    let data = folder.path().join("data");
    let mut collector = Collector::start(&data, &["--segment-size=1MiB", "--reserve=1MiB"]);
    let addrs = [collector.http, collector.udp, collector.admin].map(|addr| addr.to_string());
    let flags = ["--http", &addrs[0], "--udp", &addrs[1], "--admin", &addrs[2]];
    // the collector writes there, too: now and then
    let checked = wait_for("a check without that", || {
        let before = snapshot(&data);
        let checked = Checked::of(&data, &flags);
        (snapshot(&data) == before).then_some(checked)
    });
    checked.assert_would_work();
    let pid = format!("tallylight-collector (pid {})", collector.pid());
    assert!(checked.about("lock", "ok")[0][0].ends_with(&pid), "{:#}", checked.report);
    let ports = checked.about("ports", "ok");
    assert!(ports.len() == 3 && ports.iter().all(|[found, _]| found.ends_with(&pid)), "{ports:?}");

    assert!(collector.terminate().success());
    let before = snapshot(&data);
    let checked = Checked::of(&data, &flags);
    checked.assert_would_work();
    assert_eq!(checked.about("lock", "ok")[0][0], "no collector runs on this data");
    assert!(checked.about("ports", "ok").iter().all(|[found, _]| found.ends_with("is free")), "{:#}", checked.report);
    assert_eq!(snapshot(&data), before);
    collector.start_again();
}

#[test]
fn ports_of_others_are_told_with_their_names() {
    let folder = folder();
    let (tcp, udp) = (TcpListener::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
    let ours = format!("(pid {})", std::process::id());
    for (flag, addr) in [
        ("--http", tcp.local_addr().unwrap()),
        ("--admin", tcp.local_addr().unwrap()),
        ("--udp", udp.local_addr().unwrap()),
    ] {
        let [found, change] = Checked::of(folder.path(), &[flag, &addr.to_string()]).problem();
        assert!(found.starts_with(&format!("{flag} {addr} is taken by ")) && found.ends_with(&ours), "{found}");
        assert!(change.contains(flag), "{change}");
    }
    let [found, _] = Checked::of(folder.path(), &["--http=192.0.2.1:5000"]).problem();
    assert_eq!(found, "--http 192.0.2.1:5000 is no address of this machine");
    let twice = free_addr().to_string();
    let [found, _] = Checked::of(folder.path(), &["--http", &twice, "--admin", &twice]).problem();
    assert_eq!(found, format!("--admin {twice} is the address of --http too"));
}

#[test]
fn what_it_says_to_change_about_keys_helps() {
    let folder = folder();
    let file = folder.path().join("key");
    for (flag, of) in [("--udp-key", "udp"), ("--redirect-key", "redirect")] {
        let checked = || Checked::of(folder.path(), &[flag, file.to_str().unwrap()]);
        let [found, make] = checked().problem();
        assert!(found.contains("No such file"), "{found}");
        change(&make);
        checked().assert_would_work();
        assert!(checked().about("keys", "ok")[0][0].ends_with("key: 1, and 1 signs"), "{of}");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        let [found, close] = checked().problem();
        assert!(found.contains("open to everybody"), "{found}");
        change(&close);
        checked().assert_would_work();
        fs::write(&file, "1 abc\n").unwrap();
        let [found, how] = checked().problem();
        assert!(found.contains("line 1") && how.starts_with("ID HEX a line"), "{found} {how}");
        fs::remove_file(&file).unwrap();
    }
}

#[test]
fn what_it_says_to_change_about_a_folder_of_somebody_else_helps() {
    assert!(rustix::process::geteuid().is_root(), "this test becomes another user: run the tests as root");
    // where that user can get to, too
    let open = fs::Permissions::from_mode(0o755);
    let folder = tempfile::Builder::new().permissions(open.clone()).tempdir().unwrap();
    let (data, program) = (folder.path().join("data"), folder.path().join("collector"));
    // by a process that is gone then: one that another test starts meanwhile would hold it open for writing
    assert!(Command::new("cp").arg(collector_binary()).arg(&program).status().unwrap().success());
    let by_nobody = |flags: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program);
        for name in ["HTTP", "UDP", "ADMIN"] {
            command.env(format!("TALLYLIGHT_{name}"), free_addr().to_string());
        }
        let own = ["--data", data.to_str().unwrap(), "--segment-size=1MiB", "--reserve=1MiB"];
        Checked::by(command, &[&own, flags].concat())
    };
    let [found, make] = by_nobody(&[]).problem();
    assert!(found.contains("is not there, and cannot be made in"), "{found}");
    change(&make);
    by_nobody(&[]).assert_would_work();
    assert_eq!(fs::metadata(&data).unwrap().uid(), NOBODY);

    // what a first try as root leaves behind
    let mut collector = Collector::start(&data, &["--segment-size=1MiB", "--reserve=1MiB"]);
    assert!(collector.terminate().success());
    for left in ["lock", "node", "log", "log/spare"] {
        let [found, give] = by_nobody(&[]).problem();
        assert!(found.contains("cannot be written: Permission denied"), "{found}");
        assert!(found.starts_with(data.join(left).to_str().unwrap()), "{left}: {found}");
        assert!(give.starts_with("chown -R 65534 "), "{give}");
        chown(data.join(left), Some(NOBODY), None).unwrap();
    }
    let [found, give] = by_nobody(&[]).problem();
    assert!(found.contains(".seg cannot be written"), "{found}");
    change(&give);
    by_nobody(&[]).assert_would_work();

    // ports of root's, which systemd keeps open
    let roots = TcpListener::bind("127.0.0.1:0").unwrap();
    let checked = by_nobody(&["--http", &roots.local_addr().unwrap().to_string()]);
    checked.assert_would_work();
    assert!(checked.about("ports", "warning")[0][0].contains("is taken by root"), "{:#}", checked.report);

    // and a port that only root may open
    if fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap().trim() == "1024" {
        let [found, systemd] = by_nobody(&["--http=127.0.0.1:81"]).problem();
        assert!(found.contains("a port below 1024") && systemd.contains("tallylight-collector.socket"), "{found}");
    }
}

#[test]
fn a_disk_without_room_is_a_problem_and_one_that_is_nearly_full_a_warning() {
    let folder = folder();
    let [found, _] = Checked::of(folder.path(), &["--reserve=1000000TiB"]).problem();
    assert!(found.ends_with("events would be shed"), "{found}");
    let free = rustix::fs::statvfs(folder.path()).map(|stat| stat.f_bavail * stat.f_frsize).unwrap();
    let most = format!("{}", free * 3 / 4);
    let checked = Checked::of(folder.path(), &["--segment-size=1MiB", "--reserve", &most]);
    checked.assert_would_work();
    let [[found, _]] = &checked.about("space", "warning")[..] else { panic!("{:#}", checked.report) };
    assert!(found.contains("under twice the reserve"), "{found}");
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(Checked::of(&file, &[]).problem()[0].ends_with("is not a folder"));
    fs::write(folder.path().join("node"), "no name\n").unwrap();
    assert!(Checked::of(folder.path(), &[]).problem()[0].ends_with("does not hold the name of a node"));
}

#[test]
fn limits_that_are_too_low_are_warnings_with_the_setting_that_moves_them() {
    let folder = folder();
    let mut limited = Command::new("sh");
    limited.args(["-c", r#"ulimit -n 1000; exec "$0" "$@""#]).arg(collector_binary());
    let data = ["--data", folder.path().to_str().unwrap()];
    let checked =
        Checked::by(limited, &[&data[..], &["--max-connections=10000", "--udp-receive-buffer=512MiB"]].concat());
    let [[found, change]] = &checked.about("open files", "warning")[..] else { panic!("{:#}", checked.report) };
    assert!(found.starts_with("1000 may be open, enough for 744 of"), "{found}");
    assert!(change.starts_with("LimitNOFILE=10256 "), "{change}");
    let [[found, change]] = &checked.about("receive buffer", "warning")[..] else { panic!("{:#}", checked.report) };
    let most: u64 = fs::read_to_string("/proc/sys/net/core/rmem_max").unwrap().trim().parse().unwrap();
    assert!(found.contains("of which net.core.rmem_max grants ") && most < 512 << 20, "{found}");
    assert!(change.contains("net.core.rmem_max=536870912"), "{change}");
    let public = Checked::of(folder.path(), &["--udp=0.0.0.0:0", "--admin=0.0.0.0:0"]);
    public.assert_would_work();
    assert_eq!((public.about("datagrams", "warning").len(), public.about("admin port", "warning").len()), (1, 1));
}

#[test]
fn what_it_says_to_change_about_readahead_helps_and_a_disk_without_it_is_fine() {
    let disk = Disk::ext4(64 << 20);
    let checked = || Checked::of(&disk.path.join("data"), &["--segment-size=1MiB", "--reserve=1MiB"]);
    let device = fs::metadata(&disk.path).unwrap().dev();
    let device = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    let kernels = PathBuf::from(format!("/sys/class/bdi/{device}/read_ahead_kb"));
    // also the device's next user has it
    fs::write(&kernels, "8192").unwrap();
    checked().assert_would_work();
    let [[found, less]] = &checked().about("readahead", "warning")[..] else { panic!("{:#}", checked().report) };
    assert!(found.starts_with("8192 KiB "), "{found}");
    change(less);
    assert_eq!(fs::read_to_string(&kernels).unwrap(), "128\n");
    assert!(checked().about("readahead", "ok")[0][0].starts_with("128 KiB "), "{:#}", checked().report);
    assert!(checked().about("readahead", "warning").is_empty());

    let memory = Disk::tmpfs("16m");
    let checked = Checked::of(&memory.path.join("data"), &["--segment-size=1MiB", "--reserve=1MiB"]);
    checked.assert_would_work();
    assert!(!checked.report["checks"].as_array().unwrap().iter().any(|check| check["about"] == "readahead"));
}
