#!/bin/sh
# with_qemu.sh SYSROOT COMMAND...: runs a command such that aarch64 programs, started by it at any depth,
# run under qemu-user with the libraries of SYSROOT. Criterion needs that: it starts its own program
# again for every test.
#
# The kernel finds qemu through binfmt_misc. Where it is not registered, a user namespace gets a
# binfmt_misc of its own (Linux 6.7 or newer), which nobody else sees. Without that, an aarch64 COMMAND
# still runs, but nothing that it starts; `with_qemu.sh --probe` fails then.
set -eu

registered=/proc/sys/fs/binfmt_misc/qemu-aarch64
qemu=/usr/bin/qemu-aarch64-static

# The first 20 bytes of an aarch64 ELF program (of any ABI, executable or position-independent) and
# which of their bits count. F: the interpreter is opened now, by this path.
magic='\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00'
mask='\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff'

# in_namespace COMMAND...
in_namespace() {
    # shellcheck disable=SC2016  # expanded in there
    unshare --user --map-root-user --mount -- sh -eu -c '
        mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
        printf "%s" "$1" >/proc/sys/fs/binfmt_misc/register
        shift
        exec "$@"' sh ":qemu-aarch64:M::$magic:$mask:$qemu:F" "$@"
}

probe() {
    [ -e "$registered" ] || in_namespace true 2>/dev/null
}

if [ "${1:-}" = --probe ]; then
    probe
    exit
fi

QEMU_LD_PREFIX=$1
export QEMU_LD_PREFIX
shift
if [ -e "$registered" ]; then
    exec "$@"
elif probe; then
    in_namespace "$@"
else
    exec "$qemu" "$@"
fi
