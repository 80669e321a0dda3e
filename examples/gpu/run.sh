#!/bin/sh
# run.sh WHEEL OUTPUT: runs the ports of this folder, their tests and their times on this machine's GPU, and writes what
# they print to the file OUTPUT. WHEEL is the Python package: `pip wheel --no-deps -w DIR ./python` makes it, on any
# machine of the same kind with a C library that is not later. Needs python3 with PyTorch, pytest and pip; Triton for
# its part. With pytest-xdist, WORKERS processes (default 8) share the tests. Takes nothing from a network. The exit
# status is that of the tests.
[ $# -eq 2 ] || {
    sed -n '2,6s/^# //p' "$0"
    exit 2
}
here=$(cd "$(dirname "$0")" && pwd)
wheel=$1
output=$2
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
python3 -m pip install --quiet --no-index --no-deps --target "$site" "$wheel" || exit 1
PYTHONPATH=$site:$here${PYTHONPATH:+:$PYTHONPATH}
export PYTHONPATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1

machine() {
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
    python3 -c '
import platform, flashblock, torch
print("flashblock", flashblock.version(), "Python", platform.python_version(), "PyTorch", torch.__version__)
try:
    import triton
    print("Triton", triton.__version__)
except ImportError:
    print("no Triton")'
}

share=
python3 -c 'import xdist' 2>/dev/null && share="-n ${WORKERS:-8}"

{
    machine
    # shellcheck disable=SC2086
    python3 -m pytest -p no:cacheprovider $share -rs --durations=5 --flashblock-seed "${SEED:-1}" "$here"
    echo "$?" >"$site/status"
    python3 "$here/times.py"
} 2>&1 | tee "$output"
exit "$(cat "$site/status")"
