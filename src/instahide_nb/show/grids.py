"""Pictures as uint8 arrays: from values to pixels, enlarged without inventing any, and written as PNG.

Text on images with the same pixels everywhere.

Font libraries render text a little differently from version to version, and so does ``cv2.putText``. Grids
are hashed, so their letters come from a picture that ships with the package (``lettering.png``: DejaVu Sans, drawn
once) and are blended in integers.

Grids of images: comparison_grid.png, overview.png and the attacks side by side.

Composed in uint8, with letters from :mod:`instahide_nb.show.grids`: the pixels are the same on every machine,
so that a run's manifest can hold their hashes. Images are enlarged by whole factors and every grid shows values on one
scale: an image and an encryption from -1 (black) to 1 (white), an absolute value from 0 to 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from instahide_nb.core.errors import InputError
from instahide_nb.core.files import write_bytes
from instahide_nb.evaluate.metrics import Scores, match_images

UInt8 = npt.NDArray[np.uint8]


def to_pixels(images: npt.NDArray[Any]) -> UInt8:
    """8-bit pixels of images in [-1, 1], to the nearest; values beyond are clipped, uint8 images returned as they are.

    Examples
    --------
    >>> to_pixels(np.array([-1.0, 0.0, 1.0, 1.2]))
    array([  0, 128, 255, 255], dtype=uint8)
    """
    if images.dtype == np.uint8:
        return images
    return np.clip(np.floor((images.astype(np.float64) + 1) * 127.5 + 0.5), 0, 255).astype(np.uint8)


def absolute_pixels(images: npt.NDArray[np.floating]) -> UInt8:
    """8-bit pixels of ``|x|``: 0 is black and 1 is white. This is all of an encryption that the sign mask leaves.

    Examples
    --------
    >>> absolute_pixels(np.array([-1.0, 0.0, 0.5]))
    array([255,   0, 128], dtype=uint8)
    """
    return np.clip(np.floor(np.abs(images.astype(np.float64)) * 255 + 0.5), 0, 255).astype(np.uint8)


def enlarge(image: UInt8, factor: int) -> UInt8:
    """Each pixel of (h, w, 3) becomes a square of `factor` by `factor`."""
    return image.repeat(factor, axis=0).repeat(factor, axis=1)


def png_bytes(image: UInt8) -> bytes:
    """An RGB or grey uint8 image as PNG.

    The pixels are the same everywhere; the bytes can differ with the version of the compressor. So a picture's
    hash is taken of its pixels.

    Raises
    ------
    InputError
        When the array is not uint8 of shape (h, w) or (h, w, 3).
    """
    if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)):
        raise InputError(f"picture: {image.dtype} {image.shape}; uint8 (h, w) or (h, w, 3) is expected")
    ordered = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".png", ordered, [cv2.IMWRITE_PNG_COMPRESSION, 6])
    encoded: bytes = data.tobytes()
    return encoded


def write_png(path: Path | str, image: UInt8) -> None:
    """Write :func:`png_bytes` to a file that is whole or absent."""
    write_bytes(path, png_bytes(image))


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
    data = np.frombuffer((files("instahide_nb.show") / "lettering.png").read_bytes(), np.uint8)
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
    ``python -m instahide_nb.show.grids``.
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

    pass

    write_png(Path(__file__).with_name("lettering.png"), draw_atlas())


Images = npt.NDArray[Any]

_MARGIN = 24
_GAP = 10
_TILE = 128  # an image is enlarged by the whole factor that brings it nearest below this many pixels


def quantile_rows(values: npt.NDArray[np.float64], rows: int) -> npt.NDArray[np.int64]:
    """Places of `rows` values evenly spaced in rank, the largest first and the smallest last; ties go by place.

    Examples
    --------
    >>> quantile_rows(np.array([0.1, 0.9, 0.5, 0.7, 0.3]), 3)
    array([1, 2, 0])
    """
    order = np.argsort(-values, kind="stable")
    rows = min(rows, len(order))
    # Integer arithmetic: linspace and round could differ at a half.
    chosen = (
        [0] if rows == 1 else [(2 * i * (len(order) - 1) + rows - 1) // (2 * (rows - 1)) for i in range(rows)]
    )
    return order[chosen]


def _canvas(height: int, width: int) -> UInt8:
    return np.full((height, width, 3), 255, np.uint8)


def _paste(canvas: UInt8, image: UInt8, x: int, y: int, factor: int) -> None:
    tile = enlarge(image, factor)
    canvas[y : y + tile.shape[0], x : x + tile.shape[1]] = tile


def _factor(height: int, tile: int) -> int:
    return max(1, tile // height)


def _heading(canvas: UInt8, title: str, subtitle: str) -> None:
    draw_text(canvas, title, _MARGIN, _MARGIN, style="title")
    draw_text(canvas, subtitle, _MARGIN, _MARGIN + line_height("title") + 4, style="body", colour=MUTED)


_HEAD = _MARGIN + line_height("title") + 4 + line_height("body") + 16  # where what is below a heading begins


def _fitting_width(width: int, title: str, subtitle: str) -> int:
    return max(width, 2 * _MARGIN + max(text_width(title, "title"), text_width(subtitle, "body")))


def comparison_grid(
    encryption: npt.NDArray[np.floating],
    decryption: npt.NDArray[np.floating],
    private: UInt8,
    pair: npt.NDArray[np.integer],
    scores: Scores,
    *,
    rows: int = 8,
    title: str = "Encryptions and decryptions, best to worst",
) -> UInt8:
    """Private image, encryption, its absolute value and decryption, from the best scored encryption to the worst.

    Parameters
    ----------
    encryption, decryption : floating (n, h, w, 3)
        In [-1, 1].
    private : uint8 (n_private, h, w, 3)
        The private images; of the two in an encryption, the one is shown that the decryption is nearer to.
    pair : integer (n, 2)
        The two private images inside each encryption.
    scores : Scores
        From :func:`instahide_nb.evaluate.metrics.score`.
    rows : int
        How many encryptions to show, evenly spaced in rank.
    title : str
        The first line.

    Returns
    -------
    uint8 (height, width, 3)
    """
    n, height, width = encryption.shape[:3]
    factor = _factor(height, _TILE)
    tall, wide = height * factor, width * factor
    chosen = quantile_rows(scores.best_ssim, rows)
    rank = np.empty(n, np.int64)
    rank[np.argsort(-scores.best_ssim, kind="stable")] = np.arange(1, n + 1)

    subtitle = f"{len(chosen)} of {n:,} encryptions, evenly spaced in rank"
    label = max(text_width(f"rank {n:,}", "bold"), text_width("SSIM -0.000", "body")) + 2 * _GAP
    heads = ("private image", "encryption", "absolute value", "decryption")
    step = max(wide, max(text_width(head, "body") for head in heads)) + _GAP
    top = _HEAD + line_height("body") + 6
    canvas = _canvas(
        top + len(chosen) * (tall + _GAP) - _GAP + _MARGIN,
        _fitting_width(_MARGIN + label + 4 * step - _GAP + _MARGIN, title, subtitle),
    )
    _heading(canvas, title, subtitle)
    for column, head in enumerate(heads):
        draw_text(
            canvas, head, _MARGIN + label + column * step + step // 2 - _GAP // 2, _HEAD, align="centre"
        )
    for line, row in enumerate(chosen):
        y = top + line * (tall + _GAP)
        slot = scores.best_slot[row]
        ssim, l2 = scores.per_encryption[row, slot], scores.per_encryption[row, 2 + slot]
        text_y = y + max(0, tall - 4 * line_height("body")) // 2
        for text, style, colour in (
            (f"rank {rank[row]:,}", "bold", INK),
            (f"SSIM {ssim:.3f}", "body", INK),
            (f"L2 {l2:.3f}", "body", INK),
            (f"row {row}", "body", MUTED),
        ):
            draw_text(canvas, text, _MARGIN, text_y, style=style, colour=colour)
            text_y += line_height("body")
        images = (
            private[pair[row, slot]],
            to_pixels(encryption[row]),
            absolute_pixels(encryption[row]),
            to_pixels(decryption[row]),
        )
        for column, image in enumerate(images):
            _paste(canvas, image, _MARGIN + label + column * step + (step - _GAP - wide) // 2, y, factor)
    return canvas


def overview(
    private: UInt8,
    recovered: Images,
    *,
    columns: int = 8,
    title: str = "Private images and what was recovered of them",
) -> UInt8:
    """All private images, each beside the recovered image matched to it, from the best to the worst.

    Parameters
    ----------
    private : uint8 (n_private, h, w, 3)
        The private images.
    recovered : floating (m, h, w, 3)
        Recovered images in [-1, 1] in any order, m at least n_private; matched by the largest sum of SSIM.
    columns : int
        Pairs in a row.
    title : str
        The first line.

    Returns
    -------
    uint8 (height, width, 3)
    """
    place, ssim = match_images(recovered, private)
    order = np.argsort(-ssim, kind="stable")
    n, height, width = private.shape[:3]
    columns = min(columns, n)
    factor = _factor(height, _TILE * 3 // 4)
    tall, wide = height * factor, 2 * width * factor + 2
    caption = line_height("small") + 4
    mean = math.fsum(ssim) / n
    subtitle = (
        f"left private, right recovered; SSIM below. {n} images, mean {mean:.3f}, worst {ssim.min():.3f}"
    )
    step = wide + 2 * _GAP
    canvas = _canvas(
        _HEAD + -(-n // columns) * (tall + caption + _GAP) - _GAP + _MARGIN,
        _fitting_width(2 * _MARGIN + columns * step - 2 * _GAP, title, subtitle),
    )
    _heading(canvas, title, subtitle)
    for position, i in enumerate(order):
        y = _HEAD + position // columns * (tall + caption + _GAP)
        x = _MARGIN + position % columns * step
        _paste(canvas, private[i], x, y, factor)
        _paste(canvas, to_pixels(recovered[place[i]]), x + width * factor + 2, y, factor)
        draw_text(canvas, f"{ssim[i]:.3f}", x + wide // 2, y + tall + 2, style="small", align="centre")
    return canvas


def method_grid(
    private: UInt8,
    recovered: Mapping[str, Images],
    *,
    rows: int = 8,
    title: str = "The same private images, recovered by each attack",
) -> UInt8:
    """Private images in the first column and what each attack recovered of them in the others.

    Parameters
    ----------
    private : uint8 (n_private, h, w, 3)
        The private images.
    recovered : mapping of str to floating (m, h, w, 3)
        For each attack its images in any order, in [-1, 1]; columns keep the mapping's order.
    rows : int
        How many private images, evenly spaced in rank by their mean SSIM over the attacks.
    title : str
        The first line.

    Returns
    -------
    uint8 (height, width, 3)
    """
    if not recovered:
        raise InputError("recovered: no attack is given; name one or more")
    matched = {name: match_images(images, private) for name, images in recovered.items()}
    total = np.zeros(len(private))
    for _, ssim in matched.values():
        total += ssim
    chosen = quantile_rows(total / len(matched), rows)

    height, width = private.shape[1:3]
    factor = _factor(height, _TILE)
    tall, wide = height * factor, width * factor
    caption = line_height("small") + 4
    means = {name: f"mean {math.fsum(ssim) / len(ssim):.3f}" for name, (_, ssim) in matched.items()}
    step = (
        max(wide, *(max(text_width(name, "bold"), text_width(means[name], "small")) for name in matched))
        + 2 * _GAP
    )
    subtitle = (
        f"{len(chosen)} of {len(private)} private images, evenly spaced in rank by mean SSIM; SSIM below each"
    )
    top = _HEAD + line_height("bold") + line_height("small") + 6
    canvas = _canvas(
        top + len(chosen) * (tall + caption + _GAP) - _GAP + _MARGIN,
        _fitting_width(2 * _MARGIN + (1 + len(matched)) * step - 2 * _GAP, title, subtitle),
    )
    _heading(canvas, title, subtitle)

    def centre(column: int) -> int:
        return _MARGIN + column * step + (step - 2 * _GAP) // 2

    draw_text(canvas, "private", centre(0), _HEAD, style="bold", align="centre")
    for column, name in enumerate(matched, 1):
        draw_text(canvas, name, centre(column), _HEAD, style="bold", align="centre")
        y = _HEAD + line_height("bold")
        draw_text(canvas, means[name], centre(column), y, style="small", align="centre", colour=MUTED)
    for line, i in enumerate(chosen):
        y = top + line * (tall + caption + _GAP)
        _paste(canvas, private[i], centre(0) - wide // 2, y, factor)
        for column, (name, (place, ssim)) in enumerate(matched.items(), 1):
            _paste(canvas, to_pixels(recovered[name][place[i]]), centre(column) - wide // 2, y, factor)
            draw_text(canvas, f"{ssim[i]:.3f}", centre(column), y + tall + 2, style="small", align="centre")
    return canvas


def contact_sheet(
    images: Images, captions: Sequence[str] | None = None, *, columns: int = 10, tile: int = 64
) -> UInt8:
    """Images in rows, with a caption below each when given: for notebooks.

    Parameters
    ----------
    images : uint8 or floating (n, h, w, 3)
        Pixels, or values in [-1, 1].
    captions : sequence of str, optional
        One short text per image.
    columns : int
        Images in a row.
    tile : int
        Images are enlarged by the whole factor that brings them nearest below this height.

    Returns
    -------
    uint8 (height, width, 3)
    """
    n, height, width = images.shape[:3]
    factor = _factor(height, tile)
    tall, wide = height * factor, width * factor
    below = line_height("small") + 4 if captions else 0
    if captions is not None and len(captions) != n:
        raise InputError(f"captions: {len(captions)} are given for {n} images; give one for each")
    step = max([wide, *(text_width(text, "small") for text in captions or ())]) + _GAP
    columns = min(columns, n)
    canvas = _canvas(-(-n // columns) * (tall + below + _GAP) + _GAP, columns * step + _GAP)
    for position, image in enumerate(to_pixels(images)):
        x, y = _GAP + position % columns * step, _GAP + position // columns * (tall + below + _GAP)
        _paste(canvas, image, x + (step - _GAP - wide) // 2, y, factor)
        if captions:
            draw_text(
                canvas,
                captions[position],
                x + (step - _GAP) // 2,
                y + tall + 2,
                style="small",
                align="centre",
            )
    return canvas
