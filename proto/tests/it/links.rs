//! `vectors/links.json` and `LINKS.md` hold what the code says.
//!
//! After a change of the vectors here: `WRITE_VECTORS=1 cargo test -p tallylight-proto --test it`.

use std::fs;

use serde::Serialize;
use serde_json::{Map, Value};
use tallylight_proto::keys::{Key, Keys};
use tallylight_proto::link::{Claim, Link};

use crate::{assert_published, file};

/// The one that `LINKS.md` makes.
const WORKED: &str = "worked example";
const COLLECTOR: &str = "https://collector.example/r?";

#[derive(Serialize)]
struct Vectors {
    about: &'static str,
    keys: Vec<KeyHex>,
    links: Vec<Signed>,
    verified: Vec<Verified>,
    refused: Vec<Refused>,
}

#[derive(Serialize)]
struct KeyHex {
    id: u8,
    secret: String,
}

/// A link as a service makes it.
#[derive(Serialize)]
struct Signed {
    name: &'static str,
    key: u8,
    values: Map<String, Value>,
    signed: String,
    sig: String,
    query: String,
    /// None: it is refused as malformed.
    location: Option<String>,
}

/// What may have become of one on the way.
#[derive(Serialize)]
struct Verified {
    name: &'static str,
    query: String,
    values: Map<String, Value>,
    location: Option<String>,
}

#[derive(Serialize)]
struct Refused {
    name: &'static str,
    query: String,
}

fn secret(id: u8) -> Vec<u8> {
    match id {
        7 => (0..32).collect(),
        _ => (0..48).map(|n| n ^ 0xa5).collect(),
    }
}

fn key(id: u8) -> Key {
    Key::new(id, &secret(id)).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    base16ct::lower::encode_string(bytes)
}

/// The keys of the file: 9 is what an attacker has.
fn keys() -> Keys {
    let lines: String = [7, 8].map(|id| format!("{id} {}\n", hex(&secret(id)))).concat();
    Keys::parse(&lines).unwrap()
}

fn values(link: &Link<'_>) -> Map<String, Value> {
    link.values().into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.into()))).collect()
}

fn link<'a>(values: &[(&str, &'a str)]) -> Link<'a> {
    let value = |name| values.iter().find(|(other, _)| *other == name).map(|(_, value)| (*value).into());
    Link {
        site: value("site"),
        event: value("event"),
        target: value("target"),
        item: value("item"),
        placement: value("placement"),
        visitor: value("visitor"),
    }
}

fn signed(name: &'static str, id: u8, says: &[(&str, &str)]) -> Signed {
    let link = link(says);
    let query = link.to_query(&key(id)).unwrap();
    let (_, sig) = query.rsplit_once('=').unwrap();
    Signed {
        name,
        key: id,
        values: values(&link),
        signed: String::from_utf8(link.signed_bytes().unwrap()).unwrap(),
        sig: sig.to_owned(),
        location: link.location(),
        query: verified(name, query).query,
    }
}

fn verified(name: &'static str, query: String) -> Verified {
    let keys = keys();
    let claim = Claim::of_query(&query);
    let link = claim.verify(&keys).unwrap_or_else(|| panic!("{name} does not verify: {query}"));
    Verified { name, values: values(link), location: link.location(), query: query.clone() }
}

fn refused(name: &'static str, query: String) -> Refused {
    assert!(Claim::of_query(&query).verify(&keys()).is_none(), "{name} verifies: {query}");
    Refused { name, query }
}

fn worked() -> Signed {
    let target = "https://shop.example/4711?from=letter&lang=de";
    signed(WORKED, 7, &[("site", "books"), ("target", target), ("item", "4711"), ("visitor", "Zoë")])
}

fn vectors() -> Vectors {
    let worked = worked();
    let all = [
        ("site", "books"),
        ("event", "open"),
        ("target", "https://shop.example/a"),
        ("item", "4711"),
        ("placement", "header"),
        ("visitor", "v-1"),
    ];
    let query = &worked.query;
    let (start, sig) = (query.strip_suffix(&worked.sig).unwrap(), &worked.sig);
    let changed = |from: &str, to: &str| {
        assert!(query.contains(from));
        query.replacen(from, to, 1)
    };
    let spaced = signed("", 7, &[("target", "https://shop.example/a b"), ("item", "1 + 1")]).query;
    let two = signed("", 7, &[("target", "https://shop.example/"), ("item", "x"), ("placement", "y")]).query;
    let foreign = link(&[("target", "https://shop.example/4711")]).to_query(&key(9)).unwrap();
    Vectors {
        about: "Signed links as LINKS.md describes them; held against the code by a test. `links`: made as a service makes \
                them; where `location` is null, the collector answers 400. `verified`: as they may arrive. `refused`: no key \
                verifies them, the collector answers 403. Secrets are hex, `signed` is what the HMAC is made over.",
        keys: [7, 8].map(|id| KeyHex { id, secret: hex(&secret(id)) }).into(),
        verified: vec![
            verified(
                "parameters that a gateway added",
                format!("utm_source=mail&{query}&id=7&value=1&Target=x&trackid=%F0%9F"),
            ),
            verified("a second copy of each: the first counts", format!("{query}&{}", query.replace('=', "=other"))),
            verified("in another order", query.split('&').rev().collect::<Vec<_>>().join("&")),
            verified("a padded signature", format!("{query}=")),
            verified("an escaped padded signature", format!("{query}%3D")),
            verified("a plus for a space", spaced.replace("%20", "+")),
            verified("escaped more than need be", changed("books", "%62ook%73")),
            verified("escaped less than can be", changed("https%3A%2F%2F", "https://")),
        ],
        refused: vec![
            refused("no signature", start.strip_suffix("&sig=").unwrap().to_owned()),
            refused("a signature with a flipped bit", format!("{start}{}", flipped(sig))),
            refused("half a signature", format!("{start}{}", &sig[..22])),
            refused("another target", changed("shop.example", "evil.example")),
            refused("a value that was not signed", format!("event=buy&{query}")),
            refused("an empty value that was not signed", format!("{query}&placement=")),
            refused("a value taken away", changed("item=4711&", "")),
            refused("a changed value", changed("item=4711", "item=4712")),
            refused("a changed copy in front", format!("item=4712&{query}")),
            refused("no key", changed("key=7&", "")),
            refused("the id of another key", changed("key=7", "key=8")),
            refused("the id of no key", changed("key=7", "key=9")),
            refused("signed with a key that is not in the file", foreign.clone()),
            refused("the same, under the id of one that is", foreign.replace("key=9", "key=7")),
            refused(
                "two values in one, by a line feed",
                changed_in(&two, "item=x&placement=y", "item=x%0Aplacement=y"),
            ),
            refused("a control character", changed("item=4711", "item=4711%00")),
            refused("bytes that are not UTF-8", changed("Zo%C3%AB", "Zo%EB")),
            refused("nothing", String::new()),
        ],
        links: vec![
            worked,
            signed("only a target", 7, &[("target", "https://shop.example")]),
            signed("all six", 7, &all),
            signed("another key, of 48 bytes", 8, &all),
            signed("an empty value that is there", 7, &[("target", "https://shop.example/"), ("item", "")]),
            signed(
                "beyond ASCII, spaces, signs",
                7,
                &[("target", "https://käse.example/a b/🧀?q=1+1&r=100%25#é"), ("item", "a&b=c+d %")],
            ),
            signed(
                "a target with escapes of a line end",
                7,
                &[("target", "https://shop.example/%0d%0aSet-Cookie:%20a=b")],
            ),
            signed("a target in capitals", 7, &[("target", "HTTPS://SHOP.EXAMPLE/")]),
            signed("a target that is a script", 7, &[("target", "javascript:alert(1)")]),
            signed("a target without a host", 7, &[("target", "https:///shop.example")]),
            signed("no target", 7, &[("event", "open")]),
        ],
    }
}

fn changed_in(query: &str, from: &str, to: &str) -> String {
    assert!(query.contains(from));
    query.replacen(from, to, 1)
}

/// With another first character.
fn flipped(sig: &str) -> String {
    let other = if sig.starts_with('A') { 'B' } else { 'A' };
    format!("{other}{}", &sig[1..])
}

#[test]
fn the_published_links_are_what_the_code_makes() {
    assert_published("vectors/links.json", &vectors());
}

#[test]
fn the_worked_link_of_the_page_is_a_vector() {
    let page = fs::read_to_string(file("LINKS.md")).unwrap();
    let (_, example) = page.split_once("## Worked example").unwrap();
    let (example, _) = example.split_once("\n## ").unwrap();
    let worked = worked();
    let blocks: Vec<&str> = example.split("```").skip(1).step_by(2).collect();
    let texts: Vec<&str> = blocks.iter().filter_map(|block| block.strip_prefix("text\n")).collect();
    assert_eq!(texts, [worked.signed.clone(), format!("{COLLECTOR}{}\n", worked.query)]);
    assert!(example.contains(&hex(&secret(7))) && example.contains(&format!("`{WORKED}`")));
}
