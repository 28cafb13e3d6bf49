//! One click of one visitor: on a site with storage of its own, past a collector at an address of its own, so that no
//! connection is used again, to a destination on yet another site.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::browsers::state::State;
use crate::harness::browser::{Browser, How, Tab};
use crate::harness::site::{Page, Request, Site};
use crate::harness::wait_for;

/// Whoever has not arrived by then is stuck.
const STUCK: Duration = Duration::from_secs(10);
/// The time that a slow destination takes to answer.
const SLOW: Duration = Duration::from_millis(800);
/// What is minified and stands in a page.
const CLIENT: &str = include_str!("../../../../collector/client/beacon.min.js");
/// When the click was, by the page's clock, which is the destination's, too. In a listener that runs after the client's.
const STOPWATCH: &str =
    "addEventListener('click', click => localStorage.clicked = performance.timeOrigin + click.timeStamp)";
const WAITING: &str = "Object.keys(localStorage).filter(key => key.startsWith('tallylight')).length";

/// How a page tracks its link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tracking {
    /// Not at all: for comparison.
    Plain,
    /// The script stands in the page, which is loaded while the collector is in its state.
    Inline,
    /// The script came from the collector, before that got into its state.
    Async,
}

impl Tracking {
    /// Each of them.
    pub const ALL: [Self; 3] = [Self::Plain, Self::Inline, Self::Async];

    fn word(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Inline => "inline",
            Self::Async => "async",
        }
    }
}

/// A click and what became of it.
pub struct Trial {
    pub state: State,
    pub tracking: Tracking,
    /// The destination takes its time.
    pub is_slow: bool,
    /// What it is known by wherever it is counted.
    pub item: String,
    /// Milliseconds from the click until the destination is asked. None: that was not in time.
    pub delay: Option<f64>,
    /// It was in the log before the visitor came back.
    pub at_once: bool,
    /// What its pages said on the console.
    pub console: Vec<String>,
    number: u8,
    cell: u8,
    tab: Option<Tab>,
}

impl Trial {
    /// Number n of a cell of the table.
    pub fn new(state: State, tracking: Tracking, cell: u8, number: u8) -> Self {
        let item = format!("{cell}-{}-{number}", tracking.word());
        let is_slow = number % 2 == 1;
        Self {
            state,
            tracking,
            is_slow,
            item,
            delay: None,
            at_once: false,
            console: Vec::new(),
            number,
            cell,
            tab: None,
        }
    }

    /// Whether its page has the client.
    pub fn is_tracked(&self) -> bool {
        self.tracking != Tracking::Plain
    }

    fn host(&self, kind: u8) -> Ipv4Addr {
        let number = self.number * 3 + self.tracking as u8;
        Ipv4Addr::new(127, kind, self.cell, number + 1)
    }

    fn destination(&self, site: &Site) -> String {
        let pace = if self.is_slow { "slow" } else { "quick" };
        site.url(self.host(30), &format!("/{pace}?{}", self.item))
    }

    /// The page that the link is on.
    fn address(&self, site: &Site, port: u16) -> String {
        let (word, item, collector) = (self.tracking.word(), &self.item, self.host(20));
        let to = self.destination(site);
        site.url(self.host(10), &format!("/{word}?{item},http://{collector}:{port},{to}"))
    }

    /// The visitor comes.
    pub fn open(&mut self, browser: &Browser, site: &Site, port: u16) {
        let tab = browser.open(&self.address(site, port));
        if self.tracking == Tracking::Async {
            wait_for("the script to be there", || (tab.eval("typeof tallylight") == "function").then_some(()));
        }
        self.tab = Some(tab);
    }

    /// An event that no collector takes waits with the others.
    pub fn make_bad_event(&self) {
        if self.is_tracked() {
            self.tab().eval("tallylight('click', {item: 'bad', value: 'free'})");
        }
    }

    /// The visitor clicks, and arrives or not.
    pub fn click(&mut self, site: &Site) {
        let tab = self.tab();
        tab.front();
        tab.click("#link", How::Left);
        let arrived = tab.wait_url(&self.destination(site), STUCK);
        // for now; the page alone knows when it was clicked
        self.delay = arrived.then_some(f64::NAN);
    }

    /// The visitor comes back, and what waited is sent.
    pub fn come_back(&mut self, browser: &Browser, site: &Site, port: u16) {
        let first = self.tab.take().expect("the visitor came");
        let tab = browser.open(&self.address(site, port));
        wait_for(&format!("what waits of {} to be sent", self.item), || (tab.eval(WAITING) == 0).then_some(()));
        let clicked = tab.eval("+localStorage.clicked").as_f64().expect("the page knows when it was clicked");
        let query = format!("?{}", self.item);
        let asked =
            site.requests().into_iter().find(|request| request.path.ends_with(&query) && !request.path.contains(','));
        self.delay = self.delay.and(asked).map(|request| request.at - clicked);
        for tab in [first, tab] {
            let said = tab.console().into_iter().map(|said| said.text);
            self.console.extend(said.filter(|text| !is_of_the_network(text)));
            tab.close();
        }
    }

    fn tab(&self) -> &Tab {
        self.tab.as_ref().expect("the visitor came")
    }
}

/// Whether a line on the console is the browser's own, about a request that failed.
fn is_of_the_network(text: &str) -> bool {
    text.starts_with("error: Failed to load resource") || text.contains("Cross-Origin Request Blocked")
}

/// What the sites serve: pages with a link, and where those lead.
pub fn serve(request: &Request) -> Page {
    let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
    let (pace, script) = match path {
        "/quick" => (Some(Duration::ZERO), ""),
        "/slow" => (Some(SLOW), ""),
        "/plain" => (None, ""),
        "/inline" => (None, "<script data-site=\"books\" data-to=\"COLLECTOR\">CLIENT</script>"),
        "/async" => (None, "<script async src=\"COLLECTOR/beacon.js\" data-site=\"books\"></script>"),
        _ => return Page::not_found(),
    };
    if let Some(delay) = pace {
        return Page::html("<!doctype html><title>arrived</title><link rel=\"icon\" href=\"data:,\">").after(delay);
    }
    let [item, collector, destination] = query.splitn(3, ',').collect::<Vec<_>>()[..] else { return Page::not_found() };
    Page::html(&format!(
        "<!doctype html><meta charset=\"utf-8\"><title>a shop</title><link rel=\"icon\" href=\"data:,\">\
         {script}<script>{STOPWATCH}</script>\
         <a id=\"link\" href=\"{destination}\" data-item=\"{item}\" data-placement=\"recommended\">a book</a>",
        script = script.replace("COLLECTOR", collector).replace("CLIENT", CLIENT),
    ))
}
