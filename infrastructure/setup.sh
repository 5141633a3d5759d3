#!/usr/bin/env bash
# Installs what this machine lacks for a native stack: PostgreSQL, Redis, a JDK, Maven and a C toolchain.
# Starts no service and makes no Postgres cluster: the launcher runs servers of its own. Run again: nothing to do.
set -euo pipefail

say() { printf '%s\n' "$*" >&2; }

if ! command -v cargo >/dev/null 2>&1 && [ ! -x "$HOME/.cargo/bin/cargo" ]; then
    say "Rust 1.95 or later is missing; get it with: curl --proto '=https' -sSf https://sh.rustup.rs | sh -s -- -y"
    exit 1
fi

# has_postgres: a server of version 15 or later, on PATH or where Debian puts it
has_postgres() {
    local dir version
    for dir in /usr/lib/postgresql/*/bin "$(dirname "$(command -v postgres || echo /nowhere/postgres)")"; do
        [ -x "$dir/postgres" ] && [ -x "$dir/initdb" ] || continue
        version=$("$dir/postgres" --version | sed -E 's/^[^0-9]*([0-9]+).*/\1/')
        [ "${version:-0}" -ge 15 ] && return 0
    done
    return 1
}

# java_major: the major version of the java on PATH, 0 when there is none
java_major() {
    command -v java >/dev/null 2>&1 || { echo 0; return; }
    java -version 2>&1 | sed -nE '1s/.*version "([0-9]+).*/\1/p' | grep . || echo 0
}

packages=()
has_postgres || packages+=(postgresql)
command -v redis-server >/dev/null 2>&1 || packages+=(redis-server)
command -v psql >/dev/null 2>&1 || packages+=(postgresql-client)
if ! command -v redpanda >/dev/null 2>&1; then
    [ "$(java_major)" -ge 17 ] || packages+=(default-jre-headless)
    command -v mvn >/dev/null 2>&1 || packages+=(maven)
fi
for tool in gcc g++ make curl; do command -v "$tool" >/dev/null 2>&1 || packages+=("$tool"); done
command -v setpriv >/dev/null 2>&1 || packages+=(util-linux)

if [ "${#packages[@]}" -eq 0 ]; then
    exit 0
fi
if ! command -v apt-get >/dev/null 2>&1; then
    say "missing: ${packages[*]} (Debian's names). This script installs with apt-get only; install them by hand, without starting their services."
    exit 1
fi
say "installing ${packages[*]}"

root=()
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null 2>&1 || { say "not root and no sudo: as root, run: apt-get install ${packages[*]}"; exit 1; }
    root=(sudo)
fi

# For the time of the install only: no default cluster, no service start. What stood there before comes back.
cluster_conf=/etc/postgresql-common/createcluster.d/nexus-no-cluster.conf
policy=/usr/sbin/policy-rc.d
policy_kept=
undo() {
    "${root[@]}" rm -f "$cluster_conf"
    [ -z "$made_dir" ] || "${root[@]}" rmdir --ignore-fail-on-non-empty "$made_dir"
    if [ -n "$policy_kept" ]; then "${root[@]}" mv -f "$policy_kept" "$policy"; else "${root[@]}" rm -f "$policy"; fi
}
made_dir=
[ -d "$(dirname "$cluster_conf")" ] || made_dir=$(dirname "$cluster_conf")
if [ -e "$policy.before-nexus" ]; then # a run of this script was killed: that one is the machine's own
    policy_kept=$policy.before-nexus
elif [ -e "$policy" ]; then
    policy_kept=$policy.before-nexus
    "${root[@]}" mv -f "$policy" "$policy_kept"
fi
trap undo EXIT
"${root[@]}" mkdir -p "$(dirname "$cluster_conf")"
echo 'create_main_cluster = false' | "${root[@]}" tee "$cluster_conf" >/dev/null
printf '#!/bin/sh\nexit 101\n' | "${root[@]}" tee "$policy" >/dev/null
"${root[@]}" chmod 755 "$policy"

install() {
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends \
        -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 install "${packages[@]}" >&2
}
install || { "${root[@]}" apt-get -qq update >&2; install; }

# Nor at the next boot: it would take the port that a stack of ours uses.
case " ${packages[*]} " in
    *" redis-server "*) "${root[@]}" systemctl --quiet disable redis-server.service >/dev/null 2>&1 || true ;;
esac
