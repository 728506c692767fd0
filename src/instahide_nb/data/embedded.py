"""The embedded source: photographs that scikit-image ships inside its wheel, so that nothing is downloaded.

Each photograph serves one side only. Private: 100 squares, ten in each of ten classes, none of which overlaps
another. Public: regions for random crops, one half of each photograph for the challenge and the other half for an
attacker, who does not have the challenge's own crops. Both photographs of the motorcycle, a stereo pair, are public;
they are cut so that no object is seen in both halves.

Files are read by path and checked by sha256. scikit-image's own loader, which may download, is never called.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
from functools import cache
from pathlib import Path

import numpy as np

from instahide_nb.core.arrays import Int64, UInt8
from instahide_nb.core.errors import InputError
from instahide_nb.core.files import sha256_file
from instahide_nb.data.photographs import Photograph, open_photograph, reduce_area

# fmt: off
PRIVATE: dict[str, tuple[str, tuple[tuple[int, int, int], ...]]] = {
    # face, collar, patch, badge, straps, glove, sleeves
    "astronaut": ("astronaut.png", (
        (150, 22, 150), (110, 173, 95), (206, 173, 95), (113, 328, 106), (262, 324, 70),
        (0, 314, 96), (125, 269, 58), (195, 269, 55), (97, 437, 75), (0, 411, 96))),
    # flag, shuttle, helmet
    "spaceflight": ("astronaut.png", (
        (0, 0, 100), (0, 101, 105), (0, 207, 106), (352, 0, 140), (352, 144, 140),
        (225, 395, 99), (340, 340, 86), (426, 340, 86), (326, 426, 86), (426, 426, 86))),
    "cat": ("chelsea.png", (
        (120, 70, 100), (285, 90, 95), (205, 186, 114), (310, 0, 90), (222, 0, 86),
        (20, 0, 95), (20, 96, 99), (98, 195, 105), (0, 203, 97), (322, 187, 113))),
    "coffee": ("coffee.png", (
        (185, 10, 200), (320, 211, 120), (195, 211, 120), (75, 130, 109), (75, 240, 119),
        (387, 95, 114), (195, 332, 68), (30, 0, 125), (390, 0, 94), (441, 290, 110))),
    "rocket": ("rocket.jpg", (
        (284, 112, 68), (256, 181, 128), (264, 312, 110), (66, 330, 96), (162, 342, 80),
        (396, 330, 96), (6, 246, 80), (558, 342, 80), (18, 150, 95), (30, 52, 96))),
    "retina": ("retina.jpg", (
        (0, 500, 320), (100, 1020, 320), (20, 180, 310), (1040, 100, 320), (920, 1080, 320),
        (400, 0, 290), (760, 0, 280), (560, 560, 280), (1080, 760, 320), (420, 1120, 280))),
    "galaxies": ("hubble_deep_field.jpg", (
        (60, 335, 130), (660, 410, 130), (868, 430, 130), (310, 10, 135), (446, 30, 130),
        (195, 70, 114), (270, 255, 130), (690, 545, 130), (360, 640, 130), (400, 386, 130))),
    "snake": ("logo.png", (
        (165, 95, 130), (296, 120, 110), (10, 10, 145), (60, 200, 99), (20, 306, 110),
        (131, 300, 125), (257, 265, 130), (388, 290, 110), (285, 396, 100), (407, 130, 93))),
    "cameraman": ("camera.png", (
        (160, 55, 130), (291, 120, 130), (422, 150, 90), (30, 90, 129), (160, 186, 105),
        (240, 292, 110), (130, 292, 100), (40, 393, 119), (197, 403, 109), (310, 403, 109))),
    "coins": ("coins.png", (
        (6, 10, 94), (101, 10, 94), (196, 10, 94), (291, 3, 90), (6, 105, 94),
        (101, 105, 94), (196, 105, 94), (291, 150, 92), (6, 205, 94), (101, 205, 94))),
}
"""Per class: its photograph, and its squares as (x, y, side)."""

# Photographs in colour have two regions that overlap, so that half of the crops are in colour.
PUBLIC = (
    ("motorcycle_left.png", 0, 330, (0, 400), (400, 341)),
    ("motorcycle_left.png", 170, 330, (0, 400), (400, 341)),
    ("motorcycle_right.png", 0, 330, (0, 340), (393, 348)),
    ("motorcycle_right.png", 170, 330, (0, 340), (393, 348)),
    ("ihc.png", 0, 336, (0, 256), (256, 256)),
    ("ihc.png", 176, 336, (0, 256), (256, 256)),
    ("grass.png", 0, 512, (0, 256), (256, 256)),
    ("gravel.png", 0, 512, (0, 256), (256, 256)),
    ("brick.png", 0, 512, (0, 256), (256, 256)),
    ("page.png", 0, 191, (0, 192), (192, 192)),
    ("text.png", 0, 172, (0, 224), (224, 224)),
)
"""Photograph, y and height, then x and width for the challenge and for the attacker; all equally likely."""
# fmt: on


PHOTOGRAPHS = tuple(sorted({name for name, _ in PRIVATE.values()} | {name for name, *_ in PUBLIC}))
# of their sha256 in hex, one after the other
_SHA256 = "d6090501f652f701d876693965a5adb4a542b9144c22beb2a26d0a66a6868179"


@cache
def _folder() -> Path:
    """The folder of scikit-image that holds the photographs; an InputError if one is missing or altered."""
    spec = importlib.util.find_spec("skimage")
    folder = Path(spec.origin if spec and spec.origin else "").parent / "data"
    with contextlib.suppress(InputError):
        found = "".join(sha256_file(folder / name) for name in PHOTOGRAPHS)
        if hashlib.sha256(found.encode()).hexdigest() == _SHA256:
            return folder
    raise InputError(f"embedded: {folder} does not contain scikit-image's photographs; reinstall scikit-image")


def photograph_path(name: str) -> Path:
    """The path of a photograph."""
    return _folder() / name


def private_crops() -> tuple[UInt8, Int64, tuple[str, ...]]:
    """Every square of `PRIVATE`, reduced to 32 x 32 by area, its class (n,), and the names of the classes."""
    images, labels = [], []
    for label, (name, squares) in enumerate(PRIVATE.values()):
        pixels = open_photograph(photograph_path(name)).read()
        for x, y, side in squares:
            images.append(reduce_area(pixels[y : y + side, x : x + side], (32, 32)))
            labels.append(label)
    return np.stack(images), np.array(labels, dtype=np.int64), tuple(PRIVATE)


def public_regions(holder: str) -> list[Photograph]:
    """The regions for public crops of the ``"challenge"`` or of the ``"attacker"``."""
    regions = []
    for name, y, height, *spans in PUBLIC:
        x, width = spans[holder == "attacker"]
        label = f"{name}[{x}:{x + width},{y}:{y + height}]"
        regions.append(Photograph(label, photograph_path(name), width, height, (x, y)))
    return regions
