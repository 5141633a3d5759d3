#!/usr/bin/env bash
# Every test of the workspace. The servers are the tests' own, on free ports, in a scratch directory; settings of a
# stack that runs on this machine are ignored. Ends with a summary, and with nothing left running.
set -euo pipefail
cd "$(dirname "$0")/.."

for name in $(compgen -e); do
    case $name in NEXUS_*) unset "$name" ;; esac
done

scratch=$(mktemp -d "${TMPDIR:-/tmp}/nexus-test-XXXXXX")
# The servers' accounts pass through it.
chmod 711 "$scratch"
output=$(mktemp "${TMPDIR:-/tmp}/nexus-test-output-XXXXXX")
trap 'rm -rf "$output"; rmdir "$scratch" 2>/dev/null || true' EXIT

# Executables and tests at once: the tests start the planes that lie beside them, and dependencies are built once.
# With sabotage in all of them: loadgen/README.md says why.
cargo build --workspace --bins --tests --features sabotage
target=${CARGO_TARGET_DIR:-target}
"$target/debug/nexus" prepare

status=0
TMPDIR=$scratch cargo test --workspace --features sabotage --no-fail-fast 2>&1 </dev/null | tee "$output" || status=$?

# Each test binary's servers end with it, a moment later.
for _ in $(seq 200); do
    [ -n "$(ls -A "$scratch")" ] || break
    sleep 0.1
done
if [ -n "$(ls -A "$scratch")" ]; then
    echo "left behind in $scratch:" >&2
    ls -A "$scratch" >&2
    status=1
fi

awk '/^test result:/ { passed += $4; failed += $6; ignored += $8; binaries++ }
    END { printf "\n%d passed, %d failed, %d ignored, in %d test binaries\n", passed, failed, ignored, binaries }' "$output"
# "test NAME ... FAILED", once each
{ grep -E '^test .* FAILED$' "$output" || true; } | sort -u
exit "$status"
