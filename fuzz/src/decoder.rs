//! Query strings and bodies of every kind, with the headers that count.
//!
//! | bytes | |
//! | --- | --- |
//! | 0 | how it comes: 0 a query, else a body, and which content type it has |
//! | 1 | flags: 1 private, 2 in a numbered datagram, 4 headers, 8 the URL has a query, 16 sites are listed |
//! | … | each text that the flags announce, and a zero behind it |
//! | … | the query or body |

use std::borrow::Cow;
use std::cell::Cell;

use serde::de::IgnoredAny;
use serde_json::Value;
use tallylight_proto::beacon::{Body, Context, Detail, Judged, MAX_EVENTS, from_body, from_query, parameter, warnings};
use tallylight_proto::datagram::{Number, SourceId};
use tallylight_proto::{Event, Front};

use crate::sample::{bare, check_event, ids, is_ignored, is_known, take_text};

const PRIVATE: u8 = 1;
const NUMBERED: u8 = 2;
const HEADERS: u8 = 4;
const URL_QUERY: u8 = 8;
const LISTED: u8 = 16;

const CONTENT_TYPES: [&str; 8] = [
    "application/x-www-form-urlencoded",
    "application/json",
    "text/plain;charset=UTF-8",
    "text/ping",
    "",
    "Application/X-WWW-Form-Urlencoded ; charset=utf-8",
    "multipart/form-data; boundary=x",
    "application/x-ndjson",
];

/// Bytes of beacons → events. Every entry is taken or refused, and what is taken is within the contract's bounds and
/// reads back from its record; query strings say what the WHATWG's algorithm says, JSON what serde's values say.
pub fn decoder(bytes: &[u8]) {
    let [kind, flags, rest @ ..] = bytes else { return };
    let mut rest = rest;
    let mut text = |flag| if flags & flag == 0 { Cow::Borrowed("") } else { take_text(&mut rest) };
    let (referer, origin, user_agent) = (text(HEADERS), text(HEADERS), text(HEADERS));
    let (url_query, ping_from, ping_to) = (text(URL_QUERY), text(URL_QUERY), text(URL_QUERY));
    let source = SourceId { key: None, source: 7 };
    let number = (flags & NUMBERED != 0).then_some(Number { source, sequence: 1 });
    let front = if number.is_some() { Front::Udp } else { Front::Http1 };
    let context = Context {
        referer: &referer,
        origin: &origin,
        user_agent: &user_agent,
        private: flags & PRIVATE != 0,
        ..bare(front, number)
    };
    match usize::from(*kind).checked_sub(1) {
        None => query(&String::from_utf8_lossy(rest), &context),
        Some(content_type) => {
            let content_type = CONTENT_TYPES[content_type % CONTENT_TYPES.len()];
            let body = Body { content_type, query: &url_query, ping_from: &ping_from, ping_to: &ping_to, bytes: rest };
            judge(&body, &context, flags & LISTED != 0);
        }
    }
}

fn query(query: &str, context: &Context<'_>) {
    let pairs: Vec<_> = form_urlencoded::parse(query.as_bytes()).collect();
    let last = |key: &str| pairs.iter().rev().find(|(name, _)| name == key).map(|(_, value)| &**value);
    for key in ["ack", "debug", "event"] {
        assert_eq!(parameter(query, key).as_deref(), last(key));
    }
    let event = match from_query(query, context, &mut ids()) {
        Ok(event) => event,
        Err(reject) => return check_line(&reject.to_string()),
    };
    check_event(&event, context);
    let or_none = |key| last(key).unwrap_or_default();
    assert_eq!((&*event.target, &*event.item), (or_none("target"), or_none("item")));
    assert_eq!(&*event.placement, or_none("placement"));
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in &pairs {
        if !is_known(name) && !is_ignored(name) && !names.contains(&&**name) {
            names.push(name);
        }
        if names.len() > 64 {
            // enough: the rest would take the square of the time
            return;
        }
    }
    let props: Vec<_> = names.into_iter().map(|name| (name, or_none(name))).collect();
    assert!(event.props.iter().map(|(name, value)| (&**name, &**value)).eq(props.iter().copied()), "{props:?}");
    // what odd things it says is for people
    let _ = warnings(query, context, &event);
}

fn judge(body: &Body<'_>, context: &Context<'_>, are_sites_listed: bool) {
    let (given, kept) = (Cell::new(0), Cell::new(0));
    let mut places = Vec::new();
    let mut items = Vec::new();
    let mut sink = |event: &Event<'_>| {
        given.set(given.get() + 1);
        check_event(event, context);
        if let Some(origin) = event.origin {
            assert_eq!(Some(origin.number), context.number);
            places.push(origin.place);
        }
        if are_sites_listed && !event.site.starts_with('s') {
            return Err(Detail::Site);
        }
        items.push(event.item.to_string());
        kept.set(kept.get() + 1);
        Ok(())
    };
    let judged = from_body(body, context, &mut ids(), &mut sink);
    check_judged(&judged, body, given.get(), kept.get());
    assert!(places.is_sorted_by(|a, b| a < b), "no two events have one place: {places:?}");
    assert!(places.iter().all(|place| usize::from(*place) < MAX_EVENTS), "{places:?}");
    if let (1, [item]) = (judged.taken, &items[..]) {
        check_json(body, item);
    }
}

fn check_judged(judged: &Judged, body: &Body<'_>, given: u64, kept: u64) {
    let (entries, is_whole) = entries(body);
    assert_eq!(judged.taken + judged.refused(), entries, "{judged:?} of {entries}");
    assert!(judged.taken <= MAX_EVENTS as u64 && given <= MAX_EVENTS as u64);
    assert_eq!(judged.first.is_some(), judged.refused() > 0, "{judged:?}");
    if let Some(first) = &judged.first {
        assert!(judged.refused[first.reason().index()] > 0, "{judged:?}");
        check_line(&first.to_string());
    }
    // what is not taken as a whole may have been given out in part
    assert!(judged.taken == kept || is_whole && judged.taken == 0, "{judged:?}, {kept} kept");
    assert!(!is_whole || judged.taken == 0 || judged.refused() == 0, "{judged:?}");
}

/// How many entries a body has, and whether they are judged together.
fn entries(body: &Body<'_>) -> (u64, bool) {
    let media_type = body.content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let bytes = body.bytes.trim_ascii();
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes).trim_ascii();
    let is_json = |text: &str| serde_json::from_str::<IgnoredAny>(text).is_ok();
    if media_type.starts_with("multipart/") {
        return (1, true);
    }
    if bytes.starts_with(b"[") {
        let entries = str::from_utf8(bytes).ok().and_then(|text| serde_json::from_str::<Vec<IgnoredAny>>(text).ok());
        return (entries.map_or(1, |entries| entries.len().max(1) as u64), true);
    }
    let is_object = bytes.starts_with(b"{") && is_json(&String::from_utf8_lossy(bytes));
    let is_one = ["text/ping", "application/x-www-form-urlencoded"].contains(&&*media_type) || bytes.is_empty();
    if is_object || is_one {
        return (1, true);
    }
    let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty()).count();
    (lines as u64, lines > MAX_EVENTS)
}

/// The one object that a body is says `item` as any reader of JSON sees it.
fn check_json(body: &Body<'_>, item: &str) {
    let Ok(Value::Object(object)) = serde_json::from_slice(body.bytes) else { return };
    if let Some(Value::String(text)) = object.get("item")
        && !text.is_empty()
    {
        assert_eq!(item, text);
    }
}

/// What a sender is told is one line.
fn check_line(line: &str) {
    assert!(!line.is_empty() && !line.contains(|c: char| c.is_control()), "{line:?}");
}
