//! Text in pages.

use std::borrow::Cow;

/// Text that is text wherever it stands in HTML.
pub(super) fn escaped(text: &str) -> Cow<'_, str> {
    let is_special = |character: char| matches!(character, '&' | '<' | '>' | '"' | '\'') || character.is_control();
    if !text.contains(is_special) {
        return Cow::Borrowed(text);
    }
    let mut html = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        match character {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            character if character.is_control() => html.push(char::REPLACEMENT_CHARACTER),
            character => html.push(character),
        }
    }
    Cow::Owned(html)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_in_html_stays_text() {
        let text = "\"><script>alert('1 & 2')</script>\0\r\né";
        let expected = "&quot;&gt;&lt;script&gt;alert(&#39;1 &amp; 2&#39;)&lt;/script&gt;\u{fffd}\u{fffd}\u{fffd}é";
        assert_eq!(escaped(text), expected);
    }
}
