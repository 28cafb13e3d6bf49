//! A real Prometheus, with what is in `deploy/prometheus`.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use super::FOLDER;
use crate::harness::{Reply, free_addr, try_request, wait_for, workspace};

/// It scrapes both programs. Dropping it kills it.
pub struct Prometheus {
    addr: SocketAddr,
    child: Child,
    folder: TempDir,
}

/// One series, as of now.
#[derive(Debug)]
pub struct Sample {
    /// Without its name.
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

impl Prometheus {
    /// As it is deployed, but in a hurry, and with other targets.
    pub fn start(collectors: &[SocketAddr], compactor: SocketAddr) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let deployed = workspace().join(FOLDER);
        for rules in ["rules.yml", "alerts.yml"] {
            fs::copy(deployed.join(rules), folder.path().join(rules)).unwrap();
        }
        let mut config = fs::read_to_string(deployed.join("prometheus.yml")).unwrap();
        let listed = |targets: &[SocketAddr]| {
            let targets: Vec<String> = targets.iter().map(ToString::to_string).collect();
            format!("targets: {targets:?}")
        };
        for (deployed, here) in [
            ("scrape_interval: 15s", "scrape_interval: 1s".to_owned()),
            ("evaluation_interval: 15s", "evaluation_interval: 1s".to_owned()),
            (r#"targets: ["127.0.0.1:9600"]"#, listed(collectors)),
            (r#"targets: ["127.0.0.1:9601"]"#, listed(&[compactor])),
        ] {
            assert!(config.contains(deployed), "no {deployed} in {config}");
            config = config.replace(deployed, &here);
        }
        let file = folder.path().join("prometheus.yml");
        fs::write(&file, config).unwrap();

        let addr = free_addr();
        let mut command = Command::new("prometheus");
        command.arg(format!("--config.file={}", file.display()));
        command.arg(format!("--storage.tsdb.path={}", folder.path().join("tsdb").display()));
        command.arg(format!("--web.listen-address={addr}"));
        let stderr = fs::File::create(folder.path().join("stderr")).unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
        let child = command.spawn().expect("prometheus runs: `make test-env` installs it");
        let mut prometheus = Self { addr, child, folder };
        wait_for("prometheus to be ready", || {
            let ended = prometheus.child.try_wait().unwrap();
            assert!(ended.is_none(), "prometheus ended: {}", prometheus.said());
            try_request(addr, "GET", "/-/ready", &[], b"").ok().filter(|reply| reply.status == 200)
        });
        prometheus
    }

    /// What an expression gives now. Panics if it is none.
    pub fn query(&self, expression: &str) -> Vec<Sample> {
        let encoded: String = expression.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let data = self.get(&format!("/api/v1/query?query={encoded}"));
        let samples = data["result"].as_array().unwrap_or_else(|| panic!("{expression}: {data}"));
        let sample = |sample: &Value| {
            let labels = sample["metric"].as_object()?.iter().filter(|(name, _)| *name != "__name__");
            let labels = labels.map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())));
            Some(Sample { labels: labels.collect::<Option<_>>()?, value: sample["value"][1].as_str()?.parse().ok()? })
        };
        samples.iter().map(|one| sample(one).unwrap_or_else(|| panic!("{expression}: {one}"))).collect()
    }

    /// All rules, those of alerts among them, once each was evaluated without an error.
    pub fn rules(&self) -> Vec<Value> {
        wait_for("all rules to be evaluated", || {
            let data = self.get("/api/v1/rules");
            let groups = data["groups"].as_array().unwrap();
            let rules: Vec<Value> =
                groups.iter().flat_map(|group| group["rules"].as_array().unwrap()).cloned().collect();
            assert!(rules.iter().all(|rule| rule["health"] != "err"), "{rules:#?}");
            rules.iter().all(|rule| rule["health"] == "ok").then_some(rules)
        })
    }

    /// The alerts that fire.
    pub fn firing(&self) -> Vec<Value> {
        let data = self.get("/api/v1/alerts");
        data["alerts"].as_array().unwrap().iter().filter(|alert| alert["state"] == "firing").cloned().collect()
    }

    fn get(&self, path: &str) -> Value {
        let mut stream = TcpStream::connect(self.addr).unwrap();
        // HTTP/1.0: a long answer comes whole, too
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        let reply = Reply::parse(&bytes).unwrap();
        let answer: Value = serde_json::from_slice(&reply.body).unwrap();
        assert_eq!(answer["status"], "success", "{path}: {answer}");
        answer["data"].clone()
    }

    fn said(&self) -> String {
        fs::read_to_string(self.folder.path().join("stderr")).unwrap_or_default()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- stderr of prometheus:\n{}", self.said());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
