# `make` lists the targets. On Debian, what is missing is installed with apt (as root, or by sudo).

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Both feature sets share every dependency of the plain one: 26 crates more, nothing is built twice but ddl.
FULL := --features mpi,turbojpeg

# Integration tests that the plain build does not repeat, by part of their names: they start many processes,
# take long, or need the examples, and see nothing of the pixel code, which is where the two builds differ.
FULL_ONLY := mpi killed slurm rust_example photographs

CARGO := cargo
# nextest, where it is installed, names a test that hangs; cargo's own runner does the rest.
ifneq ($(shell command -v cargo-nextest),)
RUN_TESTS := $(CARGO) nextest run --locked
else
RUN_TESTS := $(CARGO) test --locked
endif

# What the tests need is there: a test that finds it missing fails instead of skipping.
test-plain test-full: export TESTS_MUST_RUN := 1

.PHONY: help demo clean-demo build test test-plain test-full test-needs lint fmt clippy doc typos deny bench

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## the whole pipeline on a built-in image server, into demo/, anew each time (the first build takes 6 to 15 minutes)
	scripts/install-debian.sh plain
	$(CARGO) run --locked -- demo demo/ --force

clean-demo: ## remove demo/
	rm -rf demo

build: ## target/release/ddl with MPI and libjpeg-turbo (the first build takes half an hour)
	scripts/install-debian.sh full
	$(CARGO) build --locked --release $(FULL)

test: test-plain test-full ## all tests, of both feature sets, MPI included

test-full: test-needs .venv/requirements.txt ## all tests with MPI and libjpeg-turbo
	$(CARGO) test --locked $(FULL) --doc
	$(CARGO) build --locked $(FULL) --examples
	$(RUN_TESTS) $(FULL) --lib --bins --tests

test-plain: test-needs .venv/requirements.txt ## the tests of the plain build
	$(RUN_TESTS) --lib
	$(RUN_TESTS) --test it -- $(addprefix --skip ,$(FULL_ONLY))

test-needs:
	scripts/install-debian.sh full
	scripts/install-debian.sh slurm
	scripts/install-debian.sh browser
	scripts/install-debian.sh engines

# The copy says what the environment holds: it is made last, so an interrupted installation is done again.
.venv/requirements.txt: scripts/requirements.txt
	scripts/install-debian.sh python
	python3 -m venv .venv
	.venv/bin/python3 -m pip install --quiet --disable-pip-version-check --only-binary :all: --no-binary jsonpath-rw,ply --requirement $<
	cp $< $@

lint: fmt typos clippy doc ## formatting, spelling, clippy and rustdoc; warnings are errors

fmt: ## formatting
	$(CARGO) fmt --check

clippy: ## clippy, for both feature sets
	scripts/install-debian.sh full
	$(CARGO) clippy --locked --all-targets -- -D warnings
	$(CARGO) clippy --locked --all-targets $(FULL) -- -D warnings

doc: ## the library's documentation, in target/doc/
	scripts/install-debian.sh full
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --no-deps --lib $(FULL)

BENCH := target/bench
BENCH_PYTHON := $(BENCH)/venv/bin/python

bench: build $(BENCH)/venv/requirements.txt ## the tables of docs/BENCHMARKS.md (nginx, img2dataset, DuckDB, Spark)
	scripts/install-debian.sh bench
	$(CARGO) build --locked --release $(FULL) --example pixel_floor
	$(BENCH_PYTHON) benches/peers.py --ddl target/release/ddl --work $(BENCH)/peers --floor target/release/examples/pixel_floor
	$(BENCH_PYTHON) benches/ingest.py --ddl target/release/ddl --work $(BENCH)/ingest
	$(BENCH_PYTHON) benches/export.py --ddl target/release/ddl --work $(BENCH)/export

$(BENCH)/venv/requirements.txt: benches/requirements.txt
	scripts/install-debian.sh python
	python3 -m venv $(BENCH)/venv
	$(BENCH_PYTHON) -m pip install --quiet --disable-pip-version-check --requirement $<
	cp $< $@

typos: .venv/requirements.txt ## spelling
	.venv/bin/typos

deny: ## licences, advisories and sources of the dependencies (needs cargo-deny and, for advisories, the network)
	@command -v cargo-deny >/dev/null || { echo 'error: install it with `cargo install --locked cargo-deny`' >&2; exit 1; }
	$(CARGO) deny --locked check
