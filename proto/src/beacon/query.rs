//! Query strings: `key=value&…` as browsers write them
//! (<https://url.spec.whatwg.org/#urlencoded-parsing>). Bytes that are not UTF-8 become U+FFFD.
//!
//! Nothing of a text is copied unless a `%` or a `+` is in it.

use std::borrow::Cow;
use std::ops::Range;

use percent_encoding::percent_decode;
use simdutf8::basic::from_utf8;
use wide::u8x16;

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
    pieces(query).map(move |Piece { range: Range { start, end }, equals, escape }| {
        let decode = |range: Range<usize>| match text {
            Some(text) if range.end <= escape => Cow::Borrowed(&text[range]),
            Some(text) => decode_text(&text[range]),
            // one bad byte does not make all others bad
            None => from_utf8(&query[range.clone()]).map_or_else(|_| decode(&query[range]), decode_text),
        };
        match equals {
            Some(at) => (decode(start..at), decode(at + 1..end)),
            None => (decode(start..end), Cow::Borrowed("")),
        }
    })
}

/// The last value of one parameter, for what is no part of an event (`ack`, `debug`). Only keys are looked at: most
/// queries have none of these.
pub fn parameter<'a>(query: &'a str, name: &str) -> Option<Cow<'a, str>> {
    let mut last = None;
    for Piece { range, equals, escape } in pieces(query.as_bytes()) {
        let end = equals.unwrap_or(range.end);
        let key = &query[range.start..end];
        let is_it = if escape < end { decode_text(key) == name } else { key == name };
        if is_it {
            last = Some(equals.map_or("", |at| &query[at + 1..range.end]));
        }
    }
    last.map(decode_text)
}

/// What stands between two `&`.
struct Piece {
    range: Range<usize>,
    /// Where the first `=` in it is.
    equals: Option<usize>,
    /// Where the first `%` or `+` in it is; its end, if there is none.
    escape: usize,
}

/// The pieces that are not empty.
fn pieces(query: &[u8]) -> impl Iterator<Item = Piece> {
    let mut marks = Marks::of(query);
    let mut start = 0;
    std::iter::from_fn(move || {
        while start <= query.len() {
            let (begin, mut equals, mut escape) = (start, None, None);
            let end = loop {
                let Some(at) = marks.next() else { break query.len() };
                match query[at] {
                    b'&' => break at,
                    b'=' => equals = equals.or(Some(at)),
                    _ => escape = escape.or(Some(at)),
                }
            };
            start = end + 1;
            if begin < end {
                return Some(Piece { range: begin..end, equals, escape: escape.unwrap_or(end) });
            }
        }
        None
    })
}

/// Decodes what is text, of which most escapes stand for ASCII: then it is text before and behind them, too.
fn decode_text(text: &str) -> Cow<'_, str> {
    let bytes = text.as_bytes();
    let (mut decoded, mut from) = (String::new(), 0);
    for at in Marks::of(bytes) {
        let (byte, len) = match bytes[at..] {
            [b'+', ..] => (b' ', 1),
            [b'%', high, low, ..] => match (hex(high), hex(low)) {
                (Some(high), Some(low)) => (high << 4 | low, 3),
                _ => continue,
            },
            _ => continue,
        };
        if !byte.is_ascii() {
            return decode(bytes);
        }
        if from == 0 {
            // what is decoded is not longer
            decoded.reserve(text.len());
        }
        decoded.push_str(&text[from..at]);
        decoded.push(char::from(byte));
        from = at + len;
    }
    if from == 0 {
        return Cow::Borrowed(text);
    }
    decoded.push_str(&text[from..]);
    Cow::Owned(decoded)
}

/// Decodes any bytes, of which escapes may make characters together.
fn decode(bytes: &[u8]) -> Cow<'_, str> {
    let spaced: Vec<u8> = bytes.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect();
    Cow::Owned(percent_decode(&spaced).decode_utf8_lossy().into_owned())
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

/// Bytes that are looked at at a time.
const BLOCK: usize = 16;

/// Where each `&`, `=`, `%` and `+` is, in order. There is one in each ten bytes, so that a search for the next one, as memchr has it,
/// is begun too often.
struct Marks<'a> {
    bytes: &'a [u8],
    /// Where the block ends that is looked at.
    end: usize,
    /// Those in it that are left.
    bits: u32,
}

impl<'a> Marks<'a> {
    fn of(bytes: &'a [u8]) -> Self {
        Self { bytes, end: 0, bits: 0 }
    }
}

impl Iterator for Marks<'_> {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        while self.bits == 0 {
            let rest = self.bytes.get(self.end..).filter(|rest| !rest.is_empty())?;
            self.bits = match rest.first_chunk() {
                Some(block) => marks_in(block),
                None => {
                    let mut block = [0; BLOCK];
                    block[..rest.len()].copy_from_slice(rest);
                    marks_in(&block)
                }
            };
            self.end += BLOCK;
        }
        let at = self.end - BLOCK + self.bits.trailing_zeros() as usize;
        self.bits &= self.bits - 1;
        Some(at)
    }
}

/// A bit for each byte, the lowest for the first one.
fn marks_in(block: &[u8; BLOCK]) -> u32 {
    let block = u8x16::new(*block);
    let [and, equals, percent, plus] = [b'&', b'=', b'%', b'+'].map(|mark| block.simd_eq(u8x16::splat(mark)));
    (and | equals | percent | plus).to_bitmask()
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
        assert_eq!(parameter("+=space&%2b=plus", "+").as_deref(), Some("plus"));
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
