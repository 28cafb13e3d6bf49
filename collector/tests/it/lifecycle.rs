//! How the collector starts and ends, and what its admin port says.

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::harness::{
    Collector, Metrics, assert_ledger_adds_up, collector_binary, free_addr, inspect, request, try_request, wait_for,
};
use crate::http::{Connection, Fixture, OF_HYPER, post};

/// Kills the process when dropped.
pub struct Killed(pub Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // it may have ended by itself
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

pub fn command(data: &Path, admin: SocketAddr, flags: &[&str]) -> Command {
    let mut command = Command::new(collector_binary());
    command.arg("--data").arg(data).args(["--admin", &admin.to_string(), "--udp=off"]).args(flags);
    command
}

/// Runs one that should end by itself; its exit code and what it said.
pub fn refused(data: &Path, flags: &[&str]) -> (Option<i32>, String) {
    let mut child = Killed(command(data, free_addr(), flags).stderr(Stdio::piped()).spawn().unwrap());
    let code = wait_for("the end of a collector that cannot start", || child.0.try_wait().unwrap()).code();
    let mut text = String::new();
    child.0.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    (code, text)
}

fn terminate(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
}

#[test]
fn what_is_in_flight_when_it_is_told_to_stop_is_answered_and_logged() {
    let mut fixture = Fixture::start(&[]);
    let request_bytes = post("", &[], b"event=last");
    let mut half_sent = fixture.connect();
    half_sent.send(&request_bytes[..request_bytes.len() - 4]);
    let mut idle = fixture.connect();
    idle.send("GET /api/beacon?event=first HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(idle.reply().status, 200);

    terminate(fixture.collector.pid());
    assert!(idle.is_closed());
    let reply = request(fixture.collector.admin, "GET", "/readyz", &[], b"");
    assert_eq!(reply.status, 503);
    assert!(reply.text().starts_with("draining"), "{}", reply.text());
    assert_eq!(request(fixture.collector.admin, "GET", "/healthz", &[], b"").status, 200);
    wait_for("the port to be closed", || TcpStream::connect(fixture.collector.http).is_err().then_some(()));

    half_sent.send(&request_bytes[request_bytes.len() - 4..]);
    let reply = half_sent.reply();
    assert_eq!((reply.status, reply.header("connection")), (204, Some("close")));
    assert!(half_sent.is_closed());
    let status = wait_for("its end", || fixture.collector.ended());
    assert!(status.success(), "{status}\n{}", fixture.collector.stderr());
    let events: Vec<_> = inspect(&fixture.collector.data).iter().map(|event| event["event"].clone()).collect();
    assert_eq!(events, ["first", "last"]);
}

#[test]
fn what_is_sent_on_idle_connections_while_it_is_told_to_stop_is_answered_and_is_the_last() {
    let mut fixture = Fixture::start(&[]);
    let mut idle: Vec<Connection> = (0..20).map(|_| fixture.connect()).collect();
    for (n, connection) in idle.iter_mut().enumerate() {
        if n % 2 == 0 {
            connection.send(OF_HYPER);
            assert_eq!(connection.reply().status, 404);
        }
        connection.send(post("", &[], b"event=first"));
        let reply = connection.reply();
        assert_eq!((reply.status, reply.header("connection")), (204, None));
    }
    terminate(fixture.collector.pid());
    wait_for("the end to begin", || {
        try_request(fixture.collector.admin, "GET", "/readyz", &[], b"").ok().filter(|reply| reply.status == 503)
    });
    assert!(idle[0].stays_open_for(Duration::from_millis(100)));
    for connection in &mut idle {
        connection.send(post("", &[], b"event=last"));
    }
    for connection in &mut idle {
        let reply = connection.reply();
        assert_eq!((reply.status, reply.header("connection")), (204, Some("close")));
        assert!(connection.is_closed());
    }
    assert!(wait_for("its end", || fixture.collector.ended()).success());
    assert_eq!(inspect(&fixture.collector.data).len(), 40);
}

#[test]
fn idle_connections_do_not_hold_up_the_end() {
    let mut fixture = Fixture::start(&["--drain-timeout=1h"]);
    let mut http1 = fixture.connect();
    http1.send("GET /api/beacon HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(http1.reply().status, 200);
    let _silent = fixture.connect();
    let mut http2 = fixture.connect();
    http2.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
    wait_for("all to be accepted", || (fixture.connections() == 3.0).then_some(()));
    let status = fixture.collector.terminate();
    assert!(status.success(), "{status}");
}

#[test]
fn what_is_about_to_be_sent_when_it_is_told_to_stop_is_taken() {
    let mut fixture = Fixture::start(&[]);
    let mut silent: Vec<Connection> = (0..20).map(|_| fixture.connect()).collect();
    wait_for("all to be accepted", || (fixture.connections() == 20.0).then_some(()));
    terminate(fixture.collector.pid());
    wait_for("the end to begin", || {
        try_request(fixture.collector.admin, "GET", "/readyz", &[], b"").ok().filter(|reply| reply.status == 503)
    });
    for connection in &mut silent {
        connection.send(post("", &[], b"a=1"));
    }
    for connection in &mut silent {
        assert_eq!(connection.reply().status, 204);
    }
    assert!(wait_for("its end", || fixture.collector.ended()).success());
}

#[test]
fn what_takes_too_long_when_it_is_told_to_stop_is_shed() {
    let mut fixture = Fixture::start(&["--drain-timeout=200ms", "--body-timeout=1h"]);
    let mut half_sent = fixture.connect();
    half_sent.send("POST /api/beacon HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\na");
    let mut nothing_sent = fixture.connect();
    let mut half_a_head = fixture.connect();
    half_a_head.send("GET /api/beacon HTT");
    wait_for("all to be accepted", || (fixture.connections() == 3.0).then_some(()));
    let status = fixture.collector.terminate();
    assert!(status.success(), "{status}");
    let reply = half_sent.reply();
    assert_eq!((reply.status, reply.header("tallylight-refused")), (503, Some("draining")));
    assert!(reply.header("retry-after").unwrap().parse::<u32>().unwrap() > 0);
    assert!(nothing_sent.is_closed());
    assert!(half_a_head.try_reply().is_none());
}

#[test]
fn connections_that_wait_to_be_accepted_when_it_is_told_to_stop_are_answered() {
    let mut fixture = Fixture::start(&["--workers=1"]);
    let stop = |signal| {
        let pid = rustix::process::Pid::from_raw(fixture.collector.pid().try_into().unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    };
    // stopped, it accepts nothing; it finds the signal and the connections together
    stop(rustix::process::Signal::STOP);
    let mut waiting: Vec<_> = (0..50).map(|_| fixture.connect()).collect();
    for connection in &mut waiting {
        connection.send(post("", &[], b"a=1"));
    }
    stop(rustix::process::Signal::TERM);
    stop(rustix::process::Signal::CONT);
    for connection in &mut waiting {
        assert_eq!(connection.reply().status, 204);
    }
    let status = wait_for("its end", || fixture.collector.ended());
    assert!(status.success(), "{status}");
    assert_eq!(inspect(&fixture.collector.data).len(), 50);
}

#[test]
fn who_connects_while_it_begins_to_listen_is_answered() {
    let (folder, http) = (tempfile::tempdir().unwrap(), free_addr());
    // who connects comes between any two calls where they take this long
    let mut command = Command::new("strace");
    command.args(["-D", "-f", "-qq", "-o", "/dev/null", "-e", "inject=listen:delay_exit=100000", "--"]);
    command.arg(collector_binary()).args(["--http", &http.to_string(), "--admin=127.0.0.1:0", "--udp=off"]);
    command.args(["--workers=2", "--data"]).arg(folder.path().join("data"));
    let _collector = Killed(command.spawn().unwrap());
    let mut connection = wait_for("a connection", || Connection::open_from(Ipv4Addr::LOCALHOST, http).ok());
    connection.send("GET /api/beacon?event=first HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(connection.reply().status, 200);
}

#[test]
fn a_second_collector_on_the_same_data_is_refused_and_harms_nothing() {
    let fixture = Fixture::start(&[]);
    let (code, text) = refused(&fixture.collector.data, &["--http=127.0.0.1:0"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("another collector runs on"), "{text}");
    assert_eq!(fixture.collector.request("POST", "/api/beacon", &[], b"a=1").status, 204);
    fixture.assert_ledger([1, 1, 0]);
}

#[test]
fn a_taken_port_and_unusable_arguments_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let empty = folder.path().join("empty");
    std::fs::write(&empty, "# none\n").unwrap();
    for (flags, code, word) in [
        (["--http", &addr], 1, addr.as_str()),
        (["--http=127.0.0.1:0", &format!("--admin={addr}")], 2, "--admin"),
        (["--http", "nowhere"], 2, "--http"),
        (["--segment-size", "1KiB"], 2, "--segment-size"),
        (["--site-file", empty.to_str().unwrap()], 2, "no site"),
        (["--site-file", "/nonexistent/file"], 2, "/nonexistent/file"),
        (["--redirect-key", "/nonexistent/file"], 2, "/nonexistent/file"),
        (["--tls-cert", "/nonexistent/file"], 2, "--tls-cert"),
    ] {
        let (ended, text) = refused(&data, &flags);
        assert_eq!(ended, Some(code), "{flags:?}: {text}");
        assert!(text.contains(word), "{flags:?}: {text}");
    }
    // a taken admin port, said once
    let mut command = command(&data, taken.local_addr().unwrap(), &["--http=127.0.0.1:0"]);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains(&addr));
}

#[test]
fn a_port_of_zero_is_any_free_one_and_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let flags = ["--http=127.0.0.1:0,127.0.0.1:0", "--segment-size=1MiB", "--reserve=1MiB", "--workers=3"];
    let mut child = command(folder.path(), free_addr(), &flags);
    let log = folder.path().join("stderr");
    let _child = Killed(child.stderr(std::fs::File::create(&log).unwrap()).spawn().unwrap());
    let line = wait_for("the line that tells", || {
        let text = std::fs::read_to_string(&log).unwrap();
        text.lines().find(|line| line.contains("listening http=")).map(ToOwned::to_owned)
    });
    let addrs = line.split("listening http=").nth(1).unwrap().split(' ').next().unwrap();
    let addrs: Vec<SocketAddr> = addrs.split(',').map(|addr| addr.parse().unwrap()).collect();
    assert_eq!(addrs.len(), 2);
    for addr in addrs {
        // more than one connection, for more than one worker
        for _ in 0..10 {
            assert_eq!(request(addr, "GET", "/api/beacon", &[], b"").status, 200);
        }
    }
}

#[test]
fn a_full_disk_sheds_says_so_and_counts_each_event() {
    let folder = tempfile::tempdir().unwrap();
    let (http, admin) = (free_addr(), free_addr());
    // no disk has that much free space
    let flags = ["--http", &http.to_string(), "--reserve", "1000000TiB", "--segment-size=1MiB"];
    let mut child = Killed(command(folder.path(), admin, &flags).stderr(Stdio::null()).spawn().unwrap());
    wait_for("the port", || try_request(http, "HEAD", "/api/beacon", &[], b"").ok());
    let mut pixels = 0;
    let reply = wait_for("events to be shed", || {
        pixels += 1;
        Some(request(http, "GET", "/api/beacon", &[], b"")).filter(|reply| reply.status == 503)
    });
    assert_eq!((reply.header("tallylight-refused"), reply.body.len()), (Some("disk"), 43));
    let reply = request(http, "POST", "/api/beacon", &[], b"[{},{},{}]");
    assert_eq!((reply.status, reply.header("tallylight-refused")), (503, Some("disk")));
    assert!(reply.header("retry-after").unwrap().parse::<u32>().unwrap() > 0);
    let reply = request(admin, "GET", "/readyz", &[], b"");
    assert_eq!(reply.status, 503);
    assert!(reply.text().starts_with("disk"), "{}", reply.text());
    // those answered with 200 before the log had said so are shed all the same
    wait_for("each event to be counted", || {
        let shed = Metrics::of(admin).get("tallylight_events_shed_total{reason=\"disk\"}");
        (shed == f64::from(pixels + 3)).then_some(())
    });
    terminate(child.0.id());
    let status = wait_for("its end", || child.0.try_wait().unwrap());
    assert!(status.success(), "{status}");
}

#[test]
fn a_node_keeps_its_name() {
    let mut fixture = Fixture::start(&[]);
    let name = || std::fs::read_to_string(fixture.collector.data.join("node")).unwrap();
    let first = name();
    assert!(tallylight_proto::layout::is_node_name(first.trim()), "{first}");
    fixture.collector.kill9();
    fixture.collector.start_again();
    assert_eq!(std::fs::read_to_string(fixture.collector.data.join("node")).unwrap(), first);
}

#[test]
fn every_promised_metric_is_there_from_the_start_and_promtool_has_nothing_to_say() {
    let fixture = Fixture::start(&[]);
    let metrics = fixture.collector.metrics();
    let of = |name: &str, label: &str, values: &[&str]| {
        for value in values {
            assert_eq!(metrics.get(&format!("tallylight_{name}_total{{{label}=\"{value}\"}}")), 0.0);
        }
    };
    of("events_received", "front", &["http1", "http2", "http3", "udp"]);
    of("events_shed", "reason", &["queue", "disk", "draining", "rate"]);
    of("events_refused", "reason", &["malformed", "site", "too_large", "type", "speculative", "signature"]);
    of("udp_datagrams_refused", "reason", &["tag", "plain", "stale", "malformed", "address"]);
    for name in ["received", "lost", "recovered", "duplicate", "kernel_dropped"] {
        assert_eq!(metrics.get(&format!("tallylight_udp_datagrams_{name}_total")), 0.0);
    }
    for name in ["tallylight_events_logged_total", "tallylight_debug_requests_total"] {
        assert_eq!(metrics.get(name), 0.0);
    }

    for _ in 0..100 {
        fixture.collector.request("GET", "/api/beacon", &[], b"");
        fixture.collector.request("POST", "/api/beacon?ack=synced", &[], b"a=1");
    }
    assert_ledger_adds_up(&fixture.collector);
    let metrics = fixture.collector.metrics();
    let count = |series: &str| metrics.get(series);
    assert_eq!(count("tallylight_http_request_duration_seconds_count{front=\"http1\"}"), 200.0);
    assert_eq!(count("tallylight_http_request_duration_seconds_bucket{front=\"http1\",le=\"+Inf\"}"), 200.0);
    assert!(count("tallylight_http_request_duration_seconds_sum{front=\"http1\"}") > 0.0);
    assert_eq!(count("tallylight_ack_wait_seconds_count{level=\"synced\"}"), 100.0);
    assert_eq!(count("tallylight_http_responses_total{code=\"2xx\"}"), 200.0);
    let outcome = r#"tallylight_event_outcomes_total{front="http1",outcome="logged",reason="none"}"#;
    assert_eq!(count(outcome), 200.0);

    let page = request(fixture.collector.admin, "GET", "/metrics", &[], b"");
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = promtool.spawn().expect("promtool of Debian's prometheus is installed: `make test-env`");
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), &page.body).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success() && said.is_empty(), "{}", String::from_utf8_lossy(&said));
    for line in page.text().lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let name = line.split(' ').next().unwrap();
        assert!(page.text().contains(&format!("# HELP {name} ")), "{name} has no HELP");
    }
}

#[test]
fn the_same_flags_work_as_environment_variables() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two, admin) = (free_addr(), free_addr(), free_addr());
    let mut command = Command::new(collector_binary());
    command.env("TALLYLIGHT_DATA", folder.path()).env("TALLYLIGHT_HTTP", format!("{one},{two}"));
    command.env("TALLYLIGHT_ADMIN", admin.to_string()).env("TALLYLIGHT_SEGMENT_SIZE", "1MiB");
    command.env("TALLYLIGHT_UDP", free_addr().to_string());
    command
        .env("TALLYLIGHT_RESERVE", "1MiB")
        .env("TALLYLIGHT_SITE", "a.example,b.example")
        .env("TALLYLIGHT_DEMO", "true");
    let _child = Killed(command.stderr(Stdio::null()).spawn().unwrap());
    wait_for("readiness", || try_request(admin, "GET", "/readyz", &[], b"").ok().filter(|reply| reply.status == 200));
    for (addr, path, status) in [
        (one, "/api/beacon?site=a.example", 200),
        (two, "/api/beacon?site=b.example", 200),
        (two, "/api/beacon?site=c.example", 403),
        (one, "/demo/", 200),
    ] {
        assert_eq!(request(addr, "GET", path, &[], b"").status, status, "{path}");
    }
}

#[test]
fn it_starts_again_after_a_kill_with_all_that_was_acknowledged() {
    let mut fixture = Fixture::start(&[]);
    for n in 0..50 {
        let body = format!("event=n{n}");
        assert_eq!(fixture.collector.request("POST", "/api/beacon", &[], body.as_bytes()).status, 204);
    }
    fixture.collector.kill9();
    let Collector { data, .. } = &fixture.collector;
    assert_eq!(inspect(data).len(), 50);
    fixture.collector.start_again();
    assert_eq!(fixture.collector.request("POST", "/api/beacon", &[], b"event=after").status, 204);
    assert_eq!(inspect(&fixture.collector.data).len(), 51);
}
