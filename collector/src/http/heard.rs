//! What of a request's headers is listened to, whichever parser read them.
//!
//! The rule kept here: one pass over the head and no map of it. Of what should stand there once the first one counts, as in
//! every header map; of lists all lines are kept, in their order.

use http::request::Parts;
use http::{HeaderMap, HeaderName, header};

/// Headers of a request, at most, that are read here: browsers send some 20.
pub(super) const HEADERS: usize = 48;

/// All headers of a request, for pages, which look for some that mean nothing to a beacon.
#[derive(Clone, Copy, Debug)]
pub(super) enum Headers<'a> {
    /// Of one that hyper has read.
    Parts(&'a Parts),
    /// Of a head of HTTP/1 that was read here: it is read again.
    Head(&'a [u8]),
}

impl<'a> Headers<'a> {
    /// What stands under a name, line by line, as far as it is text.
    pub(super) fn lines(self, name: &HeaderName) -> Vec<&'a str> {
        match self {
            Self::Parts(parts) => {
                parts.headers.get_all(name).iter().filter_map(|value| ascii(value.as_bytes())).collect()
            }
            Self::Head(bytes) => {
                let mut headers = [httparse::EMPTY_HEADER; HEADERS];
                let mut request = httparse::Request::new(&mut headers);
                // it was read before
                let _ = request.parse(bytes);
                let of_name = request.headers.iter().filter(|header| header.name.eq_ignore_ascii_case(name.as_str()));
                of_name.filter_map(|header| ascii(header.value)).collect()
            }
        }
    }

    /// Whom the request is for.
    pub(super) fn host(self) -> Option<&'a str> {
        let authority = || match self {
            Self::Parts(parts) => parts.uri.authority().map(|authority| authority.as_str()),
            Self::Head(_) => None,
        };
        self.lines(&header::HOST).first().copied().or_else(authority)
    }
}

/// The headers that mean something to a beacon.
#[derive(Debug, Default)]
pub struct Heard<'a> {
    /// Bytes of all names and values, of these and all others.
    pub(super) len: usize,
    /// `Origin`, if it is there.
    pub(super) origin: Option<&'a [u8]>,
    pub(super) referer: Option<&'a [u8]>,
    pub(super) user_agent: Option<&'a [u8]>,
    pub(super) content_type: Option<&'a [u8]>,
    pub(super) ping_from: Option<&'a [u8]>,
    pub(super) ping_to: Option<&'a [u8]>,
    pub(super) content_encoding: Vec<&'a [u8]>,
    pub(super) forwarded: Vec<&'a [u8]>,
    pub(super) x_forwarded_for: Vec<&'a [u8]>,
    /// The visitor asked not to be followed (`Sec-GPC: 1`, `DNT: 1`). Said once is enough.
    pub(super) is_private: bool,
    /// A browser only guesses that its user will want this (`Sec-Purpose`, `Purpose`, `X-Moz`).
    pub(super) is_speculative: bool,
}

impl<'a> Heard<'a> {
    /// Of a map.
    pub(super) fn of(headers: &'a HeaderMap) -> Self {
        headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect()
    }

    fn hear(&mut self, name: &str, value: &'a [u8]) {
        self.len += name.len() + value.len();
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        let first = |slot: &mut Option<&'a [u8]>| *slot = slot.or(Some(value));
        // by the length first: most of a head is nothing to us
        match name.len() {
            3 if is("dnt") => self.is_private |= value == b"1",
            5 if is("x-moz") => self.is_speculative |= is_a_guess(value),
            6 if is("origin") => first(&mut self.origin),
            7 if is("referer") => first(&mut self.referer),
            7 if is("sec-gpc") => self.is_private |= value == b"1",
            7 if is("ping-to") => first(&mut self.ping_to),
            7 if is("purpose") => self.is_speculative |= is_a_guess(value),
            9 if is("forwarded") => self.forwarded.push(value),
            9 if is("ping-from") => first(&mut self.ping_from),
            10 if is("user-agent") => first(&mut self.user_agent),
            11 if is("sec-purpose") => self.is_speculative |= is_a_guess(value),
            12 if is("content-type") => first(&mut self.content_type),
            15 if is("x-forwarded-for") => self.x_forwarded_for.push(value),
            16 if is("content-encoding") => self.content_encoding.push(value),
            _ => {}
        }
    }
}

impl<'a> FromIterator<(&'a str, &'a [u8])> for Heard<'a> {
    fn from_iter<I: IntoIterator<Item = (&'a str, &'a [u8])>>(headers: I) -> Self {
        let mut heard = Self::default();
        headers.into_iter().for_each(|(name, value)| heard.hear(name, value));
        heard
    }
}

fn is_a_guess(value: &[u8]) -> bool {
    let value = value.to_ascii_lowercase();
    let says = |word: &[u8]| value.windows(word.len()).any(|window| window == word);
    says(b"prefetch") || says(b"prerender")
}

/// A header that is text, as those of lists are; one that is not says nothing.
pub(super) fn ascii(value: &[u8]) -> Option<&str> {
    str::from_utf8(value).ok().filter(|text| text.is_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    #[test]
    fn names_are_known_however_they_are_written_and_the_first_value_counts() {
        let head: [(&str, &[u8]); 7] = [
            ("Host", b"beacons.example"),
            ("USER-AGENT", b"one"),
            ("user-agent", b"two"),
            ("X-Forwarded-For", b"192.0.2.1"),
            ("x-forwarded-FOR", b"192.0.2.2"),
            ("Sec-GPC", b"0"),
            ("DNT", b"1"),
        ];
        let heard: Heard<'_> = head.into_iter().collect();
        assert_eq!((heard.user_agent, heard.referer), (Some(&b"one"[..]), None));
        assert_eq!(heard.x_forwarded_for, [b"192.0.2.1", b"192.0.2.2"]);
        assert!(heard.is_private && !heard.is_speculative);
        assert_eq!(heard.len, head.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>());
    }

    #[test]
    fn lines_of_a_name_are_in_order_wherever_they_stand() {
        let head = b"GET / HTTP/1.1\r\nHost: b\r\naccept-ENCODING: br\r\nX: y\r\nAccept-Encoding: gzip\r\nAccept-Encoding: \xff\r\n\r\n";
        let request = Request::get("http://b/").header("accept-encoding", "br").header("x", "y");
        let request = request.header("accept-encoding", "gzip").header("accept-encoding", &b"\xff"[..]);
        let (parts, ()) = request.body(()).unwrap().into_parts();
        for headers in [Headers::Head(head), Headers::Parts(&parts)] {
            assert_eq!(headers.lines(&header::ACCEPT_ENCODING), ["br", "gzip"]);
            assert!(headers.lines(&header::ETAG).is_empty());
            assert_eq!(headers.host(), Some("b"));
        }
    }

    #[test]
    fn a_guess_is_one_in_any_of_three_headers() {
        let is_speculative = |name, value: &'static [u8]| Heard::from_iter([(name, value)]).is_speculative;
        assert!(is_speculative("Sec-Purpose", b"Prefetch;prerender"));
        assert!(is_speculative("purpose", b"prerender") && is_speculative("x-moz", b"prefetch"));
        assert!(!is_speculative("sec-purpose", b"pre") && !is_speculative("x-moz-x", b"prefetch"));
    }
}
