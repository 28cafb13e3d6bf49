//! The lists of `make mutants` keep up with the code.

use std::path::Path;
use std::process::Command;

#[test]
fn every_mutant_has_its_place_in_the_code() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mutants/run.py");
    let output = Command::new("python3").arg(script).arg("--check").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}
