//! What two nodes were sent over three days, of all kinds, and how it became Parquet: by real programs, under a clock
//! that was set.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde_json::{Value, json};
use tallylight_proto::time::{HOUR_MS, Hour, Millis};
use uuid::{Builder, Uuid};

use crate::client::CRAWLER;
use crate::harness::{Chance, Collector, Compactor, assert_audit, assert_ledger_adds_up};
use crate::soak::clock::{self, Clock, SECOND};

/// The days that were asked for. Summer time begins in the night of the second one.
pub const DAYS: [&str; 3] = ["2026-03-28", "2026-03-29", "2026-03-30"];
/// How the hourly files are grouped.
pub const BY: &str = "item,placement,page";
/// Both nodes have told all of the hours before this one. The second node, of the two hours before, too.
pub const COMPLETE_THROUGH: &str = "2026-03-30T01:00:00Z";
/// An item that one event has, whose row is looked at more closely.
pub const MARKED: &str = "marked";

/// What the clock was set to, and how many nodes were sent something then.
const ROUNDS: [(&str, usize); 7] = [
    ("2026-03-28T22:30:00Z", 2),
    ("2026-03-28T23:30:00Z", 2),
    ("2026-03-29T00:30:00Z", 2),
    ("2026-03-29T09:30:00Z", 2),
    ("2026-03-30T00:30:00Z", 2),
    ("2026-03-30T01:20:00Z", 2),
    ("2026-03-30T02:40:00Z", 1),
];
/// The round in which many visitors come, and after which both compactors run for the first time.
const CROWDED: usize = 3;
const EVENTS_A_ROUND: u64 = 300;
/// An event as it is sent.
#[derive(Clone, Debug, Default)]
pub struct Event {
    pub id: Uuid,
    pub site: &'static str,
    pub event: &'static str,
    pub target: &'static str,
    pub item: String,
    pub placement: &'static str,
    pub visitor: String,
    /// Thousandths.
    pub value_milli: Option<i64>,
    pub age_ms: i64,
    pub lost: i64,
    pub is_bot: bool,
}

/// An event, which node it was sent to, and when about.
#[derive(Clone, Debug)]
pub struct Sent {
    pub node: usize,
    pub at: Millis,
    pub event: Event,
}

impl Sent {
    /// The hour that it happened in: never so near to another one that a slow machine could move it there.
    pub fn hour(&self) -> Hour {
        Hour::of(self.at - self.event.age_ms)
    }
}

/// Milliseconds since 1970.
pub fn millis(time: &str) -> Millis {
    time.parse::<Timestamp>().unwrap().as_millisecond()
}

/// All that is sent, in the order in which it is sent.
pub fn traffic() -> Vec<Sent> {
    let mut chance = Chance(7);
    let mut sent = Vec::new();
    // what each node gets once more in the next round
    let mut again: [Vec<Event>; 2] = Default::default();
    for (round, (time, nodes)) in ROUNDS.into_iter().enumerate() {
        let at = millis(time);
        for (node, again) in again.iter_mut().enumerate().take(nodes) {
            let mut events: Vec<Event> = (0..EVENTS_A_ROUND).map(|_| any_event(&mut chance, at)).collect();
            if (round, node) == (CROWDED, 0) {
                events.extend(crowd(&mut chance, at));
            }
            events.append(again);
            *again = events.iter().filter(|_| chance.below(25) == 0).cloned().collect();
            sent.extend(events.into_iter().map(|event| Sent { node, at, event }));
        }
        if nodes == 2 {
            sent.extend(through_the_other_node(&mut chance, &sent, at));
        }
    }
    sent.extend(around_midnight(&mut chance));
    sent.sort_by_key(|sent| sent.at);
    sent
}

fn id(chance: &mut Chance, at: Millis) -> Uuid {
    let mut random = [0; 10];
    chance.fill(&mut random);
    Builder::from_unix_timestamp_millis(u64::try_from(at).unwrap(), &random).into_uuid()
}

fn any_event(chance: &mut Chance, at: Millis) -> Event {
    let targets =
        ["https://shop.example/1", "https://shop.example/\"2\", und 3", "https://könig.example/straße/本", ""];
    // sent at once, just not late, just late, and late by hours and a day
    let ages = [0, 0, 0, 0, 59 * SECOND, 60 * SECOND, 60 * SECOND + 1, HOUR_MS, 2 * HOUR_MS, 24 * HOUR_MS];
    let site = chance.one_of(&["books.example", "books.example", "books.example", "schuhe.example", "nobody.example"]);
    let visitor = match site {
        "books.example" if chance.below(6) > 0 => format!("gäst-{}", chance.below(900)),
        "schuhe.example" if chance.below(6) > 0 => format!("gäst-{}", chance.below(40)),
        _ => String::new(),
    };
    Event {
        id: id(chance, at),
        site,
        event: chance.one_of(&["click", "view", "view", "view", "buy"]),
        target: chance.one_of(&targets),
        item: chance.one_of(&["", "4711", "4712", "buch-ß"]).to_owned(),
        placement: chance.one_of(&["recommended", "top", "à côté"]),
        visitor,
        value_milli: (chance.below(3) == 0).then(|| i64::try_from(chance.below(100_000)).unwrap() - 20_000),
        age_ms: chance.one_of(&ages),
        lost: if chance.below(50) == 0 { 3 } else { 0 },
        is_bot: chance.below(40) == 0,
    }
}

/// Visitors who all come at once: more in all than a sketch has registers, and so many in the first group that its sketch has
/// them already. Those of the others have coupons, and some of their visitors are those of the group before.
fn crowd(chance: &mut Chance, at: Millis) -> Vec<Event> {
    let sizes = [700].into_iter().chain([350; 14]).enumerate();
    let visitors = sizes.flat_map(|(group, size)| (0..size).map(move |n| (group, n)));
    let [site, event, target, placement] = ["halle.example", "view", "https://shop.example/new", "top"];
    let view = |(group, n)| {
        let [item, visitor] = [format!("new-{group}"), format!("gäst-{}", 300 * group + n)];
        Event { id: id(chance, at), site, event, target, placement, item, visitor, ..Event::default() }
    };
    visitors.map(view).collect()
}

/// Events that were retried through the other node, although the first one had them.
fn through_the_other_node(chance: &mut Chance, sent: &[Sent], at: Millis) -> Vec<Sent> {
    let of_now = sent.iter().filter(|sent| sent.at == at);
    let retried = of_now.filter(|_| chance.below(20) == 0);
    retried.map(|sent| Sent { node: 1 - sent.node, ..sent.clone() }).collect()
}

/// One event that the second node, which gets it later, believes to be of the next day, and one whose row is looked at.
fn around_midnight(chance: &mut Chance) -> Vec<Sent> {
    let [before, after, later] = ["2026-03-28T23:57:00Z", "2026-03-29T00:03:00Z", ROUNDS[CROWDED].0].map(millis);
    let first = millis(ROUNDS[2].0);
    let id_of_both = id(chance, before);
    let click = |id, item: &str, age_ms| {
        let [site, event, target, placement] = ["books.example", "click", "https://shop.example/midnight", "top"];
        Event { id, site, event, target, placement, item: item.to_owned(), age_ms, ..Event::default() }
    };
    let of_row = Event { value_milli: Some(-12_500), lost: 2, ..click(id(chance, first), MARKED, 90 * SECOND) };
    vec![
        Sent { node: 0, at: first, event: click(id_of_both, "4711", first - before) },
        Sent { node: 1, at: later, event: click(id_of_both, "4711", later - after) },
        Sent { node: 0, at: first, event: of_row },
    ]
}

/// What a node counts: each id once.
pub fn counted_by(sent: &[Sent], node: usize) -> impl Iterator<Item = &Sent> {
    let mut ids = HashSet::new();
    let first = sent.iter().filter(move |sent| sent.node == node && ids.insert(sent.event.id));
    first.filter(|sent| !sent.event.is_bot)
}

/// What both nodes together were sent: each id once, bots left out.
pub fn counted_once(sent: &[Sent]) -> impl Iterator<Item = &Sent> {
    let mut ids = HashSet::new();
    sent.iter().filter(move |sent| ids.insert(sent.event.id)).filter(|sent| !sent.event.is_bot)
}

/// A node: a collector, and what makes its log into Parquet.
struct Node {
    collector: Collector,
    data: PathBuf,
}

impl Node {
    fn start(clock: &Clock, data: PathBuf) -> Self {
        let mut collector = Collector::spawn_under(clock.environment(), &data, &[]);
        collector.wait_ready();
        Self { collector, data }
    }

    fn compact(&self, clock: &Clock, out: &Path) {
        let once = Compactor::once_under(&clock.environment(), &self.data, out, &["--by", BY]);
        assert!(once.status.success(), "{}", String::from_utf8_lossy(&once.stderr));
    }

    /// Its log ends with the time that the clock shows.
    fn end(&mut self) {
        assert_ledger_adds_up(&self.collector);
        assert!(self.collector.terminate().success(), "{}", self.collector.stderr());
    }
}

/// Sends all of it to two collectors, and has their compactors make `OUT` of it.
pub fn compacted(sent: &[Sent], folder: &Path) -> PathBuf {
    let out = folder.join("out");
    let clock = Clock::new(folder, "clock");
    let set = |time: &str| clock.set(millis(time) - clock::now());
    set(ROUNDS[0].0);
    let mut nodes = ["a", "b"].map(|name| Node::start(&clock, folder.join(name)));
    for (round, (time, running)) in ROUNDS.into_iter().enumerate() {
        if running == 1 {
            nodes[1].end();
        }
        set(time);
        let of_round: Vec<&Sent> = sent.iter().filter(|sent| sent.at == millis(time)).collect();
        // in bodies for one node each, and far below 64 KiB
        for body in of_round.chunk_by(|one, next| one.node == next.node).flat_map(|run| run.chunks(100)) {
            let array: Vec<Value> = body.iter().map(|sent| beacon(&sent.event)).collect();
            let bytes = serde_json::to_vec(&array).unwrap();
            let reply = nodes[body[0].node].collector.request("POST", "/api/beacon", &[], &bytes);
            assert_eq!(reply.status, 204, "{}", reply.text());
        }
        if round == CROWDED {
            nodes.iter().for_each(|node| node.compact(&clock, &out));
        }
    }
    nodes[0].end();
    for node in &nodes {
        node.compact(&clock, &out);
        assert_audit(&node.data, &out);
    }
    out
}

fn beacon(event: &Event) -> Value {
    let mut beacon = json!({
        "id": event.id.to_string(), "site": event.site, "event": event.event, "target": event.target, "item": event.item,
        "placement": event.placement, "visitor": event.visitor, "age": event.age_ms, "lost": event.lost,
        "page": "https://books.example/", "farbe": "grün",
    });
    if let Some(milli) = event.value_milli {
        let sign = if milli < 0 { "-" } else { "" };
        beacon["value"] = format!("{sign}{}.{:03}", milli.abs() / 1000, milli.abs() % 1000).into();
    }
    if event.is_bot {
        beacon["ua"] = CRAWLER.into();
    }
    beacon
}
