//! The bare loop: takes datagrams out of the kernel as fast as this machine can, and throws them away or copies
//! them to a file. Runs as a process of its own, as the other receivers do.

use std::fs::File;
use std::io::{BufWriter, IoSliceMut, Write};
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use quinn_udp::{BATCH_SIZE, RecvMeta, UdpSocketState};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::contender::RECEIVE_BUFFER;

/// No datagram of ours is larger.
const MAX_DATAGRAM: usize = 1472;
/// Bytes that are gathered before a write(2).
const BUFFER: usize = 64 << 10;
/// Idle for so long, it says how many it has.
const IDLE: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };

/// Where datagrams come from and go to.
#[derive(clap::Args)]
pub struct Arguments {
    #[arg(long)]
    listen: SocketAddr,
    /// Gets the number of datagrams taken, 8 bytes, little-endian.
    #[arg(long)]
    count: PathBuf,
    /// Gets the datagrams, a line each.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Microseconds from being woken to looking, in which more come.
    #[arg(long, default_value_t = 0)]
    gather: u64,
}

/// Receives until it is killed.
pub fn run(arguments: &Arguments) -> Result<()> {
    let count = File::create(&arguments.count)?;
    let mut out =
        arguments.out.as_ref().map(File::create).transpose()?.map(|file| BufWriter::with_capacity(BUFFER, file));
    let socket = UdpSocket::bind(arguments.listen)?;
    let kernel = UdpSocketState::new((&socket).into())?;
    kernel.set_recv_buffer_size((&socket).into(), RECEIVE_BUFFER)?;
    // a buffer holds a whole train, or the kernel cuts it off
    let buffer_len = MAX_DATAGRAM * kernel.gro_segments();
    let mut memory = vec![0; buffer_len * BATCH_SIZE];
    let mut metas = [RecvMeta::default(); BATCH_SIZE];
    let mut taken = 0_u64;
    loop {
        // one that is woken for each datagram pays for the waking more than for the datagram
        std::thread::sleep(Duration::from_micros(arguments.gather));
        let mut buffers: Vec<IoSliceMut<'_>> = memory.chunks_exact_mut(buffer_len).map(IoSliceMut::new).collect();
        while let Ok(received) = kernel.recv((&socket).into(), &mut buffers, &mut metas) {
            for (meta, buffer) in metas.iter().zip(&buffers).take(received) {
                taken += meta.len.div_ceil(meta.stride) as u64;
                let Some(out) = &mut out else { continue };
                for datagram in buffer[..meta.len].chunks(meta.stride) {
                    out.write_all(datagram)?;
                    out.write_all(b"\n")?;
                }
            }
        }
        while poll(&mut [PollFd::new(&socket, PollFlags::IN)], Some(&IDLE))? == 0 {
            out.as_mut().map_or(Ok(()), Write::flush)?;
            count.write_all_at(&taken.to_le_bytes(), 0)?;
        }
    }
}
