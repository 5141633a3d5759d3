#!/usr/bin/env bash
# Every test of the workspace. The servers are the tests' own, on free ports, in a scratch directory; settings of a
# stack that runs on this machine are ignored. Ends with a summary, and with nothing left running, also when it is
# interrupted (INT, TERM, HUP).
set -euo pipefail
cd "$(dirname "$0")/.."

what=test
. infrastructure/scratch.sh
output=$(mktemp "${TMPDIR:-/tmp}/nexus-test-output-XXXXXX")
own+=("$output")

# Executables and tests at once: the tests start the planes that lie beside them, and dependencies are built once.
# With sabotage in all of them: loadgen/README.md says why.
run cargo build --workspace --bins --tests --features sabotage
target=${CARGO_TARGET_DIR:-target}
run "$target/debug/nexus" prepare

tests() {
    export TMPDIR=$scratch
    cargo test --workspace --features sabotage --no-fail-fast 2>&1 | tee "$output"
}
status=0
run tests || status=$?

all_gone || status=1

awk '/^test result:/ { passed += $4; failed += $6; ignored += $8; binaries++ }
    END { printf "\n%d passed, %d failed, %d ignored, in %d test binaries\n", passed, failed, ignored, binaries }' "$output"
# "test NAME ... FAILED", once each
{ grep -E '^test .* FAILED$' "$output" || true; } | sort -u
exit "$status"
