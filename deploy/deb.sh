#!/usr/bin/env bash
# Makes the Debian package of both programs in target/debian: what `make deb` runs, after it has built them. REVISION is
# Debian's part of the version, OUT another folder. What is in the package stands in collector/Cargo.toml, its scripts in deploy/debian.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo_deb_version=3.8.0
bin=target/release made=target/deb out=${OUT:-target/debian}

if [ "$(cargo deb --version 2>/dev/null || true)" != "$cargo_deb_version" ]; then
    cargo install --quiet --locked --version "$cargo_deb_version" cargo-deb
fi

rm -rf "$made"
mkdir -p "$made"/{bash,zsh,fish}
for program in tallylight-collector tallylight-compactor; do
    "$bin/$program" man "$made/man"
    "$bin/$program" completions bash >"$made/bash/$program"
    "$bin/$program" completions zsh >"$made/zsh/_$program"
    "$bin/$program" completions fish >"$made/fish/$program.fish"
done
mkdir -p "$out"
cargo deb --quiet --no-build --package tallylight-collector --deb-revision "${REVISION:-1}" --output "$out"
