"""Plots: how scores, key points, coefficients and similarities are distributed, and how attacks compare.

Colours are those of Okabe and Ito ("Color universal design", 2008), which colour-blind readers tell apart; markers and
line styles differ too, so that a grey print can be read. No figure holds a date. Matplotlib draws letters a little
differently from version to version, so they are never hashed; what is hashed is from :mod:`instahide_nb.show.grids`.

A photograph with its crops outlined, and a crop with its SIFT key points: how public images are chosen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import cv2
import matplotlib.style
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from instahide_nb.core.errors import InputError
from instahide_nb.data.crops import CropTable, key_points
from instahide_nb.data.photographs import Photograph
from instahide_nb.evaluate.leaderboard import Row
from instahide_nb.show.grids import MUTED, draw_text, enlarge, line_height, text_width

OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000")
"""Blue, orange, green, vermilion, purple, sky blue, black."""

_GREY = "#767676"
_TALLEST = 3.0  # inches: a wide plot need not be tall
_LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)))
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")

STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # Matplotlib ships it: the same font on every machine
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "pdf.fonttype": 42,  # TrueType, embedded: editors and archives can read the text
    "ps.fonttype": 42,
    "svg.fonttype": "none",
}
"""Matplotlib settings of every plot here."""

Float64 = npt.NDArray[np.float64]


def style() -> AbstractContextManager[None]:
    """Matplotlib's defaults with :data:`STYLE`, whatever the user's own settings are: for making and for saving."""
    context: AbstractContextManager[None] = matplotlib.style.context(["default", STYLE])
    return context


def _figure(width: float, height: float, panels: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width, min(height, _TALLEST)), layout="constrained", facecolor="white")
    axes = figure.subplots(1, panels, squeeze=False)
    return figure, list(axes[0])


def _steps(axis: Axes, values: Float64, edges: Float64, position: int, label: str) -> None:
    """The share of `values` in each bin, as an outline over a light area."""
    share = np.histogram(values, edges)[0] / len(values)
    colour = OKABE_ITO[position % len(OKABE_ITO)]
    axis.stairs(share, edges, fill=True, color=colour, alpha=0.18)
    style = _LINES[position % len(_LINES)]
    axis.stairs(share, edges, color=colour, linestyle=style, linewidth=1.2, label=label)


def _finish(axis: Axes, xlabel: str, ylabel: str, *, legend: bool = True) -> None:
    axis.set_xlabel(xlabel)
    axis.set_ylabel(ylabel)
    axis.set_ylim(bottom=0)
    axis.grid(axis="y", color="#E4E4E4", linewidth=0.5)
    if legend:
        axis.legend()


def _limit(axis: Axes, place: float, text: str, *, right: bool = True) -> None:
    """A vertical line at a limit, and what it means."""
    axis.axvline(place, color=OKABE_ITO[3], linewidth=1)
    axis.annotate(
        text, (place, 1), xycoords=("data", "axes fraction"), xytext=(4 if right else -4, 2),
        textcoords="offset points", ha="left" if right else "right", va="bottom", color=OKABE_ITO[3], fontsize=7,
        annotation_clip=False,
    )  # fmt: skip


def ssim_histogram(best_ssim: Mapping[str, Float64], *, width: float = 6.0) -> Figure:
    """How the best SSIM of each encryption is distributed, for one attack or several.

    Parameters
    ----------
    best_ssim : mapping of str to float64 (n,)
        For each attack, :attr:`instahide_nb.evaluate.metrics.Scores.best_ssim`.
    width : float
        Inches.
    """
    if not best_ssim:
        raise InputError("best_ssim: no attack is given; name one or more")
    lowest = min(float(values.min()) for values in best_ssim.values())
    low = min(0, math.floor(lowest * 40))
    edges = np.arange(low, 41) / 40
    with style():
        figure, (axis,) = _figure(width, 0.5 * width)
        for position, (name, values) in enumerate(best_ssim.items()):
            mean = math.fsum(values) / len(values)
            _steps(axis, values, edges, position, f"{name} (mean {mean:.3f})")
        axis.set_xlim(edges[0], 1)
        _finish(axis, "SSIM to the nearer private image", "share of encryptions")
        axis.legend(loc="upper left")
    return figure


def keypoint_histogram(
    keypoints: npt.NDArray[np.integer], min_keypoints: int = 40, *, width: float = 6.0
) -> Figure:
    """How many SIFT key points random crops have, and which of them are kept.

    Parameters
    ----------
    keypoints : integer (m,)
        The count in each crop, of kept and of refused ones.
    min_keypoints : int
        A crop is kept when its count is larger.
    width : float
        Inches.
    """
    kept = keypoints > min_keypoints
    # A whole number of bins ends exactly at the cut, so that no bar holds kept and refused crops.
    step = max(1, -(-int(keypoints.max(initial=1)) // 60))
    first = (min_keypoints + 1) % step - step
    edges = np.arange(first, int(keypoints.max(initial=1)) + 2 * step, step) - 0.5
    with style():
        figure, (axis,) = _figure(width, 0.45 * width)
        for values, colour, label, hatch in (
            (keypoints[~kept], _GREY, f"refused: {int((~kept).sum()):,}", "////"),
            (keypoints[kept], OKABE_ITO[0], f"kept: {int(kept.sum()):,}", ""),
        ):
            count = np.histogram(values, edges)[0]
            axis.bar(
                edges[:-1], count, step, align="edge", color=colour, alpha=0.75, label=label,
                hatch=hatch, edgecolor="white", linewidth=0.4,
            )  # fmt: skip
        _limit(axis, min_keypoints + 0.5, f"more than {min_keypoints}")
        axis.set_xlim(max(-0.5, edges[0]), edges[-1])
        _finish(axis, "SIFT key points in a crop", "crops", legend=False)
        axis.legend(loc="upper right")
    return figure


def coefficient_histogram(
    coefficient: npt.NDArray[np.floating],
    *,
    max_coefficient: float | None = None,
    min_private_sum: float | None = None,
    width: float = 6.0,
) -> Figure:
    """How coefficients are distributed: the largest of each encryption, the second, and the rest.

    Parameters
    ----------
    coefficient : floating (n, k)
        The coefficients, the private images' first.
    max_coefficient : float, optional
        Drawn as the limit it is.
    min_private_sum : float, optional
        When given, a second panel shows the sum of the first two coefficients and this limit.
    width : float
        Inches.
    """
    ordered = np.sort(coefficient.astype(np.float64), axis=1)[:, ::-1]
    edges = np.arange(51) / 50
    with style():
        panels = 1 if min_private_sum is None else 2
        figure, axes = _figure(width, 0.45 * width if panels == 1 else 0.36 * width, panels)
        rest = ordered[:, 2:].ravel()
        parts = [("largest", ordered[:, 0]), ("second", ordered[:, 1])] + [("all others", rest)] * bool(
            rest.size
        )
        for position, (label, values) in enumerate(parts):
            _steps(axes[0], values, edges, position, label)
        axes[0].set_xlim(0, 1)
        _finish(axes[0], "coefficient", "share", legend=panels == 1)
        axes[0].set_yscale("log")  # of the others, two thirds and more are nearly nothing
        axes[0].set_ylim(1e-4, 1)
        if max_coefficient is not None:
            _limit(axes[0], max_coefficient, f"at most {max_coefficient:g}")
        if min_private_sum is not None:
            _steps(
                axes[1], coefficient[:, :2].astype(np.float64).sum(axis=1), edges, 2, "both private images"
            )
            axes[1].set_xlim(0, 1)
            _finish(axes[1], "sum of both private coefficients", "share of encryptions", legend=False)
            _limit(axes[1], min_private_sum, f"at least {min_private_sum:g}", right=False)
            figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=3)
    return figure


def similarity_histogram(same: Float64, different: Float64, *, width: float = 6.0) -> Figure:
    """Similarity of two encryptions that share a private image, and of two that share none.

    Parameters
    ----------
    same, different : float64 (m1,), (m2,)
        Similarities of pairs of the two kinds.
    width : float
        Inches. The title gives d', the distance of the means in standard deviations.
    """
    if not len(same) or not len(different):
        raise InputError("same, different: one is empty; both kinds of pairs are needed")
    low, high = (float(f(np.concatenate([same, different]))) for f in (np.min, np.max))
    edges = low + (high - low or 1.0) * np.arange(61) / 60
    spread = math.sqrt((float(same.var()) + float(different.var())) / 2)
    distance = (float(same.mean()) - float(different.mean())) / spread if spread else math.inf
    with style():
        figure, (axis,) = _figure(width, 0.5 * width)
        _steps(axis, different, edges, 0, "no private image shared")
        _steps(axis, same, edges, 3, "a private image shared")
        axis.set_title(f"d′ = {distance:.2f}", loc="left")
        _finish(axis, "similarity of two encryptions", "share of pairs")
    return figure


def attack_comparison(rows: Sequence[Row], *, width: float = 6.0) -> Figure:
    """Max_SSIM of each attack, best first; measured and reported rows differ in colour and hatching.

    Parameters
    ----------
    rows : sequence of Row
        Rows of the leaderboard.
    width : float
        Inches.
    """
    from instahide_nb.evaluate.leaderboard import sort_rows

    ordered = sort_rows(rows)[::-1]
    if not ordered:
        raise InputError("rows: no attack is given; name one or more")
    with style():
        figure, (axis,) = _figure(width, 0.55 + 0.24 * len(ordered))
        for kind, colour, hatch in (("measured", OKABE_ITO[0], ""), ("reported", "#C9C9C9", "////")):
            places = [i for i, row in enumerate(ordered) if row.kind == kind]
            values = [ordered[i].max_ssim for i in places]
            label = "measured here" if kind == "measured" else "reported by its authors"
            if places:
                axis.barh(places, values, 0.66, color=colour, hatch=hatch, edgecolor="white", label=label)
        for place, row in enumerate(ordered):
            digits = 3 if row.kind == "measured" else 2
            axis.text(
                max(row.max_ssim, 0) + 0.015, place, f"{row.max_ssim:.{digits}f}", va="center_baseline", fontsize=7,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
            )  # fmt: skip
        axis.set_yticks(range(len(ordered)), [row.attack for row in ordered])
        axis.tick_params(axis="y", length=0)
        axis.set_xlim(min(0, *(row.max_ssim for row in ordered)), 1.1)
        axis.set_xticks(np.arange(6) / 5)
        axis.set_xlabel("Max_SSIM")
        axis.grid(axis="x", color="#E4E4E4", linewidth=0.5)
        figure.legend(loc="outside upper right", ncols=2)
    return figure


def quality_curve(
    series: Mapping[str, Mapping[float, Sequence[float]]],
    *,
    xlabel: str,
    ylabel: str = "Max_SSIM",
    width: float = 6.0,
) -> Figure:
    """A score against a parameter: a line through the means, a bar from the worst to the best of repeated runs.

    Parameters
    ----------
    series : mapping of str to mapping of float to sequence of float
        For each attack and each value of the parameter, the scores of its runs.
    xlabel, ylabel : str
        What the axes show.
    width : float
        Inches.
    """
    if not any(series.values()):
        raise InputError("series: holds no run; name a sweep with finished runs")
    with style():
        figure, (axis,) = _figure(width, 0.62 * width)
        for position, (name, runs) in enumerate(series.items()):
            x = sorted(runs)
            mean = np.array([math.fsum(runs[value]) / len(runs[value]) for value in x])
            low, high = (np.array([f(runs[value]) for value in x]) for f in (min, max))
            axis.errorbar(
                x, mean, [mean - low, high - mean], label=name, capsize=2, elinewidth=0.8,
                color=OKABE_ITO[position % len(OKABE_ITO)],
                linestyle=_LINES[position % len(_LINES)], marker=_MARKERS[position % len(_MARKERS)],
            )  # fmt: skip
        axis.set_xticks(sorted({value for runs in series.values() for value in runs}))
        axis.set_ylim(top=1)
        _finish(axis, xlabel, ylabel)
        axis.set_ylim(0, 1.02)
    return figure


UInt8 = npt.NDArray[np.uint8]

_KEPT, _REFUSED = (0, 114, 178), (213, 94, 0)  # blue and vermilion of Okabe and Ito
_SPOT = (240, 228, 66)
_LONGEST = 720  # a larger photograph is reduced by a whole factor
_CROP = 400  # a crop is enlarged by the whole factor that brings it nearest below this
_GAP = 20


def crop_picture(
    photographs: Sequence[Photograph], crops: CropTable, *, photograph: int = 0, most: int = 10
) -> UInt8:
    """A photograph with crops outlined on it, and beside it the first kept crop with its key points.

    Parameters
    ----------
    photographs : sequence of Photograph
        Those that the crops were drawn from.
    crops : CropTable
        The crops; kept ones are outlined in blue, refused ones in vermilion.
    photograph : int
        Which photograph. When it has no kept crop, the next that has one is taken.
    most : int
        How many of its crops are outlined at most.

    Returns
    -------
    uint8 (height, width, 3)

    Raises
    ------
    InputError
        When no crop at all was kept.
    """
    kept = np.flatnonzero(crops.kept)
    if not kept.size:
        raise InputError("crops: none was kept; lower min_keypoints or choose other photographs")
    away = (crops.photo[kept] - photograph) % len(photographs)
    shown = int(crops.photo[kept[np.argmin(away)]])
    mine = np.flatnonzero(crops.photo == shown)
    first = mine[crops.kept[mine]][0]
    chosen = np.unique(np.append(mine[:most], first))
    pixels = photographs[shown].read()

    left = _outlined(pixels, crops, chosen, int(first))
    x, y, side = (int(value) for value in crops.box[first])
    right = _spotted(pixels[y : y + side, x : x + side])

    captions = (
        f"{len(chosen)} crops: {int(crops.kept[chosen].sum())} kept, {int((~crops.kept[chosen]).sum())} refused",
        f"{side} x {side} pixels, {int(crops.keypoints[first])} key points",
    )
    sides = tuple(zip((left, right), captions, strict=True))
    widths = [max(image.shape[1], text_width(text, "body")) for image, text in sides]
    top = _GAP + line_height("body") + 6
    tall = max(left.shape[0], right.shape[0])
    canvas = np.full((top + tall + _GAP, sum(widths) + 3 * _GAP, 3), 255, np.uint8)
    corner = _GAP
    for (image, text), width in zip(sides, widths, strict=True):
        draw_text(canvas, text, corner, _GAP, colour=MUTED)
        canvas[top : top + image.shape[0], corner : corner + image.shape[1]] = image
        corner += width + _GAP
    return canvas


def _outlined(pixels: UInt8, crops: CropTable, chosen: npt.NDArray[np.int64], first: int) -> UInt8:
    """The photograph, reduced where it is large, with its crops' outlines; kept ones lie on top, `first` is thicker."""
    factor = -(-max(pixels.shape[:2]) // _LONGEST)
    height, width = (length // factor for length in pixels.shape[:2])
    reduced = cv2.resize(
        pixels[: height * factor, : width * factor], (width, height), interpolation=cv2.INTER_AREA
    )
    picture = np.array(reduced, np.uint8)
    order = sorted(chosen.tolist(), key=lambda row: (row == first, bool(crops.kept[row]), row))
    for row in order:
        x, y, side = (int(value) // factor for value in crops.box[row])
        thick = 4 if row == first else 2
        # A white line inside the coloured one keeps the outline visible on any ground.
        _frame(picture, x, y, side, thick, _KEPT if crops.kept[row] else _REFUSED)
        _frame(picture, x + thick, y + thick, side - 2 * thick, 1, (255, 255, 255))
    return picture


def _frame(picture: UInt8, x: int, y: int, side: int, thick: int, colour: tuple[int, int, int]) -> None:
    box = picture[y : y + side, x : x + side]
    for edge in (box[:thick], box[-thick:], box[:, :thick], box[:, -thick:]):
        edge[...] = colour


def _spotted(crop: UInt8) -> UInt8:
    """The crop enlarged, with a circle of each key point's diameter around it."""
    factor = max(1, _CROP // len(crop))
    picture = enlarge(crop, factor)
    row, column = np.ogrid[: picture.shape[0], : picture.shape[1]]
    for x, y, size in key_points(crop):
        # In half pixels, so that all is integer; the middle of pixel 0 is half a pixel from the edge.
        centre_x, centre_y = (int((float(value) + 0.5) * factor * 2) for value in (x, y))
        radius = max(3 * factor, int(float(size) * factor))
        distance = (2 * column + 1 - centre_x) ** 2 + (2 * row + 1 - centre_y) ** 2
        for width, colour in ((3, (32, 33, 36)), (1, _SPOT)):
            ring = (distance >= (radius - width) ** 2) & (distance <= (radius + width) ** 2)
            picture[ring] = colour
    return picture
