# Sourced by the scripts that run servers of their own: `test.sh`, `bench.sh`. Says in $what what they run.
#
# Makes $scratch, which becomes TMPDIR of what is run and by which its processes are known, and takes the settings of a stack
# that runs on this machine away. Whatever is in the array $own goes at the end. INT, TERM and HUP end what was started,
# and the script, with nothing left running.

for name in $(compgen -e); do
    case $name in NEXUS_*) unset "$name" ;; esac
done

scratch=$(mktemp -d "${TMPDIR:-/tmp}/nexus-$what-XXXXXX")
# The servers' accounts pass through it.
chmod 711 "$scratch"
own=()
trap 'rm -rf "${own[@]}"; rmdir "$scratch" 2>/dev/null || true' EXIT

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

# The processes that were started with the scratch directory and that still run: they inherit its name. Servers that
# write over their environment are not found, but the shells that end them (src/supervisor.sh) are.
started() { grep -slzxF "TMPDIR=$scratch" /proc/[0-9]*/environ | sed -nE 's|^/proc/([0-9]+)/.*|\1|p' || true; }

# Servers end with what started them, a moment later: waits 20 s for that, and says what is left behind. Its status is
# whether nothing is.
all_gone() {
    for _ in $(seq 200); do
        [ -n "$(ls -A "$scratch")$(started)" ] || return 0
        sleep 0.1
    done
    echo "left behind in $scratch:" >&2
    ls -A "$scratch" >&2
    for pid in $(started); do tr '\0' ' ' <"/proc/$pid/cmdline" >&2 || true; echo "(pid $pid)" >&2; done
    return 1
}

# interrupted EXIT_CODE: ends everything. Servers end with what started them, a moment later.
interrupted() {
    trap '' INT TERM HUP PIPE
    set +e # the terminal may be gone, and with it whoever reads what is said here
    echo "interrupted: ending the $what and its servers" >&2
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
