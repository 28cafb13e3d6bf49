//! Whose page it is: the host name in a page's address.

use std::borrow::Cow;

/// The host name of an absolute URL (<https://www.rfc-editor.org/rfc/rfc3986#section-3.2>) as it stands there,
/// without user and port, an IPv6 address in its brackets. Empty for whatever has none: `null`, `about:blank`,
/// a path.
pub(crate) fn host(url: &str) -> &str {
    let Some((scheme, rest)) = url.split_once(':') else { return "" };
    let Some(rest) = rest.strip_prefix("//") else { return "" };
    if scheme.is_empty() || !scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte)) {
        return "";
    }
    // browsers take a backslash for a slash
    let authority = rest.split(['/', '?', '#', '\\']).next().unwrap_or_default();
    let place = authority.rsplit_once('@').map_or(authority, |(_user, place)| place);
    match place.strip_prefix('[') {
        Some(address) => address.find(']').map_or("", |end| &place[..end + 2]),
        None => place.split(':').next().unwrap_or_default(),
    }
}

/// A site's name as it is kept and compared: in lower case.
pub fn site_name(name: &str) -> Cow<'_, str> {
    if name.bytes().any(|byte| byte.is_ascii_uppercase() || !byte.is_ascii()) {
        Cow::Owned(name.to_lowercase())
    } else {
        Cow::Borrowed(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_host_stands_between_user_and_port() {
        for (url, expected) in [
            ("https://shop.example/a?b=c#d", "shop.example"),
            ("http://Shop.Example:8080", "Shop.Example"),
            ("https://me:secret@shop.example:443/", "shop.example"),
            ("https://a@b@shop.example/", "shop.example"),
            ("http://[::1]:3000/x", "[::1]"),
            ("http://u@[2001:db8::1]", "[2001:db8::1]"),
            ("https://shop.example?q=http://other/", "shop.example"),
            ("https://shop.example#@other", "shop.example"),
            ("http://shop.example\\@other/", "shop.example"),
            ("android-app://com.example.app/", "com.example.app"),
        ] {
            assert_eq!(host(url), expected, "{url}");
        }
    }

    #[test]
    fn what_has_no_host_has_an_empty_one() {
        for url in [
            "",
            "null",
            "about:blank",
            "/a/b",
            "://x",
            "file:///etc",
            "http://[::1",
            "http://:80/",
            "/go?to=https://x/",
        ] {
            assert_eq!(host(url), "", "{url}");
        }
    }

    #[test]
    fn a_site_is_in_lower_case_and_copied_only_if_it_was_not() {
        assert_eq!(site_name("Shop.EXAMPLE"), "shop.example");
        assert_eq!(site_name("BÜCHER.example"), "bücher.example");
        assert!(matches!(site_name("shop.example"), Cow::Borrowed(_)));
    }

    proptest! {
        #[test]
        fn a_host_has_no_delimiter_whatever_the_text(url in "\\PC*") {
            prop_assert!(!host(&url).contains(['/', '?', '#', '@']));
        }
    }
}
