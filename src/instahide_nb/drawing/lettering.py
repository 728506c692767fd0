"""Text on images with the same pixels everywhere.

Font libraries render text a little differently from version to version, and so does ``cv2.putText``. Grids
are hashed, so their letters come from a picture that ships with the package (``lettering.png``: DejaVu Sans, drawn
once) and are blended in integers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["INK", "MUTED", "STYLES", "draw_atlas", "draw_text", "line_height", "text_width"]

UInt8 = npt.NDArray[np.uint8]

CHARACTERS = "".join(map(chr, range(32, 127))) + "·×–—…λ±²≤≥"
STYLES = {
    "small": ("DejaVuSans.ttf", 15),
    "body": ("DejaVuSans.ttf", 19),
    "bold": ("DejaVuSans-Bold.ttf", 19),
} | {"title": ("DejaVuSans-Bold.ttf", 28)}
"""Name of each style: font file and height in pixels."""

INK = (32, 33, 36)
MUTED = (95, 99, 104)


@dataclass(frozen=True, eq=False)
class _Style:
    glyphs: tuple[UInt8, ...]
    line: int


@cache
def _styles() -> dict[str, _Style]:
    """Cut the shipped picture into glyphs.

    Each style is a band: a row of pixels whose value 255 marks the first column of a glyph, then the glyphs. A row of
    255 stands between bands.
    """
    data = np.frombuffer((files("instahide_nb.drawing") / "lettering.png").read_bytes(), np.uint8)
    picture = np.asarray(cv2.imdecode(data, cv2.IMREAD_GRAYSCALE), np.uint8)
    edges = np.flatnonzero((picture == 255).all(axis=1))
    styles = {}
    for name, top, bottom in zip(STYLES, [-1, *edges[:-1]], edges, strict=True):
        band = picture[top + 1 : bottom]
        starts = np.flatnonzero(band[0] == 255)[: len(CHARACTERS) + 1]
        glyphs = tuple(band[1:, a:b] for a, b in pairwise(starts))
        styles[name] = _Style(glyphs, len(band) - 1)
    return styles


def line_height(style: str) -> int:
    """Height in pixels of a line of text, ascenders and descenders included."""
    return _styles()[style].line


def _glyphs(text: str, style: str) -> list[UInt8]:
    known = _styles()[style].glyphs
    return [known[CHARACTERS.find(letter if letter in CHARACTERS else "?")] for letter in text]


def text_width(text: str, style: str) -> int:
    """Width in pixels of one line of text."""
    return sum(glyph.shape[1] for glyph in _glyphs(text, style))


def draw_text(
    canvas: UInt8,
    text: str,
    x: int,
    y: int,
    *,
    style: str = "body",
    align: str = "left",
    colour: tuple[int, int, int] = INK,
) -> None:
    """Write a line of text on a canvas, in place.

    Parameters
    ----------
    canvas : uint8 (height, width, 3)
        RGB. What would fall outside is cut off.
    text : str
        One line; a character the shipped font lacks becomes "?".
    x, y : int
        The line's left end, middle or right end (as `align` says), and its top.
    style : {"small", "body", "bold", "title"}
    align : {"left", "centre", "right"}
    colour : tuple of int
        RGB.
    """
    width = text_width(text, style)
    x -= {"left": 0, "centre": width // 2, "right": width}[align]
    for glyph in _glyphs(text, style):
        left, top = max(x, 0), max(y, 0)
        right, bottom = min(x + glyph.shape[1], canvas.shape[1]), min(y + glyph.shape[0], canvas.shape[0])
        if left < right and top < bottom:
            alpha = glyph[top - y : bottom - y, left - x : right - x, None].astype(np.int32)
            below = canvas[top:bottom, left:right].astype(np.int32)
            mixed = (below * (255 - alpha) + np.array(colour, np.int32) * alpha + 127) // 255
            canvas[top:bottom, left:right] = mixed.astype(np.uint8)
        x += glyph.shape[1]


def draw_atlas() -> UInt8:
    """Draw ``lettering.png`` anew from the DejaVu fonts that Matplotlib ships.

    Only for changing the letters: every hashed picture changes with them. It is done by
    ``python -m instahide_nb.drawing.lettering``.
    """
    from matplotlib import get_data_path
    from PIL import Image, ImageDraw, ImageFont

    bands: list[tuple[Any, int]] = []
    for file, size in STYLES.values():
        font = ImageFont.truetype(f"{get_data_path()}/fonts/ttf/{file}", size)
        ascent, descent = font.getmetrics()
        strips = []
        for letter in CHARACTERS:
            strip = Image.new("L", (max(1, round(font.getlength(letter))), ascent + descent))
            ImageDraw.Draw(strip).text((0, 0), letter, fill=254, font=font)
            strips.append(np.asarray(strip))
        marks = np.zeros((1, sum(strip.shape[1] for strip in strips) + 1), np.uint8)
        marks[0, np.cumsum([0, *(strip.shape[1] for strip in strips)])] = 255
        bands.append((np.vstack([marks, np.pad(np.hstack(strips), ((0, 0), (0, 1)))]), marks.shape[1]))
    width = max(w for _, w in bands)
    rows = []
    for band, w in bands:
        rows += [np.pad(band, ((0, 0), (0, width - w))), np.full((1, width), 255, np.uint8)]
    atlas: UInt8 = np.vstack(rows)
    return atlas


if __name__ == "__main__":
    from pathlib import Path

    from instahide_nb.drawing.pictures import write_png

    write_png(Path(__file__).with_name("lettering.png"), draw_atlas())
