"""The table of a sweep, read for a figure: scores of each attack against one parameter, all others held fixed."""

from __future__ import annotations

import csv
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from instahide_nb.errors import InputError

__all__ = ["SweepSeries", "sweep_series"]

_PARAMETERS = ("k", "encryptions_per_image", "n_private", "rng", "scheme")
_LARGEST = 64 * 2**20


@dataclass(frozen=True)
class SweepSeries:
    """Scores against one parameter.

    Attributes
    ----------
    series : dict of str to dict of float to list of float
        For each attack and each value of the parameter, the scores of its runs in the table's order.
    fixed : str
        At which values the other varied parameters were held: " at k = 6", or nothing.
    runs, failed : int
        How many runs are in `series`, and how many of those wanted had no score.
    """

    series: dict[str, dict[float, list[float]]]
    fixed: str
    runs: int
    failed: int


def sweep_series(path: Path | str, parameter: str, *, metric: str = "max_ssim") -> SweepSeries | None:
    """Scores against a parameter, from a sweep's CSV.

    Parameters
    ----------
    path : Path or str
        A CSV with a line of names and a row per run: columns ``method``, the parameters and the metrics. A run that
        failed has an empty metric.
    parameter : str
        The parameter along the axis, a number.
    metric : str
        The score.

    Returns
    -------
    SweepSeries or None
        None when the parameter is not in the table or has one value only. Of every other parameter that varies the
        value with the most rows is kept (of several such, the largest), so that a curve shows the effect of one.

    Raises
    ------
    InputError
        When the file is missing or no such table, or holds a value that is not a number where one is needed.
    """
    file = Path(path)
    table = _read(file)
    for column in ("method", metric):
        if column not in table[0]:
            raise InputError(f"{file}: has no column {column}; name the table that instahide-nb sweep wrote")
    if len({row.get(parameter) for row in table} - {None, ""}) < 2:
        return None
    fixed = []
    for other in _PARAMETERS:
        counts = Counter(row[other] for row in table if row.get(other))
        if other != parameter and len(counts) > 1:
            value = max(counts, key=lambda text: (counts[text], _order(text)))
            table = [row for row in table if row.get(other) == value]
            fixed.append(f"{other} = {value}")
    series: dict[str, dict[float, list[float]]] = {}
    failed = 0
    for row in table:
        if not row[metric]:
            failed += 1
            continue
        x, y = (_number(file, column, row[column]) for column in (parameter, metric))
        series.setdefault(row["method"], {}).setdefault(x, []).append(y)
    runs = sum(len(scores) for runs_of in series.values() for scores in runs_of.values())
    return SweepSeries(series, f" at {', '.join(fixed)}" if fixed else "", runs, failed)


def _read(file: Path) -> list[dict[str, str]]:
    try:
        if file.stat().st_size > _LARGEST:
            raise InputError(f"{file}: is larger than 64 MiB; a sweep's table is not")
        with open(file, encoding="utf-8", newline="") as stream:
            table = [
                {k: v for k, v in row.items() if k is not None} for row in csv.DictReader(stream, restval="")
            ]
    except FileNotFoundError:
        raise InputError(f"{file}: no such file; name the table that instahide-nb sweep wrote") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{file}: is no CSV that can be read ({error}); make it again") from None
    if not table:
        raise InputError(f"{file}: holds no run; make it again")
    return table


def _order(text: str) -> tuple[float, str]:
    try:
        return float(text), text
    except ValueError:
        return -math.inf, text


def _number(file: Path, column: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{file}: column {column} holds {text!r}; a number is expected")
    return value
