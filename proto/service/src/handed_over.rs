//! Sockets that systemd handed over, `sd_listen_fds(3)`: they are there before the program is, and stay when it goes.
//!
//! The rule kept here: nothing is done to such a socket that outlives the process. Others have it too, the next process
//! among them, so it is closed and never shut down; what waits in it is theirs.

use std::env;
use std::fs;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::process;

use socket2::Socket;
use thiserror::Error;

/// The first descriptor that is handed over.
const FIRST: RawFd = 3;
/// What systemd calls a socket whose unit does not say.
const UNKNOWN: &str = "unknown";

/// One of them.
#[derive(Debug)]
pub struct HandedOver {
    /// Its `FileDescriptorName=`, or `unknown`.
    pub name: String,
    /// Its number, for messages.
    pub fd: RawFd,
    /// The socket.
    pub socket: Socket,
}

/// What was handed over cannot be used.
#[derive(Debug, Error)]
#[error("the socket {name} handed over as descriptor {fd} cannot be used")]
pub struct HandedOverError {
    /// Its name.
    pub name: String,
    /// Its number.
    pub fd: RawFd,
    /// The system's reason.
    pub source: io::Error,
}

/// All that were handed over to this process. To be called once, before it opens anything that it keeps.
///
/// # Errors
/// If one of them is not there.
pub fn take() -> Result<Vec<HandedOver>, HandedOverError> {
    let number = |name: &str| env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    // the variables may be somebody else's who started us without asking
    if number("LISTEN_PID") != Some(process::id()) {
        return Ok(Vec::new());
    }
    let count = number("LISTEN_FDS").and_then(|count| RawFd::try_from(count).ok()).unwrap_or_default();
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    let names = names.split(':').filter(|name| !name.is_empty()).map(str::to_owned);
    let names = names.chain(std::iter::repeat_with(|| UNKNOWN.to_owned()));
    let fds = FIRST..FIRST.saturating_add(count);
    let take = |(fd, name)| match socket(fd) {
        Ok(socket) => Ok(HandedOver { name, fd, socket }),
        Err(source) => Err(HandedOverError { name, fd, source }),
    };
    fds.zip(names).map(take).collect()
}

#[expect(unsafe_code, reason = "what comes from outside is a number, and no type says whose it is")]
fn socket(fd: RawFd) -> io::Result<Socket> {
    // it must be open: nothing else may be promised to `from_raw_fd`
    fs::symlink_metadata(format!("/proc/self/fd/{fd}"))?;
    // SAFETY: it is open, as just seen, and nobody else's: systemd handed it to this very process (LISTEN_PID), which
    // opens nothing at a number that is taken, and calls this once.
    let owned = unsafe { OwnedFd::from_raw_fd(fd) };
    let socket = Socket::from(owned);
    socket.set_cloexec(true)?;
    Ok(socket)
}
