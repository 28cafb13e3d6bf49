//! What goes along with a click, and events of the page's own.

use serde_json::json;

use super::{BROWSERS, SHOP, Shop, page, page_with};
use crate::harness::browser::How;
use crate::harness::{Collector, inspect, wait_for};

#[test]
fn the_nearest_word_counts_from_the_link_up_to_the_script() {
    for kind in BROWSERS {
        let shop = Shop::open(kind, |_| {
            page_with(
                "<script data-site=\"books\" data-to=\"COLLECTOR\" data-visitor=\"of script\" data-item=\"of script\">CLIENT</script>",
                "<div data-placement=\"far\" data-value=\"tab-1\"><p data-placement=\"near\">\
                 <a id=\"link\" target=\"_blank\" href=\"ELSEWHERE/a?b=1#c\" data-item=\"own\"><b id=\"b\" data-item=\"inner\" data-placement=\"inner\">x</b></a>\
                 <a id=\"worth\" target=\"_blank\" href=\"ELSEWHERE/\" data-item=\"worth\" data-value=\"24.50\" data-other=\"not ours\">y</a></p></div>",
            )
        });
        let tab = shop.visit("/path/page?secret=1#part");
        tab.click("#b", How::Left);
        tab.click("#worth", How::Left);
        let events = shop.events_until("worth");
        let find = |item: &str| events.iter().find(|event| event["item"] == *item).unwrap();
        let click = find("own");
        assert_eq!(click["placement"], "near", "{click}");
        assert_eq!(click["visitor"], "of script", "{click}");
        // what is no number is not a value
        assert_eq!(click["value"], json!(null), "{click}");
        assert!(click["target"].as_str().unwrap().ends_with("/a?b=1#c"), "{click}");
        assert_eq!(click["page"], shop.site.url(SHOP, "/path/page"), "{click}");
        assert_eq!(click["lost"], 0, "{click}");
        let id: uuid::Uuid = click["id"].as_str().unwrap().parse().unwrap();
        assert_eq!(id.get_version_num(), 7, "{click}");
        assert_eq!(find("worth")["value"], json!(24.5));
        assert_eq!(find("worth")["props"], json!({}));
        shop.assert_quiet(&[&tab]);
    }
}

#[test]
fn calls_before_and_after_the_script_is_there_are_events_with_fields_of_their_own() {
    for kind in BROWSERS {
        let shop = Shop::open(kind, |_| {
            page_with(
                "<script>window.tallylight = window.tallylight || function () { (tallylight.q = tallylight.q || []).push(arguments) }</script>\
                 <script async src=\"COLLECTOR/beacon.js\" data-site=\"books\" data-visitor=\"v\"></script>\
                 <script>tallylight('view', { item: 'early', nothing: undefined, none: null, value: 0 })</script>",
                "",
            )
        });
        let tab = shop.visit("/");
        wait_for("the script", || (tab.eval("tallylight.q") == 0).then_some(()));
        tab.eval("tallylight('odd', { item: '\\ud800 & \\n=', colour: 'grün', visitor: 'w' })");
        tab.eval("tallylight('bare')");
        tab.eval("tallylight('late', { item: 'late' })");
        let events = shop.events_until("late");
        let find = |name: &str| {
            events.iter().find(|event| event["event"] == *name).unwrap_or_else(|| panic!("{name}: {events:#?}"))
        };
        assert_eq!(events.len(), 4, "{events:#?}");
        assert_eq!((&find("view")["item"], &find("view")["value"]), (&json!("early"), &json!(0)));
        assert_eq!(find("view")["props"], json!({"nothing": "", "none": ""}));
        assert_eq!(find("odd")["item"], "\u{fffd} & \n=");
        assert_eq!((&find("odd")["visitor"], &find("odd")["props"]["colour"]), (&json!("w"), &json!("grün")));
        assert_eq!((&find("bare")["visitor"], &find("bare")["target"]), (&json!("v"), &json!("")));
        shop.assert_quiet(&[&tab]);
    }
}

#[test]
fn two_collectors_on_one_page_do_not_disturb_each_other_and_the_same_script_twice_is_one() {
    let folder = tempfile::tempdir().unwrap();
    let other_data = folder.path().join("data");
    let other = Collector::start(&other_data, &["--segment-size=4MiB", "--reserve=1MiB"]);
    let other_at = format!("http://{}", other.http);
    for kind in BROWSERS {
        let to = other_at.clone();
        let shop = Shop::open(kind, move |_| {
            page_with(
                &format!(
                    "<script data-site=\"books\" data-to=\"COLLECTOR\">CLIENT</script>\
                     <script data-site=\"books\" data-to=\"COLLECTOR\">CLIENT</script>\
                     <script data-site=\"music\" data-to=\"COLLECTOR\">CLIENT</script>\
                     <script data-site=\"books\" data-to=\"{to}\" data-name=\"otherTally\">CLIENT</script>"
                ),
                "<a id=\"link\" target=\"_blank\" href=\"ELSEWHERE/\" data-item=\"link\">x</a>",
            )
        });
        let tab = shop.visit("/");
        tab.click("#link", How::Left);
        tab.eval("tallylight('mine', { item: 'mine' })");
        tab.eval("otherTally('theirs', { item: 'theirs' })");
        wait_for("three events here", || (shop.events().len() >= 3).then_some(()));
        let sites = |events: &[serde_json::Value]| {
            let mut sites: Vec<String> =
                events.iter().map(|event| format!("{} {}", event["site"], event["event"])).collect();
            sites.sort();
            sites
        };
        assert_eq!(sites(&shop.events()), ["\"books\" \"click\"", "\"books\" \"mine\"", "\"music\" \"click\""]);
        let there = || inspect(&other_data);
        let number = if kind == BROWSERS[0] { 2 } else { 4 };
        wait_for("two events there", || (there().len() >= number).then_some(()));
        assert_eq!(sites(&there()[number - 2..]), ["\"books\" \"click\"", "\"books\" \"theirs\""]);
        wait_for("nothing waits", || (tab.eval("localStorage.length") == 0).then_some(()));
        shop.assert_quiet(&[&tab]);
    }
}

#[test]
fn what_waits_bears_site_and_collector_and_is_one_key_an_event() {
    for kind in BROWSERS {
        let shop =
            Shop::open(kind, |_| page("<a id=\"link\" target=\"_blank\" href=\"ELSEWHERE/\" data-item=\"link\">x</a>"));
        let tab = shop.visit("/");
        shop.collector.stop();
        tab.click("#link", How::Left);
        tab.eval("void tallylight('view', { item: 'view' })");
        let keys = tab.eval("Object.keys(localStorage)");
        let keys: Vec<&str> = keys.as_array().unwrap().iter().map(|key| key.as_str().unwrap()).collect();
        let prefix = format!("tallylight,books,http://{}/api/beacon,", shop.collector.http);
        assert_eq!(keys.len(), 2, "{keys:?}");
        assert!(keys.iter().all(|key| key.starts_with(&prefix) && key.len() == prefix.len() + 32), "{keys:?}");
        shop.collector.cont();
        wait_for("nothing waits", || (tab.eval("localStorage.length") == 0).then_some(()));
    }
}
