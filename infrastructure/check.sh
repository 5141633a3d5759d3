#!/usr/bin/env bash
# Format, lints, licences, docs, the figures in README, and the compose file where something can read it. What can't be checked here says so.
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '== %s\n' "$*" >&2; }

step cargo fmt
cargo fmt --all --check
step cargo clippy
cargo clippy --workspace --all-targets --features sabotage --quiet -- -D warnings
step cargo doc
RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --quiet
step figures in README
cargo run --quiet -p loadgen -- splice --check README.md
step shell scripts
for script in .ci/run infrastructure/*.sh; do bash -n "$script"; done
step cargo deny
if cargo deny --version >/dev/null 2>&1; then
    cargo deny check licenses bans sources
else
    echo "skipped: cargo-deny is not installed (cargo install cargo-deny)" >&2
fi
step docker compose config
if docker compose version >/dev/null 2>&1; then
    docker compose -f infrastructure/docker-compose.yml --profile planes config --quiet
else
    echo "skipped: docker's compose plugin is not installed" >&2
fi
