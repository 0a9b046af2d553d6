# shellcheck shell=bash
# Kernels of other Debian releases. Each is unpacked together with the compiler
# of its release: a root directory, in which our module is built.

LAB_ARCHIVE=http://deb.debian.org

# KERNEL|release|where the archive has it|what is built for it
# Of what backports had before, the headers are gone: no module, and with it
# some of the faults.
ARCHIVED='
5.10|bullseye|debian-security bullseye-security|module
6.16|trixie|debian trixie-backports|
6.18|trixie|debian trixie-backports|
7.2|trixie|debian trixie-backports|module
'

archived_kernels() { sed -n 's/|.*//p' <<<"$ARCHIVED"; }

is_archived() { grep -q "^$1|" <<<"$ARCHIVED"; }

# archived KERNEL: sets `release`, `archive`, `suite` and `built`.
archived() {
    local place
    IFS='|' read -r _ release place built < <(grep "^$1|" <<<"$ARCHIVED")
    read -r archive suite <<<"$place"
}

# Prints the package with the latest kernel of this version, and its version.
archived_image() {
    local release archive suite built found
    archived "$1"
    found=$(busybox wget -q -O - "$LAB_ARCHIVE/$archive/dists/$suite/main/binary-amd64/Packages.xz" | xz -dc |
        awk '/^Package:/ { name = $2 } /^Version:/ { print name, $2 }' |
        grep -E "^linux-image-${1/./\\.}\.[^-]*(-[0-9]+)?-amd64 " | sort -V | tail -n 1) || true
    [ -n "$found" ] ||
        die "no Linux $1 is found in $suite of $LAB_ARCHIVE/$archive: it is gone from there, or the archive cannot be reached"
    echo "$found"
}

# fetch_archived DIRECTORY KERNEL PACKAGE
fetch_archived() {
    local target=$1 image=$3 release archive suite built
    archived "$2"
    need mmdebstrap
    say "downloading: $image${built:+ and a compiler for its module}"
    as_root rm -rf "$target.new"
    if [ -n "$built" ]; then
        unpack_archived --variant=extract --include="$image,${image/image/headers},make,binutils"
    else
        # Without what it depends on, which is gone as well.
        # shellcheck disable=SC2016  # expanded by mmdebstrap
        unpack_archived --variant=custom --customize-hook='cd "$1" &&
            APT_CONFIG=$MMDEBSTRAP_APT_CONFIG apt-get download '"$image"' &&
            dpkg-deb -x linux-image-*.deb . && rm linux-image-*.deb'
    fi
    complete_root "$target.new"
    mv "$target.new" "$target"
}

# unpack_archived HOW...
unpack_archived() {
    as_root mmdebstrap --architectures=amd64 --aptopt="APT::Default-Release \"$suite\"" "$@" \
        "$release" "$target.new" \
        "deb $LAB_ARCHIVE/debian $release main" "deb $LAB_ARCHIVE/$archive $suite main" \
        >"$target.log" 2>&1 ||
        die "failed to download $image: $(tail -n 3 "$target.log") (all of it: $target.log)"
}

# Nothing was set up in it: a shell and the small tools are busybox's. Where
# things are differs among releases; they are found where the oldest has them.
complete_root() {
    local root=$1 place applet kernel
    as_root mkdir -p "$root"/{boot,module,proc,usr/bin,usr/lib,usr/lib64}
    for place in bin lib lib64; do
        [ -e "$root/$place" ] || as_root ln -s "usr/$place" "$root/$place"
    done
    as_root cp /bin/busybox "$root/lib/busybox"
    for applet in $(busybox --list); do
        [ -e "$root/bin/$applet" ] || [ -e "$root/usr/bin/$applet" ] ||
            as_root ln -s /lib/busybox "$root/bin/$applet"
    done
    for kernel in "$root"/lib/modules/*; do
        [ ! -e "$kernel/vmlinuz" ] || as_root ln -s "../lib/modules/${kernel##*/}/vmlinuz" "$root/boot/vmlinuz-${kernel##*/}"
    done
}

# build_inside DIRECTORY ROOT RELEASE: by the compiler in ROOT, which wants to
# see itself in /proc.
build_inside() {
    as_root cp "$1"/{fault.c,Makefile} "$2/module" &&
        as_root unshare --fork --pid --mount-proc="$2/proc" chroot "$2" make -s \
            -C "/usr/src/linux-headers-$3" M=/module modules &&
        cp "$2/module/lifesign_lab.ko" "$1"
}
