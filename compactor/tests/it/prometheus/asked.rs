//! What the rules and the dashboard ask Prometheus for.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::harness::{test_env, workspace};

/// What an expression asks for.
#[derive(Debug)]
pub struct Asked {
    pub expression: String,
    /// As selectors, each an expression in itself.
    pub series: Vec<String>,
    /// By which it groups or matches.
    pub labels: Vec<String>,
}

/// A line of the dashboard.
#[derive(Debug)]
pub struct Line {
    pub panel: String,
    /// For a Prometheus without Grafana.
    pub expression: String,
    /// Those that its legend shows.
    pub labels: Vec<String>,
}

/// Reads expressions by Prometheus' own grammar.
pub fn read(expressions: Vec<String>) -> Vec<Asked> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/readers/promql.mjs");
    let mut node = Command::new("node");
    node.arg(script).arg(test_env("node_modules")).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = node.spawn().expect("node runs: `make test-env` installs it");
    serde_json::to_writer(child.stdin.take().unwrap(), &expressions).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "promql.mjs: {}", output.status);
    let answers: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answers.len(), expressions.len());
    let read = |(expression, answer): (String, Value)| {
        let [series, labels] = ["series", "labels"].map(|key| serde_json::from_value(answer[key].clone()).unwrap());
        Asked { expression, series, labels }
    };
    expressions.into_iter().zip(answers).map(read).collect()
}

/// The dashboard, with its panels in their order, rows left out.
pub struct Dashboard {
    pub document: Value,
    pub panels: Vec<Value>,
}

impl Dashboard {
    pub fn load() -> Self {
        let text = fs::read_to_string(workspace().join("deploy/grafana/tallylight.json")).unwrap();
        let document: Value = serde_json::from_str(&text).unwrap();
        let panels = document["panels"].as_array().unwrap().iter().filter(|panel| panel["type"] != "row");
        Self { panels: panels.cloned().collect(), document }
    }

    /// All lines of all panels. What Grafana puts in is put in here as a fresh dashboard has it: all instances, a
    /// short interval.
    pub fn lines(&self) -> Vec<Line> {
        let of_panel = |panel: &Value| {
            let name = panel["title"].as_str().unwrap().to_owned();
            let targets = panel["targets"].as_array().unwrap().clone();
            targets.into_iter().map(move |target| Line {
                panel: name.clone(),
                expression: (target["expr"].as_str().unwrap())
                    .replace("$instance", ".*")
                    .replace("$__rate_interval", "1m")
                    .replace("$__range", "6h"),
                labels: legend_labels(target["legendFormat"].as_str().unwrap()),
            })
        };
        self.panels.iter().flat_map(of_panel).collect()
    }
}

/// Those in `{{…}}`.
fn legend_labels(legend: &str) -> Vec<String> {
    let inside = legend.split("{{").skip(1);
    inside.map(|rest| rest.split("}}").next().unwrap().trim().to_owned()).collect()
}
