//! `vectors/datagrams.json` and `DATAGRAMS.md` hold what the code says.
//!
//! After a change of the vectors here: `WRITE_VECTORS=1 cargo test -p tallylight-proto --test it`.

use std::fs;

use serde::Serialize;
use tallylight_proto::beacon::{Body, Context, from_body};
use tallylight_proto::datagram::{Datagram, MAX_SEQUENCE, Malformed, Number, TAG_LEN, write};
use tallylight_proto::keys::Key;
use tallylight_proto::{Front, Id};

use crate::{assert_published, file};

const KEY_ID: u8 = 7;
const SOURCE: u64 = 0x0123_4567_89ab_cdef;
/// The one that `DATAGRAMS.md` takes apart.
const WORKED: &str = "worked example: one event, tagged";
const OWN_ID: &str = "01920000-0000-7000-8000-000000000001";

#[derive(Serialize)]
struct Vectors {
    about: &'static str,
    key: KeyHex,
    plain: Vec<Plain>,
    framed: Vec<Framed>,
    refused: Vec<Refused>,
}

#[derive(Serialize)]
struct KeyHex {
    id: u8,
    secret: String,
}

#[derive(Serialize)]
struct Plain {
    name: &'static str,
    body: &'static str,
    hex: String,
}

#[derive(Serialize)]
struct Framed {
    name: &'static str,
    heartbeat: bool,
    key: Option<u8>,
    source: String,
    sequence: u64,
    body: &'static str,
    tag: Option<String>,
    hex: String,
    events: Vec<Place>,
}

/// What an event is known by.
#[derive(Serialize)]
struct Place {
    place: u16,
    id: String,
}

#[derive(Serialize)]
struct Refused {
    name: &'static str,
    reason: &'static str,
    hex: String,
}

fn secret() -> Vec<u8> {
    (0..32).collect()
}

fn key() -> Key {
    Key::new(KEY_ID, &secret()).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    base16ct::lower::encode_string(bytes)
}

fn bytes(source: u64, sequence: u64, body: &str, is_tagged: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    write(&mut bytes, source, sequence, body.as_bytes(), is_tagged.then(key).as_ref());
    bytes
}

fn framed(name: &'static str, source: u64, sequence: u64, body: &'static str, is_tagged: bool) -> Framed {
    let bytes = bytes(source, sequence, body, is_tagged);
    let Ok(Datagram::Framed(frame)) = Datagram::parse(&bytes) else { panic!("{name}") };
    let Number { source: id, sequence } = frame.number;
    assert_eq!((frame.is_signed_by(&key()), id.key), (is_tagged, is_tagged.then_some(KEY_ID)));
    Framed {
        name,
        heartbeat: frame.is_heartbeat(),
        key: id.key,
        source: format!("{:016x}", id.source),
        sequence,
        body,
        tag: is_tagged.then(|| hex(&bytes[bytes.len() - TAG_LEN..])),
        hex: hex(&bytes),
        events: events(frame.number, body),
    }
}

/// The events of a body, as the collector reads them.
fn events(number: Number, body: &str) -> Vec<Place> {
    let context = Context {
        received_at: 1_709_164_800_042,
        front: Front::Udp,
        ip: None,
        referer: "",
        origin: "",
        user_agent: "",
        number: Some(number),
        private: false,
    };
    let mut events = Vec::new();
    if !body.is_empty() {
        let body = Body { bytes: body.as_bytes(), ..Body::default() };
        let mut no_id = || -> Id { panic!("an event of a framed datagram is given no random id") };
        from_body(&body, &context, &mut no_id, &mut |event| {
            let place = event.origin.unwrap().place;
            let id = event.id.uuid.to_string();
            assert_eq!(
                id,
                if body.bytes.ends_with(b"own") && place == 1 { OWN_ID.to_owned() } else { layout(number, place) }
            );
            events.push(Place { place, id });
            Ok(())
        });
    }
    events
}

/// The id as `DATAGRAMS.md` has it: 122 bits, with version and variant put in between.
fn layout(number: Number, place: u16) -> String {
    let bits = format!("{:064b}{:048b}{place:010b}", number.source.source, number.sequence);
    let bits = format!("{}1000{}10{}", &bits[..48], &bits[48..60], &bits[60..]);
    let hex: String =
        (0..32).map(|i| format!("{:x}", u8::from_str_radix(&bits[4 * i..4 * i + 4], 2).unwrap())).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

fn plain(name: &'static str, body: &'static str) -> Plain {
    assert_eq!(Datagram::parse(body.as_bytes()), Ok(Datagram::Plain(body.as_bytes())));
    Plain { name, body, hex: hex(body.as_bytes()) }
}

fn refused(name: &'static str, bytes: &[u8]) -> Refused {
    let reason = match Datagram::parse(bytes) {
        Ok(Datagram::Framed(frame)) => {
            assert!(!frame.is_signed_by(&key()));
            "tag"
        }
        Ok(Datagram::Plain(_)) => panic!("{name} is plain"),
        Err(Malformed::Blank) => "blank",
        Err(Malformed::Magic) => "magic",
        Err(Malformed::Short { .. }) => "short",
        Err(Malformed::Reserved) => "reserved",
        Err(Malformed::Sequence { .. }) => "sequence",
        Err(other) => panic!("{name}: {other}"),
    };
    Refused { name, reason, hex: hex(bytes) }
}

fn with(bytes: &[u8], at: usize, byte: u8) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at] = byte;
    bytes
}

fn vectors() -> Vectors {
    let own = "event=first\nid=01920000-0000-7000-8000-000000000001&event=own";
    let (untagged, tagged) = (bytes(SOURCE, 42, "a=1", false), bytes(SOURCE, 42, "a=1", true));
    let last = tagged.len() - 1;
    Vectors {
        about: "Datagrams as DATAGRAMS.md describes them; held against the code by a test. All bytes are hex, bodies are \
                UTF-8. `refused`: for `tag` the key does not verify it, all others are malformed.",
        key: KeyHex { id: KEY_ID, secret: hex(&secret()) },
        plain: vec![
            plain("one event as a query string", "site=books&event=click&target=https%3A%2F%2Fb.example%2F42"),
            plain("two lines, one of them JSON", "event=view\n{\"event\":\"click\",\"value\":1.5}\n"),
        ],
        framed: vec![
            framed(WORKED, SOURCE, 42, "site=books&event=click", true),
            framed("one event, no tag", SOURCE, 1, "site=books&event=click", false),
            framed("a JSON object", SOURCE, 2, "{\"site\":\"books\",\"event\":\"buy\",\"value\":12.34}", true),
            framed("a JSON array", SOURCE, 3, "[{\"event\":\"view\"},{\"event\":\"click\"}]", true),
            framed("lines: an empty one has no place", SOURCE, 4, "event=a\n\n{\"event\":\"b\"}\r\nevent=c\n", true),
            framed("lines: a bad one keeps its place", SOURCE, 5, "event=a\nnothing\nevent=c", true),
            framed("an event with an id of its own keeps it", SOURCE, 6, own, true),
            framed("text beyond ASCII", SOURCE, 7, "event=click&note=Käse 🧀", true),
            framed("all bits of source and sequence", u64::MAX, MAX_SEQUENCE, "event=last", true),
            framed("the least source and sequence", 0, 1, "event=first", false),
            framed("a heartbeat before the first datagram", SOURCE, 1, "", false),
            framed("a heartbeat, tagged, after number 42", SOURCE, 43, "", true),
        ],
        refused: vec![
            refused("nothing", b""),
            refused("white space", b" \r\n\t"),
            refused("a header cut short", &untagged[..23]),
            refused("shorter than its tag", &with(&untagged, 4, 1)),
            refused("begins like a frame, is none", &with(&untagged, 1, b't')),
            refused("version 2", &with(&untagged, 3, 2)),
            refused("an unknown flag", &with(&untagged, 4, 2)),
            refused("a reserved byte set", &with(&untagged, 7, 1)),
            refused("sequence 0", &with(&untagged, 23, 0)),
            refused("sequence 2^48", &with(&with(&untagged, 17, 1), 23, 0)),
            refused("no tag where one is needed", &untagged),
            refused("a tag with a flipped bit", &with(&tagged, last, tagged[last] ^ 1)),
            refused("a body with a flipped bit", &with(&tagged, 24, tagged[24] ^ 1)),
            refused("the id of another key", &with(&tagged, 5, KEY_ID + 1)),
        ],
    }
}

#[test]
fn the_published_vectors_are_what_the_code_makes() {
    assert_published("vectors/datagrams.json", &vectors());
}

#[test]
fn the_worked_example_of_the_page_is_a_vector() {
    let page = fs::read_to_string(file("DATAGRAMS.md")).unwrap();
    let (_, example) = page.split_once("## Worked example").unwrap();
    let block = example.split("```").nth(1).unwrap();
    // what stands left of two spaces
    let bytes: String = block.lines().skip(1).map(|line| line.split("  ").next().unwrap().replace(' ', "")).collect();
    let vectors = vectors();
    let worked = vectors.framed.iter().find(|vector| vector.name == WORKED).unwrap();
    assert_eq!(bytes, worked.hex);
    for named in [
        &vectors.key.secret,
        &worked.events[0].id,
        &vectors.key.id.to_string(),
        &worked.body.to_owned(),
        &WORKED.to_owned(),
    ] {
        assert!(example.contains(named.as_str()), "{named} does not stand there");
    }
}
