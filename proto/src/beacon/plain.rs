//! JSON objects as nearly all beacons are, read in one pass: strings without escapes, numbers, `true`, `false` and `null`.
//!
//! Whatever else one may be, rare or wrong, is left to serde_json, which knows all of JSON and says what is wrong. The
//! rule: **what is read here is read as it would be there**: `what_is_read_here_serde_json_reads_alike`.
//!
//! Grammar: <https://www.rfc-editor.org/rfc/rfc8259>.

use std::borrow::Cow;

use memchr::memchr2;

use super::fields::{Fields, Name};

/// Reads an object and nothing behind it, or leaves it to others: then the fields say anything.
pub(super) fn read<'a>(text: &'a str, fields: &mut Fields<'a>) -> Option<()> {
    // where there is none in all of it, none needs to be looked for in each string
    let has_control = text.bytes().fold(u8::MAX, u8::min) < b' ';
    let mut rest = Rest { text, has_control };
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
struct Rest<'a> {
    text: &'a str,
    /// Whether a control character may be in it.
    has_control: bool,
}

impl<'a> Rest<'a> {
    fn first(&self) -> Option<u8> {
        self.text.as_bytes().first().copied()
    }

    #[inline]
    fn skip_space(&mut self) {
        if self.first().is_some_and(|byte| byte <= b' ') {
            self.text = self.text.trim_start_matches([' ', '\n', '\r', '\t']);
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
        self.text.is_empty().then_some(())
    }

    #[inline]
    fn string(&mut self) -> Option<&'a str> {
        self.take(b'"')?;
        let len = memchr2(b'"', b'\\', self.text.as_bytes())?;
        let text = self.part(len);
        if self.first() != Some(b'"') || self.has_control && text.bytes().any(|byte| byte < b' ') {
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
            b'n' if self.text.starts_with("null") => {
                self.part(4);
                Some(None)
            }
            b't' if self.text.starts_with("true") => Some(Some(self.part(4))),
            b'f' if self.text.starts_with("false") => Some(Some(self.part(5))),
            b'-' | b'0'..=b'9' => Some(Some(self.part(number_len(self.text.as_bytes())?))),
            _ => None,
        }
    }

    /// What comes next, up to a byte of ASCII or the end.
    #[inline]
    fn part(&mut self, len: usize) -> &'a str {
        let (part, rest) = self.text.split_at(len);
        self.text = rest;
        part
    }
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
    fn a_string_with_a_byte_that_is_not_plain_is_left_to_others_wherever_it_stands() {
        for len in 0..40 {
            let plain: String = (0..len).map(|n| [' ', '!', '#', '[', ']', '\u{7f}', 'é', '日'][n % 8]).collect();
            // as it is sent, and as people write it
            for (begin, end) in [("{\"a\":\"", "\"}"), ("{\n\t\"a\": \"", "\"\n}")] {
                assert!(is_read(&format!("{begin}{plain}{end}")), "{plain}");
                for byte in (0..b' ').chain([b'"', b'\\']) {
                    let other = char::from(byte);
                    for text in [format!("{other}{plain}"), format!("{plain}{other}"), format!("{plain}{other}{plain}")]
                    {
                        assert!(!is_read(&format!("{begin}{text}{end}")), "{text:?}");
                    }
                }
            }
        }
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
