#!/usr/bin/env python3
"""run.py --build DIR [--timeout SECONDS] PROGRAM [ARGUMENT...] | --probe

Runs a static, single-threaded program on the bare machine of Bochs, with a CPU that has AVX-512. The
program's output goes to standard output, and its exit status is that of run.py: 128 and the signal's
number if it died of a signal, 125 if the emulator failed or the time was up. build.sh makes DIR.

The emulator's display would listen on a network port, so it runs in a network of its own. --probe
asks whether that is possible here.
"""
import argparse
import os
import re
import signal
import struct
import subprocess
import sys
import tempfile

BEGIN = b"[supervisor] begin\n"
END = re.compile(rb"\n\[supervisor\] exit status (\d+) after (\d+) instructions\n")
EMULATOR_FAILED = 125

# Where the supervisor expects the parts (supervisor.h).
ARGUMENTS_ADDRESS = 0x00180000
PROGRAM_ADDRESS = 0x10000000
MAX_ARGUMENTS_BYTES = 0x1e0000 - ARGUMENTS_ADDRESS
MAX_PROGRAM_BYTES = 0x1f000000 - PROGRAM_ADDRESS

SECTOR = 512
CYLINDER = 16 * 63 * SECTOR  # Bochs guesses the disk's geometry: whole cylinders only

# The clock ticks with instructions, whatever the time. The plugins that are off have no use here.
CONFIGURATION = """\
cpu: model=corei7_skylake_x, count=1, ips=100000000, reset_on_triple_fault=0, ignore_bad_msrs=1
clock: sync=none
memory: guest=1024, host=1024
romimage: file={build}/boot.bin
optramimage1: file={build}/supervisor.bin, address=0x00200000
ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
ata0-master: type=disk, path={folder}/disk, mode=flat
boot: disk
floppya: type=none
pci: enabled=0
speaker: enabled=0
plugin_ctrl: unmapped=1, biosdev=0, speaker=0, extfpuirq=0, gameport=0, parallel=0, serial=0, iodebug=0
display_library: rfb, options="timeout=0"
port_e9_hack: enabled=1
log: {folder}/log
panic: action=fatal
error: action=ignore
info: action=ignore
debug: action=ignore
"""


def pack_arguments(arguments, environment):
    """The numbers of both, then their strings."""
    strings = [text.encode() for text in arguments + environment]
    header = struct.pack("<QQ", len(arguments), len(environment))
    return header + b"".join(text + b"\0" for text in strings)


def make_disk(path, parts):
    """parts: (address, bytes). The first sector says what goes where (disk.c)."""
    header = b"FBDISK01" + struct.pack("<Q", len(parts))
    sectors = []
    next_sector = 1
    for address, content in parts:
        count = -(-len(content) // SECTOR)
        header += struct.pack("<QQQ", address, next_sector, count)
        sectors.append(content.ljust(count * SECTOR, b"\0"))
        next_sector += count
    image = header.ljust(SECTOR, b"\0") + b"".join(sectors)
    with open(path, "wb") as disk:
        disk.write(image)
        disk.truncate(-(-len(image) // CYLINDER) * CYLINDER)


def network_of_its_own():
    return ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--net"]


def run_emulator(folder, build, timeout):
    """What Bochs has written to standard output, and why it failed, if it did."""
    with open(f"{folder}/bochsrc", "w", encoding="utf-8") as configuration:
        configuration.write(CONFIGURATION.format(build=build, folder=folder))
    with open(f"{folder}/debugger", "w", encoding="utf-8") as commands:
        commands.write("continue\n")  # Debian's Bochs has its debugger built in, which waits
    command = network_of_its_own() + ["bochs", "-f", f"{folder}/bochsrc", "-q"]
    command += ["-rc", f"{folder}/debugger"]
    output_path = f"{folder}/output"
    reason = ""
    with open(output_path, "wb") as output:
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        ) as emulator:
            try:
                emulator.wait(timeout)
            except subprocess.TimeoutExpired:
                reason = f"not finished after {timeout:g} seconds"
            finally:
                emulator.kill()
    with open(output_path, "rb") as output:
        return output.read(), reason


def log_tail(folder, output):
    """For a failure that only the emulator can explain."""
    try:
        with open(f"{folder}/log", "rb") as log:
            lines = log.read().splitlines()
    except OSError:
        lines = output.splitlines()
    return "\n".join(line.decode(errors="replace") for line in lines[-8:])


def run(program, arguments, build, timeout):
    with open(program, "rb") as file:
        content = file.read()
    packed = pack_arguments([program, *arguments], ["OMP_NUM_THREADS=1"])
    if len(content) > MAX_PROGRAM_BYTES or len(packed) > MAX_ARGUMENTS_BYTES:
        sys.exit(f"run.py: {program} or its arguments do not fit into the emulator's memory")
    with tempfile.TemporaryDirectory() as folder:
        make_disk(
            f"{folder}/disk", [(PROGRAM_ADDRESS, content), (ARGUMENTS_ADDRESS, packed)]
        )
        output, reason = run_emulator(folder, os.path.abspath(build), timeout)
        _, begun, written = output.partition(BEGIN)
        end = END.search(written)
        sys.stdout.buffer.write(written[: end.start()] if end else written)
        sys.stdout.flush()
        if begun and end:
            return int(end[1])
        print(f"run.py: {reason or 'the emulator stopped'}", file=sys.stderr)
        if not reason:
            print(log_tail(folder, output), file=sys.stderr)
        return EMULATOR_FAILED


def main():
    if sys.argv[1:] == ["--probe"]:
        return subprocess.call(network_of_its_own() + ["true"], stderr=subprocess.DEVNULL)
    parser = argparse.ArgumentParser(usage=__doc__.splitlines()[0])
    parser.add_argument("--build", required=True)
    parser.add_argument("--timeout", type=float, default=900)
    parser.add_argument("program")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    return run(options.program, options.arguments, options.build, options.timeout)


sys.exit(main())
