//! The files that settings name: sites and keys.

use std::io::ErrorKind;
use std::path::Path;

use super::Finding;
use crate::keys::{self, KeysError};
use crate::settings::Settings;
use crate::sites::{Sites, SitesError};

/// Reads them as the collector would.
pub(super) fn check(settings: &Settings) -> Vec<Finding> {
    let mut findings = vec![sites(settings)];
    let files = [("udp-key", &settings.udp_key), ("redirect-key", &settings.redirect_key)];
    findings.extend(files.into_iter().filter_map(|(flag, file)| Some(keys(flag, file.as_deref()?))));
    let is_public = settings.udp_addrs().iter().any(|addr| !addr.ip().is_loopback());
    if is_public && settings.udp_key.is_none() && settings.udp_from.is_empty() {
        findings.push(Finding::warning(
            "datagrams",
            "--udp is open to everybody, and whoever sends a datagram can forge its address",
            "--udp-key FILE, or --udp-from CIDR",
        ));
    }
    findings
}

fn sites(settings: &Settings) -> Finding {
    match Sites::load(&settings.site, settings.site_file.as_deref()) {
        Ok(sites) => Finding::ok(
            "sites",
            sites
                .count()
                .map_or_else(|| "events of any site are taken".to_owned(), |count| format!("{count} are listed")),
        ),
        Err(error) => {
            let change = match &error {
                SitesError::Read { path, source } => readable(path, source.kind()),
                SitesError::NotAName { .. } => "one name without blanks a line, like shop.example".to_owned(),
                SitesError::Empty { path } => format!("one name a line in {}, like shop.example", path.display()),
            };
            Finding::problem("sites", error.to_string(), change)
        }
    }
}

fn keys(flag: &'static str, path: &Path) -> Finding {
    let shown = path.display();
    match keys::load(path) {
        Ok(keys) if keys.is_empty() => Finding::problem("keys", format!("--{flag} {shown} has none"), new_key(path)),
        Ok(keys) => {
            let signing = keys.signing().map(|key| key.id()).unwrap_or_default();
            Finding::ok("keys", format!("--{flag} {shown}: {}, and {signing} signs", keys.len()))
        }
        Err(error) => {
            let change = match &error {
                KeysError::Open { .. } => format!("chmod o= {shown}"),
                KeysError::Read { source, .. } if source.kind() == ErrorKind::NotFound => new_key(path),
                KeysError::Read { source, .. } => readable(path, source.kind()),
                KeysError::Parse { .. } => "ID HEX a line: 0 to 255, and 64 or more hex digits".to_owned(),
            };
            Finding::problem("keys", error.to_string(), change)
        }
    }
}

fn new_key(path: &Path) -> String {
    format!("(umask 027; echo \"1 $(openssl rand -hex 32)\" > {})", path.display())
}

fn readable(path: &Path, kind: ErrorKind) -> String {
    let (shown, gid) = (path.display(), rustix::process::getegid().as_raw());
    match kind {
        ErrorKind::PermissionDenied => format!("chgrp {gid} {shown}; chmod g+r {shown}"),
        _ => format!("a file at {shown}"),
    }
}
