"""Grids of images with the same pixels on every machine, so that their hashes can be recorded.

Font libraries render text a little differently from version to version, so letters come from a picture in the package
(``lettering.png``: DejaVu Sans, drawn once by ``tests/show/make_lettering.py``) and are blended in integers. Images are
enlarged by whole factors. Images and encryptions are shown from -1 (black) to 1 (white), absolute values from 0 to 1.
A grid is uint8 (height, width, 3), RGB.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

from instahide_nb.core.arrays import Float64, Floats, Int64, Integers, UInt8
from instahide_nb.core.errors import InputError
from instahide_nb.core.files import load_array, write_bytes
from instahide_nb.evaluate.metrics import Match, Scores, match_images
from instahide_nb.evaluate.submission import about_attack
from instahide_nb.scheme.encryption import pixel_bytes

Images = UInt8 | Floats
Colour = tuple[int, int, int]

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


def absolute_pixels(images: Floats) -> UInt8:
    """8-bit pixels of ``|x|``, which the sign mask does not change: 0 black, 1 white."""
    return np.clip(np.floor(np.abs(images.astype(np.float64)) * 255 + 0.5), 0, 255).astype(np.uint8)


def enlarge(images: UInt8, factor: int) -> UInt8:
    """Each pixel of (..., h, w, 3) becomes a square of `factor` by `factor`."""
    return images.repeat(factor, axis=-3).repeat(factor, axis=-2)


def png_bytes(image: UInt8) -> bytes:
    """An RGB or grey uint8 image as PNG; bytes depend on the compressor's version, so only pixels are hashed."""
    if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)):
        raise InputError(f"picture: {image.dtype} {image.shape}; uint8 (h, w) or (h, w, 3) is expected")
    # Level 9 takes six times as long as 7 and saves two percent.
    ordered = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    encoded: bytes = cv2.imencode(".png", ordered, [cv2.IMWRITE_PNG_COMPRESSION, 7])[1].tobytes()
    return encoded


def write_png(path: Path | str, image: UInt8) -> None:
    """Write :func:`png_bytes` to a file that is whole or absent."""
    write_bytes(path, png_bytes(image))


@cache
def _glyphs(style: str) -> dict[str, UInt8]:
    """The letters of a style, (height, width) of coverage 0 .. 254.

    The picture has a band per style, with a row of 255 below it. The first row of a band marks where letters begin.
    """
    data = np.frombuffer(Path(__file__).with_name("lettering.png").read_bytes(), np.uint8)
    picture = np.asarray(cv2.imdecode(data, cv2.IMREAD_GRAYSCALE), np.uint8)
    ends = np.flatnonzero((picture == 255).all(axis=1)).tolist()
    number = list(STYLES).index(style)
    band = picture[[0, *(end + 1 for end in ends)][number] : ends[number]]
    starts = np.flatnonzero(band[0] == 255)
    return {letter: band[1:, a:b] for letter, (a, b) in zip(CHARACTERS, pairwise(starts), strict=False)}


def line_height(style: str) -> int:
    """Height in pixels of a line of text, ascenders and descenders included."""
    return len(_glyphs(style)["?"])


def text_width(text: str, style: str) -> int:
    """Width in pixels of one line of text."""
    known = _glyphs(style)
    return sum(known.get(letter, known["?"]).shape[1] for letter in text)


def draw_text(
    canvas: UInt8, text: str, x: int, y: int, *, style: str = "body", centred: bool = False, colour: Colour = INK
) -> None:
    """Write a line of text on an RGB canvas, in place, cut off at its edges; its top left, or top middle, is (x, y)."""
    known = _glyphs(style)
    x -= text_width(text, style) // 2 if centred else 0
    for letter in (known.get(letter, known["?"]) for letter in text):
        left, top = max(x, 0), max(y, 0)
        right, bottom = min(x + letter.shape[1], canvas.shape[1]), min(y + letter.shape[0], canvas.shape[0])
        if left < right and top < bottom:
            alpha = letter[top - y : bottom - y, left - x : right - x, None].astype(np.int32)
            below = canvas[top:bottom, left:right].astype(np.int32)
            mixed = (below * (255 - alpha) + np.array(colour, np.int32) * alpha + 127) // 255
            canvas[top:bottom, left:right] = mixed.astype(np.uint8)
        x += letter.shape[1]


def quantile_rows(values: Float64, rows: int) -> Int64:
    """Indices of `rows` values evenly spaced in rank, largest first; ties in their order."""
    order = np.argsort(-values, kind="stable")
    last, steps = len(order) - 1, min(rows, len(order)) - 1
    # In integers, since linspace and round could differ at a half.
    return order[[(2 * i * last + steps) // (2 * steps) if steps else 0 for i in range(steps + 1)]]


@dataclass(frozen=True)
class Comparison:
    """Chosen encryptions or private images, best first: one table for grids and for paper figures."""

    chosen: Int64  # (m,)
    images: dict[str, UInt8]  # by the name of the column: the picture of each, (m, h, w, 3)
    ssim: dict[str, Float64]  # by column, where an attack returned it: SSIM over [0, 1], (m,)
    mean: dict[str, float]  # by attack: its mean SSIM over all private images


def compare_encryptions(
    encryption: Floats, decryption: Floats, private: UInt8, pair: Integers, ssim: Float64, rows: int
) -> Comparison:
    """Encryptions evenly spaced in rank by their largest SSIM, each with the private image that has it.

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
    return Comparison(chosen, images, {"decryption": best[chosen]}, {})


def compare_attacks(private: UInt8, recovered: Mapping[str, Floats], rows: int, augment: str = "none") -> Comparison:
    """`rows` private images evenly spaced in rank by mean SSIM over attacks, and each attack's image of them.

    `recovered` holds for each attack its images, at least as many as there are private ones, in any order; `augment`
    is that of :func:`match_images`.
    """
    if not recovered:
        raise InputError("recovered: no attack is given; give one or more")
    matched = {name: match_images(images, private, augment) for name, images in recovered.items()}
    total = np.asarray(sum(ssim for _, ssim, _ in matched.values()))
    chosen = quantile_rows(total / len(matched), rows)
    images = {"private": private[chosen]}
    images |= {name: to_pixels(recovered[name][place[chosen]]) for name, (place, *_) in matched.items()}
    ssim = {name: ssim[chosen] for name, (_, ssim, _) in matched.items()}
    mean = {name: math.fsum(ssim) / len(ssim) for name, (_, ssim, _) in matched.items()}
    return Comparison(chosen, images, ssim, mean)


_HEAD = _MARGIN + line_height("title") + 4 + line_height("body") + 16  # height of a heading
_CAPTION = line_height("small") + 4


def _enlarged(images: UInt8, tile: int = _TILE) -> UInt8:
    """Images enlarged by the largest whole factor that keeps them within `tile` pixels of height."""
    return enlarge(images, max(1, tile // images.shape[-3]))


def _sheet(
    tiles: UInt8,
    columns: int,
    step: int,
    *,
    captions: Sequence[str] = (),
    heading: tuple[str, str] | None = None,
    gap: int = 2 * _GAP,
    left: int = 0,
    top: int = 0,
) -> tuple[UInt8, int]:
    """Tiles (n, h, w, 3) on white, row by row with captions below them; and the middle of the first column.

    `step` is the width of a column with the `gap` beside it; `left` and `top` are kept free for labels.
    """
    (tall, wide), margin = tiles.shape[1:3], _MARGIN if heading else _GAP
    left, top = margin + left, (_HEAD if heading else margin) + top
    down = tall + _GAP + (_CAPTION if captions else 0)
    width = left + columns * step - gap + margin
    if heading:
        width = max(width, 2 * margin + max(text_width(heading[0], "title"), text_width(heading[1], "body")))
    canvas = np.full((top + -(-len(tiles) // columns) * down - _GAP + margin, width, 3), 255, np.uint8)
    if heading:
        draw_text(canvas, heading[0], margin, margin, style="title")
        draw_text(canvas, heading[1], margin, margin + line_height("title") + 4, colour=MUTED)
    middle = left + (step - gap) // 2
    for place, (tile, caption) in enumerate(zip(tiles, captions or [""] * len(tiles), strict=True)):
        x, y = middle + place % columns * step, top + place // columns * down
        canvas[y : y + tall, x - wide // 2 : x - wide // 2 + wide] = tile
        draw_text(canvas, caption, x, y + tall + 2, style="small", centred=True)
    return canvas, middle


def _rows_of(columns: Mapping[str, UInt8]) -> UInt8:
    """The enlarged pictures of a table, row by row."""
    return _enlarged(np.concatenate(np.stack(list(columns.values()), axis=1)))


def comparison_grid(
    encryption: Floats, decryption: Floats, private: UInt8, pair: Integers, scores: Scores, *, rows: int = 8
) -> UInt8:
    """Private image with the largest SSIM, encryption, its absolute value and decryption, best to worst.

    `encryption` and `decryption` (n, h, w, 3) are in [-1, 1]; `pair` (n, p) names the images of `private` (n_private,
    h, w, 3) in each encryption. The `rows` encryptions are evenly spaced in rank.
    """
    shown = compare_encryptions(encryption, decryption, private, pair, scores.ssim, rows)
    n, count, line, tiles = len(encryption), len(shown.chosen), line_height("body"), _rows_of(shown.images)
    tall, wide = tiles.shape[1:3]
    step = max(wide, *(text_width(name, "body") for name in shown.images)) + _GAP
    label = max(text_width(f"rank {n:,}", "bold"), text_width("SSIM -0.000", "body")) + 2 * _GAP
    heading = "Encryptions and decryptions, best to worst", f"{count} of {n:,} encryptions, evenly spaced in rank"
    canvas, middle = _sheet(tiles, len(shown.images), step, heading=heading, gap=_GAP, left=label, top=line + 6)
    below = _HEAD + line + 6
    rank = np.empty(n, np.int64)
    rank[np.argsort(-scores.best_ssim, kind="stable")] = np.arange(1, n + 1)
    for place, row in enumerate(shown.chosen):
        y, slot = below + place * (tall + _GAP) + max(0, tall - 4 * line) // 2, scores.ssim[row].argmax()
        draw_text(canvas, f"rank {rank[row]:,}", _MARGIN, y, style="bold")
        draw_text(canvas, f"SSIM {scores.ssim[row, slot]:.3f}", _MARGIN, y + line)
        draw_text(canvas, f"L2 {scores.l2[row, slot]:.3f}", _MARGIN, y + 2 * line)
        draw_text(canvas, f"row {row}", _MARGIN, y + 3 * line, colour=MUTED)
    for column, name in enumerate(shown.images):
        draw_text(canvas, name, middle + column * step, _HEAD, centred=True)
    return canvas


def overview(recovered: Floats, match: Match, *, columns: int = 8) -> UInt8:
    """All private images, each beside the recovered image that is matched to it, best to worst."""
    place, ssim, private = match
    order, n = np.argsort(-ssim, kind="stable"), len(private)
    left, right = (_enlarged(i[order], _TILE * 3 // 4) for i in (private, to_pixels(recovered)[place]))
    tiles = np.concatenate([left, np.full_like(left[:, :, :2], 255), right], axis=2)
    about = f"{n} images, mean {math.fsum(ssim) / n:.3f}, worst {ssim.min():.3f}"
    heading = "Private images and what was recovered of them", f"left private, right recovered; SSIM below. {about}"
    captions, step = [f"{ssim[i]:.3f}" for i in order], tiles.shape[2] + 2 * _GAP
    return _sheet(tiles, min(columns, n), step, captions=captions, heading=heading)[0]


def method_grid(private: UInt8, recovered: Mapping[str, Floats], *, rows: int = 8, augment: str = "none") -> UInt8:
    """Private images and each attack's image of them; the arguments are those of :func:`compare_attacks`."""
    shown = compare_attacks(private, recovered, rows, augment)
    tiles, count, line = _rows_of(shown.images), len(shown.chosen), line_height("bold")
    below = {name: f"mean {mean:.3f}" for name, mean in shown.mean.items()}
    texts = [text_width(name, "bold") for name in below] + [text_width(t, "small") for t in below.values()]
    step = max(tiles.shape[2], *texts) + 2 * _GAP
    heading = (
        "The same private images, recovered by each attack",
        f"{count} of {len(private)} private images, evenly spaced in rank by mean SSIM; SSIM below each",
    )
    below_each = [[f"{value:.3f}" for value in shown.ssim.get(name, ())] or [""] * count for name in shown.images]
    captions = [text for texts in zip(*below_each, strict=True) for text in texts]
    top = line + line_height("small") + 6
    canvas, middle = _sheet(tiles, len(shown.images), step, captions=captions, heading=heading, top=top)
    for column, name in enumerate(shown.images):
        x = middle + column * step
        draw_text(canvas, name, x, _HEAD, style="bold", centred=True)
        draw_text(canvas, below.get(name, ""), x, _HEAD + line, style="small", centred=True, colour=MUTED)
    return canvas


def write_method_grid(run: Path, methods: Sequence[str], augment: str = "none") -> Path | None:
    """Write ``methods.png``, the :func:`method_grid` of a run, if two `methods` or more recovered all images."""
    private = load_array(run / "secret" / "private.npy", dtype=np.uint8, shape=(None, None, None, 3))
    found = {method: about_attack(run / "attack" / method / "decryption.npy").recovered for method in methods}
    columns = {m: images for m, images in found.items() if images is not None and len(images) >= len(private)}
    if len(columns) < 2:
        return None
    write_png(run / "methods.png", method_grid(private, columns, augment=augment))
    return run / "methods.png"


def contact_sheet(images: Images, captions: Sequence[str] = (), *, columns: int = 10, tile: int = 64) -> UInt8:
    """Images (n, h, w, 3), pixels or values in [-1, 1], in rows of `columns` and at most `tile` pixels high."""
    if not len(images):
        return np.empty((0, 0, 3), np.uint8)
    tiles = _enlarged(to_pixels(images), tile)
    step = max(tiles.shape[2], *(text_width(text, "small") for text in ("", *captions))) + _GAP
    return _sheet(tiles, min(columns, len(tiles)), step, captions=captions, gap=_GAP)[0]
