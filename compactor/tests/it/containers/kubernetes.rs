//! The pods of `deploy/k8s`.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use tallylight_proto::keys::Keys;

use super::manifests::{Manifests, flags_of, variable_is_known};
use super::pod::{Image, NAME, Pod};
use crate::harness::datagrams::Source;
use crate::harness::{
    Environment, assert_audit, assert_compactor_ledger_adds_up, collector_binary, request, wait_for, wait_for_within,
    workspace,
};
use crate::{isolated, out};

/// The namespaces beside its network that a pod needs.
pub const NAMESPACES: [&str; 3] = ["--mount", "--uts", "--propagation=private"];
/// `--every`, and time to spare.
const PUBLISHED: Duration = Duration::from_secs(40);

#[test]
fn every_variable_and_port_of_the_manifests_is_one_that_the_programs_have() {
    for manifests in [Manifests::base(), Manifests::example()] {
        for container in manifests.containers() {
            let program = container["command"][0].as_str().unwrap();
            let help = flags_of(program);
            for (variable, _) in manifests.environment(container) {
                assert!(variable_is_known(&help, &variable), "{program} knows no {variable}:\n{help}");
            }
            for flag in container["args"].as_array().into_iter().flatten() {
                assert!(help.split_whitespace().any(|word| word == flag), "{program} knows no {flag}");
            }
            // a tag of another version would be another program
            let image = container["image"].as_str().unwrap();
            assert!(image.ends_with(&format!("tallylight:{}", env!("CARGO_PKG_VERSION"))), "{image}");
        }
    }
}

#[test]
fn whatever_selects_pods_selects_these_and_ports_that_they_have() {
    let manifests = Manifests::example();
    let labels = &manifests.stateful_set()["spec"]["template"]["metadata"]["labels"];
    let mut selectors = vec![&manifests.stateful_set()["spec"]["selector"]["matchLabels"]];
    for spread in manifests.pod()["topologySpreadConstraints"].as_array().unwrap() {
        selectors.push(&spread["labelSelector"]["matchLabels"]);
    }
    let mut ports = Vec::new();
    for service in manifests.all("Service") {
        selectors.push(&service["spec"]["selector"]);
        ports.extend(service["spec"]["ports"].as_array().unwrap().iter().map(|port| &port["targetPort"]));
    }
    for budget in manifests.all("PodDisruptionBudget") {
        selectors.push(&budget["spec"]["selector"]["matchLabels"]);
    }
    for policy in manifests.all("NetworkPolicy") {
        selectors.push(&policy["spec"]["podSelector"]["matchLabels"]);
        let rules = policy["spec"]["ingress"].as_array().unwrap().iter();
        ports.extend(rules.flat_map(|rule| rule["ports"].as_array().unwrap()).map(|port| &port["port"]));
    }
    let monitor = manifests.named("PodMonitor", "tallylight");
    selectors.push(&monitor["spec"]["selector"]["matchLabels"]);
    let endpoints = monitor["spec"]["podMetricsEndpoints"].as_array().unwrap();
    ports.extend(endpoints.iter().map(|endpoint| &endpoint["port"]));
    assert_eq!((selectors.len(), ports.len()), (9, 10));
    for selector in selectors {
        assert_eq!(selector, labels);
    }
    for port in ports {
        assert!(manifests.port(port) >= 5000);
    }
    // the admin ports are for Prometheus' namespace
    let inside = &manifests.named("NetworkPolicy", "tallylight")["spec"]["ingress"];
    assert_eq!(inside[0]["ports"], json!([{"port": "http"}, {"port": "udp", "protocol": "UDP"}]));
    assert!(!inside[1]["from"].as_array().unwrap().is_empty());

    // as Prometheus' own configuration names them, and so the alerts
    let deployed = fs::read_to_string(workspace().join("deploy/prometheus/prometheus.yml")).unwrap();
    for endpoint in endpoints {
        let [job] = &endpoint["relabelings"].as_array().unwrap()[..] else { panic!("{endpoint}") };
        assert_eq!(job["targetLabel"], "job");
        assert!(deployed.contains(&format!("job_name: {}\n", job["replacement"].as_str().unwrap())), "{job}");
    }
    assert!(deployed.contains(&format!("sample_limit: {}\n", monitor["spec"]["sampleLimit"])));
}

#[test]
fn a_pod_that_ends_has_the_time_to_drain_and_one_whose_disk_is_full_is_left_alone() {
    let manifests = Manifests::base();
    let collector = manifests.container("collector");
    let help = flags_of("tallylight-collector");
    let drain = help.split("--drain-timeout").nth(1).and_then(|rest| rest.split("[default: ").nth(1)).unwrap();
    let drain: u64 = drain.split("s]").next().unwrap().parse().unwrap();
    let moment = collector["lifecycle"]["preStop"]["sleep"]["seconds"].as_u64().unwrap();
    let grace = manifests.pod()["terminationGracePeriodSeconds"].as_u64().unwrap();
    // as systemd gives it, from the signal on
    let unit = fs::read_to_string(workspace().join("deploy/systemd/tallylight-collector.service")).unwrap();
    let of_unit = unit.lines().find_map(|line| line.strip_prefix("TimeoutStopSec=")).unwrap();
    assert!(moment > 0 && grace >= moment + of_unit.parse::<u64>().unwrap().max(drain), "{grace} s");
    for container in manifests.containers() {
        assert_eq!(container["startupProbe"], Value::Null);
        assert_eq!(container["livenessProbe"]["httpGet"]["path"], "/healthz");
    }
    assert_eq!(manifests.container("compactor")["readinessProbe"], Value::Null, "beacons do not wait for it");
    assert_eq!(manifests.pod()["initContainers"], Value::Null, "nor for its start");
}

#[test]
fn a_pod_takes_beacons_and_keys_as_its_manifest_says_and_makes_parquet_of_them() {
    isolated::run(&NAMESPACES, &Environment::new(), "containers::kubernetes::in_a_pod_of_the_build");
}

#[test]
#[ignore = "for `a_pod_takes_beacons_and_keys_as_its_manifest_says_and_makes_parquet_of_them`, which has it in namespaces of its own"]
fn in_a_pod_of_the_build() {
    lives_in_a_pod(Image::of_the_build());
}

/// From the start to the end of a pod of the example, with this image.
pub fn lives_in_a_pod(image: Image) {
    let manifests = Manifests::example();
    let pod = Pod::new(&manifests, image);
    let keys = pod.volume("keys");
    assert_keys_that_others_could_read_are_refused(&pod);

    let (mut collector, mut compactor) = (pod.start("collector", &[]), pod.start("compactor", &[]));
    for (name, probe) in
        [("collector", "readinessProbe"), ("collector", "livenessProbe"), ("compactor", "livenessProbe")]
    {
        wait_for(&format!("{name}'s {probe}"), || {
            let ended = [collector.ended(), compactor.ended()];
            assert_eq!(ended, [None, None], "{}{}", collector.stderr(), compactor.stderr());
            pod.probe(name, probe).filter(|reply| reply.status == 200)
        });
    }
    assert_eq!(listened_on(), manifests.container_ports().into_iter().collect());

    let (http, udp) = (pod.behind("tallylight-http"), pod.behind("tallylight-udp"));
    let beacon = |way: &str| format!("site=shop.example&event=click&target=https://book.example/{way}");
    let posted = request(http, "POST", "/api/beacon?ack=synced", &[], beacon("http").as_bytes());
    assert_eq!(posted.status, 204, "{posted:?}");
    let key = Keys::parse(&fs::read_to_string(keys.join("udp.key")).unwrap()).unwrap().signing().unwrap().clone();
    Source::keyed(udp, key).send(beacon("udp").as_bytes());
    let mut sign = Command::new(collector_binary());
    sign.args(["sign-link", "--target=https://book.example/link", "--site=shop.example", "--to=http://pod"]);
    let link = String::from_utf8(sign.arg("--key").arg(keys.join("redirect.key")).output().unwrap().stdout).unwrap();
    let followed = request(http, "GET", link.trim().strip_prefix("http://pod").unwrap(), &[], b"");
    assert_eq!((followed.status, followed.header("location")), (302, Some("https://book.example/link")));

    let (data, out) = (pod.volume("data"), pod.volume("out"));
    for way in ["http", "udp", "link"] {
        let target = format!("https://book.example/{way}");
        wait_for_within(PUBLISHED, &target, || (out::events_of_target(&out, &target) == 1).then_some(()));
    }
    // so that those of several pods can be in one folder
    for file in out::files(&out, "hourly") {
        assert!(file.file_name().unwrap().to_str().unwrap().starts_with(&format!("{NAME}-")), "{}", file.display());
    }
    assert_compactor_ledger_adds_up(&compactor);
    for process in [&mut collector, &mut compactor] {
        assert!(process.terminate().success(), "{}", process.stderr());
    }
    assert_audit(&data, &out);

    // more than any disk has: out of the Services, and not started again for that
    let mut full = pod.start("collector", &[("TALLYLIGHT_RESERVE", "100TiB")]);
    let is_full = || pod.probe("collector", "readinessProbe").filter(|reply| reply.text().contains("disk"));
    assert_eq!(wait_for("the disk to be full", is_full).status, 503);
    assert_eq!(pod.probe("collector", "livenessProbe").unwrap().status, 200);
    assert!(full.terminate().success(), "{}", full.stderr());
}

/// With the mode that Kubernetes gives them by itself.
fn assert_keys_that_others_could_read_are_refused(pod: &Pod) {
    let key = fs::canonicalize(pod.volume("keys").join("udp.key")).unwrap();
    let as_said = fs::metadata(&key).unwrap().permissions();
    assert_eq!(as_said.mode() & 0o777, 0o440);
    fs::set_permissions(&key, Permissions::from_mode(0o644)).unwrap();
    let mut collector = pod.start("collector", &[]);
    let ended = wait_for("the keys to be refused", || collector.ended());
    assert!(ended.code() == Some(2) && collector.stderr().contains("open to everybody"), "{}", collector.stderr());
    fs::set_permissions(&key, as_said).unwrap();
}

/// The ports of this network, with their protocols. Each is open at all addresses: at loopback, no probe would find it.
fn listened_on() -> BTreeSet<(u16, String)> {
    const LISTENING: &str = "0A";
    let mut ports = BTreeSet::new();
    for (table, protocol) in [("tcp", "TCP"), ("tcp6", "TCP"), ("udp", "UDP"), ("udp6", "UDP")] {
        let text = fs::read_to_string(format!("/proc/net/{table}")).unwrap();
        for line in text.lines().skip(1) {
            let words: Vec<&str> = line.split_whitespace().collect();
            if protocol == "UDP" || words[3] == LISTENING {
                let (address, port) = words[1].rsplit_once(':').unwrap();
                assert!(address.chars().all(|digit| digit == '0'), "{protocol} {}", words[1]);
                ports.insert((u16::from_str_radix(port, 16).unwrap(), protocol.to_owned()));
            }
        }
    }
    ports
}
