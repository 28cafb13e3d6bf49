//! A pod without a kubelet: what one does with a manifest, done here with mount(2) and chroot(2).
//!
//! Not imitated are the seccomp profile and the limits of resources. It needs a network, mounts and a host name of its own
//! ([`crate::isolated`]), since it takes the ports that the manifest says.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use super::dockerfile;
use super::manifests::Manifests;
use crate::harness::{Process, Reply, collector_binary, compactor_binary, try_request};

/// Its name: the first of a StatefulSet.
pub const NAME: &str = "tallylight-0";
/// What a kubelet adds to the mode of a volume that is fsGroup's: reading only, or writing, too.
const GROUP_READS: u32 = 0o440;
const GROUP_WRITES: u32 = 0o2770;

/// What containers run.
pub struct Image {
    /// Its files, by where they are and where they are to be.
    pub files: Vec<(PathBuf, PathBuf)>,
    /// Its variables.
    pub environment: BTreeMap<String, String>,
}

impl Image {
    /// As the Dockerfile has it, but with the programs that were built for the tests, and the libraries that those need.
    pub fn of_the_build() -> Self {
        let programs = [("tallylight-collector", collector_binary()), ("tallylight-compactor", compactor_binary())];
        let programs = programs.map(|(name, binary)| (binary, Path::new("/usr/local/bin").join(name)));
        let libraries = ["/lib", "/lib64"].map(|folder| (fs::canonicalize(folder).unwrap(), folder.into()));
        Self { files: [programs, libraries].concat(), environment: dockerfile::environment() }
    }
}

/// A pod. Its mounts go with the namespace that they were made in.
pub struct Pod<'a> {
    manifests: &'a Manifests,
    image: Image,
    folder: TempDir,
}

impl<'a> Pod<'a> {
    /// Its volumes and its root.
    pub fn new(manifests: &'a Manifests, image: Image) -> Self {
        rustix::system::sethostname(NAME.as_bytes()).unwrap();
        let pod = Self { manifests, image, folder: tempfile::tempdir().unwrap() };
        let volumes = manifests.pod()["volumes"].as_array().into_iter().flatten();
        let claims = manifests.stateful_set()["spec"]["volumeClaimTemplates"].as_array().unwrap().iter();
        for volume in volumes.chain(claims.map(|claim| &claim["metadata"])) {
            let folder = pod.volume(volume["name"].as_str().unwrap());
            fs::create_dir_all(&folder).unwrap();
            match &volume["secret"] {
                Value::Null => pod.give_to_group(&folder, GROUP_WRITES),
                secret => pod.write_secret(&folder, secret),
            }
        }
        for container in manifests.containers() {
            pod.make_root(container);
        }
        pod
    }

    /// Where a volume is, as seen from outside.
    pub fn volume(&self, name: &str) -> PathBuf {
        self.folder.path().join("volumes").join(name)
    }

    fn root(&self, container: &Value) -> PathBuf {
        self.folder.path().join("roots").join(container["name"].as_str().unwrap())
    }

    fn context(&self, key: &str) -> u32 {
        let id = self.manifests.pod()["securityContext"][key].as_u64().unwrap_or_else(|| panic!("no {key}"));
        u32::try_from(id).unwrap()
    }

    fn give_to_group(&self, path: &Path, bits: u32) {
        chown(path, None, Some(self.context("fsGroup"))).unwrap();
        let mode = fs::metadata(path).unwrap().permissions().mode();
        fs::set_permissions(path, Permissions::from_mode(mode | bits)).unwrap();
    }

    /// Files behind a link, so that all of them change at once.
    fn write_secret(&self, folder: &Path, volume: &Value) {
        const REAL: &str = "..2026_11_26";
        let secret = self.manifests.named("Secret", volume["secretName"].as_str().unwrap());
        let mode = u32::try_from(volume["defaultMode"].as_u64().unwrap_or(0o644)).unwrap();
        fs::create_dir(folder.join(REAL)).unwrap();
        symlink(REAL, folder.join("..data")).unwrap();
        for (name, encoded) in secret["data"].as_object().unwrap() {
            let file = folder.join(REAL).join(name);
            fs::write(&file, decode(encoded.as_str().unwrap())).unwrap();
            fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
            self.give_to_group(&file, GROUP_READS);
            symlink(Path::new("..data").join(name), folder.join(name)).unwrap();
        }
    }

    /// The image's files and the volumes, in a root that cannot be written to.
    fn make_root(&self, container: &Value) {
        let root = self.root(container);
        fs::create_dir_all(&root).unwrap();
        mount(&["--bind"], &root, &root);
        let into_root = |from: &Path, to: &Path, options: &str| {
            let place = root.join(to.strip_prefix("/").unwrap());
            if from.is_dir() {
                fs::create_dir_all(&place).unwrap();
            } else {
                fs::create_dir_all(place.parent().unwrap()).unwrap();
                fs::write(&place, "").unwrap();
            }
            mount(&["--rbind"], from, &place);
            mount(&["-o", &format!("remount,bind,{options}")], from, &place);
        };
        for (from, to) in &self.image.files {
            into_root(from, to, "ro");
        }
        for folder in ["/proc", "/dev"] {
            into_root(Path::new(folder), Path::new(folder), "rw");
        }
        for one in container["volumeMounts"].as_array().unwrap() {
            let options = if one["readOnly"] == true { "ro" } else { "rw" };
            let from = self.volume(one["name"].as_str().unwrap());
            into_root(&from, Path::new(one["mountPath"].as_str().unwrap()), options);
        }
        assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
        mount(&["-o", "remount,bind,ro"], &root, &root);
    }

    /// Starts a container, with these variables in the place of its own, and waits for nothing.
    pub fn start(&self, name: &'static str, variables: &[(&str, &str)]) -> Process {
        let container = self.manifests.container(name);
        let [user, group, fs_group] = ["runAsUser", "runAsGroup", "fsGroup"].map(|key| self.context(key));
        assert!(container["securityContext"]["allowPrivilegeEscalation"] == false && user != 0);
        let mut command = Command::new("/usr/bin/setpriv");
        command.args(["--no-new-privs", "/usr/sbin/chroot"]);
        // whoever is not root has no capabilities after this
        command.args([format!("--userspec={user}:{group}"), format!("--groups={fs_group}")]).arg(self.root(container));
        let words = [&container["command"], &container["args"]];
        let words = words.into_iter().filter_map(Value::as_array).flatten();
        command.args(words.map(|word| word.as_str().unwrap())).env_clear();
        command
            .envs(&self.image.environment)
            .envs(self.manifests.environment(container))
            .envs(variables.iter().copied());
        Process::spawn(name, command, self.probed(container, "livenessProbe").0)
    }

    fn probed(&self, container: &Value, probe: &str) -> (SocketAddr, String) {
        let get = &container[probe]["httpGet"];
        let path = get["path"].as_str().unwrap_or_else(|| panic!("{} has no {probe}", container["name"]));
        (local(self.manifests.port(&get["port"])), path.to_owned())
    }

    /// Asks what a kubelet asks.
    pub fn probe(&self, container: &str, probe: &str) -> Option<Reply> {
        let (addr, path) = self.probed(self.manifests.container(container), probe);
        try_request(addr, "GET", &path, &[], b"").ok()
    }

    /// Where a Service leads.
    pub fn behind(&self, service: &str) -> SocketAddr {
        let ports = &self.manifests.named("Service", service)["spec"]["ports"];
        let [port] = &ports.as_array().unwrap()[..] else { panic!("{service} has not one port") };
        local(self.manifests.port(&port["targetPort"]))
    }
}

fn local(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

fn mount(options: &[&str], from: &Path, to: &Path) {
    let output = Command::new("mount").args(options).arg(from).arg(to).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "mount {options:?} {} {}: {said}", from.display(), to.display());
}

fn decode(encoded: &str) -> Vec<u8> {
    let text: String = encoded.split_whitespace().collect();
    let mut base64 = Command::new("base64");
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), text).unwrap();
    base64.arg("--decode").arg(file.path()).output().unwrap().stdout
}
