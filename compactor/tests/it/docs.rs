//! What the documents name is there: tests, files, flags.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::{collector_binary, compactor_binary};

const DOCUMENTS: [&str; 14] = [
    "README.md",
    "ARCHITECTURE.md",
    "SECURITY.md",
    "proto/DATAGRAMS.md",
    "proto/LINKS.md",
    "collector/client/README.md",
    "deploy/README.md",
    "deploy/OPERATIONS.md",
    "deploy/batch/README.md",
    "deploy/batch/SCHEMA.md",
    "deploy/prometheus/README.md",
    "deploy/senders/README.md",
    "benches/README.md",
    "fuzz/README.md",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn document(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap()
}

/// What stands between backticks, without whole blocks of code.
fn quoted(text: &str) -> Vec<String> {
    let prose: String = text.split("```").step_by(2).collect();
    prose.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn sources(folder: &Path, found: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push_str(&fs::read_to_string(path).unwrap());
        }
    }
}

#[test]
fn every_test_that_holds_an_invariant_is_there() {
    let mut code = String::new();
    ["proto", "collector", "compactor", "fuzz"].iter().for_each(|name| sources(&root().join(name), &mut code));
    let is_test = |name: &&String| {
        name.matches('_').count() >= 4 && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    let architecture = document("ARCHITECTURE.md");
    let quoted = quoted(&architecture);
    let tests: Vec<&String> = quoted.iter().filter(is_test).filter(|name| !name.starts_with("tallylight")).collect();
    assert!(tests.len() > 12, "{tests:?}");
    for test in tests {
        assert!(code.contains(&format!("fn {test}(")), "no test {test}");
    }
}

#[test]
fn every_linked_file_is_there() {
    for name in DOCUMENTS {
        let folder = root().join(name).parent().unwrap().to_owned();
        for link in document(name).split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let link = link.split('#').next().unwrap_or_default();
            if !link.contains("://") && !link.is_empty() {
                assert!(folder.join(link).exists(), "{name} links to {link}");
            }
        }
    }
}

#[test]
fn every_flag_of_the_readme_is_in_the_help() {
    let help = |binary: &Path, commands: &[&str]| -> String {
        let texts = commands.iter().map(|command| {
            let words = command.split_whitespace().chain(["--help"]);
            String::from_utf8(Command::new(binary).args(words).output().unwrap().stdout).unwrap()
        });
        texts.collect()
    };
    let help = help(&collector_binary(), &["", "check"]) + &help(&compactor_binary(), &[""]);
    let readme = document("README.md") + &document("ARCHITECTURE.md");
    let flags: BTreeSet<String> = quoted(&readme)
        .iter()
        .flat_map(|code| code.split_whitespace())
        .filter(|word| word.starts_with("--"))
        .map(|word| word.split('=').next().unwrap().to_owned())
        .collect();
    assert!(flags.len() > 5, "{flags:?}");
    for flag in flags.iter().filter(|flag| *flag != "--help") {
        assert!(help.contains(flag.as_str()), "neither program knows {flag}");
    }
}
