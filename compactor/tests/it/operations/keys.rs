//! Keys change places: the new one is taken before the old one goes.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tallylight_proto::keys::Keys;

use super::page::{Operator, blocks};
use crate::harness::datagrams::{Source, key};
use crate::harness::{Collector, collector_binary, wait_for};

/// A file with this line alone, as senders have it.
fn of_sender(folder: &Path, line: &str) -> PathBuf {
    let path = folder.join("sender");
    fs::write(&path, line).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

/// The path of a link that is signed with this key.
fn link(folder: &Path, line: &str) -> String {
    let mut sign = Command::new(collector_binary());
    sign.args(["sign-link", "--to=http://collector", "--target=https://shop.example/", "--key"]);
    let output = sign.arg(of_sender(folder, line)).output().unwrap();
    let link = String::from_utf8(output.stdout).unwrap();
    link.trim().strip_prefix("http://collector").unwrap_or_else(|| panic!("{link}")).to_owned()
}

#[test]
fn a_new_key_is_taken_beside_the_old_one_and_then_the_old_one_is_refused() {
    let [add, remove] = blocks("Keys");
    let folder = tempfile::tempdir().unwrap();
    let (udp, redirect) = (folder.path().join("udp.key"), folder.path().join("redirect.key"));
    for file in [&udp, &redirect] {
        fs::copy(of_sender(folder.path(), &key(7, 1).0), file).unwrap();
    }
    let flags = ["--udp-key", udp.to_str().unwrap(), "--redirect-key", redirect.to_str().unwrap()];
    let collector = Collector::start(&folder.path().join("data"), &flags);
    let operator = |keys: &Path| {
        let operator = Operator::of(&collector.data, &collector.data.join("out"));
        operator.with("KEYS", keys).with("NEW", "8").with("OLD", "7")
    };
    let datagrams = |outcome: &str| match outcome {
        "taken" => collector.metrics().get("tallylight_events_received_total{front=\"udp\"}"),
        _ => collector.metrics().get("tallylight_udp_datagrams_refused_total{reason=\"tag\"}"),
    };
    // until it is so: a reload takes a moment
    let becomes = |outcome: &str, source: &mut Source| {
        let before = datagrams(outcome);
        wait_for(outcome, || {
            source.send(b"event=click");
            (datagrams(outcome) > before).then_some(())
        });
    };
    let status = |link: &str| collector.request("GET", link, &[], b"").status;

    for file in [&udp, &redirect] {
        operator(file).runs(&add);
        let mode = fs::metadata(file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "it stays closed");
    }
    let new = |file: &Path| fs::read_to_string(file).unwrap().lines().last().unwrap().to_owned();
    let mut old_source = Source::keyed(collector.udp, key(7, 1).1);
    let mut new_source = Source::keyed(collector.udp, Keys::parse(&new(&udp)).unwrap().signing().unwrap().clone());
    let (old_link, new_link) = (link(folder.path(), &key(7, 1).0), link(folder.path(), &new(&redirect)));
    assert_eq!((status(&old_link), status(&new_link)), (302, 403), "it does not know yet");
    collector.hang_up();
    becomes("taken", &mut new_source);
    becomes("taken", &mut old_source);
    wait_for("the new link", || (status(&new_link) == 302).then_some(()));
    assert_eq!(status(&old_link), 302);

    for file in [&udp, &redirect] {
        operator(file).runs(&remove);
    }
    collector.hang_up();
    becomes("refused", &mut old_source);
    becomes("taken", &mut new_source);
    wait_for("the old link", || (status(&old_link) == 403).then_some(()));
    assert_eq!(status(&new_link), 302);
}
