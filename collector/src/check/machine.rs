//! What the machine allows: buffers, queues, open files; and what time it thinks it is.

use std::fs;
use std::io;
use std::mem;

use rustix::process::{Resource, getrlimit};
use socket2::{Domain, Socket, Type};
use tallylight_host::clock;
use tallylight_service::ByteSize;

use super::Finding;
use crate::lifecycle::OTHER_DESCRIPTORS;
use crate::listen::BACKLOG;
use crate::settings::Settings;

/// 2026-01-01: nothing of this runs before it was written.
const WRITTEN: i64 = 1_767_225_600_000;

/// Looks at it.
pub(super) fn check(settings: &Settings) -> Vec<Finding> {
    let buffer = (!settings.udp_addrs().is_empty()).then(|| receive_buffer(settings.udp_receive_buffer));
    let mut findings: Vec<Finding> = buffer.into_iter().collect();
    findings.push(open_files(settings.max_connections.get() as u64));
    findings.push(queue());
    findings.extend(overflow());
    findings.push(clock());
    findings
}

fn receive_buffer(wanted: ByteSize) -> Finding {
    let granted = usize::try_from(wanted.bytes()).map_err(io::Error::other).and_then(|wanted| {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
        socket.set_recv_buffer_size(wanted)?;
        // the kernel doubles what it grants
        Ok(socket.recv_buffer_size()? as u64 / 2)
    });
    match granted {
        Ok(granted) if granted < wanted.bytes() => Finding::warning(
            "receive buffer",
            format!("--udp-receive-buffer {wanted}, of which net.core.rmem_max grants {}", ByteSize(granted)),
            format!("echo net.core.rmem_max={} > /etc/sysctl.d/90-tallylight.conf; sysctl --system", wanted.bytes()),
        ),
        Ok(_) => Finding::ok("receive buffer", format!("{wanted} for each socket")),
        Err(error) => Finding::problem("receive buffer", error.to_string(), "--udp off, if datagrams are not wanted"),
    }
}

fn open_files(connections: u64) -> Finding {
    let needed = connections + OTHER_DESCRIPTORS;
    // the collector raises the soft limit to this one
    match getrlimit(Resource::Nofile).maximum {
        Some(limit) if limit < needed => Finding::warning(
            "open files",
            format!(
                "{limit} may be open, enough for {} of --max-connections {connections}",
                limit.saturating_sub(OTHER_DESCRIPTORS)
            ),
            format!("LimitNOFILE={needed} in the service, or ulimit -Hn {needed}"),
        ),
        limit => {
            let limit = limit.map_or_else(|| "any number".to_owned(), |limit| limit.to_string());
            Finding::ok("open files", format!("{limit} may be open, and {connections} connections are as many at most"))
        }
    }
}

fn queue() -> Finding {
    match number("/proc/sys/net/core/somaxconn") {
        Some(most) if most < i64::from(BACKLOG) => Finding::warning(
            "queue",
            format!("{most} connections can wait to be accepted, of {BACKLOG} that are asked for (net.core.somaxconn)"),
            format!("echo net.core.somaxconn={BACKLOG} > /etc/sysctl.d/91-tallylight.conf; sysctl --system"),
        ),
        _ => Finding::ok("queue", format!("{BACKLOG} connections can wait to be accepted")),
    }
}

fn overflow() -> Option<Finding> {
    (number("/proc/sys/net/ipv4/tcp_abort_on_overflow")? != 0).then(|| {
        Finding::warning(
            "queue",
            "connections for which there is no room in the queue are reset, and would else try again",
            "sysctl -w net.ipv4.tcp_abort_on_overflow=0, and the line that sets it in /etc/sysctl.d away",
        )
    })
}

fn number(path: &str) -> Option<i64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn clock() -> Finding {
    const SET: &str = "timedatectl set-ntp true, or chronyd or ntpd";
    if clock::now() < WRITTEN {
        return Finding::problem("clock", "it is years behind: events would count in hours that are long gone", SET);
    }
    match is_synchronised() {
        Ok(true) => Finding::ok("clock", "it is kept right by the network's time"),
        Ok(false) => Finding::warning("clock", "nothing keeps it right: hours drift from those of other machines", SET),
        Err(error) => {
            Finding::warning("clock", format!("the kernel does not say whether anything keeps it right: {error}"), SET)
        }
    }
}

/// What the kernel was told by whoever keeps its clock, `adjtimex(2)`.
fn is_synchronised() -> io::Result<bool> {
    // SAFETY: a struct of integers, for which all zeros are a value: it asks for no change.
    let mut asked: libc::timex = unsafe { mem::zeroed() };
    // SAFETY: the kernel fills in what the pointer leads to, which lives until the call returns.
    let state = unsafe { libc::adjtimex(&raw mut asked) };
    match state {
        -1 => Err(io::Error::last_os_error()),
        state => Ok(state != libc::TIME_ERROR && asked.status & libc::STA_UNSYNC == 0),
    }
}
