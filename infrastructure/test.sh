#!/usr/bin/env bash
# Every test of the workspace. The servers are the tests' own, on free ports, in a scratch directory; settings of a
# stack that runs on this machine are ignored. Ends with a summary, and with nothing left running, also when it is
# interrupted (INT, TERM, HUP).
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

# Runs a command in a process group of its own, which an interruption can end as a whole. In the background, because bash
# runs no trap while it waits for a command in the foreground.
group=
run() {
    set -m
    "$@" </dev/null &
    group=$!
    set +m
    local status=0
    wait "$group" || status=$?
    group=
    return "$status"
}

# The processes that the tests have started and that still run: they inherit the scratch directory's name. Servers that
# write over their environment are not found, but the shells that end them (src/supervisor.sh) are.
started() { grep -slzxF "TMPDIR=$scratch" /proc/[0-9]*/environ | sed -nE 's|^/proc/([0-9]+)/.*|\1|p' || true; }

# gone DECISECONDS: waits until nothing of the tests runs or is there
gone() {
    for _ in $(seq "$1"); do
        [ -n "$(ls -A "$scratch")$(started)" ] || return 0
        sleep 0.1
    done
    return 1
}

# interrupted EXIT_CODE: ends everything. The tests' servers end with them, a moment later.
interrupted() {
    trap '' INT TERM HUP PIPE
    set +e # the terminal may be gone, and with it whoever reads what is said here
    echo "interrupted: ending the tests and their servers" >&2
    if [ -n "$group" ]; then
        kill -TERM -- "-$group" 2>/dev/null
        for _ in $(seq 20); do kill -0 -- "-$group" 2>/dev/null || break; sleep 0.1; done
        kill -KILL -- "-$group" 2>/dev/null
    fi
    # The shells that end the servers take up to 5 s, `nexus clean-data` of the launcher's tests sometimes more.
    for _ in $(seq 150); do [ -n "$(started)" ] || break; sleep 0.1; done
    for pid in $(started); do kill -KILL "$pid" 2>/dev/null; done
    rm -rf "$scratch"
    exit "$1"
}
trap 'interrupted 130' INT
trap 'interrupted 143' TERM
trap 'interrupted 129' HUP

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

# Each test binary's servers end with it, a moment later.
if ! gone 200; then
    echo "left behind in $scratch:" >&2
    ls -A "$scratch" >&2
    for pid in $(started); do tr '\0' ' ' <"/proc/$pid/cmdline" >&2 || true; echo "(pid $pid)" >&2; done
    status=1
fi

awk '/^test result:/ { passed += $4; failed += $6; ignored += $8; binaries++ }
    END { printf "\n%d passed, %d failed, %d ignored, in %d test binaries\n", passed, failed, ignored, binaries }' "$output"
# "test NAME ... FAILED", once each
{ grep -E '^test .* FAILED$' "$output" || true; } | sort -u
exit "$status"
