#!/bin/sh
# check_races.sh PROGRAM THREADS GOLDEN: runs a build for the thread sanitizer (clang,
# -Db_sanitize=thread): attention, reuse, generation, models that share weights, sparse attention, video, case
# files, the golden hashes, with more threads than a test takes. Prints TAP. A data race fails what runs.
set -u
program=$1
threads=$2
golden=$3
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
number=0
failed=0

# The shadow memory of the sanitizer needs an address space as it was before Linux 6.x randomised more
# of it; without setarch it works where vm.mmap_rnd_bits is 28.
fixed=""
if setarch -R true 2>/dev/null; then
    fixed="setarch -R"
fi
TSAN_OPTIONS="halt_on_error=1:exitcode=66"
OMP_WAIT_POLICY=passive
export TSAN_OPTIONS OMP_WAIT_POLICY

# run NAME COMMAND...
run() {
    name=$1
    shift
    number=$((number + 1))
    if $fixed "$@" >"$scratch/log" 2>&1; then
        echo "ok $number - $name"
    else
        echo "not ok $number - $name"
        sed 's/^/# /' "$scratch/log"
        failed=1
    fi
}

head -c 900 "$golden/demo-model/prompt.txt" >"$scratch/prompt.txt"
text="--model $golden/demo-model --prompt-file $scratch/prompt.txt --max-tokens 12 --threads 4"

echo "1..9"
run "callers at the same time" "$threads" "$golden/demo-model"
# shellcheck disable=SC2086  # lists of words
{
    run "generate, dense" "$program" generate $text --tau 0
    run "generate, reuse" "$program" generate $text --tau 2
    run "generate, sparse" "$program" generate $text --sparse quest --density 0.3
    run "trace" "$program" trace $text -o "$scratch/trace"
}
run "problems of a suite, one model's weights" "$program" eval tasks --model "$golden/demo-model" --suite ledger-1k \
    --count 4 --tokens 16 --block-size 16 --policies tau:2 --threads 4
run "video with head-wise reuse" "$program" video --model "$golden/demo-video" --clips 1 --frames 12 --threads 4 \
    --reuse "$golden/demo-video/calibration.json" -o "$scratch/clips.y4m"
run "golden hashes" "$program" selftest --isa all --threads 4
run "case files" "$program" verify --threads 4 "$golden/paper/attn" "$golden/paper/kern" \
    "$golden/paper/split" "$golden/paper/sdar_attn" "$golden/paper/video"
exit $failed
