#!/bin/sh
# run.sh DIR: builds the project for aarch64 in DIR/build, with Debian's cross compiler, and runs tests
# there under qemu-user. Their results are in meson's logs, DIR/build/meson-logs/qemu_*.json. What could
# not be done here, all or Criterion's suites, is in DIR/reason.
# Exit status: 0 tests ran, passed or not; 1 the build failed; 77 nothing can be run here.
set -u
here=$(dirname "$(readlink -f "$0")")
source=$(readlink -f "$here/../../..")
mkdir -p "$1"
cd "$1" || exit 1

cannot() {
    echo "$1" | tee reason
}

rm -f reason build/meson-logs/*.json
"$here/make_sysroot.sh" sysroot || {
    cannot "Debian's arm64 packages cannot be had"
    exit 77
}

sed "s|@SYSROOT@|$PWD/sysroot|; s|@HERE@|$here|" "$here/cross.ini.in" >cross.ini.new
if ! cmp -s cross.ini.new cross.ini; then # meson keeps the file that it was set up with
    rm -rf build
    mv cross.ini.new cross.ini
fi
if [ ! -f build/build.ninja ]; then
    meson setup build "$source" --cross-file cross.ini --buildtype=release --werror \
        -Dtests=enabled || exit 1
fi
ninja -C build || exit 1

# Threads that wait for work would take the time of those that have it.
export OMP_WAIT_POLICY=passive

# Under Criterion, tests start programs: meson runs as a whole where aarch64 programs can be started.
# Elsewhere the cross file's exe_wrapper starts each test, which may start nothing.
surrounded() {
    "$@"
}
if "$here/with_qemu.sh" --probe; then
    criterion=yes
    surrounded() {
        "$here/with_qemu.sh" "$PWD/sysroot" "$@"
    }
else
    criterion=no
    cannot "Criterion's suites take a binfmt_misc of one's own (Linux 6.7, user namespaces)"
fi

# run_tests LOG TEST... [--MESON_OPTION...]
run_tests() {
    log=$1
    shift
    surrounded meson test -C build --no-rebuild --print-errorlogs --timeout-multiplier 10 \
        --logbase "qemu_$log" "$@"
}

# The suites about the core, but two that take long here: hashes runs what selftest does, more often;
# exp_log goes through every float32, in double precision. Of attend and golden the samples: fewer random
# cases, and every third golden file.
[ "$criterion" = no ] || run_tests suites attend_sample golden_sample merge oracle reuse sequence
run_tests spills spills
# From 640 rounds on, every size of every kernel occurs.
run_tests checkasm checkasm --test-args='--rounds 640'
# All sets; and the work of two threads with one of them: how it is shared does not depend on the set.
run_tests one_thread selftest --test-args='--threads 1'
run_tests two_threads selftest --test-args='--threads 2 --isa neon'
exit 0
