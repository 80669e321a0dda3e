#!/bin/sh
# make_sysroot.sh DIR: what building for aarch64 takes, from Debian's arm64 packages, unpacked into DIR.
# Nothing is installed on this machine. The mirror is the one that apt uses here. A DIR that holds these
# packages already stays as it is.
set -eu

# The libraries that the build takes here, clang's OpenMP and the benchmark's BLAS apart, and what the compiler brings here.
packages=$("$(dirname "$(readlink -f "$0")")/../../../.ci/packages.sh" check --list |
    grep '^lib.*-dev$' | grep -v -e '^libomp' -e '^libopenblas' | sort | tr '\n' ',')libgcc-12-dev,libgomp1

directory=$1
stamp=$directory/.packages # written last

# URI and release of the first archive of Debian itself, not of its updates.
archive=$(apt-get indextargets --format '$(REPO_URI) $(CODENAME) $(SUITE)' \
    'Created-By: Packages' 'Component: main' 'Origin: Debian' 'Label: Debian' |
    awk '$2 !~ /-/ && $3 !~ /-/ { print $1, $2; exit }')
[ -n "$archive" ] || {
    echo "apt knows no archive of Debian" >&2
    exit 1
}
mirror=${archive% *}
release=${archive#* }

wanted="$release $packages"
[ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ] || exit 0
echo "Unpacking arm64 packages of Debian $release" >&2
rm -rf "$directory"
if [ "$(id -u)" -eq 0 ]; then mode=root; else mode=unshare; fi
mmdebstrap --quiet --mode=$mode --variant=extract --architectures=arm64 --include="$packages" \
    "$release" "$directory" "deb $mirror $release main"
echo "$wanted" >"$stamp"
