//! Tests that want a part of the machine for themselves: a network in which every port is free, mounts that nobody sees.

use std::process::Command;

use crate::harness::Environment;

/// Runs an ignored test of this binary, by its whole name, in new namespaces of unshare(1) beside that of the network, with these
/// variables. Gives back what it said; it must pass.
pub fn run(namespaces: &[&str], environment: &Environment, test: &str) -> String {
    let run = Command::new("unshare")
        .args(namespaces)
        .args(["--net", "sh", "-c", r#"ip link set lo up && exec "$0" "$@""#])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "--nocapture", test])
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .output()
        .expect("unshare of Debian's util-linux is there");
    let said = String::from_utf8_lossy(&run.stdout).into_owned() + &String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success() && said.contains("1 passed"), "{}\n{said}", run.status);
    said
}
