#!/usr/bin/python3
"""flashblock.py: writes flashblock.svg beside itself, the picture of the front page.

The tokens are those of block 1 of `flashblock generate --model golden/demo-model --prompt "And it came to pass"
-n 8 --visual`, tau 2.
"""
import pathlib

STYLE = """
  text { font-family: "DejaVu Sans", Verdana, sans-serif; font-size: 13px; fill: #1f2328; }
  .card { fill: #ffffff; stroke: #d0d7de; }
  .head { font-weight: bold; font-size: 14px; }
  .small { font-size: 11.5px; fill: #59636e; }
  .in { font-size: 12px; fill: #ffffff; }
  .external { fill: #0072b2; } .internal { fill: #c05000; }
  .unread { fill: none; stroke: #afb8c1; }
  .kept { fill: none; stroke: #0072b2; stroke-width: 2; stroke-dasharray: 5 3; }
  .keptText { font-size: 12px; fill: #0072b2; }
  .arrow { fill: none; stroke: #59636e; stroke-width: 1.5; }
  .reuse { fill: none; stroke: #0072b2; stroke-width: 2.5; }
  .tip { fill: #59636e; } .reuseTip { fill: #0072b2; }
  .merge { fill: #ffffff; stroke: #1f2328; stroke-width: 1.5; }
  .mask { fill: #d8dee4; } .token { fill: #ddf4e4; stroke: #2da44e; }
  @media (prefers-color-scheme: dark) {
    text, .token text { fill: #e6edf3; }
    .card { fill: #0d1117; stroke: #3d444d; } .small { fill: #9198a1; } .in { fill: #ffffff; }
    .external { fill: #1f77b4; } .internal { fill: #b3510b; }
    .unread { stroke: #3d444d; } .kept { stroke: #58a6ff; } .keptText { fill: #58a6ff; }
    .arrow { stroke: #9198a1; } .reuse { stroke: #58a6ff; } .tip { fill: #9198a1; } .reuseTip { fill: #58a6ff; }
    .merge { fill: #0d1117; stroke: #e6edf3; } .mask { fill: #3d444d; } .token { fill: #12341f; stroke: #2ea043; }
  }
"""
# (name, what the pass does, is the external part computed, tokens of the block after the pass)
PASSES = [
    ("step 0", "refresh and store", True, ("", "of", "", "")),
    ("step 1", "reuse", False, ("", "of", "Israel", "")),
    ("step 2", "refresh and store", True, ("children", "of", "Israel", "")),
    ("step 3", "reuse", False, ("children", "of", "Israel", "went")),
    ("commit", "refresh", True, ("children", "of", "Israel", "went")),
]
LEFT, WIDTH, KEYS, TOKENS = 140, 176, 10, 4
HEIGHT = 424

parts = []


def put(line):
    parts.append("  " + line)


def text(x, y, words, style="", anchor="middle"):
    put(f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" class="{style}">{words}</text>')


def box(x, y, width, height, style, radius=3):
    put(f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius}" class="{style}"/>')


def arrow(x, y0, y1, style="arrow", tip="tip"):
    put(f'<path d="M{x:g} {y0:g}V{y1 - 6:g}" class="{style}"/>')
    put(f'<path d="M{x - 4:g} {y1 - 7:g}h8l-4 7z" class="{tip}"/>')


def one_pass(number, name, action, computed, tokens):
    left = LEFT + number * WIDTH
    middle = left + 87
    external, internal = left + 48, left + 126
    text(middle, 34, name, "head")
    text(middle, 52, action, "small")
    for key in range(KEYS):  # the KV cache: earlier tokens, then the block's own
        box(left + key * 10, 70, 8, 26, "external" if computed else "unread", 1)
    for token in range(TOKENS):
        box(left + 106 + token * 10, 70, 8, 26, "internal", 1)
    if computed:
        arrow(external, 100, 126)
        box(left, 126, 96, 46, "external")
        text(external, 145, "A_out, L_out", "in")
        text(external, 162, "computed", "in")
    else:
        box(left, 126, 96, 46, "kept")
        text(external, 145, "A_out, L_out", "keptText")
        text(external, 162, "kept, reused", "keptText")
        put(f'<path d="M{left - WIDTH + 97:g} 149H{left - 10:g}" class="reuse"/>')
        put(f'<path d="M{left - 11:g} 144v10l9 -5z" class="reuseTip"/>')
    arrow(internal, 100, 192)
    box(left + 104, 192, 46, 46, "internal")
    text(internal + 1, 211, "A_in,", "in")
    text(internal + 1, 228, "L_in", "in")
    put(f'<path d="M{external} 172V271H{middle - 27}" class="arrow"/>')
    put(f'<path d="M{internal} 238V271H{middle + 27}" class="arrow"/>')
    box(middle - 27, 258, 54, 26, "merge", 13)
    text(middle, 275, "merge", "small")
    arrow(middle, 284, 312)
    for token, word in enumerate(tokens):
        box(left + 25, 314 + token * 19, 124, 17, "token" if word else "mask", 2)
        text(middle, 327 + token * 19, word or "mask", "" if word else "small")


def main():
    box(1, 1, LEFT + len(PASSES) * WIDTH - 2, HEIGHT - 2, "card", 8)
    rows = [(80, "keys and values,", "earlier | block"), (146, "external part", "over earlier tokens"),
            (212, "internal part", "over the block"), (348, "the block", "after the pass")]
    for y, name, note in rows:
        text(16, y, name, "", "start")
        text(16, y + 16, note, "small", "start")
    for number, values in enumerate(PASSES):
        one_pass(number, *values)
    text(16, 412, "Blue: earlier keys and values are read, at a refresh. Outlined: they are not read; the kept part is "
         "reused. Orange: the block itself, at every pass.", "small", "start")
    width = LEFT + len(PASSES) * WIDTH
    svg = (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {HEIGHT}" width="{width}" '
           f'height="{HEIGHT}" role="img">\n<title>FlashBlock: a block is denoised</title>\n'
           f"<style>{STYLE}</style>\n" + "\n".join(parts) + "\n</svg>\n")
    pathlib.Path(__file__).with_suffix(".svg").write_text(svg, encoding="utf-8")


main()
