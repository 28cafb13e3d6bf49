#!/usr/bin/env bash
# Fetches from Debian what is measured beside Tallylight: rsyslog, syslog-ng, nginx, and h2load, with the libraries that are missing.
# They are unpacked in .test-env/peers and not installed (Debian's packages exclude one another), so nothing of
# them is started, now or with the machine. Does nothing where they are there.
set -euo pipefail
cd "$(dirname "$0")/.."
peers=${TALLYLIGHT_TEST_ENV:-$PWD/.test-env}/peers
packages=(rsyslog syslog-ng-core nginx nghttp2-client)

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

# a stamp says what the folder holds: made last, so that a run that was interrupted is done again
[ "$(cat "$peers/stamp" 2>/dev/null)" != "${packages[*]}" ] || exit 0

echo "install-peers: fetching from Debian: ${packages[*]}"
rm -rf "$peers"
mkdir -p "$peers/archives/partial" "$peers/root"
# apt fetches as a user of its own, where it may write
chmod 777 "$peers/archives/partial"
fetch() {
    as_root apt-get update -qq || return
    local package
    for package in "${packages[@]}"; do
        as_root apt-get install -y -qq --reinstall --no-install-recommends --download-only \
            -o Dir::Cache::archives="$peers/archives" "$package" || return
    done
    for package in "$peers"/archives/*.deb; do dpkg -x "$package" "$peers/root" || return; done
}
fetch >"$peers/apt.log" 2>&1 || { tail -n 20 "$peers/apt.log" >&2; exit 1; }
as_root rm -rf "$peers/archives"
echo "${packages[*]}" >"$peers/stamp"
