//! Query strings: `key=value&…` as browsers write them
//! (<https://url.spec.whatwg.org/#urlencoded-parsing>). Bytes that are not UTF-8 become U+FFFD.
//!
//! Nothing is copied unless a `%`, a `+` or a bad byte is in it.

use std::borrow::Cow;

use percent_encoding::percent_decode;

/// The pairs of a query string, decoded, in order. A piece without `=` has an empty value.
pub(crate) fn pairs(query: &[u8]) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
    query.split(|byte| *byte == b'&').filter(|piece| !piece.is_empty()).map(|piece| {
        match piece.iter().position(|byte| *byte == b'=') {
            Some(at) => (decode(&piece[..at]), decode(&piece[at + 1..])),
            None => (decode(piece), Cow::Borrowed("")),
        }
    })
}

/// The last value of one parameter, for what is no part of an event (`ack`, `debug`).
pub fn parameter<'a>(query: &'a str, name: &str) -> Option<Cow<'a, str>> {
    pairs(query.as_bytes()).filter(|(key, _)| key == name).last().map(|(_, value)| value)
}

fn decode(text: &[u8]) -> Cow<'_, str> {
    if !text.iter().any(|byte| matches!(byte, b'%' | b'+')) {
        // asked first because it is faster where the answer is yes
        return str::from_utf8(text).map_or_else(|_| String::from_utf8_lossy(text), Cow::Borrowed);
    }
    let spaced: Vec<u8> = text.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect();
    let decoded: Vec<u8> = percent_decode(&spaced).collect();
    Cow::Owned(
        String::from_utf8(decoded).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn plain_text_is_borrowed() {
        for (key, value) in pairs(b"event=click&item=42") {
            assert!(matches!((key, value), (Cow::Borrowed(_), Cow::Borrowed(_))));
        }
    }

    #[test]
    fn a_parameter_is_found_by_its_decoded_name_and_the_last_one_stands() {
        assert_eq!(parameter("ack=logged&%61ck=syn%63ed&debug", "ack").as_deref(), Some("synced"));
        assert_eq!(parameter("ack=logged&debug", "debug").as_deref(), Some(""));
        assert_eq!(parameter("acks=1", "ack"), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_as_the_standard_says(query: Vec<u8>) {
            prop_assert!(pairs(&query).eq(form_urlencoded::parse(&query)));
        }

        #[test]
        fn any_likely_text_is_read_as_the_standard_says(query in "([a-c=&+é]|%[0-9a-fA-F]{0,2}|%(C3%A9|FF|F0%9F)){0,30}") {
            prop_assert!(pairs(query.as_bytes()).eq(form_urlencoded::parse(query.as_bytes())));
        }
    }
}
