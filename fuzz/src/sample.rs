//! What several targets are made of.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr};

use tallylight_proto::beacon::Context;
use tallylight_proto::datagram::Number;
use tallylight_proto::event::MAX_EVENT_BYTES;
use tallylight_proto::keys::Key;
use tallylight_proto::record::{self, Record};
use tallylight_proto::time::MAX_AGE_MS;
use tallylight_proto::{Event, Front, Id, Micros};
use uuid::Uuid;

/// When everything arrives.
pub(crate) const NOW: i64 = 1_795_392_000_000;

/// The secret of this id that all targets sign with; that of 7 is the one of the published vectors.
pub(crate) fn secret(id: u8) -> [u8; 32] {
    let mut place = id.wrapping_sub(8);
    [(); 32].map(|()| {
        place = place.wrapping_add(1);
        place
    })
}

/// The key with this id and its secret.
pub(crate) fn key(id: u8) -> Key {
    Key::new(id, &secret(id)).expect("32 bytes are a secret")
}

/// Ids that differ.
pub(crate) fn ids() -> impl FnMut() -> Id {
    let mut last = 0;
    move || {
        last += 1;
        Id { uuid: Uuid::from_u128(0xa11 << 64 | last), made_here: true }
    }
}

/// A beacon of which nothing is known but its own words.
pub(crate) fn bare(front: Front, number: Option<Number>) -> Context<'static> {
    let ip = Some(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)));
    Context { received_at: NOW, front, ip, referer: "", origin: "", user_agent: "", number, private: false }
}

/// Takes text up to a zero byte, as a header would be read.
pub(crate) fn take_text<'a>(bytes: &mut &'a [u8]) -> Cow<'a, str> {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let text = &bytes[..end];
    *bytes = bytes.get(end + 1..).unwrap_or_default();
    String::from_utf8_lossy(text)
}

/// What holds for every event that the decoder lets through, however it came.
pub(crate) fn check_event(event: &Event<'_>, context: &Context<'_>) {
    assert!(i64::from(event.age_ms) <= MAX_AGE_MS, "{event:?}");
    assert!(event.value.is_none_or(|value| value.0.abs() <= Micros::MAX.0), "{event:?}");
    assert!(!event.id.uuid.is_nil() && !event.event.is_empty(), "{event:?}");
    assert_eq!((event.received_at, event.front), (context.received_at, context.front));
    assert_eq!(event.site, tallylight_proto::beacon::site_name(&event.site), "a site is in lower case");
    if context.private {
        assert!(event.visitor.is_empty() && event.ip.is_none(), "{event:?}");
    }
    for (at, (key, _)) in event.props.iter().enumerate() {
        assert!(!is_known(key) && !is_ignored(key), "{key:?} is no property");
        // a beacon may have many: the ones before are enough to look at
        assert!(event.props.iter().take(at.min(32)).all(|(other, _)| other != key), "{key:?} twice");
    }
    let mut bytes = Vec::new();
    record::encode_event(event, &mut bytes);
    assert!(bytes.len() <= MAX_EVENT_BYTES, "a record of {} bytes", bytes.len());
    assert_eq!(record::front(&bytes), Some(event.front));
    match record::decode(&bytes) {
        Ok(Record::Event(read)) => assert_eq!(&read, event),
        other => panic!("{other:?} in place of {event:?}"),
    }
}

/// The keys that have a meaning, as the contract lists them.
pub(crate) fn is_known(key: &str) -> bool {
    let known = ["site", "event", "target", "page", "item", "placement", "visitor", "value", "id", "age", "lost", "ua"];
    known.contains(&key)
}

/// The keys that are for the door, and the empty one.
pub(crate) fn is_ignored(key: &str) -> bool {
    ["", "ack", "debug", "key", "sig"].contains(&key)
}
