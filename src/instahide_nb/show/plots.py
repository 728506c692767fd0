"""Plots: distributions of scores, key points, coefficients and similarities, and comparisons of attacks.

Colours are those of Okabe and Ito ("Color universal design", 2008), which colour-blind readers can tell apart; markers,
line styles and hatching differ too, for grey prints. No plot holds a date. Matplotlib draws letters a little
differently from version to version, so plots are never hashed; what is hashed comes from
:mod:`instahide_nb.show.grids`. Every plot takes its `width` in inches.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import cycle
from typing import TYPE_CHECKING

import cv2
import matplotlib.style
import numpy as np
import numpy.typing as npt
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from matplotlib.figure import Figure

from instahide_nb.core.errors import InputError
from instahide_nb.data.crops import CropTable, key_points
from instahide_nb.evaluate.leaderboard import Row, sort_rows
from instahide_nb.evaluate.metrics import METRICS
from instahide_nb.show.grids import INK, MUTED, draw_text, enlarge, line_height, text_width

if TYPE_CHECKING:  # only a sweep's table needs pandas
    from pandas import DataFrame

OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000")
"""Blue, orange, green, vermilion, purple, sky blue, black."""

_LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)))

STYLE = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # ships with Matplotlib: the same font on every machine
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.titlelocation": "left",
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
    "errorbar.capsize": 2,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.prop_cycle": cycler(color=OKABE_ITO, linestyle=_LINES),
    "pdf.fonttype": 42,  # TrueType, embedded: editors and archives can read the text
}
"""Matplotlib settings of every plot here."""

_GREY, _LIGHT = "#767676", "#E4E4E4"
_TALLEST = 3.0  # inches: a wide plot need not be tall
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")

Float64 = npt.NDArray[np.float64]
UInt8 = npt.NDArray[np.uint8]


def style() -> AbstractContextManager[None]:
    """Matplotlib's defaults with :data:`STYLE`, whatever the user's settings are; for drawing and for saving."""
    context: AbstractContextManager[None] = matplotlib.style.context(["default", STYLE])
    return context


def figure_bytes(figure: Figure, *, kind: str = "png", dpi: int = 110, title: str = "") -> bytes:
    """A plot as a PNG or PDF file without a date and, in the PNG, without a version."""
    buffer = io.BytesIO()
    metadata = {"Software": None} if kind == "png" else {"CreationDate": None, "Title": title}
    with style():
        figure.savefig(buffer, format=kind, dpi=dpi, metadata=metadata)
    return buffer.getvalue()


def new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """A white figure of that size in inches, and its axes."""
    figure = Figure(figsize=(width, min(height, _TALLEST)), layout="constrained", facecolor="white")
    return figure, figure.add_subplot()


def _shares(axis: Axes, values: Float64, edges: Float64, label: str) -> None:
    """The share of `values` in each bin, as an outline over a light area."""
    share = np.histogram(values, edges)[0] / len(values)
    (line,) = axis.plot(edges, [*share, share[-1]], drawstyle="steps-post", label=label)
    axis.fill_between(
        edges, [*share, share[-1]], step="post", color=line.get_color(), alpha=0.18, linewidth=0
    )


def _finish(axis: Axes, xlabel: str, ylabel: str, *, legend: bool = True) -> None:
    axis.set(xlabel=xlabel, ylabel=ylabel)
    axis.set_ylim(bottom=0)
    axis.grid(axis="y", color=_LIGHT, linewidth=0.5)
    if legend:
        axis.legend()


def _limit(axis: Axes, place: float, text: str) -> None:
    """A vertical line at a limit, labelled."""
    axis.axvline(place, color=OKABE_ITO[3], linewidth=1, linestyle="-")
    axis.annotate(
        text, (place, 1), xycoords=("data", "axes fraction"), xytext=(4, 2), textcoords="offset points",
        va="bottom", color=OKABE_ITO[3], fontsize=7, annotation_clip=False,
    )  # fmt: skip


def ssim_histogram(best_ssim: Mapping[str, Float64], *, width: float = 6.0) -> Figure:
    """Distribution of the largest SSIM of each encryption, :attr:`Scores.best_ssim` (n,), for each attack."""
    if not best_ssim:
        raise InputError("best_ssim: no attack is given; name one or more")
    lowest = min(float(values.min()) for values in best_ssim.values())
    edges = np.arange(min(0, math.floor(lowest * 40)), 41) / 40
    with style():
        figure, axis = new_figure(width, 0.5 * width)
        for name, values in best_ssim.items():
            _shares(axis, values, edges, f"{name} (mean {math.fsum(values) / len(values):.3f})")
        axis.set_xlim(edges[0], 1)
        _finish(axis, "SSIM with the nearer private image", "share of encryptions")
    return figure


def keypoint_histogram(
    keypoints: npt.NDArray[np.integer], min_keypoints: int = 40, *, width: float = 6.0
) -> Figure:
    """Numbers of SIFT key points (m,) of random crops; crops with more than `min_keypoints` are kept."""
    kept, highest = keypoints > min_keypoints, int(keypoints.max(initial=1))
    # A bin ends exactly at the cut, so that no bar holds both kept and refused crops.
    step = max(1, -(-highest // 60))
    edges = np.arange((min_keypoints + 1) % step - step, highest + 2 * step, step) - 0.5
    with style():
        figure, axis = new_figure(width, 0.45 * width)
        for values, colour, name, hatch in (
            (keypoints[~kept], _GREY, "refused", "////"),
            (keypoints[kept], OKABE_ITO[0], "kept", ""),
        ):
            axis.hist(
                values, list(edges), color=colour, alpha=0.75, label=f"{name}: {len(values):,}", hatch=hatch,
                edgecolor="white", linewidth=0.4, linestyle="-",
            )  # fmt: skip
        _limit(axis, min_keypoints + 0.5, f"more than {min_keypoints}")
        axis.set_xlim(max(-0.5, edges[0]), edges[-1])
        _finish(axis, "SIFT key points in a crop", "crops")
    return figure


def coefficient_histogram(
    coefficient: npt.NDArray[np.floating], max_coefficient: float, *, width: float = 6.0
) -> Figure:
    """The coefficients (n, k): the largest of each encryption, the second, and the others; and their limit."""
    ordered = np.sort(coefficient.astype(np.float64), axis=1)[:, ::-1]
    edges = np.arange(51) / 50
    parts = {"largest": ordered[:, 0], "second": ordered[:, 1], "all others": ordered[:, 2:].ravel()}
    with style():
        figure, axis = new_figure(width, 0.45 * width)
        for label, values in parts.items():
            if values.size:
                _shares(axis, values, edges, label)
        axis.set_xlim(0, 1)
        _finish(axis, "coefficient", "share")
        axis.set_yscale("log")  # two thirds of the others and more are close to zero
        axis.set_ylim(1e-4, 1)
        _limit(axis, max_coefficient, f"at most {max_coefficient:g}")
    return figure


def similarity_histogram(same: Float64, different: Float64, *, width: float = 6.0) -> Figure:
    """Similarities of pairs of encryptions that share a private image (m1,), and of pairs that share none (m2,).

    The title gives d', the difference of the means in standard deviations.
    """
    if not len(same) or not len(different):
        raise InputError("same, different: one is empty; both kinds of pairs are needed")
    low, high = (float(f(np.concatenate([same, different]))) for f in (np.min, np.max))
    edges = low + (high - low or 1.0) * np.arange(61) / 60
    spread = math.sqrt((float(same.var()) + float(different.var())) / 2)
    distance = (float(same.mean()) - float(different.mean())) / spread if spread else math.inf
    with style():
        figure, axis = new_figure(width, 0.5 * width)
        _shares(axis, different, edges, "no private image shared")
        _shares(axis, same, edges, "a private image shared")
        axis.set_title(f"d′ = {distance:.2f}")
        _finish(axis, "similarity of two encryptions", "share of pairs")
    return figure


def product_plot(
    seen: npt.NDArray[np.floating], estimated: npt.NDArray[np.floating], *, width: float = 6.0
) -> Figure:
    """Products of one pixel in pairs of images: (m,) in the recovered images, (m,) as estimated from encryptions."""
    with style():
        figure, axis = new_figure(width, 0.53 * width)
        axis.plot(seen, estimated, ".", markersize=3)
        axis.plot([-1, 1], [-1, 1], "-", color=_GREY, linewidth=0.8)
        axis.set(xlabel="product of the pixel in the two recovered images", ylim=(-2, 2))
        axis.set_ylabel("as estimated from the encryptions' squares")
    return figure


def error_plot(curve: Sequence[Sequence[float]], *, width: float = 6.0) -> Figure:
    """Share of errors among the most confident values, from (taken, wrong) for growing numbers of values.

    Where none is wrong, a hollow mark stands at 1/taken: the rate is below it.
    """
    taken, wrong = np.array(curve, np.float64).T
    none = wrong == 0
    percent = 100 * np.where(none, 1, wrong) / taken
    with style():
        figure, axis = new_figure(width, 0.53 * width)
        axis.plot(taken[~none], percent[~none], "o-", color=OKABE_ITO[0], label="wrong")
        axis.plot(
            taken[none], percent[none], "v", color=OKABE_ITO[0], fillstyle="none", label="none wrong: below"
        )
        axis.set(xscale="log", yscale="log", xlabel="most confident values taken", ylabel="wrong (%)")
        axis.legend()
    return figure


def attack_comparison(rows: Sequence[Row], *, width: float = 6.0) -> Figure:
    """Max_SSIM of each row of the leaderboard that has scores, best first; reported rows are hatched."""
    scored = [row for row in sort_rows(rows)[::-1] if row.max_ssim is not None]
    if not scored:
        raise InputError("rows: no attack is given; name one or more")
    looks = {
        "measured": ("measured here", OKABE_ITO[0], "", "{:.3f}"),
        "reported": ("reported by its authors", "#C9C9C9", "////", "{:.2f}"),
    }
    with style():
        figure, axis = new_figure(width, 0.55 + 0.24 * len(scored))
        for kind, (label, colour, hatch, digits) in looks.items():
            values = {place: row.max_ssim or 0.0 for place, row in enumerate(scored) if row.kind == kind}
            if values:
                bars = axis.barh(
                    list(values), list(values.values()), 0.66,
                    color=colour, hatch=hatch, edgecolor="white", label=label,
                )  # fmt: skip
                axis.bar_label(bars, fmt=digits, padding=3, fontsize=7)
        axis.set_yticks(range(len(scored)), [row.attack for row in scored])
        axis.tick_params(axis="y", length=0)
        axis.set(xlim=(min(0, *(row.max_ssim or 0 for row in scored)), 1.1), xlabel="Max_SSIM")
        axis.grid(axis="x", color=_LIGHT, linewidth=0.5)
        figure.legend(loc="outside upper right", ncols=2)
    return figure


_TITLES = {
    "k": "images mixed, k",
    "encryptions_per_image": "encryptions per private image",
    "n_private": "private images",
    **{name: name.capitalize().replace("ssim", "SSIM").replace("l2", "L2") for name in METRICS},
}


def title_of(column: str) -> str:
    """The name of a sweep table's column on an axis."""
    return _TITLES.get(column, column)


def sweep_plot(
    table: DataFrame, x: str, *, y: str = "max_ssim", lines: str = "method", width: float = 6.0
) -> Figure:
    """A metric of a sweep's table against a parameter, for each value of the column `lines`.

    The mean of repeated runs, with a bar from the worst to the best; curves where the parameter is a number, grouped
    bars where it is a name. Runs without a score are left out.
    """
    from pandas.api.types import is_numeric_dtype

    scored = table.dropna(subset=[y])
    if scored.empty:
        raise InputError("table: holds no run with a score; name a sweep with finished runs")
    name = "" if lines in ("method", "scheme", "rng") else f"{title_of(lines)} = "
    label = (name + scored[lines].astype(str)).rename(None)
    low, mean, high = (scored.pivot_table(y, x, label, how, sort=False) for how in ("min", "mean", "max"))
    with style():
        figure, axis = new_figure(width, 0.62 * width)
        if is_numeric_dtype(scored[x]):
            for column, marker in zip(mean, cycle(_MARKERS), strict=False):
                value, below, above = (part[column].dropna().sort_index() for part in (mean, low, high))
                reach = [value - below, above - value]
                axis.errorbar(value.index, value, reach, label=column, marker=marker, elinewidth=0.8)
            axis.set_xticks(sorted(scored[x].unique()))
        else:
            reach = [[mean[column] - low[column], high[column] - mean[column]] for column in mean]
            mean.plot.bar(ax=axis, yerr=reach, color=OKABE_ITO, rot=0, width=0.8)
            for bars in axis.containers:
                if isinstance(bars, BarContainer):
                    axis.bar_label(bars, fmt="%.2f", fontsize=7)
        _finish(axis, title_of(x), title_of(y), legend=False)
        figure.legend(loc="outside upper left", ncols=4)
        axis.set_ylim(0, 1.02)
    return figure


_KEPT, _REFUSED, _SPOT = (0, 114, 178), (213, 94, 0), (240, 228, 66)  # blue, vermilion, yellow
_LONGEST = 720  # a larger photograph is reduced by a whole factor
_CROP = 400  # a crop is enlarged by the largest whole factor that keeps it within this side
_GAP = 20


def crop_picture(crops: CropTable) -> UInt8:
    """The first photograph with a kept crop, outlines of ten of its crops, and a kept one with its key points.

    Kept crops are outlined in blue, refused ones in vermilion. OpenCV's circles and resizing may differ between
    versions, so this picture is not hashed.

    Raises
    ------
    InputError
        When no crop was kept.
    """
    if not crops.kept.any():
        raise InputError("crops: none was kept; lower min_keypoints or choose other photographs")
    shown = int(crops.photo[crops.kept].min())
    mine = np.flatnonzero(crops.photo == shown)
    first = int(mine[crops.kept[mine]][0])
    chosen = np.unique(np.append(mine[:10], first))
    pixels = crops.photographs[shown].read()
    x, y, side = (int(value) for value in crops.box[first])
    kept = int(crops.kept[chosen].sum())
    order = sorted(chosen.tolist(), key=lambda row: (row == first, bool(crops.kept[row])))
    left = _captioned(
        _outlined(pixels, crops, order), f"{len(order)} crops: {kept} kept, {len(order) - kept} refused"
    )
    right = _captioned(
        _spotted(pixels[y : y + side, x : x + side]),
        f"{side} x {side} pixels, {int(crops.keypoints[first])} key points",
    )
    tall = max(len(left), len(right))
    return np.hstack(
        [np.pad(i, ((0, tall - len(i)), (0, 0), (0, 0)), constant_values=255) for i in (left, right)]
    )


def _captioned(image: UInt8, text: str) -> UInt8:
    """An image below a line of text, with a margin."""
    top, width = _GAP + line_height("body") + 6, max(image.shape[1], text_width(text, "body"))
    canvas = np.full((top + image.shape[0] + _GAP, width + 2 * _GAP, 3), 255, np.uint8)
    draw_text(canvas, text, _GAP, _GAP, colour=MUTED)
    canvas[top : top + image.shape[0], _GAP : _GAP + image.shape[1]] = image
    return canvas


def _outlined(pixels: UInt8, crops: CropTable, order: Sequence[int]) -> UInt8:
    """The photograph, reduced where it is large, with outlines of crops in that order; the last is thicker."""
    factor = -(-max(pixels.shape[:2]) // _LONGEST)
    height, width = (length // factor for length in pixels.shape[:2])
    whole = np.ascontiguousarray(pixels[: height * factor, : width * factor])
    picture = np.array(cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    for row in order:
        x, y, side = (int(value) // factor for value in crops.box[row])
        thick = 4 if row == order[-1] else 2
        _frame(picture[y : y + side, x : x + side], thick, _KEPT if crops.kept[row] else _REFUSED)
        # A white line inside the coloured one keeps the outline visible on any background.
        _frame(picture[y + thick : y + side - thick, x + thick : x + side - thick], 1, (255, 255, 255))
    return picture


def _frame(box: UInt8, thick: int, colour: tuple[int, int, int]) -> None:
    for edge in (box[:thick], box[-thick:], box[:, :thick], box[:, -thick:]):
        edge[...] = colour


def _spotted(crop: UInt8) -> UInt8:
    """The crop enlarged, with a circle of each key point's diameter around it."""
    factor = max(1, _CROP // len(crop))
    picture = enlarge(crop, factor)
    for x, y, size in key_points(crop):
        centre = int((float(x) + 0.5) * factor), int((float(y) + 0.5) * factor)
        radius = int(max(3.0, float(size)) * factor / 2)
        for thick, colour in ((3, INK), (1, _SPOT)):
            cv2.circle(picture, centre, radius, colour, thick)
    return picture
