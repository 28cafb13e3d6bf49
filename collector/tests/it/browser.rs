//! Real browsers in front of a real collector, at the address that the pages name literally.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::browser::{Browser, How, Kind};
use crate::harness::site::{Page, Site};
use crate::harness::{Collector, PATIENCE, assert_ledger_adds_up, inspect, inspect_once_each, wait_for};

/// The collector's default `--http`, which the two pages of the origin say as `localhost:5000`.
const DEFAULT_HTTP: &str = "127.0.0.1:5000";
const SHOP: Ipv4Addr = Ipv4Addr::LOCALHOST;
/// What a near server takes. With an answer in no time at all Chromium may drop an image that it has only just been
/// asked for.
const NEAR: Duration = Duration::from_millis(100);

/// The two pages that this project was made for, unchanged, and where their links lead.
fn serve(path: &str) -> Page {
    let page = |body: &str| Page::html(&format!("<!doctype html><link rel=icon href=data:,>{body}"));
    match path {
        "/returns-true" => page(
            r#"<a id="link" href="/destination"
               onclick="(new Image()).src = 'http://localhost:5000/api/beacon'; return true">a book</a>"#,
        ),
        "/waits-for-image" => page(
            r#"<script>
                 function track(link) {
                   var image = new Image();
                   image.onload = image.onerror = function () { location.href = link.href; };
                   image.src = 'http://localhost:5000/api/beacon';
                   return false;
                 }
               </script>
               <a id="link" href="/destination" onclick="return track(this)">a book</a>"#,
        ),
        "/destination" => page("<p>arrived</p>").after(NEAR),
        _ => page("<p>a page of a customer</p>"),
    }
}

/// The events of a log, each once, when there are as many as awaited.
fn events(data: &Path, count: usize) -> Vec<Value> {
    let events = wait_for(&format!("{count} events in the log"), || {
        let events = inspect_once_each(data);
        (events.len() >= count).then_some(events)
    });
    assert_eq!(events.len(), count, "{events:#?}");
    events
}

fn find<'a>(events: &'a [Value], key: &str, value: &str) -> &'a Value {
    let found = events.iter().find(|event| event[key] == value);
    found.unwrap_or_else(|| panic!("no event with {key} {value:?} in {events:#?}"))
}

/// All in one test, since all need the one port.
#[test]
fn a_browser_is_counted_and_never_held_up() {
    let addr: SocketAddr = DEFAULT_HTTP.parse().unwrap();
    if let Err(error) = TcpListener::bind(addr) {
        panic!("{addr} is needed, since the pages under test name it, and it cannot be had: {error}");
    }
    for kind in [Kind::Chromium, Kind::Firefox] {
        let browser = Browser::start(kind);
        let site = Site::start(|request| serve(&request.path));
        the_pages_of_the_origin_arrive_also_without_a_collector(addr, &browser, &site, kind);
        credentialed_beacons_leave_the_console_clean(addr, &browser, &site);
        a_click_in_the_demo_bookshop_is_in_the_log(addr, &browser);
    }
}

fn the_pages_of_the_origin_arrive_also_without_a_collector(
    addr: SocketAddr,
    browser: &Browser,
    site: &Site,
    kind: Kind,
) {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let visit = |path: &str, is_quiet: bool| {
        let tab = browser.open(&site.url(SHOP, path));
        tab.click("#link", How::Left);
        assert!(tab.wait_url(&site.url(SHOP, "/destination"), PATIENCE), "{path} in {kind:?}");
        if is_quiet {
            assert_eq!(tab.console(), [], "{path} in {kind:?}");
        }
        tab.close();
    };
    let mut collector = Collector::start_at_default(addr, &data, &[]);
    visit("/waits-for-image", true);
    visit("/returns-true", true);
    // Firefox forgets an image that is asked for by a page that is being left, as a rule
    let count = if kind == Kind::Chromium { 2 } else { 1 };
    wait_for("the events", || (inspect(&data).len() >= count).then_some(()));
    for event in inspect(&data) {
        assert_eq!((&event["event"], &event["site"]), (&"beacon".into(), &"127.0.0.1".into()), "{event:#}");
        // a browser's Referer to another origin is the origin only
        assert_eq!(event["page"], site.url(SHOP, "/"), "{event:#}");
    }
    assert_ledger_adds_up(&collector);
    assert!(collector.terminate().success(), "{}", collector.stderr());
    visit("/waits-for-image", false);
    visit("/returns-true", false);
}

fn credentialed_beacons_leave_the_console_clean(addr: SocketAddr, browser: &Browser, site: &Site) {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let collector = Collector::start_at_default(addr, &data, &[]);
    let tab = browser.open(&site.url(SHOP, "/customer"));
    let statuses = tab.eval(
        r#"(async () => {
          const url = 'http://localhost:5000/api/beacon';
          const post = (url, name) => fetch(url, {
            method: 'POST',
            credentials: 'include',
            headers: { 'content-type': 'application/json' },
            body: JSON.stringify({ event: 'credentialed', item: name }),
          });
          const first = (await post(url, 'fetch')).status;
          // a frame without an origin of its own: its Origin is "null"
          const frame = document.createElement('iframe');
          frame.sandbox = 'allow-scripts';
          frame.srcdoc = `<script>
            (${post})('${url}', 'sandboxed frame')
              .then((response) => parent.postMessage(response.status, '*'), (error) => parent.postMessage(String(error), '*'));
          </scr` + 'ipt>';
          const answer = new Promise((done) => addEventListener('message', (message) => done(message.data), { once: true }));
          document.body.append(frame);
          const second = await answer;
          const queued = navigator.sendBeacon(url, new Blob(
            [JSON.stringify({ event: 'credentialed', item: 'sendBeacon' })], { type: 'application/json' }));
          return [first, second, queued];
        })()"#,
    );
    assert_eq!(statuses, json!([204, 204, true]));
    let events = events(&data, 3);
    for item in ["fetch", "sandboxed frame", "sendBeacon"] {
        assert_eq!(find(&events, "item", item)["event"], "credentialed");
    }
    assert_eq!(tab.cookies(), 0);
    assert_eq!(tab.console(), []);
    assert_ledger_adds_up(&collector);
}

fn a_click_in_the_demo_bookshop_is_in_the_log(addr: SocketAddr, browser: &Browser) {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let collector = Collector::start_at_default(addr, &data, &["--demo"]);
    // two visitors, each of whom sees the shop and a book
    let mut clicked = Vec::new();
    for (place, how) in [(1, How::Left), (2, How::Middle)] {
        let tab = browser.open("http://localhost:5000/demo/");
        wait_for("the client", || (tab.eval("tallylight.q") == 0).then_some(()));
        let link = format!("li:nth-child({place}) a[data-placement=recommended]");
        let href = tab.eval(&format!("document.querySelector('{link}').href"));
        let item = tab.eval(&format!("document.querySelector('{link}').dataset.item"));
        let (href, item) = (href.as_str().unwrap().to_owned(), item.as_str().unwrap().to_owned());
        tab.click(&link, how);
        wait_for("the book", || browser.tabs().iter().any(|(_, url)| *url == href).then_some(()));
        assert_eq!(tab.console(), []);
        clicked.push((href, item));
    }
    let events = events(&data, 6);
    let clicks: Vec<Value> = events.iter().filter(|event| event["event"] == "click").cloned().collect();
    assert_eq!(clicks.len(), 2, "{events:#?}");
    for (href, item) in clicked {
        let click = find(&clicks, "item", &item);
        assert_eq!(click["placement"], "recommended", "{click:#}");
        assert_eq!(click["target"], href, "{click:#}");
        assert_eq!(click["page"], "http://localhost:5000/demo/", "{click:#}");
        assert_eq!(click["site"], "bookshop", "{click:#}");
    }
    assert_eq!(events.iter().filter(|event| event["event"] == "view").count(), 4, "{events:#?}");
    assert_ledger_adds_up(&collector);
}
