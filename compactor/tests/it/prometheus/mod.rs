//! What Prometheus itself says: of the metrics of both programs, and of all that `deploy/prometheus` and `deploy/grafana` ask
//! of them.

mod asked;
mod server;

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::net::{SocketAddr, UdpSocket};
use std::process::{Command, Stdio};

use crate::client::{self, Click, Client, Form};
use crate::harness::{
    Collector, Compactor, assert_audit, assert_compactor_ledger_adds_up, assert_ledger_adds_up, collector_binary,
    compactor_binary, free_addr, request, wait_for, workspace,
};

use asked::Dashboard;
use server::Prometheus;

/// What is deployed, in the workspace.
const FOLDER: &str = "deploy/prometheus";

/// Both programs, at work.
struct Pair {
    collector: Collector,
    compactor: Compactor,
    folder: tempfile::TempDir,
}

impl Pair {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (data, out) = (folder.path().join("data"), folder.path().join("out"));
        // the compactor first: it has counted nothing when it is first looked at
        let compactor = Compactor::follow(&data, &out, &["--every", "100ms"]);
        let collector = Collector::start(&data, &[]);
        Self { collector, compactor, folder }
    }

    /// With these many events in the log and in the output.
    fn with_events(events: u64) -> Self {
        let pair = Self::start();
        pair.post(events);
        pair.settle();
        pair
    }

    fn post(&self, events: u64) {
        let clicks: Vec<Click> = (0..events).map(|number| Click::new(1 << 40, number)).collect();
        Client::new(self.collector.http).post("/api/beacon", &client::body(&clicks, Form::Array), false);
    }

    /// Until all that was sent counts.
    fn settle(&self) {
        assert_ledger_adds_up(&self.collector);
        let logged = || self.collector.metrics().get("tallylight_events_logged_total");
        let read = || self.compactor.metrics().get("tallylight_compactor_events_read_total");
        wait_for("the compactor to read all events", || (read() == logged()).then_some(()));
        assert_compactor_ledger_adds_up(&self.compactor);
        assert_audit(&self.folder.path().join("data"), &self.folder.path().join("out"));
    }

    /// Whatever senders may get wrong, and names that nobody has used before.
    fn get_everything_wrong(&self) {
        for n in 0..20 {
            let path = format!("/api/beacon?event=made-up-{n}&site=s{n}&p{n}=x");
            self.collector.request("GET", &path, &[("User-Agent", &format!("agent {n}"))], b"");
            self.collector.request("POST", "/api/beacon", &[], b"[broken");
            self.collector.request("POST", "/api/beacon", &[("Content-Encoding", "br")], b"a=1");
            self.collector.request(&format!("METHOD{n}"), &format!("/nowhere/{n}"), &[], b"");
            let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
            sender.send_to(format!("event=by-udp-{n}").as_bytes(), self.collector.udp).unwrap();
            sender.send_to(b"\xf5TL\x01broken", self.collector.udp).unwrap();
        }
        let received = || self.collector.metrics().get("tallylight_udp_datagrams_received_total");
        wait_for("all datagrams", || (received() == 40.0).then_some(()));
    }
}

/// How many series a page has, as Prometheus counts them.
fn series(admin: SocketAddr) -> usize {
    let page = request(admin, "GET", "/metrics", &[], b"").text();
    page.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).count()
}

fn deployed(file: &str) -> String {
    fs::read_to_string(workspace().join(FOLDER).join(file)).unwrap()
}

/// Runs promtool where the rules are, and gives back what it said.
fn promtool(arguments: &[&str]) -> String {
    let mut command = Command::new("promtool");
    let output = command.args(arguments).current_dir(workspace().join(FOLDER)).output();
    let output = output.expect("promtool runs: `make test-env` installs it");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "promtool {arguments:?}: {}\n{said}", output.status);
    said
}

#[test]
fn promtool_finds_nothing_to_complain_of_in_the_metrics_of_both_programs() {
    let pair = Pair::with_events(7);
    // each kind of answer has left its trace
    pair.get_everything_wrong();
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

#[test]
fn there_are_as_many_series_as_the_page_says_from_the_start_to_the_end() {
    let pair = Pair::start();
    let both = || (series(pair.collector.admin), series(pair.compactor.admin));
    let at_the_start = both();
    pair.post(100);
    pair.get_everything_wrong();
    pair.settle();
    assert_eq!(both(), at_the_start);
    let (collector, compactor) = at_the_start;
    let said = format!("a collector has {collector} series and a compactor {compactor}");
    assert!(deployed("README.md").replace('\n', " ").contains(&said), "README.md does not say that {said}");
}

#[test]
fn every_flag_that_a_help_text_or_a_runbook_names_exists() {
    let pair = Pair::start();
    let help = |binary| {
        let output = Command::new(binary).arg("--help").output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let help = help(collector_binary()) + &help(compactor_binary());
    let texts = pair.collector.metrics_page() + &pair.compactor.metrics_page() + &deployed("README.md");
    let is_of_a_flag = |c: char| c.is_ascii_lowercase() || c == '-';
    let flags: BTreeSet<&str> = (texts.split(|c: char| !is_of_a_flag(c)))
        .filter(|word| word.starts_with("--"))
        .map(|word| word.trim_end_matches('-'))
        .filter(|word| !word.is_empty())
        .collect();
    assert!(flags.len() > 15, "{flags:?}");
    for flag in flags {
        let is_known = help.lines().any(|line| line.split_whitespace().any(|word| word == flag));
        assert!(is_known, "neither program knows {flag}");
    }
}

#[test]
fn each_alert_fires_for_its_cause_alone() {
    promtool(&["check", "config", "prometheus.yml"]);
    promtool(&["check", "rules", "--lint=all", "--lint-fatal", "rules.yml", "alerts.yml"]);
    promtool(&["test", "rules", "alerts.test.yml"]);
}

#[test]
fn each_alert_is_tested_and_whoever_is_woken_by_it_finds_what_to_do() {
    let (alerts, tests, runbook) = (deployed("alerts.yml"), deployed("alerts.test.yml"), deployed("README.md"));
    let alerts: Vec<&str> = alerts.split("- alert: ").skip(1).collect();
    let name = |alert: &&str| alert.lines().next().unwrap().to_owned();
    for alert in &alerts {
        let name = name(alert);
        // nothing fires in the first of the tests, and in each of the others exactly what it says
        assert!(tests.contains(&format!("alertname=\"{name}\"")), "no test has {name} fire");
        let link = format!("runbook: {FOLDER}/README.md#{}\n", name.to_lowercase());
        assert!(alert.contains(&link), "{name} does not say {link}");
    }
    let names: Vec<String> = alerts.iter().map(name).collect();
    let sections = runbook.split("\n### ").skip(1).map(|section| section.split_once("\n\n").unwrap());
    let (titles, texts): (Vec<&str>, Vec<&str>) = sections.unzip();
    assert_eq!(titles, names, "the sections of README.md, in the order of alerts.yml");
    assert!(texts.iter().all(|text| text.len() > 100), "each says something");
}

#[test]
fn the_dashboard_begins_with_the_ledger_and_explains_each_panel() {
    let dashboard = Dashboard::load();
    let first = &dashboard.document["panels"][0];
    assert_eq!((&first["type"], &first["title"]), (&"row".into(), &"The ledger".into()));
    let mut ids = BTreeSet::new();
    for panel in dashboard.document["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{panel} has the id of another one");
    }
    for panel in &dashboard.panels {
        let says = |text: &serde_json::Value| text.as_str().is_some_and(|text| !text.is_empty());
        let unit = &panel["fieldConfig"]["defaults"]["unit"];
        assert!(says(&panel["title"]) && says(&panel["description"]) && says(unit), "{panel}");
        let datasources = panel["targets"].as_array().unwrap().iter().map(|target| &target["datasource"]);
        for datasource in datasources.chain([&panel["datasource"]]) {
            assert_eq!(datasource["uid"], "${datasource}", "{panel}");
        }
    }
}

#[test]
fn all_that_rules_alerts_and_dashboard_ask_for_is_there_and_only_who_is_ill_raises_an_alert() {
    let pair = Pair::with_events(123);
    pair.get_everything_wrong();
    let folder = tempfile::tempdir().unwrap();
    let full = Collector::start_without_room_at(free_addr(), &folder.path().join("data"));
    let prometheus = Prometheus::start(&[pair.collector.admin, full.admin], pair.compactor.admin);
    let ups = || prometheus.query("up").iter().filter(|up| up.value == 1.0).count();
    wait_for("all to be up", || (ups() == 3).then_some(()));
    full.request("POST", "/api/beacon", &[], b"event=shed");

    // what is asked for
    let rules = prometheus.rules();
    let dashboard = Dashboard::load();
    let lines = dashboard.lines();
    let variable = dashboard.document["templating"]["list"][1]["query"]["query"].as_str().unwrap();
    let variable = variable.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(", instance)")).unwrap();
    let of_rules = rules.iter().map(|rule| rule["query"].as_str().unwrap().to_owned());
    let of_lines = lines.iter().map(|line| line.expression.clone());
    let asked = asked::read(of_rules.chain(of_lines).chain([variable.to_owned()]).collect());
    assert!(asked.len() > 90, "{}", asked.len());
    for asked in asked {
        assert!(!asked.series.is_empty(), "{asked:?}");
        let mut labels = BTreeSet::new();
        for series in &asked.series {
            let samples = wait_for(&format!("{series} of {}", asked.expression), || {
                Some(prometheus.query(series)).filter(|samples| !samples.is_empty())
            });
            labels.extend(samples.into_iter().flat_map(|sample| sample.labels.into_keys()));
        }
        assert!(asked.labels.iter().all(|label| labels.contains(label)), "{asked:?} has only {labels:?}");
    }
    for line in lines {
        let samples = wait_for(&format!("{} in the panel {}", line.expression, line.panel), || {
            Some(prometheus.query(&line.expression)).filter(|samples| !samples.is_empty())
        });
        for sample in samples {
            assert!(line.labels.iter().all(|label| sample.labels.contains_key(label)), "{line:?}: {sample:?}");
        }
    }

    // what it says
    let logged = prometheus.query(&format!("tallylight_events_logged_total{{instance=\"{}\"}}", pair.collector.admin));
    assert_eq!(logged[0].value, pair.collector.metrics().get("tallylight_events_logged_total"));
    for outcome in ["shed", "refused"] {
        let totals = format!("tallylight_events_{outcome}_total");
        let by_reason = format!("sum by (instance, reason) (tallylight_event_outcomes_total{{outcome=\"{outcome}\"}})");
        let both = prometheus.query(&format!("{by_reason} == on (instance, reason) {totals}"));
        assert_eq!(both.len(), prometheus.query(&totals).len(), "{both:?}");
    }
    let firing = wait_for("the alert", || Some(prometheus.firing()).filter(|firing| !firing.is_empty()));
    let [alert] = &firing[..] else { panic!("{firing:#?}") };
    let (labels, admin) = (&alert["labels"], full.admin.to_string());
    assert_eq!((&labels["alertname"], &labels["instance"]), (&"TallylightEventsShedDisk".into(), &(*admin).into()));
    assert_eq!(alert["annotations"]["summary"], format!("{admin} sheds events: its disk is full"));
}
