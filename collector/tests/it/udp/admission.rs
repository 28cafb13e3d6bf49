//! Who may send what: keys, and addresses without one.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::unix::fs::PermissionsExt;

use super::{Datagrams, Fixture, key_file};
use crate::harness::datagrams::{Source, key, send, socket_at};
use crate::harness::{free_addr, wait_for};
use crate::lifecycle::refused;

const LISTED: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// What becomes of datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Taken,
    Tag,
    Plain,
    Address,
}

use Fate::{Address, Plain, Tag, Taken};

/// From an address: a plain datagram, a framed one, one with the right key, one with a tag that was touched, one with
/// a key's id and another secret, one with an id that no key has.
fn send_all(fixture: &Fixture, from: Ipv4Addr) {
    let udp = fixture.collector.udp;
    let socket = || socket_at(from, udp);
    send(&socket(), b"event=plain");
    Source::on(socket(), None).send(b"event=framed");
    let mut keyed = Source::on(socket(), Some(key(7, 1).1));
    keyed.send(b"event=keyed");
    let mut touched = keyed.frame(b"event=touched");
    *touched.last_mut().unwrap() ^= 1;
    keyed.send_bytes(&touched);
    Source::on(socket(), Some(key(7, 2).1)).send(b"event=forged");
    Source::on(socket(), Some(key(8, 1).1)).send(b"event=unknown");
}

#[test]
fn each_datagram_that_may_not_come_in_is_counted_under_its_reason() {
    let from = format!("--udp-from={LISTED}");
    // with keys, with a list, from a listed address; then plain, framed, keyed, touched, forged, unknown
    for (has_keys, has_list, is_listed, fates) in [
        (false, false, false, [Taken, Taken, Tag, Tag, Tag, Tag]),
        (false, true, false, [Address, Address, Tag, Tag, Tag, Tag]),
        (false, true, true, [Taken, Taken, Tag, Tag, Tag, Tag]),
        (true, false, false, [Plain, Tag, Taken, Tag, Tag, Tag]),
        (true, true, false, [Plain, Tag, Taken, Tag, Tag, Tag]),
        (true, true, true, [Taken, Taken, Taken, Tag, Tag, Tag]),
    ] {
        let flags: Vec<&str> = has_list.then_some(from.as_str()).into_iter().collect();
        let fixture = if has_keys { Fixture::with_keys(&key(7, 1).0, &flags) } else { Fixture::start(&flags) };
        send_all(&fixture, if is_listed { LISTED } else { Ipv4Addr::LOCALHOST });
        fixture.wait_received(6);
        let events = fixture.events();
        let count = |fate: Fate| fates.iter().filter(|other| **other == fate).count() as u64;
        let expected = Datagrams {
            received: 6,
            tag: count(Tag),
            plain: count(Plain),
            address: count(Address),
            ..Datagrams::default()
        };
        assert_eq!(fixture.datagrams(), expected, "{has_keys} {has_list} {is_listed}");
        // what is refused as a datagram is no event
        assert_eq!((events.received, events.logged), (count(Taken), count(Taken)));
        let names: Vec<_> = fixture.inspect().iter().map(|event| event["event"].clone()).collect();
        for (name, fate) in ["plain", "framed", "keyed", "touched", "forged", "unknown"].iter().zip(fates) {
            assert_eq!(names.iter().any(|other| other == name), fate == Taken, "{name}");
        }
        fixture.end();
    }
}

#[test]
fn networks_may_be_listed_of_both_families() {
    let port = free_addr().port();
    let lists = ["--udp-from=10.0.0.0/8,127.0.0.0/30", "--udp-from=::1", &format!("--udp=[::1]:{port}")];
    let fixture = Fixture::start(&lists);
    for address in [LISTED, Ipv4Addr::new(127, 0, 0, 4)] {
        send(&socket_at(address, fixture.collector.udp), b"event=plain");
    }
    let socket = UdpSocket::bind("[::1]:0").unwrap();
    socket.connect((Ipv6Addr::LOCALHOST, port)).unwrap();
    send(&socket, b"event=plain");
    fixture.wait_received(3);
    assert_eq!(fixture.datagrams(), Datagrams { received: 3, address: 1, ..Datagrams::default() });
    fixture.end();

    let fixture = Fixture::start(&["--udp-from=2001:db8::/32", &format!("--udp=[::1]:{port}")]);
    send(&socket, b"event=plain");
    fixture.wait_received(1);
    assert_eq!(fixture.datagrams(), Datagrams { received: 1, address: 1, ..Datagrams::default() });
    fixture.end();
}

/// Reads keys again, and waits until one of them is good, or is not any longer.
fn hang_up_until(fixture: &Fixture, source: &mut Source, is_good: bool) {
    fixture.collector.hang_up();
    wait_for("the new keys", || {
        let before = fixture.datagrams();
        // to both workers, whichever port it comes from
        for _ in 0..16 {
            let again = source.frame(b"event=asked");
            send(&crate::harness::datagrams::socket(fixture.collector.udp), &again);
        }
        fixture.wait_received(before.received + 16);
        let refused = fixture.datagrams().tag - before.tag;
        (refused == if is_good { 0 } else { 16 }).then_some(())
    });
}

#[test]
fn keys_are_changed_while_it_runs_and_both_are_good_meanwhile() {
    let ((old_line, old_key), (new_line, new_key)) = (key(1, 1), key(2, 2));
    let fixture = Fixture::with_keys(&old_line, &[]);
    let (mut old, mut new) = (fixture.keyed(&old_key), fixture.keyed(&new_key));
    let mut both = |fixture: &Fixture, expected: [u64; 2]| {
        let before = fixture.datagrams();
        old.send(b"event=old");
        new.send(b"event=new");
        fixture.wait_received(before.received + 2);
        let taken = [&old, &new].map(|source| fixture.report(source).map_or(0, |report| report.received));
        assert_eq!(taken, expected);
    };
    both(&fixture, [1, 0]);
    let mut asking = fixture.keyed(&new_key);
    fixture.set_keys(&format!("# the first one signs\n{old_line}{new_line}"));
    hang_up_until(&fixture, &mut asking, true);
    both(&fixture, [2, 1]);
    fixture.set_keys(&format!("{new_line}{old_line}"));
    hang_up_until(&fixture, &mut asking, true);
    both(&fixture, [3, 2]);
    let mut asking = fixture.keyed(&old_key);
    fixture.set_keys(&new_line);
    hang_up_until(&fixture, &mut asking, false);
    both(&fixture, [3, 3]);
    fixture.end();
}

#[test]
fn keys_that_cannot_be_used_change_nothing_while_it_runs() {
    let ((line, right), (other_line, other)) = (key(1, 1), key(2, 2));
    let fixture = Fixture::with_keys(&line, &[]);
    let (mut source, mut stranger) = (fixture.keyed(&right), fixture.keyed(&other));
    let path = fixture.set_keys(&other_line);
    let mut received = 0;
    let mut assert_unchanged = |source: &mut Source, stranger: &mut Source| {
        received += 2;
        let before = fixture.datagrams();
        source.send(b"event=one");
        stranger.send(b"event=none");
        fixture.wait_received(received);
        assert_eq!(fixture.datagrams().tag, before.tag + 1);
        assert_eq!(fixture.report(source).unwrap().received, received / 2);
    };
    let complaints = || fixture.collector.stderr().matches("ERROR").count();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o604)).unwrap();
    for (n, (lines, mode)) in [(other_line.as_str(), 0o604), ("1 00\n", 0o600), ("", 0o600)].into_iter().enumerate() {
        fs::write(&path, lines).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        fixture.collector.hang_up();
        wait_for("a complaint", || (complaints() == n + 1).then_some(()));
        assert_unchanged(&mut source, &mut stranger);
    }
    fs::remove_file(&path).unwrap();
    fixture.collector.hang_up();
    wait_for("a complaint", || (complaints() == 4).then_some(()));
    assert_unchanged(&mut source, &mut stranger);
    assert!(fixture.collector.stderr().contains(path.to_str().unwrap()));
    fixture.settle();
}

#[test]
fn keys_that_cannot_be_used_keep_it_from_starting() {
    let folder = tempfile::tempdir().unwrap();
    let line = key(1, 1).0;
    let secret = line.split_whitespace().nth(1).unwrap().to_owned();
    let short = format!("1 {}\n", &secret[2..]);
    let twice = line.repeat(2);
    for (lines, mode, word) in [
        (Some(line.as_str()), 0o604, "keys"),
        (Some(line.as_str()), 0o644, "keys"),
        (Some("# none\n"), 0o600, "no key"),
        (Some("256 00\n"), 0o600, "0 to 255"),
        (Some(short.as_str()), 0o600, "31 bytes"),
        (Some(twice.as_str()), 0o600, "a key 1"),
        (Some("1 0g\n"), 0o600, "hex"),
        (Some("one\n"), 0o600, "line 1"),
        (None, 0, "keys"),
    ] {
        let path = key_file(&folder, lines.unwrap_or_default());
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        if lines.is_none() {
            fs::remove_file(&path).unwrap();
            fs::create_dir(&path).unwrap();
        }
        let (code, said) = refused(&folder.path().join("data"), &["--http=off", "--udp-key", path.to_str().unwrap()]);
        assert_eq!(code, Some(2), "{lines:?}: {said}");
        assert!(said.contains(word), "{lines:?}: {said}");
        assert!(!said.contains(&secret[2..20]), "a secret is told: {said}");
    }
}
