//! What visitors and servers send. Every event has a token, as its `item`, by which it is known wherever it turns up.

use std::fmt::Write as _;

use tallylight_host::simulated::Chance;
use uuid::Uuid;

/// An event as its sender made it.
#[derive(Clone, Debug)]
pub struct Sent {
    pub token: String,
    pub site: &'static str,
    pub target: &'static str,
    /// Without one each copy is another event.
    pub id: Option<Uuid>,
    pub value: Option<u64>,
    pub age: u64,
    pub padding: usize,
}

impl Sent {
    pub fn any(number: usize, chance: &mut Chance) -> Self {
        let id = chance.percent(80).then(|| Uuid::from_u64_pair(chance.bits(), chance.bits()));
        let padding = match chance.below(10) {
            // a record that ends at, or about, a border of pages is what goes wrong
            0..3 => 3000 + chance.below(1500),
            3 => chance.below(8000),
            _ => chance.below(40),
        };
        Self {
            token: format!("e{number}"),
            site: *chance.pick(&["shop.example", "books.example"]),
            target: *chance.pick(&["https://a.example/1", "https://a.example/2"]),
            // of version 8, which has no time in it that could be believed; or as clients make them
            id: id.map(|id| uuid::Builder::from_custom_bytes(id.into_bytes()).into_uuid()),
            value: chance.percent(30).then(|| chance.bits() % 1000),
            age: *chance.pick(&[0, 0, 0, 5_000, 120_000, 3_600_000, 40_000_000]),
            padding,
        }
    }

    pub fn query(&self) -> String {
        let Self { token, site, target, id, value, age, padding } = self;
        let mut query = format!("event=click&site={site}&target={target}&item={token}&age={age}");
        if let Some(id) = id {
            let _ = write!(query, "&id={id}");
        }
        if let Some(value) = value {
            let _ = write!(query, "&value={value}");
        }
        if *padding > 0 {
            let _ = write!(query, "&p={}", "x".repeat(*padding));
        }
        query
    }

    fn json(&self) -> String {
        let Self { token, site, target, id, value, age, padding } = self;
        let mut json = format!(
            r#"{{"event":"click","site":"{site}","target":"{target}","item":"{token}","age":{age},"p":"{}""#,
            "x".repeat(*padding)
        );
        if let Some(id) = id {
            let _ = write!(json, r#","id":"{id}""#);
        }
        if let Some(value) = value {
            let _ = write!(json, r#","value":{value}"#);
        }
        json.push('}');
        json
    }
}

/// A body of these: lines or an array.
pub fn body(events: &[Sent], chance: &mut Chance) -> String {
    if chance.percent(30) {
        let all: Vec<String> = events.iter().map(Sent::json).collect();
        return format!("[{}]", all.join(","));
    }
    let line = |event: &Sent, is_json| if is_json { event.json() } else { event.query() };
    events.iter().map(|event| line(event, chance.percent(30)) + "\n").collect()
}

/// A server that sends framed datagrams.
pub struct Server {
    pub source: u64,
    pub next: u64,
    /// On the way, and late.
    pub late: Vec<(u64, Vec<u8>)>,
}
