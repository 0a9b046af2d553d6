# shellcheck shell=bash
# QEMU's monitor. The lab has one of its own, `lab.qmp`: `qmp` and
# `listener.qmp` serve one client each and belong to what is under test.

QMP_SECONDS=5

# qmp COMMAND [ARGUMENTS-AS-JSON]: prints the reply; fails when QEMU refuses.
qmp() {
    local command="\"execute\":\"$1\"" reply
    [ $# -lt 2 ] || command+=",\"arguments\":$2"
    reply=$(converse "$LAB_GUEST/lab.qmp" "$QMP_SECONDS" '"id": ?"lab"' "$ONCE" \
        "{\"execute\":\"qmp_capabilities\"}{$command,\"id\":\"lab\"}") ||
        die "QEMU of $LAB_NAME does not answer on $LAB_GUEST/lab.qmp: it is stopped or gone (hack/lab list)"
    reply=$(grep -E '"id": ?"lab"' <<<"$reply")
    [[ $reply != *'"error"'* ]] || die "QEMU of $LAB_NAME refuses $1: $reply"
    printf '%s\n' "$reply"
}

# hmp COMMAND: the human monitor, for what QMP has no command for.
hmp() {
    qmp human-monitor-command "{\"command-line\":\"$1\"}"
}

# The host's threads that run the guest's CPUs, in order. A thread-id of 0 is
# another thing: the place of the CPU in the guest's topology.
vcpu_threads() {
    qmp query-cpus-fast | grep -oE '"thread-id": ?[1-9][0-9]*' | grep -oE '[0-9]+$'
}

# vcpus_spin CPU...: these CPUs of the guest run without rest. What a thread
# waits for the host's own CPUs counts as running, or a busy host would hide it.
vcpus_spin() {
    local threads before after cpu
    mapfile -t threads < <(vcpu_threads)
    mapfile -t before < <(busy_ms "${threads[@]}")
    sleep 0.5
    mapfile -t after < <(busy_ms "${threads[@]}")
    for cpu in "$@"; do
        [ $((${after[cpu]:-0} - ${before[cpu]:-0})) -ge 450 ] || return 1
    done
}

# Running and waiting to run, by thread.
busy_ms() {
    local thread run wait
    for thread in "$@"; do
        read -r run wait _ <"/proc/$thread/schedstat" || return 1
        echo $(((run + wait) / 1000000))
    done
}
