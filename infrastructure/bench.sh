#!/usr/bin/env bash
# Every stage by itself, then the whole way of one command; servers are the benches' own, on free ports, in a scratch
# directory. Leaves a summary with the machine's fingerprint, and nothing running: not after Ctrl-C or a TERM either.
#
# Arguments go to the benches: infrastructure/bench.sh store runs those whose name contains it.
# BENCH_OUT: the folder of the summary (default: results/<date>-stages; of a part of the benches: target/bench).
# Needs the release build of all executables: `make bench` makes it.
set -euo pipefail
cd "$(dirname "$0")/.."

what=bench
. infrastructure/scratch.sh
target=${CARGO_TARGET_DIR:-target}
if [ "$#" -eq 0 ]; then out=results/$(date -u +%F)-stages; else out=$target/bench; fi
out=${BENCH_OUT:-$out}

# Criterion's own files, and the report until it is whole.
kept=$(mktemp -d "${TMPDIR:-/tmp}/nexus-bench-own-XXXXXX")
own+=("$kept")

run "$target/release/nexus" prepare
mkdir "$kept/report" "$kept/criterion"
benches() {
    export BENCH_OUT=$kept/report CRITERION_HOME=$kept/criterion TMPDIR=$scratch
    cargo bench -p bench --bench stages --bench latency_to_consistency -- "$@"
}
status=0
run benches "$@" || status=$?
all_gone || true
[ "$status" -eq 0 ] || { echo "a bench failed, exit $status" >&2; exit "$status"; }

[ -f "$kept/report/summary.md" ] || { echo "nothing was measured: no bench has $* in its name" >&2; exit 1; }
mkdir -p "$out"
cp "$kept"/report/* "$out/"
case $out in results/*) "$target/release/loadgen" report results >/dev/null ;; esac
cat "$out/summary.md"
echo "written to $out"
