//! What ends TLS in front of collectors, as `deploy/haproxy` and `deploy/nginx` have it: the real programs, with those files as
//! they are but for certificate and addresses, and visitors who come over HTTPS from addresses of their own.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::harness::{
    Collector, Environment, Over, Reply, Sockets, assert_ledger_adds_up, free_addr, inspect, wait_for, workspace,
};

const CLIENTS: [&str; 2] = ["127.0.0.7", "127.0.0.8"];
const VERSIONS: [(&str, &str); 2] = [("--http1.1", "1.1"), ("--http2", "2")];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Haproxy,
    Nginx,
}

impl Kind {
    const ALL: [Self; 2] = [Self::Haproxy, Self::Nginx];

    fn file(self) -> &'static str {
        match self {
            Self::Haproxy => "deploy/haproxy/haproxy.cfg",
            Self::Nginx => "deploy/nginx/tallylight.conf",
        }
    }

    /// What its collectors are to be told, as the file says.
    fn flags(self) -> Vec<&'static str> {
        let text = fs::read_to_string(workspace().join(self.file())).unwrap();
        let flags: &[&str] = match self {
            Self::Haproxy => &["--proxy-protocol", "--trusted-proxy=127.0.0.1"],
            Self::Nginx => &["--trusted-proxy=127.0.0.1"],
        };
        let told = flags.join(" ").replace("127.0.0.1", "ADDRESS");
        assert!(text.contains(&told), "{} does not say {told}", self.file());
        flags.to_vec()
    }

    fn collector(self, data: &Path) -> Collector {
        Collector::start(data, &[self.flags(), vec!["--ip=keep", "--segment-size=4MiB", "--reserve=1MiB"]].concat())
    }

    /// What is changed in the file: what is there, and what stands for it here.
    fn changes(self, addr: SocketAddr, folder: &Path, collectors: &[SocketAddr]) -> Vec<(String, String)> {
        let path = |file: &str| folder.join(file).display().to_string();
        let mut changes = match self {
            Self::Haproxy => vec![
                ("bind :::443 v4v6".to_owned(), format!("bind {addr}")),
                ("/etc/haproxy/tallylight.pem".to_owned(), path("tallylight.pem")),
            ],
            Self::Nginx => vec![
                ("listen 443 ssl".to_owned(), format!("listen {addr} ssl")),
                ("    listen [::]:443 ssl http2;\n".to_owned(), String::new()),
                ("/etc/nginx/tallylight/fullchain.pem".to_owned(), path("fullchain.pem")),
                ("/etc/nginx/tallylight/key.pem".to_owned(), path("key.pem")),
            ],
        };
        let name =
            |letter: &str| if self == Self::Haproxy { format!("server {letter} ") } else { "server ".to_owned() };
        changes.push((format!("{}127.0.0.1:5000", name("a")), format!("{}{}", name("a"), collectors[0])));
        if let Some(second) = collectors.get(1) {
            changes.push((format!("# {}192.0.2.2:5000", name("b")), format!("{}{second}", name("b"))));
        }
        changes
    }
}

/// One of them, running. Dropping it ends it.
struct Front {
    kind: Kind,
    addr: SocketAddr,
    child: Child,
    folder: TempDir,
}

impl Front {
    /// Before these collectors.
    fn start(kind: Kind, collectors: &[SocketAddr]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let addr = free_addr();
        make_certificate(folder.path());
        let mut text = fs::read_to_string(workspace().join(kind.file())).unwrap();
        for (there, here) in kind.changes(addr, folder.path(), collectors) {
            assert_eq!(text.matches(&there).count(), 1, "{there} in {}", kind.file());
            text = text.replace(&there, &here);
        }
        let file = folder.path().join("config");
        fs::write(&file, text).unwrap();
        let (program, check, run) = match kind {
            Kind::Haproxy => ("haproxy", vec!["-c"], vec!["-db"]),
            Kind::Nginx => ("nginx", vec!["-t"], vec!["-g", "daemon off;"]),
        };
        let command = |flags: &[&str]| {
            // where Debian has them is not in everybody's path
            let mut command = Command::new(Path::new("/usr/sbin").join(program));
            match kind {
                Kind::Haproxy => command.arg("-f").arg(&file),
                Kind::Nginx => command.arg("-p").arg(folder.path()).arg("-c").arg(nginx_main(folder.path(), &file)),
            };
            command.args(flags);
            command
        };
        let checked = command(&check).output().unwrap_or_else(|error| panic!("{program}, of `make test-env`: {error}"));
        let said = String::from_utf8_lossy(&checked.stderr) + String::from_utf8_lossy(&checked.stdout);
        assert!(checked.status.success(), "{said}");
        assert!(!said.to_lowercase().contains("[warn"), "{said}");
        let output = || File::options().create(true).append(true).open(folder.path().join("said")).unwrap();
        let child = command(&run).stdin(Stdio::null()).stdout(output()).stderr(output()).spawn().unwrap();
        let mut front = Self { kind, addr, child, folder };
        wait_for("the front to serve", || {
            let ended = front.child.try_wait().unwrap();
            assert!(ended.is_none(), "{program} ended: {}", front.said());
            front.try_ask("/beacon.js", &[]).ok()
        });
        front
    }

    /// A request over HTTPS, on a connection of its own. Why there was no answer, if there was none.
    fn try_ask(&self, path: &str, flags: &[&str]) -> Result<Answer, String> {
        let file = |name: &str| self.folder.path().join(format!("{name}-{:?}", thread::current().id()));
        let (head, body) = (file("head"), file("body"));
        let mut curl = Command::new("curl");
        curl.args([
            "--silent",
            "--show-error",
            "--max-time",
            "20",
            "--write-out",
            "%{http_version} %{time_total}",
            "--cacert",
        ]);
        curl.arg(self.folder.path().join("fullchain.pem")).arg("--dump-header").arg(&head).arg("--output").arg(&body);
        let output = curl.args(flags).arg(format!("https://{}{path}", self.addr)).output().expect("curl runs");
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        let said = String::from_utf8(output.stdout).unwrap();
        let (version, seconds) = said.split_once(' ').unwrap();
        let mut reply = Reply::parse(&fs::read(head).unwrap()).unwrap();
        reply.body = fs::read(body).unwrap_or_default();
        Ok(Answer { reply, version: version.to_owned(), seconds: seconds.parse().unwrap() })
    }

    fn ask(&self, path: &str, flags: &[&str]) -> Answer {
        let answer = self.try_ask(path, flags);
        answer.unwrap_or_else(|why| panic!("{:?}, {path} {flags:?}: {why}\n{}", self.kind, self.said()))
    }

    fn status(&self, path: &str, flags: &[&str]) -> u16 {
        self.ask(path, flags).reply.status
    }

    fn said(&self) -> String {
        fs::read_to_string(self.folder.path().join("said")).unwrap_or_default()
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        // nginx ends its workers, which a SIGKILL would leave behind
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let _ = self.child.wait();
    }
}

struct Answer {
    reply: Reply,
    version: String,
    seconds: f64,
}

/// One for 127.0.0.1, which signs itself.
fn make_certificate(folder: &Path) {
    let path = |file: &str| folder.join(file);
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]);
    openssl.args(["-subj", "/CN=collector.example", "-addext", "subjectAltName=IP:127.0.0.1"]);
    let output = openssl.arg("-keyout").arg(path("key.pem")).arg("-out").arg(path("fullchain.pem")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let both = ["fullchain.pem", "key.pem"].map(|file| fs::read(path(file)).unwrap()).concat();
    fs::write(path("tallylight.pem"), both).unwrap();
}

/// What includes the file as Debian's nginx.conf does, with all that is written in this folder.
fn nginx_main(folder: &Path, file: &Path) -> PathBuf {
    let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let temporary = temporary.map(|name| format!("{name}_temp_path {}/{name};", folder.display())).join(" ");
    let text = format!(
        "{user} worker_processes 2; pid {0}/pid; error_log stderr; events {{ }}\nhttp {{ {temporary} include {1}; }}\n",
        folder.display(),
        file.display(),
    );
    let main = folder.join("nginx.conf");
    fs::write(&main, text).unwrap();
    main
}

fn logged(collector: &Collector) -> u64 {
    collector.metrics().count("tallylight_events_logged_total")
}

#[test]
fn clicks_over_https_count_and_are_their_visitors_whatever_those_claim() {
    let script = fs::read(workspace().join("collector/client/beacon.min.js")).unwrap();
    let large = "event=many&item=none\n".repeat(1000);
    for kind in Kind::ALL {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let collector = kind.collector(&data);
        let front = Front::start(kind, &[collector.http]);
        let mut events = 0;
        for (flag, version) in VERSIONS {
            // the first one again, over connections to the collector that are there already
            for client in [CLIENTS[0], CLIENTS[1], CLIENTS[0]] {
                let ask = |path: &str, flags: &[&str]| {
                    let answer = front.ask(path, &[&[flag, "--interface", client], flags].concat());
                    assert_eq!(answer.version, version, "{kind:?}");
                    answer.reply
                };
                let pixel = ask(&format!("/api/beacon?event=click&item={client}"), &[]);
                assert_eq!((pixel.status, &pixel.body[..6]), (200, &b"GIF89a"[..]));
                let body = format!("event=buy&item={client}");
                assert_eq!(ask("/api/beacon?ack=synced", &["--data", &body]).status, 204);
                let claims = ["--header", "X-Forwarded-For: 192.0.2.66", "--header", "Forwarded: for=192.0.2.66"];
                let claimed = ask(&format!("/api/beacon?event=view&item={client}"), &claims);
                assert_eq!(claimed.status, 200);
                let script_of = ask("/beacon.js", &[]);
                assert_eq!((script_of.status, &script_of.body), (200, &script));
                events += 3;
            }
            let lines = |body: &str| {
                let flags = [flag, "--data-binary", body, "--header", "Content-Type: text/plain"];
                front.ask("/api/beacon", &flags).reply
            };
            assert_eq!(lines(&large).status, 204);
            events += 1000;
            let malformed = lines("nothing");
            assert_eq!((malformed.status, malformed.header("tallylight-refused")), (400, Some("malformed")));
            let preflight = ["--request", "OPTIONS", "--header", "Origin: https://shop.example"];
            let preflight = front.ask("/api/beacon", &[&[flag][..], &preflight].concat()).reply;
            assert_eq!(preflight.header("access-control-allow-origin"), Some("https://shop.example"));
        }
        wait_for("all to be logged", || (logged(&collector) == events).then_some(()));
        assert_ledger_adds_up(&collector);
        let logged = inspect(&data);
        assert_eq!(logged.len() as u64, events);
        for event in logged.iter().filter(|event| event["item"] != "none") {
            assert_eq!(event["ip"], event["item"], "{kind:?}: {event}");
        }
    }
}

#[test]
fn while_the_collector_is_down_the_answer_is_at_once_that_it_is_and_afterwards_all_is_well() {
    for kind in Kind::ALL {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let mut collector = kind.collector(&data);
        let front = Front::start(kind, &[collector.http]);
        let post = |name: &str| front.ask("/api/beacon", &["--data", &format!("event={name}")]);
        assert_eq!(post("before").reply.status, 204);
        collector.kill9();
        for _ in 0..3 {
            for path in ["/api/beacon", "/pixel.gif", "/beacon.js"] {
                let answer = front.ask(path, &[]);
                assert!([502, 503].contains(&answer.reply.status), "{kind:?}: {:?}", answer.reply);
                assert!(answer.seconds < 2.0, "{kind:?}: {} s", answer.seconds);
            }
            assert!([502, 503].contains(&post("meanwhile").reply.status), "{kind:?}");
        }
        collector.start_again();
        wait_for("the front to see it", || (post("after").reply.status == 204).then_some(()));
        let names: Vec<_> = inspect(&data).iter().map(|event| event["event"].clone()).collect();
        assert_eq!(names, ["before", "after"], "{kind:?}");

        collector.stop();
        let answer = post("to-one-that-hangs");
        assert!([503, 504].contains(&answer.reply.status), "{kind:?}: {:?}", answer.reply);
        assert!(answer.seconds < 9.0, "{kind:?}: {} s", answer.seconds);
        collector.cont();
        wait_for("the front to see it", || (post("after-all").reply.status == 204).then_some(()));
    }
}

#[test]
fn whoever_comes_while_the_collector_is_started_again_on_its_sockets_is_answered_a_moment_later() {
    for kind in Kind::ALL {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let mut collector = Collector::start_on(Sockets::open(), Environment::new(), &data, &kind.flags());
        let front = Front::start(kind, &[collector.http]);
        let over = Over::default();
        let posted = thread::scope(|scope| {
            let posting = scope.spawn(|| {
                let mut posted = 0;
                while !over.is_over() {
                    assert_eq!(
                        front.status("/api/beacon", &["--data", "event=buy"]),
                        204,
                        "{kind:?}: {}",
                        front.said()
                    );
                    posted += 1;
                }
                posted
            });
            let restarting = over.when_dropped();
            for _ in 0..2 {
                assert!(collector.terminate().success());
                collector.start_again();
            }
            drop(restarting);
            posting.join().unwrap()
        });
        assert!(posted > 0);
        assert_eq!(inspect(&data).len(), posted, "{kind:?}");
    }
}

#[test]
fn what_the_collector_says_of_what_it_cannot_take_comes_through_as_it_is() {
    for kind in Kind::ALL {
        let folder = tempfile::tempdir().unwrap();
        // more than any disk has
        let flags = [kind.flags(), vec!["--reserve=100TiB"]].concat();
        let mut collector = Collector::spawn_under(Environment::new(), &folder.path().join("data"), &flags);
        collector.wait_answers();
        let front = Front::start(kind, &[collector.http]);
        let post = || front.ask("/api/beacon", &["--data", "event=click", "--header", "Origin: https://shop.example"]);
        let reply = wait_for("it to shed", || Some(post().reply).filter(|reply| reply.status == 503));
        assert_eq!(reply.header("tallylight-refused"), Some("disk"), "{kind:?}");
        assert!(reply.header("retry-after").is_some(), "{kind:?}");
        assert_eq!(reply.header("access-control-allow-origin"), Some("https://shop.example"));
        assert_eq!(front.status("/beacon.js", &[]), 200, "{kind:?}: pages still get the script");
    }
}

#[test]
fn of_two_collectors_the_one_that_is_there_takes_all_and_nothing_counts_twice() {
    for kind in Kind::ALL {
        let folder = tempfile::tempdir().unwrap();
        let data = ["a", "b"].map(|name| folder.path().join(name));
        let [mut one, other] = [0, 1].map(|n| kind.collector(&data[n]));
        let front = Front::start(kind, &[one.http, other.http]);
        let clicks = || {
            for n in 0..20 {
                let flags: &[&str] = if n % 2 == 0 { &[] } else { &["--data", "event=buy"] };
                assert_eq!(front.status("/api/beacon", flags) / 100, 2, "{kind:?}: {n}, {}", front.said());
            }
        };
        clicks();
        wait_for("all to be logged", || (logged(&one) + logged(&other) == 20).then_some(()));
        assert!(logged(&one) > 0 && logged(&other) > 0, "{kind:?}");
        one.kill9();
        clicks();
        wait_for("all to be logged", || (inspect(&data[0]).len() + inspect(&data[1]).len() == 40).then_some(()));
        assert_ledger_adds_up(&other);
    }
}
