# shellcheck shell=bash
# The life of a guest: up, list, down.

LAB_ROOT=$LAB_REPOSITORY/target/lab

LAB_UP_SECONDS=90

LAB_FIRMWARE=/usr/share/OVMF

# Sets LAB_NAME and LAB_GUEST, the directory of the guest.
choose_guest() {
    LAB_NAME=$1
    LAB_GUEST=$LAB_ROOT/$1
    [[ $1 =~ ^[a-z0-9][a-z0-9-]*$ ]] ||
        die "'$1' is no name for a guest: use a-z, 0-9 and -"
    # The longest of the sockets; the kernel takes 107 bytes.
    local longest=$LAB_GUEST/listener.qmp
    [ ${#longest} -le 107 ] ||
        die "the socket $longest would have ${#longest} bytes and Unix allows 107: choose a shorter name, or a shorter path for the repository"
}

require_guest() {
    guest_runs || die "no guest $LAB_NAME runs: start it with hack/lab up $LAB_NAME"
}

# A PID may have been given to another process meanwhile.
guest_runs() {
    local pid
    pid=$(cat "$LAB_GUEST/pid" 2>/dev/null) || return 1
    tr '\0' '\n' 2>/dev/null <"/proc/$pid/cmdline" | grep -qxF "$LAB_GUEST/pid"
}

# about KEY: an option the guest was started with.
about() {
    sed -n "s/^$1=//p" "$LAB_GUEST/about"
}

guest_up() {
    choose_guest "$1"
    shift
    local arch=x86-64 kernel=6.12 wiring=eve sysrq=default console='' quiet=no
    local memory=512 smp=2 agent=no qga=no disk=no beat=no net=no tap=no login=no
    local shim=no door=no label=no erst=no uefi=no saved=''
    if [ "${1:-}" = --like ]; then
        [ $# -eq 2 ] || die "--like wants the name of a saved guest and no other option: see hack/lab help"
        guest_like "$2"
        return
    fi
    parse_options "$@"
    prepare_kernel "$kernel"
    claim_directory
    write_about >"$LAB_GUEST/about"
    stable_uuid >"$LAB_GUEST/uuid"
    [ $disk = no ] || make_disk
    [ $beat = no ] || truncate -s 1M "$LAB_GUEST/beat.img"
    [ $tap = no ] || make_cable
    [ $uefi = no ] || make_firmware
    "write_config_$(if [ "$arch" = arm64 ]; then echo arm64; else echo "$wiring"; fi)" >"$LAB_GUEST/qemu.cfg"
    local boots=1
    boot
    until await_guest && ! emulator_tripped; do
        { emulator_tripped || interrupt_lost; } && [ $((boots++)) -lt 3 ] || give_guest_up
        say "hack/lab: the emulated machine failed $LAB_NAME while it booted; it boots again"
        stop_qemu
        # What a boot that failed has said, or left in its stores, is no word of the next one.
        : >"$LAB_GUEST/console.log"
        rm -f "$LAB_GUEST/erst"
        [ $uefi = no ] || make_firmware
        boot
    done
    echo "$LAB_NAME is up: pid $(cat "$LAB_GUEST/pid"), Linux $kernel ($arch), wiring $wiring, console $console, files in $LAB_GUEST"
}

# The state of the machine is a file, and its disk stays beside it.
guest_save() {
    choose_guest "$1"
    require_guest
    [ "$(about tap)" = no ] || die "a guest with --tap cannot be saved: its cable would not be found again"
    # One that was paused before would be paused again; as fast as the disk takes it.
    qmp migrate-set-parameters '{"max-bandwidth":17179869184}' >/dev/null
    qmp migrate "{\"uri\":\"exec:cat >'$LAB_GUEST/state'\"}" >/dev/null
    wait_until 60 state_written || die "$LAB_NAME was not saved within 60 s: $(qmp query-migrate)"
    guest_down "$LAB_NAME"
}

state_written() { [[ $(qmp query-migrate) =~ \"status\":\ ?\"completed\" ]]; }

# The same machine in another directory, at the moment when it was saved.
guest_like() {
    local from=$LAB_ROOT/$1 key value file
    [ -e "$from/state" ] || die "there is no saved guest $1: start one and hack/lab save $1"
    while IFS='=' read -r key value; do
        printf -v "$key" '%s' "$value"
    done <"$from/about"
    saved=$from/state
    prepare_kernel "$kernel"
    claim_directory
    for file in about uuid disk.img beat.img; do
        [ ! -e "$from/$file" ] || cp --sparse=always "$from/$file" "$LAB_GUEST/$file"
    done
    sed "s#$from/#$LAB_GUEST/#g" "$from/qemu.cfg" >"$LAB_GUEST/qemu.cfg"
    boot
    await_guest || give_guest_up
    echo "$LAB_NAME is up: pid $(cat "$LAB_GUEST/pid"), as $1 was, files in $LAB_GUEST"
}

parse_options() {
    while [ $# -gt 0 ]; do
        case $1 in
        --arch | --kernel | --wiring | --sysrq | --console | --memory | --smp)
            [ $# -ge 2 ] || die "$1 wants a value: see hack/lab help"
            printf -v "${1#--}" '%s' "$2"
            shift
            ;;
        --tap) net=yes tap=yes ;;
        --quiet | --login | --agent | --qga | --disk | --beat | --net | --shim | --door | --label | --erst | --uefi)
            printf -v "${1#--}" yes
            ;;
        *) die "up knows no option '$1': see hack/lab help" ;;
        esac
        shift
    done
    one_of arch x86-64 arm64
    [ "$arch" = x86-64 ] || wiring=plain
    # shellcheck disable=SC2046  # one word for each kernel
    one_of kernel $(all_kernels)
    one_of wiring eve plain
    one_of sysrq default all off
    [ -n "$console" ] || console=$([ "$wiring" = eve ] && echo hvc0 || echo ttyS0)
    one_of console hvc0 ttyS0
    [ "$wiring/$console" != plain/hvc0 ] ||
        die "the plain wiring has no hvc0: use --console ttyS0 or --wiring eve"
    [ "$wiring/$shim$door" = plain/nono ] || [ "$wiring" = eve ] ||
        die "the plain wiring has one console: leave --shim and --door out or use --wiring eve"
    [ "$arch" = x86-64 ] || require_wired_arm64
    number memory 128 16384
    number smp 1 16
}

one_of() {
    local option=$1 value
    shift
    for value in "$@"; do
        [ "${!option}" != "$value" ] || return 0
    done
    die "--$option cannot be '${!option}': it is one of: $*"
}

number() {
    if ! [[ ${!1} =~ ^[0-9]{1,5}$ ]] || [ "${!1}" -lt "$2" ] || [ "${!1}" -gt "$3" ]; then
        die "--$1 cannot be '${!1}': it is a number from $2 to $3"
    fi
}

claim_directory() {
    ! guest_runs ||
        die "a guest $LAB_NAME runs already: end it with hack/lab down $LAB_NAME, or choose another name"
    rm -rf "$LAB_GUEST"
    mkdir -p "$LAB_GUEST"
}

write_about() {
    local key module=no
    # shellcheck disable=SC2034  # read by its name
    [ ! -e "$GUEST/module/lifesign_lab.ko" ] || module=yes
    for key in arch kernel module wiring sysrq console quiet login memory smp agent qga disk beat net tap shim door label erst uefi; do
        echo "$key=${!key}"
    done
}

# The same name gives the same UUID, as a restarted app keeps its own.
stable_uuid() {
    local hash
    hash=$(printf 'lifesign lab guest %s' "$LAB_NAME" | sha1sum)
    echo "${hash:0:8}-${hash:8:4}-5${hash:13:3}-8${hash:17:3}-${hash:20:12}"
}

make_disk() {
    truncate -s 64M "$LAB_GUEST/disk.img"
    mkfs.ext4 -q -F -L lab -E lazy_itable_init=0,lazy_journal_init=0 "$LAB_GUEST/disk.img" ||
        die "failed to make a file system in $LAB_GUEST/disk.img: see the line above"
}

make_firmware() {
    need ovmf
    cp "$LAB_FIRMWARE/OVMF_VARS_4M.fd" "$LAB_GUEST/VARS.fd"
}

# A network namespace of the host's is for all; a name is for this repository.
cable_network() {
    local place
    place=$(sha1sum <<<"$LAB_GUEST")
    echo "lab-$LAB_NAME-${place:0:8}"
}

# A network namespace with our end of the cable in it, so that no address of the
# lab's is seen on the host and guests cannot get at each other.
make_cable() {
    need iproute2
    remove_cable
    {
        as_root ip netns add "$(cable_network)" &&
            as_root ip -n "$(cable_network)" link set lo up &&
            as_root ip -n "$(cable_network)" tuntap add dev cable mode tap &&
            as_root ip -n "$(cable_network)" address add 10.0.2.2/24 dev cable &&
            as_root ip -n "$(cable_network)" link set cable up
    } 2>"$LAB_GUEST/cable.log" ||
        die "no cable for $LAB_NAME: $(cat "$LAB_GUEST/cable.log"); --tap takes root and /dev/net/tun"
}

remove_cable() {
    [ ! -e "/run/netns/$(cable_network)" ] || as_root ip netns del "$(cable_network)"
}

# EVE's two monitors.
config_monitors() {
    cat <<CONFIG
[chardev "charmonitor"]
  backend = "socket"
  path = "$LAB_GUEST/qmp"
  server = "on"
  wait = "off"

[mon "monitor"]
  chardev = "charmonitor"
  mode = "control"

[chardev "charlistener"]
  backend = "socket"
  path = "$LAB_GUEST/listener.qmp"
  server = "on"
  wait = "off"

[mon "listener"]
  chardev = "charlistener"
  mode = "control"
CONFIG
}

# The ways EVE's own template goes, names and sockets included, but for
# acceleration. What the lab needs on top has names that begin with `lab`.
write_config_eve() {
    cat <<CONFIG
[machine]
  type = "pc-q35-3.1"
  hpet = "off"
  vmport = "off"
  dump-guest-core = "off"
$(config_size)

$(config_monitors)

[chardev "charserial0"]
  backend = "socket"
  mux = "on"
  path = "$LAB_GUEST/cons"
  server = "on"
  wait = "off"
  logfile = "$LAB_GUEST/console.log"
  logappend = "on"

[device "virtio-serial0"]
  driver = "virtio-serial"
  addr = "3"

[device "charconsole0"]
  driver = "virtconsole"
  chardev = "charserial0"
  name = "org.lfedge.eve.console.0"
$(config_consoles)
$(config_lab)
$(config_options)
CONFIG
}

# What somebody writes who starts a VM by hand.
write_config_plain() {
    cat <<CONFIG
[machine]
  type = "q35"
$(config_size)

$(config_monitors)

$(config_console_socket)
$([ "$agent" = no ] || config_agent_bus)
$(config_lab)
$(config_options)
CONFIG
}

# The one console of a guest that is not wired as EVE-OS does.
config_console_socket() {
    cat <<CONFIG
[chardev "charserial0"]
  backend = "socket"
  path = "$LAB_GUEST/cons"
  server = "on"
  wait = "off"
  logfile = "$LAB_GUEST/console.log"
  logappend = "on"
CONFIG
}

config_consoles() {
    [ "$shim" = no ] || config_console shim org.lfedge.eve.console.shim
    [ "$door" = no ] || config_console door lab.door
}

# config_console SOCKET NAME
config_console() {
    cat <<CONFIG

[chardev "char$1"]
  backend = "socket"
  path = "$LAB_GUEST/$1"
  server = "on"
  wait = "off"

[device "$1"]
  driver = "virtconsole"
  chardev = "char$1"
  name = "$2"
CONFIG
}

config_size() {
    cat <<CONFIG

[memory]
  size = "$memory"

[smp-opts]
  cpus = "$smp"
  sockets = "1"
  cores = "$smp"
  threads = "1"
CONFIG
}

config_agent_bus() {
    cat <<CONFIG

[device "virtio-serial0"]
  driver = "virtio-serial"
CONFIG
}

# A monitor and a serial line of the lab's own.
config_lab() {
    cat <<CONFIG

[chardev "labmonitor"]
  backend = "socket"
  path = "$LAB_GUEST/lab.qmp"
  server = "on"
  wait = "off"

[mon "labmonitor"]
  chardev = "labmonitor"
  mode = "control"

[chardev "labchannel"]
  backend = "socket"
  path = "$LAB_GUEST/lab.sock"
  server = "on"
  wait = "off"

[device "labchannel"]
  chardev = "labchannel"
$(config_channel_on)
CONFIG
}

config_channel_on() {
    if [ "$arch" = arm64 ]; then
        printf '  %s\n' 'driver = "pci-serial"' 'addr = "3"'
    else
        printf '  %s\n' 'driver = "isa-serial"' 'index = "1"'
    fi
}

config_options() {
    [ "$agent" = no ] || config_agent
    [ "$disk" = no ] || config_disk disk.img 0 5
    [ "$beat" = no ] || config_disk beat.img 1 7
    [ "$net" = no ] || config_net
    [ "$erst" = no ] || config_erst
    [ "$uefi" = no ] || config_firmware
}

config_agent() {
    cat <<CONFIG

[chardev "charagent"]
  backend = "socket"
  path = "$LAB_GUEST/qga"
  server = "on"
  wait = "off"

[device "agent"]
  driver = "virtserialport"
  chardev = "charagent"
  name = "org.qemu.guest_agent.0"
CONFIG
}

# config_disk FILE NUMBER SLOT
config_disk() {
    cat <<CONFIG

[device "pci.disk$2"]
  driver = "pcie-root-port"
  chassis = "1$2"
  addr = "$3"

[drive "drive-virtio-disk$2"]
  file = "$LAB_GUEST/$1"
  format = "raw"
  if = "none"
  cache = "writeback"

[device "virtio-disk$2"]
  driver = "virtio-blk-pci"
  bus = "pci.disk$2"
  drive = "drive-virtio-disk$2"
CONFIG
}

# The kernel's own place for its last words; QEMU makes the file.
config_erst() {
    cat <<CONFIG

[object "laberst"]
  qom-type = "memory-backend-file"
  mem-path = "$LAB_GUEST/erst"
  size = "65536"
  share = "on"

[device "erst0"]
  driver = "acpi-erst"
  memdev = "laberst"
CONFIG
}

# Its code is for all, its variables are the guest's own.
config_firmware() {
    cat <<CONFIG

[drive]
  if = "pflash"
  format = "raw"
  unit = "0"
  readonly = "on"
  file = "$LAB_FIRMWARE/OVMF_CODE_4M.fd"

[drive]
  if = "pflash"
  format = "raw"
  unit = "1"
  file = "$LAB_GUEST/VARS.fd"
CONFIG
}

config_net() {
    cat <<CONFIG

[device "pci.net"]
  driver = "pcie-root-port"
  chassis = "2"
  addr = "6"

[netdev "hostnet0"]
$(config_backend)

[device "net0"]
  driver = "virtio-net-pci"
  bus = "pci.net"
  netdev = "hostnet0"
  romfile = ""
CONFIG
}

# QEMU chooses the port, so that two guests never want the same.
config_backend() {
    if [ "$tap" = yes ]; then
        printf '  %s\n' 'type = "tap"' 'ifname = "cable"' 'script = "no"' 'downscript = "no"'
    else
        printf '  %s\n' 'type = "user"' 'restrict = "on"' 'hostfwd = "tcp:127.0.0.1:0-10.0.2.15:80"'
    fi
}

start_qemu() {
    local where=() incoming=() machine=(qemu-system-x86_64 -serial chardev:charserial0)
    [ "$arch" = x86-64 ] || machine=(qemu-system-aarch64)
    [ -z "$saved" ] || incoming=(-incoming "exec:cat '$saved'")
    [ "$tap" = no ] || where=(as_root ip netns exec "$(cable_network)")
    "${where[@]}" "${LAB_QEMU:-${machine[0]}}" "${machine[@]:1}" -daemonize -display none -S -no-user-config -nodefaults \
        -no-shutdown -accel tcg -cpu "${LAB_CPU:-max}" \
        -name "$LAB_NAME" -uuid "$(cat "$LAB_GUEST/uuid")" \
        -readconfig "$LAB_GUEST/qemu.cfg" -pidfile "$LAB_GUEST/pid" \
        -kernel "$GUEST/vmlinuz" -initrd "$GUEST/initramfs" -append "$(kernel_arguments)" \
        "${incoming[@]}" >"$LAB_GUEST/qemu.log" 2>&1 </dev/null ||
        die "QEMU did not start: $(cat "$LAB_GUEST/qemu.log") (its configuration: $LAB_GUEST/qemu.cfg)"
}

# What the kernel does not know it hands to init as environment. On a busy host
# emulated CPUs now and then fail the kernel's test of the timer, which ends in
# a panic before there is a console; under KVM the kernel leaves it out itself.
kernel_arguments() {
    local arguments="console=$console panic=0"
    [ "$arch" = arm64 ] || arguments+=" no_timer_check"
    [ "$quiet" = no ] || arguments+=" quiet"
    case $sysrq in
    all) arguments+=" sysrq_always_enabled" ;;
    off) arguments+=" lab_sysrq=off" ;;
    esac
    [ "$login" = no ] || arguments+=" lab_login=yes"
    [ "$agent" = no ] || arguments+=" lab_agent=yes"
    [ "$agent/$qga" != no/yes ] || arguments+=" lab_agent=waits"
    [ "$disk" = no ] || arguments+=" lab_disk=yes"
    [ "$beat" = no ] || arguments+=" lab_beat=/dev/vd$([ "$disk" = no ] && echo a || echo b)"
    [ "$net" = no ] || arguments+=" lab_net=yes"
    [ "$shim" = no ] || arguments+=" lab_shim=hvc1"
    [ "$door" = no ] || arguments+=" lab_door=hvc$([ "$shim" = no ] && echo 1 || echo 2)"
    [ "$label" = no ] || arguments+=" lab_label=yes"
    echo "$arguments"
}

write_net_address() {
    local port
    if [ "$tap" = yes ]; then
        echo 10.0.2.15:80 >"$LAB_GUEST/net"
        cable_network >"$LAB_GUEST/netns"
        return
    fi
    port=$(hmp 'info usernet' | grep -oE '127\.0\.0\.1 +[0-9]+' | grep -oE '[0-9]+$')
    echo "127.0.0.1:$port" >"$LAB_GUEST/net"
}

boot() {
    start_qemu
    [ "$net" = no ] || write_net_address
    qmp cont >/dev/null
}

# A request that comes before the guest listens is lost, so it is repeated.
await_guest() {
    local deadline=$(($(now_ms) + LAB_UP_SECONDS * 1000))
    until RESEND_MS=400 in_guest 15 lab-ready; do
        ! emulator_tripped && [ "$(now_ms)" -lt "$deadline" ] || return 1
    done
}

# While a kernel patches itself, QEMU's emulation now and then runs the
# breakpoint on one CPU after another CPU took it away, which kills the guest
# or one of its CPUs before it is up, or keeps it there for good. Nothing that the lab breaks can look so: it breaks later.
emulator_tripped() {
    grep -qE 'int3: 0000 \[#1\]|asm_exc_int3' "$LAB_GUEST/console.log"
}

# An emulated interrupt controller now and then sends what the kernel has just
# moved elsewhere. A guest that came up all the same is well.
interrupt_lost() {
    grep -q 'No irq handler for vector' "$LAB_GUEST/console.log"
}

give_guest_up() {
    (hmp 'info registers -a') >"$LAB_GUEST/registers" 2>&1 || true
    say "hack/lab: $LAB_NAME did not come up within $LAB_UP_SECONDS s (what its CPUs did: $LAB_GUEST/registers); the end of $LAB_GUEST/console.log:"
    tail -n 20 "$LAB_GUEST/console.log" >&2 || true
    stop_qemu
    exit 1
}

# Evidence stays: only what belongs to the process goes.
guest_down() {
    choose_guest "$1"
    ! guest_runs || stop_qemu
    rm -f "$LAB_GUEST"/{pid,qmp,listener.qmp,lab.qmp,lab.sock,lab.lock,cons,shim,door,qga,net,netns}
    remove_cable
}

# SIGKILL also ends a stopped process; there is nothing a throw-away guest
# would have to save.
stop_qemu() {
    kill -KILL "$(cat "$LAB_GUEST/pid")" 2>/dev/null || true
    wait_until 10 guest_gone ||
        die "QEMU of $LAB_NAME, pid $(cat "$LAB_GUEST/pid"), survives SIGKILL: it waits in the host's kernel (see /proc/$(cat "$LAB_GUEST/pid")/stack)"
}

guest_gone() { ! guest_runs; }

all_guests() {
    local pidfile
    for pidfile in "$LAB_ROOT"/*/pid; do
        [ ! -e "$pidfile" ] || basename "$(dirname "$pidfile")"
    done
}

guest_list() {
    local name
    for name in $(all_guests); do
        choose_guest "$name"
        if guest_runs; then
            printf '%-16s pid %-8s %s\n' "$name" "$(cat "$LAB_GUEST/pid")" "$(paste -sd ' ' "$LAB_GUEST/about")"
        else
            printf '%-16s gone: hack/lab down %s tidies up\n' "$name" "$name"
        fi
    done
}
