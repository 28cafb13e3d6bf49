//! The Dockerfile, without building it, and what Compose makes of its image.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use super::manifests::{Manifests, flags_of, variable_is_known};
use crate::harness::{test_env, workspace};

const DOCKERFILE: &str = "deploy/docker/Dockerfile";
const COMPOSE: &str = "deploy/docker/compose.yaml";

/// The instructions of its last stage, each with what follows it on the line.
pub fn last_stage() -> Vec<(String, String)> {
    let text = fs::read_to_string(workspace().join(DOCKERFILE)).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let joined = lines.collect::<Vec<_>>().join("\n").replace("\\\n", " ");
    let (_, last) = joined.rsplit_once("\nFROM ").unwrap();
    let instructions = last.lines().skip(1).filter_map(|line| line.split_once(' '));
    instructions.map(|(name, rest)| (name.to_owned(), rest.trim().to_owned())).collect()
}

/// All words behind an instruction of it.
fn words(instruction: &str) -> Vec<String> {
    let stage = last_stage();
    let lines = stage.iter().filter(|(name, _)| name == instruction);
    lines.flat_map(|(_, rest)| rest.split_whitespace()).map(str::to_owned).collect()
}

/// The variables of whatever runs in the image.
pub fn environment() -> BTreeMap<String, String> {
    let pair = |word: String| word.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    words("ENV").into_iter().map(|word| pair(word).unwrap()).collect()
}

#[test]
fn hadolint_finds_nothing_wrong_with_the_dockerfile() {
    let mut hadolint = Command::new(test_env("venv/bin/hadolint"));
    let output = hadolint.arg(workspace().join(DOCKERFILE)).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.is_empty(), "{}\n{said}", output.status);
}

#[test]
fn the_image_says_of_itself_what_the_programs_and_the_pods_do() {
    let environment = environment();
    for name in environment.keys().filter(|name| *name != "PATH") {
        assert!(variable_is_known(&flags_of("tallylight-collector"), name), "{name}");
    }
    assert_eq!(words("VOLUME"), [environment["TALLYLIGHT_DATA"].clone()]);
    assert_eq!(words("STOPSIGNAL"), ["SIGTERM"]);

    let manifests = Manifests::base();
    let pod = &manifests.stateful_set()["spec"]["template"]["spec"];
    let user = &pod["securityContext"];
    assert_eq!(words("USER"), [format!("{}:{}", user["runAsUser"], user["runAsGroup"])]);
    let mut exposed = words("EXPOSE");
    exposed.sort();
    let mut ports = manifests.container_ports();
    ports.sort();
    let written = |(port, protocol): &(u16, String)| format!("{port}/{}", protocol.to_lowercase());
    assert_eq!(exposed, ports.iter().map(written).collect::<Vec<_>>());
}

#[test]
fn the_image_is_built_by_our_version_of_rust_from_all_crates_that_there_are() {
    let read = |file: &str| fs::read_to_string(workspace().join(file)).unwrap();
    let (dockerfile, workspace) = (read(DOCKERFILE), read("Cargo.toml"));
    let rust = workspace.split("rust-version = \"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
    assert!(dockerfile.contains(&format!("\nFROM rust:{rust}.")), "not Rust {rust}");
    let members = workspace.split("\nmembers = [").nth(1).and_then(|rest| rest.split(']').next()).unwrap();
    let ignored = read("deploy/docker/Dockerfile.dockerignore");
    for member in members.split(',').map(|member| member.trim().trim_matches('"')) {
        let folder = member.split('/').next().unwrap();
        assert!(ignored.lines().any(|line| line == format!("!{folder}")), "cargo needs {member}");
    }
}

#[test]
fn compose_runs_both_programs_in_one_folder_with_variables_and_ports_that_they_have() {
    let file = workspace().join(COMPOSE);
    let mut check = Command::new(test_env("venv/bin/check-jsonschema"));
    let output = check.args(["--builtin-schema", "vendor.compose-spec"]).arg(&file).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));

    const READ: &str = "import json, sys, yaml; print(json.dumps(yaml.safe_load(open(sys.argv[1]))))";
    let read = Command::new(test_env("venv/bin/python")).args(["-c", READ]).arg(&file).output().unwrap();
    let compose: Value = serde_json::from_slice(&read.stdout).unwrap();
    let manifests = Manifests::base();
    for name in ["collector", "compactor"] {
        let (service, container) = (&compose["services"][name], manifests.container(name));
        let words = [&container["command"], &container["args"]].into_iter().filter_map(Value::as_array).flatten();
        assert_eq!(service["command"], words.cloned().collect::<Value>());
        assert_eq!(service["image"], container["image"]);
        assert_eq!(service["volumes"], json!([format!("data:{}", environment()["TALLYLIGHT_DATA"])]));
        let in_pod: BTreeMap<_, _> = manifests.environment(container).into_iter().collect();
        for (variable, value) in service["environment"].as_object().unwrap() {
            assert_eq!(value, &in_pod[variable], "{variable}");
        }
        let ports = container["ports"].as_array().unwrap().iter().map(|port| {
            let number = port["containerPort"].to_string();
            let protocol = if port["protocol"] == "UDP" { "/udp" } else { "" };
            format!("127.0.0.1:{number}:{number}{protocol}")
        });
        assert_eq!(service["ports"], ports.collect::<Value>());
    }
}
