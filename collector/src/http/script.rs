//! `GET /beacon.js`: the client, as it stands in `collector/client`, compiled into the program.
//!
//! The rule kept here: `/beacon-<hash>.js` gives the same bytes for ever, so that a page may name their digest
//! (Subresource Integrity): what was released once is served by all that comes later. `/beacon.js` is the newest one, of
//! which a page keeps what it has while the collector is down.

use std::sync::LazyLock;

use bytes::Bytes;
use flate2::Compression;
use flate2::bufread::GzEncoder;
use http::{HeaderName, HeaderValue, StatusCode, header};
use sha2::{Digest, Sha256};

use super::answer::Answer;
use super::heard::Headers;

/// The newest one.
pub(super) const NEWEST: &str = include_str!("../../client/beacon.min.js");
/// All that were ever released, and the newest one first. A release copies `beacon.min.js` to
/// `client/released/<version>.js` and adds it here.
const ALL: [&str; 1] = [NEWEST];

/// A day fresh, a week shown while it is asked for again, and a month while the collector does not answer.
const NEWEST_CACHED: &str = "public, max-age=86400, stale-while-revalidate=604800, stale-if-error=2592000";
/// A year is as good as for ever (RFC 9111, 1.2.2; RFC 8246).
const FIXED_CACHED: &str = "public, max-age=31536000, immutable";

/// Each encoding is kept apart.
static VARY: [(HeaderName, &str); 1] = [(header::VARY, "Accept-Encoding")];

static SCRIPTS: LazyLock<Vec<Script>> = LazyLock::new(|| ALL.into_iter().map(Script::new).collect());

/// A script in both of its encodings.
struct Script {
    /// The beginning of its SHA-256, in hex.
    hash: String,
    plain: Encoded,
    gzip: Encoded,
}

struct Encoded {
    body: Bytes,
    /// Names these very bytes, so it differs from that of the other encoding (RFC 9110, 8.8.3.3).
    etag: HeaderValue,
}

impl Encoded {
    fn new(body: impl Into<Bytes>, etag: &str) -> Self {
        let etag = HeaderValue::try_from(format!("\"{etag}\"")).expect("hex is a header");
        Self { body: body.into(), etag }
    }
}

impl Script {
    fn new(text: &'static str) -> Self {
        let hash = base16ct::lower::encode_string(&Sha256::digest(text)[..8]);
        let mut packed = Vec::new();
        let mut encoder = GzEncoder::new(text.as_bytes(), Compression::best());
        std::io::copy(&mut encoder, &mut packed).expect("memory is read and written");
        Self { plain: Encoded::new(text, &hash), gzip: Encoded::new(packed, &format!("{hash}-gzip")), hash }
    }
}

/// The script at a path, if there is one.
pub(super) fn answer(path: &str, headers: Headers<'_>) -> Option<Answer> {
    let name = path.strip_prefix("/beacon")?.strip_suffix(".js")?;
    let script = match name.strip_prefix('-') {
        None if name.is_empty() => SCRIPTS.first(),
        None => None,
        Some(hash) => SCRIPTS.iter().find(|script| script.hash == hash),
    }?;
    let is_gzip = takes_gzip(headers);
    let encoded = if is_gzip { &script.gzip } else { &script.plain };
    let answer = if is_known(&encoded.etag, headers) {
        Answer::status(StatusCode::NOT_MODIFIED)
    } else {
        Answer::content("text/javascript; charset=utf-8", encoded.body.clone())
    };
    let cached = if name.is_empty() { NEWEST_CACHED } else { FIXED_CACHED };
    let answer = answer
        .with(&VARY)
        .with_own(header::CACHE_CONTROL, HeaderValue::from_static(cached))
        .with_own(header::ETAG, encoded.etag.clone())
        .for_everybody();
    let gzip = HeaderValue::from_static("gzip");
    Some(if is_gzip { answer.with_own(header::CONTENT_ENCODING, gzip) } else { answer })
}

/// Whether `Accept-Encoding` has gzip in it, and not with the weight of nothing (RFC 9110, 12.5.3).
fn takes_gzip(headers: Headers<'_>) -> bool {
    headers.lines(&header::ACCEPT_ENCODING).into_iter().flat_map(|value| value.split(',')).any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        let is_gzip = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("gzip"));
        let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
        is_gzip && weight.is_none_or(|weight| weight.parse::<f32>().is_ok_and(|weight| weight > 0.0))
    })
}

/// Whether `If-None-Match` names these bytes (RFC 9110, 13.1.2).
fn is_known(etag: &HeaderValue, headers: Headers<'_>) -> bool {
    let tags = headers.lines(&header::IF_NONE_MATCH).into_iter();
    tags.flat_map(|value| value.split(',')).map(str::trim).any(|tag| {
        let tag = tag.strip_prefix("W/").unwrap_or(tag);
        tag == "*" || tag.as_bytes() == etag.as_bytes()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;
    use http::request::Parts;
    use std::fs;
    use std::path::Path;

    fn with(name: HeaderName, value: &str) -> Parts {
        Request::builder().header(name, value).body(()).unwrap().into_parts().0
    }

    #[test]
    fn the_script_fits_into_a_kilobyte() {
        let size = SCRIPTS[0].gzip.body.len();
        assert!(size <= 1024, "{size} bytes gzipped");
    }

    #[test]
    fn what_was_released_is_served_for_ever() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("client/released");
        let released = fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path());
        for file in released {
            let text = fs::read_to_string(&file).unwrap();
            assert!(ALL.contains(&text.as_str()), "{} is not served", file.display());
        }
        for script in SCRIPTS.iter() {
            assert!(answer(&format!("/beacon-{}.js", script.hash), Headers::Head(b"")).is_some());
        }
    }

    #[test]
    fn gzip_is_sent_to_those_that_take_it() {
        for value in ["gzip", "br, gzip", "GZIP;q=0.1", "deflate, gzip;q=1.0, *;q=0.5"] {
            assert!(takes_gzip(Headers::Parts(&with(header::ACCEPT_ENCODING, value))), "{value}");
        }
        for value in ["", "br", "gzip;q=0", "gzip; q=0.000", "gzip;q=much", "xgzip"] {
            assert!(!takes_gzip(Headers::Parts(&with(header::ACCEPT_ENCODING, value))), "{value}");
        }
    }

    #[test]
    fn a_tag_is_known_whether_weak_or_one_of_many() {
        let etag = HeaderValue::from_static("\"ab\"");
        for value in ["\"ab\"", "W/\"ab\"", "\"x\", \"ab\"", "*"] {
            assert!(is_known(&etag, Headers::Parts(&with(header::IF_NONE_MATCH, value))), "{value}");
        }
        for value in ["", "ab", "\"ab-gzip\"", "\"a\""] {
            assert!(!is_known(&etag, Headers::Parts(&with(header::IF_NONE_MATCH, value))), "{value}");
        }
    }

    #[test]
    fn other_paths_are_no_scripts() {
        for path in ["/beacon", "/beacon-.js", "/beacon-00.js", "/beaconx.js", "/beacon.js/", "/beacon.min.js"] {
            assert!(answer(path, Headers::Head(b"")).is_none(), "{path}");
        }
    }
}
