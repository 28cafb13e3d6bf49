//! `/udp/sources`: who sends framed datagrams, and what of theirs came and got lost.

use serde::{Serialize, Serializer};
use tallylight_proto::datagram::SourceId;
use tallylight_proto::sources::{Figures, Report, Sources};

/// The whole page, as of one moment. To be made into text when the table is no longer held.
#[derive(Serialize)]
pub struct Page {
    sources: Vec<Row>,
    forgotten: Forgotten,
    /// Datagrams for whose sources there was no room.
    untracked: u64,
}

/// One source. At any time `next - first = received + (lost - recovered) + pending`.
#[derive(Serialize)]
struct Row {
    key: Option<u8>,
    /// Many readers of JSON would round the number.
    #[serde(serialize_with = "hex")]
    source: u64,
    first: u64,
    next: u64,
    received: u64,
    events: u64,
    lost: u64,
    recovered: u64,
    pending: u64,
    duplicate: u64,
    stale: u64,
    idle_seconds: f64,
}

/// Those that were let go, as one.
#[derive(Serialize)]
struct Forgotten {
    sources: u64,
    received: u64,
    events: u64,
    lost: u64,
    recovered: u64,
    duplicate: u64,
    stale: u64,
}

impl Page {
    /// What a table says now, in ms of its clock.
    pub fn new(table: &Sources, now: u64) -> Self {
        let (sources, Figures { received, events, lost, recovered, duplicate, stale }) = table.forgotten();
        Self {
            sources: table.reports(now).into_iter().map(row).collect(),
            forgotten: Forgotten { sources, received, events, lost, recovered, duplicate, stale },
            untracked: table.untracked(),
        }
    }

    /// As JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("numbers and strings only")
    }
}

fn hex<S: Serializer>(number: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{number:016x}"))
}

fn row(report: Report) -> Row {
    let Report { id: SourceId { key, source }, bounds, figures, pending, idle_ms } = report;
    let Figures { received, events, lost, recovered, duplicate, stale } = figures;
    Row {
        key,
        source,
        first: bounds.first,
        next: bounds.next,
        received,
        events,
        lost,
        recovered,
        pending,
        duplicate,
        stale,
        #[expect(clippy::cast_precision_loss, reason = "to be read by people")]
        idle_seconds: idle_ms as f64 / 1000.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tallylight_proto::datagram::Number;
    use tallylight_proto::sources::Arrival;

    #[test]
    fn the_page_is_as_it_is_promised() {
        let mut table = Sources::default();
        let empty = r#"{"sources":[],"forgotten":{"sources":0,"received":0,"events":0,"lost":0,"recovered":0,"#
            .to_owned()
            + r#""duplicate":0,"stale":0},"untracked":0}"#;
        assert_eq!(Page::new(&table, 0).to_json(), empty);
        for (key, sequence) in [(None, 1), (None, 3), (None, 3), (Some(7), 1)] {
            let number = Number { source: SourceId { key, source: 0xabc }, sequence };
            table.arrive(&Arrival { number, events: 2, is_recorded: true }, 100);
        }
        let page: serde_json::Value = serde_json::from_str(&Page::new(&table, 100).to_json()).unwrap();
        let expected = serde_json::json!({
            "key": null, "source": "0000000000000abc", "first": 1, "next": 4, "received": 2, "events": 4, "lost": 0,
            "recovered": 0, "pending": 1, "duplicate": 1, "stale": 0, "idle_seconds": 0.0,
        });
        assert_eq!(page["sources"][0], expected);
        assert_eq!((&page["sources"][1]["key"], &page["sources"][1]["received"]), (&7.into(), &1.into()));
    }
}
