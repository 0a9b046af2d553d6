# shellcheck shell=bash
# shellcheck disable=SC2034  # hack/soak reads it
# The two guests: how they are started, and what keeps them busy.

SOAK_GUESTS=(soak-eve soak-plain)

scenarios_of() {
    case $1 in
        soak-eve) echo linux-console linux-agent http-soak-eve disk-writes passive ;;
        soak-plain) echo linux-serial-login linux-agent http-soak-plain log-label passive ;;
    esac
}

# The scenarios of all guests.
SOAK_WATCHES=$((5 * ${#SOAK_GUESTS[@]}))

# What `hack/lab up` is told of a guest.
options_of() {
    case $1 in
        soak-eve) echo --kernel 6.12 --wiring eve --disk --net --agent ;;
        soak-plain) echo --kernel 6.1 --wiring plain --login --disk --net --agent ;;
    esac
}

console_of() {
    case $1 in
        soak-eve) echo /dev/hvc0 ;;
        soak-plain) echo /dev/ttyS0 ;;
    esac
}

# The emulator of a busy host loses an interrupt of a guest that boots now and then: once more, then.
start_guest() {
    local options
    read -ra options < <(options_of "$1")
    hack/lab up "$1" "${options[@]}" >/dev/null || hack/lab up "$1" "${options[@]}" >/dev/null
    load "$1"
}

# One CPU never rests and the other half of the time; the disk is written and synced; the kernel and a
# process talk on the console.
load() {
    choose_guest "$1"
    # shellcheck disable=SC2016  # the guest's shell shall expand it
    in_guest 15 '
        (while :; do :; done) &
        (while :; do timeout 10 sh -c "while :; do :; done"; sleep 10; done) &
        (while :; do dd if=/dev/zero of=/data/load bs=64k count=16 conv=fsync 2>/dev/null; sleep 0.2; done) &
        (n=0; while n=$((n + 1)); do
            echo "lifesign-alive $n" >/dev/kmsg
            echo "noise $n: all is well" >'"$(console_of "$1")"'
            sleep 2
        done) &' >/dev/null 2>&1 || die "$1 takes no load: see $LAB_GUEST/console.log"
}

boot_id() { in_guest 5 cat /proc/sys/kernel/random/boot_id; }

is_booted_since() {
    local now
    now=$(boot_id) && [ -n "$now" ] && [ "$now" != "$1" ]
}

# await_boot GUEST BOOT: until it runs another boot than that. Where the emulator itself kills a guest
# that boots, it is started anew.
await_boot() {
    choose_guest "$1"
    local from=$SECONDS
    until is_booted_since "$2"; do
        if emulator_tripped; then
            tell "$1: the emulator tripped over its boot; it is started anew"
            restart "$1"
            return
        fi
        [ $((SECONDS - from)) -lt 120 ] || die "$1 does not come back: see $LAB_GUEST/console.log"
    done
    load "$1"
}
