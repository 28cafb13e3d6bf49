//! Signed links, as they may arrive and as they are made.
//!
//! The first byte says which: 0 the rest is a query; else two links are made of what follows, six texts each: a byte
//! that says whether it is there, and the text with a zero behind it.

use std::borrow::Cow;

use tallylight_proto::Front;
use tallylight_proto::beacon::from_link;
use tallylight_proto::keys::Keys;
use tallylight_proto::link::{Claim, Link, location};

use crate::sample::{bare, check_event, ids, key, secret, take_text};

/// Queries of redirects → links. Only what was signed is believed, no two links sign the same bytes, and a `Location` is
/// an address that a header can hold.
pub fn link(bytes: &[u8]) {
    match bytes {
        [0, query @ ..] => arrived(&String::from_utf8_lossy(query)),
        [_, rest @ ..] => made(rest),
        [] => {}
    }
}

fn keys() -> Keys {
    let hex = |id| secret(id).map(|byte| format!("{byte:02x}")).concat();
    Keys::parse(&format!("7 {}\n8 {}\n", hex(7), hex(8))).expect("two keys")
}

fn arrived(query: &str) {
    thread_local! { static KEYS: Keys = keys(); }
    let claim = Claim::of_query(query);
    let first = |key: &str| form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == key);
    assert_eq!(claim.target(), first("target").as_ref().map(|(_, value)| &**value), "the first one counts");
    if let Some(target) = claim.target() {
        check_location(target);
    }
    KEYS.with(|keys| {
        if let Some(link) = claim.verify(keys) {
            check_signed(link);
        }
    });
}

fn made(mut rest: &[u8]) {
    let (one, other) = (take_link(&mut rest), take_link(&mut rest));
    let (Ok(bytes), Ok(other_bytes)) = (one.signed_bytes(), other.signed_bytes()) else { return };
    assert_eq!(one == other, bytes == other_bytes, "no two links sign the same bytes");
    check_signed(&one);
    // what signs one link is worth nothing to another
    let (query, other_query) = (sign(&one), sign(&other));
    let (_, sig) = query.rsplit_once("&sig=").expect("it is signed");
    let (said, _) = other_query.rsplit_once("&sig=").expect("it is signed");
    let forged = format!("{said}&sig={sig}");
    assert_eq!(Claim::of_query(&forged).verify(&keys()).is_some(), one == other, "{forged}");
}

fn take_link<'a>(rest: &mut &'a [u8]) -> Link<'a> {
    let mut value = || {
        let (is_there, after) = rest.split_first()?;
        *rest = after;
        (is_there % 2 == 1).then(|| take_text(rest))
    };
    let [site, event, target] = [value(), value(), value()];
    let [item, placement, visitor] = [value(), value(), value()];
    Link { site, event, target, item, placement, visitor }
}

fn sign(link: &Link<'_>) -> String {
    link.to_query(&key(7)).expect("it can be signed")
}

/// What holds for a link that can be signed: the collector reads what the service wrote, and its event is a good one.
fn check_signed(link: &Link<'_>) {
    let query = sign(link);
    assert!(query.bytes().all(|byte| byte.is_ascii_graphic()), "{query}");
    assert_eq!(Claim::of_query(&query).verify(&keys()), Some(link));
    let context = bare(Front::Http1, None);
    if let Ok(event) = from_link(link, &context, &mut ids()) {
        check_event(&event, &context);
        assert!(event.id.made_here && event.props.is_empty());
    }
    if let Some(target) = &link.target {
        check_location(target);
        assert_eq!(link.location(), location(target));
    }
}

fn check_location(target: &str) {
    let Some(location) = location(target) else { return };
    assert!(location.bytes().all(|byte| byte.is_ascii_graphic()), "{location:?} stands in a header");
    assert_eq!(tallylight_proto::link::location(&location).as_deref(), Some(&*location), "it is one itself");
    let decoded: Cow<'_, str> = Cow::Borrowed(&location);
    let scheme = decoded.split("://").next().unwrap_or_default().to_ascii_lowercase();
    assert!(["http", "https"].contains(&&*scheme), "{location:?}");
}
