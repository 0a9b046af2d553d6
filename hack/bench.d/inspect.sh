# shellcheck shell=bash
# a look at a guest's kernel, against a dump, drgn, crash and SysRq-t; and that the guest does not notice
#
# One guest with 200 tasks is asked in each of the ways, in the same run; at the end it has 2,000. A look is `lifesign inspect`, as a
# person takes it, with its own start and its JSON; the second that it waits between its two looks is
# no CPU. The first knows nothing of the kernel, the next what the first has learnt.
#
# The dump is `dump-guest-memory` into a file in RAM or on disk, wherever target/ is; the guest stands
# still from its event STOP to RESUME. drgn reads that dump with Debian's debug symbols, unpacked before,
# and does less: it lists tasks and unwinds those that sleep, and finds no locks, log or verdict. crash reads
# the same dump with the same symbols, for all stacks, the log and the list of tasks. It is Debian trixie's,
# for bookworm's is older than these kernels. SysRq-t is the guest's own: `echo t >/proc/sysrq-trigger` with its console at level 8.
#
# That the guest does not notice: QEMU's monitor is listened to meanwhile, and in the guest a process
# that never sleeps reads the clock and keeps the longest gap, in turn with looks and without. Gaps are
# the host's doing too: what its CPUs did otherwise while the guest's wanted to run is told beside.
#
# LIFESIGN_BENCH_PARTS: which of the parts, of looks, dump, drgn, crash, sysrq, gaps and many, in this order;
# `looks` is what others are compared to, and `dump` what drgn and crash read. All if nothing is said.
#
# LIFESIGN_BENCH_TURNS: how often 20 looks are taken in turn with none; 5 if nothing is said, 1 is the
# short form.

place=target/bench/inspect
cache=$place/cache
turns=${LIFESIGN_BENCH_TURNS:-5}
parts=${LIFESIGN_BENCH_PARTS:-looks dump drgn crash sysrq gaps many}
lifesign=target/release/lifesign
crash=$PWD/target/tools/crash
tasks=200
many=2000
# 20 looks, each with a second between its two.
seconds=22
# Debian's debug symbols come in packages of up to 900 MB; more than this takes too long.
symbols_bytes=400000000
TIMEFORMAT='%3U %3S %3R'

lab() { hack/lab "$@"; }

# look: takes one; what it saw is $place/seen. Prints seconds of CPU, peak KiB, bytes read, reads.
look() {
    local cpu peak
    cpu=$({ time /usr/bin/time -f %M -o "$place/peak" "$lifesign" inspect --config "$place/agent.yaml" bench --json \
        >"$place/seen"; } 2>&1) || die "the look failed: $cpu"
    peak=$(cat "$place/peak")
    sed -nE 's/.*"cost":\{"bytes":([0-9]+),"reads":([0-9]+)\}.*/\1 \2/p' "$place/seen" |
        awk -v cpu="$cpu" -v peak="$peak" '{ split(cpu, part, " "); print part[1] + part[2], peak, $1, $2 }'
}

# looks COUNT COMMAND: as many, with COMMAND before each, and their means.
looks() {
    for _ in $(seq "$1"); do
        $2
        look
    done | awk '{ cpu += $1; bytes += $3; reads += $4; if ($2 > peak) peak = $2 }
        END { printf "%.4f %d %d %d\n", cpu / NR, peak, bytes / NR, reads / NR }'
}

forget() { rm -rf "$place/state/kernels"; }

# The monitor of the lab, whose events are kept from now on in $place/events.
listen() {
    rm -f "$place/asked"
    mkfifo "$place/asked"
    exec 7<>"$place/asked"
    socat -t 3600 - "UNIX-CONNECT:target/lab/bench/lab.qmp" <"$place/asked" >"$place/events" &
    listener=$!
    echo '{"execute":"qmp_capabilities"}' >&7
}

# answered ID: waits for the monitor's answer to the command of this id.
answered() {
    until grep -qE "\"id\": ?\"$1\"" "$place/events"; do
        kill -0 "$listener" 2>/dev/null || die 'the monitor is gone'
        sleep 0.1
    done
    ! grep -E "\"id\": ?\"$1\"" "$place/events" | grep '"error"' >&2 || die "the monitor refuses $1"
}

# events [NAME]: when there were any since it was listened to, in milliseconds, and which.
events() {
    sed -nE 's/.*"seconds": ?([0-9]+), ?"microseconds": ?([0-9]+)\}.*"event": ?"([A-Z_]+)".*/\1 \2 \3/p' "$place/events" |
        awk -v name="${1-}" 'name == "" || $3 == name { printf "%.0f %s\n", 1000 * $1 + $2 / 1000, $3 }'
}

# fill COUNT: so many tasks, those of the kernel included.
fill() {
    lab sh -t 300 bench "set -- /proc/[0-9]*; n=\$#; while [ \$n -lt $1 ]; do sleep 100000 & n=\$((n + 1)); done" >/dev/null
}

start_guest() {
    lab down bench >/dev/null 2>&1 || true
    lab up bench --sysrq all --memory 1024 >/dev/null
    fill "$tasks"
    gcc -Os -static -nostdlib -fno-stack-protector -fno-asynchronous-unwind-tables -fno-pic -no-pie \
        -Wl,--build-id=none,-N,-s,-z,noseparate-code,--no-warn-rwx-segments -o "$place/gap" hack/bench.d/gap.c
    lab sh bench "echo $(gzip -9c "$place/gap" | base64 -w 0) | base64 -d | gunzip >/run/gap; chmod +x /run/gap"
    agent_config >"$place/agent.yaml"
    cat >>"$place/agent.yaml" <<END
  - name: bench
    uuid: $(cat target/lab/bench/uuid)
    console: $PWD/target/lab/bench/cons
    qmp: $PWD/target/lab/bench/qmp
    consent: input
    scenarios: [linux-console]
END
}

measure_looks() {
    local reads
    looks 5 forget >"$place/mean"
    read -r cpu_first peak_first bytes_first reads <"$place/mean"
    echo "first look: $cpu_first s of CPU, $((bytes_first / 1024)) KiB in $reads reads, peak $((peak_first / 1024)) MiB"
    ratio 'first look: CPU' "$cpu_first" 0.5 s
    ratio 'first look: read' "$((bytes_first / 1024))" 65536 KiB
    ratio 'first look: peak memory' "$peak_first" 32768 KiB
    forget
    look >/dev/null
    looks 20 true >"$place/mean"
    read -r cpu_next peak_next bytes_next reads <"$place/mean"
    echo "next look: $cpu_next s of CPU, $((bytes_next / 1024)) KiB in $reads reads, peak $((peak_next / 1024)) MiB;" \
        "what was learnt is $(stat -c %s "$place"/state/kernels/*) bytes"
    ratio 'next look: CPU' "$cpu_next" 0.03 s
    ratio 'next look: peak memory' "$peak_next" 32768 KiB
    ratio 'next look: CPU / first' "$cpu_next" "$cpu_first" s
    ratio 'next look: read / first' "$bytes_next" "$bytes_first" B
    echo "of both, the program's start and its config alone: $(nothing) s of CPU"
}

# What it takes to start and to read the config: the mean of 20.
nothing() {
    for _ in $(seq 20); do
        { time "$lifesign" check --config "$place/agent.yaml" >/dev/null; } 2>&1
    done | awk '{ cpu += $1 + $2 } END { printf "%.4f\n", cpu / NR }'
}

measure_dump() {
    local from to dump_bytes stopped went_on still_ms
    listen
    from=$(now_ms)
    echo '{"execute":"dump-guest-memory","arguments":{"paging":false,"protocol":"file:'"$PWD/$place"'/dump"},"id":"dump"}' >&7
    answered dump
    to=$(now_ms)
    kill "$listener"
    dump_bytes=$(stat -c %s "$place/dump")
    read -r stopped _ < <(events STOP)
    read -r went_on _ < <(events RESUME)
    still_ms=$((went_on - stopped))
    echo "dump-guest-memory: $((to - from)) ms, $((dump_bytes / 1048576)) MiB; the guest stood still for $still_ms ms"
    ratio 'first look: CPU / dump'"'"'s time' "$cpu_first" "$(awk -v ms=$((to - from)) 'BEGIN { print ms / 1000 }')" s
}

now_ms() { echo "${EPOCHREALTIME/./}" | sed 's/...$//'; }

# Sets `debug` to the kernel with Debian's debug symbols, or tells why there is none.
fetch_symbols() {
    local release package size
    release=$(lab sh bench uname -r)
    package=linux-image-$release-dbg
    debug=$cache/vmlinux-$release
    [ ! -e "$debug" ] || return 0
    size=$(apt-cache show "$package" 2>/dev/null | sed -n 's/^Size: //p' | head -n 1)
    [ -n "$size" ] || { echo "debug symbols: Debian's archive has no $package"; return 1; }
    [ "$size" -le $symbols_bytes ] || { echo "debug symbols: $package has $((size / 1000000)) MB, which is too much for a benchmark"; return 1; }
    say "fetching $package, $((size / 1000000)) MB"
    (cd "$cache" && { [ -n "$(compgen -G "$package"_*.deb)" ] || apt-get download -qq "$package" 2>/dev/null; }) ||
        { echo "debug symbols: $package cannot be downloaded"; return 1; }
    dpkg-deb --fsys-tarfile "$cache/$package"_*.deb | tar -xO --wildcards "*/vmlinux-$release" >"$debug.new"
    mv "$debug.new" "$debug"
}

measure_drgn() {
    local tasks stacks frames version cpu
    fetch_symbols || return 0
    [ -x "$cache/venv/bin/python" ] || python3 -m venv "$cache/venv"
    "$cache/venv/bin/python" -c 'import drgn' 2>/dev/null || "$cache/venv/bin/pip" install -q drgn ||
        { echo 'drgn: it cannot be had from PyPI'; return 0; }
    cpu=$({ time /usr/bin/time -f %M -o "$place/peak" "$cache/venv/bin/python" hack/bench.d/drgn_tasks.py \
        "$place/dump" "$debug" >"$place/drgn" 2>"$place/drgn.log"; } 2>&1) ||
        { echo "drgn: it does not read the dump: $(tail -n 1 "$place/drgn.log")"; return 0; }
    read -r tasks stacks frames version <"$place/drgn"
    awk -v cpu="$cpu" -v tasks="$tasks" -v stacks="$stacks" -v frames="$frames" -v peak="$(cat "$place/peak")" -v version="$version" 'BEGIN {
        split(cpu, part, " ")
        printf "drgn %s on that dump: %.3f s of CPU, %.3f s, peak %d MiB; %d tasks, %d stacks of %d calls\n", version,
            part[1] + part[2], part[3], peak / 1024, tasks, stacks, frames }'
    cpu=$(awk '{ print $1 + $2 }' <<<"$cpu")
    ratio 'first look: CPU / drgn'"'"'s' "$cpu_first" "$cpu" s
    ratio 'next look: CPU / drgn'"'"'s' "$cpu_next" "$cpu" s
    ratio 'first look: memory / drgn'"'"'s' "$peak_first" "$(cat "$place/peak")" KiB
}

# Sets `trixie` to a command that runs crash of Debian trixie with its own libraries.
fetch_crash() {
    local libraries=lib/x86_64-linux-gnu
    trixie=("$crash/usr/$libraries/ld-linux-x86-64.so.2" --library-path "$crash/usr/$libraries" "$crash/usr/bin/crash")
    [ ! -e "$crash.whole" ] || return 0
    need debootstrap
    say 'fetching crash of Debian trixie'
    rm -rf "$crash"
    mkdir -p "$crash"
    as_root debootstrap --variant=minbase --include=crash trixie "$crash" http://deb.debian.org/debian >"$crash.log" 2>&1 ||
        { echo "crash: it cannot be had: $(tail -n 1 "$crash.log")"; return 1; }
    touch "$crash.whole"
}

measure_crash() {
    local cpu stacks version read
    { fetch_symbols && fetch_crash; } || return 0
    printf 'foreach bt\nlog\nps\nquit\n' >"$place/asked.crash"
    # What a process that ended has read is its parent's to tell.
    # shellcheck disable=SC2016
    cpu=$({ time /usr/bin/time -f %M -o "$place/peak" bash -c '"$@"; code=$?; sed -n "s/^rchar: //p" "/proc/$$/io" >&3; exit $code' - \
        "${trixie[@]}" -s -i "$place/asked.crash" "$debug" "$place/dump" \
        3>"$place/read" >"$place/crash" 2>"$place/crash.log" </dev/null; } 2>&1) ||
        { echo "crash: it does not read the dump: $(grep -m 1 crash: "$place/crash.log")"; return 0; }
    stacks=$(grep -c '^PID: ' "$place/crash") || true
    read=$(cat "$place/read")
    version=$("${trixie[@]}" --version | sed -n 's/^crash //p' | head -n 1)
    awk -v cpu="$cpu" -v stacks="$stacks" -v peak="$(cat "$place/peak")" -v read="$read" -v version="$version" 'BEGIN {
        split(cpu, part, " ")
        printf "crash %s on that dump: %.3f s of CPU, %.3f s, peak %d MiB, %d MiB read; %d stacks\n", version,
            part[1] + part[2], part[3], peak / 1024, read / 1048576, stacks }'
    cpu=$(awk '{ print $1 + $2 }' <<<"$cpu")
    ratio 'crash: CPU / first look'"'"'s' "$cpu" "$cpu_first" s
    ratio 'crash: CPU / next look'"'"'s' "$cpu" "$cpu_next" s
    ratio 'crash: memory / first look'"'"'s' "$(cat "$place/peak")" "$peak_first" KiB
    ratio 'crash: read / first look'"'"'s' "$read" "$bytes_first" B
}

measure_sysrq() {
    local before after took
    before=$(stat -c %s target/lab/bench/console.log)
    took=$(lab sh -t 120 bench 'echo 8 >/proc/sys/kernel/printk
        a=$(cut -d " " -f 1 /proc/uptime); echo t >/proc/sysrq-trigger; b=$(cut -d " " -f 1 /proc/uptime); echo $a $b')
    sleep 2
    after=$(stat -c %s target/lab/bench/console.log)
    took=$(awk '{ print $2 - $1 }' <<<"$took")
    echo "SysRq-t: $took s in the guest until it was printed, $(((after - before) / 1024)) KiB of console"
    ratio 'next look: CPU / SysRq-t'"'"'s time' "$cpu_next" "$took" s
}

# What the guest's CPUs waited for the host's, in ms.
waited_ms() { awk '{ sum += $2 } END { print int(sum / 1000000) }' /proc/"$(cat target/lab/bench/pid)"/task/*/schedstat; }

# turn NAME COUNT: a gap is looked for while so many looks are taken, or nothing is done.
turn() {
    local waited
    waited=$(waited_ms)
    lab sh -t 60 bench "/run/gap $seconds" >"$place/gap.out" &
    local gap=$!
    for _ in $(seq "$2"); do
        look >/dev/null
    done
    wait $gap
    echo "$(cat "$place/gap.out") $(($(waited_ms) - waited))" >>"$place/gaps.$1"
}

measure_gaps() {
    rm -f "$place"/gaps.*
    listen
    for _ in $(seq "$turns"); do
        turn idle 0
        turn looks 20
    done
    echo '{"execute":"query-status","id":"status"}' >&7
    answered status
    kill "$listener"
    echo "during $((turns * 20)) looks the monitor told $(events | wc -l) events$(events | awk '{ printf " %s", $2 }');" \
        "after them the guest is $(sed -nE '/"id": ?"status"/ s/.*"status": ?"([a-z-]+)".*/\1/p' "$place/events")"
    for kind in idle looks; do
        awk -v kind=$kind -v seconds=$seconds '{ longest = $1 > longest ? $1 : longest; sum += $1; ms += $2; ten += $3; hundred += $4; waited += $6 }
            END { printf "gaps, %-5s %3d s: longest %.1f ms (mean of the longest in %d turns %.1f ms), %d over 1 ms, %d over 10 ms, %d over 100 ms; the host let it wait for %d ms\n",
                kind, NR * seconds, longest / 1000, NR, sum / NR / 1000, ms, ten, hundred, waited }' "$place/gaps.$kind"
    done
    longest() { sort -n "$place/gaps.$1" | awk '{ all[NR] = $1 / 1000 } END { print all[int((NR + 1) / 2)] }'; }
    ratio 'median longest gap: looks / idle' "$(longest looks)" "$(longest idle)" ms
}

# seen_tasks: how many the last look saw.
seen_tasks() { grep -o '"tgid":' "$place/seen" | wc -l; }

# What a task costs, in a guest of many and in one of few.
measure_many() {
    local few start cpu peak bytes reads
    start=$(nothing)
    look >/dev/null
    few=$(seen_tasks)
    fill "$many"
    look >/dev/null
    looks 10 true >"$place/mean"
    read -r cpu peak bytes reads <"$place/mean"
    echo "next look at $(seen_tasks) tasks: $cpu s of CPU, $((bytes / 1024)) KiB in $reads reads, peak $((peak / 1024)) MiB"
    per() { awk -v figure="$1" -v tasks="$2" 'BEGIN { print figure / tasks }'; }
    us() { awk -v cpu="$1" -v start="$start" 'BEGIN { print (cpu - start) * 1000000 }'; }
    ratio 'CPU a task: many / few' "$(per "$(us "$cpu")" "$(seen_tasks)")" "$(per "$(us "$cpu_next")" "$few")" us
    ratio 'read a task: many / few' "$(per "$bytes" "$(seen_tasks)")" "$(per "$bytes_next" "$few")" B
    ratio 'many tasks: peak memory' "$peak" 32768 KiB
    ratio 'many tasks: read' "$((bytes / 1024))" 65536 KiB
}

need gcc libc6-dev openssl python3 python3-venv socat time
mkdir -p "$cache"
say 'building the agent as it is shipped'
cargo build --locked --quiet --release --bin lifesign
hack/certs "$place" edge-1
trap 'kill ${listener-} 2>/dev/null || true; hack/lab down bench >/dev/null; rm -f "$place/dump"' EXIT
start_guest
for part in $parts; do
    "measure_$part"
done
