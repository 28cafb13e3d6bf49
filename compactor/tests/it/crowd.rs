//! A crowd of clients that send at once: what each of them sends, and what they know of it afterwards.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::SystemTime;

use crate::client::{self, Click, Client, Form, gzip, mix};

/// How many there are.
pub const CLIENTS: u64 = 4;
/// Kinds of event: site, name and target. All have the same number of events.
pub const KINDS: u64 = 40;
/// One in so many events is sent twice.
const TWICE: u64 = 50;
/// One in so many arrives an hour after it happened.
const LATE: u64 = 20;
/// One in so many is a crawler's.
const BOT: u64 = 200;

/// Clients that send these many events, one in so many of them twice.
#[derive(Debug)]
pub struct Crowd {
    /// Distinct events.
    pub events: u64,
    /// How many of them were acknowledged so far.
    pub acknowledged: AtomicU64,
    started_ms: u64,
}

impl Crowd {
    /// One that has sent nothing yet.
    pub fn of(events: u64) -> Self {
        #[expect(clippy::disallowed_methods, reason = "clients have clocks of their own")]
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let started_ms = u64::try_from(since.as_millis()).unwrap();
        Self { events, acknowledged: AtomicU64::new(0), started_ms }
    }

    /// One of the clients, all of which send at once: sends every `CLIENTS`-th event, in bodies of many kinds, until
    /// all are acknowledged. Says how often it got no answer.
    pub fn send(&self, addr: SocketAddr, first: u64) -> u64 {
        let mut client = Client::new(addr);
        let mut copies = Vec::new();
        let mut numbers = (first..self.events).step_by(usize::try_from(CLIENTS).unwrap()).peekable();
        for batch in first.. {
            if numbers.peek().is_none() {
                break;
            }
            // a body may have 64 KiB and 1,000 events; compressed ones have room for more
            let (size, is_gzip) = [(250, false), (500, true), (1, false), (120, false), (1000, true), (300, false)]
                [usize::try_from(batch % 6).unwrap()];
            let form = [Form::Queries, Form::Array, Form::Objects][usize::try_from(batch / 6 % 3).unwrap()];
            let size = if is_gzip || matches!(form, Form::Queries) { size } else { size.min(200) };
            let clicks: Vec<Click> = numbers.by_ref().take(size).map(|number| click(self.started_ms, number)).collect();
            post(&mut client, &clicks, form, is_gzip, batch % 8 == 0);
            self.acknowledged.fetch_add(clicks.len() as u64, Relaxed);
            // the first copy is acknowledged, so it is the one that counts, and the second one comes in another batch
            copies.extend(clicks.into_iter().filter(|click| is_one_in(TWICE, click.number)));
            if copies.len() >= 150 {
                send_copies(&mut client, &mut copies);
            }
        }
        // an empty body would be an event, too
        if !copies.is_empty() {
            send_copies(&mut client, &mut copies);
        }
        client.unanswered
    }

    /// What the clients know that they sent.
    pub fn sent(&self) -> Sent {
        let mut sent = Sent::default();
        for number in 0..self.events {
            let click = click(self.started_ms, number);
            let kind = [click.site.to_owned(), click.event.to_owned(), click.target];
            sent.kinds.entry(kind).or_default()[usize::from(click.bot)] += 1;
            sent.copies += u64::from(is_one_in(TWICE, number));
            if !click.bot {
                sent.late += u64::from(click.age_ms > 60_000);
                sent.lost += u64::from(click.lost);
                sent.value_milli += click.value_milli.unwrap_or(0);
            }
        }
        sent
    }
}

/// What the clients know that they sent.
#[derive(Default)]
pub struct Sent {
    /// Events and crawlers' events, by site, event and target.
    pub kinds: BTreeMap<[String; 3], [u64; 2]>,
    /// Events that were sent twice, not counting what was sent again for want of an answer.
    pub copies: u64,
    /// Of all but the crawlers' events: those that arrived over a minute after they happened.
    pub late: u64,
    /// What their `lost` adds up to.
    pub lost: u64,
    /// And their `value`, in thousandths.
    pub value_milli: i64,
}

/// The n-th event.
fn click(started_ms: u64, number: u64) -> Click {
    let kind = number % KINDS;
    let of_kind = number / KINDS;
    Click {
        site: ["books.example", "shoes.example"][usize::try_from(kind % 2).unwrap()],
        event: ["click", "view", "buy", "close"][usize::try_from(kind / 2 % 4).unwrap()],
        target: format!("https://books.example/book/{}", kind / 8),
        // from 12,000 to 23,700 visitors a kind
        visitor: format!("v{kind}-{}", of_kind % (12_000 + 300 * kind)),
        age_ms: if is_one_in(LATE, number) { 3_600_000 + i64::try_from(mix(number) % 1000).unwrap() } else { 0 },
        value_milli: is_one_in(10, number).then(|| i64::try_from(mix(number) % 100_000).unwrap()),
        lost: u32::from(is_one_in(1000, number)),
        bot: is_one_in(BOT, number),
        ..Click::new(started_ms, number)
    }
}

/// Chosen by chance, but always the same ones, independent of those chosen for other shares.
fn is_one_in(share: u64, number: u64) -> bool {
    mix(mix(share) ^ number).is_multiple_of(share)
}

fn post(client: &mut Client, clicks: &[Click], form: Form, is_gzip: bool, is_synced: bool) {
    let body = client::body(clicks, form);
    let body = if is_gzip { gzip(&body) } else { body };
    client.post(if is_synced { "/api/beacon?ack=synced" } else { "/api/beacon" }, &body, is_gzip);
}

/// Half of them seem to have happened an hour earlier, so that the copies fall into another hour.
fn send_copies(client: &mut Client, copies: &mut Vec<Click>) {
    for copy in copies.iter_mut().step_by(2) {
        copy.age_ms += 3_600_000;
    }
    post(client, copies, Form::Queries, false, false);
    copies.clear();
}
