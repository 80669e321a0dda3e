#!/bin/sh
# The page in a browser: at / of `flashblock serve`, and as `flashblock trace --html` writes it. Prints TAP.
#   browse.sh PROGRAM MODEL_DIR PACKAGES
# playwright-core, which drives Debian's Chromium, and axe-core, which knows rules of accessibility, are installed from
# npm into the directory PACKAGES. Without them, or without Chromium, the test is skipped. Screenshots stay in
# PACKAGES/screenshots, for somebody to look at.
set -eu

program=$1
model=$2
packages=$3
here=$(cd "$(dirname "$0")" && pwd)
driver=playwright-core@1.65.1
rules=axe-core@4.14.1

skip() {
    echo "1..0 # SKIP $1"
    exit 0
}

command -v chromium >/dev/null 2>&1 || skip "Chromium is not installed"
command -v node >/dev/null 2>&1 || skip "node is not installed"
command -v npm >/dev/null 2>&1 || skip "npm is not installed"

mkdir -p "$packages/screenshots"
if [ "$(cat "$packages/installed" 2>/dev/null)" != "$driver $rules" ]; then
    echo '{"private": true}' >"$packages/package.json"
    npm install --prefix "$packages" --ignore-scripts --no-audit --no-fund --loglevel=error \
        --fetch-retries=1 --fetch-timeout=60000 "$driver" "$rules" >"$packages/npm.log" 2>&1 ||
        skip "npm cannot install the packages (see $packages/npm.log)"
    echo "$driver $rules" >"$packages/installed"
fi

exec node "$here/browse.mjs" "$program" "$model" "$packages"
