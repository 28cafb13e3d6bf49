//! The client as it is served.

use std::io::Read;
use std::process::Command;

use flate2::read::GzDecoder;
use sha2::{Digest, Sha256};

use super::Fixture;
use crate::harness::{Reply, test_env, workspace};

const NEWEST_CACHED: &str = "public, max-age=86400, stale-while-revalidate=604800, stale-if-error=2592000";

fn minified() -> String {
    std::fs::read_to_string(workspace().join("collector/client/beacon.min.js")).unwrap()
}

fn assert_for_everybody(reply: &Reply, cached: &str) {
    assert_eq!(reply.header("cache-control"), Some(cached), "{reply:?}");
    assert_eq!(reply.header("access-control-allow-origin"), Some("*"), "{reply:?}");
    assert_eq!(reply.header("access-control-allow-credentials"), None, "{reply:?}");
    assert_eq!(reply.header("vary"), Some("Accept-Encoding"), "{reply:?}");
    assert_eq!(reply.header("cross-origin-resource-policy"), Some("cross-origin"), "{reply:?}");
    assert_eq!(reply.header("set-cookie"), None, "{reply:?}");
}

#[test]
fn the_minified_script_is_made_of_the_source() {
    let script = workspace().join("collector/client/minify.mjs");
    let output = Command::new("node").arg(script).arg(test_env("node_modules")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let made = String::from_utf8(output.stdout).unwrap();
    assert_eq!(made, minified(), "beacon.js has changed, or beacon.min.js: `make client`");
}

#[test]
fn the_script_is_the_same_for_everybody_and_kept_while_the_collector_is_down() {
    let fixture = Fixture::start(&[]);
    for origin in [None, Some("https://shop.example")] {
        let headers: Vec<_> = origin.map(|origin| ("Origin", origin)).into_iter().collect();
        let plain = fixture.collector.request("GET", "/beacon.js", &headers, b"");
        assert_eq!(plain.status, 200);
        assert_eq!(plain.header("content-type"), Some("text/javascript; charset=utf-8"));
        assert_eq!(plain.text(), minified());
        assert_for_everybody(&plain, NEWEST_CACHED);
    }
    let head = fixture.collector.request("HEAD", "/beacon.js", &[], b"");
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(head.header("content-length"), Some(&*minified().len().to_string()));
    for method in ["POST", "PUT", "OPTIONS"] {
        let reply = fixture.collector.request(method, "/beacon.js", &[], b"");
        assert_eq!((reply.status, reply.header("allow")), (405, Some("GET, HEAD")), "{method}");
    }
    fixture.assert_ledger([0, 0, 0]);
}

#[test]
fn the_packed_script_has_a_tag_of_its_own_and_what_is_known_is_not_sent_again() {
    let fixture = Fixture::start(&[]);
    let get = |headers: &[(&str, &str)]| fixture.collector.request("GET", "/beacon.js", headers, b"");
    let (plain, packed) = (get(&[]), get(&[("Accept-Encoding", "gzip, deflate, br")]));
    assert_eq!((plain.header("content-encoding"), packed.header("content-encoding")), (None, Some("gzip")));
    let mut text = String::new();
    GzDecoder::new(&packed.body[..]).read_to_string(&mut text).unwrap();
    assert_eq!(text, minified());
    assert!(packed.body.len() <= 1024, "{} bytes", packed.body.len());

    let (tag, packed_tag) = (plain.header("etag").unwrap(), packed.header("etag").unwrap());
    assert_ne!(tag, packed_tag);
    let known = get(&[("If-None-Match", tag)]);
    assert_eq!((known.status, known.body.len(), known.header("etag")), (304, 0, Some(tag)));
    assert_for_everybody(&known, NEWEST_CACHED);
    assert_eq!(get(&[("If-None-Match", packed_tag)]).status, 200);
    assert_eq!(get(&[("If-None-Match", packed_tag), ("Accept-Encoding", "gzip")]).status, 304);
}

#[test]
fn the_script_under_its_hash_never_changes() {
    let fixture = Fixture::start(&[]);
    let hash: String = Sha256::digest(minified())[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    let reply = fixture.collector.request("GET", &format!("/beacon-{hash}.js"), &[], b"");
    assert_eq!((reply.status, reply.text()), (200, minified()));
    assert_for_everybody(&reply, "public, max-age=31536000, immutable");
    let other = fixture.collector.request("GET", "/beacon-0000000000000000.js", &[], b"");
    assert_eq!((other.status, other.header("cache-control")), (404, Some("no-store")));
}
