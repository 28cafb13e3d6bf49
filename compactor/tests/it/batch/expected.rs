//! What the ready queries have to answer, computed from what was sent alone.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use tallylight_proto::time::Hour;

use super::traffic::{COMPLETE_THROUGH, Sent, counted_by, counted_once, millis};

const LATE_MS: i64 = 60_000;

/// Both days included, as the queries ask for them.
#[derive(Clone, Copy)]
pub struct Days<'a>(pub &'a str, pub &'a str);

impl Days<'_> {
    fn has(self, hour: Hour) -> bool {
        let date = hour.date();
        hour.start() < millis(COMPLETE_THROUGH) && self.0 <= &*date && &*date <= self.1
    }

    /// What both nodes counted, each for itself.
    fn counted(self, sent: &[Sent]) -> impl Iterator<Item = &Sent> {
        let of_both = (0..2).flat_map(|node| counted_by(sent, node));
        of_both.filter(move |sent| self.has(sent.hour()))
    }
}

/// A table as readers give it.
fn table(columns: &[&str], rows: impl Iterator<Item = Value>) -> Value {
    json!({"columns": columns, "rows": rows.collect::<Vec<_>>()})
}

#[expect(clippy::cast_precision_loss, reason = "counts are small")]
fn share(part: i64, whole: i64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

#[expect(clippy::cast_precision_loss, reason = "some millions of thousandths")]
fn from_milli(milli: i64) -> f64 {
    milli as f64 / 1e3
}

/// Of all queries. Visitors are counted exactly.
pub fn answers(sent: &[Sent], days: Days<'_>) -> BTreeMap<&'static str, Value> {
    [
        ("clicks", clicks(sent, days)),
        ("click_through", click_through(sent, days)),
        ("visitors", visitors(sent, days)),
        ("losses", losses(sent, days)),
        ("exact", exact(sent, days)),
    ]
    .into()
}

fn clicks(sent: &[Sent], days: Days<'_>) -> Value {
    let mut groups: BTreeMap<_, (i64, Option<i64>)> = BTreeMap::new();
    for sent in days.counted(sent).filter(|sent| sent.event.event == "click") {
        let (clicks, milli) = groups.entry((sent.hour().start(), sent.event.site, sent.event.target)).or_default();
        *clicks += 1;
        if let Some(value) = sent.event.value_milli {
            *milli.get_or_insert(0) += value;
        }
    }
    let row = |((hour, site, target), (clicks, milli)): (_, (_, Option<i64>))| {
        json!([hour, site, target, clicks, milli.map(from_milli)])
    };
    table(&["hour_start", "site", "target", "clicks", "value"], groups.into_iter().map(row))
}

fn click_through(sent: &[Sent], days: Days<'_>) -> Value {
    let mut groups: BTreeMap<_, [i64; 2]> = BTreeMap::new();
    for Sent { event, .. } in days.counted(sent).filter(|sent| !sent.event.item.is_empty()) {
        if let Some(number) = ["view", "click"].iter().position(|name| *name == event.event) {
            groups.entry((event.site, event.placement, &event.item)).or_default()[number] += 1;
        }
    }
    let row = |((site, placement, item), [views, clicks]): (_, [i64; 2])| {
        json!([site, placement, item, views, clicks, share(clicks, views)])
    };
    table(&["site", "placement", "item", "views", "clicks", "rate"], groups.into_iter().map(row))
}

fn visitors(sent: &[Sent], days: Days<'_>) -> Value {
    let mut groups: BTreeMap<_, BTreeSet<&str>> = BTreeMap::new();
    for sent in days.counted(sent).filter(|sent| !sent.event.visitor.is_empty()) {
        groups.entry((sent.hour().date(), sent.event.site)).or_default().insert(&sent.event.visitor);
    }
    let row = |((date, site), visitors): (_, BTreeSet<_>)| json!([date, site, visitors.len()]);
    table(&["date", "site", "visitors"], groups.into_iter().map(row))
}

fn losses(sent: &[Sent], days: Days<'_>) -> Value {
    let mut groups: BTreeMap<_, [i64; 3]> = BTreeMap::new();
    for sent in days.counted(sent) {
        let [events, late, lost] = groups.entry((sent.hour().date(), sent.event.site)).or_default();
        *events += 1;
        *late += i64::from(sent.event.age_ms > LATE_MS);
        *lost += sent.event.lost;
    }
    let row = |((date, site), [events, late, lost]): (_, [i64; 3])| {
        json!([date, site, events, late, lost, share(late, events), share(lost, events + lost)])
    };
    let columns = ["date", "site", "events", "late", "lost", "late_share", "lost_share"];
    table(&columns, groups.into_iter().map(row))
}

fn exact(sent: &[Sent], days: Days<'_>) -> Value {
    let mut groups: BTreeMap<_, (i64, BTreeSet<&str>)> = BTreeMap::new();
    for sent in counted_once(sent).filter(|sent| days.has(sent.hour())) {
        let (events, visitors) = groups.entry((sent.hour().date(), sent.event.site, sent.event.event)).or_default();
        *events += 1;
        if !sent.event.visitor.is_empty() {
            visitors.insert(&sent.event.visitor);
        }
    }
    let row = |((date, site, event), (events, visitors)): (_, (i64, BTreeSet<_>))| {
        json!([date, site, event, events, visitors.len()])
    };
    table(&["date", "site", "event", "events", "visitors"], groups.into_iter().map(row))
}
