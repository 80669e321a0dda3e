#!/bin/sh
# test_install.sh BUILD_DIR CONSUMER.c SANITIZE COMPILER...: installs into a scratch folder, compiles
# a small program against what is there as pkg-config says, and runs it. Prints TAP.
# shellcheck disable=SC2317  # functions are called through `result`
build=$1
consumer=$2
sanitize=$3
shift 3

if [ "$sanitize" != none ]; then
    echo "1..0 # SKIP sanitized libraries need sanitized programs"
    exit 0
fi

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
status=0

# result COMMAND...: one TAP line, named by $name; what the command says goes below it when it fails.
result() {
    if "$@" >"$root/log" 2>&1; then
        echo "ok - $name"
    else
        echo "not ok - $name"
        sed 's/^/# /' "$root/log"
        status=1
    fi
}

# flags PACKAGE...: what pkg-config says. A static OpenBLAS wants Fortran's library, which is a
# package of its own; its shared library, which is linked here, brings its own.
flags() {
    pkg-config --cflags --libs "$@" | sed 's/-lgfortran//g'
}

# build_and_run PROGRAM PKG_CONFIG_ARGUMENTS COMPILER...
build_and_run() {
    program=$root/$1
    arguments=$2
    shift 2
    # shellcheck disable=SC2046,SC2086  # lists of words
    "$@" "$consumer" -o "$program" $(flags $arguments) -lm &&
        LD_LIBRARY_PATH="$libdir" "$program"
}

needs_only_the_core() {
    readelf -d "$root/core" | grep -q 'NEEDED.*libflashblock\.so\.0' &&
        ! readelf -d "$libdir/libflashblock.so" | grep NEEDED | grep -E 'blas|jansson|pcre|utf8proc'
}

echo 1..6
name="meson install"
result env DESTDIR="$root" meson install -C "$build" --no-rebuild --quiet
pkgconfig=$(dirname "$(find "$root" -name flashblock.pc)")
libdir=$(dirname "$pkgconfig")
sed -i "s|^prefix=|prefix=$root|" "$pkgconfig"/*.pc
export PKG_CONFIG_PATH="$pkgconfig"
name="the installed program runs"
result env LD_LIBRARY_PATH="$libdir" "$(find "$root" -path '*/bin/flashblock')" --version
name="a program with libflashblock"
result build_and_run core flashblock "$@" -DCORE_ONLY
name="libflashblock needs no library of the language models"
result needs_only_the_core
name="a program with libflashblock-lm"
result build_and_run lm flashblock-lm "$@"
name="a program with the static libflashblock-lm"
rm "$libdir"/libflashblock*.so*
result build_and_run static "--static flashblock-lm" "$@"
exit $status
