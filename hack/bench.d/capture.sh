# shellcheck shell=bash
# bytes and seconds of each level of a capture, of guests with 60 and with 1,000 tasks
#
# A capture is `lifesign capture --level LEVEL --out FILE` as an operator runs it, the round of questions
# included, of a guest on a serial line that is well and lets every key through. Its bytes are those of the
# evidence, and of the file, which is compressed and sealed. The peer, in the same run: all tasks as a person
# would have them, SysRq `t` alone, and how long a serial line of 115,200 baud would take for that text. The
# lines of emulated guests are faster than that, real ones and those that a slow client reads are not.

place=target/bench/capture
columns='| %5s | %-9s | %7s | %8s | %7s | %11s | %14s |\n'

# fill TASKS: more processes that sleep, until the guest has so many tasks.
fill() {
    # shellcheck disable=SC2016 # expanded by the guest's shell
    hack/lab sh bench "(while [ \$(ls -d /proc/[0-9]* | wc -l) -lt $1 ]; do
            for one in 1 2 3 4 5 6 7 8 9 10; do sleep 1000000 & done
        done) >/dev/null 2>&1 &"
    for _ in $(seq 60); do
        [ "$(tasks)" -lt "$1" ] || return 0
        sleep 1
    done
    die "the guest does not come to have $1 tasks"
}

# Those of processes and of the kernel.
# shellcheck disable=SC2016 # expanded by the guest's shell
tasks() { hack/lab sh bench 'ls -d /proc/[0-9]*/task/* | wc -l'; }

now() { echo "${EPOCHREALTIME/[.,]/}"; }

said() { stat -c %s target/lab/bench/console.log; }

# per A B: how many B are in A.
per() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.2f", a / b }'; }

# as_wire SECONDS: how often a serial line would take so long for the text of `t`, 10 bits a byte.
as_wire() { per "$1" "$(per $((text * 10)) 115200)"; }

# alone: SysRq `t` by a process of the guest; sets `text` to its bytes, and `seconds`.
alone() {
    local before from last=-1 since
    before=$(said) from=$(now) since=$from
    hack/lab sh bench '(echo t >/proc/sysrq-trigger) >/dev/null 2>&1 &'
    # A dump has pauses; none is as long as two seconds.
    until [ $(($(now) - since)) -gt 2000000 ]; do
        [ "$(said)" = "$last" ] || since=$(now) last=$(said)
        sleep 0.1
    done
    text=$((last - before)) seconds=$(per $((since - from)) 1000000)
}

# level TASKS LEVEL: a capture, as a line.
level() {
    local from seconds evidence sealed
    from=$(now)
    target/release/lifesign capture --config "$place/agent.yaml" web --level "$2" --out "$place/$2-$1" >/dev/null
    seconds=$(per $(($(now) - from)) 1000000)
    evidence=$(target/release/lifesign show --config "$place/agent.yaml" --json "$place/$2-$1" |
        jq '[.bundle.artifacts[].bytes] | add')
    sealed=$(stat -c %s "$place/$2-$1")
    # shellcheck disable=SC2059 # the columns are ours
    printf "$columns" "$1" "$2" "$seconds" "$(per "$evidence" 1024)" "$(per "$sealed" 1024)" \
        "$(per "$sealed" "$text")" "$(as_wire "$seconds")"
}

need gcc jq libc6-dev openssl
say 'building the agent as it is shipped'
cargo build --locked --quiet --release --bin lifesign
rm -rf "$place"
hack/certs "$place" edge-1
agent_config >"$place/agent.yaml"
cat >>"$place/agent.yaml" <<EOF
  - name: web
    uuid: 0f8fad5b-d9cb-469f-a165-708677289501
    console: $PWD/target/lab/bench/cons
    console-log: $PWD/target/lab/bench/console.log
    qmp: $PWD/target/lab/bench/qmp
    consent: input
    scenarios: [linux-console]
EOF
hack/lab down bench >/dev/null 2>&1 || true
trap 'hack/lab down bench >/dev/null' EXIT
hack/lab up bench --wiring plain --sysrq all >/dev/null
# shellcheck disable=SC2059 # the columns are ours
{
    printf "$columns" tasks level seconds evidence file 'file / text' 'seconds / wire'
    printf "$columns" '----:' --- '---:' '---:' '---:' '---:' '---:'
}
for want in 60 1000; do
    fill "$want"
    count=$(tasks)
    alone
    # shellcheck disable=SC2059 # the columns are ours
    printf "$columns" "$count" '`t` alone' "$seconds" "$(per "$text" 1024)" '' '' "$(as_wire "$seconds")"
    for name in headline first full; do
        level "$count" "$name"
    done
done
