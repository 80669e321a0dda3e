#!/bin/sh
# check_symbols.sh LIBRARY...: shared libraries export fb_ symbols and nothing else, and only one of
# them holds the oracle. Prints TAP.
echo "1..$(($# * 2))"
status=0
for library in "$@"; do
    exported=$(nm --dynamic --defined-only --format=posix "$library" | cut -d' ' -f1)
    foreign=$(printf '%s\n' "$exported" | grep -v '^fb_' | tr '\n' ' ')
    name=$(basename "$library")
    if [ -z "$exported" ]; then
        echo "not ok - $name exports nothing"
        status=1
    elif [ -n "$foreign" ]; then
        echo "not ok - $name exports $foreign"
        status=1
    else
        echo "ok - $name"
    fi
    oracle=$(nm --defined-only --format=posix "$library" | grep -cE '^fb_(verify|check_attention|report|finding|candidate|claim|hash)')
    case "$name" in
    libflashblock-oracle*) expected=1 ;;
    *) expected=0 ;;
    esac
    if [ "$((oracle > 0))" -eq "$expected" ]; then
        echo "ok - $name has $oracle functions of the oracle"
    else
        echo "not ok - $name has $oracle functions of the oracle"
        status=1
    fi
done
exit $status
