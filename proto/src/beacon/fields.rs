//! What a beacon says, key by key, before it is checked; and the check that makes an event of it.
//!
//! This is the one place that knows what every key means and what stands for it if it is missing.

use std::borrow::Cow;
use std::mem::take;

use uuid::Uuid;

use crate::event::{Event, Id, MAX_EVENT_BYTES, Origin};

use super::fault::Detail;
use super::page::{host, site_name};
use super::props::Props;
use super::{Context, number, query};

/// Declares the keys that have a meaning.
macro_rules! keys {
    ($($key:ident = $name:literal,)*) => {
        /// A key that has a meaning.
        #[derive(Clone, Copy)]
        pub(super) enum Key { $($key,)* }

        impl Key {
            const NAMES: [&'static str; [$($name),*].len()] = [$($name),*];

            /// As it stands in a beacon.
            pub(super) const fn name(self) -> &'static str {
                Self::NAMES[self as usize]
            }
        }

        impl Name {
            /// What a key is.
            pub(super) fn of(key: &str) -> Self {
                match key {
                    $($name => Self::Known(Key::$key),)*
                    "debug" => Self::Debug,
                    "" | "ack" | "key" | "sig" => Self::Ignored,
                    _ => Self::Property,
                }
            }
        }
    };
}

keys! {
    Site = "site",
    Event = "event",
    Target = "target",
    Page = "page",
    Item = "item",
    Placement = "placement",
    Visitor = "visitor",
    Value = "value",
    Id = "id",
    Age = "age",
    Lost = "lost",
    Ua = "ua",
}

/// What a key is.
pub(super) enum Name {
    /// It has a meaning.
    Known(Key),
    /// It is kept as it is.
    Property,
    /// It says that the event is only to be shown.
    Debug,
    /// It is for the door, or empty.
    Ignored,
}

/// The fixed part of a record, the lengths of its strings included, is never larger.
const FIXED_BYTES: usize = 512;

/// What a property takes in a record beside its two texts, at most.
const PROP_BYTES: usize = 8;

/// The texts of one event. An empty one is missing.
#[derive(Default)]
#[cfg_attr(test, derive(Debug, PartialEq))]
pub(super) struct Fields<'a> {
    known: [Cow<'a, str>; Key::NAMES.len()],
    props: Props<'a>,
    wants_debug: bool,
}

impl<'a> Fields<'a> {
    /// Reads a form, or whatever else looks like a query string.
    pub(super) fn of_query(query: &'a [u8]) -> Self {
        query::pairs(query).collect()
    }

    /// Reads the query string of a URL.
    pub(super) fn of_text(query: &'a str) -> Self {
        query::pairs_of_text(query).collect()
    }

    /// Sets what a key says; the last time counts. No text: it is missing.
    pub(super) fn put(&mut self, name: Name, key: Cow<'a, str>, text: Option<Cow<'a, str>>) {
        match name {
            Name::Known(key) => self.known[key as usize] = text.unwrap_or_default(),
            Name::Property => self.props.set(key, text),
            Name::Debug => self.wants_debug = text.is_some_and(|text| text == "1"),
            Name::Ignored => {}
        }
    }

    /// Whether it is only to be shown.
    pub(super) fn wants_debug(&self) -> bool {
        self.wants_debug
    }

    /// Sets what one key says, unless that is nothing.
    pub(super) fn put_known(&mut self, key: Key, text: &'a str) {
        if !text.is_empty() {
            self.known[key as usize] = Cow::Borrowed(text);
        }
    }

    /// Takes from `defaults` what is missing here.
    pub(super) fn add_missing(&mut self, defaults: &'a Fields<'_>) {
        for (text, default) in self.known.iter_mut().zip(&defaults.known) {
            if text.is_empty() {
                *text = Cow::Borrowed(default);
            }
        }
        self.props.add_missing(&defaults.props);
    }

    /// Checks them and makes the event, which takes its texts away. `name` is its name if it says none, `place` its place in
    /// the body.
    pub(super) fn take_event(
        &mut self,
        name: &'a str,
        place: u16,
        context: &Context<'a>,
        new_id: &mut dyn FnMut() -> Id,
    ) -> Result<Event<'a>, Detail> {
        let [site, event, target, page, item, placement, visitor, value, id, age, lost, ua] = &mut self.known;
        let page = or(take(page), context.referer);
        let origin = context.number.map(|number| Origin { number, place, is_last: false });
        let event = Event {
            received_at: context.received_at,
            age_ms: if age.is_empty() { 0 } else { number::age(age)? },
            front: context.front,
            site: site_of(take(site), &page, context.origin),
            event: or(take(event), name),
            target: take(target),
            page,
            item: take(item),
            placement: take(placement),
            visitor: if context.private { Cow::Borrowed("") } else { take(visitor) },
            user_agent: or(take(ua), context.user_agent),
            ip: context.ip.filter(|_| !context.private),
            value: if value.is_empty() { None } else { Some(number::value(value)?) },
            lost: if lost.is_empty() { 0 } else { number::lost(lost)? },
            origin,
            props: take(&mut self.props).into_list(),
            id: match (id_of(id)?, context.number) {
                (Some(uuid), _) => Id { uuid, made_here: false },
                // its copies get the same one
                (None, Some(number)) => Id { uuid: number.event_id(place), made_here: false },
                (None, None) => new_id(),
            },
        };
        if text_bytes(&event) + FIXED_BYTES > MAX_EVENT_BYTES {
            return Err(Detail::TooLarge);
        }
        Ok(event)
    }
}

impl<'a> FromIterator<(Cow<'a, str>, Cow<'a, str>)> for Fields<'a> {
    fn from_iter<I: IntoIterator<Item = (Cow<'a, str>, Cow<'a, str>)>>(pairs: I) -> Self {
        let mut fields = Self::default();
        for (key, text) in pairs {
            fields.put(Name::of(&key), key, Some(text));
        }
        fields
    }
}

fn or<'a>(text: Cow<'a, str>, default: &'a str) -> Cow<'a, str> {
    if text.is_empty() { Cow::Borrowed(default) } else { text }
}

/// Whose site: what the beacon says, else the host of its page, else of its origin.
fn site_of<'a>(site: Cow<'a, str>, page: &Cow<'a, str>, origin: &'a str) -> Cow<'a, str> {
    if !site.is_empty() {
        return borrow(&site, site_name);
    }
    match borrow(page, |page| site_name(host(page))) {
        site if site.is_empty() => site_name(host(origin)),
        site => site,
    }
}

/// What `read` makes of a text, borrowed where the text is.
fn borrow<'a>(text: &Cow<'a, str>, read: impl for<'t> Fn(&'t str) -> Cow<'t, str>) -> Cow<'a, str> {
    match text {
        Cow::Borrowed(text) => read(text),
        Cow::Owned(text) => Cow::Owned(read(text).into_owned()),
    }
}

/// The id, if there is one. Nil is none.
fn id_of(text: &str) -> Result<Option<Uuid>, Detail> {
    if text.is_empty() {
        return Ok(None);
    }
    let id = Uuid::try_parse(text).map_err(|_| Detail::Id)?;
    Ok(Some(id).filter(|id| !id.is_nil()))
}

/// What the event's texts take in a record, at most.
fn text_bytes(event: &Event<'_>) -> usize {
    let Event { site, event: name, target, page, item, placement, visitor, user_agent, props, .. } = event;
    let texts = [site, name, target, page, item, placement, visitor, user_agent];
    let props = props.iter().map(|(key, text)| key.len() + text.len() + PROP_BYTES);
    texts.iter().map(|text| text.len()).chain(props).sum()
}
