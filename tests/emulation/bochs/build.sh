#!/bin/sh
# build.sh DIR: makes DIR/boot.bin (Bochs' ROM) and DIR/supervisor.bin, with gcc.
set -eu
here=$(dirname "$(readlink -f "$0")")
mkdir -p "$1"
cd "$1"

# No vector registers: they are the program's. No red zone: exceptions use the same stack.
flags="-std=c11 -O2 -Wall -Wextra -Wconversion -Wshadow -Wstrict-prototypes -Wmissing-prototypes
    -Werror -ffreestanding -fno-pic -mno-red-zone -mgeneral-regs-only -fno-stack-protector
    -fcf-protection=none -fno-asynchronous-unwind-tables -fno-tree-loop-distribute-patterns
    --param min-pagesize=0"

objects=""
for name in console disk memory program signals supervisor system_calls; do
    # shellcheck disable=SC2086  # a list of words
    gcc $flags -c "$here/$name.c" -o "$name.o"
    objects="$objects $name.o"
done
gcc -c "$here/entry.S" -o entry.o
# shellcheck disable=SC2086
ld -T "$here/supervisor.ld" -z noexecstack --no-warn-rwx-segments -o supervisor.elf entry.o $objects
objcopy -O binary supervisor.elf supervisor.bin

gcc -m32 -c "$here/boot.S" -o boot.o
ld -m elf_i386 -Ttext 0 -e start -z noexecstack -o boot.elf boot.o
objcopy -O binary -j .text boot.elf boot.bin
