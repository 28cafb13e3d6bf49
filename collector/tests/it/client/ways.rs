//! Each way of sending that there is: the pages of the demo, and what the client's README says to put on a page.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use base64ct::{Base64, Encoding};
use serde_json::Value;
use sha2::{Digest, Sha256, Sha384};

use super::{BROWSERS, CLIENT, SHOP, Shop, page_with};
use crate::harness::browser::{Browser, How, Kind};
use crate::harness::site::{Page, Site};
use crate::harness::{Collector, PATIENCE, assert_ledger_adds_up, inspect, wait_for, workspace};

const SECRET: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

/// A collector with the demo, and what is in its log.
struct Demo {
    collector: Collector,
    folder: tempfile::TempDir,
}

impl Demo {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("redirect.key");
        std::fs::write(&key, format!("7 {SECRET}\n")).unwrap();
        std::fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
        let flags = [
            "--demo",
            "--segment-size=4MiB",
            "--reserve=1MiB",
            "--redirect-key",
            key.to_str().expect("a path in UTF-8"),
        ];
        Self { collector: Collector::start(&folder.path().join("data"), &flags), folder }
    }

    fn url(&self, page: &str) -> String {
        format!("http://{}/demo/{page}", self.collector.http)
    }

    fn event(&self, placement: &str) -> Value {
        wait_for(&format!("an event of {placement}"), || {
            inspect(&self.folder.path().join("data")).into_iter().find(|event| event["placement"] == *placement)
        })
    }
}

#[test]
fn every_page_of_the_demo_is_counted_under_its_policy_and_its_link_leads_on() {
    for kind in BROWSERS {
        let demo = Demo::start();
        let browser = Browser::start(kind);
        for (page, item, is_counted) in [
            ("inline.html", "counting-sheep", true),
            ("mail.html", "salt-and-barley", true),
            // Firefox sends no pings, and may forget an image when it leaves the page
            ("ping.html", "small-hours", kind == Kind::Chromium),
            ("image-on-click.html", "field-notes-on-rain", false),
            ("image-first.html", "lamplighters-atlas", true),
        ] {
            let tab = browser.open(&demo.url(page));
            tab.click("main a[class=back]", How::Left);
            assert!(tab.wait_url(&demo.url(&format!("?book={item}")), PATIENCE), "{page} in {kind:?}");
            let placement = if page == "mail.html" { "letter" } else { page.trim_end_matches(".html") };
            if is_counted {
                let event = demo.event(placement);
                assert_eq!(
                    (&event["event"], &event["item"], &event["site"]),
                    (&"click".into(), &item.into(), &"bookshop".into())
                );
            }
            assert_eq!(tab.console(), [], "{page} in {kind:?}");
            tab.close();
        }
        assert_ledger_adds_up(&demo.collector);
    }
}

#[test]
fn where_there_is_no_script_a_pixel_counts_the_view() {
    for kind in BROWSERS {
        let demo = Demo::start();
        let address = demo.url("noscript.html");
        // a frame in which no script may run
        let site = Site::start(move |_| page_with("", &format!("<iframe sandbox src=\"{address}\"></iframe>")));
        let browser = Browser::start(kind);
        let _tab = browser.open(&site.url(SHOP, "/"));
        let event = demo.event("noscript");
        assert_eq!((&event["event"], &event["item"]), (&"view".into(), &"salt-and-barley".into()));
    }
}

#[test]
fn a_link_that_was_changed_on_its_way_shows_a_page_that_leads_on_by_hand() {
    for kind in BROWSERS {
        let demo = Demo::start();
        let browser = Browser::start(kind);
        let tab = browser.open(&demo.url("mail.html"));
        tab.eval("document.querySelector('main a').href += 'x'");
        tab.click("main a", How::Left);
        assert!(tab.wait_url(&format!("http://{}/r?", demo.collector.http), PATIENCE));
        wait_for("the page about it", || {
            let title = tab.eval("document.readyState == 'complete' && document.title");
            (title == "This link could not be checked").then_some(())
        });
        let named = tab.eval("document.querySelector('a').rel + ' ' + document.querySelector('a').href");
        assert_eq!(named, format!("noreferrer {}", demo.url("?book=salt-and-barley")));
        tab.click("a", How::Left);
        assert!(tab.wait_url(&demo.url("?book=salt-and-barley"), PATIENCE));
        let refused = "tallylight_events_refused_total{reason=\"signature\"}";
        wait_for("it to be counted", || (demo.collector.metrics().count(refused) == 1).then_some(()));
    }
}

fn readme() -> String {
    std::fs::read_to_string(workspace().join("collector/client/README.md")).unwrap()
}

#[test]
fn the_digests_in_the_readme_are_those_of_the_script() {
    let readme = readme();
    let sha256 = Sha256::digest(CLIENT);
    let hash: String = sha256[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    for expected in [
        format!("/beacon-{hash}.js"),
        format!("integrity=\"sha384-{}\"", Base64::encode_string(&Sha384::digest(CLIENT))),
        format!("'sha256-{}'", Base64::encode_string(&sha256)),
    ] {
        assert!(readme.contains(&expected), "the script has changed, so the README must say {expected}");
    }
}

#[test]
fn what_the_readme_says_to_put_on_a_page_counts_its_clicks() {
    let readme = readme();
    let snippets: Vec<String> = readme
        .split("```html\n")
        .skip(1)
        .map(|rest| rest.split("```").next().expect("a block ends").to_owned())
        .filter(|snippet| snippet.contains("<script"))
        .collect();
    assert!(snippets.len() >= 6, "{snippets:#?}");
    let number = snippets.len();
    for kind in BROWSERS {
        let snippets = snippets.clone();
        let shop = Shop::open(kind, move |path| match path {
            "/js/beacon.js" => Page::of_type("text/javascript", CLIENT),
            path => {
                let place: usize = path.trim_start_matches('/').parse().expect("a page has a number");
                let head = snippets[place].replace("/* the text of beacon.min.js */", CLIENT);
                let head = head
                    .replace("https://collector.example", "COLLECTOR")
                    .replace("https://other.example", "COLLECTOR");
                page_with(
                    &head,
                    &format!(
                        "<a id=\"link\" target=\"_blank\" href=\"ELSEWHERE/\" data-item=\"snippet {place}\">x</a>"
                    ),
                )
            }
        });
        for place in 0..number {
            let tab = shop.visit(&format!("/{place}"));
            wait_for("the script", || {
                (tab.eval("typeof tallylight == 'function' && tallylight.q === 0") == true).then_some(())
            });
            tab.click("#link", How::Left);
            let events = shop.events_until(&format!("snippet {place}"));
            assert!(events.iter().all(|event| event["site"] == "books"), "{events:#?}");
            assert_eq!(tab.console(), [], "snippet {place} in {kind:?}");
        }
        assert!(shop.events().iter().any(|event| event["event"] == "view" && event["item"] == "4711"));
    }
}
