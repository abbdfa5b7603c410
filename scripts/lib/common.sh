# Functions that the scripts share. Source it from bash, do not run it:
#
#   . "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
#
# Everything a person reads goes to standard error, so that standard output stays
# free for what a script produces (`--json`, paths, tables).
# shellcheck shell=bash

# Debian packages that building the daemon and the tools takes.
BUILD_PACKAGES=(build-essential pkg-config clang libclang-dev libdpdk-dev ca-certificates curl)

# log MESSAGE…: one line about what happens.
log() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
}

# die MESSAGE…: one line that says what is wrong and what to do next; exit status 1.
die() {
    printf '%s: error: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# usage_error MESSAGE…: a wrong argument; exit status 2.
usage_error() {
    printf '%s: %s (try --help)\n' "${0##*/}" "$*" >&2
    exit 2
}

# repo_root: prints the top directory of the working tree that holds this file.
repo_root() {
    cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd
}

# need_root WHY: stops unless the user is root.
need_root() {
    [ "$(id -u)" -eq 0 ] || die "needs root: ${1:-it changes network namespaces or huge pages}. Run: sudo $0"
}

# have COMMAND: whether COMMAND is on the path.
have() {
    command -v "$1" >/dev/null 2>&1
}

# package_installed PACKAGE: whether dpkg has it installed (not merely known).
package_installed() {
    [ "$(dpkg-query -W -f='${db:Status-Abbrev}' "$1" 2>/dev/null | cut -c1-2)" = ii ]
}

# need_packages PACKAGE…: installs those Debian packages that are missing. Where it
# cannot (no apt-get, no root) it stops and says what to install.
need_packages() {
    local missing=() package
    if ! have apt-get || ! have dpkg-query; then
        die "this system has no apt-get; install the equivalents of these Debian packages, then set POLLUX_SKIP_PACKAGES=1: $*"
    fi
    for package in "$@"; do
        package_installed "$package" || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    [ "$(id -u)" -eq 0 ] || die "packages are missing. Run: sudo apt-get install ${missing[*]}"
    log "installing ${missing[*]}"
    # A list of packages from an old image names versions that the mirror has dropped:
    # refresh it only when the first attempt fails, as it costs seconds.
    if ! apt_install "${missing[@]}"; then
        apt-get -qq update >&2 || die "apt-get update failed; is there a network? Then: apt-get install ${missing[*]}"
        apt_install "${missing[@]}" || die "could not install. Run by hand: apt-get install ${missing[*]}"
    fi
}

apt_install() {
    DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=120 \
        install --no-install-recommends "$@" >/dev/null 2>&1
}

# Where a machine without apt-get has everything already, the check can be left out.
if [ -n "${POLLUX_SKIP_PACKAGES:-}" ]; then
    need_packages() { :; }
fi

# package_offers PACKAGE VERSION: whether apt-get would install that version or a newer one.
package_offers() {
    local offered
    offered=$(apt-cache policy "$1" 2>/dev/null | awk '$1 == "Candidate:" { print $2 }')
    [ -n "$offered" ] && [ "$offered" != "(none)" ] && version_at_least "$offered" "$2"
}

# need_rust: makes `cargo` usable, of at least the version in Cargo.toml. Those of Debian 12 and 13
# are too old, so a missing one comes from rustup there.
need_rust() {
    local wanted have_version
    [ -d "${CARGO_HOME:-$HOME/.cargo}/bin" ] && PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
    wanted=$(sed -n 's/^rust-version *= *"\(.*\)"/\1/p' "$(repo_root)/Cargo.toml" | head -n 1)
    have_version=$(cd "$(repo_root)" && cargo --version 2>/dev/null | cut -d' ' -f2)
    if [ -n "$have_version" ] && version_at_least "$have_version" "$wanted"; then
        return 0
    fi
    if have rustup; then
        log "installing Rust (stable); found ${have_version:-none}, need $wanted"
        rustup -q toolchain install stable --profile default >&2 || die "rustup failed. Run: rustup toolchain install stable"
        rustup -q default stable >&2
    elif package_offers cargo "$wanted"; then
        need_packages cargo rustc
    else
        log "installing Rust by rustup; found ${have_version:-none}, need $wanted"
        need_packages curl ca-certificates
        curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -q -y --no-modify-path >&2 ||
            die "could not install Rust $wanted or newer. See https://rustup.rs"
        PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
    fi
}

# version_at_least A B: whether version A is B or newer.
version_at_least() {
    [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$2" ]
}

# target_dir: prints where cargo puts what it builds.
target_dir() {
    printf '%s\n' "${CARGO_TARGET_DIR:-$(repo_root)/target}"
}

# build_release [CARGO ARGUMENT…]: builds polluxd and polluxctl (or what the arguments
# say) optimised, and prints the directory that holds them. Set POLLUX_BIN_DIR to use
# binaries built elsewhere. Meant for `dir=$(build_release)` under `set -e`; call
# need_rust first where the script runs cargo itself afterwards.
build_release() {
    if [ -n "${POLLUX_BIN_DIR:-}" ]; then
        [ -d "$POLLUX_BIN_DIR" ] || die "POLLUX_BIN_DIR=$POLLUX_BIN_DIR is not a directory"
        printf '%s\n' "$POLLUX_BIN_DIR"
        return 0
    fi
    local root output
    root=$(repo_root)
    need_packages "${BUILD_PACKAGES[@]}"
    need_rust
    [ $# -gt 0 ] || set -- -p pollux -p pollux-control --bins
    log "building (release): cargo build --release $*"
    output=$(mktemp)
    if ! (cd "$root" && cargo build --release "$@") >"$output" 2>&1; then
        tail -n 40 "$output" >&2
        rm -f "$output"
        die "the build failed. Run: cargo build --release $*"
    fi
    rm -f "$output"
    printf '%s/release\n' "$(target_dir)"
}

# hugepages_free: prints how many 2 MiB pages are free.
hugepages_free() {
    cat /sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages 2>/dev/null || echo 0
}

# setup_hugepages N: sees to N free huge pages of 2 MiB (asks the kernel for more where
# fewer are free) and stops with the remedy where there is no memory for them.
# What was there before is in HUGEPAGES_BEFORE, for restore_hugepages.
setup_hugepages() {
    local wanted=$1 file=/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages total free
    [ -r "$file" ] || die "the kernel has no 2 MiB huge pages (CONFIG_HUGETLBFS); use --no-huge where the script offers it"
    total=$(cat "$file")
    free=$(hugepages_free)
    HUGEPAGES_BEFORE=${HUGEPAGES_BEFORE:-$total}
    [ "$free" -ge "$wanted" ] && return 0
    [ "$(id -u)" -eq 0 ] || die "$free huge pages are free, $wanted needed. Run: sudo sysctl -w vm.nr_hugepages=$((total + wanted - free))"
    echo $((total + wanted - free)) >"$file" 2>/dev/null || true
    free=$(hugepages_free)
    if [ "$free" -lt "$wanted" ]; then
        die "only $free of $wanted huge pages (2 MiB) could be had: memory is short or fragmented. Free some memory," \
            "then: sync; echo 3 > /proc/sys/vm/drop_caches; echo 1 > /proc/sys/vm/compact_memory;" \
            "sysctl -w vm.nr_hugepages=$((total + wanted - free)); or reserve them at boot: hugepages=$wanted"
    fi
}

# restore_hugepages: gives back what setup_hugepages took.
restore_hugepages() {
    [ -n "${HUGEPAGES_BEFORE:-}" ] || return 0
    echo "$HUGEPAGES_BEFORE" >/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages 2>/dev/null || true
}

# need_disk MB DIRECTORY: stops when less is free where DIRECTORY is, unless it has been built in before.
need_disk() {
    local free
    free=$(df -Pm "$2" | awk 'NR == 2 { print $4 }')
    [ "$free" -ge "$1" ] || [ -d "$(target_dir)/debug/deps" ] ||
        die "$free MB are free on the disk of $2, and a build takes up to $1: make room, or set CARGO_TARGET_DIR to a directory elsewhere"
}

# wait_until SECONDS COMMAND…: runs COMMAND every 50 ms until it succeeds; fails after SECONDS.
wait_until() {
    local deadline=$(($(date +%s%N) + $1 * 1000000000))
    shift
    until "$@" >/dev/null 2>&1; do
        [ "$(date +%s%N)" -lt "$deadline" ] || return 1
        sleep 0.05
    done
}

# alive PID: whether the process runs (a zombie does not).
alive() {
    [ -n "${1:-}" ] && [ -r "/proc/$1/stat" ] && [ "$(sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -c1)" != Z ]
}

dead() {
    ! alive "$1"
}

# stop_pid PID [SECONDS]: asks the process to end, then makes it. For processes that
# the script itself started.
stop_pid() {
    alive "${1:-}" || return 0
    kill -TERM "$1" 2>/dev/null || true
    wait_until "${2:-5}" dead "$1" || kill -KILL "$1" 2>/dev/null || true
    wait "$1" 2>/dev/null || true
}
