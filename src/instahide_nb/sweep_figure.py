"""The figure of a sweep: a metric against one axis, with a line or a group of bars for each value of another."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from instahide_nb import figures
from instahide_nb.storage import write_bytes
from instahide_nb.sweep_file import SweepFigure

__all__ = ["save_sweep_figure", "score_bars", "score_series"]

_DPI = 150
_TITLES = {
    "k": "images mixed, k",
    "encryptions_per_image": "encryptions per private image",
    "n_private": "private images",
    "max_ssim": "Max_SSIM",
    "mean_ssim": "Mean_SSIM",
    "min_l2": "Min_L2",
    "max_l2": "Max_L2",
    "mean_l2": "Mean_L2",
}

Series = dict[str, dict[Any, list[float]]]


def score_series(rows: Sequence[Mapping[str, Any]], wanted: SweepFigure) -> Series:
    """For each value of the axis of lines and each of x, the scores of its runs; failed runs are left out.

    Examples
    --------
    >>> rows = [{"k": 2, "method": "unmask", "max_ssim": 0.9}, {"k": 4, "method": "unmask", "max_ssim": None}]
    >>> score_series(rows, SweepFigure("k"))
    {'unmask': {2: [0.9]}}
    """
    x, lines = (name if name in rows[0] else name.rpartition(".")[2] for name in (wanted.x, wanted.lines))
    title = "" if lines in ("method", "scheme", "rng") else f"{_TITLES.get(lines, lines)} = "
    series: Series = {}
    for row in rows:
        if row[wanted.y] is not None:
            series.setdefault(f"{title}{row[lines]}", {}).setdefault(row[x], []).append(row[wanted.y])
    return series


def score_bars(series: Series, *, xlabel: str, ylabel: str, width: float = 6.0) -> Figure:
    """Groups of bars for an axis of names: means, with a line from the worst to the best of repeated runs."""
    names = list(dict.fromkeys(name for scores in series.values() for name in scores))
    with figures.style():
        figure = Figure(figsize=(width, 0.5 * width), layout="constrained")
        axis = figure.add_subplot()
        breadth = 0.8 / len(series)
        for place, (label, scores) in enumerate(series.items()):
            own = [name for name in names if name in scores]
            at = np.array([names.index(name) for name in own]) + (place - (len(series) - 1) / 2) * breadth
            mean = np.array([math.fsum(scores[name]) / len(scores[name]) for name in own])
            reach = [[m - min(scores[n]), max(scores[n]) - m] for m, n in zip(mean, own, strict=True)]
            color = figures.OKABE_ITO[place % len(figures.OKABE_ITO)]
            axis.bar(at, mean, 0.94 * breadth, label=label, color=color, yerr=np.array(reach).T, capsize=2)
            for where, value in zip(at, mean, strict=True):
                axis.annotate(f"{value:.2f}", (where, max(value, 0) + 0.01), ha="center", fontsize=7)
        axis.set_xticks(range(len(names)), [str(name) for name in names])
        axis.set(xlabel=xlabel, ylabel=ylabel)
        axis.legend(frameon=False, fontsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def save_sweep_figure(rows: Sequence[Mapping[str, Any]], wanted: SweepFigure, path: Path) -> None:
    """Draw the figure of a sweep's table and save it as PNG."""
    series = score_series(rows, wanted)
    xlabel, ylabel = (_TITLES.get(name, name) for name in (wanted.x, wanted.y))
    if all(isinstance(x, int | float) for scores in series.values() for x in scores):
        figure = figures.quality_curve(series, xlabel=xlabel, ylabel=ylabel)
    else:
        figure = score_bars(series, xlabel=xlabel, ylabel=ylabel)
    buffer = io.BytesIO()
    with figures.style():
        figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    write_bytes(path, buffer.getvalue())
