//! Signed links, as readers of e-mails, gateways, scanners and whoever tries to forge one meet them.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use serde_json::Value;
use tallylight_proto::keys::Key;
use tallylight_proto::link::Link;
use tempfile::TempDir;

use super::Fixture;
use super::answers::assert_readable_by_any_page;
use crate::harness::datagrams::key;
use crate::harness::{Metrics, Reply, free_addr, inspect, request, try_request, wait_for, workspace};
use crate::lifecycle::{Killed, command, refused};
use crate::udp::key_file;

const TARGET: &str = "https://shop.example/4711?a=b";

/// A collector with keys, in a file of its own.
pub struct Redirecting {
    fixture: Fixture,
    pub folder: TempDir,
}

impl std::ops::Deref for Redirecting {
    type Target = Fixture;

    fn deref(&self) -> &Fixture {
        &self.fixture
    }
}

impl Redirecting {
    pub fn start(lines: &str, flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = key_file(&folder, lines);
        let fixture = Fixture::start(&[&["--redirect-key", file.to_str().unwrap()], flags].concat());
        Self { fixture, folder }
    }

    pub fn get(&self, query: &str) -> Reply {
        self.request("GET", query, &[])
    }

    fn request(&self, method: &str, query: &str, headers: &[(&str, &str)]) -> Reply {
        self.fixture.collector.request(method, &format!("/r?{query}"), headers, b"")
    }

    /// So many events were refused for this reason, none for another.
    fn assert_refused(&self, reason: &str, count: u64) {
        let metrics = self.collector.metrics();
        let of = format!("tallylight_events_refused_total{{reason=\"{reason}\"}}");
        assert_eq!((metrics.count(&of), metrics.sum("tallylight_events_refused_total")), (count, count as f64));
    }
}

fn to(target: &str) -> Link<'_> {
    Link { target: Some(target.into()), ..Link::default() }
}

/// The query of a link to there, signed by this key.
fn link(target: &str, key: &Key) -> String {
    to(target).to_query(key).unwrap()
}

fn refused_for(reply: &Reply) -> (u16, Option<&str>) {
    (reply.status, reply.header("tallylight-refused"))
}

pub fn assert_redirects(reply: &Reply, location: &str) {
    assert_eq!((reply.status, reply.header("location")), (302, Some(location)), "{reply:?}");
    assert_readable_by_any_page(reply, None);
}

/// It is a page that shows this HTML, and does not lead anywhere by itself.
fn assert_page(reply: &Reply, status: u16, reason: &str, shown: &str) {
    assert_eq!(refused_for(reply), (status, Some(reason)), "{reply:?}");
    assert_readable_by_any_page(reply, None);
    let html = reply.text();
    assert!(html.contains(shown) && html.contains("<h1>"), "{shown} is not in {html}");
    assert_eq!((reply.header("location"), reply.header("refresh")), (None, None));
    assert_eq!(reply.header("content-type"), Some("text/html; charset=utf-8"));
    assert!(reply.header("content-security-policy").unwrap().starts_with("default-src 'none'; "));
    assert_eq!(reply.header("referrer-policy"), Some("no-referrer"));
    for never in ["<script", "http-equiv", "<img", "<iframe", "javascript:alert(1)\""] {
        assert!(!html.contains(never), "{never} is in {html}");
    }
}

pub fn vectors() -> Value {
    serde_json::from_slice(&fs::read(workspace().join("proto/vectors/links.json")).unwrap()).unwrap()
}

fn texts<'a>(vectors: &'a Value, list: &str) -> Vec<(&'a str, &'a Value)> {
    let list = vectors[list].as_array().unwrap();
    list.iter().map(|vector| (vector["query"].as_str().unwrap(), vector)).collect()
}

#[test]
fn every_published_link_does_what_the_page_says_and_is_one_event() {
    let vectors = vectors();
    let lines: String = vectors["keys"]
        .as_array()
        .unwrap()
        .iter()
        .fold(String::new(), |lines, key| lines + &format!("{} {}\n", key["id"], key["secret"].as_str().unwrap()));
    let redirecting = Redirecting::start(&lines, &[]);
    let (mut expected, mut malformed) = (Vec::new(), 0);
    for (query, vector) in [texts(&vectors, "links"), texts(&vectors, "verified")].concat() {
        let reply = redirecting.get(query);
        match vector["location"].as_str() {
            Some(location) => {
                assert_redirects(&reply, location);
                assert_eq!(reply.header("tallylight-refused"), None);
                expected.push(&vector["values"]);
            }
            None => {
                assert_page(&reply, 400, "malformed", "");
                malformed += 1;
            }
        }
    }
    let forged = texts(&vectors, "refused");
    for (query, vector) in &forged {
        let reply = redirecting.get(query);
        assert_page(&reply, 403, "signature", "");
        assert!(reply.text().contains("href=\"https://") || query.is_empty(), "{vector}");
    }
    let (logged, forged) = (expected.len() as u64, forged.len() as u64);
    redirecting.assert_ledger([logged + malformed + forged, logged, malformed + forged]);
    let refused = |word: &str| {
        redirecting.collector.metrics().count(&format!("tallylight_events_refused_total{{reason={word:?}}}"))
    };
    assert_eq!((refused("malformed"), refused("signature")), (malformed, forged));

    let events = inspect(&redirecting.collector.data);
    assert_eq!(events.len() as u64, logged);
    let mut ids: Vec<_> = events.iter().map(|event| event["id"].as_str().unwrap()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len() as u64, logged, "each has an id of its own");
    // of several workers, in any order
    let said = |event: &Value| {
        let keys = ["site", "event", "target", "item", "placement", "visitor"];
        keys.map(|key| {
            event.get(key).and_then(Value::as_str).unwrap_or(if key == "event" { "click" } else { "" }).to_owned()
        })
    };
    let mut expected: Vec<_> = expected.into_iter().map(said).collect();
    let mut found: Vec<_> = events.iter().map(said).collect();
    expected.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, expected);
    for event in &events {
        assert_eq!(
            (&event["value"], &event["lost"], &event["props"]),
            (&Value::Null, &0.into(), &serde_json::json!({}))
        );
    }
}

#[test]
fn without_a_key_nothing_is_redirected_and_the_page_shows_where_the_link_leads() {
    let fixture = Fixture::start(&[]);
    let query = link(TARGET, &key(7, 1).1);
    let reply = fixture.collector.request("GET", &format!("/r?{query}"), &[], b"");
    let shown = "<a href=\"https://shop.example/4711?a=b\" rel=\"noreferrer\">https://shop.example/4711?a=b</a>";
    assert_page(&reply, 403, "signature", shown);
    assert_page(&fixture.collector.request("GET", "/r", &[], b""), 403, "signature", "leads nowhere");
    assert_page(&fixture.collector.request("GET", "/r?target=", &[], b""), 403, "signature", "leads nowhere");
    fixture.assert_ledger([3, 0, 3]);
}

#[test]
fn a_hostile_target_is_shown_as_text_and_linked_only_if_it_is_a_web_page() {
    let (line, key) = key(7, 1);
    let redirecting = Redirecting::start(&line, &[]);
    let pages = [
        (
            "https://a.example/\"><script>alert('1')</script>",
            "<a href=\"https://a.example/&quot;&gt;&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;\" rel=\"noreferrer\">\
             https://a.example/&quot;&gt;&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;</a>",
        ),
        (
            "https://a.example/ü b",
            "<a href=\"https://a.example/%C3%BC%20b\" rel=\"noreferrer\">https://a.example/ü b</a>",
        ),
    ];
    let no_pages = [
        ("\"><script>alert(1)</script>", "<p>&quot;&gt;&lt;script&gt;alert(1)&lt;/script&gt;</p>"),
        ("javascript:alert(1)", "<p>javascript:alert(1)</p>"),
        ("JavaScript://a.example/%0aalert(1)", "<p>JavaScript://a.example/%0aalert(1)</p>"),
        ("data:text/html,<img src=x onerror=alert(1)>", "<p>data:text/html,&lt;img src=x onerror=alert(1)&gt;</p>"),
        ("//a.example", "<p>//a.example</p>"),
    ];
    for (target, shown) in pages.into_iter().chain(no_pages) {
        let forged = link(target, &key).replace("key=7", "key=8");
        assert_page(&redirecting.get(&forged), 403, "signature", shown);
    }
    for (target, shown) in no_pages {
        let reply = redirecting.get(&link(target, &key));
        assert_page(&reply, 400, "malformed", shown);
        assert!(!reply.text().contains("<a "), "{}", reply.text());
    }
    redirecting.assert_ledger([12, 0, 12]);
}

#[test]
fn no_target_gets_a_line_of_its_own_into_the_head() {
    let (line, key) = key(7, 1);
    let redirecting = Redirecting::start(&line, &[]);
    // what is escaped in the target itself stays so
    let reply = redirecting.get(&link("https://a.example/%0d%0aSet-Cookie:%20a=b", &key));
    assert_redirects(&reply, "https://a.example/%0d%0aSet-Cookie:%20a=b");
    let signed = link("https://a.example/", &key);
    for end in ["%0d%0aSet-Cookie:%20a=b", "%0aSet-Cookie:a=b", "%0d", "%00", "%C2%85", "%E2%80%A8Set-Cookie:a=b"] {
        let reply = redirecting.get(&signed.replace("a.example%2F", &format!("a.example%2F{end}")));
        assert_page(&reply, 403, "signature", "https://a.example/");
        assert_eq!(reply.header("set-cookie"), None, "{end}");
        // a link with a control character in it is not offered
        assert_eq!(reply.text().contains("<a "), end.contains("%E2"), "{end}");
    }
    redirecting.assert_ledger([7, 1, 6]);
}

#[test]
fn a_visit_that_may_never_come_is_neither_redirected_nor_recorded() {
    let (line, key) = key(7, 1);
    let redirecting = Redirecting::start(&line, &[]);
    let query = link(TARGET, &key);
    let headers = [("Sec-Purpose", "prefetch;prerender"), ("Purpose", "prefetch"), ("X-Moz", "prefetch")];
    for header in headers {
        for query in [&query, "target=forged"] {
            let reply = redirecting.request("GET", query, &[header]);
            assert_eq!((refused_for(&reply), reply.header("location")), ((503, Some("speculative")), None));
            assert_readable_by_any_page(&reply, None);
        }
    }
    redirecting.assert_ledger([6, 0, 6]);
    redirecting.assert_refused("speculative", 6);
    assert_redirects(&redirecting.get(&query), TARGET);
    redirecting.assert_ledger([7, 1, 6]);
}

#[test]
fn a_head_shows_what_a_get_would_be_answered_and_is_no_event() {
    let (line, key) = key(7, 1);
    let redirecting = Redirecting::start(&line, &["--site=books"]);
    let books = Link { site: Some("Books".into()), ..to(TARGET) }.to_query(&key).unwrap();
    let mut gets = 0;
    for (query, headers) in [
        (books.clone(), &[] as &[_]),
        (books, &[("Purpose", "prefetch")]),
        (link(TARGET, &key), &[]),
        (link("ftp://a.example", &key), &[]),
        ("target=https://a.example".to_owned(), &[]),
        (String::new(), &[]),
    ] {
        let [get, head] = ["GET", "HEAD"].map(|method| redirecting.request(method, &query, headers));
        gets += 1;
        let sorted = |reply: &Reply| {
            let headers: BTreeSet<_> = reply.headers.iter().filter(|(name, _)| name != "date").cloned().collect();
            (reply.status, headers)
        };
        assert_eq!(sorted(&head), sorted(&get), "{query}");
        assert_eq!(head.body, b"");
    }
    redirecting.assert_ledger([gets, 1, gets - 1]);
}

#[test]
fn only_get_and_head_are_answered_there() {
    let (line, key) = key(7, 1);
    let redirecting = Redirecting::start(&line, &[]);
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"] {
        let reply = redirecting.request(method, &link(TARGET, &key), &[]);
        assert_eq!(
            (refused_for(&reply), reply.header("allow")),
            ((405, Some("method")), Some("GET, HEAD")),
            "{method}"
        );
        assert_eq!(reply.header("location"), None);
        assert_readable_by_any_page(&reply, None);
    }
    for path in ["/r/", "/R", "/r/x", "/redirect"] {
        assert_eq!(redirecting.collector.request("GET", path, &[], b"").status, 404, "{path}");
    }
    assert_redirects(&redirecting.get(&link(TARGET, &key)), TARGET);
    redirecting.assert_ledger([1, 1, 0]);
}

#[test]
fn whoever_follows_a_good_link_is_redirected_also_where_its_event_is_refused() {
    let (line, key) = key(7, 1);
    let redirecting = Redirecting::start(&line, &["--site=books", "--max-header=1MiB"]);
    let of_site = |site: &str| Link { site: Some(site.to_owned().into()), ..to(TARGET) }.to_query(&key).unwrap();
    let reply = redirecting.get(&of_site("BOOKS"));
    assert_eq!(reply.header("tallylight-refused"), None);
    for query in [of_site("others"), link(TARGET, &key)] {
        let reply = redirecting.get(&query);
        assert_redirects(&reply, TARGET);
        assert_eq!(reply.header("tallylight-refused"), Some("site"));
    }
    // the page names a site, too
    let reply = redirecting.request("GET", &link(TARGET, &key), &[("Referer", "https://books/letters")]);
    assert_redirects(&reply, TARGET);
    assert_eq!(reply.header("tallylight-refused"), None);
    redirecting.assert_ledger([4, 2, 2]);
    redirecting.assert_refused("site", 2);

    let agent = "x".repeat(300_000);
    let reply = redirecting.request("GET", &of_site("books"), &[("User-Agent", &agent)]);
    assert_redirects(&reply, TARGET);
    assert_eq!(reply.header("tallylight-refused"), Some("too_large"));
    redirecting.assert_ledger([5, 2, 3]);
}

#[test]
fn a_head_of_a_request_that_is_too_large_is_one_event_refused() {
    let (line, key) = key(7, 1);
    let redirecting = Redirecting::start(&line, &[]);
    let cookie = "c".repeat(17_000);
    for method in ["GET", "HEAD"] {
        let reply = redirecting.request(method, &link(TARGET, &key), &[("Cookie", &cookie)]);
        assert_eq!((refused_for(&reply), reply.header("location")), ((431, Some("too_large")), None), "{method}");
        assert_readable_by_any_page(&reply, None);
    }
    redirecting.assert_ledger([1, 0, 1]);
    redirecting.assert_refused("too_large", 1);
}

#[test]
fn a_log_that_cannot_take_the_event_keeps_nobody_from_the_target() {
    let folder = tempfile::tempdir().unwrap();
    let (line, key) = key(7, 1);
    let file = key_file(&folder, &line);
    let (http, admin) = (free_addr(), free_addr());
    // no disk has that much free space
    let flags = ["--http", &http.to_string(), "--reserve=1000000TiB", "--redirect-key", file.to_str().unwrap()];
    let mut command = command(&folder.path().join("data"), admin, &flags);
    let _child = Killed(command.stderr(Stdio::null()).spawn().unwrap());
    wait_for("the port", || try_request(http, "HEAD", "/r", &[], b"").ok());
    let path = format!("/r?{}", link(TARGET, &key));
    let mut clicks = 0;
    let reply = wait_for("events to be shed", || {
        let reply = request(http, "GET", &path, &[], b"");
        clicks += 1;
        assert_redirects(&reply, TARGET);
        (reply.header("tallylight-refused") == Some("disk")).then_some(reply)
    });
    assert_eq!(reply.header("retry-after"), None, "on a redirect it would make the visitor wait");
    let reply = request(http, "HEAD", &path, &[], b"");
    assert_eq!((reply.status, reply.header("tallylight-refused")), (302, Some("disk")));
    assert_page(&request(http, "GET", "/r?target=x", &[], b""), 403, "signature", "<p>x</p>");
    wait_for("each event to be counted", || {
        let metrics = Metrics::of(admin);
        let counts =
            ["received_total{front=\"http1\"}", "shed_total{reason=\"disk\"}", "refused_total{reason=\"signature\"}"]
                .map(|name| metrics.count(&format!("tallylight_events_{name}")));
        (counts == [clicks + 1, clicks, 1]).then_some(())
    });
}

/// Sends SIGHUP, and waits until links of this key redirect, or do so no longer.
fn hang_up_until(redirecting: &Redirecting, key: &Key, is_good: bool) {
    redirecting.collector.hang_up();
    wait_for("the new keys", || {
        // HEAD, so that asking counts nothing
        let status = redirecting.request("HEAD", &link(TARGET, key), &[]).status;
        (status == if is_good { 302 } else { 403 }).then_some(())
    });
}

#[test]
fn keys_of_links_are_changed_while_it_runs_and_both_are_good_meanwhile() {
    let ((old_line, old), (new_line, new)) = (key(1, 1), key(2, 2));
    let redirecting = Redirecting::start(&old_line, &[]);
    let statuses = || [&old, &new].map(|key| redirecting.get(&link(TARGET, key)).status);
    assert_eq!(statuses(), [302, 403]);
    key_file(&redirecting.folder, &format!("# the first one signs\n{old_line}{new_line}"));
    hang_up_until(&redirecting, &new, true);
    assert_eq!(statuses(), [302, 302]);
    key_file(&redirecting.folder, &new_line);
    hang_up_until(&redirecting, &old, false);
    assert_eq!(statuses(), [403, 302]);
    redirecting.assert_ledger([6, 4, 2]);
}

#[test]
fn keys_of_links_that_cannot_be_used_change_nothing_while_it_runs() {
    let ((line, right), (other_line, other)) = (key(1, 1), key(2, 2));
    let redirecting = Redirecting::start(&line, &[]);
    let path = key_file(&redirecting.folder, &line);
    let mut complaints = 0;
    let mut assert_unchanged = || {
        redirecting.collector.hang_up();
        complaints += 1;
        wait_for("a complaint", || {
            (redirecting.collector.stderr().matches("ERROR").count() == complaints).then_some(())
        });
        let statuses = [&right, &other].map(|key| redirecting.get(&link(TARGET, key)).status);
        assert_eq!(statuses, [302, 403]);
    };
    for (lines, mode) in [(other_line.as_str(), 0o604), ("2 00\n", 0o600), ("", 0o600)] {
        fs::write(&path, lines).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        assert_unchanged();
    }
    fs::remove_file(&path).unwrap();
    assert_unchanged();
    redirecting.assert_ledger([8, 4, 4]);
}

#[test]
fn keys_of_links_that_cannot_be_used_keep_it_from_starting() {
    let folder = tempfile::tempdir().unwrap();
    let line = key(1, 1).0;
    for (lines, mode, word) in
        [(line.as_str(), 0o604, "chmod"), ("# none\n", 0o600, "no key"), ("1 00\n", 0o600, "line 1")]
    {
        let path = key_file(&folder, lines);
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let flags = ["--http=off", "--redirect-key", path.to_str().unwrap()];
        let (code, said) = refused(&folder.path().join("data"), &flags);
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(word), "{said}");
    }
}
