#!/usr/bin/env bash
# Runs both programs on this machine until Ctrl-C, and says what is where. For trying out: a service is run by
# deploy/systemd. DATA, HTTP, UDP, COLLECTOR_ADMIN and COMPACTOR_ADMIN may be set in the environment.
set -euo pipefail
cd "$(dirname "$0")/.."
data=${DATA:-data}
http=${HTTP:-127.0.0.1:5000}
udp=${UDP:-127.0.0.1:5001}
collector_admin=${COLLECTOR_ADMIN:-127.0.0.1:9600}
compactor_admin=${COMPACTOR_ADMIN:-127.0.0.1:9601}
bin=${BIN:-target/release}

mkdir -p "$data"
collector='' compactor='' stopping=''

# One SIGTERM each, and both are waited for: the collector seals its log, the compactor commits what it has.
stop_both() {
    [ -z "$stopping" ] || return 0
    stopping=yes
    local status=0 pid
    for pid in $collector $compactor; do kill -TERM "$pid" 2>/dev/null || true; done
    for pid in $collector $compactor; do wait "$pid" || status=$?; done
    return $status
}
interrupted() {
    printf '\nstopping both ...\n'
    local status=0
    stop_both || status=$?
    [ $status != 0 ] || echo "stopped; the data stays in $data"
    exit $status
}
# a signal that comes while the programs are being stopped changes nothing
trap interrupted INT TERM HUP
trap 'stop_both || true' EXIT

is_ready() {
    local host=${1%:*} port=${1##*:} line=''
    { exec 3<>"/dev/tcp/$host/$port"; } 2>/dev/null || return 1
    printf 'GET /readyz HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n' "$1" >&3
    IFS= read -r -t 2 line <&3 || true
    exec 3>&-
    [[ $line == *" 200 "* ]]
}
wait_ready() { # name, pid, admin address
    local deadline=$((SECONDS + 30))
    until is_ready "$3"; do
        if ! kill -0 "$2" 2>/dev/null; then
            echo "the $1 ended at its start: see above" >&2
            exit 1
        fi
        if [ $SECONDS -ge $deadline ]; then
            echo "the $1 is not ready after 30 seconds" >&2
            exit 1
        fi
        sleep 0.1
    done
}

# what the demo signs its links in e-mails with: nobody else's
key=$data/redirect.key
[ -e "$key" ] || (umask 077 && echo "1 $(od -An -v -tx1 -N32 /dev/urandom | tr -d ' \n')" >"$key")

# setsid: the terminal's Ctrl-C is for this script, which then tells each of them once
setsid "$bin/tallylight-collector" --demo --redirect-key "$key" --http "$http" --udp "$udp" --admin "$collector_admin" --data "$data" &
collector=$!
wait_ready collector $collector "$collector_admin"
setsid "$bin/tallylight-compactor" --follow --every 2s --admin "$compactor_admin" --data "$data" &
compactor=$!
wait_ready compactor $compactor "$compactor_admin"

cat <<TEXT

  Tallylight runs. Click a book, then look at the hourly file two seconds later.

  demo bookshop      http://$http/demo/
  the client         http://$http/beacon.js
  beacon             http://$http/api/beacon?event=hello      (&debug=1 shows how it is understood)
  datagrams          $udp      (echo 'event=hello' > /dev/udp/${udp/:/\/})
  collector's admin  http://$collector_admin/metrics          also /healthz, /readyz, /udp/sources
  compactor's admin  http://$compactor_admin/metrics          also /healthz, /readyz
  log                $data/log/
  hourly Parquet     $data/out/hourly/

  each event         $bin/tallylight-compactor inspect --data $data
  the hours          duckdb -c "select hour_start, site, event, target, events, visitors
                                from '$data/out/hourly/*/*/*.parquet' order by all"

  Ctrl-C stops both.

TEXT

# returns when the first of them ends, which neither should
status=0
wait -n $collector $compactor || status=$?
kill -0 $collector 2>/dev/null && ended=compactor || ended=collector
echo "the $ended ended by itself (status $status): stopping the other" >&2
stop_both || true
exit 1
