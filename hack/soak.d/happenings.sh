# shellcheck shell=bash
# shellcheck disable=SC2154  # set by hack/soak
# What happens to the guests, the host and the agent meanwhile.

HAPPENINGS=(
    'paused soak-eve' 'reboot soak-plain' 'kill_agent' 'console_taken soak-eve' 'busy_host'
    'restart soak-plain' 'paused soak-plain' 'reboot soak-eve' 'console_taken soak-plain' 'restart soak-eve'
)

burners=()

let_it_happen() {
    local end=$((SECONDS + minutes * 60)) at=0 killed=no happening
    pause_seconds=75
    [ "$minutes" -ge 5 ] || pause_seconds=25
    while [ $((end - SECONDS)) -gt $((pause_seconds + 20)) ]; do
        happening=${HAPPENINGS[at++ % ${#HAPPENINGS[@]}]}
        # Once: afterwards it must run long enough to tell whether it grows.
        [ "$happening$killed" != kill_agentyes ] || continue
        [ "$happening" != kill_agent ] || killed=yes
        # shellcheck disable=SC2086  # what happens, and to whom
        $happening
        sleep 15
    done
    sleep $((end > SECONDS ? end - SECONDS : 0))
    wait_until 180 all_healthy || note_wrong "not every scenario is healthy in the end: $(apps)"
}

paused() {
    tell "$1 is paused for $pause_seconds s"
    choose_guest "$1"
    qmp stop >/dev/null
    sleep "$pause_seconds"
    qmp cont >/dev/null
}

reboot() {
    choose_guest "$1"
    local boot from=$SECONDS
    boot=$(boot_id) || die "$1 does not answer the lab"
    in_guest 1 reboot -f >/dev/null || true
    await_boot "$1" "$boot"
    tell "$1 rebooted by itself, in $((SECONDS - from)) s"
}

restart() {
    local from=$SECONDS
    hack/lab down "$1"
    start_guest "$1"
    write_scenarios
    tell "$1 was ended and started again, in $((SECONDS - from)) s"
}

kill_agent() {
    kill -KILL "$agent"
    wait "$agent" 2>/dev/null || true
    sleep 3
    start_agent
    tell 'the agent was killed and started again'
    wait_until 180 all_healthy || note_wrong "not every scenario is healthy after the agent's start: $(apps)"
    note_size begin
}

# A person works on the console for a while, and leaves in the middle of a word.
console_taken() {
    tell "somebody takes the console of $1 for 40 s"
    {
        printf 'echo a person was here\n'
        sleep 40
        printf 'ls -'
    } | socat - "UNIX-CONNECT:target/lab/$1/cons" >/dev/null
}

busy_host() {
    local burner
    tell 'the host is busy for 40 s'
    for _ in 1 2 3; do
        (while :; do :; done) &
        burners+=($!)
    done
    sleep 40
    for burner in "${burners[@]}"; do
        kill "$burner"
    done
    wait "${burners[@]}" 2>/dev/null || true
    burners=()
}
