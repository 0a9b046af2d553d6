# shellcheck shell=bash
# Small helpers shared by the scripts in hack/; to be sourced.

say() { printf '%s\n' "$*" >&2; }

die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# need PACKAGE...: installs those Debian packages that are missing.
need() {
    local package missing=()
    for package in "$@"; do
        installed "$package" || missing+=("$package")
    done
    [ ${#missing[@]} -eq 0 ] || install_packages "${missing[@]}"
}

installed() {
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

# Two scripts may find the same package missing at once, and apt-get update
# fails rather than waits when another one runs.
install_packages() {
    say "installing: $*"
    (
        flock 9
        as_root apt-get update -qq &&
            as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y \
                --no-install-recommends -o DPkg::Lock::Timeout=300 "$@" >/dev/null
    ) 9>"${TMPDIR:-/tmp}/lifesign-need.$UID.lock" >&2 ||
        die "failed to install $*: see the lines above; install them by hand and run this again"
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo -n "$@"; fi
}
