//! Which process has a lock or a port, as far as `/proc` shows it to us.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub pid: u32,
    pub name: String,
}

impl Owner {
    fn of(pid: u32) -> Self {
        let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let name = read("comm").trim_end().to_owned();
        // that has 15 bytes at most; what it was called by has more, but may be something else
        let command = read("cmdline");
        let called = command.split('\0').next().and_then(|path| path.rsplit('/').next());
        Self { pid, name: called.filter(|called| called.starts_with(&name)).map_or(name.clone(), str::to_owned) }
    }
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (pid {})", self.name, self.pid)
    }
}

/// Who holds the lock on a file (`/proc/locks`, proc_locks(5)). None if nobody does, or it cannot be seen.
pub(super) fn of_lock(path: &Path) -> Option<Owner> {
    let inode = fs::metadata(path).ok()?.ino().to_string();
    let locks = fs::read_to_string("/proc/locks").ok()?;
    // "1: FLOCK  ADVISORY  WRITE 1234 fe:00:5678 0 EOF"; the device is left out, as some file systems show another one
    let pid = locks.lines().find_map(|line| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let [_, "FLOCK", _, "WRITE", pid, place, ..] = words[..] else { return None };
        (place.rsplit(':').next() == Some(&inode)).then(|| pid.parse().ok())?
    })?;
    Some(Owner::of(pid))
}

/// What listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Tcp,
    Udp,
}

/// Sockets that keep an address from others.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Taken {
    /// Who has them. Empty if that cannot be seen: only root sees all.
    pub by: Vec<Owner>,
    /// One of them is root's.
    pub is_roots: bool,
}

/// Who has this address.
pub(super) fn of_port(protocol: Protocol, addr: SocketAddr) -> Taken {
    let tables = match protocol {
        Protocol::Tcp => ["/proc/net/tcp", "/proc/net/tcp6"],
        Protocol::Udp => ["/proc/net/udp", "/proc/net/udp6"],
    };
    let tables = tables.iter().filter_map(|table| fs::read_to_string(table).ok());
    let in_the_way = |table: String| -> Vec<(String, bool)> {
        table.lines().skip(1).filter_map(|line| in_the_way(line, protocol, addr)).collect()
    };
    let (sockets, of_root): (Vec<String>, Vec<bool>) = tables.flat_map(in_the_way).unzip();
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let by = pids.filter(|pid| has_one_of(*pid, &sockets)).map(Owner::of).collect();
    Taken { by, is_roots: of_root.contains(&true) }
}

/// What the socket of this line of `/proc/net/tcp` (or `udp`) is called among descriptors, and whether it is root's; if it is
/// in the way.
fn in_the_way(line: &str, protocol: Protocol, addr: SocketAddr) -> Option<(String, bool)> {
    const LISTENING: &str = "0A";
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    let [_, local, _, state, _, _, _, uid, _, inode, ..] = words[..] else { return None };
    let (ip, port) = local.split_once(':')?;
    let is_there = u16::from_str_radix(port, 16).ok()? == addr.port();
    let ip = address(ip)?;
    let overlaps = ip == addr.ip() || ip.is_unspecified() || addr.ip().is_unspecified();
    let is_in_use = protocol == Protocol::Udp || state == LISTENING;
    (is_there && overlaps && is_in_use).then(|| (format!("socket:[{inode}]"), uid == "0"))
}

/// An address as the kernel prints it: 32 bits at a time, in the machine's order.
fn address(hex: &str) -> Option<IpAddr> {
    let words = (0..hex.len()).step_by(8).map(|at| u32::from_str_radix(hex.get(at..at + 8)?, 16).ok());
    let bytes: Vec<u8> = words.collect::<Option<Vec<u32>>>()?.into_iter().flat_map(u32::to_ne_bytes).collect();
    if let Ok(v4) = <[u8; 4]>::try_from(&bytes[..]) {
        return Some(IpAddr::from(v4));
    }
    <[u8; 16]>::try_from(&bytes[..]).ok().map(IpAddr::from)
}

fn has_one_of(pid: u32, sockets: &[String]) -> bool {
    let links = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let mut targets = links.filter_map(|link| fs::read_link(link.path()).ok());
    targets.any(|target| sockets.iter().any(|socket| target.as_os_str() == socket.as_str()))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    fn ours() -> Owner {
        Owner::of(std::process::id())
    }

    #[test]
    fn whoever_has_a_port_at_an_address_that_overlaps_is_in_the_way() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let receiver = UdpSocket::bind("[::]:0").unwrap();
        assert_eq!(of_port(Protocol::Tcp, addr).by, [ours()]);
        assert_eq!(of_port(Protocol::Tcp, addr).is_roots, rustix::process::geteuid().is_root());
        assert_eq!(of_port(Protocol::Tcp, SocketAddr::from(([0, 0, 0, 0], addr.port()))).by, [ours()]);
        assert_eq!(of_port(Protocol::Tcp, SocketAddr::from(([127, 0, 0, 2], addr.port()))), Taken::default());
        let port = receiver.local_addr().unwrap().port();
        assert_eq!(of_port(Protocol::Udp, SocketAddr::from(([127, 0, 0, 1], port))).by, [ours()]);
        drop((listener, receiver));
        assert_eq!(of_port(Protocol::Tcp, addr), Taken::default());
    }

    #[test]
    fn whoever_holds_a_lock_is_found() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(of_lock(file.path()), None);
        file.as_file().lock().unwrap();
        assert_eq!(of_lock(file.path()), Some(ours()));
        file.as_file().unlock().unwrap();
        assert_eq!(of_lock(file.path()), None);
    }
}
