//! Bodies of requests: read whole, within limits of size and time, and decompressed.
//!
//! The rule kept here: a peer that sends too much or too slowly costs no more than the limits say, and what is
//! not wanted is still read up to a bound, because an answer that comes with a reset is lost in the browser. What is packed is
//! unpacked in pieces, between which it passes the worker's turnstile, and no further than it may be.

use std::io::{self, BufRead, Read};

use bytes::{Buf, Bytes, BytesMut};
use flate2::bufread::MultiGzDecoder;
use http_body_util::BodyExt;
use hyper::body::Body;
use thiserror::Error;
use tokio::time::{Instant, timeout_at};

use super::heard::ascii;
use crate::turnstile::Turnstile;

/// What a body may be when decompressed.
const MAX_DECODED: u64 = 1024 * 1024;
/// What is unpacked at a time, and into how much: some 50 µs. Packed is little that becomes much, and much that becomes nothing.
const PIECE_PACKED: usize = 1024;
const PIECE_DECODED: u64 = 16 * 1024;
/// What a token pays for, decoded.
const BYTES_A_TOKEN: u64 = 4096;

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
pub fn encoding(content_encoding: &[&[u8]]) -> Option<Encoding> {
    let mut names = content_encoding.iter().flat_map(|value| ascii(value).unwrap_or("?").split(',')).map(str::trim);
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
pub fn is_declared_larger(body: &impl Body, limit: u64) -> bool {
    body.size_hint().lower() > limit
}

/// Reads a body of at most `limit` bytes.
///
/// # Errors
/// If it is larger, or does not come whole in time.
pub async fn read<B: Body<Data = Bytes> + Unpin>(
    body: &mut B,
    limit: u64,
    deadline: Instant,
) -> Result<Bytes, PayloadError> {
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
    Ok(if all.is_empty() { first } else { all.freeze() })
}

/// What a body costs its sender that became so large.
pub fn tokens(decoded: u64) -> u64 {
    decoded / BYTES_A_TOKEN
}

/// Reads what is left of a body and throws it away. Whether it came to its end.
pub async fn drain<B: Body<Data = Bytes> + Unpin>(body: &mut B, deadline: Instant) -> bool {
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

async fn next<B: Body<Data = Bytes> + Unpin>(body: &mut B, deadline: Instant) -> Result<Option<Bytes>, PayloadError> {
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
pub async fn decode(bytes: Bytes, encoding: Encoding, turnstile: &Turnstile) -> Result<Bytes, PayloadError> {
    if encoding == Encoding::Identity {
        return Ok(bytes);
    }
    let mut unpacking = Unpacking::new(bytes);
    while unpacking.go_on()? {
        turnstile.pass().await;
    }
    Ok(unpacking.decoded.into())
}

/// A body that is unpacked piece by piece.
struct Unpacking {
    decoder: MultiGzDecoder<Portion>,
    decoded: Vec<u8>,
}

impl Unpacking {
    fn new(bytes: Bytes) -> Self {
        Self { decoder: MultiGzDecoder::new(Portion { bytes, left: 0 }), decoded: Vec::new() }
    }

    /// Unpacks a piece. Whether there is another one.
    fn go_on(&mut self) -> Result<bool, PayloadError> {
        self.decoder.get_mut().left = PIECE_PACKED;
        let read = self.decoder.by_ref().take(PIECE_DECODED).read_to_end(&mut self.decoded);
        if self.decoded.len() as u64 > MAX_DECODED {
            return Err(PayloadError::TooLarge { limit: MAX_DECODED, is_decoded: true });
        }
        match read {
            // less than there was room for: this is the end
            Ok(len) => Ok(len as u64 == PIECE_DECODED),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
            Err(_) => Err(PayloadError::NotGzip),
        }
    }
}

/// Bytes of which so many are given out now; then it would block, after which decoding goes on where it was.
struct Portion {
    bytes: Bytes,
    left: usize,
}

impl BufRead for Portion {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.left == 0 && !self.bytes.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(&self.bytes[..self.left.min(self.bytes.len())])
    }

    fn consume(&mut self, len: usize) {
        self.bytes.advance(len);
        self.left -= len;
    }
}

impl Read for Portion {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let len = self.fill_buf()?.read(into)?;
        self.consume(len);
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use hyper::body::Frame;
    use std::convert::Infallible;
    use std::io::Write;
    use std::pin::Pin;
    use std::task::{Context, Poll};
    use std::time::Duration;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn gzip_and_identity_are_known_and_nothing_else() {
        let of = |values: &[&str]| {
            let values: Vec<&[u8]> = values.iter().map(|value| value.as_bytes()).collect();
            encoding(&values)
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

    fn decoded(bytes: Vec<u8>) -> Result<Bytes, PayloadError> {
        let mut unpacking = Unpacking::new(bytes.into());
        while unpacking.go_on()? {}
        Ok(unpacking.decoded.into())
    }

    #[test]
    fn gzip_is_decoded_up_to_the_limit_and_not_a_byte_beyond() {
        let most = usize::try_from(MAX_DECODED).unwrap();
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

    #[test]
    fn gzip_is_decoded_in_pieces_wherever_they_end() {
        // nothing that can be made small, in members whose heads and ends fall on every place of a piece
        let mut state = 1_u32;
        let bytes: Vec<u8> = (0..300_000)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                state.to_be_bytes()[0]
            })
            .collect();
        let packed: Vec<u8> = bytes.chunks(701).flat_map(gzip).collect();
        assert!(decoded(packed).unwrap() == bytes);
    }

    #[test]
    fn a_piece_of_gzip_is_small_whether_it_becomes_much_or_nothing() {
        let pieces = |bytes: Vec<u8>| {
            let mut unpacking = Unpacking::new(bytes.into());
            let mut pieces = Vec::new();
            loop {
                let before = (unpacking.decoder.get_ref().bytes.len(), unpacking.decoded.len());
                let more = unpacking.go_on();
                let after = (unpacking.decoder.get_ref().bytes.len(), unpacking.decoded.len());
                pieces.push((before.0 - after.0, after.1 - before.1));
                if more != Ok(true) {
                    return (pieces, more.is_ok());
                }
            }
        };
        let (bomb, is_whole) = pieces(gzip(&vec![b'a'; 60 << 20]));
        assert!(!is_whole && bomb.iter().all(|(_, decoded)| *decoded as u64 <= PIECE_DECODED), "{bomb:?}");
        // it is known to be too large as soon as it is
        assert_eq!(bomb.len() as u64, MAX_DECODED / PIECE_DECODED + 1);
        let (nothing, is_whole) = pieces(gzip(b"").repeat(3_000));
        assert!(is_whole && nothing.iter().all(|(packed, _)| *packed <= PIECE_PACKED), "{nothing:?}");
        assert!(nothing.len() >= 3_000 * 20 / PIECE_PACKED, "{}", nothing.len());
    }

    /// A body in pieces of this size, without end, that counts how many were read.
    struct Endless {
        size: usize,
        read: u64,
    }

    impl Body for Endless {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            self.read += 1;
            Poll::Ready(Some(Ok(Frame::data(Bytes::from(vec![0; self.size])))))
        }
    }

    #[tokio::test]
    async fn what_is_thrown_away_ends_after_so_many_bytes_and_after_so_many_pieces() {
        let least = usize::try_from(LEAST_PIECE).unwrap();
        for (size, most) in [(0, 65_536), (1, 65_536), (least, 65_536), (least + 1, 65_280), (65_536, 256)] {
            let mut body = Endless { size, read: 0 };
            assert!(!drain(&mut body, Instant::now() + Duration::from_secs(10)).await);
            // the one that is too much is read, too
            assert_eq!(body.read, most + 1, "pieces of {size}");
        }
    }
}
