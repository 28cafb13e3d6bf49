//! What `deploy/k8s` tells Kubernetes, as kubectl renders it.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{collector_binary, compactor_binary, test_env, workspace};
use crate::python;

/// The oldest Kubernetes that they are for: the first that sleeps by itself before it stops a container.
const OLDEST: &str = "1.30";

/// Objects that Kubernetes' schemas have nothing against.
pub struct Manifests(Vec<Value>);

impl Manifests {
    /// Those to be built upon.
    pub fn base() -> Self {
        Self::render(&workspace().join("deploy/k8s/base"))
    }

    /// The example, with keys that are made as it says.
    pub fn example() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self::render(&with_keys(&folder))
    }

    fn render(folder: &Path) -> Self {
        let output = Command::new(test_env("venv/bin/kubectl")).arg("kustomize").arg(folder).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        // what is deprecated is only warned about
        assert!(output.status.success() && said.is_empty(), "{}\n{said}", output.status);
        let rendered = tempfile::NamedTempFile::new().unwrap();
        fs::write(rendered.path(), output.stdout).unwrap();
        let objects = python::read("manifests.py", &[OLDEST.as_ref(), rendered.path().as_os_str()]);
        Self(serde_json::from_value(objects).unwrap())
    }

    /// All of a kind.
    pub fn all(&self, kind: &str) -> Vec<&Value> {
        self.0.iter().filter(|object| object["kind"] == kind).collect()
    }

    /// The one of a kind and name.
    pub fn named(&self, kind: &str, name: &str) -> &Value {
        let all = self.all(kind).into_iter();
        let found: Vec<&Value> = all.filter(|object| object["metadata"]["name"] == name).collect();
        let [one] = found[..] else { panic!("{} of {kind} {name}", found.len()) };
        one
    }

    /// What makes the pods.
    pub fn stateful_set(&self) -> &Value {
        self.named("StatefulSet", "tallylight")
    }

    /// What is said of a pod.
    pub fn pod(&self) -> &Value {
        &self.stateful_set()["spec"]["template"]["spec"]
    }

    /// The pod's containers.
    pub fn containers(&self) -> &Vec<Value> {
        self.pod()["containers"].as_array().unwrap()
    }

    /// One of them.
    pub fn container(&self, name: &str) -> &Value {
        self.containers().iter().find(|container| container["name"] == name).unwrap_or_else(|| panic!("no {name}"))
    }

    /// A container's port, by its name or as it is.
    pub fn port(&self, port: &Value) -> u16 {
        let ports = self.containers().iter().flat_map(|container| container["ports"].as_array().unwrap());
        let named = ports.clone().find(|one| one["name"] == *port).map(|one| &one["containerPort"]);
        let number = named.unwrap_or(port).as_u64().unwrap_or_else(|| panic!("no container has the port {port}"));
        u16::try_from(number).unwrap()
    }

    /// The ports of all of them, with their protocols.
    pub fn container_ports(&self) -> Vec<(u16, String)> {
        let ports = self.containers().iter().flat_map(|container| container["ports"].as_array().unwrap());
        let protocol = |port: &Value| port["protocol"].as_str().unwrap_or("TCP").to_owned();
        ports.map(|port| (self.port(&port["containerPort"]), protocol(port))).collect()
    }

    /// A container's variables beside those of the image.
    pub fn environment(&self, container: &Value) -> Vec<(String, String)> {
        let mut environment = Vec::new();
        for from in container["envFrom"].as_array().unwrap() {
            let map = self.named("ConfigMap", from["configMapRef"]["name"].as_str().unwrap());
            let pairs = map["data"].as_object().unwrap().iter();
            environment.extend(pairs.map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned())));
        }
        for variable in container["env"].as_array().into_iter().flatten() {
            let value = match &variable["value"] {
                Value::String(value) => value,
                _ => {
                    let of = variable["valueFrom"]["resourceFieldRef"]["resource"].as_str().unwrap();
                    let quantity =
                        &container["resources"][of.split('.').next().unwrap()][of.split('.').next_back().unwrap()];
                    quantity.as_str().filter(|text| text.parse::<u32>().is_ok()).expect("a whole number of CPUs")
                }
            };
            environment.push((variable["name"].as_str().unwrap().to_owned(), value.to_owned()));
        }
        environment
    }
}

/// A copy of `deploy/k8s` with keys in the example, which is given back.
fn with_keys(folder: &TempDir) -> std::path::PathBuf {
    let copied = Command::new("cp").arg("-r").arg(workspace().join("deploy/k8s")).arg(folder.path()).status().unwrap();
    assert!(copied.success());
    let example = folder.path().join("k8s/example");
    let text = fs::read_to_string(example.join("kustomization.yaml")).unwrap();
    let command = text.lines().find_map(|line| line.strip_prefix("#   (umask")).expect("it says how to make the keys");
    let made = Command::new("sh").args(["-c", &format!("(umask{command}")]).current_dir(&example).status().unwrap();
    assert!(made.success());
    example
}

/// What a program says of its flags.
pub fn flags_of(program: &str) -> String {
    let binary = if program == "tallylight-collector" { collector_binary() } else { compactor_binary() };
    String::from_utf8(Command::new(binary).arg("--help").output().unwrap().stdout).unwrap()
}

/// Whether a variable means something to a program. Each flag is one; those of the diagnostics are named.
pub fn variable_is_known(help: &str, variable: &str) -> bool {
    let Some(name) = variable.strip_prefix("TALLYLIGHT_") else { return false };
    let flag = format!("--{}", name.to_lowercase().replace('_', "-"));
    let mut words = help.split(|c: char| !(c.is_ascii_alphanumeric() || "-_".contains(c)));
    words.any(|word| word == flag || word == variable)
}
