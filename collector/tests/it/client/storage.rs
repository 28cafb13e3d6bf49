//! What waits, and where: without storage, with full storage, too long, and too much of it.
//!
//! The collector is killed, not stopped, where a test counts: what a stopped one was sent it takes when it goes on.

use std::collections::HashSet;
use std::time::Duration;

use serde_json::Value;

use super::{BROWSERS, SHOP, Shop, page, page_with};
use crate::harness::browser::{How, Tab};
use crate::harness::site::Page;
use crate::harness::{Collector, wait_for, within};

/// Most bytes that wait, as the client has it.
const BUDGET: u64 = 30_000;

/// `/` has the client in it, `/bare` is a page of the same site without it.
fn serve(path: &str) -> Page {
    if path == "/bare" { page_with("", "") } else { page("") }
}

/// What a key of the client begins with.
fn prefix(shop: &Shop) -> String {
    format!("tallylight,books,http://{}/api/beacon,", shop.collector.http)
}

fn wait_until_nothing_waits(tab: &Tab) {
    wait_for("nothing to wait", || (tab.eval("localStorage.length") == 0).then_some(()));
}

/// What these events stand for: themselves, and those that they say are lost.
fn told(events: &[Value]) -> u64 {
    events.iter().map(|event| 1 + event["lost"].as_u64().unwrap()).sum()
}

#[test]
fn without_storage_or_with_full_storage_a_click_is_sent_all_the_same() {
    const FILL: &str = "<script>
        for (let size = 2 ** 20; size; size >>= 1) {
          try { for (let i = 0; ; i++) localStorage[`${size}-${i}`] = 'x'.repeat(size) } catch {}
        }</script>";
    for kind in BROWSERS {
        let shop = Shop::open(kind, |path| {
            let before = match path {
                "/throws" => {
                    "<script>Object.defineProperty(window, 'localStorage', { get() { throw new DOMException('no', 'SecurityError') } })</script>"
                }
                "/null" => "<script>Object.defineProperty(window, 'localStorage', { value: null })</script>",
                "/full" => FILL,
                "/sandboxed" => {
                    return page_with(
                        "<script>addEventListener('message', () => { window.isHeard = true })</script>",
                        "<iframe id=\"link\" sandbox=\"allow-scripts allow-popups\" src=\"/frame\" width=\"200\" height=\"100\"></iframe>",
                    );
                }
                // a frame of its own process takes no click before it takes what the mouse does
                "/frame" => "<script>addEventListener('mousemove', () => parent.postMessage('', '*'))</script>",
                _ => "",
            };
            let item = if path == "/frame" { "sandboxed" } else { path.trim_start_matches('/') };
            page_with(
                &format!("{before}<script data-site=\"books\" data-to=\"COLLECTOR\">CLIENT</script>"),
                &format!(
                    "<a id=\"link\" target=\"_blank\" href=\"ELSEWHERE/arrived\" data-item=\"{item}\"
                      style=\"position: fixed; inset: 0\">x</a>"
                ),
            )
        });
        // storage is full from then on
        for item in ["throws", "null", "sandboxed", "full"] {
            let tab = shop.visit(&format!("/{item}"));
            if item == "full" {
                let error = tab
                    .eval("(() => { try { localStorage.more = 'xxxxxxxx' } catch (error) { return error.name } })()");
                assert!(error.as_str().unwrap().to_lowercase().contains("quota"), "{error}");
            }
            if item == "sandboxed" {
                wait_for("the frame to see the mouse", || {
                    tab.hover("#link");
                    tab.eval("window.isHeard === true").as_bool()?.then_some(())
                });
            }
            tab.click("#link", How::Left);
            shop.wait_arrival("/arrived").close();
            shop.events_until(item);
            shop.assert_quiet(&[&tab]);
            tab.close();
        }
        assert_eq!(shop.items_until("full"), ["throws", "null", "sandboxed", "full"], "{}", shop.browser.name());
    }
}

#[test]
fn what_waited_for_more_than_five_days_is_not_sent_and_the_next_event_says_how_much_it_was() {
    for kind in BROWSERS {
        let shop = Shop::open(kind, serve);
        let tab = shop.visit("/bare");
        tab.eval(&format!(
            "[[6, 0], [6, 3], [5.01, 0], [4.99, 0]].forEach(([days, lost], i) => {{
               const id = Math.floor(Date.now() - days * 864e5).toString(16).padStart(12, 0) + '70008' + String(i).padStart(15, 0);
               localStorage['{}' + id] = `lost=${{lost}}&id=${{id}}&event=click&site=books&page=&item=${{days}}`;
             }})",
            prefix(&shop),
        ));
        tab.go(&shop.site.url(SHOP, "/"));
        // the one that is young enough
        wait_for("one to be sent", || (tab.eval("localStorage.length") == 3).then_some(()));
        tab.eval("tallylight('view', { item: 'next' })");
        let events = shop.events_until("next");
        let items: Vec<_> = events.iter().map(|event| (&event["item"], &event["lost"])).collect();
        assert_eq!(items, [(&"4.99".into(), &0.into()), (&"next".into(), &6.into())], "{}", shop.browser.name());
        let age = events[0]["age"].as_f64().unwrap() / 864e5;
        assert!((4.99..4.992).contains(&age), "{age}");
        wait_until_nothing_waits(&tab);
        assert_eq!(shop.collector.metrics().sum("tallylight_events_received_total"), 2.0);
        shop.assert_quiet(&[&tab]);
    }
}

#[test]
fn what_is_over_the_budget_is_given_up_and_each_event_of_it_is_told() {
    for kind in BROWSERS {
        let mut shop = Shop::open(kind, serve);
        let tab = shop.visit("/");
        shop.collector.kill9();
        let most = tab.eval(
            "(async () => {
               let most = 0, largest = 0;
               for (let i = 0; i < 60; i++) {
                 const done = tallylight('view', { item: i, filler: 'x'.repeat(i * 997 % 1700) });
                 const sizes = Object.values(localStorage).map(text => text.length);
                 largest = Math.max(largest, ...sizes);
                 most = Math.max(most, sizes.reduce((a, b) => a + b));
                 await done;
               }
               return [most, largest];
             })()",
        );
        let (most, largest) = (most[0].as_u64().unwrap(), most[1].as_u64().unwrap());
        assert!(most > BUDGET - largest && most <= BUDGET + largest, "{most} {largest}");
        shop.collector.start_again();
        // the last one made may be over the budget of one view, and what did not get through is the next view's
        wait_for("nothing to wait", || {
            tab.go(&shop.site.url(SHOP, "/"));
            within(Duration::from_secs(2), || (tab.eval("localStorage.length") == 0).then_some(()))
        });
        tab.eval("tallylight('view', { item: 'last' })");
        let events = shop.events_until("last");
        assert!(events.len() < 60, "nothing was given up");
        assert_eq!(told(&events), 61, "{}: {events:#?}", shop.browser.name());
        wait_until_nothing_waits(&tab);
    }
}

#[test]
fn an_event_that_is_larger_than_the_budget_takes_no_other_with_it() {
    for kind in BROWSERS {
        let mut shop = Shop::open(kind, serve);
        let tab = shop.visit("/");
        shop.collector.kill9();
        tab.eval(
            "(async () => {
               for (let i = 0; i < 11; i++) {
                 await tallylight('view', { item: i, filler: 'x'.repeat(i == 5 ? 40000 : 10) });
               }
             })()",
        );
        assert_eq!(tab.eval("localStorage.length"), 10);
        shop.collector.start_again();
        tab.go(&shop.site.url(SHOP, "/"));
        wait_until_nothing_waits(&tab);
        tab.eval("tallylight('view', { item: 'last' })");
        let events = shop.events_until("last");
        let items: HashSet<_> = events.iter().map(|event| event["item"].as_str().unwrap()).collect();
        assert_eq!(items, ["0", "1", "2", "3", "4", "6", "7", "8", "9", "10", "last"].into());
        assert_eq!(told(&events), 12);
        assert_eq!(events.iter().find(|event| event["item"] == "6").unwrap()["lost"], 1);
    }
}

#[test]
fn what_a_collector_refuses_is_forgotten_and_what_it_has_no_room_for_is_kept() {
    for kind in BROWSERS {
        let shop = Shop::open_with(&["--site=other"], kind, serve);
        let tab = shop.visit("/");
        tab.eval("tallylight('view', { item: 'refused' })");
        wait_for("it to be refused", || {
            (shop.collector.metrics().sum("tallylight_events_refused_total") == 1.0).then_some(())
        });
        wait_until_nothing_waits(&tab);

        let mut shop = Shop::open(kind, serve);
        shop.collector.kill9();
        let elsewhere = tempfile::tempdir().unwrap();
        let mut full = Collector::start_without_room_at(shop.collector.http, &elsewhere.path().join("data"));
        let tab = shop.visit("/");
        // with the answer
        tab.eval("tallylight('view', { item: 'shed' })");
        wait_for("it to be shed", || (full.metrics().sum("tallylight_events_shed_total") >= 1.0).then_some(()));
        assert_eq!(tab.eval("localStorage.length"), 1, "{}", shop.browser.name());
        full.kill9();
        shop.collector.start_again();
        tab.go(&shop.site.url(SHOP, "/"));
        assert_eq!(shop.items_until("shed"), ["shed"]);
        wait_until_nothing_waits(&tab);
    }
}

#[test]
fn the_age_of_what_waited_on_a_page_is_how_long_it_waited_whatever_the_clock_says() {
    for kind in BROWSERS {
        let mut shop = Shop::open(kind, serve);
        let tab = shop.visit("/");
        let now = || tab.eval("performance.now()").as_f64().unwrap();
        shop.collector.kill9();
        let before = now();
        tab.eval("tallylight('view', { item: 'waited' })");
        let after = now();
        tab.eval("void (Date = class extends Date { constructor() { super(0) } static now() { return 0 } })");
        shop.collector.start_again();
        wait_for("two seconds to pass", || (now() > after + 2e3).then_some(()));
        let least = now() - after;
        tab.eval("void dispatchEvent(new Event('online'))");
        wait_until_nothing_waits(&tab);
        let most = now() - before;
        let events = shop.events_until("waited");
        let age = events[0]["age"].as_f64().unwrap();
        assert!((least - 1.0..=most).contains(&age), "{}: {least} {age} {most}", shop.browser.name());
    }
}

#[test]
fn two_tabs_of_a_site_keep_the_events_of_both() {
    for kind in BROWSERS {
        let mut shop = Shop::open(kind, serve);
        let tabs = [shop.visit("/"), shop.visit("/")];
        shop.collector.kill9();
        for i in 0..5 {
            for (tab, name) in tabs.iter().zip(["a", "b"]) {
                tab.eval(&format!("void tallylight('view', {{ item: '{name}{i}' }})"));
            }
        }
        for tab in &tabs {
            wait_for("all to wait", || (tab.eval("localStorage.length") == 10).then_some(()));
        }
        shop.collector.start_again();
        tabs[0].go(&shop.site.url(SHOP, "/"));
        tabs.iter().for_each(wait_until_nothing_waits);
        let events = wait_for("all events", || Some(shop.events()).filter(|events| events.len() >= 10));
        let items: HashSet<_> = events.iter().map(|event| event["item"].as_str().unwrap().to_owned()).collect();
        assert_eq!((items.len(), told(&events)), (10, 10), "{events:#?}");
    }
}
