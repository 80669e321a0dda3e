#!/bin/sh
# check_symbols.sh LIBRARY...: shared libraries export fb_ symbols and nothing else. Prints TAP.
echo "1..$#"
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
done
exit $status
