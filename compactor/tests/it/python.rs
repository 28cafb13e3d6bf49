//! Readers in Python, which share no code with what they read: DuckDB and other engines, pyarrow, Apache DataSketches.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::harness::{Environment, test_env};

/// Runs a script of `tests/readers` and gives back the JSON line that it prints.
pub fn read<A: AsRef<OsStr>>(script: &str, arguments: &[A]) -> Value {
    read_under(&Environment::new(), script, arguments)
}

/// The same, with these variables.
pub fn read_under<A: AsRef<OsStr>>(environment: &Environment, script: &str, arguments: &[A]) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/readers").join(script);
    let mut python = Command::new(test_env("venv/bin/python"));
    python.envs(environment.iter().map(|(name, value)| (name, value)));
    let output = python.arg(path).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {}\n{said}", output.status);
    let line = String::from_utf8(output.stdout).unwrap();
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{script} printed no JSON: {error}\n{line}{said}"))
}
