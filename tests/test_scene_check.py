#!/usr/bin/python3
"""test_scene_check.py PROGRAM FOLDER: the check of clips in C, PROGRAM (scene_verdicts.c), gives the verdicts of
the one in Python, video_scenes.py in FOLDER, on clips that are right, wrong, and damaged. Prints TAP."""
import math
import os
import subprocess
import sys

PROGRAM = sys.argv[1]
sys.path.insert(0, sys.argv[2])

try:
    import numpy as np
    import video_scenes as scenes
except ImportError as error:
    if os.path.exists("/usr/bin/python3") and not os.environ.get("SCENE_CHECK_AGAIN"):  # Debian's may have it
        os.environ["SCENE_CHECK_AGAIN"] = "1"
        os.execv("/usr/bin/python3", ["/usr/bin/python3", *sys.argv])
    print(f"1..0 # SKIP {error}")
    sys.exit(0)

FRAMES = 21
SEED = 20


def draw(rng, colour, form, place, heading):
    """A clip of a scene, in [-1, 1]: [FRAMES, 3, SIZE, SIZE]"""
    radius, angle = rng.uniform(*scenes.RADIUS), math.pi / 4 * scenes.HEADINGS.index(heading) + rng.uniform(-0.15, 0.15)
    cell = divmod(scenes.PLACES.index(place), 3)
    start = [scenes.SIZE / 2 + scenes.CELL * (c - 1) + rng.uniform(-1, 1) for c in (cell[1], cell[0])]
    reach, pixel, clip = scenes.REACH * radius, np.arange(scenes.SIZE) + 0.5, []
    speed = rng.uniform(*scenes.SPEED)
    for t in range(FRAMES):
        x, y = (
            scenes.bounce(np, s + speed * v * t, reach, scenes.SIZE - reach)
            for s, v in zip(start, (math.cos(angle), math.sin(angle)))
        )
        dx, dy = np.broadcast_arrays(pixel - x, (pixel - y)[:, None])
        share = scenes.cover(np, form, dx, dy, radius)
        shade = np.array(scenes.COLOURS[colour])[:, None, None]
        clip.append(scenes.ground(np) * (1 - share) + shade * share)
    return 2 * np.array(clip) - 1


def damaged(rng, clip):
    """The clip, and what a model may make of it: names and clips."""
    yield "whole", clip
    yield "noisy", clip + 0.15 * rng.standard_normal(clip.shape)
    yield "very noisy", clip + 0.8 * rng.standard_normal(clip.shape)
    yield "faint", clip * 0.5 + clip[:, :, :1, :1] * 0.5
    blurred = sum(np.roll(clip, shift, axis) for axis in (2, 3) for shift in (-2, -1, 0, 1, 2)) / 10
    yield "blurred", blurred
    jump = clip.copy()
    jump[12:] = np.roll(jump[12:], 5, 3)
    yield "a jump", jump
    still = clip.copy()
    still[6:] = still[5]
    yield "stops", still
    gone = clip.copy()
    gone[9:12] = clip[:1, :, :1, :1]
    yield "disappears", gone
    yield "turns colour", np.concatenate((clip[:15], clip[15:, ::-1]))
    yield "backwards", clip[::-1]
    yield "nothing", np.zeros_like(clip)
    yield "not finite", np.where(rng.random(clip.shape) < 0.001, np.nan, clip)


def verdict(clip, prompt):
    data = np.ascontiguousarray(clip, dtype=np.float32)
    result = subprocess.run(
        [PROGRAM, str(len(clip)), prompt], input=data.tobytes(), capture_output=True, timeout=60, check=True
    )
    return tuple(word == b"1" for word in result.stdout.split()), data


def main():
    rng = np.random.default_rng(SEED)
    print(f"# seed {SEED}")
    failed = count = 0
    seen = set()
    for form in scenes.FORMS:
        colour, place, heading = (str(rng.choice(list(k))) for k in (scenes.COLOURS, scenes.PLACES, scenes.HEADINGS))
        prompt = f"{colour} {form} {place} {heading}"
        other = str(rng.choice([f for f in scenes.FORMS if f != form]))
        clip = draw(rng, colour, form, place, heading)
        clips = [*damaged(rng, clip), (f"a {other}", draw(rng, colour, other, place, heading))]
        for name, shown in clips:
            ours, data = verdict(shown, prompt)
            with np.errstate(invalid="ignore"):
                theirs = tuple(map(bool, scenes.judge(data, prompt)))
            count += 1
            seen.add(theirs)
            good = ours == theirs and (name != "whole" or all(theirs))
            failed += not good
            print(f"{'ok' if good else 'not ok'} {count} - {prompt}: {name}: {theirs}" + ("" if good else f", C: {ours}"))
    good = len(seen) >= 5
    print(f"{'ok' if good else 'not ok'} {count + 1} - the clips have different verdicts: {len(seen)}")
    print(f"1..{count + 1}")
    return 1 if failed or not good else 0


sys.exit(main())
