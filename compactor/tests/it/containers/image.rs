//! The image itself, built by its Dockerfile and alive in a pod.
//!
//! `make test-image` makes what this needs, and runs it. The image that the build stage begins with is a stand-in of the same name:
//! Debian with a C compiler, and the Rust that builds the tests.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::kubernetes::{NAMESPACES, lives_in_a_pod};
use super::pod::Image;
use crate::harness::{Environment, test_env, workspace};
use crate::isolated;

/// Where the image is mounted, and its configuration as JSON: for the test that has it in a pod.
const ROOT: &str = "TALLYLIGHT_TEST_IMAGE";
const CONFIG: &str = "TALLYLIGHT_TEST_IMAGE_CONFIG";
const NAME: &str = "tallylight:test";

#[test]
#[ignore = "builds the image, which takes minutes: `make test-image`"]
fn the_image_is_built_by_its_dockerfile_and_lives_in_a_pod() {
    let buildah = Buildah::new();
    buildah.make_base(&base());
    let sysroot = Command::new("rustc").args(["--print", "sysroot"]).output().unwrap();
    let sysroot = String::from_utf8(sysroot.stdout).unwrap();
    // whom this machine trusts to have the crates
    let lent = [format!("--volume={}:{RUST}:ro", sysroot.trim()), "--volume=/etc/ssl/certs:/etc/ssl/certs:ro".into()];
    let build = ["build", "--isolation=chroot", "--pull=never", &lent[0], &lent[1]];
    buildah.run(&[&build[..], &["--tag", NAME, "--file", "deploy/docker/Dockerfile", "."]].concat());

    let root = buildah.mount(NAME);
    let mut programs = Vec::new();
    for file in files(&root) {
        let path = file.strip_prefix(&root).unwrap();
        if path.parent() == Some(Path::new("usr/local/bin")) {
            let headers = Command::new("readelf").args(["--wide", "--program-headers"]).arg(&file).output().unwrap();
            let headers = String::from_utf8(headers.stdout).unwrap();
            assert!(headers.contains(" LOAD ") && !headers.contains(" INTERP "), "{} is not static", path.display());
            programs.push(path.file_name().unwrap().to_owned());
        } else {
            assert_eq!(path, Path::new("LICENSE"));
        }
    }
    programs.sort();
    assert_eq!(programs, ["tallylight-collector", "tallylight-compactor"]);
    assert_eq!(fs::metadata(root.join("var/lib/tallylight")).unwrap().uid(), 65532);

    let inspected: Value = serde_json::from_str(&buildah.run(&["inspect", "--type=image", NAME])).unwrap();
    let config = &inspected["OCIv1"]["config"];
    assert_eq!(config["Cmd"], json!(["tallylight-collector"]));
    assert_eq!(config["Entrypoint"], Value::Null);
    let environment: Environment = vec![(ROOT, root.into()), (CONFIG, config.to_string().into())];
    isolated::run(&NAMESPACES, &environment, "containers::image::in_a_pod_of_the_image");
}

#[test]
#[ignore = "for `the_image_is_built_by_its_dockerfile_and_lives_in_a_pod`, which has it in namespaces of its own"]
fn in_a_pod_of_the_image() {
    let variable = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("no {name}"));
    let root = PathBuf::from(variable(ROOT));
    let config: Value = serde_json::from_str(&variable(CONFIG)).unwrap();
    let pair = |line: &Value| line.as_str()?.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    let environment: Option<BTreeMap<_, _>> = config["Env"].as_array().unwrap().iter().map(pair).collect();
    let entries = fs::read_dir(&root).unwrap().map(|entry| entry.unwrap());
    let files = entries.map(|entry| (entry.path(), Path::new("/").join(entry.file_name()))).collect();
    lives_in_a_pod(Image { files, environment: environment.unwrap() });
}

/// What the build stage begins with.
fn base() -> String {
    let text = fs::read_to_string(workspace().join("deploy/docker/Dockerfile")).unwrap();
    let from = text.lines().find_map(|line| line.strip_prefix("FROM ")).unwrap();
    from.strip_suffix(" AS build").unwrap().to_owned()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// Where the stand-in has Rust.
const RUST: &str = "/usr/local/rust";

/// Buildah with a storage of its own. What cargo keeps between two builds stays in the test environment.
struct Buildah {
    storage: TempDir,
}

impl Buildah {
    fn new() -> Self {
        assert!(rustix::process::geteuid().is_root(), "this test makes containers: run it as root");
        Self { storage: tempfile::tempdir().unwrap() }
    }

    fn command(&self) -> Command {
        let mut buildah = Command::new("buildah");
        let storage = |name: &str| self.storage.path().join(name);
        buildah.arg("--root").arg(storage("root")).arg("--runroot").arg(storage("run"));
        let kept = test_env("image").with_file_name("image-cache");
        fs::create_dir_all(&kept).unwrap();
        buildah.env("TMPDIR", kept).current_dir(workspace()).stdin(Stdio::null());
        buildah
    }

    fn run(&self, arguments: &[&str]) -> String {
        let output = self.command().args(arguments).output().expect("buildah runs: `make test-image` installs it");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "buildah {arguments:?}: {}\n{said}", output.status);
        String::from_utf8(output.stdout).unwrap()
    }

    fn make_base(&self, name: &str) {
        let container = self.run(&["from", "scratch"]);
        let container = container.trim();
        self.run(&["add", "--quiet", container, test_env("image").to_str().unwrap(), "/"]);
        let path = format!("PATH={RUST}/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        self.run(&["config", "--env", &path, "--env", "CARGO_HOME=/usr/local/cargo", container]);
        self.run(&["commit", "--quiet", "--rm", container, &format!("docker.io/library/{name}")]);
    }

    fn mount(&self, image: &str) -> PathBuf {
        let container = self.run(&["from", "--pull=never", image]);
        self.run(&["mount", container.trim()]).trim().into()
    }
}

impl Drop for Buildah {
    fn drop(&mut self) {
        // the storage is unmounted, or its folder could not be removed
        let _ = self.command().args(["rm", "--all"]).output();
        let _ = Command::new("umount").arg(self.storage.path().join("root/overlay")).output();
    }
}
