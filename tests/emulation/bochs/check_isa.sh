#!/bin/sh
# check_isa.sh ISA BUILD_DIR DIR: runs BUILD_DIR's static programs with an instruction set of x86-64 on
# the machine of Bochs: checkasm into DIR/ISA-checkasm.log, the golden hashes into DIR/ISA-hashes.log,
# their exit status into files of the same names with .status. If nothing can be run here, the exit
# status is 77 and DIR/ISA-reason says why.
set -u
here=$(dirname "$(readlink -f "$0")")
isa=$1
build=$2
directory=$3

cannot() {
    echo "$1" | tee "$directory/$isa-reason"
    exit 77
}

# run_program NAME PROGRAM ARGUMENT...
run_program() {
    log=$directory/$isa-$1
    shift
    "$here/run.py" --timeout 3600 --build "$directory/bochs" "$@" >"$log.log" 2>&1
    echo $? >"$log.status"
}

mkdir -p "$directory"
rm -f "$directory/$isa"-*
for program in checkasm-static emulation/check_hashes; do
    [ -x "$build/tests/$program" ] || cannot "there are no static programs (of gcc) in $build"
done
"$here/run.py" --probe || cannot "an emulator needs a network namespace, which the kernel does not give"
"$here/build.sh" "$directory/bochs" || exit 1

# From 640 rounds on, every size of every kernel occurs. Both at once: each takes one CPU.
run_program checkasm "$build/tests/checkasm-static" --isa "$isa" --tap --rounds 640 &
run_program hashes "$build/tests/emulation/check_hashes" "$isa"
wait
