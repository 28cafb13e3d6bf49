//! The client in real browsers: what it counts, what goes along, and what it leaves alone.
//!
//! What is *not* counted is shown by something that is, and that comes after it: the client's requests from one page
//! arrive in the order in which they are sent, over one connection.

mod clicks;
mod comes_and_goes;
mod cost;
mod hostile;
mod storage;
mod ways;
mod words;

use std::net::Ipv4Addr;

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::browser::{Browser, Kind, Tab};
use crate::harness::site::{Page, Request, Site};
use crate::harness::{Collector, assert_ledger_adds_up, inspect_once_each, wait_for};

/// What is served as `/beacon.js`.
pub const CLIENT: &str = include_str!("../../../client/beacon.min.js");
/// The two that every test is run in.
pub const BROWSERS: [Kind; 2] = [Kind::Chromium, Kind::Firefox];
/// The customer's site, and those that its links lead to.
pub const SHOP: Ipv4Addr = Ipv4Addr::new(127, 10, 0, 1);
pub const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(127, 30, 0, 1);

/// A customer's site, a collector, and a browser.
pub struct Shop {
    pub browser: Browser,
    pub collector: Collector,
    pub site: Site,
    folder: TempDir,
}

impl Shop {
    /// `serve` makes the page at a path; in what it makes, `COLLECTOR` and `ELSEWHERE` become addresses, and `CLIENT` the
    /// script.
    pub fn open(kind: Kind, serve: impl Fn(&str) -> Page + Send + Sync + 'static) -> Self {
        Self::open_with(&[], kind, serve)
    }

    /// With these flags for the collector.
    pub fn open_with(flags: &[&str], kind: Kind, serve: impl Fn(&str) -> Page + Send + Sync + 'static) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let flags = [&["--segment-size=4MiB", "--reserve=1MiB"], flags].concat();
        let collector = Collector::start(&folder.path().join("data"), &flags);
        let to = format!("http://{}", collector.http);
        let site = Site::start(move |request: &Request| {
            let (_, port) = request.host.split_once(':').unwrap_or_default();
            let elsewhere = format!("http://{ELSEWHERE}:{port}");
            serve(&request.path)
                .replacing("COLLECTOR", &to)
                .replacing("ELSEWHERE", &elsewhere)
                .replacing("CLIENT", CLIENT)
        });
        Self { browser: Browser::start(kind), collector, site, folder }
    }

    /// A tab with a page of the customer's site.
    pub fn visit(&self, path: &str) -> Tab {
        self.browser.open(&self.site.url(SHOP, path))
    }

    /// Waits until some tab shows the page that this path leads to, elsewhere.
    pub fn wait_arrival(&self, path: &str) -> Tab {
        let url = self.site.url(ELSEWHERE, path);
        wait_for(&format!("a tab with {url}"), || {
            self.browser.tabs().into_iter().find_map(|(tab, at)| (at == url).then_some(tab))
        })
    }

    /// The events in the log, each id once, in their order, once one with this item is there.
    pub fn events_until(&self, item: &str) -> Vec<Value> {
        wait_for(&format!("{item} to be in the log"), || {
            let events = self.events();
            events.iter().any(|event| event["item"] == *item).then_some(events)
        })
    }

    /// The items of those events.
    pub fn items_until(&self, item: &str) -> Vec<String> {
        let events = self.events_until(item);
        events.iter().map(|event| event["item"].as_str().expect("items are text").to_owned()).collect()
    }

    /// The events in the log so far, each id once.
    pub fn events(&self) -> Vec<Value> {
        inspect_once_each(&self.folder.path().join("data"))
    }

    /// Nothing was said on the consoles of these tabs, and the ledger adds up.
    pub fn assert_quiet(&self, tabs: &[&Tab]) {
        for tab in tabs {
            assert_eq!(tab.console(), [], "{}", self.browser.name());
        }
        assert_ledger_adds_up(&self.collector);
    }
}

/// A page of a shop, with the client in it.
pub fn page(body: &str) -> Page {
    page_with("<script data-site=\"books\" data-to=\"COLLECTOR\">CLIENT</script>", body)
}

/// A page of a shop, with this in its head.
pub fn page_with(head: &str, body: &str) -> Page {
    Page::html(&format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>a shop</title><link rel=\"icon\" href=\"data:,\">\
         {head}<body>{body}</body></html>"
    ))
}
