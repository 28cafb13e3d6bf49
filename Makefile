# `make run` tries Tallylight out, `make test` runs every test. Both need Rust and a C compiler, and Debian.

# Where `make run` keeps the log and writes the Parquet files: make run DATA=/tmp/shop
DATA ?= data
export DATA

.PHONY: help build run test mutants test-env browsers client soak soak-programs soak-kills soak-simulation restarts deb test-deb image test-image fmt lint bench-all bench-micro bench-log bench-http \
	bench-counters bench-udp bench-hostile bench-compact bench-growth fuzz clean
.DEFAULT_GOAL := help

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 12

build: ## release binaries of both programs, in target/release
	cargo build --release --bins -p tallylight-collector -p tallylight-compactor

run: build ## collector with the demo bookshop, and the compactor, until Ctrl-C (DATA=folder)
	@deploy/run.sh

test: test-env ## installs what the tests need, then runs all of them
	cargo test --workspace --no-fail-fast

# make mutants ONLY=crc: those whose names begin so; ONLY=proto: those of that list
ONLY ?=
mutants: ## sabotages the committed code a line at a time, and sees that the tests catch each (ONLY=beginning of names)
	@ONLY=$(ONLY) compactor/tests/mutants/run.py

test-env: ## what the tests need from Debian, PyPI and npm, in .test-env
	@deploy/test-env.sh

# Clicks of each kind in each state: make browsers CLICKS=20
CLICKS ?= 8
browsers: test-env ## clicks in Chromium, Firefox and WebKitGTK while the collector is in every state, as a table (CLICKS=number)
	@deploy/test-env.sh webkit
	CLICKS=$(CLICKS) cargo test -p tallylight-compactor --test it browsers::matrix -- --include-ignored --nocapture --test-threads=1

# How long: make soak MINUTES=30. How often: make soak KILLS=200. How many lives on a simulated machine: make soak SEEDS=20000,
# of which FIRST_SEED is the first.
MINUTES ?= 30
soak: $(if $(SEEDS),soak-simulation,$(if $(KILLS),soak-kills,soak-programs)) ## both programs under a changing load, kills, full disks and clock jumps, then the audit (MINUTES=number)

soak-programs: test-env
	MINUTES=$(MINUTES) cargo test --release -p tallylight-compactor --test it soak::for_as_long -- --ignored --nocapture

soak-kills: test-env
	KILLS=$(KILLS) cargo test --release -p tallylight-compactor --test it soak::kills -- --nocapture

soak-simulation:
	SEEDS=$(SEEDS) cargo test --release -p tallylight-compactor --test simulation every_promise -- --nocapture

# New connections a second, and how often: make restarts RATE=2000 RESTARTS=20
RATE ?= 2000
RESTARTS ?= 20
restarts: test-env ## the collector is started again under load, and refuses, cuts off and loses nobody (RATE=a second RESTARTS=number)
	RATE=$(RATE) RESTARTS=$(RESTARTS) cargo test --release -p tallylight-compactor --test it restarts:: -- --nocapture

# REVISION: Debian's part of the version
deb: build ## the Debian package of both programs, in target/debian
	@deploy/deb.sh

test-deb: build ## installs, upgrades under load and purges the package in a Debian with systemd (RATE=new connections a second)
	@deploy/test-env.sh
	@deploy/test-env.sh debian
	@REVISION=1 OUT=target/debian/older deploy/deb.sh
	@REVISION=2 deploy/deb.sh
	RATE=$(RATE) cargo test -p tallylight-compactor --test it deb::the_package -- --ignored --nocapture

# ENGINE: docker, podman or buildah. IMAGE: its name, without the version
ENGINE ?= docker
IMAGE ?= tallylight
image: ## the container image of both programs (ENGINE=docker IMAGE=name)
	$(ENGINE) build --file deploy/docker/Dockerfile \
		--tag $(IMAGE):$$(sed -n '/^\[workspace.package\]/,/^$$/s/^version = "\(.*\)"/\1/p' Cargo.toml) --tag $(IMAGE):latest .

test-image: ## builds the image on a base of our own, and has its programs in a pod as Kubernetes makes it
	@deploy/test-env.sh
	@deploy/test-env.sh image
	cargo test -p tallylight-compactor --test it containers::image::the_image -- --ignored --nocapture

client: test-env ## makes collector/client/beacon.min.js from beacon.js
	node collector/client/minify.mjs "$${TALLYLIGHT_TEST_ENV:-.test-env}/node_modules" > collector/client/beacon.min.js.new
	@mv collector/client/beacon.min.js.new collector/client/beacon.min.js

fmt: ## formats the code
	cargo fmt --all

lint: ## format, lints and documentation, as CI wants them
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

bench-all: bench-micro bench-log bench-http bench-udp bench-compact bench-hostile ## all comparisons: some three hours

bench-micro: ## each step of an event's way, beside the obvious way to do it
	cargo run --release -p tallylight-benches -- micro --json target/bench-micro.json

bench-log: ## appending to the log, beside write(2)
	cargo run --release -p tallylight-benches -- log --json target/bench-log.json

bench-http: ## beacons over HTTP, beside nginx with a buffered log
	@benches/install-peers.sh
	cargo build --release -p tallylight-collector
	cargo run --release -p tallylight-benches -- http --json target/bench-http.json

bench-counters: test-env ## records what a request costs in instructions, allocations and system calls
	cargo build --release -p tallylight-collector
	cargo run --release -p tallylight-benches -- counters --record benches/counters.json

bench-udp: ## taking datagrams, beside rsyslog, syslog-ng and a bare loop
	@benches/install-peers.sh
	cargo build --release -p tallylight-collector
	cargo run --release -p tallylight-benches -- udp --json target/bench-udp.json

bench-hostile: ## honest clients' latency and losses while the collector is attacked, beside quiet times
	cargo build --release -p tallylight-collector
	cargo run --release -p tallylight-benches -- hostile --rounds 3

# make bench-compact EVENTS=10M
EVENTS ?= 1M
bench-compact: ## log → hourly Parquet, beside DuckDB, ClickHouse, Polars and DataFusion (EVENTS=number)
	@benches/install-engines.sh
	cargo build --release -p tallylight-compactor
	cargo run --release -p tallylight-benches -- compact --events $(EVENTS) --rounds 4 --json target/bench-compact.json

bench-growth: ## what the compactor costs as its ids become 100 million (10 GB of disk), or groups more
	cargo build --release -p tallylight-compactor
	cargo run --release -p tallylight-benches -- growth --rounds 1 --json target/bench-growth.json
	cargo run --release -p tallylight-benches -- growth --rounds 4 --up-to 4M --step 4M --targets 50,500,5k,50k --json target/bench-groups.json

# One target, so many executions: make fuzz TARGET=decoder RUNS=1000000
TARGET ?=
RUNS ?= -1
SECONDS_EACH ?= 20
fuzz: ## made-up bytes for all that is read from others, 20 s a target (TARGET=name RUNS=number)
	@fuzz/run.sh $(if $(TARGET),run $(TARGET) -runs=$(RUNS),all -runs=$(RUNS) -max_total_time=$(SECONDS_EACH))

clean: ## all that was built, but neither data nor .test-env
	cargo clean
