# shellcheck shell=bash
# Downloads Debian kernels and makes a small guest of each: the kernel, and an
# initramfs with busybox, the modules for the lab's devices and our own module
# that breaks things.
#
# The cache holds directories that appear complete, by a rename, under a name
# that says what they were made of, and never change after that. So a guest
# may be started from them without a lock.

LAB_CACHE=$LAB_REPOSITORY/target/lab/.cache

LAB_KERNELS=(6.12 6.1)

# What guests of another architecture are made with: options of apt and make,
# and their busybox.
LAB_APT=()
LAB_CROSS=()
LAB_BUSYBOX=/bin/busybox

# In the order of loading; what they depend on comes by itself.
LAB_MODULES=(virtio_pci virtio_console virtio_blk virtio_net ext4 efi_pstore)

# prepare_all [KERNEL...]
prepare_all() {
    local kernel kernels=("$@") all
    mapfile -t all < <(all_kernels)
    [ $# -gt 0 ] || kernels=("${LAB_KERNELS[@]}")
    [ "$*" != all ] || kernels=("${all[@]}")
    for kernel in "${kernels[@]}"; do
        one_of kernel "${all[@]}"
        prepare_kernel "$kernel"
        say "Linux $kernel is ready"
    done
}

# A line each.
all_kernels() {
    printf '%s\n' "${LAB_KERNELS[@]}"
    archived_kernels
}

list_kernels() {
    printf '%s module\n' "${LAB_KERNELS[@]}"
    sed -n 's/^\([^|]*\)|.*|/\1 /p' <<<"$ARCHIVED"
}

prepare_host() {
    need qemu-system-x86 seabios socat busybox-static kmod cpio xz-utils \
        gcc-12 make libelf1 pahole e2fsprogs
}

# Sets GUEST to the directory with `vmlinuz` and `initramfs` for kernel $1.
prepare_kernel() {
    prepare_host
    mkdir -p "$LAB_CACHE"
    local lock
    exec {lock}>"$LAB_CACHE/lock"
    flock -w 600 "$lock" ||
        die "waited 10 minutes for $LAB_CACHE/lock: another hack/lab still prepares, or hangs (see: fuser -v $LAB_CACHE/lock)"
    if [ "${arch:-}" = arm64 ]; then make_guest_arm64; else make_guest "$1"; fi
    exec {lock}>&-
}

make_guest() {
    local image version agent_version busybox_version
    local packages=$LAB_CACHE/packages-$1
    if ! up_to_date "$packages"; then
        resolve_packages "$1" >"$packages.new"
        mv "$packages.new" "$packages"
    fi
    read -r image version agent_version busybox_version <"$packages"
    local kernel=$LAB_CACHE/${image}_$version
    local agent=$LAB_CACHE/qemu-guest-agent_${agent_version#*:}
    GUEST=$LAB_CACHE/guest-$1-$(digest "$version" "$agent_version" "$busybox_version")
    [ ! -d "$GUEST" ] || return 0
    if [ ! -d "$kernel" ]; then
        if is_archived "$1"; then fetch_archived "$kernel" "$1" "$image"; else fetch_kernel "$kernel" "$image"; fi
    fi
    [ -d "$agent" ] || fetch "$agent" qemu-guest-agent
    build_guest "$GUEST" "$kernel" "${image#linux-image-}" "$agent"
}

# Asking apt takes a second or two, too long to do it at every start.
up_to_date() {
    [ "$1" -nt /var/lib/apt/lists ] && [ "$1" -nt /var/lib/dpkg/status ]
}

# Prints the name of the kernel's package and all the versions.
resolve_packages() {
    local kernel
    if is_archived "$1"; then kernel=$(archived_image "$1"); else kernel=$(newest_image "$1"); fi
    echo "$kernel" "$(candidate qemu-guest-agent)" "$(candidate busybox-static)"
}

newest_image() {
    local image
    image=$(dependency "$(metapackage "$1")" linux-image)
    echo "$image" "$(candidate "$image")"
}

metapackage() {
    case $1 in
    6.1) echo linux-image-amd64 ;;
    6.12) echo linux-image-6.12-cloud-amd64 ;;
    esac
}

# dependency PACKAGE REGEX: that dependency of PACKAGE whose name begins so.
dependency() {
    local name
    name=$(apt-cache "${LAB_APT[@]}" depends "$1" 2>/dev/null | sed -nE "s/^[ |]*Depends: ($2[^ ]*)$/\1/p")
    [ -n "$name" ] ||
        die "apt knows no dependency $2 of $1: add Debian bookworm with its security updates to apt's sources and run apt-get update"
    echo "${name%%$'\n'*}"
}

candidate() {
    apt-cache "${LAB_APT[@]}" policy "$1" | sed -n 's/^  Candidate: //p'
}

# digest VERSION...: what a guest is made of, in short.
digest() {
    {
        printf '%s\n' "$@"
        cd "$LAB_PARTS" && find prepare.sh archive.sh fault.c Makefile inside ../../pkg/guest -type f -print0 |
            sort -z | xargs -0 sha256sum
    } | sha256sum | cut -c 1-12
}

# With the headers for our module.
fetch_kernel() {
    local headers=${2/image/headers} common build
    common=$(dependency "$headers" 'linux-headers-.*-common')
    build=$(dependency "$headers" linux-kbuild)
    fetch "$1" "$2" "$headers" "$common" "$build"
}

# fetch DIRECTORY PACKAGE...: the files of the packages, without installing.
fetch() {
    local target=$1
    shift
    say "downloading: $*"
    rm -rf "$target.new"
    mkdir -p "$target.new/packages"
    (cd "$target.new/packages" && apt-get "${LAB_APT[@]}" download -qq "$@" 2>&1) >"$target.log" ||
        die "failed to download $*: $(tail -n 3 "$target.log"); run apt-get update and this again"
    local package
    for package in "$target.new"/packages/*.deb; do
        dpkg-deb -x "$package" "$target.new"
    done
    rm -r "$target.new/packages"
    mv "$target.new" "$target"
}

build_guest() {
    local target=$1 kernel=$2 release=$3 agent=$4
    local work=$target.new
    say "building the guest for $release"
    rm -rf "$work"
    mkdir -p "$work/root"
    cp "$kernel/boot/vmlinuz-$release" "$work/vmlinuz"
    build_module "$work/module" "$kernel" "$release"
    add_programs "$work/root" "$agent"
    add_modules "$work/root/modules" "$kernel" "$release"
    add_module "$work/root/modules" "$work/module/lifesign_lab.ko"
    # Not compressed: an emulated CPU unpacks slowly.
    (cd "$work/root" && find . | cpio -o -H newc --quiet) >"$work/initramfs"
    rm -r "$work/root"
    forget_old_guests "${target%-*}"
    mv "$work" "$target"
}

# A test may still be starting from one that was made an hour ago.
forget_old_guests() {
    find "$(dirname "$1")" -maxdepth 1 -name "$(basename "$1")-*" ! -name '*.new' \
        -mmin +60 -exec rm -r {} +
}

build_module() {
    local work=$1 kernel=$2 release=$3 build=build_beside
    local headers=$kernel/usr/src/linux-headers-$release
    mkdir "$work"
    [ -d "$headers" ] || return 0
    cp "$LAB_PARTS/fault.c" "$LAB_PARTS/Makefile" "$work"
    [ ! -e "$kernel/module" ] || build=build_inside
    $build "$work" "$kernel" "$release" >"$work/log" 2>&1 ||
        die "failed to build lifesign_lab.ko for $release: $(tail -n 20 "$work/log")"
}

# build_beside DIRECTORY KERNEL RELEASE: by a compiler of this machine.
build_beside() {
    local headers=$2/usr/src/linux-headers-$3
    # The one absolute path in Debian's headers.
    sed -i "s#^include /usr/src/#include $2/usr/src/#" "$headers/Makefile"
    make -s -C "$headers" M="$1" "${LAB_CROSS[@]}" modules
}

# add_module MODULES FILE: the last to be loaded.
add_module() {
    [ -e "$2" ] || return 0
    cp "$2" "$1"
    basename "$2" >>"$1/order"
}

add_programs() {
    local root=$1 agent=$2 applet
    cp -r "$LAB_PARTS/inside/." "$root"
    cp "$LAB_REPOSITORY/pkg/guest/lifesign-heartbeat" "$root/bin"
    mkdir -p "$root"/{dev,proc,sys,run,tmp,root,data,www,var/log}
    echo "lab guest" >"$root/www/index.html"
    echo ok >"$root/www/health"
    cp "$LAB_BUSYBOX" "$root/bin"
    for applet in $(busybox --list); do
        [ -e "$root/bin/$applet" ] || ln -s busybox "$root/bin/$applet"
    done
    [ -z "$agent" ] || add_agent "$root" "$agent/usr/sbin/qemu-ga"
}

add_agent() {
    local root=$1 program=$2 library
    cp "$program" "$root/bin"
    ldd "$program" >"$root/libraries"
    ! grep 'not found' "$root/libraries" >&2 ||
        die "libraries of qemu-ga are missing on this machine (see above): apt-get install qemu-guest-agent and run this again"
    grep -oE '/[^ ]+' "$root/libraries" | while read -r library; do
        mkdir -p "$root${library%/*}"
        cp -L "$library" "$root$library"
    done
    rm "$root/libraries"
}

# Copies the modules, unpacked, and writes the order of loading to `order`.
add_modules() {
    local target=$1 kernel=$2 release=$3 module path name
    mkdir "$target"
    depmod -b "$kernel" "$release"
    for module in "${LAB_MODULES[@]}"; do
        modprobe -d "$kernel" -S "$release" --show-depends "$module"
    done | sed -n 's/^insmod //p' | awk '!seen[$1]++ { print $1 }' |
        while read -r path; do
            name=$(basename "${path%.xz}")
            if [ "${path%.xz}" = "$path" ]; then cat "$path"; else xz -dc "$path"; fi >"$target/$name"
            echo "$name"
        done >"$target/order"
}
