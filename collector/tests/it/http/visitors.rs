//! Whose event it is, and what may be known of them.

use super::Fixture;
use crate::harness::{inspect, wait_for};

fn ip(fixture: &Fixture, headers: &[(&str, &str)]) -> serde_json::Value {
    fixture.debug("", headers)["event"]["ip"].clone()
}

#[test]
fn an_address_is_cut_unless_the_operator_wants_more_or_less() {
    for (flag, expected) in [
        ("--ip=truncate", "127.0.0.0".into()),
        ("--ip=keep", "127.0.0.1".into()),
        ("--ip=drop", serde_json::Value::Null),
    ] {
        let fixture = Fixture::start(&[flag]);
        assert_eq!(ip(&fixture, &[]), expected, "{flag}");
        // nobody is believed by default
        assert_eq!(ip(&fixture, &[("X-Forwarded-For", "192.0.2.77"), ("Forwarded", "for=192.0.2.77")]), expected);
    }
}

#[test]
fn a_trusted_proxy_says_whom_it_speaks_for() {
    let fixture = Fixture::start(&["--trusted-proxy=127.0.0.0/8,10.0.0.0/8"]);
    assert_eq!(ip(&fixture, &[("X-Forwarded-For", "6.6.6.6, 192.0.2.77, 10.1.1.1")]), "192.0.2.0");
    assert_eq!(ip(&fixture, &[("Forwarded", "for=\"[2001:db8:7:7::1]:4711\"")]), "2001:db8:7::");
    assert_eq!(ip(&fixture, &[("Forwarded", "for=unknown")]), serde_json::Value::Null);
}

#[test]
fn the_wish_for_privacy_takes_visitor_and_address_away_and_the_event_counts() {
    let fixture = Fixture::start(&[]);
    for header in ["Sec-GPC", "DNT"] {
        let event = fixture.debug("visitor=v", &[(header, "1")])["event"].clone();
        assert_eq!((&event["visitor"], &event["ip"]), (&"".into(), &serde_json::Value::Null), "{header}");
        let event = fixture.debug("visitor=v", &[(header, "0")])["event"].clone();
        assert_eq!((&event["visitor"], &event["ip"]), (&"v".into(), &"127.0.0.0".into()), "{header}");
    }
    let reply = fixture.collector.request("POST", "/api/beacon", &[("DNT", "1")], b"visitor=secret&event=private");
    assert_eq!(reply.status, 204);
    let events = inspect(&fixture.collector.data);
    assert_eq!((&events[0]["event"], &events[0]["visitor"]), (&"private".into(), &"".into()));
    assert_eq!(events[0]["ip"], serde_json::Value::Null);
}

#[test]
fn what_a_browser_says_of_itself_stands_in_for_what_the_page_does_not() {
    let fixture = Fixture::start(&[]);
    let headers =
        [("Referer", "https://Shop.example/a?b"), ("User-Agent", "Mozilla/5.0"), ("Origin", "https://o.example")];
    let event = fixture.debug("", &headers)["event"].clone();
    assert_eq!(event["site"], "shop.example");
    assert_eq!(event["page"], "https://Shop.example/a?b");
    assert_eq!(event["ua"], "Mozilla/5.0");
    assert_eq!(event["event"], "beacon");
    let event = fixture.debug("site=Mine&page=p&ua=theirs", &headers)["event"].clone();
    assert_eq!((&event["site"], &event["page"], &event["ua"]), (&"mine".into(), &"p".into(), &"theirs".into()));
    let event = fixture.debug("", &headers[2..])["event"].clone();
    assert_eq!((&event["site"], &event["page"]), (&"o.example".into(), &"".into()));
}

#[test]
fn the_list_of_sites_is_read_again_on_sighup_and_a_bad_one_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("sites");
    std::fs::write(&file, "one.example\n").unwrap();
    let fixture = Fixture::start(&["--site=fixed.example", "--site-file", file.to_str().unwrap()]);
    let status = |site: &str| fixture.collector.request("GET", &format!("/api/beacon?site={site}"), &[], b"").status;
    assert_eq!([status("one.example"), status("two.example"), status("fixed.example")], [200, 403, 200]);

    let hang_up = || {
        let pid = rustix::process::Pid::from_raw(fixture.collector.pid().try_into().unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    };
    std::fs::write(&file, "two.example\n").unwrap();
    hang_up();
    wait_for("the new list", || (status("two.example") == 200).then_some(()));
    // there are two workers, and each has read it when it is asked
    assert_eq!([status("one.example"), status("one.example"), status("fixed.example")], [403, 403, 200]);

    std::fs::write(&file, "two words\n").unwrap();
    hang_up();
    wait_for("a word about the bad list", || fixture.collector.stderr().contains("two words").then_some(()));
    assert_eq!([status("two.example"), status("one.example")], [200, 403]);
    fixture.ledger();
}
