//! Pages that have put things of their own in the place of the browser's before the client comes.
//!
//! Each page is a site of its own, so that what waits of one is not sent by the next. Its link always leads on, nothing
//! is thrown, and what can be sent is sent.

use serde_json::Value;

use super::{BROWSERS, SHOP, Shop, page_with};
use crate::harness::browser::{How, Kind, Tab};
use crate::harness::site::Page;
use crate::harness::wait_for;

/// A page's name, and what it does first.
type Hostile = (&'static str, &'static str);

/// `/NAME` is a hostile page, `/sane/NAME` another page of the same site.
fn open(kind: Kind, pages: &'static [Hostile]) -> Shop {
    Shop::open(kind, |path| match path.trim_start_matches("/sane/").trim_start_matches('/') {
        "elsewhere" => Page::html("<!doctype html><link rel=icon href=\"data:,\">"),
        name => {
            let first = pages.iter().find(|page| path.strip_prefix('/') == Some(page.0)).map_or("", |page| page.1);
            page_with(
                &format!("{first}<script data-site=\"{name}\" data-to=\"COLLECTOR\">CLIENT</script>"),
                &format!("<a id=\"link\" target=\"_blank\" href=\"ELSEWHERE/elsewhere\" data-item=\"{name}\">x</a>"),
            )
        }
    })
}

/// Visits a page, clicks its link, and arrives.
fn click(shop: &Shop, name: &str) -> Tab {
    let tab = shop.visit(&format!("/{name}"));
    click_in(shop, &tab);
    tab
}

fn click_in(shop: &Shop, tab: &Tab) {
    tab.front();
    tab.click("#link", How::Left);
    let arrived = shop.wait_arrival("/elsewhere");
    // the next arrival is another one
    arrived.close();
}

/// What waits in this tab's storage of a site.
fn waits(tab: &Tab, name: &str) -> Value {
    tab.eval(&format!("Object.keys(localStorage).filter(key => key.startsWith('tallylight,{name},')).length"))
}

fn event<'a>(events: &'a [Value], name: &str) -> &'a Value {
    let mut found = events.iter().filter(|event| event["site"] == name);
    let event = found.next().unwrap_or_else(|| panic!("nothing of {name}: {events:#?}"));
    assert!(found.next().is_none(), "{name} counted twice: {events:#?}");
    assert_eq!((&event["event"], &event["item"]), (&"click".into(), &name.into()), "{event}");
    event
}

#[test]
fn where_fetch_fails_a_click_goes_by_beacon_and_waits_until_a_sane_page_hears_that_it_is_there() {
    const PAGES: &[Hostile] = &[
        ("throws", "<script>fetch = () => { throw new Error('no') }</script>"),
        ("undefined", "<script>fetch = () => {}</script>"),
        ("rejects", "<script>fetch = () => Promise.reject(new TypeError('no'))</script>"),
        ("missing", "<script>fetch = undefined; delete Window.prototype.fetch</script>"),
        // browsers of before have none: there the first request goes by beacon, and only what is sent again by fetch
        ("nokeepalive", "<script>delete Request.prototype.keepalive</script>"),
    ];
    for kind in BROWSERS {
        let shop = open(kind, PAGES);
        for (name, _) in PAGES {
            let tab = click(&shop, name);
            shop.items_until(name);
            // nobody said that it arrived
            assert_eq!(waits(&tab, name), 1, "{name} in {}", shop.browser.name());
            // the browser that has no keepalive learns it by itself
            tab.go(&shop
                .site
                .url(SHOP, &if *name == "nokeepalive" { "/nokeepalive".to_owned() } else { format!("/sane/{name}") }));
            wait_for(&format!("{name} to be forgotten"), || (waits(&tab, name) == 0).then_some(()));
            shop.assert_quiet(&[&tab]);
            tab.close();
        }
        let events = shop.events();
        assert_eq!(events.len(), PAGES.len(), "{events:#?}");
        for (name, _) in PAGES {
            event(&events, name);
        }
    }
}

#[test]
fn where_fetch_never_settles_a_click_waits_for_a_sane_page_and_is_sent_there_once() {
    const PAGES: &[Hostile] = &[("hangs", "<script>fetch = () => new Promise(() => {})</script>")];
    for kind in BROWSERS {
        let shop = open(kind, PAGES);
        let tab = click(&shop, "hangs");
        assert_eq!(waits(&tab, "hangs"), 1);
        tab.go(&shop.site.url(SHOP, "/sane/hangs"));
        wait_for("it to be forgotten", || (waits(&tab, "hangs") == 0).then_some(()));
        event(&shop.events_until("hangs"), "hangs");
        // it came from the sane page alone
        assert_eq!(shop.collector.metrics().sum("tallylight_events_received_total"), 1.0, "{}", shop.browser.name());
        shop.assert_quiet(&[&tab]);
    }
}

#[test]
fn without_fetch_and_beacon_a_click_is_an_image() {
    const PAGES: &[Hostile] = &[(
        "image",
        "<script>fetch = undefined; delete Window.prototype.fetch; delete Navigator.prototype.sendBeacon</script>",
    )];
    for kind in BROWSERS {
        let shop = open(kind, PAGES);
        let tab = click(&shop, "image");
        assert_eq!(tab.eval("typeof navigator.sendBeacon"), "undefined");
        event(&shop.events_until("image"), "image");
        assert_eq!(waits(&tab, "image"), 1);
        shop.assert_quiet(&[&tab]);
    }
}

#[test]
fn what_the_client_does_not_rely_on_may_be_anything() {
    const PAGES: &[Hostile] = &[
        ("zero", "<script>Date.now = () => 0</script>"),
        ("nan", "<script>Date.now = () => NaN</script>"),
        ("thrower", "<script>Date.now = () => { throw new Error('no') }</script>"),
        ("push", "<script>Array.prototype.push = () => { throw new Error('no') }</script>"),
        ("uuid", "<script>delete Crypto.prototype.randomUUID</script>"),
        ("prototype", "<script>Object.prototype.extra = function () { return 'extra' }</script>"),
        ("div", "<div id=\"tallylight\"></div>"),
        ("globals", "<script>var dataset = { site: 'other' }, site = 'other', collector = 1, settings = 2</script>"),
        ("rewritten", ""),
    ];
    for kind in BROWSERS {
        let shop = open(kind, PAGES);
        for (name, _) in PAGES {
            let tab = shop.visit(&format!("/{name}"));
            let global = tab.eval("typeof tallylight");
            assert_eq!(global, "function", "{name} in {}", shop.browser.name());
            if *name == "rewritten" {
                tab.eval(
                    "fetch('').then(reply => reply.text()).then(text => {
                       document.open(); document.write(text); document.close(); })",
                );
            }
            click_in(&shop, &tab);
            // only what is sent by fetch is known to be there
            wait_for(&format!("{name} to be forgotten"), || (waits(&tab, name) == 0).then_some(()));
            shop.assert_quiet(&[&tab]);
            tab.close();
        }
        shop.items_until("rewritten");
        let (events, requests) = (shop.events(), shop.site.requests());
        assert_eq!(events.len(), PAGES.len(), "{events:#?}");
        let (visit, left) = (requests.first().unwrap(), requests.last().unwrap());
        for (name, _) in PAGES {
            let event = event(&events, name);
            let id: uuid::Uuid = event["id"].as_str().unwrap().parse().unwrap();
            assert_eq!(id.get_version_num(), 7, "{event}");
            let (seconds, _) = id.get_timestamp().expect("version 7 has one").to_unix();
            #[expect(clippy::cast_precision_loss, reason = "it is about now")]
            let made = seconds as f64 * 1e3;
            assert!(visit.at - 1e3 <= made && made < left.at, "{visit:?}: {made}: {left:?}");
            assert!(event["age"].as_u64().unwrap() < 1000, "{event}");
            assert_eq!(event["props"], serde_json::json!({}), "{event}");
        }
    }
}
