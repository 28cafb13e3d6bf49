//! Whether the addresses can be had, and who has them otherwise.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;

use socket2::{Domain, Socket, Type};

use super::Finding;
use super::owners::{self, Owner, Protocol};
use crate::settings::Settings;

/// Looks at each address. `running` is a collector that runs on the same data.
pub(super) fn check(settings: &Settings, running: Option<&Owner>) -> Vec<Finding> {
    let http = settings.http_addrs().into_iter().map(|addr| ("http", Protocol::Tcp, addr));
    let udp = settings.udp_addrs().into_iter().map(|addr| ("udp", Protocol::Udp, addr));
    let admin = ("admin", Protocol::Tcp, settings.admin);
    let addrs: Vec<_> = http.chain(udp).chain([admin]).collect();
    let mut findings = Vec::new();
    for (n, (flag, protocol, addr)) in addrs.iter().enumerate() {
        let twice = addrs[..n].iter().find(|before| (before.1, before.2) == (*protocol, *addr) && addr.port() != 0);
        findings.push(match twice {
            Some((before, ..)) => Finding::problem(
                "ports",
                format!("--{flag} {addr} is the address of --{before} too"),
                format!("--{flag} with another port"),
            ),
            None => look(flag, *protocol, *addr, running),
        });
    }
    if !settings.admin.ip().is_loopback() {
        findings.push(Finding::warning(
            "admin port",
            format!("--admin {} answers whoever reaches it: it has no password", settings.admin),
            "--admin 127.0.0.1:9600, or a network of your own and a firewall",
        ));
    }
    findings
}

fn look(flag: &str, protocol: Protocol, addr: SocketAddr, running: Option<&Owner>) -> Finding {
    let at = format!("--{flag} {addr}");
    match bind(protocol, addr) {
        Ok(()) => Finding::ok("ports", format!("{at} is free")),
        Err(error) if error.kind() == ErrorKind::AddrInUse => taken(flag, &at, protocol, addr, running),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Finding::problem(
            "ports",
            format!("{at}: {error}: a port below 1024"),
            "let systemd open it (tallylight-collector.socket), or AmbientCapabilities=CAP_NET_BIND_SERVICE in the service",
        ),
        Err(error) if error.kind() == ErrorKind::AddrNotAvailable => Finding::problem(
            "ports",
            format!("{at} is no address of this machine"),
            format!("--{flag} with one that `ip address` shows, or 0.0.0.0:{} for all", addr.port()),
        ),
        Err(error) => Finding::problem("ports", format!("{at}: {error}"), format!("--{flag} with another address")),
    }
}

fn taken(flag: &str, at: &str, protocol: Protocol, addr: SocketAddr, running: Option<&Owner>) -> Finding {
    let taken = owners::of_port(protocol, addr);
    if let Some(ours) = taken.by.iter().find(|owner| Some(*owner) == running) {
        return Finding::ok("ports", format!("{at} is had by the collector that runs, {ours}"));
    }
    if let Some(systemd) = taken.by.iter().find(|owner| owner.name == "systemd") {
        return Finding::ok("ports", format!("{at} is had by {systemd}, to be handed over"));
    }
    match (taken.by.first(), running) {
        (Some(other), _) => Finding::problem(
            "ports",
            format!("{at} is taken by {other}"),
            format!("stop that program, or --{flag} with another port"),
        ),
        (None, Some(running)) => Finding::warning(
            "ports",
            format!("{at} is taken, perhaps by the collector that runs, {running}: only root can see by whom"),
            "run this as root",
        ),
        (None, None) if taken.is_roots => Finding::warning(
            "ports",
            format!("{at} is taken by root: all is well if it is systemd, with a socket of tallylight's"),
            "run this as root to see it",
        ),
        (None, None) => Finding::problem(
            "ports",
            format!("{at} is taken: only root can see by whom"),
            format!("run this as root to see it, or --{flag} with another port"),
        ),
    }
}

/// Binds it for a moment as the collector would. Nothing is accepted in that: it does not listen.
fn bind(protocol: Protocol, addr: SocketAddr) -> io::Result<()> {
    let kind = if protocol == Protocol::Tcp { Type::STREAM } else { Type::DGRAM };
    let socket = Socket::new(Domain::for_address(addr), kind, None)?;
    if protocol == Protocol::Tcp {
        socket.set_reuse_address(true)?;
    }
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&addr.into())
}
