//! `tallylight-collector sign-link`, and what the documents say of making links: what they print, the collector redirects.

use std::fs;
use std::io;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use super::redirect::{Redirecting, assert_redirects, vectors};
use crate::harness::datagrams::key;
use crate::harness::{collector_binary, inspect, workspace};
use crate::udp::key_file;

fn sign_link(flags: &[&str]) -> Output {
    Command::new(collector_binary()).arg("sign-link").args(flags).stdin(Stdio::null()).output().unwrap()
}

#[test]
fn a_link_that_sign_link_prints_is_counted_and_redirected() {
    let ((first_line, _), (second_line, _)) = (key(7, 1), key(3, 2));
    let redirecting = Redirecting::start(&format!("{first_line}{second_line}"), &[]);
    let file = redirecting.folder.path().join("keys");
    let file = file.to_str().unwrap();
    let target = "https://shop.example/ä b?c=d&e=f+g#h";
    let values = ["--event=open", "--site=books", "--item=1 & 2", "--placement=", "--visitor=Zoë"];
    for to in ["https://collector.example", "https://collector.example/", "http://[::1]:5000/deep/er//"] {
        let output = sign_link(&[&["--key", file, "--to", to, "--target", target], &values[..]].concat());
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        let url = String::from_utf8(output.stdout).unwrap();
        let query = url.strip_prefix(&format!("{}/r?", to.trim_end_matches('/'))).unwrap_or_else(|| panic!("{url}"));
        let query = query.strip_suffix('\n').unwrap();
        assert!(query.contains("&key=7&") && !query.contains("placement"), "{query}");
        assert_redirects(&redirecting.get(query), "https://shop.example/%C3%A4%20b?c=d&e=f+g#h");
    }
    redirecting.assert_ledger([3, 3, 0]);
    let events = inspect(&redirecting.collector.data);
    let said = |event: &Value| {
        ["site", "event", "target", "item", "placement", "visitor"].map(|key| event[key].as_str().unwrap().to_owned())
    };
    assert_eq!(said(&events[0]), ["books", "open", target, "1 & 2", "", "Zoë"]);
}

#[test]
fn sign_link_says_what_is_wrong_and_ends_with_code_2() {
    let folder = tempfile::tempdir().unwrap();
    let file = key_file(&folder, &key(7, 1).0);
    let file = file.to_str().unwrap();
    let (to, target) = ("--to=https://collector.example", "--target=https://shop.example/");
    for (flags, said) in [
        (&["--key=/nonexistent/keys", to, target] as &[&str], "cannot read the keys in /nonexistent/keys"),
        (&["--key", file, "--to=collector.example", target], "--to is not"),
        (&["--key", file, "--to=https://collector.example/?a=b", target], "--to is not"),
        (&["--key", file, to, "--target=shop.example"], "--target is not"),
        (&["--key", file, to, "--target=javascript:alert(1)"], "--target is not"),
        (&["--key", file, to, "--target="], "--target is not"),
        (&["--key", file, to, "--target=https://shop.example/\n"], "--target has a control character"),
        (&["--key", file, to, target, "--item=x\nplacement=y"], "--item has a control character"),
        (&["--key", file, to, target, "--visitor=\u{fffd}"], "--visitor has a control character"),
        (&["--key", file, to], "--target"),
        (&["--key", file, target], "--to"),
        (&[to, target], "--key"),
    ] {
        let output = sign_link(flags);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{flags:?}: {stderr}");
        assert!(stderr.contains(said), "{flags:?}: {stderr}");
    }
    // nobody reads it
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    let mut command = Command::new(collector_binary());
    command.args(["sign-link", "--key", file, to, target]).stdout(writer);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}

fn page(name: &str) -> String {
    fs::read_to_string(workspace().join(name)).unwrap()
}

/// What stands in the first block of code of a page that begins so.
fn block<'a>(page: &'a str, language: &str) -> &'a str {
    let (_, behind) = page.split_once(&format!("```{language}\n")).unwrap();
    behind.split_once("```").unwrap().0
}

/// A file with the key of the published examples.
fn example_key(folder: &TempDir) -> String {
    let vectors = vectors();
    let key = &vectors["keys"][0];
    let file = key_file(folder, &format!("{} {}\n", key["id"], key["secret"].as_str().unwrap()));
    file.to_str().unwrap().to_owned()
}

#[test]
fn the_examples_in_python_and_openssl_make_the_published_link() {
    let page = page("proto/LINKS.md");
    let vectors = vectors();
    let expected = format!("https://collector.example/r?{}\n", vectors["links"][0]["query"].as_str().unwrap());
    for (language, program) in [("python", "python3"), ("sh", "sh")] {
        let output = Command::new(program).arg("-c").arg(block(&page, language)).output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{language}: {output:?}");
        assert_eq!(String::from_utf8(output.stdout).unwrap(), expected, "{language}");
    }
}

#[test]
fn the_documents_show_what_sign_link_prints() {
    let folder = tempfile::tempdir().unwrap();
    let file = example_key(&folder);
    for name in ["proto/LINKS.md", "README.md"] {
        let page = page(name);
        let (_, example) = page.split_once("$ tallylight-collector sign-link ").unwrap();
        let (words, behind) = example.split_once("\nhttps://").unwrap();
        let words: Vec<&str> = words.split_whitespace().filter(|word| *word != "\\").collect();
        let words: Vec<&str> = words.iter().map(|word| if *word == "redirect.key" { &file } else { *word }).collect();
        let output = sign_link(&words);
        let printed = String::from_utf8(output.stdout).unwrap();
        assert_eq!(printed.trim_end(), format!("https://{}", behind.lines().next().unwrap()), "{name}");
    }
}
