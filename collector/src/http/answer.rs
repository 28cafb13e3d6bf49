//! Answers: a status, a few static headers, and those that every answer has.
//!
//! The rule kept here: each answer can be read by any page (CORS), sets no cookie, is cached by nobody unless it says so
//! itself, and says in `Tallylight-Refused` why it is not what was asked for.

use std::fmt::Display;
use std::sync::LazyLock;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use tallylight_proto::{Refusal, Shed};

static REFUSED: HeaderName = HeaderName::from_static("tallylight-refused");
static ANY_ORIGIN: HeaderValue = HeaderValue::from_static("*");
/// What every answer says, unless it says otherwise itself.
static EVERYWHERE: [(HeaderName, HeaderValue); 4] = [
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("cross-origin")),
    (header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("Retry-After, Tallylight-Refused")),
];
/// The same, written.
static LINES_EVERYWHERE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut lines = Vec::new();
    EVERYWHERE.iter().for_each(|(name, value)| put_line(name.as_str(), value.as_bytes(), &mut lines));
    lines
});
/// The pixel's lines to whoever has no origin, but for those that differ: nearly all answers are this one.
static LINES_OF_THE_PIXEL: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut lines = Vec::new();
    Answer::pixel().put_lines(None, &mut lines);
    lines
});
/// And to a page whose origin is known.
static OF_AN_ORIGIN: [(HeaderName, HeaderValue); 2] = [
    (header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true")),
    (header::VARY, HeaderValue::from_static("Origin")),
];

/// What an answer to a peer of that version begins with: as long as what others begin with.
const HTTP_1_0: &[u8] = b"HTTP/1.0";
const GIF: &str = "image/gif";
/// The smallest GIF that all browsers take: one transparent pixel.
const PIXEL: &[u8; 43] =
    b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\0\0\0\x21\xF9\x04\x01\0\0\0\0\x2C\0\0\0\0\x01\0\x01\0\0\x02\x02\x44\x01\0\x3B";

/// What an answer is sent with.
#[derive(Clone, Copy, Debug)]
pub struct Sent<'a> {
    /// The body stays here.
    pub is_head: bool,
    /// The peer speaks HTTP/1.0.
    pub is_old: bool,
    /// What becomes of the connection, where that must be said.
    pub connection: Option<&'static str>,
    /// The time, as HTTP writes it.
    pub date: &'a HeaderValue,
}

/// What is answered to one request.
#[derive(Debug)]
pub struct Answer {
    status: StatusCode,
    body: Bytes,
    content_type: Option<&'static str>,
    refused: Option<HeaderValue>,
    extra: &'static [(HeaderName, &'static str)],
    retry_after: Option<&'static str>,
    /// Headers that depend on more than the kind of the answer.
    own: Vec<(HeaderName, HeaderValue)>,
    /// Whoever asks may keep it and give it to others: it says nothing of who asked.
    is_for_everybody: bool,
}

impl Answer {
    /// This status and nothing more.
    pub fn status(status: StatusCode) -> Self {
        Self {
            status,
            body: Bytes::new(),
            content_type: None,
            refused: None,
            extra: &[],
            retry_after: None,
            own: Vec::new(),
            is_for_everybody: false,
        }
    }

    /// `204`
    pub fn no_content() -> Self {
        Self::status(StatusCode::NO_CONTENT)
    }

    /// `200` and the transparent GIF.
    pub fn pixel() -> Self {
        Self { status: StatusCode::OK, body: Bytes::from_static(PIXEL), content_type: Some(GIF), ..Self::no_content() }
    }

    /// `200` and what it is.
    pub fn content(content_type: &'static str, body: impl Into<Bytes>) -> Self {
        Self { status: StatusCode::OK, body: body.into(), content_type: Some(content_type), ..Self::no_content() }
    }

    /// A refusal: one line of text that says what is wrong.
    pub fn refused(status: StatusCode, word: &'static str, line: impl Display) -> Self {
        Self {
            status,
            body: Bytes::from(format!("{word}: {line}\n")),
            content_type: Some("text/plain; charset=utf-8"),
            refused: Some(HeaderValue::from_static(word)),
            ..Self::no_content()
        }
    }

    /// A refusal for somebody who reads it in a browser.
    pub fn refused_with_page(status: StatusCode, word: &'static str, html: String) -> Self {
        Self { status, ..Self::content("text/html; charset=utf-8", html) }.with_refused(word)
    }

    /// `302` to this address.
    pub fn found(location: HeaderValue) -> Self {
        Self::status(StatusCode::FOUND).with_own(header::LOCATION, location)
    }

    /// An event, or all events, refused by the door.
    pub fn refusal(reason: Refusal, line: impl Display) -> Self {
        Self::refused(status_of(reason), reason.label(), line)
    }

    /// Not taken now.
    pub fn shed(reason: Shed) -> Self {
        let status = match reason {
            Shed::Queue | Shed::Disk | Shed::Draining => StatusCode::SERVICE_UNAVAILABLE,
            Shed::Rate => StatusCode::TOO_MANY_REQUESTS,
        };
        let line = match reason {
            Shed::Queue => "more comes in than can be written, try again",
            Shed::Disk => "the disk is full, try again later",
            Shed::Draining => "stopping, try again",
            Shed::Rate => "too much from this address, try again later",
        };
        Self { retry_after: Some(retry_after(reason)), ..Self::refused(status, reason.label(), line) }
    }

    /// The transparent GIF in place of the text, so that no page shows a broken image.
    pub fn with_pixel(self) -> Self {
        Self { body: Bytes::from_static(PIXEL), content_type: Some(GIF), ..self }
    }

    /// With a word in `Tallylight-Refused`.
    pub fn with_refused(self, word: &'static str) -> Self {
        Self { refused: Some(HeaderValue::from_static(word)), ..self }
    }

    /// With the number of events that were refused and the first reason.
    pub fn with_some_refused(self, events: u64, first: Refusal) -> Self {
        let text = format!("{events} {}", first.label());
        let refused = HeaderValue::try_from(text).expect("digits and a label are a header");
        Self { refused: Some(refused), ..self }
    }

    /// With these headers, too.
    pub fn with(self, extra: &'static [(HeaderName, &'static str)]) -> Self {
        Self { extra, ..self }
    }

    /// With this header, which is its own.
    pub fn with_own(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.own.push((name, value));
        self
    }

    /// The same for whoever asks, so that caches may share it.
    pub fn for_everybody(self) -> Self {
        Self { is_for_everybody: true, ..self }
    }

    /// The first digit of its status.
    pub fn class(&self) -> u16 {
        self.status.as_u16() / 100
    }

    /// The answer as it is sent to a page of this origin. `headers` are the request's, used again for their
    /// memory; with `is_head` the body stays here.
    pub fn into_response(self, mut headers: HeaderMap, is_head: bool) -> Response<Bytes> {
        let origin = headers.remove(header::ORIGIN);
        headers.clear();
        self.each_header(origin.as_ref(), |name, value| drop(headers.insert(name.clone(), value.clone())));
        if self.has_length() {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(self.body.len()));
        }
        let mut response = Response::new(if is_head { Bytes::new() } else { self.body });
        *response.status_mut() = self.status;
        *response.headers_mut() = headers;
        response
    }

    /// The same as it stands on a connection of HTTP/1, added to `out`. An origin that is no header value is none.
    pub fn write_http1(&self, origin: Option<&[u8]>, sent: Sent<'_>, out: &mut Vec<u8>) {
        let begin = out.len();
        match origin.and_then(|origin| HeaderValue::from_bytes(origin).ok()) {
            None if self.is_the_pixel() => out.extend_from_slice(&LINES_OF_THE_PIXEL),
            origin => self.put_lines(origin.as_ref(), out),
        }
        if sent.is_old {
            out[begin..][..HTTP_1_0.len()].copy_from_slice(HTTP_1_0);
        }
        put_line("date", sent.date.as_bytes(), out);
        if let Some(connection) = sent.connection {
            put_line("connection", connection.as_bytes(), out);
        }
        out.extend_from_slice(b"\r\n");
        if !sent.is_head {
            out.extend_from_slice(&self.body);
        }
    }

    /// Whether the length of its body is said: what is not sent again has the one that it had (RFC 9110, 8.6).
    fn has_length(&self) -> bool {
        ![StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&self.status)
    }

    /// Whether it is [`Self::pixel`] and says nothing besides.
    fn is_the_pixel(&self) -> bool {
        let Self { status, body, content_type, refused, extra, retry_after, own, is_for_everybody: _ } = self;
        let says_nothing = refused.is_none() && extra.is_empty() && retry_after.is_none() && own.is_empty();
        *status == StatusCode::OK && *content_type == Some(GIF) && body.len() == PIXEL.len() && says_nothing
    }

    /// Its first lines, which depend on nothing but it and the origin.
    fn put_lines(&self, origin: Option<&HeaderValue>, out: &mut Vec<u8>) {
        match self.status {
            StatusCode::OK => out.extend_from_slice(b"HTTP/1.1 200 OK\r\n"),
            StatusCode::NO_CONTENT => out.extend_from_slice(b"HTTP/1.1 204 No Content\r\n"),
            status => {
                let reason = status.canonical_reason().unwrap_or_default();
                for part in ["HTTP/1.1 ", status.as_str(), " ", reason, "\r\n"] {
                    out.extend_from_slice(part.as_bytes());
                }
            }
        }
        if self.extra.is_empty() && self.own.is_empty() {
            out.extend_from_slice(&LINES_EVERYWHERE);
        } else {
            let own = || self.extra.iter().map(|(name, _)| name).chain(self.own.iter().map(|(name, _)| name));
            let others = EVERYWHERE.iter().filter(|(name, _)| own().all(|own| own != name));
            others.for_each(|(name, value)| put_line(name.as_str(), value.as_bytes(), out));
        }
        self.each_own_header(origin, |name, value| put_line(name.as_str(), value.as_bytes(), out));
        if self.has_length() {
            put_line("content-length", itoa::Buffer::new().format(self.body.len()).as_bytes(), out);
        }
    }

    /// All headers for a page of this origin but those of the body's length: the last one of a name counts.
    fn each_header(&self, origin: Option<&HeaderValue>, mut put: impl FnMut(&HeaderName, &HeaderValue)) {
        EVERYWHERE.iter().for_each(|(name, value)| put(name, value));
        self.each_own_header(origin, put);
    }

    /// Those of them that not every answer has.
    fn each_own_header(&self, origin: Option<&HeaderValue>, mut put: impl FnMut(&HeaderName, &HeaderValue)) {
        match origin.filter(|_| !self.is_for_everybody) {
            Some(origin) => {
                put(&header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
                OF_AN_ORIGIN.iter().for_each(|(name, value)| put(name, value));
            }
            None => put(&header::ACCESS_CONTROL_ALLOW_ORIGIN, &ANY_ORIGIN),
        }
        if let Some(content_type) = self.content_type {
            put(&header::CONTENT_TYPE, &HeaderValue::from_static(content_type));
        }
        if let Some(seconds) = self.retry_after {
            put(&header::RETRY_AFTER, &HeaderValue::from_static(seconds));
        }
        self.extra.iter().for_each(|(name, value)| put(name, &HeaderValue::from_static(value)));
        self.own.iter().for_each(|(name, value)| put(name, value));
        if let Some(refused) = &self.refused {
            put(&REFUSED, refused);
        }
    }
}

fn put_line(name: &str, value: &[u8], out: &mut Vec<u8>) {
    for part in [name.as_bytes(), b": ", value, b"\r\n"] {
        out.extend_from_slice(part);
    }
}

fn status_of(reason: Refusal) -> StatusCode {
    match reason {
        Refusal::Malformed => StatusCode::BAD_REQUEST,
        Refusal::Site | Refusal::Speculative | Refusal::Signature => StatusCode::FORBIDDEN,
        Refusal::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Refusal::Type => StatusCode::UNSUPPORTED_MEDIA_TYPE,
    }
}

/// Seconds after which trying again makes sense: a queue is short, a restart takes a moment, a disk is not emptied at
/// once, and of a rate a second's worth is there after a second.
fn retry_after(reason: Shed) -> &'static str {
    match reason {
        Shed::Queue | Shed::Rate => "1",
        Shed::Draining => "5",
        Shed::Disk => "30",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(answer: Answer, origin: Option<&str>) -> HeaderMap {
        let mut request = HeaderMap::new();
        request.insert("cookie", "secret=1".parse().unwrap());
        if let Some(origin) = origin {
            request.insert("origin", origin.parse().unwrap());
        }
        answer.into_response(request, false).into_parts().0.headers
    }

    #[test]
    fn an_origin_is_echoed_with_credentials_and_none_is_a_star() {
        for origin in ["https://shop.example", "null"] {
            let headers = headers(Answer::no_content(), Some(origin));
            assert_eq!(headers["access-control-allow-origin"], origin);
            assert_eq!(headers["access-control-allow-credentials"], "true");
            assert_eq!(headers["vary"], "Origin");
        }
        let headers = headers(Answer::no_content(), None);
        assert_eq!(headers["access-control-allow-origin"], "*");
        assert!(!headers.contains_key("access-control-allow-credentials"));
    }

    #[test]
    fn nothing_of_the_request_is_in_the_answer() {
        let headers = headers(Answer::pixel(), None);
        assert!(!headers.contains_key("cookie") && !headers.contains_key("set-cookie"));
        assert_eq!(headers["cache-control"], "no-store");
        assert_eq!(headers["cross-origin-resource-policy"], "cross-origin");
        assert_eq!(headers["x-content-type-options"], "nosniff");
    }

    #[test]
    fn what_is_shed_says_when_to_come_again() {
        for reason in Shed::ALL {
            let response = Answer::shed(reason).into_response(HeaderMap::new(), false);
            assert_eq!(response.headers()["tallylight-refused"], reason.label());
            let seconds: u32 = response.headers()["retry-after"].to_str().unwrap().parse().unwrap();
            assert!(seconds > 0);
        }
    }

    #[test]
    fn what_is_written_says_what_a_response_does() {
        let answers: [fn() -> Answer; 7] = [
            Answer::pixel,
            || Answer::pixel().with_refused("speculative"),
            || Answer::pixel().for_everybody(),
            || Answer::shed(Shed::Queue).with_pixel(),
            Answer::no_content,
            || Answer::found(HeaderValue::from_static("https://shop.example/")),
            || {
                let cached = HeaderValue::from_static("public");
                Answer::content("text/plain", "text").with_own(header::CACHE_CONTROL, cached).for_everybody()
            },
        ];
        for answer in answers {
            for origin in [None, Some("https://shop.example")] {
                let mut out = Vec::new();
                let sent = Sent {
                    is_head: false,
                    is_old: false,
                    connection: Some("close"),
                    date: &HeaderValue::from_static("now"),
                };
                answer().write_http1(origin.map(str::as_bytes), sent, &mut out);
                let head = out.windows(4).position(|end| end == b"\r\n\r\n").unwrap();
                let lines = str::from_utf8(&out[..head]).unwrap().split("\r\n").skip(1);
                let lines = lines.map(|line| line.split_once(": ").unwrap());
                let written: std::collections::BTreeMap<_, _> = lines.collect();
                let mut expected = headers(answer(), origin);
                expected.insert("date", "now".parse().unwrap());
                expected.insert("connection", "close".parse().unwrap());
                let status = answer().status;
                let expected: std::collections::BTreeMap<_, _> =
                    expected.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
                assert_eq!(written, expected, "{status} {origin:?}");
                assert!(out.starts_with(format!("HTTP/1.1 {status}").as_bytes()));
                assert_eq!(out[head + 4..], answer().body);
            }
        }
    }

    #[test]
    fn the_pixel_is_a_gif_of_one_pixel() {
        assert_eq!(&PIXEL[..10], b"GIF89a\x01\0\x01\0");
        assert_eq!(PIXEL.last(), Some(&b';'));
    }
}
