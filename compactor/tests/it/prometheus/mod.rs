//! What Prometheus itself says of the metrics of both programs.

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::client::{self, Click, Client, Form};
use crate::harness::{
    Collector, Compactor, assert_audit, assert_compactor_ledger_adds_up, assert_ledger_adds_up, free_addr, request,
    try_request, wait_for,
};

/// Both programs, at work.
struct Pair {
    collector: Collector,
    compactor: Compactor,
    _folder: tempfile::TempDir,
}

impl Pair {
    /// With these many events in the log and in the output.
    fn with_events(events: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (data, out) = (folder.path().join("data"), folder.path().join("out"));
        let collector = Collector::start(&data, &[]);
        let compactor = Compactor::follow(&data, &out, &["--every", "100ms"]);
        let clicks: Vec<Click> = (0..events).map(|number| Click::new(1 << 40, number)).collect();
        Client::new(collector.http).post("/api/beacon", &client::body(&clicks, Form::Array), false);
        let read = || compactor.metrics().get("tallylight_compactor_events_read_total");
        #[expect(clippy::cast_precision_loss, reason = "a few hundred")]
        let all = events as f64;
        wait_for("the compactor to read all events", || (read() == all).then_some(()));
        assert_ledger_adds_up(&collector);
        assert_compactor_ledger_adds_up(&compactor);
        assert_audit(&data, &out);
        Self { collector, compactor, _folder: folder }
    }
}

#[test]
fn promtool_finds_nothing_to_complain_of_in_the_metrics_of_both_programs() {
    let pair = Pair::with_events(7);
    // each kind of answer has left its trace
    pair.collector.request("GET", "/api/beacon?event=x", &[], b"");
    pair.collector.request("POST", "/api/beacon", &[], b"[broken");
    for admin in [pair.collector.admin, pair.compactor.admin] {
        let page = request(admin, "GET", "/metrics", &[], b"").body;
        let mut promtool = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("promtool runs: `make test-env` installs it");
        promtool.stdin.take().unwrap().write_all(&page).unwrap();
        let output = promtool.wait_with_output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success() && said.is_empty(), "{}\n{}", output.status, String::from_utf8_lossy(&said));
    }
}

/// A real Prometheus that scrapes both programs. Dropping it kills it.
struct Prometheus {
    addr: SocketAddr,
    child: Child,
}

impl Prometheus {
    fn start(folder: &Path, targets: &[SocketAddr]) -> Self {
        let addr = free_addr();
        let targets: Vec<String> = targets.iter().map(ToString::to_string).collect();
        let config = folder.join("prometheus.yml");
        let text = format!(
            "global:\n  scrape_interval: 1s\nscrape_configs:\n  - job_name: tallylight\n    static_configs:\n      \
             - targets: {targets:?}\n"
        );
        fs::write(&config, text).unwrap();
        let mut command = Command::new("prometheus");
        command.arg(format!("--config.file={}", config.display()));
        command.arg(format!("--storage.tsdb.path={}", folder.join("tsdb").display()));
        command.arg(format!("--web.listen-address={addr}"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(folder.join("stderr")).unwrap());
        Self { addr, child: command.spawn().expect("prometheus runs: `make test-env` installs it") }
    }

    /// What a metric is now, by instance.
    fn query(&self, metric: &str) -> Option<Vec<(String, f64)>> {
        let reply = try_request(self.addr, "GET", &format!("/api/v1/query?query={metric}"), &[], b"").ok()?;
        let answer: Value = serde_json::from_slice(&reply.body).ok()?;
        let result = answer["data"]["result"].as_array()?;
        let sample = |sample: &Value| {
            let value = sample["value"][1].as_str()?.parse().ok()?;
            Some((sample["metric"]["instance"].as_str()?.to_owned(), value))
        };
        result.iter().map(sample).collect()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_real_prometheus_scrapes_both_programs() {
    let pair = Pair::with_events(123);
    let folder = tempfile::tempdir().unwrap();
    let prometheus = Prometheus::start(folder.path(), &[pair.collector.admin, pair.compactor.admin]);
    let said = || fs::read_to_string(folder.path().join("stderr")).unwrap();
    let up = |samples: &Vec<(String, f64)>| samples.len() == 2 && samples.iter().all(|(_, value)| *value == 1.0);
    wait_for("both to be up", || {
        assert!(!said().contains("level=error") && !said().contains("level=ERROR"), "{}", said());
        prometheus.query("up").filter(up)
    });
    for (metric, admin) in [
        ("tallylight_events_logged_total", pair.collector.admin),
        ("tallylight_compactor_events_counted_total", pair.compactor.admin),
    ] {
        let samples = wait_for(metric, || prometheus.query(metric).filter(|samples| !samples.is_empty()));
        assert_eq!(samples, [(admin.to_string(), 123.0)], "{metric}");
    }
}
