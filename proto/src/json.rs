//! Events as JSON, for people and their tools: what `debug=1` answers and what `inspect` prints.
//!
//! Keys are those of a beacon, all of them always there; times are RFC 3339 in UTC; `value` is a number with
//! exactly the digits that are kept, or null. Events of framed datagrams have `key`, `source` (16 hex digits) and
//! `sequence` besides.

use serde::Serialize;
use serde::ser::{Error as _, SerializeMap, Serializer};
use serde_json::value::RawValue;

use crate::datagram::SourceId;
use crate::event::Event;
use crate::time::rfc3339;

/// Serializes an event, by serde_json only; may be flattened into a larger object.
#[derive(Clone, Copy, Debug)]
pub struct EventJson<'a>(pub &'a Event<'a>);

impl Serialize for EventJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let event = self.0;
        // as text: a double would lose the last decimal of large values
        let value = event.value.map(|value| RawValue::from_string(value.to_string()));
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("id", &event.id.uuid.hyphenated().to_string())?;
        map.serialize_entry("site", &event.site)?;
        map.serialize_entry("event", &event.event)?;
        map.serialize_entry("target", &event.target)?;
        map.serialize_entry("page", &event.page)?;
        map.serialize_entry("item", &event.item)?;
        map.serialize_entry("placement", &event.placement)?;
        map.serialize_entry("visitor", &event.visitor)?;
        map.serialize_entry("value", &value.transpose().map_err(S::Error::custom)?)?;
        map.serialize_entry("age", &event.age_ms)?;
        map.serialize_entry("lost", &event.lost)?;
        map.serialize_entry("ua", &event.user_agent)?;
        map.serialize_entry("received_at", &rfc3339(event.received_at))?;
        map.serialize_entry("event_at", &rfc3339(event.event_at()))?;
        map.serialize_entry("ip", &event.ip)?;
        map.serialize_entry("front", event.front.label())?;
        if let Some(origin) = event.origin {
            let SourceId { key, source } = origin.number.source;
            map.serialize_entry("key", &key)?;
            map.serialize_entry("source", &format!("{source:016x}"))?;
            map.serialize_entry("sequence", &origin.number.sequence)?;
        }
        map.serialize_entry("props", &Props(event))?;
        map.end()
    }
}

/// The properties as one object.
struct Props<'a>(&'a Event<'a>);

impl Serialize for Props<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.props.iter().map(|(key, text)| (key, text)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Id, Micros};
    use crate::reason::Front;
    use uuid::Uuid;

    fn event() -> Event<'static> {
        Event {
            id: Id { uuid: Uuid::from_u128(0x0192_0000_0000_7000_8000_0000_0000_0001), made_here: false },
            received_at: 1_709_164_800_042,
            age_ms: 42,
            front: Front::Http2,
            site: "shop.example".into(),
            event: "click".into(),
            target: "".into(),
            page: "https://shop.example/\"a\"".into(),
            item: "42".into(),
            placement: "top".into(),
            visitor: "v".into(),
            user_agent: "agent".into(),
            ip: Some([192, 0, 2, 0].into()),
            value: Some(Micros(8_999_999_999_123_457)),
            lost: 1,
            origin: None,
            props: vec![("b".into(), "2".into()), ("a".into(), "é".into())],
        }
    }

    #[test]
    fn every_key_is_there_and_the_value_has_all_its_digits() {
        let text = serde_json::to_string(&EventJson(&event())).expect("JSON");
        let expected = concat!(
            r#"{"id":"01920000-0000-7000-8000-000000000001","site":"shop.example","event":"click","target":"","#,
            r#""page":"https://shop.example/\"a\"","item":"42","placement":"top","visitor":"v","#,
            r#""value":8999999999.123457,"age":42,"lost":1,"ua":"agent","received_at":"2024-02-29T00:00:00.042Z","#,
            r#""event_at":"2024-02-29T00:00:00.000Z","ip":"192.0.2.0","front":"http2","props":{"b":"2","a":"é"}}"#,
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn it_can_be_part_of_a_larger_object() {
        #[derive(Serialize)]
        struct Line<'a> {
            position: u64,
            #[serde(flatten)]
            event: EventJson<'a>,
        }
        let event = Event { value: None, ip: None, ..event() };
        let text = serde_json::to_string(&Line { position: 4096, event: EventJson(&event) }).expect("JSON");
        assert!(text.starts_with(r#"{"position":4096,"id":"0192"#), "{text}");
        assert!(text.contains(r#""value":null"#) && text.contains(r#""ip":null"#), "{text}");
    }
}
