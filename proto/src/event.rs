//! An event: what one beacon means, once it is checked.
//!
//! Events are made by [`crate::beacon`] and become bytes in [`crate::record`].

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;

use uuid::Uuid;

use crate::datagram::Number;
use crate::reason::Front;
use crate::time::{self, Millis};

/// The largest record that an event may become, in bytes. A body that is let in (64 KiB as sent) with all its
/// headers fits; one entry of a 1 MiB batch may not.
pub const MAX_EVENT_BYTES: usize = 256 * 1024;

/// One thing that happened on somebody's page. Strings are UTF-8 and may be empty, which means missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// What makes two copies the same event.
    pub id: Id,
    /// When the collector received it.
    pub received_at: Millis,
    /// How long before that it happened, in ms: 0 to 7 days.
    pub age_ms: u32,
    /// The door it came through.
    pub front: Front,
    /// Whose site.
    pub site: Cow<'a, str>,
    /// Its name.
    pub event: Cow<'a, str>,
    /// Where the link leads.
    pub target: Cow<'a, str>,
    /// The page it happened on.
    pub page: Cow<'a, str>,
    /// What was recommended.
    pub item: Cow<'a, str>,
    /// Where it stood.
    pub placement: Cow<'a, str>,
    /// An opaque id that the page chose for its visitor.
    pub visitor: Cow<'a, str>,
    /// The visitor's user agent.
    pub user_agent: Cow<'a, str>,
    /// The visitor's address, as much of it as is kept.
    pub ip: Option<IpAddr>,
    /// A number of the page's own choosing.
    pub value: Option<Micros>,
    /// Events that this client gave up since it last said so.
    pub lost: u32,
    /// The framed datagram that it came in.
    pub origin: Option<Origin>,
    /// Everything else, in the order it came, each key once.
    pub props: Vec<(Cow<'a, str>, Cow<'a, str>)>,
}

impl Event<'_> {
    /// When it happened: the receive time less its age.
    pub fn event_at(&self) -> Millis {
        time::event_at(self.received_at, self.age_ms)
    }

    /// Whether it arrived more than a minute after it happened.
    pub fn is_late(&self) -> bool {
        time::is_late(self.age_ms)
    }
}

/// Where in which datagram an event stood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The datagram's number.
    pub number: Number,
    /// The event's place among the entries of its body, from 0.
    pub place: u16,
    /// It is the last one that was taken, and so the datagram is whole. Known only when all of it was looked at.
    pub is_last: bool,
}

/// An event's id, and who made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Id {
    /// The id itself, never nil.
    pub uuid: Uuid,
    /// Made by the collector because the sender gave none: it cannot occur twice, and no index need keep it.
    pub made_here: bool,
}

/// A decimal number kept exactly to six places: millionths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Micros(pub i64);

impl Micros {
    /// 9 × 10⁹, the greatest magnitude of a value.
    pub const MAX: Micros = Micros(9_000_000_000_000_000);

    /// The nearest double.
    #[expect(clippy::cast_precision_loss, reason = "at most 9e15, below 2^53: exact; the division then rounds once")]
    pub fn to_f64(self) -> f64 {
        self.0 as f64 / 1e6
    }
}

impl fmt::Display for Micros {
    /// The shortest exact decimal: `-0.5`, `12`, `3.000001`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, part) = (self.0.unsigned_abs() / 1_000_000, self.0.unsigned_abs() % 1_000_000);
        let sign = if self.0 < 0 { "-" } else { "" };
        if part == 0 {
            return write!(f, "{sign}{whole}");
        }
        let part = format!("{part:06}");
        write!(f, "{sign}{whole}.{}", part.trim_end_matches('0'))
    }
}
