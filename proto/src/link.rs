//! Signed links: what a link through the collector says, so that nobody else can make one.
//!
//! | parameter | what |
//! | --- | --- |
//! | `site`, `event`, `target`, `item`, `placement`, `visitor` | what the link says; any of them may be absent |
//! | `key` | the id of the key that it is signed with |
//! | `sig` | base64url (RFC 4648, section 5), without padding, of HMAC-SHA-256 over the signed bytes |
//!
//! The signed bytes are `name=value\n` for each of the six that is there, decoded, in that order. Where a name comes
//! more than once the first counts; all other parameters are as if they were not there.
//!
//! The rule kept here: no two links sign the same bytes, and only what was signed is believed. A value with a control
//! character, a line feed above all, could end one line and begin another; one with U+FFFD may have been any bytes
//! that are not UTF-8. Neither is signed, nor verified.

use std::borrow::Cow;
use std::fmt::Write;

use base64ct::{Base64UrlUnpadded, Encoding};
use percent_encoding::{AsciiSet, CONTROLS, NON_ALPHANUMERIC, utf8_percent_encode};
use thiserror::Error;

use crate::beacon::{host, pairs};
use crate::keys::{Key, Keys};

/// What is escaped in a query: all but the unreserved characters of RFC 3986.
const IN_QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// What is escaped of a target: what cannot stand in a header, and what the header would lose at its ends. All that is
/// not ASCII is, too.
const IN_LOCATION: &AsciiSet = &CONTROLS.add(b' ');
/// The length of a signature, in characters.
const SIG_LEN: usize = 43;

/// What a link says, as text. `None` is not the same as an empty text: only what is there is signed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link<'a> {
    /// Whose site.
    pub site: Option<Cow<'a, str>>,
    /// The event's name.
    pub event: Option<Cow<'a, str>>,
    /// Where it leads.
    pub target: Option<Cow<'a, str>>,
    /// What was recommended.
    pub item: Option<Cow<'a, str>>,
    /// Where it stood.
    pub placement: Option<Cow<'a, str>>,
    /// Whose link it is.
    pub visitor: Option<Cow<'a, str>>,
}

/// A value that no signature can stand for.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("{name} has a control character or U+FFFD in it")]
pub struct Unsignable {
    /// Which one.
    pub name: &'static str,
}

impl<'a> Link<'a> {
    /// What it says, by name, in the order in which it is signed.
    pub fn values(&self) -> [(&'static str, Option<&str>); 6] {
        let Self { site, event, target, item, placement, visitor } = self;
        [
            ("site", site.as_deref()),
            ("event", event.as_deref()),
            ("target", target.as_deref()),
            ("item", item.as_deref()),
            ("placement", placement.as_deref()),
            ("visitor", visitor.as_deref()),
        ]
    }

    /// Where the value of this name is kept.
    fn value_mut(&mut self, name: &str) -> Option<&mut Option<Cow<'a, str>>> {
        Some(match name {
            "site" => &mut self.site,
            "event" => &mut self.event,
            "target" => &mut self.target,
            "item" => &mut self.item,
            "placement" => &mut self.placement,
            "visitor" => &mut self.visitor,
            _ => return None,
        })
    }

    /// What a signature is made over.
    ///
    /// # Errors
    /// If something else could sign the same.
    pub fn signed_bytes(&self) -> Result<Vec<u8>, Unsignable> {
        let mut bytes = Vec::new();
        for (name, value) in self.present() {
            if value.contains(|c: char| c.is_control() || c == char::REPLACEMENT_CHARACTER) {
                return Err(Unsignable { name });
            }
            for part in [name, "=", value, "\n"] {
                bytes.extend_from_slice(part.as_bytes());
            }
        }
        Ok(bytes)
    }

    /// The query of the link that says this, signed.
    ///
    /// # Errors
    /// If a value cannot be signed.
    pub fn to_query(&self, key: &Key) -> Result<String, Unsignable> {
        let tag = key.sign(&self.signed_bytes()?);
        let mut sig = [0; SIG_LEN];
        let sig = Base64UrlUnpadded::encode(&tag, &mut sig).expect("32 bytes are 43 characters");
        let mut query = String::new();
        for (name, value) in self.present() {
            // writing to a String does not fail
            let _ = write!(query, "{name}={}&", utf8_percent_encode(value, IN_QUERY));
        }
        let _ = write!(query, "key={}&sig={sig}", key.id());
        Ok(query)
    }

    /// Where it leads, as a `Location` says it. `None`: not to a web page.
    pub fn location(&self) -> Option<String> {
        location(self.target.as_deref()?)
    }

    fn present(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.values().into_iter().filter_map(|(name, value)| Some((name, value?)))
    }
}

/// An http or https address as it can stand in a `Location`, all of it visible ASCII: escaped where it has to be, and
/// otherwise as it is. `None`: it is no such address, it has no host, or a control character.
pub fn location(target: &str) -> Option<String> {
    let (scheme, _) = target.split_once(':')?;
    let is_web = ["http", "https"].iter().any(|web| scheme.eq_ignore_ascii_case(web));
    let host = host(target);
    if !is_web || host.is_empty() || host.contains(char::is_whitespace) || target.contains(char::is_control) {
        return None;
    }
    Some(utf8_percent_encode(target, IN_LOCATION).to_string())
}

/// What the query of a request says, whoever wrote it.
#[derive(Clone, Debug, Default)]
pub struct Claim<'a> {
    link: Link<'a>,
    key: Option<Cow<'a, str>>,
    sig: Option<Cow<'a, str>>,
}

impl<'a> Claim<'a> {
    /// Reads a query.
    pub fn of_query(query: &'a str) -> Self {
        let mut claim = Self::default();
        for (name, value) in pairs(query.as_bytes()) {
            let place = match &*name {
                "key" => &mut claim.key,
                "sig" => &mut claim.sig,
                name => match claim.link.value_mut(name) {
                    Some(place) => place,
                    None => continue,
                },
            };
            place.get_or_insert(value);
        }
        claim
    }

    /// Where it says it leads. To be shown, never to be followed.
    pub fn target(&self) -> Option<&str> {
        self.link.target.as_deref()
    }

    /// The link, if one of the keys signed it.
    pub fn verify(&self, keys: &Keys) -> Option<&Link<'a>> {
        let key = keys.get(self.key.as_deref()?.parse().ok()?)?;
        let tag = tag(self.sig.as_deref()?)?;
        let bytes = self.link.signed_bytes().ok()?;
        key.verifies(&bytes, &tag).then_some(&self.link)
    }
}

/// The bytes of a signature, all of them: a shorter one would be easier to guess.
fn tag(sig: &str) -> Option<[u8; 32]> {
    let sig = sig.strip_suffix('=').unwrap_or(sig);
    let mut tag = [0; 32];
    let len = Base64UrlUnpadded::decode(sig, &mut tag).ok()?.len();
    (len == tag.len()).then_some(tag)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(id: u8) -> Key {
        Key::new(id, &[id; 32]).unwrap()
    }

    fn keys(ids: &[u8]) -> Keys {
        let lines: String = ids.iter().map(|id| format!("{id} {}\n", format!("{id:02x}").repeat(32))).collect();
        Keys::parse(&lines).unwrap()
    }

    fn to(target: &str) -> Link<'_> {
        Link { target: Some(target.into()), ..Link::default() }
    }

    fn is_verified(query: &str) -> bool {
        Claim::of_query(query).verify(&keys(&[1, 2])).is_some()
    }

    fn links() -> impl Strategy<Value = Link<'static>> {
        let value = || proptest::option::of("[^\\p{Cc}\u{fffd}]{0,8}|(https://shop\\.example/[a-z%?&=+é ]{0,9})");
        (value(), value(), value(), value(), value(), value()).prop_map(
            |(site, event, target, item, placement, visitor)| {
                let [site, event, target, item, placement, visitor] =
                    [site, event, target, item, placement, visitor].map(|value| value.map(Cow::Owned));
                Link { site, event, target, item, placement, visitor }
            },
        )
    }

    #[test]
    fn a_link_says_what_was_signed_in_the_order_of_the_contract() {
        let link = Link {
            visitor: Some("v".into()),
            placement: Some("".into()),
            item: Some("1".into()),
            event: Some("open".into()),
            site: Some("books".into()),
            ..to("https://shop.example/?a=b c")
        };
        let bytes = link.signed_bytes().unwrap();
        assert_eq!(
            bytes,
            b"site=books\nevent=open\ntarget=https://shop.example/?a=b c\nitem=1\nplacement=\nvisitor=v\n"
        );
        let query = link.to_query(&key(1)).unwrap();
        let start = "site=books&event=open&target=https%3A%2F%2Fshop.example%2F%3Fa%3Db%20c&item=1&placement=&visitor=v&key=1&sig=";
        assert_eq!((query.strip_prefix(start).map(str::len), query.contains('+')), (Some(SIG_LEN), false), "{query}");
        assert_eq!(Claim::of_query(&query).verify(&keys(&[2, 1])), Some(&link));
    }

    #[test]
    fn the_key_of_the_id_verifies_and_no_other() {
        let query = to("https://a.example").to_query(&key(1)).unwrap();
        let is_verified_by = |query: &str, ids| Claim::of_query(query).verify(&keys(ids)).is_some();
        assert!(is_verified_by(&query, &[2, 1]) && !is_verified_by(&query, &[2]));
        for other in ["key=2", "key=3", "key=256", "key=-1", "key=", "key", "", "Key=1", "key=1%00"] {
            assert!(!is_verified_by(&query.replace("key=1", other), &[1, 2]), "{other}");
        }
        assert!(Claim::of_query(&query).verify(&Keys::default()).is_none());
    }

    #[test]
    fn a_signature_may_be_padded_and_is_otherwise_whole_and_in_its_own_alphabet() {
        let query = to("https://a.example").to_query(&key(1)).unwrap();
        let (start, sig) = query.split_once("&sig=").unwrap();
        for good in [sig.to_owned(), format!("{sig}="), format!("{sig}%3D"), format!("{sig}&sig=AAAA")] {
            assert!(is_verified(&format!("{start}&sig={good}")), "{good}");
        }
        let (half, shorter) = (&sig[..22], &sig[..SIG_LEN - 1]);
        let others = [format!("{sig}=="), format!("{sig}A"), format!(" {sig}"), format!("{sig}%0A"), String::new()];
        for bad in others.iter().map(String::as_str).chain([half, shorter, "AAAA", "="]) {
            assert!(!is_verified(&format!("{start}&sig={bad}")), "{bad}");
        }
        assert!(!is_verified(start) && !is_verified("") && !is_verified("sig=&key=1"));
        let mut queries = (0..).map(|n| to(&format!("https://a.example/{n}")).to_query(&key(1)).unwrap());
        let query = queries.find(|query| query[query.len() - SIG_LEN..].contains(['-', '_'])).unwrap();
        let (start, sig) = query.split_once("&sig=").unwrap();
        let plain = sig.replace('-', "%2B").replace('_', "/");
        assert!(is_verified(&query) && !is_verified(&format!("{start}&sig={plain}")), "{query}");
        // a last byte of zero is not what stands for a missing one
        let mut targets = (0..).map(|n| format!("https://a.example/{n}"));
        let target = targets.find(|target| key(1).sign(&to(target).signed_bytes().unwrap())[31] == 0).unwrap();
        let query = to(&target).to_query(&key(1)).unwrap();
        assert!(is_verified(&query) && !is_verified(&query[..query.len() - 1]), "{query}");
    }

    #[test]
    fn a_value_that_could_be_read_as_two_is_neither_signed_nor_verified() {
        for character in ['\n', '\r', '\0', '\t', '\u{7f}', '\u{85}', '\u{fffd}'] {
            let link = Link { item: Some(format!("x{character}placement=y").into()), ..to("https://a.example") };
            assert_eq!(link.to_query(&key(1)), Err(Unsignable { name: "item" }), "{character:?}");
        }
        // what the same bytes sign, taken apart rightly
        let honest = Link { item: Some("x".into()), placement: Some("y".into()), ..to("https://a.example") };
        let query = honest.to_query(&key(1)).unwrap();
        assert!(is_verified(&query));
        assert!(!is_verified(&query.replace("item=x&placement=y", "item=x%0Aplacement=y")));
        let query = Link { item: Some("".into()), ..to("https://a.example") }.to_query(&key(1)).unwrap();
        assert!(is_verified(&query) && !is_verified(&query.replace("item=", "item=%FF")));
    }

    #[test]
    fn a_location_is_the_target_with_only_what_a_header_cannot_have_escaped() {
        for (target, expected) in [
            ("https://shop.example", "https://shop.example"),
            ("HTTP://Shop.Example:80/A/../b?c=%7e%zz&d=+#e", "HTTP://Shop.Example:80/A/../b?c=%7e%zz&d=+#e"),
            ("https://shop.example/a b é\u{2028}", "https://shop.example/a%20b%20%C3%A9%E2%80%A8"),
            ("https://käse.example/", "https://k%C3%A4se.example/"),
            ("https://u:p@[::1]:8/\"<>\\^`{|}", "https://u:p@[::1]:8/\"<>\\^`{|}"),
            ("https://shop.example/%0d%0aSet-Cookie:x", "https://shop.example/%0d%0aSet-Cookie:x"),
            ("https://shop.example/ ", "https://shop.example/%20"),
        ] {
            assert_eq!(location(target).as_deref(), Some(expected));
        }
    }

    #[test]
    fn what_is_no_web_page_is_no_location() {
        for target in [
            "",
            "shop.example",
            "//shop.example/",
            "/a",
            "javascript:alert(1)",
            "javascript://shop.example/%0aalert(1)",
            "data:text/html,x",
            "ftp://shop.example/",
            "httpss://shop.example/",
            "https:shop.example",
            "https:/shop.example",
            "https://",
            "https:///shop.example",
            "https://\\shop.example",
            "https://?shop.example",
            "https://user@/",
            "https://:80/",
            "https://a b/",
            " https://shop.example/",
            "https://shop.example/\r\nSet-Cookie: a=b",
            "https://shop.example/\u{85}",
        ] {
            assert_eq!(location(target), None, "{target:?}");
        }
    }

    proptest! {
        #[test]
        fn a_signed_link_verifies_whatever_else_is_put_between_its_parameters(
            link in links(),
            others in proptest::collection::vec(("utm_[a-z]{1,4}|id|age|value|lost|ua|page|Target|[a-zé%&;]{0,3}", "[a-z=%+]{0,5}"), 0..6),
            places in proptest::collection::vec(any::<prop::sample::Index>(), 6),
            seed: u64,
        ) {
            let query = link.to_query(&key(1)).unwrap();
            let mut pieces: Vec<String> = query.split('&').map(str::to_owned).collect();
            // in any order, too
            let start = usize::try_from(seed).unwrap() % pieces.len();
            pieces.rotate_left(start);
            for ((name, value), place) in others.iter().zip(places) {
                pieces.insert(place.index(pieces.len() + 1), format!("{name}={value}"));
            }
            // second copies count for nothing, whatever they say
            pieces.extend(query.split('&').map(|piece| format!("{}=other", piece.split('=').next().unwrap())));
            let query = pieces.join("&");
            let claim = Claim::of_query(&query);
            prop_assert_eq!(claim.verify(&keys(&[1])), Some(&link), "{}", query);
        }

        #[test]
        fn no_bit_of_a_signature_can_be_another(link in links(), bit in 0_usize..256) {
            let query = link.to_query(&key(1)).unwrap();
            let (start, sig) = query.split_once("&sig=").unwrap();
            let mut tag = [0; 32];
            Base64UrlUnpadded::decode(sig, &mut tag).unwrap();
            tag[bit / 8] ^= 1 << (bit % 8);
            let mut other = [0; SIG_LEN];
            let other = Base64UrlUnpadded::encode(&tag, &mut other).unwrap();
            prop_assert!(!is_verified(&format!("{start}&sig={other}")), "{} {}", query, other);
        }

        #[test]
        fn no_character_of_a_signature_can_be_another(link in links(), at in 0..SIG_LEN, other in "[A-Za-z0-9_-]") {
            let query = link.to_query(&key(1)).unwrap();
            let at = query.len() - SIG_LEN + at;
            let changed = [&query[..at], &other, &query[at + 1..]].concat();
            prop_assert_eq!(is_verified(&changed), changed == query, "{}", changed);
        }

        #[test]
        fn a_signature_is_worth_nothing_to_any_other_link(link in links(), other in links()) {
            let (query, other_query) = (link.to_query(&key(1)).unwrap(), other.to_query(&key(1)).unwrap());
            let (start, _) = other_query.split_once("sig=").unwrap();
            let (_, sig) = query.split_once("sig=").unwrap();
            prop_assert_eq!(is_verified(&format!("{start}sig={sig}")), link == other);
        }

        #[test]
        fn no_two_links_sign_the_same_bytes(
            link in links(),
            // near ones, which are told apart by a line or by what is empty
            moves in proptest::collection::vec((0_usize..6, proptest::option::of("|a|=|site=|item=x|placement=y")), 1..4),
        ) {
            let mut other = link.clone();
            for (place, value) in moves {
                let name = link.values()[place].0;
                *other.value_mut(name).unwrap() = value.map(Cow::Owned);
            }
            prop_assert_eq!(link.signed_bytes() == other.signed_bytes(), link == other);
            // there is a way back
            let text = String::from_utf8(link.signed_bytes().unwrap()).unwrap();
            let mut read = Link::default();
            for line in text.split_terminator('\n') {
                let (name, value) = line.split_once('=').unwrap();
                *read.value_mut(name).unwrap() = Some(Cow::Owned(value.to_owned()));
            }
            prop_assert_eq!(read, link);
        }

        #[test]
        fn a_location_is_visible_ascii_and_but_for_that_the_target(target in "(https?://[a-zé]{1,5})?\\PC{0,20}|.{0,20}") {
            if let Some(location) = location(&target) {
                let escape = |bytes: &[u8]| bytes.iter().map(|byte| format!("%{byte:02X}")).collect::<String>();
                let part = |c: char| if c.is_ascii_graphic() { c.to_string() } else { escape(c.to_string().as_bytes()) };
                prop_assert_eq!(location, target.chars().map(part).collect::<String>());
            }
        }

        #[test]
        fn no_query_makes_it_panic(query in ".{0,60}|(key|sig|target|item)=[!-~]{0,50}") {
            prop_assert!(!is_verified(&query));
        }
    }
}
