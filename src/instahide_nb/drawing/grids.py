"""Grids of images: comparison_grid.png, overview.png and the attacks side by side.

Composed in uint8, with letters from :mod:`instahide_nb.drawing.lettering`: the pixels are the same on every machine,
so that a run's manifest can hold their hashes. Images are enlarged by whole factors and every grid shows values on one
scale: an image and an encryption from -1 (black) to 1 (white), an absolute value from 0 to 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from instahide_nb.drawing.lettering import INK, MUTED, draw_text, line_height, text_width
from instahide_nb.drawing.pictures import absolute_pixels, enlarge, to_pixels
from instahide_nb.errors import InputError
from instahide_nb.metrics import Scores, match_images

__all__ = ["comparison_grid", "contact_sheet", "method_grid", "overview", "quantile_rows"]

UInt8 = npt.NDArray[np.uint8]
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
        From :func:`instahide_nb.metrics.score`.
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
