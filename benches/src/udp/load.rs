//! The load: datagrams at a given pace, from one thread.
//!
//! The rule kept here: what is late by more than a few milliseconds is never made up for, so that a sender that
//! was held up does not send a burst that no sender at this pace would send.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use quinn_udp::{Transmit, UdpSocketState};
use tallylight_proto::datagram;

use crate::beacons::Beacons;
use crate::process;

/// Bytes of an event.
pub const EVENT_LEN: usize = 200;
/// Different datagrams, at least.
const VARIANTS: usize = 4096;
/// How far behind it may be.
const MAX_LATE: Duration = Duration::from_millis(5);
/// How long it sleeps when it is ahead.
const NAP: Duration = Duration::from_micros(50);
/// Where a framed datagram has its sequence number.
const SEQUENCE_AT: usize = 16;

/// How datagrams are handed to the kernel.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Each in a call of its own.
    Single,
    /// As many in a call as the kernel cuts up (UDP GSO).
    Train,
}

/// A sender.
pub struct Load {
    socket: UdpSocket,
    to: SocketAddr,
    kernel: UdpSocketState,
    /// Each is as many datagrams as a call sends.
    ring: Vec<Vec<u8>>,
    at: usize,
    datagram_len: usize,
    /// Of the next framed datagram.
    sequence: Option<u64>,
}

/// What was sent.
#[derive(Clone, Copy)]
pub struct Sent {
    pub datagrams: u64,
    pub seconds: f64,
}

impl Load {
    /// A sender to this port of loopback.
    pub fn new(port: u16, shape: Shape, is_framed: bool) -> Result<Self> {
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.connect(to)?;
        let kernel = UdpSocketState::new((&socket).into())?;
        let a_call = match shape {
            Shape::Single => 1,
            Shape::Train => kernel.max_gso_segments(),
        };
        ensure!(shape == Shape::Single || a_call > 1, "the kernel has no UDP GSO");
        let mut beacons = Beacons::new(1);
        let mut datagram = || {
            let body = beacons.json(EVENT_LEN).into_bytes();
            let mut bytes = Vec::new();
            if is_framed {
                datagram::write(&mut bytes, 1, 1, &body, None);
                return bytes;
            }
            body
        };
        let datagram_len = datagram().len();
        let ring = (0..VARIANTS.div_ceil(a_call)).map(|_| (0..a_call).flat_map(|_| datagram()).collect()).collect();
        Ok(Self { socket, to, kernel, ring, at: 0, datagram_len, sequence: is_framed.then_some(1) })
    }

    /// Sends at this pace, datagrams a second, for this long.
    pub fn send(&mut self, pace: u32, time: Duration) -> Result<Sent> {
        let begin = Instant::now();
        let late = MAX_LATE.as_secs_f64() * f64::from(pace);
        // what is due is counted from here, in datagrams
        let (mut sent, mut skipped) = (0_u64, 0.0);
        loop {
            let elapsed = begin.elapsed();
            if elapsed >= time {
                return Ok(Sent { datagrams: sent, seconds: elapsed.as_secs_f64() });
            }
            let ahead = sent as f64 + skipped - elapsed.as_secs_f64() * f64::from(pace);
            if ahead > 0.0 {
                process::check()?;
                std::thread::sleep(NAP);
                continue;
            }
            if -ahead > late {
                skipped += -ahead - late;
            }
            sent += self.send_call()?;
        }
    }

    /// One call's datagrams.
    fn send_call(&mut self) -> Result<u64> {
        self.at = (self.at + 1) % self.ring.len();
        let bytes = &mut self.ring[self.at];
        if let Some(sequence) = &mut self.sequence {
            for datagram in bytes.chunks_exact_mut(self.datagram_len) {
                datagram[SEQUENCE_AT..SEQUENCE_AT + 8].copy_from_slice(&sequence.to_be_bytes());
                *sequence += 1;
            }
        }
        let datagrams = (bytes.len() / self.datagram_len) as u64;
        let transmit = Transmit {
            destination: self.to,
            ecn: None,
            contents: bytes,
            segment_size: Some(self.datagram_len),
            src_ip: None,
        };
        loop {
            let result = match datagrams {
                1 => self.socket.send(bytes).map(|_| ()),
                _ => self.kernel.try_send((&self.socket).into(), &transmit),
            };
            match result {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => std::thread::yield_now(),
                other => return other.map(|()| datagrams).context("sending"),
            }
        }
    }
}
