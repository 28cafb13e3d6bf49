//! What a server may answer, whatever it is asked.

/// Statuses of the contract, and those that hyper sends by itself.
const STATUSES: [u16; 20] =
    [100, 200, 204, 302, 304, 308, 400, 403, 404, 405, 408, 413, 414, 415, 429, 431, 501, 503, 505, 417];
const MOST_HEADERS: usize = 64;
/// The length of a frame's header (RFC 9113, 4.1).
const FRAME_HEAD: usize = 9;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const LAST_TYPE: u8 = 9;
/// Statuses of the static table (RFC 7541, appendix A), from index 8 on.
const INDEXED: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];

/// Answers of HTTP/1, one behind the other. An answer to `HEAD` has a length and no body, so that its head is followed by
/// the next one.
pub(crate) fn check_http1(mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
        let mut response = httparse::Response::new(&mut headers);
        let head = match response.parse(bytes) {
            Ok(httparse::Status::Complete(head)) => head,
            other => panic!("{other:?}: {}", String::from_utf8_lossy(bytes)),
        };
        let status = response.code.unwrap_or_default();
        assert!(STATUSES.contains(&status), "{status}");
        let has = |name: &str| response.headers.iter().any(|header| header.name.eq_ignore_ascii_case(name));
        assert!(!has("set-cookie") && !has("transfer-encoding"));
        let length = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
        let length = length.map(|header| str::from_utf8(header.value).ok().and_then(|text| text.parse().ok()));
        let length: usize = length.map_or(0, |length| length.expect("a length is a number"));
        bytes = &bytes[head..];
        if !bytes.starts_with(b"HTTP/1.") {
            // the last one may be cut, by a peer that was gone
            bytes = bytes.get(length..).unwrap_or_default();
        }
    }
}

/// Frames of HTTP/2: whole ones, of known types, the settings first, and no status that we do not send.
pub(crate) fn check_http2(mut bytes: &[u8]) {
    let mut is_first = true;
    while let Some((head, rest)) = bytes.split_first_chunk::<FRAME_HEAD>() {
        let [l0, l1, l2, kind, flags, ..] = *head;
        let length = usize::from(l0) << 16 | usize::from(l1) << 8 | usize::from(l2);
        assert!(kind <= LAST_TYPE, "a frame of type {kind}");
        assert!(!is_first || kind == SETTINGS, "frame {kind} before the settings");
        is_first = false;
        let Some(payload) = rest.get(..length) else { return };
        if kind == HEADERS && flags & (8 | 32) == 0 {
            check_status(payload);
        }
        bytes = &rest[length..];
    }
}

/// The first field of an answer is its status.
fn check_status(mut block: &[u8]) {
    // updates of the table's size come first
    while let Some((0x20..=0x3f, rest)) = block.split_first() {
        block = rest;
    }
    match block.first() {
        Some(indexed @ 0x88..=0x8e) => {
            let status = INDEXED[usize::from(indexed - 0x88)];
            assert!(STATUSES.contains(&status), "{status}");
        }
        Some(_) => {}
        None => panic!("an answer without a status"),
    }
}
