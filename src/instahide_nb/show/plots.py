"""Plots: distributions of scores, key points, coefficients and similarities, and comparisons of attacks.

Colours are those of Okabe and Ito ("Color universal design", 2008), which colour-blind readers can distinguish;
markers, line styles and hatching differ too, for grey prints. Matplotlib draws letters a little differently from
version to version, so plots are never hashed (:mod:`instahide_nb.show.grids` has pictures that are). No plot contains a
date. The `width` of plots is in inches.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import matplotlib.style
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle

from instahide_nb.core.arrays import Float64, Floats, Integers
from instahide_nb.core.errors import InputError
from instahide_nb.data.crops import CropTable, key_points
from instahide_nb.evaluate.leaderboard import Row, sort_rows
from instahide_nb.evaluate.metrics import TITLES

if TYPE_CHECKING:  # only a sweep's table needs pandas
    from pandas import DataFrame

OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000")
"""Blue, orange, green, vermilion, purple, sky blue, black."""

_LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)))

_CYCLE = {"axes.prop_cycle": cycler(color=OKABE_ITO, linestyle=_LINES)}
styled = matplotlib.style.context(["default", Path(__file__).with_name("plots.mplstyle"), _CYCLE])
"""A decorator or context: the settings of every plot here, whatever the user's are."""

_GREY = "#767676"
_TALLEST = 3.0  # inches: a wide plot need not be tall
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")


@styled
def figure_bytes(figure: Figure, *, kind: str = "png", dpi: int = 110, title: str = "") -> bytes:
    """A plot as a PNG or PDF file without a date and, in the PNG, without a version."""
    buffer = io.BytesIO()
    metadata = {"Software": None} if kind == "png" else {"CreationDate": None, "Title": title}
    figure.savefig(buffer, format=kind, dpi=dpi, metadata=metadata)
    return buffer.getvalue()


def _new(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of that size in inches, and its axes."""
    figure = Figure(figsize=(width, min(height, _TALLEST)), layout="constrained")
    return figure, figure.add_subplot()


def _shares(axis: Axes, values: Float64, edges: Float64, label: str) -> None:
    """Plot the share of `values` in each bin."""
    share = np.histogram(values, edges)[0] / len(values)
    share = np.append(share, share[-1])
    (line,) = axis.plot(edges, share, drawstyle="steps-post", label=label)
    axis.fill_between(edges, share, step="post", color=line.get_color(), alpha=0.18, linewidth=0)


@styled
def ssim_histogram(best_ssim: Mapping[str, Float64], *, width: float = 6.0) -> Figure:
    """Distribution of the largest SSIM of each encryption, :attr:`Scores.best_ssim` (n,), for each attack."""
    if not best_ssim:
        raise InputError("best_ssim: no attack is given; give one or more")
    lowest = min(float(values.min()) for values in best_ssim.values())
    edges = np.arange(min(0, math.floor(lowest * 40)), 41) / 40
    figure, axis = _new(width, 0.5 * width)
    for name, values in best_ssim.items():
        _shares(axis, values, edges, f"{name} (mean {math.fsum(values) / len(values):.3f})")
    axis.set(xlim=(edges[0], 1), ylim=(0, None))
    axis.set(xlabel="SSIM with the nearer private image", ylabel="share of encryptions")
    axis.legend()
    return figure


@styled
def keypoint_histogram(keypoints: Integers, min_keypoints: int = 40, *, width: float = 6.0) -> Figure:
    """Numbers of SIFT key points (m,) of random crops; crops with more than `min_keypoints` are kept."""
    kept, highest = keypoints > min_keypoints, int(keypoints.max(initial=1))
    # A bin ends at the cut, so that no bar contains both kept and refused crops.
    step = max(1, -(-highest // 60))
    edges = np.arange((min_keypoints + 1) % step - step, highest + 2 * step, step) - 0.5
    figure, axis = _new(width, 0.45 * width)
    for part, colour, name, hatch in ((~kept, _GREY, "refused", "////"), (kept, OKABE_ITO[0], "kept", "")):
        label = f"{name}: {part.sum():,}"
        axis.hist(keypoints[part], list(edges), color=colour, hatch=hatch, label=label, edgecolor="white")
    axis.axvline(min_keypoints + 0.5, color=OKABE_ITO[3], linestyle="-", label=f"more than {min_keypoints}")
    axis.set(xlim=(max(-0.5, edges[0]), edges[-1]), xlabel="SIFT key points in a crop", ylabel="crops")
    axis.legend()
    return figure


@styled
def coefficient_histogram(coefficient: Floats, max_coefficient: float, *, width: float = 6.0) -> Figure:
    """The coefficients (n, k): the largest of each encryption, the second, and the others; and their limit."""
    ordered = np.sort(coefficient.astype(np.float64), axis=1)[:, ::-1]
    parts = {"largest": ordered[:, 0], "second": ordered[:, 1], "all others": ordered[:, 2:].ravel()}
    figure, axis = _new(width, 0.45 * width)
    for label, values in parts.items():
        if values.size:
            _shares(axis, values, np.arange(51) / 50, label)
    label = f"at most {max_coefficient:g}"
    axis.axvline(max_coefficient, color=OKABE_ITO[3], linestyle="-", linewidth=0.8, label=label)
    # Logarithmic, since more than two thirds of the others are near zero.
    axis.set(xlim=(0, 1), yscale="log", ylim=(1e-4, 1), xlabel="coefficient", ylabel="share")
    axis.legend()
    return figure


@styled
def similarity_histogram(same: Float64, different: Float64, *, width: float = 6.0) -> Figure:
    """Similarities of pairs that share a private image (m1,) and that share none (m2,); d', the distance of means."""
    if not len(same) or not len(different):
        raise InputError("same, different: one is empty; both kinds of pairs are needed")
    edges = np.histogram_bin_edges(np.concatenate([same, different]), 60)
    spread = math.sqrt((float(same.var()) + float(different.var())) / 2)
    distance = (float(same.mean()) - float(different.mean())) / spread if spread else math.inf
    figure, axis = _new(width, 0.5 * width)
    _shares(axis, different, edges, "no private image shared")
    _shares(axis, same, edges, "a private image shared")
    axis.set(ylim=(0, None), xlabel="similarity of two encryptions", ylabel="share of pairs")
    axis.set_title(f"d′ = {distance:.2f}")
    axis.legend()
    return figure


@styled
def scatter_plot(x: Floats, y: Floats, *, size: tuple[float, float], reach: tuple[float, float], **axes: Any) -> Figure:
    """Points (m,), (m,) and the line y = x over `reach`; `size` is in inches, `axes` as for ``Axes.set``."""
    figure, axis = _new(*size)
    axis.plot(x, y, ".", markersize=2, alpha=0.5)
    axis.plot(reach, reach, "-", color=_GREY, linewidth=0.8)
    axis.set(**axes)
    return figure


@styled
def attack_comparison(rows: Sequence[Row], *, width: float = 6.0) -> Figure:
    """Max_SSIM of each row of the leaderboard that has scores, best first; reported rows are hatched."""
    scored = {place: row for place, row in enumerate(r for r in sort_rows(rows)[::-1] if r.max_ssim is not None)}
    if not scored:
        raise InputError("rows: no attack is given; give one or more")
    figure, axis = _new(width, 0.55 + 0.24 * len(scored))
    for kind, label, colour, hatch, digits in (
        ("measured", "measured here", OKABE_ITO[0], "", "{:.3f}"),
        ("reported", "reported by its authors", "#C9C9C9", "////", "{:.2f}"),
    ):
        values = {place: row.max_ssim or 0.0 for place, row in scored.items() if row.kind == kind}
        bars = axis.barh(list(values), list(values.values()), 0.66, color=colour, hatch=hatch, label=label)
        for bar in bars:
            bar.set_edgecolor("white")
        axis.bar_label(bars, fmt=digits, padding=3, fontsize=7)
    axis.set_yticks(list(scored), [row.attack for row in scored.values()])
    axis.tick_params(axis="y", length=0)
    axis.set(xlim=(min(0, *(row.max_ssim or 0 for row in scored.values())), 1.1), xlabel="Max_SSIM")
    axis.grid(visible=False, axis="y")
    figure.legend(loc="outside upper right", ncols=2)
    return figure


_TITLES = {
    "k": "images mixed, k",
    "encryptions_per_image": "encryptions per private image",
    "n_private": "private images",
    **TITLES,
}


def title_of(column: str) -> str:
    """The name of a sweep table's column on an axis."""
    return _TITLES.get(column, column)


def score_table(table: DataFrame, x: str = "variant", *, y: str = "max_ssim", lines: str = "method") -> DataFrame:
    """A sweep's mean scores, "not found" or "failed", as text: a row per value of `x`, a column per one of `lines`."""

    def cell(runs: DataFrame) -> str:
        if runs[y].notna().all():
            return f"{runs[y].mean():.2f}"
        return "failed" if "error" in runs and runs["error"].notna().any() else "not found"

    groups = {key: cell(runs) for key, runs in table.groupby([table[x], table[lines].rename(None)], sort=False)}
    rows, columns = (list(table[name].unique()) for name in (x, lines))
    texts = [[groups.get((row, column), "") for column in columns] for row in rows]
    return type(table)(texts, index=rows, columns=columns)


def _coloured(texts: DataFrame, what: str, width: float) -> Figure:
    """A table of scores: higher ones are redder, missing ones grey."""
    score = texts.apply(lambda column: [float(t) if t[:1].isdigit() else np.nan for t in column])
    figure = Figure(figsize=(width, 0.25 * len(texts) + 0.8), layout="constrained")
    axis = figure.add_subplot()
    colours = matplotlib.colormaps["YlOrRd"].with_extremes(bad="#E4E4E4")
    axis.imshow(np.ma.masked_invalid(score), cmap=colours, vmin=0, vmax=1.2, aspect="auto")
    for (row, column), text in np.ndenumerate(texts.to_numpy()):
        axis.text(column, row, text, ha="center", va="center", fontsize=8)
    axis.set_xticks(range(texts.shape[1]), texts.columns)
    axis.set_yticks(range(len(texts)), texts.index)
    axis.xaxis.tick_top()
    axis.tick_params(length=0)
    axis.set_xlabel(what)
    axis.grid(visible=False)
    return figure


@styled
def sweep_plot(table: DataFrame, x: str, *, y: str = "max_ssim", lines: str = "method", width: float = 6.0) -> Figure:
    """A metric of a sweep's table against a parameter, for each value of the column `lines`.

    Curves if the parameter is a number, grouped bars if it is a name, a coloured `score_table` if it is the variant.
    Means of repeated runs, with a bar from the worst to the best. Runs without a score are omitted.
    """
    from pandas.api.types import is_numeric_dtype

    scored = table.dropna(subset=[y])
    if scored.empty:
        raise InputError("table: holds no run with a score; choose a sweep with finished runs")
    if x == "variant":
        return _coloured(score_table(table, x, y=y, lines=lines), title_of(y), width)
    name = "" if lines in ("method", "scheme", "rng") else f"{title_of(lines)} = "
    label = scored[lines].rename(None)  # which may be x too
    low, mean, high = (scored.pivot_table(y, x, label, how, sort=False) for how in ("min", "mean", "max"))
    figure, axis = _new(width, 0.62 * width)
    if is_numeric_dtype(scored[x]):
        for column, marker in zip(mean, cycle(_MARKERS), strict=False):
            value, below, above = (part[column].dropna().sort_index() for part in (mean, low, high))
            reach = [value - below, above - value]
            axis.errorbar(value.index, value, reach, label=f"{name}{column}", marker=marker, elinewidth=0.8)
        axis.set_xticks(sorted(scored[x].unique()))
    else:
        reach = [[mean[column] - low[column], high[column] - mean[column]] for column in mean]
        mean.add_prefix(name).plot.bar(ax=axis, yerr=reach, color=OKABE_ITO, rot=0, width=0.8, legend=False)
        texts = score_table(table, x, y=y, lines=lines).loc[mean.index, mean.columns]
        bars = [container for container in axis.containers if isinstance(container, BarContainer)]
        for container, column in zip(bars, mean, strict=True):
            labels = [
                f"{m:.2f}" if m == m else text.replace(" ", "\n")
                for m, text in zip(mean[column], texts[column], strict=True)
            ]
            axis.bar_label(container, labels, fontsize=7)
    axis.set(xlabel=title_of(x), ylabel=title_of(y), ylim=(0, 1.02))
    longest = max(len(f"{name}{column}") for column in mean)
    figure.legend(loc="outside upper left", ncols=max(1, int(14 * width) // (longest + 6)))
    return figure


@styled
def crop_picture(crops: CropTable) -> Figure:
    """The first photograph with a kept crop: outlines of its first ten crops, and the kept one with its key points."""
    if not crops.kept.any():
        raise InputError("crops: none was kept; lower min_keypoints or choose other photographs")
    photo = int(crops.photo[crops.kept].min())
    mine = np.flatnonzero(crops.photo == photo)
    first = int(mine[crops.kept[mine]][0])
    chosen = np.unique(np.append(mine[:10], first))
    pixels, kept = crops.photographs[photo].read(), int(crops.kept[chosen].sum())
    x, y, side = crops.box[first].tolist()
    figure = Figure(figsize=(8, 3.8), layout="constrained")
    whole, crop = figure.subplots(1, 2)
    whole.imshow(pixels)
    for row in sorted(chosen.tolist(), key=lambda row: (row == first, bool(crops.kept[row]))):
        left, top, length = crops.box[row].tolist()
        colour, line = OKABE_ITO[0 if crops.kept[row] else 3], 2.5 if row == first else 1.2
        whole.add_patch(Rectangle((left, top), length, length, fill=False, edgecolor=colour, linewidth=line))
    whole.set_title(f"{len(chosen)} crops: {kept} kept (blue), {len(chosen) - kept} refused")
    crop.imshow(pixels[y : y + side, x : x + side])
    for across, down, size in key_points(pixels[y : y + side, x : x + side]):
        crop.add_patch(Circle((across, down), size / 2, fill=False, edgecolor="#F0E442", linewidth=0.8))
    crop.set_title(f"{side} x {side} pixels, {crops.keypoints[first]} key points")
    for axis in (whole, crop):
        axis.set_axis_off()
    return figure
