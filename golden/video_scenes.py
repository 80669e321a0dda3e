"""The scenes that golden/demo-video is trained on, and the check of clips against their prompts.

A coloured shape on a dark ground moves straight and bounces off the borders. The prompt names its colour,
form, place at the start and heading: "red ring top-left southeast". Its exact place (1 pixel around the
middle of a ninth of the frame), size, speed and angle are left open; a model that makes the clip block by
block has to see from the finished blocks what it chose.

Only numpy is needed. What trains draws with PyTorch: functions that both use take `xp`, one or the other.
"""
import dataclasses
import math

import numpy as np

COLOURS = dict(
    red=(0.95, 0.20, 0.20),
    green=(0.20, 0.85, 0.30),
    blue=(0.25, 0.45, 1.00),
    yellow=(1.00, 0.90, 0.20),
    magenta=(0.95, 0.30, 0.90),
    cyan=(0.20, 0.90, 0.95),
    white=(1.00, 1.00, 1.00),
    orange=(1.00, 0.55, 0.10),
)
FORMS = ("circle", "square", "triangle", "ring", "diamond")
PLACES = tuple(f"{row}-{column}" for row in ("top", "middle", "bottom") for column in ("left", "centre", "right"))
HEADINGS = ("east", "southeast", "south", "southwest", "west", "northwest", "north", "northeast")
WORDS = (*COLOURS, *FORMS, *PLACES, *HEADINGS)

SIZE = 32  # pixels, both ways
CELL = 6.0  # pixels between the middles of two neighbouring places
RADIUS = (4.2, 5.0)
SPEED = (1.1, 1.5)  # pixels a frame
JITTER = 1.0  # pixels: the start is that near to the middle of its place, along each axis
ANGLE = 0.15  # radians: the direction is that near to its heading
REACH = 1.2  # radii: shapes turn back when a border is that near


def ground(xp):
    """What is behind the shapes: [3, SIZE, SIZE] in [0, 1]"""
    rows = xp.linspace(0, 1, SIZE)[:, None] + xp.zeros(SIZE)
    return xp.stack((0.06 + 0.02 * rows, 0.07 + 0.03 * rows, 0.12 + 0.10 * rows))


def bounce(xp, x, low, high):
    """A straight motion folded into [low, high]."""
    span = high - low
    phase = xp.remainder(x - low, 2 * span)
    return low + xp.minimum(phase, 2 * span - phase)


def cover(xp, form, dx, dy, radius):
    """How much of each pixel the shape covers, 0 to 1; (dx, dy): from its middle to the pixel's."""
    along = abs(dx), abs(dy)
    if form == "circle":
        outside = xp.hypot(dx, dy) - radius
    elif form == "square":
        outside = xp.maximum(*along) - 0.85 * radius
    elif form == "triangle":
        outside = xp.maximum(0.88 * along[0] - 0.47 * (dy + radius), dy - 0.8 * radius)
    elif form == "ring":
        outside = abs(xp.hypot(dx, dy) - 0.75 * radius) - 0.22 * radius
    else:
        outside = 0.707 * (along[0] + along[1] - 1.2 * radius)
    return xp.clip(0.5 - outside, 0, 1)


# ------------------------------------------------------------------------------------------- the check

AREA = dict(circle=3.142, square=2.89, triangle=1.731, ring=2.073, diamond=2.88)  # in squared radii
LOWER = dict(circle=0.0, square=0.0, triangle=0.2, ring=0.0, diamond=0.0)  # centroid below the middle, in radii

FRAMES_RIGHT = 0.9  # share of a clip's frames that must show the asked colour, and the asked form
UNEXPLAINED = 0.2  # of the shape's area: squared error that the best template may leave
OFF_PATH = 2.0  # pixels: no frame's shape may be that far from the straight path with its bounces


@dataclasses.dataclass
class Sight:
    """What a frame shows."""

    colour: str
    form: str  # "" where no form fits
    radius: float  # by the area, if it is of the asked form
    x: float  # its middle
    y: float


def sharpen(share):
    """Small errors of the ground and of the inside no longer count."""
    return np.clip((share - 0.15) / 0.7, 0, 1)


def look(frame, asked):
    """frame [3, SIZE, SIZE] in [0, 1]; asked: a form. A Sight, or None if there is nothing."""
    excess = frame - ground(np)
    far = np.sqrt((excess**2).sum(0))
    if not far.max() >= 0.2:  # or not a number
        return None
    mean = frame[:, far > 0.5 * far.max()].mean(1)
    colour = min(COLOURS, key=lambda name: ((mean - COLOURS[name]) ** 2).sum())
    shade = np.array(COLOURS[colour])[:, None, None] - ground(np)
    seen = sharpen((excess * shade).sum(0) / (shade**2).sum(0))
    area = seen.sum()
    if area < 4:
        return None
    pixel = np.arange(SIZE) + 0.5
    x, y = (seen.sum(0) * pixel).sum() / area, (seen.sum(1) * pixel).sum() / area
    left = {}
    for form in FORMS:
        radius = math.sqrt(area / AREA[form])
        dx, dy = pixel - x + np.zeros((SIZE, 1)), (pixel - y + LOWER[form] * radius)[:, None] + np.zeros(SIZE)
        left[form] = ((seen - sharpen(cover(np, form, dx, dy, radius))) ** 2).sum()
    best = min(left, key=left.get)
    radius = math.sqrt(area / AREA[asked])
    return Sight(colour, best if left[best] <= UNEXPLAINED * area else "", radius, x, y - LOWER[asked] * radius)


def fit_path(x, low, high):
    """Start and speed along one axis, x [frames], and how far each frame is from that."""
    start = x[0] + 0.1 * np.arange(-10, 11)[:, None, None]
    speed = 0.03 * np.arange(-60, 61)[:, None]
    off = bounce(np, start + speed * np.arange(len(x)), low, high) - x
    best = (off**2).sum(-1).argmin()
    return start.ravel()[best // 121], speed.ravel()[best % 121], off.reshape(-1, len(x))[best]


def judge(clip, prompt):
    """clip [frames, 3, SIZE, SIZE] in [-1, 1]. Whether (colour, form, place, motion) are those of the prompt."""
    colour, form, place, heading = prompt.split()
    sights = [look((np.clip(frame, -1, 1) + 1) / 2, form) for frame in np.asarray(clip, dtype=np.float64)]
    seen = [s for s in sights if s]
    enough = FRAMES_RIGHT * len(sights)
    right_colour = sum(s.colour == colour for s in seen) >= enough
    right_form = sum(s.form == form for s in seen) >= enough
    if len(seen) < len(sights):
        return right_colour, right_form, False, False
    cell = [min(2, max(0, round((at - SIZE / 2) / CELL + 1))) for at in (seen[0].x, seen[0].y)]
    reach = REACH * np.median([s.radius for s in seen])
    (_, east, off_x), (_, south, off_y) = (
        fit_path(np.array([getattr(s, axis) for s in seen]), reach, SIZE - reach) for axis in "xy"
    )
    eighth = round(math.atan2(south, east) / (math.pi / 4)) % 8
    on_path = np.hypot(off_x, off_y).max() <= OFF_PATH
    return right_colour, right_form, PLACES[3 * cell[1] + cell[0]] == place, HEADINGS[eighth] == heading and on_path
