//! What the system is asked for: datagrams, many at a time.

use std::io::{self, IoSliceMut};
use std::net::IpAddr;
use std::os::fd::AsFd;

use quinn_udp::{BATCH_SIZE, RecvMeta, UdpSocketState};

/// Bytes of a buffer: the longest datagram, or as many short ones of one sender as the kernel puts together (GRO).
const BUFFER: usize = 64 * 1024;

/// Room for what one call gives. Pages that nothing was ever written to cost nothing.
pub struct Buffers {
    bytes: Vec<u8>,
    metas: [RecvMeta; BATCH_SIZE],
}

impl Default for Buffers {
    fn default() -> Self {
        Self { bytes: vec![0; BATCH_SIZE * BUFFER], metas: [RecvMeta::default(); BATCH_SIZE] }
    }
}

impl Buffers {
    /// Fills them with what waits in a socket.
    ///
    /// # Errors
    /// If nothing waits, or the system fails.
    pub fn fill(&mut self, state: &UdpSocketState, socket: &impl AsFd) -> io::Result<Received<'_>> {
        let mut chunks = self.bytes.chunks_exact_mut(BUFFER);
        let mut slices: [IoSliceMut<'_>; BATCH_SIZE] =
            std::array::from_fn(|_| IoSliceMut::new(chunks.next().unwrap_or_default()));
        let filled = state.recv(socket.into(), &mut slices, &mut self.metas)?;
        Ok(Received { bytes: &self.bytes, metas: &self.metas[..filled] })
    }
}

/// What one call gave.
#[derive(Clone, Copy)]
pub struct Received<'b> {
    bytes: &'b [u8],
    metas: &'b [RecvMeta],
}

impl<'b> Received<'b> {
    /// How many buffers have something in them.
    pub fn buffers(self) -> usize {
        self.metas.len()
    }

    /// How many bytes it is.
    pub fn bytes(self) -> usize {
        self.metas.iter().map(|meta| meta.len).sum()
    }

    /// The datagrams of each sender, who stands there once for what the kernel put together.
    pub fn datagrams(self) -> impl Iterator<Item = (IpAddr, impl Iterator<Item = &'b [u8]>)> {
        let buffers = self.bytes.chunks_exact(BUFFER).zip(self.metas);
        buffers.map(|(bytes, meta)| (meta.addr.ip(), split(&bytes[..meta.len.min(BUFFER)], meta.stride)))
    }
}

/// The datagrams of a buffer: all of one length but the last. One of nothing is one, too.
fn split(bytes: &[u8], stride: usize) -> impl Iterator<Item = &[u8]> {
    let empty = bytes.is_empty().then_some(bytes);
    empty.into_iter().chain(bytes.chunks(stride.max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::time::{Duration, Instant};

    fn pair() -> (UdpSocket, UdpSocketState, UdpSocket) {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.connect(receiver.local_addr().unwrap()).unwrap();
        let state = UdpSocketState::new((&receiver).into()).unwrap();
        (receiver, state, sender)
    }

    #[test]
    fn what_the_kernel_put_together_is_taken_apart() {
        let parts = |bytes: &'static [u8], stride| split(bytes, stride).collect::<Vec<_>>();
        assert_eq!(parts(b"aabbc", 2), [&b"aa"[..], b"bb", b"c"]);
        assert_eq!(parts(b"aabb", 2), [b"aa", b"bb"]);
        assert_eq!(parts(b"aa", 2), [b"aa"]);
        assert_eq!(parts(b"", 0), [b""]);
    }

    #[test]
    fn datagrams_of_any_length_come_whole_and_one_by_one() {
        let (receiver, state, sender) = pair();
        let longest = vec![b'x'; 65_507];
        for bytes in [&b"one"[..], b"", b"three", &longest] {
            sender.send(bytes).unwrap();
        }
        let mut buffers = Buffers::default();
        let mut all = Vec::new();
        let deadline = Instant::now() + Duration::from_secs(10);
        while all.len() < 4 && Instant::now() < deadline {
            let Ok(received) = buffers.fill(&state, &receiver) else { continue };
            for (ip, datagrams) in received.datagrams() {
                assert_eq!(ip, sender.local_addr().unwrap().ip());
                all.extend(datagrams.map(<[u8]>::to_vec));
            }
        }
        assert_eq!(all, [b"one".to_vec(), vec![], b"three".to_vec(), longest]);
        assert!(buffers.fill(&state, &receiver).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock));
    }

    #[test]
    fn a_train_of_datagrams_sent_in_one_call_is_taken_apart() {
        let (receiver, state, sender) = pair();
        let sending = UdpSocketState::new((&sender).into()).unwrap();
        let contents: Vec<u8> = (0..10).flat_map(|number| [number; 100]).collect();
        let transmit = quinn_udp::Transmit {
            destination: receiver.local_addr().unwrap(),
            ecn: None,
            contents: &contents,
            segment_size: Some(100),
            src_ip: None,
        };
        sending.try_send((&sender).into(), &transmit).unwrap();
        let mut buffers = Buffers::default();
        let mut all = Vec::new();
        while let Ok(received) = buffers.fill(&state, &receiver) {
            all.extend(received.datagrams().flat_map(|(_, datagrams)| datagrams.map(<[u8]>::to_vec)));
        }
        assert_eq!(all, contents.chunks(100).map(<[u8]>::to_vec).collect::<Vec<_>>());
    }
}
