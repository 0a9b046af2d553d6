# shellcheck shell=bash
# Guests of another architecture: Debian's kernel for arm64 on QEMU's machine
# `virt`. Packages come from an index of apt's that is the lab's own, so that
# the host stays without a foreign architecture.

LAB_ARM64_LISTS=$LAB_CACHE/apt-arm64

# What is not in the kernel of 6.1: the names of its variables.
LAB_ARM64_META=linux-image-6.12-cloud-arm64

# Sets GUEST, as make_guest does.
make_guest_arm64() {
    need qemu-system-arm gcc-12-aarch64-linux-gnu
    local LAB_APT=(-o APT::Architecture=arm64 -o APT::Architectures=arm64
        -o "Dir::State::lists=$LAB_ARM64_LISTS" -o Dir::State::status=/dev/null
        -o APT::Sandbox::User=root)
    local packages=$LAB_CACHE/packages-arm64
    if ! up_to_date "$packages"; then
        refresh_arm64
        resolve_arm64 >"$packages.new"
        mv "$packages.new" "$packages"
    fi
    local image version busybox_version
    read -r image version busybox_version <"$packages"
    local kernel=$LAB_CACHE/${image}_$version
    local box=$LAB_CACHE/busybox-arm64_${busybox_version#*:}
    GUEST=$LAB_CACHE/guest-arm64-$(digest "$version" "$busybox_version" "$(<"$LAB_PARTS/arm64.sh")")
    [ ! -d "$GUEST" ] || return 0
    [ -d "$kernel" ] || fetch_kernel_arm64 "$kernel" "$image"
    [ -d "$box" ] || fetch "$box" busybox-static
    # shellcheck disable=SC2034  # build_guest uses it
    local LAB_BUSYBOX=$box/bin/busybox
    # shellcheck disable=SC2034  # as well
    local LAB_CROSS=(ARCH=arm64 CROSS_COMPILE=aarch64-linux-gnu- CC=aarch64-linux-gnu-gcc-12)
    build_guest "$GUEST" "$kernel" "${image#linux-image-}" ''
}

refresh_arm64() {
    mkdir -p "$LAB_ARM64_LISTS/partial"
    apt-get "${LAB_APT[@]}" update -qq >"$LAB_CACHE/apt-arm64.log" 2>&1 ||
        die "apt-get update for arm64 failed: $(tail -n 3 "$LAB_CACHE/apt-arm64.log")"
}

# Prints the name of the kernel's package and the versions.
resolve_arm64() {
    local image
    image=$(dependency "$LAB_ARM64_META" linux-image)
    echo "$image" "$(candidate "$image")" "$(candidate busybox-static)"
}

# The tools that build modules are programs of this machine.
fetch_kernel_arm64() {
    local headers=${2/image/headers} common build
    common=$(dependency "$headers" 'linux-headers-.*-common')
    build=$(dependency "$headers" linux-kbuild)
    fetch "$1" "$2" "$headers" "$common"
    local LAB_APT=()
    fetch "$1.build" "$build"
    cp -r "$1.build/." "$1"
    rm -r "$1.build"
}

# As `plain`, but its serial lines are on PCI, and in the order of ttyS0, ttyS1.
write_config_arm64() {
    cat <<CONFIG
[machine]
  type = "virt"
  gic-version = "3"
$(config_size)

$(config_monitors)

$(config_console_socket)

[device "charserial0"]
  driver = "pci-serial"
  chardev = "charserial0"
  addr = "2"
$(config_lab)
$(config_options)
CONFIG
}

# What is only wired on the other architecture.
require_wired_arm64() {
    local option
    for option in agent qga erst uefi shim door; do
        [ "${!option}" = no ] || die "--arch arm64 takes no --$option"
    done
    # shellcheck disable=SC2154  # the options of guest_up
    [ "$console" = ttyS0 ] || die "--arch arm64 has its console on ttyS0"
    [ "$kernel" = 6.12 ] ||
        die "--arch arm64 takes no --kernel $kernel: Debian builds that one without the names of its variables"
}
