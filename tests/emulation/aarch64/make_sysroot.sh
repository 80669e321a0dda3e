#!/bin/sh
# make_sysroot.sh DIR: what building for aarch64 takes, from Debian's arm64 packages, unpacked into DIR.
# Nothing is installed on this machine. The mirror is the one that apt uses here. A DIR that holds these
# packages already stays as it is.
set -eu

packages="libc6-dev,libgcc-12-dev,libgomp1,libopenblas-dev,libxxhash-dev,libjansson-dev,libpcre2-dev"
packages="$packages,libutf8proc-dev,libcriterion-dev"

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
