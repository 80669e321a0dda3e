#!/bin/sh
# packages.sh has PACKAGE: whether it, or what is used of it, is there.
# packages.sh build|check|bench|emulation [--list]: installs the Debian packages that building takes,
# building and testing, building with every peer of `flashblock bench` and plotting what it measured, or
# testing instruction sets that the CPU lacks. A package counts as there when dpkg says so, or when what is
# used of it is there: a program, a library that pkg-config or the compiler finds. So a system without
# apt that has everything passes. --list prints the names of all the packages, and does nothing else.
set -eu

build="meson ninja-build gcc libc6-dev pkgconf python3 libxxhash-dev libyajl-dev
    libpcre2-dev libutf8proc-dev libpng-dev libedit-dev libmicrohttpd-dev"
bench="libopenblas-dev libblis-openmp-dev libdnnl-dev gnuplot-nox"
check="binutils chromium clang clang-format libclang-rt-dev libomp-dev libcriterion-dev libopenblas-dev
    gnuplot-nox doxygen groff-base python3-numpy python3-pytest"
emulation="gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static mmdebstrap bochs"

case "${1:-}" in
has) wanted="" ;;
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

has_program() {
    command -v "$1" >/dev/null
}

has_library() {
    pkg-config --exists "$1" 2>/dev/null
}

# has_header COMPILER HEADER [OPTION]
has_header() {
    echo "#include <$2>" | "$1" ${3:+"$3"} -x c -fsyntax-only - 2>/dev/null
}

# The libraries of clang's sanitizers; their names depend on how clang was built.
has_clang_runtime() {
    ls "$(clang -print-runtime-dir 2>/dev/null)"/libclang_rt.fuzzer*.a >/dev/null 2>&1
}

# has_module NAME: for the Python that runs the tests of the Python package.
has_module() {
    python=/usr/bin/python3
    [ -x "$python" ] || python=python3
    "$python" -c "import $1" 2>/dev/null
}

# Whether what is used of a package is there, wherever it comes from.
is_there() {
    case $1 in
    binutils) has_program objdump ;;
    clang-format) has_program clang-format-14 || has_program clang-format ;;
    gcc-aarch64-linux-gnu) has_program aarch64-linux-gnu-gcc ;;
    gnuplot-nox) has_program gnuplot ;;
    groff-base) has_program groff ;;
    libblis-openmp-dev) has_header gcc blis.h ;;
    libc6-dev) has_header gcc stdlib.h ;;
    libc6-dev-arm64-cross) has_header aarch64-linux-gnu-gcc stdlib.h ;;
    libclang-rt-dev) has_clang_runtime ;;
    libomp-dev) has_header clang omp.h -fopenmp ;;
    libcriterion-dev) has_library criterion ;;
    libdnnl-dev) has_header gcc dnnl.h ;;
    libedit-dev) has_library libedit ;;
    libmicrohttpd-dev) has_library libmicrohttpd ;;
    libyajl-dev) has_library yajl ;;
    libopenblas-dev) has_library openblas ;;
    libpcre2-dev) has_library libpcre2-8 ;;
    libpng-dev) has_library libpng ;;
    libutf8proc-dev) has_library libutf8proc ;;
    libxxhash-dev) has_library libxxhash ;;
    ninja-build) has_program ninja ;;
    pkgconf) has_program pkg-config ;;
    python3-numpy) has_module numpy ;;
    python3-pytest) has_module pytest ;;
    qemu-user-static) has_program qemu-aarch64-static ;;
    *) has_program "$1" ;; # the program is called what the package is
    esac
}

if [ "$1" = has ]; then
    is_installed "$2" || is_there "$2"
    exit
fi

missing=""
for package in $wanted; do
    is_installed "$package" || is_there "$package" || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

give_up() {
    echo "$1" >&2
    echo "These packages are missing (names of Debian 12):$missing" >&2
    echo "Install them, or what this system calls them; then: meson setup build && ninja -C build" >&2
    exit 1
}

has_program apt-get || give_up "There is no apt-get on this machine."
as_root=""
if [ "$(id -u)" -ne 0 ]; then
    has_program sudo || give_up "Installing packages takes root, and there is no sudo."
    as_root=sudo
fi

echo "Installing packages:$missing" >&2
# A system that has just started may be updating itself: wait until it is done.
wait_for_lock="-o DPkg::Lock::Timeout=600"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# shellcheck disable=SC2086  # two words
$as_root apt-get $wait_for_lock update >"$log" 2>&1 || {
    cat "$log" >&2
    give_up "apt-get update failed."
}
# shellcheck disable=SC2086  # lists of words
$as_root env DEBIAN_FRONTEND=noninteractive apt-get $wait_for_lock install -y --no-install-recommends $missing \
    >"$log" 2>&1 || {
    cat "$log" >&2
    give_up "apt-get install failed."
}
