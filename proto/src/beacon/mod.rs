//! Beacons: the bytes that arrive, and how they become events.
//!
//! The rule: whatever arrives, every event in it is either given out whole and checked or refused for a reason,
//! and the number of both is known. Nothing here panics on input, reads a clock or draws a random number: the
//! time, and ids for events without one, are given.
//!
//! ```text
//!  query ─────────────┐
//!  form, ping, lines ─┼─▶ fields: key → text ─▶ defaults, checks ─▶ event
//!  JSON, link ────────┘
//! ```

mod body;
mod fault;
mod fields;
mod number;
mod object;
mod page;
mod plain;
mod props;
mod query;
#[cfg(test)]
mod tests;
mod warnings;

use std::net::IpAddr;

use crate::datagram::Number;
use crate::event::{Event, Id};
use crate::link::Link;
use crate::reason::Front;
use crate::time::Millis;

pub use body::{Body, Entries, Judged, Piece, count, from_body, is_blank};
pub use fault::{Detail, Place, Reject};
pub(crate) use page::host;
pub use page::site_name;
pub(crate) use query::pairs;
pub use query::parameter;
pub use warnings::{Warning, warnings};

use fields::{Fields, Name};

/// The most events that one body may have.
pub const MAX_EVENTS: usize = 1000;

/// The name of an event that has none.
pub const DEFAULT_EVENT: &str = "beacon";

/// The name of an event that has none and is a followed link: an `<a ping>`, or a signed one.
pub const PING_EVENT: &str = "click";

/// What is known about a beacon beside its own words.
#[derive(Clone, Debug)]
pub struct Context<'a> {
    /// When it arrived.
    pub received_at: Millis,
    /// The door that it came through.
    pub front: Front,
    /// The visitor's address, as much of it as may be kept.
    pub ip: Option<IpAddr>,
    /// The header `Referer`, or empty.
    pub referer: &'a str,
    /// The header `Origin`, or empty.
    pub origin: &'a str,
    /// The header `User-Agent`, or empty.
    pub user_agent: &'a str,
    /// The number of the datagram that it came in, if that has one.
    pub number: Option<Number>,
    /// The visitor asked not to be followed (`Sec-GPC: 1`, `DNT: 1`): neither visitor id nor address is kept.
    pub private: bool,
}

/// What a URL's query says of the one event that it is: the pixel.
pub struct Query<'a>(Fields<'a>);

impl<'a> Query<'a> {
    /// Reads it.
    pub fn of(query: &'a str) -> Self {
        Self(Fields::of_text(query))
    }

    /// Whether the event is only to be shown (`debug=1`).
    pub fn wants_debug(&self) -> bool {
        self.0.wants_debug()
    }

    /// Checks it.
    ///
    /// # Errors
    /// If it says what no event has.
    pub fn into_event(mut self, context: &Context<'a>, new_id: &mut dyn FnMut() -> Id) -> Result<Event<'a>, Reject> {
        Ok(self.0.take_event(DEFAULT_EVENT, 0, context, new_id)?)
    }
}

/// Reads the one event that a URL's query is, and checks it.
///
/// # Errors
/// As [`Query::into_event`].
pub fn from_query<'a>(
    query: &'a str,
    context: &Context<'a>,
    new_id: &mut dyn FnMut() -> Id,
) -> Result<Event<'a>, Reject> {
    Query::of(query).into_event(context, new_id)
}

/// Makes the one event that following a signed link is. What the link does not say has the same defaults as everywhere,
/// and its id is never the link's: everybody who follows it is an event.
pub fn from_link<'a>(
    link: &'a Link<'_>,
    context: &Context<'a>,
    new_id: &mut dyn FnMut() -> Id,
) -> Result<Event<'a>, Reject> {
    let mut fields = Fields::default();
    for (name, value) in link.values() {
        if let (Name::Known(key), Some(value)) = (Name::of(name), value) {
            fields.put_known(key, value);
        }
    }
    Ok(fields.take_event(PING_EVENT, 0, context, new_id)?)
}
