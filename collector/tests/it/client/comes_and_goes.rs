//! Pages that are left, kept, come back, are prepared before anybody sees them, or come with a strict policy.

use serde_json::Value;

use super::{BROWSERS, SHOP, Shop, page, page_with};
use crate::harness::browser::{How, Kind, Tab};
use crate::harness::wait_for;

fn wait_until_nothing_waits(tab: &Tab) {
    wait_for("nothing to wait", || (tab.eval("localStorage.length") == 0).then_some(()));
}

fn received(shop: &Shop) -> f64 {
    shop.collector.metrics().sum("tallylight_events_received_total")
}

#[test]
fn a_page_is_kept_for_going_back_and_sends_what_waits_when_it_comes_back() {
    for kind in BROWSERS {
        let mut shop = Shop::open(kind, |path| match path {
            "/" => page_with(
                "<script>var shows = []; addEventListener('pageshow', event => shows.push(event.persisted))</script>\
                 <script data-site=\"books\" data-to=\"COLLECTOR\">CLIENT</script>",
                "",
            ),
            _ => page_with("", ""),
        });
        // a browser that is short of time or memory may let a page go that it could have kept
        let is_kept = (1..=5).any(|number| {
            let tab = shop.visit("/");
            shop.collector.kill9();
            tab.eval(&format!("tallylight('view', {{ item: 'waited {number}' }})"));
            // the client is not on this one
            tab.go(&shop.site.url(SHOP, "/bare"));
            assert_eq!(tab.eval("localStorage.length"), 1);
            shop.collector.start_again();
            tab.back();
            let came_back = "shows.length == 2 ? 'kept' : performance.getEntriesByType('navigation')[0].type";
            let how = wait_for("the page", || Some(tab.eval(came_back)).filter(|how| *how != "navigate"));
            assert!(shop.items_until(&format!("waited {number}")).len() == number, "{}", shop.browser.name());
            wait_until_nothing_waits(&tab);
            how == "kept" && tab.eval("shows") == serde_json::json!([false, true])
        });
        assert!(is_kept, "{}", shop.browser.name());
    }
}

#[test]
fn what_waits_is_sent_when_the_browser_is_online_again() {
    for kind in BROWSERS {
        let mut shop = Shop::open(kind, |_| page(""));
        let tab = shop.visit("/");
        shop.collector.kill9();
        tab.eval("tallylight('view', { item: 'waited' })");
        shop.collector.start_again();
        tab.eval("void dispatchEvent(new Event('online'))");
        assert_eq!(shop.items_until("waited"), ["waited"], "{}", shop.browser.name());
        wait_until_nothing_waits(&tab);
    }
}

#[test]
fn a_page_that_is_prerendered_sends_and_counts_nothing_until_it_is_seen() {
    let shop = Shop::open(Kind::Chromium, |path| match path {
        "/bare" => page_with("", ""),
        "/seen" | "/unseen" => page_with(
            "<script>localStorage.prerendered = document.prerendering</script>\
             <script data-site=\"books\" data-to=\"COLLECTOR\">CLIENT</script>",
            &format!("<script>tallylight('view', {{ item: '{path}' }}); localStorage.called = '{path}'</script>"),
        ),
        _ => {
            let next = if path == "/leads" { "/seen" } else { "/unseen" };
            page_with(
                &format!(
                    "<script type=\"speculationrules\">{{\"prerender\": [{{\"urls\": [\"{next}\"], \"eagerness\": \"immediate\"}}]}}</script>"
                ),
                &format!("<a id=\"link\" href=\"{next}\">x</a>"),
            )
        }
    });
    let tab = shop.visit("/bare");
    tab.eval(&format!(
        "(() => {{
           const id = Date.now().toString(16).padStart(12, 0) + '70008000000000000001';
           localStorage['tallylight,books,http://{}/api/beacon,' + id] = `lost=0&id=${{id}}&event=click&site=books&item=waited`;
         }})()",
        shop.collector.http
    ));
    let prepared = |path: &str| {
        wait_for("the page to be prerendered", || (tab.eval("localStorage.called") == *path).then_some(()));
        assert_eq!(tab.eval("localStorage.prerendered"), "true");
    };
    tab.go(&shop.site.url(SHOP, "/does-not-lead"));
    prepared("/unseen");
    tab.go(&shop.site.url(SHOP, "/leads"));
    prepared("/seen");
    assert_eq!(received(&shop), 0.0);
    tab.click("#link", How::Left);
    let seen = shop.site.url(SHOP, "/seen");
    assert!(tab.wait_url(&seen, crate::harness::PATIENCE), "the page is seen");
    wait_for("two keys of the page's own", || (tab.eval("localStorage.length") == 2).then_some(()));
    let entry = "performance.getEntriesByType('navigation')[0].activationStart > 0";
    assert_eq!(tab.eval(entry), true, "it is the page that was prerendered");
    let mut items = wait_for("both", || Some(shop.items_until("/seen")).filter(|items| items.len() > 1));
    items.sort();
    assert_eq!(items, ["/seen", "waited"]);
    assert_eq!(received(&shop), 2.0);
    shop.assert_quiet(&[&tab]);
}

#[test]
fn the_demo_with_its_strict_policy_counts_clicks_and_says_nothing() {
    for kind in BROWSERS {
        let shop = Shop::open_with(&["--demo"], kind, |_| page_with("", ""));
        for (path, link, item) in
            [("", "a[data-item=salt-and-barley]", "salt-and-barley"), ("inline.html", "a[data-item]", "counting-sheep")]
        {
            let demo = format!("http://{}/demo/{path}", shop.collector.http);
            let tab = shop.browser.open(&demo);
            wait_for("the script", || (tab.eval("self.tallylight && tallylight.q") == 0).then_some(()));
            tab.click(link, How::Left);
            assert!(
                tab.wait_url(&format!("http://{}/demo/?book={item}", shop.collector.http), crate::harness::PATIENCE)
            );
            let is_click = |event: &&Value| event["event"] == "click" && event["item"] == item;
            wait_for("the click", || shop.events().iter().find(is_click).cloned());
            assert_eq!(shop.events().iter().filter(is_click).count(), 1);
            wait_until_nothing_waits(&tab);
            shop.assert_quiet(&[&tab]);
            tab.close();
        }
    }
}

#[test]
fn a_relative_link_is_resolved_as_the_page_says_in_html_and_in_svg() {
    for kind in BROWSERS {
        let shop = Shop::open(kind, |_| {
            page_with(
                "<base href=\"ELSEWHERE/base/\"><script data-site=\"books\" data-to=\"COLLECTOR\">CLIENT</script>",
                "<a id=\"html\" target=\"_blank\" href=\"html\" data-item=\"html\">x</a>\
                 <svg viewBox=\"0 0 200 20\" width=\"200\" height=\"20\"><a target=\"_blank\" href=\"svg\" data-item=\"svg\">\
                 <rect id=\"rect\" width=\"200\" height=\"20\"/></a></svg>",
            )
        });
        let tab = shop.visit("/");
        for (selector, item) in [("#html", "html"), ("#rect", "svg")] {
            tab.front();
            tab.click(selector, How::Left);
            shop.wait_arrival(&format!("/base/{item}"));
            let events = shop.events_until(item);
            let event = events.iter().find(|event| event["item"] == item).unwrap();
            assert_eq!(event["target"], shop.site.url(super::ELSEWHERE, &format!("/base/{item}")));
        }
        assert_eq!(shop.events().len(), 2);
        shop.assert_quiet(&[&tab]);
    }
}
