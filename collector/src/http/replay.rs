//! A stream that first gives again what was already read from it, to find out which protocol it speaks.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// `seen`, then the rest of the stream.
pub(super) struct Replay<S> {
    /// Emptied, and its memory given back, by the first reads.
    seen: Bytes,
    stream: S,
}

impl<S> Replay<S> {
    pub(super) fn new(seen: Bytes, stream: S) -> Self {
        Self { seen, stream }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Replay<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.seen.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let len = self.seen.len().min(buf.remaining());
        buf.put_slice(&self.seen[..len]);
        self.seen.advance(len);
        if self.seen.is_empty() {
            self.seen = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Replay<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, bufs))?))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn what_was_seen_comes_first_whatever_the_buffer() {
        for size in 1..8 {
            let mut stream = Replay::new(Bytes::from_static(b"abc"), &b"defg"[..]);
            let mut all = Vec::new();
            let mut buffer = vec![0; size];
            loop {
                match stream.read(&mut buffer).await.unwrap() {
                    0 => break,
                    len => all.extend_from_slice(&buffer[..len]),
                }
            }
            assert_eq!(all, b"abcdefg");
        }
    }
}
