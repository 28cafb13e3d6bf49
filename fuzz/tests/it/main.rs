//! Everything that the fuzz targets were found to be worth trying on, tried again.
//!
//! A corpus that is not there would be gone through in no time, so each target has a least number of inputs.

use std::fs;
use std::path::{Path, PathBuf};

use tallylight_fuzz::{TARGETS, Target};

/// No target has fewer inputs in its corpus.
const LEAST_INPUTS: usize = 20;

fn folder(kind: &str, name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(kind).join(name)
}

/// The inputs of a target, by their names.
fn inputs(kind: &str, name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let Ok(entries) = fs::read_dir(folder(kind, name)) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("a file").path()).collect();
    paths.sort_unstable();
    paths.into_iter().map(|path| (path.clone(), fs::read(path).expect("its bytes"))).collect()
}

fn replay(name: &str) {
    let (_, target): &Target = TARGETS.iter().find(|(target, _)| *target == name).expect("a target");
    let corpus = inputs("corpus", name);
    assert!(corpus.len() >= LEAST_INPUTS, "{} inputs in the corpus of {name}", corpus.len());
    for (path, bytes) in corpus.into_iter().chain(inputs("regressions", name)) {
        // said only if it fails
        println!("{}", path.display());
        target(&bytes);
    }
}

macro_rules! replays {
    ($($test:ident = $name:literal,)*) => {
        $(#[test]
        fn $test() {
            replay($name);
        })*

        const REPLAYED: [&str; [$($name),*].len()] = [$($name),*];
    };
}

replays! {
    every_beacon_of_the_corpus_is_taken_or_refused_entry_by_entry = "decoder",
    every_datagram_of_the_corpus_is_what_was_written_or_none = "datagram",
    every_link_of_the_corpus_says_only_what_was_signed = "link",
    every_record_of_the_corpus_means_the_same_when_it_is_written_again = "record",
    every_sequence_of_the_corpus_is_received_or_lost = "sources",
    every_segment_of_the_corpus_gives_only_what_was_written = "segment",
    every_file_of_the_corpus_is_read_or_refused = "parquet",
}

#[test]
fn every_connection_of_the_corpus_is_answered_and_its_log_reads_back() {
    replay("http");
    // behind the last one, too
    tallylight_fuzz::look_at_log();
}

#[test]
fn every_target_is_replayed_and_has_a_binary() {
    let cargo = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).unwrap();
    for (name, _) in TARGETS {
        assert!(name == "http" || REPLAYED.contains(&name), "{name} is not replayed");
        assert!(cargo.contains(&format!("path = \"targets/{name}.rs\"")), "{name} has no binary");
    }
    for kind in ["corpus", "regressions"] {
        for entry in fs::read_dir(folder(kind, "")).unwrap() {
            let name = entry.unwrap().file_name();
            assert!(TARGETS.iter().any(|(target, _)| name == **target), "{name:?} of {kind} is no target");
        }
    }
}
