//! Datagrams, as they may arrive and as they are written.
//!
//! The first byte says which: 0 the rest is a datagram; else one is written of what follows (key id, source 8,
//! sequence 8, where it will be harmed 2, the body).

use std::collections::HashSet;

use tallylight_proto::beacon::{Body, from_body};
use tallylight_proto::datagram::{Datagram, Frame, HEADER_LEN, MAX_SEQUENCE, TAG_LEN, write};
use tallylight_proto::keys::Key;
use tallylight_proto::{Event, Front};

use crate::sample::{bare, check_event, ids, key};

/// Where the key's id stands in a frame.
const KEY_ID_AT: usize = 5;

/// Bytes of datagrams → frames. What is taken apart is put together again to the same bytes, what is written reads back,
/// and a tagged one is worth nothing once a bit or a byte of it is another.
pub fn datagram(bytes: &[u8]) {
    match bytes {
        [0, datagram @ ..] => arrived(datagram),
        [id, rest @ ..] => written(*id, rest),
        [] => {}
    }
}

fn arrived(bytes: &[u8]) {
    let frame = match Datagram::parse(bytes) {
        Ok(Datagram::Framed(frame)) => frame,
        Ok(Datagram::Plain(body)) => {
            assert!(body == bytes && body[0] != 0xF5);
            return;
        }
        Err(_) => return,
    };
    let number = frame.number;
    assert!((1..=MAX_SEQUENCE).contains(&number.sequence));
    assert_eq!(frame.is_heartbeat(), frame.body.is_empty());
    let mut again = Vec::new();
    let key = number.source.key.map(key);
    write(&mut again, number.source.source, number.sequence, frame.body, key.as_ref());
    match key {
        None => {
            // the id of a key says nothing where there is no tag
            again[KEY_ID_AT] = bytes[KEY_ID_AT];
            assert_eq!(again, bytes);
        }
        Some(key) => {
            let tag_at = bytes.len() - TAG_LEN;
            assert_eq!(again[..tag_at], bytes[..tag_at]);
            assert_eq!(frame.is_signed_by(&key), again == bytes, "only the right tag is one");
        }
    }
    events(&frame);
}

fn written(id: u8, rest: &[u8]) {
    let Some((numbers, rest)) = rest.split_first_chunk::<18>() else { return };
    let number = |at: usize| numbers[at..at + 8].iter().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
    let (source, sequence) = (number(0), number(8) % MAX_SEQUENCE + 1);
    let harm = usize::from(numbers[16]) << 8 | usize::from(numbers[17]);
    let key = key(id);
    let mut bytes = Vec::new();

    write(&mut bytes, source, sequence, rest, None);
    let frame = framed(&bytes);
    assert_eq!((frame.number.source.key, frame.number.source.source), (None, source));
    assert_eq!((frame.number.sequence, frame.body), (sequence, rest));
    assert!(!frame.is_signed_by(&key), "nobody has signed it");

    write(&mut bytes, source, sequence, rest, Some(&key));
    assert_eq!(bytes.len(), HEADER_LEN + rest.len() + TAG_LEN);
    let frame = framed(&bytes);
    assert_eq!((frame.number.source.key, frame.number.source.source), (Some(id), source));
    assert_eq!((frame.number.sequence, frame.body), (sequence, rest));
    assert!(frame.is_signed_by(&key) && !frame.is_signed_by(&crate::sample::key(id.wrapping_add(1))));
    events(&frame);

    let bit = harm % (bytes.len() * 8);
    bytes[bit / 8] ^= 1 << (bit % 8);
    assert!(!is_taken(&bytes, &key), "bit {bit} was flipped");
    bytes[bit / 8] ^= 1 << (bit % 8);
    assert!(!is_taken(&bytes[..harm % bytes.len()], &key), "it was cut");
    bytes.insert(harm % (bytes.len() + 1), 0);
    assert!(!is_taken(&bytes, &key), "a byte was put in");
}

fn is_taken(bytes: &[u8], key: &Key) -> bool {
    matches!(Datagram::parse(bytes), Ok(Datagram::Framed(frame)) if frame.is_signed_by(key))
}

fn framed(bytes: &[u8]) -> Frame<'_> {
    match Datagram::parse(bytes) {
        Ok(Datagram::Framed(frame)) => frame,
        other => panic!("{other:?}"),
    }
}

/// No two events of a datagram get one id, and reading it again gives the same ones.
fn events(frame: &Frame<'_>) {
    let context = bare(Front::Udp, Some(frame.number));
    let read = || {
        let mut made = Vec::new();
        let mut sink = |event: &Event<'_>| {
            check_event(event, &context);
            let origin = event.origin.expect("it came in a numbered datagram");
            if event.id.uuid == frame.number.event_id(origin.place) {
                made.push(event.id.uuid);
            }
            assert!(!event.id.made_here, "its copies get the same id");
            Ok(())
        };
        from_body(&Body { bytes: frame.body, ..Body::default() }, &context, &mut ids(), &mut sink);
        made
    };
    let made = read();
    assert_eq!(made.iter().collect::<HashSet<_>>().len(), made.len());
    assert_eq!(made, read());
}
