//! What stands in a datagram means what it means in the body of a POST.

use serde_json::{Value, json};

use super::Fixture;
use crate::harness::{datagrams, wait_for};

/// Bodies of every kind, good and bad.
fn bodies() -> Vec<String> {
    let id = "0198c5a1-7b3c-7def-8123-456789abcdef";
    let mut bodies = vec![
        format!("site=A.example&event=buy&target=https%3A%2F%2Fx.example%2F&value=1.5&color=dark+red&id={id}"),
        "event=one&item=1\r\n\nnothing\n{\"event\":\"two\",\"ua\":\"agent\"}\nvalue=x\nevent=three".to_owned(),
        r#"{"site":"a.example","event":"click","page":"https://shop.example/a?b","age":1500,"lost":3,"n":1.50}"#
            .to_owned(),
        " \n[{\"event\":\"first\"},{\"event\":\"second\",\"visitor\":\"v\"}]\n".to_owned(),
        "\u{feff}event=marked".to_owned(),
        "[{\"event\":\"dropped\"},3]".to_owned(),
        r#"{"id":"x"}"#.to_owned(),
        "[]".to_owned(),
        "neither".to_owned(),
        "event=many\n".repeat(1000),
        "event=too-many\n".repeat(1001),
    ];
    bodies.push(format!("event=long&text={}", "x".repeat(60_000)));
    bodies
}

/// An event of the log without what differs between two sendings of it.
fn without_circumstances(event: &Value) -> Value {
    let mut event = event.clone();
    let map = event.as_object_mut().unwrap();
    for name in ["position", "ordinal", "received_at", "event_at", "front", "key", "source", "sequence", "ip"] {
        map.remove(name);
    }
    // one that the sender made stays
    if !map["id"].as_str().unwrap().starts_with("0198c5a1-") {
        map.remove("id");
    }
    event
}

#[test]
fn a_datagram_becomes_the_same_records_as_the_body_of_a_post() {
    let fixture = Fixture::start(&[]);
    let bodies = bodies();
    let refused = || {
        let metrics = fixture.collector.metrics();
        ["malformed", "too_large"]
            .map(|word| metrics.count(&format!("tallylight_events_refused_total{{reason=\"{word}\"}}")))
    };
    for body in &bodies {
        fixture.collector.request("POST", "/api/beacon", &[], body.as_bytes());
    }
    fixture.settle();
    let of_posts = refused();
    assert!(of_posts[0] > 5 && of_posts[1] == 1001, "{of_posts:?}");

    let plain = datagrams::socket(fixture.collector.udp);
    for body in &bodies {
        datagrams::send(&plain, body.as_bytes());
    }
    fixture.wait_received(bodies.len() as u64);
    fixture.settle();
    assert_eq!(refused(), of_posts.map(|count| 2 * count));
    let mut framed = fixture.source();
    for body in &bodies {
        framed.send(body.as_bytes());
    }
    fixture.wait_received(2 * bodies.len() as u64);
    let report = fixture.settled(&framed);
    assert_eq!(refused(), of_posts.map(|count| 3 * count));

    let events = fixture.inspect();
    let third = events.len() / 3;
    let parts: Vec<Vec<Value>> =
        events.chunks(third).map(|part| part.iter().map(without_circumstances).collect()).collect();
    assert_eq!(parts.len(), 3);
    assert!(third > 1000, "{third}");
    for (n, posted) in parts[0].iter().enumerate() {
        assert_eq!((&parts[1][n], &parts[2][n]), (posted, posted));
    }
    for (n, event) in events.iter().enumerate() {
        assert_eq!(event["front"], if n < third { "http1" } else { "udp" });
        assert_eq!(event.get("source").cloned(), (n >= 2 * third).then(|| json!(framed.name())));
    }
    let figures = (report.received, report.events, report.lost, report.next);
    assert_eq!(figures, (bodies.len() as u64, third as u64, 0, bodies.len() as u64 + 1));
    fixture.end();
}

#[test]
fn a_framed_datagram_of_blanks_uses_its_number_up_and_a_plain_one_is_none() {
    let fixture = Fixture::start(&[]);
    let mut source = fixture.source();
    source.send(b" \r\n\t");
    source.send(b"event=good");
    datagrams::send(&datagrams::socket(fixture.collector.udp), b" \r\n\t");
    fixture.wait_received(3);
    let report = fixture.settled(&source);
    assert_eq!((report.received, report.events, report.lost), (2, 1, 0));
    assert_eq!(fixture.datagrams().malformed, 1);
    let events = fixture.events();
    assert_eq!((events.received, events.logged, events.malformed), (2, 1, 1));
    fixture.end();
}

#[test]
fn sites_that_are_not_listed_are_refused_and_their_numbers_are_not_lost() {
    let fixture = Fixture::start(&["--site=a.example"]);
    let mut source = fixture.source();
    source.send(b"site=a.example&event=one");
    source.send(b"site=b.example&event=none");
    source.send(b"site=a.example&event=two\nsite=b.example\nsite=a.example&event=three");
    source.send(b"event=of-no-site");
    datagrams::send(&datagrams::socket(fixture.collector.udp), b"site=c.example&event=none");
    fixture.wait_received(5);
    let report = fixture.settled(&source);
    assert_eq!((report.received, report.events, report.lost, report.next), (4, 3, 0, 5));
    let events = fixture.events();
    assert_eq!((events.received, events.logged, events.site), (7, 3, 4));
    let names: Vec<_> = fixture.inspect().iter().map(|event| event["event"].clone()).collect();
    assert_eq!(names, ["one", "two", "three"]);
    fixture.end();
}

#[test]
fn every_worker_and_every_address_takes_datagrams() {
    let second = crate::harness::free_addr();
    let fixture = Fixture::start(&["--udp", &second.to_string()]);
    // the kernel deals senders out by their port
    let mut sources: Vec<_> = (0..16).map(|_| fixture.source()).collect();
    sources.extend((0..16).map(|_| datagrams::Source::new(second)));
    for source in &mut sources {
        source.send(b"event=one");
    }
    fixture.wait_received(32);
    let events = wait_for("all events", || Some(fixture.inspect()).filter(|events| events.len() == 32));
    for source in &sources {
        assert!(events.iter().any(|event| event["source"] == source.name()));
    }
    fixture.end();
}
