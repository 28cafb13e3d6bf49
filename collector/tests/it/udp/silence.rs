//! Nothing is ever sent back, whatever comes: an address on a datagram proves nothing.

use std::fs;
use std::process::Command;

use super::Fixture;
use crate::harness::datagrams::{self, key};

/// What was sent in this network namespace: datagrams, and ICMP messages, which is what a closed port answers with.
fn sent_here() -> [u64; 2] {
    let text = fs::read_to_string("/proc/net/snmp").unwrap();
    [("Udp:", "OutDatagrams"), ("Icmp:", "OutMsgs")].map(|(protocol, name)| {
        let lines = text.lines().filter(|line| line.starts_with(protocol));
        let [names, numbers] = lines.collect::<Vec<_>>()[..] else { panic!("{text}") };
        let place = names.split_whitespace().position(|other| other == name).unwrap();
        numbers.split_whitespace().nth(place).unwrap().parse().unwrap()
    })
}

#[test]
fn nothing_is_ever_sent_back() {
    // in a network of its own, nobody else sends anything
    let run = Command::new("unshare")
        .args(["--map-root-user", "--net", "sh", "-c", r#"ip link set lo up && exec "$0" "$@""#])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "udp::silence::alone_in_a_network_of_its_own"])
        .output()
        .expect("unshare of Debian's util-linux is there");
    let said = String::from_utf8_lossy(&run.stdout).into_owned() + &String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success() && said.contains("1 passed"), "{}\n{said}", run.status);
}

#[test]
#[ignore = "for `nothing_is_ever_sent_back`, which runs it where it is alone"]
fn alone_in_a_network_of_its_own() {
    let (line, right) = key(1, 1);
    let (_, wrong) = key(1, 2);
    let fixture = Fixture::with_keys(&line, &["--site=a.example"]);
    let [datagrams, icmp] = sent_here();
    let socket = datagrams::socket(fixture.collector.udp);
    let (mut keyed, mut unkeyed, mut forged) = (fixture.keyed(&right), fixture.source(), fixture.keyed(&wrong));
    let mut sent = 0;
    for _ in 0..100 {
        let good = keyed.send(b"site=a.example");
        keyed.send_bytes(&good);
        keyed.send(b"site=b.example");
        keyed.send(b"[1]");
        keyed.heartbeat();
        keyed.send_bytes(&good[..good.len() - 1]);
        forged.send(b"site=a.example");
        unkeyed.send(b"site=a.example");
        unkeyed.heartbeat();
        for bytes in [&b"site=a.example"[..], b"", b"\xF5", b"\xF5TL\x02 what a later version sends ...........", b"\0"]
        {
            datagrams::send(&socket, bytes);
        }
        sent += 14;
        // no more on the way than the smallest buffer holds
        fixture.wait_received(sent);
    }
    fixture.settle();
    assert_eq!(sent_here(), [datagrams + sent, icmp]);
    assert_eq!(datagrams::answer(&socket), None);
    for source in [&keyed, &unkeyed, &forged] {
        assert_eq!(source.answer(), None);
    }
    fixture.end();
}
