//! JSON objects as nearly all beacons are, read in one pass: strings without escapes, numbers, `true`, `false` and `null`.
//!
//! Whatever else one may be, rare or wrong, is left to serde_json, which knows all of JSON and says what is wrong. The
//! rule: **what is read here is read as it would be there**: `what_is_read_here_serde_json_reads_alike`.
//!
//! Grammar: <https://www.rfc-editor.org/rfc/rfc8259>.

use std::borrow::Cow;

use super::fields::{Fields, Name};

/// Reads an object and nothing behind it, or leaves it to others: then the fields say anything.
pub(super) fn read<'a>(text: &'a str, fields: &mut Fields<'a>) -> Option<()> {
    let mut rest = Rest(text);
    rest.take(b'{')?;
    if rest.next_is(b'}') {
        return rest.end();
    }
    loop {
        let key = rest.string()?;
        rest.take(b':')?;
        let value = rest.value()?;
        fields.put(Name::of(key), Cow::Borrowed(key), value.map(Cow::Borrowed));
        if !rest.next_is(b',') {
            rest.take(b'}')?;
            return rest.end();
        }
    }
}

/// What is yet to be read of a text. Each part is read with the white space before it.
struct Rest<'a>(&'a str);

impl<'a> Rest<'a> {
    fn first(&self) -> Option<u8> {
        self.0.as_bytes().first().copied()
    }

    #[inline]
    fn skip_space(&mut self) {
        if self.first().is_some_and(|byte| byte <= b' ') {
            self.0 = self.0.trim_start_matches([' ', '\n', '\r', '\t']);
        }
    }

    /// Takes this byte of ASCII, if it comes next.
    #[inline]
    fn next_is(&mut self, byte: u8) -> bool {
        self.skip_space();
        let is_next = self.first() == Some(byte);
        if is_next {
            self.part(1);
        }
        is_next
    }

    #[inline]
    fn take(&mut self, byte: u8) -> Option<()> {
        self.next_is(byte).then_some(())
    }

    fn end(&mut self) -> Option<()> {
        self.skip_space();
        self.0.is_empty().then_some(())
    }

    fn string(&mut self) -> Option<&'a str> {
        self.take(b'"')?;
        let text = self.part(plain_len(self.0.as_bytes()));
        if self.first() != Some(b'"') {
            return None;
        }
        self.part(1);
        Some(text)
    }

    /// The text of a value; of `null` there is none.
    fn value(&mut self) -> Option<Option<&'a str>> {
        self.skip_space();
        match self.first()? {
            b'"' => self.string().map(Some),
            b'n' if self.0.starts_with("null") => {
                self.part(4);
                Some(None)
            }
            b't' if self.0.starts_with("true") => Some(Some(self.part(4))),
            b'f' if self.0.starts_with("false") => Some(Some(self.part(5))),
            b'-' | b'0'..=b'9' => Some(Some(self.part(number_len(self.0.as_bytes())?))),
            _ => None,
        }
    }

    /// What comes next, up to a byte of ASCII or the end.
    #[inline]
    fn part(&mut self, len: usize) -> &'a str {
        let (part, rest) = self.0.split_at(len);
        self.0 = rest;
        part
    }
}

/// One in each byte of a word.
const ONES: u64 = u64::MAX / 0xff;

/// How many bytes stand before the first quote, backslash or control character.
///
/// Eight of them are looked at together, by the test for a zero byte of <https://graphics.stanford.edu/~seander/bithacks.html>:
/// what it says of bytes behind the first hit may be wrong, and is not used.
fn plain_len(bytes: &[u8]) -> usize {
    let each = |byte: u8| ONES * u64::from(byte);
    let is_zero = |word: u64| word.wrapping_sub(ONES) & !word;
    let (words, few) = bytes.as_chunks::<8>();
    for (n, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let is_control = word.wrapping_sub(each(b' ')) & !word;
        let found = (is_zero(word ^ each(b'"')) | is_zero(word ^ each(b'\\')) | is_control) & each(1 << 7);
        if found != 0 {
            return n * 8 + found.trailing_zeros() as usize / 8;
        }
    }
    let is_plain = |byte: &&u8| **byte >= b' ' && !matches!(byte, b'"' | b'\\');
    bytes.len() - few.len() + few.iter().take_while(is_plain).count()
}

/// The length of the number that begins here.
fn number_len(bytes: &[u8]) -> Option<usize> {
    let digits =
        |at: usize| bytes.get(at..).unwrap_or_default().iter().take_while(|byte| byte.is_ascii_digit()).count();
    let some = |at: usize| Some(digits(at)).filter(|count| *count > 0);
    let mut at = usize::from(bytes.first() == Some(&b'-'));
    at += if bytes.get(at) == Some(&b'0') { 1 } else { some(at)? };
    if bytes.get(at) == Some(&b'.') {
        at += 1 + some(at + 1)?;
    }
    if let Some(b'e' | b'E') = bytes.get(at) {
        let sign = usize::from(matches!(bytes.get(at + 1), Some(b'+' | b'-')));
        at += 1 + sign + some(at + 1 + sign)?;
    }
    Some(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::value::RawValue;

    fn is_read(text: &str) -> bool {
        read(text, &mut Fields::default()).is_some()
    }

    #[test]
    fn a_beacon_is_read_here() {
        assert!(is_read(r#"{}"#));
        assert!(is_read(" { } "));
        assert!(is_read(
            "{\"site\" : \"bücher.example\",\n\t\"value\":-12.50e+3 , \"a\":null,\"b\":true,\"c\":false,\"d\":0,\"e\":\"\"}\r\n"
        ));
    }

    #[test]
    fn what_is_rare_or_wrong_is_left_to_others() {
        for text in [
            "",
            "{",
            "{\"",
            "{\"a\"",
            "{\"a\":",
            "{\"a\":1",
            "{\"a\":1,",
            "{\"a\":1,}",
            "{\"a\":1}}",
            "{\"a\":1}{}",
            "{,}",
            "{\"a\" 1}",
            "{\"a\":01}",
            "{\"a\":-}",
            "{\"a\":1.}",
            "{\"a\":.5}",
            "{\"a\":1e}",
            "{\"a\":1e+}",
            "{\"a\":+1}",
            "{\"a\":nul}",
            "{\"a\":truely}",
            "{\"a\":{}}",
            "{\"a\":[]}",
            "{\"a\":\"\\n\"}",
            "{\"\\u0061\":1}",
            "{\"a\":\"\u{1f}\"}",
            "{a:1}",
            "[1]",
            "{\"a\":NaN}",
        ] {
            assert!(!is_read(text), "{text}");
        }
    }

    #[test]
    fn a_string_ends_at_the_first_byte_that_is_not_plain() {
        for len in 0..40 {
            for byte in (0..=u8::MAX).filter(|byte| *byte < b' ' || matches!(byte, b'"' | b'\\')) {
                let mut bytes: Vec<u8> =
                    (0..len).map(|n| [b' ', b'!', b'#', b'[', b']', 0x7f, 0x80, 0xff][n % 8]).collect();
                bytes.push(byte);
                bytes.extend_from_slice(b"\"\"\\\0abcdefgh");
                assert_eq!(plain_len(&bytes), len, "{byte}");
            }
        }
        assert_eq!(plain_len(b"no end of it"), 12);
    }

    /// JSON objects, and texts that are nearly some.
    fn texts() -> impl Strategy<Value = String> {
        let part = prop::sample::select(vec![
            "{", "}", ":", ",", "\"", "\"a\"", "\"site\"", "\"é\"", "1", "0", "-", ".", "e", "+", "true", "null", "\\",
            " ", "\n", "[", "]", "\u{1}",
        ]);
        let member = r#" ?"(a|site|value|debug|é)" ?: ?("[a-zé !]{0,20}"|-?[0-9]{1,3}(\.[0-9]{1,2})?([eE][+-]?[0-9])?|true|false|null|\{\}|"\\n") ?"#;
        let object = prop::collection::vec(member, 0..5).prop_map(|members| format!("{{{}}}", members.join(",")));
        prop_oneof![object, prop::collection::vec(part, 0..12).prop_map(|parts| format!("{{{}}}", parts.concat()))]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn what_is_read_here_serde_json_reads_alike(text in texts()) {
            let mut fields = Fields::default();
            if read(&text, &mut fields).is_some() {
                let mut others = Fields::default();
                let members = members(&text).expect("it is JSON");
                for (key, raw) in &members {
                    let text = match raw.get() {
                        "null" => None,
                        text => Some(text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text)),
                    };
                    others.put(Name::of(key), Cow::Borrowed(key), text.map(Cow::Borrowed));
                }
                prop_assert_eq!(fields, others);
            }
        }
    }

    /// The members of an object in their order, repeated ones, too.
    fn members(text: &str) -> serde_json::Result<Vec<(String, Box<RawValue>)>> {
        struct Members;
        impl<'a> serde::de::Visitor<'a> for Members {
            type Value = Vec<(String, Box<RawValue>)>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: serde::de::MapAccess<'a>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(members)
            }
        }
        let mut json = serde_json::Deserializer::from_str(text);
        let members = serde::Deserializer::deserialize_map(&mut json, Members)?;
        json.end().map(|()| members)
    }
}
