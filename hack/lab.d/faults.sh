# shellcheck shell=bash
# The ways to break a guest. Each function returns when its fault can be seen
# to be in effect, and says so; none waits longer than its limit.

# NAME|what it needs|what it does
FAULTS='
panic|module|the kernel panics and stays so
oops|module|a process dies of a null pointer in the kernel; the guest goes on
irq-off|module|one CPU takes no more interrupts (the last one, or CPU)
irq-off-all|module|no CPU takes interrupts any more
soft-lockup|module|one CPU takes interrupts but never schedules (the last one, or CPU)
spin-lock|module|one CPU waits, interrupts off, for a spin lock never released (the last one, or CPU)
mutex-deadlock|module|two tasks take two mutexes in opposite order; a kernel thread, a process and the console shells wait for them
fs-freeze|disk|the file system on /data is frozen; its writer and the console shells wait for it
disk-stall|disk|the host stops completing what the disk is asked for
io-error|disk|every access to the disk fails
oom|module|the kernel leaks all memory until the OOM killer has killed every process but PID 1
userspace-stopped||every process but PID 1 gets SIGSTOP
userspace-spin|module|realtime processes take all CPUs for themselves
init-exit||PID 1 ends, and the kernel panics of it
console-flood||a process writes to the console without end
net-down|net|the network cable is pulled
paused||QEMU pauses the guest (QMP stop)
vmm-stopped||QEMU itself gets SIGSTOP
'

guest_break() {
    choose_guest "$1"
    local fault=${2:-} cpu=${3:-} needs about_fault known
    IFS='|' read -r known needs about_fault < <(grep "^$fault|" <<<"$FAULTS") || {
        say "break wants one of these faults, not '$fault':"
        list_faults >&2
        exit 1
    }
    require_guest
    [ -z "$needs" ] || [ "$(about "$needs")" = yes ] ||
        die_without "$needs"
    choose_cpu
    CONSOLE_BEFORE=$(console_size)
    "break_${known//-/_}"
    echo "$LAB_NAME is broken: $about_fault"
}

die_without() {
    [ "$1" != module ] ||
        die "$fault needs our module, and for Linux $(about kernel) it cannot be built: see hack/lab.d/archive.sh"
    die "$fault needs a guest with --$1, and $LAB_NAME was started without: hack/lab down $LAB_NAME; hack/lab up $LAB_NAME --$1"
}

list_faults() {
    local name needs about_fault
    while IFS='|' read -r name needs about_fault; do
        [ -z "$name" ] ||
            printf '  %-18s %s%s\n' "$name" "$about_fault" "${needs:+ (needs $needs)}"
    done <<<"$FAULTS"
}

choose_cpu() {
    local last=$(($(about smp) - 1))
    [ -n "$cpu" ] || cpu=$last
    if ! [[ $cpu =~ ^[0-9]{1,2}$ ]] || [ "$cpu" -gt "$last" ]; then
        die "$LAB_NAME has no CPU '$cpu': it has 0 to $last"
    fi
}

# The kernel is broken.

break_panic() {
    tell_kernel panic
    expect 15 'the panic on the console' console_says 'end Kernel panic'
}

break_init_exit() {
    in_background 'kill -USR1 1'
    expect 15 'the panic on the console' console_says 'end Kernel panic'
}

break_oops() {
    tell_kernel oops
    expect 15 'the oops on the console' console_says 'end trace'
}

break_irq_off() {
    tell_kernel "irq-off $cpu"
    expect 10 "CPU $cpu spinning" vcpus_spin "$cpu"
}

break_irq_off_all() {
    tell_kernel irq-off-all
    expect 10 'all CPUs spinning' all_vcpus_spin
}

break_soft_lockup() {
    tell_kernel "soft-lockup $cpu"
    expect 10 "CPU $cpu spinning" vcpus_spin "$cpu"
}

break_spin_lock() {
    tell_kernel "spin-lock $cpu"
    expect 10 "CPU $cpu spinning" vcpus_spin "$cpu"
}

break_mutex_deadlock() {
    tell_kernel mutex-deadlock
    in_background lab-bystander
    expect 10 'the deadlock' tasks_blocked lab_order_ab lab_order_ba lab_bystander lab-bystander
    wake_consoles
    expect 30 'the console shells waiting' consoles_blocked
}

# An idle guest asks for no memory and would not notice: our questions do. If
# PID 1 restarted what is killed, it would soon be the only one to ask, and with
# nobody left to kill the kernel panics.
break_oom() {
    in_guest 5 'touch /run/rest-in-peace' || die_deaf
    tell_kernel leak
    expect 60 'the OOM killer on the console' oom_kills
    expect 20 'processes not answering' guest_silent
}

# Processes are broken.

break_userspace_stopped() {
    in_background 'kill -STOP -1'
    expect 15 'processes not answering' guest_silent
}

# Newer kernels have two provisions to let others run: a share of time that
# realtime tasks may not take, and a server for the tasks of the fair class.
break_userspace_spin() {
    # shellcheck disable=SC2016  # expanded by the guest's shell
    in_guest 5 'echo -1 >/proc/sys/kernel/sched_rt_runtime_us
        for share in /sys/kernel/debug/sched/fair_server/*/runtime; do
            [ ! -e $share ] || echo 0 >$share
        done' || die_deaf
    in_background "for cpu in \$(seq 0 $(($(about smp) - 1))); do
            taskset \$(printf %x \$((1 << cpu))) lab-spin &
        done"
    expect 10 'all CPUs spinning' all_vcpus_spin
    expect 15 'processes not answering' guest_silent
}

break_console_flood() {
    in_background "lab-flood $(about console)"
    expect 10 'the flood on the console' console_grew 20000
}

# Devices are broken.

break_fs_freeze() {
    in_background 'fsfreeze --freeze /data'
    expect 10 'the writer waiting' tasks_blocked lab-heartbeat
    wake_consoles
    expect 30 'the console shells waiting' trails_blocked
}

# A byte a second: the request under way completes within an hour.
break_disk_stall() {
    qmp block_set_io_throttle '{"id":"/machine/peripheral/virtio-disk0/virtio-backend","bps":1,"bps_rd":0,"bps_wr":0,"iops":0,"iops_rd":0,"iops_wr":0}' >/dev/null
    expect 20 'the writer waiting' writer_stays_blocked
}

# A layer that fails goes between the disk's device and its image.
break_io_error() {
    local node
    node=$(qmp query-block | grep -oE '"node-name": ?"[^"]+"' | head -n 1 | cut -d '"' -f 4)
    qmp blockdev-add "{\"driver\":\"blkdebug\",\"node-name\":\"lab-broken\",\"image\":\"$node\",\"inject-error\":[{\"event\":\"none\",\"errno\":5}]}" >/dev/null
    qmp qom-set '{"path":"/machine/peripheral/virtio-disk0","property":"drive","value":"lab-broken"}' >/dev/null
    expect 20 'I/O errors in the kernel log' in_guest 5 'dmesg | grep -q "I/O error, dev vda"'
}

break_net_down() {
    qmp set_link '{"name":"net0","up":false}' >/dev/null
    expect 10 'the link down in the guest' in_guest 5 'grep -q 0 /sys/class/net/eth0/carrier'
}

break_paused() {
    qmp stop >/dev/null
}

break_vmm_stopped() {
    kill -STOP "$(cat "$LAB_GUEST/pid")"
    expect 5 'QEMU stopped' grep -q '^State:.*T' "/proc/$(cat "$LAB_GUEST/pid")/status"
}

# What they are made of.

tell_kernel() {
    in_background "echo $1 >/proc/lab"
}

# The pause lets the answer out before the guest can give none any more; an
# emulated CPU of another architecture is slow to give it.
in_background() {
    local pause_us=300000
    [ "$(about arch)" != arm64 ] || pause_us=2000000
    in_guest 5 "(usleep $pause_us; $1) >/dev/null 2>&1 &" || die_deaf
}

die_deaf() {
    die "$LAB_NAME does not answer on $LAB_GUEST/lab.sock, so that this fault cannot be brought in: it is broken already, or was not up"
}

# expect SECONDS WHAT COMMAND...
expect() {
    local seconds=$1 what=$2
    shift 2
    wait_until "$seconds" "$@" ||
        die "$LAB_NAME was told to break, but $what could not be seen within $seconds s: look at $LAB_GUEST/console.log"
}

console_size() { stat -c %s "$LAB_GUEST/console.log"; }

console_grew() { [ $(($(console_size) - CONSOLE_BEFORE)) -ge "$1" ]; }

console_says() {
    tail -c "+$((CONSOLE_BEFORE + 1))" "$LAB_GUEST/console.log" | grep -a "$1" >/dev/null
}

oom_kills() {
    in_guest 1 true || true
    console_says 'Out of memory: Killed process'
}

all_vcpus_spin() {
    # shellcheck disable=SC2046  # one word for each CPU
    vcpus_spin $(seq 0 $(($(about smp) - 1)))
}

guest_silent() { ! in_guest 1 true; }

# Ctrl-C makes a waiting shell touch its terminal and prompt anew.
wake_consoles() {
    # shellcheck disable=SC2016  # expanded by the guest's shell
    in_guest 5 'kill -INT $(cat /run/console.*)' || die_deaf
}

# Behind another writer a shell waits for its turn, which is no uninterruptible
# sleep.
consoles_blocked() {
    # shellcheck disable=SC2016  # expanded by the guest's shell
    in_guest 5 'for pid in $(cat /run/console.*); do
            grep -q "^State:.*D" /proc/$pid/status ||
                grep -q tty_write /proc/$pid/stack || exit 1
        done'
}

# tasks_blocked NAME...: all of them are in uninterruptible sleep.
tasks_blocked() {
    local name blocked
    blocked=$(in_guest 5 lab-blocked) || return 1
    for name in "$@"; do
        grep -qxF "$name" <<<"$blocked" || return 1
    done
}

# On a healthy disk it waits as well, but not for long. It is its `sync` that
# waits, or itself, if the journal was stopped first.
writer_stays_blocked() {
    writer_blocked && sleep 1 && writer_blocked
}

writer_blocked() {
    tasks_blocked sync || tasks_blocked lab-heartbeat
}

# Every console shell waits for the line that it leaves in its audit trail: with its `cat`, or before, for
# an older kernel opens no file on a frozen file system.
trails_blocked() {
    local consoles blocked
    consoles=$(in_guest 5 'ls /run/console.*' | wc -l) || return 1
    blocked=$(in_guest 5 lab-blocked | grep -cxE "cat|sh") || return 1
    [ "$blocked" -ge "$consoles" ]
}
