//! Every kind of request and its answer.

use super::Fixture;
use crate::harness::{Reply, wait_for};

const PIXEL_LEN: usize = 43;

pub fn assert_readable_by_any_page(reply: &Reply, origin: Option<&str>) {
    let header = |name| reply.header(name);
    match origin {
        None => assert_eq!(header("access-control-allow-origin"), Some("*")),
        Some(origin) => {
            assert_eq!(header("access-control-allow-origin"), Some(origin));
            assert_eq!(header("access-control-allow-credentials"), Some("true"));
            assert_eq!(header("vary"), Some("Origin"));
        }
    }
    assert_eq!(header("access-control-expose-headers"), Some("Retry-After, Tallylight-Refused"));
    assert_eq!(header("cross-origin-resource-policy"), Some("cross-origin"));
    assert_eq!(header("x-content-type-options"), Some("nosniff"));
    assert_eq!(header("cache-control"), Some("no-store"));
    assert_eq!(header("set-cookie"), None);
}

#[test]
fn every_request_has_its_status_its_reason_and_headers_that_any_page_can_read() {
    let fixture = Fixture::start(&["--site=shop.example"]);
    let long = format!("/api/beacon?site=shop.example&item={}", "a".repeat(10_000));
    let multipart: &[(&str, &str)] = &[("Content-Type", "multipart/form-data; boundary=x")];
    let json: &[u8] = br#"{"site":"shop.example"}"#;
    type Case<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], &'a [u8], u16, Option<&'a str>);
    let cases: &[Case<'_>] = &[
        ("GET", "/api/beacon?site=shop.example", &[], b"", 200, None),
        ("GET", "/pixel.gif?site=Shop.EXAMPLE", &[], b"", 200, None),
        ("GET", &long, &[], b"", 200, None),
        ("GET", "/api/beacon", &[("Referer", "https://shop.example/a")], b"", 200, None),
        ("GET", "/api/beacon", &[], b"", 403, Some("site")),
        ("GET", "/api/beacon?site=other.example", &[], b"", 403, Some("site")),
        ("GET", "/api/beacon?site=shop.example&id=7", &[], b"", 400, Some("malformed")),
        (
            "GET",
            "/api/beacon?site=shop.example",
            &[("Sec-Purpose", "prefetch;prerender")],
            b"",
            200,
            Some("speculative"),
        ),
        ("POST", "/api/beacon", &[], json, 204, None),
        ("POST", "/api/beacon?ack=logged", &[], json, 204, None),
        ("POST", "/api/beacon?ack=synced", &[], json, 204, None),
        ("POST", "/api/beacon?ack=soon", &[], json, 400, Some("malformed")),
        ("POST", "/api/beacon?site=shop.example", &[], b"", 204, None),
        ("POST", "/api/beacon", &[], br#"{"site":"shop.example","value":"x"}"#, 400, Some("malformed")),
        ("POST", "/api/beacon", &[], br#"{"site":"other.example"}"#, 403, Some("site")),
        ("POST", "/api/beacon", &[], br#"[{"site":"shop.example"},{"site":""}]"#, 403, Some("site")),
        ("POST", "/api/beacon", &[("X-Moz", "Prefetch")], json, 403, Some("speculative")),
        ("POST", "/api/beacon", &[("Content-Encoding", "br")], json, 415, Some("type")),
        ("POST", "/api/beacon", multipart, b"--x--", 415, Some("type")),
        ("POST", "/pixel.gif", &[], json, 405, Some("method")),
        ("PUT", "/api/beacon", &[], json, 405, Some("method")),
        ("DELETE", "/api/beacon", &[], b"", 405, Some("method")),
        ("GET", "/", &[], b"", 404, Some("path")),
        ("POST", "/api/beacon/", &[], json, 404, Some("path")),
        ("GET", "/demo/", &[], b"", 404, Some("path")),
        ("OPTIONS", "/api/beacon", &[], b"", 204, None),
        ("OPTIONS", "/elsewhere", &[], b"", 404, Some("path")),
    ];
    for (method, path, headers, body, status, refused) in cases {
        let origins: &[Option<&str>] = &[None, Some("https://shop.example"), Some("null")];
        for origin in origins {
            // an origin names a site, too: these answers depend on its absence
            if origin.is_some() && *refused == Some("site") && !path.contains("other") {
                continue;
            }
            let headers: Vec<_> = headers.iter().copied().chain(origin.map(|origin| ("Origin", origin))).collect();
            let reply = fixture.collector.request(method, path, &headers, body);
            let case = format!("{method} {path} {headers:?}: {reply:?}");
            assert_eq!((reply.status, reply.header("tallylight-refused")), (*status, *refused), "{case}");
            assert_readable_by_any_page(&reply, *origin);
            match (*method, reply.status) {
                ("GET", 200..=299 | 400 | 403) => assert_eq!(reply.body.len(), PIXEL_LEN, "{case}"),
                (_, 200..=299) => assert_eq!(reply.body, b"", "{case}"),
                _ => assert!(reply.text().ends_with('\n') && reply.text().lines().count() == 1, "{case}"),
            }
            assert_eq!(reply.header("allow").is_some(), reply.status == 405, "{case}");
        }
    }
    // with each of three origins: 4 pixels and 4 bodies taken, 3 pixels and 5 bodies refused; once without: a pixel
    // and a body, and an array of two
    fixture.assert_ledger([3 * 8 + 3 * 8 + 4, 3 * 8, 3 * 8 + 4]);
}

#[test]
fn what_is_no_beacon_is_not_counted() {
    let fixture = Fixture::start(&[]);
    for (method, path) in [
        ("HEAD", "/api/beacon?event=a"),
        ("HEAD", "/pixel.gif"),
        ("HEAD", "/api/beacon?id=bad"),
        ("OPTIONS", "/api/beacon"),
        ("GET", "/nothing"),
        ("PUT", "/api/beacon"),
        ("GET", "/api/beacon?debug=1&id=bad"),
        ("GET", "/api/beacon?event=a&debug=1"),
    ] {
        fixture.collector.request(method, path, &[], b"");
    }
    fixture.collector.request("HEAD", "/api/beacon", &[("Purpose", "prefetch")], b"");
    // one that counts, so that whatever was counted before it has come through
    assert_eq!(fixture.collector.request("POST", "/api/beacon", &[], b"a=1").status, 204);
    fixture.assert_ledger([1, 1, 0]);
    assert_eq!(fixture.collector.metrics().sum("tallylight_debug_requests_total"), 2.0);
}

#[test]
fn head_has_the_headers_of_get_and_no_body() {
    let fixture = Fixture::start(&["--demo"]);
    for path in ["/api/beacon?event=a", "/api/beacon?id=bad", "/demo/", "/nothing", "/api/beacon?debug=1"] {
        let get = fixture.collector.request("GET", path, &[], b"");
        let head = fixture.collector.request("HEAD", path, &[], b"");
        assert_eq!((head.status, &head.body[..]), (get.status, &b""[..]), "{path}");
        let names = |reply: &Reply| {
            reply.headers.iter().map(|(name, _)| name.clone()).collect::<std::collections::BTreeSet<_>>()
        };
        assert_eq!(names(&head), names(&get), "{path}");
        assert_eq!(head.header("content-length"), get.header("content-length"), "{path}");
    }
}

#[test]
fn a_preflight_allows_what_clients_send_and_is_kept_for_a_day() {
    let fixture = Fixture::start(&[]);
    let headers = [("Origin", "https://shop.example"), ("Access-Control-Request-Method", "POST")];
    let reply = fixture.collector.request("OPTIONS", "/api/beacon", &headers, b"");
    assert_eq!(reply.status, 204);
    assert_eq!(reply.header("access-control-max-age"), Some("86400"));
    assert_eq!(reply.header("access-control-allow-headers"), Some("content-type, content-encoding"));
    assert!(reply.header("access-control-allow-methods").unwrap().contains("POST"));
}

#[test]
fn debug_shows_what_would_be_recorded_and_what_is_odd_about_it() {
    let fixture = Fixture::start(&[]);
    let report = fixture.debug("event=buy&value=1.5000001&color=red&ack=x", &[("Referer", "https://Shop.example/a")]);
    assert_eq!(report["refused"], serde_json::Value::Null);
    let event = &report["event"];
    assert_eq!((&event["site"], &event["event"]), (&"shop.example".into(), &"buy".into()));
    assert_eq!(event["props"], serde_json::json!({"color": "red"}));
    let warnings = report["warnings"].to_string();
    assert!(warnings.contains("id is missing") && warnings.contains("rounded"), "{warnings}");

    let report = fixture.debug("id=bad", &[]);
    assert_eq!(report["event"], serde_json::Value::Null);
    assert_eq!(report["refused"]["reason"], "malformed");
    let report = fixture.debug("", &[("Sec-Purpose", "prefetch")]);
    assert_eq!(report["refused"]["reason"], "speculative");
    // no debugging: any other value
    let reply = fixture.collector.request("GET", "/api/beacon?debug=0", &[], b"");
    assert_eq!(reply.body.len(), PIXEL_LEN);
}

#[test]
fn the_demo_is_served_when_asked_for() {
    let fixture = Fixture::start(&["--demo"]);
    let reply = fixture.collector.request("GET", "/demo/", &[], b"");
    assert_eq!((reply.status, reply.header("content-type")), (200, Some("text/html; charset=utf-8")));
    assert!(reply.text().contains("/api/beacon"));
    assert_eq!(fixture.collector.request("GET", "/demo", &[], b"").header("location"), Some("/demo/"));
    assert_eq!(fixture.collector.request("POST", "/demo/", &[], b"").status, 405);
    assert_eq!(fixture.collector.request("GET", "/demo/none", &[], b"").status, 404);
}

#[test]
fn a_pixel_is_in_the_log_soon_without_anybody_asking_again() {
    let fixture = Fixture::start(&[]);
    assert_eq!(fixture.collector.request("GET", "/api/beacon?event=alone", &[], b"").status, 200);
    wait_for("the pixel in the log", || {
        (fixture.collector.metrics().get("tallylight_events_logged_total") == 1.0).then_some(())
    });
}
