//! What a beacon costs in instructions, allocations and system calls does not rise unseen.

use std::path::Path;
use std::process::Command;

#[test]
fn a_request_costs_what_is_recorded() {
    let benches = Path::new(env!("CARGO_MANIFEST_DIR"));
    let workspace = benches.parent().unwrap();
    // counted is what is released
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--release", "-p", "tallylight-collector"])
        .current_dir(workspace)
        .status();
    assert!(built.unwrap().success());
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), Into::into);
    let counted = Command::new(env!("CARGO_BIN_EXE_tallylight-benches"))
        .arg("counters")
        .arg("--collector")
        .arg(target.join("release/tallylight-collector"))
        .arg("--check")
        .arg(benches.join("counters.json"))
        .output()
        .unwrap();
    let text = [counted.stdout, counted.stderr].concat();
    assert!(counted.status.success(), "{}", String::from_utf8_lossy(&text));
}
