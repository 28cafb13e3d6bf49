//! What is published for other languages: it is what this crate does.

// all of this is tests, which clippy only knows of functions that are marked so
#![allow(clippy::unwrap_used)]

mod datagrams;
mod links;

use std::path::{Path, PathBuf};
use std::{env, fs};

use serde::Serialize;

/// A file of this crate.
fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// What is published in a file is what the code makes. With `WRITE_VECTORS` in the environment it is first written.
fn assert_published(name: &str, vectors: &impl Serialize) {
    let made = serde_json::to_string_pretty(vectors).unwrap() + "\n";
    let path = file(name);
    if env::var_os("WRITE_VECTORS").is_some() {
        fs::write(&path, &made).unwrap();
    }
    let published = fs::read_to_string(&path).unwrap();
    for (line, (published, made)) in (1..).zip(published.lines().zip(made.lines())) {
        assert_eq!(published, made, "line {line} of {}", path.display());
    }
    assert_eq!(published.len(), made.len());
}
