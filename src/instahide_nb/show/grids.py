"""Grids of images with the same pixels on every machine, so that their hashes can be recorded.

They are composed in uint8. Font libraries render text a little differently from version to version, so letters come
from a picture in the package (``lettering.png``: DejaVu Sans, drawn once by ``tests/show/make_lettering.py``) and are
blended in integers. Images are enlarged by whole factors. Every grid uses one scale: images and encryptions run from
-1 (black) to 1 (white), absolute values from 0 to 1. A grid is uint8 (height, width, 3), RGB.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from instahide_nb.core.errors import InputError
from instahide_nb.core.files import load_array, write_bytes
from instahide_nb.evaluate.metrics import Scores, match_images
from instahide_nb.evaluate.report import about_attack
from instahide_nb.scheme.encryption import pixel_bytes

UInt8 = npt.NDArray[np.uint8]
Images = npt.NDArray[np.uint8] | npt.NDArray[np.floating]

CHARACTERS = "".join(map(chr, range(32, 127))) + "·×–—…λ±²≤≥"
STYLES = {
    "small": ("DejaVuSans.ttf", 15),
    "body": ("DejaVuSans.ttf", 19),
    "bold": ("DejaVuSans-Bold.ttf", 19),
    "title": ("DejaVuSans-Bold.ttf", 28),
}
"""Name of each style of text: font file and height in pixels."""

INK = (32, 33, 36)
MUTED = (95, 99, 104)
_MARGIN = 24
_GAP = 10
_TILE = 128  # an image is enlarged by the largest whole factor that keeps it within this height


def to_pixels(images: Images) -> UInt8:
    """The nearest 8-bit pixels of images in [-1, 1]; uint8 images are returned as they are."""
    return images.view(np.uint8) if images.dtype == np.uint8 else pixel_bytes(images.astype(np.float64))


def absolute_pixels(images: npt.NDArray[np.floating]) -> UInt8:
    """8-bit pixels of ``|x|``, 0 black and 1 white: what the sign mask does not change.

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
    """An RGB or grey uint8 image as PNG. The bytes depend on the compressor's version, so pixels are what is hashed."""
    if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)):
        raise InputError(f"picture: {image.dtype} {image.shape}; uint8 (h, w) or (h, w, 3) is expected")
    ordered = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    encoded: bytes = cv2.imencode(".png", ordered, [cv2.IMWRITE_PNG_COMPRESSION, 9])[1].tobytes()
    return encoded


def write_png(path: Path | str, image: UInt8) -> None:
    """Write :func:`png_bytes` to a file that is whole or absent."""
    write_bytes(path, png_bytes(image))


@cache
def _glyphs(style: str) -> dict[str, UInt8]:
    """The letters of a style, (height, width) of coverage 0 .. 254.

    The shipped picture holds a band per style, and a row of 255 below each band. The first row of a band marks the
    first column of each letter with 255.
    """
    data = np.frombuffer((files("instahide_nb.show") / "lettering.png").read_bytes(), np.uint8)
    picture = np.asarray(cv2.imdecode(data, cv2.IMREAD_GRAYSCALE), np.uint8)
    ends = np.flatnonzero((picture == 255).all(axis=1)).tolist()
    number = list(STYLES).index(style)
    band = picture[[0, *(end + 1 for end in ends)][number] : ends[number]]
    starts = np.flatnonzero(band[0] == 255)
    return {letter: band[1:, a:b] for letter, (a, b) in zip(CHARACTERS, pairwise(starts), strict=False)}


def _letters(text: str, style: str) -> list[UInt8]:
    known = _glyphs(style)
    return [known.get(letter, known["?"]) for letter in text]


def line_height(style: str) -> int:
    """Height in pixels of a line of text, ascenders and descenders included."""
    return len(_glyphs(style)["?"])


def text_width(text: str, style: str) -> int:
    """Width in pixels of one line of text."""
    return sum(letter.shape[1] for letter in _letters(text, style))


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
    """Write a line of text on an RGB canvas, in place; what falls outside is cut off.

    `x` is its left end, its middle ("centre") or its right end, as `align` says; `y` is its top.
    """
    width = text_width(text, style)
    x -= {"left": 0, "centre": width // 2, "right": width}[align]
    for letter in _letters(text, style):
        left, top = max(x, 0), max(y, 0)
        right, bottom = min(x + letter.shape[1], canvas.shape[1]), min(y + letter.shape[0], canvas.shape[0])
        if left < right and top < bottom:
            alpha = letter[top - y : bottom - y, left - x : right - x, None].astype(np.int32)
            below = canvas[top:bottom, left:right].astype(np.int32)
            mixed = (below * (255 - alpha) + np.array(colour, np.int32) * alpha + 127) // 255
            canvas[top:bottom, left:right] = mixed.astype(np.uint8)
        x += letter.shape[1]


def quantile_rows(values: npt.NDArray[np.float64], rows: int) -> npt.NDArray[np.int64]:
    """Indices of `rows` values evenly spaced in rank, largest first; ties in their order.

    Examples
    --------
    >>> quantile_rows(np.array([0.1, 0.9, 0.5, 0.7, 0.3]), 3)
    array([1, 2, 0])
    """
    order = np.argsort(-values, kind="stable")
    last, steps = len(order) - 1, min(rows, len(order)) - 1
    # Integers: linspace and round could differ at a half.
    return order[[(2 * i * last + steps) // (2 * steps) if steps else 0 for i in range(steps + 1)]]


@dataclass(frozen=True)
class Comparison:
    """Chosen encryptions or private images, and the pictures of each: one table for grids and for paper figures.

    Attributes
    ----------
    chosen : int64 (m,)
        Their rows, from the best to the worst.
    images : dict of str to uint8 (m, h, w, 3)
        By the name of the column: the picture of each.
    ssim : dict of str to float64 (m,)
        By the name of the column: SSIM over [0, 1] with the private image, for columns that an attack returned.
    mean : dict of str to float
        The mean of these over all rows, not only the chosen ones.
    """

    chosen: npt.NDArray[np.int64]
    images: dict[str, UInt8]
    ssim: dict[str, npt.NDArray[np.float64]]
    mean: dict[str, float]


def compare_encryptions(
    encryption: npt.NDArray[np.floating],
    decryption: npt.NDArray[np.floating],
    private: UInt8,
    pair: npt.NDArray[np.integer],
    ssim: npt.NDArray[np.float64],
    rows: int,
) -> Comparison:
    """Encryptions evenly spaced in rank by their largest SSIM, with the private image that it belongs to.

    The arguments are those of :func:`comparison_grid`; `ssim` (n, p) is :attr:`Scores.ssim`.
    """
    best = ssim.max(axis=1)
    chosen = quantile_rows(best, rows)
    images = {
        "private image": private[pair[chosen, ssim[chosen].argmax(axis=1)]],
        "encryption": to_pixels(encryption[chosen]),
        "absolute value": absolute_pixels(encryption[chosen]),
        "decryption": to_pixels(decryption[chosen]),
    }
    mean = math.fsum(best) / len(best)
    return Comparison(chosen, images, {"decryption": best[chosen]}, {"decryption": mean})


def compare_attacks(
    private: UInt8, recovered: Mapping[str, npt.NDArray[np.floating]], rows: int
) -> Comparison:
    """Private images evenly spaced in rank by mean SSIM over attacks, and what each attack recovered of them.

    Parameters
    ----------
    private : uint8 (n_private, h, w, 3)
    recovered : mapping of str to floating (m, h, w, 3)
        For each attack its images in any order, in [-1, 1], m at least n_private.
    rows : int
        How many private images.
    """
    if not recovered:
        raise InputError("recovered: no attack is given; name one or more")
    matched = {name: match_images(images, private) for name, images in recovered.items()}
    total = np.add.accumulate([ssim for _, ssim in matched.values()])[-1]
    chosen = quantile_rows(total / len(matched), rows)
    images = {"private": private[chosen]}
    images |= {name: to_pixels(recovered[name][place[chosen]]) for name, (place, _) in matched.items()}
    return Comparison(
        chosen,
        images,
        {name: ssim[chosen] for name, (_, ssim) in matched.items()},
        {name: math.fsum(ssim) / len(ssim) for name, (_, ssim) in matched.items()},
    )


def _factor(height: int, tile: int) -> int:
    return max(1, tile // height)


def _blank(height: int, width: int) -> UInt8:
    return np.full((height, width, 3), 255, np.uint8)


def _paste(canvas: UInt8, image: UInt8, x: int, y: int, factor: int) -> None:
    tile = enlarge(image, factor)
    canvas[y : y + tile.shape[0], x : x + tile.shape[1]] = tile


_HEAD = _MARGIN + line_height("title") + 4 + line_height("body") + 16  # where what is below a heading begins
_CAPTION = line_height("small") + 4


def _headed(height: int, width: int, title: str, subtitle: str) -> UInt8:
    """A white canvas with a heading, at least wide enough for it."""
    widest = max(text_width(title, "title"), text_width(subtitle, "body"))
    canvas = _blank(height, max(width, 2 * _MARGIN + widest))
    draw_text(canvas, title, _MARGIN, _MARGIN, style="title")
    draw_text(canvas, subtitle, _MARGIN, _MARGIN + line_height("title") + 4, colour=MUTED)
    return canvas


def comparison_grid(
    encryption: npt.NDArray[np.floating],
    decryption: npt.NDArray[np.floating],
    private: UInt8,
    pair: npt.NDArray[np.integer],
    scores: Scores,
    *,
    rows: int = 8,
) -> UInt8:
    """Private image, encryption, its absolute value and decryption, from the best encryption to the worst.

    Parameters
    ----------
    encryption, decryption : floating (n, h, w, 3)
        In [-1, 1].
    private : uint8 (n_private, h, w, 3)
        The private images; the one with the larger SSIM is shown.
    pair : integer (n, p)
        The private images inside each encryption.
    scores : Scores
        From :func:`instahide_nb.evaluate.metrics.score`.
    rows : int
        How many encryptions, evenly spaced in rank.
    """
    n, height, width = encryption.shape[:3]
    shown = compare_encryptions(encryption, decryption, private, pair, scores.ssim, rows)
    factor, count, line = _factor(height, _TILE), len(shown.chosen), line_height("body")
    tall, wide = height * factor, width * factor
    rank = np.empty(n, np.int64)
    rank[np.argsort(-scores.best_ssim, kind="stable")] = np.arange(1, n + 1)
    label = max(text_width(f"rank {n:,}", "bold"), text_width("SSIM -0.000", "body")) + 2 * _GAP
    step = max(wide, *(text_width(name, "body") for name in shown.images)) + _GAP
    left, top = _MARGIN + label, _HEAD + line + 6
    canvas = _headed(
        top + count * (tall + _GAP) - _GAP + _MARGIN,
        left + len(shown.images) * step - _GAP + _MARGIN,
        "Encryptions and decryptions, best to worst",
        f"{count} of {n:,} encryptions, evenly spaced in rank",
    )
    for place, row in enumerate(shown.chosen):
        y = top + place * (tall + _GAP)
        slot = scores.best_slot[row]
        texts = (f"SSIM {scores.ssim[row, slot]:.3f}", f"L2 {scores.l2[row, slot]:.3f}", f"row {row}")
        text_y = y + max(0, tall - 4 * line) // 2
        draw_text(canvas, f"rank {rank[row]:,}", _MARGIN, text_y, style="bold")
        for number, text in enumerate(texts, 1):
            colour = MUTED if number == len(texts) else INK
            draw_text(canvas, text, _MARGIN, text_y + number * line, colour=colour)
    for column, (name, images) in enumerate(shown.images.items()):
        x = left + column * step
        draw_text(canvas, name, x + step // 2 - _GAP // 2, _HEAD, align="centre")
        for place, image in enumerate(images):
            _paste(canvas, image, x + (step - _GAP - wide) // 2, top + place * (tall + _GAP), factor)
    return canvas


def overview(private: UInt8, recovered: npt.NDArray[np.floating], *, columns: int = 8) -> UInt8:
    """All private images, each beside the recovered image that :func:`match_images` gives it, best to worst."""
    n, height, width = private.shape[:3]
    place, ssim = match_images(recovered, private)
    columns, factor = min(columns, n), _factor(height, _TILE * 3 // 4)
    tall, wide = height * factor, 2 * width * factor + 2
    step, down = wide + 2 * _GAP, tall + _CAPTION + _GAP
    mean = math.fsum(ssim) / n
    canvas = _headed(
        _HEAD + -(-n // columns) * down - _GAP + _MARGIN,
        2 * _MARGIN + columns * step - 2 * _GAP,
        "Private images and what was recovered of them",
        f"left private, right recovered; SSIM below. {n} images, mean {mean:.3f}, worst {ssim.min():.3f}",
    )
    for position, i in enumerate(np.argsort(-ssim, kind="stable")):
        x, y = _MARGIN + position % columns * step, _HEAD + position // columns * down
        _paste(canvas, private[i], x, y, factor)
        _paste(canvas, to_pixels(recovered[place[i]]), x + width * factor + 2, y, factor)
        draw_text(canvas, f"{ssim[i]:.3f}", x + wide // 2, y + tall + 2, style="small", align="centre")
    return canvas


def method_grid(private: UInt8, recovered: Mapping[str, npt.NDArray[np.floating]], *, rows: int = 8) -> UInt8:
    """Private images, and what each attack recovered of them; the arguments are those of :func:`compare_attacks`."""
    shown = compare_attacks(private, recovered, rows)
    height, width = private.shape[1:3]
    factor, count = _factor(height, _TILE), len(shown.chosen)
    tall, wide = height * factor, width * factor
    below = {name: f"mean {mean:.3f}" for name, mean in shown.mean.items()}
    texts = [text_width(name, "bold") for name in below] + [text_width(t, "small") for t in below.values()]
    step, down = max(wide, *texts) + 2 * _GAP, tall + _CAPTION + _GAP
    top = _HEAD + line_height("bold") + line_height("small") + 6
    canvas = _headed(
        top + count * down - _GAP + _MARGIN,
        2 * _MARGIN + len(shown.images) * step - 2 * _GAP,
        "The same private images, recovered by each attack",
        f"{count} of {len(private)} private images, evenly spaced in rank by mean SSIM; SSIM below each",
    )
    for column, (name, images) in enumerate(shown.images.items()):
        x = _MARGIN + column * step + (step - 2 * _GAP) // 2
        draw_text(canvas, name, x, _HEAD, style="bold", align="centre")
        mean_y = _HEAD + line_height("bold")
        draw_text(canvas, below.get(name, ""), x, mean_y, style="small", align="centre", colour=MUTED)
        for place, image in enumerate(images):
            y = top + place * down
            _paste(canvas, image, x - wide // 2, y, factor)
            text = f"{shown.ssim[name][place]:.3f}" if name in shown.ssim else ""
            draw_text(canvas, text, x, y + tall + 2, style="small", align="centre")
    return canvas


def write_method_grid(run: Path, methods: Sequence[str]) -> Path | None:
    """Write ``methods.png``, the :func:`method_grid` of a run's attacks, a column for each of `methods`.

    Returns None, and writes nothing, when fewer than two attacks recovered as many images as there are.
    """
    private = load_array(run / "secret" / "private.npy", dtype=np.uint8, shape=(None, None, None, 3))
    found = {method: about_attack(run / "attack" / method / "decryption.npy").recovered for method in methods}
    columns = {m: images for m, images in found.items() if images is not None and len(images) >= len(private)}
    if len(columns) < 2:
        return None
    write_png(run / "methods.png", method_grid(private, columns))
    return run / "methods.png"


def contact_sheet(
    images: Images, captions: Sequence[str] | None = None, *, columns: int = 10, tile: int = 64
) -> UInt8:
    """Images (n, h, w, 3), pixels or values in [-1, 1], in rows of `columns`, with a caption below each when given.

    They are enlarged by the largest whole factor that keeps them within `tile` pixels of height.
    """
    n, height, width = images.shape[:3]
    if captions is not None and len(captions) != n:
        raise InputError(f"captions: {len(captions)} are given for {n} images; give one for each")
    if not n:
        return _blank(0, 0)
    texts = captions or [""] * n
    factor, columns = _factor(height, tile), min(columns, n)
    tall, wide = height * factor, width * factor
    step = max(wide, *(text_width(text, "small") for text in texts)) + _GAP
    down = tall + (_CAPTION if captions else 0) + _GAP
    canvas = _blank(-(-n // columns) * down + _GAP, columns * step + _GAP)
    for position, (image, text) in enumerate(zip(to_pixels(images), texts, strict=True)):
        x, y = _GAP + position % columns * step, _GAP + position // columns * down
        _paste(canvas, image, x + (step - _GAP - wide) // 2, y, factor)
        draw_text(canvas, text, x + (step - _GAP) // 2, y + tall + 2, style="small", align="centre")
    return canvas
