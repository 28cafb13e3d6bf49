//! The Debian package, in a Debian with systemd: installed, at work, started again, upgraded under load, removed, purged.
//!
//! `make test-deb` makes what this needs, and runs it.

mod debian;

use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};
use serde_json::Value;

use crate::harness::{Environment, Over, Stopped, request, try_request, wait_for, wait_for_within, workspace};
use crate::isolated;
use crate::operations::page::{self, By};
use crate::python;
use crate::restarts::visitors::{KINDS, Visitors};
use debian::Debian;

/// Where the programs are by default: the test has a network of its own.
const HTTP: SocketAddr = local(5000);
const COLLECTOR_ADMIN: SocketAddr = local(9600);
const COMPACTOR_ADMIN: SocketAddr = local(9601);
const COLLECTOR: &str = "tallylight-collector.service";
const COMPACTOR: &str = "tallylight-compactor.service";
const SOCKETS: [&str; 3] =
    ["tallylight-collector.socket", "tallylight-collector-udp.socket", "tallylight-collector-admin.socket"];
const DATA: &str = "/var/lib/tallylight";
/// New connections a second, unless `RATE` says otherwise.
const RATE: u64 = 2000;

const fn local(port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), port)
}

#[test]
#[ignore = "needs the package, and a Debian to install it in: `make test-deb`"]
fn the_package_installs_runs_upgrades_under_load_and_purges() {
    let said = isolated::run(&[], &Environment::new(), "deb::in_a_network_of_its_own");
    println!("{said}");
}

/// The package, by Debian's part of its version.
fn package(revision: u32) -> PathBuf {
    let version = env!("CARGO_PKG_VERSION");
    let folder = workspace().join("target/debian").join(if revision == 1 { "older" } else { "" });
    let name = format!("tallylight_{version}-{revision}_");
    let found = std::fs::read_dir(&folder).ok().and_then(|mut entries| {
        entries.find_map(|entry| {
            let path = entry.unwrap().path();
            let file = path.file_name().unwrap().to_str().unwrap();
            (file.starts_with(&name) && file.ends_with(".deb")).then_some(path)
        })
    });
    found.unwrap_or_else(|| panic!("no {name}*.deb in {}: `make test-deb` makes it", folder.display()))
}

#[test]
#[ignore = "for `the_package_installs_runs_upgrades_under_load_and_purges`, which runs it where its ports are free"]
fn in_a_network_of_its_own() {
    let limits = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limits.maximum, maximum: limits.maximum }).unwrap();
    has_no_faults(&package(1));
    let debian = Debian::start();
    let before = debian.files();

    debian.does(&["dpkg", "--install", &debian.bring(&package(1))]);
    is_at_work(&debian);
    is_complete(&debian);
    check_finds_nothing(&debian);
    let answered = goes_on_through_restarts_and_an_upgrade(&debian);
    is_operated_as_the_page_says(&debian);
    comes_back(&debian);
    waits_for_settings_that_can_be_used(&debian);
    counts_each(&debian, &answered);
    is_started_by_a_connection(&debian);

    debian.does(&["dpkg", "--remove", "tallylight"]);
    for addr in [HTTP, COLLECTOR_ADMIN, COMPACTOR_ADMIN] {
        assert!(TcpStream::connect(addr).is_err(), "{addr}");
    }
    assert!(debian.path(DATA).join("out").is_dir(), "removed is not purged");
    debian.does(&["dpkg", "--install", &debian.bring(&package(2))]);
    is_at_work(&debian);
    debian.does(&["dpkg", "--purge", "tallylight"]);
    let left: Vec<String> = debian.files().into_iter().filter(|path| !before.contains(path)).collect();
    println!("beside the package: {left:?}");
    assert!(!left.iter().any(|path| path.contains("tallylight") && !path.starts_with("/root/")), "{left:?}");
    assert_eq!(debian.run(&["systemctl", "list-units", "--all", "--no-legend", "tallylight-*"]).1.trim(), "");
}

/// Debian's own judge of packages.
fn has_no_faults(package: &PathBuf) {
    let output = Command::new("lintian").args(["--fail-on", "error,warning", "--allow-root"]).arg(package).output();
    let output = output.expect("lintian runs: `make test-deb` installs it");
    assert!(output.status.success() && output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
}

fn is_at_work(debian: &Debian) {
    for unit in SOCKETS.into_iter().chain([COLLECTOR, COMPACTOR]) {
        assert_eq!(debian.property(unit, "ActiveState"), "active", "{unit}\n{}", debian.journal());
        assert_eq!(debian.property(unit, "UnitFileState"), "enabled", "{unit}");
    }
    assert_eq!(debian.property("tallylight-compactor.socket", "UnitFileState"), "disabled", "it is not needed");
    for admin in [COLLECTOR_ADMIN, COMPACTOR_ADMIN] {
        assert_eq!(request(admin, "GET", "/readyz", &[], b"").status, 200, "{admin}");
    }
    assert!(debian.property(COLLECTOR, "StatusText").starts_with("listening http=127.0.0.1:5000 "));
    assert_eq!(debian.property(COMPACTOR, "StatusText"), "following the log");
    let owner = debian.does(&["stat", "--format=%U:%G %a", DATA]);
    assert_eq!(owner, "tallylight:tallylight 750\n");
}

/// Manual pages and completions are where their programs look for them.
fn is_complete(debian: &Debian) {
    for file in [
        "README.md",
        "deploy/OPERATIONS.md",
        "deploy/erase.py",
        "deploy/batch/duckdb/clicks.sql",
        "deploy/batch/spark/queries.py",
        "deploy/grafana/tallylight.json",
        "deploy/prometheus/alerts.yml",
        "deploy/senders/tallylight.py",
    ] {
        assert!(debian.path(&format!("usr/share/doc/tallylight/{file}")).is_file(), "{file}");
    }
    for program in ["tallylight-collector", "tallylight-compactor"] {
        assert!(debian.path(&format!("usr/share/man/man1/{program}.1.gz")).is_file());
        let load = format!(
            "source /usr/share/bash-completion/bash_completion; _completion_loader {program}; complete -p {program}"
        );
        assert!(debian.does(&["bash", "-c", &load]).contains(" -F "), "{program}");
        debian.does(&["zsh", "-n", &format!("/usr/share/zsh/vendor-completions/_{program}")]);
        debian.does(&["fish", "--no-execute", &format!("/usr/share/fish/vendor_completions.d/{program}.fish")]);
    }
}

/// As root and as the service's own user.
fn check_finds_nothing(debian: &Debian) {
    let as_tallylight = ["setpriv", "--reuid=tallylight", "--regid=tallylight", "--init-groups"];
    for user in [&[][..], &as_tallylight] {
        let said = debian.does(&[user, &["tallylight-collector", "check", "--json", "--data", DATA]].concat());
        let report: Value = serde_json::from_str(&said).unwrap();
        assert_eq!(report["problems"], 0, "{report:#}");
    }
}

/// Visitors come all the time. Gives back how many events of each kind were answered.
fn goes_on_through_restarts_and_an_upgrade(debian: &Debian) -> [u64; KINDS.len()] {
    let rate = std::env::var("RATE").map_or(RATE, |rate| rate.parse().unwrap());
    let (visitors, over) = (Visitors::of(HTTP, rate), Over::default());
    let upgrade = debian.bring(&package(2));
    let settings = debian.path("etc/default/tallylight-collector");
    let sites = format!("TALLYLIGHT_SITE={}\n", KINDS.join(","));
    let took = thread::scope(|scope| {
        let stop_sending = over.when_dropped();
        let coming = scope.spawn(|| visitors.come(&over));
        let mut took = Vec::new();
        let mut timed = |what: &'static str, words: &[&str]| {
            visitors.wait_for_more(rate);
            let began = std::time::Instant::now();
            debian.does(words);
            took.push((what, began.elapsed()));
        };
        timed("restart", &["systemctl", "restart", COLLECTOR]);
        // dpkg keeps what an operator has written
        std::fs::write(&settings, &sites).unwrap();
        timed("upgrade", &["dpkg", "--install", &upgrade]);
        timed("reload", &["systemctl", "reload", COLLECTOR]);
        timed("both", &["systemctl", "restart", COLLECTOR, COMPACTOR]);
        visitors.wait_for_more(rate);
        drop(stop_sending);
        coming.join().unwrap();
        took
    });
    let tally = &visitors.tally;
    println!("{rate} new connections a second: {tally:?}\n{took:.2?}");
    assert_eq!(
        (tally.refused.load(Relaxed), tally.cut_off.load(Relaxed), tally.not_taken.load(Relaxed)),
        (0, 0, 0),
        "{}",
        debian.journal()
    );
    assert_eq!(std::fs::read_to_string(&settings).unwrap(), sites);
    assert_eq!(request(HTTP, "GET", "/api/beacon?site=other", &[], b"").status, 403, "it has the new settings");
    tally.answered.each_ref().map(|answered| answered.load(Relaxed))
}

/// What the page about operations asks of systemd, in its order.
fn is_operated_as_the_page_says(debian: &Debian) {
    let older = package(1);
    debian.does(&["rm", &format!("/root/{}", older.file_name().unwrap().to_str().unwrap())]);
    for block in page::all_blocks().into_iter().filter(|block| block.by == By::Debian) {
        debian.does(&["sh", "-euc", &format!("cd /root\n{}", block.commands)]);
    }
    wait_for("both to be ready", || {
        let is_ready = |admin| try_request(admin, "GET", "/readyz", &[], b"").is_ok_and(|reply| reply.status == 200);
        (is_ready(COLLECTOR_ADMIN) && is_ready(COMPACTOR_ADMIN)).then_some(())
    });
    is_at_work(debian);
}

/// From kills, more of them than systemd allows by default, and when its writer hangs.
fn comes_back(debian: &Debian) {
    for _ in 0..7 {
        kill(debian.main_process(COLLECTOR), Signal::KILL);
        // it waits in the socket
        assert_eq!(request(HTTP, "HEAD", "/beacon.js", &[], b"").status, 200);
        wait_for("the service to be ready", || (debian.property(COLLECTOR, "ActiveState") == "active").then_some(()));
    }
    let own = debian.path("etc/systemd/system/tallylight-collector.service.d");
    std::fs::create_dir(&own).unwrap();
    std::fs::write(own.join("test.conf"), "[Service]\nWatchdogSec=2\n").unwrap();
    debian.does(&["systemctl", "daemon-reload"]);
    debian.does(&["systemctl", "restart", COLLECTOR]);
    let hung = debian.main_process(COLLECTOR);
    // longer than it may be silent
    thread::sleep(Duration::from_secs(3));
    assert_eq!(debian.main_process(COLLECTOR), hung, "{}", debian.journal());
    let stopped = Stopped::thread("log-writer", hung);
    wait_for("systemd to end it", || debian.journal().contains("Watchdog timeout").then_some(()));
    drop(stopped);
    wait_for("another one", || {
        let is_active = debian.property(COLLECTOR, "ActiveState") == "active";
        (is_active && debian.main_process(COLLECTOR) != hung).then_some(())
    });
    assert_eq!(request(COLLECTOR_ADMIN, "GET", "/readyz", &[], b"").status, 200);
    std::fs::remove_dir_all(own).unwrap();
    debian.does(&["systemctl", "daemon-reload"]);
}

/// A slip in the settings does not close the ports: what comes is answered when it is mended.
fn waits_for_settings_that_can_be_used(debian: &Debian) {
    let settings = debian.path("etc/default/tallylight-collector");
    let good = std::fs::read_to_string(&settings).unwrap();
    std::fs::write(&settings, format!("{good}TALLYLIGHT_SEGMENT_SIZE=1KiB\n")).unwrap();
    let (is_done, said) = debian.run(&["systemctl", "restart", COLLECTOR]);
    assert!(!is_done, "{said}");
    let waiting: Vec<_> =
        (0..50).map(|_| thread::spawn(|| request(HTTP, "HEAD", "/beacon.js", &[], b"").status)).collect();
    // it is tried again and again, since they wait
    wait_for("more tries", || {
        (debian.journal().matches("--segment-size must be from 1MiB").count() >= 5).then_some(())
    });
    assert_eq!(debian.property(SOCKETS[0], "ActiveState"), "active");
    std::fs::write(&settings, good).unwrap();
    debian.does(&["systemctl", "restart", COLLECTOR]);
    for waiting in waiting {
        assert_eq!(waiting.join().unwrap(), 200);
    }
}

fn kill(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid.try_into().unwrap()).unwrap(), signal).unwrap();
}

/// What was answered is in the output, each once.
fn counts_each(debian: &Debian, answered: &[u64; KINDS.len()]) {
    debian.does(&["systemctl", "stop", SOCKETS[0], SOCKETS[1], SOCKETS[2], COLLECTOR, COMPACTOR]);
    let as_tallylight =
        ["setpriv", "--reuid=tallylight", "--regid=tallylight", "--init-groups", "tallylight-compactor"];
    debian.does(&[&as_tallylight[..], &["--once", "--data", DATA]].concat());
    let audit = debian.does(&[&as_tallylight[..], &["audit", "--json", "--data", DATA]].concat());
    let audit: Value = serde_json::from_str(&audit).unwrap();
    assert_eq!(audit["adds_up"], true, "{audit:#}");
    let counted = python::read("by_site.py", &[debian.path(DATA).join("out")]);
    for (kind, answered) in KINDS.iter().zip(answered) {
        for name in ["rows", "ids", "items", "events"] {
            assert_eq!(counted[kind][name], *answered, "{kind}: {name}: {counted}");
        }
        assert_eq!(counted[kind]["duplicates"], 0, "{kind}");
    }
}

fn is_started_by_a_connection(debian: &Debian) {
    debian.does(&["systemctl", "start", SOCKETS[0]]);
    assert_eq!(debian.property(COLLECTOR, "ActiveState"), "inactive");
    assert_eq!(request(HTTP, "HEAD", "/beacon.js", &[], b"").status, 200);
    debian.does(&["systemctl", "start", COMPACTOR]);
    wait_for_within(Duration::from_secs(60), "both to be ready", || {
        let is_ready = |admin| try_request(admin, "GET", "/readyz", &[], b"").is_ok_and(|reply| reply.status == 200);
        (is_ready(COLLECTOR_ADMIN) && is_ready(COMPACTOR_ADMIN)).then_some(())
    });
}
