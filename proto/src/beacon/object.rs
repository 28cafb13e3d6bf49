//! JSON objects, each one event. Numbers are never computed with here: their text is kept.
//!
//! | JSON | key with a meaning | property |
//! | --- | --- | --- |
//! | string, number, `true`, `false` | its text | its text |
//! | `null` | missing | missing |
//! | object, array | refused | its JSON text without white space |
//!
//! A lone surrogate in a string, which `JSON.stringify` writes where a page cut a text in the middle of an
//! emoji, becomes U+FFFD as it would in a query string.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer as _, MapAccess, Visitor};
use serde_json::Deserializer;
use serde_json::value::RawValue;

use super::fault::Detail;
use super::fields::{Fields, Name};
use super::plain;

/// Reads one JSON object and nothing behind it, into fields that say nothing yet. After an error they say anything.
pub(super) fn read<'a>(text: &'a str, fields: &mut Fields<'a>) -> Result<(), Detail> {
    if !text.starts_with('{') {
        return Err(Detail::NotAnObject);
    }
    if plain::read(text, fields).is_some() {
        return Ok(());
    }
    *fields = Fields::default();
    let mut fault = None;
    let mut json = Deserializer::from_str(text);
    let read = json.deserialize_map(Members { fields, fault: &mut fault }).and_then(|()| json.end());
    read.map_err(|error| Detail::Json { error })?;
    fault.map_or(Ok(()), Err)
}

/// Puts the members of an object where they belong.
struct Members<'f, 'a> {
    fields: &'f mut Fields<'a>,
    /// The first member that cannot be taken. The rest is still read: what is not JSON is said first.
    fault: &'f mut Option<Detail>,
}

impl<'a> Visitor<'a> for Members<'_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<M: MapAccess<'a>>(self, mut members: M) -> Result<(), M::Error> {
        while let Some(key) = members.next_key_seed(Text)? {
            let raw: &'a RawValue = members.next_value()?;
            if let Err(detail) = put(self.fields, key, raw.get()) {
                self.fault.get_or_insert(detail);
            }
        }
        Ok(())
    }
}

fn put<'a>(fields: &mut Fields<'a>, key: Cow<'a, str>, raw: &'a str) -> Result<(), Detail> {
    let name = Name::of(&key);
    let text = match raw.as_bytes().first() {
        Some(b'"') => Some(unquote(raw)?),
        Some(b'n') => None,
        Some(b'{' | b'[') => match name {
            Name::Known(key) => return Err(Detail::NotPlain { key: key.name() }),
            Name::Property | Name::Debug | Name::Ignored => Some(compact(raw)),
        },
        _ => Some(Cow::Borrowed(raw)),
    };
    fields.put(name, key, text);
    Ok(())
}

/// The text of a JSON string.
fn unquote(raw: &str) -> Result<Cow<'_, str>, Detail> {
    match raw.get(1..raw.len() - 1) {
        Some(inner) if !inner.contains('\\') => Ok(Cow::Borrowed(inner)),
        _ => Deserializer::from_str(raw).deserialize_bytes(Text).map_err(|error| Detail::Json { error }),
    }
}

/// JSON text without the white space between its parts.
fn compact(raw: &str) -> Cow<'_, str> {
    if !raw.contains([' ', '\n', '\r', '\t']) {
        return Cow::Borrowed(raw);
    }
    let (mut in_string, mut escaped) = (false, false);
    let kept = raw.chars().filter(|c| {
        let is_space = !in_string && c.is_ascii_whitespace();
        in_string ^= *c == '"' && !escaped;
        escaped = *c == '\\' && !escaped;
        !is_space
    });
    Cow::Owned(kept.collect())
}

/// A JSON string, borrowed where it has no escapes.
struct Text;

impl<'a> DeserializeSeed<'a> for Text {
    type Value = Cow<'a, str>;

    fn deserialize<D: serde::Deserializer<'a>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'a> Visitor<'a> for Text {
    type Value = Cow<'a, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_borrowed_str<E>(self, text: &'a str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(text.to_owned()))
    }

    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Self::Value, E> {
        Ok(Cow::Owned(String::from_utf8_lossy(bytes).into_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_white_space_between_the_parts_is_left_out() {
        let raw = "{ \"a b\" : [ 1.50 ,\n\t\"x\\\" y\\\\\" , { } ] }";
        assert_eq!(compact(raw), r#"{"a b":[1.50,"x\" y\\",{}]}"#);
        assert!(matches!(compact(r#"[1,"a"]"#), Cow::Borrowed(_)));
    }

    #[test]
    fn a_string_is_copied_only_for_its_escapes() {
        assert!(matches!(unquote("\"plain é\""), Ok(Cow::Borrowed("plain é"))));
        assert_eq!(unquote(r#""a\u00e9\n\ud83d\ude00""#).expect("a string"), "aé\n😀");
        assert_eq!(unquote(r#""""#).expect("a string"), "");
    }

    #[test]
    fn half_an_emoji_does_not_cost_the_event() {
        let text = unquote(r#""a\ud83d""#).expect("a string");
        assert!(text.starts_with('a') && text.ends_with('\u{fffd}'), "{text}");
    }

    fn fields(text: &str) -> Result<Fields<'_>, Detail> {
        let mut fields = Fields::default();
        read(text, &mut fields).map(|()| fields)
    }

    #[test]
    fn deep_nesting_is_no_danger() {
        let deep = format!(r#"{{"a":{}1{}}}"#, "[".repeat(200_000), "]".repeat(200_000));
        assert!(fields(&deep).is_ok());
        assert!(matches!(fields(&deep[..deep.len() - 2]), Err(Detail::Json { .. })));
    }

    proptest! {
        #[test]
        fn compact_json_says_the_same(keys in proptest::collection::vec("\\PC{0,8}", 0..5), number: u32) {
            let members = keys.into_iter().map(|key| (key.clone(), serde_json::json!([number, key, null])));
            let json = serde_json::Value::Object(members.collect());
            let pretty = serde_json::to_string_pretty(&json).expect("JSON");
            prop_assert_eq!(compact(&pretty), serde_json::to_string(&json).expect("JSON"));
        }
    }
}
