# shellcheck shell=bash
# size of the agent as it is shipped, and its memory and CPU while it watches, against the limits

place=target/bench/footprint
seconds=30

need gcc libc6-dev openssl
say 'building the agent as it is shipped'
cargo build --locked --quiet --release --bin lifesign
rm -rf "$place"
hack/certs "$place" edge-1
hack/lab down bench >/dev/null 2>&1 || true
hack/lab up bench >/dev/null
agent_config >"$place/agent.yaml"
for app in 0 1 2 3 4 5 6 7 8 9; do
    # One guest ten times: what is measured is the agent. They ask in turn, as their beats differ.
    cat >>"$place/agent.yaml" <<EOF
  - name: app-$app
    uuid: 0f8fad5b-d9cb-469f-a165-70867728${app}${app}0e
    console: $PWD/target/lab/bench/cons
    qmp: $PWD/target/lab/bench/qmp
    consent: input
    scenarios: [linux-console: { initialDelay: 0s }]
EOF
done
target/release/lifesign run --config "$place/agent.yaml" 2>"$place/agent.log" &
agent=$!
trap 'kill $agent; hack/lab down bench >/dev/null' EXIT
say "watching 10 apps at 30 s, for $seconds s"
sleep "$seconds"

kib() { awk -v key="$1:" '$1 == key { print $2 }' "/proc/$agent/status"; }
ticks=$(awk '{ print $14 + $15 }' "/proc/$agent/stat")
ratio 'binary' "$(awk -v b="$(stat -c %s target/release/lifesign)" 'BEGIN { print b / 1048576 }')" 5 MiB
ratio 'resident, 10 apps, idle' "$(awk -v k="$(kib VmRSS)" 'BEGIN { print k / 1024 }')" 6 MiB
ratio 'of which anonymous' "$(awk -v k="$(kib RssAnon)" 'BEGIN { print k / 1024 }')" 6 MiB
ratio 'CPU, 10 apps at 30 s' "$(awk -v t="$ticks" -v s="$seconds" 'BEGIN { print t / s }')" 0.3 '%'
