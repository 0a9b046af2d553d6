# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154  # shared with hack/soak
# Both programs, and how they are asked. The log of the agent tells every round.

# As they are shipped, but for the pace, which is six times as fast. To log in takes a busy guest as long as
# it takes, so that has the time that is shipped.
pace() {
    case $1 in
        linux-serial-login) echo '{ period: 15s, timeout: 15s, initialDelay: 60s }' ;;
        *) echo '{ period: 5s, timeout: 3s, initialDelay: 60s }' ;;
    esac
}

# A port that is free now.
free_port() {
    local port
    while :; do
        port=$((20000 + RANDOM % 20000))
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
    done
    echo "$port"
}

configure() {
    mkdir -p "$place/devices" "$place/scenarios" "$place/secrets"
    hack/certs "$place" edge-1
    cp "$place/edge-1.pem" "$place/devices/"
    (
        umask 077
        printf lab >"$place/secrets/user"
        printf open-sesame >"$place/secrets/password"
    )
    local broker
    broker=$(free_port) agent_http=$(free_port) controller_http=$(free_port)
    cat >"$place/controller.yaml" <<EOF
listen: 127.0.0.1:$broker
http: 127.0.0.1:$controller_http
data: data
devices: devices
tls: { certificate: controller.pem, key: controller.key, ca: ca.pem }
EOF
    cat >"$place/agent.yaml" <<EOF
device: edge-1
state: state
certificate: edge-1.pem
key: edge-1.key
broker: { url: "mqtts://127.0.0.1:$broker", ca: ca.pem }
http: 127.0.0.1:$agent_http
log: { level: "lifesign=debug" }
scenarios: scenarios
secrets: secrets
apps:
$(for guest in "${SOAK_GUESTS[@]}"; do app "$guest"; done)
EOF
    write_scenarios
}

# app GUEST: its lines in the config of the agent.
app() {
    local files=$PWD/target/lab/$1 scenario
    cat <<EOF
  - name: $1
    uuid: $(cat "$files/uuid")
    console: $files/cons
    console-log: $files/console.log
    qmp: $files/qmp
    guest-agent: $files/qga
    addresses: [127.0.0.1]
    consent: input
    secrets:
      console-user: { file: user }
      console-password: { file: password }
    scenarios:
EOF
    for scenario in $(scenarios_of "$1"); do
        echo "      - $scenario: $(pace "$scenario")"
    done
}

# The shipped ones, with times within which a busy guest writes, and the port that QEMU chose.
write_scenarios() {
    local name guest port
    for name in linux-console linux-serial-login linux-agent disk-writes log-label passive; do
        sed -E 's/within: [0-9]+m/within: 30s/' "scenarios/$name.yaml" >"$place/scenarios/$name.yaml"
    done
    for guest in "${SOAK_GUESTS[@]}"; do
        port=$(cut -d: -f2 "target/lab/$guest/net")
        sed -E "s/^scenario: .*/scenario: http-$guest/; s|:8080/health|:$port/|" \
            scenarios/http-service.yaml >"$place/scenarios/new"
        mv "$place/scenarios/new" "$place/scenarios/http-$guest.yaml"
    done
}

start_controller() {
    target/debug/lifesign-controller run --config "$place/controller.yaml" >/dev/null 2>"$place/controller.log" &
    controller=$!
}

start_agent() {
    target/debug/lifesign run --config "$place/agent.yaml" >/dev/null 2>>"$place/agent.log" &
    agent=$!
}

apps() { curl -sf -m 5 "http://127.0.0.1:$agent_http/apps"; }

all_healthy() {
    local said
    kill -0 "$agent" 2>/dev/null || die "the agent has stopped: see $place/agent.log"
    said=$(apps) && [ "$(grep -o '"state":"healthy"' <<<"$said" | wc -l)" -eq $SOAK_WATCHES ]
}

await_health() {
    wait_until 180 all_healthy || die "not every scenario is healthy within 180 s: $(apps)"
    tell 'every scenario is healthy'
    note_size begin
}

# Once a second, what the agent's page says; nothing while there is no agent.
watch_states() {
    while :; do
        apps >>"$place/states" && echo >>"$place/states" || true
        sleep 1
    done
}

# note_size WHEN: the agent's memory and files. Rounds come and go: the least of a few looks counts.
note_size() {
    local kib=0 files=0 least_kib=999999999 least_files=999999999
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        kib=$(awk '$1 == "VmRSS:" { print $2 }' "/proc/$agent/status")
        files=$(find "/proc/$agent/fd" -mindepth 1 | wc -l)
        [ "$kib" -ge "$least_kib" ] || least_kib=$kib
        [ "$files" -ge "$least_files" ] || least_files=$files
        sleep 0.3
    done
    printf -v "kib_$1" %s "$least_kib"
    printf -v "files_$1" %s "$least_files"
}
