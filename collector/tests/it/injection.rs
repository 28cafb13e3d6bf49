//! Nothing that a stranger sends reaches a terminal or a log as it came: neither the collector's own log, also where that
//! says everything, nor its metrics, nor what `inspect` prints.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::harness::{Compactor, PATIENCE, collector_binary, free_addr, inspect, request, try_request, wait_for};
use crate::lifecycle::Killed;

/// A line break with a forged line, colours, a title, DEL, a C1 control, a change of direction, a line separator.
const EVIL: &str =
    "x\r\n2026-01-01T00:00:00Z ERROR forged\x1b[31m\x1b]0;title\x07\x7f\u{9b}31m\u{85}\u{202e}\u{2028}\0";

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02x}")).collect()
}

/// A character that a terminal may act on, or that makes one line look like two.
fn is_raw(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn assert_harmless(what: &str, text: &str) {
    for line in text.lines() {
        assert!(!line.contains(is_raw), "{what}: {:?}", line);
        assert!(!line.trim_start().starts_with("2026-01-01T00:00:00Z"), "{what}: {line:?}");
    }
}

/// Sends bytes and waits until the collector has said what it has to say.
fn send(http: SocketAddr, bytes: &[u8]) {
    let mut stream = TcpStream::connect_timeout(&http, PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(bytes).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    // a reset is an answer, too
    let _ = stream.read_to_end(&mut Vec::new());
}

/// All ways in, each with all of it where it may stand.
fn send_all(http: SocketAddr, udp: SocketAddr) -> usize {
    let evil = encoded(EVIL);
    let keys = ["site", "event", "target", "page", "item", "placement", "visitor", "ua", &evil];
    let query = keys.map(|key| format!("{key}={evil}")).join("&");
    for path in ["/api/beacon", "/pixel.gif", "/r", &format!("/{evil}")] {
        send(http, format!("GET {path}?{query} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes());
    }
    send(http, format!("GET /api/beacon?debug=1&{query} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes());
    let json = serde_json::json!({"site": EVIL, "event": EVIL, EVIL: EVIL}).to_string();
    for body in [json.as_str(), &query, EVIL] {
        let head = format!("POST /api/beacon HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len());
        send(http, &[head.as_bytes(), body.as_bytes()].concat());
        UdpSocket::bind("127.0.0.1:0").unwrap().send_to(body.as_bytes(), udp).unwrap();
    }
    // raw where HTTP does not allow it, and where it does: bytes from 0x80 on
    for line in [
        format!("GET /{EVIL} HTTP/1.1\r\nHost: x\r\n\r\n"),
        format!("{EVIL} / HTTP/1.1\r\nHost: x\r\n\r\n"),
        format!("GET /api/beacon HTTP/1.1\r\nHost: x\r\nUser-Agent: {EVIL}\r\n\r\n"),
        format!("GET /api/beacon HTTP/1.1\r\nHost: x\r\n{EVIL}: a\r\n\r\n"),
        "GET /api/beacon HTTP/1.1\r\nHost: x\r\nUser-Agent: \u{9b}31m\u{85}\u{202e}\u{2028}\r\n\r\n".to_owned(),
        "GET /api/beacon HTTP/1.1\r\nHost: x\r\nReferer: \u{9b}31m\u{85}\u{202e}\u{2028}\r\nOrigin: \u{9b}\r\n\r\n"
            .to_owned(),
        format!("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{EVIL}"),
    ] {
        send(http, line.as_bytes());
    }
    // what is not refused: pixel twice, the JSON and the query as bodies and datagrams, and the two last heads
    2 + 2 * 2 + 2
}

/// Runs a collector under attack, and gives what it wrote to stderr.
fn attacked(folder: &Path, format: &str) -> String {
    let [http, udp, admin] = [(); 3].map(|()| free_addr());
    let (data, log) = (folder.join("data"), folder.join("stderr"));
    let mut command = Command::new(collector_binary());
    command.arg("--data").arg(&data).args(["--http", &http.to_string(), "--udp", &udp.to_string()]);
    command.args(["--admin", &admin.to_string()]);
    command.env("TALLYLIGHT_LOG", "trace").env("TALLYLIGHT_LOG_FORMAT", format).stderr(File::create(&log).unwrap());
    let mut child = Killed(command.spawn().unwrap());
    wait_for("the collector", || {
        try_request(admin, "GET", "/readyz", &[], b"").ok().filter(|reply| reply.status == 200)
    });
    let events = send_all(http, udp);
    let page = wait_for("all to be logged", || {
        let page = request(admin, "GET", &format!("/metrics?{}", encoded(EVIL)), &[], b"").text();
        page.contains(&format!("\ntallylight_events_logged_total {events}\n")).then_some(page)
    });
    assert_harmless("/metrics", &page);
    for path in ["/udp/sources", &format!("/{}", encoded(EVIL))] {
        assert_harmless(path, &request(admin, "GET", path, &[], b"").text());
    }
    let pid = rustix::process::Pid::from_child(&child.0);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(child.0.wait().unwrap().success());
    fs::read_to_string(log).unwrap()
}

#[test]
fn what_strangers_send_cannot_forge_lines_or_reach_a_terminal() {
    let folder = tempfile::tempdir().unwrap();
    for format in ["text", "json"] {
        let folder = folder.path().join(format);
        fs::create_dir(&folder).unwrap();
        let stderr = attacked(&folder, format);
        assert!(stderr.lines().count() > 20, "trace says a lot: {stderr}");
        assert_harmless(format, &stderr);
        for line in stderr.lines().filter(|_| format == "json") {
            serde_json::from_str::<Value>(line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
        }
        let data = folder.join("data");
        let Output { status, stdout, .. } = Compactor::run(&["--data".as_ref(), data.as_os_str(), "inspect".as_ref()]);
        assert!(status.success());
        let printed = String::from_utf8(stdout).unwrap();
        assert_harmless("inspect", &printed);
        // and nothing is lost by that
        let events = inspect(&data);
        assert_eq!(events.len(), printed.lines().count());
        assert!(events.iter().any(|event| event["target"] == EVIL), "{printed}");
    }
}
