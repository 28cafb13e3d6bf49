//! Events as a busy site sends them: the same ones in every run.

use std::borrow::Cow;

use tallylight_proto::{Event, Front, Id};
use uuid::Uuid;

const AGENTS: [&str; 3] = [
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/156.0.0.0 Safari/537.36",
    "Mozilla/5.0 (X11; Linux x86_64; rv:153.0) Gecko/20100101 Firefox/153.0",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 19_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148",
];

/// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", OOPSLA 2014).
pub struct Random(u64);

impl Random {
    /// The same seed gives the same numbers.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// The next one of these.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.draw() % bound
    }
}

/// A seeded generator of events whose records are about 440 bytes long.
pub struct Beacons(Random);

impl Beacons {
    /// The same seed gives the same events.
    pub fn new(seed: u64) -> Self {
        Self(Random::new(seed))
    }

    /// The next event.
    pub fn event(&mut self) -> Event<'static> {
        let random = &mut self.0;
        let item = random.below(5_000);
        let agent = usize::try_from(random.below(3)).unwrap_or(0);
        Event {
            id: Id { uuid: Uuid::from_u64_pair(random.draw(), random.draw()), made_here: false },
            received_at: 1_795_392_000_000 + i64::try_from(random.below(3_600_000)).unwrap_or(0),
            age_ms: u32::try_from(random.below(2_000)).unwrap_or(0),
            front: Front::Http1,
            site: Cow::Owned(format!("shop-{}.example", random.below(50))),
            event: Cow::Borrowed("click"),
            target: Cow::Owned(format!("https://shop.example/books/{item}/a-title-of-usual-length?ref=recommended")),
            page: Cow::Owned(format!("https://shop.example/books/{}/the-page-that-it-stood-on", random.below(5_000))),
            item: Cow::Owned(format!("isbn-978{item:010}")),
            placement: Cow::Borrowed("below-the-description"),
            visitor: Cow::Owned(format!("{:016x}", random.below(1_000_000))),
            user_agent: Cow::Borrowed(AGENTS[agent]),
            ip: Some([192, 0, 2, 0].into()),
            value: None,
            lost: 0,
            origin: None,
            props: vec![(Cow::Borrowed("campaign"), Cow::Borrowed("autumn"))],
        }
    }

    /// The next event as a server sends it: JSON of exactly this many bytes, at least 180.
    pub fn json(&mut self, len: usize) -> String {
        let random = &mut self.0;
        let (site, item, visitor) = (random.below(50), random.below(5_000), random.below(1_000_000));
        let fixed = format!(
            r#"{{"site":"shop-{site}.example","event":"sale","item":"isbn-978{item:010}","visitor":"{visitor:016x}","value":{}.5,"page":"https://shop.example/""#,
            10 + random.below(90),
        );
        let (start, pad) = (fixed.trim_end_matches('"'), len.saturating_sub(fixed.len() + 1));
        format!("{start}{:-<pad$}\"}}", "orders/")
    }
}
