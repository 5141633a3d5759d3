# Ends what a test started, however the test ends. Reads `PID START_TIME` lines; when the pipe closes, its other end is
# gone, for whatever reason: every process on the list is ended, and the scratch directory ($1, may be empty) removed.
trap '' INT TERM HUP QUIT
processes=
while read -r pid start; do processes="$processes $pid:$start"; done

# alive PID START_TIME: whether that very process runs and is no zombie
alive() {
    stat=
    read -r stat 2>/dev/null <"/proc/$1/stat" || return 1
    wanted=$2
    set -- ${stat##*) }
    [ "$1" != Z ] && [ "${20}" = "$wanted" ]
}

# Stopped ones must run again to hear it. QUIT is Postgres' immediate shutdown, which also ends its children and frees
# its shared memory; the JVM would print its threads, so all but Postgres are killed outright.
for entry in $processes; do
    pid=${entry%%:*} start=${entry#*:}
    alive "$pid" "$start" || continue
    read -r name 2>/dev/null <"/proc/$pid/comm" || continue
    if [ "$name" = postgres ]; then
        kill -CONT "$pid" $(cat "/proc/$pid/task/$pid/children" 2>/dev/null) 2>/dev/null
        kill -QUIT "$pid" 2>/dev/null
    else
        kill -KILL "$pid" 2>/dev/null
    fi
done
tries=0
while [ $tries -lt 100 ]; do
    left=
    for entry in $processes; do alive "${entry%%:*}" "${entry#*:}" && left="$left ${entry%%:*}"; done
    [ -n "$left" ] || break
    [ $tries -lt 80 ] || kill -KILL $left 2>/dev/null
    tries=$((tries + 1))
    sleep 0.05
done
[ -z "$1" ] || rm -rf -- "$1"
