#!/usr/bin/env bash
# Installs from PyPI the batch engines that are measured beside the compactor, in .test-env/engines (1.3 GB). Does nothing where
# they are there.
set -euo pipefail
cd "$(dirname "$0")/.."
engines=${TALLYLIGHT_TEST_ENV:-$PWD/.test-env}/engines
packages=(duckdb==2.0.0 polars==2.1.0 chdb==4.4.0 datafusion==55.0.0)

# a stamp says what the folder holds: made last, so that a run that was interrupted is done again
[ "$(cat "$engines/stamp" 2>/dev/null)" != "${packages[*]}" ] || exit 0

echo "install-engines: installing from PyPI: ${packages[*]}"
rm -rf "$engines"
python3 -m venv "$engines"
"$engines/bin/pip" install --quiet --disable-pip-version-check "${packages[@]}"
echo "${packages[*]}" >"$engines/stamp"
