//! What whoever builds a page would like to know about a beacon that is taken all the same (`debug=1`).

use std::collections::HashSet;

use crate::event::Event;

use super::fields::Name;
use super::{Context, number, parameter, query};

/// Something that is probably not meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Warning {
    /// Nothing says whose site it is.
    #[error("site is empty: neither site, page, Referer nor Origin names a host")]
    NoSite,
    /// A retry would count again.
    #[error("id is missing: the same event sent again would count again")]
    NoId,
    /// The value had more decimals than are kept.
    #[error("value is rounded to 6 decimals")]
    Rounded,
    /// The age was beyond its limits.
    #[error("age is cut to 0 to 7 days")]
    AgeCut,
    /// The visitor's wish.
    #[error("the browser asks for privacy: visitor and address are not kept")]
    Private,
    /// A key that came more than once.
    #[error("{key} is given more than once: the last one counts")]
    Repeated {
        /// Which.
        key: Box<str>,
    },
    /// A property whose name is that of a key with a meaning, in another case.
    #[error("{key} is kept as a property: keys with a meaning are in lower case")]
    WrongCase {
        /// Which.
        key: Box<str>,
    },
    /// Bytes that are not UTF-8 were replaced.
    #[error("{key} has characters that cannot be read: U+FFFD stands for them")]
    NotUtf8 {
        /// Where.
        key: Box<str>,
    },
}

/// What is odd about the event that [`super::from_query`] made of this query, each thing once.
pub fn warnings(query: &str, context: &Context<'_>, event: &Event<'_>) -> Vec<Warning> {
    let checks = [
        (event.site.is_empty(), Warning::NoSite),
        (event.id.made_here, Warning::NoId),
        (parameter(query, "value").is_some_and(|text| number::is_rounded(&text)), Warning::Rounded),
        (parameter(query, "age").is_some_and(|text| number::is_age_cut(&text)), Warning::AgeCut),
        (context.private, Warning::Private),
    ];
    let mut found: Vec<_> = checks.into_iter().filter_map(|(is_odd, warning)| is_odd.then_some(warning)).collect();
    let (mut keys, mut repeated) = (HashSet::new(), HashSet::new());
    for (key, text) in query::pairs(query.as_bytes()) {
        let is_known = |key: &str| matches!(Name::of(key), Name::Known(_));
        if key.contains('\u{fffd}') || text.contains('\u{fffd}') {
            found.push(Warning::NotUtf8 { key: Box::from(&*key) });
        }
        if !is_known(&key) && is_known(&key.to_lowercase()) {
            found.push(Warning::WrongCase { key: Box::from(&*key) });
        }
        if !keys.insert(key.clone()) && repeated.insert(key.clone()) {
            found.push(Warning::Repeated { key: Box::from(&*key) });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::tests::{context, new_id};
    use super::*;

    fn of(query: &str, context: &Context<'_>) -> Vec<String> {
        let event = super::super::from_query(query, context, &mut new_id).expect("an event");
        warnings(query, context, &event).iter().map(Warning::to_string).collect()
    }

    #[test]
    fn a_good_beacon_has_no_warning() {
        let query = "site=shop&id=01920000-0000-7000-8000-000000000001&value=1.500000&age=5.25&color=red";
        assert_eq!(of(query, &context()), [""; 0]);
    }

    #[test]
    fn everything_odd_is_said() {
        let query = "value=0.0000001&age=-1&Item=4&color=a&color=b&color=c&name=%ff";
        let expected = [
            Warning::NoSite,
            Warning::NoId,
            Warning::Rounded,
            Warning::AgeCut,
            Warning::Private,
            Warning::WrongCase { key: "Item".into() },
            Warning::Repeated { key: "color".into() },
            Warning::NotUtf8 { key: "name".into() },
        ];
        let context = Context { private: true, referer: "", origin: "", ..context() };
        assert_eq!(of(query, &context), expected.map(|warning| warning.to_string()));
    }
}
