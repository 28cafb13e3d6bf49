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

use std::iter::Enumerate;
use std::slice::Split;

use serde_json::value::RawValue;
use simdutf8::basic::from_utf8;

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

    /// How many of them for each reason, of the reasons that there were.
    pub fn by_reason(&self) -> impl Iterator<Item = (Refusal, u64)> {
        // of nearly all bodies nothing is refused
        let refused = if self.first.is_some() { &self.refused[..] } else { &[] };
        Refusal::ALL.into_iter().zip(refused.iter().copied()).filter(|(_, events)| *events > 0)
    }

    /// Of a body with nothing in it, where that is no event.
    pub fn blank() -> Self {
        let mut judged = Self::default();
        judged.refuse(1, Detail::NoEvents.into());
        judged
    }

    fn refuse(&mut self, events: usize, reject: Reject) {
        self.refused[reject.reason().index()] += events as u64;
        self.first.get_or_insert(reject);
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
    let mut entries = Entries::of(*body);
    entries.judge(Piece::ALL, context, new_id, sink);
    entries.judged
}

/// How many events a body has: as many as [`from_body`] would judge, at a small part of its cost.
pub fn count(body: &Body<'_>) -> u64 {
    Entries::of(*body).len()
}

/// The events of a body, to be judged piece by piece: [`from_body`] does all of it at once.
pub struct Entries<'a> {
    body: Body<'a>,
    len: usize,
    /// How many were judged or given up.
    next: usize,
    rest: Rest<'a>,
    /// What the event says that is read, if the body is one object from the beginning.
    fields: Fields<'a>,
    judged: Judged,
}

/// What is yet to be judged.
enum Rest<'a> {
    Nothing,
    Object(Result<(), Detail>),
    Ping,
    Query,
    Array(std::vec::IntoIter<&'a RawValue>),
    Lines(Lines<'a>),
}

/// Lines, with where they stand.
type Lines<'a> = Enumerate<Split<'a, u8, fn(&u8) -> bool>>;

/// How much is judged at a time: until one of them is reached.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    /// Events.
    pub events: usize,
    /// Bytes of them.
    pub bytes: usize,
}

impl Piece {
    /// Everything.
    pub const ALL: Self = Self { events: usize::MAX, bytes: usize::MAX };
}

impl<'a> Entries<'a> {
    /// Looks what kind of body this is and counts its events.
    pub fn of(body: Body<'a>) -> Self {
        let bytes = trim(body.bytes);
        // filled in where it is: it is large
        let mut entries =
            Self { body, len: 1, next: 0, rest: Rest::Nothing, fields: Fields::default(), judged: Judged::default() };
        if let Err(detail) = entries.look(bytes) {
            entries.end(Err(detail.into()));
        }
        entries
    }

    /// The same for `bytes`, those of the body, trimmed.
    ///
    /// # Errors
    /// If all of it is refused.
    fn look(&mut self, bytes: &'a [u8]) -> Result<(), Detail> {
        self.rest = match Kind::of(&self.body, bytes, &mut self.fields) {
            Kind::Multipart => return Err(Detail::Multipart),
            Kind::Object(read) => Rest::Object(read),
            Kind::Ping => Rest::Ping,
            Kind::Query => Rest::Query,
            Kind::Array => {
                let found = array(bytes)?;
                if found.is_empty() {
                    return Err(Detail::NoEvents);
                }
                self.len = found.len();
                Rest::Array(found.into_iter())
            }
            Kind::Lines => {
                self.len = lines_of(bytes).filter(is_line).count();
                Rest::Lines(lines_of(bytes))
            }
        };
        if self.len > MAX_EVENTS { Err(Detail::TooMany { events: self.len }) } else { Ok(()) }
    }

    /// The body.
    pub fn body(&self) -> &Body<'a> {
        &self.body
    }

    /// How many events there are.
    #[expect(clippy::len_without_is_empty, reason = "no body is without an event")]
    pub fn len(&self) -> u64 {
        self.len as u64
    }

    /// Judges some more, as [`from_body`] says. Whether there is anything left.
    pub fn judge(
        &mut self,
        piece: Piece,
        context: &Context<'_>,
        new_id: &mut dyn FnMut() -> Id,
        sink: &mut dyn FnMut(&Event<'_>) -> Result<(), Detail>,
    ) -> bool {
        let body = self.body;
        let url = Some(body.query).filter(|query| !query.is_empty()).map(|query| Fields::of_query(query.as_bytes()));
        let mut out = Out { url: url.as_ref(), context, new_id, sink };
        let one = match &mut self.rest {
            Rest::Array(_) | Rest::Lines(_) => return self.judge_some(piece, &mut out),
            rest => std::mem::replace(rest, Rest::Nothing),
        };
        let mut fields = std::mem::take(&mut self.fields);
        let one = match one {
            Rest::Nothing | Rest::Array(_) | Rest::Lines(_) => return false,
            Rest::Object(read) => read.and_then(|()| out.give(&mut fields, DEFAULT_EVENT, 0)),
            Rest::Query => {
                fields = Fields::of_query(trim(body.bytes));
                out.give(&mut fields, DEFAULT_EVENT, 0)
            }
            Rest::Ping => {
                fields.put_known(Key::Page, body.ping_from);
                fields.put_known(Key::Target, body.ping_to);
                out.give(&mut fields, PING_EVENT, 0)
            }
        };
        self.end(one.map_err(Reject::from))
    }

    fn judge_some(&mut self, piece: Piece, out: &mut Out<'_, '_>) -> bool {
        let (mut events, mut bytes) = (0, 0);
        while events < piece.events && bytes < piece.bytes {
            match &mut self.rest {
                Rest::Array(entries) => {
                    let Some(entry) = entries.next() else {
                        return self.end(Ok(()));
                    };
                    let mut fields = Fields::default();
                    let read = object::read(entry.get(), &mut fields);
                    let given = read.and_then(|()| out.give(&mut fields, DEFAULT_EVENT, self.next));
                    if let Err(detail) = given {
                        let reject = Reject { place: Place::Entry(self.next + 1), detail };
                        return self.end(Err(reject));
                    }
                    bytes += entry.get().len();
                }
                Rest::Lines(lines) => {
                    let Some((index, line)) = lines.by_ref().map(trim_line).find(is_line) else {
                        self.rest = Rest::Nothing;
                        return false;
                    };
                    let mut fields = Fields::default();
                    let read = read_line(line, &mut fields);
                    match read.and_then(|()| out.give(&mut fields, DEFAULT_EVENT, self.next)) {
                        Ok(()) => self.judged.taken += 1,
                        Err(detail) => self.judged.refuse(1, Reject { place: Place::Line(index + 1), detail }),
                    }
                    bytes += line.len();
                }
                _ => return false,
            }
            events += 1;
            self.next += 1;
        }
        // an array is judged when its end is reached
        self.next < self.len || matches!(self.rest, Rest::Array(_))
    }

    /// All of it is taken or refused: nothing is left of it.
    fn end(&mut self, result: Result<(), Reject>) -> bool {
        match result {
            Ok(()) => self.judged.taken = self.len as u64,
            Err(reject) => self.judged.refuse(self.len, reject),
        }
        (self.next, self.rest) = (self.len, Rest::Nothing);
        false
    }

    /// How the body was judged, when nothing is left of it.
    pub fn into_judged(self) -> Judged {
        self.judged
    }
}

/// What a body is, see above.
enum Kind {
    Multipart,
    Array,
    /// It was read, since only whoever has read all of it knows that it is one.
    Object(Result<(), Detail>),
    Ping,
    Query,
    Lines,
}

impl Kind {
    /// `bytes` are those of the body, trimmed. What an object says is put into the fields; otherwise they say nothing.
    fn of<'a>(body: &Body<'a>, bytes: &'a [u8], fields: &mut Fields<'a>) -> Self {
        let media_type = match body.content_type {
            // datagrams have none
            "" => "",
            some => some.split(';').next().unwrap_or_default().trim_ascii(),
        };
        if media_type.get(..10).is_some_and(|start| start.eq_ignore_ascii_case("multipart/")) {
            return Self::Multipart;
        }
        if bytes.first() == Some(&b'{') {
            let read = read_object(bytes, fields);
            // what is wrong may be that it is no object: the first line of many, or something that only begins like one
            if !matches!(read, Err(Detail::Json { .. } | Detail::NotUtf8)) || is_json(bytes) {
                return Self::Object(read);
            }
            *fields = Fields::default();
        }
        match bytes.first() {
            Some(b'[') => Self::Array,
            _ if media_type.eq_ignore_ascii_case("text/ping") => Self::Ping,
            None => Self::Query,
            _ if media_type.eq_ignore_ascii_case("application/x-www-form-urlencoded") => Self::Query,
            _ => Self::Lines,
        }
    }
}

fn read_object<'a>(bytes: &'a [u8], fields: &mut Fields<'a>) -> Result<(), Detail> {
    object::read(from_utf8(bytes).map_err(|_| Detail::NotUtf8)?, fields)
}

/// Whether it is JSON and nothing else, but for bytes that are not UTF-8: those must not make lines of a whole object.
fn is_json(bytes: &[u8]) -> bool {
    serde_json::from_str::<&RawValue>(&String::from_utf8_lossy(bytes)).is_ok()
}

/// Where the events go, and what is the same for all of them.
struct Out<'a, 's> {
    /// What the URL says, if anything.
    url: Option<&'a Fields<'a>>,
    context: &'a Context<'a>,
    new_id: &'s mut dyn FnMut() -> Id,
    sink: &'s mut dyn FnMut(&Event<'_>) -> Result<(), Detail>,
}

impl<'a> Out<'a, '_> {
    /// `place` is where it stands among the body's entries, which are no more than [`MAX_EVENTS`].
    fn give<'e>(&mut self, fields: &mut Fields<'e>, name: &'e str, place: usize) -> Result<(), Detail>
    where
        'a: 'e,
    {
        if let Some(url) = self.url {
            fields.add_missing(url);
        }
        let place = u16::try_from(place).unwrap_or(u16::MAX);
        // looked at where it is made: it is large
        match fields.take_event(name, place, self.context, self.new_id) {
            Ok(ref event) => (self.sink)(event),
            Err(detail) => Err(detail),
        }
    }
}

fn array(bytes: &[u8]) -> Result<Vec<&RawValue>, Detail> {
    let text = from_utf8(bytes).map_err(|_| Detail::NotUtf8)?;
    serde_json::from_str(text).map_err(|error| Detail::Json { error })
}

/// All lines, with where they stand.
fn lines_of(bytes: &[u8]) -> Lines<'_> {
    let is_end: fn(&u8) -> bool = |byte| *byte == b'\n';
    bytes.split(is_end).enumerate()
}

fn trim_line((index, line): (usize, &[u8])) -> (usize, &[u8]) {
    (index, line.trim_ascii())
}

/// Blank ones are none.
fn is_line((_, line): &(usize, &[u8])) -> bool {
    !line.trim_ascii().is_empty()
}

fn read_line<'a>(line: &'a [u8], fields: &mut Fields<'a>) -> Result<(), Detail> {
    match line.first() {
        Some(b'{') => return read_object(line, fields),
        _ if line.contains(&b'=') => *fields = Fields::of_query(line),
        _ => return Err(Detail::NotALine),
    }
    Ok(())
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
