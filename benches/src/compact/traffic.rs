//! What arrives at a busy node: the same events in every run, each of which can be made by itself, so that a copy is its
//! original sent again.

use std::borrow::Cow;

use tallylight_proto::time::{HOUR_MS, Millis};
use tallylight_proto::{Event, Front, Id, Micros};
use uuid::Uuid;

use crate::beacons::Random;

/// 2026-11-23T00:00:00Z
const START: Millis = 1_795_392_000_000;
const COPIES_PERCENT: u64 = 2;
/// A copy follows its original within so many events.
const COPIED_WITHIN: u64 = 50_000;
/// Per mille of the events that arrive over a minute after they happened.
const LATE_PER_MILLE: u64 = 9;
/// How targets are chosen: the r-th most wanted one is wanted in proportion to r to the minus this.
const SKEW: f64 = 1.15;
const SITES: u64 = 200;
const PLACEMENTS: [&str; 8] =
    ["hero", "below-the-description", "sidebar", "search", "basket", "newsletter", "footer", "also-bought"];
const SECTIONS: [&str; 5] = ["books", "music", "garden", "toys", "offers"];

/// A seeded stream of events.
#[derive(Clone, Debug)]
pub struct Traffic {
    /// Events that arrive in an hour.
    pub an_hour: u64,
    /// Different targets, each with its event and site: as many groups an hour has at most.
    pub targets: u64,
    /// Over how many hours before their arrival the late ones happened.
    pub late_hours: u64,
    agents: Vec<String>,
}

impl Traffic {
    pub fn new(an_hour: u64, targets: u64, late_hours: u64) -> Self {
        let agents = (0..300).map(agent).collect();
        Self { an_hour, targets, late_hours, agents }
    }

    /// What decides the events, as a file's name.
    pub fn name(&self) -> String {
        format!("{}-an-hour-{}-targets-{}-late", self.an_hour, self.targets, self.late_hours)
    }

    /// The n-th event.
    pub fn event(&self, n: u64) -> Event<'_> {
        let random = &mut Random::new(n.wrapping_mul(0xd129_42f0_6a5c_8e37));
        let received_at = START + millis(n * HOUR_MS.unsigned_abs() / self.an_hour);
        if n > 0 && random.below(100) < COPIES_PERCENT {
            let original = self.event(n - 1 - random.below(n.min(COPIED_WITHIN)));
            let age_ms = received_at - original.event_at();
            return Event { received_at, age_ms: u32::try_from(age_ms).unwrap_or(0), ..original };
        }
        let is_late = random.below(1_000) < LATE_PER_MILLE;
        let age = if is_late { 60_001 + random.below(self.late_hours * 3_600_000) } else { random.below(2_000) };
        let event_at = received_at - millis(age);
        let key = self.key(random);
        let (product, name) = (key / 2, if key % 20 == 19 { "sale" } else { ["click", "view"][(key % 2) as usize] });
        let site = mixed(product) % SITES * (mixed(product + 1) % SITES) / SITES;
        // people come and go: an hour's visitors are half of those of the hour before
        let visitors = self.an_hour / 4 + 1;
        let visitor = mixed(n / self.an_hour * (visitors / 2) + random.below(visitors));
        let agents = self.agents.len() as u64;
        let agent = visitor % agents * (visitor / agents % agents) / agents;
        let [first, second, third, ..] = visitor.to_le_bytes();
        let page = random.below(400);
        Event {
            id: Id { uuid: id(event_at, random), made_here: false },
            received_at,
            age_ms: u32::try_from(age).unwrap_or(0),
            front: Front::Http1,
            site: Cow::Owned(format!("shop-{site}.example")),
            event: Cow::Borrowed(name),
            target: Cow::Owned(format!("https://shop-{site}.example/books/{product}")),
            page: Cow::Owned(format!("https://shop-{site}.example/{}/{page}", SECTIONS[(page % 5) as usize])),
            item: Cow::Owned(format!("isbn-{product:09}")),
            placement: Cow::Borrowed(PLACEMENTS[(page % 8) as usize]),
            visitor: Cow::Owned(format!("{visitor:016x}")),
            user_agent: Cow::Borrowed(&self.agents[usize::try_from(agent).unwrap_or(0)]),
            ip: Some([first | 1, second, third, 0].into()),
            value: (name == "sale").then(|| Micros(10_000 * (500 + millis(random.below(9_000))))),
            lost: 0,
            origin: None,
            props: if random.below(10) == 0 { vec![("campaign".into(), "autumn".into())] } else { Vec::new() },
        }
    }

    /// One of the targets, the most wanted ones first: the inverse of the integral over their ranks.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 1 and the targets")]
    fn key(&self, random: &mut Random) -> u64 {
        let share = random.below(1 << 32) as f64 / 4_294_967_296.0;
        let rest = 1.0 - (self.targets as f64 + 1.0).powf(1.0 - SKEW);
        (1.0 - share * rest).powf(1.0 / (1.0 - SKEW)) as u64 - 1
    }
}

/// An id of version 7, as clients make them (RFC 9562, 5.7).
fn id(at: Millis, random: &mut Random) -> Uuid {
    let high = at.unsigned_abs() << 16 | 7 << 12 | random.below(1 << 12);
    Uuid::from_u64_pair(high, 1 << 63 | random.draw() >> 2)
}

fn agent(n: u64) -> String {
    let version = 120 + n % 37;
    match n % 3 {
        0 => format!(
            "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{version}.0.0.0 Safari/537.36"
        ),
        1 => format!("Mozilla/5.0 (X11; Linux x86_64; rv:{version}.0) Gecko/20100101 Firefox/{version}.{}", n % 9),
        _ => format!(
            "Mozilla/5.0 (iPhone; CPU iPhone OS {}_{} like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E{version}",
            15 + n % 5,
            n % 7
        ),
    }
}

fn mixed(number: u64) -> u64 {
    Random::new(number).draw()
}

fn millis(number: u64) -> Millis {
    Millis::try_from(number).unwrap_or(Millis::MAX)
}
