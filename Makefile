# Two commands: `make up` runs everything on this machine, `make test` checks everything. `make help` lists the rest.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

NEXUS_HOME ?= .nexus
export NEXUS_HOME
TARGET := $(or $(CARGO_TARGET_DIR),target)
BIN := $(TARGET)/release
# Rust is often installed for a user without being on every shell's PATH.
export PATH := $(PATH):$(HOME)/.cargo/bin
# What a shell needs to talk to the running stack.
WITH_ENV = [ -f "$(NEXUS_HOME)/env" ] || { echo "no stack in $(NEXUS_HOME): make up" >&2; exit 1; }; \
	. "$(abspath $(NEXUS_HOME))/env"

.PHONY: help up down status logs demo test check bench peers setup build tools run-control run-dataplane cli import-debian \
	clean-data

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

up: build ## Everything from a fresh clone: install, build, start, and say how to use it
	@$(BIN)/nexus up

down: ## Stop the stack, keep its data
	@[ ! -x $(BIN)/nexus ] || $(BIN)/nexus down

status: ## What runs, and whether it answers
	@$(WITH_ENV); $(BIN)/nexus status

logs: ## The ends of all logs
	@$(WITH_ENV); $(BIN)/nexus logs

demo: up ## A short load with a live picture
	@$(WITH_ENV); $(BIN)/loadgen run --rate 500 --duration 20s --out $(TARGET)/demo

test: ## Every test, with servers of its own on free ports; leaves nothing running
	@infrastructure/setup.sh
	@infrastructure/test.sh

check: ## Format, lints, licences, docs
	@infrastructure/setup.sh
	@infrastructure/check.sh

bench: build ## Every stage by itself and the whole way of one command, with servers of its own; a summary in results/: make bench ARGS=store
	@infrastructure/bench.sh $(ARGS)

peers: build ## The comparison with other systems, with servers of its own: make peers ARGS="--only ingest,reads --repeats 3"
	@cargo run --release -p bench --features peers --bin peers -- $(ARGS)

setup: build ## Install what the machine lacks, build, fetch the broker; start nothing
	@$(BIN)/nexus prepare

tools:
	@infrastructure/setup.sh

build: tools
	@cargo build --release --workspace --bins

run-control: build ## The control plane in the foreground, against the stack's servers
	@$(WITH_ENV); exec $(BIN)/nexus-control serve

run-dataplane: build ## The data plane in the foreground, against the stack's servers
	@$(WITH_ENV); exec $(BIN)/nexus-dataplane serve

cli: ## nexus-cli against the running stack: make cli ARGS="list"
	@$(WITH_ENV); exec $(BIN)/nexus-cli $(ARGS)

import-debian: ## Debian's package index as signals, some 60,000 of them
	@command -v apt-cache >/dev/null || { echo "apt-cache is missing: this needs Debian" >&2; exit 1; }
	@$(WITH_ENV); apt-cache dumpavail | $(BIN)/nexus debian-index > $(TARGET)/debian.jsonl; \
		exec $(BIN)/nexus-cli import $(TARGET)/debian.jsonl

clean-data: ## Stop the stack and remove its data, keys, ports and logs
	@[ ! -x $(BIN)/nexus ] || $(BIN)/nexus clean-data
