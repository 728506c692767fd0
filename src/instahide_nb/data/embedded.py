"""The embedded source: photographs that scikit-image ships inside its wheel, so that nothing is downloaded.

Each photograph is private or public (``embedded.yaml``). Private: 100 squares that do not overlap, ten in each of ten
classes. Public: regions for random crops, one half of each photograph for the challenge and the other half for an
attacker. The two photographs of the motorcycle, a stereo pair, are cut so that no object is in both halves.

Files are read by path and checked by sha256. scikit-image's own loader, which may download, is never called.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from instahide_nb.core.arrays import Int64, UInt8
from instahide_nb.core.errors import InputError
from instahide_nb.core.files import sha256_file
from instahide_nb.core.params import read_yaml
from instahide_nb.data.photographs import Photograph, open_photograph, reduce_area

_TABLES = read_yaml(Path(__file__).with_suffix(".yaml"), nested=True)
PRIVATE: dict[str, tuple[str, list[list[int]]]] = _TABLES["private"]
"""Per class: its photograph, and its squares [x, y, side]."""

PUBLIC: list[Any] = _TABLES["public"]
"""Photograph, y and height; then [x, width] for the challenge and for the attacker."""

PHOTOGRAPHS = tuple(sorted({name for name, _ in PRIVATE.values()} | {name for name, *_ in PUBLIC}))
# The sha256 of the photographs' own sha256 in hex, one after the other.
_SHA256 = "d6090501f652f701d876693965a5adb4a542b9144c22beb2a26d0a66a6868179"


@cache
def photographs() -> Path:
    """The folder of scikit-image that holds the photographs; an InputError if one is missing or altered."""
    spec = importlib.util.find_spec("skimage")
    folder = Path(spec.origin if spec and spec.origin else "").parent / "data"
    with contextlib.suppress(InputError):
        found = "".join(sha256_file(folder / name) for name in PHOTOGRAPHS)
        if hashlib.sha256(found.encode()).hexdigest() == _SHA256:
            return folder
    raise InputError(f"embedded: {folder} does not contain scikit-image's photographs; reinstall scikit-image")


def private_crops() -> tuple[UInt8, Int64, tuple[str, ...]]:
    """Every square of `PRIVATE`, reduced to 32 x 32 by area, its class (n,), and the names of the classes."""
    images, labels = [], []
    for label, (name, squares) in enumerate(PRIVATE.values()):
        pixels = open_photograph(photographs() / name).read()
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
        regions.append(Photograph(label, photographs() / name, width, height, (x, y)))
    return regions
