#!/bin/sh
# test_install.sh BUILD_DIR SOURCE_DIR SANITIZE COMPILER...: installs into a scratch folder, compiles
# small programs against what is there as pkg-config says, and runs them. Prints TAP.
# shellcheck disable=SC1091,SC2016,SC2086,SC2317  # sed scripts; functions called through `result`
build_dir=$1
source=$2
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

# flags PACKAGE...: what pkg-config says.
flags() {
    pkg-config --cflags --libs "$@"
}

# build FILE.c NAME PKG_CONFIG_ARGUMENTS COMPILER...
build() {
    file=$1
    program=$root/$2
    arguments=$3
    shift 3
    # shellcheck disable=SC2046,SC2086  # lists of words
    "$@" "$file" -o "$program" $(flags $arguments) -lm
}

# consumer NAME PKG_CONFIG_ARGUMENTS COMPILER...
consumer() {
    build "$source/tests/consumer.c" "$@" && LD_LIBRARY_PATH="$libdir" "$root/$1"
}

# The example of the README compiles without a warning and continues a text.
example() {
    sed -n '/^```c$/,/^```$/p' "$source/README.md" | grep -v '^```' >"$root/example.c"
    build "$root/example.c" example flashblock-lm "$@" -Wall -Wextra -Werror &&
        LD_LIBRARY_PATH="$libdir" "$root/example" "$source/golden/demo-model" "And it came to pass" |
        grep -E '^[0-9]+ of [0-9]+ steps reused$'
}

# The commands that the README shows compile and run, as they stand there.
commands_of_the_readme() {
    mkdir "$root/readme" && ln -s "$source/golden" "$source/examples" "$root/readme"
    cp "$root/example.c" "$root/readme"
    (
        cd "$root/readme" || exit 1
        compiler="$*"
        cc() {
            $compiler "$@"
        }
        grep '^    cc ' "$source/README.md" >commands && [ "$(wc -l <commands)" -eq 2 ] && . ./commands &&
            LD_LIBRARY_PATH="$libdir" ./parts | diff - examples/parts.out &&
            LD_LIBRARY_PATH="$libdir" ./example golden/demo-model "And it came to pass"
    )
}

# The commands that docs/library.md shows, as they stand there, while both kinds of libraries are installed: the first
# links shared libraries, and the second none.
commands_of_the_manual() {
    mkdir "$root/manual" && cp "$root/example.c" "$root/manual/program.c"
    (
        cd "$root/manual" || exit 1
        compiler="$*"
        cc() {
            $compiler "$@"
        }
        grep '^    cc ' "$source/docs/library.md" >commands && [ "$(wc -l <commands)" -eq 2 ] || exit 1
        sed -n 1p commands >shared && . ./shared && readelf -d program | grep -q 'NEEDED.*libflashblock-lm' || exit 1
        LD_LIBRARY_PATH="$libdir" ./program "$source/golden/demo-model" "And it came to pass" >shared.out || exit 1
        sed -n 2p commands >static && . ./static && ! readelf -d program | grep NEEDED || exit 1
        ./program "$source/golden/demo-model" "And it came to pass" | diff - shared.out
    )
}

# Whether there are static libraries of the system to link.
has_static_libraries() {
    echo 'int main(void) { return 0; }' >"$root/empty.c"
    "$@" -static "$root/empty.c" -o "$root/empty" -lyajl_s -lpcre2-8 -lutf8proc -lm 2>/dev/null
}

man_page() {
    page=$(find "$root" -path '*/man1/flashblock.1')
    [ -n "$page" ] && grep -q '^\.SH "flashblock generate"$' "$page"
}

# Each header is complete by itself, in C and, where there is a compiler, in C++.
headers() {
    include=$(dirname "$(find "$root" -path '*/include/flashblock' -not -path "$root/older/*")")
    for header in "$include"/flashblock/*.h "$include"/flashblock/experimental/*.h; do
        warnings="-Wall -Wextra -Wpedantic -Werror -fsyntax-only -I$include"
        echo "#include \"$header\"" >"$root/header.c" # as a main file its inline functions were unused
        "$@" -std=c11 $warnings -x c "$root/header.c" || return 1
        ! command -v c++ >/dev/null || c++ -std=c++11 $warnings -x c++ "$root/header.c" || return 1
    done
}

# shorten HEADER STRUCT FROM: takes the members from the line that has FROM out of a struct.
shorten() {
    sed -i "/$3/,/^} $2;/{/^} $2;/!d}" "$1"
}

# A program runs that was compiled when three structs had fewer members than the library knows.
older_program() {
    include=$(dirname "$(find "$root" -path '*/include/flashblock' -not -path "$root/older/*")")
    mkdir -p "$root/older" && cp -r "$include/flashblock" "$root/older/"
    shorten "$root/older/flashblock/reuse.h" fb_block_call 'Experimental\. \*\/'
    shorten "$root/older/flashblock/model.h" fb_forward 'Called after each layer'
    shorten "$root/older/flashblock/generate.h" fb_generate_options 'Called for every layer'
    build "$source/tests/older_program.c" older_program flashblock-lm "$@" "-I$root/older" &&
        build "$source/tests/older_program.c" present_program flashblock-lm "$@" &&
        LD_LIBRARY_PATH="$libdir" "$root/older_program" "$source/golden/demo-model" >"$root/older_sizes" &&
        LD_LIBRARY_PATH="$libdir" "$root/present_program" "$source/golden/demo-model" >"$root/sizes" &&
        paste -d ' ' "$root/older_sizes" "$root/sizes" | tee /dev/stderr |
        awk '{ exit !($1 < $4 && $2 < $5 && $3 < $6) }'
}

needs_only_the_core() {
    readelf -d "$root/core" | grep -q 'NEEDED.*libflashblock\.so\.0' &&
        ! readelf -d "$libdir/libflashblock.so" | grep NEEDED | grep -E 'blas|yajl|pcre|utf8proc'
}

# A program that judges a good and a bad result with the oracle's library, and needs no other.
judge() {
    build "$source/tests/oracle_consumer.c" "$@" && LD_LIBRARY_PATH="$libdir" "$root/$1"
}

echo 1..15
name="meson install"
result env DESTDIR="$root" meson install -C "$build_dir" --no-rebuild --quiet
pkgconfig=$(dirname "$(find "$root" -name flashblock.pc)")
libdir=$(dirname "$pkgconfig")
sed -i "s|^prefix=|prefix=$root|" "$pkgconfig"/*.pc
export PKG_CONFIG_PATH="$pkgconfig"
name="each header by itself"
result headers "$@"
name="the installed program runs"
result env LD_LIBRARY_PATH="$libdir" "$(find "$root" -path '*/bin/flashblock')" --version
name="the man page"
result man_page
name="a program with libflashblock"
result consumer core flashblock "$@" -DCORE_ONLY
name="libflashblock needs no library of the language models"
result needs_only_the_core
name="a program with libflashblock-lm"
result consumer lm flashblock-lm "$@"
name="a program with libflashblock-oracle"
result judge judge flashblock-oracle "$@" -Wall -Wextra -Werror
name="a program that was compiled against older headers"
result older_program "$@"
name="the example of the README"
result example "$@"
name="the commands of the README"
result commands_of_the_readme "$@"
name="the commands of docs/library.md"
if has_static_libraries "$@"; then
    result commands_of_the_manual "$@"
    name="a program with no shared library and libflashblock-oracle"
    result judge no_shared "--static flashblock-oracle" "$@" -static
else
    echo "ok - $name # SKIP static libraries of the system are not installed"
    echo "ok - a program with no shared library and libflashblock-oracle # SKIP static libraries are not installed"
fi
name="a program with the static libflashblock-lm"
rm "$libdir"/libflashblock*.so*
result consumer static "--static flashblock-lm" "$@"
name="a program with the static libflashblock-oracle"
result judge static_judge "--static flashblock-oracle" "$@"
exit $status
