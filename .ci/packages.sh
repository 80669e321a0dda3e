#!/bin/sh
# packages.sh build|check|bench|emulation [--list]: installs the Debian packages that building takes,
# building and testing, building with every peer of `flashblock bench` and plotting what it measured, or
# testing instruction sets that the CPU lacks. Does nothing when all of them are there. --list prints
# their names only.
set -eu

build="meson ninja-build gcc libc6-dev pkgconf python3 libxxhash-dev libjansson-dev
    libpcre2-dev libutf8proc-dev libpng-dev"
bench="libopenblas-dev libblis-openmp-dev libdnnl-dev gnuplot-nox"
check="binutils clang clang-format libomp-dev libcriterion-dev libopenblas-dev gnuplot-nox doxygen
    groff-base"
emulation="gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static mmdebstrap bochs"

case "${1:-}" in
build) wanted=$build ;;
check) wanted="$build $check" ;;
bench) wanted="$build $bench" ;;
emulation) wanted="$build $check $emulation" ;;
*)
    echo "usage: packages.sh build|check|bench|emulation [--list]" >&2
    exit 2
    ;;
esac
if [ "${2:-}" = --list ]; then
    # shellcheck disable=SC2086  # a list of words
    printf '%s\n' $wanted
    exit
fi

is_installed() {
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

missing=""
for package in $wanted; do
    is_installed "$package" || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

give_up() {
    echo "$1" >&2
    echo "These packages are missing (names of Debian 12):$missing" >&2
    echo "Install them, or what this system calls them; then: meson setup build && ninja -C build" >&2
    exit 1
}

command -v apt-get >/dev/null || give_up "There is no apt-get on this machine."
as_root=""
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || give_up "Installing packages takes root, and there is no sudo."
    as_root=sudo
fi

echo "Installing packages:$missing" >&2
log=$(mktemp)
trap 'rm -f "$log"' EXIT
$as_root apt-get update >"$log" 2>&1 || {
    cat "$log" >&2
    give_up "apt-get update failed."
}
# shellcheck disable=SC2086  # a list of words
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing \
    >"$log" 2>&1 || {
    cat "$log" >&2
    give_up "apt-get install failed."
}
