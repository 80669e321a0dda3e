#!/usr/bin/env python3
"""Puts the parts of the page together, and writes the page as an array of bytes in C.

usage: embed.py [--html] page.html page.css SCRIPT.js... > page_text.c

page.html has a line for each part: "<!-- style -->", "<!-- scripts -->", "<!-- policy -->". The policy allows just
these styles and scripts, by their hashes, and requests to where the page came from. With --html the page itself is
written.
"""
import base64
import hashlib
import pathlib
import sys

RECORDING = '<script type="application/json" id="recording">null</script>'


def hash_of(text):
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


def policy_of(style, scripts):
    rules = {
        "default-src": "'none'",
        "style-src": hash_of(style),
        "script-src": hash_of(scripts),
        "img-src": "data:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


def page_of(skeleton, style, scripts):
    for part in ("<!-- policy -->", "<!-- style -->", "<!-- scripts -->", RECORDING):
        if skeleton.count(part) != 1:
            raise SystemExit(f"page.html has not one {part}")
    if "</script" in scripts or "</style" in style:
        raise SystemExit("a script or style ends itself")
    policy = f'<meta http-equiv="Content-Security-Policy" content="{policy_of(style, scripts)}">'
    page = skeleton.replace("<!-- policy -->", policy)
    page = page.replace("<!-- style -->", f"<style>{style}</style>")
    return page.replace("<!-- scripts -->", f"<script>{scripts}</script>")


def array_of(data):
    lines = (", ".join(map(str, data[i : i + 20])) for i in range(0, len(data), 20))
    return ",\n    ".join(lines)


def main():
    arguments = sys.argv[1:]
    as_html = arguments[:1] == ["--html"]
    skeleton, style, *scripts = (
        pathlib.Path(path).read_text(encoding="utf-8") for path in arguments[as_html:]
    )
    scripts = "".join(scripts)
    page = page_of(skeleton, style, scripts)
    if as_html:
        sys.stdout.buffer.write(page.encode())
        return
    before = page[: page.index(RECORDING) + RECORDING.index("null")].encode()
    print(
        f"""/* Written by embed.py: do not edit. */
#include "cli/page/page.h"

const unsigned char fb_page_text[] = {{
    {array_of(page.encode())}}};
const size_t fb_page_size = sizeof fb_page_text;
const size_t fb_page_recording_at = {len(before)};
const char fb_page_policy[] = "{policy_of(style, scripts)}; frame-ancestors 'none'";"""
    )


if __name__ == "__main__":
    main()
