//! Bodies of POST requests and plain datagrams: what kind one is, and the events in it.
//!
//! | after leading white space | kind | judged |
//! | --- | --- | --- |
//! | starts with `[` | a JSON array of objects | whole |
//! | is one JSON object | that | whole |
//! | `application/x-www-form-urlencoded` | one query string | whole |
//! | `text/ping` | an `<a ping>`: what counts stands in its headers | whole |
//! | nothing | one event made of the URL's parameters | whole |
//! | anything else | lines, blank ones skipped | one by one |
//!
//! The content type decides nothing about JSON, because a page without preflight can send only three of them.

use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use crate::event::{Event, Id};
use crate::reason::Refusal;

use super::fault::{Detail, Place, Reject};
use super::fields::{Fields, Key};
use super::{Context, DEFAULT_EVENT, MAX_EVENTS, PING_EVENT, object};

/// A body and what its request says about it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Body<'a> {
    /// The header `Content-Type`, or empty.
    pub content_type: &'a str,
    /// The URL's query, defaults for each event.
    pub query: &'a str,
    /// The header `Ping-From`, or empty.
    pub ping_from: &'a str,
    /// The header `Ping-To`, or empty.
    pub ping_to: &'a str,
    /// The body itself, decompressed.
    pub bytes: &'a [u8],
}

/// How a body was judged. `taken` and `refused` together are what was received.
#[derive(Debug, Default)]
pub struct Judged {
    /// Events that the sink was given and took. If 0, whatever the sink was given does not count.
    pub taken: u64,
    /// Events refused, by [`Refusal`].
    pub refused: [u64; Refusal::ALL.len()],
    /// The first refusal.
    pub first: Option<Reject>,
}

impl Judged {
    /// All events refused, whatever for.
    pub fn refused(&self) -> u64 {
        self.refused.iter().sum()
    }

    /// Of a body with nothing in it, where that is no event.
    pub fn blank() -> Self {
        Self::whole(1, Err(Detail::NoEvents.into()))
    }

    fn refuse(&mut self, events: usize, reject: Reject) {
        self.refused[reject.reason().index()] += events as u64;
        self.first.get_or_insert(reject);
    }

    fn whole(events: usize, result: Result<(), Reject>) -> Self {
        let mut judged = Self::default();
        match result {
            Ok(()) => judged.taken = events as u64,
            Err(reject) => judged.refuse(events, reject),
        }
        judged
    }
}

/// Reads a body and gives its events to the sink, in order, which may refuse them for reasons of its own.
///
/// What is judged whole is given out while it is read: **if nothing is taken in the end, the caller drops what
/// its sink was given.** A body that cannot be read at all counts as one event refused.
pub fn from_body(
    body: &Body<'_>,
    context: &Context<'_>,
    new_id: &mut dyn FnMut() -> Id,
    sink: &mut dyn FnMut(&Event<'_>) -> Result<(), Detail>,
) -> Judged {
    let url = Fields::of_query(body.query.as_bytes());
    let mut out = Out { url: &url, context, new_id, sink };
    let bytes = trim(body.bytes);
    let one = match Kind::of(body, bytes) {
        Kind::Multipart => Err(Detail::Multipart),
        Kind::Array => return array(bytes, &mut out),
        Kind::Object => whole_object(bytes, &mut out),
        Kind::Ping => {
            let mut fields = Fields::default();
            fields.put_known(Key::Page, body.ping_from);
            fields.put_known(Key::Target, body.ping_to);
            out.give(fields, PING_EVENT, 0)
        }
        Kind::Query => out.give(Fields::of_query(bytes), DEFAULT_EVENT, 0),
        Kind::Lines => return lines(bytes, &mut out),
    };
    Judged::whole(1, one.map_err(Reject::from))
}

/// How many events a body has: as many as [`from_body`] would judge, at a small part of its cost.
pub fn count(body: &Body<'_>) -> u64 {
    let bytes = trim(body.bytes);
    let events = match Kind::of(body, bytes) {
        Kind::Multipart | Kind::Object | Kind::Ping | Kind::Query => 1,
        Kind::Array => {
            let text = str::from_utf8(bytes).unwrap_or_default();
            serde_json::from_str::<Vec<IgnoredAny>>(text).map_or(1, |entries| entries.len().max(1))
        }
        Kind::Lines => lines_of(bytes).count(),
    };
    events as u64
}

/// What a body is, see above.
enum Kind {
    Multipart,
    Array,
    Object,
    Ping,
    Query,
    Lines,
}

impl Kind {
    /// `bytes` are those of the body, trimmed.
    fn of(body: &Body<'_>, bytes: &[u8]) -> Self {
        let media_type = body.content_type.split(';').next().unwrap_or_default().trim_ascii();
        if media_type.get(..10).is_some_and(|start| start.eq_ignore_ascii_case("multipart/")) {
            return Self::Multipart;
        }
        // lossy: a bad byte must not make lines of a whole object
        let is_json = || serde_json::from_str::<&RawValue>(&String::from_utf8_lossy(bytes)).is_ok();
        match bytes.first() {
            Some(b'[') => Self::Array,
            Some(b'{') if is_json() => Self::Object,
            _ if media_type.eq_ignore_ascii_case("text/ping") => Self::Ping,
            None => Self::Query,
            _ if media_type.eq_ignore_ascii_case("application/x-www-form-urlencoded") => Self::Query,
            _ => Self::Lines,
        }
    }
}

/// Where the events go, and what is the same for all of them.
struct Out<'a, 's> {
    url: &'a Fields<'a>,
    context: &'a Context<'a>,
    new_id: &'s mut dyn FnMut() -> Id,
    sink: &'s mut dyn FnMut(&Event<'_>) -> Result<(), Detail>,
}

impl<'a> Out<'a, '_> {
    /// `place` is where it stands among the body's entries, which are no more than [`MAX_EVENTS`].
    fn give<'e>(&mut self, mut fields: Fields<'e>, name: &'e str, place: usize) -> Result<(), Detail>
    where
        'a: 'e,
    {
        fields.add_missing(self.url);
        let place = u16::try_from(place).unwrap_or(u16::MAX);
        let event = fields.into_event(name, place, self.context, self.new_id)?;
        (self.sink)(&event)
    }
}

fn whole_object(bytes: &[u8], out: &mut Out<'_, '_>) -> Result<(), Detail> {
    let text = str::from_utf8(bytes).map_err(|_| Detail::NotUtf8)?;
    out.give(object::fields(text)?, DEFAULT_EVENT, 0)
}

fn array(bytes: &[u8], out: &mut Out<'_, '_>) -> Judged {
    let text = str::from_utf8(bytes).map_err(|_| Detail::NotUtf8);
    let entries = text.and_then(|text| serde_json::from_str(text).map_err(|error| Detail::Json { error }));
    let entries: Vec<&RawValue> = match entries {
        Ok(entries) => entries,
        Err(detail) => return Judged::whole(1, Err(detail.into())),
    };
    match entries.len() {
        0 => return Judged::whole(1, Err(Detail::NoEvents.into())),
        events if events > MAX_EVENTS => return Judged::whole(events, Err(Detail::TooMany { events }.into())),
        _ => {}
    }
    let bad = entries.iter().enumerate().find_map(|(index, entry)| {
        let given = object::fields(entry.get()).and_then(|fields| out.give(fields, DEFAULT_EVENT, index));
        given.err().map(|detail| Reject { place: Place::Entry(index + 1), detail })
    });
    Judged::whole(entries.len(), bad.map_or(Ok(()), Err))
}

fn lines(bytes: &[u8], out: &mut Out<'_, '_>) -> Judged {
    let lines = lines_of(bytes);
    let events = lines.clone().count();
    if events > MAX_EVENTS {
        return Judged::whole(events, Err(Detail::TooMany { events }.into()));
    }
    let mut judged = Judged::default();
    for (place, (index, line)) in lines.enumerate() {
        match line_fields(line).and_then(|fields| out.give(fields, DEFAULT_EVENT, place)) {
            Ok(()) => judged.taken += 1,
            Err(detail) => judged.refuse(1, Reject { place: Place::Line(index + 1), detail }),
        }
    }
    judged
}

/// Those that are not blank, with where they stand.
fn lines_of(bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> + Clone {
    let numbered = bytes.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).enumerate();
    numbered.filter(|(_, line)| !line.is_empty())
}

fn line_fields(line: &[u8]) -> Result<Fields<'_>, Detail> {
    match line.first() {
        Some(b'{') => object::fields(str::from_utf8(line).map_err(|_| Detail::NotUtf8)?),
        _ if line.contains(&b'=') => Ok(Fields::of_query(line)),
        _ => Err(Detail::NotALine),
    }
}

/// Whether a body has nothing in it. Of a POST that is an event all the same, made of the URL's parameters.
pub fn is_blank(bytes: &[u8]) -> bool {
    trim(bytes).is_empty()
}

/// Without white space at both ends and a byte order mark.
fn trim(bytes: &[u8]) -> &[u8] {
    let bytes = bytes.trim_ascii();
    bytes.strip_prefix(b"\xEF\xBB\xBF").map_or(bytes, <[u8]>::trim_ascii)
}
