#!/usr/bin/env bash
# Every stage by itself, then the whole way of one command; servers are the benches' own, on free ports, in a scratch
# directory. Leaves a summary with the machine's fingerprint, and nothing running: not after Ctrl-C or a TERM either.
#
# Arguments go to the benches: infrastructure/bench.sh store runs those whose name contains it.
# BENCH_OUT: the folder of the summary (default: results/<date>-stages; of a part of the benches: target/bench).
# Needs the release build of all executables: `make bench` makes it.
set -euo pipefail
cd "$(dirname "$0")/.."

for name in $(compgen -e); do
    case $name in NEXUS_*) unset "$name" ;; esac
done
target=${CARGO_TARGET_DIR:-target}
if [ "$#" -eq 0 ]; then out=results/$(date -u +%F)-stages; else out=$target/bench; fi
out=${BENCH_OUT:-$out}

scratch=$(mktemp -d "${TMPDIR:-/tmp}/nexus-bench-XXXXXX")
# The servers' accounts pass through it.
chmod 711 "$scratch"
# Criterion's own files, and the report until it is whole.
own=$(mktemp -d "${TMPDIR:-/tmp}/nexus-bench-own-XXXXXX")
job=

finish() {
    trap - EXIT INT TERM HUP
    # Cargo and what it runs are a process group of their own; the servers end with the bench that started them.
    [ -z "$job" ] || kill -TERM -- "-$job" 2>/dev/null || true
    for _ in $(seq 200); do
        [ -n "$(ls -A "$scratch")" ] || break
        sleep 0.1
    done
    rm -rf "$own"
    rmdir "$scratch" 2>/dev/null || { echo "left behind in $scratch:" >&2; ls -A "$scratch" >&2; }
}
trap finish EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

"$target/release/nexus" prepare
mkdir "$own/report" "$own/criterion"
# A group of its own, which INT and TERM reach (a job in the background of a script ignores INT).
set -m
BENCH_OUT=$own/report CRITERION_HOME=$own/criterion TMPDIR=$scratch \
    cargo bench -p bench --bench stages --bench latency_to_consistency -- "$@" </dev/null &
job=$!
set +m
status=0
wait "$job" || status=$?
job=
[ "$status" -eq 0 ] || { echo "a bench failed, exit $status" >&2; exit "$status"; }

[ -f "$own/report/summary.md" ] || { echo "nothing was measured: no bench has $* in its name" >&2; exit 1; }
mkdir -p "$out"
cp "$own"/report/* "$out/"
case $out in results/*) "$target/release/loadgen" report results >/dev/null ;; esac
cat "$out/summary.md"
echo "written to $out"
