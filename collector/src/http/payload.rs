//! Bodies of requests: read whole, within limits of size and time, and decompressed.
//!
//! The rule kept here: a peer that sends too much or too slowly costs no more than the limits say, and what is
//! not wanted is still read up to a bound, because an answer that comes with a reset is lost in the browser.

use std::io::Read;

use bytes::{Bytes, BytesMut};
use flate2::bufread::MultiGzDecoder;
use http::{HeaderMap, header};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use tallylight_proto::Front;
use thiserror::Error;
use tokio::time::{Instant, timeout_at};

/// What a body may be when decompressed.
const MAX_DECODED: u64 = 1024 * 1024;

/// What is read of a body that is not wanted, before the connection is closed under it.
const MAX_DRAINED: u64 = 16 * 1024 * 1024;
/// What a piece of it counts at least, or a body in pieces of one byte would cost seconds.
const LEAST_PIECE: u64 = 256;

/// What a body is packed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// Nothing.
    Identity,
    /// gzip, RFC 1952.
    Gzip,
}

/// Why there is no body to decode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PayloadError {
    /// Larger than it may be as sent, or when decompressed.
    #[error("the body is larger than {limit} bytes{kind}", kind = if *.is_decoded { " when decompressed" } else { "" })]
    TooLarge {
        /// What it may be.
        limit: u64,
        /// Which of the two.
        is_decoded: bool,
    },
    /// The bytes did not come in time.
    #[error("the body did not come in time")]
    Slow,
    /// The connection ended in the middle, or the framing is wrong.
    #[error("the body does not end as it should")]
    Broken,
    /// It says gzip and is something else.
    #[error("the body is not gzip")]
    NotGzip,
}

impl PayloadError {
    /// Whether there is a body, if not one that can be used.
    pub fn is_whole(self) -> bool {
        matches!(self, Self::TooLarge { .. } | Self::NotGzip)
    }
}

/// What a request says its body is packed in; none if that is not known here.
pub fn encoding(headers: &HeaderMap) -> Option<Encoding> {
    let values = headers.get_all(header::CONTENT_ENCODING).iter();
    let mut names = values.flat_map(|value| value.to_str().unwrap_or("?").split(',')).map(str::trim);
    names.try_fold(Encoding::Identity, |so_far, name| {
        let is_gzip = ["gzip", "x-gzip"].iter().any(|known| name.eq_ignore_ascii_case(known));
        match so_far {
            _ if name.is_empty() || name.eq_ignore_ascii_case("identity") => Some(so_far),
            Encoding::Identity if is_gzip => Some(Encoding::Gzip),
            _ => None,
        }
    })
}

/// Whether a body says of itself that it is larger than this.
pub fn is_declared_larger(body: &Incoming, limit: u64) -> bool {
    body.size_hint().lower() > limit
}

/// Reads a body of at most `limit` bytes.
///
/// # Errors
/// If it is larger, or does not come whole in time.
pub async fn read(body: &mut Incoming, front: Front, limit: u64, deadline: Instant) -> Result<Bytes, PayloadError> {
    if is_declared_larger(body, limit) {
        return Err(PayloadError::TooLarge { limit, is_decoded: false });
    }
    let mut first = Bytes::new();
    let mut all = BytesMut::new();
    while let Some(data) = next(body, deadline).await? {
        if (first.len() + all.len() + data.len()) as u64 > limit {
            return Err(PayloadError::TooLarge { limit, is_decoded: false });
        }
        // most bodies come in one piece, which then need not be copied
        if first.is_empty() && all.is_empty() {
            first = data;
        } else {
            all.extend_from_slice(&std::mem::take(&mut first));
            all.extend_from_slice(&data);
        }
    }
    // a stream that its peer resets without an error ends like a whole one
    if front == Front::Http2 && !body.is_end_stream() {
        return Err(PayloadError::Broken);
    }
    Ok(if all.is_empty() { first } else { all.freeze() })
}

/// Reads what is left of a body and throws it away. Whether it came to its end.
pub async fn drain(body: &mut Incoming, deadline: Instant) -> bool {
    let mut left = MAX_DRAINED;
    while !body.is_end_stream() {
        match next(body, deadline).await {
            Ok(Some(data)) => match left.checked_sub((data.len() as u64).max(LEAST_PIECE)) {
                Some(less) => left = less,
                None => return false,
            },
            Ok(None) => return true,
            Err(_) => return false,
        }
    }
    true
}

async fn next(body: &mut Incoming, deadline: Instant) -> Result<Option<Bytes>, PayloadError> {
    loop {
        match timeout_at(deadline, body.frame()).await {
            Err(_) => return Err(PayloadError::Slow),
            Ok(None) => return Ok(None),
            Ok(Some(Err(_))) => return Err(PayloadError::Broken),
            Ok(Some(Ok(frame))) => {
                // trailers say nothing here
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

/// Decompresses a body.
///
/// # Errors
/// If it is not what it says, or becomes too large.
pub fn decode(bytes: Bytes, encoding: Encoding) -> Result<Bytes, PayloadError> {
    if encoding == Encoding::Identity {
        return Ok(bytes);
    }
    let mut decoded = Vec::new();
    let read = MultiGzDecoder::new(&bytes[..]).take(MAX_DECODED + 1).read_to_end(&mut decoded);
    if decoded.len() as u64 > MAX_DECODED {
        return Err(PayloadError::TooLarge { limit: MAX_DECODED, is_decoded: true });
    }
    read.map_err(|_| PayloadError::NotGzip)?;
    Ok(decoded.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use std::io::Write;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn gzip_and_identity_are_known_and_nothing_else() {
        let of = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::CONTENT_ENCODING, value.parse().unwrap());
            }
            encoding(&headers)
        };
        for values in [&[] as &[&str], &["identity"], &[""]] {
            assert_eq!(of(values), Some(Encoding::Identity), "{values:?}");
        }
        for values in [&["gzip"] as &[&str], &["GZip"], &["x-gzip"], &["identity, gzip"], &["gzip", "identity"]] {
            assert_eq!(of(values), Some(Encoding::Gzip), "{values:?}");
        }
        for values in [&["br"] as &[&str], &["gzip, gzip"], &["gzip", "gzip"], &["deflate"], &["gzip2"]] {
            assert_eq!(of(values), None, "{values:?}");
        }
    }

    #[test]
    fn gzip_is_decoded_up_to_the_limit_and_not_a_byte_beyond() {
        let most = usize::try_from(MAX_DECODED).unwrap();
        let decoded = |bytes: Vec<u8>| decode(bytes.into(), Encoding::Gzip);
        assert_eq!(decoded(gzip(b"event=click")).unwrap(), &b"event=click"[..]);
        assert_eq!(decoded([gzip(b"a=1"), gzip(b"&b=2")].concat()).unwrap(), &b"a=1&b=2"[..]);
        assert_eq!(decoded(gzip(&vec![b'a'; most])).unwrap().len(), most);
        let too_large = PayloadError::TooLarge { limit: MAX_DECODED, is_decoded: true };
        assert_eq!(decoded(gzip(&vec![b'a'; most + 1])), Err(too_large));
        let mut cut = gzip(b"event=click");
        cut.truncate(cut.len() - 1);
        assert_eq!(decoded(cut), Err(PayloadError::NotGzip));
        assert_eq!(decoded(b"event=click".to_vec()), Err(PayloadError::NotGzip));
    }
}
