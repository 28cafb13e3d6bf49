#!/usr/bin/env bash
# Builds the fuzz targets for libFuzzer with the stable toolchain, and runs one of them or all.
#   fuzz/run.sh build
#   fuzz/run.sh run TARGET [argument of libFuzzer…]
#   fuzz/run.sh all [argument of libFuzzer…]
#   fuzz/run.sh merge TARGET FOLDER…
set -euo pipefail
cd "$(dirname "$0")/.."

triple=$(rustc -vV | sed -n 's/^host: //p')
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/fuzz

# What cargo-fuzz asks of rustc; all of it is LLVM's, so that no nightly is needed. There is no address sanitizer:
# unsafe code is in libraries and in the collector's map only.
coverage=(
    -Cpasses=sancov-module
    -Cllvm-args=-sanitizer-coverage-level=4
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
    -Cllvm-args=-sanitizer-coverage-pc-table
    -Cllvm-args=-sanitizer-coverage-trace-compares
    -Ccodegen-units=16
    --cfg=fuzzing
)

targets() { sed -n 's/^name = "\([a-z]*\)"$/\1/p' fuzz/Cargo.toml; }

build() {
    command -v c++ >/dev/null || command -v g++ >/dev/null || {
        echo "libFuzzer is C++: install g++ (apt-get install g++)" >&2
        exit 1
    }
    # with --target, build scripts and macros are spared
    RUSTFLAGS="${coverage[*]}" cargo build --quiet --profile fuzz --target "$triple" -p tallylight-fuzz \
        --features libfuzzer --bins
}

binary() { echo "$CARGO_TARGET_DIR/$triple/fuzz/$1"; }

run() {
    local target=$1 found="$CARGO_TARGET_DIR/found/$1"
    shift
    mkdir -p "$found" fuzz/corpus/"$target" fuzz/regressions/"$target"
    # what is new stays out of the repository until it is merged
    "$(binary "$target")" "$found" "fuzz/corpus/$target" "fuzz/regressions/$target" \
        -dict=fuzz/dictionary.txt -artifact_prefix="$CARGO_TARGET_DIR/found/$target-" -max_len=4096 -timeout=30 \
        -rss_limit_mb=2048 -print_final_stats=1 "$@"
}

case ${1:-all} in
    build) build ;;
    run)
        build
        run "${@:2}"
        ;;
    all)
        build
        for target in $(targets); do
            echo "== $target"
            run "$target" "${@:2}"
        done
        ;;
    merge)
        build
        mkdir -p "fuzz/corpus/$2"
        # places are enough: with how often each is reached, a corpus grows by thousands
        "$(binary "$2")" -set_cover_merge=1 -use_counters=0 -max_len=4096 -timeout=30 "fuzz/corpus/$2" "${@:3}"
        ;;
    *)
        echo "unknown: $1" >&2
        exit 2
        ;;
esac
