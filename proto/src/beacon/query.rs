//! Query strings: `key=value&…` as browsers write them
//! (<https://url.spec.whatwg.org/#urlencoded-parsing>). Bytes that are not UTF-8 become U+FFFD.
//!
//! Nothing is copied unless a `%`, a `+` or a bad byte is in it.

use std::borrow::Cow;
use std::ops::Range;

use memchr::{memchr2, memchr3_iter};
use simdutf8::basic::from_utf8;

/// The pairs of a query string, decoded, in order. A piece without `=` has an empty value.
pub(crate) fn pairs(query: &[u8]) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
    // looked at once and not piece by piece: most queries are text
    pairs_of(query, from_utf8(query).ok())
}

/// The same of what is known to be text.
pub(crate) fn pairs_of_text(query: &str) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
    pairs_of(query.as_bytes(), Some(query))
}

fn pairs_of<'a>(query: &'a [u8], text: Option<&'a str>) -> impl Iterator<Item = (Cow<'a, str>, Cow<'a, str>)> {
    pieces(query).map(move |Piece { range: Range { start, end }, escape }| {
        let decode = |range: Range<usize>| match text {
            Some(text) if range.end <= escape => Cow::Borrowed(&text[range]),
            _ => decode(&query[range]),
        };
        match query[start..end].iter().position(|byte| *byte == b'=') {
            Some(at) => (decode(start..start + at), decode(start + at + 1..end)),
            None => (decode(start..end), Cow::Borrowed("")),
        }
    })
}

/// The last value of one parameter, for what is no part of an event (`ack`, `debug`). Only keys are looked at: most
/// queries have none of these.
pub fn parameter<'a>(query: &'a str, name: &str) -> Option<Cow<'a, str>> {
    let mut last = None;
    for Piece { range, escape } in pieces(query.as_bytes()) {
        let has_escape = escape < range.end;
        let text = &query.as_bytes()[range];
        if !has_escape && !text.starts_with(name.as_bytes()) {
            continue;
        }
        let key_len = text.iter().position(|byte| *byte == b'=').unwrap_or(text.len());
        if decode(&text[..key_len]) == name {
            last = text.get(key_len + 1..).or(Some(&[]));
        }
    }
    last.map(decode)
}

/// What stands between two `&`.
struct Piece {
    range: Range<usize>,
    /// Where the first `%` or `+` in it is; its end, if there is none.
    escape: usize,
}

/// The pieces that are not empty.
fn pieces(query: &[u8]) -> impl Iterator<Item = Piece> {
    let mut marks = memchr3_iter(b'&', b'%', b'+', query).chain([query.len()]);
    let (mut start, mut escape) = (0, None);
    std::iter::from_fn(move || {
        loop {
            let at = marks.next()?;
            if query.get(at).is_some_and(|byte| *byte != b'&') {
                escape = escape.or(Some(at));
                continue;
            }
            let piece = Piece { range: start..at, escape: escape.take().unwrap_or(at) };
            start = at + 1;
            if !piece.range.is_empty() {
                return Some(piece);
            }
        }
    })
}

fn decode(text: &[u8]) -> Cow<'_, str> {
    let Some(first) = memchr2(b'%', b'+', text) else {
        // asked first because it is faster where the answer is yes
        return from_utf8(text).map_or_else(|_| String::from_utf8_lossy(text), Cow::Borrowed);
    };
    // what is decoded is not longer
    let mut decoded = text.to_vec();
    let (mut from, mut to) = (first, first);
    while from < text.len() {
        // between escapes there are mostly a few bytes, which are not worth a search
        if let Some(eight) = text[from..].first_chunk() {
            decoded[to..to + EIGHT].copy_from_slice(eight);
            let plain = plain_len(u64::from_le_bytes(*eight));
            from += plain;
            to += plain;
            if plain == EIGHT {
                continue;
            }
        }
        let (byte, len) = match (text[from], text[from..].get(1..3)) {
            (b'+', _) => (b' ', 1),
            (b'%', Some(&[high, low])) => match (hex(high), hex(low)) {
                (Some(high), Some(low)) => (high << 4 | low, 3),
                _ => (b'%', 1),
            },
            (byte, _) => (byte, 1),
        };
        decoded[to] = byte;
        from += len;
        to += 1;
    }
    decoded.truncate(to);
    Cow::Owned(
        String::from_utf8(decoded).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()),
    )
}

/// Bytes that are looked at at a time.
const EIGHT: usize = size_of::<u64>();

/// How many of eight bytes stand before the first `%` or `+`. A byte is zero where subtracting one from it borrows
/// (<https://graphics.stanford.edu/~seander/bithacks.html#ZeroInWord>): wrong at most behind one that is.
fn plain_len(eight: u64) -> usize {
    const ONES: u64 = u64::from_ne_bytes([1; EIGHT]);
    let zeros = |word: u64| word.wrapping_sub(ONES) & !word & (ONES << 7);
    let marks = zeros(eight ^ (ONES * b'%' as u64)) | zeros(eight ^ (ONES * b'+' as u64));
    marks.trailing_zeros() as usize / 8
}

/// The value of a hexadecimal digit.
fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
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
        fn long_texts_between_escapes_are_read_as_the_standard_says(query in "((%2F|\\+|%|&|=)?[$-,a-c]{0,20}){0,8}") {
            prop_assert!(pairs(query.as_bytes()).eq(form_urlencoded::parse(query.as_bytes())));
        }

        #[test]
        fn any_likely_text_is_read_as_the_standard_says(query in "([a-c=&+é]|%[0-9a-fA-F]{0,2}|%(C3%A9|FF|F0%9F)){0,30}") {
            prop_assert!(pairs(query.as_bytes()).eq(form_urlencoded::parse(query.as_bytes())));
        }
    }
}
