//! The rules of a beacon, as sentences. Rules of one file alone are tested there.

use proptest::prelude::*;
use serde_json::{Value, json};
use uuid::Uuid;

use super::*;
use crate::event::MAX_EVENT_BYTES;
use crate::json::EventJson;
use crate::reason::Refusal;
use crate::record;

const FORM: &str = "application/x-www-form-urlencoded";
const PLAIN: &str = "text/plain;charset=UTF-8";
const ID: &str = "01920000-0000-7000-8000-000000000001";

/// The id that is given to every event without one.
pub(super) fn new_id() -> Id {
    Id { uuid: Uuid::from_u128(7), made_here: true }
}

/// A browser's request.
pub(super) fn context() -> Context<'static> {
    Context {
        received_at: 1_709_164_800_042,
        front: Front::Http1,
        ip: Some([192, 0, 2, 0].into()),
        referer: "https://shop.example/",
        origin: "https://origin.example",
        user_agent: "agent",
        number: None,
        private: false,
    }
}

fn to_json(event: &Event<'_>) -> Value {
    serde_json::to_value(EventJson(event)).expect("JSON")
}

/// The event of a query, or why there is none.
fn pixel(query: &str) -> Result<Value, String> {
    pixel_in(query, &context())
}

fn pixel_in(query: &str, context: &Context<'_>) -> Result<Value, String> {
    from_query(query, context, &mut new_id).map(|event| to_json(&event)).map_err(|reject| {
        assert_eq!(reject.place, Place::Whole);
        reject.to_string()
    })
}

fn post(content_type: &str, bytes: &[u8]) -> (Vec<Value>, Judged) {
    post_all(&Body { content_type, bytes, ..Body::default() })
}

/// The events of a body that count, and the judgement.
fn post_all(body: &Body<'_>) -> (Vec<Value>, Judged) {
    let mut events = Vec::new();
    let judged = from_body(body, &context(), &mut new_id, &mut |event| {
        if event.site == "forbidden" {
            return Err(Detail::Site);
        }
        events.push(to_json(event));
        Ok(())
    });
    if judged.taken == 0 {
        events.clear();
    }
    assert_eq!(judged.taken, events.len() as u64);
    assert_eq!(judged.first.is_some(), judged.refused() > 0);
    assert!(judged.taken + judged.refused() > 0, "every body is at least one event");
    assert_eq!(count(body), judged.taken + judged.refused());
    (events, judged)
}

/// Taken, refused, and the first refusal's text.
fn outcome(judged: &Judged) -> (u64, u64, String) {
    (judged.taken, judged.refused(), judged.first.as_ref().map_or(String::new(), Reject::to_string))
}

fn items(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["item"].as_str().expect("a text")).collect()
}

#[test]
fn every_key_has_its_place_and_the_rest_are_properties() {
    let query = format!(
        "site=Shop.Example&event=view&target=/t&page=/p&item=i&placement=pl&visitor=v&value=1.5&id={ID}\
         &age=12.9&lost=3&ua=mine&color=light+blue&empty=&flag"
    );
    let expected = json!({
        "site": "shop.example", "event": "view", "target": "/t", "page": "/p", "item": "i", "placement": "pl",
        "visitor": "v", "value": 1.5, "id": ID, "age": 12, "lost": 3, "ua": "mine",
        "received_at": "2024-02-29T00:00:00.042Z", "event_at": "2024-02-29T00:00:00.030Z",
        "ip": "192.0.2.0", "front": "http1", "props": {"color": "light blue", "empty": "", "flag": ""},
    });
    assert_eq!(pixel(&query), Ok(expected));
}

#[test]
fn a_bare_pixel_takes_everything_from_its_request() {
    let event = pixel("").expect("an event");
    let expected = json!({
        "site": "shop.example", "event": "beacon", "target": "", "page": "https://shop.example/", "item": "",
        "placement": "", "visitor": "", "value": null, "id": Uuid::from_u128(7).to_string(), "age": 0, "lost": 0, "ua": "agent",
        "received_at": "2024-02-29T00:00:00.042Z", "event_at": "2024-02-29T00:00:00.042Z",
        "ip": "192.0.2.0", "front": "http1", "props": {},
    });
    assert_eq!(event, expected);
    assert!(from_query("", &context(), &mut new_id).expect("an event").id.made_here);
}

#[test]
fn a_link_that_is_followed_is_a_click_with_an_id_of_ours() {
    let link = Link { target: Some("https://to.example/".into()), item: Some("i".into()), ..Link::default() };
    let event = from_link(&link, &context(), &mut new_id).expect("an event");
    assert!(event.id.made_here);
    let expected = json!({
        "site": "shop.example", "event": "click", "target": "https://to.example/", "page": "https://shop.example/", "item": "i",
        "placement": "", "visitor": "", "value": null, "id": Uuid::from_u128(7).to_string(), "age": 0, "lost": 0, "ua": "agent",
        "received_at": "2024-02-29T00:00:00.042Z", "event_at": "2024-02-29T00:00:00.042Z",
        "ip": "192.0.2.0", "front": "http1", "props": {},
    });
    assert_eq!(to_json(&event), expected);

    let [site, name, placement, visitor] = ["Site", "open", "p", "v"].map(|text| Some(text.into()));
    let link = Link { site, event: name, placement, visitor, ..link };
    let of = |private| {
        let event = to_json(&from_link(&link, &Context { private, ..context() }, &mut new_id).expect("an event"));
        ["site", "event", "target", "item", "placement", "visitor"].map(|key| event[key].as_str().unwrap().to_owned())
    };
    assert_eq!(of(false), ["site", "open", "https://to.example/", "i", "p", "v"]);
    assert_eq!(of(true)[5], "");

    let link = Link { item: Some("x".repeat(MAX_EVENT_BYTES).into()), ..Link::default() };
    let reject = from_link(&link, &context(), &mut new_id).expect_err("too large");
    assert_eq!(reject.reason(), Refusal::TooLarge);
}

#[test]
fn reserved_and_empty_keys_are_no_properties() {
    let event = pixel("ack=synced&debug=1&key=1&sig=x&=nameless&&").expect("an event");
    assert_eq!(event["props"], json!({}));
    let (events, _) = post("", br#"{"ack":1,"debug":{},"key":[],"sig":"x","":1}"#);
    assert_eq!(events[0]["props"], json!({}));
}

#[test]
fn of_a_repeated_key_the_last_one_stands_everywhere() {
    let query = "item=a&item=b&x=1&y=2&x=3&placement=p&placement=";
    let json = r#"{"item":"a","item":"b","x":1,"y":2,"x":3,"placement":"p","placement":null}"#;
    let events = [
        pixel(query).expect("an event"),
        post(FORM, query.as_bytes()).0.remove(0),
        post(PLAIN, json.as_bytes()).0.remove(0),
    ];
    for event in events {
        assert_eq!((&event["item"], &event["placement"]), (&json!("b"), &json!("")));
        assert_eq!(event["props"].to_string(), r#"{"x":"3","y":"2"}"#);
    }
}

#[test]
fn a_site_follows_from_the_page_else_from_the_origin() {
    let site = |query: &str, referer, origin| {
        let context = Context { referer, origin, ..context() };
        pixel_in(query, &context).expect("an event")["site"].as_str().expect("a text").to_owned()
    };
    assert_eq!(site("page=https%3A%2F%2FA.Example:80/x", "https://b.example/", "https://c.example"), "a.example");
    assert_eq!(site("", "https://B.example:8080/", "https://c.example"), "b.example");
    assert_eq!(site("page=/relative", "https://b.example/", "https://C.example:1"), "c.example");
    assert_eq!(site("", "", "https://c.example"), "c.example");
    assert_eq!(site("", "", "null"), "");
    assert_eq!(site("site=MINE", "https://b.example/", "https://c.example"), "mine");
}

#[test]
fn who_asks_for_privacy_is_counted_without_visitor_and_address() {
    let context = Context { private: true, ..context() };
    let event = pixel_in("visitor=v&item=i", &context).expect("an event");
    assert_eq!((&event["visitor"], &event["ip"], &event["item"]), (&json!(""), &Value::Null, &json!("i")));
}

#[test]
fn an_id_has_any_form_of_a_uuid_and_nil_is_none() {
    let compact = ID.replace('-', "");
    for text in [ID.to_owned(), ID.to_uppercase(), compact, format!("urn:uuid:{ID}"), format!("%7B{ID}%7D")] {
        assert_eq!(pixel(&format!("id={text}")).expect("an event")["id"], json!(ID), "{text}");
    }
    for text in ["", "00000000-0000-0000-0000-000000000000"] {
        let query = format!("id={text}");
        assert!(from_query(&query, &context(), &mut new_id).expect("an event").id.made_here, "{text}");
    }
    assert_eq!(pixel("id=42"), Err("id is not a UUID".to_owned()));
}

#[test]
fn a_bad_number_is_refused_by_its_name() {
    for (query, text) in [
        ("value=NaN", "value is not a decimal number"),
        ("value=1e10", "value is beyond 9000000000"),
        ("age=soon", "age is not a decimal number"),
        ("lost=-1", "lost is not a whole number from 0 to 4294967295"),
    ] {
        assert_eq!(pixel(query), Err(text.to_owned()));
    }
}

#[test]
fn a_json_value_keeps_its_decimals_as_number_and_as_text() {
    for text in ["8999999999.123457", "\"8999999999.123457\"", "8.999999999123457e9"] {
        let body = format!(r#"{{"value":{text}}}"#);
        let mut value = None;
        let judged =
            from_body(&Body { bytes: body.as_bytes(), ..Body::default() }, &context(), &mut new_id, &mut |event| {
                value = event.value;
                Ok(())
            });
        assert_eq!((judged.taken, value.map(|value| value.0)), (1, Some(8_999_999_999_123_457)), "{text}");
    }
}

#[test]
fn json_members_become_texts() {
    let body = r#"{"item":12.50,"placement":true,"visitor":null,"age":"3","a":"x\n","b":1.0,"c":false,"d":null,
                   "e":{"k": [1, "a b"]},"f":[ ]}"#;
    let (events, judged) = post("application/json", body.as_bytes());
    assert_eq!(outcome(&judged), (1, 0, String::new()));
    let event = &events[0];
    assert_eq!((&event["item"], &event["placement"], &event["age"]), (&json!("12.50"), &json!("true"), &json!(3)));
    let props = json!({"a": "x\n", "b": "1.0", "c": "false", "e": r#"{"k":[1,"a b"]}"#, "f": "[]"});
    assert_eq!(event["props"], props);
}

#[test]
fn a_key_with_a_meaning_takes_no_object() {
    for body in [r#"{"item":{"a":1}}"#, r#"{"item":[]}"#] {
        let (_, judged) = post("", body.as_bytes());
        assert_eq!(outcome(&judged), (0, 1, "item is an object or an array, not a string or a number".to_owned()));
    }
}

#[test]
fn the_kind_of_a_body_follows_from_its_bytes_before_its_type() {
    for content_type in ["", PLAIN, FORM, "text/ping", "application/json"] {
        for body in [
            "[{\"item\":1},{\"item\":2}]",
            " \r\n\t[{\"item\":1},{\"item\":2}]\n",
            "\u{feff}[{\"item\":1},{\"item\":2}]",
        ] {
            assert_eq!(items(&post(content_type, body.as_bytes()).0), ["1", "2"], "{content_type} {body:?}");
        }
        for body in ["{\"item\":1}", "\u{feff} {\n\"item\":\n1}\n\n"] {
            assert_eq!(items(&post(content_type, body.as_bytes()).0), ["1"], "{content_type} {body:?}");
        }
    }
    assert_eq!(items(&post("", b"{\"item\":1}\n{\"item\":2}").0), ["1", "2"]);
    assert_eq!(items(&post("", b"item=1\nitem=2").0), ["1", "2"]);
    assert_eq!(items(&post("Application/X-WWW-Form-URLencoded; charset=utf-8", b"item=1\nitem=2").0), ["1\nitem=2"]);
}

#[test]
fn a_form_is_one_event_and_needs_no_equals_sign() {
    let (events, judged) = post(FORM, b"item=a%20b&x=%ff\r\n");
    assert_eq!(outcome(&judged), (1, 0, String::new()));
    assert_eq!((&events[0]["item"], &events[0]["props"]), (&json!("a b"), &json!({"x": "\u{fffd}"})));
    assert_eq!(post(FORM, b"flag").0[0]["props"], json!({"flag": ""}));
}

#[test]
fn a_ping_is_a_click_from_its_headers() {
    let body = Body {
        content_type: "Text/Ping",
        query: "page=url&target=url&item=i",
        ping_from: "https://ping.example/a",
        ping_to: "https://to.example/",
        bytes: b"PING",
    };
    let event = &post_all(&body).0[0];
    assert_eq!(
        [&event["event"], &event["page"], &event["target"], &event["site"], &event["item"]],
        ["click", "https://ping.example/a", "https://to.example/", "ping.example", "i"]
    );
    let event = &post_all(&Body { ping_from: "", query: "event=ping", ..body }).0[0];
    assert_eq!([&event["event"], &event["page"]], ["ping", "https://shop.example/"]);
    assert_eq!(post_all(&Body { bytes: b"", ..body }).0[0]["event"], "click");
}

#[test]
fn an_empty_body_is_the_event_of_its_url() {
    for bytes in [&b""[..], b" \r\n\t\n"] {
        for content_type in ["", FORM, "application/json"] {
            let (events, _) = post_all(&Body { content_type, query: "item=url", bytes, ..Body::default() });
            assert_eq!(items(&events), ["url"]);
        }
    }
}

#[test]
fn url_parameters_are_defaults_for_each_entry() {
    let query = "item=url&placement=url&a=url&b=url&%C3%A9=+";
    for (content_type, bytes) in [
        ("", &br#"[{"item":"own","placement":"","a":"own","b":null,"c":"own"},{}]"#[..]),
        (PLAIN, b"item=own&placement=&a=own&c=own\n{}"),
    ] {
        let (events, _) = post_all(&Body { content_type, query, bytes, ..Body::default() });
        assert_eq!(items(&events), ["own", "url"]);
        assert_eq!((&events[0]["placement"], &events[1]["placement"]), (&json!("url"), &json!("url")));
        assert_eq!(events[0]["props"], json!({"a": "own", "b": "url", "c": "own", "é": " "}));
        assert_eq!(events[1]["props"], json!({"a": "url", "b": "url", "é": " "}));
    }
}

#[test]
fn an_array_is_refused_whole_and_its_first_bad_entry_is_named() {
    for (body, refused, text) in [
        (r#"[{"item":1},{},{"id":"x"},{"age":"x"}]"#, 4, "entry 3: id is not a UUID"),
        (r#"[{},1]"#, 2, "entry 2: not a JSON object"),
        (r#"[{},null,[{}]]"#, 3, "entry 2: not a JSON object"),
        (r#"[{},{"site":"Forbidden"}]"#, 2, "entry 2: site is not one of those listed"),
        ("[]", 1, "no events in the array"),
        (" [ \n ] ", 1, "no events in the array"),
    ] {
        let (_, judged) = post("", body.as_bytes());
        assert_eq!(outcome(&judged), (0, refused, text.to_owned()), "{body}");
    }
}

#[test]
fn what_is_no_json_counts_as_one_refused_event() {
    for body in [&b"[{}"[..], b"[{},]", b"[{}] {}", b"[{}]\nitem=1", b"[", b"[\xff]", b"[{\"a\":\"\x01\"}]"] {
        let (_, judged) = post("", body);
        let reject = judged.first.as_ref().expect("refused");
        assert_eq!((judged.refused(), reject.reason(), reject.place), (1, Refusal::Malformed, Place::Whole));
        assert!(reject.to_string().starts_with("not "), "{reject}");
    }
}

#[test]
fn an_object_that_is_not_utf_8_is_refused_and_never_taken_for_lines() {
    let (_, judged) = post(FORM, b"{\"item\":\n\"a=\xff\"\n}");
    assert_eq!(outcome(&judged), (0, 1, "not UTF-8".to_owned()));
}

#[test]
fn lines_are_judged_one_by_one() {
    let body = b"item=1\r\n\r\n{\"item\":2}\n{\"item\":3} x\nnonsense\n{\"a\":\"\xff\"}\nsite=forbidden\n  \n\
        item=\xff\nid=x\n{\"item\":4}";
    let (events, judged) = post(PLAIN, body);
    assert_eq!(items(&events), ["1", "2", "\u{fffd}", "4"]);
    assert_eq!(judged.refused[Refusal::Malformed.index()], 4);
    assert_eq!(judged.refused[Refusal::Site.index()], 1);
    assert_eq!(outcome(&judged), (4, 5, "line 4: not JSON: trailing characters at line 1 column 12".to_owned()));
    let (_, judged) = post("", b"nonsense\n\nmore");
    assert_eq!(outcome(&judged), (0, 2, "line 1: neither a JSON object nor a query string with `=`".to_owned()));
}

#[test]
fn a_multipart_body_is_of_a_type_that_is_not_taken() {
    let (_, judged) = post("Multipart/Form-Data; boundary=x", b"--x\r\n");
    assert_eq!(judged.refused[Refusal::Type.index()], 1);
    assert_eq!(outcome(&judged), (0, 1, "multipart bodies are not taken".to_owned()));
}

#[test]
fn more_than_a_thousand_events_are_too_many_and_all_of_them_are_counted() {
    for (good, bad) in [
        (format!("[{}]", ["{}"; 1000].join(",")), format!("[{}]", ["{}"; 1001].join(","))),
        (["a=1"; 1000].join("\n"), ["a=1"; 1001].join("\n\n")),
    ] {
        let (_, judged) = post("", good.as_bytes());
        assert_eq!(outcome(&judged), (1000, 0, String::new()));
        let (_, judged) = post("", bad.as_bytes());
        assert_eq!(outcome(&judged), (0, 1001, "1001 events in one body, more than 1000".to_owned()));
        assert_eq!(judged.refused[Refusal::TooLarge.index()], 1001);
    }
}

#[test]
fn an_event_that_is_let_in_fits_into_a_record() {
    let long = (MAX_EVENT_BYTES - 1024..MAX_EVENT_BYTES).step_by(64).map(|bytes| format!("item={}", "a".repeat(bytes)));
    let many = (15_000..45_000).step_by(1000).map(|props| (0..props).map(|n| format!("&{n:06}")).collect());
    for queries in [long.collect::<Vec<String>>(), many.collect()] {
        let (mut largest, mut refused) = (0, 0);
        for query in queries {
            match from_query(&query, &context(), &mut new_id) {
                Ok(event) => {
                    let mut record = Vec::new();
                    record::encode_event(&event, &mut record);
                    largest = largest.max(record.len());
                }
                Err(reject) => {
                    assert_eq!(reject.reason(), Refusal::TooLarge);
                    assert_eq!(reject.to_string(), "the event is larger than 256 KiB");
                    refused += 1;
                }
            }
        }
        assert!(refused > 0 && (MAX_EVENT_BYTES / 2..=MAX_EVENT_BYTES - 64).contains(&largest), "{largest}");
    }
}

#[test]
fn defaults_that_make_an_event_too_large_refuse_it() {
    let query = format!("item={}", "i".repeat(60_000));
    let own = format!("placement={}\nitem=small", "p".repeat(MAX_EVENT_BYTES - 30_000));
    let (events, judged) = post_all(&Body { query: &query, bytes: own.as_bytes(), ..Body::default() });
    assert_eq!(items(&events), ["small"]);
    assert_eq!(outcome(&judged), (1, 1, "line 1: the event is larger than 256 KiB".to_owned()));
}

#[test]
fn a_megabyte_of_properties_takes_no_time_to_speak_of() {
    let pairs: String = (0..100_000).map(|n| format!("{n}&")).collect();
    let started = std::time::Instant::now();
    assert_eq!(pixel(&pairs), Err("the event is larger than 256 KiB".to_owned()));
    assert!(started.elapsed().as_secs() < 5, "quadratic");
}

fn content_types() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(vec!["", PLAIN, FORM, "text/ping", "application/json", "multipart/form-data", "é"])
}

/// Bodies as they are sent, to be damaged.
fn real_bodies() -> impl Strategy<Value = Vec<u8>> {
    proptest::sample::select(vec![
        format!("site=shop.example&event=click&item=42&value=1.50&id={ID}&age=12.5&x=a%20b+c"),
        format!(r#"{{"site":"shop.example","value":-1.5e2,"id":"{ID}","age":3,"a":{{"b":[1,"\ud83d\ude00"]}}}}"#),
        format!(r#"[{{"item":"1","id":"{ID}"}}, {{"item":2,"lost":1}}, {{"é":null}}]"#),
        format!("item=1&value=2\n{{\"item\":2,\"id\":\"{ID}\"}}\r\n\r\nitem=3&age=1e3\n"),
    ])
    .prop_map(String::into_bytes)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_bytes_make_it_panic(content_type in content_types(), query in "\\PC{0,20}", bytes: Vec<u8>, start in "[\\[{ ]?") {
        let bytes = [start.as_bytes(), &bytes].concat();
        post_all(&Body { content_type, query: &query, bytes: &bytes, ping_from: &query, ping_to: "" });
        let _ = pixel(&query);
    }

    #[test]
    fn no_damage_to_a_real_body_makes_it_panic(
        content_type in content_types(),
        mut bytes in real_bodies(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3), 0..6),
    ) {
        for (at, byte, change) in changes {
            let at = at.index(bytes.len() + 1);
            match change {
                0 if at < bytes.len() => bytes[at] = byte,
                1 => bytes.insert(at, b"\n\r{}[]\"\\=&%+:,-e. \xff\x00"[usize::from(byte) % 20]),
                _ => bytes.truncate(at.max(1)),
            }
        }
        post(content_type, &bytes);
    }

    #[test]
    fn a_query_says_the_same_as_a_form_a_line_and_an_object(
        pairs in proptest::collection::btree_map("[a-zé]{1,8}|item|value|age|site|visitor|lost", "\\PC{0,12}|[0-9.]{1,4}", 1..6),
    ) {
        let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(&pairs).finish();
        let expected: Vec<Value> = pixel(&query).into_iter().collect();
        let object = serde_json::to_string(&pairs).expect("JSON");
        for (content_type, body) in [(FORM, &query), (PLAIN, &query), ("", &object), ("", &format!("[{object}]"))] {
            // props come in another order where the keys are sorted otherwise
            prop_assert_eq!(&post(content_type, body.as_bytes()).0, &expected, "{}", body);
        }
    }
}
